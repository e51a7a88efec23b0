//! XXH3-64 checksums, each over bytes in stream order.

use alloc::vec::Vec;

use crate::ElementFormat;

/// XXH3-64 with seed 0.
pub fn xxh3(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Checksum of a plane's values: of its codes as bytes of the element format, little-endian. `scratch` is overwritten.
pub fn plane_checksum(format: ElementFormat, codes: &[u16], scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    if format.width() == 8 {
        scratch.extend(codes.iter().map(|&code| code as u8));
    } else {
        scratch.resize(2 * codes.len(), 0);
        for (bytes, code) in scratch.chunks_exact_mut(2).zip(codes) {
            bytes.copy_from_slice(&code.to_le_bytes());
        }
    }
    xxh3(scratch)
}

/// Checksum of a chunk's restored values: of the checksums of its planes. Planes can so be hashed in any order.
#[derive(Clone, Debug, Default)]
pub struct ValuesChecksum {
    planes: Vec<u8>,
}

impl ValuesChecksum {
    /// Of no planes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next plane's checksum.
    pub fn push(&mut self, plane: u64) {
        self.planes.extend_from_slice(&plane.to_le_bytes());
    }

    /// The checksum of all planes so far.
    pub fn value(&self) -> u64 {
        xxh3(&self.planes)
    }
}
