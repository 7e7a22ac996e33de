//! `onnxfix verify`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use onnxfix_ir::{DataType, LoadOptions, Model, Tensor, content_hash};
use onnxfix_samples::{Expected, Inputs, Slot};

use super::Verdict;
use super::bisect::{self, Search, default_folder, ensure_free};
use super::files::{ReportFormat, dtype, ensure_place};
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::single::named_or_single;
use crate::record::Record;
use crate::report::{Summary, verification_page};
use crate::source::{is_text, read};
use crate::verify::bisect::Bisection;
use crate::verify::{Given, Options, Report, Step, Subject, Which, slots, verify, verify_results};
use crate::whole::write_whole;

/// Compare an optimized model with its source on the CPU.
///
/// Weights are compared bit for bit, then both models run in tract on inputs that mean something: ids from the whole
/// vocabulary, padding on both sides, single tokens, all segments. Without AFTER it takes the only *.opt.onnx of the
/// current folder; without --against the source that the optimized model records.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The optimized model.
    after: Option<PathBuf>,

    /// The model it was made from.
    #[arg(long, value_name = "BEFORE")]
    against: Option<PathBuf>,

    /// How many sequences to run, at least.
    #[arg(long, value_name = "N", default_value_t = Options::default().samples, help_heading = "Samples")]
    samples: usize,

    /// Seed of the samples.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Samples")]
    seed: u64,

    /// Largest difference relative to the spread of an output [default: 1e-4, for 16-bit floats 1e-2].
    #[arg(long, value_name = "SHARE")]
    rtol: Option<f64>,

    /// Largest absolute difference, in addition.
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 0.0)]
    atol: f64,

    /// Run these instead of generated samples: .bin, .npy, .npz or .pb, in a folder for each input or as a list of files,
    /// paired with the inputs as `ais_bench` does it.
    #[arg(long, value_name = "PATHS", num_args = 1.., help_heading = "Samples")]
    input: Vec<PathBuf>,

    /// Type of the elements of .bin files, such as int64, where it is not that of the input.
    #[arg(long, value_name = "TYPE", value_parser = dtype, requires = "input", help_heading = "Samples")]
    bin_dtype: Option<DataType>,

    /// Compare with the results in this folder, which something else made of the same samples (ONNX Runtime, PyTorch, the
    /// NPU), instead of with the source: `NAME_0.npy` or .bin for output 0 of sample NAME, as `ais_bench` writes them. What a
    /// chip made in float16 wants --rtol 5e-2.
    #[arg(
        long,
        value_name = "DIR",
        requires = "input",
        conflicts_with_all = ["against", "bisect", "layers"],
        help_heading = "Samples"
    )]
    expect: Option<PathBuf>,

    /// Where the models differ, run the passes again to find the one rewrite that makes the difference, and write the
    /// smallest part of the model that shows it into a folder, with its inputs and the command that replays it.
    #[arg(long, help_heading = "Bisection")]
    bisect: bool,

    /// The folder [default: AFTER with .bisect].
    #[arg(long, value_name = "DIR", requires = "bisect", help_heading = "Bisection")]
    bisect_output: Option<PathBuf>,

    /// Put random numbers in the place of weights before the search, so that the folder can be shown to others.
    #[arg(long, requires = "bisect", help_heading = "Bisection")]
    no_weights: bool,

    /// Compare values along the way too, and print the worst of each layer: "some" is as many as fit one run of each model,
    /// "all" takes several runs [default: some for models below 64 MB, else none].
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "some"
    )]
    layers: Option<WhichLayers>,

    /// Also run the optimized model with every value rounded to float16, as a chip stores it: what overflows, what is no
    /// number, and how far the outputs are off. It simulates rounding, not a device.
    #[arg(long)]
    fp16: bool,

    /// Nodes that stay in float32 meanwhile: a file with a name to a line, as ATC's `--keep_dtype` takes it.
    #[arg(long, value_name = "FILE", requires = "fp16")]
    keep_dtype: Option<PathBuf>,

    /// Write the comparison to a .json or .html file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    shapes: Shapes,
}

/// Which values along the way to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhichLayers {
    None,
    Some,
    All,
}

/// Values along the way are compared unasked where the constants have no more bytes: it takes no second.
const CHEAP: u64 = 64 << 20;

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let report_format = args.report.as_deref().map(ReportFormat::of).transpose()?;
    args.report.as_deref().map_or(Ok(()), |path| ensure_place("--report", path))?;
    let after = named_or_single(args.after.as_deref(), "verify")?;
    let mut options = Options {
        samples: args.samples,
        seed: args.seed,
        rtol: args.rtol,
        atol: args.atol,
        half: args.fp16,
        keep: args.keep_dtype.as_deref().map(kept_names).transpose()?.unwrap_or_default(),
        ..Options::default()
    };
    check_tolerances(&options)?;

    let folder =
        args.bisect.then(|| args.bisect_output.clone().unwrap_or_else(|| default_folder(&after)));
    folder.as_deref().map_or(Ok(()), ensure_free)?;
    let after = subject(&after, "verify")?;
    if let Some(expect) = &args.expect {
        (options.shapes, options.dims) = args.shapes.numbers("verify", &[&after])?;
        let samples = read_samples(args, &after.model, &after.model, &mut options)?;
        let report = judge_results(&after, expect, &samples, &options, out)?;
        return conclude(args, report, None, report_format, out);
    }
    let before = match &args.against {
        Some(path) => subject(path, "verify")?,
        None => recorded_source(&after)?,
    };
    (options.shapes, options.dims) = args.shapes.numbers("verify", &[&before, &after])?;
    if !args.input.is_empty() {
        read_samples(args, &before.model, &after.model, &mut options)?;
    }
    options.layers = match args.layers {
        Some(WhichLayers::Some) => Which::Some,
        Some(WhichLayers::All) => Which::All,
        None if Summary::of(&after.model).constant_bytes < CHEAP => Which::Some,
        Some(WhichLayers::None) | None => Which::None,
    };
    let report = judge(&before, &after, &options, out)?;
    let found = match folder {
        Some(folder) if report.outputs.iter().any(|output| !output.equal) => {
            let no_weights = args.no_weights;
            if no_weights {
                // The user's samples may be no less private than the weights.
                options.given = None;
            }
            let search = Search {
                before: &before,
                after: &after,
                options: &options,
                no_weights,
                folder: &folder,
            };
            Some((bisect::run(&search, &report, out)?, folder))
        }
        Some(_) => {
            out.note("--bisect looks for what makes outputs differ, and no output does");
            None
        }
        None => None,
    };
    conclude(args, report, found, report_format, out)
}

/// Writes and prints what was found.
fn conclude(
    args: &Args,
    mut report: Report,
    found: Option<(Bisection, PathBuf)>,
    format: Option<ReportFormat>,
    out: &Output,
) -> Result<Verdict> {
    let folder =
        found.as_ref().filter(|(found, _)| found.case.is_some()).map(|(_, path)| path.clone());
    report.bisection = found.map(|(found, _)| found);
    if let (Some(path), Some(format)) = (&args.report, format) {
        let text = match format {
            ReportFormat::Json => serde_json::to_string_pretty(&report)?,
            ReportFormat::Html => verification_page(&report),
        };
        write_whole(path, text.as_bytes()).context("--report")?;
    }
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&report.text())?;
    }
    if let (Some(path), Some(0)) = (&args.keep_dtype, report.half.as_ref().map(|half| half.kept)) {
        out.warn(&format!("{} names no node of {}", path.display(), report.after));
    }
    if let Some(folder) = folder {
        out.note(&format!(
            "the failing part and how to replay it are in {}",
            folder.join("README.md").display()
        ));
    }
    Ok(if report.equal { Verdict::Clean } else { Verdict::Findings })
}

/// Reads the samples that the user names, in place of generated ones.
fn read_samples(
    args: &Args,
    before: &Model,
    after: &Model,
    options: &mut Options,
) -> Result<Inputs> {
    let slots = slots(before, after, options).context("verify")?;
    let slots: Vec<Slot> =
        slots.into_iter().map(|(name, dtype, dims)| Slot { name, dtype, dims }).collect();
    let inputs = Inputs::open(&slots, &args.input, args.bin_dtype).context("--input")?;
    if inputs.is_empty() {
        bail!("--input: there is no sample");
    }
    let mut given = Given::default();
    for at in 0..inputs.batches() {
        let batch = inputs.batch(at).context("--input")?;
        let name = |position: usize| {
            let sample = batch.samples.start + position;
            inputs.name(if sample < batch.samples.end { sample } else { batch.samples.start })
        };
        given.names.push((0..inputs.per_batch()).map(name).collect());
        given.runs.push(batch.tensors);
    }
    options.given = Some(given);
    Ok(inputs)
}

/// Compares with what something else made of the same samples.
fn judge_results(
    subject: &Subject,
    folder: &Path,
    inputs: &Inputs,
    options: &Options,
    out: &Output,
) -> Result<Report> {
    let expected = Expected::open(folder).context("--expect")?;
    let per_batch = inputs.per_batch();
    let read = |run: usize, output: usize, name: &str, ours: &Tensor| -> Result<Tensor> {
        let mut dims = ours.dims.clone();
        match dims.first_mut() {
            Some(first) if per_batch > 1 => *first /= i64::try_from(per_batch)?,
            _ => {}
        }
        let slot = Slot { name: name.to_owned(), dtype: ours.dtype, dims };
        let mut raw = Vec::new();
        for position in 0..per_batch {
            let sample = run * per_batch + position;
            // The last run repeats its first sample where there are no more.
            let sample = if sample < inputs.len() { sample } else { run * per_batch };
            let tensor = expected.read(&inputs.name(sample), sample, output, &slot)?;
            raw.extend_from_slice(&tensor.raw()?);
        }
        Ok(Tensor::from_raw(ours.dtype, &ours.dims, raw.into())?)
    };
    let results = |run: usize, output: usize, name: &str, ours: &Tensor| {
        read(run, output, name, ours).map_err(|e| format!("--expect: {e:#}"))
    };
    let progress = Progress::start(out, "compare");
    let step = |step: Step| show(&progress, step);
    verify_results(subject, &folder.display().to_string(), options, &results, &step)
        .with_context(|| format!("verify {}", subject.name))
}

/// The names in a list of nodes for ATC's `--keep_dtype`.
fn kept_names(path: &Path) -> Result<Vec<String>> {
    let at = || format!("--keep-dtype {}", path.display());
    let text = std::fs::read_to_string(path).with_context(at)?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if let Some(by_type) = names.iter().find(|name| name.starts_with("OpType::")) {
        bail!("{}: {by_type:?} names a type of ATC's operators; name the nodes instead", at());
    }
    Ok(names)
}

/// Compares the model at `after` with the one at `before`, for other commands.
pub(crate) fn compare(after: &Path, before: &Path, out: &Output) -> Result<Report> {
    judge(&subject(before, "verify")?, &subject(after, "verify")?, &Options::default(), out)
}

fn judge(before: &Subject, after: &Subject, options: &Options, out: &Output) -> Result<Report> {
    let progress = Progress::start(out, "compare");
    verify(before, after, options, &|step: Step| show(&progress, step))
        .with_context(|| format!("verify {}", after.name))
}

/// Shows a step, with a bar where samples run.
fn show(progress: &Progress, step: Step) {
    match step {
        Step::Run(_, done, all) | Step::Half(done, all) => {
            progress.count(step.to_string(), done, all);
        }
        _ => progress.step(step.to_string()),
    }
}

fn check_tolerances(options: &Options) -> Result<()> {
    for (flag, value) in [("--rtol", options.rtol.unwrap_or(0.0)), ("--atol", options.atol)] {
        if !value.is_finite() || value < 0.0 {
            bail!("{flag} {value}: a tolerance is a number that is not negative");
        }
    }
    Ok(())
}

/// Reads a model to run.
pub(super) fn subject(path: &Path, command: &'static str) -> Result<Subject> {
    let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
    let input = read(path, &options).context(command)?;
    let file = (!is_text(path)).then(|| path.to_path_buf());
    Ok(Subject { name: path.display().to_string(), model: input.model, file })
}

/// The source that an optimized model records, if it is still what it was.
fn recorded_source(after: &Subject) -> Result<Subject> {
    let name = &after.name;
    let Some(record) = Record::of(&after.model) else {
        bail!("verify {name}: the model records no source; say which one with --against BEFORE");
    };
    if record.replaced {
        bail!(
            "verify {name}: the model took the place of its source; name a copy of the source with --against BEFORE"
        );
    }
    let path = record.source(Path::new(name));
    if !path.exists() {
        bail!(
            "verify {name}: its source {} is not there; say where it is with --against BEFORE",
            path.display()
        );
    }
    let hash = content_hash(&path)
        .with_context(|| format!("verify {name}: read its source {}", path.display()))?;
    let size = std::fs::metadata(&path).map(|m| m.len()).unwrap_or_default();
    if hash.to_string() != record.hash || size != record.size {
        bail!(
            "verify {name}: {} is not the file that the model was made from (it changed since); \
             optimize it again, or name the source with --against BEFORE",
            path.display()
        );
    }
    subject(&path, "verify")
}
