//! Files as memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file for reading.
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is read-only. Like every program that maps its weights, this one relies on nobody
    // truncating the file while it is open; changed bytes would be wrong weights, which are values only.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}
