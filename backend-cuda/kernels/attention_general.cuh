// Attention for any head size and any digits, in plain loops.
#pragma once

#include "attention.cuh"

constexpr u32 GENERAL = 128; // threads, keys at a time and columns of a block of threads
constexpr u32 MAX_HEAD = 4096;

__device__ __forceinline__ i32 dot4(i32 a, i32 b, i32 sum) {
    i32 d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sum));
    return d;
}

// Sum of digit products; head sizes are even, only multiples of 4 lie on words.
__device__ __forceinline__ i32 dot_digits(const i8 *q, const i8 *k, u32 n) {
    i32 sum = 0;
    if (n % 4 == 0) {
        for (u32 i = 0; i < n; i += 4) sum = dot4(*(const i32 *)(q + i), *(const i32 *)(k + i), sum);
    } else {
        for (u32 i = 0; i < n; i++) sum += (i32)q[i] * (i32)k[i];
    }
    return sum;
}

KERNEL __launch_bounds__(GENERAL) attention_general(Attention a) {
    __shared__ __attribute__((aligned(16))) i8 query[2][MAX_HEAD];
    __shared__ i32 scores[GENERAL], weights[GENERAL], weighed[GENERAL], maxima[GENERAL / 32];
    u32 tid = thread_x(), t = block_x(), head = block_y(), column = block_z() * GENERAL + tid, n = a.head_dim;
    u32 kv = head / (a.heads / a.kv_heads);
    u64 at = (u64)t * a.q_ld + head * n;
    for (u32 i = tid; i < n; i += GENERAL) {
        query[0][i] = a.q_lo[at + i];
        if (a.q_hi) query[1][i] = a.q_hi[at + i];
    }
    sync_block();
    Scale q_scale = shifted(a.q_scale[(u64)t * a.heads + head], 16 + a.shift);
    u32 keys = a.start + t + 1;
    auto score = [&](u32 key) {
        const u64 k = (u64)key * a.kv_ld + kv * n;
        i64 sum = dot_digits(query[0], a.k_lo + k, n);
        if (a.q_hi) sum += (i64)dot_digits(query[1], a.k_lo + k, n) << 8;
        if (a.k_hi) sum += (i64)dot_digits(query[0], a.k_hi + k, n) << 8;
        if (a.q_hi && a.k_hi) sum += (i64)dot_digits(query[1], a.k_hi + k, n) << 16;
        return scaled(round_sum(sum, (u32)a.shift), q_scale, a.k_scale[(u64)key * a.kv_heads + kv]);
    };

    i32 max = UNSEEN;
    for (u32 key = tid; key < keys; key += GENERAL) max = max_i32(max, score(key));
    for (u32 m = 16; m > 0; m >>= 1) max = max_i32(max, shuffle_xor(max, m));
    if (tid % 32 == 0) maxima[tid / 32] = max;
    sync_block();
    for (u32 i = 0; i < GENERAL / 32; i++) max = max_i32(max, maxima[i]);
    i32 top = block_exponent(max);

    i64 numerator = 0, denominator = 0;
    for (u32 first = 0; first < keys; first += GENERAL) {
        u32 key = first + tid;
        scores[tid] = key < keys ? score(key) : UNSEEN;
        sync_block();
        i32 block_max = UNSEEN;
        u32 base = tid & ~(BLOCK - 1);
        for (u32 i = 0; i < BLOCK; i++) block_max = max_i32(block_max, scores[base + i]);
        i32 weight = 0, factor = 0;
        if (key < keys) {
            weight = exp2_q16((u32)((block_exponent(block_max) << 16) - scores[tid]), a.tables.exp2);
            factor = value_factor(a.v_scale[(u64)key * a.kv_heads + kv], a.value_exponent);
        }
        weights[tid] = weight;
        weighed[tid] = (weight * factor + (1 << 14)) >> 15;
        sync_block();
        for (base = 0; base < GENERAL && first + base < keys; base += BLOCK) {
            block_max = UNSEEN;
            for (u32 i = 0; i < BLOCK; i++) block_max = max_i32(block_max, scores[base + i]);
            i32 octaves = top - block_exponent(block_max);
            if (octaves > FAR) continue;
            u32 count = keys - first - base < BLOCK ? keys - first - base : BLOCK;
            i64 sum = 0, block_weights = 0;
            for (u32 i = 0; i < count; i++) {
                block_weights += weights[base + i];
                if (column < n) {
                    u64 v = (u64)(first + base + i) * a.kv_ld + kv * n + column;
                    i32 value = a.v_hi ? ((i32)a.v_hi[v] << 8) + a.v_lo[v] : a.v_lo[v];
                    sum += (i64)weighed[base + i] * value;
                }
            }
            denominator += (block_weights << GUARD) >> octaves;
            numerator += (i64)((u64)sum << GUARD) >> octaves;
        }
        sync_block();
    }
    if (column < n) {
        a.out[(u64)t * a.heads * n + head * n + column] = divide(numerator, divisor(denominator), a.v_hi ? 14 : 6, a);
    }
}
