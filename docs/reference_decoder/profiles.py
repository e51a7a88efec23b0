"""Profiles: numerics.md, section 10. A safetensors file whose metadata key `speckv` tells what it holds."""

import json
from functools import cache

import numpy as np

from blake3 import blake3
from errors import Refused, expect
from fixed import LIMIT
from model import Shape
from rows import LEVELS, Weights

TYPES = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F32": np.float32, "U8": np.uint8}
BAD = "bad profile"


def safetensors(data):
    """(metadata, {name: (type name, shape, bytes)})."""
    expect(len(data) >= 8, "a safetensors file must have a header", len(data), BAD)
    size = int.from_bytes(data[:8], "little")
    expect(8 + size <= len(data), "a safetensors header must lie in the file", size, BAD)
    body, tensors, spans = memoryview(data)[8 + size:], {}, []
    try:
        header = json.loads(data[8:8 + size])
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                spans.append((begin, end))
                tensors[name] = entry["dtype"], entry["shape"], body[begin:end]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused(BAD, f"not a safetensors header: {error!r}")
    spans.sort()
    follow = all(a[1] == b[0] for a, b in zip([(0, 0)] + spans, spans + [(len(body), 0)]))
    expect(follow, "the tensors of a safetensors file must fill it without gaps", f"{len(body)} bytes", BAD)
    return header.get("__metadata__", {}), tensors


def write_safetensors(path, tensors, metadata=None):
    """tensors: list of (name, type name, shape, bytes)."""
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t[3] for t in tensors))


def within(name, value, low, high):
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    expect(ok, f"{name} must be {low}..={high}", value, BAD)
    return value


def flag(name, value):
    expect(isinstance(value, bool), f"{name} must be true or false", value, BAD)
    return value


class Profile:
    def __init__(self, data):
        self.digest = blake3(data)
        metadata, self.tensors = safetensors(data)
        expect("speckv" in metadata, "a profile must have the metadata key speckv", sorted(metadata), BAD)
        try:
            self.read(json.loads(metadata["speckv"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(BAD, f"a field is missing or of the wrong kind: {error!r}")

    def read(self, meta):
        expect(meta["version"] == 2, "version must be 2", meta["version"], BAD)
        self.target, _ = meta["target"], meta["fitted"]  # for people, but part of a profile
        self.layers, self.heads = within("layers", meta["layers"], 1, 4096), within("kv_heads", meta["kv_heads"], 1, 4096)
        self.dim = within("head_dim", meta["head_dim"], 2, 4096)
        expect(self.dim % 2 == 0, "head_dim must be even", self.dim, BAD)
        within("kv_heads * head_dim", self.heads * self.dim, 1, 2**18)
        self.exponents = meta["exponents"]
        expect(len(self.exponents) == self.layers, "exponents must have an entry for each layer", len(self.exponents), BAD)
        for pair in self.exponents:
            expect(len(pair) == 2, "exponents must be pairs", pair, BAD)
            [within("exponent", e, -64, 64) for e in pair]
        self.embedding, self.nets, self.modes = meta.get("embedding"), meta["nets"], meta["modes"]
        within("modes", len(self.modes), 0, 64)
        within("nets", len(self.nets), 0, 16)
        if self.embedding is not None:
            within("rows", self.embedding["rows"], 1, 2**24)
            within("width", self.embedding["width"], 1, 2**15)
            within("embedding.exponent", self.embedding["exponent"], -64, 64)
            self.embedding.setdefault("eps", None)
            flag("listed", self.embedding["listed"])
            if self.embedding["eps"] is not None:
                self.check_eps(self.embedding["eps"])
        for index, net in enumerate(self.nets):
            self.check_net(index, net)
        for index, mode in enumerate(self.modes):
            self.check_mode(index, mode)
        self.steps = self.array("rope.steps", "I64", [self.dim // 2]).view(np.uint64)

    def check_eps(self, eps):
        m, e = eps
        expect(m == 0 or 2**14 <= m < 2**15, "m of eps must be 0 or 2^14..2^15", m, BAD)
        within("e of eps", e, -512, 512)

    def check_base(self, index, entry):
        if entry.setdefault("base", None) is not None:
            within("base", entry["base"], 0, index - 1)

    def check_net(self, index, net):
        self.check_base(index, net)
        hidden, e = within("hidden", net["hidden"], 1, 2**15), self.embedding
        fits = e is not None and not e["listed"] and e["width"] == hidden and e["exponent"] == net["hidden_exponent"]
        expect(fits, "a network must have an embedding of all ids, of its width and exponent", e, BAD)
        within("ffn", net["ffn"], 1, 2**16)
        within("heads * head_dim", net["heads"] * self.dim, 1, 2**16)
        expect(net["heads"] % self.heads == 0, "heads must be a multiple of kv_heads", net["heads"], BAD)
        within("wide", net["wide"], 0, min(64, hidden))
        self.check_eps(net["eps"])
        for name, inputs in ("hadamard_o", net["heads"] * self.dim), ("hadamard_down", net["ffn"]):
            within(name, net[name], 0, 16)
            expect(inputs % (1 << net[name]) == 0, f"2^{name} must divide its inputs", net[name], BAD)
        flag("qk_norm", net["qk_norm"])
        for name in "kv", "q", "o", "gate_up", "down", "attention":
            within(f"digits {name}", net["digits"][name], 1, 2)
        expect(len(net["layers"]) == self.layers, "a network must have all layers", len(net["layers"]), BAD)
        for layer in net["layers"]:
            for name in "raw_key", "raw_query", "query", "attention", "value_scale", "gate", "up", "act":
                within(name, layer[name], -64, 64)

    def check_mode(self, index, mode):
        self.check_base(index, mode)
        within("residual_digits", mode["residual_digits"], 1, 2)
        within("depth", mode["depth"], 0, 64)
        kind, net, feedback, ids = mode["kind"], mode.get("net"), flag("feedback", mode["feedback"]), flag("ids", mode["ids"])
        expect(isinstance(mode["precision"], str), "precision must be a name", mode["precision"], BAD)
        allowed = {"static": net is None and not feedback and not ids,
                   "chain": net is None and feedback and (not ids or self.embedding is not None),
                   "draft": isinstance(net, int) and 0 <= net < len(self.nets) and ids}
        expect(allowed.get(kind, False), "a mode must be one of section 10", (kind, net, feedback, ids), BAD)
        expect(mode["class"] in ("fine", "coarse"), "class must be fine or coarse", mode["class"], BAD)
        within("kv_heads * head_dim", self.heads * self.dim, 1, 2**16 if feedback else 2**18)

    def select(self, kind, precision, fmt):
        """Index of the first mode with this kind, precision name and class."""
        wanted = kind, precision, "fine" if fmt.width == 16 else "coarse"
        for index, mode in enumerate(self.modes):
            if (mode["kind"], mode["precision"], mode["class"]) == wanted:
                return index
        raise Refused("wrong profile", f"it has no mode {wanted}")

    def array(self, name, type_name, shape, limit=None):
        """A tensor, its type, shape and range checked, as int64 (I64 as it is)."""
        expect(name in self.tensors, f"{name} must be there", "nothing", BAD)
        found, dims, data = self.tensors[name]
        expect(found == type_name and dims == shape, f"{name} must be {type_name} {shape}", f"{found} {dims}", BAD)
        size = np.dtype(TYPES[found]).itemsize * int(np.prod(shape))
        expect(len(data) == size, f"{name} must have the {size} bytes of its shape", len(data), BAD)
        x = np.frombuffer(data, TYPES[found]).astype(np.int64).reshape(shape)
        if limit is not None:
            worst = int(np.abs(x).max(initial=0))
            expect(worst <= limit, f"{name} must be within +-{limit}", worst, BAD)
        return x

    def embed(self):
        return self.weights("embed", self.embedding["rows"], self.embedding["width"], bias=False)

    def embed_ids(self):
        """The listed ids, or None where row i is id i."""
        if not self.embedding["listed"]:
            return None
        ids = self.array("embed.ids", "I32", [self.embedding["rows"]])
        expect(bool((np.diff(ids) > 0).all()), "embed.ids must ascend", "others", BAD)
        return ids

    def of(self, owner, index, name):
        """Whole name of a matrix or norm of network or mode `index`, taken from its base where it has none of its own."""
        entries = self.nets if owner == "net" else self.modes
        while f"{owner}.{index}.{name}.m" not in self.tensors and entries[index]["base"] is not None:
            index = entries[index]["base"]
        return f"{owner}.{index}.{name}"

    @cache
    def weights(self, name, outputs, inputs, bias=True):
        expect(name + ".q" in self.tensors, f"{name}.q must be there", "nothing", BAD)
        digits = {"I8": 1, "I16": 2}.get(self.tensors[name + ".q"][0], 2)
        # Checked as int64, kept as int16: they are most of a profile.
        q = self.array(name + ".q", ["I8", "I16"][digits - 1], [outputs, inputs], LEVELS[digits]).astype(np.int16)
        m, e = self.array(name + ".m", "I16", [outputs], 2**15 - 1), self.array(name + ".e", "I16", [outputs], 512)
        expect(bool(((m == 0) | (m >= 2**14)).all()), f"{name}.m must be 0 or 2^14..2^15", "others", BAD)
        bias = self.array(name + ".bias", "I32", [outputs], LIMIT) if bias and name + ".bias" in self.tensors else None
        return Weights(q, (m, e), digits, bias)

    def norm(self, name):
        """Signed scales of the columns of a head."""
        return self.array(name + ".m", "I16", [self.dim], 2**15 - 1), self.array(name + ".e", "I16", [self.dim], 512)

    def mode_array(self, index, name, type_name, shape, limit=None):
        return self.array(f"mode.{index}.{name}", type_name, shape, limit)

    def shapes(self, index):
        """One Shape for each (layer, part), layer by layer."""
        rows = self.mode_array(index, "shapes", "I32", [2 * self.layers, 66]).tolist()
        try:
            return [Shape(row[:65], row[65]) for row in rows]
        except Refused as error:
            raise Refused(BAD, error.rule)
