//! The lock-step: predict, code, observe, plane by plane, over a run of whole chunks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use speckv_codec_core::{ElementFormat, Geometry, Part};

use crate::backend::{Backend, Place, Pricing, Seen};
use crate::coding::CodingTables;
use crate::error::Error;
use crate::predict::{Before, Energies, Predict, Units};

/// Told after each layer: (run's first token, layer).
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// What a session does with each plane.
pub trait Planes<B: Backend> {
    /// Codes a plane against its prediction; returns its true codes, `[tokens, head_dim]`.
    fn plane(
        &mut self,
        b: &B,
        at: (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> Result<B::Codes, Error>;
    /// Takes a plane's codes when the predictor has learnt them.
    fn learnt(&mut self, _b: &B, _at: (usize, Part, usize), _codes: B::Codes) {}
}

/// Encodes planes that `codes` supplies.
pub struct Encode<'a, B: Backend, F> {
    /// The run's chunks.
    pub encoder: &'a mut B::Encoder,
    /// The codes of a plane over the run.
    pub codes: F,
}

impl<B: Backend, F: FnMut(usize, Part, usize) -> B::Codes> Planes<B> for Encode<'_, B, F> {
    fn plane(
        &mut self,
        b: &B,
        (layer, part, head): (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> Result<B::Codes, Error> {
        let codes = (self.codes)(layer, part, head);
        expect_codes(b.count(&codes), b.size(mu))?;
        b.encode_plane(pricing, mu, token, &codes, self.encoder)?;
        Ok(codes)
    }
}

/// Decodes planes and hands them to `sink`.
pub struct Decode<'a, 's, B: Backend + 's, F> {
    /// The run's chunks.
    pub decoder: &'a mut B::Decoder<'s>,
    /// Takes the codes of a plane over the run when the predictor has learnt them.
    pub sink: F,
}

impl<B: Backend, F: FnMut((usize, Part, usize), B::Codes)> Planes<B> for Decode<'_, '_, B, F> {
    fn plane(
        &mut self,
        b: &B,
        _at: (usize, Part, usize),
        pricing: &Pricing,
        mu: &B::Ints,
        token: &B::Ints,
    ) -> Result<B::Codes, Error> {
        b.decode_plane(pricing, mu, token, self.decoder)
    }

    fn learnt(&mut self, _b: &B, at: (usize, Part, usize), codes: B::Codes) {
        (self.sink)(at, codes);
    }
}

/// A cache being coded from its first token on: runs of whole chunks, in order.
pub struct Session<'a, B: Backend> {
    backend: &'a B,
    predictor: Box<dyn Predict<B> + 'a>,
    tables: &'a CodingTables,
    exponents: &'a [[i32; 2]],
    geometry: Geometry,
    format: ElementFormat,
    units: Units,
    position: usize,
    /// Something failed half-way: layers may know different numbers of tokens.
    broken: bool,
}

impl<'a, B: Backend> Session<'a, B> {
    /// At position 0.
    pub fn new(
        backend: &'a B,
        predictor: Box<dyn Predict<B> + 'a>,
        tables: &'a CodingTables,
        exponents: &'a [[i32; 2]],
        geometry: Geometry,
        format: ElementFormat,
        units: Units,
    ) -> Self {
        Session { backend, predictor, tables, exponents, geometry, format, units, position: 0, broken: false }
    }

    /// Tokens known so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// What the predictor must know of the tokens before a run.
    pub fn before(&self) -> Before {
        self.predictor.before()
    }

    /// Passes over `tokens` tokens that precede the next run.
    ///
    /// # Errors
    /// [`Error::Input`] if the predictor must know them.
    pub fn pass(&mut self, tokens: usize) -> Result<(), Error> {
        let first = self.position + tokens;
        let what = match self.before() {
            Before::Predictions if tokens > 0 => alloc::format!(
                "an open-loop draft learns nothing from the cache of earlier tokens: it starts at token 0, not at {first}"
            ),
            Before::Truth if tokens > 0 => alloc::format!(
                "to start at token {first} the predictor needs the cache of the tokens before it: supply their codes"
            ),
            _ => {
                self.position = first;
                return Ok(());
            }
        };
        Err(Error::Input(what))
    }

    /// Learns `tokens` tokens that precede the next run, from their true codes, which are asked for only where they teach anything.
    ///
    /// # Errors
    /// [`Error::Input`] if true codes are not what the predictor must know of them, or there are more or fewer than there should be.
    pub fn skip(
        &mut self,
        tokens: usize,
        mut codes: impl FnMut(usize, Part, usize) -> B::Codes,
    ) -> Result<(), Error> {
        if self.before() != Before::Truth {
            return self.pass(tokens);
        }
        self.start()?;
        let (b, hd) = (self.backend, self.geometry.head_dim);
        for layer in 0..self.geometry.layers {
            let mut parts = Vec::new();
            for part in [Part::Key, Part::Value] {
                let mut all = b.room(tokens, self.geometry.kv_heads * hd);
                for head in 0..self.geometry.kv_heads {
                    b.enter(Place { token: self.position, layer, plane: Some((part, head)) });
                    let unit = self.units.get(layer, part, head);
                    let exponent = self.exponents[layer][part as usize];
                    let codes = codes(layer, part, head);
                    expect_codes(b.count(&codes), tokens * hd)?;
                    b.put(&mut all, head * hd, &b.values(&codes, hd, self.format, unit, exponent));
                }
                parts.push(all);
            }
            if let (Some(value), Some(key)) = (parts.pop(), parts.pop()) {
                self.predictor.past(b, layer, key, value);
            }
        }
        b.status()?;
        self.end(tokens);
        Ok(())
    }

    /// Starts what must not be left half done.
    fn start(&mut self) -> Result<(), Error> {
        if core::mem::replace(&mut self.broken, true) {
            return Err(Error::Input("the session failed before: start another".into()));
        }
        Ok(())
    }

    fn end(&mut self, tokens: usize) {
        (self.position, self.broken) = (self.position + tokens, false);
    }

    /// Codes the next `tokens` tokens.
    pub fn run(
        &mut self,
        tokens: usize,
        ids: &[u32],
        planes: &mut impl Planes<B>,
        progress: Progress,
    ) -> Result<(), Error> {
        let b = self.backend;
        self.predictor.begin(b, self.position, tokens, ids)?;
        self.start()?;
        let mut energies = Energies::<B>::default();
        let enter = |layer, plane| b.enter(Place { token: self.position, layer, plane });
        for layer in 0..self.geometry.layers {
            enter(layer, None);
            self.predictor.begin_layer(b, layer)?;
            for part in [Part::Key, Part::Value] {
                for head in 0..self.geometry.kv_heads {
                    enter(layer, Some((part, head)));
                    let pricing = Pricing {
                        format: self.format,
                        unit: self.units.get(layer, part, head),
                        exponent: self.exponents[layer][part as usize],
                        channel: self.tables.channel(layer, part, head),
                        shape: self.tables.shape(layer, part),
                    };
                    let weights = self.tables.token(layer, part, head);
                    let token = energies.scale(b, tokens, part, self.predictor.powers(), weights);
                    let mu = self.predictor.predict(b, layer, part, head);
                    let codes = planes.plane(b, (layer, part, head), &pricing, &mu, &token)?;
                    let seen = Seen { pricing: &pricing, mu: &mu, token: &token, codes: &codes };
                    energies.push(part, self.predictor.observe(b, layer, part, head, &seen));
                    planes.learnt(b, (layer, part, head), codes);
                    b.reuse(mu);
                }
            }
            enter(layer, None);
            self.predictor.end_layer(b, layer)?;
            match self.predictor.learns() {
                true => energies.end_layer(),
                false => energies.clear(),
            }
            progress(self.position, layer);
        }
        b.status()?;
        self.end(tokens);
        Ok(())
    }
}

/// Refuses a caller's plane of the wrong size.
fn expect_codes(found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Input(alloc::format!("a plane of {found} codes where {expected} were expected")))
}
