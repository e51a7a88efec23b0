//! The frontier as tables, for people and for other programs.

use std::fmt::Write;

use speckv_codec_core::ElementFormat;

use super::rows::Row;

/// One table for each element format.
pub fn text(rows: &[Row], layers: bool) -> String {
    let mut out = String::new();
    for format in formats(rows) {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.format == format).collect();
        let head = ["bits", "K", "V", "ratio", "work", "compress", "restore", "of prefill"];
        let _ = write!(out, "\n{:<24}", format!("{} cache", format.name()));
        let widths = [8, 8, 8, 8, 8, 10, 10, 12];
        head.iter().zip(widths).for_each(|(word, width)| _ = write!(out, "{word:>width$}"));
        let _ = writeln!(out, "\n{:-<1$}", "", 24 + widths.iter().sum::<usize>());
        let width = f64::from(format.width());
        let _ = writeln!(out, "{:<24}{width:>8.3}{width:>8.3}{width:>8.3}{:>8}", "raw", "1.00x");
        for row in &rows {
            let or_none = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
            let seconds = |at| or_none(row.mean_seconds(at).map(|s| format!("{s:.3} s")));
            let shares = row.time_share(0).zip(row.time_share(1)).map(|(a, b)| format!("{a:.2}, {b:.2}"));
            let cells = [
                format!("{:.3}", row.bits()),
                format!("{:.3}", row.part_bits(0)),
                format!("{:.3}", row.part_bits(1)),
                format!("{:.2}x", row.ratio()),
                or_none(row.work_share().map(|w| format!("{w:.3}"))),
                seconds(0),
                seconds(1),
                or_none(shares),
            ];
            let _ = write!(out, "{:<24}", row.label() + if row.ideal() { " (ideal)" } else { "" });
            cells.iter().zip(widths).for_each(|(cell, width)| _ = write!(out, "{cell:>width$}"));
            out.push('\n');
        }
        if layers {
            self::layers(&mut out, &rows);
        }
    }
    let _ = write!(
        out,
        "\nbits: per scalar of the cache, of whole streams. K, V: the coder's own prices, without container and token ids. work: \
         multiply-adds,\nas a share of the target's prefill. compress, restore: seconds a cache, without loading the profile; of \
         prefill: the same as shares\nof the target's bf16 prefill on this machine."
    );
    if rows.iter().any(Row::ideal) {
        out.push_str(
            "\npublished: an fp8 copy in open loop, simulated; an ideal code length, no streams, no container, nothing restored.",
        );
    }
    out
}

/// Bits of each layer's keys and values.
fn layers(out: &mut String, rows: &[&Row]) {
    let _ = write!(out, "\n{:<6}", "layer");
    rows.iter().for_each(|row| _ = write!(out, " {:>20}", row.label()));
    out.push('\n');
    for layer in 0..rows.first().map_or(0, |row| row.costs.len()) {
        let _ = write!(out, "{layer:>5} ");
        for row in rows {
            let [k, v] = [0, 1].map(|part| row.layer_bits(layer, part));
            let _ = write!(out, " {:>20}", format!("K {k:.3} V {v:.3}"));
        }
        out.push('\n');
    }
}

/// Those that rows are of, in their own order.
pub fn formats(rows: &[Row]) -> impl Iterator<Item = ElementFormat> {
    ElementFormat::ALL.into_iter().filter(|format| rows.iter().any(|row| row.format == *format))
}

/// One line a row. Seconds are means a cache, tokens and bytes sums over all; `profile_bytes` is what the predictor uses of the profile; what is not
/// known is empty.
pub fn csv(rows: &[Row]) -> String {
    let mut out = String::from(
        "predictor,precision,format,bits,work_share,k_bits,v_bits,ratio,compress_s,decompress_s,prefill_s,\
         compress_share,decompress_share,tokens,texts,stream_bytes,profile_bytes,measured\n",
    );
    for row in rows {
        let known = |x: Option<f64>, digits: usize| x.map_or_else(String::new, |x| format!("{x:.digits$}"));
        let cells = [
            row.predictor.clone(),
            row.precision.clone(),
            row.format.name().to_owned(),
            format!("{:.5}", row.bits()),
            known(row.work_share(), 5),
            format!("{:.5}", row.part_bits(0)),
            format!("{:.5}", row.part_bits(1)),
            format!("{:.4}", row.ratio()),
            known(row.mean_seconds(0), 4),
            known(row.mean_seconds(1), 4),
            known(row.mean_prefill(), 4),
            known(row.time_share(0), 4),
            known(row.time_share(1), 4),
            row.tokens.to_string(),
            row.texts.to_string(),
            row.stream_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            row.profile_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
            (if row.ideal() { "ideal" } else { "streams" }).to_owned(),
        ];
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}
