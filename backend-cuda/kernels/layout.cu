// Planes between a caller's memory and codes.
#include "common.cuh"

// Where the scalars of a layer's keys or values lie: token t, head h, column c at base + page(t) * page_stride + slot(t) * token_stride + h * head_stride + c,
// strides in elements. Without a page table all tokens are in one page.
struct Strided {
    u8 *base;
    const u32 *pages; // page of every `page_tokens` tokens
    u64 page_stride, token_stride, head_stride;
    u32 page_tokens;
    u32 width; // 8 or 16 bits
};
static_assert(sizeof(Strided) == 48, "as src/kernels.rs");
__device__ __forceinline__ u64 place(const Strided &s, u64 token, u32 head, u32 col) {
    u64 page = 0, slot = token;
    if (s.pages != 0) page = s.pages[token / s.page_tokens], slot = token % s.page_tokens;
    return page * s.page_stride + slot * s.token_stride + head * s.head_stride + col;
}
// Grid covers count: the codes [tokens, cols] of one head, from token `first` on.
KERNEL gather(Strided s, u64 first, u32 head, u32 cols, u64 count, u16 *codes) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    u64 at = place(s, first + i / cols, head, (u32)(i % cols));
    codes[i] = s.width == 8 ? s.base[at] : ((const u16 *)s.base)[at];
}
KERNEL scatter(Strided s, u64 first, u32 head, u32 cols, u64 count, const u16 *codes) {
    u64 i = (u64)block_x() * threads_x() + thread_x();
    if (i >= count) return;
    u64 at = place(s, first + i / cols, head, (u32)(i % cols));
    if (s.width == 8) s.base[at] = (u8)codes[i];
    else ((u16 *)s.base)[at] = codes[i];
}
