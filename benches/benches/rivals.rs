//! Real caches on one thread: bytes and speed of speckv, predictor included, beside zstd, lz4 and pco. Everything is restored and compared before it is timed.
//!
//! The caches are the embedded model's, and the file that `SPECKV_BENCH_CACHE` names; for speckv to take part there, `SPECKV_BENCH_PROFILE` must name the
//! profile of its model.

use criterion::Criterion;
use rayon::{ThreadPool, ThreadPoolBuilder};
use speckv_backend_cpu::CpuBackend;
use speckv_benches::caches;
use speckv_benches::ours::{self, Ours};
use speckv_benches::report::{Table, criterion, digits, time};
use speckv_benches::rivals::{RIVALS, Raw};
use speckv_capture::Cache;
use speckv_predictor::profile::ProfileFile;

/// Tokens of the embedded model's caches.
const TOKENS: usize = 1024;

/// Where the rows go.
struct Run {
    criterion: Criterion,
    table: Table,
    pool: ThreadPool,
}

impl Run {
    /// Everything on one cache; speckv if there is a profile for it.
    fn cache(&mut self, cpu: &CpuBackend, profile: Option<&ProfileFile<'_>>, input: &str, cache: &Cache) {
        let (raw, all) = (Raw::new(cache), caches::scalars(cache));
        let input = format!("{input}, {}", cache.format.name());
        let (mut group, table) = (self.criterion.benchmark_group(&input), &mut self.table);
        let mut row = |codec: &str, bytes: usize, seconds: [Option<f64>; 2]| {
            let speed = |s: Option<f64>| digits(s.map(|s| raw.bytes.len() as f64 / s / 1e6));
            let (bits, ratio) = (8.0 * bytes as f64 / all as f64, raw.bytes.len() as f64 / bytes as f64);
            let sizes = [bytes.to_string(), format!("{bits:.3}"), format!("{ratio:.2}x")];
            table.row(&[&[input.clone(), codec.to_owned()], &sizes[..], &seconds.map(speed)].concat());
        };
        row("raw", raw.bytes.len(), [None; 2]);
        for rival in &RIVALS {
            let (order, small) = rival.best(&raw);
            let name = match rival.orders.len() {
                1 => rival.name.to_owned(),
                _ => format!("{}, {}", rival.name, order.name()),
            };
            let seconds = [
                time(&mut group, &format!("{name}, compress"), || rival.compress(&raw, order)),
                time(&mut group, &format!("{name}, restore"), || rival.decompress(&small, &raw, order)),
            ];
            row(&name, small.len(), seconds);
        }
        for ours in profile.iter().flat_map(|profile| Ours::all(cpu, profile, cache.format)) {
            let (name, stream) = (format!("speckv {}", ours.name()), ours.compress(cache));
            assert!(ours.decompress(&stream) == raw.bytes, "{input}, {name}: every code must come back");
            let pool = &self.pool;
            let seconds = [
                time(&mut group, &format!("{name}, compress"), || pool.install(|| ours.compress(cache))),
                time(&mut group, &format!("{name}, restore"), || pool.install(|| ours.decompress(&stream))),
            ];
            row(&name, stream.len(), seconds);
        }
        group.finish();
    }
}

fn main() {
    let columns = ["cache", "by", " bytes", " bits", " ratio", " compress, MB/s", " restore, MB/s"];
    let pool = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let mut run = Run { criterion: criterion(300), table: Table::new("rivals", &columns), pool };
    let cpu = CpuBackend::from_env().expect("a path of this CPU");
    let embedded = ours::profile();
    let embedded = ProfileFile::parse(&embedded).expect("the embedded profile");
    for cache in caches::captured(TOKENS) {
        run.cache(&cpu, Some(&embedded), "tiny-qwen3", &cache);
    }
    if let Some((name, cache)) = caches::own() {
        let bytes = caches::own_profile();
        let profile = bytes.as_deref().map(|b| ProfileFile::parse(b).expect("a profile"));
        run.cache(&cpu, profile.as_ref(), &name, &cache);
    }
    run.table.finish(&format!(
        "One thread, {}. MB/s of raw numbers, fastest calls. tiny-qwen3: {TOKENS} tokens of `cli/assets/demo.txt`. speckv: whole streams with header, checksums and token \
         ids, predictor run included, profile loaded before; the others get the bare numbers, in the better order where one is named.",
        speckv_predictor::Backend::name(&cpu)
    ));
    run.criterion.final_summary();
}
