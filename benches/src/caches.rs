//! Caches to compress: committed ones, those of the embedded model, the reader's own.

use std::path::{Path, PathBuf};

use speckv_capture::cache::{ScalePer, fp8_scales};
use speckv_capture::{Cache, CacheMode, ElementFormat, ModelSource, RunOptions, Target};

/// The variable that names a cache file to measure beside the embedded model's caches.
pub const VARIABLE: &str = "SPECKV_BENCH_CACHE";
/// The variable that names the profile of its model.
pub const PROFILE_VARIABLE: &str = "SPECKV_BENCH_PROFILE";

/// A file of the repository, by its path there.
pub fn repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The path that a variable holds. Cargo runs benches in their own folder, so relative ones start at the repository's root.
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(repository)
}

/// A committed cache of the embedded model; `data/README.md` says how it was made.
pub fn stored(format: ElementFormat) -> Cache {
    let path = repository(format!("benches/data/tiny-qwen3-{}.safetensors", format.name()));
    Cache::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The bf16 cache, and the fp8 cache to whose codes it attends, of the embedded model over the first `tokens` tokens of the demo's text.
pub fn captured(tokens: usize) -> [Cache; 2] {
    let source = ModelSource::open(&repository("models/tiny-qwen3")).expect("the embedded model");
    let text = std::fs::read_to_string(repository("cli/assets/demo.txt")).expect("the demo's text");
    let mut ids = source.encode(&text).expect("the model's tokenizer");
    ids.truncate(tokens);
    assert_eq!(ids.len(), tokens, "the demo's text is shorter than that");
    let target = Target::load(&source).expect("the embedded model");
    let run = |cache| {
        let options = RunOptions { cache, ..RunOptions::default() };
        target.run_with(&ids, &options, &mut |_| Ok(())).expect("a run of the model").cache
    };
    let fine = run(CacheMode::Exact);
    let format = ElementFormat::E4m3;
    let scales = fp8_scales(format, &[&fine], ScalePer::Part).expect("finite values");
    let coarse = run(CacheMode::Fp8 { format, scales });
    [fine, coarse]
}

/// The same numbers as another format holds them: f16 by rounding, fp8 with a scale for each layer and part.
pub fn converted(cache: &Cache, format: ElementFormat) -> Cache {
    if format.width() == 8 {
        let scales = fp8_scales(format, &[cache], ScalePer::Part).expect("finite values");
        return cache.to_fp8(format, &scales).expect("scales of the cache");
    }
    let code = |v: &f32| match format {
        ElementFormat::F16 => half::f16::from_f32(*v).to_bits(),
        _ => half::bf16::from_f32(*v).to_bits(),
    };
    let part = |layer, part| cache.values(layer, part).iter().flat_map(|v| code(v).to_le_bytes()).collect();
    let planes = (0..cache.layers).map(|layer| [0, 1].map(|p| part(layer, p))).collect();
    Cache { format, planes, scales: None, token_ids: cache.token_ids.clone(), ..*cache }
}

/// The cache file that [`VARIABLE`] names, and its name.
pub fn own() -> Option<(String, Cache)> {
    let path = named(VARIABLE)?;
    let cache = Cache::read(&path).unwrap_or_else(|e| panic!("{VARIABLE}: {e}"));
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Some((name, cache))
}

/// The bytes of the profile that [`PROFILE_VARIABLE`] names.
pub fn own_profile() -> Option<Vec<u8>> {
    let path = named(PROFILE_VARIABLE)?;
    Some(std::fs::read(&path).unwrap_or_else(|e| panic!("{PROFILE_VARIABLE}: {}: {e}", path.display())))
}

/// Scalars of a cache.
pub fn scalars(cache: &Cache) -> usize {
    2 * cache.layers * cache.kv_heads * cache.tokens * cache.head_dim
}
