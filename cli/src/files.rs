//! Files in and out: inputs are mapped, outputs appear whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The bytes of an input file.
pub enum Input {
    /// A file.
    Map(Mmap),
    /// A pipe, read to its end, or an empty file.
    Memory(Vec<u8>),
}

impl Input {
    /// Maps a file for reading; reads what cannot be mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let about = file.metadata().map_err(|e| Error::io(path, e))?;
        if about.is_dir() {
            return Err(Error::usage(format!("{}: expected a file, found a folder", path.display())));
        }
        // Some systems refuse to map nothing.
        if !about.is_file() || about.len() == 0 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
            return Ok(Input::Memory(bytes));
        }
        // SAFETY: the map is read-only, and its bytes are checked as any input is. As with every program that maps
        // files, nobody may change it meanwhile; outputs of this program are renamed into place and never are. If it is
        // cut short, `faults` ends the program.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Input::Map(map))
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Input::Map(map) => map,
            Input::Memory(bytes) => bytes,
        }
    }
}

/// Refuses an output path that is also an input, a folder, or in no folder, before any work is done.
pub fn check_output(path: &Path, inputs: &[&Path]) -> Result<()> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(Error::usage(format!("{}: the folder does not exist; make it first", folder.display())));
    }
    let Ok(existing) = path.canonicalize() else { return Ok(()) };
    if existing.is_dir() {
        return Err(Error::usage(format!("{}: expected a file to write, found a folder", path.display())));
    }
    match inputs.iter().find(|input| input.canonicalize().is_ok_and(|i| i == existing)) {
        Some(_) => Err(Error::usage(format!("{} is an input; choose another output", path.display()))),
        None => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An output file that is written under a temporary name and appears whole.
pub struct OutputFile {
    path: PathBuf,
}

impl OutputFile {
    /// Checks the path, and by a trial that its folder can be written to, before any work is done. Nothing is left there meanwhile: an interrupted
    /// program leaves nothing behind.
    pub fn create(path: &Path, inputs: &[&Path]) -> Result<Self> {
        check_output(path, inputs)?;
        drop(temporary(path)?);
        Ok(OutputFile { path: path.to_owned() })
    }

    /// Writes the bytes, flushes them to the disk and renames: a crash leaves the old file or the new one.
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        let (path, mut file) = (&self.path, temporary(&self.path)?);
        file.write_all(bytes).map_err(|e| Error::io(path, e))?;
        file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
        file.persist(path).map_err(|e| Error::io(path, e.error))?;
        Ok(())
    }
}

/// A file in the folder of `path` that is removed again unless it is renamed.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(path);
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // The usual permissions of a new file; temporary ones are private otherwise.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".speckv-").tempfile_in(folder).map_err(|e| Error::io(folder, e))
}
