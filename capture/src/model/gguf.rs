//! A model in one GGUF file: shape, constants and weights.
//!
//! GGUF has its own tensor names and, for the Llama family, its own order of the rows of the query and key
//! projections: the two scalars that rotate together are neighbours there, and half a head apart in the
//! Hugging Face layout that the rest of this crate uses. Qwen files are not permuted.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use super::config::{FAMILIES, Family, ModelConfig};
use super::gguf_header;
use super::rope::{Rope, RopeScaling};
use crate::error::{Error, Result};

/// An open GGUF file; tensors are read when asked for.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    content: Content,
}

impl Gguf {
    /// Opens the file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = crate::map_file(path)?;
        if gguf_header::divides_by_zero(&map) {
            return Err(Error::malformed(path, "general.alignment: expected at least 1, found 0"));
        }
        let content = Content::read(&mut Cursor::new(&map[..]))
            .map_err(|e| Error::malformed(path, format!("not a readable GGUF file: {}", one_line(&e))))?;
        Ok(Gguf { path: path.to_owned(), map, content })
    }

    /// Path of the file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A metadata string.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.to_string().ok().map(String::as_str)
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match integer(value).and_then(|n| usize::try_from(n).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(Error::malformed(&self.path, format!("{key}: expected a count, found {value:?}"))),
        }
    }

    fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| Error::malformed(&self.path, format!("metadata {key} is missing")))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value {
            Value::F32(x) => Ok(Some(f64::from(*x))),
            Value::F64(x) => Ok(Some(*x)),
            other => Err(Error::malformed(&self.path, format!("{key}: expected a number, found {other:?}"))),
        }
    }

    /// Reads the model's shape out of the metadata.
    pub(crate) fn config(&self) -> Result<ModelConfig> {
        let arch = self.text("general.architecture").unwrap_or("").to_owned();
        let family = match arch.as_str() {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => return Err(Error::unsupported(format!("GGUF architecture \"{other}\""), FAMILIES)),
        };
        let key = |name: &str| format!("{arch}.{name}");
        if let Some(experts) = self.count(&key("expert_count"))?.filter(|&n| n > 1) {
            return Err(Error::unsupported(format!("{experts} experts"), "dense models"));
        }
        if let Some(window) = self.count(&key("attention.sliding_window"))?.filter(|&n| n > 0) {
            return Err(Error::unsupported(
                format!("sliding window {window}"),
                "full attention in every layer",
            ));
        }
        let hidden = self.required_count(&key("embedding_length"))?;
        let heads = self.required_count(&key("attention.head_count"))?;
        let head_dim = match self.count(&key("attention.key_length"))? {
            Some(explicit) => explicit,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.count(&key(name))?.filter(|&n| n != head_dim) {
                return Err(Error::unsupported(
                    format!("{name} {other}"),
                    format!("the key length, {head_dim}"),
                ));
            }
        }
        let embedding = self
            .content
            .tensor_infos
            .get("token_embd.weight")
            .ok_or_else(|| self.missing("token_embd.weight"))?;
        ModelConfig {
            family,
            hidden,
            layers: self.required_count(&key("block_count"))?,
            heads,
            kv_heads: self.count(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim,
            ffn: self.required_count(&key("feed_forward_length"))?,
            vocab: embedding.shape.dims().first().copied().unwrap_or(0),
            rms_eps: self.number(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6),
            rope: self.rope(&arch)?,
            tied_embeddings: !self.content.tensor_infos.contains_key("output.weight"),
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
        }
        .check()
    }

    fn rope(&self, arch: &str) -> Result<Rope> {
        let theta = self.number(&format!("{arch}.rope.freq_base"))?.unwrap_or(10_000.0);
        let factor = self.number(&format!("{arch}.rope.scaling.factor"))?;
        let factor = match factor {
            Some(factor) => Some(factor),
            None => self.number(&format!("{arch}.rope.scale_linear"))?,
        };
        let kind = self.text(&format!("{arch}.rope.scaling.type"));
        let scaling = match (kind, factor) {
            _ if self.content.tensor_infos.contains_key("rope_freqs.weight") => {
                let divisors = self.raw("rope_freqs.weight")?.flatten_all()?.to_vec1::<f32>()?;
                RopeScaling::Divisors(divisors.into_iter().map(f64::from).collect())
            }
            (Some("none"), _) | (None, None) => RopeScaling::None,
            (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
            (Some("linear"), None) => {
                return Err(Error::malformed(&self.path, "linear rope scaling without a factor"));
            }
            (Some(other), _) => {
                return Err(Error::unsupported(
                    format!("rope scaling \"{other}\""),
                    "none, linear, rope_freqs.weight (Llama 3)",
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn missing(&self, name: &str) -> Error {
        Error::malformed(&self.path, format!("tensor {name} is missing"))
    }

    /// A tensor by its GGUF name, dequantised to f32, rows as stored.
    fn raw(&self, name: &str) -> Result<Tensor> {
        let info = self.content.tensor_infos.get(name).ok_or_else(|| self.missing(name))?;
        // All types have less than 8 weights to the byte. candle multiplies sizes without a look at overflow, and makes a misaligned slice of
        // a tensor without weights.
        let count = info.shape.dims().iter().try_fold(1, |count: usize, &n| count.checked_mul(n));
        if !count.is_some_and(|count| (1..=self.map.len().saturating_mul(8)).contains(&count)) {
            return Err(Error::malformed(
                &self.path,
                format!("tensor {name}: expected a shape that fits the file, found {:?}", info.shape.dims()),
            ));
        }
        let read = || -> candle_core::Result<Tensor> {
            let quantised = self.content.tensor(&mut Cursor::new(&self.map[..]), name, &Device::Cpu)?;
            quantised.dequantize(&Device::Cpu)?.to_dtype(DType::F32)
        };
        read().map_err(|e| Error::malformed(&self.path, format!("tensor {name}: {}", one_line(&e))))
    }

    /// A tensor by its canonical name, f32, in Hugging Face row order.
    pub(crate) fn tensor(&self, config: &ModelConfig, name: &str) -> Result<Tensor> {
        let tensor = self.raw(&gguf_name(name).ok_or_else(|| self.missing(name))?)?;
        let heads = match name.rsplit_once("self_attn.").map(|(_, part)| part) {
            Some("q_proj.weight") => config.heads,
            Some("k_proj.weight") => config.kv_heads,
            _ => return Ok(tensor),
        };
        if config.family != Family::Llama {
            return Ok(tensor);
        }
        let dims = tensor.dims().to_vec();
        if dims != [heads * config.head_dim, config.hidden] {
            // The caller names the expected shape; reordering rows of a wrong one would hide it.
            return Ok(tensor);
        }
        let pairs = tensor.reshape((heads, config.head_dim / 2, 2, config.hidden))?;
        Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(dims)?)
    }
}

/// An integer of any width; GGUF writers differ in which they use.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(n) => Some(i64::from(*n)),
        Value::I8(n) => Some(i64::from(*n)),
        Value::U16(n) => Some(i64::from(*n)),
        Value::I16(n) => Some(i64::from(*n)),
        Value::U32(n) => Some(i64::from(*n)),
        Value::I32(n) => Some(i64::from(*n)),
        Value::I64(n) => Some(*n),
        Value::U64(n) => i64::try_from(*n).ok(),
        _ => None,
    }
}

/// candle appends a backtrace to its messages where one is enabled.
fn one_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or("unknown").to_owned()
}

/// The name GGUF gives to the canonical tensor `name`.
fn gguf_name(name: &str) -> Option<String> {
    let fixed = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return Some(fixed.to_owned());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = part.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}
