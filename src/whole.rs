//! Writing files.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes a file as a whole or not at all: beside its place first, then into it.
///
/// # Errors
/// When it cannot be written; the message names it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let at = || format!("write {}", path.display());
    let mut name = OsString::from(".");
    name.push(path.file_name().with_context(at)?);
    name.push(format!(".tmp-{}", std::process::id()));
    let beside = path.with_file_name(name);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // What is there of it is of no use, and that it cannot be removed is not what went wrong.
        let _gone = fs::remove_file(&beside);
    }
    written.with_context(at)
}
