// XXH3-64 with seed 0 and the default secret (the xxHash specification, section XXH3), as codec-core's checksum.rs has them.
#pragma once
#include "common.cuh"

__constant__ __attribute__((aligned(8))) u8 SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb,
    0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
    0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc,
    0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
constexpr u32 P32_1 = 0x9E3779B1, P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D;
constexpr u64 P64_1 = 0x9E3779B185EBCA87, P64_2 = 0xC2B2AE3D27D4EB4F, P64_3 = 0x165667B19E3779F9, P64_4 = 0x85EBCA77C2B2AE63,
              P64_5 = 0x27D4EB2F165667C5, MIX_1 = 0x165667919E3779F9, MIX_2 = 0x9FB21C651E98DF25;
__constant__ u64 START[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};

__device__ __forceinline__ u64 secret(u32 at, u32 bytes = 8) {
    u64 v = 0;
    for (u32 i = 0; i < bytes; i++) v |= (u64)SECRET[at + i] << (8 * i);
    return v;
}
__device__ __forceinline__ u64 avalanche(u64 h) {
    h = (h ^ h >> 37) * MIX_1;
    return h ^ h >> 32;
}
__device__ __forceinline__ u64 avalanche_64(u64 h) {
    h = (h ^ h >> 33) * P64_2;
    h = (h ^ h >> 29) * P64_3;
    return h ^ h >> 32;
}
__device__ __forceinline__ u64 rotate(u64 v, u32 n) { return v << n | v >> (64 - n); }
// The two halves of a 128-bit product, one on the other.
__device__ __forceinline__ u64 fold(u64 a, u64 b) {
    unsigned __int128 p = (unsigned __int128)a * b;
    return (u64)p ^ (u64)(p >> 64);
}

// A plane of a chunk as the bytes of its codes.
struct Bytes {
    const u16 *codes;
    u32 length;
    bool narrow; // a byte a code, else two
};
__device__ __forceinline__ u64 read(const Bytes &b, u32 at, u32 bytes) {
    u64 v = 0;
    for (u32 i = 0; i < bytes; i++) {
        u32 k = at + i;
        u32 byte = b.narrow ? b.codes[k] & 255 : b.codes[k / 2] >> (8 * (k & 1)) & 255;
        v |= (u64)byte << (8 * i);
    }
    return v;
}
__device__ __forceinline__ u64 mix(const Bytes &b, u32 at, u32 key) {
    return fold(read(b, at, 8) ^ secret(key), read(b, at + 8, 8) ^ secret(key + 8));
}
// Up to 240 bytes, by one thread.
__device__ u64 hash_short(const Bytes &b) {
    u32 n = b.length;
    if (n == 0) return avalanche_64(secret(56) ^ secret(64));
    if (n <= 3) {
        u64 v = read(b, 0, 1) << 16 | read(b, n >> 1, 1) << 24 | read(b, n - 1, 1) | (u64)n << 8;
        return avalanche_64(v ^ (secret(0, 4) ^ secret(4, 4)));
    }
    if (n <= 8) {
        u64 h = (read(b, n - 4, 4) + (read(b, 0, 4) << 32)) ^ (secret(8) ^ secret(16));
        h = (h ^ rotate(h, 49) ^ rotate(h, 24)) * MIX_2;
        h = (h ^ ((h >> 35) + n)) * MIX_2;
        return h ^ h >> 28;
    }
    if (n <= 16) {
        u64 lo = read(b, 0, 8) ^ (secret(24) ^ secret(32)), hi = read(b, n - 8, 8) ^ (secret(40) ^ secret(48));
        return avalanche(n + __builtin_bswap64(lo) + hi + fold(lo, hi));
    }
    u64 acc = n * P64_1;
    if (n <= 128) {
        for (u32 i = 0; 32 * i < n; i++) {
            // Pairs from both ends; the last pair may overlap.
            acc += mix(b, 16 * i, 32 * i) + mix(b, n - 16 * (i + 1), 32 * i + 16);
        }
        return avalanche(acc);
    }
    for (u32 i = 0; i < 8; i++) acc += mix(b, 16 * i, 16 * i);
    acc = avalanche(acc);
    for (u32 i = 8; i < n / 16; i++) acc += mix(b, 16 * i, 16 * (i - 8) + 3);
    return avalanche(acc + mix(b, n - 16, 136 - 17));
}

// Eight bytes at a multiple of eight, or anywhere a code begins if not aligned.
__device__ __forceinline__ u64 word(const Bytes &b, u32 at, bool aligned) {
    if (!aligned) return read(b, at, 8);
    if (!b.narrow) return *(const u64 *)(b.codes + at / 2);
    const u64 *p = (const u64 *)(b.codes + at);
    u32 lo = __nvvm_prmt((u32)p[0], (u32)(p[0] >> 32), 0x6420), hi = __nvvm_prmt((u32)p[1], (u32)(p[1] >> 32), 0x6420);
    return (u64)hi << 32 | lo;
}
__device__ __forceinline__ u64 shuffle_xor_64(u64 v, u32 mask) {
    u32 lo = (u32)shuffle_xor((i32)(u32)v, mask), hi = (u32)shuffle_xor((i32)(u32)(v >> 32), mask);
    return (u64)hi << 32 | lo;
}
// What `stripes` (16 at most) of 64 bytes from `at` on add to accumulator lane & 7: four of the lanes share each.
__device__ __forceinline__ u64 stripes_of(const Bytes &b, u32 at, u32 stripes, const u64 *keys, u32 lane, bool aligned) {
    u64 data[4], plain = 0, product = 0;
    u32 part = lane & 7, first = lane >> 3;
    // All are asked for before any is used.
    for (u32 t = 0; t < 4; t++) data[t] = first + 4 * t < stripes ? word(b, at + 64 * (first + 4 * t) + 8 * part, aligned) : 0;
    for (u32 t = 0; t < 4; t++) {
        if (first + 4 * t >= stripes) break;
        u64 key = data[t] ^ keys[t];
        plain += data[t], product += (u64)(u32)key * (key >> 32);
    }
    u64 sum = product + shuffle_xor_64(plain, 1);
    sum += shuffle_xor_64(sum, 8);
    return sum + shuffle_xor_64(sum, 16);
}
// More than 240 bytes, by a warp; every lane has the result.
__device__ __forceinline__ u64 hash_long(const Bytes &b, u32 lane) {
    u32 part = lane & 7, blocks = (b.length - 1) / 1024, at = 0;
    bool aligned = ((u64)b.codes & (b.narrow ? 15 : 7)) == 0;
    u64 acc = START[part], keys[4];
    for (u32 t = 0; t < 4; t++) keys[t] = secret(8 * ((lane >> 3) + 4 * t + part));
    const u64 scramble = secret(128 + 8 * part);
    for (u32 i = 0; i < blocks; i++, at += 1024) {
        acc += stripes_of(b, at, 16, keys, lane, aligned);
        acc = (acc ^ acc >> 47 ^ scramble) * P32_1;
    }
    acc += stripes_of(b, at, (b.length - 1 - at) / 64, keys, lane, aligned);
    // The last 64 bytes, which overlap those before.
    u64 last = read(b, b.length - 64 + 8 * part, 8), key = last ^ secret(121 + 8 * part);
    acc += (u64)(u32)key * (key >> 32) + shuffle_xor_64(last, 1);
    // Two accumulators and two keys make one term.
    u64 term = acc ^ secret(11 + 8 * part), other = shuffle_xor_64(term, 1);
    u64 sum = fold(term, other);
    sum += shuffle_xor_64(sum, 2);
    sum += shuffle_xor_64(sum, 4);
    return avalanche(b.length * P64_1 + sum);
}
// Of any length, by a warp; the first lane has the result.
__device__ __forceinline__ u64 hash_of(const Bytes &b, u32 lane) {
    if (b.length > 240) return hash_long(b, lane);
    return lane == 0 ? hash_short(b) : 0;
}
