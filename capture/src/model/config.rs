//! The shape of a target model, whatever file it came from.

use super::rope::Rope;
use crate::error::{Error, Result};

/// The families whose layers this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, Mistral: no biases, no norms inside attention.
    Llama,
    /// Qwen2 and Qwen2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: RMS norms over each head of queries and keys.
    Qwen3,
}

/// The families in words, for error messages.
pub(crate) const FAMILIES: &str = "Llama (SmolLM2, Llama 2/3, Mistral), Qwen2/2.5, Qwen3";

/// Geometry and constants of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which layer layout.
    pub family: Family,
    /// Width of the residual stream, in scalars.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; divides `heads`.
    pub kv_heads: usize,
    /// Scalars per head; even. Not always `hidden / heads`.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Added to the mean square inside every RMS norm.
    pub rms_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The output matrix is the embedding table.
    pub tied_embeddings: bool,
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Queries and keys pass an RMS norm per head before RoPE.
    pub qk_norm: bool,
}

impl ModelConfig {
    /// Refuses geometries no layer could have, so that later arithmetic on them cannot fail.
    pub(crate) fn check(self) -> Result<Self> {
        let counts = [
            ("hidden size", self.hidden),
            ("layers", self.layers),
            ("attention heads", self.heads),
            ("key/value heads", self.kv_heads),
            ("head dimension", self.head_dim),
            ("MLP width", self.ffn),
            ("vocabulary size", self.vocab),
        ];
        // Far above any real model; keeps products of two of these within 64 bits.
        const MOST: usize = 1 << 28;
        if let Some((name, count)) = counts.into_iter().find(|&(_, n)| n == 0 || n > MOST) {
            return Err(Error::unsupported(format!("{name} {count}"), format!("1 to {MOST}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::unsupported(
                format!("{} attention heads over {} key/value heads", self.heads, self.kv_heads),
                "a whole number of attention heads per key/value head",
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::unsupported(
                format!("head dimension {}", self.head_dim),
                "even head dimensions",
            ));
        }
        if !(self.rms_eps >= 0.0 && self.rms_eps.is_finite()) {
            return Err(Error::unsupported(
                format!("RMS norm epsilon {}", self.rms_eps),
                "a finite value not below zero",
            ));
        }
        self.rope.check(self.head_dim)?;
        Ok(self)
    }

    /// Scalars of one token's keys (or values) in one layer.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Scalars of one token's queries in one layer.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Canonical name and shape (`[out, in]` or `[out]`) of every tensor of layer `layer`.
    pub fn layer_tensors(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (h, q, kv, f) = (self.hidden, self.q_width(), self.kv_width(), self.ffn);
        let mut all = vec![
            ("input_layernorm.weight", vec![h]),
            ("self_attn.q_proj.weight", vec![q, h]),
            ("self_attn.k_proj.weight", vec![kv, h]),
            ("self_attn.v_proj.weight", vec![kv, h]),
            ("self_attn.o_proj.weight", vec![h, q]),
            ("post_attention_layernorm.weight", vec![h]),
            ("mlp.gate_proj.weight", vec![f, h]),
            ("mlp.up_proj.weight", vec![f, h]),
            ("mlp.down_proj.weight", vec![h, f]),
        ];
        if self.qkv_bias {
            all.push(("self_attn.q_proj.bias", vec![q]));
            all.push(("self_attn.k_proj.bias", vec![kv]));
            all.push(("self_attn.v_proj.bias", vec![kv]));
        }
        if self.qk_norm {
            all.push(("self_attn.q_norm.weight", vec![self.head_dim]));
            all.push(("self_attn.k_norm.weight", vec![self.head_dim]));
        }
        all.into_iter().map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)).collect()
    }

    /// The shape the canonical tensor `name` must have, or `None` if this model has no such tensor.
    pub fn tensor_shape(&self, name: &str) -> Option<Vec<usize>> {
        match name {
            "model.embed_tokens.weight" | "lm_head.weight" => return Some(vec![self.vocab, self.hidden]),
            "model.norm.weight" => return Some(vec![self.hidden]),
            _ => {}
        }
        let layer = name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok()?;
        if layer >= self.layers {
            return None;
        }
        self.layer_tensors(layer).into_iter().find(|(known, _)| known == name).map(|(_, shape)| shape)
    }
}
