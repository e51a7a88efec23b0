"""Makes fresh streams with the `speckv` program and decodes them: every predictor and precision, every format, chunks, prefixes, damage.

    python3 docs/reference_decoder/check_streams.py SPECKV REPOSITORY

Streams must give back their cache exactly; whatever one decoder refuses, the other must refuse by the same rule."""

import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from check_golden import rule
from container import parse_stream
from decode import decode, read_cache, read_ids
from errors import Refused
from make_model import THETA, make_model
from profiles import TYPES, Profile, safetensors, write_safetensors
from xxh3 import xxh3_64

CHAINS = [("static", ""), ("chain", "no-ids"), ("chain", "ids")]
DRAFTS = [("draft", p) for p in ("w8a8+kv16", "w8a8", "w8a16+kv16", "w16a16", "w8a8+kv16-open")]


class Checks:
    def __init__(self, speckv, repository, work):
        self.program, self.work, self.model = speckv, work, repository / "models/tiny-qwen3"
        self.texts = [repository / "models/calibration" / name for name in ("prose-king-james-bible.txt", "code-python-library.txt")]
        self.equal, self.refused, self.scalars, self.profiles, self.wrong = Counter(), Counter(), 0, {}, []

    def speckv(self, *args):
        """Runs the program; its error line, or None."""
        done = subprocess.run([self.program, *map(str, args)], capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else done.stderr.strip().split("\n")[-1]

    def must(self, *args):
        error = self.speckv(*args)
        if error:
            sys.exit(f"error: speckv {' '.join(map(str, args))}: {error}")

    def file(self, name):
        return self.work / name

    def capture(self, name, model, tokens, skip, *options):
        cache = self.file(name + ".safetensors")
        self.must("capture", "-q", "--model", model, "--text", self.texts[1], "--skip", skip, "--tokens", tokens, *options, "-o", cache)
        return cache

    def compress(self, cache, profile, kind, precision, *options):
        stream = self.file("stream.skv")
        named = ["--precision", precision] if precision else []
        self.must("compress", "-q", cache, "-p", profile, "--predictor", kind, *named, *options, "-o", stream)
        return stream

    def profile(self, path):
        """Read once: its digest takes a while."""
        if path not in self.profiles:
            self.profiles[path] = Profile(path.read_bytes())
        return self.profiles[path]

    def same(self, what, stream, profile, cache, ids=None, prefix=None):
        """Decodes a stream and compares it with the cache file it was made of."""
        try:
            parsed = parse_stream(stream.read_bytes())
            codes, found_ids = decode(parsed, self.profile(profile), ids, prefix)
            expected, expected_ids = read_cache(cache, parsed)
        except Refused as error:
            self.wrong.append(f"{what}: {error}")
            return
        window = slice(parsed.first_token, parsed.first_token + parsed.tokens)
        equal = all(np.array_equal(a, b[:, window]) for mine, theirs in zip(codes, expected) for a, b in zip(mine, theirs))
        if equal and found_ids in (None, expected_ids[window]):
            self.equal[f"{parsed.predictor} {parsed.precision}".strip()] += 1
            self.scalars += sum(a.size for parts in codes for a in parts)
        else:
            self.wrong.append(f"{what}: other codes or token ids")

    def refuse(self, what, stream, profile, kind=None):
        """Both decoders must refuse, by the same rule; `kind` stands for the program's words where they are its own."""
        theirs = self.speckv("decompress", "-q", stream, "-p", profile, "-o", self.file("refused.safetensors"))
        try:
            decode(parse_stream(stream.read_bytes()), self.profile(profile))
            mine = None
        except Refused as error:
            mine = error
        if not mine or not theirs or (mine.kind != kind if kind else rule(str(mine)) != rule(theirs.removeprefix(f"error: {stream}: "))):
            self.wrong.append(f"{what}: this decoder: {mine}; speckv: {theirs}")
        else:
            self.refused[mine.kind] += 1

    def embedded(self):
        """The model and the profile that are part of the program."""
        profile = self.model / "profile.speckv"
        for fmt in "bf16", "e4m3":
            cache = self.capture(fmt, self.model, 32, 5000, "--format", fmt)
            for kind, precision in CHAINS + DRAFTS[:1]:
                self.same(f"tiny-qwen3 {fmt} {kind} {precision}", self.compress(cache, profile, kind, precision), profile, cache)

    def every_precision(self):
        """All predictors in all formats, in chunks of 48 and 24 tokens: the second crosses from one block of attention to the next."""
        model, profile = self.file("qwen2"), self.file("all.speckv")
        make_model(model, self.model / "tokenizer.json")
        size = "--sequences", 6, "--tokens", 64
        self.must("build", "-q", "--model", model, "--text", *self.texts, *size, "--precisions", "all", "-o", profile)
        caches = {fmt: self.capture("small-" + fmt, model, 72, 9000, "--format", fmt) for fmt in ("bf16", "e4m3", "e5m2")}
        caches["e4m3 a head"] = self.capture("heads", model, 72, 9000, "--format", "e4m3", "--scale-per-head")
        for name, change in ("f16", to_f16), ("wild", spoil):
            caches[name] = self.file(f"{name}.safetensors")
            rewrite(caches["bf16"], caches[name], change)
        for fmt, cache in caches.items():
            for kind, precision in CHAINS + DRAFTS:
                self.same(f"{fmt} {kind} {precision}", self.compress(cache, profile, kind, precision, "--chunk", 48), profile, cache)
        for fmt in "bf16", "e4m3":
            self.parts(caches[fmt], profile)
        self.damage(caches["e4m3"], profile)
        for name in "bf16", "e4m3":
            short = self.file("short.safetensors")
            rewrite(caches[name], short, lambda *tensor: first_tokens(*tensor, 12))
            self.absurd(short, profile)
        wrong = self.compress(caches["bf16"], profile, "static", "")
        self.refuse("another profile", wrong, self.model / "profile.speckv", "wrong profile")
        self.refuse("no token ids", self.compress(caches["bf16"], profile, "draft", "w8a8", "--no-token-ids"), profile, "caller's mistake")
        self.listed(model)

    def absurd(self, cache, profile):
        """Profiles whose numbers are far from any fit, within their ranges: saturation, clamps and features that fits leave at zero."""
        metadata, tensors = safetensors(profile.read_bytes())
        for seed in range(3):
            choose, meta, changed = np.random.default_rng(seed), json.loads(metadata["speckv"]), self.file(f"absurd{seed}.speckv")
            for net in meta["nets"]:
                net["layers"] = [{key: value + int(choose.integers(-1, 2)) for key, value in layer.items()} for layer in net["layers"]]
                net["wide"], net["digits"] = int(choose.integers(0, 65)), {name: int(choose.integers(1, 3)) for name in net["digits"]}
            disturbed = [(name, *disturb(choose, name, *entry)) for name, entry in tensors.items()]
            write_safetensors(changed, disturbed, {"speckv": json.dumps(meta)})
            for kind, precision in CHAINS + DRAFTS:
                self.same(f"absurd {seed} {kind} {precision}", self.compress(cache, changed, kind, precision), changed, cache)

    def parts(self, cache, profile):
        """Streams without token ids, and streams that do not start at token 0."""
        ids = read_ids(cache)
        for kind, precision in CHAINS[2:] + DRAFTS[:1]:
            stream = self.compress(cache, profile, kind, precision, "--no-token-ids")
            self.same(f"{kind} {precision} without ids", stream, profile, cache, ids=ids)
            stream = self.compress(cache, profile, kind, precision, "--chunk", 20, "--from", 40)
            prefix, _ = read_cache(cache, parse_stream(stream.read_bytes()))
            self.same(f"{kind} {precision} from token 40", stream, profile, cache, ids, prefix)
            chunk = self.file("chunk.skv")
            self.must("extract", "-q", stream, "--chunk", 1, "-o", chunk)
            self.same(f"{kind} {precision} one chunk", chunk, profile, cache, ids, prefix)

    def listed(self, model):
        """A profile fitted to caches alone: its embedding knows only the ids it has seen."""
        seen = [self.capture(f"seen{skip}", model, 1200, skip) for skip in (0, 1200)]
        profile, cache = self.file("listed.speckv"), self.capture("unseen", model, 60, 9000)
        self.must("build", "-q", "--cache", *seen, "--rope-theta", THETA, "-o", profile)
        self.same("listed ids", self.compress(cache, profile, "chain", "ids"), profile, cache)

    def damage(self, cache, profile):
        """Streams with changed, cut and lengthened payloads whose checksums are right again, and header bytes whose checksum is not."""
        short = self.file("short.safetensors")
        rewrite(cache, short, lambda *tensor: first_tokens(*tensor, 6))
        data = self.compress(short, profile, "static", "", "--no-token-ids").read_bytes()  # which no checksum covers once restored
        stream, choose, damaged = parse_stream(data), random.Random(5), self.file("damaged.skv")
        payload = stream.chunks[0].payload
        directory = len(data) - len(payload) - 8 - 24
        for case in range(30):
            changed = bytearray(payload)
            changed[choose.randrange(len(payload)) if case % 3 else choose.randrange(140)] ^= 1 << choose.randrange(8)
            changed = (changed, changed[:-2 * choose.randrange(1, 9)], changed + bytes(case % 4))[case % 3]
            entry = b"".join(n.to_bytes(8, "little") for n in (len(changed), xxh3_64(changed)))
            head = data[:directory] + entry + data[directory + 16:directory + 24]
            damaged.write_bytes(head + xxh3_64(head).to_bytes(8, "little") + changed)
            self.refuse(f"damaged payload {case}", damaged, profile)
        for case in range(10):
            changed = bytearray(data)
            changed[choose.randrange(directory + 32)] ^= 1 << choose.randrange(8)
            damaged.write_bytes(changed)
            self.refuse(f"damaged header {case}", damaged, profile)

    def report(self):
        for name in sorted(self.equal):
            print(f"fresh streams, {name}: {self.equal[name]} equal to their caches")
        for kind in sorted(self.refused):
            print(f"refused by both decoders, {kind}: {self.refused[kind]}")
        print(f"fresh streams: {sum(self.equal.values())} equal, {self.scalars:,} scalars; {sum(self.refused.values())} refused")
        names = {" ".join(pair).strip() for pair in CHAINS + DRAFTS}
        self.wrong += [f"{name}: no stream was decoded" for name in sorted(names - set(self.equal))]
        self.wrong += [f"{kind}: nothing was refused" for kind in ("malformed", "truncated", "damaged header") if not self.refused[kind]]
        for line in self.wrong:
            print(f"error: {line}")
        return 1 if self.wrong else 0


def rewrite(source, target, change):
    write_safetensors(target, [change(name, *entry) for name, entry in safetensors(source.read_bytes())[1].items()])


def disturb(choose, name, dtype, shape, data):
    """One tensor of a profile: a tenth of the scales by 2, a few by 64, token scales and means at random, channels' scales wider."""
    last, x = name.rsplit(".", 1)[-1], np.frombuffer(data, TYPES[dtype])
    low, high = {"e": (-1, 2), "token": (-2**16, 2**16), "channel": (16, 81), "mean": (-2**18, 2**18)}.get(last, (0, 1))
    change = choose.integers(low, high, x.size)
    if last == "e":
        change[choose.random(x.size) < 0.9] = 0
        change[choose.random(x.size) < 0.005] += 6 if name.startswith("net.") else 0
    if last == "token":
        change[choose.random(x.size) < 0.02] *= 512
    return dtype, shape, (x + change).astype(x.dtype).tobytes()


def to_f16(name, dtype, shape, data):
    if dtype != "BF16":
        return name, dtype, shape, bytes(data)
    values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return name, "F16", shape, values.astype("<f2").tobytes()


def spoil(name, dtype, shape, data):
    """One code in fifty becomes any bit pattern: NaNs, infinities, -0, numbers far outside their windows."""
    codes = np.frombuffer(data, "<u2").copy()
    choose = np.random.default_rng(len(name))
    where = choose.random(codes.size) < 0.02
    codes[where] = choose.integers(0, 65536, where.sum())
    return name, dtype, shape, codes.tobytes() if dtype == "BF16" else bytes(data)


def first_tokens(name, dtype, shape, data, tokens):
    if name == "token_ids":
        return name, dtype, [tokens], bytes(data[:8 * tokens])
    if len(shape) != 3:
        return name, dtype, shape, bytes(data)
    heads, all_tokens, dim = shape
    codes = np.frombuffer(data, np.uint8).reshape(heads, all_tokens, -1)[:, :tokens]
    return name, dtype, [heads, tokens, dim], codes.tobytes()


def main(speckv, repository):
    with tempfile.TemporaryDirectory() as work:
        checks = Checks(speckv, Path(repository), Path(work))
        checks.embedded()
        checks.every_precision()
        return checks.report()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
