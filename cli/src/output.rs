//! Who is told what: results on stdout, notes and progress on stderr.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::error::Error;
use crate::progress::Bar;

/// Where words go.
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// As the global options say.
    pub fn new(json: bool, quiet: bool) -> Self {
        Output { json, quiet }
    }

    /// What was asked for: the object with `--json`, else the text.
    pub fn result(&self, value: &Value, text: impl FnOnce() -> String) {
        self.print(if self.json { value.to_string() } else { text() });
    }

    /// A word about a file that was written: as [`Output::result`], but `--quiet` silences the text.
    pub fn report(&self, value: &Value, text: impl FnOnce() -> String) {
        if self.json || !self.quiet {
            self.result(value, text);
        }
    }

    /// Something worth knowing that is no result.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "note: {text}");
        }
    }

    /// A progress bar of `total` steps.
    pub fn bar(&self, what: &str, total: u64) -> Bar {
        Bar::new(what, total, !self.quiet)
    }

    /// The last word of a command that failed.
    pub fn fail(&self, e: &Error) -> ExitCode {
        let _ = writeln!(std::io::stderr(), "error: {e}");
        if self.json {
            self.print(json!({ "error": e.to_string(), "exit": e.code as u8 }).to_string());
        }
        ExitCode::from(e.code as u8)
    }

    fn print(&self, text: String) {
        // A reader that has seen enough (`| head`) is no failure.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }
}

/// A number of bytes as people read it: exact, in groups of three.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bits per scalar.
pub fn rate(bytes: u64, scalars: u64) -> f64 {
    8.0 * bytes as f64 / scalars.max(1) as f64
}

/// Rounded for JSON, so that a diff shows what changed and not noise.
pub fn rounded(x: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (x * unit).round() / unit
}
