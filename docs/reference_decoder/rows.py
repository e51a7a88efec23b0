"""Rows to digits, norms and products: numerics.md, sections 3, 4 and 6."""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from fixed import ONE, ilog2, ints, logistic, rs, sat, scale, scaled, shift_round, times

LEVELS = {1: 127, 2: 127 * 256 + 127}
BITS = {1: 7, 2: 15}


@dataclass
class Digits:
    """Integers q [..., columns]; scales (m, e) [...]; real value = q * scale."""

    q: np.ndarray
    scale: tuple
    digits: int
    wide: int = 0


@dataclass
class Weights:
    """q [outputs, inputs], one scale (m, e) an output, bias [outputs] or None; numerics.md, section 10."""

    q: np.ndarray
    scale: tuple
    digits: int
    bias: np.ndarray


def hadamard(x, k):
    """Unnormalised: out[i] = sum of (-1)^(number of bits set in i and j) x[j], in each block of 2^k columns."""
    shape = x.shape
    for bit in range(k):
        pairs = x.reshape(shape[:-1] + (-1, 2, 1 << bit))
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(shape)
    return x


def quantise(x, F, digits, k=0, wide=0, eps=None, gain=ONE):
    """Section 3 over the last axis: that is the group. Returns Digits."""
    x, F = ints(x), np.full(x.shape[:-1], F, np.int64)
    norm = None if eps is None else rrms(x, F, eps)
    if k > 0:  # 1.
        A = np.abs(x).max(-1)
        s = np.where(A > 0, 29 - k - ilog2(np.maximum(A, 1)), 0)
        x, F = hadamard(shift_round(x, s[..., None]), k), F + s
    levels, bits = LEVELS[digits], BITS[digits]
    A = np.abs(x)
    W, R = A[..., :wide].max(-1, initial=0), A[..., wide:].max(-1, initial=0)  # 2.
    top = np.maximum(np.maximum(R, -(-W * levels // LEVELS[2])), 1)
    n = np.maximum(29 - ilog2(top), 0)  # 3.
    full, b = top << n, 60 - bits
    r = ((levels << b) // full)[..., None]  # below 2^31
    y = x << n[..., None]
    q = y * r + (1 << b - 1) >> b  # |y r| <= levels 2^b < 2^60, but in wide columns, which take the other formula
    q[..., :wide] = (y[..., :wide] * (r >> 9) + (1 << b - 10)) >> b - 9  # |y| <= 2^30 * 257, r >> 9 < 2^22
    result = times(scale((full << 20) // levels, -20 - n - F), gain)  # 4.
    if norm is not None:
        result = times(result, norm)
    zero = A.max(-1) == 0
    return Digits(np.where(zero[..., None], 0, q), (np.where(zero, 0, result[0]), np.where(zero, 0, result[1])), digits, wide)


def rrms(x, F, eps):
    """1 / root of (mean square + eps) over the last axis, as scales. Python integers: `sum` times 2^16 needs 64 unsigned bits."""
    flat = x.reshape(-1, x.shape[-1])
    A = np.abs(flat).max(-1)
    n = np.where(A > 0, np.maximum(29 - ilog2(np.maximum(A, 1)), 0), 0)
    sums = (((flat << n[:, None]) + 2**13 >> 14) ** 2).sum(-1)  # at most 2^15 columns of 2^32
    us = 14 - n - np.broadcast_to(F, x.shape[:-1]).reshape(-1)
    results = []
    for total, u in zip(sums.tolist(), us.tolist()):
        exponent = int(eps[1]) - 2 * u + 16
        # Shifted by 64 the smallest eps.m is above 2^61: the bound keeps the shift short, not another result.
        E = min(int(eps[0]) << min(exponent, 64) if exponent >= 0 else int(eps[0]) >> -exponent, 2**61)
        M = (total << 16) // flat.shape[1] + E
        if M == 0:
            results.append((0, 0))
            continue
        half = (64 - M.bit_length() - 1) // 2
        m, e = scale(2**62 // isqrt(M << 2 * half), -62 + 8 + half - u)
        results.append((int(m), int(e)))
    m, e = np.array(results, np.int64).T
    return m.reshape(x.shape[:-1]), e.reshape(x.shape[:-1])


def head_norm(x, F, eps, weight):
    """Each group of the last axis: x / rms, times the signed scale of its column."""
    m, e = rrms(x, F, eps)
    return np.sign(weight[0]) * scaled(x, (m[..., None], e[..., None]), (np.abs(weight[0]), weight[1]))


def exact(q):
    """Sums of a product stay below 2^47 (section 4), so doubles, which numpy multiplies fast, hold all of them exactly."""
    return q.astype(np.float64)


def reduce(sums, inputs, wide, digits_a, digits_w):
    """(acc, shift) of section 4: acc below 2^31."""
    inputs += 256 * wide if digits_a == 1 else 0
    shift = max(0, (inputs - 1).bit_length() + BITS[digits_a] + BITS[digits_w] - 31)  # (n - 1).bit_length() = ceil(log2 n)
    return (sums + (1 << shift - 1) >> shift if shift else sums), shift


def product(a, w, factor=ONE):
    """a [rows, inputs] times w: values [rows, outputs] in the fixed point that w's scales hold."""
    sums = (exact(a.q) @ exact(w.q).T).astype(np.int64)
    acc, shift = reduce(sums, w.q.shape[1], a.wide, a.digits, w.digits)
    m, e = times(a.scale, factor)
    v = scaled(acc, (m[:, None], e[:, None] + shift), w.scale)
    return v if w.bias is None else sat(v + w.bias)


def silu(g, u, F_gate, F_up, F_out):
    """Section 6: silu(g) u; |g s| and |t u| below 2^60."""
    t = g * logistic(rs(g, 20 - F_gate)) + 2**29 >> 30
    return rs(t * u, F_out - F_gate - F_up)
