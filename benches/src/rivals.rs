//! What people use without a predictor: general compressors and a numeric one, on the cache's bytes.

use std::borrow::Cow;

use half::f16;
use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress};
use speckv_capture::{Cache, ElementFormat};

/// In which order a plane's numbers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[tokens, columns]`, as in a cache.
    Tokens,
    /// `[columns, tokens]`: the numbers of a channel lie together.
    Channels,
}

impl Order {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Order::Tokens => "by token",
            Order::Channels => "by channel",
        }
    }
}

/// The numbers of a cache, plane after plane, without names, scales and token ids.
pub struct Raw {
    /// Element format.
    pub format: ElementFormat,
    /// Little-endian codes, `[planes, tokens, columns]`.
    pub bytes: Vec<u8>,
    tokens: usize,
    columns: usize,
}

impl Raw {
    /// Of a cache.
    pub fn new(cache: &Cache) -> Raw {
        let bytes = cache.planes.iter().flatten().flatten().copied().collect();
        Raw { format: cache.format, bytes, tokens: cache.tokens, columns: cache.head_dim }
    }

    fn ordered(&self, order: Order) -> Cow<'_, [u8]> {
        match order {
            Order::Tokens => Cow::Borrowed(&self.bytes),
            Order::Channels => Cow::Owned(self.transposed(&self.bytes, self.tokens, self.columns)),
        }
    }

    fn restored(&self, bytes: Vec<u8>, order: Order) -> Vec<u8> {
        match order {
            Order::Tokens => bytes,
            Order::Channels => self.transposed(&bytes, self.columns, self.tokens),
        }
    }

    /// Each plane of `rows` x `cols`, columns first.
    fn transposed(&self, bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
        match self.format.bytes() {
            1 => transpose::<1>(bytes, rows, cols),
            _ => transpose::<2>(bytes, rows, cols),
        }
    }
}

fn transpose<const WIDTH: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let planes = bytes.as_chunks::<WIDTH>().0.chunks(rows * cols);
    let column = |plane, column| <[_]>::iter(plane).skip(column).step_by(cols);
    planes.flat_map(|plane| (0..cols).flat_map(move |c| column(plane, c))).flatten().copied().collect()
}

/// A compressor.
pub struct Rival {
    /// Name and level.
    pub name: &'static str,
    /// The orders worth trying.
    pub orders: &'static [Order],
    compress: fn(&[u8], ElementFormat) -> Vec<u8>,
    /// Gets the length of what was compressed.
    decompress: fn(&[u8], usize, ElementFormat) -> Vec<u8>,
}

impl Rival {
    /// The stream.
    pub fn compress(&self, raw: &Raw, order: Order) -> Vec<u8> {
        (self.compress)(&raw.ordered(order), raw.format)
    }

    /// The numbers again; of `raw` only the size is read.
    pub fn decompress(&self, small: &[u8], raw: &Raw, order: Order) -> Vec<u8> {
        raw.restored((self.decompress)(small, raw.bytes.len(), raw.format), order)
    }

    /// The order that gives the fewest bytes, and them; every order is restored and compared.
    ///
    /// # Panics
    /// If a number does not come back.
    pub fn best(&self, raw: &Raw) -> (Order, Vec<u8>) {
        let tried = self.orders.iter().map(|&order| {
            let small = self.compress(raw, order);
            assert!(self.decompress(&small, raw, order) == raw.bytes, "{} lost a number", self.name);
            (order, small)
        });
        tried.min_by_key(|(_, small)| small.len()).expect("an order")
    }
}

const AS_IT_IS: &[Order] = &[Order::Tokens];
const BOTH: &[Order] = &[Order::Tokens, Order::Channels];

/// All of them. General compressors get the bytes of a cache as they are; where order or split is a choice, the better one counts.
pub const RIVALS: [Rival; 6] = [
    Rival {
        name: "lz4",
        orders: AS_IT_IS,
        compress: |x, _| lz4_flex::block::compress(x),
        decompress: |x, len, _| lz4_flex::block::decompress(x, len).expect("its own stream"),
    },
    Rival {
        name: "zstd -3",
        orders: AS_IT_IS,
        compress: |x, _| zstd_compress(x, 3),
        decompress: |x, len, _| zstd_decompress(x, len),
    },
    Rival {
        name: "zstd -19",
        orders: AS_IT_IS,
        compress: |x, _| zstd_compress(x, 19),
        decompress: |x, len, _| zstd_decompress(x, len),
    },
    Rival {
        name: "byte-planes + zstd -3",
        orders: BOTH,
        compress: |x, format| zstd_compress(&split(x, format.bytes()), 3),
        decompress: |x, len, format| unsplit(zstd_decompress(x, len), format.bytes()),
    },
    Rival {
        name: "byte-planes + zstd -19",
        orders: BOTH,
        compress: |x, format| zstd_compress(&split(x, format.bytes()), 19),
        decompress: |x, len, format| unsplit(zstd_decompress(x, len), format.bytes()),
    },
    Rival { name: "pco -8", orders: BOTH, compress: pco_compress, decompress: pco_decompress },
];

fn zstd_compress(x: &[u8], level: i32) -> Vec<u8> {
    zstd::bulk::compress(x, level).expect("memory to memory")
}

fn zstd_decompress(x: &[u8], len: usize) -> Vec<u8> {
    zstd::bulk::decompress(x, len).expect("its own stream")
}

/// Every first byte, then every second one.
fn split(x: &[u8], width: usize) -> Cow<'_, [u8]> {
    match width {
        1 => x.into(),
        _ => {
            let pairs = x.as_chunks::<2>().0.iter();
            pairs.clone().map(|pair| pair[0]).chain(pairs.map(|pair| pair[1])).collect()
        }
    }
}

fn unsplit(planes: Vec<u8>, width: usize) -> Vec<u8> {
    match width {
        1 => planes,
        _ => {
            let (low, high) = planes.split_at(planes.len() / 2);
            low.iter().zip(high).flat_map(|(&low, &high)| [low, high]).collect()
        }
    }
}

/// pco knows f16 by itself. bf16 and fp8 it gets as unsigned numbers in the order of their values (8-bit ones it takes only when told to); widening bf16 to f32 for it gives as many bytes and
/// twice as much to move.
fn pco_compress(x: &[u8], format: ElementFormat) -> Vec<u8> {
    let config = ChunkConfig::default().with_enable_8_bit(true);
    let pairs = x.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b));
    match format {
        ElementFormat::Bf16 => {
            simple_compress(&pairs.map(|c| ascending(c, 1 << 15)).collect::<Vec<_>>(), &config)
        }
        ElementFormat::F16 => simple_compress(&pairs.map(f16::from_bits).collect::<Vec<_>>(), &config),
        ElementFormat::E4m3 | ElementFormat::E5m2 => {
            let all: Vec<u8> = x.iter().map(|&c| ascending(c.into(), 1 << 7) as u8).collect();
            simple_compress(&all, &config)
        }
    }
    .expect("valid numbers")
}

fn pco_decompress(x: &[u8], _: usize, format: ElementFormat) -> Vec<u8> {
    let own = "its own stream";
    match format {
        ElementFormat::Bf16 => {
            let all = simple_decompress::<u16>(x).expect(own);
            all.into_iter().flat_map(|v| from_ascending(v, 1 << 15).to_le_bytes()).collect()
        }
        ElementFormat::F16 => {
            simple_decompress::<f16>(x).expect(own).into_iter().flat_map(f16::to_le_bytes).collect()
        }
        ElementFormat::E4m3 | ElementFormat::E5m2 => {
            let all = simple_decompress::<u8>(x).expect(own);
            all.into_iter().map(|v| from_ascending(v.into(), 1 << 7) as u8).collect()
        }
    }
}

/// A sign-magnitude code as a number that grows with its value.
fn ascending(code: u16, sign: u16) -> u16 {
    if code & sign == 0 { code | sign } else { !code & (2 * (sign - 1) + 1) }
}

fn from_ascending(number: u16, sign: u16) -> u16 {
    if number & sign != 0 { number ^ sign } else { !number & (2 * (sign - 1) + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NaNs with payloads, -0 and infinities among them.
    #[test]
    fn every_rival_restores_every_code_of_every_format() {
        for format in [ElementFormat::Bf16, ElementFormat::F16, ElementFormat::E4m3, ElementFormat::E5m2] {
            let all = 0..1u32 << format.width();
            let bytes: Vec<u8> =
                all.flat_map(|code| code.to_le_bytes().into_iter().take(format.bytes())).collect();
            let raw = Raw { format, tokens: bytes.len() / format.bytes() / 32, columns: 16, bytes };
            for rival in &RIVALS {
                let (_, small) = rival.best(&raw);
                assert!(!small.is_empty(), "{}", rival.name);
            }
        }
    }

    #[test]
    fn channels_lie_together() {
        let bytes: Vec<u8> = (0..12).collect();
        let raw = Raw { format: ElementFormat::E4m3, bytes, tokens: 3, columns: 2 };
        assert_eq!(*raw.ordered(Order::Channels), [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert_eq!(raw.restored(raw.ordered(Order::Channels).into_owned(), Order::Channels), raw.bytes);
    }

    #[test]
    fn ascending_numbers_grow_with_the_values() {
        let e4m3: Vec<u16> =
            [0xFE, 0x81, 0x80, 0, 1, 0x7E].into_iter().map(|c| ascending(c, 1 << 7)).collect();
        assert_eq!(e4m3, [0x01, 0x7E, 0x7F, 0x80, 0x81, 0xFE]);
        assert!(ascending(0x8000, 1 << 15) + 1 == ascending(0, 1 << 15));
    }
}
