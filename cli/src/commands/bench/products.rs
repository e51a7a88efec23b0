//! Matrix products, attention and operations over rows, through the backend seam. Some rows of the answers are compared with the portable
//! definition first.

use speckv_predictor::backend::{Attention, Backend, Quantise, Rotary, Silu, Store};
use speckv_predictor::data::{Digits, Ints, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::Portable;
use speckv_predictor::work::{Work, attention_pair, gemm as multiply_adds};

use super::time::{Random, Timer};
use crate::error::{Code, Error, Result};
use crate::machine;

/// Rows that the portable loops check; the rest of the answer is the same code.
const CHECKED: usize = 4;

/// int8 multiply-adds a second of a product of one-digit operands, 1024 x 2048 x 2048, weights packed beforehand.
pub fn gemm<B: Backend>(b: &B, timer: &Timer) -> Result<f64> {
    let (tokens, out, inp) = (if timer.quick { 256 } else { 1024 }, 2048, 2048);
    let mut random = Random(1);
    let values = (0..out * inp).map(|_| random.within(127) as i16).collect();
    let scales = vec![Scale { m: 20000, e: -30 }; out];
    let weights = Weights { out, inp, digits: Digits::One, values, scales, bias: None };
    let x = noise(&mut random, tokens, inp, 1 << 24);
    let how = Quantise::rows(inp, Digits::One, 16);

    let portable = Portable::new();
    let mut want = Ints::zeros(CHECKED, out);
    let few = portable.quantise(&rows(&x, 0), &how);
    portable.gemm(&few, &portable.load(weights.clone())?, None, Store::SET, &mut want);

    let (a, w) = (b.quantise(&b.upload(x), &how), b.load(weights)?);
    let mut y = b.upload(Ints::zeros(tokens, out));
    b.gemm(&a, &w, None, Store::SET, &mut y);
    check("a product", &rows(&b.download(&y), 0), &want)?;
    let seconds = timer.median_on(b, || b.gemm(&a, &w, None, Store::SET, &mut y))?;
    Ok(tokens as f64 * multiply_adds(out, inp, 1, 1) as f64 / seconds)
}

/// int8 multiply-adds a second of causal attention of 1024 tokens from position 0, 16 query heads over 4 key and value heads, one digit.
pub fn attention<B: Backend>(b: &B, head_dim: usize, timer: &Timer) -> Result<machine::Attention> {
    let (tokens, heads, kv_heads) = (if timer.quick { 256 } else { 1024 }, 16, 4);
    let how = Attention { heads, kv_heads, head_dim, value_exponent: 0, out_exponent: 16 };
    let head = |gain| Quantise {
        group: head_dim,
        hadamard: head_dim.trailing_zeros(),
        gain,
        ..Quantise::rows(head_dim, Digits::One, 16)
    };
    // Scores of some octaves, as in models.
    let (query, plain) = (head(Scale { m: 16384, e: -18 }), head(Scale::ONE));
    let mut random = Random(2);
    let q = noise(&mut random, tokens, heads * head_dim, 1 << 18);
    let [k, v] = [18, 17].map(|bits| noise(&mut random, tokens, kv_heads * head_dim, 1 << bits));

    let (portable, last) = (Portable::new(), tokens - CHECKED);
    let few = portable.quantise(&rows(&q, last), &query);
    let [pk, pv] = [&k, &v].map(|x| portable.quantise(x, &plain));
    let want = portable.attention(&few, &pk, &pv, last, &how);

    let (q, k, v) = (
        b.quantise(&b.upload(q), &query),
        b.quantise(&b.upload(k), &plain),
        b.quantise(&b.upload(v), &plain),
    );
    let found = b.download(&b.attention(&q, &k, &v, 0, &how));
    check("attention", &rows(&found, last), &want)?;
    let seconds = timer.median_on(b, || b.attention(&q, &k, &v, 0, &how))?;
    let work = Work { per_token: 0, per_pair: attention_pair(heads, head_dim, 1) };
    Ok(machine::Attention { head_dim: head_dim as u64, rate: work.total(0, tokens as u64) as f64 / seconds })
}

/// Values a second through the operations over rows of a layer 2048 wide: digits behind a norm, heads rotated and their digits, SiLU of an MLP of 4096
/// and its digits, a sum.
pub fn rows_rate<B: Backend>(b: &B, timer: &Timer) -> Result<f64> {
    let (tokens, hidden, ffn) = (if timer.quick { 256 } else { 1024 }, 2048, 4096);
    let mut random = Random(4);
    let x = noise(&mut random, tokens, hidden, 1 << 24);
    let both = noise(&mut random, tokens, 2 * ffn, 1 << 24);
    let normed =
        Quantise { norm: Some(Scale { m: 20000, e: -31 }), ..Quantise::rows(hidden, Digits::One, 16) };
    let heads = Quantise { group: 64, hadamard: 6, ..Quantise::rows(64, Digits::One, 16) };
    let down = Quantise { hadamard: 9, ..Quantise::rows(ffn, Digits::One, 16) };
    let silu = Silu { gate: 20, up: 20, out: 20 };
    let steps: Vec<u64> = (0..32).map(|i| (u64::MAX / 7) >> i).collect();
    let rotary = Rotary { head_dim: 64, steps: &steps, start: 0, inverse: false };

    let portable = Portable::new();
    let want_turned = portable.rope(&first(&x), 0..hidden, &rotary);
    let want_gated = portable.silu(&first(&both), silu);
    let mut sum = b.upload(Ints::zeros(tokens, hidden));
    let (x, both) = (b.upload(x), b.upload(both));
    check("RoPE", &first(&b.download(&b.rope(&x, 0..hidden, &rotary))), &want_turned)?;
    check("SiLU", &first(&b.download(&b.silu(&both, silu))), &want_gated)?;
    let seconds = timer.median_on(b, || {
        let turned = b.rope(&x, 0..hidden, &rotary);
        b.add(&mut sum, 0, &turned);
        (b.quantise(&x, &normed), b.quantise(&turned, &heads), b.quantise(&b.silu(&both, silu), &down))
    })?;
    Ok((tokens * (4 * hidden + 2 * ffn)) as f64 / seconds)
}

fn first(x: &Ints) -> Ints {
    rows(x, 0)
}

fn noise(random: &mut Random, rows: usize, cols: usize, limit: i32) -> Ints {
    Ints { rows, cols, data: (0..rows * cols).map(|_| random.within(limit)).collect() }
}

/// The rows that are checked, from `first` on.
fn rows(x: &Ints, first: usize) -> Ints {
    let data = x.data[first * x.cols..(first + CHECKED) * x.cols].to_vec();
    Ints { rows: CHECKED, cols: x.cols, data }
}

fn check(what: &str, found: &Ints, want: &Ints) -> Result<()> {
    match found == want {
        true => Ok(()),
        false => Err(Error::new(
            Code::Internal,
            format!("{what} of this backend differs from its definition; this is a defect, please report it"),
        )),
    }
}
