//! Profiles that were right before something changed in them.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use speckv_predictor::core::Geometry;
use speckv_predictor::synthetic::Make;

use crate::input::many;
use crate::tensors::{TYPES, Tensors, damage, file};

/// A profile in pieces.
#[derive(Clone)]
struct Parts {
    about: Value,
    tensors: Tensors,
}

/// Small made-up profiles: every kind of predictor in every precision, with and without QK-norm, wide columns and keys of several heads.
static MADE: LazyLock<Vec<Parts>> = LazyLock::new(|| {
    let small = Make { hidden: 12, heads: 2, ffn: 8, vocab: 6, ..Make::default() };
    let geometry = |layers, kv_heads, head_dim| Geometry { layers, kv_heads, head_dim };
    let makes = [
        Make { geometry: geometry(2, 1, 4), wide: 3, ..small },
        Make { geometry: geometry(3, 2, 2), wide: 0, qk_norm: false, seed: 2, ..small },
    ];
    // A few modes each: what is not used only takes time. Those from 8 on are for 8-bit caches; networks but the first fall back on it.
    let kept: [(&[usize], &[usize]); 4] =
        [(&[0, 1, 2, 8, 9, 10], &[]), (&[3, 7, 11], &[0]), (&[4, 13], &[0, 1, 2]), (&[6, 14], &[0, 3])];
    let whole = makes.map(|make| Parts::of(&make.profile().expect("a right profile")));
    kept.iter().flat_map(|(modes, nets)| whole.each_ref().map(|parts| parts.keep(modes, nets))).collect()
});

impl Parts {
    fn of(profile: &[u8]) -> Parts {
        let (_, metadata) = SafeTensors::read_metadata(profile).expect("a safetensors file");
        let text = &metadata.metadata().as_ref().expect("a description")["speckv"];
        let read = SafeTensors::deserialize(profile).expect("a safetensors file");
        let own = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        Parts { about: serde_json::from_str(text).expect("JSON"), tensors: read.iter().map(own).collect() }
    }
}

impl Parts {
    /// Some modes and networks alone.
    fn keep(&self, modes: &[usize], nets: &[usize]) -> Parts {
        let mut about = self.about.clone();
        for (key, kept) in [("modes", modes), ("nets", nets)] {
            about[key] = kept.iter().map(|&i| self.about[key][i].clone()).collect();
            for one in about[key].as_array_mut().expect("a list") {
                for (field, kept) in [("base", kept), ("net", nets)] {
                    if let Some(old) = one.get(field).and_then(Value::as_u64) {
                        one[field] = json!(kept.iter().position(|&i| i as u64 == old));
                    }
                }
            }
        }
        let renamed = |name: &str| {
            let mut words = name.splitn(3, '.');
            let (kind, index, rest) = (words.next()?, words.next()?, words.next());
            let kept = match kind {
                "mode" => modes,
                "net" => nets,
                _ => return Some(name.to_owned()),
            };
            let new = kept.iter().position(|i| i.to_string() == index)?;
            Some(format!("{kind}.{new}.{}", rest?))
        };
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| Some((renamed(name)?, tensor.clone())));
        Parts { about, tensors: tensors.collect() }
    }
}

/// Paths to everything in a description.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| places(v, format!("{at}/{key}"), all)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), all)),
        _ => (),
    }
    all.push(at);
}

/// Numbers at the ends of ranges, and any.
fn number(input: &mut Unstructured<'_>) -> Result<i64> {
    let near = i64::from(i8::arbitrary(input)?);
    Ok(match u8::arbitrary(input)? {
        shift @ 0..=62 => (1 << shift) + near % 3,
        shift @ 63..=125 => -(1 << (shift - 63)) + near % 3,
        126..=200 => near,
        _ => i64::arbitrary(input)?,
    })
}

fn change_description(input: &mut Unstructured<'_>, about: &mut Value) -> Result<()> {
    let mut all = Vec::new();
    places(about, String::new(), &mut all);
    let to = input.choose(&all)?;
    let value = match u8::arbitrary(input)? {
        0..=159 => json!(number(input)?),
        160..=199 => about.pointer(input.choose(&all)?).cloned().unwrap_or_default(),
        200..=219 => json!(bool::arbitrary(input)?),
        220..=229 => Value::Null,
        230..=239 => json!(
            ["static", "chain", "draft", "fine", "coarse", "ids", "", "no name\n", "é"]
                [input.int_in_range(0..=8)?]
        ),
        _ => json!([number(input)?, number(input)?]),
    };
    if let Some(place) = about.pointer_mut(to) {
        *place = value;
    }
    Ok(())
}

fn change_tensor(input: &mut Unstructured<'_>, tensors: &mut Tensors) -> Result<()> {
    let names: Vec<String> = tensors.keys().cloned().collect();
    let Some(name) = names.get(usize::from(u16::arbitrary(input)?) % names.len().max(1)) else {
        return Ok(());
    };
    let how = u8::arbitrary(input)?;
    let (dtype, shape, bytes) = tensors.get_mut(name).expect("it is there");
    let width = (dtype.bitsize() / 8).max(1);
    match how {
        // Every value, or one.
        0..=99 => {
            let value = number(input)?.to_le_bytes();
            bytes.chunks_mut(width).for_each(|to| to.copy_from_slice(&value[..to.len()]));
        }
        100..=199 if !bytes.is_empty() => {
            let at = usize::from(u16::arbitrary(input)?) % bytes.len() / width * width;
            bytes[at..at + width].copy_from_slice(&number(input)?.to_le_bytes()[..width]);
        }
        // Another type or shape of the same size.
        200..=209 => {
            let other = *input.choose(&TYPES)?;
            *dtype = if other.bitsize() == dtype.bitsize() { other } else { *dtype };
        }
        210..=219 => shape.reverse(),
        220..=229 => shape.push(1),
        // Gone, or another's.
        230..=239 => _ = tensors.remove(name),
        _ => {
            let from = names[usize::from(u16::arbitrary(input)?) % names.len()].clone();
            let tensor = tensors[&from].clone();
            tensors.insert(name.clone(), tensor);
        }
    }
    Ok(())
}

/// A profile after some changes.
pub fn changed(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut parts = input.choose(&MADE)?.clone();
    let (descriptions, tensors) = (input.int_in_range(0..=3)?, input.int_in_range(0..=8)?);
    many(descriptions, || change_description(input, &mut parts.about))?;
    many(tensors, || change_tensor(input, &mut parts.tensors))?;
    let mut bytes = file(&parts.tensors, Some(("speckv", parts.about.to_string())));
    if bool::arbitrary(input)? {
        damage(input, &mut bytes)?;
    }
    Ok(bytes)
}
