//! Files that commands read and write beside the model.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use onnxfix_ir::DataType;

/// The form of a report, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportFormat {
    Json,
    Html,
}

impl ReportFormat {
    pub(super) fn of(path: &Path) -> Result<ReportFormat> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Ok(ReportFormat::Json),
            Some("html") => Ok(ReportFormat::Html),
            _ => bail!("--report {}: the name must end in .json or .html", path.display()),
        }
    }
}

/// Refuses a path that no file can be written to, before any work is done.
pub(super) fn ensure_place(flag: &str, path: &Path) -> Result<()> {
    if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        bail!("{flag} {}: is a directory, not a file", path.display());
    }
    // Replacing it needs no leave of the file, but whoever took that leave away meant it.
    if fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().readonly()) {
        bail!("{flag} {}: is read-only; make it writable or name another file", path.display());
    }
    match path.parent() {
        Some(folder) if folder != Path::new("") && !folder.is_dir() => {
            bail!("{flag} {}: there is no folder {}", path.display(), folder.display())
        }
        _ => Ok(()),
    }
}

/// The element type of this name, for a flag.
pub(super) fn dtype(text: &str) -> std::result::Result<DataType, String> {
    DataType::from_name(text).ok_or_else(|| "a type such as int64 or float16 is wanted".to_owned())
}
