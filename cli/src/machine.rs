//! Machine files: what `speckv bench` measured, for `speckv plan`. Their fields stand in docs/plan.md.

use std::path::Path;

use serde_json::{Value, json};
use speckv_codec_core::ElementFormat;

use crate::error::{Error, Result};
use crate::files::Input;
use crate::output::rounded;

/// What this program writes and reads.
const VERSION: u64 = 1;

/// Rates of one machine with one backend; every one positive and finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// CPU, in words.
    pub cpu: String,
    /// What computed.
    pub backend: String,
    /// Worker threads.
    pub threads: u64,
    /// Day of the measurement, UTC.
    pub date: String,
    /// Version of the program that measured.
    pub speckv: String,
    /// Few repetitions on less data.
    pub quick: bool,
    /// Matrix products, int8 multiply-adds a second.
    pub gemm: f64,
    /// Attention at some head dimensions.
    pub attention: Vec<Attention>,
    /// Operations over rows, values a second.
    pub rows: f64,
    /// The coder at some rates.
    pub coder: Vec<Coder>,
    /// Bytes copied a second within memory.
    pub memory_copy: f64,
    /// Reading files.
    pub disk: Option<Disk>,
    /// The target's own prefill.
    pub prefill: Option<Prefill>,
}

/// Speed of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Columns of a head.
    pub head_dim: u64,
    /// int8 multiply-adds a second.
    pub rate: f64,
}

/// Speed of the coder, scalars a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Coder {
    /// Format of the codes.
    pub format: ElementFormat,
    /// Bits a scalar.
    pub bits: f64,
    /// Pricing and encoding.
    pub encode: f64,
    /// Decoding.
    pub decode: f64,
    /// What either side then derives from the true codes.
    pub observe: f64,
}

/// Speed of reading a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Bytes a second.
    pub rate: f64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Past the page cache.
    pub direct: bool,
}

/// Speed of a target's prefill.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefill {
    /// bf16 multiply-adds a second.
    pub rate: f64,
    /// Which model.
    pub model: String,
    /// Tokens of the prompt.
    pub tokens: u64,
}

impl Machine {
    /// Reads and checks a machine file.
    pub fn read(path: &Path) -> Result<Machine> {
        let input = Input::open(path)?;
        let parse = || -> Result<Machine> {
            let root: Value = serde_json::from_slice(input.bytes()).map_err(|e| {
                Error::input(format!("not a machine file: {e}; make one with `speckv bench --machine`"))
            })?;
            Machine::from_json(&root)
        };
        parse().map_err(|e| e.of(path))
    }

    fn from_json(root: &Value) -> Result<Machine> {
        let root = Object { name: "", value: root };
        if root.value.get("kind").and_then(Value::as_str) != Some("speckv-machine") {
            return Err(Error::input(
                "expected a machine file (\"kind\": \"speckv-machine\"); make one with `speckv bench --machine`",
            ));
        }
        let version = root.count("version")?;
        if version != VERSION {
            return Err(Error::input(format!(
                "expected machine file version {VERSION}, found {version}; measure again with this program's `speckv bench`"
            )));
        }
        let attention = |o: Object<'_>| -> Result<Attention> {
            Ok(Attention { head_dim: o.count("head_dim")?, rate: o.rate("multiply_adds_per_second")? })
        };
        let coder = |o: Object<'_>| -> Result<Coder> {
            Ok(Coder {
                format: o.format("format")?,
                bits: o.rate("bits")?,
                encode: o.rate("encode_scalars_per_second")?,
                decode: o.rate("decode_scalars_per_second")?,
                observe: o.rate("observe_scalars_per_second")?,
            })
        };
        let disk = |o: Object<'_>| -> Result<Disk> {
            let (rate, bytes) = (o.rate("bytes_per_second")?, o.count("bytes")?);
            Ok(Disk { rate, bytes, direct: o.flag("direct")? })
        };
        let prefill = |o: Object<'_>| -> Result<Prefill> {
            let rate = o.rate("multiply_adds_per_second")?;
            Ok(Prefill { rate, model: o.text("model")?, tokens: o.count("tokens")? })
        };
        Ok(Machine {
            cpu: root.text("cpu")?,
            backend: root.text("backend")?,
            threads: root.count("threads")?,
            date: root.text("date")?,
            speckv: root.text("speckv")?,
            quick: root.flag("quick")?,
            gemm: root.rate("gemm_multiply_adds_per_second")?,
            attention: root.list("attention")?.into_iter().map(attention).collect::<Result<_>>()?,
            rows: root.rate("row_values_per_second")?,
            coder: root.list("coder")?.into_iter().map(coder).collect::<Result<_>>()?,
            memory_copy: root.rate("memory_copy_bytes_per_second")?,
            disk: root.optional("disk").map(disk).transpose()?,
            prefill: root.optional("prefill").map(prefill).transpose()?,
        })
    }

    /// As a machine file holds it. Rates are rounded: digits beyond are noise.
    pub fn to_json(&self) -> Value {
        let per_second = |x: f64| rounded(x, 0);
        let mut all = json!({
            "kind": "speckv-machine", "version": VERSION, "cpu": self.cpu, "backend": self.backend,
            "threads": self.threads, "date": self.date, "speckv": self.speckv, "quick": self.quick,
            "gemm_multiply_adds_per_second": per_second(self.gemm),
            "attention": self.attention.iter().map(|a| json!({
                "head_dim": a.head_dim, "multiply_adds_per_second": per_second(a.rate),
            })).collect::<Vec<_>>(),
            "row_values_per_second": per_second(self.rows),
            "coder": self.coder.iter().map(|c| json!({
                "format": c.format.name(), "bits": rounded(c.bits, 3), "encode_scalars_per_second": per_second(c.encode),
                "decode_scalars_per_second": per_second(c.decode), "observe_scalars_per_second": per_second(c.observe),
            })).collect::<Vec<_>>(),
            "memory_copy_bytes_per_second": per_second(self.memory_copy),
        });
        if let Some(d) = &self.disk {
            all["disk"] =
                json!({ "bytes_per_second": per_second(d.rate), "bytes": d.bytes, "direct": d.direct });
        }
        if let Some(p) = &self.prefill {
            all["prefill"] = json!({
                "multiply_adds_per_second": per_second(p.rate), "model": p.model, "tokens": p.tokens,
            });
        }
        all
    }

    /// Attention at the measured head dimension nearest by ratio.
    pub fn attention_rate(&self, head_dim: usize) -> f64 {
        let far = |a: &&Attention| (a.head_dim as f64 / head_dim as f64).ln().abs();
        self.attention.iter().min_by(|a, b| far(a).total_cmp(&far(b))).map_or(f64::NAN, |a| a.rate)
    }

    /// The coder at the measured rate nearest to `bits`, of a format as wide if there is one.
    pub fn coder_rate(&self, format: ElementFormat, bits: f64) -> Option<&Coder> {
        let far = |c: &&Coder| (c.format.width() != format.width(), (c.bits - bits).abs());
        self.coder.iter().min_by(|a, b| {
            let (a, b) = (far(a), far(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    }
}

/// A name fit for one line of a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(120).collect()
}

/// Typed reads of one JSON object.
#[derive(Clone, Copy)]
struct Object<'a> {
    name: &'a str,
    value: &'a Value,
}

impl<'a> Object<'a> {
    fn wrong(&self, key: &str, expected: &str) -> Error {
        let place = if self.name.is_empty() { String::new() } else { format!("{}.", self.name) };
        let found = self.value.get(key).map_or("nothing".to_owned(), |v| {
            let text = v.to_string();
            if text.len() > 40 { "something else".to_owned() } else { text }
        });
        Error::input(format!(
            "machine file, `{place}{key}`: expected {expected}, found {found}; measure again"
        ))
    }

    fn rate(&self, key: &str) -> Result<f64> {
        let found = self.value.get(key).and_then(Value::as_f64);
        // No machine comes near the upper end; times of these stay finite.
        found.filter(|x| (1e-6..=1e24).contains(x)).ok_or_else(|| self.wrong(key, "a positive number"))
    }

    fn count(&self, key: &str) -> Result<u64> {
        let found = self.value.get(key).and_then(Value::as_u64).filter(|&n| n > 0);
        found.ok_or_else(|| self.wrong(key, "a positive whole number"))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.value.get(key).and_then(Value::as_bool).ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn text(&self, key: &str) -> Result<String> {
        let found = self.value.get(key).and_then(Value::as_str);
        // It will be printed on terminals.
        found
            .filter(|s| plain(s) == **s)
            .map(str::to_owned)
            .ok_or_else(|| self.wrong(key, "a short text of one line"))
    }

    fn format(&self, key: &str) -> Result<ElementFormat> {
        let found = self.value.get(key).and_then(Value::as_str);
        let format = ElementFormat::ALL.into_iter().find(|f| Some(f.name()) == found);
        format.ok_or_else(|| self.wrong(key, "bf16, f16, e4m3 or e5m2"))
    }

    fn optional(&self, key: &'a str) -> Option<Object<'a>> {
        self.value.get(key).filter(|v| !v.is_null()).map(|value| Object { name: key, value })
    }

    fn list(&self, key: &'a str) -> Result<Vec<Object<'a>>> {
        let found = self.value.get(key).and_then(Value::as_array).filter(|all| !all.is_empty());
        let found = found.ok_or_else(|| self.wrong(key, "a list that is not empty"))?;
        Ok(found.iter().map(|value| Object { name: key, value }).collect())
    }
}

/// Made-up rates for tests.
#[cfg(test)]
pub fn example() -> Machine {
    let coder = |format, bits| Coder { format, bits, encode: 3e7, decode: 2e7, observe: 1e8 };
    Machine {
        cpu: "a CPU".to_owned(),
        backend: "cpu/scalar".to_owned(),
        threads: 2,
        date: "2026-01-02".to_owned(),
        speckv: "0.1.0".to_owned(),
        quick: false,
        gemm: 9e11,
        attention: vec![Attention { head_dim: 64, rate: 1e11 }, Attention { head_dim: 128, rate: 2e11 }],
        rows: 1e9,
        coder: vec![
            coder(ElementFormat::Bf16, 3.5),
            coder(ElementFormat::Bf16, 8.0),
            coder(ElementFormat::E4m3, 1.1),
        ],
        memory_copy: 1e10,
        disk: Some(Disk { rate: 1e9, bytes: 1 << 30, direct: true }),
        prefill: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let full = example();
        assert_eq!(Machine::from_json(&full.to_json()).unwrap(), full);
        let prefill = Some(Prefill { rate: 2e11, model: "m".to_owned(), tokens: 512 });
        let other = Machine { disk: None, prefill, ..full };
        assert_eq!(Machine::from_json(&other.to_json()).unwrap(), other);
    }

    #[test]
    fn every_field_is_checked() {
        let good = example().to_json();
        let all: Vec<String> = good.as_object().unwrap().keys().cloned().collect();
        for key in all.iter().filter(|k| *k != "disk") {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(key);
            let said = Machine::from_json(&bad).unwrap_err().to_string();
            assert!(said.contains(key), "{said}");
        }
        for (path, value) in [
            ("/gemm_multiply_adds_per_second", json!(0)),
            ("/gemm_multiply_adds_per_second", json!(-3.5)),
            ("/attention/1/head_dim", json!(0)),
            ("/coder/0/decode_scalars_per_second", json!("fast")),
            ("/coder/2/format", json!("int4")),
            ("/coder", json!([])),
            ("/disk/direct", json!(1)),
            ("/cpu", json!("two\nlines")),
            ("/version", json!(2)),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            let said = Machine::from_json(&bad).unwrap_err().to_string();
            assert!(said.contains(path.rsplit('/').next().unwrap()), "{path}: {said}");
        }
    }

    #[test]
    fn names_fit_a_line() {
        assert_eq!(plain("a\u{1b}[31m\nb é"), "a?[31m?b é");
        assert_eq!(plain(&"é".repeat(500)).chars().count(), 120);
    }

    #[test]
    fn nearest_rates() {
        let m = example();
        assert_eq!((m.attention_rate(80), m.attention_rate(96), m.attention_rate(4096)), (1e11, 2e11, 2e11));
        let bits = |format, bits| m.coder_rate(format, bits).unwrap().bits;
        assert_eq!(bits(ElementFormat::F16, 5.0), 3.5);
        assert_eq!(bits(ElementFormat::Bf16, 10.0), 8.0);
        // Eight-bit codes have a rate of their own, however far.
        assert_eq!(bits(ElementFormat::E5m2, 6.0), 1.1);
    }
}
