//! The record of where an optimized model came from, kept in its metadata.
//!
//! It lets `verify` find the original without being told, and notice when it is not the same file any more.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use onnxfix_ir::{Model, content_hash};

/// Metadata key: path of the source, relative to the folder of the optimized model.
pub const PATH: &str = "onnxfix.source.path";
/// Metadata key: size of the source in bytes.
pub const SIZE: &str = "onnxfix.source.size";
/// Metadata key: BLAKE3 over the source without the bytes of its large tensors.
pub const HASH: &str = "onnxfix.source.blake3";
/// Metadata key, present where the source was overwritten by its own result.
pub const REPLACED: &str = "onnxfix.source.replaced";

/// The source of an optimized model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Path of the source, relative to the folder of the optimized model.
    pub path: String,
    /// Size of the source in bytes.
    pub size: u64,
    /// Hash of the source, hexadecimal.
    pub hash: String,
    /// Whether the result took the source's place.
    pub replaced: bool,
}

impl Record {
    /// The record in a model, if it has one.
    #[must_use]
    pub fn of(model: &Model) -> Option<Record> {
        let get = |key: &str| {
            model.header.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
        };
        Some(Record {
            path: get(PATH)?,
            size: get(SIZE)?.parse().ok()?,
            hash: get(HASH)?,
            replaced: get(REPLACED).is_some(),
        })
    }

    /// The record of a source file for a model that will stand at `out`.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn new(source: &Path, out: &Path) -> Result<Record> {
        let at = || format!("record {}", source.display());
        let hash = content_hash(source).with_context(at)?;
        let size = std::fs::metadata(source).with_context(at)?.len();
        let path = relative(source, folder(out)).with_context(at)?;
        Ok(Record { path, size, hash: hash.to_string(), replaced: same_file(source, out) })
    }

    /// The record as it must read when the model moves from the folder of `from` to that of `to`.
    ///
    /// # Errors
    /// When one of the folders cannot be found.
    pub fn moved(mut self, from: &Path, to: &Path) -> Result<Record> {
        let source = self.source(from);
        // A source that is gone has no other path to offer.
        if source.exists() {
            self.path = relative(&source, folder(to))?;
        }
        Ok(self)
    }

    /// Where the source is, seen from the optimized model at `optimized`.
    #[must_use]
    pub fn source(&self, optimized: &Path) -> PathBuf {
        optimized.with_file_name(&self.path)
    }

    /// Writes the record into a model, in place of an older one.
    pub fn write(&self, model: &mut Model) {
        let metadata = &mut model.header.metadata;
        metadata.retain(|(k, _)| ![PATH, SIZE, HASH, REPLACED].contains(&k.as_str()));
        metadata.push((PATH.into(), self.path.clone()));
        metadata.push((SIZE.into(), self.size.to_string()));
        metadata.push((HASH.into(), self.hash.clone()));
        if self.replaced {
            metadata.push((REPLACED.into(), "true".into()));
        }
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether both paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The path of a file as seen from a folder, with `/` between its parts.
fn relative(file: &Path, folder: &Path) -> Result<String> {
    let within = self::folder(file);
    let name = file.file_name().with_context(|| format!("{} names no file", file.display()))?;
    // Links on the way are followed, but not the file itself: a download cache keeps a model under its real name as a
    // link to a file named by its hash, with the external data beside the link.
    let file = within.canonicalize().with_context(|| format!("{}", within.display()))?.join(name);
    let folder = folder.canonicalize().with_context(|| format!("{}", folder.display()))?;
    let (file, folder): (Vec<_>, Vec<_>) =
        (file.components().collect(), folder.components().collect());
    let common = file.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    let up = folder[common..].iter().map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(file[common..].iter().copied()).collect();
    Ok(path.to_string_lossy().replace('\\', "/"))
}
