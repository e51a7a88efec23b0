//! Readers that take a path get one: a file of this process that every input overwrites, in memory where there is such a folder.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the file `name` of this process stands.
pub fn place(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    folder.join(format!("speckv-fuzz-{}-{name}", std::process::id()))
}

/// Runs `read` on a file with these bytes.
pub fn with<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let path = place(name);
    fs::write(&path, bytes).expect("a file can be written");
    let result = read(&path);
    fs::remove_file(&path).expect("the file is still there");
    result
}
