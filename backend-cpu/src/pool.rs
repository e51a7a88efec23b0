//! Matrices that are needed no more, for those that are needed next: fresh memory would be zeroed, and mapped page by page, for every operation.

use std::sync::Mutex;

use speckv_predictor::data::Ints;

/// Buffers worth keeping have at least so many elements.
const LEAST: usize = 4096;
/// Buffers that are kept; more than a layer has matrices.
const MOST: usize = 24;

/// Buffers at rest. What is in them is left from before.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    // In the order in which they came.
    ints: Mutex<Vec<Vec<i32>>>,
    words: Mutex<Vec<Vec<i16>>>,
}

/// A buffer of `len` elements: the smallest that has room for them, or a new one.
fn take<T: Copy + Default>(pool: &Mutex<Vec<Vec<T>>>, len: usize) -> Vec<T> {
    let found = if len < LEAST {
        None
    } else {
        let mut pool = pool.lock().unwrap_or_else(|broken| broken.into_inner());
        // One much too large would be missed elsewhere.
        let fits = pool.iter().enumerate().filter(|(_, b)| (len..=4 * len).contains(&b.capacity()));
        let best = fits.min_by_key(|(_, b)| b.capacity()).map(|(i, _)| i);
        best.map(|i| pool.remove(i))
    };
    match found {
        Some(mut buffer) => {
            buffer.resize(len, T::default());
            buffer
        }
        None => vec![T::default(); len],
    }
}

fn keep<T>(pool: &Mutex<Vec<Vec<T>>>, buffer: Vec<T>) {
    if buffer.capacity() >= LEAST {
        let mut pool = pool.lock().unwrap_or_else(|broken| broken.into_inner());
        if pool.len() == MOST {
            // Sizes have changed: the oldest go.
            pool.drain(..MOST / 2);
        }
        pool.push(buffer);
    }
}

impl Pool {
    /// A matrix whose every value is to be set.
    pub(crate) fn matrix(&self, rows: usize, cols: usize) -> Ints {
        Ints { rows, cols, data: take(&self.ints, rows * cols) }
    }

    /// Takes a matrix back.
    pub(crate) fn keep(&self, x: Ints) {
        keep(&self.ints, x.data);
    }

    /// Digits, all of which are to be set.
    pub(crate) fn words(&self, len: usize) -> Vec<i16> {
        take(&self.words, len)
    }

    /// Takes digits back.
    pub(crate) fn keep_words(&self, words: Vec<i16>) {
        keep(&self.words, words);
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAST, MOST, Pool};

    #[test]
    fn what_was_given_comes_back_and_small_or_large_ones_do_not() {
        let pool = Pool::default();
        let mut x = pool.matrix(8, LEAST);
        x.data.fill(7);
        let at = x.data.as_ptr();
        pool.keep(x);
        assert_ne!(pool.matrix(1, LEAST).data.as_ptr(), at, "eight times too large");
        assert_eq!(pool.matrix(1, 1).data, [0], "too small to ask for");
        let again = pool.matrix(4, LEAST);
        assert_eq!(again.data.as_ptr(), at);
        assert_eq!(again.data, vec![7; 4 * LEAST]);
        assert_ne!(pool.matrix(4, LEAST).data.as_ptr(), at, "it is in use");
        pool.keep(again);
        let grown = pool.matrix(8, LEAST);
        assert_eq!((grown.data[0], grown.data[8 * LEAST - 1]), (7, 0));
    }

    #[test]
    fn no_more_are_kept_than_should_be() {
        let pool = Pool::default();
        let words: Vec<_> = (0..3 * MOST).map(|_| pool.words(LEAST)).collect();
        words.into_iter().for_each(|w| pool.keep_words(w));
        assert!(pool.words.lock().unwrap().len() <= MOST);
    }
}
