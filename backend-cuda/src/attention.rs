//! Attention as launches of kernels.

use speckv_predictor::backend::Attention;
use speckv_predictor::data::{self, Digits};

use crate::backend::{CudaBackend, params};
use crate::buffer::{Buffer, Ints, Rows};
use crate::kernels;

/// Rows from which Hopper's own kernel pays.
const HOPPER_ROWS: usize = 64;

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
        let way = self.way(query.rows, one, how);
        let scratch = self.buffer(way.scratch(query.rows, keys.rows, how));
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
            out: out.at(),
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
            scratch: scratch.at,
        };
        let items = |rows: usize| query.rows.div_ceil(rows) * (how.heads / how.kv_heads);
        let (prepare, kernel, grid, threads) = match way {
            Way::Hopper => {
                let prepare = (&kernels::ATTENTION_PREPARE_SM90A, keys.rows.div_ceil(128));
                let grid = (items(64).div_ceil(2) * how.kv_heads, 1, 1);
                (Some(prepare), &kernels::ATTENTION_128_SM90A, grid, 256)
            }
            Way::Fast(kernel) => {
                let prepare = (&kernels::ATTENTION_PREPARE, keys.rows.div_ceil(64));
                (Some(prepare), kernel, (items(16).div_ceil(6), how.kv_heads, 1), 384)
            }
            Way::General => {
                let grid = (query.rows, how.heads, how.head_dim.div_ceil(128));
                (None, &kernels::ATTENTION_GENERAL, grid, 128)
            }
        };
        // SAFETY: the kernels' one parameter; rows are padded as they want, scratch is as large as they say.
        unsafe {
            if let Some((prepare, tiles)) = prepare {
                self.device.launch(prepare, (tiles, how.kv_heads, 1), 128, 0, params!(p));
            }
            self.device.launch(kernel, grid, threads, kernel.shared, params!(p));
        }
        out
    }

    fn way(&self, rows: usize, one: bool, how: &Attention) -> Way {
        let fits = |kernel: &kernels::Kernel| self.device.has_shared(kernel.shared);
        match how.head_dim {
            128 if one
                && self.device.hopper
                && rows >= HOPPER_ROWS
                && fits(&kernels::ATTENTION_128_SM90A) =>
            {
                Way::Hopper
            }
            128 if one && fits(&kernels::ATTENTION_128) => Way::Fast(&kernels::ATTENTION_128),
            64 if one && fits(&kernels::ATTENTION_64) => Way::Fast(&kernels::ATTENTION_64),
            _ => Way::General,
        }
    }
}

/// Which kernels answer.
enum Way {
    /// `attention_sm90a.cu`: 64 rows of one head a warpgroup.
    Hopper,
    /// `attention.cu`: 16 rows of one head a pair of warps.
    Fast(&'static kernels::Kernel),
    General,
}

impl Way {
    /// Bytes of scratch for tiles of keys and values, and for the exponents of each item of work and block.
    fn scratch(&self, rows: usize, tokens: usize, how: &Attention) -> usize {
        match self {
            Way::Hopper => {
                let tile_bytes = how.kv_heads * (32768 + 3088) + how.heads * rows.div_ceil(64) * 256;
                65536 + tokens.div_ceil(128) * tile_bytes
            }
            Way::Fast(_) => {
                let block_bytes =
                    how.kv_heads * (1040 + 64 * how.head_dim) + how.heads * rows.div_ceil(16) * 32;
                tokens.div_ceil(64).next_multiple_of(2) * block_bytes
            }
            Way::General => 0,
        }
    }
}
