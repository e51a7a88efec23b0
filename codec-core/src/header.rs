//! The header of a stream (section 5 of the format).

use alloc::vec::Vec;
use core::fmt;

use crate::bytes::Reader;
use crate::element::ElementFormat;
use crate::limits::{
    Limits, MAGIC, MAX_CHUNK_TOKENS, MAX_CHUNKS, MAX_FIRST_TOKEN, MAX_HEAD_DIM, MAX_KV_HEADS, MAX_LAYERS,
    MAX_NAME, MAX_TOKENS, OLDEST, VERSION, payload_bound,
};
use crate::{Error, Result, Rule};

/// Flag bit: chunks carry their token ids.
const FLAG_TOKEN_IDS: u8 = 1;
/// Flag bit: the header carries scales.
const FLAG_SCALES: u8 = 2;

/// Shape of a cache but for its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Layers, 1..=4096.
    pub layers: usize,
    /// KV heads of a layer, 1..=4096.
    pub kv_heads: usize,
    /// Channels of a head, 1..=4096.
    pub head_dim: usize,
}

impl Geometry {
    /// Planes of a chunk: one per (layer, part, head).
    pub const fn planes(&self) -> usize {
        self.layers * 2 * self.kv_heads
    }

    /// Index of a plane in the order of a chunk.
    pub const fn plane(&self, layer: usize, part: Part, head: usize) -> usize {
        (layer * 2 + part as usize) * self.kv_heads + head
    }

    /// Scalars of one token over all planes (below 2^38 for a valid geometry).
    pub const fn scalars_per_token(&self) -> u64 {
        self.planes() as u64 * self.head_dim as u64
    }
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Keys.
    Key = 0,
    /// Values.
    Value = 1,
}

/// What made the predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PredictorKind {
    /// Per-channel statistics.
    Static,
    /// Linear regressions from the cache itself.
    Chain,
    /// The integer draft network.
    Draft,
    /// A user's own.
    External,
}

impl PredictorKind {
    /// The predictor's id in a stream.
    pub const fn id(self) -> u8 {
        match self {
            Self::Static => 0,
            Self::Chain => 1,
            Self::Draft => 2,
            Self::External => 255,
        }
    }

    /// The predictor of an id.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Static),
            1 => Some(Self::Chain),
            2 => Some(Self::Draft),
            255 => Some(Self::External),
            _ => None,
        }
    }
}

/// Name of a predictor's precision: up to 32 bytes of `[a-z0-9+._-]`, for example `w8a8+kv16`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// A checked name.
    ///
    /// # Errors
    /// [`Error::Argument`] with [`Rule::NameLength`] or [`Rule::NameByte`].
    pub fn new(name: &str) -> Result<Self> {
        Self::from_bytes(name.as_bytes()).map_err(|(rule, found, _)| {
            let expected = if rule == Rule::NameLength { MAX_NAME as i64 } else { 0 };
            Error::Argument { rule, expected, found: found as i64 }
        })
    }

    fn from_bytes(bytes: &[u8]) -> core::result::Result<Self, (Rule, u64, usize)> {
        if bytes.len() > MAX_NAME {
            return Err((Rule::NameLength, bytes.len() as u64, 0));
        }
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
        if let Some(at) = bytes.iter().position(|&byte| !allowed(byte)) {
            return Err((Rule::NameByte, bytes[at].into(), at));
        }
        let mut name = Self { bytes: [0; MAX_NAME], len: bytes.len() as u8 };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Always ASCII by construction.
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a stream says about itself before its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Element format of every plane.
    pub format: ElementFormat,
    /// What made the predictions.
    pub predictor: PredictorKind,
    /// In which precision.
    pub precision: Name,
    /// Layers, heads and channels.
    pub geometry: Geometry,
    /// Tokens of a chunk (but the last), 1..=65536.
    pub chunk_tokens: u32,
    /// Position of the first token in its cache: below 2^40, a multiple of `chunk_tokens`.
    pub first_token: u64,
    /// Tokens of the stream, 1..=2^40.
    pub tokens: u64,
    /// BLAKE3 digest of the profile.
    pub profile: [u8; 32],
    /// Whether chunks carry their token ids.
    pub token_ids: bool,
    /// Bits of the f32 scales of an 8-bit cache, in the order layer, part, head: one per (layer, part) or one per head.
    /// Empty for 16-bit formats.
    pub scales: Vec<u32>,
}

/// A broken rule, the offending number, and the offset of its field.
type Broken = (Rule, u64, u64);

impl Header {
    /// Chunks of the stream.
    pub const fn chunks(&self) -> u64 {
        self.tokens.div_ceil(self.chunk_tokens as u64)
    }

    /// Tokens of chunk `index`, which must be in the stream: `chunk_tokens`, or what is left for the last.
    pub const fn tokens_of(&self, index: u64) -> u64 {
        let before = index * self.chunk_tokens as u64;
        let left = self.tokens.saturating_sub(before);
        if left < self.chunk_tokens as u64 { left } else { self.chunk_tokens as u64 }
    }

    /// Upper bound of the payload of chunk `index` in bytes.
    pub const fn payload_bound(&self, index: u64) -> u64 {
        let tokens = self.tokens_of(index);
        let scalars = tokens * self.geometry.scalars_per_token();
        payload_bound(self.format, self.geometry.planes() as u64, tokens, scalars)
    }

    /// Refuses a profile other than the stream's.
    ///
    /// # Errors
    /// [`Error::WrongProfile`]
    pub fn check_profile(&self, digest: &[u8; 32]) -> Result<()> {
        if *digest == self.profile {
            return Ok(());
        }
        let front = |digest: &[u8; 32]| digest[..8].iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
        Err(Error::WrongProfile { expected: front(&self.profile), found: front(digest) })
    }

    /// Checks every rule a header must keep.
    ///
    /// # Errors
    /// [`Error::Argument`] with the rule; `expected` is then of no meaning.
    pub fn check(&self) -> Result<()> {
        self.broken_rule().map_or(Ok(()), |(rule, found, _)| {
            Err(Error::Argument { rule, expected: 0, found: found as i64 })
        })
    }

    /// The first broken rule in field order, with the field's offset in the header.
    fn broken_rule(&self) -> Option<Broken> {
        let Geometry { layers, kv_heads, head_dim } = self.geometry;
        let outside =
            |rule, found: u64, max: u64, offset| (found == 0 || found > max).then_some((rule, found, offset));
        outside(Rule::Layers, layers as u64, MAX_LAYERS as u64, 14)
            .or_else(|| outside(Rule::KvHeads, kv_heads as u64, MAX_KV_HEADS as u64, 16))
            .or_else(|| outside(Rule::HeadDim, head_dim as u64, MAX_HEAD_DIM as u64, 18))
            .or_else(|| outside(Rule::ChunkTokens, self.chunk_tokens.into(), MAX_CHUNK_TOKENS.into(), 20))
            .or_else(|| {
                (self.first_token >= MAX_FIRST_TOKEN).then_some((Rule::FirstToken, self.first_token, 24))
            })
            .or_else(|| {
                let aligned = self.first_token.is_multiple_of(self.chunk_tokens.into());
                (!aligned).then_some((Rule::FirstTokenAlignment, self.first_token, 24))
            })
            .or_else(|| outside(Rule::Tokens, self.tokens, MAX_TOKENS, 32))
            .or_else(|| outside(Rule::Chunks, self.chunks(), MAX_CHUNKS, 32))
            .or_else(|| self.broken_scale())
    }

    fn broken_scale(&self) -> Option<Broken> {
        let offset = crate::limits::FIXED_HEADER as u64 + u64::from(self.precision.len);
        let (count, rows) = (self.scales.len(), 2 * self.geometry.layers);
        if self.format.width() != 8 {
            return (count != 0).then_some((Rule::ScalesFlag, count as u64, 12));
        }
        if count != rows && count != rows * self.geometry.kv_heads {
            return Some((Rule::ScaleCount, (count / rows) as u64, offset));
        }
        let at = self.scales.iter().position(|&bits| !is_scale(bits))?;
        Some((Rule::ScaleValue, self.scales[at].into(), offset + 4 + 4 * at as u64))
    }

    /// Appends the header, up to the directory. The header must have passed [`check`](Self::check).
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Geometry { layers, kv_heads, head_dim } = self.geometry;
        let with_scales = self.format.width() == 8;
        let flags =
            if self.token_ids { FLAG_TOKEN_IDS } else { 0 } | if with_scales { FLAG_SCALES } else { 0 };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.format.id(), self.predictor.id(), flags, self.precision.len]);
        for size in [layers, kv_heads, head_dim] {
            out.extend_from_slice(&(size as u16).to_le_bytes());
        }
        out.extend_from_slice(&self.chunk_tokens.to_le_bytes());
        out.extend_from_slice(&self.first_token.to_le_bytes());
        out.extend_from_slice(&self.tokens.to_le_bytes());
        out.extend_from_slice(&self.profile);
        out.extend_from_slice(self.precision.as_bytes());
        if with_scales {
            let per_row = self.scales.len() / (2 * layers);
            out.extend_from_slice(&(per_row as u32).to_le_bytes());
            out.extend(self.scales.iter().flat_map(|bits| bits.to_le_bytes()));
        }
    }

    /// Reads a header off the front of a stream and checks every rule, and the caller's limits before anything is
    /// allocated.
    ///
    /// # Errors
    /// [`Error::NotAStream`], [`Error::UnsupportedVersion`], [`Error::Truncated`], [`Error::Malformed`] or
    /// [`Error::Limit`].
    pub(crate) fn read(reader: &mut Reader<'_>, limits: &Limits) -> Result<Self> {
        let start = reader.rest();
        if !start.starts_with(&MAGIC) && !MAGIC.starts_with(start) {
            return Err(Error::NotAStream);
        }
        reader.take(MAGIC.len() as u64)?;
        let version = reader.u16()?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(Error::UnsupportedVersion { found: version, newest: VERSION });
        }
        let ids = reader.take(4)?;
        let (format_id, predictor_id, flags, name_len) = (ids[0], ids[1], ids[2], ids[3]);
        let malformed = |(rule, found, offset): Broken| Error::Malformed { rule, found, offset };
        let format = ElementFormat::from_id(format_id)
            .ok_or_else(|| malformed((Rule::ElementFormat, format_id.into(), 10)))?;
        let predictor = PredictorKind::from_id(predictor_id)
            .ok_or_else(|| malformed((Rule::Predictor, predictor_id.into(), 11)))?;
        if flags & !(FLAG_TOKEN_IDS | FLAG_SCALES) != 0 {
            return Err(malformed((Rule::Flags, flags.into(), 12)));
        }
        if (flags & FLAG_SCALES != 0) != (format.width() == 8) {
            return Err(malformed((Rule::ScalesFlag, flags.into(), 12)));
        }
        if usize::from(name_len) > MAX_NAME {
            return Err(malformed((Rule::NameLength, name_len.into(), 13)));
        }
        let [layers, kv_heads, head_dim] = [reader.u16()?, reader.u16()?, reader.u16()?].map(usize::from);
        let mut header = Self {
            format,
            predictor,
            precision: Name::default(),
            geometry: Geometry { layers, kv_heads, head_dim },
            chunk_tokens: reader.u32()?,
            first_token: reader.u64()?,
            tokens: reader.u64()?,
            profile: reader.digest()?,
            token_ids: flags & FLAG_TOKEN_IDS != 0,
            scales: Vec::new(),
        };
        if let Some(broken) = header.broken_rule().filter(|&(rule, ..)| rule != Rule::ScaleCount) {
            return Err(malformed(broken));
        }
        header.check_limits(limits)?;
        let name_at = reader.offset() as u64;
        header.precision = Name::from_bytes(reader.take(name_len.into())?)
            .map_err(|(rule, found, at)| malformed((rule, found, name_at + at as u64)))?;
        if format.width() == 8 {
            let offset = reader.offset() as u64;
            let per_row = reader.u32()?;
            if per_row != 1 && per_row as usize != kv_heads {
                return Err(malformed((Rule::ScaleCount, per_row.into(), offset)));
            }
            let bytes = reader.take(8 * layers as u64 * u64::from(per_row))?;
            header.scales = bytes.as_chunks().0.iter().map(|bits| u32::from_le_bytes(*bits)).collect();
            if let Some(broken) = header.broken_scale() {
                return Err(malformed(broken));
            }
        }
        Ok(header)
    }

    fn check_limits(&self, limits: &Limits) -> Result<()> {
        let per_token = self.geometry.scalars_per_token();
        Limits::check(Rule::Tokens, self.tokens, limits.max_tokens)?;
        Limits::check(Rule::Chunks, self.chunks(), limits.max_chunks)?;
        Limits::check(Rule::ChunkScalars, per_token * self.tokens_of(0), limits.max_chunk_scalars)?;
        // 2^40 tokens of 2^38 scalars do not fit 64 bits; no limit but the widest allows that.
        Limits::check(Rule::Scalars, per_token.saturating_mul(self.tokens), limits.max_scalars)
    }
}

/// Finite, positive and normal, by the bits of an f32.
fn is_scale(bits: u32) -> bool {
    (0x0080_0000..0x7F80_0000).contains(&bits)
}
