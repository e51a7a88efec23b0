//! What can go wrong, told in one line that names the file, what was expected and what was found.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use speckv_codec_core::error::OneLine;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Whose fault it was, and the numbers needed to put it right.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is damaged, incomplete or not what its place says it is.
    Malformed {
        /// The file.
        path: PathBuf,
        /// Expected and found, in words.
        reason: String,
    },
    /// A valid model that this crate cannot run.
    Unsupported {
        /// What the model has.
        found: String,
        /// What would have been accepted.
        supported: String,
    },
    /// A request that makes no sense for this model or cache: the caller's mistake.
    Argument(String),
    #[cfg(feature = "models")]
    /// The tensor library failed; a defect of this crate or a lack of memory.
    Compute(candle_core::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = OneLine(f);
        match self {
            Error::Io { path, source } => write!(out, "{}: {source}", path.display()),
            Error::Malformed { path, reason } => write!(out, "{}: {reason}", path.display()),
            Error::Unsupported { found, supported } => {
                write!(out, "unsupported model: found {found}; supported: {supported}")
            }
            Error::Argument(reason) => out.write_str(reason),
            #[cfg(feature = "models")]
            Error::Compute(source) => write!(out, "tensor computation failed: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            #[cfg(feature = "models")]
            Error::Compute(source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(feature = "models")]
impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        Error::Compute(source)
    }
}

impl Error {
    /// An I/O error at `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    /// A file at `path` that cannot be used because of `reason`.
    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), reason: reason.into() }
    }

    #[cfg(feature = "models")]
    /// A model with `found` where only `supported` is handled.
    pub(crate) fn unsupported(found: impl Into<String>, supported: impl Into<String>) -> Self {
        Error::Unsupported { found: found.into(), supported: supported.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_a_file_says() {
        let error = Error::Unsupported { found: "\"x\ny\u{1b}[2J\"".into(), supported: "others".into() };
        assert_eq!(error.to_string(), "unsupported model: found \"x\\ny\\u{1b}[2J\"; supported: others");
    }
}
