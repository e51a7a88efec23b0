//! What reading costs: memory within the bounds that `Limits` documents, time linear in what is decoded, whatever the input claims.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use speckv_codec_core::checksum::xxh3;
use speckv_codec_core::limits::{DECODER_BYTES, FRONT_BYTES, SMALL_BYTES};
use speckv_codec_core::{ChunkDecoder, ElementFormat, Geometry, Limits, Stream, write_stream};

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/streams.rs"]
mod streams;
use common::Random;
use counting::peak;
use streams::{Cache, header, likely_cache, mend_header};

/// Parses and decodes whatever it is given, each step within its bound; returns whether all was accepted.
fn read(bytes: &[u8], limits: &Limits) -> bool {
    let (held, stream) = peak(|| Stream::parse(bytes, limits));
    let most = FRONT_BYTES * bytes.len() + SMALL_BYTES;
    assert!(held <= most, "parsing {} bytes held {held}, more than {most}", bytes.len());
    let Ok(stream) = stream else { return false };
    let g = stream.header().geometry;
    for index in 0..stream.directory().len() {
        let Ok(chunk) = stream.chunk(index) else { return false };
        let (held, decoder) = peak(|| chunk.decoder(stream.header()));
        let most = DECODER_BYTES * chunk.payload.len() + SMALL_BYTES;
        assert!(held <= most, "a decoder of {} bytes held {held}, more than {most}", chunk.payload.len());
        let Ok(mut decoder) = decoder else { return false };
        if chunk.tokens as u64 * g.head_dim as u64 > 1 << 20 {
            return false;
        }
        let mut random = Random(index as u64);
        let shape = common::random_shape(&mut random);
        let plane = common::Plane::absurd(&mut random, stream.header().format, chunk.tokens, g.head_dim);
        let mut out = vec![0; chunk.tokens * g.head_dim];
        for _ in 0..g.planes().min(64) {
            let (held, done) = peak(|| decoder.next_plane(&plane.model(&shape), &mut out));
            let most = 4 * out.len() + SMALL_BYTES;
            assert!(held <= most, "a plane of {} codes held {held}, more than {most}", out.len());
            if done.is_err() {
                return false;
            }
        }
    }
    true
}

#[test]
fn reading_damaged_streams_stays_within_the_bounds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let (mut files, mut random, mut inputs) = (0, Random(1), 0);
    for folder in ["accept", "reject"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "skv") {
                continue;
            }
            files += 1;
            let good = fs::read(&path).unwrap();
            read(&good, &Limits::format());
            let front = Stream::parse(&good, &Limits::format()).ok().map(|s| s.front.len as usize);
            for _ in 0..200 {
                let mut bytes = good.clone();
                for _ in 0..1 + random.below(3) {
                    let end = front.filter(|_| random.below(2) == 0).unwrap_or(bytes.len());
                    if let Some(byte) = bytes.get_mut(random.below(end.max(1) as u64) as usize) {
                        *byte = random.next() as u8;
                    }
                }
                if let Some(front) = front {
                    mend_header(&mut bytes, front);
                }
                read(&bytes, &Limits::format());
                inputs += 1;
            }
        }
    }
    assert!(files > 40 && inputs > 8000, "{files} files, {inputs} inputs");
}

#[test]
fn what_a_header_claims_costs_nothing() {
    let geometry = Geometry { layers: 1, kv_heads: 1, head_dim: 8 };
    let good = likely_cache(1, header(ElementFormat::E4m3, geometry, 16, 16)).encode();
    let front = Stream::parse(&good, &Limits::default()).unwrap().front.len as usize;
    // The largest of everything: layers, heads, columns, tokens in chunks of 16 and in one chunk.
    for (at, value) in [
        (14, &[0x00, 0x10][..]),
        (16, &[0x00, 0x10]),
        (18, &[0x00, 0x10]),
        (32, &[0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00]),
        (20, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        mend_header(&mut bytes, front);
        assert!(!read(&bytes, &Limits::format()), "field at {at}");
    }
    // As many token ids as a payload can claim: a bit each.
    let mut payload = vec![0u8; 1 + 1 + 1024 + 128];
    payload[1] = 1;
    payload[1026..].copy_from_slice(&[0, 0, 1, 0].repeat(32));
    let decoder = |tokens| peak(|| ChunkDecoder::new(ElementFormat::Bf16, 2, tokens, true, &payload).is_ok());
    let (held, ok) = decoder(8192);
    assert!(ok && held <= DECODER_BYTES * payload.len() + SMALL_BYTES, "{held}");
    let (held, ok) = decoder(1 << 40);
    assert!(!ok && held <= SMALL_BYTES, "{held}");
}

/// Whether `large` takes at most `times` as long as `small`, the best of each counting: a machine that does other things too only ever adds, so
/// what holds once holds.
fn at_most(times: u32, small: impl Fn(), large: impl Fn()) -> bool {
    let time = |what: &dyn Fn()| {
        let since = Instant::now();
        what();
        since.elapsed()
    };
    let mut best = [Duration::MAX; 2];
    (0..60).any(|_| {
        best = [best[0].min(time(&small)), best[1].min(time(&large))];
        best[1] <= best[0] * times
    })
}

#[test]
fn time_is_linear_in_what_is_decoded() {
    let geometry = Geometry { layers: 1, kv_heads: 1, head_dim: 16 };
    let case = |tokens: u32| {
        let cache = likely_cache(2, header(ElementFormat::Bf16, geometry, tokens, tokens.into()));
        (cache.encode(), cache.model_bytes())
    };
    let decodes =
        |(stream, models): &(Vec<u8>, Vec<u8>)| Cache::decode(stream, models, &Limits::default()).is_ok();
    // 8,192 scalars and 16 times as many; a quadratic loop would take 256 times as long.
    let (small, large) = (case(256), case(256 * 16));
    assert!(at_most(16 * 3, || assert!(decodes(&small)), || assert!(decodes(&large))));

    // Noise in place of words, under right checksums: it may end early, never late.
    let mut random = Random(3);
    let cache = likely_cache(2, header(ElementFormat::Bf16, geometry, 256 * 16, 256 * 16));
    let mut chunk = cache.encode_chunk(0);
    chunk.payload[1 + 128..].fill_with(|| random.next() as u8);
    chunk.payload_checksum = xxh3(&chunk.payload);
    let noise = (write_stream(&cache.header, &[chunk]).unwrap(), cache.model_bytes());
    assert!(at_most(3, || assert!(decodes(&large)), || assert!(!decodes(&noise))));
}
