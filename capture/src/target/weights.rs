//! The weights of a target, by layer.

use super::linear::Linear;
use super::ops;
use crate::error::Result;
use crate::model::ModelSource;

/// All weights of a model.
pub(super) struct Weights {
    /// `[vocab, hidden]`.
    pub embedding: Linear,
    pub layers: Vec<Layer>,
    pub final_norm: Vec<f32>,
    /// `[vocab, hidden]`; absent where the embedding serves as output matrix.
    untied_output: Option<Linear>,
}

/// The weights of one layer.
pub(super) struct Layer {
    pub input_norm: Vec<f32>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub post_norm: Vec<f32>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Weights {
    pub(super) fn load(source: &ModelSource) -> Result<Self> {
        let config = source.config();
        let layers =
            (0..config.layers).map(|layer| Layer::load(source, layer)).collect::<Result<Vec<_>>>()?;
        let untied_output = match config.tied_embeddings {
            true => None,
            false => Some(matrix(source, "lm_head", false)?),
        };
        Ok(Weights {
            embedding: matrix(source, "model.embed_tokens", false)?,
            layers,
            final_norm: vector(source, "model.norm.weight")?,
            untied_output,
        })
    }

    /// The matrix from the last hidden state to the logits.
    pub(super) fn output(&self) -> &Linear {
        self.untied_output.as_ref().unwrap_or(&self.embedding)
    }
}

impl Layer {
    fn load(source: &ModelSource, layer: usize) -> Result<Self> {
        let config = source.config();
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = |part: &str| vector(source, &name(part));
        let head_norm = |part: &str| config.qk_norm.then(|| vector(source, &name(part))).transpose();
        let qkv = |part: &str| matrix(source, &name(part), config.qkv_bias);
        let plain = |part: &str| matrix(source, &name(part), false);
        Ok(Layer {
            input_norm: norm("input_layernorm.weight")?,
            q: qkv("self_attn.q_proj")?,
            k: qkv("self_attn.k_proj")?,
            v: qkv("self_attn.v_proj")?,
            o: plain("self_attn.o_proj")?,
            q_norm: head_norm("self_attn.q_norm.weight")?,
            k_norm: head_norm("self_attn.k_norm.weight")?,
            post_norm: norm("post_attention_layernorm.weight")?,
            gate: plain("mlp.gate_proj")?,
            up: plain("mlp.up_proj")?,
            down: plain("mlp.down_proj")?,
        })
    }
}

/// A vector rounded to bf16.
fn vector(source: &ModelSource, name: &str) -> Result<Vec<f32>> {
    let mut all = source.tensor(name)?.flatten_all()?.to_vec1::<f32>()?;
    all.iter_mut().for_each(|x| *x = ops::bf16(*x));
    Ok(all)
}

/// The matrix `{module}.weight`, with `{module}.bias` if wanted.
fn matrix(source: &ModelSource, module: &str, bias: bool) -> Result<Linear> {
    let bias = bias.then(|| vector(source, &format!("{module}.bias"))).transpose()?;
    Linear::new(&source.tensor(&format!("{module}.weight"))?, bias)
}
