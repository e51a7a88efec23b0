//! Compresses and decompresses random caches, real and made up, for a given time: all predictors, formats, chunk lengths and CPU paths, with random
//! damage. Stops at the first thing that is wrong, with the number that repeats it. `ci/soak.sh` calls it.
//!
//! `soak SECONDS SEED [PROFILE CACHE...]`, or `soak 0 SEED PROFILE CACHE... CASE=N` for case N alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use speckv_backend_cpu::{CpuBackend, Path};
use speckv_capture::Cache as CacheFile;
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, kind_of, parse};
use speckv_predictor::core::checksum::xxh3;
use speckv_predictor::core::stream::Entry;
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part, Stream, write_front};
use speckv_predictor::predict::Before;
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make, Random};
use speckv_predictor::{Backend, Error, Portable};

/// A cache to code.
struct Cache {
    format: ElementFormat,
    geometry: Geometry,
    tokens: usize,
    scales: Vec<u32>,
    ids: Vec<u32>,
    /// In plane order, `[tokens, head_dim]`.
    planes: Vec<Vec<u16>>,
}

/// What came back: codes by plane, and ids.
type Restored = (Vec<Vec<u16>>, Vec<u32>);

impl Cache {
    fn codes(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let hd = self.geometry.head_dim;
        self.planes[self.geometry.plane(layer, part, head)][tokens.start * hd..tokens.end * hd].to_vec()
    }

    /// Some tokens of a cache file, from its first on: what a model sees depends on where it starts.
    fn read(file: &CacheFile, tokens: usize, as_f16: bool) -> Cache {
        let geometry = Geometry { layers: file.layers, kv_heads: file.kv_heads, head_dim: file.head_dim };
        let width = file.format.bytes();
        let code = |b: &[u8]| {
            let code = b.iter().rev().fold(0, |all, &byte| all << 8 | u16::from(byte));
            if as_f16 { half::f16::from_f32(half::bf16::from_bits(code).to_f32()).to_bits() } else { code }
        };
        let head = file.tokens * file.head_dim * width;
        let taken = |h: &[u8]| h[..tokens * file.head_dim * width].chunks_exact(width).map(code).collect();
        let planes =
            file.planes.iter().flatten().flat_map(|part| part.chunks_exact(head).map(taken)).collect();
        let scales = file.scales.iter().flatten().flatten().flatten().map(|s| s.to_bits()).collect();
        Cache {
            format: if as_f16 { ElementFormat::F16 } else { file.format },
            geometry,
            tokens,
            scales,
            ids: file.token_ids.as_ref().expect("captures have ids")[..tokens].to_vec(),
            planes,
        }
    }

    fn made_up(r: &mut Random, make: &Make, format: ElementFormat, tokens: usize) -> Cache {
        let geometry = make.geometry;
        let planes = (0..geometry.planes()).map(|_| make.codes(r, format, tokens)).collect();
        let heads = r.pick(&[1, geometry.kv_heads]);
        let count = if format.width() == 8 { 2 * geometry.layers * heads } else { 0 };
        let scales = (0..count).map(|_| 0x3E00_0000 + (r.bits() % (1 << 25)) as u32).collect();
        let ids = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
        Cache { format, geometry, tokens, scales, ids, planes }
    }

    /// Any bits at all in some places.
    fn spoil(&mut self, r: &mut Random, one_in: u64) {
        let mask = ((1u32 << self.format.width()) - 1) as u16;
        for code in self.planes.iter_mut().flatten() {
            if r.bits().is_multiple_of(one_in) {
                *code = r.bits() as u16 & mask;
            }
        }
    }

    fn encode<B: Backend>(
        &self,
        b: &B,
        file: &ProfileFile<'_>,
        mode: Mode,
        options: Options,
    ) -> Result<Vec<u8>, Error> {
        let mode = LoadedMode::load(b, file, mode.0, mode.1, self.format)?;
        let codes = |l: usize, p: Part, h: usize, t: Range<usize>| self.codes(l, p, h, t);
        let view = CacheView {
            format: self.format,
            geometry: self.geometry,
            tokens: self.tokens,
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &codes,
        };
        compress(b, &mode, &view, options, &mut |_, _| {})
    }

    /// Decodes a stream that claims to be of this cache.
    fn decode<B: Backend>(&self, b: &B, file: &ProfileFile<'_>, bytes: &[u8]) -> Result<Restored, Error> {
        // Damage may ask for much; what is made here is small.
        let limits =
            Limits { max_tokens: 4096, max_scalars: 1 << 24, max_chunk_scalars: 1 << 23, max_chunks: 4096 };
        let stream = parse(bytes, &limits)?;
        let header = stream.header();
        let mode = LoadedMode::load(b, file, kind_of(header)?, header.precision.as_str(), header.format)?;
        let first = usize::try_from(header.first_token).unwrap_or(usize::MAX);
        let covered = first.min(self.tokens)..first.saturating_add(header.tokens as usize).min(self.tokens);
        let prefix = |l: usize, p: Part, h: usize, t: Range<usize>| {
            if t.end <= self.tokens { self.codes(l, p, h, t) } else { Vec::new() }
        };
        let known = Known { ids: (!header.token_ids).then_some(&self.ids[covered]), prefix: Some(&prefix) };
        let mut planes = vec![Vec::new(); header.geometry.planes()];
        let mut sink = |l: usize, p: Part, h: usize, _: usize, codes: &[u16]| {
            planes[header.geometry.plane(l, p, h)].extend_from_slice(codes);
        };
        let ids = decompress(b, &mode, &stream, known, &mut sink, &mut |_, _| {})?;
        Ok((planes, ids))
    }
}

type Mode<'a> = (Kind, &'a str);

/// The backends by number: the definition, then every path that this CPU has.
struct Backends(Portable, Vec<CpuBackend>);

impl Backends {
    fn name(&self, at: usize) -> &str {
        if at == 0 { self.0.name() } else { self.1[at - 1].name() }
    }
}

/// Calls a generic function with the backend of a number.
macro_rules! with {
    ($backends:expr, $at:expr, |$b:ident| $call:expr) => {
        if $at == 0 {
            let $b = &$backends.0;
            $call
        } else {
            let $b = &$backends.1[$at - 1];
            $call
        }
    };
}

#[derive(Default)]
struct Totals {
    cases: u64,
    streams: u64,
    decoded: u64,
    scalars: u64,
    raw: u64,
    coded: u64,
    damaged: u64,
    forged: [u64; 2],
    by: BTreeMap<String, u64>,
}

impl Totals {
    fn report(&self, seconds: f64) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:.0} s: {} cases, {} streams made, {} decoded to the input, {} scalars, {} bytes to {}; {} damaged streams refused, {} forged ones refused, {} forged ones harmless",
            seconds,
            self.cases,
            self.streams,
            self.decoded,
            self.scalars,
            self.raw,
            self.coded,
            self.damaged,
            self.forged[0],
            self.forged[1]
        );
        for (what, count) in &self.by {
            let _ = writeln!(out, "  {what}: {count}");
        }
        out
    }
}

/// A stream that is not what was written. With `forged`, all checksums over its bytes are right again, as no accident leaves them.
fn damage(r: &mut Random, good: &[u8], forged: bool) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let parsed = Stream::parse(good, &Limits::default()).expect("a good stream");
    let front = parsed.front.len as usize;
    for _ in 0..1 + r.bits() % 3 {
        // Half of it in the header, where damage says most.
        let end = if r.bits() & 1 == 0 { front.min(bytes.len()) } else { bytes.len() };
        let at = (r.bits() % end.max(1) as u64) as usize;
        match r.bits() % if forged { 2 } else { 5 } {
            _ if bytes.is_empty() => bytes.push(1),
            0 => bytes[at] ^= 1 << (r.bits() % 8),
            1 => bytes[at] = r.bits() as u8,
            2 => bytes.truncate(at),
            3 => {
                bytes.insert(at, r.bits() as u8);
            }
            _ => {
                let to = (at + 1 + r.bits() as usize % 64).min(bytes.len());
                bytes.drain(at..to);
            }
        }
    }
    if !forged {
        return bytes;
    }
    // Payloads first: their checksums are in the front.
    let mut at = front;
    let entries: Vec<Entry> = parsed
        .directory()
        .iter()
        .map(|old| {
            let payload = &bytes[at..at + old.payload_len as usize];
            at += payload.len();
            Entry { payload_checksum: xxh3(payload), ..*old }
        })
        .collect();
    let whole = write_front(parsed.header(), &entries).expect("lengths are as they were");
    let directory = front - 8 - 24 * entries.len();
    bytes[directory..front - 8].copy_from_slice(&whole[directory..front - 8]);
    let sum = xxh3(&bytes[..front - 8]);
    bytes[front - 8..front].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Everything that is done with one cache.
fn case(
    r: &mut Random,
    real: Option<&(ProfileFile<'_>, Vec<CacheFile>)>,
    backends: &Backends,
    totals: &mut Totals,
) {
    let paths = backends.1.len() + 1;
    let bytes;
    let made;
    let (file, mut cache, (kind, precision)) = match real.filter(|_| r.bits().is_multiple_of(3)) {
        Some((file, caches)) => {
            let which = &caches[r.bits() as usize % caches.len()];
            let as_f16 = which.format == ElementFormat::Bf16 && r.bits().is_multiple_of(2);
            let tokens = 1 + r.bits() as usize % which.tokens.min(160);
            let cache = Cache::read(which, tokens, as_f16);
            let class = speckv_predictor::profile::Precision::of(cache.format);
            let modes: Vec<_> = file.description.modes.iter().filter(|m| m.class == class).collect();
            let mode = modes[r.bits() as usize % modes.len()];
            (file, cache, (mode.kind, mode.precision.as_str()))
        }
        None => {
            let head_dim = r.pick(&[2, 4, 6, 8, 16, 24, 32, 64]);
            let kv_heads = 1 + r.bits() as usize % 3;
            let hidden = 1 + r.bits() as usize % 70;
            let make = Make {
                geometry: Geometry { layers: 1 + r.bits() as usize % 4, kv_heads, head_dim },
                hidden,
                heads: kv_heads * (1 + r.bits() as usize % 3),
                ffn: 1 + r.bits() as usize % 90,
                vocab: 1 + r.bits() as usize % 60,
                qk_norm: r.bits() & 1 == 0,
                wide: r.bits() as usize % hidden.min(12),
                seed: r.bits(),
                ..Make::default()
            };
            bytes = make.profile().expect("a profile can be made");
            made = ProfileFile::parse(&bytes).expect("a made-up profile is one");
            let format = r.pick(&ElementFormat::ALL);
            let cache = {
                let tokens = 1 + r.bits() as usize % 200;
                Cache::made_up(r, &make, format, tokens)
            };
            (&made, cache, r.pick(&MODES))
        }
    };
    let source = if std::ptr::eq(file, real.map_or(file, |real| &real.0)) && real.is_some() {
        "real"
    } else {
        "made up"
    };
    if r.bits().is_multiple_of(4) {
        let one_in = r.pick(&[1, 3, 40, 1000]);
        cache.spoil(r, one_in);
    }
    let chunk_tokens = r.pick(&[1, 3, 16, 31, 64, 100, 256]);
    let open = with!(backends, 0, |b| LoadedMode::load(b, file, kind, precision, cache.format)
        .expect("the mode loads")
        .before()
        == Before::Predictions);
    let starts = if open { 1 } else { cache.tokens.div_ceil(chunk_tokens) };
    let from = if r.bits().is_multiple_of(3) { chunk_tokens * (r.bits() as usize % starts) } else { 0 };
    let options = Options { chunk_tokens: chunk_tokens as u32, store_ids: !r.bits().is_multiple_of(4), from };

    let [first, second, third] = [(); 3].map(|()| r.bits() as usize % paths);
    let stream = with!(backends, first, |b| cache.encode(b, file, (kind, precision), options))
        .expect("a cache compresses");
    let again = with!(backends, second, |b| cache.encode(b, file, (kind, precision), options))
        .expect("a cache compresses");
    assert!(stream == again, "{} and {} wrote different bytes", backends.name(first), backends.name(second));
    let (planes, ids) = with!(backends, third, |b| cache.decode(b, file, &stream)).expect("a stream decodes");
    let hd = cache.geometry.head_dim;
    let expected: Vec<_> = cache.planes.iter().map(|p| &p[from * hd..]).collect();
    assert!(planes == expected, "{} restored other codes", backends.name(third));
    assert!(ids == cache.ids[from..], "{} restored other ids", backends.name(third));

    for _ in 0..3 {
        let bad = damage(r, &stream, false);
        let by = r.bits() as usize % paths;
        if bad != stream {
            assert!(
                with!(backends, by, |b| cache.decode(b, file, &bad)).is_err(),
                "{} took a damaged stream",
                backends.name(by)
            );
            totals.damaged += 1;
        }
        let bad = damage(r, &stream, true);
        let by = r.bits() as usize % paths;
        // Whoever puts checksums right may choose ids, scales and what else is not a code; codes that come back are those their checksum is of.
        match with!(backends, by, |b| cache.decode(b, file, &bad)) {
            Ok((planes, _)) => {
                assert!(planes == expected, "{} took a forged stream for other codes", backends.name(by));
                totals.forged[1] += 1;
            }
            Err(_) => totals.forged[0] += 1,
        }
    }
    totals.cases += 1;
    totals.streams += 2;
    totals.decoded += 1;
    let scalars: u64 = expected.iter().map(|p| p.len() as u64).sum();
    totals.scalars += scalars;
    totals.raw += scalars * cache.format.bytes() as u64;
    totals.coded += stream.len() as u64;
    for what in [
        format!("cache {source}"),
        format!("format {}", cache.format.name()),
        format!("predictor {} {precision}", kind.name()),
        format!("chunks of {chunk_tokens}"),
        format!("written by {}", backends.name(first)),
        format!("read by {}", backends.name(third)),
    ] {
        *totals.by.entry(what.trim_end().to_string()).or_default() += 1;
    }
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let alone = args.last().and_then(|last| last.strip_prefix("CASE=")?.parse::<u64>().ok());
    if alone.is_some() {
        args.pop();
    }
    let number = |at: usize| args.get(at).and_then(|s| s.parse::<u64>().ok());
    let (Some(seconds), Some(seed)) = (number(0), number(1)) else {
        eprintln!("usage: soak SECONDS SEED [PROFILE CACHE...] [CASE=N]");
        std::process::exit(2);
    };
    let bytes = args.get(2).map(|path| std::fs::read(path).expect("the profile can be read"));
    let real = bytes.as_ref().map(|bytes| {
        let caches =
            args[3..].iter().map(|path| CacheFile::read(path.as_ref()).expect("a cache file")).collect();
        (ProfileFile::parse(bytes).expect("a profile"), caches)
    });
    let paths: Vec<_> = Path::ALL.into_iter().filter_map(|path| CpuBackend::forced(path).ok()).collect();
    let backends = Backends(Portable::new(), paths);
    let (start, mut totals, mut said) = (Instant::now(), Totals::default(), Duration::ZERO);
    for n in alone.unwrap_or(0).. {
        let done = start.elapsed();
        if done.as_secs() >= seconds && (alone.is_none() || totals.cases > 0) {
            break;
        }
        if done - said >= Duration::from_secs(60) {
            said = done;
            eprint!("{}", totals.report(done.as_secs_f64()).lines().next().unwrap_or_default());
            eprintln!();
        }
        // A number that a panic leaves on the last line.
        let told = Told(n, seed);
        case(
            &mut Random::new(seed ^ n.wrapping_mul(0xD134_2543_DE82_EF95)),
            real.as_ref(),
            &backends,
            &mut totals,
        );
        std::mem::forget(told);
    }
    print!("{}", totals.report(start.elapsed().as_secs_f64()));
}

/// Says which case it was, if that panics.
struct Told(u64, u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!(
            "soak: failed in case {} of seed {}: repeat it with 0 {} ... CASE={}",
            self.0, self.1, self.1, self.0
        );
    }
}
