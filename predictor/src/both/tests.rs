//! Equal backends work as one; the first difference of unequal ones is named.

use super::*;
use crate::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use crate::portable::Portable;
use crate::profile::{Kind, ProfileFile};
use crate::synthetic::{MODES, Make, Random};
use speckv_codec_core::Limits;

/// What a mode makes of a made-up cache.
fn stream<B: Backend>(b: &B, (kind, precision): (Kind, &str)) -> Result<Vec<u8>, Error> {
    let (make, tokens, format) = (Make::default(), 40, ElementFormat::E4m3);
    let bytes = make.profile()?;
    let file = ProfileFile::parse(&bytes)?;
    let mode = LoadedMode::load(b, &file, kind, precision, format)?;
    let (hd, mut r) = (make.geometry.head_dim, Random(6));
    let planes: Vec<_> = (0..make.geometry.planes()).map(|_| make.codes(&mut r, format, tokens)).collect();
    let ids: Vec<u32> = (0..tokens).map(|_| (r.bits() % make.vocab as u64) as u32).collect();
    let codes =
        |l, p, h, t: Range<usize>| planes[make.geometry.plane(l, p, h)][t.start * hd..t.end * hd].to_vec();
    let scales = alloc::vec![0x3F99_999A; 2 * make.geometry.layers];
    let view = CacheView { format, geometry: make.geometry, tokens, scales, ids: Some(&ids), codes: &codes };
    let out = compress(b, &mode, &view, Options { chunk_tokens: 16, ..Options::default() }, &mut |_, _| {})?;
    let parsed = parse(&out, &Limits::default())?;
    let mut sink = |l, p, h, at: usize, found: &[u16]| {
        assert_eq!(found, codes(l, p, h, at..at + found.len() / hd));
    };
    decompress(b, &mode, &parsed, Known::default(), &mut sink, &mut |_, _| {})?;
    Ok(out)
}

#[test]
fn equal_backends_work_as_one() {
    for mode in MODES {
        let both = Both::new(Portable::new(), Portable::new());
        assert_eq!(stream(&both, mode), stream(&Portable::new(), mode), "{mode:?}");
        assert_eq!(both.difference(), None);
    }
}

/// A definition with one number of a table off by a little: only operations that read it can differ.
#[test]
fn the_first_difference_is_named() {
    let spoil = |what: usize| {
        let mut b = Portable::new();
        let tables = b.tables_mut();
        let all = [&mut tables.sine, &mut tables.exp2, &mut tables.logistic];
        all[what].iter_mut().for_each(|x| *x += 1 << 20);
        b
    };
    for (what, operation) in ["rope", "attention", "activate"].into_iter().enumerate() {
        let both = Both::new(Portable::new(), spoil(what));
        let error = stream(&both, MODES[3]).unwrap_err();
        let found = both.difference().expect("they differ");
        assert_eq!(error, Error::Backend(found.to_string()));
        assert_eq!((found.operation, found.place.layer, found.place.token), (operation, 0, 0));
        // Keys are rotated in each plane; attention and MLP come after all of them.
        assert_eq!(found.place.plane.is_some(), operation == "rope", "{found}");
        assert_ne!(found.found[0], found.found[1]);
        let text = found.to_string();
        assert!(text.starts_with(&alloc::format!("`{operation}` differs in layer 0")), "{text}");
        assert!(text.contains("channel") && !text.contains('\n'), "{text}");
    }
}
