#!/usr/bin/env python3
"""Restores the cache file of a speckv stream, slowly and plainly, from docs/format.md and docs/numerics.md alone.

    python3 docs/reference_decoder/decode.py STREAM --profile PROFILE -o OUT.safetensors
"""

import argparse
import re
import sys
from pathlib import Path

from coder import Lanes
from container import parse_payload, parse_stream, values_checksum
from errors import Refused, expect

try:
    import numpy as np
except ImportError:
    sys.exit("error: the predictors need numpy: pip install numpy, or apt install python3-numpy")

from predictor import KINDS
from profiles import Profile, safetensors, write_safetensors

DTYPES = {"bf16": "BF16", "f16": "F16", "e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}
MISTAKE = "caller's mistake"


def decode(stream, profile, ids=None, prefix=None):
    """(codes [layer][part] of [heads, tokens, head_dim], token ids or None).

    `ids`: all token ids from token 0 on, for a stream without its own. `prefix`: codes, in the form they come back, from token 0 on."""
    expect(stream.predictor != "external", "the predictor must be one of numerics.md", stream.predictor, MISTAKE)
    expect(stream.digest == profile.digest, f"the profile must be {stream.digest.hex()}", profile.digest.hex(), "wrong profile")
    geometry = stream.layers, stream.heads, stream.head_dim
    own = profile.layers, profile.heads, profile.dim
    expect(geometry == own, f"layers, kv_heads and head_dim must be the profile's {own}", geometry, "wrong profile")
    index = profile.select(stream.predictor, stream.precision, stream.format)
    mode = profile.modes[index]
    predictor = KINDS[stream.predictor](profile, index, stream.format, stream.scales, stream.scales_per_part)
    expect(not predictor.open_loop or stream.first_token == 0, "an open loop must start at token 0", stream.first_token, MISTAKE)
    payloads = [parse_payload(chunk, stream) for chunk in stream.chunks]
    known = [i for p in payloads for i in p.ids] if stream.has_ids else None
    wanted = known if known is not None else ids[stream.first_token:stream.first_token + stream.tokens] if ids else None
    if mode["ids"]:
        expect(wanted is not None and len(wanted) == stream.tokens, "the token ids of all tokens must be known", "fewer", MISTAKE)
    if stream.predictor == "draft" and stream.first_token:
        run_prefix(predictor, stream, ids, prefix)
    out = [[[] for _ in range(2)] for _ in range(stream.layers)]
    for chunk, payload in zip(stream.chunks, payloads):
        lanes, count, planes = Lanes(payload.states, payload.words), chunk.tokens * stream.head_dim, []

        def code_plane(prices):
            raw = payload.raw[len(planes)]
            planes.append(lanes.raw_plane(count, stream.format.width) if raw else lanes.coded_plane(count, prices.find, prices.finish))
            return planes[-1]

        at = chunk.first - stream.first_token
        codes = predictor.chunk(chunk.first, wanted and wanted[at:at + chunk.tokens], chunk.tokens, code_plane)
        lanes.end()
        found = values_checksum(planes, stream.format.width)
        expect(found == chunk.values_checksum, f"checksum {chunk.values_checksum:016x}", f"{found:016x}", "damaged restored values")
        for layer, parts in enumerate(codes):
            for part, heads in enumerate(parts):
                out[layer][part].append(np.stack(heads))
    return [[np.concatenate(chunks, axis=1) for chunks in parts] for parts in out], wanted if known is not None or ids else None


def run_prefix(predictor, stream, ids, prefix):
    """Lets a draft read the tokens before the stream; how they are cut into runs changes nothing (section 9)."""
    first = stream.first_token
    expect(prefix is not None and ids is not None, "a draft must have the cache and the ids of the tokens before it", "none", MISTAKE)
    have = min(len(ids), prefix[0][0].shape[1])
    expect(have >= first, f"the prefix must have {first} tokens with ids", have, MISTAKE)
    planes = iter([plane[:first].reshape(-1) for parts in prefix for part in parts for plane in part])
    predictor.chunk(0, ids[:first], first, lambda prices: next(planes))


def read_cache(path, stream):
    """(codes as `decode` gives them, ids or None) of a cache file of the stream's format and geometry."""
    _, tensors = safetensors(path.read_bytes())
    ids = np.frombuffer(tensors["token_ids"][2], "<i8").tolist() if "token_ids" in tensors else None
    codes, scales = [], []
    for layer in range(stream.layers):
        parts = []
        for part in "key", "value":
            if stream.scales:
                scales += np.frombuffer(tensors.get(f"layers.{layer}.{part}_scale", (0, 0, b""))[2], "<u4").tolist()
            dtype, shape, data = tensors.get(f"layers.{layer}.{part}", (None, [0], b""))
            ok = dtype == DTYPES[stream.format.name] and len(shape) == 3 and shape[0::2] == [stream.heads, stream.head_dim]
            expect(ok, f"layers.{layer}.{part} of a prefix must have the stream's format and geometry", f"{dtype} {shape}", MISTAKE)
            parts.append(np.frombuffer(data, f"<u{stream.format.width // 8}").astype(np.int64).reshape(shape))
        codes.append(parts)
    expect(scales == stream.scales, "a prefix must have the stream's scales", "others", MISTAKE)
    return codes, ids


def read_ids(path):
    """Numbers of a text file, or the ids of a cache file."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return [int(n) for n in re.findall(r"\d+", data.decode())]
    return np.frombuffer(safetensors(data)[1]["token_ids"][2], "<i8").tolist()


def write_cache(path, stream, codes, ids):
    """A cache file: the names and types that README.md gives."""
    tensors, scales = [], iter(stream.scales)
    if ids is not None:
        tensors.append(("token_ids", "I64", [len(ids)], np.array(ids, "<i8").tobytes()))
    for layer, parts in enumerate(codes):
        for name, values in zip(("key", "value"), parts):
            if stream.scales:
                data = b"".join(next(scales).to_bytes(4, "little") for _ in range(stream.scales_per_part))
                tensors.append((f"layers.{layer}.{name}_scale", "F32", [stream.scales_per_part], data))
            data = values.astype(f"<u{stream.format.width // 8}").tobytes()
            tensors.append((f"layers.{layer}.{name}", DTYPES[stream.format.name], list(values.shape), data))
    write_safetensors(path, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stream", type=Path)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--token-ids", type=Path, help="all ids from token 0 on: numbers in a text file, or a .safetensors cache")
    parser.add_argument("--prefix", type=Path, help="cache file with the tokens before a stream that does not start at token 0")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        stream = parse_stream(args.stream.read_bytes())
        prefix, ids = read_cache(args.prefix, stream) if args.prefix else (None, None)
        ids = read_ids(args.token_ids) if args.token_ids else ids
        codes, ids = decode(stream, Profile(args.profile.read_bytes()), ids, prefix)
        write_cache(args.output, stream, codes, ids)
    except (Refused, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{stream.tokens} tokens, {stream.layers} layers, {stream.predictor} {stream.precision}, {stream.format.name}: restored")


if __name__ == "__main__":
    main()
