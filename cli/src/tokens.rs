//! Token ids, from files of ids and from texts.

use std::path::Path;

use speckv_capture::ModelSource;

use crate::error::{Error, Result};
use crate::files::Input;

/// Reads token ids: numbers in any text (`[1, 2, 3]`, or one a line), or those of a cache file.
pub fn read_ids(path: &Path) -> Result<Vec<u32>> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        let found = speckv_capture::Cache::read(path)?.token_ids;
        return found.ok_or_else(|| Error::input("expected a cache with token_ids, found none").of(path));
    }
    let text = read_text(path)?;
    let separator = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let words = text.split(separator).filter(|w| !w.is_empty());
    let ids = words.map(|word| {
        word.parse::<u32>().map_err(|_| {
            let word: String = word.chars().take(24).collect();
            Error::input(format!("expected token ids below 2^32, found `{word}`")).of(path)
        })
    });
    let ids = ids.collect::<Result<Vec<u32>>>()?;
    if ids.is_empty() { Err(Error::input("expected token ids, found none").of(path)) } else { Ok(ids) }
}

/// Reads a text.
pub fn read_text(path: &Path) -> Result<String> {
    let input = Input::open(path)?;
    let text = std::str::from_utf8(input.bytes()).map_err(|e| {
        Error::input(format!("expected UTF-8 text, found other bytes at {}", e.valid_up_to())).of(path)
    })?;
    Ok(text.to_owned())
}

/// Token ids of a text file.
pub fn encode(source: &ModelSource, path: &Path) -> Result<Vec<u32>> {
    let ids = source.encode(&read_text(path)?)?;
    if ids.is_empty() { Err(Error::input("expected text, found none").of(path)) } else { Ok(ids) }
}
