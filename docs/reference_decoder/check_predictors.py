"""Decodes the golden streams of predictors: accepts must restore codes and token ids, rejects must be refused for the manifest's reason.

    python3 docs/reference_decoder/check_predictors.py predictor/vectors
"""

import json
import sys
from pathlib import Path

import numpy as np

from check_golden import rule
from container import parse_stream
from decode import decode
from errors import Refused
from profiles import Profile
from xxh3 import xxh3_64


def read_values(data, stream):
    """(codes [layer][part] of [heads, tokens, head_dim], token ids) of a values file: planes of all tokens, then ids."""
    size, heads, dim = stream.format.width // 8, stream.heads, stream.head_dim
    tokens = len(data) // (2 * stream.layers * heads * dim * size + 4)
    end = len(data) - 4 * tokens
    codes = np.frombuffer(data[:end], f"<u{size}").astype(np.int64).reshape(stream.layers, 2, heads, tokens, dim)
    return codes, np.frombuffer(data[end:], "<u4").tolist()


def accepted(folder, entry, profile):
    """None, or what is wrong."""
    stream = parse_stream((folder / "accept" / f"{entry['name']}.skv").read_bytes())
    codes, ids = read_values((folder / "caches" / f"{entry['cache']}.values").read_bytes(), stream)
    window = slice(stream.first_token, stream.first_token + stream.tokens)
    try:
        found, found_ids = decode(stream, profile, ids, codes)
    except Refused as error:
        return f"refused: {error}"
    if found_ids != ids[window]:
        return "other token ids"
    equal = all(np.array_equal(found[l][p], codes[l, p, :, window]) for l in range(stream.layers) for p in range(2))
    return None if equal else "other codes"


def rejected(folder, entry, data):
    """None, or what is wrong. A stream's fault is told by its rule, a profile's or a caller's by its kind: the words are each reader's own."""
    try:
        profile = Profile(data)
        decode(parse_stream((folder / "reject" / f"{entry['name']}.skv").read_bytes()), profile)
    except Refused as error:
        own_words = entry["kind"] in ("bad profile", "wrong profile", "caller's mistake")
        same = own_words or rule(str(error)) == rule(entry["error"].removeprefix("stream: "))
        return None if same and error.kind == entry["kind"] else f"refused otherwise: {error}"
    return "accepted"


def main(folder):
    manifest, wrong = json.loads((folder / "MANIFEST.json").read_text()), 0
    files = {entry["name"]: (folder / "profiles" / f"{entry['name']}.speckv").read_bytes() for entry in manifest["profiles"]}
    profiles = {name: Profile(data) for name, data in files.items()}
    for part in "accept", "reject":
        right = 0
        for entry in manifest[part]:
            if f"{xxh3_64((folder / part / (entry['name'] + '.skv')).read_bytes()):016x}" != entry["xxh3"]:
                problem = "the stream is not the manifest's"
            elif part == "accept":
                problem = accepted(folder, entry, profiles[entry["profile"]])
            else:
                own = folder / part / f"{entry['name']}.speckv"
                problem = rejected(folder, entry, files[entry["profile"]] if entry["profile"] else own.read_bytes())
            if problem:
                print(f"{part}/{entry['name']} ({entry['feature']}): {problem}")
            right += not problem
        count = len(list((folder / part).glob("*.skv")))
        print(f"golden streams of predictors, {part}: {right} of {count} as expected")
        wrong += right == 0 or right != count
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) and 1)
