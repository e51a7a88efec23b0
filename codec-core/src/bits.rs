//! Packed small integers, least significant bit first: plane modes and token ids.

use alloc::vec::Vec;

/// Appends `values`, each in `bits` (1..=32) bits, and pads with zeros to a byte.
pub fn pack(values: impl IntoIterator<Item = u32>, bits: u32, out: &mut Vec<u8>) {
    let (mut window, mut held) = (0u64, 0);
    for value in values {
        window |= u64::from(value) << held;
        held += bits;
        while held >= 8 {
            out.push(window as u8);
            window >>= 8;
            held -= 8;
        }
    }
    if held > 0 {
        out.push(window as u8);
    }
}

/// Bytes that `count` values of `bits` bits take.
pub const fn packed_len(count: u64, bits: u32) -> u64 {
    (count * bits as u64).div_ceil(8)
}

/// The value at `index` of values of `bits` (1..=32) bits. Bits past the end read as zero.
pub fn get(bytes: &[u8], bits: u32, index: usize) -> u32 {
    let first = index as u64 * u64::from(bits);
    let mut window = 0u64;
    for step in 0..5 {
        let byte = bytes.get((first / 8) as usize + step).copied().unwrap_or(0);
        window |= u64::from(byte) << (8 * step);
    }
    ((window >> (first % 8)) & ((1 << bits) - 1)) as u32
}

/// The bits after `count` values of `bits` bits in their last byte: zero in a well-formed string.
pub fn padding(bytes: &[u8], bits: u32, count: u64) -> u8 {
    let used = (count * u64::from(bits) % 8) as u32;
    match bytes.last() {
        Some(last) if used > 0 => last >> used,
        _ => 0,
    }
}
