#!/usr/bin/env python3
"""Writes tiny_qwen3_reference.json: what transformers computes for models/tiny-qwen3 in bf16 on a CPU.

Needs torch and transformers. Run from the root of the repository:

    python capture/tests/data/make_reference.py

The test reads the file and never writes it. Positions and columns are fixed, spread over layers, heads and both
halves of a head (RoPE turns the halves into each other), so that a wrong layout cannot go unseen.
"""

import json
import pathlib

import tokenizers
import torch
import transformers

MODEL = "models/tiny-qwen3"
OUT = "capture/tests/data/tiny_qwen3_reference.json"
TEXT = (
    "The lighthouse keeper wrote three numbers in his book every night: the hour, the height of the tide, and how "
    "many ships had passed. In 1897 he counted 42 of them in one week; \"too many\", he said, and didn't sleep.\n\n"
    "def tide(hour):\n    return 2.5 * cos(hour / 12.4)\n"
)
TOP = 16
LOGIT_COLUMNS = [0, 1, 17, 333, 1024, 2047, 3000, 4095]
POSITIONS = [0, 1, 2, 17, 40, -1]
COLUMNS = [0, 1, 15, 31, 32, 33, 47, 63]


def main():
    # The file as it stands: AutoTokenizer would replace its pre-tokenizer by the one of the Qwen2 class.
    tokenizer = tokenizers.Tokenizer.from_file(f"{MODEL}/tokenizer.json")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    with torch.no_grad():
        out = model(torch.tensor([ids]), use_cache=True)
    logits = out.logits[0, -1].float()
    top = torch.topk(logits, TOP)
    positions = [p % len(ids) for p in POSITIONS]
    layers = []
    for layer in out.past_key_values.layers:
        pair = {}
        for name, part in (("key", layer.keys), ("value", layer.values)):
            part = part[0].float()  # [heads, tokens, head_dim]
            pair[name] = {
                "samples": part[:, positions][:, :, COLUMNS].tolist(),
                "mean_square": part.square().mean().item(),
            }
        layers.append(pair)
    reference = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, bf16, CPU, sdpa",
        "text": TEXT,
        "ids": ids,
        "top_ids": top.indices.tolist(),
        "top_logits": top.values.tolist(),
        "logit_columns": LOGIT_COLUMNS,
        "logits": logits[LOGIT_COLUMNS].tolist(),
        "positions": positions,
        "columns": COLUMNS,
        "layers": layers,
    }
    pathlib.Path(OUT).write_text(json.dumps(reference, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
