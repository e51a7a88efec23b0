//! What parses writes back to the same bytes, what is written parses to the same header, and nothing panics.
//!
//! The input is read three ways: as a stream; as a stream whose header checksum is first made right, since random bytes seldom have one; and as the
//! fields of a header, within their ranges or not.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::stream::Entry;
use speckv_codec_core::{
    Checksum, ElementFormat, Error, Front, Geometry, Header, Limits, Name, PredictorKind, Rule, Stream,
    write_front,
};
use speckv_fuzz::input::many;
use speckv_fuzz::{memory, one_line};

fn check(bytes: &[u8]) -> speckv_codec_core::Result<()> {
    let most = 16 * bytes.len() + 4096;
    let front = memory::at_most(most, || Front::parse(bytes, &Limits::format()))?;
    let again = write_front(&front.header, &front.directory).expect("what was read can be written");
    assert_eq!(again, bytes[..front.len as usize]);
    front.header.check().expect("what was read keeps the rules");
    limits(bytes, &front.header);
    for index in 0..front.directory.len() {
        assert!(front.directory[index].payload_len <= front.header.payload_bound(index as u64));
    }

    let stream = memory::at_most(most, || Stream::parse(bytes, &Limits::format()))?;
    assert_eq!(stream.front, front);
    assert_eq!(front.payload_offset(front.directory.len()), bytes.len() as u64);
    for index in 0..front.directory.len() {
        let Ok(chunk) = stream.chunk(index) else { continue };
        let at = front.payload_offset(index) as usize;
        assert_eq!(chunk.payload, &bytes[at..][..chunk.payload.len()]);
        // It can say why not: the fixed parts of a payload are read too.
        _ = memory::at_most(64 * bytes.len() + 4096, || chunk.decoder(stream.header()));
        let Ok(alone) = stream.extract(index) else { continue };
        let alone = Stream::parse(&alone, &Limits::format()).expect("an extracted chunk is a stream");
        assert_eq!(alone.chunk(0).expect("it has one chunk").payload, chunk.payload);
    }
    Ok(())
}

/// What a stream asks for is let through by limits of just that, and refused by the exact error where one of them is less.
fn limits(bytes: &[u8], header: &Header) {
    let per_token = header.geometry.scalars_per_token();
    let just = Limits {
        max_tokens: header.tokens,
        max_scalars: per_token.saturating_mul(header.tokens),
        max_chunk_scalars: per_token * header.tokens_of(0),
        max_chunks: header.chunks(),
    };
    assert!(Front::parse(bytes, &just).is_ok());
    let refused = |rule, found: u64, less: Limits| {
        let error = Error::Limit { rule, found, max: found - 1 };
        one_line(&error);
        assert_eq!(Front::parse(bytes, &less), Err(error));
    };
    let Limits { max_tokens, max_scalars, max_chunk_scalars, max_chunks } = just;
    refused(Rule::Tokens, max_tokens, Limits { max_tokens: max_tokens - 1, ..just });
    refused(Rule::Chunks, max_chunks, Limits { max_chunks: max_chunks - 1, ..just });
    refused(
        Rule::ChunkScalars,
        max_chunk_scalars,
        Limits { max_chunk_scalars: max_chunk_scalars - 1, ..just },
    );
    refused(Rule::Scalars, max_scalars, Limits { max_scalars: max_scalars - 1, ..just });
}

/// The bytes with the header checksum that they should have, if that is all that is wrong with their front.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let Err(Error::Damaged { checksum: Checksum::Header, expected, found }) =
        Front::parse(bytes, &Limits::format())
    else {
        return None;
    };
    let stored = expected.to_le_bytes();
    let at = (0..bytes.len() - 7).find(|&at| bytes[at..at + 8] == stored && xxh3(&bytes[..at]) == found)?;
    Some([&bytes[..at], &found.to_le_bytes(), &bytes[at + 8..]].concat())
}

fn header(input: &mut Unstructured<'_>) -> Result<(Header, Vec<Entry>)> {
    let format = *input.choose(&ElementFormat::ALL)?;
    // Mostly small, now and then anything.
    let mut size = |most: u64| match u8::arbitrary(input)? {
        0..=239 => input.int_in_range(1..=3),
        240..=247 => input.int_in_range(0..=most + 1),
        _ => u64::arbitrary(input).map(|n| n & u64::from(u32::MAX)),
    };
    let [layers, kv_heads, head_dim] = [size(4096)?, size(4096)?, size(4096)?].map(|n| n as usize);
    let (chunk_tokens, first, tokens) = (size(65536)?, size(1 << 40)?, size(1 << 40)?);
    let predictors =
        [PredictorKind::Static, PredictorKind::Chain, PredictorKind::Draft, PredictorKind::External];
    let names = ["", "ids", "w8a8+kv16", "abcdefghijklmnopqrstuvwxyz012345"];
    let rows = 2 * layers.min(64) * if bool::arbitrary(input)? { 1 } else { kv_heads.min(64) };
    let scale = |input: &mut Unstructured<'_>| match bool::arbitrary(input)? {
        true => Ok(0x3F80_0000),
        false => u32::arbitrary(input),
    };
    let header = Header {
        format,
        predictor: *input.choose(&predictors)?,
        precision: Name::new(input.choose(&names)?).expect("good names"),
        geometry: Geometry { layers, kv_heads, head_dim },
        chunk_tokens: chunk_tokens as u32,
        first_token: if bool::arbitrary(input)? { first } else { first.wrapping_mul(chunk_tokens) },
        tokens,
        profile: <[u8; 32]>::arbitrary(input)?,
        token_ids: bool::arbitrary(input)?,
        scales: if format.width() == 8 { many(rows, || scale(input))? } else { Vec::new() },
    };
    let chunks = if chunk_tokens == 0 { 1 } else { tokens.div_ceil(chunk_tokens).min(8) } as usize;
    let entry = |input: &mut Unstructured<'_>| {
        let payload_len = u16::arbitrary(input)?.into();
        let [payload_checksum, values_checksum] = <[u64; 2]>::arbitrary(input)?;
        Ok(Entry { payload_len, payload_checksum, values_checksum })
    };
    Ok((header, many(chunks, || entry(input))?))
}

fuzz_target!(|data: &[u8]| {
    if let Err(error) = check(data) {
        one_line(&error);
    }
    if let Some(mended) = mended(data) {
        _ = check(&mended);
    }
    let Ok((header, directory)) = header(&mut Unstructured::new(data)) else { return };
    match write_front(&header, &directory) {
        Ok(bytes) => {
            let front = Front::parse(&bytes, &Limits::format()).expect("what was written can be read");
            assert_eq!((front.len, front.header, front.directory), (bytes.len() as u64, header, directory));
            _ = check(&bytes);
        }
        Err(error) => {
            one_line(&error);
            let too_long = |(at, entry): (usize, &Entry)| entry.payload_len > header.payload_bound(at as u64);
            let fits = header.check().is_ok()
                && header.chunks() == directory.len() as u64
                && !directory.iter().enumerate().any(too_long);
            assert!(!fits, "refused without a reason: {error}");
        }
    }
});
