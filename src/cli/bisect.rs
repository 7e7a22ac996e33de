//! `onnxfix verify --bisect`: the folder of a failing case.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use onnxfix_ir::{Model, StoreOptions, Tensor, store};
use onnxfix_passes::{Pipeline, run as run_passes};
use onnxfix_samples::{Format, write};

use super::output::Output;
use super::progress::Progress;
use crate::record::Told;
use crate::target::Target;
use crate::verify::bisect::{BisectStep, Bisection, Case, Made, bisect, shows, without_weights};
use crate::verify::{Options, Report, Subject, TARGET};
use crate::whole::write_whole;

/// What to search with.
pub(super) struct Search<'a> {
    pub(super) before: &'a Subject,
    pub(super) after: &'a Subject,
    pub(super) options: &'a Options,
    /// Whether the folder must not hold the weights.
    pub(super) no_weights: bool,
    /// Where to write it.
    pub(super) folder: &'a Path,
}

/// The folder of a case, where the user names none: beside the optimized model.
pub(super) fn default_folder(after: &Path) -> PathBuf {
    let stem = after.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    after.with_file_name(format!("{stem}.bisect"))
}

/// Refuses a folder that holds something already.
pub(super) fn ensure_free(folder: &Path) -> Result<()> {
    if folder.exists() {
        bail!(
            "--bisect: {} is there already; remove it, or name another folder with --bisect-output",
            folder.display()
        );
    }
    Ok(())
}

/// Looks for the rewrite that makes the models differ, and writes the part that shows it.
pub(super) fn run(search: &Search<'_>, report: &Report, out: &Output) -> Result<Bisection> {
    let told = match Told::of(&search.after.model) {
        Some(told) => told,
        None => guessed(&search.after.model)?,
    };
    let target = Target::from_str(&told.target, false)
        .map_err(|_| anyhow::anyhow!("--bisect: this version has no target {:?}", told.target))?;
    let pipeline = told.pipeline(target.pipeline()?).context("--bisect")?;
    let passes = told.options(target);
    let remake = |source: &Model, most: Option<u64>| {
        let mut model = source.clone();
        let mut options = passes.clone();
        options.max_rewrites = match (most, passes.max_rewrites) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let made = run_passes(&mut model, &pipeline, &options, &mut |_, _| {});
        let made = made.map_err(|e| format!("{:#}", anyhow::Error::new(e)))?;
        let rewrites = made.passes.iter().map(|p| (p.pass.to_owned(), p.rewrites)).collect();
        Ok(Made { model, rewrites })
    };
    let runs: Vec<usize> = report
        .outputs
        .iter()
        .filter(|output| !output.equal)
        .filter_map(|output| output.worst.as_ref().map(|worst| worst.run))
        .collect();

    let random;
    let before = if search.no_weights {
        let model = without_weights(&search.before.model, search.options.seed);
        random = Subject { name: search.before.name.clone(), model, file: None };
        &random
    } else {
        search.before
    };
    let progress = Progress::start(out, "run the source");
    let step = |step| {
        progress.step(match step {
            BisectStep::Source => "run the source".to_owned(),
            BisectStep::Try(rewrites, of) => format!("bisect: try {rewrites} of {of} rewrites"),
            BisectStep::Cut => "bisect: cut out what differs".to_owned(),
        });
    };
    let (mut found, case) = bisect(before, search.after, search.options, &runs, &remake, &step)
        .with_context(|| format!("bisect {}", search.after.name))?;
    if search.no_weights {
        found.notes.push("weights are random numbers of the same mean and deviation".to_owned());
    }
    let Some(case) = case else { return Ok(found) };
    let alone = alone(&case, &found, &told, target, search.options);
    if let Some(facts) = &mut found.case {
        facts.alone = alone;
    }
    drop(progress);
    save(search.folder, &case, &found, &told, search.options)
        .with_context(|| format!("--bisect-output {}", search.folder.display()))?;
    Ok(found)
}

/// What an optimized model that records no options was probably made with.
fn guessed(after: &Model) -> Result<Told> {
    let Some((_, target)) = after.header.metadata.iter().find(|(key, _)| key == TARGET) else {
        bail!(
            "--bisect runs the passes again, and the model does not record what it was made with; make it again with \
             `onnxfix optimize`"
        );
    };
    let target = Target::from_str(target, false)
        .map_err(|_| anyhow::anyhow!("--bisect: this version has no target {target:?}"))?;
    let inputs = after[after.root()].inputs();
    let shape =
        |&v: &onnxfix_ir::ValueId| Some((after[v].name().to_string(), after[v].dims()?.to_vec()));
    let opset = after.opset(after.root(), "").and_then(|n| u64::try_from(n).ok());
    Ok(Told {
        target: target.name().to_owned(),
        opset: opset.filter(|_| target.static_shapes()),
        shapes: inputs.iter().filter_map(shape).collect(),
        dims: Vec::new(),
        keep_dims: Vec::new(),
        passes: None,
        skip_passes: Vec::new(),
        fold_limit: 10.0,
        max_rewrites: None,
    })
}

/// Whether the pass by itself, on the part as it was before, makes the difference.
fn alone(case: &Case, found: &Bisection, told: &Told, target: Target, options: &Options) -> bool {
    let Some(culprit) = &found.culprit else { return false };
    let Ok(pipeline) = Pipeline::of(&[&culprit.pass]) else { return false };
    let mut model = case.before.clone();
    let passes = onnxfix_passes::Options {
        static_shapes: target.static_shapes(),
        opset: told.opset,
        ..onnxfix_passes::Options::default()
    };
    run_passes(&mut model, &pipeline, &passes, &mut |_, _| {}).is_ok()
        && shows(case, &model, options).unwrap_or(false)
}

/// Writes a case into a folder of its own, which is there as a whole or not at all.
fn save(
    folder: &Path,
    case: &Case,
    found: &Bisection,
    told: &Told,
    options: &Options,
) -> Result<()> {
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let written = fill(&partial, case, found, told, options)
        .and_then(|()| Ok(std::fs::rename(&partial, folder)?));
    if written.is_err() {
        // What is there of it is of no use.
        let _gone = std::fs::remove_dir_all(&partial);
    }
    written
}

fn fill(
    folder: &Path,
    case: &Case,
    found: &Bisection,
    told: &Told,
    options: &Options,
) -> Result<()> {
    for part in ["inputs", "outputs"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    store(&case.before, &folder.join("before.onnx"), &StoreOptions::default())?;
    store(&case.after, &folder.join("after.onnx"), &StoreOptions::default())?;
    let save = |part: &str, tensors: &[(String, Tensor)]| -> Result<Vec<String>> {
        let one = |(at, (_, tensor)): (usize, &(String, Tensor))| {
            let name = format!("{part}/{at}.npy");
            write(&folder.join(&name), tensor, Format::Npy)?;
            Ok(name)
        };
        tensors.iter().enumerate().map(one).collect()
    };
    let inputs = save("inputs", &case.inputs)?;
    save("outputs", &case.outputs)?;
    write_whole(&folder.join("bisect.json"), serde_json::to_string_pretty(found)?.as_bytes())?;
    write_whole(
        &folder.join("README.md"),
        readme(case, found, told, &replayed(&inputs, options)).as_bytes(),
    )
}

/// The flags of `verify` that show the difference again: the inputs, and the tolerances that the user gave.
fn replayed(inputs: &[String], options: &Options) -> String {
    let mut flags = String::new();
    if let Some(rtol) = options.rtol {
        let _ok = write!(flags, "--rtol {rtol:e} ");
    }
    if options.atol > 0.0 {
        let _ok = write!(flags, "--atol {:e} ", options.atol);
    }
    flags + "--input " + &inputs.join(" ")
}

fn readme(case: &Case, found: &Bisection, told: &Told, input: &str) -> String {
    let mut text = String::new();
    let Some(culprit) = &found.culprit else { return text };
    let pass = &culprit.pass;
    // Writing to a string cannot fail.
    let _ok = writeln!(
        text,
        "# {pass} changes what a model computes\n\n{}\nonnxfix {}, target {}.\n\n\
         - `before.onnx`: the part of the model in question, before the rewrite\n\
         - `after.onnx`: the same part after it\n\
         - `inputs/N.npy`: a value for each input in the order of the model, `outputs/N.npy`: what `before.onnx` gives\n\
         - `bisect.json`: what was tried\n\n\
         Show the difference:\n\n    onnxfix verify after.onnx --against before.onnx {input}\n",
        found.text(),
        env!("CARGO_PKG_VERSION"),
        told.target,
    );
    if found.case.as_ref().is_some_and(|case| case.alone) {
        let _ok = writeln!(
            text,
            "Let the pass make it again:\n\n    onnxfix optimize before.onnx --target {} --passes {pass} -o again.onnx\n    \
             onnxfix verify again.onnx {input}\n",
            told.target,
        );
    }
    let list = |text: &mut String, what: &str, values: &[(String, Tensor)]| {
        let _ok = writeln!(text, "{what}:\n");
        for (at, (name, tensor)) in values.iter().enumerate() {
            let _ok = writeln!(text, "- `{at}.npy`: `{name}` {}{:?}", tensor.dtype, tensor.dims);
        }
        text.push('\n');
    };
    list(&mut text, "Inputs", &case.inputs);
    list(&mut text, "Outputs", &case.outputs);
    text
}
