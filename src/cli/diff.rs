//! `onnxfix diff`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onnxfix_ir::LoadOptions;

use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use crate::diff::diff;
use crate::source::{Input, ensure_unchanged, read};

/// Entries of each list that are shown without --all.
const SHOWN: usize = 8;

/// Say what changed between two models.
///
/// Inputs and outputs, operator sets and metadata, nodes and constants. Nodes are matched by what they compute from, by the
/// weights they read, names and neighbours; constants by content. Nothing is run: whether the numbers are the
/// same is what `onnxfix verify` answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model (.onnx or .onnxtxt).
    before: PathBuf,

    /// The model to compare it with.
    after: PathBuf,

    /// Show every entry of every list, not only the first few.
    #[arg(long, conflicts_with = "json")]
    all: bool,

    /// Print JSON, with every entry.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
    let model = |path: &Path| -> Result<Input> {
        let input = read(path, &options).context("diff")?;
        for warning in &input.warnings {
            out.warn(warning);
        }
        Ok(input)
    };
    let (before, after) = (model(&args.before)?, model(&args.after)?);
    let found = {
        let _progress = Progress::start(out, "compare");
        let named = |path: &Path| path.display().to_string();
        diff((&named(&args.before), &before.model), (&named(&args.after), &after.model))
    };
    // Bytes that changed while they were compared say nothing about either model.
    ensure_unchanged(&before.files)
        .and_then(|()| ensure_unchanged(&after.files))
        .context("diff")?;
    if args.json {
        out.json(&found)?;
    } else {
        out.result(&found.text(if args.all { usize::MAX } else { SHOWN }))?;
    }
    Ok(if found.same { Verdict::Clean } else { Verdict::Findings })
}
