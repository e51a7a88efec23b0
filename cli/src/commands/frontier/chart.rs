//! The frontier as a picture.

use super::report::formats;
use super::rows::{PUBLISHED, Row};
use crate::error::{Error, Result};
use crate::plot::{Plot, Point, Series};

/// Bits per scalar against predictor work, one series for each element format.
pub fn svg(rows: &[Row], target: &str, same: &str) -> Result<String> {
    let point = |row: &Row| {
        let Some(x) = row.work_share() else {
            return Err(Error::mismatch(
                "--svg: expected a profile with a draft network, which tells the target's sizes, found none; give --model",
            ));
        };
        let apart = row.predictor == PUBLISHED;
        Ok(Point { x, y: row.bits(), label: label(row), apart })
    };
    let mut series = Vec::new();
    for format in formats(rows) {
        let points = rows.iter().filter(|row| row.format == format).map(point).collect::<Result<Vec<_>>>()?;
        let width = format.width();
        let line = (f64::from(width), format!("raw {}: {width} bits", format.name()));
        series.push(Series { name: format!("{} cache", format.name()), points, line });
    }
    Plot {
        title: &format!("KV cache of {target}: bits per scalar against predictor work"),
        subtitle: &format!("{same}; real streams, container included, each restored bit for bit"),
        x: "predictor work: multiply-adds as a share of the target's prefill (log)",
        y: "bits per scalar (log)",
        zero: "0",
        apart: "published scheme: fp8 copy, open loop (ideal code length, simulated)",
        series: &series,
    }
    .svg()
}

/// What stands beside a point: predictors that come in several precisions by their precision, and the bits.
fn label(row: &Row) -> String {
    let short = row.predictor == "draft" && !row.precision.is_empty();
    let name = if short { row.precision.clone() } else { row.label() };
    format!("{name}: {:.2}", row.bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use speckv_codec_core::{ElementFormat, Geometry};

    fn row(predictor: &str, precision: &str, format: ElementFormat, share: u128, bits: u64) -> Row {
        let geometry = Geometry { layers: 1, kv_heads: 1, head_dim: 1 };
        let mut row = Row::new(predictor, precision, format, geometry);
        (row.tokens, row.texts, row.work, row.target_work) = (100, 1, share, Some(100));
        row.stream_bytes = (predictor != PUBLISHED).then_some(200 * bits / 800);
        row.costs = vec![[100 * 256 * bits / 100; 2]];
        row
    }

    #[test]
    fn every_point_has_its_label() {
        let mut rows = Vec::new();
        for (format, half) in [(ElementFormat::Bf16, 1), (ElementFormat::E4m3, 2)] {
            for (predictor, precision, share, bits) in [
                ("static", "", 0, 1000),
                ("chain", "no-ids", 4, 800),
                ("chain", "ids", 7, 776),
                (PUBLISHED, "fp8", 100, 664),
                ("draft", "w8a8", 102, 432),
                ("draft", "w8a8+open", 100, 540),
                ("draft", "w8a8+kv16", 135, 344),
                ("draft", "w8a16+kv16", 228, 324),
                ("draft", "w16a16", 410, 276),
            ] {
                rows.push(row(predictor, precision, format, share, bits / half));
            }
        }
        let svg = svg(&rows, "a <b> & \"c\"\u{7}", "2 texts").unwrap();
        for row in &rows {
            assert!(svg.contains(&format!("\n{}\n", label(row))), "{}", label(row));
        }
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot; :"));
        assert!(!svg.chars().any(|c| c.is_control() && c != '\n'));
        assert_eq!(svg.matches("<polygon").count(), 3);
    }

    #[test]
    fn work_that_nobody_knows_the_target_of_is_no_point() {
        let mut row = row("chain", "ids", ElementFormat::Bf16, 7, 800);
        row.target_work = None;
        assert!(svg(&[row.clone()], "t", "s").unwrap_err().to_string().contains("give --model"));
        row.work = 0;
        assert!(svg(&[row], "t", "s").is_ok());
    }
}
