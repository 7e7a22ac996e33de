//! stdout is the result, stderr is everything else. Only this file prints.
#![expect(clippy::print_stderr, reason = "the one place that does")]

use std::fs::File;
use std::io::{self, Write};
use std::sync::OnceLock;

use anyhow::Result;

/// Where results go once stdout is left to a library that prints.
static KEPT: OnceLock<File> = OnceLock::new();

/// Where commands say things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    quiet: bool,
}

impl Output {
    pub(crate) fn new(quiet: bool) -> Output {
        Output { quiet }
    }

    /// Whether only errors may be said.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Writes a result to stdout.
    ///
    /// # Errors
    /// When nobody reads it any more.
    #[expect(
        clippy::unused_self,
        reason = "results go where notes go: through the handle that commands get"
    )]
    pub(crate) fn result(self, text: &str) -> Result<()> {
        let mut out: Box<dyn Write> = match KEPT.get() {
            Some(file) => Box::new(file),
            None => Box::new(io::stdout().lock()),
        };
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(())
    }

    /// Keeps stdout for results alone: whatever a library prints there goes to stderr from now on.
    ///
    /// # Errors
    /// When there is no stdout or stderr.
    #[expect(clippy::unused_self, reason = "as above")]
    pub(crate) fn keep_stdout(self) -> Result<()> {
        if KEPT.get().is_none() {
            // Nobody else sets it: commands run in one thread.
            let _set = KEPT.set(onnxfix_npu::acl::divert_stdout()?);
        }
        Ok(())
    }

    /// Writes a result as JSON to stdout.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn json(self, value: &impl serde::Serialize) -> Result<()> {
        self.result(&serde_json::to_string_pretty(value)?)
    }

    /// Something the user should know.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }

    /// Something that may not be what the user wants.
    pub(crate) fn warn(self, text: &str) {
        if !self.quiet {
            eprintln!("warning: {text}");
        }
    }

    /// Why the command could not run.
    #[expect(clippy::unused_self, reason = "errors are said however quiet the rest is")]
    pub(crate) fn error(self, err: &anyhow::Error) {
        let mut text = String::new();
        for cause in err.chain().map(ToString::to_string) {
            // Errors that tell their cause themselves are followed by it once more.
            if !text.ends_with(&cause) {
                text += if text.is_empty() { "" } else { ": " };
                text += &cause;
            }
        }
        eprintln!("onnxfix: {text}");
    }
}

/// Whether an error only says that nobody reads our output any more.
pub(crate) fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.chain().any(|e| {
        e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
