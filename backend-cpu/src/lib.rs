//! speckv's integer operations on CPUs, with the widest instructions that the machine at hand has, on all threads of rayon's current pool.
//!
//! [`CpuBackend`] implements [`Backend`] and answers every operation bit for bit as
//! [`Portable`], the definition, whatever the path and the number of threads.
//!
//! ```
//! use speckv_backend_cpu::{CpuBackend, Path};
//! use speckv_predictor::Backend;
//!
//! let cpu = CpuBackend::best();
//! assert!(cpu.name().starts_with("cpu/"));
//! assert_eq!(CpuBackend::forced(Path::Scalar).unwrap().name(), "cpu/scalar");
//! ```

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod aligned;
mod attention;
mod coder;
mod coding;
mod dispatch;
mod gemm;
mod kernel;
mod local;
mod panels;
mod path;
mod pool;
mod rows;
mod scalar;
mod vector;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::ops::Range;
use std::sync::Arc;

use speckv_predictor::backend::{
    self, Attention, Backend, HeadNorm, Keep, Mlp, Observed, Pricing, Quantise, Rotary, Seen, Silu, Store,
    Unit,
};
use speckv_predictor::core::{Chunk, ElementFormat};
use speckv_predictor::data::{self, ChunkDecoders, ChunkEncoders, Ints, Rows, Weights};
use speckv_predictor::fixed::Scale;
use speckv_predictor::portable::Portable;

use coder::observe::Observer;
use dispatch::dispatch;
use gemm::Source;
use path::Isa;
pub use path::{Error, Path, VARIABLE};
use pool::Pool;
use rows::Teacher;
use vector::{Exp2, Steps};
pub use weights::Matrix;

/// The operations on this machine's CPU. A value is the proof that its path can run here.
#[derive(Clone, Debug)]
pub struct CpuBackend {
    isa: Isa,
    name: String,
    portable: Portable,
    pool: Arc<Pool>,
    observer: Observer,
    exp2: Exp2,
    sine: Steps<4096>,
    logistic: Steps<2048>,
}

impl CpuBackend {
    /// The fastest path that this CPU can run.
    pub fn best() -> CpuBackend {
        let best = Path::ALL.into_iter().rfind(|p| p.is_available()).unwrap_or(Path::Scalar);
        CpuBackend::forced(best).expect("an available path")
    }

    /// The named path, or what this CPU lacks for it.
    pub fn forced(path: Path) -> Result<CpuBackend, Error> {
        let portable = Portable::new();
        let observer = Observer::new(portable.tables(), portable.shrink());
        let tables = portable.tables();
        Ok(CpuBackend {
            isa: Isa::new(path)?,
            name: format!("cpu/{path}"),
            pool: Arc::default(),
            observer,
            exp2: Exp2::new(tables),
            sine: Steps::new(&tables.sine),
            logistic: Steps::new(&tables.logistic),
            portable,
        })
    }

    /// The path that the environment variable [`VARIABLE`] names; [`CpuBackend::best`] if it is not set.
    pub fn from_env() -> Result<CpuBackend, Error> {
        path::from_env()?.map_or_else(|| Ok(CpuBackend::best()), CpuBackend::forced)
    }

    fn teacher<C>(&self, coder: C) -> Teacher<'_, C> {
        let (observer, portable, pool) = (&self.observer, &self.portable, &*self.pool);
        Teacher { coder, observer, portable, pool }
    }

    /// The path that answers.
    pub fn path(&self) -> Path {
        self.isa.path()
    }
}

impl Backend for CpuBackend {
    type Ints = Ints;
    type Rows = Rows;
    type Matrix = Matrix;
    type Scales = Vec<Scale>;
    type Codes = Vec<u16>;
    type Encoder = ChunkEncoders;
    type Decoder<'s> = ChunkDecoders<'s>;

    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, weights: Weights) -> Result<Matrix, speckv_predictor::Error> {
        dispatch!(self.isa, |kernel| weights::load(kernel, weights))
    }

    fn upload(&self, x: Ints) -> Ints {
        x
    }

    fn room(&self, rows: usize, cols: usize) -> Ints {
        self.pool.matrix(rows, cols)
    }

    fn reuse(&self, x: Ints) {
        self.pool.keep(x);
    }

    fn reuse_rows(&self, rows: Rows) {
        self.pool.keep_words(rows.values);
    }

    fn repeat(&self, row: &[i32], rows: usize) -> Ints {
        rows::build(&self.pool, rows, row.len(), row.len(), |_, out| out.copy_from_slice(row))
    }

    fn download(&self, x: &Ints) -> Ints {
        x.clone()
    }

    fn size(&self, x: &Ints) -> usize {
        x.data.len()
    }

    fn upload_codes(&self, codes: Vec<u16>) -> Vec<u16> {
        codes
    }

    fn download_codes(&self, codes: &Vec<u16>) -> Vec<u16> {
        codes.clone()
    }

    fn count(&self, codes: &Vec<u16>) -> usize {
        codes.len()
    }

    fn upload_scales(&self, scales: Vec<Scale>) -> Vec<Scale> {
        scales
    }

    fn download_scales(&self, scales: &Vec<Scale>) -> Vec<Scale> {
        scales.clone()
    }

    fn download_rows(&self, rows: &Rows) -> Option<Rows> {
        Some(rows.clone())
    }

    fn quantise(&self, x: &Ints, how: &Quantise) -> Rows {
        dispatch!(self.isa, |_kernel, wide| rows::quantise(wide, &self.pool, x, how))
    }

    fn rms(&self, x: &Ints, exponent: i32, eps: Scale) -> Vec<Scale> {
        dispatch!(self.isa, |kernel| rows::rms(kernel, x, exponent, eps))
    }

    fn gemm(&self, a: &Rows, w: &Matrix, factor: Option<&Vec<Scale>>, store: Store, out: &mut Ints) {
        let factor = factor.map(Vec::as_slice);
        dispatch!(self.isa, |kernel| gemm::run(kernel, Source::Rows(a), a.rows, w, factor, store, out))
    }

    fn product(
        &self,
        x: &Ints,
        how: &Quantise,
        w: &Matrix,
        factor: Option<&Vec<Scale>>,
        store: Store,
        out: &mut Ints,
    ) {
        let factor = factor.map(Vec::as_slice);
        let source = Source::Values(&x.data, how);
        dispatch!(self.isa, |kernel| gemm::run(kernel, source, x.rows, w, factor, store, out))
    }

    fn feed_forward(&self, x: &mut Ints, mlp: &Mlp<'_, Matrix>, rows: usize) {
        assert_eq!(rows, x.rows, "an MLP of all rows");
        let done = dispatch!(self.isa, |kernel| gemm::feed_forward(kernel, &self.logistic, x, mlp));
        if done.is_none() {
            backend::feed_forward_in_steps(self, x, mlp, rows);
        }
    }

    fn head_norm(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    ) {
        rows::head_norm(x, columns, exponent, eps, weight);
    }

    fn rope(&self, x: &Ints, columns: Range<usize>, rotary: &Rotary) -> Ints {
        dispatch!(self.isa, |kernel| rows::rope(kernel, &self.pool, &self.sine, x, columns, rotary))
    }

    fn heads(
        &self,
        x: &mut Ints,
        columns: Range<usize>,
        norm: Option<&HeadNorm>,
        rotary: &Rotary,
        how: &Quantise,
    ) -> Rows {
        let (pool, sine) = (&*self.pool, &self.sine);
        dispatch!(self.isa, |_kernel, wide| rows::heads(wide, pool, sine, x, columns, norm, rotary, how))
    }

    fn columns(&self, x: &Ints, columns: Range<usize>) -> Ints {
        rows::columns(&self.pool, x, columns)
    }

    fn add(&self, x: &mut Ints, column: usize, y: &Ints) {
        dispatch!(self.isa, |kernel| rows::add(kernel, x, column, y));
    }

    fn put(&self, x: &mut Ints, column: usize, y: &Ints) {
        rows::put(x, column, y);
    }

    fn silu(&self, gate_up: &Ints, how: Silu) -> Ints {
        dispatch!(self.isa, |kernel| rows::silu(kernel, &self.pool, &self.logistic, gate_up, how))
    }

    fn append(&self, rows: &mut Rows, more: Rows) {
        self.portable.append(rows, more);
    }

    fn attention(&self, query: &Rows, keys: &Rows, values: &Rows, start: usize, how: &Attention) -> Ints {
        let (pool, exp2) = (&*self.pool, &self.exp2);
        #[cfg(target_arch = "x86_64")]
        if let Isa::Amx(proof) = self.isa
            && attention::bytes_will_do(values)
        {
            let tiles = x86_64::amx::Tiles(proof);
            return attention::run(tiles, tiles, pool, query, keys, values, start, how, exp2);
        }
        dispatch!(self.isa, |kernel, wide| attention::run(
            kernel, wide, pool, query, keys, values, start, how, exp2
        ))
    }

    fn power(&self, x: &Ints, columns: Range<usize>, exponent: i32) -> Ints {
        dispatch!(self.isa, |kernel| rows::power(kernel, &self.portable, &self.pool, x, columns, exponent))
    }

    fn token_scale(&self, rows: usize, features: &[(&Ints, i32)], bias: i64) -> Ints {
        rows::token_scale(&self.pool, rows, features, bias)
    }

    fn encoder(&self, chunks: ChunkEncoders) -> ChunkEncoders {
        chunks
    }

    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        codes: &Vec<u16>,
        to: &mut ChunkEncoders,
    ) -> Result<(), speckv_predictor::Error> {
        let tables = self.portable.tables();
        dispatch!(self.isa, |_kernel, _wide, coder| coding::encode(
            coder, tables, pricing, mu, token, codes, to
        ))
    }

    fn cost(&self, encoder: &ChunkEncoders) -> Result<u64, speckv_predictor::Error> {
        Ok(data::cost(encoder))
    }

    fn decoder<'s>(&self, chunks: ChunkDecoders<'s>) -> ChunkDecoders<'s> {
        chunks
    }

    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Ints,
        token: &Ints,
        from: &mut ChunkDecoders<'_>,
    ) -> Result<Vec<u16>, speckv_predictor::Error> {
        let tables = self.portable.tables();
        dispatch!(self.isa, |_kernel, _wide, coder| coding::decode(coder, tables, pricing, mu, token, from))
    }

    fn finish_chunks(&self, encoder: ChunkEncoders) -> Result<Vec<Chunk>, speckv_predictor::Error> {
        dispatch!(self.isa, |_kernel, _wide, coder| coding::finish(coder, encoder))
    }

    fn finish_decoders(
        &self,
        decoder: ChunkDecoders<'_>,
        values_checksums: &[u64],
    ) -> Result<(), speckv_predictor::Error> {
        data::finish_decoders(decoder, values_checksums)
    }

    fn observe(&self, pricing: &Pricing, mu: &Ints, token: &Ints, codes: &Vec<u16>) -> Observed<Ints> {
        dispatch!(self.isa, |_kernel, _wide, coder| self.teacher(coder).observe(pricing, mu, token, codes))
    }

    fn learn(&self, seen: &Seen<'_, Self>, keep: Option<Keep<'_, Ints>>) -> (Ints, Option<Rows>) {
        let Some(mut keep) = keep else { return backend::learn_in_steps(self, seen, None) };
        let learnt = dispatch!(self.isa, |_kernel, wide, coder| {
            self.teacher(coder).learn(wide, &self.sine, seen, &mut keep)
        });
        learnt.unwrap_or_else(|| backend::learn_in_steps(self, seen, Some(keep)))
    }

    fn values(
        &self,
        codes: &Vec<u16>,
        cols: usize,
        format: ElementFormat,
        unit: Unit,
        exponent: i32,
    ) -> Ints {
        rows::values(codes, cols, format, unit, exponent)
    }
}
