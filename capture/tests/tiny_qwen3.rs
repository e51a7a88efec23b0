//! The embedded model against values that transformers computed once in bf16 (see `data/make_reference.py`).
//!
//! Tolerances. One rounding to bf16 moves a number by up to 2^-9 of itself. Two correct programs that sum in
//! different orders round a few numbers to different neighbours, and each layer adds its own such differences to
//! the residual stream. So layer l may differ by 2^-8 (l + 1) of the root mean square: at that, transformers'
//! own two attention implementations (sdpa, eager) differ from each other by half, and this crate from sdpa by
//! less. A single sample may be off by eight times the root mean square of all. A mistake in layout, RoPE, norm
//! or softmax moves values by whole units.

use serde_json::Value;
use speckv_capture::{ModelSource, RunOptions, Target};

const STEP: f32 = 1.0 / 256.0;

fn reference() -> Value {
    serde_json::from_str(include_str!("data/tiny_qwen3_reference.json")).unwrap()
}

fn model() -> ModelSource {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3");
    ModelSource::open(folder.as_ref()).unwrap()
}

fn counts(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn token_ids_are_those_of_the_reference() {
    let reference = reference();
    let ids = model().encode(reference["text"].as_str().unwrap()).unwrap();
    let ids: Vec<usize> = ids.into_iter().map(|id| id as usize).collect();
    assert_eq!(ids, counts(&reference["ids"]));
}

#[test]
fn keys_values_and_logits_are_those_of_the_reference() {
    let reference = reference();
    let source = model();
    let ids: Vec<u32> = counts(&reference["ids"]).into_iter().map(|id| id as u32).collect();
    let options = RunOptions { logits: true, ..RunOptions::default() };
    let run = Target::load(&source).unwrap().run(&ids, &options).unwrap();

    let cache = &run.cache;
    let layers = reference["layers"].as_array().unwrap();
    assert_eq!((cache.layers, cache.tokens), (layers.len(), ids.len()));
    let (positions, columns) = (counts(&reference["positions"]), counts(&reference["columns"]));
    for (layer, pair) in layers.iter().enumerate() {
        for (part, name) in ["key", "value"].into_iter().enumerate() {
            let all = cache.values(layer, part);
            let rms = (pair[name]["mean_square"].as_f64().unwrap() as f32).sqrt();
            let found_rms = (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt();
            let allowed = STEP * (layer + 1) as f32 * rms;
            assert!((found_rms - rms).abs() < allowed, "layer {layer} {name}: rms {found_rms}, not {rms}");
            let (mut square, mut samples) = (0.0, 0);
            for (head, rows) in pair[name]["samples"].as_array().unwrap().iter().enumerate() {
                for (row, &position) in rows.as_array().unwrap().iter().zip(&positions) {
                    for (want, &column) in numbers(row).into_iter().zip(&columns) {
                        let found = all[(head * cache.tokens + position) * cache.head_dim + column];
                        let off = (found - want).abs();
                        assert!(
                            off < 8.0 * allowed,
                            "layer {layer} {name}, head {head}, token {position}, column {column}: \
                             expected {want} within {}, found {found}",
                            8.0 * allowed
                        );
                        square += off * off;
                        samples += 1;
                    }
                }
            }
            let off = (square / samples as f32).sqrt();
            assert!(off < allowed, "layer {layer} {name}: off by {off} (rms), allowed {allowed}");
        }
    }

    let logits = run.logits.unwrap();
    let rms = (logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32).sqrt();
    let allowed = STEP * (layers.len() + 1) as f32 * rms;
    let top_ids = counts(&reference["top_ids"]);
    let wanted = top_ids.iter().copied().zip(numbers(&reference["top_logits"]));
    let fixed = counts(&reference["logit_columns"]).into_iter().zip(numbers(&reference["logits"]));
    for (id, want) in wanted.chain(fixed) {
        let found = logits[id];
        assert!((found - want).abs() < 4.0 * allowed, "logit {id}: expected {want}, found {found}");
    }
    // Its lead in the reference is far above the tolerance.
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(best, top_ids[0]);
}
