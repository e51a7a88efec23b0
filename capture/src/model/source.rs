//! One door to a model, whatever it is stored in.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Tensor;
use tokenizers::Tokenizer;

use super::config::ModelConfig;
use super::folder::Folder;
use super::gguf::Gguf;
use super::{gguf_tokenizer, hf_config};
use crate::error::{Error, Result};

/// An open target model. Weights are mapped, and converted one tensor at a time when asked for.
pub struct ModelSource {
    path: PathBuf,
    config: ModelConfig,
    weights: Weights,
    tokenizer_file: Option<PathBuf>,
    tokenizer: OnceLock<Tokenizer>,
}

enum Weights {
    Folder(Folder),
    Gguf(Box<Gguf>),
}

impl ModelSource {
    /// Opens a Hugging Face folder (`config.json`, `*.safetensors`, `tokenizer.json`) or a `.gguf` file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, None)
    }

    /// As [`ModelSource::open`], with the tokenizer taken from a `tokenizer.json` elsewhere.
    pub fn open_with(path: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let (config, weights, own_tokenizer) = if kind.is_dir() {
            let config_path = path.join("config.json");
            let text = std::fs::read_to_string(&config_path).map_err(|e| Error::io(&config_path, e))?;
            let mut config = hf_config::parse(&config_path, &text)?;
            let folder = Folder::open(path)?;
            // Older folders leave the flag out; transformers then ties where no output matrix is stored.
            config.tied_embeddings |= !folder.has("lm_head.weight");
            (config, Weights::Folder(folder), Some(path.join("tokenizer.json")))
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let gguf = Gguf::open(path)?;
            (gguf.config()?, Weights::Gguf(Box::new(gguf)), None)
        } else {
            return Err(Error::malformed(path, "expected a Hugging Face folder or a .gguf file"));
        };
        let tokenizer_file = tokenizer.map(Path::to_owned).or(own_tokenizer);
        Ok(ModelSource { path: path.to_owned(), config, weights, tokenizer_file, tokenizer: OnceLock::new() })
    }

    /// The folder or file this model was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A weight by its canonical (Hugging Face) name, as f32 on the CPU: matrices row-major `[out, in]`,
    /// vectors `[out]`, `model.embed_tokens.weight` `[vocab, hidden]`.
    ///
    /// `lm_head.weight` is the embedding table in models that tie the two. The shape is checked.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let expected = self.config.tensor_shape(name).ok_or_else(|| {
            Error::Argument(format!("{}: a model of this kind has no tensor {name}", self.path.display()))
        })?;
        let stored = match name {
            "lm_head.weight" if self.config.tied_embeddings => "model.embed_tokens.weight",
            _ => name,
        };
        let tensor = match &self.weights {
            Weights::Folder(folder) => folder.tensor(stored)?,
            Weights::Gguf(gguf) => gguf.tensor(&self.config, stored)?,
        };
        if tensor.dims() != expected {
            return Err(Error::malformed(
                &self.path,
                format!("tensor {name}: expected shape {expected:?}, found {:?}", tensor.dims()),
            ));
        }
        Ok(tensor)
    }

    /// The model's tokenizer, read on first use.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        if let Some(ready) = self.tokenizer.get() {
            return Ok(ready);
        }
        let built = match (&self.tokenizer_file, &self.weights) {
            (Some(file), _) => {
                let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
                let mut tokenizer = Tokenizer::from_bytes(bytes)
                    .map_err(|e| Error::malformed(file, format!("not a tokenizer.json: {e}")))?;
                // Limits meant for training batches would cut or pad a long prompt without a word.
                tokenizer
                    .with_truncation(None)
                    .map_err(|e| Error::malformed(file, format!("cannot lift the length limit: {e}")))?;
                tokenizer.with_padding(None);
                tokenizer
            }
            (None, Weights::Gguf(gguf)) => gguf_tokenizer::build(gguf)?,
            (None, Weights::Folder(_)) => {
                return Err(Error::malformed(&self.path, "holds no tokenizer.json"));
            }
        };
        Ok(self.tokenizer.get_or_init(|| built))
    }

    /// Token ids of `text`; no beginning or end token is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer()?
            .encode_fast(text, false)
            .map_err(|e| Error::Argument(format!("the text could not be tokenized: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl ModelConfig {
    /// Reads the shape alone, which needs no weights: a Hugging Face folder, its `config.json`, or a `.gguf` file.
    pub fn read(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            return Gguf::open(path)?.config();
        }
        let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        hf_config::parse(&file, &text)
    }
}
