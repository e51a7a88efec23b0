"""Reads a Llama model and texts for simulate.py: weights from a GGUF file, tokens with the tokenizer inside it."""
import dataclasses, os, pathlib
import numpy as np, torch


@dataclasses.dataclass
class Model:
    weights: dict             # (layer, "q" | "k" | "v" | "o" | "gate" | "up" | "down"): f32 [out, in]; rotary pairs as two halves
    norms: torch.Tensor       # f32 [layers, 2, hidden]: before attention, before the MLP
    embedding: torch.Tensor   # f32 [vocabulary, hidden]
    ids: torch.Tensor         # int64 [sequences, tokens]: calibration, then evaluation
    n_calibration: int
    layers: int
    heads: int
    kv_heads: int
    eps: float
    theta: float


NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def sequences(args, encode):
    """Calibration: whole sequences from the texts in turn, from their beginnings. Evaluation: the first tokens of each text."""
    texts = [[encode(p) for p in sorted(pathlib.Path(folder).glob("*.txt"))] for folder in (args.calibration, args.evaluation)]
    n, T = args.n_calibration, args.tokens
    rounds = range(max((len(t) for t in texts[0]), default=0) // T)
    calibration = [t[i * T:(i + 1) * T] for i in rounds for t in texts[0] if len(t) >= (i + 1) * T][:n]
    evaluation = [t[:T] for t in texts[1] if len(t) >= T][:args.n_evaluation]
    if len(calibration) < n or not evaluation:
        raise SystemExit(f"texts yield {len(calibration)} calibration and {len(evaluation)} evaluation sequences of {T} tokens")
    return np.array(calibration + evaluation), n


def load(args, device):
    from gguf import GGUFReader, dequantize
    from transformers import AutoTokenizer
    reader = GGUFReader(args.model)
    about = {k.split(".", 1)[1]: v.contents() for k, v in reader.fields.items() if k.startswith("llama.")}
    if not about:
        raise SystemExit("only models of the Llama architecture")
    tensors = {t.name: t for t in reader.tensors}
    heads, kv_heads = about["attention.head_count"], about["attention.head_count_kv"]
    layers = min(args.layers or about["block_count"], about["block_count"])

    def tensor(name):
        return torch.tensor(np.array(dequantize(tensors[name].data, tensors[name].tensor_type))).float()

    weights = {}
    for l in range(layers):
        for short, name in NAMES.items():
            w = tensor(f"blk.{l}.{name}.weight")
            if short in "qk":  # GGUF interleaves the two halves of rotary pairs
                n = heads if short == "q" else kv_heads
                w = w.reshape(n, w.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
            weights[l, short] = w.to(device)
    norms = torch.stack([torch.stack([tensor(f"blk.{l}.{n}.weight") for n in ("attn_norm", "ffn_norm")]) for l in range(layers)])
    folder, file = os.path.split(os.path.abspath(args.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ids, n = sequences(args, lambda p: tokenizer(p.read_text(encoding="utf-8", errors="replace"), verbose=False).input_ids)
    return Model(weights, norms.to(device), tensor("token_embd.weight").to(device), torch.tensor(ids).to(device), n,
                 layers, heads, kv_heads, about["attention.layer_norm_rms_epsilon"], about["rope.freq_base"])
