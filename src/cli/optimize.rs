//! `onnxfix optimize`

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use onnxfix_ascend::cost::predict;
use onnxfix_ascend::facts::{Facts, release};
use onnxfix_ascend::inspect::inspect;
use onnxfix_ir::text::{Mode, print};
use onnxfix_ir::{LoadOptions, Model, Source, StoreOptions, check, infer, store};
use onnxfix_passes::{Options, PROVENANCE, Pipeline, Stop, find, run as run_passes};

use super::Verdict;
use super::files::{ReportFormat, ensure_place};
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use crate::record::{OPTIONS, Record, Told};
use crate::report::{Both, Drawing, Report, Summary, Tally, bytes};
use crate::source::{Input, ensure_unchanged, is_text, read};
use crate::target::{Target, toolkit};
use crate::verify::TARGET;
use crate::whole::write_whole;

/// Rewrite a model for its target.
///
/// Writes MODEL.opt.onnx beside the model, or OUT. The result is checked before it takes its place; nothing is ever half
/// written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model (.onnx or .onnxtxt).
    model: PathBuf,

    /// Where to write [default: MODEL with .opt.onnx].
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// What the result is for.
    #[arg(long, value_enum, default_value_t = Target::Ascend310P3)]
    target: Target,

    /// Version of CANN that will compile the result, which bounds its opset [default: that of the toolkit on this machine,
    /// else 7.0].
    #[arg(long, value_name = "VERSION")]
    cann: Option<String>,

    /// Opset of the result, from 7 to 21 [default: 13 for ascend310p3; for portable the model's, or 17 where that says a layer
    /// normalization in one operator]. Where a node has no form in it, the model keeps its own and a warning says why.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(7..=21))]
    opset: Option<u64>,

    /// Run these passes only, comma-separated (`onnxfix passes` lists them).
    #[arg(long, value_name = "PASSES", value_delimiter = ',', help_heading = "Passes")]
    passes: Option<Vec<String>>,

    /// Leave these passes out.
    #[arg(
        long,
        alias = "skip",
        value_name = "PASSES",
        value_delimiter = ',',
        help_heading = "Passes"
    )]
    skip_passes: Vec<String>,

    /// How much the model may grow by folding, in percent of its size; at least 16 MiB, unless it is 0.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent, help_heading = "Passes")]
    fold_limit: f64,

    /// Stop after this many rewrites: to find the one that does harm.
    #[arg(long, value_name = "N", help_heading = "Passes")]
    max_rewrites: Option<u64>,

    /// Say where this pass nearly fired, and which condition failed.
    #[arg(long, value_name = "PASS", help_heading = "Passes")]
    why_not: Option<String>,

    /// Print the model as text after this pass, each time it changed something.
    #[arg(long, value_name = "PASS", conflicts_with = "json", help_heading = "Passes")]
    print_after: Option<String>,

    /// Compare the result with the model afterwards, as `onnxfix verify` does; exit code 1 when they differ.
    #[arg(long, conflicts_with = "dry_run")]
    verify: bool,

    /// Write what was done to a .json or .html file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,

    /// Remove what passes leave in node metadata (onnxfix.pass), and what exporters left there.
    #[arg(long)]
    strip_metadata: bool,

    /// Drop fields of the file that this version does not know, instead of refusing the model.
    #[arg(long)]
    drop_unknown: bool,

    /// Do everything but write.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    shapes: Shapes,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).parse::<f64>() {
        Ok(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => Err("a percentage such as 10% is wanted".into()),
    }
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let start = Instant::now();
    let target_path = args.output.clone().unwrap_or_else(|| default_output(&args.model));
    let report_format = args.report.as_deref().map(ReportFormat::of).transpose()?;
    for (flag, path) in [("--output", &args.output), ("--report", &args.report)] {
        path.as_deref().map_or(Ok(()), |path| ensure_place(flag, path))?;
    }
    if is_text(&target_path) {
        bail!(
            "--output {}: what is written is no text; let the name end in .onnx",
            target_path.display()
        );
    }
    let (options, pipeline) = plan(args)?;

    let progress = Progress::start(out, format!("read {}", args.model.display()));
    let load = LoadOptions { drop_unknown: args.drop_unknown, ..LoadOptions::default() };
    let Input { mut model, files, warnings } = read(&args.model, &load).context("optimize")?;
    for warning in &warnings {
        out.warn(warning);
    }
    let before = Summary::of(&model);
    // Only reports say this much, and counting after every pass takes time.
    let mut tally = report_format.map(|_| Tally::new(&model));
    let drawn = (report_format == Some(ReportFormat::Html)).then(|| draw(&model));

    let source = report_format.and(args.target.soc()).map(|soc| (soc, model.clone()));

    let mut printed = Vec::new();
    let mut observer = |pass: &'static str, model: &Model| {
        progress.step(pass);
        if let Some(tally) = &mut tally {
            tally.see(pass, model);
        }
        if args.print_after.as_deref() == Some(pass) {
            printed.push(print(model, Mode::Brief));
        }
    };
    let passes = run_passes(&mut model, &pipeline, &options, &mut observer)
        .with_context(|| format!("optimize {}", args.model.display()))?;
    if let (Some(pass), []) = (&args.print_after, printed.as_slice()) {
        out.note(&format!("{pass} changed nothing, so there is nothing to print after it"));
    }
    for text in printed {
        out.result(&text?)?;
    }
    for note in &passes.notes {
        if note.warning { out.warn(&note.text) } else { out.note(&note.text) }
    }
    if args.strip_metadata {
        strip_metadata(&mut model);
    }
    if let Some(broken) = check(&model).first() {
        bail!(
            "optimize {}: internal error: the result is not well formed: {broken}",
            args.model.display()
        );
    }
    let mut report =
        Report::new(args.model.clone(), args.target.name(), before, Summary::of(&model), passes);
    report.load_warnings = warnings;
    report.ops_by_pass = tally.map(Tally::finish).unwrap_or_default();
    report.graphs = drawn.map(|before| Both { before, after: draw(&model) });
    if let Some((soc, source)) = source {
        let facts = Facts::find(soc, &toolkit::version(args.cann.as_deref()))?;
        ask_target(&mut report, source, &model, &options, &facts)?;
    }

    if !args.dry_run {
        progress.step(format!("write {}", target_path.display()));
        write(&mut model, (args, &options), &files, &target_path, out)?;
        report.output = Some(target_path.clone());
    }
    drop(progress);
    report.seconds = start.elapsed().as_secs_f64();
    say(args, out, &report)?;
    // What was done stays said and reported where comparing fails.
    let verified = if args.verify {
        Some(super::verify::compare(&target_path, &args.model, out))
    } else {
        None
    };
    let verified = match verified {
        Some(Ok(compared)) => Ok(report.verify.insert(compared).equal),
        Some(Err(error)) => Err(error),
        None => Ok(true),
    };
    if args.json {
        out.json(&report)?;
    } else if let Some(compared) = &report.verify {
        out.result(&compared.text())?;
    }
    if let (Some(path), Some(format)) = (&args.report, report_format) {
        let text = match format {
            ReportFormat::Json => serde_json::to_string_pretty(&report)?,
            ReportFormat::Html => report.html(),
        };
        write_whole(path, text.as_bytes())?;
    }
    Ok(if verified? { Verdict::Clean } else { Verdict::Findings })
}

/// Writes the result with a record of its source, and says which other files belong to it.
fn write(
    model: &mut Model,
    (args, options): (&Args, &Options),
    files: &[Source],
    path: &Path,
    out: &Output,
) -> Result<()> {
    record(model, args, options, path)?;
    ensure_unchanged(files)?;
    let stored = store(model, path, &StoreOptions::default())
        .with_context(|| format!("write {}", path.display()))?;
    if let Some((data, size)) = &stored.data {
        out.note(&format!(
            "a model file holds at most 2 GiB, so the weights are in {} ({}): keep both together",
            data.display(),
            bytes(*size)
        ));
    }
    if !stored.unused.is_empty() {
        let unused: Vec<String> =
            stored.unused.iter().map(|path| path.display().to_string()).collect();
        out.note(&format!(
            "weights of earlier models of this name are still there and may be deleted: {}",
            unused.join(", ")
        ));
    }
    Ok(())
}

/// Draws a model with the types that are declared and those that can be inferred: exporters leave most of them out.
fn draw(model: &Model) -> Drawing {
    let mut typed = model.clone();
    let inferred = Pipeline::of(&["infer-shapes"]).and_then(|pipeline| {
        run_passes(&mut typed, &pipeline, &Options::default(), &mut |_, _| {})
    });
    // A model that contradicts itself is drawn as it is; the run says what is wrong with it.
    Drawing::of(if inferred.is_ok() { &typed } else { model })
}

/// Reports what the target says to the model as it was read, with its shapes fixed, and as it is written.
fn ask_target(
    report: &mut Report,
    mut before: Model,
    after: &Model,
    options: &Options,
    facts: &Facts,
) -> Result<()> {
    let pipeline = Pipeline::of(&["fix-input-shapes"])?;
    run_passes(&mut before, &pipeline, options, &mut |_, _| ())?;
    let mut after = after.clone();
    infer::infer(&mut before)?;
    infer::infer(&mut after)?;
    let cost = |model: &Model| predict(model, facts.platform.as_ref()?).ok();
    report.findings = Some(Both { before: inspect(&before, facts), after: inspect(&after, facts) });
    report.cost = Both { before: cost(&before), after: cost(&after) };
    Ok(())
}

/// The options and passes that the flags ask for.
fn plan(args: &Args) -> Result<(Options, Pipeline)> {
    let cann = release(&toolkit::version(args.cann.as_deref())).context("--cann")?;
    if let (Some(opset), Some(_), [low, high]) = (args.opset, &args.cann, cann.opsets)
        && !i64::try_from(opset).is_ok_and(|opset| (low..=high).contains(&opset))
    {
        bail!("--opset {opset}: CANN {} takes opsets {low} to {high}", cann.line);
    }
    let mut options = Options {
        opset: args.opset.or(args.target.opset(&cann)),
        fold_limit: args.fold_limit,
        max_rewrites: args.max_rewrites,
        why_not: args.why_not.clone(),
        // Who names passes wants them, whatever they cost.
        costs: args.target.costs().filter(|_| args.passes.is_none()),
        ..args.target.options(&cann)
    };
    args.shapes.apply(&mut options)?;
    for name in args.why_not.iter().chain(&args.print_after) {
        find(name)?;
    }
    let pipeline = match &args.passes {
        Some(names) => Pipeline::of(names)?,
        None => args.target.pipeline()?,
    };
    let pipeline = pipeline.without(&args.skip_passes)?;
    let converts = pipeline.passes().iter().any(|p| p.info().name == CONVERT);
    if let (Some(opset), false) = (args.opset, converts) {
        let flag = if args.passes.is_some() { "--passes" } else { "--skip-passes" };
        bail!("--opset {opset} needs the pass {CONVERT}, which {flag} leaves out");
    }
    Ok((options, pipeline))
}

/// The pass that `--opset` is for.
const CONVERT: &str = "convert-opset";

/// Notes in the model where it came from. A record that is there says it already.
fn record(model: &mut Model, args: &Args, options: &Options, out: &Path) -> Result<()> {
    let old = Record::of(model);
    let told = old.is_none().then(|| told(args, options));
    let record = match old {
        Some(old) => old.moved(&args.model, out)?,
        None if is_text(&args.model) => return Ok(()),
        None => Record::new(&args.model, out)?,
    };
    let metadata = &mut model.header.metadata;
    let mut take = |wanted: &str| {
        let at = metadata.iter().position(|(key, _)| key == wanted)?;
        Some(metadata.remove(at).1)
    };
    let (made_for, recorded) = (take(TARGET), take(OPTIONS));
    record.write(model);
    let made_for = made_for.unwrap_or_else(|| args.target.name().into());
    model.header.metadata.push((TARGET.into(), made_for));
    if let Some(text) = recorded.or_else(|| told.map(|told| told.text())) {
        model.header.metadata.push((OPTIONS.into(), text));
    }
    Ok(())
}

/// What the user asked for, to be recorded.
fn told(args: &Args, options: &Options) -> Told {
    Told {
        target: args.target.name().to_owned(),
        opset: options.opset,
        shapes: options.shapes.iter().map(|s| (s.name.clone(), s.dims.clone())).collect(),
        dims: options.dims.iter().map(|d| (d.symbol.clone(), d.value)).collect(),
        keep_dims: options.keep_dims.clone(),
        passes: args.passes.clone(),
        skip_passes: args.skip_passes.clone(),
        fold_limit: options.fold_limit,
        max_rewrites: options.max_rewrites,
    }
}

fn say(args: &Args, out: &Output, report: &Report) -> Result<()> {
    if !args.json && args.print_after.is_none() {
        out.result(&report.text())?;
    }
    if let (Stop::FuelSpent, Some(max)) = (report.passes.stop, args.max_rewrites) {
        out.note(&format!("stopped after {max} rewrites, as --max-rewrites says"));
    }
    if let Some(pass) = &args.why_not {
        let misses = &report.passes.misses;
        if misses.is_empty() {
            out.note(&format!("{pass} found no place where only a condition failed"));
        }
        for miss in misses {
            out.note(&format!("{pass} at {}: {}", miss.node, miss.why));
        }
    }
    for stats in &report.passes.passes {
        tracing::info!(
            pass = stats.pass,
            rewrites = stats.rewrites,
            ms = format_args!("{:.1}", stats.time.as_secs_f64() * 1e3)
        );
    }
    Ok(())
}

/// `model.onnx` becomes `model.opt.onnx`; what is called so already keeps its name.
fn default_output(model: &Path) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_suffix(".opt").unwrap_or(&stem);
    model.with_file_name(format!("{stem}.opt.onnx"))
}

fn strip_metadata(model: &mut Model) {
    let nodes: Vec<_> = model.all_nodes().map(|(id, _)| id).collect();
    for node in nodes {
        model.node_mut(node).metadata().clear();
        *model.node_mut(node).doc_string() = None;
    }
    let tensors: Vec<_> = model
        .all_values()
        .filter_map(|(id, v)| Some((id, v.tensor()?.clone())))
        .filter(|(_, t)| {
            t.extra.as_ref().is_some_and(|e| e.metadata.iter().any(|(k, _)| k == PROVENANCE))
        })
        .collect();
    for (value, mut tensor) in tensors {
        std::sync::Arc::make_mut(&mut tensor).extra_mut().metadata.clear();
        model.set_tensor(value, tensor);
    }
}
