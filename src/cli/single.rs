//! The model that a command means when none is named.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The model that was named, or the only optimized one of the current folder.
///
/// # Errors
/// When there is none, or more than one to choose from.
pub(crate) fn named_or_single(named: Option<&Path>, command: &str) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let entries = std::fs::read_dir(".").context("read the current folder")?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(PathBuf::from(e.ok()?.file_name())))
        .filter(|p| p.to_string_lossy().ends_with(".opt.onnx"))
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => bail!(
            "no model named, and no *.opt.onnx in the current folder; run `onnxfix optimize MODEL` first, \
             or name one: onnxfix {command} MODEL"
        ),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            bail!(
                "no model named, and several *.opt.onnx in the current folder; name one of: {}",
                names.join(", ")
            )
        }
    }
}
