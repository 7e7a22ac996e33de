//! `onnxfix inspect`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ascend::cost::{Prediction, predict};
use onnxfix_ascend::facts::Facts;
use onnxfix_ascend::finding::{Finding, Severity};
use onnxfix_ascend::inspect::inspect;
use onnxfix_ir::{Model, dot, infer};
use onnxfix_passes::{Options, Pipeline, run as run_passes};
use serde::Serialize;

use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::verify::subject;
use crate::ranges::{Ranges, measure};
use crate::report::{Summary, bytes};
use crate::target::toolkit;
use crate::verify::{self, Subject};

/// Version of the JSON form; it changes when a field changes its meaning or goes.
const SCHEMA: &str = "onnxfix.inspect/1";
/// Places that a finding names in text; JSON has all of them.
const PLACES: usize = 3;

/// Say what the target will refuse, run on the AI CPU, or run slowly, before ATC does.
///
/// Exit code 1 when there are errors or warnings. What is known of chips and releases is from published material; "not
/// confirmed" marks what was concluded from it. No finding does not mean that ATC takes the model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model (.onnx or .onnxtxt).
    model: PathBuf,

    /// Exact name of the chip, as `npu-smi info` shows it behind "Ascend".
    #[arg(long = "soc", alias = "soc-version", value_name = "NAME", default_value = "Ascend310P3")]
    soc: String,

    /// Version of CANN [default: that of the toolkit on this machine, else 7.0].
    #[arg(long, value_name = "VERSION")]
    cann: Option<String>,

    /// Facts of your own about releases, chips and parsers, in TOML.
    #[arg(long, value_name = "FILE")]
    target_file: Option<PathBuf>,

    /// Write the graph for Graphviz.
    #[arg(long, value_name = "FILE")]
    dot: Option<PathBuf>,

    /// Print JSON, with every place of every finding.
    #[arg(long)]
    json: bool,

    /// Also run the model on this many samples on the CPU, and say which numbers do not fit float16.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Numbers")]
    samples: usize,

    /// Seed of the samples.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Numbers")]
    seed: u64,

    /// Write the nodes that should stay in float32, a line each, for ATC's `--keep_dtype`.
    #[arg(long, value_name = "FILE", requires = "samples", help_heading = "Numbers")]
    keep_dtype: Option<PathBuf>,

    #[command(flatten)]
    shapes: Shapes,
}

/// A model and what a target makes of it.
#[derive(Debug, Serialize)]
struct Inspection {
    schema: &'static str,
    onnxfix: &'static str,
    model: PathBuf,
    soc: String,
    cann: String,
    /// Versions of the operator sets by domain.
    opsets: BTreeMap<String, i64>,
    /// Elements of all float constants.
    parameters: u64,
    #[serde(flatten)]
    summary: Summary,
    findings: Vec<Finding>,
    /// How long it will take, where the shapes are numbers and the figures of the chip are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<Prediction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Ranges>,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let facts = facts(args)?;
    let mut subject = subject(&args.model, "inspect")?;
    prepare(&mut subject.model, &args.shapes)
        .with_context(|| format!("inspect {}", args.model.display()))?;
    let model = &subject.model;
    let mut findings = inspect(model, &facts);
    let ranges = if args.samples > 0 { Some(ranges(args, &subject, out)?) } else { None };
    if let Some(ranges) = &ranges {
        findings.extend(ranges.findings());
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        ranges.notes.iter().for_each(|note| out.note(note));
    }
    let inspection = Inspection {
        schema: SCHEMA,
        onnxfix: env!("CARGO_PKG_VERSION"),
        model: args.model.clone(),
        soc: facts.soc.clone(),
        cann: facts.cann.line.clone(),
        opsets: opsets(model),
        parameters: parameters(model),
        summary: Summary::of(model),
        findings,
        prediction: prediction(model, &facts, out),
        ranges,
    };
    if let Some(path) = &args.dot {
        write(path, "--dot", &dot(model, model.root()))?;
    }
    if let (Some(path), Some(ranges)) = (&args.keep_dtype, &inspection.ranges) {
        write(
            path,
            "--keep-dtype",
            &ranges.keep_dtype.iter().fold(String::new(), |t, n| t + n + "\n"),
        )?;
    }
    if args.json {
        out.json(&inspection)?;
    } else {
        out.result(&inspection.text())?;
    }
    let bad = inspection.findings.iter().any(|finding| finding.severity > Severity::Note);
    Ok(if bad { Verdict::Findings } else { Verdict::Clean })
}

fn facts(args: &Args) -> Result<Facts> {
    let cann = toolkit::version(args.cann.as_deref());
    match &args.target_file {
        None => Ok(Facts::find(&args.soc, &cann)?),
        Some(path) => {
            let name = path.display().to_string();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("--target-file {name}"))?;
            Ok(Facts::find_with(&args.soc, &cann, &name, &text)?)
        }
    }
}

/// Gives the model the shapes that the user says, and finds the types of all its values.
fn prepare(model: &mut Model, shapes: &Shapes) -> Result<()> {
    let mut options = Options::default();
    shapes.apply(&mut options)?;
    if !options.shapes.is_empty() || !options.dims.is_empty() {
        let pipeline = Pipeline::of(&["fix-input-shapes"])?;
        run_passes(model, &pipeline, &options, &mut |_, _| ())?;
    }
    infer::infer(model)?;
    Ok(())
}

fn prediction(model: &Model, facts: &Facts, out: &Output) -> Option<Prediction> {
    let Some(platform) = &facts.platform else {
        out.note(&format!("no figures of {} are known, so no time is predicted", facts.soc));
        return None;
    };
    match predict(model, platform) {
        Ok(prediction) => Some(prediction),
        Err(why) => {
            out.note(&format!("no time is predicted: {why}"));
            None
        }
    }
}

fn ranges(args: &Args, subject: &Subject, out: &Output) -> Result<Ranges> {
    let (shapes, dims) = args.shapes.numbers("inspect --samples", &[subject])?;
    let options = verify::Options {
        samples: args.samples,
        seed: args.seed,
        shapes,
        dims,
        ..verify::Options::default()
    };
    let progress = Progress::start(out, "run the model");
    let step = |at, all| progress.step(format!("look at value {at} of {all}"));
    measure(subject, &options, &step).context("inspect --samples")
}

fn write(path: &Path, flag: &str, text: &str) -> Result<()> {
    if path.is_dir() {
        bail!("{flag} {}: is a directory, not a file", path.display());
    }
    std::fs::write(path, text).with_context(|| format!("{flag} {}", path.display()))
}

fn opsets(model: &Model) -> BTreeMap<String, i64> {
    let named = model.opsets.iter().map(|opset| {
        let domain = opset.domain.as_deref().unwrap_or("");
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        (domain.to_owned(), opset.version.unwrap_or_default())
    });
    named.collect()
}

fn parameters(model: &Model) -> u64 {
    let tensors = model.all_values().filter_map(|(_, value)| value.tensor());
    tensors.filter(|t| t.dtype.is_float()).filter_map(|t| t.len().ok()).sum()
}

impl Inspection {
    fn text(&self) -> String {
        let mut text = String::new();
        let opsets: Vec<String> = self
            .opsets
            .iter()
            .map(|(domain, version)| match domain.as_str() {
                "ai.onnx" => format!("opset {version}"),
                _ => format!("{domain} {version}"),
            })
            .collect();
        let summary = &self.summary;
        // Writing to a String cannot fail.
        let _ok = writeln!(
            text,
            "{}: {}, for {} with CANN {}",
            self.model.display(),
            opsets.join(", "),
            self.soc,
            self.cann
        );
        let _ok = writeln!(
            text,
            "  {} nodes, {} parameters, {} of constants",
            summary.nodes,
            grouped(self.parameters),
            bytes(summary.constant_bytes)
        );
        let mut ops: Vec<(&String, &usize)> = summary.ops.iter().collect();
        ops.sort_by_key(|&(op, count)| (std::cmp::Reverse(*count), op));
        let ops: Vec<String> = ops.iter().map(|(op, count)| format!("{op} {count}")).collect();
        for (head, items) in
            [("in   ", &summary.inputs), ("out  ", &summary.outputs), ("ops  ", &ops)]
        {
            let lines = crate::report::wrap(items, 100);
            for (i, line) in lines.iter().enumerate() {
                let _ok = writeln!(text, "  {} {line}", if i == 0 { head } else { "     " });
            }
        }
        if let Some(prediction) = &self.prediction {
            predicted(&mut text, prediction);
        }
        for finding in &self.findings {
            text.push('\n');
            describe(&mut text, finding);
        }
        let count = |severity| self.findings.iter().filter(|f| f.severity == severity).count();
        let counts =
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
                .map(|(severity, name)| match count(severity) {
                    1 => format!("1 {name}"),
                    n => format!("{n} {name}s"),
                });
        let _ok = writeln!(text, "\n{}", counts.join(", "));
        text
    }
}

/// The time that a model will take, by what it is spent on, and what that takes for granted.
fn predicted(text: &mut String, prediction: &Prediction) {
    let ms = |us: f64| format!("{:.2}", us / 1e3);
    let (time, fps) = (prediction.time, prediction.fps);
    let _ok = writeln!(
        text,
        "  time  {} ms for a batch of {} ({} to {}), {:.0} samples/s ({:.0} to {:.0}): predicted, not measured",
        ms(time.likely),
        prediction.batch,
        ms(time.low),
        ms(time.high),
        fps.likely,
        fps.low,
        fps.high
    );
    let mut spent: BTreeMap<&str, f64> = BTreeMap::new();
    for node in &prediction.nodes {
        *spent.entry(&node.op).or_default() += node.total;
    }
    let mut spent: Vec<(&str, f64)> = spent.into_iter().collect();
    spent.sort_by(|a, b| b.1.total_cmp(&a.1));
    let share = |us: f64| 100.0 * us / time.likely.max(f64::MIN_POSITIVE);
    let spent: Vec<String> = spent
        .iter()
        .filter(|(_, us)| share(*us) >= 1.0)
        .map(|(op, us)| format!("{op} {:.0} %", share(*us)))
        .collect();
    let _ok = writeln!(
        text,
        "        {:.1} GFLOP, {:.0} MB of weights in float16; {}",
        prediction.flops / 1e9,
        prediction.weight_bytes / 1e6,
        spent.join(", ")
    );
    for assumption in &prediction.assumptions {
        let _ok = writeln!(text, "        taken for granted: {assumption}");
    }
}

fn describe(text: &mut String, finding: &Finding) {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let _ok = writeln!(text, "{severity}: {} [{}]", finding.what, finding.code);
    if !finding.at.is_empty() {
        let shown = finding.at.iter().take(PLACES).cloned().collect::<Vec<_>>().join(", ");
        let more = match finding.at.len().saturating_sub(PLACES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let _ok = writeln!(text, "  at      {shown}{more}");
    }
    let mark = if finding.confirmed { "" } else { " (not confirmed)" };
    let _ok = writeln!(text, "  why     {}{mark}", finding.why);
    let _ok = writeln!(text, "  source  {}", finding.source);
    if let Some(pass) = finding.pass {
        let _ok = writeln!(text, "  mended  by onnxfix optimize ({pass})");
    }
}

/// A number with commas between its thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
