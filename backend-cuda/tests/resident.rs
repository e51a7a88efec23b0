//! Caches in device memory: the bytes that the definition writes for the same codes, and the codes back, in every layout, several sequences a call. Ignored unless asked for.

use std::ops::Range;

use speckv_backend_cuda::{CudaBackend, DeviceBytes, Packed, Pages, Resident, Strided};
use speckv_predictor::Portable;
use speckv_predictor::codec::{CacheView, LoadedMode, Options, compress};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{Make, Random};

/// Tokens of a page.
const PAGE: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Layout {
    TokensFirst,
    HeadsFirst,
    Paged,
}

/// A sequence on the host: planes in order layer, part, head.
struct Sequence {
    format: ElementFormat,
    geometry: Geometry,
    tokens: usize,
    planes: Vec<Vec<u16>>,
    scales: Vec<u32>,
    ids: Vec<u32>,
}

impl Sequence {
    fn new(make: &Make, format: ElementFormat, tokens: usize, r: &mut Random) -> Sequence {
        let g = make.geometry;
        let scale = |i: usize| (0.01f32 * (1.0 + i as f32)).to_bits();
        Sequence {
            format,
            geometry: g,
            tokens,
            planes: (0..g.planes()).map(|_| make.codes(r, format, tokens)).collect(),
            scales: if format.width() == 8 { (0..2 * g.layers).map(scale).collect() } else { Vec::new() },
            ids: (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect(),
        }
    }

    fn codes(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let hd = self.geometry.head_dim;
        self.planes[self.geometry.plane(layer, part, head)][tokens.start * hd..tokens.end * hd].to_vec()
    }

    /// Elements of a layer's part, pages rounded up.
    fn elements(&self) -> usize {
        self.tokens.next_multiple_of(PAGE) * self.geometry.kv_heads * self.geometry.head_dim
    }

    /// Where an element of a layer's part is.
    fn place(&self, layout: Layout, token: usize, head: usize, col: usize) -> usize {
        let (heads, hd) = (self.geometry.kv_heads, self.geometry.head_dim);
        match layout {
            Layout::TokensFirst => (token * heads + head) * hd + col,
            Layout::HeadsFirst => (head * self.tokens + token) * hd + col,
            Layout::Paged => {
                let page = self.pages()[token / PAGE] as usize;
                ((page * PAGE + token % PAGE) * heads + head) * hd + col
            }
        }
    }

    /// Pages in reverse.
    fn pages(&self) -> Vec<u32> {
        (0..self.tokens.div_ceil(PAGE) as u32).rev().collect()
    }

    /// The whole cache as bytes in this layout, gaps of 0xEE.
    fn bytes(&self, layout: Layout) -> Vec<u8> {
        let (g, size) = (self.geometry, self.format.bytes());
        let mut out = vec![0xEE; 2 * g.layers * self.elements() * size];
        for layer in 0..g.layers {
            for part in [Part::Key, Part::Value] {
                let base = (2 * layer + part as usize) * self.elements();
                for head in 0..g.kv_heads {
                    for (i, code) in self.codes(layer, part, head, 0..self.tokens).iter().enumerate() {
                        let at = base + self.place(layout, i / g.head_dim, head, i % g.head_dim);
                        out[at * size..(at + 1) * size].copy_from_slice(&code.to_le_bytes()[..size]);
                    }
                }
            }
        }
        out
    }

    fn strided(&self, layout: Layout, at: u64, table: u64, layer: usize, part: Part) -> Strided {
        let at = at + ((2 * layer + part as usize) * self.elements() * self.format.bytes()) as u64;
        match layout {
            Layout::TokensFirst => Strided::tokens_first(at, self.geometry),
            Layout::HeadsFirst => Strided::heads_first(at, self.geometry, self.tokens),
            Layout::Paged => Strided::paged(at, self.geometry, table, PAGE as u32),
        }
    }

    fn resident<'a>(&'a self, planes: &'a dyn Fn(usize, Part) -> Strided) -> Resident<'a> {
        Resident {
            format: self.format,
            geometry: self.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            planes,
        }
    }

    fn golden(&self, file: &ProfileFile<'_>, kind: (Kind, &str), options: Options) -> Vec<u8> {
        let b = Portable::new();
        let mode = LoadedMode::load(&b, file, kind.0, kind.1, self.format).unwrap();
        let codes = |l, p, h, t: Range<usize>| self.codes(l, p, h, t);
        let view = CacheView {
            format: self.format,
            geometry: self.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(&b, &mode, &view, options, &mut |_, _| {}).unwrap()
    }
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::Static, ""), (Kind::Chain, "no-ids"), (Kind::Chain, "ids"), (Kind::Draft, "w8a8+kv16")];

#[test]
#[ignore = "needs a CUDA device"]
fn resident_caches_are_coded_as_the_definition_codes_them() {
    let b = CudaBackend::open(0).expect("a CUDA device");
    let options = Options { chunk_tokens: 32, ..Options::default() };
    let mut count = 0;
    for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
        let make = Make::default();
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        let r = &mut Random(9);
        let sequences = [100, 37].map(|tokens| Sequence::new(&make, format, tokens, r));
        for kind in KINDS {
            let mode = LoadedMode::load(&b, &file, kind.0, kind.1, format).unwrap();
            let golden = sequences.each_ref().map(|s| s.golden(&file, kind, options));
            for layout in [Layout::TokensFirst, Layout::HeadsFirst, Layout::Paged] {
                let memory = sequences.each_ref().map(|s| DeviceBytes::of(&b, &s.bytes(layout)).unwrap());
                let tables = sequences.each_ref().map(|s| {
                    let pages: Vec<u8> = s.pages().iter().flat_map(|p| p.to_le_bytes()).collect();
                    DeviceBytes::of(&b, &pages).unwrap()
                });
                let planes: [_; 2] = std::array::from_fn(|i| {
                    let (s, at, table) = (&sequences[i], memory[i].at(), tables[i].at());
                    move |layer, part| s.strided(layout, at, table, layer, part)
                });
                let caches: [_; 2] = std::array::from_fn(|i| sequences[i].resident(&planes[i]));
                // SAFETY: the memory has every element; the stream is the legacy default one.
                let found = unsafe { b.compress_resident(&mode, &caches, options, 0) };
                for (found, golden) in found.into_iter().zip(&golden) {
                    assert!(found.unwrap() == *golden, "{format:?} {kind:?} {layout:?}: other bytes");
                }

                // Back into memory that holds something else, the second stream from device memory.
                let poisoned = sequences
                    .each_ref()
                    .map(|s| DeviceBytes::of(&b, &vec![0xEE; s.bytes(layout).len()]).unwrap());
                let planes: [_; 2] = std::array::from_fn(|i| {
                    let (s, at, table) = (&sequences[i], poisoned[i].at(), tables[i].at());
                    move |layer, part| s.strided(layout, at, table, layer, part)
                });
                let packed = DeviceBytes::zeros(&b, golden[1].len()).unwrap();
                // SAFETY: there is room for the stream.
                unsafe { b.write(&golden[1], packed.at(), 0) }.unwrap();
                let streams = [
                    (Packed::Host(&golden[0]), sequences[0].resident(&planes[0])),
                    (Packed::Device(packed.at(), golden[1].len()), sequences[1].resident(&planes[1])),
                ];
                // SAFETY: the memory has every element; the stream is the legacy default one.
                let ids = unsafe { b.decompress_resident(&mode, &streams, &Limits::default(), 0) };
                for (i, ids) in ids.into_iter().enumerate() {
                    assert_eq!(ids.unwrap(), sequences[i].ids);
                    let whole = sequences[i].bytes(layout);
                    assert!(
                        poisoned[i].read(&b, whole.len()).unwrap() == whole,
                        "{format:?} {kind:?} {layout:?}: other codes"
                    );
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, 48);
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_tail_is_restored_behind_its_prefix_and_bad_streams_are_told_apart() {
    let b = CudaBackend::open(0).expect("a CUDA device");
    let (make, format, kind) = (Make::default(), ElementFormat::Bf16, (Kind::Draft, "w8a8+kv16"));
    let bytes = make.profile().unwrap();
    let file = ProfileFile::parse(&bytes).unwrap();
    let s = Sequence::new(&make, format, 100, &mut Random(4));
    let tail = s.golden(&file, kind, Options { chunk_tokens: 32, from: 64, ..Options::default() });
    let mode = LoadedMode::load(&b, &file, kind.0, kind.1, format).unwrap();
    let layout = Layout::HeadsFirst;
    let whole = s.bytes(layout);
    // The prefix is there, the rest is not.
    let mut partial = vec![0xEE; whole.len()];
    for layer in 0..s.geometry.layers {
        for part in [Part::Key, Part::Value] {
            for head in 0..s.geometry.kv_heads {
                let at = (2 * layer + part as usize) * s.elements() + s.place(layout, 0, head, 0);
                let run = 2 * at..2 * (at + 64 * s.geometry.head_dim);
                partial[run.clone()].copy_from_slice(&whole[run]);
            }
        }
    }
    let memory = DeviceBytes::of(&b, &partial).unwrap();
    let planes = |layer, part| s.strided(layout, memory.at(), 0, layer, part);
    let mut damaged = tail.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let scratch = DeviceBytes::of(&b, &partial).unwrap();
    let elsewhere = |layer, part| s.strided(layout, scratch.at(), 0, layer, part);
    let streams =
        [(Packed::Host(&damaged), s.resident(&elsewhere)), (Packed::Host(&tail), s.resident(&planes))];
    // SAFETY: the memory has every element; the stream is the legacy default one.
    let found = unsafe { b.decompress_resident(&mode, &streams, &Limits::default(), 0) };
    assert!(found[0].is_err() && found[1].is_ok(), "{:?} {:?}", found[0].is_ok(), found[1].as_ref().err());
    assert!(memory.read(&b, whole.len()).unwrap() == whole);
    // What the host can tell is wrong goes to no kernel.
    let at_odds = |layer, part| Strided { at: memory.at() + 1, ..planes(layer, part) };
    let of_nothing = |layer, part| {
        let pages = Some(Pages { table: memory.at(), tokens: 0, stride: 1 });
        Strided { pages, ..planes(layer, part) }
    };
    let torn = |layer, part| {
        let pages = Some(Pages { table: memory.at() + 2, tokens: 1, stride: 1 });
        Strided { pages, ..planes(layer, part) }
    };
    let right = || s.resident(&planes);
    let refused = [
        (Resident { tokens: 99, ids: Some(&s.ids[..99]), ..right() }, "does not go into"),
        (Resident { ids: Some(&s.ids[..99]), ..right() }, "expected 100 token ids, one a token, found 99"),
        (Resident { scales: vec![1], ..right() }, "the stream has 0 scales, the cache 1"),
        (
            Resident { planes: &at_odds, ..right() },
            "layer 0, Key: expected an address that is a multiple of 2",
        ),
        (Resident { planes: &of_nothing, ..right() }, "expected pages of at least one token, found 0"),
        (Resident { planes: &torn, ..right() }, "expected a page table at a multiple of 4"),
    ];
    for (to, says) in refused {
        // SAFETY: as above.
        let found =
            unsafe { b.decompress_resident(&mode, &[(Packed::Host(&tail), to)], &Limits::default(), 0) };
        let error = found[0].as_ref().expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(memory.read(&b, whole.len()).unwrap() == whole, "a refused call wrote");
}

#[test]
#[ignore = "needs a CUDA device"]
fn scratch_is_bounded() {
    let b = CudaBackend::open(0).expect("a CUDA device");
    let geometry = Geometry { layers: 4, kv_heads: 8, head_dim: 128 };
    let make = Make { geometry, hidden: 512, heads: 16, ffn: 1536, ..Make::default() };
    let bytes = make.profile().unwrap();
    let file = ProfileFile::parse(&bytes).unwrap();
    for format in [ElementFormat::Bf16, ElementFormat::E4m3] {
        let s = Sequence::new(&make, format, 3000, &mut Random(1));
        let memory = DeviceBytes::of(&b, &s.bytes(Layout::TokensFirst)).unwrap();
        let planes = |layer, part| s.strided(Layout::TokensFirst, memory.at(), 0, layer, part);
        for kind in KINDS {
            let mode = LoadedMode::load(&b, &file, kind.0, kind.1, format).unwrap();
            let options = Options::default();
            let most = CudaBackend::scratch_bytes(&mode, format, geometry, s.tokens, options);
            let peak = || {
                b.peak_bytes(true).unwrap();
                b.peak_bytes(false).unwrap()
            };
            let before = peak();
            // SAFETY: the memory has every element; the stream is the legacy default one.
            let packed = unsafe { b.compress_resident(&mode, &[s.resident(&planes)], options, 0) };
            let packed = packed.into_iter().next().unwrap().unwrap();
            let encoding = b.peak_bytes(true).unwrap() - before;
            let streams = [(Packed::Host(&packed), s.resident(&planes))];
            // SAFETY: as above.
            let found = unsafe { b.decompress_resident(&mode, &streams, &Limits::default(), 0) };
            assert!(found[0].is_ok());
            let decoding = b.peak_bytes(true).unwrap() - before;
            println!("{format:?} {kind:?}: {encoding} and {decoding} bytes of {most}");
            assert!(
                encoding <= most && decoding <= most,
                "{format:?} {kind:?}: {encoding} {decoding} of {most}"
            );
        }
    }
}
