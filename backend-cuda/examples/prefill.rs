//! How long predicting, encoding and decoding the cache of a whole model takes on the device at hand, with random weights:
//! `cargo run --release -p speckv-backend-cuda --features cuda --example prefill -- [draft|chain] [TOKENS] [LAYERS] [RUNS]`.
//! Shapes are those of Qwen3-8B (36 layers, 4096 tokens unless told otherwise). `benches/prefill.py` times the target's own prefill of the same shapes.
//! The decoded cache is compared with the one that was encoded.

use std::time::Instant;

use speckv_backend_cuda::{Codes, CudaBackend};
use speckv_predictor::Error;
use speckv_predictor::backend::{Backend, Pricing};
use speckv_predictor::codec::LoadedMode;
use speckv_predictor::core::{ChunkDecoder, ChunkEncoder, ElementFormat, Geometry, Part};
use speckv_predictor::profile::{Kind, PRECISIONS, ProfileFile};
use speckv_predictor::session::{Decode, Encode, Planes};
use speckv_predictor::synthetic::{Make, Random};

/// Tokens of a chunk.
const CHUNK: usize = 256;

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

/// Runs `call` and prints the median of its milliseconds; the first run warms up.
fn median(
    b: &CudaBackend,
    what: &str,
    runs: usize,
    mut call: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut times = Vec::new();
    for _ in 0..=runs {
        b.synchronise()?;
        let since = Instant::now();
        call()?;
        b.synchronise()?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    println!("{what}: {:.1} ms", times[times.len() / 2]);
    Ok(())
}

fn measure() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let chain = arguments.first().is_some_and(|a| a == "chain");
    let (tokens, layers, runs) = (number(1, 4096), number(2, 36), number(3, 5));
    let format = ElementFormat::Bf16;
    let make = Make {
        geometry: Geometry { layers, kv_heads: 8, head_dim: 128 },
        hidden: 4096,
        heads: 32,
        ffn: 12288,
        vocab: 151_936,
        wide: 32,
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
    let plain: Vec<Vec<u16>> = (0..2 * layers * heads).map(|_| make.codes(r, format, tokens)).collect();
    let codes: Vec<Codes> = plain.iter().map(|c| b.upload_codes(c.clone())).collect();
    let planes = codes.len();
    let ranges: Vec<_> = (0..tokens).step_by(CHUNK).map(|t| t..(t + CHUNK).min(tokens)).collect();
    // All in one run, though runs are shorter by default: a device has room.
    let none = &mut |_, _| ();

    median(&b, "predict", runs, || {
        let mut session = mode.session(&b, format, &[])?;
        session.run(tokens, &ids, &mut Given(&codes, heads), none)
    })?;
    let encoder = || {
        let chunk = |rows: &std::ops::Range<usize>| (rows.clone(), ChunkEncoder::new(format, planes, None));
        b.encoder(ranges.iter().map(chunk).collect())
    };
    let supply =
        |layer: usize, part: Part, head: usize| codes[(2 * layer + part as usize) * heads + head].clone();
    median(&b, "predict and price", runs, || {
        let mut session = mode.session(&b, format, &[])?;
        session.run(tokens, &ids, &mut Encode { encoder: &mut encoder(), codes: supply }, none)
    })?;
    let mut chunks = Vec::new();
    median(&b, "encode", runs.min(2), || {
        let (mut session, mut encoder) = (mode.session(&b, format, &[])?, encoder());
        session.run(tokens, &ids, &mut Encode { encoder: &mut encoder, codes: supply }, none)?;
        chunks = b.finish_chunks(encoder)?;
        Ok(())
    })?;
    let payload: usize = chunks.iter().map(|c| c.payload.len()).sum();
    println!("{:.2} bits a scalar", payload as f64 * 8.0 / (planes * tokens * make.geometry.head_dim) as f64);
    let sums: Vec<u64> = chunks.iter().map(|c| c.values_checksum).collect();
    let decode = |restored: &mut Vec<_>| {
        let mut session = mode.session(&b, format, &[])?;
        let mut decoders = Vec::new();
        for (rows, chunk) in ranges.iter().zip(&chunks) {
            decoders
                .push((rows.clone(), ChunkDecoder::new(format, planes, rows.len(), false, &chunk.payload)?));
        }
        let mut decoder = b.decoder(decoders);
        restored.clear();
        let sink = |at: (usize, Part, usize), codes: Codes| restored.push((at, codes));
        session.run(tokens, &ids, &mut Decode { decoder: &mut decoder, sink }, &mut |_, _| ())?;
        b.finish_decoders(decoder, &sums)
    };
    let mut restored = Vec::new();
    median(&b, "decode, codes stay on the device", runs.min(2), || decode(&mut restored))?;
    let mut wrong = 0;
    median(&b, "decode, codes to the host and compared", runs.min(2), || {
        decode(&mut restored)?;
        for ((layer, part, head), codes) in restored.drain(..) {
            wrong +=
                usize::from(b.download_codes(&codes) != plain[(2 * layer + part as usize) * heads + head]);
        }
        Ok(())
    })?;
    if wrong > 0 {
        return Err(Error::Backend(format!("{wrong} planes were not restored")));
    }
    Ok(())
}

fn main() {
    if let Err(error) = measure() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
