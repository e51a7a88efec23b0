//! Planes to code and the models that price them. Their bytes are laid out as the `.model` and `.values` files of `codec-core/vectors` are, so that
//! golden streams are seeds (`examples/make_seeds`).

use arbitrary::{Arbitrary, Result, Unstructured};
use speckv_codec_core::limits::{EXPONENT_LIMIT, FIXED_LIMIT, KNOTS, MAX_ESCAPE, SCALES, SHAPE_HALF};
use speckv_codec_core::model::reach;
use speckv_codec_core::{Chunk, ChunkDecoder, ChunkEncoder, ElementFormat, PlaneModel, Shape};
use speckv_predictor::backend::{Pricing, Unit};
use speckv_predictor::data::Ints;

/// Most scalars of an input: an execution stays below some milliseconds.
pub const SCALARS: usize = 4096;

/// A model that owns its parts.
#[derive(Debug)]
pub struct Model {
    /// -120..=120.
    pub exponent: i32,
    /// Any valid shape.
    pub shape: Shape,
    /// Any scale indices, one a channel.
    pub channel_scale: Vec<i16>,
    /// The same, one a token.
    pub token_scale: Vec<i16>,
    /// Means below 2^30 in magnitude, `[tokens, channels]`.
    pub mu: Vec<i32>,
}

/// A plane with its model.
#[derive(Debug)]
pub struct Plane {
    /// What prices it.
    pub model: Model,
    /// Codes of any bits that the format has, `[tokens, channels]`.
    pub codes: Vec<u16>,
}

/// Sizes of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Format of all planes.
    pub format: ElementFormat,
    /// 1..=12.
    pub planes: usize,
    /// 1..=40.
    pub tokens: usize,
    /// 1..=72, fewer where planes and tokens are many.
    pub channels: usize,
    /// Whether there are token ids.
    pub ids: bool,
}

/// A chunk to code.
#[derive(Debug)]
pub struct Planes {
    /// Sizes of every plane.
    pub sizes: Sizes,
    /// One a token.
    pub ids: Option<Vec<u32>>,
    /// In coding order.
    pub planes: Vec<Plane>,
}

/// `count` results.
pub fn many<T>(count: usize, mut one: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| one()).collect()
}

impl<'a> Arbitrary<'a> for Sizes {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let format = *input.choose(&ElementFormat::ALL)?;
        let planes = input.int_in_range(1..=12)?;
        let tokens = input.int_in_range(1..=40)?;
        let channels = input.int_in_range(1..=72)?.min((SCALARS / planes / tokens).max(1));
        Ok(Self { format, planes, tokens, channels, ids: bool::arbitrary(input)? })
    }
}

/// 65 knots and the escape frequency. What is no shape is made one; shapes stay as they are.
fn shape(input: &mut Unstructured<'_>) -> Result<Shape> {
    let mut knots = [0u16; KNOTS];
    for knot in &mut knots {
        *knot = u16::arbitrary(input)? % (SHAPE_HALF + 1);
    }
    knots.sort_unstable();
    (knots[0], knots[KNOTS - 1]) = (0, SHAPE_HALF);
    let escape = u16::arbitrary(input)?.wrapping_sub(1) % MAX_ESCAPE + 1;
    Ok(Shape::new(knots, escape).expect("knots that rise and a frequency in range"))
}

impl Model {
    /// Reads a model; its means too, unless they are to lie near codes.
    fn read(input: &mut Unstructured<'_>, sizes: Sizes, how: u8) -> Result<Self> {
        let exponent = i32::arbitrary(input)? % (EXPONENT_LIMIT + 1);
        let shape = if how & 1 == 0 { shape(input)? } else { Shape::gaussian() };
        let channel_scale = many(sizes.channels, || i16::arbitrary(input))?;
        let token_scale = many(sizes.tokens, || i16::arbitrary(input))?;
        let means = if how & 2 == 0 { sizes.tokens * sizes.channels } else { 0 };
        let mu = many(means, || Ok(i32::arbitrary(input)? % FIXED_LIMIT))?;
        let mut model = Self { exponent, shape, channel_scale, token_scale, mu };
        if how & 4 != 0 {
            let near: Vec<i32> = model.mu.iter().map(|mu| mu % 128).collect();
            model.mu.fill(0);
            model.move_to_ends(&near);
        }
        Ok(model)
    }

    /// Moves means so that their windows begin, end or lie around where they were: there definitions and fast paths are likeliest to part.
    fn move_to_ends(&mut self, near: &[i32]) {
        let scales = self.token_scale.iter().flat_map(|&token| {
            self.channel_scale.iter().map(move |&channel| i32::from(channel) + i32::from(token))
        });
        for ((mu, q), &near) in self.mu.iter_mut().zip(scales).zip(near) {
            let moved = i64::from(*mu)
                + i64::from(near.rem_euclid(3) - 1) * i64::from(reach(q.clamp(0, SCALES - 1)))
                + i64::from(near / 32);
            let limit = i64::from(FIXED_LIMIT - 1);
            *mu = moved.clamp(-limit, limit) as i32;
        }
    }

    /// A model with means of its own.
    pub fn arbitrary(input: &mut Unstructured<'_>, sizes: Sizes) -> Result<Self> {
        let how = u8::arbitrary(input)?;
        Self::read(input, sizes, how & 5)
    }

    /// As the coder takes it.
    pub fn plane(&self, format: ElementFormat) -> PlaneModel<'_> {
        PlaneModel {
            format,
            exponent: self.exponent,
            mu: &self.mu,
            channel_scale: &self.channel_scale,
            token_scale: &self.token_scale,
            shape: &self.shape,
        }
    }

    /// As the seam takes it, its channels given apart.
    pub fn pricing<'a>(&'a self, format: ElementFormat, unit: Unit, channel: &'a [i16]) -> Pricing<'a> {
        Pricing { format, unit, exponent: self.exponent, channel, shape: &self.shape }
    }

    /// Means as the seam takes them.
    pub fn means(&self) -> Ints {
        let (rows, cols) = (self.token_scale.len(), self.channel_scale.len());
        Ints { rows, cols, data: self.mu.clone() }
    }

    /// Scales of tokens as the seam takes them.
    pub fn tokens(&self) -> Ints {
        let data = self.token_scale.iter().map(|&t| t.into()).collect();
        Ints { rows: self.token_scale.len(), cols: 1, data }
    }
}

impl Plane {
    fn arbitrary(input: &mut Unstructured<'_>, sizes: Sizes) -> Result<Self> {
        let Sizes { format, tokens, channels, .. } = sizes;
        let how = u8::arbitrary(input)?;
        let mut model = Model::read(input, sizes, how)?;
        let near = if how & 2 == 0 { Vec::new() } else { many(tokens * channels, || i8::arbitrary(input))? };
        let near: Vec<i32> = near.into_iter().map(i32::from).collect();
        let codes = many(tokens * channels, || match format.bytes() {
            1 => Ok(u8::arbitrary(input)?.into()),
            _ => u16::arbitrary(input),
        })?;
        // So that cells are coded whatever the fuzzer has learnt of their arithmetic.
        let edge = |&code: &u16| format.edge(format.rank(code), model.exponent);
        if how & 4 == 0 {
            let limit = FIXED_LIMIT - 1;
            let means = near.iter().zip(&codes).map(|(near, code)| (edge(code) + near).clamp(-limit, limit));
            model.mu.extend(means);
        } else if how & 2 != 0 {
            model.mu.extend(codes.iter().map(edge));
            model.move_to_ends(&near);
        }
        Ok(Self { model, codes })
    }
}

impl<'a> Arbitrary<'a> for Planes {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let sizes = Sizes::arbitrary(input)?;
        let ids = if sizes.ids { Some(many(sizes.tokens, || u32::arbitrary(input))?) } else { None };
        Ok(Self { sizes, ids, planes: many(sizes.planes, || Plane::arbitrary(input, sizes))? })
    }
}

impl Planes {
    /// Codes the chunk.
    pub fn encode(&self) -> Chunk {
        let mut encoder = ChunkEncoder::new(self.sizes.format, self.planes.len(), self.ids.as_deref());
        for plane in &self.planes {
            let model = plane.model.plane(self.sizes.format);
            encoder.push_plane(&model, &plane.codes).expect("the input keeps the rules");
        }
        encoder.finish().expect("all planes are there")
    }

    /// A decoder of the chunk's payload.
    pub fn decoder<'p>(&self, payload: &'p [u8]) -> speckv_codec_core::Result<ChunkDecoder<'p>> {
        let Sizes { format, planes, tokens, .. } = self.sizes;
        ChunkDecoder::new(format, planes, tokens, self.ids.is_some(), payload)
    }
}
