//! Reading a model whichever way it is written.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use onnxfix_ir::{LoadOptions, Model, Source, check, load, text};

/// A model with what was noticed while it was read.
#[derive(Debug)]
pub struct Input {
    /// The model.
    pub model: Model,
    /// The files that its tensors are views of.
    pub files: Vec<Source>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

/// Whether a path holds ONNX text.
#[must_use]
pub fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnxtxt")
}

/// Reads a model: ONNX text from `.onnxtxt`, protobuf from anything else.
///
/// # Errors
/// When it cannot be read or is not well formed. The message names the file and the place.
pub fn read(path: &Path, options: &LoadOptions) -> Result<Input> {
    let at = || format!("{}", path.display());
    let input = if is_text(path) {
        let bytes = std::fs::read(path).with_context(at)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let byte = e.utf8_error().valid_up_to();
            anyhow!("is not ONNX text: byte {byte} is no UTF-8; the name of a model in protobuf ends in .onnx")
        });
        let text = text.with_context(at)?;
        let model = text::parse(&text)
            .map_err(|e| anyhow!("line {}, column {}\n{}", e.line, e.column, e.render(&text)))
            .with_context(at)?;
        Input { model, files: Vec::new(), warnings: Vec::new() }
    } else {
        let loaded = load(path, options).with_context(at)?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Input { model: loaded.model, files: loaded.sources, warnings }
    };
    let broken = check(&input.model);
    if let Some(first) = broken.first() {
        let more = if broken.len() > 1 {
            format!(" ({} findings in all)", broken.len())
        } else {
            String::new()
        };
        return Err(anyhow!("is not well formed: {first}{more}")).with_context(at);
    }
    Ok(input)
}

/// Stops when a file changed since it was read: what was made from it is then of no use.
///
/// # Errors
/// When one did.
pub fn ensure_unchanged(files: &[Source]) -> Result<()> {
    for file in files {
        let unchanged = file.is_unchanged().with_context(|| format!("{}", file.path.display()))?;
        if !unchanged {
            return Err(anyhow!(
                "{} changed while it was being read; run again once it is complete",
                file.path.display()
            ));
        }
    }
    Ok(())
}
