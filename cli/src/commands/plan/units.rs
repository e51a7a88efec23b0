//! Numbers with units on the command line, and for people.

use std::str::FromStr;

use crate::output::grouped;

/// Speed of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// As it was given.
    pub name: String,
    /// What it says, or where the machine file says it.
    pub speed: Speed,
}

/// Where a link's speed comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Bytes a second.
    Given(f64),
    /// The machine file's memory copy.
    Memory,
    /// The machine file's disk.
    Disk,
}

const LINK_HELP: &str =
    "expected a speed like `25Gbit/s`, `3.5GB/s`, `200MB/s`, or `memory` or `disk` of the machine file";

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let speed = match text.trim() {
            "memory" => Speed::Memory,
            "disk" => Speed::Disk,
            other => Speed::Given(bytes_per_second(other)?),
        };
        Ok(Link { name: text.trim().to_owned(), speed })
    }
}

/// `12.5 GB/s`, `100Gbit/s`, `10Gbps`, `1GiB/s`: B is a byte, b and bit are bits; prefixes k M G T (1000), Ki Mi Gi Ti (1024).
fn bytes_per_second(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let each = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps"));
    let parts = each.and_then(|unit| {
        let bits = ["bits", "bit", "b"].into_iter().find_map(|name| unit.strip_suffix(name));
        let bytes = unit.strip_suffix('B');
        bits.map(|prefix| (prefix, 0.125)).or_else(|| bytes.map(|prefix| (prefix, 1.0)))
    });
    let factor = parts.and_then(|(prefix, size)| Some(size * self::prefix(prefix)?));
    match (unit.is_empty(), factor) {
        (true, _) => Err(format!("`{text}` has no unit; {LINK_HELP}")),
        (_, None) => Err(format!("unknown unit `{unit}`; {LINK_HELP}")),
        (_, Some(factor)) => Ok(positive(number, text)? * factor),
    }
}

fn prefix(text: &str) -> Option<f64> {
    let (letters, base) = text.strip_suffix('i').map_or((text, 1000f64), |letters| (letters, 1024.0));
    match letters {
        "" if base == 1000.0 => Some(1.0),
        "k" | "K" => Some(base),
        "M" => Some(base.powi(2)),
        "G" => Some(base.powi(3)),
        "T" => Some(base.powi(4)),
        _ => None,
    }
}

/// The number in front, and what follows.
fn split(text: &str) -> (&str, &str) {
    // The `e` of an exponent belongs to the number if digits follow it.
    let bytes = text.as_bytes();
    let exponent = |i: usize| {
        let next = bytes.get(i + 1).copied().unwrap_or_default();
        let signed = matches!(next, b'+' | b'-') && bytes.get(i + 2).is_some_and(u8::is_ascii_digit);
        matches!(bytes[i], b'e' | b'E') && i > 0 && (next.is_ascii_digit() || signed)
    };
    let in_number =
        |i: usize| bytes[i].is_ascii_digit() || matches!(bytes[i], b'.' | b'+' | b'-') || exponent(i);
    let end = (0..bytes.len()).find(|&i| !in_number(i)).unwrap_or(bytes.len());
    (&text[..end], text[end..].trim())
}

/// Times and products of numbers in this range stay finite.
fn positive(number: &str, text: &str) -> Result<f64, String> {
    match number.parse::<f64>() {
        Ok(x) if (1e-6..=1e24).contains(&x) => Ok(x),
        Ok(_) => Err(format!("`{text}`: expected a positive number of a sane size")),
        Err(_) => Err(format!("`{text}`: expected a number first")),
    }
}

/// A rate of work: `9.1e11`, `900G`, `400T`; k M G T are thousands.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text.trim());
    let factor = prefix(unit).filter(|_| !unit.ends_with('i'));
    let factor = factor
        .ok_or_else(|| format!("unknown unit `{unit}`; expected a number a second such as 200T or 2e14"))?;
    positive(number, text).map(|x| x * factor)
}

/// Seconds: `250us`, `3ms`, `0.1s`; zero is allowed.
pub fn seconds(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text.trim());
    let factor = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        _ => return Err(format!("unknown unit `{unit}`; expected a time like 250us, 3ms or 0.1s")),
    };
    match number.parse::<f64>() {
        Ok(x) if (0.0..=1e9).contains(&x) => Ok(x * factor),
        _ => Err(format!("`{text}`: expected a time of at least zero")),
    }
}

/// Tokens: `4096`, `32k` (of 1024), `1M` (of 1024 k).
pub fn tokens(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}`: expected a number of tokens from 1 to 2^40, such as 4096 or 32k (of 1024)");
    let (digits, shift) = match text.trim().split_at_checked(text.trim().len().saturating_sub(1)) {
        Some((digits, "k" | "K")) => (digits, 10),
        Some((digits, "M")) => (digits, 20),
        _ => (text.trim(), 0),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    n.checked_mul(1 << shift).filter(|n| (1..=1 << 40).contains(n)).ok_or_else(wrong)
}

/// Three figures and a unit of thousands.
fn scaled(x: f64, units: &[&str]) -> String {
    let mut x = x;
    let mut at = 0;
    while x >= 999.5 && at + 1 < units.len() {
        x /= 1000.0;
        at += 1;
    }
    let decimals = if x >= 99.95 {
        0
    } else if x >= 9.995 {
        1
    } else {
        2
    };
    format!("{x:.decimals$} {}", units[at])
}

/// Bytes.
pub fn bytes_text(x: f64) -> String {
    scaled(x, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bytes a second.
pub fn speed_text(x: f64) -> String {
    bytes_text(x) + "/s"
}

/// Seconds, in the unit that reads best.
pub fn time_text(s: f64) -> String {
    match s {
        _ if s < 0.9995 => scaled(s * 1e6, &["us", "ms"]),
        _ if s < 119.5 => scaled(s, &["s"]),
        _ if s < 7170.0 => scaled(s / 60.0, &["min"]),
        _ if s < 360_000.0 => scaled(s / 3600.0, &["h"]),
        _ => format!("{} days", grouped((s / 86_400.0).min(1e18) as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Result<f64, String> {
        text.parse::<Link>().map(|l| match l.speed {
            Speed::Given(x) => x,
            _ => f64::NAN,
        })
    }

    #[test]
    fn links() {
        for (text, want) in [
            ("1 B/s", 1.0),
            ("3.5GB/s", 3.5e9),
            ("100 Gbit/s", 12.5e9),
            ("100Gb/s", 12.5e9),
            ("10Gbps", 1.25e9),
            ("2GBps", 2e9),
            ("1GiB/s", 1_073_741_824.0),
            ("8Mibit/s", 1_048_576.0),
            ("1e3 kB/s", 1e6),
            ("2.5e-1MB/s", 2.5e5),
            ("64 kbits/s", 8000.0),
        ] {
            assert_eq!(link(text), Ok(want), "{text}");
        }
        assert_eq!("memory".parse::<Link>().unwrap().speed, Speed::Memory);
        for (text, words) in [
            ("10", "no unit"),
            ("", "no unit"),
            ("10GB", "unknown unit `GB`"),
            ("10 furlongs/s", "unknown unit"),
            ("10mB/s", "unknown unit"),
            ("10iB/s", "unknown unit"),
            ("0GB/s", "positive"),
            ("-1GB/s", "positive"),
            ("1e999GB/s", "positive"),
            ("nanGB/s", "unknown unit"),
            ("GB/s", "number first"),
            ("1.2.3GB/s", "number first"),
            ("10 é/s", "unknown unit"),
        ] {
            let said = link(text).unwrap_err();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn rates_times_and_tokens() {
        assert_eq!((rate("200T"), rate("2e14"), rate("1.5 k")), (Ok(2e14), Ok(2e14), Ok(1500.0)));
        assert!(rate("0").is_err() && rate("5x").is_err() && rate("inf").is_err() && rate("1Gi").is_err());
        assert_eq!((seconds("250us"), seconds("3 ms"), seconds("0s")), (Ok(250e-6), Ok(3e-3), Ok(0.0)));
        assert!(seconds("-1s").is_err() && seconds("3").is_err() && seconds("NaNs").is_err());
        assert_eq!((tokens("4096"), tokens("32k"), tokens("1M")), (Ok(4096), Ok(32768), Ok(1 << 20)));
        for bad in ["0", "-1", "1.5k", "", "k", "2000000M", "99999999999999999999", "é"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn for_people() {
        assert_eq!([0.5, 999.4, 1234.0, 5.67e9].map(bytes_text), ["0.50 B", "999 B", "1.23 kB", "5.67 GB"]);
        assert_eq!(
            [2e-7, 0.0123, 1.0, 118.0, 300.0, 7200.0, 1e6].map(time_text),
            ["0.20 us", "12.3 ms", "1.00 s", "118 s", "5.00 min", "2.00 h", "11 days"]
        );
    }
}
