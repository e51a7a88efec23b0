//! Profiles on the command line: opening one, choosing what of it to use.

use std::path::Path;

use clap::ValueEnum;
use speckv_codec_core::ElementFormat;
use speckv_predictor::profile::{Kind, Precision, ProfileFile};

use crate::error::{Error, Result};
use crate::files::Input;

/// `--predictor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The draft network if the profile has one and the cache its token ids, else `static`
    #[default]
    Auto,
    /// Statistics of every channel; needs no token ids and next to no time
    Static,
    /// The integer draft network in closed loop; needs the token ids
    Draft,
}

/// Parses a profile, naming the file if it is none. A profile built anew is another one and decodes no older stream: nobody is told to.
pub fn parse<'a>(input: &'a Input, path: &Path) -> Result<ProfileFile<'a>> {
    ProfileFile::parse(input.bytes()).map_err(|e| {
        Error::from(e)
            .of(path)
            .hint("give the very file that `speckv build` wrote; streams need the one they were made with")
    })
}

/// The predictor to use and the name of its precision. A profile lists its best draft first.
pub fn pick(
    file: &ProfileFile<'_>,
    choice: Choice,
    precision: Option<&str>,
    format: ElementFormat,
    has_ids: bool,
) -> Result<(Kind, String)> {
    let class = Precision::of(format);
    let find = |kind: Kind| {
        let mut modes = file.description.modes.iter().filter(|m| m.kind == kind && m.class == class);
        modes.find(|m| precision.is_none_or(|name| m.precision == name)).map(|m| (kind, m.precision.clone()))
    };
    let wanted = match choice {
        Choice::Auto => {
            if let Some(draft) = find(Kind::Draft).filter(|_| has_ids) {
                return Ok(draft);
            }
            // A precision that was asked for by name is a draft's; falling back would not be what was meant.
            if precision.is_some_and(|p| !p.is_empty()) { Kind::Draft } else { Kind::Static }
        }
        Choice::Static => Kind::Static,
        Choice::Draft => Kind::Draft,
    };
    match find(wanted) {
        Some(found) => Ok(found),
        // The error lists what there is.
        None => {
            file.description.mode(wanted, precision.unwrap_or("any"), format)?;
            Err(Error::mismatch("the profile has no such predictor"))
        }
    }
}

/// A digest in hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
