//! The demo's one table.

use std::fmt::Write;

use serde_json::{Value, json};
use speckv_capture::Cache;
use speckv_codec_core::checksum::xxh3;

use super::measure::Measured;
use crate::caches;
use crate::output::{grouped, rate, rounded};

/// Columns of one element format.
pub struct Format {
    name: &'static str,
    scalars: u64,
    checksum: u64,
    rows: Vec<Measured>,
}

impl Format {
    /// Of a cache and its file.
    pub fn new(cache: &Cache, payload: &[u8], rows: Vec<Measured>) -> Self {
        Format { name: cache.format.name(), scalars: caches::scalars(cache), checksum: xxh3(payload), rows }
    }

    fn ratio(&self, row: &Measured) -> f64 {
        self.rows[0].bytes as f64 / row.bytes as f64
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let row = |row: &Measured| {
            json!({
                "name": row.name, "bytes": row.bytes, "ratio": rounded(self.ratio(row), 4),
                "bits_per_scalar": rounded(rate(row.bytes, self.scalars), 4),
                "compress_seconds": row.seconds.map(|s| rounded(s[0], 4)),
                "decompress_seconds": row.seconds.map(|s| rounded(s[1], 4)),
                "load_seconds": rounded(row.load_seconds, 4),
            })
        };
        json!({
            "format": self.name, "scalars": self.scalars, "cache_xxh3": format!("{:016x}", self.checksum),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// For people.
pub fn text(formats: &[Format]) -> String {
    let mut out = format!("{:<22}", "");
    for format in formats {
        let _ = write!(out, " | {:^43}", format!("{} cache", format.name));
    }
    let _ = write!(out, "\n{:<22}", "");
    for _ in formats {
        let _ =
            write!(out, " | {:>10} {:>7} {:>6} {:>8} {:>8}", "bytes", "bits", "ratio", "compress", "restore");
    }
    let _ = write!(out, "\n{:-<22}", "");
    for _ in formats {
        let _ = write!(out, "-+-{:-<43}", "");
    }
    out.push('\n');
    for (i, first) in formats[0].rows.iter().enumerate() {
        let _ = write!(out, "{:<22}", first.name);
        for format in formats {
            let row = &format.rows[i];
            let (bits, ratio) = (rate(row.bytes, format.scalars), format.ratio(row));
            let time = |at: usize| row.seconds.map_or_else(String::new, |s| format!("{:.2} s", s[at]));
            let _ = write!(
                out,
                " | {:>10} {bits:>7.3} {:>6} {:>8} {:>8}",
                grouped(row.bytes),
                format!("{ratio:.2}x"),
                time(0),
                time(1)
            );
        }
        out.push('\n');
    }
    let load = formats.iter().flat_map(|f| &f.rows).map(|r| r.load_seconds).fold(0.0, f64::max);
    let _ = write!(
        out,
        "\nbits: per scalar of the cache, every byte of file or stream counted. fp8 has one byte-plane, so its two zstd \
         rows\nare one run. Times: on this machine; zstd on one core; speckv without loading its profile ({load:.2} s, \
         once\nper process).\n"
    );
    // Columns without a number end in blanks.
    out.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Said only after every row was restored and compared.
pub fn verdict(formats: &[Format]) -> String {
    let sums: Vec<String> =
        formats.iter().map(|f| format!("{} cache file {:016x}", f.name, f.checksum)).collect();
    format!(
        "Every bit came back: each row was decompressed and compared with the cache file (XXH3: {}).",
        sums.join(", ")
    )
}
