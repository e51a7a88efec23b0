//! Fits the static predictor: means of values and of keys before RoPE.

use speckv_codec_core::Part;
use speckv_predictor::Static;
use speckv_predictor::backend::{Backend, Rotary};
use speckv_predictor::predict::Predict;
use speckv_predictor::profile::{Description, Kind, Mode, Precision, ProfileWriter};

use crate::corpus::Sequence;
use crate::mode::Pricer;
use crate::{Error, Progress};

/// Adds a static mode for the sequences' element format.
pub fn fit<B: Backend>(
    b: &B,
    about: &mut Description,
    out: &mut ProfileWriter,
    steps: &[u64],
    sequences: &[Sequence],
    progress: Progress<'_>,
) -> Result<(), Error> {
    let (hd, heads) = (about.head_dim, about.kv_heads);
    let mut pricer = Pricer::<B>::new(about, sequences)?;
    let steps = steps.to_vec();
    let total: usize = sequences.iter().map(|s| s.cache.tokens).sum();
    let mut means: Vec<[Vec<i32>; 2]> = Vec::new();
    for layer in 0..about.layers {
        progress("fit static", layer as u64, about.layers as u64);
        let both = [Part::Key, Part::Value].map(|part| {
            let mut sums = vec![0i64; heads * hd];
            for (s, _) in sequences.iter().enumerate() {
                for head in 0..heads {
                    let mut x = pricer.values(b, s, (layer, part, head));
                    if part == Part::Key {
                        x = b.rope(
                            &x,
                            0..hd,
                            &Rotary { head_dim: hd, steps: &steps, start: 0, inverse: true },
                        );
                    }
                    let x = b.download(&x);
                    x.data.chunks_exact(hd).for_each(|row| {
                        sums[head * hd..].iter_mut().zip(row).for_each(|(s, v)| *s += *v as i64);
                    });
                }
            }
            sums.iter().map(|s| (s / total as i64) as i32).collect::<Vec<i32>>()
        });
        means.push(both);
    }
    let mut predictor = Static::new(means.clone(), hd, steps);
    for layer in 0..about.layers {
        progress("price static", layer as u64, about.layers as u64);
        for part in [Part::Key, Part::Value] {
            for head in 0..heads {
                let mut mu = Vec::new();
                for s in sequences {
                    Predict::<B>::begin(&mut predictor, b, 0, s.cache.tokens, &[])?;
                    mu.push(predictor.predict(b, layer, part, head));
                }
                let seen = pricer.plane(b, (layer, part, head), &mu, &vec![None; mu.len()]);
                seen.into_iter().enumerate().for_each(|(s, o)| pricer.push(s, part, o.energy));
            }
        }
        pricer.end_layer();
    }
    let mode = about.modes.len();
    let class = Precision::of(sequences[0].cache.format);
    about.modes.push(Mode {
        kind: Kind::Static,
        precision: String::new(),
        class,
        net: None,
        residual_digits: 1,
    });
    let flat: Vec<i32> = means.into_iter().flatten().flatten().collect();
    out.i32s(&format!("mode.{mode}.mean"), &[about.layers, 2, heads * hd], &flat);
    pricer.tables.save(out, mode);
    Ok(())
}
