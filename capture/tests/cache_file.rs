//! Cache files: what is written comes back bit for bit, and what does not fit is refused by name.

use std::path::Path;

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use speckv_capture::{Cache, ElementFormat};

const FORMATS: [ElementFormat; 4] =
    [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2];

prop_compose! {
    /// Any cache at all: every bit pattern, with and without scales and ids.
    fn any_cache()(
        format in prop::sample::select(&FORMATS[..]),
        layers in 1usize..4, kv_heads in 1usize..4, head_dim in 1usize..9, tokens in 0usize..12,
        scaled in prop::option::of(any::<bool>()), with_ids in any::<bool>(), seed in any::<u64>(),
    ) -> Cache {
        let mut state = seed | 1;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        let fp8 = matches!(format, ElementFormat::E4m3 | ElementFormat::E5m2);
        let len = kv_heads * tokens * head_dim * if fp8 { 1 } else { 2 };
        let mut bytes = || (0..len).map(|_| next() as u8).collect::<Vec<u8>>();
        let planes = (0..layers).map(|_| [bytes(), bytes()]).collect();
        let scales = scaled.filter(|_| fp8).map(|per_head| {
            let mut list = || (0..if per_head { kv_heads } else { 1 })
                .map(|_| (next() % 1000 + 1) as f32 / 256.0).collect::<Vec<f32>>();
            (0..layers).map(|_| [list(), list()]).collect()
        });
        let token_ids = with_ids.then(|| (0..tokens).map(|_| next()).collect());
        Cache { format, layers, kv_heads, head_dim, tokens, planes, scales, token_ids }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_cache_comes_back(cache in any_cache(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.kv");
        cache.write(&path).unwrap();
        prop_assert_eq!(&Cache::read(&path).unwrap(), &cache);
        // The temporary file is gone.
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // A second write replaces the first.
        cache.write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
        prop_assert!(Cache::read(&path).is_err());
    }
}

/// Name, dtype, shape and bytes of a tensor.
type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn good() -> Vec<Tensor> {
    let plane = |name| (name, Dtype::F8_E4M3, vec![2, 3, 4], vec![7u8; 24]);
    let scale = |name| (name, Dtype::F32, vec![1], 0.5f32.to_le_bytes().to_vec());
    vec![
        plane("layers.0.key"),
        plane("layers.0.value"),
        plane("layers.1.key"),
        plane("layers.1.value"),
        scale("layers.0.key_scale"),
        scale("layers.0.value_scale"),
        scale("layers.1.key_scale"),
        scale("layers.1.value_scale"),
        ("token_ids", Dtype::I32, vec![3], [1i32, 2, 3].map(i32::to_le_bytes).concat()),
    ]
}

fn write(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Reads `good()` after `change`; gives the message without the path.
fn message(change: impl FnOnce(&mut Vec<Tensor>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.kv");
    let mut tensors = good();
    change(&mut tensors);
    write(&path, &tensors);
    let text = Cache::read(&path).expect_err("the file should be refused").to_string();
    assert!(!text.contains('\n'), "{text}");
    text.strip_prefix(&format!("{}: ", path.display())).expect("the message names the file").to_owned()
}

#[test]
fn the_unchanged_file_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.kv");
    write(&path, &good());
    let cache = Cache::read(&path).unwrap();
    assert_eq!(cache.token_ids, Some(vec![1, 2, 3]));
    assert_eq!((cache.layers, cache.kv_heads, cache.tokens, cache.head_dim), (2, 2, 3, 4));
    // E4M3 code 7 is 7 x 2^-9.
    assert_eq!(cache.values(1, 1), vec![3.5 / 512.0; 24]);
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    assert_eq!(message(|t| _ = t.remove(3)), "tensor layers.1.value is missing");
    assert_eq!(message(|t| t.clear()), "tensor layers.0.key is missing");
    assert_eq!(
        message(|t| {
            t.remove(7);
            t.remove(6);
            t[2].0 = "layers.2.key";
            t[3].0 = "layers.2.value";
        }),
        "tensor layers.1.key is missing"
    );
    assert_eq!(
        message(|t| t[1].2 = vec![2, 4, 3]),
        "layers.0.value: expected shape [2, 3, 4], found [2, 4, 3]"
    );
    assert_eq!(
        message(|t| t[0].2 = vec![6, 4]),
        "layers.0.key: expected shape [heads, tokens, head_dim], found [6, 4]"
    );
    assert_eq!(message(|t| t[2].1 = Dtype::F8_E5M2), "layers.1.key: expected dtype F8_E4M3, found F8_E5M2");
    assert_eq!(
        message(|t| t[0].1 = Dtype::U8),
        "layers.0.key: expected dtype BF16, F16, F8_E4M3 or F8_E5M2, found U8"
    );
    assert_eq!(message(|t| _ = t.remove(5)), "tensor layers.0.value_scale is missing");
    for (bad, shown) in [(0.0f32, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        assert_eq!(
            message(|t| t[6].3 = bad.to_le_bytes().to_vec()),
            format!("layers.1.key_scale: expected finite scales above 0, found {shown}")
        );
    }
    assert_eq!(
        message(|t| (t[4].2, t[4].3) = (vec![3], vec![0x3F; 12])),
        "layers.0.key_scale: expected shape [2], found [3]"
    );
    assert_eq!(message(|t| t[4].1 = Dtype::I32), "layers.0.key_scale: expected dtype F32, found I32");
    assert_eq!(
        message(|t| (t[8].2, t[8].3) = (vec![2], vec![0; 8])),
        "token_ids: expected shape [3], found [2]"
    );
    assert_eq!(message(|t| t[8].1 = Dtype::F32), "token_ids: expected dtype I64 or I32, found F32");
    assert_eq!(message(|t| t[8].3[3] = 0x80), "token_ids: expected ids of 32 bits, found -2147483647");
    for stranger in ["layers.0.query", "layers.00.key", "lm_head.weight"] {
        assert_eq!(
            message(|t| t.push((stranger, Dtype::F32, vec![1], vec![0; 4]))),
            format!("holds {stranger}, which is no part of a cache file")
        );
    }
    assert_eq!(
        message(|t| {
            t.truncate(5);
            t[..4].iter_mut().for_each(|t| (t.1, t.3) = (Dtype::BF16, vec![0; 48]));
        }),
        "expected no scales with BF16, found layers.0.key_scale"
    );
}

#[test]
fn a_cache_that_contradicts_itself_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache {
        format: ElementFormat::Bf16,
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        tokens: 3,
        planes: vec![[vec![0; 12], vec![0; 11]]],
        scales: None,
        token_ids: None,
    };
    let error = cache.write(&folder.path().join("a.kv")).unwrap_err();
    assert_eq!(error.to_string(), "cache: layers.0.value: expected 12 bytes, found 11");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A cache file is as open to others as any file that is made there.
#[cfg(unix)]
#[test]
fn a_written_file_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    std::fs::write(folder.path().join("plain"), b"x").unwrap();
    let cache = Cache {
        format: ElementFormat::Bf16,
        layers: 1,
        kv_heads: 1,
        head_dim: 2,
        tokens: 1,
        planes: vec![[vec![0; 4], vec![0; 4]]],
        scales: None,
        token_ids: None,
    };
    cache.write(&folder.path().join("cache")).unwrap();
    assert_eq!(mode(&folder.path().join("cache")), mode(&folder.path().join("plain")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}
