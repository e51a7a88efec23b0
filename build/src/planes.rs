//! Fits what happens inside one layer: regressions between its planes, and prices, in lock-step with the integer loop over all sequences.

use speckv_codec_core::Part;
use speckv_predictor::backend::Backend;
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::layer::Layer;
use speckv_predictor::profile::Description;

use crate::Error;
use crate::mode::Pricer;
use crate::quantise::weights;
use crate::regression::Regression;

/// A sequence's layer, begun, and the log-powers of its predictions.
pub type Begun<'x, 'a, B> = (&'x mut Layer<'a, B>, Option<[&'x <B as Backend>::Ints; 2]>);

/// Fixed point to reals.
pub fn reals(x: &Ints, exponent: i32) -> Vec<f32> {
    let unit = (-exponent as f64).exp2();
    x.data.iter().map(|v| (*v as f64 * unit) as f32).collect()
}

/// Predicts and observes all planes of a layer in every sequence, fitting prices and, with `feedback`, the regressions from each plane to all
/// later ones; returns these.
pub fn fit<B: Backend>(
    b: &B,
    about: &Description,
    layer: usize,
    begun: &mut [Begun<'_, '_, B>],
    pricer: &mut Pricer<'_, B>,
    feedback: bool,
) -> Result<Vec<Weights>, Error> {
    let (hd, exponents) = (about.head_dim, about.exponents[layer]);
    let planes: Vec<(Part, usize)> =
        [Part::Key, Part::Value].into_iter().flat_map(|p| (0..about.kv_heads).map(move |h| (p, h))).collect();
    // Innovations so far: digits for the backend, reals for the fits; [plane][sequence].
    let mut digits: Vec<Vec<B::Rows>> = Vec::new();
    let mut features: Vec<Vec<Vec<f32>>> = Vec::new();
    // blocks[j][k]: from plane j to plane j + 1 + k.
    let mut blocks: Vec<Vec<Vec<f32>>> = planes.iter().map(|_| Vec::new()).collect();
    for (j, &(part, head)) in planes.iter().enumerate() {
        let exponent = exponents[part as usize];
        if feedback && j > 0 {
            let mut regression = Regression::new(j * hd, hd);
            for (s, (loop_, _)) in begun.iter().enumerate() {
                let at = loop_.column(part, head);
                let raw = reals(&b.download(&b.columns(loop_.prediction(), at..at + hd)), exponent);
                let mut y = pricer.truth(b, s, (layer, part, head), &loop_.rotary(true));
                y.iter_mut().zip(&raw).for_each(|(y, r)| *y -= r);
                let tokens = y.len() / hd;
                let mut x = vec![0.0; tokens * j * hd];
                for (i, f) in features.iter().enumerate() {
                    for t in 0..tokens {
                        x[(t * j + i) * hd..][..hd].copy_from_slice(&f[s][t * hd..(t + 1) * hd]);
                    }
                }
                regression.add(x, y);
            }
            let w = regression.solve()?;
            for (i, rows) in digits.iter().enumerate() {
                let block: Vec<f32> = w
                    .chunks_exact(j * hd)
                    .flat_map(|row| row[i * hd..(i + 1) * hd].iter().copied())
                    .collect();
                let matrix = b.load(weights(&block, hd, Digits::One, |_| exponent, None))?;
                for ((loop_, _), rows) in begun.iter_mut().zip(rows) {
                    let column = loop_.column(part, head);
                    loop_.regress(b, rows, column, &matrix);
                }
                blocks[i].push(block);
            }
        }
        let means: Vec<B::Ints> = begun.iter().map(|(l, _)| l.predict(b, part, head)).collect();
        let powers: Vec<_> = begun.iter().map(|(_, p)| *p).collect();
        let (mut rows, mut real) = (Vec::new(), Vec::new());
        pricer.plane(b, (layer, part, head), &means, &powers, |s, seen| {
            let (energy, innovation) = begun[s].0.observe(b, (layer, part, head), seen, feedback);
            rows.extend(innovation);
            if feedback {
                let one = b.columns(begun[s].0.innovation(part), head * hd..(head + 1) * hd);
                real.push(reals(&b.download(&one), exponent));
            }
            energy
        });
        digits.push(rows);
        features.push(real);
    }
    if !feedback {
        return Ok(Vec::new());
    }
    let merged = blocks[..planes.len() - 1].iter().enumerate().map(|(j, blocks)| {
        let to = |o: usize| exponents[planes[j + 1 + o / hd].0 as usize];
        weights(&blocks.concat(), hd, Digits::One, to, None)
    });
    Ok(merged.collect())
}
