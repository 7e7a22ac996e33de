//! `onnxfix atc`

use std::path::PathBuf;

use anyhow::{Result, bail};
use onnxfix_ir::{LoadOptions, Model};

use super::Verdict;
use super::single::named_or_single;
use crate::source::read;

/// Compile a model with ATC. This version does not run ATC yet: it prints the command to run.
///
/// Without MODEL it takes the only *.opt.onnx of the current folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model (.onnx), already optimized.
    model: Option<PathBuf>,

    /// Exact name of the chip, as `npu-smi info` shows it behind "Ascend".
    #[arg(long = "soc", alias = "soc-version", value_name = "NAME", default_value = "Ascend310P3")]
    soc: String,
}

pub(crate) fn run(args: &Args) -> Result<Verdict> {
    let path = named_or_single(args.model.as_deref(), "atc")?;
    let input = read(&path, &LoadOptions { drop_unknown: true, external_data: false })?;
    let shown = path.display().to_string();
    let om = shown.trim_end_matches(".onnx");
    bail!(
        "this version does not run ATC; with CANN installed, compile {shown} by\n  \
         atc --framework=5 --model={shown} --output={om} --soc_version={} --input_format=ND --input_shape=\"{}\"",
        args.soc,
        input_shapes(&input.model)
    )
}

/// The inputs in ATC's syntax; -1 where a dimension is open.
fn input_shapes(model: &Model) -> String {
    let shape = |v: &onnxfix_ir::ValueId| {
        let value = &model[*v];
        let dims = value.shape().map(|s| s.0.iter().map(|d| d.fixed().unwrap_or(-1).to_string()).collect::<Vec<_>>());
        format!("{}:{}", value.name(), dims.unwrap_or_default().join(","))
    };
    model[model.root()].inputs().iter().map(shape).collect::<Vec<_>>().join(";")
}
