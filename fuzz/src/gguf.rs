//! GGUF files, right and wrong.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::tensors::damage;

/// A value of the file's header.
#[derive(Clone, Debug)]
pub enum Value {
    /// Type and bytes of a number or truth value.
    Plain(u32, Vec<u8>),
    /// Text.
    Text(String),
    /// The elements' type and their bytes.
    List(u32, Vec<Value>),
}

const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Bytes of the types before them and after.
const WIDTHS: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

impl Value {
    fn u32(n: u32) -> Value {
        Value::Plain(4, n.to_le_bytes().to_vec())
    }

    fn f32(x: f32) -> Value {
        Value::Plain(6, x.to_le_bytes().to_vec())
    }

    fn texts(list: &[&str]) -> Value {
        Value::List(TEXT, list.iter().map(|s| Value::Text((*s).to_owned())).collect())
    }

    fn kind(&self) -> u32 {
        match self {
            Value::Plain(kind, _) => *kind,
            Value::Text(_) => TEXT,
            Value::List(..) => LIST,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Plain(_, bytes) => out.extend(bytes),
            Value::Text(text) => put(out, text),
            Value::List(kind, all) => {
                out.extend(kind.to_le_bytes());
                out.extend((all.len() as u64).to_le_bytes());
                all.iter().for_each(|one| one.write(out));
            }
        }
    }

    fn arbitrary(input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
        Ok(match input.int_in_range(0..=12)? {
            TEXT => Value::Text((*input.choose(&WORDS)?).to_owned()),
            LIST if depth < 3 => {
                let count = input.int_in_range(0..=3)?;
                let all =
                    (0..count).map(|_| Value::arbitrary(input, depth + 1)).collect::<Result<Vec<_>>>()?;
                Value::List(all.first().map_or(4, Value::kind), all)
            }
            kind => {
                let small = bool::arbitrary(input)?;
                let mut bytes = input.bytes(if small { 1 } else { WIDTHS[kind as usize].max(4) })?.to_vec();
                bytes.resize(WIDTHS[kind as usize].max(if kind == LIST { 4 } else { 0 }), 0);
                Value::Plain(if kind == LIST { 4 } else { kind }, bytes)
            }
        })
    }
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Texts that mean something to a reader, and some that should not.
const WORDS: [&str; 16] = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt2",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "none",
    "linear",
    "yarn",
    "a b",
    "a",
    "ab",
    "Ċ Ċ",
    "x\ny",
];

/// Header of a tiny model of a family.
fn metadata(family: &str) -> Vec<(String, Value)> {
    let own = |name: &str| format!("{family}.{name}");
    let types =
        (0..10).map(|i| Value::Plain(5, i32::from(if i == 0 { 3u8 } else { 1 }).to_le_bytes().to_vec()));
    vec![
        ("general.architecture".to_owned(), Value::Text(family.to_owned())),
        ("general.alignment".to_owned(), Value::u32(32)),
        (own("embedding_length"), Value::u32(8)),
        (own("attention.head_count"), Value::u32(2)),
        (own("attention.head_count_kv"), Value::u32(1)),
        (own("block_count"), Value::u32(1)),
        (own("feed_forward_length"), Value::u32(8)),
        (own("attention.layer_norm_rms_epsilon"), Value::f32(1e-5)),
        (own("rope.freq_base"), Value::f32(5e5)),
        ("tokenizer.ggml.model".to_owned(), Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::Text("smollm".to_owned())),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::texts(&["<|end|>", "a", "b", "ab", "1", "2", "12", "Ġ", "Ċ", "ĊĊ"]),
        ),
        ("tokenizer.ggml.token_type".to_owned(), Value::List(5, types.collect())),
        ("tokenizer.ggml.merges".to_owned(), Value::texts(&["a b", "1 2", "Ċ Ċ"])),
    ]
}

/// Keys that a header may have besides.
const KEYS: [&str; 8] = [
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    "expert_count",
    "attention.sliding_window",
];

/// Names and shapes (innermost first) of the tensors of the tiny model.
const TENSORS: [(&str, &[u64]); 13] = [
    ("token_embd.weight", &[8, 10]),
    ("output_norm.weight", &[8]),
    ("blk.0.attn_norm.weight", &[8]),
    ("blk.0.attn_q.weight", &[8, 8]),
    ("blk.0.attn_k.weight", &[8, 4]),
    ("blk.0.attn_v.weight", &[8, 4]),
    ("blk.0.attn_output.weight", &[8, 8]),
    ("blk.0.ffn_norm.weight", &[8]),
    ("blk.0.ffn_gate.weight", &[8, 8]),
    ("blk.0.ffn_up.weight", &[8, 8]),
    ("blk.0.ffn_down.weight", &[8, 8]),
    ("rope_freqs.weight", &[2]),
    ("output.weight", &[8, 10]),
];

/// Numbers at the ends of ranges, and any.
fn size(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u8::arbitrary(input)? {
        shift @ 0..=63 => (1 << shift) - u64::from(bool::arbitrary(input)?),
        64..=200 => u8::arbitrary(input)?.into(),
        _ => u64::arbitrary(input)?,
    })
}

/// The file of a tiny model after some changes.
pub fn changed(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let family = *input.choose(&["llama", "qwen2", "qwen3"])?;
    let mut metadata = metadata(family);
    for _ in 0..input.int_in_range(0..=3)? {
        let value = Value::arbitrary(input, 0)?;
        if bool::arbitrary(input)? {
            let at = input.choose_index(metadata.len())?;
            metadata[at].1 = value;
        } else {
            metadata.push((format!("{family}.{}", input.choose(&KEYS)?), value));
        }
    }
    let count = TENSORS.len() - usize::from(u8::arbitrary(input)? % 3);
    let (mut infos, mut offset) = (Vec::new(), 0u64);
    let wrong = input.int_in_range(0..=2 * TENSORS.len())?;
    for (at, (name, shape)) in TENSORS.iter().take(count).enumerate() {
        let (mut shape, mut kind, mut start) = (shape.to_vec(), 0u32, offset);
        if at == wrong {
            let place = input.choose_index(shape.len() + 1)?;
            if place < shape.len() {
                shape[place] = size(input)?
            } else {
                shape.push(size(input)?)
            }
            kind = u32::from(u8::arbitrary(input)? % 32);
            start = if bool::arbitrary(input)? { start } else { size(input)? };
        }
        put(&mut infos, name);
        infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| infos.extend(n.to_le_bytes()));
        infos.extend(kind.to_le_bytes());
        infos.extend(start.to_le_bytes());
        offset = (offset + 4 * TENSORS[at].1.iter().product::<u64>()).next_multiple_of(32);
    }
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((count as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        put(&mut out, key);
        out.extend(value.kind().to_le_bytes());
        value.write(&mut out);
    }
    out.extend(infos);
    let data = out.len().next_multiple_of(32);
    out.resize(data + offset as usize, 0);
    let fill = u32::arbitrary(input)?.to_le_bytes();
    out[data..].iter_mut().zip(fill.iter().cycle()).for_each(|(to, b)| *to = *b);
    if bool::arbitrary(input)? {
        damage(input, &mut out)?;
    }
    Ok(out)
}
