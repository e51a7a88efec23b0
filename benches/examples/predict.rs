//! One predictor alone, on a made-up model of SmolLM2's shapes, over and over: what a profiler is put on, and a quick look at a change.
//!
//!   cargo run --release -p speckv-benches --example predict -- [draft|chain|static] [TOKENS] [ROUNDS]
//!
//! `SPECKV_CPU` picks a path, `RAYON_NUM_THREADS` the threads. Prints the median and the fastest round, for the first run of 1024 tokens and for ever twice as many.

use std::time::Instant;

use speckv_backend_cpu::CpuBackend;
use speckv_benches::drawn::{self, MODEL, Told};
use speckv_benches::ours::Ours;
use speckv_predictor::Backend;
use speckv_predictor::core::ElementFormat;
use speckv_predictor::profile::ProfileFile;

/// Tokens of a run.
const RUN: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (kind, tokens, rounds) = (args.first().map_or("draft", |k| k), number(1, RUN), number(2, 9));
    assert!(tokens > 0 && rounds > 0, "tokens and rounds");
    let cpu = CpuBackend::from_env().expect("a path of this CPU");
    let profile = MODEL.profile().expect("a profile");
    let profile = ProfileFile::parse(&profile).expect("a profile");
    let all = Ours::all(&cpu, &profile, ElementFormat::Bf16);
    let ours = all.iter().find(|ours| ours.kind.name() == kind).expect("draft, chain or static");
    let cache = drawn::draw(&cpu, &MODEL, &ours.mode, RUN);
    let ids = cache.token_ids.as_ref().expect("ids were drawn");
    // Seconds until the end of each run, round by round.
    let rounds: Vec<Vec<f64>> = (0..rounds)
        .map(|_| {
            let since = Instant::now();
            let mut session = ours.mode.session(&cpu, cache.format, &[]).expect("a session");
            let run = |start: usize| {
                let range = start..tokens.min(start + RUN);
                let ids = &ids[..range.len()];
                let mut told = Told { cache: &cache, tokens: range, kept: None };
                session.run(ids.len(), ids, &mut told, &mut |_, _| ()).expect("a run");
                since.elapsed().as_secs_f64()
            };
            (0..tokens).step_by(RUN).map(run).collect()
        })
        .collect();
    let runs = tokens.div_ceil(RUN);
    for upto in (0..).map(|n| 1 << n).take_while(|n| *n < runs).chain([runs]) {
        let mut times: Vec<f64> = rounds.iter().map(|round| round[upto - 1]).collect();
        times.sort_by(f64::total_cmp);
        let done = tokens.min(upto * RUN) as f64;
        let (median, fastest) = (times[times.len() / 2], times[0]);
        println!(
            "{} {}, {} threads, {done} tokens: median {:.1} us a token ({:.0} tokens/s), fastest {:.1} us ({:.0} tokens/s)",
            cpu.name(),
            ours.name(),
            rayon::current_num_threads(),
            1e6 * median / done,
            done / median,
            1e6 * fastest / done,
            done / fastest
        );
    }
}
