//! What a file says of itself, before a device reads it: a damaged file then gets a clear message.
//!
//! Layout, little-endian: `ModelFileHeader` of CANN's graph engine (hicann/ge, 2026).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Bytes of the header.
const SIZE: usize = 256;

/// What is used of the header of an `.om` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the model.
    pub name: String,
    /// The release of the operators that it was compiled with; empty if the file does not say.
    pub release: String,
    /// Whether shapes are only known when it runs.
    pub is_dynamic: bool,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why a file is no compiled model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OmError {
    /// It cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{}: not a compiled model (.om): it does not begin with IMOD", .0.display())]
    Magic(PathBuf),
    /// It is not whole.
    #[error("{}: truncated: its header speaks of {need} bytes, and there are {have}; copy or compile it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that it should have.
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
}

/// Reads the header, and compares the length that it gives with the file's.
///
/// # Errors
/// When the file is not there, not an `.om`, or truncated.
pub fn header(path: &Path) -> Result<Header, OmError> {
    let failed = |source| OmError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let have = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(SIZE);
    file.by_ref().take(SIZE as u64).read_to_end(&mut bytes).map_err(failed)?;
    if !bytes.starts_with(b"IMOD") {
        return Err(OmError::Magic(path.to_owned()));
    }
    let truncated = |need| OmError::Truncated { path: path.to_owned(), need, have };
    let Some(bytes) = bytes.first_chunk::<SIZE>() else { return Err(truncated(SIZE as u64)) };
    let number = |at: usize, len: usize| {
        bytes[at..at + len].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
    };
    // Older files have the length as 32 bits only.
    let length = match number(184, 8) {
        0 => number(76, 4),
        length => length,
    };
    let need = length.saturating_add(SIZE as u64);
    if need > have {
        return Err(truncated(need));
    }
    let text = |at: usize, len: usize| {
        let field = &bytes[at..at + len];
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(len);
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    Ok(Header {
        name: text(84, 32),
        release: text(160, 20),
        is_dynamic: bytes[193] != 0,
        bytes: have,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Header, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.om");
        std::fs::write(&path, bytes).unwrap();
        header(&path).map_err(|e| e.to_string().replace(&*folder.path().to_string_lossy(), ""))
    }

    #[test]
    fn the_length_of_the_header_is_compared_with_the_file() {
        let mut file = vec![0; 300];
        file[..4].copy_from_slice(b"IMOD");
        file[84..87].copy_from_slice(b"bs8");
        file[160..163].copy_from_slice(b"8.1");
        for (at, what) in [(76, "older files"), (184, "later files")] {
            let mut file = file.clone();
            file[at] = 44;
            let header = of(&file).unwrap();
            assert_eq!((&*header.name, &*header.release, header.bytes), ("bs8", "8.1", 300));
            file[at] = 45;
            assert_eq!(
                of(&file).unwrap_err(),
                "/m.om: truncated: its header speaks of 301 bytes, and there are 300; copy or compile it again",
                "{what}"
            );
        }
    }

    #[test]
    fn other_files_are_no_models() {
        let message = of(b"\x08\x07onnx").unwrap_err();
        assert_eq!(message, "/m.om: not a compiled model (.om): it does not begin with IMOD");
        assert!(of(b"IMOD").unwrap_err().contains("truncated"));
    }
}
