//! What instruction sets fill in: digits of both operands as a path holds them, and the tile of exact products.

use speckv_predictor::data::Digits;

use crate::aligned::Aligned;
use crate::local::Lefts;

/// 16 outputs x 4 inputs of int8 digits.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line8(pub [i8; 64]);

/// 16 outputs x 2 inputs of digits (or any 16-bit values).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line16(pub [i16; 32]);

/// A register's worth of weights.
pub(crate) trait Line: Copy + Send + Sync {
    /// Inputs side by side.
    const INPUTS: usize;
    /// All zeros.
    const ZERO: Self;
    /// Puts a digit of output `o` (0..16) and input `i`.
    fn set(&mut self, o: usize, i: usize, digit: i16);
    /// Puts the digits of output `o` (0..16), one an input.
    fn put(&mut self, o: usize, digits: &[i16]);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Line for Line8 {
    const INPUTS: usize = 4;
    const ZERO: Line8 = Line8([0; 64]);

    #[inline(always)]
    fn set(&mut self, o: usize, i: usize, digit: i16) {
        self.0[o * 4 + i] = digit as i8;
    }

    #[inline(always)]
    fn put(&mut self, o: usize, digits: &[i16]) {
        let digits: [i16; 4] = digits.try_into().expect("four inputs");
        self.0[o * 4..][..4].copy_from_slice(&digits.map(|q| q as i8));
    }
}

impl Line for Line16 {
    const INPUTS: usize = 2;
    const ZERO: Line16 = Line16([0; 32]);

    #[inline(always)]
    fn set(&mut self, o: usize, i: usize, digit: i16) {
        self.0[o * 2 + i] = digit;
    }

    #[inline(always)]
    fn put(&mut self, o: usize, digits: &[i16]) {
        self.0[o * 2..][..2].copy_from_slice(digits);
    }
}

/// A left operand's digit, as a kernel takes it.
pub(crate) trait Left: Copy + Default + Send + Sync + 'static {
    /// From a digit; `OFFSET` of the kernel is in it.
    fn from_digit(digit: i16) -> Self;
    /// A thread's planes of them.
    fn planes(lefts: &mut Lefts) -> &mut [Aligned<Self>; 2];
    /// Values of 16 bits as one digit each, where digits are so wide.
    fn of_words(_: &[i16]) -> Option<&[Self]> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
impl Left for u8 {
    #[inline(always)]
    fn from_digit(digit: i16) -> u8 {
        (digit + 128) as u8
    }

    fn planes(lefts: &mut Lefts) -> &mut [Aligned<u8>; 2] {
        &mut lefts.unsigned
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Left for i8 {
    #[inline(always)]
    fn from_digit(digit: i16) -> i8 {
        digit as i8
    }

    fn planes(lefts: &mut Lefts) -> &mut [Aligned<i8>; 2] {
        &mut lefts.bytes
    }
}

impl Left for i16 {
    #[inline(always)]
    fn from_digit(digit: i16) -> i16 {
        digit
    }

    fn planes(lefts: &mut Lefts) -> &mut [Aligned<i16>; 2] {
        &mut lefts.words
    }

    fn of_words(words: &[i16]) -> Option<&[i16]> {
        Some(words)
    }
}

/// A tile of exact products: the one thing that instruction sets do differently.
pub(crate) trait Kernel: Copy + Send + Sync {
    /// Digits of the left operand.
    type A: Left;
    /// Digits of weights.
    type Line: Line;
    /// Rows of a full tile.
    const MR: usize;
    /// Lines of a panel.
    const LINES: usize;
    /// Outputs of a panel.
    const NR: usize = 16 * Self::LINES;
    /// What is added to each digit of the left operand.
    const OFFSET: i32;
    /// Inputs that rows and panels are padded to with zeros. A panel's lines lie by step, within it by 16 outputs, then by input.
    const STEP: usize = <Self::Line as Line>::INPUTS;
    /// Rows that [`Kernel::tiles`] takes are a multiple of this.
    const ROWS: usize = 1;
    /// Rows whose accumulators are at hand at once, which the first-level cache should hold beside what runs by it; a multiple of `MR`.
    const PART: usize = 96;
    /// Digits of a block of rows should stay in the second-level cache, beside a panel of weights.
    const BLOCK_BYTES: usize = 192 << 10;
    /// Most rows of a block.
    const BLOCK_ROWS: usize = 96;
    /// Query rows of attention that share each panel of keys and values; a multiple of `MR`.
    const QUERIES: usize = 12;

    /// Asks for values that will be wanted after the next tiles.
    #[inline(always)]
    fn prefetch(self, _: &[i32]) {}

    /// `acc[r][o] += sum over i of a[r * stride + i] * w[i][o]` (wrapping) for `rows <= MR` rows and one panel `w` of
    /// whole steps.
    fn tile(self, a: &[Self::A], stride: usize, rows: usize, w: &[Self::Line], acc: &mut [i32]);

    /// Comes before a task's first tile, and [`Kernel::end`] after its last; in between the thread waits for no other, and so takes on no
    /// other task.
    #[inline]
    fn begin(self) {}

    /// See [`Kernel::begin`].
    #[inline]
    fn end(self) {}

    /// [`pack_row`] with the path's instructions.
    #[inline]
    fn pack(self, values: &[i16], digits: Digits, d: usize, out: &mut [Self::A]) {
        pack_row(values, digits, d, out);
    }

    /// [`Kernel::tile`] for any number of rows.
    #[inline]
    fn tiles(self, a: &[Self::A], stride: usize, rows: usize, w: &[Self::Line], acc: &mut [i32]) {
        let mut r = 0;
        while r < rows {
            let n = Self::MR.min(rows - r);
            self.tile(&a[r * stride..], stride, n, w, &mut acc[r * Self::NR..(r + n) * Self::NR]);
            r += n;
        }
    }
}

/// Digit `d` (0: low) of a value.
#[inline(always)]
pub(crate) fn digit(q: i16, digits: Digits, d: usize) -> i16 {
    match (digits, d) {
        (Digits::One, _) => q,
        (Digits::Two, 0) => q as i8 as i16,
        (Digits::Two, _) => ((q as i32 - q as i8 as i32) >> 8) as i16,
    }
}

/// A digit of the leading values of a row that `out` has room for, padded with zeros.
#[inline(always)]
pub(crate) fn pack_row<A: Left>(values: &[i16], digits: Digits, d: usize, out: &mut [A]) {
    let values = &values[..values.len().min(out.len())];
    let (body, rest) = out.split_at_mut(values.len());
    // Plain loops: a closure behind an iterator would not be compiled with the path's instructions.
    macro_rules! each {
        (|$v:ident| $digit:expr) => {
            for i in 0..body.len() {
                let $v = values[i];
                body[i] = A::from_digit($digit);
            }
        };
    }
    match (digits, d) {
        (Digits::One, _) => each!(|v| v),
        (Digits::Two, 0) => each!(|v| v as i8 as i16),
        // `q + 128` may leave 16 bits only where its digits would not be int8.
        (Digits::Two, _) => each!(|v| v.wrapping_add(128) >> 8),
    }
    rest.fill(A::from_digit(0));
}
