//! How fast caches that lie in device memory are compressed there and restored to there, everything included:
//! `cargo run --release -p speckv-backend-cuda --features cuda --example device -- [static|chain|draft] [bf16|f16|e4m3|e5m2] [TOKENS] [LAYERS] [SEQUENCES]`.
//! Made-up caches and weights, 8 heads of 128 (36 layers, 4096 tokens, one sequence unless told otherwise). What is restored is compared.

use std::time::Instant;

use speckv_backend_cuda::{CudaBackend, DeviceBytes, Packed, Resident, Strided};
use speckv_predictor::codec::{LoadedMode, Options};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part};
use speckv_predictor::profile::{Kind, PRECISIONS, ProfileFile};
use speckv_predictor::synthetic::{Make, Random};
use speckv_predictor::{Backend, Error};

/// A cache as `[layer][part][token][head][column]`.
fn cache(make: &Make, r: &mut Random, format: ElementFormat, tokens: usize) -> Vec<u8> {
    let (g, size) = (make.geometry, format.bytes());
    let row = g.kv_heads * g.head_dim;
    let mut out = vec![0; 2 * g.layers * tokens * row * size];
    for layer in 0..2 * g.layers {
        for head in 0..g.kv_heads {
            for (token, codes) in make.codes(r, format, tokens).chunks_exact(g.head_dim).enumerate() {
                let at = ((layer * tokens + token) * row + head * g.head_dim) * size;
                for (to, code) in out[at..].chunks_exact_mut(size).zip(codes) {
                    to.copy_from_slice(&code.to_le_bytes()[..size]);
                }
            }
        }
    }
    out
}

/// Median seconds of five calls after one, and the last one's result.
fn median<T>(
    b: &CudaBackend,
    mut call: impl FnMut() -> Vec<Result<T, Error>>,
) -> Result<(f64, Vec<T>), Error> {
    let (mut times, mut last) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        b.synchronise()?;
        let since = Instant::now();
        last = call();
        b.synchronise()?;
        times.push(since.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], last.into_iter().collect::<Result<_, _>>()?))
}

fn measure() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let modes: &[_] = match arguments.first().map(String::as_str) {
        Some("draft") => &[(Kind::Draft, PRECISIONS[1].name)],
        Some("chain") => &[(Kind::Chain, "ids")],
        _ => &[(Kind::Static, "")],
    };
    let kind = modes[0];
    let named = |f: &ElementFormat| arguments.get(1).is_some_and(|a| a == f.name());
    let format = ElementFormat::ALL.into_iter().find(named).unwrap_or(ElementFormat::Bf16);
    let (tokens, layers, sequences) = (number(2, 4096), number(3, 36), number(4, 1));
    let geometry = Geometry { layers, kv_heads: 8, head_dim: 128 };
    let make = Make {
        geometry,
        hidden: 4096,
        heads: 32,
        ffn: 12288,
        vocab: 4096,
        wide: 32,
        modes,
        ..Make::default()
    };
    let b = CudaBackend::open(0)?;
    let bytes = make.profile()?;
    let file = ProfileFile::parse(&bytes)?;
    let mode = LoadedMode::load(&b, &file, kind.0, kind.1, format)?;
    let r = &mut Random::new(11);
    let ids: Vec<u32> = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
    let scales = if format.width() == 8 { vec![1f32.to_bits(); 2 * layers] } else { Vec::new() };
    let plain = cache(&make, r, format, tokens);
    let (from, to) = (DeviceBytes::of(&b, &plain)?, DeviceBytes::zeros(&b, plain.len())?);
    let part_bytes = plain.len() / (2 * layers);
    let strided = |at: u64, layer: usize, part: Part| {
        Strided::tokens_first(at + ((2 * layer + part as usize) * part_bytes) as u64, geometry)
    };
    let (sources, targets) =
        (|layer, part| strided(from.at(), layer, part), |layer, part| strided(to.at(), layer, part));
    let (ids, scales) = (Some(&ids[..]), &scales);
    let options = Options::default();
    b.peak_bytes(true)?;
    let held = b.peak_bytes(true)?;
    // Every sequence is the same one: what is measured does not depend on what is in it.
    let caches: Vec<Resident<'_>> = (0..sequences)
        .map(|_| Resident { format, geometry, tokens, scales: scales.clone(), ids, planes: &sources })
        .collect();
    // SAFETY: the memory has every element; the stream is the legacy default one.
    let (compress, packed) = median(&b, || unsafe { b.compress_resident(&mode, &caches, options, 0) })?;
    let streams: Vec<_> = packed
        .iter()
        .map(|p| {
            let scales = scales.clone();
            (Packed::Host(p), Resident { format, geometry, tokens, scales, ids, planes: &targets })
        })
        .collect();
    let limits = Limits::default();
    // SAFETY: as above.
    let (restore, _) = median(&b, || unsafe { b.decompress_resident(&mode, &streams, &limits, 0) })?;
    let peak = b.peak_bytes(false)? - held;
    let (size, small) = (plain.len() * sequences, packed.iter().map(Vec::len).sum::<usize>());
    println!(
        "{}: {:?} {} {}, {sequences} x {tokens} tokens, {layers} layers: {size} bytes to {small}",
        b.name(),
        kind.0,
        kind.1,
        format.name()
    );
    let rate = |seconds: f64| format!("{:.1} ms, {:.2} GB/s", seconds * 1e3, size as f64 / seconds / 1e9);
    println!("compress {}; restore {}", rate(compress), rate(restore));
    let most = CudaBackend::scratch_bytes(&mode, format, geometry, tokens, options);
    println!("device memory beside caches and weights: {peak} bytes of {most} that may be asked for");
    if to.read(&b, plain.len())? != plain {
        return Err(Error::Backend("other codes were restored".into()));
    }
    Ok(())
}

fn main() {
    if let Err(error) = measure() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
