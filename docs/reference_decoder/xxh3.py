"""XXH3-64 with seed 0 and the default secret (format.md, section 5), after the published description of xxHash."""

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
U64 = 2**64 - 1
STRIPE, LANES = 64, 8  # after (192 - 64) / 8 = 16 stripes the secret is used up and the accumulators are scrambled


def u32(data, at):
    return int.from_bytes(data[at:at + 4], "little")


def u64(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & U64
    return h ^ h >> 32


def avalanche_64(h):
    """The last step of the older XXH64, for inputs of at most 3 bytes."""
    h = (h ^ h >> 33) * P64_2 & U64
    h = (h ^ h >> 29) * P64_3 & U64
    return h ^ h >> 32


def fold(a, b):
    """The two halves of a 128-bit product, exclusive or."""
    product = a * b
    return (product ^ product >> 64) & U64


def mix(data, at, secret_at):
    return fold(u64(data, at) ^ u64(SECRET, secret_at), u64(data, at + 8) ^ u64(SECRET, secret_at + 8))


def up_to_16(data):
    n = len(data)
    if n == 0:
        return avalanche_64(u64(SECRET, 56) ^ u64(SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return avalanche_64(combined ^ u32(SECRET, 0) ^ u32(SECRET, 4))
    if n <= 8:
        h = u32(data, n - 4) + (u32(data, 0) << 32) ^ u64(SECRET, 8) ^ u64(SECRET, 16)
        h ^= (h << 49 | h >> 15) & U64 ^ (h << 24 | h >> 40) & U64
        h = h * 0x9FB21C651E98DF25 & U64
        h = (h ^ (h >> 35) + n) * 0x9FB21C651E98DF25 & U64
        return h ^ h >> 28
    low = u64(data, 0) ^ u64(SECRET, 24) ^ u64(SECRET, 32)
    high = u64(data, n - 8) ^ u64(SECRET, 40) ^ u64(SECRET, 48)
    swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
    return avalanche(n + swapped + high + fold(low, high) & U64)


def up_to_240(data):
    n = len(data)
    acc = n * P64_1
    if n <= 128:
        for i in range((n - 1) // 32 + 1):  # pairs of 16 bytes, from both ends inwards
            acc += mix(data, 16 * i, 32 * i) + mix(data, n - 16 * (i + 1), 32 * i + 16)
    else:
        acc = avalanche(acc + sum(mix(data, 16 * i, 16 * i) for i in range(8)) & U64)
        acc += sum(mix(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, n // 16)) + mix(data, n - 16, 136 - 17)
    return avalanche(acc & U64)


def accumulate(acc, data, at, secret_at):
    for i in range(LANES):
        value = u64(data, at + 8 * i)
        key = value ^ u64(SECRET, secret_at + 8 * i)
        acc[i ^ 1] = acc[i ^ 1] + value & U64
        acc[i] = acc[i] + (key & 0xFFFFFFFF) * (key >> 32) & U64


def long(data):
    n = len(data)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    for stripe in range((n - 1) // STRIPE):  # all but the last, which is taken from the end and may overlap
        accumulate(acc, data, stripe * STRIPE, 8 * (stripe % 16))
        if stripe % 16 == 15:
            for i in range(LANES):
                acc[i] = (acc[i] ^ acc[i] >> 47 ^ u64(SECRET, 128 + 8 * i)) * P32_1 & U64
    accumulate(acc, data, n - STRIPE, 192 - STRIPE - 7)
    h = n * P64_1
    for i in range(0, LANES, 2):
        h += fold(acc[i] ^ u64(SECRET, 11 + 8 * i), acc[i + 1] ^ u64(SECRET, 19 + 8 * i))
    return avalanche(h & U64)


def xxh3_64(data):
    return up_to_16(data) if len(data) <= 16 else up_to_240(data) if len(data) <= 240 else long(data)
