"""The predictors: numerics.md, section 9. One object for a stream; chunks in order, all tokens of a chunk at once."""

import numpy as np

from attention import attend, to_digits
from errors import expect
from fixed import ONE, inverse, rope, rs, sat, scaled
from model import Prices
from planes import Unit, energy, innovation, power, token_scale, value_of
from rows import Digits, head_norm, product, quantise, rrms, silu

KEY, VALUE = 0, 1


class Predictor:
    """`static`, and what chain and draft share: the loop inside a layer."""

    def __init__(self, profile, index, fmt, scales, scales_per_part):
        self.p, self.index, self.fmt, self.mode = profile, index, fmt, profile.modes[index]
        L, H, D = self.L, self.H, self.D = profile.layers, profile.heads, profile.dim
        self.channel = profile.mode_array(index, "channel", "I16", [L, 2, H, D], 1024)
        self.token = profile.mode_array(index, "token", "I32", [L, 2, H, 9])
        self.shapes = profile.shapes(index)
        self.units = [[[Unit(scales[(2 * l + part) * scales_per_part + h % scales_per_part]) if scales else Unit() for h in range(H)]
                       for part in (KEY, VALUE)] for l in range(L)]
        self.feedback, self.open_loop = self.mode["feedback"], self.mode["kind"] == "draft" and not self.mode["feedback"]
        if self.mode["kind"] != "draft":
            self.mean = profile.mode_array(index, "mean", "I32", [L, 2, H * D], 2**30 - 1)

    def chunk(self, first, ids, tokens, code_plane):
        """Codes [layers][part][head] of a chunk; `code_plane(prices)` gives those of the next plane, as a list."""
        self.first, self.tokens, self.positions = first, tokens, first + np.arange(tokens)
        self.energies, self.innovations, self.values = [], [], []
        codes = []
        self.begin(ids)
        for layer in range(self.L):
            prediction = self.predict(layer)
            codes.append(self.loop(layer, prediction, code_plane))
            self.learn(layer)
        return codes

    def begin(self, ids):
        pass

    def learn(self, layer):
        pass

    def predict(self, layer):
        """[tokens, 2 H D] before RoPE, keys of all heads, then values."""
        return np.tile(self.mean[layer].reshape(-1), (self.tokens, 1))

    def powers(self, layer):
        return None, None

    def rows(self, x, F, digits):
        return quantise(x, F, digits)

    def weights(self, name, outputs, inputs):
        return self.p.weights(self.p.of("mode", self.index, name), outputs, inputs)

    def loop(self, layer, prediction, code_plane):
        H, D = self.H, self.D
        parts = prediction.reshape(self.tokens, 2, H, D)
        energies, innovations, values, codes = [[], []], [[], []], [[], []], [[], []]
        for plane in range(2 * H):
            part, head = divmod(plane, H)
            F, unit = self.p.exponents[layer][part], self.units[layer][part][head]
            mu = parts[:, part, head]
            if part == KEY:
                mu = rope(mu, self.p.steps, self.positions)
            mu, plane_F = unit.prediction(mu), unit.exponent(F)
            expect(-120 <= plane_F <= 120, "exponents of planes must be -120..=120", plane_F, "caller's mistake")
            own = self.channel[layer, part, head] + unit.gain()
            scale = token_scale(self.features(layer, part, energies), self.token[layer, part, head])
            indices = np.clip(own[None, :] + (scale[:, None] if np.ndim(scale) else scale), 0, 479)
            indices = np.broadcast_to(indices, mu.shape)
            shape = self.shapes[2 * layer + part]
            prices = Prices(self.fmt, plane_F, shape, mu.reshape(-1).tolist(), indices.reshape(-1).tolist())
            plane_codes = np.array(code_plane(prices), np.int64).reshape(mu.shape)
            codes[part].append(plane_codes)
            v = innovation(plane_codes, mu, indices, self.fmt, plane_F)
            energies[part].append(energy(v, np.clip(own, 0, 479)))
            x = rs(v * unit.m, -23)
            if part == KEY:
                x = rope(x, self.p.steps, self.positions, backwards=True)
            innovations[part].append(x)
            values[part].append(value_of(plane_codes, self.fmt, unit, F))
            if self.feedback and plane < 2 * H - 1:
                w = self.weights(f"layers.{layer}.regress.{plane}", (2 * H - 1 - plane) * D, D)
                later = prediction[:, (plane + 1) * D:]
                later[...] = sat(later + product(self.rows(x, F, self.mode["residual_digits"]), w))
        self.energies.append([sum(energies[KEY]), sum(energies[VALUE])])
        self.innovations = [np.concatenate(x, axis=1) for x in innovations]
        self.values.append([np.stack(x, axis=1) for x in values])  # [tokens, H, D]
        return codes

    def features(self, layer, part, energies):
        """The eight features of a token scale, None where absent."""
        back = [None if self.open_loop or layer < i else self.energies[layer - i] for i in (1, 2)]
        pairs = [e for b in back for e in (b or (None, None))]
        earlier = sum(energies[part]) if energies[part] else None
        keys = sum(energies[KEY]) if part == VALUE else None
        return pairs + list(self.powers(layer)) + [earlier, keys]

    def embedded(self, ids):
        """Embedded tokens [tokens, width], fixed point embedding.exponent."""
        table, listed = self.p.embed(), self.p.embed_ids()
        ids = np.array(ids, np.int64)
        if listed is None:
            expect(ids.max() < len(table.q), f"token ids must be below {len(table.q)}", int(ids.max()), "caller's mistake")
            row, known = ids, np.ones(len(ids), bool)
        else:
            row = np.minimum(np.searchsorted(listed, ids), len(listed) - 1)
            known = listed[row] == ids
        x = scaled(table.q[row], (table.scale[0][row][:, None], table.scale[1][row][:, None]), ONE)
        return np.where(known[:, None], x, 0)


class Chain(Predictor):
    def __init__(self, *args):
        super().__init__(*args)
        self.bias = self.p.mode_array(self.index, "bias", "I32", [self.L, 2, self.H * self.D], 2**30 - 1)

    def begin(self, ids):
        self.past = []  # of each layer: K, V without means, as digits
        if self.mode["ids"]:
            e = self.p.embedding
            self.token_rows = quantise(self.embedded(ids), e["exponent"], 2, eps=e["eps"])

    def predict(self, layer):
        HD = self.H * self.D
        out = np.tile(self.bias[layer].reshape(-1), (self.tokens, 1))
        if self.mode["ids"]:
            out = sat(out + product(self.token_rows, self.weights(f"layers.{layer}.embed", 2 * HD, self.p.embedding["width"])))
        for i in range(1, min(self.mode["depth"], layer) + 1):
            for part, name in (KEY, "key"), (VALUE, "value"):
                out = sat(out + product(self.past[layer - i][part], self.weights(f"layers.{layer}.past.{i}.{name}", 2 * HD, HD)))
        return out

    def learn(self, layer):
        keys, values = self.values[layer]
        keys = rope(keys, self.p.steps, self.positions, backwards=True)
        x = [sat(part.reshape(self.tokens, -1) - self.mean[layer, i]) for i, part in enumerate((keys, values))]
        self.past.append([self.rows(x[i], self.p.exponents[layer][i], 1) for i in (KEY, VALUE)])


class Draft(Predictor):
    def __init__(self, *args):
        super().__init__(*args)
        self.net_index = self.mode["net"]
        self.net = self.p.nets[self.net_index]
        self.history = [[] for _ in range(self.L)]  # of each layer: digits of keys and values of all chunks so far

    def net_name(self, layer, name):
        return self.p.of("net", self.net_index, f"layers.{layer}.{name}")

    def matrix(self, layer, name, outputs, inputs):
        return self.p.weights(self.net_name(layer, name), outputs, inputs)

    def begin(self, ids):
        self.h = self.embedded(ids)

    def normed(self, digits):
        net = self.net
        return quantise(self.h, net["hidden_exponent"], net["digits"][digits], wide=net["wide"], eps=net["eps"])

    def norm(self, x, layer, name, F):
        """Heads [tokens, heads, head_dim] with fixed point F, normed if the model has that."""
        return head_norm(x, F, self.net["eps"], self.p.norm(self.net_name(layer, name))) if self.net["qk_norm"] else x

    def predict(self, layer):
        HD, exponents = self.H * self.D, self.p.exponents[layer]
        self.r = inverse(rrms(self.h, np.full(self.tokens, self.net["hidden_exponent"]), self.net["eps"]))
        out = product(self.normed("kv"), self.matrix(layer, "kv", 2 * HD, self.net["hidden"]))
        keys = out[:, :HD].reshape(self.tokens, self.H, self.D)
        out[:, :HD] = self.norm(keys, layer, "key_norm", self.net["layers"][layer]["raw_key"]).reshape(self.tokens, HD)
        self.power = power(out[:, :HD], exponents[KEY]), power(out[:, HD:], exponents[VALUE])
        if self.open_loop:
            self.guess = out[:, :HD].reshape(keys.shape).copy(), out[:, HD:].reshape(keys.shape).copy()
        return out

    def powers(self, layer):
        return self.power

    def add(self, x):
        self.h = sat(self.h + x)

    def learn(self, layer):
        """Steps 3 to 5: from the layer's truth to the hidden state of the next."""
        if layer == self.L - 1:
            return
        net, e, exponents = self.net, self.net["layers"][layer], self.p.exponents[layer]
        hidden, HD = net["hidden"], self.H * self.D
        if self.feedback:  # 3.
            for part, name in (KEY, "key"), (VALUE, "value"):
                X = self.rows(self.innovations[part], exponents[part], self.mode["residual_digits"])
                self.add(product(X, self.weights(f"layers.{layer}.gain.{name}", hidden, HD), self.r))
        width = net["heads"] * self.D  # 4.
        q = product(self.normed("q"), self.matrix(layer, "q", width, hidden)).reshape(self.tokens, net["heads"], self.D)
        q = rope(self.norm(q, layer, "query_norm", e["raw_query"]), self.p.steps, self.positions)
        digits = net["digits"]["attention"]
        keys, values = self.values[layer]
        if self.open_loop:
            keys, values = rope(self.guess[KEY], self.p.steps, self.positions), self.guess[VALUE]
        new = to_digits(keys, exponents[KEY], digits), to_digits(values, exponents[VALUE], digits)
        self.history[layer] = [join(old, x) for old, x in zip(self.history[layer] or (None, None), new)]
        K, V = self.history[layer]
        a = attend(to_digits(q, e["query"], digits, query=True), K, V, self.first, e["value_scale"], e["attention"])
        a = quantise(a.reshape(self.tokens, width), e["attention"], net["digits"]["o"], k=net["hadamard_o"])
        self.add(product(a, self.matrix(layer, "o", hidden, width)))
        both = product(self.normed("gate_up"), self.matrix(layer, "gate_up", 2 * net["ffn"], hidden))  # 5.
        act = silu(both[:, :net["ffn"]], both[:, net["ffn"]:], e["gate"], e["up"], e["act"])
        act = quantise(act, e["act"], net["digits"]["down"], k=net["hadamard_down"])
        self.add(product(act, self.matrix(layer, "down", hidden, net["ffn"])))


def join(old, new):
    if old is None:
        return new
    scale = tuple(np.concatenate(pair) for pair in zip(old.scale, new.scale))
    return Digits(np.concatenate([old.q, new.q]), scale, new.digits)


KINDS = {"static": Predictor, "chain": Chain, "draft": Draft}
