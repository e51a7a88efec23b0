//! The tokenizer inside a GGUF file: byte-level BPE, rebuilt as the `tokenizer.json` it was made from.

use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use tokenizers::Tokenizer;

use super::gguf::{Gguf, integer};
use crate::error::{Error, Result};

/// How Qwen2 splits text before merging.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Llama 3 splits text before merging: as Qwen2, with up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of GGUF that are matched in the text before anything is split.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Builds the tokenizer from the metadata of `gguf`.
pub(crate) fn build(gguf: &Gguf) -> Result<Tokenizer> {
    match gguf.text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some(other) => {
            return Err(Error::unsupported(
                format!("GGUF tokenizer \"{other}\""),
                "\"gpt2\" (byte-level BPE); pass --tokenizer tokenizer.json for this model",
            ));
        }
        None => {
            return Err(Error::malformed(
                gguf.path(),
                "holds no tokenizer; pass --tokenizer tokenizer.json for this model",
            ));
        }
    }
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: &str| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    let (pre_tokenizer, normalizer, ignore_merges) = match gguf.text("tokenizer.ggml.pre") {
        Some("gpt-2") => (byte_level(true), json!(null), false),
        Some("smollm") => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), json!(null), false)
        }
        Some("qwen2") => (split(QWEN2), json!({"type": "NFC"}), false),
        Some("llama-bpe") => (split(LLAMA3), json!(null), true),
        other => {
            return Err(Error::unsupported(
                format!("GGUF pre-tokenizer \"{}\"", other.unwrap_or("none")),
                "gpt-2, smollm, qwen2, llama-bpe; pass --tokenizer tokenizer.json for this model",
            ));
        }
    };

    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    let merges = strings(gguf, "tokenizer.ggml.merges")?;
    let mut added = Vec::new();
    if let Some(types) = gguf.value("tokenizer.ggml.token_type").and_then(|v| v.to_vec().ok()) {
        for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
            let kind = integer(kind);
            if matches!(kind, Some(CONTROL | USER_DEFINED)) {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind == Some(CONTROL),
                }));
            }
        }
    }
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    let wrong = |what: String| Error::malformed(gguf.path(), format!("tokenizer metadata: {what}"));
    let bytes = serde_json::to_vec(&document).map_err(|e| wrong(e.to_string()))?;
    Tokenizer::from_bytes(bytes).map_err(|e| wrong(e.to_string()))
}

/// A metadata list of strings.
fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let wrong = || Error::malformed(gguf.path(), format!("metadata {key}: expected a list of strings"));
    let list: &[Value] = gguf.value(key).and_then(|v| v.to_vec().ok()).ok_or_else(wrong)?;
    list.iter().map(|v| v.to_string().map(String::as_str).map_err(|_| wrong())).collect()
}
