//! `onnxfix atc`

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::{LoadOptions, Model, ValueId};

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
    ensure_static(&input.model).with_context(|| format!("atc {}", path.display()))?;
    let shown = path.display().to_string();
    let om = shown.trim_end_matches(".onnx");
    let quoted =
        |text: &str| if text.contains(' ') { format!("\"{text}\"") } else { text.to_owned() };
    bail!(
        "this version does not run ATC; with CANN installed, compile {shown} by\n  \
         atc --framework=5 --model={} --output={} --soc_version={} --input_format=ND --input_shape=\"{}\"",
        quoted(&shown),
        quoted(om),
        args.soc,
        input_shapes(&input.model)
    )
}

/// Without a number for every dimension, ATC needs flags that only the user could know.
fn ensure_static(model: &Model) -> Result<()> {
    for &input in model[model.root()].inputs() {
        let value = &model[input];
        if value.dims().is_none() {
            let shape = value.shape().map(|s| format!(" {s}")).unwrap_or_default();
            bail!(
                "input {:?}{shape} has no fixed shape; run `onnxfix optimize` on the model first",
                value.name()
            );
        }
    }
    Ok(())
}

/// The inputs in ATC's syntax.
fn input_shapes(model: &Model) -> String {
    let shape = |&input: &ValueId| {
        let dims: Vec<String> =
            model[input].dims().unwrap_or_default().iter().map(ToString::to_string).collect();
        format!("{}:{}", model[input].name(), dims.join(","))
    };
    model[model.root()].inputs().iter().map(shape).collect::<Vec<_>>().join(";")
}
