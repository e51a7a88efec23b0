//! What profiles readers refuse, and tables of tokens that list their ids.

mod common;

use common::edit;
use serde_json::{Value, json};
use speckv_predictor::codec::{CacheView, Known, LoadedMode, Options, compress, decompress, parse};
use speckv_predictor::core::{ElementFormat, Limits};
use speckv_predictor::data::MAX_INPUTS;
use speckv_predictor::fixed::{Scale, scaled};
use speckv_predictor::profile::{Kind, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make, Random};
use speckv_predictor::{Error, Portable};

const FORMAT: ElementFormat = ElementFormat::Bf16;

/// What is wrong with a made-up profile after a change of its description; nothing, if nothing is.
fn wrong(make: Make, change: impl FnOnce(&mut Value)) -> String {
    let bytes = edit(&make.profile().unwrap(), |about, _| change(about));
    ProfileFile::parse(&bytes).err().map_or(String::new(), |e| e.to_string())
}

fn refused(says: &str, change: impl FnOnce(&mut Value)) {
    let error = wrong(Make::default(), change);
    assert!(
        error.starts_with("profile: ") && error.contains(says) && !error.contains('\n'),
        "{says}: {error}"
    );
}

/// The modes among [`MODES`] that the tests change.
const STATIC: usize = 0;
const CHAIN: usize = 1;
const DRAFT: usize = 3;

#[test]
fn what_does_not_go_together_is_refused() {
    assert_eq!(wrong(Make::default(), |_| ()), "");
    let mode =
        |at: usize, key: &'static str, value: Value| refused("mode", move |d| d["modes"][at][key] = value);
    mode(CHAIN, "base", json!(CHAIN));
    mode(CHAIN, "base", json!(MODES.len()));
    mode(CHAIN, "net", json!(0));
    mode(CHAIN, "feedback", json!(false));
    mode(CHAIN, "depth", json!(65));
    mode(CHAIN, "residual_digits", json!(3));
    mode(DRAFT, "ids", json!(false));
    mode(DRAFT, "net", json!(4));
    mode(DRAFT, "net", json!(null));
    mode(STATIC, "feedback", json!(true));
    mode(STATIC, "ids", json!(true));
    mode(STATIC, "net", json!(0));
    // Words of the file are quoted on one line.
    refused("unknown variant `no\\nname\\u{1b}`", |d| d["modes"][CHAIN]["kind"] = json!("no\nname\u{1b}"));
    refused("version 3 (this reader knows 2)", |d| d["version"] = json!(3));
    refused("base of a network", |d| d["nets"][1]["base"] = json!(1));
    refused("Hadamard", |d| d["nets"][0]["hadamard_down"] = json!(5));
    // A network runs on every id there is.
    refused("embedding or base of a network", |d| d["embedding"]["listed"] = json!(true));
    refused("embedding or base of a network", |d| d["embedding"] = json!(null));
    // So does a chain with ids on some.
    refused("mode", |d| {
        d["embedding"] = json!(null);
        d["nets"] = json!([]);
        d["modes"].as_array_mut().unwrap().truncate(DRAFT);
    });
    let good = wrong(Make::default(), |d| {
        d["modes"][CHAIN]["depth"] = json!(64);
        d["modes"][CHAIN + 1]["base"] = json!(CHAIN);
    });
    assert_eq!(good, "");
}

/// Backends differ in how long a product they can sum up: what one may refuse, all refuse.
#[test]
fn matrices_of_too_many_inputs_are_refused() {
    let says = |found: usize| format!("{found} inputs of a matrix (at most {MAX_INPUTS})");
    refused(&says(MAX_INPUTS + 1), |d| d["nets"][2]["ffn"] = json!(MAX_INPUTS + 1));
    // Heads of 16 columns.
    refused(&says(MAX_INPUTS + 32), |d| d["nets"][1]["heads"] = json!(MAX_INPUTS / 16 + 2));
    refused("network geometry", |d| d["nets"][0]["hidden"] = json!(MAX_INPUTS));
    refused("embedding", |d| d["embedding"]["width"] = json!(MAX_INPUTS));
    let many = |modes: usize| {
        wrong(Make::default(), move |d| {
            (d["kv_heads"], d["head_dim"]) = (json!(MAX_INPUTS / 64 + 1), json!(64));
            d["nets"] = json!([]);
            d["modes"].as_array_mut().unwrap().truncate(modes);
        })
    };
    // Keys of a layer are no inputs of anything without the loop.
    assert_eq!(many(CHAIN), "");
    assert!(many(CHAIN + 1).contains(&says(MAX_INPUTS + 64)));
    let at_the_limit = |d: &mut Value| {
        (d["nets"][0]["ffn"], d["nets"][0]["heads"]) = (json!(MAX_INPUTS), json!(MAX_INPUTS / 16));
        d["nets"][0]["hadamard_down"] = json!(16);
    };
    assert_eq!(wrong(Make::default(), at_the_limit), "");
}

/// A profile without networks whose embedding has rows for some ids only.
fn listed(ids: &[i32], eps: bool) -> Vec<u8> {
    let make = Make { vocab: ids.len(), ..Make::default() };
    edit(&make.profile().unwrap(), |about, tensors| {
        about["modes"].as_array_mut().unwrap().truncate(DRAFT);
        about["nets"] = json!([]);
        about["embedding"]["listed"] = json!(true);
        if !eps {
            about["embedding"]["eps"] = json!(null);
        }
        let bytes = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
        tensors.insert("embed.ids".into(), (safetensors::Dtype::I32, vec![ids.len()], bytes));
    })
}

const LISTED: [i32; 4] = [-1, 5, 9, i32::MAX];

#[test]
fn listed_ids_have_their_rows_and_others_zeros() {
    let bytes = listed(&LISTED, true);
    let file = ProfileFile::parse(&bytes).unwrap();
    let (embedded, width) = (file.embedding(&Portable::new()).unwrap(), Make::default().hidden);
    let ids = [9, 6, 5, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX, 0];
    let x = file.embed(&Portable::new(), &embedded, ids.len(), &ids).unwrap();
    let table = file.weights("embed", LISTED.len(), width).unwrap();
    for (t, row) in [Some(2), None, Some(1), Some(3), None, None, None].into_iter().enumerate() {
        let expected = row.map_or(vec![0; width], |row: usize| {
            let q = &table.values[row * width..][..width];
            q.iter().map(|q| scaled(i32::from(*q), table.scales[row], Scale::ONE)).collect()
        });
        assert!(x.row(t) == expected, "token {t}, id {}", ids[t]);
        assert_eq!(row.is_some(), x.row(t).iter().any(|v| *v != 0));
    }
    assert!(matches!(file.embed(&Portable::new(), &embedded, 3, &ids), Err(Error::Input(_))));

    let plain = Make::default().profile().unwrap();
    let file = ProfileFile::parse(&plain).unwrap();
    let error = file
        .embed(&Portable::new(), &file.embedding(&Portable::new()).unwrap(), 1, &[50])
        .unwrap_err()
        .to_string();
    assert!(error.contains("token id 50 is outside the target's vocabulary of 50"), "{error}");
}

#[test]
fn lists_of_ids_must_ascend() {
    for ids in [[5, 5, 9, 10], [9, 5, 10, 11], [0, 1, 2, -3]] {
        let bytes = listed(&ids, true);
        let error = ProfileFile::parse(&bytes).unwrap().embedding(&Portable::new()).err().unwrap();
        assert!(error.to_string().contains("ids do not ascend"), "{error}");
    }
}

#[test]
fn chains_on_listed_ids_round_trip_with_and_without_a_norm() {
    let (make, b, tokens) = (Make::default(), Portable::new(), 40);
    let mut r = Random(3);
    let planes: Vec<Vec<u16>> =
        (0..make.geometry.planes()).map(|_| make.codes(&mut r, FORMAT, tokens)).collect();
    let hd = make.geometry.head_dim;
    let ids: Vec<u32> = (0..tokens as u32).map(|t| [5, 6, 9, u32::MAX][t as usize % 4]).collect();
    let codes = |l, p, h, t: std::ops::Range<usize>| {
        planes[make.geometry.plane(l, p, h)][t.start * hd..t.end * hd].to_vec()
    };
    let payload = |eps: bool| {
        let bytes = listed(&LISTED, eps);
        let file = ProfileFile::parse(&bytes).unwrap();
        let mode = LoadedMode::load(&b, &file, Kind::Chain, "ids", FORMAT).unwrap();
        let view = CacheView {
            format: FORMAT,
            geometry: make.geometry,
            tokens,
            scales: Vec::new(),
            ids: Some(&ids),
            codes: &codes,
        };
        let stream = compress(&b, &mode, &view, Options::default(), &mut |_, _| {}).unwrap();
        let stream = parse(&stream, &Limits::default()).unwrap();
        let mut seen = 0;
        let mut sink = |l, p, h, at: usize, found: &[u16]| {
            assert_eq!(found, codes(l, p, h, at..at + found.len() / hd));
            seen += found.len();
        };
        let found = decompress(&b, &mode, &stream, Known::default(), &mut sink, &mut |_, _| {}).unwrap();
        assert_eq!((found, seen), (ids.clone(), tokens * hd * planes.len()));
        stream.chunk(0).unwrap().payload.to_vec()
    };
    // The norm takes part in predictions, so in bits.
    assert!(payload(true) != payload(false));
}
