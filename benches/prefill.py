#!/usr/bin/env python3
"""The target's own prefill in PyTorch bf16 on a GPU, for comparison with `backend-cuda/examples/prefill.rs`: Qwen3-8B's shapes, random weights.

    python3 benches/prefill.py [--tokens 4096] [--layers 36]

Two forms: `lean` (fused QKV and gate/up products, scaled_dot_product_attention with shared KV heads, nothing else: about the least that PyTorch
needs) and, where the package `transformers` is installed, its own Qwen3 model with `attn_implementation="sdpa"`. Medians of seven runs after three.
"""
import argparse, statistics, torch
import torch.nn.functional as F

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--tokens", type=int, default=4096)
ap.add_argument("--layers", type=int, default=36)
args = ap.parse_args()
HIDDEN, HEADS, KV, DIM, FFN, VOCAB = 4096, 32, 8, 128, 12288, 151936
cuda, bf16 = torch.device("cuda"), torch.bfloat16


def time(what, call):
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    print(f"{what}: {statistics.median(times[3:]):.1f} ms ({args.layers} layers, {args.tokens} tokens, {torch.cuda.get_device_name()}, torch {torch.__version__})")


def weight(rows, cols):
    return torch.randn(rows, cols, device=cuda, dtype=bf16) * cols**-0.5


def lean():
    one = torch.ones(HIDDEN, device=cuda, dtype=bf16)
    head = torch.ones(DIM, device=cuda, dtype=bf16)
    layers = [(weight((HEADS + 2 * KV) * DIM, HIDDEN), weight(HIDDEN, HEADS * DIM), weight(2 * FFN, HIDDEN), weight(HIDDEN, FFN)) for _ in range(args.layers)]
    table = weight(VOCAB, HIDDEN)
    ids = torch.randint(VOCAB, (args.tokens,), device=cuda)
    angle = torch.outer(torch.arange(args.tokens, device=cuda).float(), 1e6 ** (-torch.arange(0, DIM, 2, device=cuda).float() / DIM))
    cos, sin = angle.cos().to(bf16)[:, None], angle.sin().to(bf16)[:, None]

    def rope(x):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    @torch.inference_mode()
    def run():
        x, cache = table[ids], []
        for qkv, o, gate_up, down in layers:
            y = F.linear(F.rms_norm(x, (HIDDEN,), one), qkv).view(args.tokens, HEADS + 2 * KV, DIM)
            q, k, v = y.split((HEADS, KV, KV), 1)
            q, k = rope(F.rms_norm(q, (DIM,), head)), rope(F.rms_norm(k, (DIM,), head))
            cache.append((k, v))
            q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + F.linear(a[0].transpose(0, 1).reshape(args.tokens, -1), o)
            g, u = F.linear(F.rms_norm(x, (HIDDEN,), one), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(g) * u, down)
        return x

    time("lean PyTorch prefill", run)


def transformers():
    try:
        from transformers import Qwen3Config, Qwen3Model
    except ImportError:
        print("transformers is not installed: skipped")
        return
    config = Qwen3Config(hidden_size=HIDDEN, num_hidden_layers=args.layers, num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=DIM,
                         intermediate_size=FFN, vocab_size=VOCAB, attn_implementation="sdpa")
    with torch.device(cuda):
        torch.set_default_dtype(bf16)
        model = Qwen3Model(config).eval()
    ids = torch.randint(VOCAB, (1, args.tokens), device=cuda)
    time("transformers prefill", torch.inference_mode()(lambda: model(ids, use_cache=True)))


lean()
torch.cuda.empty_cache()
transformers()
