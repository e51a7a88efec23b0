//! Section 5: the container, its rules one by one, limits, damage of every byte, cuts at every length.

use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::stream::Entry;
use speckv_codec_core::{
    Checksum, ElementFormat, Error, Front, Geometry, Header, Limits, Name, PredictorKind, Result, Rule,
    Stream, write_front, write_stream,
};

mod common;
#[path = "common/streams.rs"]
mod streams;
use streams::{Cache, header, likely_cache, mend_header};

const GEOMETRY: Geometry = Geometry { layers: 2, kv_heads: 2, head_dim: 4 };

/// Three chunks, the last ragged, with everything a header can carry.
fn sample(format: ElementFormat) -> Cache {
    let mut header = header(format, GEOMETRY, 8, 21);
    header.precision = Name::new("w8a8+kv16").unwrap();
    header.predictor = PredictorKind::Draft;
    header.profile = core::array::from_fn(|i| i as u8);
    header.first_token = 4000;
    header.token_ids = true;
    if format.width() == 8 {
        header.scales = (0..8).map(|i| 0x3C80_0000 + i).collect();
    }
    likely_cache(11, header)
}

#[test]
fn streams_round_trip_and_are_the_same_twice() {
    for format in ElementFormat::ALL {
        let cache = sample(format);
        let bytes = cache.encode();
        assert_eq!(bytes, cache.encode());
        let read = Cache::decode(&bytes, &cache.model_bytes(), &Limits::default()).unwrap();
        assert_eq!(read.header, cache.header);
        assert_eq!(read.value_bytes(), cache.value_bytes());
        assert_eq!(read.token_ids, cache.token_ids);
    }
}

#[test]
fn a_chunk_travels_alone() {
    let cache = sample(ElementFormat::E4m3);
    let bytes = cache.encode();
    let stream = Stream::parse(&bytes, &Limits::default()).unwrap();
    let mut parts = Vec::new();
    for index in 0..3 {
        let alone = stream.extract(index).unwrap();
        let part = Stream::parse(&alone, &Limits::default()).unwrap();
        assert_eq!(
            (part.header().first_token, part.header().tokens),
            (4000 + 8 * index as u64, [8, 8, 5][index])
        );
        let (a, b) = (part.chunk(0).unwrap(), stream.chunk(index).unwrap());
        assert_eq!((a.payload, a.first_token, a.tokens), (b.payload, b.first_token, b.tokens));
        assert_eq!(Stream::parse(&alone, &Limits::default()).unwrap().extract(0).unwrap(), alone);
        let start = stream.front.payload_offset(index) as usize;
        assert_eq!(&bytes[start..start + a.payload.len()], a.payload);
        parts.push(cache.encode_chunk(index));
    }
    // Together again: the same stream.
    assert_eq!(write_stream(stream.header(), &parts).unwrap(), bytes);
    assert_eq!(stream.front.payload_offset(3), bytes.len() as u64);
    let beyond = Error::Argument { rule: Rule::ChunkIndex, expected: 2, found: 3 };
    assert_eq!(stream.chunk(3).unwrap_err(), beyond);
    assert_eq!(stream.extract(3).unwrap_err(), beyond);
}

#[test]
fn profiles_are_told_apart() {
    let header = sample(ElementFormat::Bf16).header;
    assert_eq!(header.check_profile(&header.profile), Ok(()));
    let mut other = header.profile;
    other[31] ^= 1;
    let number = 0x0001_0203_0405_0607;
    assert_eq!(header.check_profile(&other), Err(Error::WrongProfile { expected: number, found: number }));
}

/// Parses a sample with bytes replaced, its header checksum mended unless that is not possible.
fn parse_with(format: ElementFormat, changes: &[(usize, &[u8])]) -> Result<Front> {
    let mut bytes = sample(format).encode();
    let front = Front::parse(&bytes, &Limits::format()).unwrap().len as usize;
    for &(at, new) in changes {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    mend_header(&mut bytes, front);
    Front::parse(&bytes, &Limits::format())
}

#[test]
fn every_rule_of_the_header_has_its_error() {
    use ElementFormat::{Bf16, E4m3};
    let malformed = |rule, found, offset| Err(Error::Malformed { rule, found, offset });
    assert!(parse_with(Bf16, &[]).is_ok());
    assert_eq!(parse_with(Bf16, &[(0, &[0x88])]), Err(Error::NotAStream));
    assert_eq!(parse_with(Bf16, &[(7, &[0x0B])]), Err(Error::NotAStream));
    for version in [0, 1, 3] {
        let error = Error::UnsupportedVersion { found: version.into(), newest: 2 };
        assert_eq!(parse_with(Bf16, &[(8, &[version])]), Err(error));
    }
    assert_eq!(parse_with(Bf16, &[(10, &[4])]), malformed(Rule::ElementFormat, 4, 10));
    assert_eq!(parse_with(Bf16, &[(11, &[3])]), malformed(Rule::Predictor, 3, 11));
    assert_eq!(parse_with(Bf16, &[(11, &[254])]), malformed(Rule::Predictor, 254, 11));
    assert_eq!(parse_with(Bf16, &[(12, &[5])]), malformed(Rule::Flags, 5, 12));
    assert_eq!(parse_with(Bf16, &[(12, &[3])]), malformed(Rule::ScalesFlag, 3, 12));
    assert_eq!(parse_with(E4m3, &[(12, &[1])]), malformed(Rule::ScalesFlag, 1, 12));
    assert_eq!(parse_with(Bf16, &[(13, &[33])]), malformed(Rule::NameLength, 33, 13));
    assert_eq!(parse_with(Bf16, &[(14, &[0, 0])]), malformed(Rule::Layers, 0, 14));
    assert_eq!(parse_with(Bf16, &[(14, &[1, 16])]), malformed(Rule::Layers, 4097, 14));
    assert_eq!(parse_with(Bf16, &[(16, &[0, 0])]), malformed(Rule::KvHeads, 0, 16));
    assert_eq!(parse_with(Bf16, &[(16, &[1, 16])]), malformed(Rule::KvHeads, 4097, 16));
    assert_eq!(parse_with(Bf16, &[(18, &[0, 0])]), malformed(Rule::HeadDim, 0, 18));
    assert_eq!(parse_with(Bf16, &[(18, &[1, 16])]), malformed(Rule::HeadDim, 4097, 18));
    assert_eq!(parse_with(Bf16, &[(20, &[0, 0, 0, 0])]), malformed(Rule::ChunkTokens, 0, 20));
    assert_eq!(parse_with(Bf16, &[(20, &[1, 0, 1, 0])]), malformed(Rule::ChunkTokens, 65537, 20));
    assert_eq!(
        parse_with(Bf16, &[(24, &(1u64 << 40).to_le_bytes())]),
        malformed(Rule::FirstToken, 1 << 40, 24)
    );
    assert_eq!(parse_with(Bf16, &[(24, &[1])]), malformed(Rule::FirstTokenAlignment, 3841, 24));
    assert_eq!(parse_with(Bf16, &[(32, &[0])]), malformed(Rule::Tokens, 0, 32));
    assert_eq!(
        parse_with(Bf16, &[(32, &((1u64 << 40) + 1).to_le_bytes())]),
        malformed(Rule::Tokens, (1 << 40) + 1, 32)
    );
    let many = (1u64 << 24) * 8 + 1;
    assert_eq!(parse_with(Bf16, &[(32, &many.to_le_bytes())]), malformed(Rule::Chunks, (1 << 24) + 1, 32));
    assert_eq!(parse_with(Bf16, &[(74, b"A")]), malformed(Rule::NameByte, 65, 74));
    assert_eq!(parse_with(Bf16, &[(72, &[0xC3])]), malformed(Rule::NameByte, 0xC3, 72));
    assert_eq!(parse_with(E4m3, &[(81, &[3])]), malformed(Rule::ScaleCount, 3, 81));
    assert_eq!(parse_with(E4m3, &[(81, &[0])]), malformed(Rule::ScaleCount, 0, 81));
    for scale in [0u32, 0x007F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0xBF80_0000] {
        let found = parse_with(E4m3, &[(89, &scale.to_le_bytes())]);
        assert_eq!(found, malformed(Rule::ScaleValue, scale.into(), 89));
    }
    // The directory of a bf16 sample starts after the name.
    let bound = sample(Bf16).header.payload_bound(1);
    assert!(parse_with(Bf16, &[(81 + 24, &bound.to_le_bytes())]).is_ok());
    let over = (bound + 1).to_le_bytes();
    assert_eq!(parse_with(Bf16, &[(81 + 24, &over)]), malformed(Rule::PayloadLength, bound + 1, 105));
    let bytes = sample(Bf16).encode();
    for at in 0..81 + 72 + 8 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let error = Front::parse(&damaged, &Limits::format()).unwrap_err();
        let structural = at < 8 + 2 + 4 + 6 + 4 + 16;
        assert!(
            structural
                || matches!(
                    error,
                    Error::Damaged { checksum: Checksum::Header, .. }
                        | Error::Malformed { rule: Rule::NameByte, .. }
                ),
            "{at}: {error}"
        );
    }
}

#[test]
fn writers_refuse_the_same() {
    let cache = sample(ElementFormat::E4m3);
    let chunks: Vec<_> = (0..3).map(|index| cache.encode_chunk(index)).collect();
    let refused = |change: &dyn Fn(&mut Header)| {
        let mut header = cache.header.clone();
        change(&mut header);
        match write_stream(&header, &chunks).unwrap_err() {
            Error::Argument { rule, .. } => rule,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(&|header| header.geometry.layers = 0), Rule::Layers);
    assert_eq!(refused(&|header| header.geometry.kv_heads = 4097), Rule::KvHeads);
    assert_eq!(refused(&|header| header.geometry.head_dim = 1 << 40), Rule::HeadDim);
    assert_eq!(refused(&|header| header.chunk_tokens = 0), Rule::ChunkTokens);
    assert_eq!(refused(&|header| header.first_token = 1 << 40), Rule::FirstToken);
    assert_eq!(refused(&|header| header.first_token = 7), Rule::FirstTokenAlignment);
    assert_eq!(refused(&|header| header.tokens = 0), Rule::Tokens);
    assert_eq!(refused(&|header| header.tokens = 1 << 38), Rule::Chunks);
    assert_eq!(refused(&|header| header.tokens = 25), Rule::ChunkCount);
    assert_eq!(refused(&|header| header.scales.clear()), Rule::ScaleCount);
    assert_eq!(refused(&|header| header.scales[3] = 0), Rule::ScaleValue);
    assert_eq!(refused(&|header| header.format = ElementFormat::Bf16), Rule::ScalesFlag);
    let long = Entry { payload_len: 1 << 40, payload_checksum: 0, values_checksum: 0 };
    let bound = cache.header.payload_bound(0) as i64;
    let error = Error::Argument { rule: Rule::PayloadLength, expected: bound, found: 1 << 40 };
    assert_eq!(write_front(&cache.header, &[long; 3]), Err(error));
    let name = |name| match Name::new(name) {
        Err(Error::Argument { rule, .. }) => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!((name("W8"), name(&"a".repeat(33))), (Rule::NameByte, Rule::NameLength));
    assert_eq!(Name::new("az09+._-").unwrap().as_str(), "az09+._-");
}

#[test]
fn limits_are_checked_before_anything_is_allocated() {
    // A header that claims as much as the format allows, and nothing after it.
    let geometry = Geometry { layers: 4096, kv_heads: 4096, head_dim: 4096 };
    let mut wide = header(ElementFormat::Bf16, geometry, 65536, 1 << 40);
    let mut bytes = Vec::new();
    let write = |header: &Header, bytes: &mut Vec<u8>| {
        // The directory would be 24 bytes a chunk: take only the header of a smaller stream, then claim more tokens.
        let small = Header { tokens: 1, ..header.clone() };
        let entry = Entry { payload_len: 0, payload_checksum: 0, values_checksum: 0 };
        *bytes = write_front(&small, &[entry]).unwrap();
        bytes[32..40].copy_from_slice(&header.tokens.to_le_bytes());
    };
    let limits =
        Limits { max_tokens: 1000, max_scalars: 1 << 30, max_chunk_scalars: 1 << 20, max_chunks: 100 };
    let limit = |rule, found, max| Err(Error::Limit { rule, found, max });
    write(&wide, &mut bytes);
    assert_eq!(Front::parse(&bytes, &limits), limit(Rule::Tokens, 1 << 40, 1000));
    let limits = Limits { max_tokens: u64::MAX, ..limits };
    assert_eq!(Front::parse(&bytes, &limits), limit(Rule::Chunks, 1 << 24, 100));
    let limits = Limits { max_chunks: u64::MAX, ..limits };
    assert_eq!(Front::parse(&bytes, &limits), limit(Rule::ChunkScalars, 1 << 53, 1 << 20));
    let limits = Limits { max_chunk_scalars: u64::MAX, ..limits };
    assert_eq!(Front::parse(&bytes, &limits), limit(Rule::Scalars, u64::MAX, 1 << 30));
    let truncated = Error::Truncated { offset: 72, needed: 24 << 24, found: 32 };
    assert_eq!(Front::parse(&bytes, &Limits::format()), Err(truncated));
    wide.tokens = 65536;
    wide.geometry.layers = 1;
    write(&wide, &mut bytes);
    assert_eq!(Front::parse(&bytes, &Limits::default()), limit(Rule::ChunkScalars, 1 << 41, 1 << 28));
    assert!(matches!(Front::parse(&bytes, &Limits::format()), Err(Error::Damaged { .. })));
}

#[test]
fn every_cut_is_an_error() {
    let cache = sample(ElementFormat::E4m3);
    let bytes = cache.encode();
    let models = cache.model_bytes();
    for len in 0..bytes.len() {
        match Cache::decode(&bytes[..len], &models, &Limits::default()) {
            Err(Error::Truncated { offset, needed, found }) => {
                assert_eq!(offset + found, len as u64);
                assert!(found < needed);
            }
            Err(other) => panic!("cut at {len}: {other}"),
            Ok(_) => panic!("cut at {len} went unnoticed"),
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    let offset = bytes.len() as u64;
    let trailing = Error::Malformed { rule: Rule::TrailingBytes, found: 1, offset };
    assert_eq!(Stream::parse(&longer, &Limits::default()).unwrap_err(), trailing);
}

#[test]
fn every_changed_byte_is_an_error() {
    for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
        let cache = sample(format);
        let (bytes, models) = (cache.encode(), cache.model_bytes());
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                assert!(Cache::decode(&damaged, &models, &Limits::default()).is_err(), "{at} {flip}");
            }
        }
    }
}

#[test]
fn a_payload_changed_under_a_mended_checksum_is_still_no_wrong_data() {
    let cache = sample(ElementFormat::E4m3);
    let (bytes, models) = (cache.encode(), cache.model_bytes());
    let stream = Stream::parse(&bytes, &Limits::default()).unwrap();
    let front = stream.front.len as usize;
    let entry = front - 8 - 3 * 24;
    let len = stream.directory()[0].payload_len as usize;
    for at in front..front + len {
        for flip in [0x01, 0x10, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let sum = xxh3(&damaged[front..front + len]);
            damaged[entry + 8..entry + 16].copy_from_slice(&sum.to_le_bytes());
            mend_header(&mut damaged, front);
            // Token ids are under the payload's checksum alone: here they may come back changed, the values may not.
            if let Ok(read) = Cache::decode(&damaged, &models, &Limits::default()) {
                let codes = cache.value_bytes().len() - 4 * 21;
                assert_eq!(read.value_bytes()[..codes], cache.value_bytes()[..codes], "{at}");
                assert_ne!(read.token_ids, cache.token_ids);
            }
        }
    }
}

#[test]
fn the_fixed_parts_of_a_payload_are_checked() {
    use speckv_codec_core::ChunkDecoder;
    let cache = sample(ElementFormat::E4m3);
    let payload = cache.encode_chunk(0).payload;
    let new = |payload: &[u8]| ChunkDecoder::new(ElementFormat::E4m3, 8, 8, true, payload).map(|_| ());
    let malformed = |rule, found, offset| Err(Error::Malformed { rule, found, offset });
    let with = |at: usize, byte: u8| {
        let mut changed = payload.clone();
        changed[at] = byte;
        new(&changed)
    };
    let width = payload[1];
    assert_eq!(new(&payload), Ok(()));
    assert_eq!(width, 16, "the sample's ids");
    assert_eq!(with(1, 0), malformed(Rule::IdBits, 0, 1));
    assert_eq!(with(1, 33), malformed(Rule::IdBits, 33, 1));
    let states = 2 + 16;
    let mut low = payload.clone();
    low[states + 20..states + 24].copy_from_slice(&65535u32.to_le_bytes());
    assert_eq!(new(&low), malformed(Rule::State, 65535, states as u64 + 20));
    let words = payload.len() - states - 128;
    assert_eq!(
        new(&payload[..payload.len() - 1]),
        malformed(Rule::OddWords, words as u64 - 1, states as u64 + 128)
    );
    for len in 0..states + 128 {
        assert!(matches!(new(&payload[..len]), Err(Error::Truncated { .. })));
    }
    // Padding: 5 planes leave 3 bits of the modes' byte, 3 ids of 5 bits leave one of theirs.
    let mut payload = vec![0b0000_0000, 5, 0b1111_1111, 0b0000_0011];
    payload.extend([0, 0, 1, 0].repeat(32));
    let new = |payload: &[u8]| ChunkDecoder::new(ElementFormat::E4m3, 5, 3, true, payload).map(|_| ());
    assert_eq!(new(&payload), Ok(()));
    // Six bits where five would do.
    let mut wide = vec![0, 6, 31, 0, 0];
    wide.extend([0, 0, 1, 0].repeat(32));
    assert_eq!(new(&wide), malformed(Rule::IdBits, 6, 1));
    payload[3] |= 0x80;
    assert_eq!(new(&payload), malformed(Rule::Padding, 1, 3));
    payload[0] |= 0x40;
    assert_eq!(new(&payload), malformed(Rule::Padding, 2, 0));
}
