//! What the demo carries with it.

use speckv_predictor::profile::ProfileFile;
use tempfile::TempDir;

use crate::error::{Code, Error, Result};

const CONFIG: &[u8] = include_bytes!("../../../../models/tiny-qwen3/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../../../models/tiny-qwen3/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../../../../models/tiny-qwen3/tokenizer.json");
/// The model's profile: `speckv build --model models/tiny-qwen3 --text models/calibration/*.txt`.
#[cfg(speckv_demo_profile)]
const PROFILE: &[u8] = include_bytes!("../../../../models/tiny-qwen3/profile.speckv");
#[cfg(not(speckv_demo_profile))]
const PROFILE: &[u8] = &[];
/// A text that the profile was not fitted to.
pub const TEXT: &str = include_str!("../../../assets/demo.txt");

/// The embedded profile. Only the program that builds the first one is without it.
pub fn profile() -> Result<ProfileFile<'static>> {
    if PROFILE.is_empty() {
        return Err(Error::new(
            Code::Internal,
            "this program was built without the demo's profile; write it with `speckv build --model models/tiny-qwen3 \
             --text models/calibration/*.txt -o models/tiny-qwen3/profile.speckv` and build again",
        ));
    }
    Ok(ProfileFile::parse(PROFILE)?)
}

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
