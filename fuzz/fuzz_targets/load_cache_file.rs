//! Any bytes for a cache file: an error of one line or a cache, never a panic nor memory beyond the file's own size; a cache is written and read again
//! as it was.
//!
//! Half of the inputs are the file, the others say how to make one that is nearly right.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use safetensors::Dtype;
use speckv_capture::Cache;
use speckv_fuzz::tensors::{TYPES, Tensors, damage, file as write, tensor};
use speckv_fuzz::{file, memory, one_line};

/// Mostly what is asked for.
fn or<T>(
    input: &mut Unstructured<'_>,
    usual: T,
    other: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<T> {
    if u8::arbitrary(input)? < 250 { Ok(usual) } else { other(input) }
}

fn made(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let dtype = TYPES[input.int_in_range(0..=3)?];
    let [layers, heads, tokens, head_dim] = <[u8; 4]>::arbitrary(input)?;
    let shape = [heads % 4, tokens % 6, head_dim % 6].map(usize::from);
    let kind = |input: &mut Unstructured<'_>| input.choose(&TYPES).copied();
    let mut tensors = Tensors::new();
    for layer in 0..layers % 4 {
        for part in ["key", "value"] {
            let name = or(input, format!("layers.{layer}.{part}"), |input| {
                Ok(format!("layers.{}.{part}", i8::arbitrary(input)?))
            })?;
            let shape = or(input, shape.to_vec(), |input| {
                Ok(<[u8; 4]>::arbitrary(input)?[..usize::from(layer) + 1]
                    .iter()
                    .map(|n| usize::from(*n % 8))
                    .collect())
            })?;
            let dtype = or(input, dtype, kind)?;
            let bytes = u64::arbitrary(input)?.to_le_bytes();
            let fill = |to: &mut [u8]| to.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, b)| *to = *b);
            tensors.insert(name, tensor(dtype, shape, fill));
            let scales = heads >> 4 & 3;
            if scales > 0 && dtype.bitsize() == 8 {
                let count = if scales == 1 { 1 } else { usize::from(heads % 4) };
                let scale = or(input, 0.25f32, |input| input.arbitrary())?;
                let fill =
                    |to: &mut [u8]| to.chunks_mut(4).for_each(|to| to.copy_from_slice(&scale.to_le_bytes()));
                let shape = if scales == 3 && count == 1 { Vec::new() } else { vec![count] };
                tensors.insert(format!("layers.{layer}.{part}_scale"), tensor(Dtype::F32, shape, fill));
            }
        }
    }
    if layers & 64 != 0 {
        let dtype = or(input, if layers & 128 != 0 { Dtype::I64 } else { Dtype::I32 }, kind)?;
        let count = or(input, shape[1], |input| input.int_in_range(0..=9))?;
        let high = or(input, 0, |input| input.arbitrary())?;
        let fill = |to: &mut [u8]| {
            to.iter_mut().enumerate().for_each(|(i, b)| *b = if i % 8 < 3 { i as u8 } else { high })
        };
        tensors.insert("token_ids".to_owned(), tensor(dtype, vec![count], fill));
    }
    let mut bytes = write(&tensors, None);
    damage(input, &mut bytes)?;
    Ok(bytes)
}

fn check(bytes: &[u8]) {
    static AGAIN: LazyLock<std::path::PathBuf> = LazyLock::new(|| file::place("again.safetensors"));
    // The codes once; what the header says of each tensor takes some times its text.
    let read = |path: &std::path::Path| memory::at_most(64 * bytes.len() + (1 << 16), || Cache::read(path));
    match file::with("cache.safetensors", bytes, read) {
        Err(error) => one_line(&error),
        Ok(cache) => {
            cache.check().expect("what was read keeps the rules");
            cache.write(&AGAIN).expect("what was read can be written");
            assert_eq!(Cache::read(&AGAIN).expect("and read again"), cache);
            if cache.tokens > 0 {
                let [layer, part] = [cache.layers - 1, 1];
                let count = cache.kv_heads * cache.tokens * cache.head_dim;
                assert_eq!(cache.values(layer, part).len(), count);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0..=127, rest)) => check(rest),
        Some((_, rest)) => {
            if let Ok(bytes) = made(&mut Unstructured::new(rest)) {
                check(&bytes);
            }
        }
        None => check(data),
    }
});
