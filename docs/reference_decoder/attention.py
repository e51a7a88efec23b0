"""Attention over digits: numerics.md, section 7."""

from math import isqrt

import numpy as np

from fixed import exp2, ilog2, ints, rs, scale, scaled, times
from rows import Digits, exact, quantise, reduce

BLOCK = 64
LOG2_E = (23637, -14)


def to_digits(x, F, digits, query=False):
    """x: [tokens, heads, head_dim]."""
    n = x.shape[-1]
    k = (n & -n).bit_length() - 1
    gain = (2**14, -14)
    if query:
        gain = times(LOG2_E, scale(isqrt(2**60 // n), -30))
        gain = (gain[0], gain[1] - k)
    return quantise(x, F, digits, k=k, gain=gain)


def attend(queries, keys, values, first, F_value, F_out):
    """queries: Digits of [tokens, heads, head_dim] from position `first` on; keys, values: of all positions up to the last of them."""
    tokens, heads, dim = queries.q.shape
    kv_heads = keys.q.shape[1]
    out = np.zeros((tokens, heads, dim), np.int64)
    position = first + np.arange(tokens)
    for j in range(heads):
        kv = j * kv_heads // heads
        out[:, j] = head(one(queries, j), one(keys, kv), one(values, kv), position, F_value, F_out)
    return out


def one(digits, head):
    return Digits(digits.q[:, head], (digits.scale[0][:, head], digits.scale[1][:, head]), digits.digits)


def head(q, k, v, position, F_value, F_out):
    sums = (exact(q.q) @ exact(k.q).T).astype(np.int64)
    acc, shift = reduce(sums, q.q.shape[1], 0, q.digits, k.digits)
    score = scaled(acc, (q.scale[0][:, None], q.scale[1][:, None] + 16 + shift), k.scale)  # 1.
    seen = np.arange(len(k.q))[None, :] <= position[:, None]
    blocks = [slice(at, at + BLOCK) for at in range(0, len(k.q), BLOCK)]
    none = -2**40  # the exponent of a block of which nothing is seen: never within 40 of a real one
    best = [np.where(seen[:, b], score[:, b], -2**62).max(1) for b in blocks]  # 2.
    e_b = np.stack([np.where(seen[:, b].any(1), m + 65535 >> 16, none) for b, m in zip(blocks, best)])
    e = e_b.max(0)
    f = np.minimum(rs(v.scale[0], ints(v.scale[1]) + F_value + 15), 16319)
    D, N = np.zeros(len(q.q), np.int64), np.zeros(q.q.shape, np.int64)
    for b, exponent in zip(blocks, e_b):
        near = e - exponent <= 40  # 3.
        below = np.where(seen[:, b] & near[:, None], 65536 * exponent[:, None] - score[:, b], 2**24)  # exp2(2^24) = 0
        w = exp2(below)
        p = w * f[b] + 2**14 >> 15
        D_b, N_b = w.sum(1), (exact(p) @ exact(v.q[b])).astype(np.int64)  # p <= 2^15: sums below 2^36
        shift = np.where(near, e - exponent, 0)
        D += (D_b << 8) >> shift  # 4.
        N += (N_b << 8) >> shift[:, None]
    t = ilog2(D) - 30  # 5.
    D, N = (np.where(s < 0, x << np.maximum(-s, 0), x >> np.maximum(s, 0)) for x, s in ((D, t), (N, t[:, None])))
    fold = 6 if v.digits == 1 else 14
    return rs((N >> fold) * (2**61 // D)[:, None], fold - 61 - F_value + F_out)
