//! Wrong calls, made on purpose: each is refused by the exact error, and leaves nothing behind.

use speckv_codec_core::limits::{EXPONENT_LIMIT, FIXED_LIMIT, KNOTS, MAX_ESCAPE, MAX_NAME, SHAPE_HALF};
use speckv_codec_core::{
    Checksum, ChunkDecoder, ChunkEncoder, ElementFormat, Error, Header, Name, PlaneModel, Rule, Shape, Stream,
};

use crate::input::{Planes, Sizes};
use crate::one_line;

fn argument<T>(
    rule: Rule,
    expected: impl TryInto<i64>,
    found: impl TryInto<i64>,
) -> speckv_codec_core::Result<T> {
    let number = |n: Option<i64>| n.expect("a number below 2^63");
    let (expected, found) = (number(expected.try_into().ok()), number(found.try_into().ok()));
    let error = Error::Argument { rule, expected, found };
    one_line(&error);
    Err(error)
}

/// The next of all formats.
fn another(format: ElementFormat) -> ElementFormat {
    ElementFormat::ALL[(usize::from(format.id()) + 1) % ElementFormat::ALL.len()]
}

/// What models are refused for, whoever is asked.
fn models(
    plane: PlaneModel<'_>,
    scalars: usize,
    mut ask: impl FnMut(&PlaneModel<'_>, usize) -> speckv_codec_core::Result<()>,
) {
    let format = another(plane.format);
    let wrong = PlaneModel { format, ..plane };
    assert_eq!(
        ask(&wrong, scalars),
        argument(Rule::ModelFormat, plane.format.id(), format.id()),
        "{}",
        format.name()
    );
    assert_eq!(ask(&plane, scalars - 1), argument(Rule::ModelSize, scalars, scalars - 1));
    let wrong = PlaneModel { mu: &plane.mu[1..], ..plane };
    assert_eq!(ask(&wrong, scalars), argument(Rule::ModelSize, scalars, scalars - 1));
    for sign in [-1, 1] {
        let exponent = sign * (EXPONENT_LIMIT + 1);
        let wrong = PlaneModel { exponent, ..plane };
        assert_eq!(ask(&wrong, scalars), argument(Rule::Exponent, sign * EXPONENT_LIMIT, exponent));
        let mut mu = plane.mu.to_vec();
        mu[scalars / 2] = sign * FIXED_LIMIT;
        let wrong = PlaneModel { mu: &mu, ..plane };
        assert_eq!(ask(&wrong, scalars), argument(Rule::Mean, sign * (FIXED_LIMIT - 1), sign * FIXED_LIMIT));
    }
}

/// Wrong calls of an encoder that lacks planes, the one at `at` first. It goes on as if nothing had been asked of it.
pub fn of_encoder(input: &Planes, encoder: &mut ChunkEncoder, at: usize) {
    let Sizes { format, tokens, .. } = input.sizes;
    let plane = &input.planes[at];
    let (codes, scalars, cost) = (&plane.codes, plane.codes.len(), encoder.cost());
    assert_eq!((encoder.format(), encoder.planes()), (format, input.planes.len()));
    assert_eq!(encoder.token_ids(), input.ids.as_deref());
    models(plane.model.plane(format), scalars, |model, count| encoder.push_plane(model, &codes[..count]));
    assert_eq!(encoder.push_symbols(Vec::new(), 0, codes), argument(Rule::PlaneSize, 0, scalars));
    let more = vec![0; scalars + 1];
    match (at, &input.ids) {
        (0, Some(ids)) if tokens > 1 => {
            assert_eq!(encoder.push_raw(&more), argument(Rule::TokenIds, ids.len(), scalars + 1));
        }
        (0, _) => assert_eq!(encoder.push_raw(&[]), argument(Rule::PlaneSize, 1, 0)),
        _ => assert_eq!(encoder.push_raw(&more), argument(Rule::PlaneSize, scalars, scalars + 1)),
    }
    if format.width() == 8 {
        let mut wide = codes.clone();
        wide[scalars - 1] = 0x100;
        let model = plane.model.plane(format);
        let refused = argument(Rule::Code, 0xFF, 0x100);
        assert_eq!([encoder.push_raw(&wide), encoder.push_plane(&model, &wide)], [refused, refused]);
    }
    assert_eq!(encoder.clone().finish(), argument(Rule::PlaneCount, input.planes.len(), at));
    assert_eq!(encoder.cost(), cost);
}

/// A plane too many, for an encoder that has all.
pub fn of_full_encoder(input: &Planes, encoder: &mut ChunkEncoder) {
    let planes = input.planes.len();
    assert_eq!(encoder.push_raw(&input.planes[0].codes), argument(Rule::PlaneCount, planes, planes + 1));
    let none = ChunkEncoder::new(input.sizes.format, 0, None);
    assert_eq!(none.finish(), argument(Rule::PlaneCount, 1, 0));
}

/// Wrong calls of a decoder that is about to decode plane `at`, on copies of it.
pub fn of_decoder(input: &Planes, decoder: &ChunkDecoder<'_>, at: usize) {
    let Sizes { format, planes, tokens, channels, .. } = input.sizes;
    assert_eq!((decoder.format(), decoder.planes()), (format, planes));
    let model = &input.planes[at].model;
    let mut out = input.planes[at].codes.clone();
    let scalars = out.len();
    models(model.plane(format), scalars, |model, count| decoder.clone().next_plane(model, &mut out[..count]));

    // A token too many.
    let (mut mu, mut token_scale) = (model.mu.clone(), model.token_scale.clone());
    mu.resize(scalars + channels, 0);
    token_scale.push(0);
    let wrong = PlaneModel { mu: &mu, token_scale: &token_scale, ..model.plane(format) };
    out.resize(scalars + channels, 0);
    assert_eq!(decoder.clone().next_plane(&wrong, &mut out), argument(Rule::PlaneSize, tokens, tokens + 1));
    let nothing = decoder.clone().next_plane_with(&mut [], |_, _| panic!("there is nothing to decode"));
    assert_eq!(nothing, argument(Rule::PlaneSize, tokens, 0));
    // Only errors that count bytes are moved.
    let own = argument(Rule::Code, 1, 2);
    assert_eq!(own.map_err(|error| decoder.in_payload(error)), argument::<()>(Rule::Code, 1, 2));
    assert_eq!(decoder.clone().finish(0), argument(Rule::PlaneCount, planes, at));
    let payload = decoder.lanes().words;
    let decoder = |planes, tokens| ChunkDecoder::new(format, planes, tokens, false, payload).map(|_| ());
    assert_eq!(decoder(0, tokens), argument(Rule::PlaneCount, 1, 0));
    assert_eq!(decoder(planes, 0), argument(Rule::Tokens, 1, 0));
}

/// A plane too many, and a wrong checksum, for a decoder that has decoded all.
pub fn of_done_decoder(input: &Planes, decoder: &ChunkDecoder<'_>, values: u64) {
    let Sizes { format, planes, .. } = input.sizes;
    let plane = &input.planes[0];
    let again = decoder.clone().next_plane(&plane.model.plane(format), &mut plane.codes.clone());
    assert_eq!(again, argument(Rule::PlaneCount, planes, planes + 1));
    let error = Error::Damaged { checksum: Checksum::Values, expected: !values, found: values };
    one_line(&error);
    assert_eq!(decoder.clone().finish(!values), Err(error));
}

/// Knots and escapes that no shape has.
pub fn of_shape(shape: &Shape) {
    let wrong = |at: usize, knot: u16| {
        let mut knots = *shape.knots();
        knots[at] = knot;
        Shape::new(knots, shape.escape())
    };
    assert_eq!(wrong(0, 1), argument(Rule::Knots, 0, 1));
    // The last but one may be all there is: then above all there is.
    assert_eq!(wrong(KNOTS - 2, SHAPE_HALF + 1), argument(Rule::Knots, SHAPE_HALF + 1, SHAPE_HALF));
    assert_eq!(wrong(KNOTS - 1, SHAPE_HALF + 1), argument(Rule::Knots, SHAPE_HALF, SHAPE_HALF + 1));
    assert_eq!(Shape::new(*shape.knots(), 0), argument(Rule::Escape, 1, 0));
    assert_eq!(
        Shape::new(*shape.knots(), MAX_ESCAPE + 1),
        argument(Rule::Escape, MAX_ESCAPE, MAX_ESCAPE + 1)
    );
}

/// A chunk that is not there, a profile that is another, names that are none.
pub fn of_stream(stream: &Stream<'_>) {
    let chunks = stream.directory().len();
    assert_eq!(stream.extract(chunks), argument(Rule::ChunkIndex, chunks - 1, chunks));
    let header = stream.header();
    assert_eq!(header.check_profile(&header.profile), Ok(()));
    let mut profile = header.profile;
    profile[7] ^= 1;
    let error = header.check_profile(&profile).expect_err("another profile");
    one_line(&error);
    assert!(matches!(error, Error::WrongProfile { expected, found } if expected ^ found == 1), "{error}");
    let refused = Header { chunk_tokens: 0, ..header.clone() }.check();
    assert_eq!(refused, argument(Rule::ChunkTokens, 0, 0));
    let name = header.precision.to_string();
    assert_eq!(
        (format!("{:?}", header.precision), Name::new(&name)),
        (format!("{name:?}"), Ok(header.precision))
    );
    assert_eq!(Name::new("A"), argument(Rule::NameByte, 0, b'A'));
    let long = "a".repeat(MAX_NAME + 1);
    assert_eq!(Name::new(&long), argument(Rule::NameLength, MAX_NAME, MAX_NAME + 1));
}
