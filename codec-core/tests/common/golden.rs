//! The golden streams: what each shows and how it is made. `examples/make_vectors` writes them, `tests/vectors` reads them.
#![allow(dead_code)]

use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::stream::Entry;
use speckv_codec_core::{
    Chunk, ChunkEncoder, ElementFormat, Geometry, Header, Limits, Name, PredictorKind, Shape, Stream, Symbol,
    write_front, write_stream,
};

use crate::common::{Plane, Random, random_shape};
use crate::streams::{Cache, Shaped, header, likely_cache, mend_header};

/// Format version under which the vectors of this page are made.
pub const VERSION: u16 = 2;

/// Streams a reader must accept: name, feature, cache.
pub fn accept() -> Vec<(&'static str, &'static str, Cache)> {
    use ElementFormat::{Bf16, E4m3, E5m2, F16};
    let one = Geometry { layers: 1, kv_heads: 1, head_dim: 8 };
    let four = Geometry { layers: 2, kv_heads: 1, head_dim: 8 };
    let ids = |mut header: Header| {
        header.token_ids = true;
        header
    };
    vec![
        ("v2_bf16", "bf16, no token ids, one chunk", likely_cache(1, header(Bf16, four, 16, 16))),
        ("v2_f16", "f16", likely_cache(2, header(F16, four, 16, 16))),
        ("v2_e4m3", "e4m3, one scale per (layer, part)", likely_cache(3, header(E4m3, four, 16, 16))),
        ("v2_e5m2", "e5m2", likely_cache(4, header(E5m2, four, 16, 16))),
        ("v2_chunks_ids", "three chunks, the last ragged, token ids, a full header", chunks_and_ids()),
        ("v2_scales_per_head", "e4m3, one scale per head, token ids", scales_per_head()),
        ("v2_ragged", "17 tokens of 3 channels: rows that end within the lanes", ragged()),
        ("v2_one_scalar", "one token of one channel", one_scalar()),
        ("v2_escapes", "codes outside their windows: NaN payloads, infinities, -0", escapes()),
        ("v2_zone", "codes far smaller than their scales", zone()),
        ("v2_raw_planes", "raw planes between coded ones, 16 bits", raw_planes(Bf16)),
        ("v2_raw_planes_8", "raw planes between coded ones, 8 bits", raw_planes(E5m2)),
        ("v2_absurd_bf16", "means, scales, exponents and shapes at random, every bit pattern", absurd(Bf16)),
        ("v2_absurd_f16", "the same in f16", absurd(F16)),
        ("v2_absurd_e4m3", "the same in e4m3", absurd(E4m3)),
        ("v2_ids_32_bits", "token ids of 32 bits", wide_ids(ids(header(E4m3, one, 8, 8)), u32::MAX)),
        (
            "v2_ids_zero",
            "token ids that are all zero: one bit each",
            wide_ids(ids(header(E4m3, one, 8, 8)), 0),
        ),
    ]
}

fn chunks_and_ids() -> Cache {
    let mut header = header(ElementFormat::Bf16, Geometry { layers: 1, kv_heads: 2, head_dim: 4 }, 8, 21);
    header.predictor = PredictorKind::Draft;
    header.precision = Name::new("w8a8+kv16").unwrap();
    header.profile = core::array::from_fn(|i| 255 - i as u8);
    header.first_token = 1 << 39;
    header.token_ids = true;
    likely_cache(5, header)
}

fn scales_per_head() -> Cache {
    let mut header = header(ElementFormat::E4m3, Geometry { layers: 2, kv_heads: 3, head_dim: 4 }, 8, 8);
    header.token_ids = true;
    header.predictor = PredictorKind::Chain;
    header.scales = (0..12).map(|i| 0x0080_0000 + 0x0A12_3456 * i).collect();
    likely_cache(6, header)
}

fn ragged() -> Cache {
    likely_cache(7, header(ElementFormat::Bf16, Geometry { layers: 1, kv_heads: 2, head_dim: 3 }, 32, 17))
}

fn one_scalar() -> Cache {
    likely_cache(8, header(ElementFormat::F16, Geometry { layers: 1, kv_heads: 1, head_dim: 1 }, 1, 1))
}

fn escapes() -> Cache {
    let mut cache = likely_cache(
        9,
        header(ElementFormat::Bf16, Geometry { layers: 1, kv_heads: 1, head_dim: 8 }, 16, 16),
    );
    let plane = &mut cache.chunks[0][0].plane;
    for (i, code) in [0x7FC0, 0xFFFF, 0x7F80, 0xFF80, 0x8000, 0, 0x7F7F, 0x8001].into_iter().enumerate() {
        plane.codes[i * 15] = code;
    }
    cache
}

fn zone() -> Cache {
    let mut cache =
        likely_cache(10, header(ElementFormat::Bf16, Geometry { layers: 1, kv_heads: 1, head_dim: 8 }, 8, 8));
    for shaped in &mut cache.chunks[0] {
        let tiny = [0x0000, 0x8000, 0x3001, 0xB07F, 0x1234, 0x9ABC, 0x0001, 0xB3FF];
        for (i, code) in tiny.into_iter().enumerate() {
            (shaped.plane.codes[i * 8], shaped.plane.mu[i * 8]) = (code, i as i32 - 4);
        }
    }
    cache
}

fn raw_planes(format: ElementFormat) -> Cache {
    let mut cache = likely_cache(11, header(format, Geometry { layers: 3, kv_heads: 1, head_dim: 5 }, 7, 7));
    let mut random = Random(12);
    for plane in [1, 2, 5] {
        for code in &mut cache.chunks[0][plane].plane.codes {
            *code = (random.next() & ((1 << format.width()) - 1)) as u16;
        }
    }
    cache
}

fn absurd(format: ElementFormat) -> Cache {
    let mut cache = likely_cache(13, header(format, Geometry { layers: 2, kv_heads: 1, head_dim: 6 }, 9, 9));
    let mut random = Random(14 + u64::from(format.id()));
    for shaped in &mut cache.chunks[0] {
        *shaped =
            Shaped { plane: Plane::absurd(&mut random, format, 9, 6), shape: random_shape(&mut random) };
        if random.below(2) == 0 {
            shaped.plane.token_scale.fill(0);
            shaped.plane.channel_scale.fill(16 * (shaped.plane.exponent + 10) as i16);
        }
    }
    cache
}

fn wide_ids(header: Header, id: u32) -> Cache {
    let mut cache = likely_cache(15, header);
    if let Some(ids) = &mut cache.token_ids {
        ids.fill(0);
        ids[3] = id;
    }
    cache
}

/// Streams a reader must refuse: name, feature, bytes, and the cache whose models go with them.
pub fn reject() -> Vec<(&'static str, &'static str, Vec<u8>, Cache)> {
    let mut all = Vec::new();
    let base = || {
        likely_cache(
            20,
            header(ElementFormat::E4m3, Geometry { layers: 1, kv_heads: 1, head_dim: 8 }, 16, 16),
        )
    };
    let good = base().encode();
    let front = Stream::parse(&good, &Limits::default()).unwrap().front.len as usize;
    let mut edit = |name, feature, mend: bool, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        if mend {
            mend_header(&mut bytes, front);
        }
        all.push((name, feature, bytes, base()));
    };
    edit("not_a_stream", "magic", false, &|bytes| bytes[1] = b's');
    edit("text_mode", "a copy that turned CR LF into LF", false, &|bytes| {
        bytes.remove(4);
    });
    edit("empty", "nothing at all", false, &|bytes| bytes.clear());
    edit("version_3", "unsupported version", true, &|bytes| bytes[8] = 3);
    edit("version_1", "unsupported version", true, &|bytes| bytes[8] = 1);
    edit("version_0", "unsupported version", true, &|bytes| bytes[8] = 0);
    edit("element_format", "unknown element format", true, &|bytes| bytes[10] = 4);
    edit("predictor", "unknown predictor", true, &|bytes| bytes[11] = 3);
    edit("flags", "unknown flag", true, &|bytes| bytes[12] |= 0x80);
    edit("scales_flag", "8-bit format without scales", true, &|bytes| bytes[12] &= !2);
    edit("name_length", "precision name of 33 bytes", true, &|bytes| bytes[13] = 33);
    edit("layers", "no layers", true, &|bytes| bytes[14] = 0);
    edit("kv_heads", "4097 heads", true, &|bytes| bytes[16..18].copy_from_slice(&[1, 16]));
    edit("head_dim", "no channels", true, &|bytes| bytes[18] = 0);
    edit("chunk_tokens", "chunks of no tokens", true, &|bytes| bytes[20] = 0);
    edit("first_token", "first token 2^40", true, &|bytes| bytes[29] = 1);
    edit("alignment", "first token within a chunk", true, &|bytes| bytes[24] = 8);
    edit("tokens", "no tokens", true, &|bytes| bytes[32] = 0);
    edit("scale_count", "two scales per part of one head", true, &|bytes| bytes[72] = 2);
    edit("scale_negative", "a negative scale", true, &|bytes| bytes[79] |= 0x80);
    edit("scale_subnormal", "a subnormal scale", true, &|bytes| bytes[78..80].fill(0));
    edit("scale_infinite", "an infinite scale", true, &|bytes| {
        bytes[76..80].copy_from_slice(&[0, 0, 0x80, 0x7F])
    });
    edit("payload_length", "a payload above its bound", true, &|bytes| bytes[86] = 1);
    edit("header_checksum", "a changed digest", false, &|bytes| bytes[50] ^= 1);
    edit("payload_checksum", "a changed payload", false, &|bytes| *bytes.last_mut().unwrap() ^= 1);
    edit("values_checksum", "a changed checksum of the values", true, &|bytes| bytes[100] ^= 1);
    edit("cut_header", "cut within the header", false, &|bytes| bytes.truncate(71));
    edit("cut_directory", "cut within the directory", false, &|bytes| bytes.truncate(front - 9));
    edit("cut_payload", "cut within the payload", false, &|bytes| bytes.truncate(bytes.len() - 2));
    edit("trailing_byte", "a byte after the last payload", false, &|bytes| bytes.push(0));

    let mut payload = |name, feature, change: &dyn Fn(&mut Vec<u8>)| {
        let mut chunk = base().encode_chunk(0);
        change(&mut chunk.payload);
        all.push((name, feature, sealed(&base().header, chunk), base()));
    };
    payload("mode_padding", "a bit after the plane modes", &|payload| payload[0] |= 4);
    payload("state", "a lane state below 2^16", &|payload| {
        payload[1..5].copy_from_slice(&[0xFF, 0xFF, 0, 0])
    });
    payload("odd_words", "half a word at the end", &|payload| payload.push(0));
    payload("words_left", "a word too many", &|payload| payload.extend([0, 0]));
    payload("words_missing", "a word too few", &|payload| payload.truncate(payload.len() - 2));
    payload("short_payload", "a payload that ends within the states", &|payload| payload.truncate(100));

    // One scalar: every lane but the first must end as it began.
    let small = || {
        likely_cache(22, header(ElementFormat::E5m2, Geometry { layers: 1, kv_heads: 1, head_dim: 1 }, 1, 1))
    };
    let mut chunk = small().encode_chunk(0);
    chunk.payload[1 + 9 * 4] = 1;
    all.push(("final_state", "a lane that does not end at rest", sealed(&small().header, chunk), small()));

    let ids = || {
        let mut header = header(ElementFormat::E4m3, Geometry { layers: 1, kv_heads: 1, head_dim: 4 }, 5, 5);
        header.token_ids = true;
        let mut cache = likely_cache(21, header);
        cache.token_ids = Some(vec![1, 2, 3, 4, 5]);
        cache
    };
    let mut with_ids = |name, feature, change: &dyn Fn(&mut Vec<u8>)| {
        let mut chunk = ids().encode_chunk(0);
        change(&mut chunk.payload);
        all.push((name, feature, sealed(&ids().header, chunk), ids()));
    };
    with_ids("id_bits_0", "token ids of no bits", &|payload| payload[1] = 0);
    with_ids("id_bits_33", "token ids of 33 bits", &|payload| payload[1] = 33);
    with_ids("id_padding", "a bit after the token ids", &|payload| payload[3] |= 0x80);
    with_ids("id_bits_wasted", "token ids of four bits that need three", &|payload| {
        payload.splice(1..4, [4, 0x21, 0x43, 0x05]);
    });

    let (bytes, cache) = zone_magnitude();
    all.push(("zone_magnitude", "a magnitude outside its zone", bytes, cache));
    all
}

/// A stream of one chunk with right checksums, whatever its payload.
fn sealed(header: &Header, mut chunk: Chunk) -> Vec<u8> {
    chunk.payload_checksum = xxh3(&chunk.payload);
    write_stream(header, &[chunk]).unwrap()
}

/// A scalar coded as its zone's symbol, with a magnitude that the zone does not have.
fn zone_magnitude() -> (Vec<u8>, Cache) {
    let header = header(ElementFormat::E5m2, Geometry { layers: 1, kv_heads: 1, head_dim: 1 }, 1, 1);
    let plane = || Plane {
        format: ElementFormat::E5m2,
        exponent: 0,
        mu: vec![0],
        channel_scale: vec![10],
        token_scale: vec![0],
        codes: vec![1],
    };
    let cache = Cache {
        header,
        chunks: vec![vec![
            Shaped { plane: plane(), shape: Shape::gaussian() },
            Shaped { plane: plane(), shape: Shape::gaussian() },
        ]],
        token_ids: None,
    };
    let mut symbols = Vec::new();
    cache.chunks[0][0].model().price(&[1], &mut symbols).unwrap();
    assert_eq!((symbols[0].raw, symbols[0].raw_bits), (1, 7), "code 1 is in the zone");
    let outside = Symbol { raw: 100, ..symbols[0] };
    let mut encoder = ChunkEncoder::new(ElementFormat::E5m2, 2, None);
    encoder.push_symbols(vec![outside], 0, &[100]).unwrap();
    encoder.push_symbols(symbols, 0, &[1]).unwrap();
    let chunk = encoder.finish().unwrap();
    let mut bytes = write_front(&cache.header, &[Entry::of(&chunk)]).unwrap();
    bytes.extend(chunk.payload);
    (bytes, cache)
}
