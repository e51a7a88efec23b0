"""BLAKE3 of a whole file (the profile digest of format.md, section 5), after its published description; numpy hashes all chunks at once."""

import numpy as np

IV = np.array([0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32)
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
QUARTERS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def turn(x, n):
    return x >> np.uint32(n) | x << np.uint32(32 - n)


def compress(value, block, counter, length, flags):
    """value [8, n], block [16, n], counter [n]; sums of uint32 arrays wrap, as they must."""
    n = block.shape[1]
    v = list(value) + [np.full(n, IV[i], np.uint32) for i in range(4)]
    v += [x.astype(np.uint32) for x in (counter & 0xFFFFFFFF, counter >> 32, np.full(n, length), np.full(n, flags))]
    m = list(block)
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(QUARTERS):
            for word, first, second in ((m[2 * i], 16, 12), (m[2 * i + 1], 8, 7)):
                v[a] = v[a] + v[b] + word
                v[d] = turn(v[d] ^ v[a], first)
                v[c] = v[c] + v[d]
                v[b] = turn(v[b] ^ v[c], second)
        m = [m[i] for i in ORDER]
    return np.array([v[i] ^ v[i + 8] for i in range(8)])


def chunks(data, counter, root):
    """Chaining values [8, n] of chunks that are all as long: n whole ones, or one alone. data: uint8 [n, length]."""
    n, length = data.shape
    value = np.repeat(IV[:, None], n, axis=1)
    starts = range(0, max(length, 1), 64)
    for at in starts:
        part = data[:, at:at + 64]
        block = np.zeros((n, 64), np.uint8)
        block[:, :part.shape[1]] = part
        flags = (CHUNK_START if at == 0 else 0) | ((CHUNK_END | root) if at == starts[-1] else 0)
        value = compress(value, block.view("<u4").T, counter, part.shape[1], flags)
    return value


def blake3(data):
    """The 32-byte digest."""
    data = np.frombuffer(data, np.uint8)
    whole = max(len(data) - 1, 0) // 1024  # whole chunks before the last one, which may be whole too
    root = 0 if whole else ROOT
    last = chunks(data[None, whole * 1024:], np.array([whole]), root)
    value = np.concatenate([chunks(data[:whole * 1024].reshape(whole, 1024), np.arange(whole), 0), last], axis=1) if whole else last
    while value.shape[1] > 1:  # pairs from the left; an odd one moves up a level as it is
        pairs = value.shape[1] // 2
        block = np.concatenate([value[:, 0:2 * pairs:2], value[:, 1:2 * pairs:2]])
        flags = PARENT | (ROOT if value.shape[1] == 2 else 0)
        parents = compress(np.repeat(IV[:, None], pairs, axis=1), block, np.zeros(pairs, np.int64), 64, flags)
        value = np.concatenate([parents, value[:, 2 * pairs:]], axis=1)
    return value[:, 0].astype("<u4").tobytes()
