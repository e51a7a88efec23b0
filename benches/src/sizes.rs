//! Compressed sizes of fixed inputs: a change of ratio is a line of a diff to approve.
//!
//! The caches are committed bytes: capturing them anew sums floats in an order that depends on the CPU. f16 and e5m2 are the bf16 cache rounded, which
//! every machine does alike, and so are the synthetic planes.

use speckv_backend_cpu::CpuBackend;
use speckv_capture::{Cache, ElementFormat};
use speckv_predictor::profile::ProfileFile;

use crate::ours::{self, Ours};
use crate::planes::{POINTS, Planes};
use crate::rivals::{RIVALS, Raw};
use crate::{caches, random};

/// The command that writes the table anew.
pub const COMMAND: &str = "cargo run --release -p speckv-benches --example sizes";
/// The committed table, in the repository.
pub const FILE: &str = "benches/results/sizes.csv";
const COLUMNS: &str = "input,format,predictor,precision,raw bytes,compressed bytes,bits per scalar";
/// Planes of a synthetic input.
const PLANES: usize = 4;

/// One size.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Input, format, predictor or rival, precision or order of the numbers: no commas.
    pub key: [String; 4],
    /// Bytes before.
    pub raw: usize,
    /// Bytes after.
    pub compressed: usize,
    /// Scalars.
    pub scalars: usize,
}

impl Row {
    fn line(&self) -> String {
        let bits = 8.0 * self.compressed as f64 / self.scalars as f64;
        format!("{},{},{},{bits:.4}", self.key.join(","), self.raw, self.compressed)
    }
}

/// The inputs' sizes by everything that compresses them; each was restored and compared.
///
/// # Panics
/// If a bit does not come back.
pub fn rows(backend: &CpuBackend) -> Vec<Row> {
    let mut rows = Vec::new();
    for (format, bits) in POINTS {
        let planes = Planes::new(backend, format, bits, PLANES);
        let chunk = planes.encode(backend);
        let back = planes.decode(backend, &chunk);
        assert!(back.iter().zip(&planes.planes).all(|(back, plane)| *back == plane.codes), "a code is lost");
        rows.push(Row {
            key: [format!("planes at {bits} bits"), format.name().into(), "given".into(), String::new()],
            raw: planes.scalars() * format.bytes(),
            compressed: chunk.payload.len(),
            scalars: planes.scalars(),
        });
    }
    let profile = ours::profile();
    let profile = ProfileFile::parse(&profile).expect("the embedded profile");
    let fine = caches::stored(ElementFormat::Bf16);
    let converted = [ElementFormat::F16, ElementFormat::E5m2].map(|format| caches::converted(&fine, format));
    let coarse = caches::stored(ElementFormat::E4m3);
    let [f16, e5m2] = converted;
    for (input, cache) in [
        ("tiny-qwen3", fine),
        ("tiny-qwen3 rounded", f16),
        ("tiny-qwen3", coarse),
        ("tiny-qwen3 rounded", e5m2),
        // What no predictor and no rival can shrink.
        ("noise", noise(ElementFormat::Bf16)),
        ("noise", noise(ElementFormat::E4m3)),
    ] {
        rows.extend(of_cache(backend, &profile, input, &cache));
    }
    rows
}

/// Uniform codes, in the embedded model's geometry.
fn noise(format: ElementFormat) -> Cache {
    let (mut random, mut cache) = (random::Random(1), caches::stored(format));
    cache.planes.iter_mut().flatten().flatten().for_each(|byte| *byte = random.bits() as u8);
    cache
}

fn of_cache(backend: &CpuBackend, profile: &ProfileFile<'_>, input: &str, cache: &Cache) -> Vec<Row> {
    let raw = Raw::new(cache);
    let row = |predictor: &str, precision: &str, compressed| Row {
        key: [input, cache.format.name(), predictor, precision].map(str::to_owned),
        raw: raw.bytes.len(),
        compressed,
        scalars: caches::scalars(cache),
    };
    let rivals = RIVALS.iter().map(|rival| {
        let (order, small) = rival.best(&raw);
        row(rival.name, order.name(), small.len())
    });
    let all = Ours::all(backend, profile, cache.format);
    let ours = all.iter().map(|ours| {
        let stream = ours.compress(cache);
        assert!(ours.decompress(&stream) == raw.bytes, "{input}, {}: a code is lost", ours.name());
        row(ours.kind.name(), &ours.precision, stream.len())
    });
    rivals.chain(ours).collect()
}

/// The table as a file.
pub fn csv(rows: &[Row]) -> String {
    let lines = std::iter::once(COLUMNS.to_owned()).chain(rows.iter().map(Row::line));
    lines.map(|line| line + "\n").collect()
}

/// Compares a committed table with rows measured now.
///
/// # Errors
/// One line for each row that differs, is missing or is new, with both sizes; the last line says how to accept them.
pub fn compare(committed: &str, rows: &[Row]) -> Result<(), String> {
    let now = csv(rows);
    let differences = difference(committed, &now);
    if differences.is_empty() && committed == now {
        return Ok(());
    }
    Err(format!("{differences}{FILE} does not hold these sizes; if the change is meant: {COMMAND}"))
}

fn difference(committed: &str, now: &str) -> String {
    // Key of four fields, and the compressed bytes.
    let parse = |text: &str| -> Vec<(String, String)> {
        let fields = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let rows = text.lines().skip(1).map(fields).filter(|f| f.len() == 7);
        rows.map(|f| (f[..4].join(", "), f[5].clone())).collect()
    };
    let (committed, now) = (parse(committed), parse(now));
    let find = |rows: &[(String, String)], key: &str| rows.iter().find(|r| r.0 == key).map(|r| r.1.clone());
    let mut out = String::new();
    for (key, found) in &now {
        match find(&committed, key) {
            Some(expected) if expected == *found => {}
            Some(expected) => out += &format!("{key}: expected {expected} bytes, found {found}\n"),
            None => out += &format!("{key}: expected no such row, found {found} bytes\n"),
        }
    }
    for (key, expected) in committed.iter().filter(|(key, _)| find(&now, key).is_none()) {
        out += &format!("{key}: expected {expected} bytes, found no such row\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(input: &str, compressed: usize) -> Row {
        let key = [input, "e4m3", "draft", "w8a8"].map(str::to_owned);
        Row { key, raw: 100, compressed, scalars: 100 }
    }

    #[test]
    fn a_difference_names_row_sizes_and_command() {
        let committed = csv(&[row("a", 10), row("b", 20)]);
        assert_eq!(committed.lines().nth(1), Some("a,e4m3,draft,w8a8,100,10,0.8000"));
        assert_eq!(compare(&committed, &[row("a", 10), row("b", 20)]), Ok(()));
        let changed = compare(&committed, &[row("a", 11), row("b", 20)]).unwrap_err();
        assert!(
            changed.starts_with("a, e4m3, draft, w8a8: expected 10 bytes, found 11\nbenches/"),
            "{changed}"
        );
        assert!(changed.ends_with(COMMAND), "{changed}");
        let gone = compare(&committed, &[row("b", 20), row("c", 1)]).unwrap_err();
        assert!(gone.contains("c, e4m3, draft, w8a8: expected no such row, found 1 bytes\n"), "{gone}");
        assert!(gone.contains("a, e4m3, draft, w8a8: expected 10 bytes, found no such row\n"), "{gone}");
    }

    /// Order, other columns and the header belong to the file too.
    #[test]
    fn any_other_text_is_refused() {
        let committed = csv(&[row("a", 10), row("b", 20)]);
        assert!(compare(&committed, &[row("b", 20), row("a", 10)]).is_err());
        assert!(
            compare(&committed.replace("bits per scalar", "bits"), &[row("a", 10), row("b", 20)]).is_err()
        );
        assert!(compare("", &[]).is_err());
    }
}
