"""Writes a small Qwen2 model of random weights, so that `speckv build` can fit every precision in seconds.

Three layers, 6 heads that share 3 of 24 columns (blocks of 8 in the Hadamard transform), biases on queries, keys and values, no head
norm: all that the embedded tiny-qwen3 is not."""

import json
import shutil

import numpy as np

from profiles import write_safetensors

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, FFN, VOCABULARY, THETA = 3, 96, 6, 3, 24, 136, 4096, 10000.0


def make_model(folder, tokenizer):
    """`tokenizer`: a tokenizer.json of at most VOCABULARY tokens."""
    random, tensors = np.random.default_rng(1), {}

    def add(name, values):
        tensors[name] = list(values.shape), (np.asarray(values, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()  # bf16

    def matrix(name, outputs, inputs):
        add(name + ".weight", random.standard_normal((outputs, inputs)) * 1.5 / inputs**0.5)

    matrix("model.embed_tokens", VOCABULARY, HIDDEN)
    add("model.norm.weight", np.ones(HIDDEN))
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for norm in "input_layernorm", "post_attention_layernorm":
            add(f"{at}{norm}.weight", 1 + 0.2 * random.standard_normal(HIDDEN))
        for name, heads in ("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS):
            matrix(f"{at}self_attn.{name}_proj", heads * DIM, HIDDEN)
            add(f"{at}self_attn.{name}_proj.bias", random.standard_normal(heads * DIM))
        matrix(at + "self_attn.o_proj", HIDDEN, HEADS * DIM)
        matrix(at + "mlp.gate_proj", FFN, HIDDEN)
        matrix(at + "mlp.up_proj", FFN, HIDDEN)
        matrix(at + "mlp.down_proj", HIDDEN, FFN)
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", [(name, "BF16", *entry) for name, entry in tensors.items()])
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": FFN,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "num_hidden_layers": LAYERS,
              "rms_norm_eps": 1e-5, "rope_theta": THETA, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
              "max_position_embeddings": 8192, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(tokenizer, folder / "tokenizer.json")
