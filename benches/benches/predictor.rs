//! Whole predictors, and whole caches through them, at the shapes of a model of 135M parameters ([`speckv_benches::drawn`] says why its random
//! weights will do), on one thread and on all: the predictor alone, compressing, restoring, what restoring costs beyond predictor and coder, its memory;
//! and what a token costs after ever more tokens.
//!
//! Every answer is compared before it is timed: streams with the portable definition's, restored codes with the cache, chunks of the coder
//! alone with those in the stream. `SPECKV_CPU` picks one path; the program reads no files.

mod memory;

use std::hint::black_box;
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};
use speckv_backend_cpu::CpuBackend;
use speckv_benches::drawn::{self, BITS, MODEL, Predicted, Told};
use speckv_benches::ours::{self, Ours};
use speckv_benches::report::{Table, digits};
use speckv_benches::rivals::Raw;
use speckv_capture::Cache;
use speckv_predictor::codec::{LoadedMode, RUN_TOKENS};
use speckv_predictor::core::{Chunk, ElementFormat, Limits, Stream};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::{Backend, Portable};

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

/// Tokens of what is timed.
const TOKENS: usize = 1024;
/// Tokens that the definition compresses too.
const CHECKED: usize = 24;
/// Rounds of everything; their medians count.
const ROUNDS: usize = 3;
/// Tokens after which costs are told.
const LENGTHS: [usize; 4] = [1024, 2048, 4096, 8192];
const MIB: f64 = (1 << 20) as f64;

/// A predictor with a cache to work on, and what must come of it.
struct Case<'a> {
    cpu: &'a CpuBackend,
    ours: &'a Ours<'a>,
    cache: Cache,
    stream: Vec<u8>,
    raw: Raw,
    predicted: Predicted,
}

impl<'a> Case<'a> {
    /// Compares every answer that is timed.
    fn new(cpu: &'a CpuBackend, ours: &'a Ours<'a>, cache: Cache, profile: &ProfileFile<'_>) -> Case<'a> {
        let portable = Portable::new();
        let mode = LoadedMode::load(&portable, profile, ours.kind, &ours.precision, cache.format);
        let few = drawn::first(&cache, CHECKED);
        assert!(
            ours.compress(&few) == ours::compress(&portable, &mode.expect("a mode of the profile"), &few),
            "{}: the stream differs from the definition's",
            ours.name()
        );
        let (stream, raw) = (ours.compress(&cache), Raw::new(&cache));
        assert!(ours.decompress(&stream) == raw.bytes, "{}: every code must come back", ours.name());
        let mut case = Case { cpu, ours, cache, stream, raw, predicted: Predicted::default() };
        let mut predicted = Predicted::default();
        case.predict(TOKENS, Some(&mut predicted));
        case.predicted = predicted;
        let (parsed, chunks) = (case.parse(), case.predicted.encode(cpu, case.ids()));
        let same =
            |(i, chunk): (usize, &Chunk)| parsed.chunk(i).is_ok_and(|stored| stored.payload == chunk.payload);
        assert!(chunks.iter().enumerate().all(same), "{}: the coder alone makes other chunks", ours.name());
        assert!(case.predicted.decode(cpu, &parsed), "{}: the decoder alone fails", ours.name());
        case
    }

    fn parse(&self) -> Stream<'_> {
        Stream::parse(&self.stream, &Limits::default()).expect("a stream")
    }

    fn bits(&self) -> f64 {
        16.0 * self.stream.len() as f64 / self.raw.bytes.len() as f64
    }

    fn ids(&self) -> &[u32] {
        self.cache.token_ids.as_ref().expect("ids were drawn")
    }

    /// The predictor alone over `tokens` tokens, in runs of at most [`TOKENS`]: seconds of each run, and what is allocated after it.
    fn predict(&self, tokens: usize, mut kept: Option<&mut Predicted>) -> Vec<(f64, usize)> {
        let mut session = self.ours.mode.session(self.cpu, self.cache.format, &[]).expect("a session");
        let run = |start: usize| {
            let tokens = start..tokens.min(start + TOKENS);
            let ids = &self.ids()[..tokens.len()];
            let mut told = Told { cache: &self.cache, tokens: tokens.clone(), kept: kept.as_deref_mut() };
            let took = seconds(|| session.run(tokens.len(), ids, &mut told, &mut |_, _| ()).expect("a run"));
            (took, memory::live())
        };
        (0..tokens).step_by(TOKENS).map(run).collect()
    }

    /// A row of the table on the threads of `pool`.
    fn row(&self, pool: &ThreadPool, longer: &(Vec<u8>, usize)) -> Vec<String> {
        let (ours, cpu, parsed) = (self.ours, self.cpu, self.parse());
        let [predict, encode, decode, compress, restore] = pool.install(|| {
            medians([
                &mut || drop(black_box(self.predict(TOKENS, None))),
                &mut || drop(black_box(self.predicted.encode(cpu, self.ids()))),
                &mut || assert!(self.predicted.decode(cpu, &parsed)),
                &mut || drop(black_box(ours.compress(&self.cache))),
                &mut || drop(black_box(ours.decompress(&self.stream))),
            ])
        });
        let (back, most) = memory::most(|| pool.install(|| ours.decompress(&longer.0)));
        assert_eq!(back.len(), longer.1);
        let bytes = self.raw.bytes.len() as f64;
        let speed = |s: f64| format!("{:.3}", bytes / s / 1e9);
        vec![
            ours.name(),
            pool.current_num_threads().to_string(),
            format!("{:.2}", self.bits()),
            digits(Some(TOKENS as f64 / predict)),
            speed(encode),
            speed(decode),
            speed(compress),
            speed(restore),
            digits(Some(compress / (predict + encode))),
            digits(Some(restore / (predict + decode))),
            format!("{:.0}", (most - back.len()) as f64 / MIB),
        ]
    }
}

fn seconds(f: impl FnOnce()) -> f64 {
    let since = Instant::now();
    f();
    since.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Median seconds of each, all of them in turn, so that a disturbance meets neighbours alike.
fn medians<const N: usize>(mut each: [&mut dyn FnMut(); N]) -> [f64; N] {
    let rounds: Vec<[f64; N]> =
        (0..ROUNDS).map(|_| std::array::from_fn(|i| seconds(&mut *each[i]))).collect();
    std::array::from_fn(|i| median(rounds.iter().map(|round| round[i]).collect()))
}

/// Least squares: `y = a + b x`, and the share of the variance of `y` that it explains.
fn line(points: &[(f64, f64)]) -> [f64; 3] {
    let n = points.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let [xx, xy, yy] = [
        mean(&|p| (p.0 - x) * (p.0 - x)),
        mean(&|p| (p.0 - x) * (p.1 - y)),
        mean(&|p| (p.1 - y) * (p.1 - y)),
    ];
    [y - xy / xx * x, xy / xx, xy * xy / (xx * yy)]
}

/// What a token costs the predictor alone, by the tokens before it; and a sentence about the line through the runs.
fn growth(cases: &[&Case<'_>]) -> (Table, String) {
    let mut columns = vec![" tokens".to_owned()];
    let (mut runs, mut lines) = (Vec::new(), String::new());
    for case in cases {
        let name = case.ours.name();
        columns.push(format!(" {name}: us a token"));
        columns.push(format!(" of the last {TOKENS}"));
        // The faster of two passes, run by run.
        let passes = [0; 2].map(|_| case.predict(LENGTHS[LENGTHS.len() - 1], None));
        let each: Vec<f64> =
            passes[0].iter().zip(&passes[1]).map(|(a, b)| 1e6 * a.0.min(b.0) / TOKENS as f64).collect();
        let (first, last) = (passes[0][0].1, passes[0][each.len() - 1].1);
        let state = last.saturating_sub(first) as f64 / ((each.len() - 1) * TOKENS) as f64 / 1024.0;
        // Tokens that an average token of the run attends to.
        let points: Vec<_> =
            each.iter().enumerate().map(|(i, y)| ((i as f64 + 0.5) * TOKENS as f64, *y)).collect();
        let [constant, slope, explained] = line(&points);
        lines += &format!(
            " {name}: {constant:.1} us + {:.2} us for each 1000 tokens before it (R2 {explained:.3}), {state:.1} KiB a token kept.",
            1e3 * slope
        );
        runs.push(each);
    }
    let mut table = Table::new("predictor", &columns.iter().map(String::as_str).collect::<Vec<_>>());
    for tokens in LENGTHS {
        let mut cells = vec![tokens.to_string()];
        for each in &runs {
            let until = &each[..tokens / TOKENS];
            let mean = until.iter().sum::<f64>() / until.len() as f64;
            cells.extend([mean, until[until.len() - 1]].map(|us| format!("{us:.1}")));
        }
        table.row(&cells);
    }
    (table, lines)
}

fn main() {
    let since = Instant::now();
    let cpu = CpuBackend::from_env().expect("a path of this CPU");
    let profile = MODEL.profile().expect("a profile");
    let profile = ProfileFile::parse(&profile).expect("a profile");
    let before = memory::live();
    let all = Ours::all(&cpu, &profile, ElementFormat::Bf16);
    let packed = memory::live() - before;
    let cores = std::thread::available_parallelism().expect("a number of threads").get();
    let pools: Vec<ThreadPool> = [1, cores][usize::from(cores == 1)..]
        .iter()
        .map(|n| ThreadPoolBuilder::new().num_threads(*n).build().expect("threads"))
        .collect();
    let columns = [
        "by",
        " threads",
        " bits",
        " predictor, tokens/s",
        " encode, GB/s",
        " decode, GB/s",
        " compress, GB/s",
        " restore, GB/s",
        " compress / parts",
        " restore / parts",
        " restore, MiB",
    ];
    let mut table = Table::new("predictor", &columns);
    let mut cases = Vec::new();
    for ours in &all {
        let long = drawn::draw(&cpu, &MODEL, &ours.mode, RUN_TOKENS);
        let longer = (ours.compress(&long), Raw::new(&long).bytes.len());
        let case = Case::new(&cpu, ours, drawn::first(&long, TOKENS), &profile);
        let (bits, expected) = (case.bits(), BITS[ours.kind as usize]);
        assert!((bits - expected).abs() < 0.3, "{}: expected {expected} bits, found {bits:.2}", ours.name());
        drop(long);
        for pool in &pools {
            table.row(&case.row(pool, &longer));
        }
        cases.push(case);
    }
    let growing: Vec<&Case<'_>> = cases.iter().filter(|case| case.ours.kind != Kind::Static).collect();
    let (grown, lines) = growth(&growing);
    table.above(grown).finish(&format!(
        "{}; shapes of SmolLM2-135M, random weights; bf16 caches of {TOKENS} tokens drawn from each predictor; medians of {ROUNDS}. GB/s of raw numbers. \
         Encode and decode: the coder alone, on kept predictions. Parts: predictor and coder alone, one after the other. MiB: the most allocated while {RUN_TOKENS} tokens, a full run, are restored, \
         beyond profile (predictors packed: {:.0}), stream and cache. Below, predictors alone on all threads:{lines} {:.0} s in all.",
        cpu.name(),
        packed as f64 / MIB,
        since.elapsed().as_secs_f64()
    ));
}
