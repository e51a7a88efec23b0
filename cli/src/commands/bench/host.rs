//! What this machine calls itself, and the table of what it can do.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::machine::Machine;

/// Model of the CPU; family and model numbers too, as virtual machines shorten the name.
pub fn cpu() -> String {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = about.lines().filter_map(|l| l.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let Some(name) = field("model name") else { return format!("{} CPU", std::env::consts::ARCH) };
    let numbers = field("cpu family").zip(field("model"));
    let numbers = numbers.map(|(family, model)| format!(" (family {family}, model {model})"));
    name + &numbers.unwrap_or_default()
}

/// The day, UTC.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    date(seconds / 86_400)
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar.
fn date(days: u64) -> String {
    // Years begin in March here, so that a leap day is their last; eras have 400 years.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

/// For people.
pub fn table(m: &Machine) -> String {
    let mut out = format!(
        "{}, {} threads, {}, {}{}\n\n",
        m.cpu,
        m.threads,
        m.backend,
        m.date,
        if m.quick { ", quick: rough figures" } else { "" }
    );
    let mut row = |what: &str, rate: f64, unit: &str, of: &str| {
        let _ = writeln!(out, "{what:<32} {rate:>9.1} {unit:<20} {of}");
    };
    let products = "G multiply-adds/s";
    row("products, int8", m.gemm / 1e9, products, "2048 x 2048 weights");
    for a in &m.attention {
        row("attention, int8", a.rate / 1e9, products, &format!("heads of {}", a.head_dim));
    }
    row("rows: norms, digits, RoPE, SiLU", m.rows / 1e6, "M values/s", "");
    for c in &m.coder {
        let of = format!("{} at {:.2} bits", c.format.name(), c.bits);
        row("coder, price and encode", c.encode / 1e6, "M scalars/s", &of);
        row("coder, decode", c.decode / 1e6, "M scalars/s", &of);
        row("coder, observe", c.observe / 1e6, "M scalars/s", &of);
    }
    row("memory copy", m.memory_copy / 1e9, "GB/s", "");
    if let Some(d) = &m.disk {
        let of = if d.direct { "past the page cache" } else { "the page cache may have answered" };
        row("disk, read", d.rate / 1e9, "GB/s", of);
    }
    if let Some(p) = &m.prefill {
        let of = format!("{}, {} tokens", p.model, p.tokens);
        row("prefill, bf16", p.rate / 1e9, products, &of);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, text) in [
            (0, "1970-01-01"),
            (31 + 28, "1970-03-01"),
            (10_957, "2000-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_778, "2026-11-21"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn a_cpu_has_a_name() {
        assert!(!cpu().trim().is_empty());
    }
}
