"""Between predictions and prices: numerics.md, section 8."""

import numpy as np

from fixed import EXP2, ints, log2, rs, sat
from model import INV, edge, rank_of


class Unit:
    """A code's worth: m * 2^e with 2^23 <= m < 2^24, from the bits of a normal f32 (or one)."""

    def __init__(self, bits=0x3F800000):
        self.m, self.e = 2**23 | bits & 2**23 - 1, (bits >> 23) - 127 - 23

    def exponent(self, F):
        """Of a plane in code units, for predictions with exponent F."""
        return F + self.e + 23

    def gain(self):
        return -((int(log2(self.m)) - 23 * 4096 + 128) >> 8)

    def prediction(self, mu):
        """In code units: mu < 2^30, the factor at most 2^31."""
        return mu if self.m == 2**23 else mu * (2**54 // self.m) + 2**30 >> 31


def value_of(codes, fmt, unit, F):
    """Values with exponent F of codes (an array); NaNs and infinities as the numbers their bits would be."""
    m = codes & (1 << fmt.width - 1) - 1
    e, f = m >> fmt.MB, m & (1 << fmt.MB) - 1
    sig = np.where(e == 0, f, f + (1 << fmt.MB))
    v = rs(sig * unit.m, np.maximum(e, 1) - fmt.B - fmt.MB + unit.e + F)
    return np.where(codes >> fmt.width - 1 == 1, -v, v)


def innovation(codes, mu, indices, fmt, F):
    """Of coded scalars, in code units; F is the plane's exponent, `indices` the scale indices they were coded with."""
    ranks = [rank_of(c, fmt) for c in codes.reshape(-1).tolist()]
    lo = ints([edge(r, fmt, F) for r in ranks]).reshape(mu.shape) - mu
    hi = ints([edge(r + 1, fmt, F) for r in ranks]).reshape(mu.shape) - mu
    near, centre = np.clip(0, lo, hi), lo + hi >> 1
    t = np.clip((log2(np.maximum(hi - lo, 1)) >> 8) - indices, -128, 127)
    o, x = t >> 3, 2 * EXP2[256 - 32 * (t & 7)]
    y = np.where(o >= 10, x << np.maximum(o - 10, 0), x >> np.maximum(10 - o, 0))
    g = 10 * 2**35 // (10 * 2**20 + y)
    return sat((near << 15) + (centre - near) * g >> 15)


def energy(innovations, indices):
    """Of each token: innovations [tokens, head_dim] in code units, the channels' own indices [head_dim]."""
    t = innovations * 1024 >> (indices >> 4)  # normalised() of model.py, for arrays: |innovations| < 2^30, so |t INV| < 2^56
    z = np.clip(t * ints(INV)[indices & 15] >> 15, -16384, 16384)
    return log2((z**2).sum(1) // innovations.shape[1] + 1024) - 20 * 4096


def power(x, F):
    """Of each token: predictions [tokens, all columns of a part] of exponent F; squares below 2^44, 2^18 of them at most."""
    return log2(((x >> 8) ** 2).sum(1) // x.shape[1] + 1) - 4096 * 2 * (F - 8)


def token_scale(features, weights):
    """features: list of eight arrays [tokens] or None; weights: eight, then the bias."""
    total = int(weights[8]) * 4096 + sum(f * int(w) for f, w in zip(features, weights) if f is not None)
    return np.clip(total + 2**27 >> 28, -400, 400)
