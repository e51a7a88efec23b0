//! GGUF files made here: shape, row order of the rotary pairs, RoPE factors, tokenizers, refusals.

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use speckv_capture::ModelSource;
use speckv_capture::model::{Family, RopeScaling};

const HIDDEN: usize = 32;

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

fn texts(list: &[&str]) -> Value {
    Value::Array(list.iter().map(|s| text(s)).collect())
}

/// Keys and values of a file's header.
type Metadata = Vec<(String, Value)>;

/// Metadata of a model with 2 query heads, 1 key head and 16 scalars per head.
fn metadata(arch: &str) -> Metadata {
    let key = |name: &str| format!("{arch}.{name}");
    vec![
        ("general.architecture".to_owned(), text(arch)),
        (key("embedding_length"), Value::U32(HIDDEN as u32)),
        (key("attention.head_count"), Value::U32(2)),
        (key("attention.head_count_kv"), Value::U32(1)),
        (key("block_count"), Value::U32(1)),
        (key("feed_forward_length"), Value::U32(64)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("rope.freq_base"), Value::F32(5e5)),
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text("smollm")),
        (
            "tokenizer.ggml.tokens".to_owned(),
            texts(&["<|end|>", "a", "b", "ab", "1", "2", "12", "Ġ", "Ċ", "ĊĊ"]),
        ),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::Array((0..10).map(|i| Value::I32(if i == 0 { 3 } else { 1 })).collect()),
        ),
        ("tokenizer.ggml.merges".to_owned(), texts(&["a b", "1 2", "Ċ Ċ"])),
    ]
}

/// Row i of the matrix holds the number i throughout.
fn counting(rows: usize, kind: GgmlDType) -> QTensor {
    let data: Vec<f32> = (0..rows * HIDDEN).map(|i| (i / HIDDEN) as f32).collect();
    QTensor::quantize(&Tensor::from_vec(data, (rows, HIDDEN), &Device::Cpu).unwrap(), kind).unwrap()
}

fn open(metadata: &[(String, Value)], extra: Option<(&str, &QTensor)>) -> Result<ModelSource, String> {
    open_after(metadata, extra, |_| ())
}

/// The file after `change` has been at its bytes.
fn open_after(
    metadata: &[(String, Value)],
    extra: Option<(&str, &QTensor)>,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<ModelSource, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (embedding, q, k) =
        (counting(10, GgmlDType::Q8_0), counting(32, GgmlDType::F16), counting(16, GgmlDType::F32));
    let mut tensors =
        vec![("token_embd.weight", &embedding), ("blk.0.attn_q.weight", &q), ("blk.0.attn_k.weight", &k)];
    tensors.extend(extra);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut file = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    let mut bytes = file.into_inner();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    ModelSource::open(&path).map_err(|e| e.to_string())
}

/// First number of every row.
fn rows(source: &ModelSource, name: &str) -> Vec<f32> {
    let tensor = source.tensor(name).unwrap();
    tensor.to_vec2::<f32>().unwrap().iter().map(|row| row[0]).collect()
}

#[test]
fn llama_rows_are_put_back_into_half_split_order() {
    let source = open(&metadata("llama"), None).unwrap();
    let config = source.config();
    assert_eq!((config.family, config.vocab, config.head_dim), (Family::Llama, 10, 16));
    assert_eq!((config.rope.theta, &config.rope.scaling), (5e5, &RopeScaling::None));
    // In the file rows 2i and 2i + 1 of a head rotate together; here rows i and i + 8.
    let head: Vec<f32> = (0..16).map(|i| (if i < 8 { 2 * i } else { 2 * (i - 8) + 1 }) as f32).collect();
    assert_eq!(rows(&source, "model.layers.0.self_attn.k_proj.weight"), head);
    let second: Vec<f32> = head.iter().map(|row| row + 16.0).collect();
    assert_eq!(rows(&source, "model.layers.0.self_attn.q_proj.weight"), [head, second].concat());
    // Tied: the output matrix is the embedding.
    assert_eq!(rows(&source, "lm_head.weight"), rows(&source, "model.embed_tokens.weight"));
}

#[test]
fn qwen_rows_stay_where_they_are() {
    let source = open(&metadata("qwen2"), None).unwrap();
    assert!(source.config().qkv_bias);
    let straight: Vec<f32> = (0..32).map(|i| i as f32).collect();
    assert_eq!(rows(&source, "model.layers.0.self_attn.q_proj.weight"), straight);
}

#[test]
fn rope_factors_are_divisors() {
    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let tensor = Tensor::from_vec(factors, 8, &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
    let source = open(&metadata("llama"), Some(("rope_freqs.weight", &tensor))).unwrap();
    let rope = &source.config().rope;
    assert_eq!(rope.scaling, RopeScaling::Divisors((1..=8).map(f64::from).collect()));
    assert_eq!(rope.inv_freq(16)[1], 5e5f64.powf(-2.0 / 16.0) / 2.0);
}

#[test]
fn pre_tokenizers_differ_as_they_should() {
    let ids = |pre: &str, text_in: &str| {
        let mut metadata = metadata("llama");
        metadata[9].1 = text(pre);
        open(&metadata, None).unwrap().encode(text_in).unwrap()
    };
    // smollm and qwen2 take digits one by one, gpt-2 and llama-bpe together.
    assert_eq!(ids("smollm", "ab12<|end|>"), [3, 4, 5, 0]);
    assert_eq!(ids("qwen2", "ab12<|end|>"), [3, 4, 5, 0]);
    assert_eq!(ids("gpt-2", "ab12<|end|>"), [3, 6, 0]);
    assert_eq!(ids("llama-bpe", "ab12<|end|>"), [3, 6, 0]);
    // Digits are split off first in smollm, so the line breaks before one stay together; gpt-2 gives the
    // last of them to what follows.
    assert_eq!(ids("smollm", "\n\n1"), [9, 4]);
    assert_eq!(ids("gpt-2", "\n\n1"), [8, 8, 4]);
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let refuse = |change: &dyn Fn(&mut Metadata)| {
        let mut metadata = metadata("llama");
        change(&mut metadata);
        open(&metadata, None).err().expect("should be refused")
    };
    assert_eq!(
        refuse(&|m| m[0].1 = text("gemma2")),
        "unsupported model: found GGUF architecture \"gemma2\"; supported: Llama (SmolLM2, Llama 2/3, Mistral), \
         Qwen2/2.5, Qwen3"
    );
    assert_eq!(
        refuse(&|m| m.push(("llama.expert_count".to_owned(), Value::U32(8)))),
        "unsupported model: found 8 experts; supported: dense models"
    );
    assert_eq!(
        refuse(&|m| m.push(("llama.rope.scaling.type".to_owned(), text("yarn")))),
        "unsupported model: found rope scaling \"yarn\"; supported: none, linear, rope_freqs.weight (Llama 3)"
    );
    assert!(refuse(&|m| _ = m.remove(1)).ends_with("metadata llama.embedding_length is missing"));
}

#[test]
fn a_missing_tokenizer_does_not_hide_the_weights() {
    let mut metadata = metadata("llama");
    metadata[8].1 = text("llama");
    let source = open(&metadata, None).unwrap();
    assert!(source.tensor("model.embed_tokens.weight").is_ok());
    assert_eq!(
        source.encode("a").unwrap_err().to_string(),
        "unsupported model: found GGUF tokenizer \"llama\"; supported: \"gpt2\" (byte-level BPE); pass --tokenizer \
         tokenizer.json for this model"
    );
    let error = source.tensor("model.norm.weight").unwrap_err().to_string();
    assert!(error.ends_with("tensor output_norm.weight is missing"), "{error}");
}

#[test]
fn a_damaged_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0").unwrap();
    let error = ModelSource::open(&path).err().unwrap().to_string();
    assert!(error.contains("not a readable GGUF file") && !error.contains('\n'), "{error}");
    assert!(ModelSource::open(Path::new("/no/such/model")).is_err());
}

#[test]
fn an_alignment_of_zero_is_refused_whatever_its_type() {
    for zero in [Value::U8(0), Value::I8(0), Value::U16(0), Value::I16(0), Value::U32(0), Value::I32(0)] {
        for key in ["general.alignment", "general.alignment\0"] {
            let mut metadata = metadata("llama");
            // Behind a list of lists, which the reader must get over.
            metadata.push(("nested".to_owned(), Value::Array(vec![texts(&["a"]), texts(&[])])));
            metadata.push((key.to_owned(), zero.clone()));
            let error = open(&metadata, None).err().expect("should be refused");
            assert!(error.ends_with("general.alignment: expected at least 1, found 0"), "{error}");
        }
    }
    // The default; a value of a type that no alignment has counts for nothing.
    for fine in [Value::U32(32), Value::U64(0)] {
        let mut metadata = metadata("llama");
        metadata.push(("general.alignment".to_owned(), fine));
        assert!(open(&metadata, None).is_ok());
    }
}

#[test]
fn a_shape_that_does_not_fit_the_file_is_refused_even_where_its_product_overflows() {
    let name = "blk.0.attn_k.weight";
    for dims in [[1u64 << 32, 1 << 32], [u64::MAX, u64::MAX], [1 << 40, 1], [0, 16]] {
        let source = open_after(&metadata("llama"), None, |bytes| {
            let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len() + 4;
            bytes[at..at + 16].copy_from_slice(&dims.map(u64::to_le_bytes).concat());
        });
        let error = source.unwrap().tensor("model.layers.0.self_attn.k_proj.weight").unwrap_err().to_string();
        assert!(error.contains("expected a shape that fits the file"), "{error}");
    }
}
