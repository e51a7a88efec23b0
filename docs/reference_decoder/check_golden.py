"""Decodes the golden streams of codec-core/vectors: accepts must restore the values, rejects must name the manifest's rule.

    python3 docs/reference_decoder/check_golden.py codec-core/vectors
"""

import json
import re
import sys
from pathlib import Path

from coder import Lanes
from container import parse_payload, parse_stream, values_checksum
from errors import Refused, expect
from model import Prices, Shape, clamp
from xxh3 import xxh3_64


def ints(data, at, count, size, signed):
    """`count` little-endian integers from byte `at` on, and where they end."""
    end = at + count * size
    return [int.from_bytes(data[i:i + size], "little", signed=signed) for i in range(at, end, size)], end


def restore(stream, model):
    """The bytes of NAME.values, from the predictions that NAME.model lists."""
    out, all_ids, at, size = b"", b"", 0, stream.format.width // 8
    for chunk in stream.chunks:
        payload = parse_payload(chunk, stream)
        lanes, planes, count = Lanes(payload.states, payload.words), [], chunk.tokens * stream.head_dim
        for raw in payload.raw:
            (F,), at = ints(model, at, 1, 4, True)
            shape, at = ints(model, at, 66, 2, False)
            channel, at = ints(model, at, stream.head_dim, 2, True)
            token, at = ints(model, at, chunk.tokens, 2, True)
            means, at = ints(model, at, count, 4, True)
            indices = [clamp(c + t, 0, 479) for t in token for c in channel]
            prices = Prices(stream.format, F, Shape(shape[:65], shape[65]), means, indices)
            planes.append(lanes.raw_plane(count, stream.format.width) if raw else lanes.coded_plane(count, prices.find, prices.finish))
        lanes.end()
        found = values_checksum(planes, stream.format.width)
        expect(found == chunk.values_checksum, f"checksum {chunk.values_checksum:016x}", f"{found:016x}", "damaged restored values")
        out += b"".join(code.to_bytes(size, "little") for plane in planes for code in plane)
        all_ids += b"".join(i.to_bytes(4, "little") for i in payload.ids or [])
    return out + all_ids


def rule(message):
    """What must agree of two messages: the kind and, of a malformed stream, the rule. Positions and numbers are each reader's own."""
    message = re.sub(r"^malformed at byte \d+", "malformed", message)
    message = re.sub(r", found .*", "", message)
    return message if message.startswith("malformed") else re.sub(r"[: ]*([0-9:].*|checksum.*)$", "", message)


def check(folder, name, entry, accept):
    """None, or what is wrong."""
    stream, model = ((folder / f"{name}.{end}").read_bytes() for end in ("skv", "model"))
    if f"{xxh3_64(stream):016x}" != entry["stream_xxh3"]:
        return "the stream is not the manifest's"
    try:
        values = restore(parse_stream(stream), model)
    except Refused as error:
        return f"refused: {error}" if accept or rule(str(error)) != rule(entry["error"]) else None
    if not accept:
        return "accepted"
    if f"{xxh3_64(values):016x}" != entry["values_xxh3"] or values != (folder / f"{name}.values").read_bytes():
        return "other values"
    return None


def main(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    wrong = 0
    for part in "accept", "reject":
        right = 0
        for entry in manifest[part]:
            problem = check(folder / part, entry["name"], entry, part == "accept")
            if problem:
                print(f"{part}/{entry['name']} ({entry['feature']}): {problem}")
                wrong += 1
            right += not problem
        files = len(list((folder / part).glob("*.skv")))
        print(f"golden {part}: {right} of {files} as expected")
        wrong += right == 0 or right != files
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) and 1)
