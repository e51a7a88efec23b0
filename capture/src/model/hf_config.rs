//! `config.json` of a Hugging Face folder.

use std::path::Path;

use serde_json::Value;

use super::config::{FAMILIES, Family, ModelConfig};
use super::rope::{Rope, RopeScaling};
use crate::error::{Error, Result};

/// Reads the text of a `config.json`; `path` is only for messages.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ModelConfig> {
    let root: Value =
        serde_json::from_str(text).map_err(|e| Error::malformed(path, format!("not valid JSON: {e}")))?;
    let json = Json { path, root: &root };
    let family = match json.text("model_type")?.unwrap_or("") {
        "llama" | "mistral" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        other => return Err(Error::unsupported(format!("model_type \"{other}\""), FAMILIES)),
    };
    json.refuse_unsupported(family)?;

    let hidden = json.required_count("hidden_size")?;
    let heads = json.required_count("num_attention_heads")?;
    let head_dim = match json.count("head_dim")? {
        Some(explicit) => explicit,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    ModelConfig {
        family,
        hidden,
        layers: json.required_count("num_hidden_layers")?,
        heads,
        kv_heads: json.count("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: json.required_count("intermediate_size")?,
        vocab: json.required_count("vocab_size")?,
        rms_eps: json.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope: json.rope()?,
        tied_embeddings: json.flag("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
    }
    .check()
}

/// Typed reads of one JSON object; `null` counts as absent everywhere, as it does in transformers.
struct Json<'a> {
    path: &'a Path,
    root: &'a Value,
}

impl<'a> Json<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.root.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::malformed(self.path, format!("\"{key}\": expected {expected}, found {found}"))
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        count.map(Some).ok_or_else(|| self.wrong(key, "a count", value))
    }

    fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| Error::malformed(self.path, format!("\"{key}\" is missing")))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", value))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", value))
    }

    /// Features that would silently change the numbers if they were ignored.
    fn refuse_unsupported(&self, family: Family) -> Result<()> {
        if let Some(act) = self.text("hidden_act")?.filter(|&act| act != "silu") {
            return Err(Error::unsupported(format!("hidden_act \"{act}\""), "silu"));
        }
        for key in ["mlp_bias", "add_cross_attention"] {
            if self.flag(key)? == Some(true) {
                return Err(Error::unsupported(format!("\"{key}\": true"), "false"));
            }
        }
        if family != Family::Qwen2 && self.flag("attention_bias")? == Some(true) {
            return Err(Error::unsupported(
                "\"attention_bias\": true",
                "biases on query, key and value of Qwen2/2.5 only",
            ));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping", "quantization_config"] {
            if self.get(key).is_some() {
                return Err(Error::unsupported(format!("\"{key}\""), "models without it"));
            }
        }
        for key in ["num_experts", "num_local_experts"] {
            if let Some(experts) = self.count(key)?.filter(|&n| n > 1) {
                return Err(Error::unsupported(format!("\"{key}\": {experts}"), "dense models"));
            }
        }
        if let Some(part) = self.number("partial_rotary_factor")?.filter(|&part| part != 1.0) {
            return Err(Error::unsupported(format!("partial_rotary_factor {part}"), "1"));
        }
        self.refuse_sliding_window()
    }

    fn refuse_sliding_window(&self) -> Result<()> {
        const FULL: &str = "full attention in every layer";
        if let Some(types) = self.get("layer_types") {
            let types = types.as_array().ok_or_else(|| self.wrong("layer_types", "a list", types))?;
            return match types.iter().find(|t| t.as_str() != Some("full_attention")) {
                Some(other) => Err(Error::unsupported(format!("layer type {other}"), FULL)),
                None => Ok(()),
            };
        }
        // Mistral uses a window whenever one is given; Qwen only with the switch on.
        let has_switch = matches!(self.text("model_type")?, Some("qwen2" | "qwen3"));
        let on = self.flag("use_sliding_window")?.unwrap_or(!has_switch);
        match self.count("sliding_window")? {
            Some(window) if on => Err(Error::unsupported(format!("sliding_window {window}"), FULL)),
            _ => Ok(()),
        }
    }

    /// Both forms: `rope_theta` with `rope_scaling`, and the newer `rope_parameters`, which wins.
    fn rope(&self) -> Result<Rope> {
        let modern = self.get("rope_parameters").map(|root| Json { path: self.path, root });
        let older = self.get("rope_scaling").map(|root| Json { path: self.path, root });
        let top = self.number("rope_theta")?;
        let theta = match &modern {
            Some(object) => object.number("rope_theta")?.or(top),
            None => top,
        };
        let scaling = match modern.or(older) {
            Some(object) => object.rope_scaling()?,
            None => RopeScaling::None,
        };
        Ok(Rope { theta: theta.unwrap_or(10_000.0), scaling })
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        let need = |key: &str| {
            self.number(key)?.ok_or_else(|| {
                Error::malformed(self.path, format!("\"{key}\" is missing from the rope parameters"))
            })
        };
        let kind = match self.text("rope_type")? {
            Some(kind) => kind,
            None => self.text("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position: need("original_max_position_embeddings")?,
            }),
            other => Err(Error::unsupported(format!("rope_type \"{other}\""), "default, linear, llama3")),
        }
    }
}
