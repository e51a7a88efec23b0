//! Token ids to vectors.

use alloc::vec::Vec;

use super::ProfileFile;
use super::file::{digit_values, wrong};
use crate::data::Ints;
use crate::error::Error;
use crate::fixed::{Scale, scaled};

/// What reading rows of the embedding takes: their scales, and the ids they are of where the table is listed.
pub struct Embedded {
    scales: Vec<Scale>,
    ids: Option<Vec<i32>>,
}

impl ProfileFile<'_> {
    /// Reads what [`ProfileFile::embed`] needs.
    pub fn embedding(&self) -> Result<Embedded, Error> {
        let Some(about) = &self.description.embedding else {
            return Err(Error::Profile("there is no embedding".into()));
        };
        let ids = about.listed.then(|| self.i32s("embed.ids", &[about.rows])).transpose()?;
        if ids.as_ref().is_some_and(|ids| !ids.is_sorted_by(|a, b| a < b)) {
            return Err(wrong("embed.ids", "ids do not ascend"));
        }
        Ok(Embedded { scales: self.scales("embed", about.rows)?, ids })
    }

    /// The vectors of tokens, `[tokens, width]`, in the embedding's fixed point.
    ///
    /// # Errors
    /// [`Error::Input`] if there is not one id a token, or one lies outside the target's vocabulary (a listed table knows no vocabulary:
    /// ids it does not list are zeros).
    pub fn embed(&self, embedded: &Embedded, tokens: usize, ids: &[u32]) -> Result<Ints, Error> {
        let Some(about) = &self.description.embedding else {
            return Err(Error::Profile("there is no embedding".into()));
        };
        if ids.len() != tokens {
            return Err(Error::Input(alloc::format!(
                "the predictor needs one token id a token: {tokens} tokens, {} ids",
                ids.len()
            )));
        }
        let (view, digits) = self.quantised("embed", about.rows, about.width)?;
        let bytes = about.width * digits.count();
        let mut out = Ints::zeros(tokens, about.width);
        for (id, out) in ids.iter().zip(out.data.chunks_exact_mut(about.width)) {
            let row = match &embedded.ids {
                Some(listed) => match i32::try_from(*id).map(|id| listed.binary_search(&id)) {
                    Ok(Ok(row)) => row,
                    _ => continue,
                },
                None if (*id as usize) < about.rows => *id as usize,
                None => {
                    return Err(Error::Input(alloc::format!(
                        "token id {id} is outside the target's vocabulary of {}",
                        about.rows
                    )));
                }
            };
            let values = digit_values(&view.data()[row * bytes..(row + 1) * bytes], digits);
            if values.iter().any(|q| q.unsigned_abs() as i32 > digits.levels()) {
                return Err(wrong("embed", "value out of range"));
            }
            out.iter_mut()
                .zip(values)
                .for_each(|(out, q)| *out = scaled(q as i32, embedded.scales[row], Scale::ONE));
        }
        Ok(out)
    }
}
