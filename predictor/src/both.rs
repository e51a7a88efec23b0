//! Two backends side by side on the same data: every operation runs on both, and the first result that differs stops the work and is named.
//!
//! For shadow mode (the definition beside what is fast, on live data) and for `speckv bisect`. What one backend gives is never handed to the other, so a
//! difference is found in the operation that made it. Costs what both cost, and bringing every result to the host.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;

use speckv_codec_core::{Chunk, ElementFormat, Part};

use crate::backend::{
    Attention, Backend, HeadNorm, Keep, Mlp, Observed, Place, Pricing, Quantise, Rotary, Seen, Silu, Store,
    Truth, Unit, feed_forward_in_steps,
};
use crate::data::{self, ChunkDecoders, ChunkEncoders, Weights};
use crate::error::Error;
use crate::fixed::Scale;

/// The first operation that two backends did not answer alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Operation of [`Backend`].
    pub operation: &'static str,
    /// Where the session was.
    pub place: Place,
    /// Row of the result: token `place.token + row` of the cache, for all that has a row a token.
    pub row: usize,
    /// Column of the result: the channel, where the result is a plane.
    pub column: usize,
    /// What each has there.
    pub found: [String; 2],
    /// Names of the backends.
    pub names: [String; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` differs in layer {}", self.operation, self.place.layer)?;
        match self.place.plane {
            Some((Part::Key, head)) => write!(f, ", keys of head {head}")?,
            Some((Part::Value, head)) => write!(f, ", values of head {head}")?,
            None => write!(f, ", before or after its planes")?,
        }
        let [a, b] = &self.names;
        let (token, column) = (self.place.token + self.row, self.column);
        write!(f, ", token {token}, channel {column}: {a} has {}, {b} has {}", self.found[0], self.found[1])
    }
}

/// Two backends as one. See the [module](self).
pub struct Both<A, B> {
    first: A,
    second: B,
    name: String,
    place: RefCell<Place>,
    difference: RefCell<Option<Difference>>,
}

impl<A: Backend, B: Backend> Both<A, B> {
    /// `first` beside `second`.
    pub fn new(first: A, second: B) -> Self {
        let name = alloc::format!("{} beside {}", first.name(), second.name());
        Both { first, second, name, place: RefCell::default(), difference: RefCell::default() }
    }

    /// The first difference so far.
    pub fn difference(&self) -> Option<Difference> {
        self.difference.borrow().clone()
    }

    fn differ(&self, operation: &'static str, row: usize, column: usize, found: [String; 2]) {
        let names = [self.first.name().to_string(), self.second.name().to_string()];
        let place = *self.place.borrow();
        let here = Difference { operation, place, row, column, found, names };
        self.difference.borrow_mut().get_or_insert(here);
    }

    /// Compares two lists of `cols` columns.
    fn same<T: PartialEq + fmt::Debug>(&self, operation: &'static str, a: &[T], b: &[T], cols: usize) {
        let found = |list: &[T], i: usize| list.get(i).map_or("nothing".into(), |x| alloc::format!("{x:?}"));
        if let Some(i) = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i)) {
            let cols = cols.max(1);
            self.differ(operation, i / cols, i % cols, [found(a, i), found(b, i)]);
        }
    }

    fn ints(&self, operation: &'static str, a: A::Ints, b: B::Ints) -> (A::Ints, B::Ints) {
        self.compare(operation, &a, &b);
        (a, b)
    }

    fn equal(&self, a: &A::Ints, b: &B::Ints) -> bool {
        self.first.download(a) == self.second.download(b)
    }

    fn compare(&self, operation: &'static str, a: &A::Ints, b: &B::Ints) {
        let (x, y) = (self.first.download(a), self.second.download(b));
        self.same(operation, &x.data, &y.data, x.cols);
    }

    fn rows(&self, operation: &'static str, a: &A::Rows, b: &B::Rows) {
        // Where a backend keeps rows to itself, the product that takes them tells.
        if let (Some(x), Some(y)) = (self.first.download_rows(a), self.second.download_rows(b)) {
            self.same(operation, &x.values, &y.values, x.cols);
            self.same(operation, &x.scales, &y.scales, x.cols / x.group.max(1));
        }
    }

    fn scales(&self, operation: &'static str, a: &A::Scales, b: &B::Scales) {
        self.same(operation, &self.first.download_scales(a), &self.second.download_scales(b), 1);
    }

    fn codes(&self, operation: &'static str, a: &A::Codes, b: &B::Codes, cols: usize) {
        self.same(operation, &self.first.download_codes(a), &self.second.download_codes(b), cols);
    }

    /// Both results, or the error of both; an error of one alone is a difference.
    fn results<X, Y>(
        &self,
        operation: &'static str,
        a: Result<X, Error>,
        b: Result<Y, Error>,
    ) -> Result<(X, Y), Error> {
        let said = |e: Option<&Error>| e.map_or("a result".into(), ToString::to_string);
        if a.as_ref().err() != b.as_ref().err() {
            self.differ(operation, 0, 0, [said(a.as_ref().err()), said(b.as_ref().err())]);
        }
        let both = (a?, b?);
        self.check()?;
        Ok(both)
    }

    fn check(&self) -> Result<(), Error> {
        self.difference().map_or(Ok(()), |d| Err(Error::Backend(d.to_string())))
    }
}

impl<A: Backend, B: Backend> Backend for Both<A, B> {
    type Ints = (A::Ints, B::Ints);
    type Rows = (A::Rows, B::Rows);
    type Matrix = (A::Matrix, B::Matrix);
    type Scales = (A::Scales, B::Scales);
    type Codes = (A::Codes, B::Codes);
    type Encoder = (A::Encoder, B::Encoder);
    type Decoder<'s> = (A::Decoder<'s>, B::Decoder<'s>);

    fn name(&self) -> &str {
        &self.name
    }

    fn enter(&self, place: Place) {
        *self.place.borrow_mut() = place;
        self.first.enter(place);
        self.second.enter(place);
    }

    fn load(&self, weights: Weights) -> Result<Self::Matrix, Error> {
        let first = self.first.load(weights.clone());
        self.results("load", first, self.second.load(weights))
    }

    fn upload(&self, x: data::Ints) -> Self::Ints {
        (self.first.upload(x.clone()), self.second.upload(x))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Self::Ints {
        (self.first.zeros(rows, cols), self.second.zeros(rows, cols))
    }

    fn room(&self, rows: usize, cols: usize) -> Self::Ints {
        (self.first.room(rows, cols), self.second.room(rows, cols))
    }

    fn reuse(&self, x: Self::Ints) {
        self.first.reuse(x.0);
        self.second.reuse(x.1);
    }

    fn reuse_rows(&self, rows: Self::Rows) {
        self.first.reuse_rows(rows.0);
        self.second.reuse_rows(rows.1);
    }

    fn repeat(&self, row: &[i32], rows: usize) -> Self::Ints {
        self.ints("repeat", self.first.repeat(row, rows), self.second.repeat(row, rows))
    }

    fn looks_up(&self) -> bool {
        self.first.looks_up() && self.second.looks_up()
    }

    fn lookup(&self, table: &Self::Matrix, outputs: &[i32]) -> Option<Self::Ints> {
        let first = self.first.lookup(&table.0, outputs)?;
        Some(self.ints("lookup", first, self.second.lookup(&table.1, outputs)?))
    }

    fn download(&self, x: &Self::Ints) -> data::Ints {
        self.first.download(&x.0)
    }

    fn size(&self, x: &Self::Ints) -> usize {
        self.first.size(&x.0)
    }

    fn upload_codes(&self, codes: Vec<u16>) -> Self::Codes {
        (self.first.upload_codes(codes.clone()), self.second.upload_codes(codes))
    }

    fn download_codes(&self, codes: &Self::Codes) -> Vec<u16> {
        self.first.download_codes(&codes.0)
    }

    fn count(&self, codes: &Self::Codes) -> usize {
        self.first.count(&codes.0)
    }

    fn upload_scales(&self, scales: Vec<Scale>) -> Self::Scales {
        (self.first.upload_scales(scales.clone()), self.second.upload_scales(scales))
    }

    fn download_scales(&self, scales: &Self::Scales) -> Vec<Scale> {
        self.first.download_scales(&scales.0)
    }

    fn download_rows(&self, rows: &Self::Rows) -> Option<data::Rows> {
        self.first.download_rows(&rows.0)
    }

    fn quantise(&self, x: &Self::Ints, how: &Quantise) -> Self::Rows {
        let rows = (self.first.quantise(&x.0, how), self.second.quantise(&x.1, how));
        self.rows("quantise", &rows.0, &rows.1);
        rows
    }

    fn rms(&self, x: &Self::Ints, exponent: i32, eps: Scale) -> Self::Scales {
        let scales = (self.first.rms(&x.0, exponent, eps), self.second.rms(&x.1, exponent, eps));
        self.scales("rms", &scales.0, &scales.1);
        scales
    }

    fn gemm(
        &self,
        a: &Self::Rows,
        w: &Self::Matrix,
        factor: Option<&Self::Scales>,
        store: Store,
        out: &mut Self::Ints,
    ) {
        self.first.gemm(&a.0, &w.0, factor.map(|f| &f.0), store, &mut out.0);
        self.second.gemm(&a.1, &w.1, factor.map(|f| &f.1), store, &mut out.1);
        self.compare("gemm", &out.0, &out.1);
    }

    fn product(
        &self,
        x: &Self::Ints,
        how: &Quantise,
        w: &Self::Matrix,
        factor: Option<&Self::Scales>,
        store: Store,
        out: &mut Self::Ints,
    ) {
        self.first.product(&x.0, how, &w.0, factor.map(|f| &f.0), store, &mut out.0);
        self.second.product(&x.1, how, &w.1, factor.map(|f| &f.1), store, &mut out.1);
        if !self.equal(&out.0, &out.1) {
            // If it is the digits that differ, they are named.
            self.quantise(x, how);
            self.compare("product", &out.0, &out.1);
        }
    }

    fn feed_forward(&self, x: &mut Self::Ints, mlp: &Mlp<'_, Self::Matrix>, rows: usize) {
        let Mlp { ffn, normed, gate_up, silu, act, down } = *mlp;
        let first = Mlp { ffn, normed, gate_up: &gate_up.0, silu, act, down: &down.0 };
        let second = Mlp { ffn, normed, gate_up: &gate_up.1, silu, act, down: &down.1 };
        let before = (self.first.download(&x.0), self.second.download(&x.1));
        self.first.feed_forward(&mut x.0, &first, rows);
        self.second.feed_forward(&mut x.1, &second, rows);
        if !self.equal(&x.0, &x.1) {
            // If a step differs by itself, it is named.
            let mut before = (self.first.upload(before.0), self.second.upload(before.1));
            feed_forward_in_steps(self, &mut before, mlp, rows);
            self.compare("feed_forward", &x.0, &x.1);
        }
    }

    fn head_norm(
        &self,
        x: &mut Self::Ints,
        columns: Range<usize>,
        exponent: i32,
        eps: Scale,
        weight: &[(i16, i16)],
    ) {
        self.first.head_norm(&mut x.0, columns.clone(), exponent, eps, weight);
        self.second.head_norm(&mut x.1, columns, exponent, eps, weight);
        self.compare("head_norm", &x.0, &x.1);
    }

    fn heads(
        &self,
        x: &mut Self::Ints,
        columns: Range<usize>,
        norm: Option<&HeadNorm>,
        rotary: &Rotary,
        how: &Quantise,
    ) -> Self::Rows {
        let first = self.first.heads(&mut x.0, columns.clone(), norm, rotary, how);
        let second = self.second.heads(&mut x.1, columns, norm, rotary, how);
        self.rows("heads", &first, &second);
        (first, second)
    }

    fn rope(&self, x: &Self::Ints, columns: Range<usize>, rotary: &Rotary) -> Self::Ints {
        let first = self.first.rope(&x.0, columns.clone(), rotary);
        self.ints("rope", first, self.second.rope(&x.1, columns, rotary))
    }

    fn columns(&self, x: &Self::Ints, columns: Range<usize>) -> Self::Ints {
        let first = self.first.columns(&x.0, columns.clone());
        self.ints("columns", first, self.second.columns(&x.1, columns))
    }

    fn add(&self, x: &mut Self::Ints, column: usize, y: &Self::Ints) {
        self.first.add(&mut x.0, column, &y.0);
        self.second.add(&mut x.1, column, &y.1);
        self.compare("add", &x.0, &x.1);
    }

    fn put(&self, x: &mut Self::Ints, column: usize, y: &Self::Ints) {
        self.first.put(&mut x.0, column, &y.0);
        self.second.put(&mut x.1, column, &y.1);
    }

    fn activate(&self, gate_up: &Self::Ints, silu: Silu, how: &Quantise) -> Self::Rows {
        let rows = (self.first.activate(&gate_up.0, silu, how), self.second.activate(&gate_up.1, silu, how));
        self.rows("activate", &rows.0, &rows.1);
        rows
    }

    fn silu(&self, gate_up: &Self::Ints, how: Silu) -> Self::Ints {
        self.ints("silu", self.first.silu(&gate_up.0, how), self.second.silu(&gate_up.1, how))
    }

    fn append(&self, rows: &mut Self::Rows, more: Self::Rows) {
        self.first.append(&mut rows.0, more.0);
        self.second.append(&mut rows.1, more.1);
        self.rows("append", &rows.0, &rows.1);
    }

    fn attention(
        &self,
        query: &Self::Rows,
        keys: &Self::Rows,
        values: &Self::Rows,
        start: usize,
        how: &Attention,
    ) -> Self::Ints {
        let first = self.first.attention(&query.0, &keys.0, &values.0, start, how);
        self.ints("attention", first, self.second.attention(&query.1, &keys.1, &values.1, start, how))
    }

    fn power(&self, x: &Self::Ints, columns: Range<usize>, exponent: i32) -> Self::Ints {
        let first = self.first.power(&x.0, columns.clone(), exponent);
        self.ints("power", first, self.second.power(&x.1, columns, exponent))
    }

    fn token_scale(&self, rows: usize, features: &[(&Self::Ints, i32)], bias: i64) -> Self::Ints {
        let first: Vec<_> = features.iter().map(|(f, w)| (&f.0, *w)).collect();
        let second: Vec<_> = features.iter().map(|(f, w)| (&f.1, *w)).collect();
        let first = self.first.token_scale(rows, &first, bias);
        self.ints("token_scale", first, self.second.token_scale(rows, &second, bias))
    }

    fn encoder(&self, chunks: ChunkEncoders) -> Self::Encoder {
        (self.first.encoder(chunks.clone()), self.second.encoder(chunks))
    }

    fn encode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &Self::Codes,
        to: &mut Self::Encoder,
    ) -> Result<(), Error> {
        let first = self.first.encode_plane(pricing, &mu.0, &token.0, &codes.0, &mut to.0);
        let second = self.second.encode_plane(pricing, &mu.1, &token.1, &codes.1, &mut to.1);
        self.results("encode_plane", first, second)?;
        // Symbols stay with each backend until a chunk ends; what they cost is known now.
        self.cost(to).map(|_| ())
    }

    fn cost(&self, encoder: &Self::Encoder) -> Result<u64, Error> {
        let (first, second) =
            self.results("cost", self.first.cost(&encoder.0), self.second.cost(&encoder.1))?;
        self.same("encode_plane (its cost)", &[first], &[second], 1);
        self.check().map(|()| first)
    }

    fn finish_chunks(&self, encoder: Self::Encoder) -> Result<Vec<Chunk>, Error> {
        let (first, second) = self.results(
            "finish_chunks",
            self.first.finish_chunks(encoder.0),
            self.second.finish_chunks(encoder.1),
        )?;
        for (chunk, (a, b)) in first.iter().zip(&second).enumerate() {
            if a != b {
                let at = a.payload.iter().zip(&b.payload).take_while(|(a, b)| a == b).count();
                let said =
                    |c: &Chunk| alloc::format!("{:?} at byte {at} of chunk {chunk}", c.payload.get(at));
                self.differ("finish_chunks", 0, 0, [said(a), said(b)]);
            }
        }
        self.check().map(|()| first)
    }

    fn decoder<'s>(&self, chunks: ChunkDecoders<'s>) -> Self::Decoder<'s> {
        (self.first.decoder(chunks.clone()), self.second.decoder(chunks))
    }

    fn decode_plane(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        from: &mut Self::Decoder<'_>,
    ) -> Result<Self::Codes, Error> {
        let first = self.first.decode_plane(pricing, &mu.0, &token.0, &mut from.0);
        let second = self.second.decode_plane(pricing, &mu.1, &token.1, &mut from.1);
        let codes = self.results("decode_plane", first, second)?;
        self.codes("decode_plane", &codes.0, &codes.1, pricing.channel.len());
        self.check().map(|()| codes)
    }

    fn finish_decoders(&self, decoder: Self::Decoder<'_>, values_checksums: &[u64]) -> Result<(), Error> {
        let first = self.first.finish_decoders(decoder.0, values_checksums);
        let second = self.second.finish_decoders(decoder.1, values_checksums);
        self.results("finish_decoders", first, second).map(|_| ())
    }

    fn observe(
        &self,
        pricing: &Pricing,
        mu: &Self::Ints,
        token: &Self::Ints,
        codes: &Self::Codes,
    ) -> Observed<Self::Ints> {
        let a = self.first.observe(pricing, &mu.0, &token.0, &codes.0);
        let b = self.second.observe(pricing, &mu.1, &token.1, &codes.1);
        let value = self.ints("observe (values)", a.truth.value, b.truth.value);
        let innovation = self.ints("observe (innovations)", a.truth.innovation, b.truth.innovation);
        let energy = self.ints("observe (energies)", a.energy, b.energy);
        Observed { truth: Truth { value, innovation }, energy }
    }

    fn learn(
        &self,
        seen: &Seen<'_, Self>,
        keep: Option<Keep<'_, Self::Ints>>,
    ) -> (Self::Ints, Option<Self::Rows>) {
        let Seen { pricing, mu, token, codes } = *seen;
        let first = Seen { pricing, mu: &mu.0, token: &token.0, codes: &codes.0 };
        let second = Seen { pricing, mu: &mu.1, token: &token.1, codes: &codes.1 };
        let Some(keep) = keep else {
            let energy = (self.first.learn(&first, None).0, self.second.learn(&second, None).0);
            return (self.ints("learn (energies)", energy.0, energy.1), None);
        };
        let Keep { innovation, value, column, back, digits } = keep;
        let ((a, b), (c, d)) = (innovation, value);
        let one = Keep { innovation: &mut *a, value: &mut *c, column, back, digits };
        let other = Keep { innovation: &mut *b, value: &mut *d, column, back, digits };
        let (x, y) = (self.first.learn(&first, Some(one)), self.second.learn(&second, Some(other)));
        let plane = column..column + pricing.channel.len();
        for (what, a, b) in [("learn (innovations)", a, b), ("learn (values)", c, d)] {
            self.compare(what, &self.first.columns(a, plane.clone()), &self.second.columns(b, plane.clone()));
        }
        let energy = self.ints("learn (energies)", x.0, y.0);
        let rows = x.1.zip(y.1);
        if let Some((a, b)) = &rows {
            self.rows("learn (digits)", a, b);
        }
        (energy, rows)
    }

    fn values(
        &self,
        codes: &Self::Codes,
        cols: usize,
        format: ElementFormat,
        unit: Unit,
        exponent: i32,
    ) -> Self::Ints {
        let first = self.first.values(&codes.0, cols, format, unit, exponent);
        self.ints("values", first, self.second.values(&codes.1, cols, format, unit, exponent))
    }

    fn status(&self) -> Result<(), Error> {
        self.results("status", self.first.status(), self.second.status()).map(|_| ())
    }

    fn wait(&self) -> Result<(), Error> {
        self.results("wait", self.first.wait(), self.second.wait()).map(|_| ())
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests;
