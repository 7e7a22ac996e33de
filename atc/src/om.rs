//! The header of an `.om` file, and what its definition says about how it was compiled.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Serialize;

/// What a compiled model says of itself, without its weights and kernels.
///
/// Layout: `ModelFileHeader` and `ModelPartitionTable` of CANN's open-source graph engine (hicann/ge, 2026). The definition
/// is `ModelDef` of its `ge_ir.proto`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OmHeader {
    /// Bytes behind the header.
    pub length: u64,
    /// Name of the model.
    pub name: String,
    /// Version of the operator package that it was compiled with; empty where the compiler wrote none.
    pub operators: String,
    /// Whether its shapes are only known when it runs.
    pub dynamic: bool,
    /// The chip that it was compiled for, as `--soc_version` spells it; empty where its definition does not say.
    pub soc: String,
    /// Version of the compiler; empty where its definition does not say.
    pub compiler: String,
    /// Bytes of the weights.
    pub weights: u64,
}

/// Why a file is no compiled model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OmHeaderError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it does not begin with \"IMOD\" as .om files do")]
    Magic,
    /// A part is missing.
    #[error(
        "it is truncated: it should have {need} bytes and has {have}; copy or compile it again"
    )]
    Truncated {
        /// Bytes that it should have at least.
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
}

const HEADER: usize = 256;
/// Largest definition that is looked at; those of base-size encoders have a few MB.
const DEFINITION: u64 = 256 << 20;

impl OmHeader {
    /// Reads the first parts of a file.
    ///
    /// # Errors
    /// When it is no `.om` file or not whole.
    pub fn read(path: &Path) -> Result<OmHeader, OmHeaderError> {
        let mut file = File::open(path)?;
        let have = file.metadata()?.len();
        let mut header = Vec::with_capacity(HEADER);
        file.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
        if !header.starts_with(b"IMOD") {
            return Err(OmHeaderError::Magic);
        }
        if header.len() < HEADER {
            return Err(OmHeaderError::Truncated { need: HEADER as u64, have });
        }
        let model_length = long(&header, 184);
        // Old releases have 32 bits only, and a smaller table.
        let old = model_length == 0;
        let length = if old { u64::from(word(&header, 76)) } else { model_length };
        let need = (HEADER as u64).saturating_add(length);
        if have < need {
            return Err(OmHeaderError::Truncated { need, have });
        }
        let mut said = OmHeader {
            length,
            name: text(&header[84..116]),
            operators: text(&header[160..180]),
            dynamic: header[193] != 0,
            soc: String::new(),
            compiler: String::new(),
            weights: 0,
        };
        let Some(table) = table(&mut file, old) else { return Ok(said) };
        for (at, (kind, size)) in table.into_iter().enumerate() {
            match kind {
                // Parts follow the table in its order, and the definition is the first one.
                0 if at == 0 && size <= DEFINITION => {
                    let mut definition = Vec::new();
                    file.by_ref().take(size).read_to_end(&mut definition)?;
                    said.soc = attribute(&definition, b"soc_version").unwrap_or_default();
                    said.compiler = attribute(&definition, b"atc_version").unwrap_or_default();
                }
                1 => said.weights = size,
                _ => {}
            }
        }
        Ok(said)
    }
}

/// Kinds and sizes of the parts, unless the table is none.
fn table(file: &mut File, old: bool) -> Option<Vec<(u32, u64)>> {
    let mut read = |bytes: usize| {
        let mut part = vec![0; bytes];
        file.read_exact(&mut part).ok().map(|()| part)
    };
    let count = word(&read(if old { 4 } else { 8 })?, 0);
    if count > 64 {
        return None;
    }
    let entry = |_| {
        let entry = read(if old { 12 } else { 24 })?;
        let size = if old { u64::from(word(&entry, 8)) } else { long(&entry, 16) };
        Some((word(&entry, 0), size))
    };
    (0..count).map(entry).collect()
}

/// A text among the attributes of the definition: field 11 of `ModelDef` is a map from names to `AttrDef`, whose field 2 is
/// a text. Graphs, by far the most of it, are skipped over.
fn attribute(definition: &[u8], name: &[u8]) -> Option<String> {
    let entries = Fields { rest: definition }.filter(|field| field.0 == 11);
    for (_, entry) in entries {
        let get = |message, number| Fields { rest: message }.find(|f| f.0 == number).map(|f| f.1);
        if get(entry, 1) == Some(name) {
            return get(get(entry, 2)?, 2).map(|text| String::from_utf8_lossy(text).into_owned());
        }
    }
    None
}

/// The fields of a message that have a length, with their numbers. Ends where the bytes are no message.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            let skipped = match key & 7 {
                0 => {
                    self.varint()?;
                    0
                }
                1 => 8,
                5 => 4,
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    let (field, rest) = self.rest.split_at_checked(length)?;
                    self.rest = rest;
                    return Some((key >> 3, field));
                }
                _ => return None,
            };
            self.rest = self.rest.get(skipped..)?;
        }
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// A text that ends at its first zero.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The stand-in's own writer is the other reading of the same description.
    #[test]
    fn reads_what_the_simulated_atc_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.om");
        let description = ascend_sim_om::Description {
            name: "deberta_bs8".into(),
            soc: "Ascend310P3".into(),
            release: "8.1.RC1".into(),
            ..Default::default()
        };
        ascend_sim_om::write(&path, &description, b"12345").unwrap();
        let header = OmHeader::read(&path).unwrap();
        assert_eq!(
            (header.name.as_str(), header.soc.as_str(), header.compiler.as_str()),
            ("deberta_bs8", "Ascend310P3", "8.1.RC1")
        );
        assert_eq!((header.weights, header.dynamic), (5, false));

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = OmHeader::read(&path).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn no_byte_makes_it_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.om");
        ascend_sim_om::write(&path, &ascend_sim_om::Description::default(), b"12345").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, changed).unwrap();
            // Only that it returns.
            let _read = OmHeader::read(&path);
        }
    }

    #[test]
    fn a_broken_definition_only_says_less() {
        for bytes in
            [&b"\x5a\xff"[..], b"\x5a\x05\x0a\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(attribute(bytes, b"soc_version"), None);
        }
    }
}
