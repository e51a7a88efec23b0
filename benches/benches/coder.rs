//! The entropy coder on one thread: every CPU path, format and rate, beside `constriction` on the same codes with the same means and scales.
//! Every answer is checked before it is timed.

use rayon::ThreadPoolBuilder;
use speckv_backend_cpu::{CpuBackend, Path};
use speckv_benches::normals::Scalars;
use speckv_benches::planes::{COLUMNS, POINTS, Planes, TOKENS};
use speckv_benches::report::{Table, criterion, digits, time};

/// Planes of the chunk that is coded: as many as a small model has.
const PLANES: usize = 16;
/// Planes that `constriction`, being slower, codes.
const FEW: usize = 2;

fn main() {
    let mut criterion = criterion(300);
    let pool = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let paths: Vec<_> = Path::ALL.into_iter().filter(|path| path.is_available()).collect();
    let columns = [
        "data",
        "coder",
        " bits",
        " price, M/s",
        " price + encode, M/s",
        " decode, M/s",
        " decode / constriction",
    ];
    let mut table = Table::new("coder", &columns);
    for (format, bits) in POINTS {
        let planes = Planes::new(&CpuBackend::best(), format, bits, PLANES);
        let data = format!("{} at {bits} bits", format.name());
        let mut group = criterion.benchmark_group(&data);
        let rate = |scalars: usize, seconds: Option<f64>| seconds.map(|s| scalars as f64 / s / 1e6);

        let scalars = Scalars::new(&planes, FEW);
        let words = scalars.encode();
        assert!(scalars.decode(words.clone()) == scalars.ranks, "constriction must give the ranks back");
        let few = scalars.ranks.len();
        let theirs = [
            None,
            rate(few, time(&mut group, "constriction, encode", || scalars.encode())),
            rate(few, time(&mut group, "constriction, decode", || scalars.decode(words.clone()))),
        ];
        let mut row = |coder: &str, bits: f64, [price, encode, decode]: [Option<f64>; 3]| {
            let times = decode.zip(theirs[2]).map(|(ours, theirs)| ours / theirs);
            let cells = [data.clone(), coder.to_owned(), format!("{bits:.3}")];
            table.row(&[&cells[..], &[price, encode, decode, times].map(digits)].concat());
        };
        row("constriction", 32.0 * words.len() as f64 / few as f64, theirs);

        let expected = planes.encode(&CpuBackend::best());
        for path in &paths {
            let cpu = CpuBackend::forced(*path).expect("an available path");
            let chunk = planes.encode(&cpu);
            assert!(chunk == expected, "{data}, {path}: every path must give the same chunk");
            let back = planes.decode(&cpu, &chunk);
            let equal = back.iter().zip(&planes.planes).all(|(back, plane)| *back == plane.codes);
            assert!(equal, "{data}, {path}: every code must come back");
            let all = planes.scalars();
            let price = time(&mut group, &format!("{path}, price"), || pool.install(|| planes.priced(&cpu)));
            let encode =
                time(&mut group, &format!("{path}, encode"), || pool.install(|| planes.encode(&cpu)));
            let decode =
                time(&mut group, &format!("{path}, decode"), || pool.install(|| planes.decode(&cpu, &chunk)));
            let bits = 8.0 * chunk.payload.len() as f64 / all as f64;
            row(path.name(), bits, [price, encode, decode].map(|seconds| rate(all, seconds)));
        }
        group.finish();
    }
    table.finish(&format!(
        "One thread. Ours: one chunk of {PLANES} planes of {TOKENS} x {COLUMNS}, through the backend: pricing, rANS, checksums, allocations. constriction: {FEW} of \
         the planes by `DefaultAnsCoder`, normals quantised to ranks with 24-bit probabilities. M/s: million scalars a second, fastest calls."
    ));
    criterion.final_summary();
}
