//! `onnxfix eval`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_npu::device_name;
use onnxfix_task::dataset::{DataSet, Split, Task};
use onnxfix_task::features::{Holds, buckets};
use onnxfix_task::labels::LabelOrder;
use onnxfix_task::metrics::{Score, score};
use onnxfix_task::outputs;
use onnxfix_task::prepare::{Manifest, Part, SplitRecord, Tokenized};
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::npu::Devices;
use super::output::Output;
use super::prepare::positive;
use super::progress::Progress;
use super::texts;
use crate::classify::{Classifier, Logits, best};
use crate::engine::Lowering;
use crate::whole::write_whole;

/// Count how many labels of a data set a model gets right.
///
/// Either from what a runner wrote (--outputs, such as the --output of ais_bench or `onnxfix run`), or from a model, which
/// then runs: on the CPU in tract, on all cores, or a compiled one (.om) on NPUs. DATA is what `onnxfix prepare` wrote, or the data set itself.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "the text of --help is no Markdown")]
pub(crate) struct Args {
    /// The model: .onnx for the CPU, .om for NPUs; or several, each for another length. Left out with --outputs.
    #[arg(value_name = "MODEL", required_unless_present = "outputs", conflicts_with = "outputs")]
    models: Vec<PathBuf>,

    /// Folder that `onnxfix prepare` wrote, or with the files of the data set, or one of these files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Which data set it is; not needed for a prepared one.
    #[arg(long, value_parser = texts::task())]
    task: Option<Task>,

    /// Folder with results: input_{i}_0.bin (or .npy, .txt), in folders like those of the data or in the only folder
    /// of a run.
    #[arg(long, value_name = "DIR")]
    outputs: Option<PathBuf>,

    /// As for `onnxfix prepare` [default: the folder of MODEL].
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<PathBuf>,

    /// Labels in the order of the model's outputs [default: as the config.json beside the model says, else
    /// contradiction,neutral,entailment and negative,positive].
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    labels: Vec<String>,

    /// The config.json that says the order of labels.
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    config: Option<PathBuf>,

    /// Only these parts of the data set [default: those that have labels].
    #[arg(long, value_name = "PART,PART", value_delimiter = ',', value_parser = texts::split())]
    split: Vec<Split>,

    /// Samples of a run, for a data set that is not prepared [default: the model's, else 1].
    #[arg(long, value_name = "N", value_parser = positive())]
    batch: Option<usize>,

    /// Tokens of a sample, for a data set that is not prepared [default: the model's, else 256 for mnli, 128 for sst2].
    #[arg(long, value_name = "N", value_parser = positive())]
    max_length: Option<usize>,

    /// Also shorter lengths, for a data set that is not prepared: each sample runs in the shortest that holds it [default:
    /// those of the models].
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = positive())]
    buckets: Vec<usize>,

    /// Compute in 16-bit floats, as an NPU may.
    #[arg(long, conflicts_with = "outputs")]
    half: bool,

    /// Only the first samples of each part.
    #[arg(long, value_name = "N", conflicts_with = "outputs", value_parser = positive())]
    limit: Option<usize>,

    /// A result.json of another run: lists the samples that were answered otherwise.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Leave out lines that are no samples, for a data set that is not prepared.
    #[arg(long)]
    skip_odd_lines: bool,

    /// Folder for result.json and eval_bs{batch}_{part}.txt.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    devices: Devices,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    task: Task,
    /// The model, or the folder of results.
    subject: PathBuf,
    /// What ran the model; none for results of a runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Samples of a run.
    batch: usize,
    splits: Vec<SplitReport>,
    /// Samples that were answered otherwise than in --against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<Difference>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SplitReport {
    split: Split,
    source: PathBuf,
    #[serde(flatten)]
    score: Score,
    /// What the guide of the published model states.
    published_accuracy: Option<f64>,
    /// Wall time of the model on all samples, without loading it; none for results of a runner and on a simulated device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Time>,
    /// The line of each sample in the source, and what was answered: numbers in the order of `labels`.
    lines: Vec<u32>,
    answers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Time {
    load_seconds: f64,
    run_seconds: f64,
    samples_per_second: f64,
    /// Cores, where the CPU ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cores: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Difference {
    split: Split,
    line: u32,
    here: String,
    there: String,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    if !args.data.exists() {
        bail!("--data: there is no {}", args.data.display());
    }
    let prepared = Manifest::is_in(&args.data);
    let mut report = if prepared {
        let manifest = Manifest::open(&args.data).context("--data")?;
        if let Some(flag) = needless(args) {
            bail!("{flag}: {} is prepared, and that says it", args.data.display());
        }
        eval_prepared(args, &manifest, out)?
    } else {
        let task = args.task.ok_or_else(|| {
            anyhow!("--task: {} is not prepared, so say which data set it is", args.data.display())
        })?;
        eval_texts(args, task, out)?
    };
    if let Some(path) = &args.against {
        report.differences = Some(differences(&report, path).context("--against")?);
    }
    if let Some(folder) = &args.output {
        write(&report, folder)?;
    }
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&text(&report))?;
    }
    let differs = report.differences.as_ref().is_some_and(|d| !d.is_empty());
    Ok(if differs { Verdict::Findings } else { Verdict::Clean })
}

/// A flag that a prepared data set makes meaningless.
fn needless(args: &Args) -> Option<&'static str> {
    [
        ("--tokenizer", args.tokenizer.is_some()),
        ("--batch", args.batch.is_some()),
        ("--max-length", args.max_length.is_some()),
        ("--buckets", !args.buckets.is_empty()),
        ("--limit", args.limit.is_some()),
        ("--skip-odd-lines", args.skip_odd_lines),
        ("--task", args.task.is_some()),
    ]
    .into_iter()
    .find_map(|(flag, given)| given.then_some(flag))
}

fn order(args: &Args, task: Task) -> Result<LabelOrder> {
    let model = args.models.first().map(PathBuf::as_path);
    texts::label_order(task, &args.labels, args.config.as_deref(), model)
}

fn eval_prepared(args: &Args, manifest: &Manifest, out: &Output) -> Result<Report> {
    let order = order(args, manifest.task)?;
    let asked = |split: &&SplitRecord| {
        if args.split.is_empty() { has_labels(split) } else { args.split.contains(&split.split) }
    };
    let chosen: Vec<&SplitRecord> = manifest.splits.iter().filter(asked).collect();
    let missing = args.split.iter().find(|s| !chosen.iter().any(|c| c.split == **s));
    if let Some(missing) = missing {
        bail!("--split {missing}: {} was prepared without it", args.data.display());
    }
    if chosen.is_empty() {
        bail!("{} has no part with labels", args.data.display());
    }
    let progress = Progress::start(out, "read the model");
    if args.models.is_empty() {
        let splits = chosen.iter().map(|split| {
            // With one part, a folder of results need not have one for it.
            let results = args.outputs.as_deref().unwrap_or(Path::new("."));
            if chosen.len() > 1 && outputs::root(results, split.split.name())?.is_none() {
                bail!(
                    "--outputs: {} has no folder {}; with --split the results of one part are enough",
                    results.display(),
                    split.split
                );
            }
            let logits = read_results(results, split, manifest.batch, &order)?;
            report(split, &logits, &order, manifest.task, None)
        });
        let splits = splits.collect::<Result<_>>()?;
        return Ok(summary(args, manifest.task, manifest.batch, splits, None));
    }
    // What was prepared for an input of that name is what the input holds.
    let holds = |name: &str| {
        let prepared = manifest.inputs.iter().find(|input| input.name == name);
        prepared.map(|input| input.holds).or_else(|| Holds::by_name(name))
    };
    let opened = open(args, &holds, out)?;
    let model = &opened.model;
    let splits = chosen.iter().map(|split| {
        let step = step(&progress, split.split);
        let logits = model.run_files(&args.data, manifest, split, &step)?;
        report(split, &logits, &order, manifest.task, Some(model))
    });
    let done = splits.collect::<Result<Vec<_>>>().and_then(|splits| {
        Ok(summary(args, manifest.task, manifest.batch, splits, Some(told(model)?)))
    });
    opened.finish(done, out)
}

/// The device as reports call it.
fn told(model: &Classifier) -> Result<String> {
    Ok(device_name(&model.device()?.0))
}

fn summary(
    args: &Args,
    task: Task,
    batch: usize,
    splits: Vec<SplitReport>,
    device: Option<String>,
) -> Report {
    let subject = args.models.first().or(args.outputs.as_ref()).cloned().unwrap_or_default();
    Report { task, subject, device, batch, splits, differences: None }
}

fn eval_texts(args: &Args, task: Task, out: &Output) -> Result<Report> {
    let order = order(args, task)?;
    let mut sets = texts::read_sets(task, &args.data, &args.split, args.skip_odd_lines, out)?;
    if args.split.is_empty() {
        sets.retain(|set| set.samples.iter().any(|s| s.label.is_some()));
    }
    if sets.is_empty() {
        bail!("--data: {} has no labels", args.data.display());
    }
    for set in &mut sets {
        set.samples.truncate(args.limit.unwrap_or(usize::MAX));
    }
    let progress = Progress::start(out, "read the model");
    if args.models.is_empty() {
        let results = args.outputs.as_deref().unwrap_or(Path::new("."));
        let batch = args.batch.unwrap_or(1);
        let splits = sets.iter().map(|set| {
            let split = record(set, batch);
            let logits = read_results(results, &split, batch, &order)?;
            report(&split, &logits, &order, task, None)
        });
        return Ok(summary(args, task, batch, splits.collect::<Result<_>>()?, None));
    }
    let opened = open(args, &Holds::by_name, out)?;
    let done = run_texts(args, task, sets, &order, &opened.model, &progress);
    opened.finish(done, out)
}

/// Runs models on texts.
fn run_texts(
    args: &Args,
    task: Task,
    sets: Vec<DataSet>,
    order: &LabelOrder,
    model: &Classifier,
    progress: &Progress,
) -> Result<Report> {
    let batch = texts::fitting("--batch", args.batch, model.batch())?.unwrap_or(1);
    let fixed = model.lengths();
    let longest = fixed.as_ref().and_then(|lengths| lengths.last().copied());
    let max_length = texts::fitting("--max-length", args.max_length, longest)?;
    let max_length = max_length.unwrap_or(task.max_length());
    let said = texts::lengths(&args.buckets, max_length)?;
    let lengths = match fixed {
        // Lengths that are written into the models are those that there are.
        Some(lengths) if args.buckets.is_empty() => lengths,
        _ => said,
    };
    let path = args.models.first().map(PathBuf::as_path);
    let mut tokenizer = texts::tokenizer(args.tokenizer.as_deref(), path)?;
    tokenizer.set_max_length(max_length, task == Task::Mnli)?;
    let mut splits = Vec::new();
    for set in sets {
        let set = Tokenized::new(set, &tokenizer)?;
        let buckets = buckets(&set.tokens, &lengths);
        let step = step(progress, set.set.split);
        let logits = model.run(&set.tokens, tokenizer.pad(), &buckets, batch, &step)?;
        splits.push(report(&record(&set.set, batch), &logits, order, task, Some(model))?);
    }
    Ok(summary(args, task, batch, splits, Some(told(model)?)))
}

fn open(args: &Args, holds: &dyn Fn(&str) -> Option<Holds>, out: &Output) -> Result<texts::Opened> {
    let lowering = if args.half { Lowering::Half } else { Lowering::Kernels };
    texts::Opened::new(&args.models, lowering, &args.devices, holds, out)
}

fn step(progress: &Progress, split: Split) -> impl Fn(usize, usize) + Sync {
    move |done, all| progress.step(format!("{split}: {done} of {all}"))
}

fn has_labels(split: &SplitRecord) -> bool {
    split.labels.iter().any(Option::is_some)
}

/// A data set as if it had been prepared in files of one length.
fn record(set: &DataSet, batch: usize) -> SplitRecord {
    let samples = set.samples.len();
    let batches = samples.div_ceil(batch);
    let folder = set.split.name().to_owned();
    SplitRecord {
        split: set.split,
        source: set.path.clone(),
        samples,
        mean_tokens: 0.0,
        longest: 0,
        parts: vec![Part { length: 0, folder, batches, order: Vec::new() }],
        labels: set.samples.iter().map(|s| s.label).collect(),
        genres: set.samples.iter().map(|s| s.genre.clone()).collect(),
        lines: set.samples.iter().map(|s| s.line).collect(),
        odd: Vec::new(),
    }
}

fn read_results(
    results: &Path,
    split: &SplitRecord,
    batch: usize,
    order: &LabelOrder,
) -> Result<Logits> {
    let numbers = outputs::logits(results, split, batch, order.len()).context("--outputs")?;
    Ok(Logits { labels: order.len(), numbers, load_seconds: 0.0, run_seconds: 0.0 })
}

fn report(
    split: &SplitRecord,
    logits: &Logits,
    order: &LabelOrder,
    task: Task,
    model: Option<&Classifier>,
) -> Result<SplitReport> {
    if logits.labels != order.len() {
        bail!(
            "the model tells {} labels apart, and {task} has {}: {}",
            logits.labels,
            order.len(),
            task.labels().join(", ")
        );
    }
    if let Some(bad) = logits.numbers.iter().position(|x| !x.is_finite()) {
        let line = split.lines.get(bad / logits.labels).copied().unwrap_or_default();
        bail!(
            "{}: line {line}: the model's output is {}",
            split.source.display(),
            logits.numbers[bad]
        );
    }
    let answer = |row: &[f32]| order.label(best(row)).unwrap_or_default();
    let answers: Vec<u8> = logits.numbers.chunks(logits.labels).map(answer).collect();
    let on_cpu = model.is_some_and(Classifier::is_on_cpu);
    let has_time =
        on_cpu || model.map_or(Ok(false), |m| m.device().map(|(_, made_up)| !made_up))?;
    let time = has_time.then(|| Time {
        load_seconds: logits.load_seconds,
        run_seconds: logits.run_seconds,
        samples_per_second: split.samples as f64 / logits.run_seconds.max(f64::MIN_POSITIVE),
        cores: on_cpu.then(rayon::current_num_threads),
    });
    Ok(SplitReport {
        split: split.split,
        source: split.source.clone(),
        score: score(task.labels(), &answers, &split.labels, &split.genres),
        published_accuracy: task.published_accuracy(split.split),
        time,
        lines: split.lines.clone(),
        answers,
    })
}

/// The samples that another run answered otherwise.
fn differences(report: &Report, path: &Path) -> Result<Vec<Difference>> {
    let at = || path.display().to_string();
    let bytes = fs::read(path).with_context(at)?;
    let other: Report = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no result.json of `onnxfix eval`", path.display()))?;
    if other.task != report.task {
        bail!("{} is of {}, not of {}", path.display(), other.task, report.task);
    }
    let mut found = Vec::new();
    for here in &report.splits {
        let there = other.splits.iter().find(|s| s.split == here.split);
        let there =
            there.ok_or_else(|| anyhow!("{} has no result of {}", path.display(), here.split))?;
        let answers: BTreeMap<u32, u8> =
            there.lines.iter().copied().zip(there.answers.iter().copied()).collect();
        for (line, &answer) in here.lines.iter().zip(&here.answers) {
            let Some(&other) = answers.get(line) else {
                bail!("{} has no answer to line {line} of {}", path.display(), here.split);
            };
            if other != answer {
                let name =
                    |n: u8| here.score.labels.get(usize::from(n)).cloned().unwrap_or_default();
                let (here_name, there) = (name(answer), name(other));
                found.push(Difference { split: here.split, line: *line, here: here_name, there });
            }
        }
    }
    Ok(found)
}

/// Writes the files of a result, each whole or not at all.
fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("write {}", folder.display()))?;
    let put = |name: String, text: &str| -> Result<()> {
        write_whole(&folder.join(name), text.as_bytes())
    };
    for split in &report.splits {
        put(format!("eval_bs{}_{}.txt", report.batch, split.split), &split.score.key_values())?;
    }
    put("result.json".to_owned(), &format!("{}\n", serde_json::to_string_pretty(report)?))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if let Some(device) = report.device.as_ref().filter(|device| device.starts_with("simulated")) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{device}");
    }
    for split in &report.splits {
        split_text(split, &mut text);
    }
    if let Some(differences) = &report.differences {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} answered otherwise", differences.len());
        for d in differences {
            let _ = writeln!(text, "  {} line {}: {}, there {}", d.split, d.line, d.here, d.there);
        }
    }
    text
}

fn split_text(split: &SplitReport, text: &mut String) {
    let score = &split.score;
    let (low, high) = score.interval_95;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}: accuracy {:.4}, {} of {} ({:.4} to {:.4} with 95 % confidence{})",
        split.split,
        score.accuracy,
        score.correct,
        score.eval_samples,
        low,
        high,
        split.published_accuracy.map_or(String::new(), |p| format!("; published: {p:.4}")),
    );
    if score.samples > score.eval_samples {
        let _ = writeln!(text, "  {} samples have no label", score.samples - score.eval_samples);
    }
    let width = score.labels.iter().map(String::len).max().unwrap_or(0).max(8);
    let _ = write!(text, "  {:width$}", "");
    for label in &score.labels {
        let _ = write!(text, "  {label:>width$}");
    }
    text.push_str("  (answers)\n");
    for (label, row) in score.labels.iter().zip(&score.confusion) {
        let _ = write!(text, "  {label:width$}");
        for count in row {
            let _ = write!(text, "  {count:>width$}");
        }
        text.push('\n');
    }
    for (genre, score) in &score.genres {
        let _ = writeln!(
            text,
            "  {genre}: accuracy {:.4}, {} of {}",
            score.accuracy, score.correct, score.eval_samples
        );
    }
    if let Some(time) = &split.time {
        let _ = writeln!(
            text,
            "  {:.1} samples per second ({:.2} ms each){}; {:.2} s to load the model",
            time.samples_per_second,
            1000.0 / time.samples_per_second,
            time.cores.map_or(String::new(), |cores| format!(" on {cores} cores in tract")),
            time.load_seconds
        );
    }
}
