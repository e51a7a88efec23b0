//! How long predicting, encoding and decoding the cache of a whole model takes on the device at hand, with random weights:
//! `cargo run --release -p speckv-backend-cuda --features cuda --example prefill -- [draft|chain] [TOKENS] [LAYERS] [RUNS] [CHUNKS] [BITS]`.
//! Shapes are those of Qwen3-8B (36 layers, 4096 tokens, coded in chunks of CHUNKS tokens, 256,16 unless told otherwise). `benches/prefill.py` times the target's own prefill of the
//! same shapes. A random network predicts no real cache, so the cache is drawn around what it predicts; BITS (3.5) is what a scalar would cost if all means were about 1, what it does cost is printed. The
//! decoded cache is compared with the one that was encoded.

use std::ops::Range;
use std::time::Instant;

use speckv_backend_cuda::{Codes, CudaBackend};
use speckv_predictor::Error;
use speckv_predictor::backend::{Backend, Pricing};
use speckv_predictor::codec::LoadedMode;
use speckv_predictor::core::{ChunkDecoder, ChunkEncoder, ElementFormat, Geometry, Part};
use speckv_predictor::profile::{Kind, PRECISIONS, ProfileFile};
use speckv_predictor::session::{Decode, Encode, Planes};
use speckv_predictor::synthetic::{Make, Random};

/// The true cache without a coder: what a predictor costs alone.
struct Given<'a>(&'a [Codes], usize);

impl Planes<CudaBackend> for Given<'_> {
    fn plane(
        &mut self,
        _: &CudaBackend,
        (layer, part, head): (usize, Part, usize),
        _: &Pricing,
        _: &<CudaBackend as Backend>::Ints,
        _: &<CudaBackend as Backend>::Ints,
    ) -> Result<Codes, Error> {
        Ok(self.0[(2 * layer + part as usize) * self.1 + head].clone())
    }
}

/// A cache drawn around what is predicted, as the model of each scalar has it. On the host, and the same on the device.
struct Drawn<'a> {
    random: Random,
    plain: &'a mut Vec<Vec<u16>>,
    codes: &'a mut Vec<Codes>,
}

impl Planes<CudaBackend> for Drawn<'_> {
    fn plane(
        &mut self,
        b: &CudaBackend,
        _: (usize, Part, usize),
        pricing: &Pricing,
        mu: &<CudaBackend as Backend>::Ints,
        token: &<CudaBackend as Backend>::Ints,
    ) -> Result<Codes, Error> {
        let (mean, token, cols) = (b.download(mu), b.download(token), pricing.channel.len());
        // Twelve uniform numbers, of unit variance together.
        let mut normal = || {
            let four = |bits: i64| (0..4).map(|i| (bits >> (15 * i) & 0x7FFF) as f64).sum::<f64>();
            (0..3).map(|_| four(self.random.bits() as i64)).sum::<f64>() / 32768.0 - 6.0
        };
        let draw = |(i, mu): (usize, &i32)| {
            let index = i32::from(pricing.channel[i % cols]) + token.data[i / cols];
            let away = normal() * (f64::from(index) / 16.0).exp2();
            pricing
                .format
                .code(pricing.format.rank_of_fixed(mu.saturating_add(away as i32), pricing.exponent))
        };
        let plain: Vec<u16> = mean.data.iter().enumerate().map(draw).collect();
        self.codes.push(b.upload_codes(plain.clone()));
        self.plain.push(plain);
        Ok(self.codes[self.codes.len() - 1].clone())
    }
}

/// Runs `call` and prints the median of its milliseconds, and of those after which the host had enqueued all; the first run warms up.
fn median(
    b: &CudaBackend,
    what: &str,
    runs: usize,
    mut call: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=runs {
        b.synchronise()?;
        let since = Instant::now();
        call()?;
        times[1].push(since.elapsed().as_secs_f64() * 1e3);
        b.synchronise()?;
        times[0].push(since.elapsed().as_secs_f64() * 1e3);
    }
    let [whole, enqueued] = times.map(|mut t| {
        t.remove(0);
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    });
    println!("{what}: {whole:.1} ms (the host: {enqueued:.1})");
    Ok(())
}

fn measure() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let chain = arguments.first().is_some_and(|a| a == "chain");
    let (tokens, layers, runs) = (number(1, 4096), number(2, 36), number(3, 5));
    let lengths = arguments.get(4).map_or("256,16", String::as_str).split(',');
    let lengths: Vec<usize> = lengths.filter_map(|c| c.parse().ok()).filter(|c| *c > 0).collect();
    let bits: f64 = arguments.get(5).and_then(|a| a.parse().ok()).unwrap_or(3.5);
    let format = ElementFormat::Bf16;
    let make = Make {
        geometry: Geometry { layers, kv_heads: 8, head_dim: 128 },
        hidden: 4096,
        heads: 32,
        ffn: 12288,
        vocab: 151_936,
        wide: 32,
        // Means are about 1, where codes are 2^-7 apart: a normal residual of s steps costs log2(4.13 s) bits. Scales have 16 indices an octave, 20 fractional bits.
        scales: [(16.0 * (bits - 4.13f64.log2() + 13.0)) as i16; 3],
        token_weight: 1 << 8,
        modes: if chain { &[(Kind::Chain, "ids")] } else { &[(Kind::Draft, PRECISIONS[1].name)] },
        ..Make::default()
    };
    let b = CudaBackend::open(0)?;
    println!("{}: {} of {layers} layers, {tokens} tokens", b.name(), make.modes[0].1);
    let bytes = make.profile()?;
    let file = ProfileFile::parse(&bytes)?;
    let mode = LoadedMode::load(&b, &file, make.modes[0].0, make.modes[0].1, format)?;
    let r = &mut Random::new(7);
    let ids: Vec<u32> = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
    let heads = make.geometry.kv_heads;
    // All in one run, though runs are shorter by default: a device has room.
    let none = &mut |_, _| ();
    let (mut plain, mut codes) = (Vec::new(), Vec::new());
    let mut drawn = Drawn { random: Random::new(11), plain: &mut plain, codes: &mut codes };
    mode.session(&b, format, &[])?.run(tokens, &ids, &mut drawn, none)?;
    let planes = codes.len();

    median(&b, "predict", runs, || {
        let mut session = mode.session(&b, format, &[])?;
        session.run(tokens, &ids, &mut Given(&codes, heads), none)
    })?;
    let supply =
        |layer: usize, part: Part, head: usize| codes[(2 * layer + part as usize) * heads + head].clone();
    for length in lengths {
        let ranges: Vec<_> = (0..tokens).step_by(length).map(|t| t..(t + length).min(tokens)).collect();
        println!("chunks of {length} tokens");
        let encoded = || {
            let chunk = |rows: &Range<usize>| (rows.clone(), ChunkEncoder::new(format, planes, None));
            let mut encoder = b.encoder(ranges.iter().map(chunk).collect());
            let mut session = mode.session(&b, format, &[])?;
            session.run(
                tokens,
                &ids,
                &mut Encode { encoder: &mut encoder, codes: supply },
                &mut |_, _| (),
            )?;
            Ok(encoder)
        };
        median(&b, "  predict and price", runs, || encoded().map(drop))?;
        median(&b, "  encode, payloads stay on the device", runs, || {
            b.finish_resident(encoded()?).map(drop)
        })?;
        let mut chunks = Vec::new();
        median(&b, "  encode, payloads to the host", runs, || {
            chunks = b.finish_chunks(encoded()?)?;
            Ok(())
        })?;
        let payload: usize = chunks.iter().map(|c| c.payload.len()).sum();
        let scalars = planes * tokens * make.geometry.head_dim;
        println!("  {:.3} bits a scalar", payload as f64 * 8.0 / scalars as f64);
        let sums: Vec<u64> = chunks.iter().map(|c| c.values_checksum).collect();
        let mut restored = Vec::new();
        let decoder = || {
            let mut decoders = Vec::new();
            for (rows, chunk) in ranges.iter().zip(&chunks) {
                let decoder = ChunkDecoder::new(format, planes, rows.len(), false, &chunk.payload)?;
                decoders.push((rows.clone(), decoder));
            }
            Ok(b.decoder(decoders))
        };
        median(&b, "  payloads to the device", runs, || decoder().map(drop))?;
        median(&b, "  decode from the host's payloads, codes stay on the device", runs, || {
            let (mut session, mut decoder) = (mode.session(&b, format, &[])?, decoder()?);
            restored.clear();
            let sink = |at: (usize, Part, usize), codes: Codes| restored.push((at, codes));
            session.run(tokens, &ids, &mut Decode { decoder: &mut decoder, sink }, &mut |_, _| ())?;
            b.finish_decoders(decoder, &sums)
        })?;
        for ((layer, part, head), codes) in restored {
            if b.download_codes(&codes) != plain[(2 * layer + part as usize) * heads + head] {
                return Err(Error::Backend(format!("layer {layer}, {part:?}, head {head} was not restored")));
            }
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = measure() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
