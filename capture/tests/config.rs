//! `config.json`: both forms of the rotary parameters, the families, and models that are refused.

use serde_json::{Value, json};
use speckv_capture::model::{Family, RopeScaling};
use speckv_capture::{ModelConfig, ModelSource};

/// Opens a folder with `config.json` and an empty weight file.
fn open(config: &Value) -> Result<ModelConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let none: [(&str, safetensors::tensor::TensorView); 0] = [];
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(none, None).unwrap())
        .unwrap();
    match ModelSource::open(folder.path()) {
        Ok(source) => Ok(source.config().clone()),
        Err(e) => Err(e.to_string().replace(&folder.path().display().to_string(), "")),
    }
}

/// A Llama of no particular size, with `changes` laid over it.
fn llama(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn both_rope_forms_are_read() {
    let old =
        open(&llama(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}))).unwrap();
    let new =
        open(&llama(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}})))
            .unwrap();
    assert_eq!(old, new);
    assert_eq!((old.rope.theta, old.rope.scaling), (5e5, RopeScaling::Linear { factor: 4.0 }));

    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let mut parameters = llama3.clone();
    parameters["rope_theta"] = json!(5e5);
    let old = open(&llama(json!({"rope_theta": 5e5, "rope_scaling": llama3}))).unwrap();
    let new = open(&llama(json!({"rope_parameters": parameters}))).unwrap();
    assert_eq!(old, new);
    assert!(matches!(old.rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));

    let bare =
        open(&llama(json!({"rope_scaling": null, "rope_parameters": {"rope_type": "default"}}))).unwrap();
    assert_eq!((bare.rope.theta, bare.rope.scaling), (10_000.0, RopeScaling::None));
}

#[test]
fn families_and_defaults() {
    let config = open(&llama(json!({}))).unwrap();
    assert_eq!((config.family, config.head_dim, config.kv_heads), (Family::Llama, 16, 2));
    assert!(!config.qkv_bias && !config.qk_norm && config.tied_embeddings);
    let config =
        open(&llama(json!({"model_type": "qwen2", "sliding_window": 32768, "head_dim": 32}))).unwrap();
    assert_eq!((config.family, config.head_dim), (Family::Qwen2, 32));
    assert!(config.qkv_bias && !config.qk_norm);
    let config = open(&llama(json!({"model_type": "qwen3", "num_key_value_heads": null}))).unwrap();
    assert_eq!((config.family, config.kv_heads), (Family::Qwen3, 4));
    assert!(!config.qkv_bias && config.qk_norm);
}

#[test]
fn unsupported_models_are_refused_by_name() {
    let cases = [
        (
            json!({"model_type": "gemma2"}),
            "found model_type \"gemma2\"; supported: Llama (SmolLM2, Llama 2/3, Mistral), Qwen2/2.5, Qwen3",
        ),
        (
            json!({"model_type": "qwen3_moe"}),
            "found model_type \"qwen3_moe\"; supported: Llama (SmolLM2, Llama 2/3, Mistral), Qwen2/2.5, Qwen3",
        ),
        (json!({"num_local_experts": 8}), "found \"num_local_experts\": 8; supported: dense models"),
        (
            json!({"model_type": "mistral", "sliding_window": 4096}),
            "found sliding_window 4096; supported: full attention in every layer",
        ),
        (
            json!({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": true}),
            "found sliding_window 4096; supported: full attention in every layer",
        ),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "found layer type \"sliding_attention\"; supported: full attention in every layer",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "found rope_type \"yarn\"; supported: default, linear, llama3",
        ),
        (
            json!({"attn_logit_softcapping": 50.0}),
            "found \"attn_logit_softcapping\"; supported: models without it",
        ),
        (json!({"hidden_act": "gelu"}), "found hidden_act \"gelu\"; supported: silu"),
        (
            json!({"attention_bias": true}),
            "found \"attention_bias\": true; supported: biases on query, key and value of Qwen2/2.5 only",
        ),
        (json!({"quantization_config": {}}), "found \"quantization_config\"; supported: models without it"),
        (
            json!({"num_key_value_heads": 3}),
            "found 4 attention heads over 3 key/value heads; supported: a whole number of attention heads per \
             key/value head",
        ),
        (json!({"num_hidden_layers": 0}), "found layers 0; supported: 1 to 268435456"),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}),
            "found linear rope scaling by 0; supported: a finite factor above 0",
        ),
    ];
    for (changes, want) in cases {
        let found = open(&llama(changes.clone())).expect_err("should be refused");
        assert_eq!(found, format!("unsupported model: {want}"), "{changes}");
    }
}

#[test]
fn damaged_configurations_name_the_field() {
    for (changes, want) in [
        (json!({"hidden_size": "big"}), "/config.json: \"hidden_size\": expected a count, found \"big\""),
        (json!({"vocab_size": null}), "/config.json: \"vocab_size\" is missing"),
        (
            json!({"rope_scaling": {"rope_type": "linear"}}),
            "/config.json: \"factor\" is missing from the rope parameters",
        ),
    ] {
        assert_eq!(open(&llama(changes)).unwrap_err(), want);
    }
}
