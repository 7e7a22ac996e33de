//! The record of where an optimized model came from, kept in its metadata.
//!
//! It lets `verify` find the original without being told, and notice when it is not the same file any more.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use onnxfix_ir::{Model, content_hash};
use onnxfix_passes::{DimBinding, InputShape, Options, PassError, Pipeline};
use serde::{Deserialize, Serialize};

use crate::target::Target;

/// Metadata key: path of the source, relative to the folder of the optimized model.
pub const PATH: &str = "onnxfix.source.path";
/// Metadata key: size of the source in bytes.
pub const SIZE: &str = "onnxfix.source.size";
/// Metadata key: BLAKE3 over the source without the bytes of its large tensors.
pub const HASH: &str = "onnxfix.source.blake3";
/// Metadata key, present where the source was overwritten by its own result.
pub const REPLACED: &str = "onnxfix.source.replaced";

/// Metadata key: what `optimize` was told, as JSON, so that it can be done again.
pub const OPTIONS: &str = "onnxfix.options";

/// What `optimize` was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Name of the target.
    pub target: String,
    /// The opset that the result was to have; none leaves the source's.
    pub opset: Option<u64>,
    /// Shapes of inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<(String, Vec<i64>)>,
    /// Numbers for symbolic dimensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dims: Vec<(String, i64)>,
    /// Symbolic dimensions that stay symbolic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_dims: Vec<String>,
    /// The passes that were named, where not all of the target's ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<Vec<String>>,
    /// The passes that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_passes: Vec<String>,
    /// How many percent the model was allowed to grow by folding.
    pub fold_limit: f64,
    /// After how many rewrites it stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rewrites: Option<u64>,
}

impl Told {
    /// What a model records, if it does.
    #[must_use]
    pub fn of(model: &Model) -> Option<Told> {
        let (_, text) = model.header.metadata.iter().find(|(key, _)| key == OPTIONS)?;
        serde_json::from_str(text).ok()
    }

    /// As it stands in a model.
    #[must_use]
    pub fn text(&self) -> String {
        // Numbers and texts: there is no error.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The options of the pipeline for that target.
    #[must_use]
    pub fn options(&self, target: Target) -> Options {
        let shape = |(name, dims): &(String, Vec<i64>)| InputShape {
            name: name.clone(),
            dims: dims.clone(),
        };
        let dim =
            |(symbol, value): &(String, i64)| DimBinding { symbol: symbol.clone(), value: *value };
        Options {
            shapes: self.shapes.iter().map(shape).collect(),
            dims: self.dims.iter().map(dim).collect(),
            keep_dims: self.keep_dims.clone(),
            static_shapes: target.static_shapes(),
            costs: target.costs().filter(|_| self.passes.is_none()),
            opset: self.opset,
            fold_limit: self.fold_limit,
            max_rewrites: self.max_rewrites,
            ..Options::default()
        }
    }

    /// The passes.
    ///
    /// # Errors
    /// When one of them is no more.
    pub fn pipeline(&self, all: Pipeline) -> Result<Pipeline, PassError> {
        let named = match &self.passes {
            Some(names) => Pipeline::of(names)?,
            None => all,
        };
        named.without(&self.skip_passes)
    }
}

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
