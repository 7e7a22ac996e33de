//! `onnxfix print`

use std::path::PathBuf;

use anyhow::{Context, Result};
use onnxfix_ir::LoadOptions;
use onnxfix_ir::text::{Mode, print};

use super::Verdict;
use super::output::Output;
use crate::source::read;

/// Print a model as ONNX text.
///
/// Without --full, tensors are summarised: for people. With --full the text can be read again, wherever a model is taken,
/// from a file that ends in .onnxtxt.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model (.onnx or .onnxtxt).
    model: PathBuf,

    /// Print every element of every tensor.
    #[arg(long)]
    full: bool,

    /// With --full: refuse tensors of more elements than this.
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "full")]
    limit: u64,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
    let input = read(&args.model, &options).with_context(|| "print")?;
    for warning in &input.warnings {
        out.warn(warning);
    }
    let mode = if args.full { Mode::Full { limit: args.limit } } else { Mode::Brief };
    let text = print(&input.model, mode).with_context(|| {
        format!("print {} in full (--limit N allows larger tensors)", args.model.display())
    })?;
    out.result(&text)?;
    Ok(Verdict::Clean)
}
