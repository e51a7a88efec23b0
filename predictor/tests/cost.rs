//! What a profile says its modes cost.

mod common;

use common::edit;
use speckv_predictor::profile::{Kind, PRECISIONS, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make};
use speckv_predictor::work::{self, Dims, Work};

const OPEN: &str = "w8a8+kv16-open";

/// The mode's index among those for 16-bit caches.
fn mode(kind: Kind, precision: &str) -> usize {
    MODES.iter().position(|m| *m == (kind, precision)).unwrap()
}

#[test]
fn work_of_drafts_follows_from_their_tensors() {
    let make = Make::default();
    let bytes = make.profile().unwrap();
    let file = ProfileFile::parse(&bytes).unwrap();
    let dims = Dims { hidden: make.hidden, heads: make.heads, ffn: make.ffn };
    assert_eq!(file.target_dims(), Some(dims));
    // Whether their tensors are their own or those of the network they fall back on.
    for (named, closed, name) in
        PRECISIONS.map(|p| (p, true, p.name)).into_iter().chain([(PRECISIONS[0], false, OPEN)])
    {
        let expected =
            work::draft(make.geometry, dims, named.weights, named.activations, make.wide, 2, closed);
        let at = mode(Kind::Draft, name);
        assert_eq!([at, at + MODES.len()].map(|at| file.work(at).unwrap()), [expected; 2], "{name}");
    }
    assert_eq!(file.work(mode(Kind::Static, "")).unwrap(), Work::default());
    assert!(file.work(2 * MODES.len()).unwrap_err().to_string().contains("no mode"));
}

#[test]
fn work_of_chains_by_hand() {
    let bytes = Make::default().profile().unwrap();
    let file = ProfileFile::parse(&bytes).unwrap();
    // 3 layers of 4 planes of 16 columns: regressions to 3, 2 and 1 later planes, of innovations of two digits; 64 predictions from 32 keys and
    // 32 values of one earlier layer, then of two.
    let none = 3 * (3 + 2 + 1) * 16 * 16 * 2 + (2 + 4) * 64 * 32;
    assert_eq!(file.work(mode(Kind::Chain, "no-ids")).unwrap(), Work { per_token: none, per_pair: 0 });
    // 64 from 40 of the token in two digits, by weights of two digits in the first layer and of one in the others.
    let ids = none + 64 * 40 * 2 * (2 + 1 + 1);
    let at = mode(Kind::Chain, "ids");
    // That for 8-bit caches has the weights of that for 16-bit ones.
    for at in [at, at + MODES.len()] {
        assert_eq!(file.work(at).unwrap(), Work { per_token: ids, per_pair: 0 });
    }
}

#[test]
fn a_profile_of_one_layer_has_keys_and_values_alone() {
    let geometry = speckv_predictor::core::Geometry { layers: 1, kv_heads: 1, head_dim: 8 };
    let make = Make { geometry, wide: 0, ..Make::default() };
    let bytes = make.profile().unwrap();
    let work = ProfileFile::parse(&bytes).unwrap().work(mode(Kind::Draft, PRECISIONS[0].name)).unwrap();
    // K and V in two digits on both sides; one regression, of innovations of two digits.
    assert_eq!(work, Work { per_token: (16 * make.hidden * 4 + 8 * 8 * 2) as u64, per_pair: 0 });
}

#[test]
fn bytes_of_predictors_count_shared_tensors_once_and_unused_ones_never() {
    let make = Make::default();
    let bytes = make.profile().unwrap();
    let file = ProfileFile::parse(&bytes).unwrap();
    let g = make.geometry;
    let bytes = |kind, precision| file.mode_bytes(mode(kind, precision));
    let planes = g.layers * 2 * g.kv_heads;
    // Channel scales, token scales, shapes, means, steps.
    let tables = planes * (2 * g.head_dim + 4 * 9) + g.layers * 2 * 66 * 4;
    let mean = 4 * planes * g.head_dim;
    assert_eq!(bytes(Kind::Static, ""), tables + mean + 8 * g.head_dim / 2);
    // The embedding in two digits, a scale a row; three layers of 64 x 40, the first in two digits, a scale an output.
    let ids = 50 * (2 * 40 + 4) + 64 * (40 * (2 + 1 + 1) + 3 * 4);
    assert_eq!(bytes(Kind::Chain, "ids") - bytes(Kind::Chain, "no-ids"), ids);
    assert_eq!(file.mode_bytes(mode(Kind::Chain, "ids") + MODES.len()), bytes(Kind::Chain, "ids"));
    // The K and V projections of `w8a8` have one digit, the rest is that of the first network; so is all of `w8a16+kv16`.
    let [first, w8a8, w8a16, w16a16] = PRECISIONS.map(|p| bytes(Kind::Draft, p.name));
    assert_eq!([first - w8a8, first], [g.layers * 64 * 40, w8a16]);
    // Queries, output, gate and up, down of the inner layers have a second digit.
    assert_eq!(w16a16 - first, (g.layers - 1) * 40 * (64 + 64 + 96 + 48));
    assert_eq!(file.mode_bytes(999), 0);
}

#[test]
fn a_tensor_falls_back_whole_and_tables_never() {
    let make = Make { qk_norm: false, ..Make::default() };
    let bytes = make.profile().unwrap();
    let drafts = |bytes: &[u8]| {
        let file = ProfileFile::parse(bytes).unwrap();
        [0, 1].map(|p| file.mode_bytes(mode(Kind::Draft, PRECISIONS[p].name)))
    };
    let (whole, bias) = (drafts(&bytes), 4 * 64);
    let without = |gone: &[&str]| {
        edit(&bytes, |_, tensors| gone.iter().for_each(|n| assert!(tensors.remove(*n).is_some())))
    };
    // A network's own matrix without a bias has none, whatever its base has.
    let plain = without(&["net.1.layers.0.kv.bias"]);
    assert_eq!(drafts(&plain), [whole[0], whole[1] - bias]);
    // Without scales all of it is the base's: here of two digits.
    let based = without(&["net.1.layers.0.kv.m"]);
    assert_eq!(drafts(&based), [whole[0], whole[1] + 64 * 40]);
    let file = ProfileFile::parse(&based).unwrap();
    assert_eq!(file.net_tensor(1, 0, "kv"), "net.0.layers.0.kv");
    // Values, scales and bias of the base's tensor alone are read: what is left of the network's own is not counted.
    let rest = without(&["net.1.layers.0.kv.m", "net.1.layers.0.kv.e", "net.1.layers.0.kv.q"]);
    assert_eq!(drafts(&rest), drafts(&based));
    // Means of a chain are its own even where its matrices are the base's.
    let at = mode(Kind::Chain, "ids") + MODES.len();
    let mean = format!("mode.{at}.mean");
    let meanless = without(&[&mean]);
    let file = ProfileFile::parse(&bytes).unwrap();
    let left = ProfileFile::parse(&meanless).unwrap();
    assert_eq!(file.mode_bytes(at) - left.mode_bytes(at), 4 * make.geometry.layers * 64);
    assert!(left.mode_tensor(at, 1, "past.1.key").starts_with(&format!("mode.{}.", at - MODES.len())));
}
