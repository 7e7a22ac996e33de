//! `onnxfix bench`

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::verify::subject;
use crate::bench::{Options, bench};
use crate::engine::Lowering;
use crate::verify;

/// Time models on the CPU, one beside the other.
///
/// All are loaded, then run in turn in tract, each on one core, on inputs that mean something. A model with open dimensions
/// runs on the shapes of one without. The times of several models are comparable although other programs keep the machine
/// busy: each round runs every model once, and "to first" is the median over the rounds. What an NPU takes is another matter.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The models, the one to compare with first.
    #[arg(required = true)]
    models: Vec<PathBuf>,

    /// Runs of each model.
    #[arg(long = "loop", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Runs of each model before those that count.
    #[arg(long = "warmup-count", value_name = "N", default_value_t = 1)]
    warmups: u32,

    /// Seed of the inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Let tract's own optimizer rewrite the models first, as programs that use tract do. It fails on some models.
    #[arg(long)]
    tract_optimizer: bool,

    /// Print JSON, with the time of every run.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    shapes: Shapes,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let models =
        args.models.iter().map(|path| subject(path, "bench")).collect::<Result<Vec<_>>>()?;
    let (shapes, dims) = args.shapes.numbers("bench", &models.iter().collect::<Vec<_>>())?;
    let options = Options {
        runs: args.runs as usize,
        warmups: args.warmups as usize,
        lowering: if args.tract_optimizer { Lowering::Optimizer } else { Lowering::Kernels },
        inputs: verify::Options { shapes, dims, seed: args.seed, ..verify::Options::default() },
    };
    let report = {
        let progress = Progress::start(out, "bench");
        bench(&models, &options, &|step| progress.step(step.to_string())).context("bench")?
    };
    for note in &report.notes {
        out.note(note);
    }
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&report.text())?;
    }
    Ok(Verdict::Clean)
}
