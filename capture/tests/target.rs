//! Properties of a run that need no reference: causality, fp8 mode, the visitor, refusals.

use speckv_capture::cache::{ScalePer, fp8_scales};
use speckv_capture::{CacheMode, ElementFormat, ModelSource, RunOptions, Target};

fn target() -> Target {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3");
    Target::load(&ModelSource::open(folder.as_ref()).unwrap()).unwrap()
}

/// Varied ids, all below the tiny model's 4,096.
fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 2_654_435 + i * i * 97) % 4096).collect()
}

#[test]
fn later_tokens_do_not_change_earlier_ones() {
    // The long run crosses the block borders of attention (384 rows here) and of the MLP (1,024 tokens).
    let target = target();
    let short = target.run(&ids(100), &RunOptions::default()).unwrap().cache;
    let long = target.run(&ids(1100), &RunOptions::default()).unwrap().cache;
    let width = long.head_dim;
    for layer in 0..short.layers {
        for part in 0..2 {
            let (a, b) = (short.values(layer, part), long.values(layer, part));
            let (mut off, mut all) = (0.0f32, 0.0f32);
            for head in 0..short.kv_heads {
                let a = &a[head * 100 * width..][..100 * width];
                let b = &b[head * 1100 * width..][..100 * width];
                for (x, y) in a.iter().zip(b) {
                    off += (x - y) * (x - y);
                    all += x * x;
                }
            }
            // Matrices of another size may be summed in another order: the tolerance of `tiny_qwen3.rs`.
            let allowed = (layer + 1) as f32 / 256.0;
            assert!((off / all).sqrt() < allowed, "layer {layer}, part {part}: {}", (off / all).sqrt());
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let target = target();
    let options = RunOptions { logits: true, ..RunOptions::default() };
    assert_eq!(target.run(&ids(300), &options).unwrap(), target.run(&ids(300), &options).unwrap());
}

#[test]
fn fp8_mode_keeps_and_attends_to_the_rounded_cache() {
    let target = target();
    let exact = target.run(&ids(80), &RunOptions::default()).unwrap().cache;
    let formats = [(ElementFormat::E4m3, ScalePer::Part), (ElementFormat::E5m2, ScalePer::Head)];
    for (format, per) in formats {
        let scales = fp8_scales(format, &[&exact], per).unwrap();
        let cache = CacheMode::Fp8 { format, scales: scales.clone() };
        let run = target.run(&ids(80), &RunOptions { cache, ..RunOptions::default() }).unwrap().cache;
        run.check().unwrap();
        let rounded = exact.to_fp8(format, &scales).unwrap();
        // Nothing has attended to anything before layer 0 is stored.
        assert_eq!(run.planes[0], rounded.planes[0]);
        assert_eq!(run.scales, rounded.scales);
        // From then on the rounding feeds back.
        assert_ne!(run.planes[1], rounded.planes[1]);
    }
}

#[test]
fn the_visitor_sees_what_is_kept() {
    let target = target();
    let options = RunOptions { hidden: true, ..RunOptions::default() };
    let mut seen = Vec::new();
    let mut keys = Vec::new();
    let run = target
        .run_with(&ids(20), &options, &mut |state| {
            assert_eq!(state.layer, seen.len());
            seen.push(state.hidden.to_vec());
            keys.push(state.keys.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!(run.hidden.unwrap(), seen);
    assert!(run.logits.is_none());
    for (layer, keys) in keys.iter().enumerate() {
        assert_eq!(&run.cache.values(layer, 0), keys);
    }
    assert_eq!(seen.len(), target.config().layers);
    assert_eq!(seen[0].len(), 20 * target.config().hidden);
}

#[test]
fn senseless_requests_are_refused() {
    let target = target();
    let message = |ids: &[u32], cache: CacheMode| {
        target.run(ids, &RunOptions { cache, ..RunOptions::default() }).unwrap_err().to_string()
    };
    assert_eq!(message(&[], CacheMode::Exact), "the prompt has no tokens");
    assert_eq!(message(&[1, 4096], CacheMode::Exact), "token 1: expected an id below 4096, found 4096");
    let format = ElementFormat::E4m3;
    assert_eq!(
        message(&[1], CacheMode::Fp8 { format, scales: vec![[vec![1.0], vec![1.0]]; 3] }),
        "expected fp8 scales of 8 layers, found 3"
    );
    assert_eq!(
        message(
            &[1],
            CacheMode::Fp8 { format: ElementFormat::Bf16, scales: vec![[vec![1.0], vec![1.0]]; 8] }
        ),
        "expected the format E4m3 or E5m2, found Bf16"
    );
}

#[test]
fn a_model_writes_the_same_texts_from_the_same_seed() {
    let target = target();
    let starts = [vec![7], vec![7], vec![5, 6, 8]];
    let write =
        |starts: &[Vec<u32>], tokens, seed| target.generate(starts, tokens, seed, &mut |_| Ok(())).unwrap();
    let texts = write(&starts, 24, 1);
    assert!(texts.iter().all(|t| t.len() == 24));
    assert!(texts.iter().zip(&starts).all(|(text, start)| text.starts_with(start)));
    assert!(texts.iter().flatten().all(|id| (*id as usize) < target.config().vocab));
    assert_eq!(write(&starts, 24, 1), texts);
    // Two sequences of one start, and two seeds, are two texts.
    assert_ne!(texts[0], texts[1]);
    assert_ne!(write(&starts, 24, 2)[0], texts[0]);
    assert_eq!(write(&starts, 2, 1), [&texts[0][..2], &texts[1][..2], &[5, 6]]);

    let mut told = Vec::new();
    let mut tell = |tokens| {
        told.push(tokens);
        Ok(())
    };
    target.generate(&starts[..1], 4, 1, &mut tell).unwrap();
    assert_eq!(told, [2, 3, 4]);
    let refused =
        |starts: &[Vec<u32>]| target.generate(starts, 4, 1, &mut |_| Ok(())).unwrap_err().to_string();
    assert_eq!(refused(&[]), "there is no sequence to begin");
    assert_eq!(refused(&[vec![1], vec![]]), "the prompt has no tokens");
    assert_eq!(refused(&[vec![4096]]), "token 0: expected an id below 4096, found 4096");
}
