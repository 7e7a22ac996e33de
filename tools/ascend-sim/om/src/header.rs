//! The header and the table of partitions.

use std::ops::Range;

use crate::OmError;

/// Bytes of the header.
pub(crate) const SIZE: usize = 256;

const MAGIC: [u8; 4] = *b"IMOD";
const VERSION: u32 = 0x2000_0000;
const ENTRY: usize = 24;

/// What is used of the header. Its other fields are zero, as ATC leaves them for a plain model.
#[derive(Debug)]
pub(crate) struct Header {
    /// BLAKE3 of all that follows the header, in hexadecimal digits. In ATC's files the field holds a signature.
    pub(crate) checksum: Vec<u8>,
    /// Bytes behind the header.
    pub(crate) length: u64,
    pub(crate) name: String,
    /// The release of CANN, which ATC writes as the version of the operator package.
    pub(crate) release: String,
}

impl Header {
    /// The header's bytes, unless the model is too long for the field of its length.
    pub(crate) fn encode(&self) -> Option<[u8; SIZE]> {
        let mut out = [0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &256_u32.to_le_bytes());
        put(8, &VERSION.to_le_bytes());
        put(12, &self.checksum);
        put(76, &u32::try_from(self.length).ok()?.to_le_bytes());
        put(84, text(&self.name, 32));
        put(156, &1_u32.to_le_bytes());
        put(160, text(&self.release, 20));
        put(184, &self.length.to_le_bytes());
        Some(out)
    }

    pub(crate) fn parse(file: &[u8]) -> Result<Header, OmError> {
        if let Some(magic) = file.first_chunk::<4>()
            && *magic != MAGIC
        {
            return Err(OmError::Magic(*magic));
        }
        let Some(bytes) = file.first_chunk::<SIZE>() else {
            let (need, have) = (SIZE as u64, file.len() as u64);
            return Err(OmError::Truncated { what: "the header", need, have });
        };
        let size = word(bytes, 4);
        if size as usize != SIZE {
            return Err(OmError::Corrupt(format!("its header has {size} bytes instead of {SIZE}")));
        }
        let zero_ended = |at: usize, most: usize| {
            let field = &bytes[at..at + most];
            let end = field.iter().position(|&b| b == 0).unwrap_or(most);
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        Ok(Header {
            checksum: bytes[12..76].to_vec(),
            length: long(bytes, 184),
            name: zero_ended(84, 32),
            release: zero_ended(160, 20),
        })
    }
}

/// A partition, and where it is behind the header.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) kind: u32,
    pub(crate) range: Range<usize>,
}

/// The table for partitions that follow it without gaps.
pub(crate) fn encode_table(parts: &[(u32, &[u8])]) -> Vec<u8> {
    let mut table = Vec::with_capacity(8 + ENTRY * parts.len());
    table.extend((parts.len() as u64).to_le_bytes());
    let mut offset = 0;
    for (kind, part) in parts {
        table.extend(u64::from(*kind).to_le_bytes());
        for number in [offset, part.len() as u64] {
            table.extend(number.to_le_bytes());
        }
        offset += part.len() as u64;
    }
    table
}

/// Reads the table at the start of what follows the header. Offsets in the file count from the table's end.
pub(crate) fn parse_table(content: &[u8]) -> Result<Vec<Partition>, OmError> {
    let truncated = |what, need| OmError::Truncated { what, need, have: content.len() as u64 };
    if content.len() < 8 {
        return Err(truncated("the partition table", 8));
    }
    let count = word(content, 0) as usize;
    let end = 8 + ENTRY * count;
    if content.len() < end {
        return Err(truncated("the partition table", end as u64));
    }
    let entry = |i: usize| {
        let at = 8 + ENTRY * i;
        let (offset, size) = (long(content, at + 8), long(content, at + 16));
        let start = (end as u64).checked_add(offset);
        let stop = start.and_then(|start| start.checked_add(size));
        let (Some(start), Some(stop)) = (start, stop) else {
            return Err(OmError::Corrupt(format!("partition {i} is of {size} bytes at {offset}")));
        };
        match (usize::try_from(start), usize::try_from(stop)) {
            (Ok(start), Ok(stop)) if stop <= content.len() => {
                Ok(Partition { kind: word(content, at), range: start..stop })
            }
            _ => Err(truncated("a partition", stop)),
        }
    };
    (0..count).map(entry).collect()
}

/// As much of a text as a field holds, with a zero behind it.
fn text(text: &str, field: usize) -> &[u8] {
    let mut end = text.len().min(field - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
