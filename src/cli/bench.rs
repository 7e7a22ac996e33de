//! `onnxfix bench`

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use onnxfix_ascend::published::{named, published};

use super::Verdict;
use super::npu::{Devices, Threads, check_om, interruptible};
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::verify::subject;
use crate::bench::{Options, bench, npu};
use crate::engine::Lowering;
use crate::run::is_compiled;
use crate::verify;

/// Time models: compiled ones (.om) on NPUs, others on the CPU, one beside the other.
///
/// On NPUs, as ais_bench: made-up inputs, fps = 1000 · batch / mean time of a blocking run; beside it, fps with copies, which
/// overlap. --batch 1,4,8 takes what atc made of MODEL for these batches, and sets published figures and the
/// prediction beside it. On the CPU, all are loaded, then run in turn in tract, each on one core, on inputs that mean something. A model with open dimensions
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

    /// Batch sizes, comma between them: time the .om of each that belongs to MODEL and lies beside it.
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    batch: Vec<u64>,

    /// Whose published figures to show, by a name such as deberta-v3-base; as the model's file is called if not given.
    #[arg(long, value_name = "NAME")]
    published: Option<String>,

    /// Write a page with the table and a plot, for compiled models.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Print JSON, with the time of every run.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    devices: Devices,

    #[command(flatten)]
    threads: Threads,

    #[command(flatten)]
    shapes: Shapes,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let compiled = args.models.iter().filter(|path| is_compiled(path)).count();
    if compiled == args.models.len() || !args.batch.is_empty() {
        return on_npu(args, out);
    }
    if compiled > 0 {
        bail!(
            "bench: times of compiled models (.om) and of others do not compare; time {compiled} of these {} apart",
            args.models.len()
        );
    }
    if args.report.is_some() || args.published.is_some() {
        bail!("bench: --report and --published are for compiled models (.om) or --batch");
    }
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

fn on_npu(args: &Args, out: &Output) -> Result<Verdict> {
    let mut models = Vec::new();
    for path in &args.models {
        match args.batch.as_slice() {
            [] => models.push(path.clone()),
            batches => models.extend(npu::of_batches(path, batches).context("bench")?),
        }
    }
    models.iter().try_for_each(|path| check_om(path)).context("bench")?;
    let published = match &args.published {
        Some(name) => Some(named(name).with_context(|| {
            let known: Vec<&str> = published().iter().map(|model| &*model.graph).collect();
            format!("--published {name}: nothing is known of it; known are {}", known.join(", "))
        })?),
        None => args.models.first().and_then(|path| named(&path.to_string_lossy())),
    };
    let session = args.devices.start(out)?;
    let outcome = {
        let stop = interruptible()?;
        let progress = Progress::start(out, "load the model");
        let timer = npu::Timer {
            runtime: &session.runtime,
            devices: &session.devices,
            threads: args.threads.threads as usize,
            runs: args.runs as usize,
            warmups: args.warmups as usize,
            published,
        };
        npu::time(&models, &timer, &stop, &|step| progress.step(step)).context("bench")
    };
    session.finish(outcome.as_ref().err().and_then(super::npu::call), out);
    let report = outcome?;
    for note in &report.notes {
        out.note(note);
    }
    if let Some(path) = &args.report {
        std::fs::write(path, report.html()).with_context(|| format!("write {}", path.display()))?;
    }
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&report.text())?;
    }
    Ok(Verdict::Clean)
}
