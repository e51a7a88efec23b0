//! The path that every CPU has: plain loops over the 16-bit panels, for the compiler's baseline instructions.

use crate::kernel::{Kernel, Line16};

/// The scalar path; needs no proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Kernel for Scalar {
    type A = i16;
    type Line = Line16;
    const MR: usize = 2;
    const LINES: usize = 1;
    const OFFSET: i32 = 0;

    fn tile(self, a: &[i16], stride: usize, rows: usize, w: &[Line16], acc: &mut [i32]) {
        match rows {
            2 => tile::<2>(a, stride, w, acc),
            _ => (0..rows).for_each(|r| tile::<1>(&a[r * stride..], stride, w, &mut acc[r * 16..])),
        }
    }
}

fn tile<const M: usize>(a: &[i16], stride: usize, w: &[Line16], acc: &mut [i32]) {
    let rows: [&[[i16; 2]]; M] = core::array::from_fn(|r| &a[r * stride..].as_chunks().0[..w.len()]);
    let mut sums = [[0i32; 16]; M];
    for (g, line) in w.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let [x, y] = row[g];
            for (s, w) in sums.iter_mut().zip(line.0.as_chunks::<2>().0) {
                let (a, b) = (x as i32 * w[0] as i32, y as i32 * w[1] as i32);
                *s = s.wrapping_add(a.wrapping_add(b));
            }
        }
    }
    for (acc, sums) in acc.as_chunks_mut::<16>().0.iter_mut().zip(&sums) {
        acc.iter_mut().zip(sums).for_each(|(a, s)| *a = a.wrapping_add(*s));
    }
}
