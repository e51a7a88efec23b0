//! Bits per scalar of each predictor: a CSV file as `speckv frontier` writes it, or what was measured for the README.

use std::path::Path;

use speckv_codec_core::ElementFormat;

use crate::error::{Error, Result};
use crate::tokens::read_text;

const BUILT_IN: &str = include_str!("rates.csv");
const BUILT_IN_SOURCE: &str = "built in, measured on SmolLM2-135M-Instruct; other models and texts differ";

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// `static`, `chain`, `draft` or something unknown.
    pub predictor: String,
    /// As streams carry it; may be empty.
    pub precision: String,
    /// Of the cache.
    pub format: ElementFormat,
    /// Bits per scalar of whole streams.
    pub bits: f64,
    /// Multiply-adds of the predictor's products over those of the target's, if the file says.
    pub work_share: Option<f64>,
}

/// Rates of all formats and where they come from, in words.
pub struct Rates {
    /// In the order of the file.
    pub all: Vec<Rate>,
    /// Lines that were left out: ideal code lengths, which no stream has.
    pub ideal: usize,
    /// For the output.
    pub source: String,
}

impl Rates {
    /// Of a file, or the built-in ones.
    pub fn read(path: Option<&Path>) -> Result<Rates> {
        let ((all, ideal), source) = match path {
            Some(path) => (parse(&read_text(path)?).map_err(|e| e.of(path))?, path.display().to_string()),
            None => (parse(BUILT_IN)?, BUILT_IN_SOURCE.to_owned()),
        };
        Ok(Rates { all, ideal, source })
    }

    /// Those of a format; at least one.
    pub fn of(&self, format: ElementFormat) -> Result<Vec<&Rate>> {
        let found: Vec<_> = self.all.iter().filter(|r| r.format == format).collect();
        let mut have: Vec<&str> = self.all.iter().map(|r| r.format.name()).collect();
        have.dedup();
        match found.is_empty() {
            false => Ok(found),
            true => Err(Error::input(format!(
                "expected measured rates for {}, found {} ({}); give --rates with a file that has them",
                format.name(),
                have.join(", "),
                self.source
            ))),
        }
    }
}

/// Lines starting with `#` and empty ones say nothing; the first other line names the columns. Lines whose `measured` is `ideal` are counted only.
fn parse(text: &str) -> Result<(Vec<Rate>, usize)> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let mut lines = lines.filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    let header: Vec<&str> = lines.next().map_or(Vec::new(), |(_, l)| l.split(',').map(str::trim).collect());
    let find = |name: &str| header.iter().position(|h| *h == name);
    let column = |name: &str| {
        find(name).ok_or_else(|| {
            Error::input(format!(
                "expected a CSV file with the columns predictor,precision,format,bits, found none named `{name}`; \
                 `speckv frontier` writes one"
            ))
        })
    };
    let (predictor, precision) = (column("predictor")?, column("precision")?);
    let (format, bits) = (column("format")?, column("bits")?);
    let (share, measured, mut ideal) = (find("work_share"), find("measured"), 0);
    let mut all: Vec<Rate> = Vec::new();
    for (at, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let wrong = |what: String| Error::input(format!("line {}: {what}", at + 1));
        if fields.len() != header.len() {
            return Err(wrong(format!("expected {} fields, found {}", header.len(), fields.len())));
        }
        if measured.is_some_and(|at| fields[at] == "ideal") {
            ideal += 1;
            continue;
        }
        let number = |at: usize, from: f64, to: f64| {
            let found = fields[at].parse::<f64>().ok().filter(|x| (from..=to).contains(x));
            let short: String = fields[at].chars().take(24).collect();
            found.ok_or_else(|| wrong(format!("expected a number from {from} to {to}, found `{short}`")))
        };
        let name = |at: usize| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "+._-".contains(c);
            let good = fields[at].len() <= 32 && fields[at].chars().all(plain);
            good.then(|| fields[at].to_owned())
                .ok_or_else(|| wrong("expected names of up to 32 of a-z 0-9 + . _ -".to_owned()))
        };
        let Some(known) = ElementFormat::ALL.into_iter().find(|f| f.name() == fields[format]) else {
            return Err(wrong(format!("expected bf16, f16, e4m3 or e5m2, found `{}`", name(format)?)));
        };
        let share = share.filter(|&at| !fields[at].is_empty());
        let rate = Rate {
            predictor: name(predictor)?,
            precision: name(precision)?,
            format: known,
            bits: number(bits, 1e-3, 64.0)?,
            work_share: share.map(|at| number(at, 0.0, 1e6)).transpose()?,
        };
        let same =
            |r: &Rate| (&r.predictor, &r.precision, r.format) == (&rate.predictor, &rate.precision, known);
        if all.iter().any(same) {
            return Err(wrong(format!(
                "{} {} for {} is there twice",
                rate.predictor,
                rate.precision,
                known.name()
            )));
        }
        all.push(rate);
    }
    Ok((all, ideal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in() {
        let rates = Rates::read(None).unwrap();
        for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
            let found = rates.of(format).unwrap();
            let [still, draft] =
                ["static", "draft"].map(|p| found.iter().find(|r| r.predictor == p).unwrap().bits);
            assert!(draft < still && still < f64::from(format.width()));
        }
        assert!(rates.source.contains("SmolLM2-135M-Instruct"));
        let said = rates.of(ElementFormat::F16).unwrap_err().to_string();
        assert!(said.contains("rates for f16, found bf16, e4m3"), "{said}");
    }

    #[test]
    fn columns_in_any_order() {
        let text = "# a note\nwork_share,bits,x,format,precision,predictor\r\n1.25,3.5,,bf16,w8a8,draft\r\n,9,7,f16,,static\n";
        let (all, ideal) = parse(text).unwrap();
        assert_eq!(ideal, 0);
        assert_eq!((all[0].precision.as_str(), all[0].bits, all[0].work_share), ("w8a8", 3.5, Some(1.25)));
        assert_eq!(
            (all[1].predictor.as_str(), all[1].format, all[1].work_share),
            ("static", ElementFormat::F16, None)
        );
    }

    #[test]
    fn ideal_code_lengths_are_no_streams() {
        let text = "predictor,precision,format,bits,measured\nthe paper's,fp8 x,bf16,6.6,ideal\ndraft,w8a8,bf16,4.3,streams\n";
        let (all, ideal) = parse(text).unwrap();
        assert_eq!((all.len(), all[0].bits, ideal), (1, 4.3, 1));
    }

    #[test]
    fn nonsense() {
        let head = "predictor,precision,format,bits\n";
        for (text, words) in [
            ("", "`predictor`"),
            ("predictor,precision,format\n", "`bits`"),
            (&format!("{head}draft,w8a8,bf16"), "line 2: expected 4 fields, found 3"),
            (&format!("{head}draft,w8a8,bf16,-1"), "found `-1`"),
            (&format!("{head}draft,w8a8,bf16,nan"), "found `nan`"),
            (&format!("{head}draft,w8a8,bf16,1e400"), "found `1e400`"),
            (&format!("{head}draft,w8a8,int4,3"), "found `int4`"),
            (&format!("{head}draft,\"w8\",bf16,3"), "expected names"),
            (&format!("{head}static,,bf16,9\n\nstatic,,bf16,8"), "line 4: static  for bf16 is there twice"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
