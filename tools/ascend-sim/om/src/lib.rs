//! The `.om` files of the stand-in for ATC and AscendCL.
//!
//! The container is the documented one: a header of 256 bytes, a partition table, and the partitions in its order. The
//! partition of the model's definition holds what ATC writes there about itself (chip, version, command line); where ATC
//! has weights, kernels and tasks, there is the ONNX model that was compiled, whole. [`write`] makes such a file,
//! [`read`] and [`parse`] give its parts back.
//!
//! Numbers in the file are little-endian. Layout: `ModelFileHeader`, `ModelPartitionTable` and `ge_ir.proto` of CANN's
//! open-source graph engine (hicann/ge, 2026).

mod definition;
mod header;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;

pub use self::definition::Description;
use self::header::{Header, Partition};

/// Why a file is no `.om` that the stand-in can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OmError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("not an .om file: it begins with {0:02x?} instead of \"IMOD\"")]
    Magic([u8; 4]),
    /// The file ends too early.
    #[error("the file is truncated: {what} takes {need} bytes, and there are {have}")]
    Truncated {
        /// The part that is not whole.
        what: &'static str,
        /// Bytes up to the end of that part.
        need: u64,
        /// Bytes of the file.
        have: u64,
    },
    /// A number in the header or in the table is none that it may be.
    #[error("the file is corrupt: {0}")]
    Corrupt(String),
    /// The content is not what was written.
    #[error("the file is corrupt: its content does not have the checksum of its header")]
    Checksum,
    /// A real ATC made the file.
    #[error("the file was not made by the simulated ATC, so there is no ONNX model in it to run")]
    NotSimulated,
    /// The model does not fit the format's limit.
    #[error("the model has {0} bytes, and the simulated ATC packs up to 4 GiB")]
    TooLarge(u64),
}

/// A compiled model.
#[derive(Debug, Clone)]
pub struct Om {
    /// What the compiler wrote about it.
    pub description: Description,
    /// The ONNX model, a part of the bytes that were read. Inputs and outputs are the graph's own, in its order; where
    /// there are [gears](Description::gears), their first axis is open.
    pub onnx: Bytes,
}

/// Types of partitions.
const MODEL_DEFINITION: u32 = 0;
const WEIGHTS: u32 = 1;

/// Writes a compiled model and gives the size of the file. It is written beside `path` and put in place when it is whole.
///
/// # Errors
/// When the file cannot be written, or the model is larger than the format's numbers.
pub fn write(path: &Path, description: &Description, onnx: &[u8]) -> Result<u64, OmError> {
    let definition = definition::encode(description, onnx.len());
    let parts = [(MODEL_DEFINITION, definition.as_slice()), (WEIGHTS, onnx)];
    let table = header::encode_table(&parts);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&table);
    for (_, part) in parts {
        hasher.update_rayon(part);
    }
    let length = (table.len() + definition.len()) as u64 + onnx.len() as u64;
    let header = Header {
        checksum: hasher.finalize().to_hex().as_bytes().to_vec(),
        length,
        name: description.name.clone(),
        release: description.release.clone(),
    };
    let header = header.encode().ok_or(OmError::TooLarge(length))?;

    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // As readable as any new file: temporary ones are their owner's only.
    let readable = fs::Permissions::from_mode(0o666);
    let mut file =
        tempfile::Builder::new().prefix(".om-").permissions(readable).tempfile_in(folder)?;
    file.write_all(&header)?;
    file.write_all(&table)?;
    for (_, part) in parts {
        file.write_all(part)?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(header.len() as u64 + length)
}

/// Reads a file of the simulated ATC.
///
/// # Errors
/// When it cannot be read, is truncated or corrupt, or a real ATC made it.
pub fn read(path: &Path) -> Result<Om, OmError> {
    parse(&Bytes::from(fs::read(path)?))
}

/// Reads a compiled model that is in memory. The ONNX model is not copied.
///
/// # Errors
/// When it is truncated or corrupt, or a real ATC made it.
pub fn parse(file: &Bytes) -> Result<Om, OmError> {
    let header = Header::parse(file)?;
    let content = file.slice(header::SIZE..);
    let have = content.len() as u64;
    if have < header.length {
        let size = header::SIZE as u64;
        let (need, have) = (size.saturating_add(header.length), size + have);
        return Err(OmError::Truncated { what: "the model", need, have });
    }
    if have > header.length {
        let over = have - header.length;
        return Err(OmError::Corrupt(format!(
            "it goes on behind the end of the model, for {over} more bytes"
        )));
    }
    let partitions = header::parse_table(&content)?;
    let definition = find(&partitions, MODEL_DEFINITION)
        .ok_or_else(|| OmError::Corrupt("it has no partition of the model's definition".into()))?;
    let description = definition::decode(&content[definition.range.clone()])?;
    if *blake3::Hasher::new().update_rayon(&content).finalize().to_hex().as_bytes()
        != *header.checksum
    {
        return Err(OmError::Checksum);
    }
    let weights = find(&partitions, WEIGHTS)
        .ok_or_else(|| OmError::Corrupt("it has no partition of weights".into()))?;
    Ok(Om { description, onnx: content.slice(weights.range.clone()) })
}

fn find(partitions: &[Partition], kind: u32) -> Option<&Partition> {
    partitions.iter().find(|partition| partition.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        Description {
            name: "deberta_bs8".into(),
            soc: "Ascend310P3".into(),
            release: "8.1.RC1".into(),
            command: "atc --framework=5".into(),
            gears: vec![1, 8],
            dims: vec![vec![1, 64], vec![8, 128]],
        }
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.om");
        write(&path, &description(), b"an ONNX model").unwrap();
        fs::read(path).unwrap()
    }

    fn error(bytes: Vec<u8>) -> String {
        parse(&Bytes::from(bytes)).unwrap_err().to_string()
    }

    #[test]
    fn gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.om");
        let size = write(&path, &description(), b"an ONNX model").unwrap();
        assert_eq!(size, fs::metadata(&path).unwrap().len());
        let om = read(&path).unwrap();
        assert_eq!(om.description, description());
        assert_eq!(&om.onnx[..], b"an ONNX model");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    // Offsets as in the format's description, not as in the code.
    #[test]
    fn the_header_is_the_documented_one() {
        let file = written();
        assert_eq!(&file[..4], b"IMOD");
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert_eq!((word(4), word(8)), (256, 0x2000_0000));
        let content = file.len() as u64 - 256;
        assert_eq!((u64::from(word(76)), long(184)), (content, content));
        assert_eq!(&file[84..96], b"deberta_bs8\0");
        assert_eq!(&file[160..168], b"8.1.RC1\0");
        assert_eq!(file[193], 0, "batch gears do not make a model one of unknown shape");
        // Two partitions behind the table, the second one with the model.
        assert_eq!((word(256), word(264), word(288)), (2, 0, 1));
        assert_eq!((long(296), long(304)), (long(280), 13));
        assert_eq!(&file[312 + usize::try_from(long(296)).unwrap()..], b"an ONNX model");
    }

    #[test]
    fn every_truncation_is_noticed() {
        let file = written();
        for end in 0..file.len() {
            let error = error(file[..end].to_vec());
            assert!(error.contains("truncated") || error.contains("not an .om"), "{end}: {error}");
        }
    }

    #[test]
    fn every_changed_byte_of_the_content_is_noticed() {
        let file = written();
        for at in header::SIZE..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0x40;
            assert!(parse(&Bytes::from(changed)).is_err(), "byte {at}");
        }
    }

    // What ATC leaves open in the header may be anything; the rest is an error, never a panic.
    #[test]
    fn a_changed_header_is_an_error_or_does_not_matter() {
        let file = written();
        let whole = parse(&Bytes::from(file.clone())).unwrap();
        for at in 0..header::SIZE {
            for bits in [1, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] ^= bits;
                if let Ok(om) = parse(&Bytes::from(changed)) {
                    assert_eq!(
                        (om.description, om.onnx),
                        (whole.description.clone(), whole.onnx.clone())
                    );
                }
            }
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(
            error(b"\x08\x07ONNX model".to_vec()),
            "not an .om file: it begins with [08, 07, 4f, 4e] instead of \"IMOD\""
        );
        let mut file = written();
        file.truncate(300);
        assert_eq!(
            error(file),
            "the file is truncated: the model takes 580 bytes, and there are 300"
        );
        let mut file = written();
        file.push(0);
        assert_eq!(
            error(file),
            "the file is corrupt: it goes on behind the end of the model, for 1 more bytes"
        );
        let mut file = written();
        file[256] = 200;
        assert_eq!(
            error(file),
            "the file is truncated: the partition table takes 4808 bytes, and there are 324"
        );
    }
}
