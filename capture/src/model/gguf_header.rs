//! A look at the header of a GGUF file before candle reads it: candle divides by the alignment that the file names.

const KEY: &[u8] = b"general.alignment";
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// candle refuses lists that go deeper.
const DEEPEST: u32 = 64;

/// Whether the metadata has an alignment of zero. What cannot be read at all is left for candle to refuse.
pub(super) fn divides_by_zero(file: &[u8]) -> bool {
    let mut header = Header { rest: file, short: file.get(4..8) == Some(&[1, 0, 0, 0]) };
    header.any_zero_alignment().unwrap_or(false)
}

struct Header<'a> {
    rest: &'a [u8],
    /// Version 1: lengths of 32 bits.
    short: bool,
}

impl<'a> Header<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        let long =
            if self.short { self.u32()?.into() } else { u64::from_le_bytes(self.take(8)?.try_into().ok()?) };
        usize::try_from(long).ok()
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn any_zero_alignment(&mut self) -> Option<bool> {
        self.take(8)?; // magic and version
        self.length()?; // tensors
        for _ in 0..self.length()? {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0)?;
            // As candle reads it: without zeros at the end of the key, and only numbers count.
            let end = key.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if &key[..end] == KEY && kind < 6 && value.iter().all(|&byte| byte == 0) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Takes a value of type `kind`: its bytes, if it is a number.
    fn value(&mut self, kind: u32, depth: u32) -> Option<&'a [u8]> {
        match kind {
            0 | 1 | 7 => self.take(1),
            2 | 3 => self.take(2),
            4..=6 => self.take(4),
            10..=12 => self.take(8),
            TEXT => self.text(),
            LIST if depth <= DEEPEST => {
                let kind = self.u32()?;
                for _ in 0..self.length()? {
                    self.value(kind, depth + 1)?;
                }
                Some(&[])
            }
            _ => None,
        }
    }
}
