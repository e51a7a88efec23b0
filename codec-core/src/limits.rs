//! Every constant of `docs/format.md`, checked against the others at compile time, and the limits a caller sets.

use crate::{ElementFormat, Error, Result, Rule};

/// First bytes of every stream: a high bit, the name, and line ends that text-mode copies destroy.
pub const MAGIC: [u8; 8] = [0x89, 0x53, 0x4B, 0x56, 0x0D, 0x0A, 0x1A, 0x0A];
/// The format version written; versions `OLDEST..=VERSION` are read.
pub const VERSION: u16 = 2;
/// The oldest version read: version 1 was never released.
pub const OLDEST: u16 = 2;

/// rANS lanes of a chunk.
pub const LANES: usize = 32;
/// Frequencies of one model sum to `2^PROBABILITY_BITS`.
pub const PROBABILITY_BITS: u32 = 16;
/// Lower end of a lane's state between operations; also the state a chunk starts and ends with.
pub const STATE_LOW: u32 = 1 << 16;

/// Fixed-point integers `v` of a plane satisfy `|v| < FIXED_LIMIT`.
pub const FIXED_LIMIT: i32 = 1 << 30;
/// A plane's exponent lies in `-EXPONENT_LIMIT..=EXPONENT_LIMIT`.
pub const EXPONENT_LIMIT: i32 = 120;
/// Number of scale indices; the largest is one less.
pub const SCALES: i32 = 480;
/// Scale indices per factor of two.
pub const SCALES_PER_OCTAVE: i32 = 16;
/// Binades below the cell width that keep cells of their own; smaller magnitudes form the zone (`J`).
pub const ZONE_BINADES: i32 = 8;
/// The window reaches this many scales to either side of the mean.
pub const WINDOW_SCALES: i32 = 16;
/// No window has more cells than this.
pub const MAX_WINDOW_CELLS: i32 = 4096;

/// Normalised units (`z`) per scale.
pub const UNITS_PER_SCALE: i32 = 1024;
/// Largest `|z|`.
pub const Z_LIMIT: i32 = WINDOW_SCALES * UNITS_PER_SCALE;
/// Knots of a shape.
pub const KNOTS: usize = 65;
/// Value of a shape's last knot: half of all probability.
pub const SHAPE_HALF: u16 = 1 << 15;
/// Largest frequency of the escape symbol.
pub const MAX_ESCAPE: u16 = 8192;

/// Largest number of layers.
pub const MAX_LAYERS: usize = 4096;
/// Largest number of KV heads.
pub const MAX_KV_HEADS: usize = 4096;
/// Largest head dimension.
pub const MAX_HEAD_DIM: usize = 4096;
/// Largest chunk length in tokens.
pub const MAX_CHUNK_TOKENS: u32 = 65536;
/// First tokens are below this.
pub const MAX_FIRST_TOKEN: u64 = 1 << 40;
/// Largest number of tokens in a stream.
pub const MAX_TOKENS: u64 = 1 << 40;
/// Largest number of chunks in a stream.
pub const MAX_CHUNKS: u64 = 1 << 24;
/// Longest precision name in bytes.
pub const MAX_NAME: usize = 32;

/// Header bytes before the precision name.
pub const FIXED_HEADER: usize = 72;
/// Bytes of one directory entry.
pub const ENTRY_BYTES: usize = 24;

/// `round(2^15 * 2^(i/16))`: mantissas of the scales.
pub const MANT: [u32; 16] = [
    32768, 34219, 35734, 37316, 38968, 40693, 42495, 44376, 46341, 48393, 50535, 52773, 55109, 57549, 60097,
    62757,
];
/// `round(2^15 * 2^(-i/16))`: mantissas of the reciprocal scales.
pub const INV: [i32; 16] = [
    32768, 31379, 30048, 28774, 27554, 26386, 25268, 24196, 23170, 22188, 21247, 20347, 19484, 18658, 17867,
    17109,
];

/// Whole octaves of a scale index: `q >> 4`, 0..=29.
#[inline(always)]
pub const fn scale_octave(q: i32) -> i32 {
    q >> SCALES_PER_OCTAVE.ilog2()
}

/// Index of a scale index within its octave: `q & 15`.
#[inline(always)]
pub const fn scale_fraction(q: i32) -> usize {
    (q & (SCALES_PER_OCTAVE - 1)) as usize
}

const _: () = {
    assert!(SCALES_PER_OCTAVE.count_ones() == 1 && SCALES_PER_OCTAVE as usize == MANT.len());
    assert!(MAGIC.len() + 2 + 4 + 3 * 2 + 4 + 8 + 8 + 32 == FIXED_HEADER);
    assert!(STATE_LOW == 1 << PROBABILITY_BITS);
    assert!(Z_LIMIT == 16384);
    assert!(SHAPE_HALF as u32 * 2 == 1 << PROBABILITY_BITS);
    // Something must be left for the cells after escape and floors.
    assert!((MAX_ESCAPE as i32) + MAX_WINDOW_CELLS < (1 << PROBABILITY_BITS));
    // Two fixed-point numbers subtract within 32 bits.
    assert!((FIXED_LIMIT as i64 - 1) * 2 <= i32::MAX as i64);
    // The window of the largest scale fits the 64 bits it is computed in.
    assert!((MANT[15] as u64) << (SCALES / SCALES_PER_OCTAVE - 1 + 4) < 1 << 50);
    assert!(
        MAX_LAYERS <= u16::MAX as usize
            && MAX_KV_HEADS <= u16::MAX as usize
            && MAX_HEAD_DIM <= u16::MAX as usize
    );
};

/// Most bytes that parsing a stream holds for each byte of it.
pub const FRONT_BYTES: usize = 4;
/// Most bytes that a [`ChunkDecoder`](crate::ChunkDecoder) holds for each byte of its payload: token ids of a bit each.
pub const DECODER_BYTES: usize = 32;
/// What parsing a stream, or a decoder, may hold beside that.
pub const SMALL_BYTES: usize = 1024;

/// What a caller lets a stream ask for. Everything a reader allocates is bounded by these and by the bytes at hand: parsing a stream of `n` bytes holds at
/// most `FRONT_BYTES * n + SMALL_BYTES`, the decoder of a payload of `n` bytes `DECODER_BYTES * n + SMALL_BYTES` and, while a plane is decoded, 4 bytes a code
/// of it. Where codes go is the caller's memory; `max_chunk_scalars` says how much that can be. Time is linear in bytes and codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a stream.
    pub max_tokens: u64,
    /// Scalars of a whole stream: `tokens * layers * 2 * kv_heads * head_dim`.
    pub max_scalars: u64,
    /// Scalars of one chunk, the largest thing restored at once.
    pub max_chunk_scalars: u64,
    /// Chunks of a stream.
    pub max_chunks: u64,
}

impl Default for Limits {
    /// 16 Mi tokens, 2^38 scalars (512 GiB of bf16), 2^28 scalars a chunk (six times a 256-token chunk of an 80-layer,
    /// 8-head model), 2^20 chunks.
    fn default() -> Self {
        Self { max_tokens: 1 << 24, max_scalars: 1 << 38, max_chunk_scalars: 1 << 28, max_chunks: 1 << 20 }
    }
}

impl Limits {
    /// The widest limits the format itself has.
    pub const fn format() -> Self {
        Self {
            max_tokens: MAX_TOKENS,
            max_scalars: u64::MAX,
            max_chunk_scalars: u64::MAX,
            max_chunks: MAX_CHUNKS,
        }
    }

    pub(crate) fn check(rule: Rule, found: u64, max: u64) -> Result<()> {
        if found > max { Err(Error::Limit { rule, found, max }) } else { Ok(()) }
    }
}

/// The most words (16 bits each) the lanes of a chunk may take: what all planes stored raw would need, and two words a lane.
pub const fn words_bound(format: ElementFormat, scalars: u64) -> u64 {
    (scalars * format.width() as u64).div_ceil(16) + 2 * LANES as u64
}

/// Upper bound of a chunk's payload in bytes. An encoder never exceeds it, a reader refuses a longer one.
///
/// `planes`, `tokens` and `scalars` are those of the chunk, within the format's limits (products stay below 2^58).
pub const fn payload_bound(format: ElementFormat, planes: u64, tokens: u64, scalars: u64) -> u64 {
    planes.div_ceil(8) + 1 + 4 * tokens + 4 * LANES as u64 + 2 * words_bound(format, scalars)
}
