//! What a profile says its modes cost.

use speckv_predictor::data::Digits;
use speckv_predictor::profile::{Kind, NetDigits, ProfileFile};
use speckv_predictor::synthetic::{MODES, Make};
use speckv_predictor::work::{self, Dims, Work};

/// The mode's index among those for 16-bit caches.
fn mode(kind: Kind, precision: &str) -> usize {
    MODES.iter().position(|m| *m == (kind, precision)).unwrap()
}

#[test]
fn work_of_drafts_follows_from_their_tensors() {
    for digits in [Digits::One, Digits::Two] {
        let make = Make { digits, ..Make::default() };
        let bytes = make.profile().unwrap();
        let file = ProfileFile::parse(&bytes).unwrap();
        let (n, rest) = (digits.count(), 3 - digits.count());
        let dims = Dims { hidden: make.hidden, heads: make.heads, ffn: make.ffn };
        assert_eq!(file.target_dims(), Some(dims));
        let draft = |weights, activations, closed| {
            work::draft(make.geometry, dims, weights, activations, make.wide, 2, closed)
        };
        let all = NetDigits::new(2, n, n);
        assert_eq!(file.work(mode(Kind::Draft, "test")).unwrap(), draft(all, all, true));
        assert_eq!(file.work(mode(Kind::Draft, "test") + MODES.len()).unwrap(), draft(all, all, true));
        assert_eq!(file.work(mode(Kind::Draft, "open")).unwrap(), draft(all, all, false));
        // Its K and V projections are its own, in one digit; the other weights are those of the first network.
        let other = draft(NetDigits::new(1, n, n), NetDigits::new(1, rest, rest), true);
        assert_eq!(file.work(mode(Kind::Draft, "other")).unwrap(), other);
        assert_eq!(file.work(mode(Kind::Static, "")).unwrap(), Work::default());
        assert!(file.work(2 * MODES.len()).unwrap_err().to_string().contains("no mode"));
    }
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
    assert_eq!(file.work(mode(Kind::Chain, "ids")).unwrap(), Work { per_token: ids, per_pair: 0 });
}

#[test]
fn a_profile_of_one_layer_has_keys_and_values_alone() {
    let geometry = speckv_predictor::core::Geometry { layers: 1, kv_heads: 1, head_dim: 8 };
    let make = Make { geometry, wide: 0, ..Make::default() };
    let bytes = make.profile().unwrap();
    let work = ProfileFile::parse(&bytes).unwrap().work(mode(Kind::Draft, "test")).unwrap();
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
    // The other network's own K and V projections have one digit.
    assert_eq!(bytes(Kind::Draft, "test") - bytes(Kind::Draft, "other"), g.layers * 64 * 40);
    assert_eq!(file.mode_bytes(999), 0);
}
