//! Copying within memory and reading a file.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::time::Timer;
use crate::error::{Code, Error, Result};
use crate::machine::Disk;

/// Bytes that one copy or read handles.
const BLOCK: usize = 4 << 20;
/// Readers at the same time: enough to keep a solid-state disk busy.
const READERS: usize = 4;
/// What unbuffered reads must be aligned to; covers the sector sizes in use.
const ALIGN: usize = 4096;

/// Bytes copied a second by all threads, each byte counted once; far more than caches hold.
pub fn memory_copy(timer: &Timer) -> Result<f64> {
    let bytes = if timer.quick { 16 * BLOCK } else { 64 * BLOCK };
    let from: Vec<u8> = (0..bytes).map(|i| (i / BLOCK + i) as u8).collect();
    let mut to = vec![0u8; bytes];
    let mut copy =
        || to.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).for_each(|(t, f)| t.copy_from_slice(f));
    copy();
    let seconds = timer.median(copy);
    match to == from {
        true => Ok(bytes as f64 / seconds),
        false => Err(Error::new(Code::Internal, "memory: what was copied is not what was there")),
    }
}

/// Writes a file, flushes it to the disk and reads it, past the page cache where the system lets us.
pub fn disk(folder: &Path, quick: bool) -> Result<Disk> {
    let io = |e| Error::io(folder, e);
    if !folder.is_dir() {
        return Err(Error::usage(format!("{}: expected a folder to test, found none", folder.display())));
    }
    let blocks = if quick { 32 } else { 256 };
    let mut file = tempfile::Builder::new().prefix(".speckv-").tempfile_in(folder).map_err(io)?;
    let mut block: Vec<u8> =
        (0..BLOCK).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for number in 0..blocks as u64 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).map_err(io)?;
    }
    file.as_file().sync_all().map_err(io)?;
    let direct =
        open(file.path(), true).and_then(|mut f| read(&mut f, 0, &mut vec![0; BLOCK + ALIGN])).is_ok();
    let since = Instant::now();
    let results: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let path = file.path();
                scope.spawn(move || {
                    let (mut file, mut buffer) = (open(path, direct)?, vec![0; BLOCK + ALIGN]);
                    (reader..blocks).step_by(READERS).try_for_each(|b| read(&mut file, b as u64, &mut buffer))
                })
            })
            .collect();
        readers.into_iter().map(|r| r.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()))).collect()
    });
    let seconds = since.elapsed().as_secs_f64();
    results.into_iter().collect::<std::io::Result<()>>().map_err(io)?;
    let bytes = (blocks * BLOCK) as u64;
    Ok(Disk { rate: bytes as f64 / seconds, bytes, direct })
}

/// Reads a block into the aligned part of `buffer` and checks that it is the one asked for.
fn read(file: &mut File, number: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    let start = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
    let block = &mut buffer[start..start + BLOCK];
    file.seek(SeekFrom::Start(number * BLOCK as u64))?;
    file.read_exact(block)?;
    if block[..8] == number.to_le_bytes() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// `O_DIRECT`, which the standard library does not name.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
const DIRECT: Option<i32> = Some(0o40000);
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
const DIRECT: Option<i32> = Some(0o200000);
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
const DIRECT: Option<i32> = None;

fn open(path: &Path, direct: bool) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    match (direct, DIRECT) {
        (false, _) => {}
        (true, None) => return Err(ErrorKind::Unsupported.into()),
        #[cfg(target_os = "linux")]
        (true, Some(flag)) => {
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flag);
        }
        #[cfg(not(target_os = "linux"))]
        (true, Some(_)) => return Err(ErrorKind::Unsupported.into()),
    }
    options.open(path)
}
