//! What is kept beside a compiled model: where it came from and how it was made.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::{AtcError, Fusion, Message};

/// The record of a compilation, written as JSON beside the `.om`.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// Version of this record's form.
    pub schema: u32,
    /// Version of this program.
    pub onnxfix: String,
    /// The compiled model.
    pub om: FileRecord,
    /// The chip that it is for.
    pub soc: String,
    /// The preset of precision.
    pub precision: String,
    /// Sizes of the batch to choose from when it runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gears: Vec<u64>,
    /// Its inputs, with -1 where gears choose.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// The model that it was made from.
    pub source: FileRecord,
    /// Hash of the optimized model that ATC read, BLAKE3.
    pub optimized: String,
    /// The compiler.
    pub atc: Compiler,
    /// What it warned of.
    pub warnings: Vec<Message>,
    /// The fusions that it made; none where it did not say.
    pub fusion: Option<Fusion>,
}

/// A file by what it was when it was used.
#[derive(Debug, Clone, Serialize)]
pub struct FileRecord {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3, hexadecimal.
    pub blake3: String,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its elements, as ONNX text spells it.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<i64>,
}

/// The compiler and how it was called.
#[derive(Debug, Clone, Serialize)]
pub struct Compiler {
    /// Its path.
    pub path: String,
    /// Release of its toolkit.
    pub version: Option<String>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Whether it said of itself that it is a simulation.
    pub simulated: bool,
}

/// What ATC said where a batch failed.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// What it means and what helps.
    pub explanation: Option<&'static crate::codes::Explanation>,
}

/// The record of a file.
///
/// # Errors
/// When it cannot be read.
pub fn record_file(path: &Path, shown: &Path) -> Result<FileRecord, AtcError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(AtcError::io("read", path))?;
    let size = fs::metadata(path).map_err(AtcError::io("read", path))?.len();
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(FileRecord { path: shown.display().to_string(), size, blake3 })
}
