//! Safetensors files, right and wrong.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use safetensors::tensor::{Dtype, TensorView, serialize};

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Types that files of this project have, and some that they have not.
pub const TYPES: [Dtype; 12] = [
    Dtype::BF16,
    Dtype::F16,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::F32,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U8,
    Dtype::F64,
    Dtype::BOOL,
];

/// A tensor of zeros that `fill` may change; few bytes whatever the shape says.
pub fn tensor(dtype: Dtype, shape: Vec<usize>, fill: impl FnOnce(&mut [u8])) -> (Dtype, Vec<usize>, Vec<u8>) {
    let count = shape.iter().product::<usize>();
    let mut bytes = vec![0; count * dtype.bitsize() / 8];
    fill(&mut bytes);
    (dtype, shape, bytes)
}

/// The file, with `metadata`.
pub fn file(tensors: &Tensors, metadata: Option<(&str, String)>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("bytes as the shape asks"))
    });
    let metadata = metadata.map(|(key, text)| [(key.to_owned(), text)].into());
    serialize(views, metadata).expect("few tensors")
}

/// Changes some bytes; what they are is no longer anybody's business.
pub fn damage(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..input.int_in_range(0..=4)? {
        // The header is where a change matters, so half of them are near the start.
        let most = if bool::arbitrary(input)? { bytes.len() } else { bytes.len().min(256) };
        let at = input.choose_index(most.max(1))?;
        match u8::arbitrary(input)? % 4 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), u8::arbitrary(input)?),
            _ => {
                let value = u8::arbitrary(input)?;
                bytes.get_mut(at).map(|byte| *byte = value).unwrap_or_default();
            }
        }
    }
    Ok(())
}
