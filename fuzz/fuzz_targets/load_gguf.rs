//! Any bytes for a GGUF model: an error of one line or a model, never a panic nor memory out of proportion; a model's tensors have the shapes that its
//! configuration says, and its tokenizer takes text.
//!
//! Half of the inputs are the file, the others say what changes in one that was right.
#![no_main]

use std::path::Path;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use speckv_capture::{ModelConfig, ModelSource};
use speckv_fuzz::{file, gguf, memory, one_line};

fn check(path: &Path, bytes: usize) {
    // A list of bytes becomes one of values, 32 bytes each; four-bit weights become f32.
    let most = 128 * bytes + (1 << 16);
    let source = memory::at_most(most, || ModelSource::open(path));
    let config = ModelConfig::read(path);
    let source = match (source, config) {
        (Ok(source), Ok(config)) if *source.config() == config => source,
        (Err(a), Err(b)) => {
            one_line(&a);
            return assert_eq!(a.to_string(), b.to_string());
        }
        (a, b) => panic!("opening and reading the shape differ: {:?}, {b:?}", a.map(|a| a.config().clone())),
    };
    let config = source.config();
    let fixed = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"].map(str::to_owned);
    let names = fixed.into_iter().chain(config.layer_tensors(0).into_iter().map(|(name, _)| name));
    for name in names {
        match memory::at_most(most, || source.tensor(&name)) {
            Ok(tensor) => assert_eq!(Some(tensor.dims()), config.tensor_shape(&name).as_deref()),
            Err(error) => one_line(&error),
        }
    }
    match source.encode("ab12<|end|>\n\n1") {
        Ok(ids) => assert!(ids.len() <= 16),
        Err(error) => one_line(&error),
    }
}

fuzz_target!(init: {
    // candle's errors take a backtrace along where it is enabled: megabytes of symbols that no input asked for.
    // SAFETY: nothing else runs yet.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}, |data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let read = |bytes: &[u8]| file::with("model.gguf", bytes, |path| check(path, bytes.len()));
    if how % 2 == 0 {
        read(rest);
    } else if let Ok(bytes) = gguf::changed(&mut Unstructured::new(rest)) {
        read(&bytes);
    }
});
