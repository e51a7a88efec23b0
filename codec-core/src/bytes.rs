//! Bounds-checked little-endian reading: the only place that slices input by lengths read from it.

use crate::{Error, Result};

/// Reads fields off the front of a byte string. Every failure is [`Error::Truncated`] at the field's offset.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// Everything not read yet.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = self.rest();
        match usize::try_from(count).ok().and_then(|count| rest.get(..count)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(Error::Truncated { offset: self.at as u64, needed: count, found: rest.len() as u64 }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian 16-bit integer.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian 32-bit integer.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian 64-bit integer.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A digest.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn digest(&mut self) -> Result<[u8; 32]> {
        self.array()
    }
}
