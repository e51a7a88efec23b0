//! What decoding a cache holds beside profile and stream: within the bound that `codec::decompress` documents, whatever a header claims.

use std::ops::Range;

use speckv_predictor::Portable;
use speckv_predictor::codec::{
    CacheView, Known, LoadedMode, Options, compress, decompress, memory_bound, parse,
};
use speckv_predictor::core::checksum::xxh3;
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Stream};
use speckv_predictor::profile::ProfileFile;
use speckv_predictor::synthetic::{MODES, Make, Random};

#[path = "../../codec-core/tests/common/counting.rs"]
mod counting;
use counting::peak;

/// The stream with its header changed at one place and the checksum put right.
fn claim(stream: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let front = Stream::parse(stream, &Limits::default()).unwrap().front.len as usize;
    let mut bytes = stream.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    let sum = xxh3(&bytes[..front - 8]);
    bytes[front - 8..front].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn decoding_holds_no_more_than_it_says() {
    let b = Portable::new();
    let (mut worst, mut cases) = (0, 0);
    for (head_dim, hidden, ffn) in [(16, 40, 48), (8, 120, 16), (32, 24, 320)] {
        let geometry = Geometry { layers: 3, kv_heads: 2, head_dim };
        let make = Make { geometry, hidden, ffn, ..Make::default() };
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        for (format, tokens, chunk) in
            [(ElementFormat::Bf16, 300, 64), (ElementFormat::E4m3, 90, 256), (ElementFormat::F16, 3, 1)]
        {
            let mut r = Random(3);
            let planes: Vec<_> = (0..geometry.planes()).map(|_| make.codes(&mut r, format, tokens)).collect();
            let ids: Vec<u32> = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
            let codes = |l, p, h, t: Range<usize>| {
                planes[geometry.plane(l, p, h)][t.start * head_dim..t.end * head_dim].to_vec()
            };
            let scales =
                if format.width() == 8 { vec![0x3F80_0000; 2 * geometry.layers] } else { Vec::new() };
            for (kind, precision) in MODES {
                let mode = LoadedMode::load(&b, &file, kind, precision, format).unwrap();
                let view = CacheView {
                    format,
                    geometry,
                    tokens,
                    scales: scales.clone(),
                    ids: Some(&ids),
                    codes: &codes,
                };
                let options = Options { chunk_tokens: chunk, ..Options::default() };
                let good = compress(&b, &mode, &view, options, &mut |_, _| {}).unwrap();
                let read = |bytes: &[u8]| {
                    let stream = parse(bytes, &Limits::default()).unwrap();
                    let most = memory_bound(&mode, stream.header());
                    let mut sink = |_: usize, _: _, _: usize, _: usize, _: &[u16]| {};
                    let known = Known { ids: Some(&ids), prefix: None };
                    let (held, done) =
                        peak(|| decompress(&b, &mode, &stream, known, &mut sink, &mut |_, _| {}).is_ok());
                    assert!(
                        held as u64 <= most,
                        "{kind:?} {precision}: {held} bytes held, at most {most} said"
                    );
                    (100 * held as u64 / most, done)
                };
                let (share, done) = read(&good);
                assert!(done);
                worst = worst.max(share);
                cases += 1;
                // A chunk of 65,536 tokens that the payload does not have.
                if chunk == 256 {
                    let length = 65_536u32.to_le_bytes();
                    let hostile = claim(&claim(&good, 20, &length), 32, &u64::from(u16::MAX).to_le_bytes());
                    assert!(!read(&hostile).1);
                }
            }
        }
    }
    // A bound that is never come near says nothing.
    assert!(cases == 72 && worst > 30, "{cases} cases, at most {worst} % of the bound");
}
