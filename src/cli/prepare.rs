//! `onnxfix prepare`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use onnxfix_ir::LoadOptions;
use onnxfix_task::dataset::{Split, Task};
use onnxfix_task::features::{Element, Holds, Input};
use onnxfix_task::prepare::{FileFormat, Manifest, Options, Tokenized, prepare};
use onnxfix_task::tokenizer::Tokenizer;

use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use super::texts;
use crate::classify;
use crate::source::read;
use crate::verify::token_inputs;

/// Turn a data set into the files that a model takes.
///
/// Reads GLUE's files (dev_matched.tsv, dev_mismatched.tsv, test_*.tsv; SST-2's dev.tsv, test.tsv) or MultiNLI's
/// multinli_1.0_dev_*.jsonl, and writes OUTPUT/{match|mismatch|dev}/INPUT/input_{batch}.bin: the layout that ais_bench and
/// `onnxfix run` take. The last batch is filled up with rows of zeros. OUTPUT/manifest.json has labels, genres and lines for
/// `onnxfix eval`. The ids are those of Hugging Face's fast tokenizers. Nothing is downloaded.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "the text of --help is no Markdown")]
pub(crate) struct Args {
    /// The data set.
    #[arg(value_parser = texts::task())]
    task: Task,

    /// Folder with the files of the data set, or one of them.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// tokenizer.json, spm.model or vocab.txt, a folder with one of them, or a folder of Hugging Face's cache
    /// [default: the folder of --model].
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<PathBuf>,

    /// Folder to write. One that an earlier run wrote is replaced.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Samples of a file.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    batch: usize,

    /// Tokens of a sample; longer ones are cut, shorter ones padded [default: the model's, else 256 for mnli, 128 for sst2].
    #[arg(long, value_name = "N", value_parser = positive())]
    max_length: Option<usize>,

    /// Also shorter lengths: each sample goes to the shortest that holds it, in a folder of its own.
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = positive())]
    buckets: Vec<usize>,

    /// Model (.onnx) whose inputs to write: names and types, and what each is by what the model does with it.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["inputs", "element"])]
    model: Option<PathBuf>,

    /// Inputs to write, by name [default: input_ids,input_mask for mnli, input_ids,token_type_ids for sst2].
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    inputs: Vec<String>,

    /// Type of the numbers [default: int32 for mnli, int64 for sst2].
    #[arg(long, value_enum, value_name = "TYPE")]
    element: Option<Integer>,

    /// Write arrays of NumPy in place of raw numbers.
    #[arg(long)]
    npy: bool,

    /// Only these parts of the data set [default: those that have a file].
    #[arg(long, value_name = "PART,PART", value_delimiter = ',', value_parser = texts::split())]
    split: Vec<Split>,

    /// Only the first samples of each part.
    #[arg(long, value_name = "N", value_parser = positive())]
    limit: Option<usize>,

    /// Leave out lines that are no samples; they are named on stderr and in the manifest.
    #[arg(long)]
    skip_odd_lines: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Integer {
    Int32,
    Int64,
}

/// A count of at least one.
pub(super) fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    // More than a number of 32 bits is no batch and no length.
    clap::value_parser!(u32).range(1..).map(|n| n as usize)
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let (inputs, length) = match &args.model {
        Some(path) => model_inputs(path).context("--model")?,
        None => (named_inputs(args)?, None),
    };
    let max_length = match (args.max_length, length) {
        (Some(said), Some(model)) if said != model && args.buckets.is_empty() => bail!(
            "--max-length {said}: the model has a length of {model} written into it; optimize its source with another one"
        ),
        (said, model) => said.or(model).unwrap_or(args.task.max_length()),
    };
    let options = Options {
        batch: args.batch,
        lengths: texts::lengths(&args.buckets, max_length)?,
        by_length: !args.buckets.is_empty(),
        inputs,
        files: if args.npy { FileFormat::Npy } else { FileFormat::Bin },
    };
    let progress = Progress::start(out, "read the data set");
    // The tokenizer takes longer to read than the data set.
    let (tokenizer, sets) = rayon::join(
        || open_tokenizer(args, max_length),
        || texts::read_sets(args.task, &args.data, &args.split, args.skip_odd_lines, out),
    );
    let (tokenizer, sets) = (tokenizer?, sets?);
    progress.step("tokenize");
    let mut tokenized = Vec::with_capacity(sets.len());
    for mut set in sets {
        set.samples.truncate(args.limit.unwrap_or(usize::MAX));
        let noted = set.odd.len();
        let mut done = Tokenized::new(set, &tokenizer)?;
        if done.set.odd.len() > noted {
            let all = std::mem::take(&mut done.set.odd);
            let is_cut =
                |o: &onnxfix_task::dataset::OddLine| o.oddity == onnxfix_task::dataset::Oddity::Cut;
            // The others were reported when the file was read.
            done.set.odd = all.iter().filter(|o| is_cut(o)).cloned().collect();
            texts::report_odd(&done.set, out);
            done.set.odd = all;
        }
        tokenized.push(done);
    }
    progress.step("write");
    let manifest = prepare(&tokenized, &tokenizer, &options, &args.output)
        .with_context(|| format!("write {}", args.output.display()))?;
    drop(progress);
    // The program ends soon, and taking a large vocabulary apart takes a tenth as long as reading it.
    std::mem::forget(tokenizer);
    if args.json {
        out.json(&manifest)?;
    } else {
        out.result(&text(&manifest, &args.output))?;
    }
    Ok(Verdict::Clean)
}

fn open_tokenizer(args: &Args, max_length: usize) -> Result<Tokenizer> {
    let mut tokenizer = texts::tokenizer(args.tokenizer.as_deref(), args.model.as_deref())?;
    tokenizer.set_max_length(max_length, args.task == Task::Mnli)?;
    Ok(tokenizer)
}

/// The inputs of a model, and its length where that is a number.
fn model_inputs(path: &Path) -> Result<(Vec<Input>, Option<usize>)> {
    if path.extension().is_some_and(|e| e == "om") {
        bail!(
            "{}: what the inputs of an .om are does not show in the file; name the .onnx that it was compiled from",
            path.display()
        );
    }
    let input = read(path, &LoadOptions { drop_unknown: true, external_data: false })?;
    let found = token_inputs(&input.model);
    let length = found.iter().find_map(|i| *i.dims.as_ref()?.get(1)?);
    let inputs = classify::inputs(&found).with_context(|| path.display().to_string())?;
    Ok((inputs, length.and_then(|n| usize::try_from(n).ok())))
}

/// Inputs by the names that exporters and the two published guides give them.
fn named_inputs(args: &Args) -> Result<Vec<Input>> {
    let (names, element): (&[&str], _) = match args.task {
        Task::Mnli => (&["input_ids", "input_mask"], Element::Int32),
        Task::Sst2 => (&["input_ids", "token_type_ids"], Element::Int64),
    };
    let element = match args.element {
        Some(Integer::Int32) => Element::Int32,
        Some(Integer::Int64) => Element::Int64,
        None => element,
    };
    let said: Vec<&str> = args.inputs.iter().map(String::as_str).collect();
    let names = if said.is_empty() { names } else { &said };
    let input = |name: &&str| {
        let Some(holds) = Holds::by_name(name) else {
            bail!(
                "--inputs {name}: the name does not tell what it is; those that do are input_ids, attention_mask, \
                 input_mask, token_type_ids, segment_ids. --model finds out by what the model does"
            )
        };
        Ok(Input { name: (*name).to_owned(), holds, element })
    };
    names.iter().map(input).collect()
}

fn text(manifest: &Manifest, folder: &Path) -> String {
    let mut text = format!("{}\n", folder.display());
    let names = manifest.inputs.iter().map(|i| {
        let element = match i.element {
            Element::Int32 => "int32",
            Element::Int64 => "int64",
        };
        format!("{} ({element})", i.name)
    });
    let names: Vec<String> = names.collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  inputs  {}", names.join(", "));
    for split in &manifest.splits {
        let labelled = split.labels.iter().flatten().count();
        let _ = writeln!(
            text,
            "  {}: {} samples, {labelled} with a label; {:.1} tokens on the average, {} at most",
            split.split, split.samples, split.mean_tokens, split.longest
        );
        for part in &split.parts {
            let rows = if part.order.is_empty() { split.samples } else { part.order.len() };
            let _ = writeln!(
                text,
                "    {}  length {}: {rows} samples in {} batch{} of {}",
                part.folder,
                part.length,
                part.batches,
                if part.batches == 1 { "" } else { "es" },
                manifest.batch
            );
        }
    }
    text
}
