//! What can go wrong in a predictor, and whose fault it is.

use alloc::string::String;
use core::fmt::{self, Write};

use speckv_codec_core::error::OneLine;

/// An error of this crate: one line that names what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The profile is damaged or not one.
    Profile(String),
    /// The profile is not the stream's, or lacks what the stream asks for.
    Mismatch(String),
    /// The caller's input does not fit (geometry, token ids, format).
    Input(String),
    /// The stream is damaged, truncated or not one.
    Stream(speckv_codec_core::Error),
    /// The backend failed.
    Backend(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = OneLine(f);
        match self {
            Error::Profile(s) => write!(out, "profile: {s}"),
            Error::Mismatch(s) | Error::Input(s) => out.write_str(s),
            Error::Stream(e) => write!(out, "stream: {e}"),
            Error::Backend(s) => write!(out, "backend: {s}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<speckv_codec_core::Error> for Error {
    fn from(e: speckv_codec_core::Error) -> Self {
        Error::Stream(e)
    }
}
