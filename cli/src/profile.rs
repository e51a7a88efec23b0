//! Profiles on the command line: opening one, choosing what of it to use.

use std::path::Path;

use clap::ValueEnum;
use speckv_codec_core::ElementFormat;
use speckv_predictor::profile::{Kind, Mode, Precision, ProfileFile};

use crate::error::{Error, Result};
use crate::files::Input;

/// `--predictor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The best that profile and cache allow: `draft` with token ids, else `chain`, else `static`
    #[default]
    Auto,
    /// Statistics of every channel; needs no token ids and next to no time
    Static,
    /// Regressions from layer to layer, with token ids (`--precision ids`) or without (`no-ids`); little work
    Chain,
    /// The integer draft network; needs the token ids
    Draft,
}

impl Choice {
    /// The kinds it allows, best first.
    fn kinds(self) -> &'static [Kind] {
        match self {
            Choice::Auto => &[Kind::Draft, Kind::Chain, Kind::Static],
            Choice::Static => &[Kind::Static],
            Choice::Chain => &[Kind::Chain],
            Choice::Draft => &[Kind::Draft],
        }
    }
}

impl From<Kind> for Choice {
    fn from(kind: Kind) -> Choice {
        match kind {
            Kind::Static => Choice::Static,
            Kind::Chain => Choice::Chain,
            Kind::Draft => Choice::Draft,
        }
    }
}

/// Parses a profile, naming the file if it is none. A profile built anew is another one and decodes no older stream: nobody is told to.
pub fn parse<'a>(input: &'a Input, path: &Path) -> Result<ProfileFile<'a>> {
    ProfileFile::parse(input.bytes()).map_err(|e| {
        Error::from(e)
            .of(path)
            .hint("give the very file that `speckv build` wrote; streams need the one they were made with")
    })
}

/// The predictor to use and the name of its precision: of the best kind, one that uses token ids if the cache has them, the first listed.
pub fn pick(
    file: &ProfileFile<'_>,
    choice: Choice,
    precision: Option<&str>,
    format: ElementFormat,
    has_ids: bool,
) -> Result<(Kind, String)> {
    let class = Precision::of(format);
    let named = |m: &&Mode| m.class == class && precision.is_none_or(|name| m.precision == name);
    let modes = || file.description.modes.iter().filter(named);
    let of_kind = |kind: &Kind| {
        let kind = *kind;
        let usable = move |ids: bool| modes().find(move |m| m.kind == kind && m.ids == ids);
        usable(true).filter(|_| has_ids).or_else(|| usable(false))
    };
    if let Some(m) = choice.kinds().iter().find_map(of_kind) {
        return Ok((m.kind, m.precision.clone()));
    }
    // What was asked for by name may need ids that the cache lacks: coding says so. Else the error lists what there is.
    if let Some(m) = modes().find(|m| choice.kinds().contains(&m.kind)) {
        return Ok((m.kind, m.precision.clone()));
    }
    let asked = match (choice, precision) {
        (Choice::Auto, None) => "predictor".to_owned(),
        (Choice::Auto, Some(name)) => format!("predictor of precision `{name}`"),
        (_, name) => format!(
            "predictor `{}`",
            [choice.kinds()[0].name(), name.unwrap_or_default()].join(" ").trim_end()
        ),
    };
    Err(Error::mismatch(format!(
        "the profile has no {asked} for {} caches; it has: {}",
        format.name(),
        file.description.listing()
    )))
}

/// A digest in hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
