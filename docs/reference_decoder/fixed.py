"""Fixed point, scales and tables: numerics.md, sections 1, 2 and 5. Arrays are int64; each bound is the section's own."""

from decimal import Decimal, getcontext

import numpy as np

LIMIT = 2**30 - 1
ONE = (2**14, -14)  # a scale of exactly one

getcontext().prec = 40  # enough digits to see the nearest integer to a real without doubt
PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def ints(x):
    return np.asarray(x, np.int64)


def sat(x):
    return np.clip(x, -LIMIT, LIMIT)


def ilog2(x):
    """Position of the highest set bit; x > 0."""
    x, r = ints(x), np.zeros(np.shape(x), np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = x >> step > 0
        r, x = r + step * big, np.where(big, x >> step, x)
    return r


def shift_round(x, n):
    """`rs` for the shifts it gives no saturation to: x << n, or x >> -n rounded (x below 2^61)."""
    left, right = np.clip(n, 0, 62), np.clip(np.negative(n), 0, 62)
    return np.where(right > 0, (x + (np.int64(1) << np.maximum(right - 1, 0))) >> right, x << left)


def rs(x, n):
    """Section 1, shift and round. |x| <= 2^61 (products of section 1), so adding 2^61 at -n = 62 stays below 2^63."""
    x, n = np.broadcast_arrays(ints(x), ints(n))
    right = np.where(n < -62, 0, sat(shift_round(x, np.clip(n, -62, -1))))
    left = np.where(n > 30, np.sign(x) * LIMIT, sat(np.clip(x, -2**31, 2**31) << np.clip(n, 0, 30)))
    return np.where(n < 0, right, left)


# --- Scales: pairs (m, e) of arrays

def scale(v, e):
    """S(v, e): v >= 0, rounded to 15 bits."""
    v, e = np.broadcast_arrays(ints(v), ints(e))
    t = ilog2(np.maximum(v, 1))
    n = t - 14
    m = np.where(n <= 0, v << np.maximum(-n, 0), ((v >> np.maximum(n - 1, 0)) + 1) >> 1)
    carry = m == 2**15
    return np.where(carry, 2**14, m), np.clip(np.where(v == 0, 0, e + n + carry), -4096, 4096)


def times(a, b):
    return scale(ints(a[0]) * ints(b[0]), ints(a[1]) + ints(b[1]))


def inverse(a):
    m = ints(a[0])
    return scale(np.where(m == 0, 0, 2**44 // np.maximum(m, 1)), -44 - ints(a[1]))


def scaled(x, a, b):
    """|x| < 2^31, so the product is below 2^61."""
    return rs(ints(x) * ints(a[0]) * ints(b[0]), ints(a[1]) + ints(b[1]))


# --- 2. Tables: the nearest integers to exact reals

def nearest(x):
    return int(x.to_integral_value())


def sine(i):
    """sin(2 pi i / 4096) for i <= 1024 by its series; the rest of the turn is symmetry."""
    if i > 2048:
        return -sine(4096 - i)
    if i > 1024:
        return sine(2048 - i)
    x = 2 * PI * i / 4096
    term, total, k = x, x, 1
    while abs(term) > Decimal(10) ** -35:
        term = -term * x * x / ((k + 1) * (k + 2))
        total, k = total + term, k + 2
    return total


SIN = ints([nearest(2**30 * sine(i)) for i in range(4097)])
EXP2 = ints([nearest(2**30 * Decimal(2) ** (Decimal(-i) / 256)) for i in range(257)])
LOGI = ints([nearest(2**30 / (1 + (Decimal(-i) / 128).exp())) for i in range(2049)])
LOG2 = ints([nearest(4096 * (1 + Decimal(i) / 256).ln() / Decimal(2).ln()) for i in range(257)])


def sin(phase):
    """phase: uint64, 2^64 = one turn. Result of 30 fraction bits."""
    i, f = (phase >> np.uint64(52)).astype(np.int64), ((phase >> np.uint64(32)) & np.uint64(2**20 - 1)).astype(np.int64)
    return SIN[i] + ((SIN[i + 1] - SIN[i]) * f + 2**19 >> 20)


def cos(phase):
    return sin(phase + np.uint64(2**62))  # wraps


def exp2(x):
    """2^-x for x >= 0 in 1/65536; 16 fraction bits."""
    i, f, o = (x >> 8) & 255, x & 255, np.minimum(x >> 16, 18)
    v = EXP2[i] + ((EXP2[i + 1] - EXP2[i]) * f >> 8)
    return np.where(o >= 18, 0, (v + (np.int64(1) << 13 + o)) >> 14 + o)


def logistic(x):
    """Of 20 fraction bits; result of 30."""
    a = np.minimum(np.abs(x), 2**24 - 1)
    i, f = a >> 13, a & 8191
    v = LOGI[i] + ((LOGI[i + 1] - LOGI[i]) * f >> 13)
    return np.where(x < 0, 2**30 - v, v)


def log2(v):
    """Of v >= 1; 12 fraction bits."""
    v = ints(v)
    t = ilog2(v)
    n = np.where(t <= 16, v << np.maximum(16 - t, 0), v >> np.maximum(t - 16, 0))
    i, f = (n >> 8) & 255, n & 255
    return 4096 * t + LOG2[i] + ((LOG2[i + 1] - LOG2[i]) * f >> 8)


# --- 5. RoPE

def rope(x, steps, positions, backwards=False):
    """x: [tokens, ..., head_dim]. |a c| + |b s| < 2^61."""
    phase = np.asarray(positions, np.uint64)[:, None] * np.asarray(steps, np.uint64)[None, :]  # wraps at 2^64
    c, s = cos(phase), sin(phase)
    if backwards:
        s = -s
    between = (slice(None),) + (None,) * (x.ndim - 2)
    c, s, half = c[between], s[between], x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([sat(a * c - b * s + 2**29 >> 30), sat(b * c + a * s + 2**29 >> 30)], axis=-1)
