//! What the demo carries with it.

use tempfile::TempDir;

use crate::error::{Error, Result};

const CONFIG: &[u8] = include_bytes!("../../../../models/tiny-qwen3/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../../../models/tiny-qwen3/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../../../models/tiny-qwen3/tokenizer.json");
/// The model's profile: `speckv build --model models/tiny-qwen3 --text models/calibration/*.txt`.
pub const PROFILE: &[u8] = include_bytes!(env!("SPECKV_DEMO_PROFILE"));
/// A text that the profile was not fitted to.
pub const TEXT: &str = include_str!("../../../assets/demo.txt");

/// Models are read from files, so the embedded one becomes files, in a folder that goes when it is dropped.
pub fn unpack() -> Result<TempDir> {
    let failed = |e| Error::io(&std::env::temp_dir(), e);
    let folder = tempfile::Builder::new().prefix("speckv-demo-").tempdir().map_err(failed)?;
    for (name, bytes) in
        [("config.json", CONFIG), ("model.safetensors", WEIGHTS), ("tokenizer.json", TOKENIZER)]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).map_err(|e| Error::io(&path, e))?;
    }
    Ok(folder)
}
