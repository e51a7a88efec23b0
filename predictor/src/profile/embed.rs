//! Token ids to vectors.

use alloc::vec::Vec;

use super::ProfileFile;
use super::file::{digit_values, wrong};
use crate::backend::Backend;
use crate::data::Ints;
use crate::error::Error;
use crate::fixed::{Scale, scaled};

/// What embedding tokens takes: the ids of the table's rows where it is listed, and either the rows' scales or the backend's own table.
pub struct Embedded<B: Backend> {
    scales: Vec<Scale>,
    ids: Option<Vec<i32>>,
    table: Option<B::Matrix>,
}

impl ProfileFile<'_> {
    /// Reads what [`ProfileFile::embed`] needs.
    pub fn embedding<B: Backend>(&self, b: &B) -> Result<Embedded<B>, Error> {
        let Some(about) = &self.description.embedding else {
            return Err(Error::Profile("there is no embedding".into()));
        };
        let ids = about.listed.then(|| self.i32s("embed.ids", &[about.rows])).transpose()?;
        if ids.as_ref().is_some_and(|ids| !ids.is_sorted_by(|a, b| a < b)) {
            return Err(wrong("embed.ids", "ids do not ascend"));
        }
        let table = || b.load(self.weights("embed", about.rows, about.width)?);
        let table = b.looks_up().then(table).transpose()?;
        Ok(Embedded { scales: self.scales("embed", about.rows)?, ids, table })
    }

    /// The vectors of tokens, `[tokens, width]`, in the embedding's fixed point.
    ///
    /// # Errors
    /// [`Error::Input`] if there is not one id a token, or one lies outside the target's vocabulary (a listed table knows no vocabulary:
    /// ids it does not list are zeros).
    pub fn embed<B: Backend>(
        &self,
        b: &B,
        embedded: &Embedded<B>,
        tokens: usize,
        ids: &[u32],
    ) -> Result<B::Ints, Error> {
        let Some(about) = &self.description.embedding else {
            return Err(Error::Profile("there is no embedding".into()));
        };
        if ids.len() != tokens {
            return Err(Error::Input(alloc::format!(
                "the predictor needs one token id a token: {tokens} tokens, {} ids",
                ids.len()
            )));
        }
        let row = |id: u32| match &embedded.ids {
            Some(listed) => Ok(i32::try_from(id).ok().and_then(|id| listed.binary_search(&id).ok())),
            None if (id as usize) < about.rows => Ok(Some(id as usize)),
            None => Err(Error::Input(alloc::format!(
                "token id {id} is outside the target's vocabulary of {}",
                about.rows
            ))),
        };
        let rows: Vec<Option<usize>> = ids.iter().map(|id| row(*id)).collect::<Result<_, _>>()?;
        if let Some(table) = &embedded.table {
            let outputs: Vec<i32> = rows.iter().map(|row| row.map_or(-1, |r| r as i32)).collect();
            if let Some(found) = b.lookup(table, &outputs) {
                return Ok(found);
            }
        }
        let (view, digits) = self.quantised("embed", about.rows, about.width)?;
        let bytes = about.width * digits.count();
        let mut out = Ints::zeros(tokens, about.width);
        for (row, out) in rows.into_iter().zip(out.data.chunks_exact_mut(about.width)) {
            let Some(row) = row else { continue };
            let values = digit_values(&view.data()[row * bytes..(row + 1) * bytes], digits);
            if values.iter().any(|q| q.unsigned_abs() as i32 > digits.levels()) {
                return Err(wrong("embed", "value out of range"));
            }
            out.iter_mut()
                .zip(values)
                .for_each(|(out, q)| *out = scaled(q as i32, embedded.scales[row], Scale::ONE));
        }
        Ok(b.upload(out))
    }
}
