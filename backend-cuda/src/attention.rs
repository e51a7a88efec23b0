//! Attention as launches of kernels.

use speckv_predictor::backend::Attention;
use speckv_predictor::data::{self, Digits};

use crate::backend::{CudaBackend, params};
use crate::buffer::{Buffer, Ints, Rows};
use crate::kernels;

impl CudaBackend {
    /// Of every query row `t` over the keys and values `0..=start + t`.
    pub(crate) fn attend(
        &self,
        query: &Rows,
        keys: &Rows,
        values: &Rows,
        start: usize,
        how: &Attention,
    ) -> Ints {
        assert!(
            start + query.rows <= keys.rows && keys.rows == values.rows,
            "keys and values up to each query"
        );
        assert_eq!(query.cols, how.heads * how.head_dim, "columns of queries");
        assert_eq!([keys.cols, values.cols], [how.kv_heads * how.head_dim; 2], "columns of keys and values");
        let out = self.ints(query.rows, query.cols);
        let one = [query, keys, values].iter().all(|r| r.digits == Digits::One);
        let fast = match how.head_dim {
            64 if one => Some(&kernels::ATTENTION_64),
            128 if one => Some(&kernels::ATTENTION_128),
            _ => None,
        };
        let fast = fast.filter(|kernel| self.device.has_shared(kernel.shared));
        // Items of work: 16 rows of one head. Scratch holds tiles of keys and values, and the exponents of each item and block.
        let (blocks, tiles) = (keys.rows.div_ceil(64), query.rows.div_ceil(16));
        let block_bytes = how.kv_heads * (1040 + 64 * how.head_dim) + how.heads * tiles * 32;
        let scratch = fast.map(|_| self.buffer(blocks.next_multiple_of(2) * block_bytes));
        let digit = |r: &Option<Buffer>| r.as_ref().map_or(0, |b| b.at);
        let p = kernels::Attention {
            q_lo: query.lo.at,
            q_hi: digit(&query.hi),
            q_scale: query.scales.at,
            k_lo: keys.lo.at,
            k_hi: digit(&keys.hi),
            k_scale: keys.scales.at,
            v_lo: values.lo.at,
            v_hi: digit(&values.hi),
            v_scale: values.scales.at,
            out: out.buffer.at,
            tables: self.tables(),
            rows: query.rows as u32,
            tokens: keys.rows as u32,
            start: start as u32,
            heads: how.heads as u32,
            kv_heads: how.kv_heads as u32,
            head_dim: how.head_dim as u32,
            q_ld: query.ld() as u32,
            kv_ld: keys.ld() as u32,
            shift: data::product_shift(how.head_dim, query.digits, keys.digits) as i32,
            value_exponent: how.value_exponent,
            out_exponent: how.out_exponent,
            scratch: scratch.as_ref().map_or(0, |s| s.at),
        };
        // SAFETY: the kernels' one parameter; rows are padded as they want, scratch is as large as they say.
        unsafe {
            match fast {
                Some(kernel) => {
                    let prepare = (blocks, how.kv_heads, 1);
                    self.device.launch(&kernels::ATTENTION_PREPARE, prepare, 128, 0, params!(p));
                    let items = tiles * (how.heads / how.kv_heads);
                    let grid = (items.div_ceil(6), how.kv_heads, 1);
                    self.device.launch(kernel, grid, 384, kernel.shared, params!(p));
                }
                None => {
                    let grid = (query.rows, how.heads, how.head_dim.div_ceil(128));
                    self.device.launch(&kernels::ATTENTION_GENERAL, grid, 128, 0, params!(p));
                }
            }
        }
        out
    }
}
