//! A linear map with bf16 weights.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::arithmetic::Arithmetic;
use super::ops;
use crate::error::{Error, Result};

/// Weights widened to f32 at a time: 16 MiB, so that a large matrix is never held twice, and its widening
/// costs next to nothing beside the product.
const SLAB: usize = 1 << 22;

/// `y = x W^T + b`; W `[outputs, inputs]` in bf16.
pub(super) struct Linear {
    inputs: usize,
    outputs: usize,
    weight: Vec<bf16>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Rounds `weight`, `[outputs, inputs]`, to bf16. `bias` must hold bf16 values.
    pub(super) fn new(weight: &Tensor, bias: Option<Vec<f32>>) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = with_f32(weight, |all| all.iter().map(|x| bf16::from_f32(*x)).collect())?;
        Ok(Linear { inputs, outputs, weight, bias })
    }

    /// The rows with these numbers, widened: `[ids, inputs]`. Every id must be below the number of outputs.
    pub(super) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let row = |&id: &u32| &self.weight[id as usize * self.inputs..][..self.inputs];
        ids.iter().flat_map(row).map(|w| w.to_f32()).collect()
    }

    /// `x`, `[tokens, inputs]`, to `[tokens, outputs]`: summed in f32, bias added, then rounded once.
    pub(super) fn apply(&self, x: &[f32], arithmetic: Arithmetic) -> Result<Vec<f32>> {
        let tokens = x.len() / self.inputs;
        let mut x = x.to_vec();
        arithmetic.round_activations(&mut x, self.inputs);
        let x = Tensor::from_vec(x, (tokens, self.inputs), &Device::Cpu)?;
        let mut y = vec![0.0f32; tokens * self.outputs];
        let slab_rows = arithmetic.whole_blocks((SLAB / self.inputs).clamp(1, self.outputs));
        for (slab, weights) in self.weight.chunks(slab_rows * self.inputs).enumerate() {
            let first = slab * slab_rows;
            let rows = weights.len() / self.inputs;
            let mut wide: Vec<f32> = weights.par_iter().with_min_len(1 << 14).map(|w| w.to_f32()).collect();
            arithmetic.round_weights(&mut wide, self.inputs);
            let w = Tensor::from_vec(wide, (rows, self.inputs), &Device::Cpu)?;
            let product = x.matmul(&w.t()?)?;
            let bias = self.bias.as_ref().map(|b| &b[first..first + rows]);
            with_f32(&product, |product| {
                let out = y.par_chunks_mut(self.outputs).zip(product.par_chunks(rows));
                out.with_min_len(16).for_each(|(y, p)| {
                    let y = &mut y[first..first + rows];
                    match bias {
                        Some(b) => (0..rows).for_each(|i| y[i] = ops::bf16(p[i] + b[i])),
                        None => (0..rows).for_each(|i| y[i] = ops::bf16(p[i])),
                    }
                });
            })?;
        }
        Ok(y)
    }
}

/// Lends the numbers of a contiguous f32 tensor on the CPU without copying them.
pub(super) fn with_f32<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(all)), Some((start, end))) => Ok(read(&all[start..end])),
        _ => Err(Error::Compute(candle_core::Error::Msg("expected contiguous f32 on the CPU".to_owned()))),
    }
}
