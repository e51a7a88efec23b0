//! What went wrong, in one line, and the exit code that says whose fault it was.

use std::fmt;
use std::path::Path;

use speckv_codec_core as core;

/// Exit codes; documented in `speckv --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Input and output, or a defect of this program.
    Internal = 1,
    /// The command line.
    Usage = 2,
    /// A cache, model, text or profile that is damaged or not supported.
    Input = 3,
    /// A stream that is damaged, truncated or not one.
    Stream = 4,
    /// Inputs that do not belong together.
    Mismatch = 5,
}

/// A failure of the command.
#[derive(Debug)]
pub struct Error {
    /// Exit code.
    pub code: Code,
    message: String,
}

/// The result of everything in this program that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// With a message of one line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into() }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Input that cannot be used.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Code::Input, message)
    }

    /// Inputs that do not belong together.
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(Code::Mismatch, message)
    }

    /// The operating system refused.
    pub fn io(path: &Path, e: std::io::Error) -> Self {
        Self::new(Code::Internal, format!("{}: {e}", path.display()))
    }

    /// Names the file the error is about.
    #[must_use]
    pub fn of(self, path: &Path) -> Self {
        Error { message: format!("{}: {}", path.display(), self.message), ..self }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(self, hint: &str) -> Self {
        Error { message: format!("{}; {hint}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Messages of libraries may span lines; ours may not.
        for (i, word) in self.message.lines().map(str::trim).filter(|l| !l.is_empty()).enumerate() {
            write!(f, "{}{word}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl From<core::Error> for Error {
    fn from(e: core::Error) -> Self {
        let code = match e {
            // What this program passes comes from the cache and the command line, and the latter was checked.
            core::Error::Argument { .. } => Code::Input,
            core::Error::WrongProfile { .. } => Code::Mismatch,
            _ => Code::Stream,
        };
        let hint = match e {
            core::Error::NotAStream => " (a stream is what `speckv compress` writes)",
            core::Error::UnsupportedVersion { .. } => ": use a newer speckv",
            core::Error::Truncated { .. } | core::Error::Damaged { .. } | core::Error::Malformed { .. } => {
                ": fetch or write the stream again"
            }
            _ => "",
        };
        Self::new(code, format!("{e}{hint}"))
    }
}

impl From<speckv_predictor::Error> for Error {
    fn from(e: speckv_predictor::Error) -> Self {
        use speckv_predictor::Error as E;
        match e {
            E::Stream(e) => e.into(),
            E::Profile(_) => Self::new(Code::Input, e.to_string()),
            E::Mismatch(_) | E::Input(_) => Self::new(Code::Mismatch, e.to_string()),
            _ => Self::new(Code::Internal, e.to_string()),
        }
    }
}

impl From<speckv_capture::Error> for Error {
    fn from(e: speckv_capture::Error) -> Self {
        use speckv_capture::Error as E;
        let code = match e {
            E::Malformed { .. } | E::Unsupported { .. } | E::Argument(_) => Code::Input,
            _ => Code::Internal,
        };
        Self::new(code, e.to_string())
    }
}
