//! Fits the static predictor: means of values and of keys before RoPE.

use speckv_codec_core::Part;
use speckv_predictor::Static;
use speckv_predictor::backend::{Backend, Rotary};
use speckv_predictor::predict::Predict;
use speckv_predictor::profile::{Description, Kind, Mode, Precision, ProfileWriter};

use crate::corpus::Sequence;
use crate::mode::{Ablation, Pricer};
use crate::{Error, Progress};

/// Means of a layer's keys (before RoPE) and values over all sequences, `kv_heads * head_dim` each, in the layer's fixed point.
pub fn means<B: Backend>(
    b: &B,
    about: &Description,
    pricer: &Pricer<'_, B>,
    steps: &[u64],
    sequences: &[Sequence],
    layer: usize,
) -> [Vec<i32>; 2] {
    let (hd, heads) = (about.head_dim, about.kv_heads);
    let total: usize = sequences.iter().map(|s| s.cache.tokens).sum();
    let back = Rotary { head_dim: hd, steps, start: 0, inverse: true };
    [Part::Key, Part::Value].map(|part| {
        let mut sums = vec![0i64; heads * hd];
        for s in 0..sequences.len() {
            for head in 0..heads {
                let mut x = pricer.values(b, s, (layer, part, head));
                if part == Part::Key {
                    x = b.rope(&x, 0..hd, &back);
                }
                b.download(&x).data.chunks_exact(hd).for_each(|row| {
                    sums[head * hd..].iter_mut().zip(row).for_each(|(s, v)| *s += *v as i64);
                });
            }
        }
        sums.iter().map(|s| (s / total as i64) as i32).collect()
    })
}

/// Adds a static mode for the sequences' element format.
pub fn fit<B: Backend>(
    b: &B,
    about: &mut Description,
    out: &mut ProfileWriter,
    steps: &[u64],
    sequences: &[Sequence],
    without: Ablation,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let (hd, heads) = (about.head_dim, about.kv_heads);
    let mut pricer = Pricer::<B>::new(about, sequences, without)?;
    let mut means = Vec::new();
    for layer in 0..about.layers {
        progress("fit static", layer as u64, about.layers as u64);
        means.push(self::means(b, about, &pricer, steps, sequences, layer));
    }
    let mut predictor = Static::new(means.clone(), hd, steps.to_vec());
    for layer in 0..about.layers {
        progress("price static", layer as u64, about.layers as u64);
        for part in [Part::Key, Part::Value] {
            for head in 0..heads {
                let mut mu = Vec::new();
                for s in sequences {
                    Predict::<B>::begin(&mut predictor, b, 0, s.cache.tokens, &[])?;
                    mu.push(predictor.predict(b, layer, part, head));
                }
                pricer.plane(b, (layer, part, head), &mu, &vec![None; mu.len()], |_, seen| {
                    b.learn(seen, None).0
                });
            }
        }
        pricer.end_layer(true);
    }
    let mode = about.modes.len();
    let class = Precision::of(sequences[0].cache.format);
    about.modes.push(Mode {
        kind: Kind::Static,
        precision: String::new(),
        class,
        net: None,
        residual_digits: 1,
        feedback: false,
        base: None,
        depth: 0,
        ids: false,
    });
    let flat: Vec<i32> = means.into_iter().flatten().flatten().collect();
    out.i32s(&format!("mode.{mode}.mean"), &[about.layers, 2, heads * hd], &flat);
    pricer.tables.save(out, mode);
    Ok(())
}
