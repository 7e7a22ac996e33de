//! `onnxfix run`

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ir::{DataType, Dim, ValueId};
use onnxfix_npu::acl::Gear;
use onnxfix_npu::{Flow, NpuError, Plan};
use onnxfix_passes::InputShape;
use onnxfix_samples::Format;
use onnxfix_task::prepare::Manifest;
use serde::Serialize;
use serde_json::{Value, json};

use super::Verdict;
use super::files::dtype;
use super::npu::{Devices, Session, Threads, check_om, count, gear, interruptible};
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::verify::subject;
use crate::run::{
    Batches, Cpu, PureData, Report, Route, Sizes, Source, Target, input_specs, is_compiled, routes,
    run_compiled, run_on_cpu,
};
use crate::verify::{Subject, inputs};
use crate::whole::write_whole;

/// Run a model on files: a compiled one (.om) on NPUs, any other (.onnx) on the CPU.
///
/// Does what ais_bench does and takes its flags. Inputs are folders with a file per sample (.bin, .npy, .npz, .pb), sorted by
/// name, numbers by value; as many as fit into a batch go in together, and the last batch is filled up with its first sample.
/// Results are called after the sample and the position of the output; the figures are in a summary (JSON) beside their folder.
/// A folder that `onnxfix prepare` wrote runs as a whole; with several lengths, each on the MODEL of that length.
/// Reading, copying, computing and writing overlap.
/// Ctrl-C finishes the batches in hand; a second one stops at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model: .om for NPUs, .onnx or .onnxtxt for the CPU; or several, each for another length.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// Folders or files, comma between them: one folder for each input in the model's order, one that has a folder for
    /// each, or one that `onnxfix prepare` wrote. Without it the model runs on made-up data.
    #[arg(short, long, value_name = "PATH,..", value_delimiter = ',')]
    input: Vec<PathBuf>,

    /// Type of the elements of .bin files, such as int64, where it is not that of the input. Integers must fit the input's type.
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    bin_dtype: Option<DataType>,

    /// Folder for results; without it they are dropped.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Name of the folder within; the time if none is given.
    #[arg(long, alias = "output_dirname", value_name = "NAME", requires = "output")]
    output_dirname: Option<String>,

    /// Format of results.
    #[arg(long, value_name = "FORMAT", default_value = "BIN", ignore_case = true, value_enum)]
    outfmt: OutFormat,

    /// The dimension of outputs that counts samples.
    #[arg(long, alias = "output_batchsize_axis", value_name = "N", default_value_t = 0)]
    output_batchsize_axis: usize,

    /// Samples of a batch, for the throughput. On the CPU also the batch where the model leaves it open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batchsize: Option<u64>,

    /// How often each batch runs.
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,

    /// Runs before those that count, on zeros.
    #[arg(long, alias = "warmup_count", value_name = "N", default_value_t = 1)]
    warmup_count: u32,

    /// What is made up where there is no --input: zeros, or random integers of 0 and 1 and numbers from 0 to 1.
    #[arg(long, alias = "pure_data_type", value_name = "KIND", default_value = "zero", value_enum)]
    pure_data_type: PureType,

    /// Batch size, of a model that was compiled with several.
    #[arg(long, alias = "dymBatch", value_name = "N", conflicts_with = "dym_dims")]
    dym_batch: Option<u64>,

    /// Dimensions of all inputs, of a model that was compiled with several: "ids:1,256;mask:1,256".
    #[arg(long, alias = "dymDims", value_name = "NAME:DIMS")]
    dym_dims: Option<String>,

    /// One thing after the other, each timed by the host, as ais_bench does. Without it copies overlap with computing, and
    /// the device's own clock times it.
    #[arg(long)]
    blocking: bool,

    /// Print the times of copies, too.
    #[arg(long, alias = "display_all_summary")]
    display_all_summary: bool,

    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    devices: Devices,

    #[command(flatten)]
    threads: Threads,

    #[command(flatten)]
    shapes: Shapes,

    #[command(flatten)]
    refused: Refused,
}

/// Flags of `ais_bench` that are not supported, as it spells them.
#[derive(Debug, clap::Args)]
struct Refused {
    #[arg(long = "dymHW", hide = true)]
    dym_hw: Option<String>,
    #[arg(long = "dymShape", hide = true)]
    dym_shape: Option<String>,
    #[arg(long = "dymShape_range", hide = true)]
    dym_shape_range: Option<String>,
    #[arg(long = "outputSize", hide = true)]
    output_size: Option<String>,
    #[arg(long = "auto_set_dymshape_mode", hide = true, num_args = 0..=1, default_missing_value = "1")]
    auto_set_dymshape_mode: Option<String>,
    #[arg(long = "auto_set_dymdims_mode", hide = true, num_args = 0..=1, default_missing_value = "1")]
    auto_set_dymdims_mode: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "1")]
    profiler: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "1")]
    dump: Option<String>,
    #[arg(long = "aipp_config", alias = "aipp-config", hide = true)]
    aipp_config: Option<String>,
}

impl Refused {
    fn check(&self) -> Result<()> {
        let shapes = "models with open shapes are not run; compile for fixed shapes (onnxfix atc --batch 1,8) or gears";
        let one = "one model runs at one gear; run once per gear with --dym-batch or --dym-dims";
        let config = "AscendCL's own configuration does it: --acl-json-path FILE, see \"acl.json\" in CANN's documentation";
        let refused = [
            ("dymHW", &self.dym_hw, "images of several sizes are not run"),
            ("dymShape", &self.dym_shape, shapes),
            ("dymShape_range", &self.dym_shape_range, shapes),
            ("outputSize", &self.output_size, shapes),
            ("auto_set_dymshape_mode", &self.auto_set_dymshape_mode, shapes),
            ("auto_set_dymdims_mode", &self.auto_set_dymdims_mode, one),
            ("profiler", &self.profiler, config),
            ("dump", &self.dump, config),
            ("aipp_config", &self.aipp_config, "image preprocessing at run time is not supported"),
        ];
        match refused.iter().find(|(_, value, _)| value.is_some()) {
            Some((flag, _, why)) => bail!("--{flag} is not supported: {why}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
enum OutFormat {
    Bin,
    Npy,
    Txt,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PureType {
    Zero,
    Random,
}

/// The flags, as the summary records them.
#[derive(Serialize)]
struct Recorded<'a> {
    model: String,
    input: Vec<String>,
    output: Option<String>,
    outfmt: String,
    #[serde(rename = "loop")]
    repeats: u32,
    warmup_count: u32,
    batchsize: Option<u64>,
    threads: u32,
    dym_batch: Option<u64>,
    dym_dims: Option<&'a str>,
    blocking: bool,
}

/// What is to be done: on which model, with how many tokens where that is open, and with what.
struct Job {
    model: usize,
    length: Option<u64>,
    batch: Option<u64>,
    source: Source,
}

/// A data set that `onnxfix prepare` wrote.
struct Prepared {
    folder: PathBuf,
    manifest: Manifest,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    args.refused.check()?;
    let what = || format!("run {}", names(&args.models));
    let prepared = args.prepared().with_context(what)?;
    let folder = args.output.as_deref().map(|output| Folder::new(output, args)).transpose()?;
    let target = folder.as_ref().map(|folder| args.target(folder));
    let compiled = args.models.iter().filter(|path| is_compiled(path)).count();
    let jobs = |sizes: &mut dyn FnMut() -> Result<Vec<Sizes>>| {
        args.jobs(prepared.as_ref(), target.clone(), sizes)
    };
    let reports = match compiled {
        0 => on_cpu(args, &jobs, out).with_context(what)?,
        n if n == args.models.len() => on_npus(args, &jobs, out).with_context(what)?,
        _ => bail!("compiled models (.om) run on NPUs and others on the CPU: give only one kind"),
    };
    let args_of_run = args.recorded();
    let summary = match &reports[..] {
        [(_, one)] => one.summary(&args_of_run),
        all => together(args, all),
    };
    if let Some(folder) = &folder {
        folder.write_summary(&summary)?;
    }
    let batches = prepared.as_ref().map(Prepared::batches);
    if let Some(incomplete) = incomplete(&reports, batches, folder.as_ref()) {
        let failure = reports.into_iter().find_map(|(_, report)| report.ran.failure);
        let error = failure.map_or_else(|| anyhow!("interrupted"), Into::into);
        return Err(error.context(incomplete)).with_context(what);
    }
    if args.json {
        out.json(&summary)?;
    } else {
        out.result(&text(args, &reports))?;
    }
    Ok(Verdict::Clean)
}

fn names(models: &[PathBuf]) -> String {
    models.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",")
}

/// The figures of several models, each with its own.
fn together(args: &Args, reports: &[(usize, Report)]) -> Value {
    let runs = reports.iter().map(|(model, report)| {
        let mut summary = report.summary(&args.recorded());
        summary["model"] = json!(args.models[*model].display().to_string());
        summary
    });
    let samples: u64 = reports.iter().map(|(_, report)| report.samples).sum();
    let seconds: f64 = reports.iter().map(|(_, report)| report.ran.seconds).sum();
    let simulated = reports.iter().any(|(_, report)| report.simulated);
    let rate = (!simulated && seconds > 0.0).then(|| samples as f64 / seconds);
    json!({
        "runs": runs.collect::<Vec<_>>(),
        "samples": samples,
        "seconds": seconds,
        "end_to_end": rate,
    })
}

fn text(args: &Args, reports: &[(usize, Report)]) -> String {
    if let [(_, one)] = reports {
        return one.text(args.display_all_summary);
    }
    let mut lines = Vec::new();
    for (model, report) in reports {
        lines.push(format!("[INFO] {}", args.models[*model].display()));
        lines.push(report.text(args.display_all_summary));
    }
    let all = together(args, reports);
    let rate = all["end_to_end"].as_f64().map_or("–".to_owned(), |rate| format!("{rate:.2}"));
    lines.push(format!(
        "[INFO] all lengths, end to end: {} samples, {rate} samples/s",
        all["samples"]
    ));
    lines.join("\n")
}

/// What is there of a run that did not come to its end. `batches` is how many there were, where that is known beforehand.
fn incomplete(
    reports: &[(usize, Report)],
    batches: Option<usize>,
    folder: Option<&Folder>,
) -> Option<String> {
    let finished: usize = reports.iter().map(|(_, report)| report.ran.finished).sum();
    let batches = batches.unwrap_or(reports.iter().map(|(_, report)| report.batches).sum());
    if finished == batches && reports.iter().all(|(_, report)| report.is_complete()) {
        return None;
    }
    let kept = match folder {
        Some(folder) if finished > 0 => format!(", results in {}", folder.path.display()),
        _ => String::new(),
    };
    Some(format!("{finished} of {batches} batches are finished{kept}"))
}

/// Finds the jobs, given what the models take, which is asked for only where it matters.
type Jobs<'a> = dyn Fn(&mut dyn FnMut() -> Result<Vec<Sizes>>) -> Result<Vec<Job>> + 'a;

fn on_npus(args: &Args, jobs: &Jobs<'_>, out: &Output) -> Result<Vec<(usize, Report)>> {
    args.models.iter().try_for_each(|path| check_om(path))?;
    let gear = gear(args.dym_batch, args.dym_dims.as_deref())?;
    let session = args.devices.start(out)?;
    let outcome = run_jobs(args, &session, gear.as_ref(), jobs, out);
    let failure = match &outcome {
        Ok(reports) => reports
            .iter()
            .find_map(|(_, report)| report.ran.failure.as_ref())
            .and_then(NpuError::call),
        Err(error) => super::npu::call(error),
    };
    session.finish(failure, out);
    outcome
}

fn run_jobs(
    args: &Args,
    session: &Session,
    gear: Option<&Gear>,
    jobs: &Jobs<'_>,
    out: &Output,
) -> Result<Vec<(usize, Report)>> {
    let jobs = jobs(&mut || {
        let first = session.devices.first().copied().context("there is no device")?;
        let sizes = |path: &PathBuf| {
            let found = onnxfix_npu::interface(&session.runtime, first, path, gear.cloned())?;
            let dims = found.inputs.first().map(|slot| slot.dims.clone()).unwrap_or_default();
            Ok(Sizes::of(path.display().to_string(), &dims))
        };
        args.models.iter().map(sizes).collect()
    })?;
    let stop = interruptible()?;
    let progress = Progress::start(out, "load the model");
    let count = count(&progress, "run");
    let mut reports = Vec::with_capacity(jobs.len());
    for job in jobs {
        let plan = Plan {
            model: &args.models[job.model],
            devices: session.devices.clone(),
            threads: args.threads.threads as usize,
            gear: gear.cloned(),
            warmups: args.warmup_count as usize,
            repeats: args.repeats as usize,
            flow: if args.blocking { Flow::Blocking } else { Flow::Overlapped },
        };
        let report = run_compiled(&session.runtime, &plan, &job.source, job.batch, &stop, &count)?;
        let complete = report.is_complete();
        reports.push((job.model, report));
        if !complete {
            break;
        }
    }
    Ok(reports)
}

fn on_cpu(args: &Args, jobs: &Jobs<'_>, out: &Output) -> Result<Vec<(usize, Report)>> {
    if let Some(flag) =
        [("--dym-batch", args.dym_batch.is_some()), ("--dym-dims", args.dym_dims.is_some())]
            .iter()
            .find_map(|(flag, given)| given.then_some(flag))
    {
        bail!(
            "{flag} chooses a gear of a compiled model (.om); give a model for the CPU --input-shape"
        );
    }
    let models =
        args.models.iter().map(|path| subject(path, "run")).collect::<Result<Vec<Subject>>>()?;
    let (shapes, dims) = args.shapes.numbers("run", &models.iter().collect::<Vec<_>>())?;
    let jobs = jobs(&mut || Ok(models.iter().map(sizes).collect()))?;
    let cpu = Cpu {
        threads: args.threads.threads as usize,
        warmups: args.warmup_count as usize,
        repeats: args.repeats as usize,
    };
    let stop = interruptible()?;
    let progress = Progress::start(out, "load the model");
    let count = count(&progress, "run");
    let mut reports = Vec::with_capacity(jobs.len());
    for job in jobs {
        let model = &models[job.model];
        let mut shapes = shapes.clone();
        if let (Some(batch), Some(length)) = (job.batch, job.length) {
            shapes = rows(model, batch, length);
        }
        let specs = input_specs(model, &shapes, &dims, job.batch)?;
        let report = run_on_cpu(model, &specs, cpu, &job.source, job.batch, &stop, &count)?;
        let complete = report.is_complete();
        reports.push((job.model, report));
        if !complete {
            break;
        }
    }
    Ok(reports)
}

/// What the first input of a model that is not compiled takes.
fn sizes(subject: &Subject) -> Sizes {
    let model = &subject.model;
    let shape = inputs(model).first().and_then(|&input| model[input].shape());
    let size = |axis: usize| {
        let dim = shape.and_then(|shape| shape.0.get(axis)).and_then(Dim::fixed);
        dim.and_then(|dim| usize::try_from(dim).ok())
    };
    Sizes { name: subject.name.clone(), batch: size(0), length: size(1) }
}

/// The shapes of all inputs that have rows of tokens.
fn rows(subject: &Subject, batch: u64, length: u64) -> Vec<InputShape> {
    let model = &subject.model;
    let all = inputs(model).into_iter();
    let has_rows = all.filter(|&input| model[input].shape().is_none_or(|s| s.rank() == 2));
    let shape = |input: ValueId| InputShape {
        name: model[input].name().to_string(),
        dims: vec![batch.cast_signed(), length.cast_signed()],
    };
    has_rows.map(shape).collect()
}

impl Prepared {
    /// Files of all parts.
    fn batches(&self) -> usize {
        let parts = self.manifest.splits.iter().flat_map(|split| &split.parts);
        parts.map(|part| part.batches).sum()
    }
}

impl Args {
    /// The data set, where --input is one that was prepared.
    fn prepared(&self) -> Result<Option<Prepared>> {
        let folder = match &self.input[..] {
            [folder] if Manifest::is_in(folder) => folder.clone(),
            _ if self.models.len() > 1 => {
                bail!(
                    "several models go together on a folder that `onnxfix prepare` wrote: give it as --input"
                )
            }
            _ => return Ok(None),
        };
        let manifest = Manifest::open(&folder).context("--input")?;
        Ok(Some(Prepared { folder, manifest }))
    }

    fn target(&self, folder: &Folder) -> Target {
        Target {
            folder: folder.path.clone(),
            format: match self.outfmt {
                OutFormat::Bin => Format::Bin,
                OutFormat::Npy => Format::Npy,
                OutFormat::Txt => Format::Text,
            },
            axis: self.output_batchsize_axis,
        }
    }

    fn jobs(
        &self,
        prepared: Option<&Prepared>,
        target: Option<Target>,
        sizes: &mut dyn FnMut() -> Result<Vec<Sizes>>,
    ) -> Result<Vec<Job>> {
        let Some(Prepared { folder, manifest }) = prepared else {
            let source = if self.input.is_empty() {
                let data = match self.pure_data_type {
                    PureType::Zero => PureData::Zero,
                    PureType::Random => PureData::Random,
                };
                Source::Made { data, batches: 1, target }
            } else {
                Source::Files(vec![Batches {
                    inputs: self.input.clone(),
                    bin_dtype: self.bin_dtype,
                    target,
                    part: String::new(),
                    samples: None,
                }])
            };
            return Ok(vec![Job { model: 0, length: None, batch: self.batchsize, source }]);
        };
        for (flag, given) in
            [("--bin-dtype", self.bin_dtype.is_some()), ("--batchsize", self.batchsize.is_some())]
        {
            if given {
                bail!("{flag}: {} is prepared, and that says it", folder.display());
            }
        }
        let found = routes(folder, manifest, &sizes()?, target.as_ref())?;
        let job = |route: Route| Job {
            model: route.model,
            length: Some(route.length),
            batch: Some(manifest.batch as u64),
            source: Source::Files(route.batches),
        };
        Ok(found.into_iter().map(job).collect())
    }

    fn recorded(&self) -> Recorded<'_> {
        Recorded {
            model: names(&self.models),
            input: self.input.iter().map(|path| path.display().to_string()).collect(),
            output: self.output.as_ref().map(|path| path.display().to_string()),
            outfmt: format!("{:?}", self.outfmt).to_uppercase(),
            repeats: self.repeats,
            warmup_count: self.warmup_count,
            batchsize: self.batchsize,
            threads: self.threads.threads,
            dym_batch: self.dym_batch,
            dym_dims: self.dym_dims.as_deref(),
            blocking: self.blocking,
        }
    }
}

/// Where results and the summary go.
struct Folder {
    path: PathBuf,
    summary: PathBuf,
}

impl Folder {
    fn new(output: &Path, args: &Args) -> Result<Folder> {
        let name = match &args.output_dirname {
            Some(name) if Path::new(name).components().count() != 1 || name.starts_with('.') => {
                bail!("--output-dirname {name}: is no name of a folder within --output")
            }
            Some(name) => name.clone(),
            None => timestamp(SystemTime::now()),
        };
        Ok(Folder {
            path: output.join(&name),
            summary: output.join(format!("{name}_summary.json")),
        })
    }

    /// Writes the summary beside the folder, whole or not at all.
    fn write_summary(&self, summary: &serde_json::Value) -> Result<()> {
        write_whole(&self.summary, serde_json::to_string_pretty(summary)?.as_bytes())
    }
}

/// `YYYY_MM_DD-HH_MM_SS` in UTC, by which `ais_bench` calls its folders.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, as the year then ends with the leap day (Howard Hinnant, chrono-Compatible
    // Low-Level Date Algorithms).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}_{month:02}_{day:02}-{hour:02}_{minute:02}_{second:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn folders_are_called_after_the_time() {
        for (seconds, want) in [
            (0, "1970_01_01-00_00_00"),
            (951_868_799, "2000_02_29-23_59_59"),
            (1_767_225_600, "2026_01_01-00_00_00"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
    }
}
