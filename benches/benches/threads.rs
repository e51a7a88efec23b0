//! speckv end to end on one thread and on more, up to all: the embedded model's caches, every predictor. Restored and compared before it is timed.

use rayon::ThreadPoolBuilder;
use speckv_backend_cpu::CpuBackend;
use speckv_benches::caches;
use speckv_benches::ours::{self, Ours};
use speckv_benches::report::{Table, criterion, digits, time};
use speckv_benches::rivals::Raw;
use speckv_predictor::profile::ProfileFile;

/// Tokens of the caches: several chunks, and as many as a run takes at once.
const TOKENS: usize = 2048;

fn main() {
    let mut criterion = criterion(300);
    let most = std::thread::available_parallelism().expect("a number of threads").get();
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < most).collect();
    counts.push(most);
    let columns =
        ["cache", "by", " threads", " compress, MB/s", " times one", " restore, MB/s", " times one"];
    let mut table = Table::new("threads", &columns);
    let cpu = CpuBackend::from_env().expect("a path of this CPU");
    let profile = ours::profile();
    let profile = ProfileFile::parse(&profile).expect("the embedded profile");
    for cache in caches::captured(TOKENS) {
        let raw = Raw::new(&cache);
        let input = format!("threads, {}", cache.format.name());
        let mut group = criterion.benchmark_group(&input);
        for ours in Ours::all(&cpu, &profile, cache.format) {
            let mut one = [None; 2];
            let stream = ours.compress(&cache);
            for &count in &counts {
                let pool = ThreadPoolBuilder::new().num_threads(count).build().expect("threads");
                assert!(
                    pool.install(|| ours.compress(&cache)) == stream,
                    "{count} threads change the stream"
                );
                let back = pool.install(|| ours.decompress(&stream));
                assert!(back == raw.bytes, "{}, {count} threads: every code must come back", ours.name());
                let name = format!("{}, {count}", ours.name());
                let seconds = [
                    time(&mut group, &format!("{name}, compress"), || pool.install(|| ours.compress(&cache))),
                    time(&mut group, &format!("{name}, restore"), || {
                        pool.install(|| ours.decompress(&stream))
                    }),
                ];
                if count == 1 {
                    one = seconds;
                }
                let speed = |s: Option<f64>| digits(s.map(|s| raw.bytes.len() as f64 / s / 1e6));
                let times = |i: usize| digits(one[i].zip(seconds[i]).map(|(one, s)| one / s));
                let cells = [speed(seconds[0]), times(0), speed(seconds[1]), times(1)];
                let about = [cache.format.name().to_owned(), ours.name(), count.to_string()];
                table.row(&[&about[..], &cells].concat());
            }
        }
        group.finish();
    }
    table.finish(&format!(
        "{}; tiny-qwen3, {TOKENS} tokens of `cli/assets/demo.txt`, profile loaded before. MB/s of raw numbers, fastest calls.",
        speckv_predictor::Backend::name(&cpu)
    ));
    criterion.final_summary();
}
