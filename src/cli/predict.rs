//! `onnxfix predict`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::{DataType, Tensor};
use onnxfix_samples::Format;
use onnxfix_task::dataset::Task;
use onnxfix_task::features::{Holds, buckets};
use onnxfix_task::labels::LabelOrder;
use serde::Serialize;

use super::Verdict;
use super::npu::Devices;
use super::output::Output;
use super::prepare::positive;
use super::progress::Progress;
use super::texts;
use crate::classify::{Classifier, best, probability};
use crate::engine::Lowering;

/// What the guide of ConvBERT predicts where nothing else is said.
const DEFAULT_TEXT: &str = "the problem , it is with most of these things , is the script .";

/// Tell the label of a text, or of a pair of texts.
///
/// Runs the model on the CPU in tract, or a compiled one (.om) on an NPU. Prints the number of the model's output with the largest probability, and that
/// probability with all its digits.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "the text of --help is no Markdown")]
pub(crate) struct Args {
    /// The model: .onnx for the CPU, .om for an NPU.
    model: PathBuf,

    /// The text [default: a sentence about a film's script].
    text: Option<String>,

    /// The second text of a pair.
    #[arg(long, value_name = "TEXT", requires = "text")]
    pair: Option<String>,

    /// File with a text on each line, or with a pair separated by a tab; - for stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,

    /// As for `onnxfix prepare` [default: the folder of MODEL].
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<PathBuf>,

    /// Tokens of a text; longer ones are cut [default: the model's, else 256].
    #[arg(long, value_name = "N", value_parser = positive())]
    max_length: Option<usize>,

    /// Labels in the order of the model's outputs, for the names in --json [default: as for `onnxfix eval`].
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    labels: Vec<String>,

    /// Compute in 16-bit floats, as an NPU may.
    #[arg(long)]
    half: bool,

    /// Also write label_id.npy and prob.npy to this folder.
    #[arg(long, value_name = "DIR")]
    npy: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    devices: Devices,
}

#[derive(Debug, Serialize)]
struct Prediction {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<String>,
    /// Number of the model's output.
    label_id: usize,
    /// What it stands for, where that is known.
    label: Option<&'static str>,
    prob: f32,
    logits: Vec<f32>,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let asked = asked(args, out)?;
    let progress = Progress::start(out, "read the model");
    let lowering = if args.half { Lowering::Half } else { Lowering::Kernels };
    let models = std::slice::from_ref(&args.model);
    let opened = texts::Opened::new(models, lowering, &args.devices, &Holds::by_name, out)?;
    let predictions = predict(args, &opened.model, &asked, out);
    let predictions = opened.finish(predictions, out)?;
    drop(progress);
    if let Some(folder) = &args.npy {
        write(&predictions, folder)?;
    }
    if args.json {
        out.json(&predictions)?;
        return Ok(Verdict::Clean);
    }
    let line = |p: &Prediction| {
        let answer = format!("label_id: {}, prob: {}", p.label_id, p.prob);
        match (&args.text, &p.pair) {
            // Whoever typed the text knows it.
            (Some(_), _) => answer,
            (None, None) => format!("text: {}, {answer}", p.text),
            (None, Some(pair)) => format!("text: {}, pair: {pair}, {answer}", p.text),
        }
    };
    out.result(&predictions.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    Ok(Verdict::Clean)
}

/// The texts to predict.
fn asked(args: &Args, out: &Output) -> Result<Vec<(String, Option<String>)>> {
    if let Some(text) = &args.text {
        return Ok(vec![(text.clone(), args.pair.clone())]);
    }
    let Some(path) = &args.file else {
        return Ok(vec![(DEFAULT_TEXT.to_owned(), None)]);
    };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).context("read stdin")?;
    } else {
        bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    }
    let mut asked = Vec::new();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    for (number, line) in (1..).zip(bytes.split(|&b| b == b'\n')) {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        if matches!(line, std::borrow::Cow::Owned(_)) {
            out.warn(&format!("line {number}: bytes that are no UTF-8 became U+FFFD"));
        }
        // An empty line is a text as well: one answer for each line.
        asked.push(match line.split_once('\t') {
            Some((text, pair)) => (text.to_owned(), Some(pair.to_owned())),
            None => (line.into_owned(), None),
        });
    }
    if bytes.is_empty() {
        bail!("{} has no text", path.display());
    }
    Ok(asked)
}

fn predict(
    args: &Args,
    model: &Classifier,
    asked: &[(String, Option<String>)],
    out: &Output,
) -> Result<Vec<Prediction>> {
    let fixed = model.lengths().and_then(|lengths| lengths.last().copied());
    let max_length = texts::fitting("--max-length", args.max_length, fixed)?;
    let max_length = max_length.unwrap_or(Task::Mnli.max_length());
    let mut tokenizer = texts::tokenizer(args.tokenizer.as_deref(), Some(&args.model))?;
    tokenizer.set_max_length(max_length, asked.iter().any(|(_, pair)| pair.is_some()))?;
    let encode = |(text, pair): &(String, Option<String>)| tokenizer.encode(text, pair.as_deref());
    let tokens = asked.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    for ((text, _), _) in asked.iter().zip(&tokens).filter(|(_, tokens)| tokens.cut) {
        out.warn(&format!("cut to {max_length} tokens: {text}"));
    }
    // A model that leaves the length open gets no more padding than the texts need.
    let longest = tokens.iter().map(|t| t.ids.len()).max().unwrap_or(max_length);
    let length = fixed.unwrap_or(longest);
    let batch = model.batch().unwrap_or(1);
    let buckets = buckets(&tokens, &[length]);
    let logits = model.run(&tokens, tokenizer.pad(), &buckets, batch, &|_, _| {})?;
    let task = Task::ALL.into_iter().find(|task| task.labels().len() == logits.labels);
    let order: Option<(Task, LabelOrder)> = match task {
        Some(task) => {
            Some((task, texts::label_order(task, &args.labels, None, Some(&args.model))?))
        }
        None => None,
    };
    let rows = logits.numbers.chunks(logits.labels);
    let one = |((text, pair), row): (&(String, Option<String>), &[f32])| {
        let label_id = best(row);
        let label = order.as_ref().and_then(|(task, order)| {
            task.labels().get(usize::from(order.label(label_id)?)).copied()
        });
        let (text, pair) = (text.clone(), pair.clone());
        Prediction { text, pair, label_id, label, prob: probability(row), logits: row.to_vec() }
    };
    Ok(asked.iter().zip(rows).map(one).collect())
}

/// Writes the answers as two arrays, one number for each text: int64 and float32.
fn write(predictions: &[Prediction], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("write {}", folder.display()))?;
    let dims = [predictions.len() as i64];
    let ids = predictions.iter().flat_map(|p| (p.label_id as i64).to_le_bytes());
    let ids = Tensor::from_raw(DataType::Int64, &dims, ids.collect::<Vec<u8>>().into())?;
    let probs = predictions.iter().flat_map(|p| p.prob.to_le_bytes());
    let probs = Tensor::from_raw(DataType::Float, &dims, probs.collect::<Vec<u8>>().into())?;
    for (name, tensor) in [("label_id.npy", ids), ("prob.npy", probs)] {
        onnxfix_samples::write(&folder.join(name), &tensor, Format::Npy)?;
    }
    Ok(())
}
