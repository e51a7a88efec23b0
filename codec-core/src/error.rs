//! What can go wrong, whose fault it is, and the numbers that show it.

use core::fmt::{self, Write};

use crate::limits::OLDEST;

/// Result with this crate's [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Every failure of this crate. `Copy`, without text of its own: the numbers say what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The input does not start with the stream's magic bytes.
    NotAStream,
    /// The stream is of a version this reader does not know.
    UnsupportedVersion {
        /// Version in the stream.
        found: u16,
        /// Newest version this reader knows.
        newest: u16,
    },
    /// The input ends too early. `offset` and the sizes are bytes, counted from the start of the stream or payload.
    Truncated {
        /// Where the missing piece starts.
        offset: u64,
        /// Bytes that piece needs.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A checksum differs: the bytes were changed after writing, or (for values) the model is not the writer's.
    Damaged {
        /// Which checksum.
        checksum: Checksum,
        /// The stored checksum.
        expected: u64,
        /// The checksum of what was read.
        found: u64,
    },
    /// The input breaks a rule of the format.
    Malformed {
        /// The rule.
        rule: Rule,
        /// The offending number.
        found: u64,
        /// Byte offset of the offending field in the stream, or in the payload for rules of a payload.
        offset: u64,
    },
    /// The input is valid but asks for more than the caller's [`Limits`](crate::Limits).
    Limit {
        /// What is limited.
        rule: Rule,
        /// What the stream asks for.
        found: u64,
        /// What the caller allows.
        max: u64,
    },
    /// The stream was written with another profile. Digests are given by their first eight bytes, big-endian.
    WrongProfile {
        /// Profile the stream names.
        expected: u64,
        /// Profile at hand.
        found: u64,
    },
    /// The caller broke a rule of this crate.
    Argument {
        /// The rule.
        rule: Rule,
        /// What would have been right (for ranges: the nearest limit).
        expected: i64,
        /// What was given.
        found: i64,
    },
}

/// The checksums of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checksum {
    /// Over header and directory.
    Header,
    /// Over the payload of a chunk.
    Payload,
    /// Over the restored values of a chunk.
    Values,
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// The rules that input or arguments can break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule { $($(#[doc = $doc])* $name,)* }

        impl Rule {
            /// The rule in words.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rules! {
    /// Section 1: id of an element format.
    ElementFormat = "element format must be 0..=3",
    /// Section 5: id of a predictor.
    Predictor = "predictor must be 0, 1, 2 or 255",
    /// Section 5: flag bits without meaning.
    Flags = "flag bits 2..=7 must be zero",
    /// Section 5: scales belong to 8-bit formats.
    ScalesFlag = "scales must be present exactly for 8-bit formats",
    /// Section 5: length of the precision name.
    NameLength = "precision name must have at most 32 bytes",
    /// Section 5: characters of the precision name.
    NameByte = "precision name must be of [a-z0-9+._-]",
    /// Section 5: layers.
    Layers = "layers must be 1..=4096",
    /// Section 5: KV heads.
    KvHeads = "kv_heads must be 1..=4096",
    /// Section 5: head dimension.
    HeadDim = "head_dim must be 1..=4096",
    /// Section 5: chunk length.
    ChunkTokens = "chunk length must be 1..=65536 tokens",
    /// Section 5: first token.
    FirstToken = "first_token must be below 2^40",
    /// Section 5: alignment of the first token.
    FirstTokenAlignment = "first_token must be a multiple of the chunk length",
    /// Section 5: tokens.
    Tokens = "tokens must be 1..=2^40",
    /// Section 5: chunks.
    Chunks = "a stream must have at most 2^24 chunks",
    /// Section 5: number of scales.
    ScaleCount = "scales per (layer, part) must be 1 or kv_heads",
    /// Section 5: a scale.
    ScaleValue = "scales must be finite, positive and normal",
    /// Section 8: payload length.
    PayloadLength = "payload length must be within the size bound",
    /// Section 5: end of the stream.
    TrailingBytes = "the stream must end with its last payload",
    /// Section 5: padding bits.
    Padding = "padding bits must be zero",
    /// Section 5: width of the token ids.
    IdBits = "token ids must have 1..=32 bits, as few as the largest needs",
    /// Section 4: states.
    State = "lane states must be at least 2^16",
    /// Section 4: states after the last plane.
    FinalState = "lane states must end at 2^16",
    /// Section 4: words left over.
    WordsLeft = "every word must be read by the last plane",
    /// Section 4: a word cut in half.
    OddWords = "words must be whole",
    /// Section 3: magnitude in the zone.
    ZoneMagnitude = "a zone magnitude must lie in the zone",
    /// Index of a chunk.
    ChunkIndex = "the chunk must be in the stream",
    /// Number of chunks given to a writer.
    ChunkCount = "the number of chunks must be that of the header",
    /// Number of planes of a chunk.
    PlaneCount = "a chunk must have all its planes and no more",
    /// Sizes of planes.
    PlaneSize = "planes of a chunk must be tokens x head_dim",
    /// Sizes of a plane's model.
    ModelSize = "the model of a plane must have one mean per scalar",
    /// Element format of a plane's model.
    ModelFormat = "planes must have the element format of their chunk",
    /// Range of an exponent.
    Exponent = "exponent must be -120..=120",
    /// Range of a mean.
    Mean = "means must be below 2^30 units in magnitude",
    /// Range of a code.
    Code = "codes must fit the element format",
    /// Range of the escape frequency.
    Escape = "escape frequency must be 1..=8192",
    /// Knots of a shape.
    Knots = "shape knots must start at 0, never decrease and end at 32768",
    /// Scalars in a stream.
    Scalars = "scalars of the stream",
    /// Scalars in a chunk.
    ChunkScalars = "scalars of a chunk",
    /// Number of token ids.
    TokenIds = "token ids must be one per token exactly if the header says so",
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Values => "restored values",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotAStream => write!(f, "not a speckv stream"),
            Self::UnsupportedVersion { found, newest } => {
                write!(f, "unsupported version {found} (this reader knows {OLDEST}..={newest})")
            }
            Self::Truncated { offset, needed, found } => {
                write!(f, "truncated: {needed} bytes needed at byte {offset}, {found} there")
            }
            Self::Damaged { checksum, expected, found } => {
                write!(f, "damaged {checksum}: checksum {found:016x}, expected {expected:016x}")
            }
            Self::Malformed { rule, found, offset } => {
                write!(f, "malformed at byte {offset}: {}, found {found}", rule.text())
            }
            Self::Limit { rule, found, max } => {
                write!(f, "over the caller's limit ({}): {found}, allowed {max}", rule.text())
            }
            Self::WrongProfile { expected, found } => {
                write!(f, "wrong profile: the stream needs {expected:016x}…, given {found:016x}…")
            }
            Self::Argument { rule, expected, found } => {
                write!(f, "wrong argument: {}, expected {expected}, found {found}", rule.text())
            }
        }
    }
}

impl core::error::Error for Error {}

/// Writes what it is given on one line: control characters, which words of a file may hold and a terminal would obey, are told (`\n`), not repeated.
/// For messages of other crates that quote files; those of this one do not.
pub struct OneLine<'a, 'b>(pub &'a mut fmt::Formatter<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() { write!(self.0, "{}", c.escape_default())? } else { self.0.write_char(c)? }
        }
        Ok(())
    }
}
