//! Any bytes for a profile: an error of one line or a profile, never a panic nor memory out of proportion; a mode that loads codes a small cache to the
//! same bytes on the definition and on a CPU path, and each restores it from them.
//!
//! Half of the inputs are the file, the others say what changes in one that was right.
#![no_main]

use std::ops::Range;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use speckv_fuzz::backends::{PORTABLE, chosen};
use speckv_fuzz::input::many;
use speckv_fuzz::profile::changed;
use speckv_fuzz::{memory, one_line};
use speckv_predictor::Error;
use speckv_predictor::backend::Backend;
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use speckv_predictor::core::{ElementFormat, Geometry, Limits, Part};
use speckv_predictor::profile::{Mode, Precision, ProfileFile};

/// Larger caches would take too long.
const SCALARS: u64 = 4096;

struct Cache<'a> {
    file: &'a ProfileFile<'a>,
    mode: &'a Mode,
    format: ElementFormat,
    geometry: Geometry,
    scales: Vec<u32>,
    ids: Vec<u32>,
    chunk_tokens: u32,
    codes: Vec<u16>,
}

impl<'a> Cache<'a> {
    fn arbitrary(input: &mut Unstructured<'_>, file: &'a ProfileFile<'a>) -> Result<Option<Self>> {
        let about = &file.description;
        let geometry = about.geometry();
        let tokens = input.int_in_range(1..=5)?;
        if about.modes.is_empty() || geometry.scalars_per_token() * tokens as u64 > SCALARS {
            return Ok(None);
        }
        let mode = &about.modes[input.choose_index(about.modes.len())?];
        let second = usize::from(bool::arbitrary(input)?);
        let format = match mode.class {
            Precision::Fine => [ElementFormat::Bf16, ElementFormat::F16][second],
            Precision::Coarse => [ElementFormat::E4m3, ElementFormat::E5m2][second],
        };
        let scale = 0x0080_0000 + u32::arbitrary(input)? % (0x7F80_0000 - 0x0080_0000);
        let scales = if format.width() == 8 { vec![scale; 2 * geometry.layers] } else { Vec::new() };
        let rows = about.embedding.as_ref().map_or(1, |e| e.rows as u32);
        let ids = many(tokens, || Ok(u32::arbitrary(input)? % (rows + 1)))?;
        let chunk_tokens = input.int_in_range(1..=3)?;
        let scalars = geometry.scalars_per_token() as usize * tokens;
        let codes = many(scalars, || Ok(u16::arbitrary(input)? & (((1u32 << format.width()) - 1) as u16)))?;
        Ok(Some(Self { file, mode, format, geometry, scales, ids, chunk_tokens, codes }))
    }

    fn plane(&self, layer: usize, part: Part, head: usize, tokens: Range<usize>) -> Vec<u16> {
        let hd = self.geometry.head_dim;
        let at = self.geometry.plane(layer, part, head) * self.ids.len();
        self.codes[(at + tokens.start) * hd..(at + tokens.end) * hd].to_vec()
    }

    fn load<B: Backend>(&self, b: &B) -> std::result::Result<LoadedMode<'a, B>, Error> {
        LoadedMode::load(b, self.file, self.mode.kind, &self.mode.precision, self.format)
    }

    fn compress<B: Backend>(&self, b: &B) -> std::result::Result<Vec<u8>, Error> {
        let mode = self.load(b)?;
        let view = CacheView {
            format: self.format,
            geometry: self.geometry,
            tokens: self.ids.len(),
            scales: self.scales.clone(),
            ids: Some(&self.ids),
            codes: &|layer, part, head, tokens| self.plane(layer, part, head, tokens),
        };
        let options = Options { chunk_tokens: self.chunk_tokens, ..Options::default() };
        compress(b, &mode, &view, options, &mut |_, _| ())
    }

    fn restore<B: Backend>(&self, b: &B, bytes: &[u8]) {
        let mode = self.load(b).expect("it loaded before");
        let stream = parse(bytes, &Limits::default()).expect("a stream");
        let mut seen = 0;
        let mut sink = |layer, part, head, at: usize, codes: &[u16]| {
            let tokens = at..at + codes.len() / self.geometry.head_dim;
            assert_eq!(codes, self.plane(layer, part, head, tokens));
            seen += codes.len();
        };
        let ids = decompress(b, &mode, &stream, Known::default(), &mut sink, &mut |_, _| ());
        assert_eq!((ids.as_ref(), seen), (Ok(&self.ids), self.codes.len()));
    }
}

fn check(bytes: &[u8], input: &mut Unstructured<'_>) -> Result<()> {
    // Its header as text, as names and as JSON; tensors are not copied.
    let file = match memory::at_most(32 * bytes.len() + (1 << 16), || ProfileFile::parse(bytes)) {
        Ok(file) => file,
        Err(error) => {
            one_line(&error);
            return Ok(());
        }
    };
    let path = chosen(input)?;
    let Some(cache) = Cache::arbitrary(input, &file)? else { return Ok(()) };
    if let Err(error) = memory::at_most(32 * bytes.len() + (1 << 16), || cache.load(&*PORTABLE)) {
        one_line(&error);
    }
    let expected = cache.compress(&*PORTABLE);
    if let Some(path) = path {
        assert!(cache.compress(path) == expected, "{}: other bytes than the definition's", path.name());
    }
    match expected {
        Ok(bytes) => {
            cache.restore(&*PORTABLE, &bytes);
            if let Some(path) = path {
                cache.restore(path, &bytes);
            }
        }
        Err(error) => one_line(&error),
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let mut input = Unstructured::new(rest);
    if how % 2 == 0 {
        _ = check(rest, &mut input);
    } else if let Ok(bytes) = changed(&mut input) {
        _ = check(&bytes, &mut input);
    }
});
