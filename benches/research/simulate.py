#!/usr/bin/env python3
"""What else was tried: rates of variants of the chain and of the draft, simulated in floating point (README.md beside this file).

    python3 simulate.py --model M.gguf --calibration DIR --evaluation DIR --variants chain|draft|all [--only PATTERN] [--csv OUT]

Every rate is an ideal code length in bits per scalar on evaluation sequences; everything fitted is fitted to calibration sequences.
"""
import argparse, csv, dataclasses, functools, math, re, time
import torch, torch.nn.functional as F
from model import load

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--model", help="GGUF file of a Llama model")
ap.add_argument("--calibration", help="folder of .txt files, taken in turn")
ap.add_argument("--evaluation", help="folder of .txt files, the beginning of each")
ap.add_argument("--tokens", type=int, default=1024, help="tokens of a sequence")
ap.add_argument("--n-calibration", type=int, default=32)
ap.add_argument("--n-evaluation", type=int, default=11)
ap.add_argument("--variants", choices=["chain", "draft", "all"], default="all")
ap.add_argument("--only", help="regular expression: only variants whose names hold it")
ap.add_argument("--csv", help="also writes a row per variant and element format")
ap.add_argument("--layers", type=int, help=argparse.SUPPRESS)  # the first few only: a quick check of the script itself

DEV = "cuda" if torch.cuda.is_available() else "cpu"
ONE, TWO = 127, 32639            # levels of a row in one digit, and in two (docs/numerics.md, section 3)
BATCH = 8                        # sequences at a time where memory would not hold all
torch.backends.cuda.matmul.allow_tf32 = False
torch.set_grad_enabled(False)

# ---------------------------------------------------------------- shapes
def heads(x, n): return x.view(x.shape[0], T, n, HD).transpose(1, 2)               # [S, T, n HD] -> [S, n, T, HD]
def flat(x): return x.transpose(1, 2).reshape(x.shape[0], T, -1)                   # and back
def shared(x): return x.repeat_interleave(NH // NK, 1)                             # KV heads to query heads
def half(x): return torch.cat([-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]], -1)
def rope(x, cos, sin): return x * cos + half(x) * sin
def unrope(x): return x * COS - half(x) * SIN
def rrms(h): return (h.pow(2).mean(-1, keepdim=True) + M.eps).rsqrt()
def batches(n): return [slice(b, min(b + BATCH, n)) for b in range(0, n, BATCH)]
def in_batches(f, *xs): return torch.cat([f(*(x[b] for x in xs)) for b in batches(len(xs[0]))])
def quant(x, levels):                                                              # one scale a row
    step = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / levels
    return torch.round(x / step) * step

# ---------------------------------------------------------------- the target and its caches
@dataclasses.dataclass
class Cache:
    """Caches of all sequences in one element format. `exact` is what the target computed, `codes` what a cache holds of it, both in
    units of the codes; `scale` [layers, 2] brings them to values."""
    raw_bits: int
    exact: torch.Tensor       # [S, layers, 2, NK, T, HD]
    codes: torch.Tensor
    scale: torch.Tensor
    hidden: torch.Tensor      # [S, layers, T, hidden]: the state entering each layer
    values: torch.Tensor      # every number the format has, ascending
    edges: torch.Tensor       # and the cells that round to them
    def known(self, l): return [self.codes[:, l, p].float() * self.scale[l, p] for p in (0, 1)]

def grid(positive):
    v = torch.cat([-positive.flip(0)[:-1], positive]).double()
    end = torch.tensor([1e30], device=DEV).double()
    return v, torch.cat([-end, (v[1:] + v[:-1]) / 2, end])

def to_e4m3(x, scale): return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()

def target(scale=None):
    """The model in bf16, as transformers computes it. With `scale` it attends to its cache in e4m3, as engines with an fp8 cache do."""
    kv = torch.zeros(S, L, 2, NK, T, HD, dtype=torch.bfloat16, device=DEV)
    hidden = torch.zeros(S, L, T, D, device=DEV)
    w, norms = {k: v.bfloat16() for k, v in W.items()}, M.norms.bfloat16()
    def rms(h, g): return g * (h.float() * rrms(h.float())).bfloat16()
    for b in batches(S):
        h = EMBEDDING[M.ids[b]].bfloat16()
        for l in range(L):
            hidden[b, l] = h.float()
            x = rms(h, norms[l, 0])
            q, k, v = (heads(F.linear(x, w[l, n]), m) for n, m in (("q", NH), ("k", NK), ("v", NK)))
            q, k = (rope(z, COS.bfloat16(), SIN.bfloat16()) for z in (q, k))
            kv[b, l, 0], kv[b, l, 1] = k, v
            if scale is not None:
                k, v = ((to_e4m3(z, scale[l, p]) * scale[l, p]).bfloat16() for p, z in enumerate((k, v)))
            h = h + F.linear(flat(F.scaled_dot_product_attention(q, shared(k), shared(v), is_causal=True)), w[l, "o"])
            x = rms(h, norms[l, 1])
            h = h + F.linear(F.silu(F.linear(x, w[l, "gate"])) * F.linear(x, w[l, "up"]), w[l, "down"])
    return kv, hidden

def caches():
    kv, hidden = target()
    scale = kv[:N].float().abs().amax((0, 3, 4, 5)) / 448                            # one a layer and part
    codes = torch.arange(0, 0x7F80, device=DEV, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    fine = Cache(16, kv, kv, torch.ones_like(scale), hidden, *grid(codes))
    kv, hidden = target(scale)
    by = scale[None, :, :, None, None, None]
    codes = torch.arange(0, 127, device=DEV, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    return {"bf16": fine, "e4m3": Cache(8, kv.float() / by, to_e4m3(kv, by), scale, hidden, *grid(codes))}

# ---------------------------------------------------------------- regressions and prices
def trimmed(X, Y, size):
    """Calibration rows, the half percent of largest size left out, so that tokens with massive activations do not own a fit."""
    keep = size <= size.flatten().sort()[0][max(int(size.numel() * 0.995) - 1, 0)]
    return X[:N][keep], Y[:N][keep]

def fit(X, Y, ridge):
    """Ridge regression over the calibration sequences, relative to each feature's power."""
    X, Y = trimmed(X, Y, Y[:N].pow(2).mean(-1))
    unit, A, B = X.pow(2).mean(0).sqrt().clamp_min(1e-20), 0, 0
    for i in range(0, len(X), 8192):
        x = (X[i:i + 8192] / unit).double()
        A, B = A + x.T @ x, B + x.T @ Y[i:i + 8192].double()
    A += ridge * len(X) * torch.eye(len(A), device=DEV, dtype=torch.double)
    return torch.linalg.solve(A, B).float() / unit[:, None]

def phi(z): return 0.5 * torch.erfc(-z * 0.7071067811865476)
def mass(lo, hi, sigma):
    a, b = lo / sigma, hi / sigma
    flip = a > 0                                                                    # the lower tail does not cancel
    return (phi(torch.where(flip, -a, b)) - phi(torch.where(flip, -b, a))).clamp_min(0)

WIDTHS = [.2, .35, .5, .7, 1., 1.4, 2., 3., 5., 9., 20.]
def fit_shape(z):
    """Weights of a scale mixture of Gaussians (EM)."""
    z, widths = z.flatten(), torch.tensor(WIDTHS, device=DEV).double()
    z = z[torch.randint(len(z), (min(120000, len(z)),), device=DEV)].double()
    p = torch.exp(-0.5 * (z[:, None] / widths) ** 2) / widths
    w = torch.ones_like(widths) / len(widths)
    for _ in range(30):
        r = p * w
        w = (r / r.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
    return w

def innovation(lo, hi, s):
    """Expected residual given the cell it fell into (docs/numerics.md, section 8)."""
    near = torch.clamp(torch.zeros_like(lo), lo, hi)
    centre = torch.where(hi - lo > 1e20, near, (lo + hi) / 2)
    return near + (centre - near) * 10 / (10 + ((hi - lo) / s) ** 2)

def token_features(kind, past, seen, powers, own, part):
    """What the log-energy of a token's residual is regressed on, all [S, T]. `past`: energies of the planes of earlier layers, by part;
    `seen`: of this layer so far; `powers`: log-powers of the layer's predicted keys and values; `own`: of the plane's prediction."""
    total, mean = (lambda planes: torch.stack(planes).sum(0)), (lambda planes: torch.stack(planes).mean(0))
    both = [k + v for k, v in past[-2:]]
    if kind == "shared":                       # as built: one weight for all planes of a part
        out = [total(p) for layer in past[-2:] for p in layer] + powers
        return out + [total(s) for s in (seen[0], seen[1] if part else []) if s]
    if kind == "rich":                         # every plane has a weight
        return (both[-1] if both else []) + [mean(b) for b in both] + [own] + seen[0] + seen[1]
    return [mean(b) for b in both] + [own] + ([mean(seen[0])] if part else [])      # poor

def run(predictor, cache, groups=1, scale="shared", ridge=1e-3, gain_layers=1):
    """Codes all caches in lock-step, layer by layer, plane by plane; returns bits per scalar of everything, keys, values.
    `groups`: groups a head, coded one after the other, each telling the next; `gain_layers`: layers whose innovations correct the state."""
    bits, count, past = torch.zeros(2, device=DEV).double(), 0, []
    columns = torch.arange(HD, device=DEV).view(2, groups, -1).transpose(0, 1).flatten(1)      # rotary pairs stay together
    predictor.start(cache)
    for l in range(L):
        first = [p / cache.scale[l, i] for i, p in enumerate(predictor.predict(l))]  # keys before RoPE
        powers = [torch.log(p.pow(2).mean((1, 3)) + 1e-9) for p in first] if predictor.powers else []
        seen, news, energies = [], ([], []), ([], [])
        for part in (0, 1):
            for head in range(NK):
                for c in columns:
                    turn, back = (lambda x: x,) * 2
                    if part == 0:
                        cos, sin = (t[:, c] for t in predictor.tables)
                        turn, back = lambda x: rope(x, cos, sin), lambda x: x * COS[:, c] - half(x) * SIN[:, c]
                    base, exact, code = (x[:, head][..., c].float() for x in (first[part], cache.exact[:, l, part], cache.codes[:, l, part]))
                    mu = turn(base + (X := torch.cat(seen, -1)) @ fit(X, back(exact) - base, ridge) if seen else base)
                    # The scale of a residual: one a channel, times one a token from what is already coded.
                    r = exact - mu
                    channel = r[:N].abs().mean((0, 1), keepdim=True).clamp_min(1e-12) * 1.2533
                    energy = lambda r: torch.log((r / channel).pow(2).clamp(1e-6, 400).mean(-1) + 1e-3)
                    own = torch.log(mu.pow(2).mean(-1) + 1e-9)
                    A = torch.stack([torch.ones(S, T, device=DEV)] + token_features(scale, past, energies, powers, own, part), -1).double()
                    a = A[:N].reshape(-1, A.shape[-1])
                    load_ = 1e-6 * len(a) * torch.eye(A.shape[-1], device=DEV).double()
                    w = torch.linalg.solve(a.T @ a + load_, a.T @ energy(r)[:N].double().flatten())
                    s = channel * torch.exp(0.5 * (A @ w)).float()[..., None]
                    # The price of a code: the mass of its cell, mixed with a little of the uniform law.
                    i = torch.searchsorted(cache.values, code.double().contiguous())
                    lo, hi = cache.edges[i] - mu.double(), cache.edges[i + 1] - mu.double()
                    shape = fit_shape((r / s)[:N]).tolist()
                    p = sum(w * mass(lo[N:], hi[N:], s[N:].double() * k) for w, k in zip(shape, WIDTHS))
                    bits[part] -= torch.log2(p * (1 - 2.0 ** -12) + 2.0 ** -12 * 2.0 ** -cache.raw_bits).sum()
                    count += p.numel()
                    # What the decoder learns from the code.
                    new = innovation(lo.float(), hi.float(), s)
                    energies[part].append(energy(new).float())
                    seen.append(back(mu + new) - base)
                    news[part].append((back(mu + new) - back(mu)) * cache.scale[l, part])
        past.append(energies)
        if l + 1 < L:
            predictor.finish(l, torch.cat(news[0] + news[1], -1), cache.known(l), ridge, gain_layers)
    return (bits.sum() / count).item(), *(2 * bits / count).tolist()

# ---------------------------------------------------------------- the draft
def random_orthogonal(n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0].float().to(DEV)

def hadamard(n):
    """Orthonormal, of order 2^k, or 2^k times an order that Paley's constructions give: 12 from squares modulo 11, 36 from squares
    modulo 17 (enough for SmolLM2: 576 = 16 * 36, 1536 = 128 * 12)."""
    two, H = torch.tensor([[1., 1.], [1., -1.]]), torch.ones(1, 1)
    q = {1: 0, 3: 11, 9: 17}[n // (n & -n)]
    if q:
        squares = {i * i % q for i in range(1, q)}
        C = torch.ones(q + 1, q + 1)
        C[1:, 1:] = torch.tensor([[1. if (j - i) % q in squares else -1. for j in range(q)] for i in range(q)])
        C[1:, 0] = -1 if q == 11 else 1
        C.fill_diagonal_(0)
        H = C + torch.eye(12) if q == 11 else torch.kron(C, two) + torch.kron(torch.eye(18), torch.tensor([[1., -1.], [-1., -1.]]))
    while len(H) < n:
        H = torch.kron(H, two)
    return (H / math.sqrt(n)).to(DEV)

def blocks(n, size): return torch.kron(torch.eye(n // size, device=DEV), hadamard(size))
INPUT = {"q": "stream", "k": "stream", "v": "stream", "o": "o", "gate": "mlp", "up": "mlp", "down": "down"}

@functools.cache
def moments():
    """Second moments of what each product reads (norms folded into the weights, so without them), in the target's bf16 run over the
    calibration sequences; last, those of the normalised stream over all layers."""
    kv, hidden = FINE.codes, FINE.hidden
    out = {}
    for l in range(L):
        sums = dict.fromkeys(("stream", "o", "mlp", "down"), 0)
        for b in batches(N):
            h, (k, v) = hidden[b, l], (kv[b, l, p].float() for p in (0, 1))
            x = h * rrms(h)
            q = rope(heads(F.linear(x * M.norms[l, 0], W[l, "q"]), NH), COS, SIN)
            o = flat(F.scaled_dot_product_attention(q, shared(k), shared(v), is_causal=True))
            h = h + F.linear(o, W[l, "o"])
            y = h * rrms(h)
            z = F.silu(F.linear(y * M.norms[l, 1], W[l, "gate"])) * F.linear(y * M.norms[l, 1], W[l, "up"])
            for n, a in (("stream", x), ("o", o), ("mlp", y), ("down", z)):
                a = a.reshape(-1, a.shape[-1])
                sums[n] = sums[n] + a.T @ a
        out |= {(l, n): s / (N * T) for n, s in sums.items()}
    return out, sum(out[l, "stream"].double() for l in range(L))

def gptq(w, H, levels, damping=0.05, block=64):
    """Rounding with compensation along the inputs (Frantar et al., 2022): w [layers, out, in], H [layers, in, in]."""
    w, H, n = w.clone(), H.double(), w.shape[-1]
    H = H + damping * H.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None] * torch.eye(n, device=DEV).double()
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True).float()
    step, out = w.abs().amax(-1).clamp_min(1e-12) / levels, torch.zeros_like(w)
    for a in range(0, n, block):
        e = min(a + block, n)
        part = w[:, :, a:e].clone()
        errors = torch.zeros_like(part)
        for i in range(e - a):
            out[:, :, a + i] = torch.round(part[:, :, i] / step).clamp(-levels, levels) * step
            errors[:, :, i] = (part[:, :, i] - out[:, :, a + i]) / U[:, a + i, a + i][:, None]
            part[:, :, i:] -= errors[:, :, i, None] * U[:, a + i, None, a + i:e]
        w[:, :, e:] -= errors @ U[:, a:e, e:]
    return out

class Draft:
    """The target's layers with rounded weights and activations, in closed loop. Defaults are what `speckv build` makes as w8a8+kv16.
    `two`: products whose activations have two digits; `weights_two`: all weights too; `wide`: principal directions of the stream whose
    activations may take two digits; `wide_weights`: their columns of the weights have two; `attention`: levels of queries, keys, values."""
    powers = True

    def __init__(self, compensate=True, damping=0.05, wide=32, wide_weights=False, had="block", attention=ONE, two=(), weights_two=False,
                 rounded_tables=False):
        self.wide, self.attention, self.two = wide, attention, {"k", "v", *two}
        self.tables = (COS.bfloat16().float(), SIN.bfloat16().float()) if rounded_tables else (COS, SIN)
        second, stream = moments()
        if wide:
            V = torch.linalg.eigh(stream)[1].flip(1).float()
            self.stream = torch.cat([V[:, :wide], V[:, wide:] @ random_orthogonal(D - wide, 1)], 1)
        else:
            self.stream = random_orthogonal(D, 1)
        ffn = W[0, "down"].shape[1]
        self.R = dict(o=hadamard(NH * HD), down=hadamard(ffn)) if had == "full" else \
            dict(o=blocks(NH * HD, HD), down=blocks(ffn, min(ffn & -ffn, 512)))
        self.turn = hadamard(HD)                                  # queries, keys and values of a head before they are rounded
        self.w = {}
        for n, source in INPUT.items():
            R = self.R.get(n, self.stream)
            norm = {"stream": M.norms[:, 0], "mlp": M.norms[:, 1]}.get(source)
            w = torch.stack([W[l, n] for l in range(L)])
            w = self.stream.T @ w @ R if norm is None else (w * norm[:, None]) @ R
            if n in "kv" or weights_two:
                w = quant(w, TWO)
            else:
                H = torch.stack([R.T @ second[l, source] @ R for l in range(L)])
                split = wide if wide_weights and norm is not None else 0
                lead, w, H = quant(w[..., :split], TWO) if split else w[..., :0], w[..., split:], H[:, split:, split:]
                w = torch.cat([gptq(w[i:i + 6], H[i:i + 6], ONE, damping) for i in range(0, L, 6)]) if compensate else quant(w, ONE)
                w = torch.cat([lead, w], -1)
            w = self.stream @ w if norm is None else w            # the stream itself is kept unrotated here
            self.w |= {(l, n): w[l] for l in range(L)}

    def linear(self, l, n, x):
        x = x @ self.R.get(n, self.stream)
        if n in self.two:
            return F.linear(quant(x, TWO), self.w[l, n])
        k = 0 if n in self.R else self.wide                       # wide columns do not set the step unless they would overflow
        step = x[..., k:].abs().amax(-1, keepdim=True)
        step = (torch.maximum(step, x[..., :k].abs().amax(-1, keepdim=True) * ONE / TWO) if k else step).clamp_min(1e-12) / ONE
        return F.linear(torch.round(x / step) * step, self.w[l, n])

    def start(self, cache):
        self.hidden, self.h, self.before = cache.hidden, EMBEDDING[M.ids], []

    def predict(self, l):
        x = self.h * rrms(self.h)
        return [heads(self.linear(l, n, x), NK) for n in "kv"]

    def finish(self, l, news, known, ridge, gain_layers):
        X, R = torch.cat([news] + self.before, -1), rrms(self.h)
        self.before = ([news] + self.before)[:gain_layers - 1]
        h = self.h + X @ fit(X, (self.hidden[:, l] - self.h) * R, ridge) / R
        self.h = in_batches(lambda h, k, v: self.rest(l, h, k, v), h, *known)

    def rest(self, l, h, k, v):
        q = rope(heads(self.linear(l, "q", h * rrms(h)), NH), *self.tables)
        q, k, v = (quant(z @ self.turn, self.attention) for z in (q, k, v))
        z = q @ shared(k).transpose(-1, -2) / math.sqrt(HD)
        z = z.masked_fill_(torch.ones(T, T, device=DEV, dtype=torch.bool).triu(1), -1e30)
        p = torch.exp(z - z.amax(-1, keepdim=True)).mul_(65535).round_()
        o = (p @ shared(v)) / p.sum(-1, keepdim=True) @ self.turn.T
        h = h + self.linear(l, "o", flat(o))
        x = h * rrms(h)
        return h + self.linear(l, "down", F.silu(self.linear(l, "gate", x)) * self.linear(l, "up", x))

# ---------------------------------------------------------------- the chain
class Chain:
    """Regressions of a layer's keys and values on features: functions of (chain, layer) that yield lists of [S, T, n]. In `past`, newest
    first, stand the true keys before RoPE and values of earlier layers, as rows and by head (there keys after RoPE)."""
    powers = False

    def __init__(self, features, ridge=1e-4, network=None):
        self.features, self.ridge, self.network, self.tables = features, ridge, network, (COS, SIN)

    def start(self, cache): self.cache, self.past = cache, []
    def rows(self, l): return self.row(*self.cache.known(l))
    def row(self, k, v): return flat(unrope(k)), flat(v)

    def predict(self, l):
        Y = torch.cat(self.row(*(self.cache.exact[:, l, p].float() * self.cache.scale[l, p] for p in (0, 1))), -1)
        mean = Y[:N].mean((0, 1))
        P = mean.expand(Y.shape)
        if X := [x for f in self.features for x in f(self, l)]:
            X = centred(torch.cat(X, -1))
            P = P + X @ fit(X, Y - mean, self.ridge)
            P = P + self.network(X, Y - P) if self.network else P
        return heads(P[..., :NK * HD].contiguous(), NK), heads(P[..., NK * HD:].contiguous(), NK)

    def finish(self, l, news, known, ridge, gain_layers): self.past.insert(0, (*self.row(*known), *known))

def centred(x): return x - x[:N].mean((0, 1))
def shifted(x): return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
def depth(n): return lambda c, l: [x for p in c.past[:n] for x in p[:2]]
def token(c, l): return [(e := EMBEDDING[M.ids]) * rrms(e)]
def previous(c, l): return [shifted(x) for p in c.past[:1] for x in p[:2]]         # of the layer before: known for all tokens
def own_previous(c, l): return [shifted(x) for x in c.rows(l)]                     # of this layer: the decoder goes token by token
def int8(f): return lambda c, l: [quant(centred(x), ONE) for x in f(c, l)]

def averages(*spans):
    """Exponential moving averages of the values of the layer before."""
    def weights(span):
        t = torch.arange(T, device=DEV).float()
        m = torch.tril(torch.exp((t[None] - t[:, None]).clamp(max=0) / span))
        return m / m.sum(1, keepdim=True)
    return lambda c, l: [weights(s) @ p[1] for p in c.past[:1] for s in spans]

def self_attention(sharpness):
    """Values of the layer before, of earlier tokens with similar keys (before RoPE)."""
    def f(c, l):
        if not c.past: return []
        k = heads(c.past[0][0], NK)
        k = k - k[:N].mean((0, 2))[None, :, None]
        power = k[:N].pow(2).sum(-1).mean((0, 2))[None, :, None, None]
        mask = torch.ones(T, T, device=DEV, dtype=torch.bool).triu()
        def one(k, v):
            z = -torch.cdist(k, k).pow(2) / power * sharpness
            p = torch.softmax(z.masked_fill(mask, -1e4), -1)
            p[:, :, 0] = 0                                                          # it has no earlier token
            return flat(p @ v)
        return [in_batches(one, k, c.past[0][3])]
    return f

def attention(window, ids=False):
    """Attention of the layer before over its true cache, with queries regressed from the true keys and values of two layers (fitted to the
    queries that the model had). A window always sees the first four tokens too: attention rests there."""
    def f(c, l):
        if not c.past: return []
        h, X = c.cache.hidden[:, l - 1], centred(torch.cat((token(c, l) if ids else []) + depth(2)(c, l), -1))
        q = F.linear(h * rrms(h) * M.norms[l - 1, 0], W[l - 1, "q"])
        mean = q[:N].mean((0, 1))
        q = rope(heads(mean + X @ fit(X, q - mean, 1e-4), NH), COS, SIN)
        t = torch.arange(T, device=DEV)
        back = t[:, None] - t[None]
        mask = (back < 0) | ((back >= window) & (t[None] > 3))
        def one(q, k, v):
            z = q @ shared(k).transpose(-1, -2) / math.sqrt(HD)
            return flat(torch.softmax(z.masked_fill(mask, -1e30), -1) @ shared(v))
        return [in_batches(one, q, *c.past[0][2:])]
    return f

def random_features(f, n):
    def g(c, l):
        if not c.past: return []
        x = torch.cat(f(c, l), -1)
        x, r = centred(x) / x[:N].std((0, 1)).clamp_min(1e-6), torch.Generator().manual_seed(l)
        A, b = torch.randn(x.shape[-1], n, generator=r) / math.sqrt(x.shape[-1]), torch.randn(n, generator=r) * 0.5
        return [in_batches(lambda x: F.silu(x @ A.to(DEV) + b.to(DEV)), x)]
    return g

def mlp(width, steps=600, rate=1e-3, drop=0.2, decay=0.3):
    """A network trained on what the regression left, under a heavy-tailed loss."""
    def f(X, Y):
        X = X / X[:N].std((0, 1)).clamp_min(1e-6)
        unit = Y[:N].abs().mean((0, 1)).clamp_min(1e-9) * 1.25
        x, y = trimmed(X, Y / unit, (Y / unit)[:N].abs().mean(-1))
        a, b = torch.nn.Linear(x.shape[1], width, device=DEV), torch.nn.Linear(width, y.shape[1], device=DEV)
        with torch.enable_grad():
            torch.nn.init.zeros_(b.weight), torch.nn.init.zeros_(b.bias)
            optimiser = torch.optim.AdamW([*a.parameters(), *b.parameters()], lr=rate, weight_decay=decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
            for _ in range(steps):
                i = torch.randint(len(x), (min(2048, len(x)),), device=DEV)
                with torch.autocast(DEV, dtype=torch.bfloat16, enabled=DEV == "cuda"):
                    p = b(F.dropout(F.silu(a(F.dropout(x[i], drop))), drop))
                optimiser.zero_grad()
                torch.log1p((p.float() - y[i]).pow(2) / 4).mean().backward()
                optimiser.step(), schedule.step()
        return in_batches(lambda x: b(F.silu(a(x))), X) * unit
    return f

# ---------------------------------------------------------------- the variants
CHAIN = {                                         # features, options of Chain
    "static+loop": ([], {}),                      # means, and the loop inside a layer that all chains have
    **{f"depth-{n}": ([depth(n)], {}) for n in (1, 2, 3, 4, 6, 8)},
    "depth-3+previous-token": ([depth(3), previous], {}),
    "depth-3+own-previous-token": ([depth(3), own_previous], {}),
    "depth-3+moving-averages": ([depth(3), averages(3, 10, 40)], {}),
    "depth-3+self-attention": ([depth(3), self_attention(4)], {}),
    "depth-3+attention-64": ([depth(3), attention(64)], {}),
    "depth-3+attention-all": ([depth(3), attention(1 << 30)], {}),
    "depth-3+random-features": ([depth(3), random_features(depth(3), 1024)], dict(ridge=1e-3)),
    "depth-3+mlp-dropout": ([depth(3)], dict(network=mlp(256))),
    "depth-3+token": ([depth(3), token], {}),
    "depth-3-rows-int8": ([int8(depth(3))], {}),
    "depth-3+token-int8": ([int8(depth(3)), int8(token)], {}),                     # rows too
    "depth-3+token+attention-64": ([depth(3), token, attention(64, ids=True)], {}),
}
ALL = ("q", "o", "gate", "up", "down")
DRAFT = {                                         # options of Draft, of run()
    "default": ({}, {}),
    "groups-2": ({}, dict(groups=2)),
    "groups-4": ({}, dict(groups=4)),
    "scale-rich": ({}, dict(scale="rich")),
    "scale-poor": ({}, dict(scale="poor")),
    "ridge-1e-4": ({}, dict(ridge=1e-4)),
    "ridge-1e-2": ({}, dict(ridge=1e-2)),
    "gain-2-layers": ({}, dict(gain_layers=2)),
    "no-gptq": (dict(compensate=False), {}),
    "gptq-damping-0.3": (dict(damping=0.3), {}),
    "gptq-damping-1": (dict(damping=1.0), {}),
    "no-wide": (dict(wide=0), {}),
    "wide-weights-16": (dict(wide_weights=True), {}),
    "hadamard-full": (dict(had="full"), {}),
    "rope-bf16": (dict(rounded_tables=True), {}),
    "attention-16": (dict(attention=TWO), {}),
    "o-16": (dict(two=("o",)), {}),
    "down-16": (dict(two=("down",)), {}),
    "gate+up-16": (dict(two=("gate", "up")), {}),
    "q-16": (dict(two=("q",)), {}),
    "all-16": (dict(two=ALL), {}),                # activations; attention stays in 8
    "all-16x16": (dict(two=ALL, weights_two=True, attention=TWO), {}),
}

@functools.lru_cache(1)                           # variants of the loop alone stand together above: they share a network
def draft(options): return Draft(**dict(options))
def predictor(kind, options):
    return Chain(options[0], **options[1]) if kind == "chain" else draft(tuple(options[0].items()))

if __name__ == "__main__":
    args = ap.parse_args()
    chosen = [(kind, name, o) for kind, table in (("chain", CHAIN), ("draft", DRAFT)) if args.variants in (kind, "all")
              for name, o in table.items() if re.search(args.only or "", name)]
    clock = time.time()
    M = load(args, DEV)
    L, NH, NK, D, N = M.layers, M.heads, M.kv_heads, M.embedding.shape[1], M.n_calibration
    (S, T), HD = M.ids.shape, M.weights[0, "k"].shape[0] // M.kv_heads
    W = {k: w.bfloat16().float() for k, w in M.weights.items()}                     # the target's weights are bf16
    EMBEDDING = M.embedding.bfloat16().float()
    angle = torch.outer(torch.arange(T, device=DEV), 1 / M.theta ** (torch.arange(0, HD, 2, device=DEV) / HD))
    COS, SIN = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    CACHES = caches()
    FINE = CACHES["bf16"]
    print(f"{L} layers; {N} + {S - N} sequences of {T} tokens; {DEV}, torch {torch.__version__}; target: {time.time() - clock:.0f} s", flush=True)
    out = open(args.csv, "w", newline="") if args.csv else None
    table = csv.writer(out) if out else None
    if table:
        table.writerow(["set", "variant", "format", "bits", "bits_keys", "bits_values"])
    for kind, name, options in chosen:
        clock, line = time.time(), f"{kind} {name:28s}"
        for form, cache in CACHES.items():
            torch.manual_seed(0)
            rates = run(predictor(kind, options), cache, **({} if kind == "chain" else options[1]))
            line += "  {} {:7.4f} (K {:7.4f}, V {:7.4f})".format(form, *rates)
            if table:
                table.writerow([kind, name, form, *(f"{r:.5f}" for r in rates)])
                out.flush()
        print(f"{line}  {time.time() - clock:5.1f} s", flush=True)
