//! Buffers that begin with a cache line: vector loads of rows of whole lines then take no two lines each.

use std::ops::{Deref, DerefMut};

/// A fixed number of elements, the first at the beginning of a cache line.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    buffer: Vec<T>,
    /// Where they begin; the buffer is never moved.
    at: usize,
    len: usize,
}

impl<T: Copy> Aligned<T> {
    /// `len` times `value`.
    pub(crate) fn new(value: T, len: usize) -> Aligned<T> {
        let spare = 64 / size_of::<T>();
        let buffer = vec![value; len + spare];
        let at = buffer.as_ptr().align_offset(64);
        assert!(at <= spare, "elements whose size divides a cache line");
        Aligned { buffer, at, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer[self.at..self.at + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[self.at..self.at + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::Aligned;

    #[test]
    fn begins_with_a_line_and_has_its_length() {
        for len in [0, 1, 15, 16, 1000] {
            let (bytes, words) = (Aligned::new(3i8, len), Aligned::new(5i32, len));
            assert!(bytes.as_ptr().addr().is_multiple_of(64) && words.as_ptr().addr().is_multiple_of(64));
            assert_eq!((bytes.len(), words.len()), (len, len));
            assert!(bytes.iter().all(|v| *v == 3) && words.iter().all(|v| *v == 5));
        }
    }
}
