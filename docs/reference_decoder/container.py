"""The container: header, directory and payloads. format.md, section 5, and the bounds of section 8."""

from dataclasses import dataclass

from errors import Refused, expect
from model import FORMATS
from xxh3 import xxh3_64

MAGIC = bytes.fromhex("89534B560D0A1A0A")
VERSION = 2
PREDICTORS = {0: "static", 1: "chain", 2: "draft", 255: "external"}
LANES = 32


class Reader:
    """Bytes in order; whoever reads past the end is told that the stream is truncated."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        if len(self.data) - self.at < count:
            raise Refused("truncated", f"{count} bytes needed at byte {self.at}, {len(self.data) - self.at} there")
        self.at += count
        return self.data[self.at - count:self.at]

    def int(self, size):
        return int.from_bytes(self.bytes(size), "little")


@dataclass
class Chunk:
    first: int  # token
    tokens: int
    payload: bytes
    values_checksum: int


@dataclass
class Stream:
    format: object
    predictor: str
    precision: str
    has_ids: bool
    layers: int
    heads: int
    head_dim: int
    first_token: int
    tokens: int
    digest: bytes
    scales: list  # f32 bits, order layer, part, head; empty for 16-bit formats
    scales_per_part: int
    chunks: list


@dataclass
class Payload:
    raw: list  # one bool a plane
    ids: list  # or None
    states: list
    words: list


def parse_stream(data):
    """Section 5, field by field; checksums of header and payloads."""
    r = Reader(data)
    if r.bytes(8) != MAGIC:
        raise Refused("not a speckv stream")
    version = r.int(2)
    if version != VERSION:
        raise Refused("unsupported version", f"{version}, this reader knows {VERSION}")
    format_id, predictor, flags, name_length = (r.int(1) for _ in range(4))
    expect(format_id in FORMATS, "element format must be 0..=3", format_id)
    expect(predictor in PREDICTORS, "predictor must be 0, 1, 2 or 255", predictor)
    expect(flags < 4, "flag bits 2..=7 must be zero", flags)
    fmt = FORMATS[format_id]
    expect((flags >> 1) == (fmt.width == 8), "scales must be present exactly for 8-bit formats", flags)
    expect(name_length <= 32, "precision name must have at most 32 bytes", name_length)
    layers, heads, head_dim = (r.int(2) for _ in range(3))
    for name, value in ("layers", layers), ("kv_heads", heads), ("head_dim", head_dim):
        expect(1 <= value <= 4096, f"{name} must be 1..=4096", value)
    length = r.int(4)
    expect(1 <= length <= 65536, "chunk length must be 1..=65536 tokens", length)
    first = r.int(8)
    expect(first < 2**40, "first_token must be below 2^40", first)
    expect(first % length == 0, "first_token must be a multiple of the chunk length", first)
    tokens = r.int(8)
    expect(1 <= tokens <= 2**40, "tokens must be 1..=2^40", tokens)
    chunks = -(-tokens // length)
    expect(chunks <= 2**24, "a stream must have at most 2^24 chunks", chunks)
    digest, name = r.bytes(32), r.bytes(name_length)
    allowed = b"abcdefghijklmnopqrstuvwxyz0123456789+._-"
    expect(all(c in allowed for c in name), "precision name must be of a-z, 0-9, +, ., _ and -", name)
    scales, per_part = [], 0
    if flags >> 1:
        per_part = r.int(4)
        expect(per_part in (1, heads), "scales per (layer, part) must be 1 or kv_heads", per_part)
        for _ in range(2 * layers * per_part):
            bits = r.int(4)
            # Sign clear, exponent field neither 0 (zero, subnormal) nor 255 (infinity, NaN).
            expect(0x00800000 <= bits < 0x7F800000, "scales must be finite, positive and normal", bits)
            scales.append(bits)
    directory = Reader(r.bytes(24 * chunks))
    header = data[:r.at]
    entries = []
    for i in range(chunks):
        count = min(length, tokens - i * length)
        entries.append((first + i * length, count, *(directory.int(8) for _ in range(3))))
    checksum(r.int(8), header, "damaged header")
    stream = Stream(fmt, PREDICTORS[predictor], name.decode("ascii"), bool(flags & 1), layers, heads, head_dim, first, tokens, digest,
                    scales, per_part, [])
    for _, count, size, _, _ in entries:
        expect(size <= payload_bound(2 * layers * heads, count, head_dim, fmt.width), "payload length must be within the size bound", size)
    payloads = [r.bytes(size) for _, _, size, _, _ in entries]
    expect(r.at == len(data), "the stream must end with its last payload", len(data) - r.at)
    for (start, count, _, payload_sum, values_sum), payload in zip(entries, payloads):
        checksum(payload_sum, payload, "damaged payload")
        stream.chunks.append(Chunk(start, count, payload, values_sum))
    return stream


def payload_bound(planes, tokens, head_dim, width):
    """Section 8: the most bytes a payload can have."""
    words = -(-planes * tokens * head_dim * width // 16) + 64
    return -(-planes // 8) + 1 + 4 * tokens + 128 + 2 * words


def parse_payload(chunk, stream):
    r = Reader(chunk.payload)
    planes = 2 * stream.layers * stream.heads
    raw = [bool(bit) for bit in bits_of(r, planes, 1)]
    ids = None
    if stream.has_ids:
        bits = r.int(1)
        rule = "token ids must have 1..=32 bits, as few as the largest needs"
        expect(1 <= bits <= 32, rule, bits)
        ids = bits_of(r, chunk.tokens, bits)
        expect(max(max(ids).bit_length(), 1) == bits, rule, bits)
    states = [r.int(4) for _ in range(LANES)]
    for state in states:
        expect(state >= 2**16, "lane states must be at least 2^16", state)
    rest = r.bytes(len(chunk.payload) - r.at)
    expect(len(rest) % 2 == 0, "words must be whole", len(rest))
    return Payload(raw, ids, states, [rest[i] | rest[i + 1] << 8 for i in range(0, len(rest), 2)])


def bits_of(r, count, width):
    """`count` numbers of `width` bits each, LSB first, padded with zeros to a byte."""
    packed = int.from_bytes(r.bytes(-(-count * width // 8)), "little")
    expect(packed >> count * width == 0, "padding bits must be zero", packed >> count * width)
    return [packed >> i * width & (1 << width) - 1 for i in range(count)]


def values_checksum(planes, width):
    """Of the codes of a chunk, a list of planes in plane order: the hash of the hashes of the planes."""
    size = width // 8
    hashes = (xxh3_64(b"".join(code.to_bytes(size, "little") for code in plane)) for plane in planes)
    return xxh3_64(b"".join(h.to_bytes(8, "little") for h in hashes))


def checksum(expected, data, kind):
    found = xxh3_64(data)
    if found != expected:
        raise Refused(kind, f"checksum {found:016x}, expected {expected:016x}")
