//! The container (section 5 of the format): header, chunk directory, payloads.

use alloc::vec::Vec;

use crate::bytes::Reader;
use crate::checksum::xxh3;
use crate::chunk::{Chunk, ChunkDecoder};
use crate::header::Header;
use crate::limits::{ENTRY_BYTES, Limits};
use crate::{Checksum, Error, Result, Rule};

/// What the directory says about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes of the payload.
    pub payload_len: u64,
    /// XXH3-64 of the payload.
    pub payload_checksum: u64,
    /// Checksum of the restored values.
    pub values_checksum: u64,
}

impl Entry {
    /// The entry of a chunk.
    pub fn of(chunk: &Chunk) -> Self {
        Self {
            payload_len: chunk.payload.len() as u64,
            payload_checksum: chunk.payload_checksum,
            values_checksum: chunk.values_checksum,
        }
    }
}

/// Everything before the payloads. Writers that do not hold all payloads at once write this and then the payloads.
///
/// # Errors
/// [`Error::Argument`] if the header breaks a rule, if there is not one entry per chunk of the header, or if a payload is
/// longer than its bound.
pub fn write_front(header: &Header, directory: &[Entry]) -> Result<Vec<u8>> {
    header.check()?;
    if directory.len() as u64 != header.chunks() {
        let (expected, found) = (header.chunks() as i64, directory.len() as i64);
        return Err(Error::Argument { rule: Rule::ChunkCount, expected, found });
    }
    let mut out = Vec::new();
    header.write(&mut out);
    for (index, entry) in directory.iter().enumerate() {
        let bound = header.payload_bound(index as u64);
        if entry.payload_len > bound {
            let (expected, found) = (bound as i64, entry.payload_len as i64);
            return Err(Error::Argument { rule: Rule::PayloadLength, expected, found });
        }
        for field in [entry.payload_len, entry.payload_checksum, entry.values_checksum] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    out.extend_from_slice(&xxh3(&out).to_le_bytes());
    Ok(out)
}

/// A whole stream.
///
/// # Errors
/// Those of [`write_front`].
pub fn write_stream(header: &Header, chunks: &[Chunk]) -> Result<Vec<u8>> {
    let directory: Vec<Entry> = chunks.iter().map(Entry::of).collect();
    let mut out = write_front(header, &directory)?;
    out.reserve_exact(chunks.iter().map(|chunk| chunk.payload.len()).sum());
    for chunk in chunks {
        out.extend_from_slice(&chunk.payload);
    }
    Ok(out)
}

/// Header and directory of a stream: all that random access needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The header.
    pub header: Header,
    /// One entry per chunk.
    pub directory: Vec<Entry>,
    /// Bytes of the front itself: the first payload starts here.
    pub len: u64,
}

impl Front {
    /// Reads the front off the start of a stream; more may follow. If the bytes end within the front, the
    /// [`Error::Truncated`] says how much the next piece needs.
    ///
    /// # Errors
    /// Every error of section 7 of the format that concerns header and directory, and [`Error::Limit`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let header = Header::read(&mut reader, limits)?;
        let directory_at = reader.offset() as u64;
        let entries = reader.take(header.chunks() * ENTRY_BYTES as u64)?;
        let end = reader.offset();
        let expected = reader.u64()?;
        let found = xxh3(&bytes[..end]);
        if found != expected {
            return Err(Error::Damaged { checksum: Checksum::Header, expected, found });
        }
        // The bytes are there, so the allocation is earned.
        let mut directory = Vec::with_capacity(header.chunks() as usize);
        let mut fields = Reader::new(entries);
        for index in 0..header.chunks() {
            let offset = directory_at + fields.offset() as u64;
            let entry = Entry {
                payload_len: fields.u64()?,
                payload_checksum: fields.u64()?,
                values_checksum: fields.u64()?,
            };
            if entry.payload_len > header.payload_bound(index) {
                return Err(Error::Malformed { rule: Rule::PayloadLength, found: entry.payload_len, offset });
            }
            directory.push(entry);
        }
        Ok(Self { header, directory, len: reader.offset() as u64 })
    }

    /// Offset of a chunk's payload in the stream; for `index = directory.len()` the length of the stream.
    pub fn payload_offset(&self, index: usize) -> u64 {
        let lengths = self.directory.iter().take(index).map(|entry| entry.payload_len);
        // A payload is below 2^58 bytes, but 2^24 of them need not fit.
        lengths.fold(self.len, u64::saturating_add)
    }
}

/// A whole stream in memory, its front checked.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    /// Header, directory and the front's length.
    pub front: Front,
    /// Offset of every payload in `payloads`, and the end of the last.
    offsets: Vec<usize>,
    payloads: &'a [u8],
}

/// One chunk of a stream, its payload checked against its checksum.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRef<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// Position of the chunk's first token in the cache.
    pub first_token: u64,
    /// Tokens of the chunk.
    pub tokens: usize,
    /// Checksum of the restored values, for [`ChunkDecoder::finish`].
    pub values_checksum: u64,
}

impl<'a> ChunkRef<'a> {
    /// A decoder for the chunk.
    ///
    /// # Errors
    /// Those of [`ChunkDecoder::new`].
    pub fn decoder(&self, header: &Header) -> Result<ChunkDecoder<'a>> {
        ChunkDecoder::new(
            header.format,
            header.geometry.planes(),
            self.tokens,
            header.token_ids,
            self.payload,
        )
    }
}

impl<'a> Stream<'a> {
    /// Reads a stream's front and checks that the payloads fill the rest exactly.
    ///
    /// # Errors
    /// Those of [`Front::parse`]; [`Error::Truncated`] or [`Rule::TrailingBytes`].
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        let front = Front::parse(bytes, limits)?;
        let payloads = &bytes[front.len as usize..];
        let mut offsets = Vec::with_capacity(front.directory.len() + 1);
        let mut at = 0usize;
        offsets.push(at);
        for entry in &front.directory {
            let left = (payloads.len() - at) as u64;
            if entry.payload_len > left {
                let offset = front.len + at as u64;
                return Err(Error::Truncated { offset, needed: entry.payload_len, found: left });
            }
            at += entry.payload_len as usize;
            offsets.push(at);
        }
        if at != payloads.len() {
            let (found, offset) = ((payloads.len() - at) as u64, front.len + at as u64);
            return Err(Error::Malformed { rule: Rule::TrailingBytes, found, offset });
        }
        Ok(Self { front, offsets, payloads })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.front.header
    }

    /// The directory.
    pub fn directory(&self) -> &[Entry] {
        &self.front.directory
    }

    /// A chunk, after its payload's checksum was verified.
    ///
    /// # Errors
    /// [`Rule::ChunkIndex`]; [`Error::Damaged`].
    pub fn chunk(&self, index: usize) -> Result<ChunkRef<'a>> {
        let Some(entry) = self.front.directory.get(index) else {
            let expected = self.front.directory.len() as i64 - 1;
            return Err(Error::Argument { rule: Rule::ChunkIndex, expected, found: index as i64 });
        };
        let payload = &self.payloads[self.offsets[index]..self.offsets[index + 1]];
        let found = xxh3(payload);
        if found != entry.payload_checksum {
            return Err(Error::Damaged {
                checksum: Checksum::Payload,
                expected: entry.payload_checksum,
                found,
            });
        }
        let header = self.header();
        Ok(ChunkRef {
            payload,
            first_token: header.first_token + index as u64 * u64::from(header.chunk_tokens),
            tokens: header.tokens_of(index as u64) as usize,
            values_checksum: entry.values_checksum,
        })
    }

    /// A chunk as a stream of its own.
    ///
    /// # Errors
    /// Those of [`chunk`](Self::chunk); [`Rule::FirstToken`] for a chunk that starts at or after token 2^40.
    pub fn extract(&self, index: usize) -> Result<Vec<u8>> {
        let chunk = self.chunk(index)?;
        let header =
            Header { first_token: chunk.first_token, tokens: chunk.tokens as u64, ..self.header().clone() };
        let mut out = write_front(&header, &self.front.directory[index..=index])?;
        out.extend_from_slice(chunk.payload);
        Ok(out)
    }
}
