//! What a profile was fitted on and what it reaches on sequences that no fit saw, in bits of real streams.

use serde_json::{Value, json};
use speckv_codec_core::Part;
use speckv_predictor::Backend;
use speckv_predictor::codec::{CacheView, LoadedMode, Options as CodecOptions, compress};
use speckv_predictor::profile::{Precision, ProfileFile};

use crate::corpus::{Sequence, scale_bits};
use crate::{Error, Progress};

/// What goes into the profile about its calibration.
pub fn fitted(sequences: &[Sequence], kept: usize) -> Value {
    json!({
        "sequences": sequences.len(),
        "tokens": sequences.iter().map(|s| s.cache.tokens).sum::<usize>(),
        "kept_out": kept,
    })
}

/// Bits per scalar of a sequence's whole stream.
pub fn measure<B: Backend>(b: &B, mode: &LoadedMode<'_, B>, sequence: &Sequence) -> Result<f64, Error> {
    let c = &sequence.cache;
    let view = CacheView {
        format: c.format,
        geometry: speckv_codec_core::Geometry {
            layers: c.layers,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
        },
        tokens: c.tokens,
        scales: scale_bits(c),
        ids: Some(&sequence.ids),
        codes: &|layer, part: Part, head, tokens| {
            let all = sequence.codes(layer, part, head);
            all[tokens.start * c.head_dim..tokens.end * c.head_dim].to_vec()
        },
    };
    let stream = compress(b, mode, &view, CodecOptions::default(), &mut |_, _| {})?;
    let scalars = 2 * c.layers * c.kv_heads * c.head_dim * c.tokens;
    Ok(8.0 * stream.len() as f64 / scalars as f64)
}

/// The report of a finished profile over sequences kept out of its fit, 16-bit and fp8.
pub fn report<B: Backend>(
    b: &B,
    profile: &[u8],
    kept: &[Vec<Sequence>],
    progress: Progress<'_>,
) -> Result<Value, Error> {
    let file = ProfileFile::parse(profile)?;
    let mut modes = Vec::new();
    for (i, mode) in file.description.modes.iter().enumerate() {
        progress("measure", i as u64, file.description.modes.len() as u64);
        let set = &kept[usize::from(mode.class == Precision::Coarse)];
        let mut rates = Vec::new();
        if let Some(first) = set.first() {
            let loaded = LoadedMode::load(b, &file, mode.kind, &mode.precision, first.cache.format)?;
            for s in set {
                rates.push(measure(b, &loaded, s)?);
            }
        }
        let mean = (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64);
        modes.push(json!({
            "predictor": mode.kind.name(),
            "precision": mode.precision,
            "caches": if mode.class == Precision::Fine { "16-bit" } else { "fp8" },
            "needs_token_ids": mode.ids,
            "kept_out_bits_per_scalar": mean,
        }));
    }
    let digest: String = file.digest.iter().map(|b| format!("{b:02x}")).collect();
    Ok(json!({
        "target": file.description.target,
        "profile_bytes": profile.len(),
        "digest": digest,
        "fitted": file.description.fitted,
        "modes": modes,
    }))
}
