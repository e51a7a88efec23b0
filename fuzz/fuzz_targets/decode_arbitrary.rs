//! Hostile payloads under any models: every CPU path answers as the definition does, codes or the exact error, and what is accepted means the same after
//! it is coded again. The input chooses the path.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use speckv_codec_core::{Checksum, ChunkDecoder, ChunkEncoder, Error};
use speckv_fuzz::backends::{PORTABLE, chosen};
use speckv_fuzz::input::{Model, Sizes, many};
use speckv_fuzz::{memory, one_line};
use speckv_predictor::Error::Stream;
use speckv_predictor::backend::{Backend, Host, Unit};

struct Input<'a> {
    sizes: Sizes,
    models: Vec<Model>,
    payload: &'a [u8],
}

/// Everything a decoder says: codes of the planes up to the first error, how the planes ended, and the checksum of the values.
#[derive(Debug, PartialEq)]
struct Answer {
    planes: Vec<Vec<u16>>,
    end: Result<u64, speckv_predictor::Error>,
}

impl Input<'_> {
    fn decoder(&self) -> speckv_codec_core::Result<ChunkDecoder<'_>> {
        let Sizes { format, planes, tokens, ids, .. } = self.sizes;
        ChunkDecoder::new(format, planes, tokens, ids, self.payload)
    }

    fn decode<B: Host>(&self, b: &B) -> speckv_codec_core::Result<Answer> {
        let mut decoder = b.decoder(vec![(0..self.sizes.tokens, self.decoder()?)]);
        let mut planes = Vec::new();
        for model in &self.models {
            let pricing = model.pricing(self.sizes.format, Unit::ONE, &model.channel_scale);
            let (mu, token) = (b.upload(model.means()), b.upload(model.tokens()));
            match b.decode_plane(&pricing, &mu, &token, &mut decoder) {
                Ok(codes) => planes.push(codes),
                Err(end) => return Ok(Answer { planes, end: Err(end) }),
            }
        }
        // Against one checksum or the other: at least one is wrong, and the error tells the right one.
        let end = match [0, 1].map(|checksum| b.finish_decoders(decoder.clone(), &[checksum])) {
            [Err(Stream(Error::Damaged { checksum: Checksum::Values, found, .. })), _]
            | [_, Err(Stream(Error::Damaged { checksum: Checksum::Values, found, .. }))] => Ok(found),
            [Err(end), _] => Err(end),
            [Ok(()), _] => panic!("a checksum that is 0 and 1"),
        };
        Ok(Answer { planes, end })
    }

    /// Codes what was restored and restores it again.
    fn again(&self, answer: &Answer) -> speckv_codec_core::Result<()> {
        let Sizes { format, planes, tokens, ids, .. } = self.sizes;
        let token_ids = self.decoder()?.token_ids().map(<[u32]>::to_vec);
        let mut encoder = ChunkEncoder::new(format, planes, token_ids.as_deref());
        for (model, codes) in self.models.iter().zip(&answer.planes) {
            encoder.push_plane(&model.plane(format), codes)?;
        }
        let chunk = encoder.finish()?;
        let mut decoder = ChunkDecoder::new(format, planes, tokens, ids, &chunk.payload)?;
        assert_eq!(decoder.token_ids(), token_ids.as_deref());
        for (model, codes) in self.models.iter().zip(&answer.planes) {
            let mut out = vec![0; codes.len()];
            decoder.next_plane(&model.plane(format), &mut out)?;
            assert_eq!(&out, codes);
        }
        assert_eq!(answer.end, Ok(chunk.values_checksum));
        decoder.finish(chunk.values_checksum)
    }
}

fn run(data: &[u8]) -> arbitrary::Result<()> {
    let mut input = Unstructured::new(data);
    let Some(path) = chosen(&mut input)? else { return Ok(()) };
    let sizes: Sizes = input.arbitrary()?;
    let models = many(sizes.planes, || Model::arbitrary(&mut input, sizes))?;
    let input = Input { sizes, models, payload: input.take_rest() };
    // Ids take at least a bit each.
    _ = memory::at_most(64 * input.payload.len() + 4096, || input.decoder().is_ok());
    let expected = input.decode(&*PORTABLE);
    assert_eq!(input.decode(path), expected, "{}", path.name());
    match expected {
        Ok(answer) if answer.end.is_ok() => input.again(&answer).expect("what was accepted can be coded"),
        Ok(answer) => one_line(&answer.end.expect_err("not accepted")),
        Err(error) => one_line(&error),
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    _ = run(data);
});
