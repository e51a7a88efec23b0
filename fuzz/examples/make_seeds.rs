//! Writes the seeds that are made, not found, into `fuzz/corpus`. From the golden streams of `codec-core/vectors`: for `parse_header` the streams
//! themselves, for the targets that code planes the planes of every chunk with their models, for `decode_arbitrary` the models and the payload. For
//! the targets that load files: one that is right.

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Unstructured;
use safetensors::Dtype;
use speckv_codec_core::{ElementFormat, Limits, Stream};
use speckv_fuzz::tensors::{Tensors, file, tensor};
use speckv_fuzz::{gguf, profile};

/// The bytes that stand for sizes in the inputs of `speckv_fuzz::input`.
fn sizes(stream: &Stream<'_>, tokens: usize) -> Vec<u8> {
    let header = stream.header();
    let format = ElementFormat::ALL.iter().position(|f| *f == header.format).expect("one of all");
    let counts = [header.geometry.planes(), tokens, header.geometry.head_dim].map(|n| (n - 1) as u8);
    [&[format as u8], &counts[..], &[header.token_ids.into()]].concat()
}

fn save(corpus: &Path, target: &str, name: &str, bytes: &[u8]) {
    fs::create_dir_all(corpus.join(target)).expect("a folder");
    fs::write(corpus.join(target).join(name), bytes).expect("a file");
}

/// The seeds of an accepted stream, chunk by chunk.
fn accepted(corpus: &Path, path: &Path, name: &str) {
    let bytes = fs::read(path).expect("a golden stream");
    let [models, values] = ["model", "values"].map(|e| fs::read(path.with_extension(e)).expect("its files"));
    let stream = Stream::parse(&bytes, &Limits::format()).expect("an accepted stream");
    let (header, mut models, mut values) = (stream.header(), &models[..], &values[..]);
    for index in 0..stream.directory().len() {
        let chunk = stream.chunk(index).expect("a chunk");
        let (planes, scalars) = (header.geometry.planes(), chunk.tokens * header.geometry.head_dim);
        let sizes = sizes(&stream, chunk.tokens);
        let model = 4 + 2 * 66 + 2 * (header.geometry.head_dim + chunk.tokens) + 4 * scalars;
        let (own, later) = models.split_at(planes * model);
        let (codes, rest) = values.split_at(planes * scalars * header.format.bytes());
        (models, values) = (later, rest);
        let decoder = chunk.decoder(header).expect("an accepted payload");
        let ids = decoder.token_ids().unwrap_or_default().iter().flat_map(|id| id.to_le_bytes());
        let mut encode: Vec<u8> = sizes.iter().copied().chain(ids).collect();
        // A CPU path by its place; a byte that says how the model is written stands before each.
        let mut decode = [&[2], &sizes[..]].concat();
        for (model, codes) in own.chunks(model).zip(codes.chunks(scalars * header.format.bytes())) {
            encode.push(0);
            encode.extend(model);
            encode.extend(codes);
            decode.push(0);
            decode.extend(model);
        }
        decode.extend(chunk.payload);
        save(corpus, "decode_arbitrary", &format!("{name}_{index}"), &decode);
        for target in ["roundtrip", "encode_twice", "dirty_output", "backends_agree"] {
            save(corpus, target, &format!("{name}_{index}"), &encode);
        }
    }
}

fn main() {
    type Make = fn(&mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>>;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = root.join("corpus");
    for folder in ["accept", "reject"] {
        let all = fs::read_dir(root.join("../codec-core/vectors").join(folder)).expect("the golden streams");
        let mut all: Vec<PathBuf> = all.map(|entry| entry.expect("a file").path()).collect();
        all.retain(|path| path.extension().is_some_and(|e| e == "skv"));
        all.sort();
        for path in &all {
            let name = format!("{folder}_{}", path.file_stem().expect("a name").to_string_lossy());
            save(&corpus, "parse_header", &name, &fs::read(path).expect("a golden stream"));
            if folder == "accept" {
                accepted(&corpus, path, &name);
            }
        }
        println!("{folder}: {} streams", all.len());
    }
    for (target, make) in [("load_gguf", gguf::changed as Make), ("load_profile", profile::changed)] {
        // Nothing but zeros asks for no change; an even first byte says that the rest is the file.
        let file = make(&mut Unstructured::new(&[])).expect("a right file");
        save(&corpus, target, "right", &[&[0], &file[..]].concat());
        println!("{target}: {} bytes", file.len());
    }
    let mut tensors = Tensors::new();
    for part in ["key", "value"] {
        let name = format!("layers.0.{part}");
        tensors.insert(name.clone(), tensor(Dtype::F8_E4M3, vec![2, 3, 4], |bytes| bytes.fill(0x38)));
        let ones = |bytes: &mut [u8]| bytes.copy_from_slice(&1f32.to_le_bytes());
        tensors.insert(format!("{name}_scale"), tensor(Dtype::F32, vec![1], ones));
    }
    tensors.insert("token_ids".to_owned(), tensor(Dtype::I64, vec![3], |bytes| bytes[0] = 7));
    save(&corpus, "load_cache_file", "right", &[&[0], &file(&tensors, None)[..]].concat());
}
