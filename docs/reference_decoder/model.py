"""Element formats, cells and the probability model: format.md, sections 1 to 3. Plain Python integers, which cannot overflow."""

from dataclasses import dataclass
from decimal import Decimal, getcontext
from functools import lru_cache

from errors import expect

TOP = 2**30 - 1
J = 8
ESCAPE = None


@dataclass(frozen=True)
class Format:
    name: str
    width: int
    MB: int  # mantissa bits
    B: int  # bias


FORMATS = {0: Format("bf16", 16, 7, 127), 1: Format("f16", 16, 10, 15), 2: Format("e4m3", 8, 3, 7), 3: Format("e5m2", 8, 2, 15)}

getcontext().prec = 40  # enough digits to see the nearest integer to a real without doubt
MANT = [int((2**15 * Decimal(2) ** (Decimal(i) / 16)).to_integral_value()) for i in range(16)]
INV = [int((2**15 * Decimal(2) ** (Decimal(-i) / 16)).to_integral_value()) for i in range(16)]


def clamp(x, low, high):
    return min(max(x, low), high)


def ilog2(x):
    return x.bit_length() - 1


# --- 1. Element formats

def rank_of(code, fmt):
    sign, m = code >> fmt.width - 1, code & (1 << fmt.width - 1) - 1
    return -1 - m if sign else m


def code_of(rank, fmt):
    return rank if rank >= 0 else (1 << fmt.width - 1) + (-1 - rank)


def significand(m, fmt):
    """(e, f, sig) of a magnitude."""
    e, f = m >> fmt.MB, m & (1 << fmt.MB) - 1
    return e, f, f if e == 0 else (1 << fmt.MB) + f


@lru_cache(maxsize=None)
def mid(m, fmt, F):
    """The lower limit of the reals that round to magnitude m, in units of 2^-F."""
    if m == 0:
        return 0
    if m == 1 << fmt.width - 1:
        return TOP
    e, f, sig = significand(m, fmt)
    q = 4 * sig - (1 if f == 0 and e >= 2 else 2)
    s = max(e, 1) - fmt.B - fmt.MB - 2 + F
    if s < 0:
        return q >> -s if -s <= 31 else 0
    return min(q << s, TOP) if s <= 30 else TOP


def edge(rank, fmt, F):
    return mid(rank, fmt, F) if rank >= 0 else -mid(-rank, fmt, F)


def mag(v, fmt, F):
    """The magnitude nearest to v >= 0 units, the upper one of two."""
    if v == 0:
        return 0
    b = ilog2(v)
    e, M = b - F + fmt.B, fmt.MB + 1
    if e >= 1:
        h = (e << M) + ((v << M >> b) - (1 << M))
    else:
        n = fmt.B + M - 1 - F
        h = v << n if n >= 0 else v >> -n
    return min(min(h, (1 << fmt.width) - 1) + 1 >> 1, (1 << fmt.width - 1) - 1)


def nearest_rank(v, fmt, F):
    return mag(v, fmt, F) if v >= 0 else -1 - mag(-v, fmt, F)


# --- 2. Cells

class Cells:
    """The cells of one format, plane exponent and cell width 2^S."""

    def __init__(self, fmt, F, S):
        self.fmt, self.F = fmt, F
        self.eb = max(S - F + fmt.B, 1 - fmt.MB)
        self.ez = max(self.eb - J + 1, 0)
        self.z = 1 if self.ez > 0 else 0
        self.base = max(self.eb, 1) - 1 - self.ez + self.z
        self.edges = {}

    def number(self, rank):
        if rank < 0:
            return -1 - self.number(-1 - rank)
        e, _, sig = significand(rank, self.fmt)
        j, MB = max(e, 1) - self.eb, self.fmt.MB
        if e < self.ez:
            return 0
        if j <= 0:
            return e - self.ez + self.z
        return self.base + (sig >> MB - j if j <= MB else sig + (j - MB << MB))

    def first(self, n):
        """The lowest magnitude of cell n >= 0: `number`, turned round. The case j > MB is told by its r >= 2^(MB+1)."""
        MB, eb, r = self.fmt.MB, self.eb, n - self.base
        if self.z and n == 0:
            return 0
        if eb >= 1 and n - self.z + self.ez <= eb:  # whole binades: j <= 0
            return n - self.z + self.ez << MB
        if eb < 1 and r < 1 << 1 - eb:  # e = 0, where j = 1 - eb
            return r << MB - (1 - eb)
        if r < 2 << MB:  # sig >> (MB - j) lies in 2^j .. 2^(j+1)
            j = ilog2(r)
            return (j + eb - 1 << MB) + (r << MB - j)
        return ((r >> MB) - 1 + MB + eb << MB) + (r & (1 << MB) - 1)

    def raw_bits(self, n):
        """How many raw bits follow cell n: k of section 2, or a magnitude for the zone."""
        n = max(n, -1 - n)
        if self.z and n == 0:
            return self.fmt.width - 1
        e = self.first(n) >> self.fmt.MB
        return clamp(self.fmt.MB - (max(e, 1) - self.eb), 0, self.fmt.MB)

    def lower_edge(self, n):
        """The lower edge of the cell's lowest rank. A negative cell -1 - p ends where cell p + 1 begins, mirrored."""
        if n not in self.edges:
            self.edges[n] = mid(self.first(n), self.fmt, self.F) if n >= 0 else -mid(self.first(-n), self.fmt, self.F)
        return self.edges[n]

    def code(self, n, raw):
        """The code of cell n with its raw bits (section 3)."""
        if self.z and n in (0, -1):
            expect(raw < self.ez << self.fmt.MB, "a zone magnitude must lie in the zone", raw)
            return code_of(raw if n == 0 else -1 - raw, self.fmt)
        lowest = self.first(n) if n >= 0 else -self.first(-1 - n) - (1 << self.raw_bits(n))
        return code_of(lowest + raw, self.fmt)


@lru_cache(maxsize=None)
def cells(fmt, F, S):
    return Cells(fmt, F, S)


# --- 3. Probability model

# Knots of T: steps of 64 up to 2048, of 128 up to 4096, of 512 up to 8192, of 1024 up to 16384.
KNOTS = [0] + [z for lo, hi, step in ((0, 2048, 64), (2048, 4096, 128), (4096, 8192, 512), (8192, 16384, 1024))
               for z in range(lo + step, hi + 1, step)]


def normalised(d, q):
    """z: a distance of d units for scale index q; one scale is 1024."""
    t = d * 1024 >> (q >> 4)
    return clamp(t * INV[q & 15] >> 15, -16384, 16384)


class Shape:
    """Knots and escape frequency; `T` for every |z|."""

    def __init__(self, knots, escape):
        knots = [int(t) for t in knots]
        good = len(knots) == 65 and knots[0] == 0 and knots[64] == 32768 and all(a <= b for a, b in zip(knots, knots[1:]))
        expect(good, "65 shape knots must start at 0, never decrease and end at 32768", f"{knots[0]} .. {knots[-1]}")
        expect(1 <= escape <= 8192, "the escape frequency must be 1..=8192", escape)
        self.escape = int(escape)
        self.T = []
        for i in range(64):
            step = KNOTS[i + 1] - KNOTS[i]
            self.T += [knots[i] + ((knots[i + 1] - knots[i]) * offset >> ilog2(step)) for offset in range(step)]
        self.T.append(knots[64])

    def C(self, z):
        return 32768 + self.T[z] if z >= 0 else 32768 - self.T[-z]


class Prices:
    """What the coder needs for one plane: format, plane exponent, shape; means and scale indices of its scalars."""

    def __init__(self, fmt, F, shape, means, indices):
        self.fmt, self.F, self.shape, self.means, self.indices = fmt, F, shape, means, indices

    def find(self, i, slot):
        """(start, freq, raw bits, symbol) of the interval that holds `slot`."""
        mu, q, escape = self.means[i], self.indices[i], self.shape.escape
        if slot >= 65536 - escape:
            return 65536 - escape, escape, self.fmt.width, ESCAPE
        c = cells(self.fmt, self.F, (q >> 4) - 2)
        R = min(MANT[q & 15] << (q >> 4) + 4 >> 15, TOP)
        lo = c.number(nearest_rank(max(mu - R, -TOP), self.fmt, self.F))
        hi = c.number(nearest_rank(min(mu + R, TOP), self.fmt, self.F))
        N = hi - lo + 1
        A = 65536 - escape - N

        def cum(i):
            """Of the lower edge of the window's cell i; i = N is the upper edge of the last."""
            z = -16384 if i == 0 else 16384 if i == N else normalised(c.lower_edge(lo + i) - mu, q)
            return (self.shape.C(z) * A >> 16) + i

        below, above = 0, N  # cum rises strictly: cum(below) <= slot < cum(above)
        while above - below > 1:
            half = below + above >> 1
            below, above = (half, above) if cum(half) <= slot else (below, half)
        start = cum(below)
        return start, cum(above) - start, c.raw_bits(lo + below), (c, lo + below)

    def finish(self, symbol, raw):
        return raw if symbol is ESCAPE else symbol[0].code(symbol[1], raw)
