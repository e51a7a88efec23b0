//! Runs with projections in fp8.

use speckv_capture::{Arithmetic, ModelSource, RunOptions, Target};

const TOKENS: usize = 60;

fn target() -> Target {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3");
    Target::load(&ModelSource::open(folder.as_ref()).unwrap()).unwrap()
}

fn ids() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| (i * 2_654_435 + i * i * 97) % 4096).collect()
}

/// Root mean square of the difference, relative to that of `a`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let off: f32 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
    (off / a.iter().map(|x| x * x).sum::<f32>()).sqrt()
}

#[test]
fn an_fp8_run_stays_near_the_target() {
    let target = target();
    let exact = target.run(&ids(), &RunOptions::default()).unwrap().cache;
    let options = RunOptions { arithmetic: Arithmetic::Fp8, ..RunOptions::default() };
    let rounded = target.run(&ids(), &options).unwrap().cache;
    for part in 0..2 {
        // Three mantissa bits err by about 2.6 % of each operand; later layers add to that.
        let first = distance(&exact.values(0, part), &rounded.values(0, part));
        assert!((0.01..0.08).contains(&first), "part {part} of layer 0: {first}");
        let last = distance(&exact.values(7, part), &rounded.values(7, part));
        assert!((first..0.5).contains(&last), "part {part} of layer 7: {last}");
    }
    assert_eq!(rounded, target.run(&ids(), &options).unwrap().cache);
}
