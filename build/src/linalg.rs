//! Dense linear algebra for fitting, over `faer`: row-major `f32` data, `f64` solves.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

/// Makes factorisations run on one thread: `faer`'s parallel ones sum per thread, so that their last bits (and with them a profile's digest)
/// would depend on the number of threads. Products are not affected and stay parallel.
pub fn repeatable() {
    faer::set_global_parallelism(Par::Seq);
}

/// `a[m, k] * b[k, n]`, row-major.
pub fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    let view = MatMut::from_row_major_slice_mut(&mut out, m, n);
    let (a, b) = (MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n));
    matmul(view, Accum::Replace, a, b, 1.0, Par::rayon(0));
    out
}

/// Sums `x^T y` over rows added in batches: `x` has `p` columns, `y` has `q`.
pub struct Moments {
    p: usize,
    q: usize,
    sum: Vec<f64>,
}

impl Moments {
    /// Zero.
    pub fn new(p: usize, q: usize) -> Moments {
        Moments { p, q, sum: vec![0.0; p * q] }
    }

    /// Adds rows; single-precision products over at most 4096 rows at a time keep the error below that of the data.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let rows = x.len().checked_div(self.p).unwrap_or(0);
        let mut part = vec![0.0f32; self.p * self.q];
        for at in (0..rows).step_by(4096) {
            let end = (at + 4096).min(rows);
            let x = MatRef::from_row_major_slice(&x[at * self.p..end * self.p], end - at, self.p);
            let y = MatRef::from_row_major_slice(&y[at * self.q..end * self.q], end - at, self.q);
            let out = MatMut::from_row_major_slice_mut(&mut part, self.p, self.q);
            matmul(out, Accum::Replace, x.transpose(), y, 1.0, Par::rayon(0));
            self.sum.iter_mut().zip(&part).for_each(|(s, v)| *s += *v as f64);
        }
    }

    /// The sums, row-major `[p, q]`.
    pub fn sum(&self) -> &[f64] {
        &self.sum
    }
}

/// Ridge regression weights `[q, p]` (row-major, one row an output) from `x^T x` `[p, p]` and `x^T y` `[p, q]`; `lambda` relative to the mean diagonal.
/// `None` if the moments are not finite.
pub fn ridge(xx: &[f64], xy: &[f64], p: usize, q: usize, lambda: f64) -> Option<Vec<f32>> {
    let trace: f64 = (0..p).map(|i| xx[i * p + i]).sum();
    let load = (lambda * trace / p as f64).max(f64::MIN_POSITIVE);
    let a = Mat::from_fn(p, p, |i, j| xx[i * p + j] + if i == j { load } else { 0.0 });
    let b = Mat::from_fn(p, q, |i, j| xy[i * q + j]);
    let w = a.llt(Side::Lower).ok()?.solve(&b);
    let out: Vec<f32> =
        (0..q).flat_map(|o| (0..p).map(move |i| (o, i))).map(|(o, i)| w[(i, o)] as f32).collect();
    out.iter().all(|v| v.is_finite()).then_some(out)
}

/// Upper Cholesky factor `U` of the inverse of a symmetric positive matrix, `inverse = U^T U`, row-major `[n, n]`.
pub fn inverse_factor(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let a = Mat::from_fn(n, n, |i, j| a[i * n + j]);
    let inverse = a.llt(Side::Lower).ok()?.solve(Mat::<f64>::identity(n, n));
    let l = inverse.llt(Side::Lower).ok()?;
    let l = l.L();
    Some(
        (0..n)
            .flat_map(|i| (0..n).map(move |j| (i, j)))
            .map(|(i, j)| if j >= i { l[(j, i)] } else { 0.0 })
            .collect(),
    )
}

/// A random orthogonal matrix `[n, n]` from a seed: Q of a Gaussian matrix. The same on every machine up to rounding.
pub fn orthogonal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed);
    let gauss = Mat::from_fn(n, n, |_, _| rng.gauss());
    let q = gauss.qr().compute_Q();
    (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| q[(i, j)] as f32).collect()
}

/// An orthogonal basis `[n, n]` (columns): the `top` principal directions of symmetric `moments`, then a random basis of the rest.
pub fn principal(moments: &[f64], n: usize, top: usize, seed: u64) -> Option<Vec<f32>> {
    let a = Mat::from_fn(n, n, |i, j| moments[i * n + j]);
    let eigen = a.self_adjoint_eigen(Side::Lower).ok()?;
    let vectors = eigen.U(); // ascending eigenvalues
    let mix = orthogonal(n - top, seed);
    let rest: Vec<f32> =
        (0..n).flat_map(|i| (0..n - top).map(move |j| (i, j))).map(|(i, j)| vectors[(i, j)] as f32).collect();
    let rest = product(&rest, &mix, n, n - top, n - top);
    let out: Vec<f32> = (0..n)
        .flat_map(|i| {
            let lead = (0..top).map(move |j| vectors[(i, n - 1 - j)] as f32);
            lead.chain(rest[i * (n - top)..(i + 1) * (n - top)].iter().copied()).collect::<Vec<_>>()
        })
        .collect();
    out.iter().all(|v| v.is_finite()).then_some(out)
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    /// Next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn gauss(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_recovers_a_linear_map() {
        let (p, q, rows) = (5, 2, 400);
        let mut rng = Rng(1);
        let w: Vec<f64> = (0..p * q).map(|_| rng.gauss()).collect();
        let x: Vec<f32> = (0..rows * p).map(|_| rng.gauss() as f32).collect();
        let y: Vec<f32> = (0..rows * q)
            .map(|i| (0..p).map(|k| x[i / q * p + k] as f64 * w[(i % q) * p + k]).sum::<f64>() as f32)
            .collect();
        let (mut xx, mut xy) = (Moments::new(p, p), Moments::new(p, q));
        xx.add(&x, &x);
        xy.add(&x, &y);
        let got = ridge(xx.sum(), xy.sum(), p, q, 1e-9).unwrap();
        assert!(got.iter().zip(&w).all(|(g, w)| (*g as f64 - w).abs() < 1e-4), "{got:?} {w:?}");
    }

    #[test]
    fn rotations_are_orthogonal_and_repeatable() {
        let n = 24;
        let r = orthogonal(n, 7);
        let t: Vec<f32> = (0..n * n).map(|i| r[i % n * n + i / n]).collect();
        let one = product(&r, &t, n, n, n);
        assert!((0..n * n).all(|i| (one[i] - if i / n == i % n { 1.0 } else { 0.0 }).abs() < 1e-5));
        assert_eq!(r, orthogonal(n, 7));
        assert_ne!(r, orthogonal(n, 8));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        repeatable();
        let n = 640; // large enough for faer to go parallel if it may
        let mut rng = Rng(4);
        let x: Vec<f32> = (0..700 * n).map(|_| rng.gauss() as f32).collect();
        let run = |threads| {
            let pool = faer_pool(threads);
            pool.install(|| {
                let mut m = Moments::new(n, n);
                m.add(&x, &x);
                let basis = principal(m.sum(), n, 8, 1).unwrap();
                let ridge = ridge(m.sum(), &m.sum()[..n * 4], n, 4, 1e-3).unwrap();
                let factor = inverse_factor(m.sum(), n).unwrap();
                (basis, ridge, factor, product(&x, &x[..n * n], 700, n, n))
            })
        };
        assert!(run(1) == run(2));
    }

    fn faer_pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn inverse_factor_multiplies_back() {
        let n = 6;
        let mut rng = Rng(3);
        let x: Vec<f64> = (0..40 * n).map(|_| rng.gauss()).collect();
        let a: Vec<f64> =
            (0..n * n).map(|i| (0..40).map(|t| x[t * n + i / n] * x[t * n + i % n]).sum()).collect();
        let u = inverse_factor(&a, n).unwrap();
        for i in 0..n {
            for j in 0..n {
                // a * (u^T u) = 1
                let v: f64 = (0..n)
                    .map(|k| a[i * n + k] * (0..n).map(|m| u[m * n + k] * u[m * n + j]).sum::<f64>())
                    .sum();
                assert!((v - if i == j { 1.0 } else { 0.0 }).abs() < 1e-9);
            }
        }
    }
}
