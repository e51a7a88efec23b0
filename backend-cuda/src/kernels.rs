//! The kernels by name, their PTX, and their parameters as kernels/*.cu lay them out.

use speckv_predictor::fixed::Scale;

/// A kernel's name and the most dynamic shared memory it is launched with.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) shared: u32,
}

macro_rules! kernels {
    ($($constant:ident = $name:literal, $shared:expr;)*) => {
        $(pub(crate) static $constant: Kernel = Kernel { name: $name, shared: $shared };)*
    };
}

/// Rows longer than this are quantised in global memory: what the smallest cards (compute capability 8.6) have.
pub(crate) const QUANTISE_SHARED: u32 = 92 << 10;

kernels! {
    QUANTISE = "quantise", QUANTISE_SHARED;
    ACTIVATE = "activate", QUANTISE_SHARED;
    HEADS_64 = "heads_64", 0;
    HEADS_128 = "heads_128", 0;
    HEADS_256 = "heads_256", 0;
    REPEAT = "repeat", 0;
    LOOKUP = "lookup", 0;
    RMS = "rms", 0;
    HEAD_NORM = "head_norm", 0;
    ROPE = "rope", 0;
    COLUMNS = "columns", 0;
    ADD = "add", 0;
    PUT = "put", 0;
    SILU = "silu", 0;
    POWER = "power", 0;
    TOKEN_SCALE = "token_scale", 0;
    PRICE_BF16 = "price_bf16", 0;
    PRICE_F16 = "price_f16", 0;
    PRICE_E4M3 = "price_e4m3", 66560;
    PRICE_E5M2 = "price_e5m2", 93440;
    ENCODE = "encode", 0;
    DECODE_BF16 = "decode_bf16", 0;
    DECODE_F16 = "decode_f16", 0;
    DECODE_E4M3 = "decode_e4m3", 66560;
    DECODE_E5M2 = "decode_e5m2", 93440;
    HASH = "hash", 0;
    GATHER = "gather", 0;
    SCATTER = "scatter", 0;
    PLACES = "places", 0;
    PAYLOADS = "payloads", 0;
    HASH_PAYLOADS = "hash_payloads", 0;
    OBSERVE = "observe", 0;
    LEARN_64 = "learn_64", 0;
    LEARN_128 = "learn_128", 0;
    LEARN_256 = "learn_256", 0;
    VALUES = "values", 0;
    GEMM_11 = "gemm_11", 65536;
    GEMM_12 = "gemm_12", 65536;
    GEMM_21 = "gemm_21", 65536;
    GEMM_22 = "gemm_22", 65536;
    GEMM_SMALL_11 = "gemm_small_11", 49152;
    GEMM_SMALL_12 = "gemm_small_12", 73728;
    GEMM_SMALL_21 = "gemm_small_21", 73728;
    GEMM_11_SM90A = "gemm_11_sm90a", 204928;
    GEMM_12_SM90A = "gemm_12_sm90a", 200832;
    GEMM_21_SM90A = "gemm_21_sm90a", 200832;
    GEMM_22_SM90A = "gemm_22_sm90a", 200832;
    REGRESS_64 = "regress_64", 49152;
    REGRESS_128 = "regress_128", 73728;
    ATTENTION_GENERAL = "attention_general", 0;
    ATTENTION_PREPARE = "attention_prepare", 0;
    ATTENTION_64 = "attention_64", 112448;
    ATTENTION_128 = "attention_128", 155456;
    ATTENTION_PREPARE_SM90A = "attention_prepare_sm90a", 0;
    ATTENTION_128_SM90A = "attention_128_sm90a", 226304;
}

type Module = (&'static str, &'static [&'static Kernel]);

/// For every card.
pub(crate) static MODULES: [Module; 10] = [
    (
        include_str!("../ptx/rows.ptx"),
        &[&RMS, &REPEAT, &LOOKUP, &HEAD_NORM, &ROPE, &COLUMNS, &ADD, &PUT, &SILU, &POWER, &TOKEN_SCALE],
    ),
    (include_str!("../ptx/quantise.ptx"), &[&QUANTISE, &ACTIVATE, &HEADS_64, &HEADS_128, &HEADS_256]),
    (
        include_str!("../ptx/coder.ptx"),
        &[
            &PRICE_BF16,
            &PRICE_F16,
            &PRICE_E4M3,
            &PRICE_E5M2,
            &ENCODE,
            &DECODE_BF16,
            &DECODE_F16,
            &DECODE_E4M3,
            &DECODE_E5M2,
        ],
    ),
    (include_str!("../ptx/observe.ptx"), &[&OBSERVE, &LEARN_64, &LEARN_128, &LEARN_256, &VALUES]),
    (include_str!("../ptx/hash.ptx"), &[&HASH]),
    (include_str!("../ptx/layout.ptx"), &[&GATHER, &SCATTER]),
    (include_str!("../ptx/payload.ptx"), &[&PLACES, &PAYLOADS, &HASH_PAYLOADS]),
    (
        include_str!("../ptx/gemm.ptx"),
        &[&GEMM_11, &GEMM_12, &GEMM_21, &GEMM_22, &GEMM_SMALL_11, &GEMM_SMALL_12, &GEMM_SMALL_21],
    ),
    (include_str!("../ptx/regress.ptx"), &[&REGRESS_64, &REGRESS_128]),
    (
        include_str!("../ptx/attention.ptx"),
        &[&ATTENTION_GENERAL, &ATTENTION_PREPARE, &ATTENTION_64, &ATTENTION_128],
    ),
];
/// For compute capability 9.0.
pub(crate) static HOPPER: [Module; 2] = [
    (
        include_str!("../ptx/gemm_sm90a.ptx"),
        &[&GEMM_11_SM90A, &GEMM_12_SM90A, &GEMM_21_SM90A, &GEMM_22_SM90A],
    ),
    (include_str!("../ptx/attention_sm90a.ptx"), &[&ATTENTION_PREPARE_SM90A, &ATTENTION_128_SM90A]),
];

/// A scale as kernels read it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawScale {
    pub(crate) m: i16,
    pub(crate) e: i16,
}

impl From<Scale> for RawScale {
    fn from(s: Scale) -> Self {
        RawScale { m: s.m, e: s.e }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) sine: u64,
    pub(crate) exp2: u64,
    pub(crate) logistic: u64,
    pub(crate) log2: u64,
    pub(crate) shrink: u64,
}

/// Where digits go.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawDigits {
    pub(crate) lo: u64,
    pub(crate) hi: u64,
    pub(crate) scales: u64,
    pub(crate) ld: u32,
    pub(crate) groups: u32,
    pub(crate) two: u32,
    pub(crate) exponent: i32,
    pub(crate) gain: RawScale,
    pub(crate) padding: u32,
}

#[repr(C)]
pub(crate) struct Quantise {
    pub(crate) x: u64,
    pub(crate) scratch: u64,
    pub(crate) d: RawDigits,
    pub(crate) cols: u32,
    pub(crate) group: u32,
    pub(crate) hadamard: u32,
    pub(crate) wide: u32,
    pub(crate) rows: u32,
    pub(crate) room: u32,
    pub(crate) eps: RawScale,
    pub(crate) norm: u32,
    pub(crate) gate: i32,
    pub(crate) up: i32,
    pub(crate) out: i32,
    pub(crate) logistic: u64,
}

#[repr(C)]
pub(crate) struct Heads {
    pub(crate) x: u64,
    pub(crate) d: RawDigits,
    pub(crate) weight: u64,
    pub(crate) steps: u64,
    pub(crate) sine: u64,
    pub(crate) start: u64,
    pub(crate) cols: u32,
    pub(crate) column: u32,
    pub(crate) rows: u32,
    pub(crate) hadamard: u32,
    pub(crate) inverse: u32,
    pub(crate) exponent: i32,
    pub(crate) eps: RawScale,
    pub(crate) each: u32,
}

#[repr(C)]
pub(crate) struct Rope {
    pub(crate) x: u64,
    pub(crate) out: u64,
    pub(crate) steps: u64,
    pub(crate) sine: u64,
    pub(crate) start: u64,
    pub(crate) cols: u32,
    pub(crate) column: u32,
    pub(crate) width: u32,
    pub(crate) dim: u32,
    pub(crate) inverse: u32,
}

/// Features of one launch.
pub(crate) const FEATURES: usize = 64;

#[repr(C)]
pub(crate) struct TokenScale {
    pub(crate) feature: [u64; FEATURES],
    pub(crate) weight: [i32; FEATURES],
    pub(crate) bias: i64,
    pub(crate) partial: u64,
    pub(crate) out: u64,
    pub(crate) count: u32,
    pub(crate) rows: u32,
    pub(crate) first: u32,
}

#[repr(C)]
pub(crate) struct Gemm {
    pub(crate) a_lo: u64,
    pub(crate) a_hi: u64,
    pub(crate) a_scale: u64,
    pub(crate) factor: u64,
    pub(crate) w_lo: u64,
    pub(crate) w_hi: u64,
    pub(crate) w_scale: u64,
    pub(crate) bias: u64,
    pub(crate) c: u64,
    pub(crate) rows: u32,
    pub(crate) out: u32,
    pub(crate) lda: u32,
    pub(crate) ldc: u32,
    pub(crate) column: u32,
    pub(crate) shift: u32,
    pub(crate) add: u32,
    pub(crate) wide: u32,
}

/// Products of one launch of a plane's prediction.
pub(crate) const TERMS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Term {
    pub(crate) a_lo: u64,
    pub(crate) a_hi: u64,
    pub(crate) a_scale: u64,
    pub(crate) w: u64,
    pub(crate) w_scale: u64,
    pub(crate) shift: u32,
    pub(crate) padding: u32,
}

#[repr(C)]
pub(crate) struct Regress {
    pub(crate) x: u64,
    pub(crate) out: u64,
    pub(crate) steps: u64,
    pub(crate) sine: u64,
    pub(crate) start: u64,
    pub(crate) rows: u32,
    pub(crate) ld: u32,
    pub(crate) count: u32,
    pub(crate) inverse: u32,
    pub(crate) terms: [Term; TERMS],
}

#[repr(C)]
pub(crate) struct Attention {
    pub(crate) q_lo: u64,
    pub(crate) q_hi: u64,
    pub(crate) q_scale: u64,
    pub(crate) k_lo: u64,
    pub(crate) k_hi: u64,
    pub(crate) k_scale: u64,
    pub(crate) v_lo: u64,
    pub(crate) v_hi: u64,
    pub(crate) v_scale: u64,
    pub(crate) out: u64,
    pub(crate) tables: Tables,
    pub(crate) rows: u32,
    pub(crate) tokens: u32,
    pub(crate) start: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) q_ld: u32,
    pub(crate) kv_ld: u32,
    pub(crate) shift: i32,
    pub(crate) value_exponent: i32,
    pub(crate) out_exponent: i32,
    pub(crate) scratch: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) w: i32,
    pub(crate) mb: i32,
    pub(crate) bias: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Pricing {
    pub(crate) mu: u64,
    pub(crate) token: u64,
    pub(crate) channel: u64,
    pub(crate) shape: u64,
    pub(crate) grid: u64,
    pub(crate) format: Format,
    pub(crate) exponent: i32,
    pub(crate) cols: u32,
    pub(crate) escape: u32,
    pub(crate) unit_recip: i32,
}

#[repr(C)]
pub(crate) struct Price {
    pub(crate) p: Pricing,
    pub(crate) codes: u64,
    pub(crate) symbols: u64,
    pub(crate) cost: u64,
    pub(crate) bad: u64,
    pub(crate) log2: u64,
    pub(crate) rows: u64,
    pub(crate) chunks: u32,
    pub(crate) pieces: u32,
    pub(crate) piece: u32,
}

/// Bytes of what the lanes of a chunk leave.
pub(crate) const ENCODE_CHUNK: usize = 160;

#[repr(C)]
pub(crate) struct Encode {
    pub(crate) chunks: u64,
    pub(crate) rows: u64,
    pub(crate) bounds: u64,
    pub(crate) room: u64,
    pub(crate) planes: u64,
    pub(crate) cols: u32,
    pub(crate) count: u32,
    pub(crate) width: u32,
    pub(crate) all: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

#[repr(C)]
pub(crate) struct Payloads {
    pub(crate) chunks: u64,
    pub(crate) cost: u64,
    pub(crate) ids: u64,
    pub(crate) ids_at: u64,
    pub(crate) pieces: u64,
    pub(crate) out: u64,
    pub(crate) sums: u64,
    pub(crate) planes: u32,
    pub(crate) width: u32,
    pub(crate) count: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PlaneSymbols {
    pub(crate) symbols: u64,
    pub(crate) codes: u64,
    pub(crate) cost: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DecodeChunk {
    pub(crate) words: u64,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) at: u64,
    pub(crate) states: [u32; 32],
    pub(crate) failed: u32,
    pub(crate) plane: u32,
    pub(crate) found: u64,
    pub(crate) offset: u64,
}

#[repr(C)]
pub(crate) struct Decode {
    pub(crate) p: Pricing,
    pub(crate) codes: u64,
    pub(crate) chunks: u64,
    pub(crate) modes: u64,
    pub(crate) plane: u32,
    pub(crate) count: u32,
    pub(crate) warps: u32,
}

/// Planes of one launch.
pub(crate) const HASHED: usize = 64;

#[repr(C)]
pub(crate) struct Hash {
    pub(crate) codes: [u64; HASHED],
    pub(crate) cols: [u32; HASHED],
    pub(crate) rows: u64,
    pub(crate) out: u64,
    pub(crate) planes: u32,
    pub(crate) chunks: u32,
    pub(crate) width: u32,
}

#[repr(C)]
pub(crate) struct Observe {
    pub(crate) p: Pricing,
    pub(crate) codes: u64,
    pub(crate) value: u64,
    pub(crate) innovation: u64,
    pub(crate) energy: u64,
    pub(crate) log2: u64,
    pub(crate) shrink: u64,
    pub(crate) unit_m: u32,
    pub(crate) unit_e: i32,
    pub(crate) exponent: i32,
    pub(crate) rows: u32,
}

#[repr(C)]
pub(crate) struct Learn {
    pub(crate) o: Observe,
    pub(crate) steps: u64,
    pub(crate) sine: u64,
    pub(crate) start: u64,
    pub(crate) d: RawDigits,
    pub(crate) ld: u32,
    pub(crate) inverse: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) base: u64,
    pub(crate) pages: u64,
    pub(crate) page_stride: u64,
    pub(crate) token_stride: u64,
    pub(crate) head_stride: u64,
    pub(crate) page_tokens: u32,
    pub(crate) width: u32,
}

// As the kernels' own sources assert.
const _: () = {
    assert!(size_of::<RawDigits>() == 48 && size_of::<Quantise>() == 120 && size_of::<Heads>() == 120);
    assert!(
        size_of::<Term>() == 48
            && size_of::<Regress>() == 56 + 48 * TERMS
            && size_of::<Learn>() == 216
            && size_of::<Rope>() == 64
            && size_of::<TokenScale>() == 808
    );
    assert!(size_of::<Gemm>() == 104 && size_of::<Attention>() == 176);
    assert!(size_of::<Price>() == 136 && size_of::<Encode>() == 56 && size_of::<PlaneSymbols>() == 24);
    assert!(size_of::<Piece>() == 16 && size_of::<Payloads>() == 72);
    assert!(size_of::<Hash>() == 800 && size_of::<Strided>() == 48);
    assert!(size_of::<DecodeChunk>() == 192 && size_of::<Decode>() == 112 && size_of::<Observe>() == 136);
};

#[cfg(test)]
mod tests {
    use speckv_predictor::core::limits::INV;

    #[test]
    fn the_kernels_mantissas_are_those_of_the_format() {
        let (_, rest) =
            include_str!("../kernels/observe.cu").split_once("i32 INV[16] = {").expect("the array");
        let (numbers, _) = rest.split_once('}').expect("its end");
        let found: Vec<i32> = numbers.split(',').map(|n| n.trim().parse().expect("a number")).collect();
        assert_eq!(found, INV);
    }
}
