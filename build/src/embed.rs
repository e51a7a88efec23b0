//! The table that turns token ids into vectors: the target's embedding, or what captured caches tell of it.

use std::collections::BTreeMap;

use speckv_codec_core::Part;
use speckv_predictor::backend::Backend;
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::{Scale, scaled};
use speckv_predictor::profile::{Embedding, ProfileWriter};

use crate::Error;
use crate::corpus::Sequence;
use crate::fold::Fold;
use crate::mode::Pricer;
use crate::planes::reals;
use crate::quantise::{signed, weights};

/// Seldom seen ids are left out of a table learnt from caches: a fit would take their vectors for more certain than those of ids never seen.
const SEEN: usize = 2;

/// Tokens for each of a table's columns that learning it from caches takes.
pub const TOKENS_PER_COLUMN: usize = 16;

/// An embedding and its values.
pub struct Table {
    /// What the profile says of it.
    pub about: Embedding,
    values: Weights,
    ids: Option<Vec<i32>>,
}

impl Table {
    /// The target's embedding in the draft's basis; a chain normalises its rows, as the target's first layer does.
    pub fn of_model(fold: &Fold<'_>, width: usize, exponent: i32, eps: f64) -> Result<Table, Error> {
        let values = weights(&fold.embedding()?, width, Digits::Two, |_| exponent, None);
        let about = Embedding { rows: values.out, width, exponent, listed: false, eps: Some(signed(eps)) };
        Ok(Table { about, values, ids: None })
    }

    /// From caches alone: keys (before RoPE) and values of the first layer depend on nothing but the token, so their mean over a token's
    /// occurrences stands for it. `None` if a sequence has no ids or no id is seen twice.
    pub fn of_caches<B: Backend>(
        b: &B,
        pricer: &Pricer<'_, B>,
        sequences: &[Sequence],
        means: &[Vec<i32>; 2],
        exponents: [i32; 2],
        back: &speckv_predictor::backend::Rotary,
    ) -> Option<Table> {
        let width = means[0].len();
        let mut sums: BTreeMap<u32, (usize, Vec<f64>)> = BTreeMap::new();
        for (s, sequence) in sequences.iter().enumerate() {
            if sequence.ids.len() != sequence.cache.tokens {
                return None;
            }
            let hd = sequence.cache.head_dim;
            for (p, part) in [Part::Key, Part::Value].into_iter().enumerate() {
                let unit = (-exponents[p] as f64).exp2();
                for head in 0..sequence.cache.kv_heads {
                    let x = pricer.truth(b, s, (0, part, head), back);
                    for (id, row) in sequence.ids.iter().zip(x.chunks_exact(hd)) {
                        let (seen, sum) = sums.entry(*id).or_insert_with(|| (0, vec![0.0; 2 * width]));
                        *seen += usize::from(p + head == 0);
                        for (c, v) in row.iter().enumerate() {
                            let at = head * hd + c;
                            sum[p * width + at] += *v as f64 - means[p][at] as f64 * unit;
                        }
                    }
                }
            }
        }
        sums.retain(|id, (seen, _)| *seen >= SEEN && i32::try_from(*id).is_ok());
        let rows: Vec<f32> = sums
            .values()
            .flat_map(|(seen, sum)| sum.iter().map(move |v| (v / *seen as f64) as f32))
            .collect();
        let peak = rows.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let exponent = crate::fold::exponent_for(8.0 * peak as f64);
        let values = weights(&rows, 2 * width, Digits::Two, |_| exponent, None);
        let about = Embedding { rows: values.out, width: 2 * width, exponent, listed: true, eps: None };
        (about.rows > 0).then(|| Table {
            about,
            values,
            ids: Some(sums.keys().map(|id| *id as i32).collect()),
        })
    }

    /// Writes it.
    pub fn save(&self, out: &mut ProfileWriter) {
        out.weights("embed", &self.values);
        if let Some(ids) = &self.ids {
            out.i32s("embed.ids", &[ids.len()], ids);
        }
    }

    /// Vectors of tokens, as [`speckv_predictor::profile::ProfileFile::embed`] gives them.
    pub fn rows(&self, ids: &[u32]) -> Ints {
        let width = self.about.width;
        let mut out = Ints::zeros(ids.len(), width);
        for (id, out) in ids.iter().zip(out.data.chunks_exact_mut(width)) {
            let row = match &self.ids {
                None => *id as usize,
                Some(listed) => match listed.binary_search(&(*id as i32)) {
                    Ok(row) => row,
                    Err(_) => continue,
                },
            };
            let scale = self.values.scales[row];
            out.iter_mut()
                .zip(&self.values.values[row * width..(row + 1) * width])
                .for_each(|(out, q)| *out = scaled(*q as i32, scale, Scale::ONE));
        }
        out
    }

    /// What a chain's regressions see of tokens, as reals.
    pub fn features(&self, ids: &[u32]) -> Vec<f32> {
        let x = reals(&self.rows(ids), self.about.exponent);
        match self.about.eps {
            Some(_) => crate::fold::normalised(x, self.about.width),
            None => x,
        }
    }
}
