//! Buffers that begin with a cache line: vector loads of rows of whole lines then take no two lines each.

use std::ops::{Deref, DerefMut};

/// A number of elements, the first at the beginning of a cache line.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    buffer: Vec<T>,
    /// Where they begin; the buffer is never moved.
    at: usize,
    len: usize,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Aligned { buffer: Vec::new(), at: 0, len: 0 }
    }
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

impl<T: Copy + Default> Aligned<T> {
    /// The first `len` elements, whatever they are; fresh ones if there are fewer.
    pub(crate) fn room(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            // Not beside the old ones.
            *self = Aligned::default();
            *self = Aligned::new(T::default(), len);
        }
        &mut self[..len]
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

    #[test]
    fn room_grows_and_is_kept() {
        let mut buffer = Aligned::default();
        assert_eq!(buffer.room(0), &[0i16; 0]);
        buffer.room(100).fill(7);
        assert_eq!(buffer.room(40), [7; 40]);
        assert_eq!(buffer.room(101), [0; 101]);
        assert!(buffer.as_ptr().addr().is_multiple_of(64));
    }
}
