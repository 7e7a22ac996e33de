//! `onnxfix atc`

mod report;
mod variants;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ascend::facts::{Cann, release};
use onnxfix_atc::run::{Event, Outcome, run as run_atc};
use onnxfix_atc::toolkit::{Toolkit, find};
use onnxfix_atc::{
    Command, Compiler, FileRecord, Flags, Job, Machine, Manifest, Message, Port, Precision,
    Severity, Shape, default_jobs, file_name, npu_smi, parse_messages, record_file, shell_word,
};
use onnxfix_ir::{LoadOptions, Model, Source, StoreOptions, ValueId, check, store};
use onnxfix_passes::{Options, Pipeline, run as run_passes};

use self::report::{Compiled, Report, explained};
use self::variants::{Variant, like};
use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use super::shapes::Shapes;
use super::single::named_or_single;
use crate::record::Record;
use crate::source::{Input, ensure_unchanged, is_text, read};
use crate::target::{Target, toolkit};
use crate::verify::TARGET;

/// Compile a model with ATC, once for each batch.
///
/// Each batch is optimized from the source for its own shape and compiled in a folder of its own; a MODEL that onnxfix
/// optimized leads to its recorded source. Without MODEL it takes the only *.opt.onnx of the current folder. Beside each
/// MODEL_bsN.om is a record of how it was made (MODEL_bsN.om.json).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model (.onnx or .onnxtxt), optimized or not.
    model: Option<PathBuf>,

    /// Exact name of the chip, as `npu-smi info` shows it behind "Ascend" [default: the chip of this machine, else
    /// Ascend310P3].
    #[arg(long = "soc", alias = "soc-version", value_name = "NAME")]
    soc: Option<String>,

    /// Batches, comma-separated: one .om for each [default: that of MODEL, else 1].
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=65536))]
    batch: Vec<u64>,

    /// One .om that takes any of these batches; the model's first axis must be open. It needs the memory of the largest.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        conflicts_with = "batch",
        value_parser = clap::value_parser!(u64).range(1..=65536)
    )]
    dynamic_batch: Vec<u64>,

    /// Lengths of sequences, comma-separated: one .om for each, with each batch.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=65536))]
    buckets: Vec<u64>,

    /// Folder for the results, or the file where there is one [default: the folder of MODEL].
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Compile nothing; print the commands.
    #[arg(long)]
    dry_run: bool,

    /// Compile nothing; say what a code of ATC means (E16005), or all messages in a file with what it printed.
    #[arg(long, value_name = "CODE|FILE", conflicts_with_all = ["model", "dry_run"])]
    explain: Option<String>,

    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,

    /// What it computes with: fp16, fp16+keep (normalizations as in the model), mixed (ATC chooses), fp32 (slow).
    #[arg(long, value_name = "PRESET", default_value_t, help_heading = "Compiler")]
    precision: Precision,

    /// Nodes that keep their type with fp16+keep, comma-separated [default: Pow and ReduceMean of normalizations].
    #[arg(long, value_name = "NODE,…", value_delimiter = ',', help_heading = "Compiler")]
    keep_nodes: Vec<String>,

    /// ATC, or the folder of its toolkit [default: that of the environment, of PATH, or of a usual place].
    #[arg(long, value_name = "PATH", help_heading = "Compiler")]
    atc: Option<PathBuf>,

    /// Release of CANN that the models are optimized for [default: that of the toolkit, else 7.0].
    #[arg(long, value_name = "VERSION", help_heading = "Compiler")]
    cann: Option<String>,

    /// How many to compile side by side [default: what memory and cores allow].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64), help_heading = "Compiler")]
    jobs: Option<u64>,

    /// Stop a compilation that takes longer, in minutes.
    #[arg(long, value_name = "MINUTES", help_heading = "Compiler", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    timeout: Option<u64>,

    /// Level of ATC's log: debug, info, warning, error, null.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "error",
        value_parser = ["debug", "info", "warning", "error", "null"],
        hide_possible_values = true,
        help_heading = "Compiler"
    )]
    log: String,

    /// Keep the work folders (MODEL_bsN.atc) with the optimized model, ATC's output, its log and what it left there.
    #[arg(long, help_heading = "Compiler")]
    keep: bool,

    /// Leave these passes out.
    #[arg(
        long,
        alias = "skip",
        value_name = "PASSES",
        value_delimiter = ',',
        help_heading = "Compiler"
    )]
    skip_passes: Vec<String>,

    /// Flags for ATC itself, behind `--`: they take the place of those made here.
    #[arg(last = true, value_name = "FLAG", help_heading = "Compiler")]
    extra: Vec<String>,

    #[command(flatten)]
    shapes: Shapes,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    if let Some(what) = &args.explain {
        return explain(what, args.json, out);
    }
    let path = named_or_single(args.model.as_deref(), "atc")?;
    let variants = Variant::all(&args.batch, &args.buckets, &args.dynamic_batch)?;
    let place = Place::of(args, &path, variants.len())?;
    let subject = Subject::read(&path, args, out).context("atc")?;
    let machine = Machine::this();
    let soc = match &args.soc {
        Some(soc) => soc.clone(),
        None => detected_soc(&machine, out)?,
    };
    let (toolkit, flags) = match find(&machine, args.atc.as_deref()) {
        Ok(toolkit) if args.dry_run => {
            let flags = Flags::ask(&toolkit).unwrap_or_else(|error| {
                out.warn(&format!("{error}; the commands are for a usual release"));
                Flags::usual()
            });
            (toolkit, flags)
        }
        Ok(toolkit) => {
            let flags = Flags::ask(&toolkit)?;
            (toolkit, flags)
        }
        Err(error) if args.dry_run && args.atc.is_none() => {
            out.note(&format!("{error}; the commands are for a usual release"));
            (anywhere(), Flags::usual())
        }
        Err(error) => return Err(error.into()),
    };
    let version = args.cann.clone().or_else(|| toolkit.version.clone());
    let cann = release(&toolkit::version(version.as_deref())).context("--cann")?;
    if args.precision == Precision::Fp32 {
        out.warn(
            "the chip multiplies float32 matrices outside of its matrix unit: expect a model that is many times slower \
             (not confirmed by a measurement)",
        );
    }
    let jobs = args.jobs.map_or_else(
        || default_jobs(&machine, variants.len(), subject.bytes()),
        |jobs| usize::try_from(jobs).unwrap_or(1).min(variants.len()),
    );
    let source = record_file(&subject.path, &subject.path)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let task = Task {
        args,
        out,
        subject: &subject,
        place: &place,
        machine: &machine,
        soc: &soc,
        toolkit: &toolkit,
        flags: &flags,
        cann: &cann,
        compilers: machine
            .variable("TE_PARALLEL_COMPILER")
            .is_none()
            .then_some((cores / jobs).clamp(1, 8)),
        source,
    };
    if args.dry_run {
        return task.print_commands(&variants);
    }
    let (models, failed) = task.compile_all(&variants, jobs);
    if models.is_empty()
        && let Some(error) = failed
    {
        return Err(error);
    }
    ensure_unchanged(&subject.files)?;
    let report = Report {
        schema: 1,
        source: subject.path.clone(),
        soc: soc.clone(),
        precision: args.precision.to_string(),
        atc: toolkit.atc.clone(),
        cann: toolkit.version.clone(),
        simulated: models.iter().any(|(_, simulated)| *simulated),
        models: models.into_iter().map(|(model, _)| model).collect(),
    };
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&report.text())?;
    }
    // What was compiled stays, and stays reported.
    match failed {
        Some(error) => Err(error),
        None if report.is_complete() => Ok(Verdict::Clean),
        None => Ok(Verdict::Findings),
    }
}

/// Says what is known of a code, or of the messages in a file.
fn explain(what: &str, json: bool, out: &Output) -> Result<Verdict> {
    let messages = if Path::new(what).is_file() {
        let text = fs::read(what).with_context(|| format!("--explain {what}"))?;
        parse_messages(&String::from_utf8_lossy(&text))
    } else {
        parse_messages(&format!("{}: ", what.to_uppercase()))
    };
    if messages.is_empty() {
        bail!("--explain {what}: neither a code such as E16005 nor a file with messages of ATC");
    }
    let said = report::explain(&messages);
    if json {
        out.json(&said)?;
    } else {
        out.result(&report::messages_text(&said))?;
    }
    Ok(Verdict::Clean)
}

/// Where results go.
struct Place {
    /// Empty for the current one.
    folder: PathBuf,
    /// The name of the only result, without `.om`, where it was given.
    name: Option<String>,
}

impl Place {
    fn of(args: &Args, model: &Path, results: usize) -> Result<Place> {
        let folder_of = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
        let place = match &args.output {
            None => Place { folder: folder_of(model), name: None },
            Some(file) if file.extension().is_some_and(|e| e == "om") && !file.is_dir() => {
                if results > 1 {
                    bail!(
                        "--output {}: there are {results} results; name a folder",
                        file.display()
                    );
                }
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                Place { folder: folder_of(file), name: Some(name) }
            }
            Some(folder) => Place { folder: folder.clone(), name: None },
        };
        if !args.dry_run && !place.existing().is_dir() {
            bail!("--output: there is no folder {}", place.folder.display());
        }
        Ok(place)
    }

    /// The folder by a name that can be opened.
    fn existing(&self) -> &Path {
        if self.folder == Path::new("") { Path::new(".") } else { &self.folder }
    }
}

/// The model that everything is made from.
struct Subject {
    path: PathBuf,
    model: Model,
    files: Vec<Source>,
    /// Shapes that the user gave, and those of an optimized model that led here.
    options: Options,
    /// The name for results.
    stem: String,
}

impl Subject {
    fn read(path: &Path, args: &Args, out: &Output) -> Result<Subject> {
        let progress = Progress::start(out, format!("read {}", path.display()));
        let load = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
        let mut options = Options::default();
        args.shapes.apply(&mut options)?;
        let given = read(path, &load)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".opt").unwrap_or(&stem).to_owned();
        let record = Record::of(&given.model);
        let (path, input, optimized) = match record {
            None => (path.to_path_buf(), given, None),
            Some(record) => {
                let source = recorded(&record, path)?;
                let input = read(&source, &load)
                    .with_context(|| format!("the source of {}", path.display()))?;
                (source, input, Some(given.model))
            }
        };
        drop(progress);
        let Input { model, files, warnings } = input;
        for warning in &warnings {
            out.warn(warning);
        }
        if let Some(optimized) = &optimized {
            let asked = [
                !args.batch.is_empty() || !args.dynamic_batch.is_empty(),
                !args.buckets.is_empty(),
            ];
            like(&model, optimized, asked, &mut options)?;
        }
        Ok(Subject { path, model, files, options, stem })
    }

    /// Bytes of the model's files.
    fn bytes(&self) -> u64 {
        let size = |file: &Source| fs::metadata(&file.path).map_or(0, |data| data.len());
        self.files.iter().map(size).sum()
    }
}

/// The source of an optimized model, if it is still the one that was recorded.
fn recorded(record: &Record, optimized: &Path) -> Result<PathBuf> {
    let shown = optimized.display();
    if record.replaced {
        bail!(
            "{shown} took its source's place, so that no other batch can be made from it; name the source"
        );
    }
    let source = record.source(optimized);
    if !source.is_file() {
        bail!(
            "the source of {shown} is gone: {}; name the model to compile from",
            source.display()
        );
    }
    let now = Record::new(&source, optimized).with_context(|| format!("the source of {shown}"))?;
    if now.hash != record.hash {
        bail!(
            "the source of {shown} is another file now: {}; optimize it anew, or name it to compile from it",
            source.display()
        );
    }
    Ok(source)
}

/// The chip of this machine, or the usual one.
fn detected_soc(machine: &Machine, out: &Output) -> Result<String> {
    const USUAL: &str = "Ascend310P3";
    let said = machine.program("npu-smi").and_then(|program| machine.ask(&program, &["info"]));
    let mut socs: Vec<String> =
        npu_smi::parse(&said.unwrap_or_default()).chips.iter().map(npu_smi::Chip::soc).collect();
    socs.sort();
    socs.dedup();
    match socs.as_slice() {
        [] => {
            out.note(&format!(
                "no NPU on this machine; compiling for {USUAL}, --soc names another chip"
            ));
            Ok(USUAL.to_owned())
        }
        [only] => Ok(only.clone()),
        several => {
            bail!("this machine has several chips; choose one with --soc: {}", several.join(", "))
        }
    }
}

/// What stands in commands where there is no toolkit.
fn anywhere() -> Toolkit {
    Toolkit {
        atc: "atc".into(),
        home: None,
        version: None,
        found_by: "PATH",
        environment: Vec::new(),
        set_env: None,
    }
}

/// Everything that compiling one variant needs.
struct Task<'a> {
    args: &'a Args,
    out: &'a Output,
    subject: &'a Subject,
    place: &'a Place,
    machine: &'a Machine,
    soc: &'a str,
    toolkit: &'a Toolkit,
    flags: &'a Flags,
    cann: &'a Cann,
    compilers: Option<usize>,
    source: FileRecord,
}

/// An optimized model with the command that compiles it.
struct Prepared {
    name: String,
    model: Model,
    file: String,
    command: Command,
    options: Options,
}

impl Task<'_> {
    /// Optimizes the source for a variant.
    fn prepare(&self, variant: &Variant) -> Result<Prepared> {
        let target = Target::Ascend310P3;
        let Options { shapes, dims, keep_dims, .. } = self.subject.options.clone();
        let mut options = Options { shapes, dims, keep_dims, ..target.options(self.cann) };
        let mut model = self.subject.model.clone();
        variant.apply(&model, &mut options)?;
        let pipeline: Pipeline = target.pipeline()?.without(&self.args.skip_passes)?;
        let report = run_passes(&mut model, &pipeline, &options, &mut |_, _| ())
            .with_context(|| format!("optimize {}", self.subject.path.display()))?;
        for note in report.notes.iter().filter(|note| note.warning) {
            self.out.warn(&note.text);
        }
        if let Some(broken) = check(&model).first() {
            bail!("internal error: the optimized model is not well formed: {broken}");
        }
        let inputs = self.inputs(&model, variant)?;
        let first: Vec<Option<i64>> = inputs
            .first()
            .map(|shape| shape.dims.iter().map(|&n| (n > 0).then_some(n)).collect())
            .unwrap_or_default();
        let name = match &self.place.name {
            Some(name) => name.clone(),
            None => variant.name(&self.subject.stem, &first),
        };
        let file = format!("{}.opt.onnx", file_name(&name));
        let job = Job {
            name: name.clone(),
            model: file.clone(),
            soc: self.soc.to_owned(),
            inputs,
            gears: variant.gears.clone(),
            precision: self.args.precision,
            keep: self.kept_nodes(&model)?,
            gelu: model.all_nodes().any(|(_, node)| node.op().is("Erf") || node.op().is("Tanh")),
            log: self.args.log.clone(),
            extra: self.args.extra.clone(),
            compilers: self.compilers,
        };
        let command = Command::new(&job, self.toolkit, self.flags)?;
        Ok(Prepared { name, model, file, command, options })
    }

    /// The inputs with their dimensions; -1 where gears choose.
    fn inputs(&self, model: &Model, variant: &Variant) -> Result<Vec<Shape>> {
        let shape = |&input: &ValueId| {
            let name = model[input].name().to_string();
            let shape =
                model[input].shape().ok_or_else(|| anyhow!("input {name:?} has no shape"))?;
            let dims = shape.0.iter().enumerate().map(|(axis, dim)| match dim {
                onnxfix_ir::Dim::Fixed(n) => Ok(*n),
                _ if axis == 0 && !variant.gears.is_empty() => Ok(-1),
                other => Err(anyhow!(
                    "input {name:?} {shape} is not fixed: {other} is open; add --dim {other}=N"
                )),
            });
            let dims = dims.collect::<Result<_>>()?;
            Ok(Shape { name, dims })
        };
        model[model.root()].inputs().iter().map(shape).collect()
    }

    /// Names of the nodes that keep their type.
    fn kept_nodes(&self, model: &Model) -> Result<Vec<String>> {
        if self.args.precision != Precision::Fp16Keep {
            if !self.args.keep_nodes.is_empty() {
                bail!("--keep-nodes goes with --precision fp16+keep");
            }
            return Ok(Vec::new());
        }
        let names =
            model.all_nodes().filter_map(|(_, node)| Some((node.name.as_ref()?.to_string(), node)));
        if self.args.keep_nodes.is_empty() {
            // Squares of activations beyond 255 are more than float16 holds, and their mean needs the bits.
            let squares =
                names.filter(|(_, node)| node.op().is("Pow") || node.op().is("ReduceMean"));
            return Ok(squares.map(|(name, _)| name).collect());
        }
        let all: Vec<String> = names.map(|(name, _)| name).collect();
        for node in &self.args.keep_nodes {
            if !all.contains(node) {
                bail!(
                    "--keep-nodes {node}: the optimized model has no node of that name (`onnxfix print` shows them)"
                );
            }
        }
        Ok(self.args.keep_nodes.clone())
    }

    /// Prints what would be run, to be typed in the folder of the results.
    fn print_commands(&self, variants: &[Variant]) -> Result<Verdict> {
        let mut lines = Vec::new();
        for variant in variants {
            let prepared = self.prepare(variant)?;
            for (file, content) in &prepared.command.files {
                lines.push(format!("printf %s {} > {file}", shell_word(content)));
            }
            lines.push(self.optimize_line(&prepared));
            lines.push(prepared.command.line());
        }
        if self.args.json {
            self.out.json(&lines)?;
        } else {
            self.out.result(&lines.join("\n"))?;
        }
        Ok(Verdict::Clean)
    }

    /// The command that makes the optimized model.
    fn optimize_line(&self, prepared: &Prepared) -> String {
        let mut words = vec![
            "onnxfix".to_owned(),
            "optimize".to_owned(),
            self.subject.path.display().to_string(),
            "--cann".to_owned(),
            self.cann.line.clone(),
        ];
        let shape = |shape: &onnxfix_passes::InputShape| {
            let dims: Vec<String> = shape.dims.iter().map(ToString::to_string).collect();
            format!("{}:{}", shape.name, dims.join(","))
        };
        for shape in prepared.options.shapes.iter().map(shape) {
            words.extend(["--input-shape".to_owned(), shape]);
        }
        for dim in &prepared.options.dims {
            words.extend(["--dim".to_owned(), format!("{}={}", dim.symbol, dim.value)]);
        }
        for dim in &prepared.options.keep_dims {
            words.extend(["--keep-dim".to_owned(), dim.clone()]);
        }
        if !self.args.skip_passes.is_empty() {
            words.extend(["--skip-passes".to_owned(), self.args.skip_passes.join(",")]);
        }
        words.extend(["-o".to_owned(), prepared.file.clone()]);
        words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
    }

    /// Compiles all variants, some side by side. Gives what came of each, in the order of the variants, and the error that
    /// ended it early.
    fn compile_all(
        &self,
        variants: &[Variant],
        jobs: usize,
    ) -> (Vec<(Compiled, bool)>, Option<anyhow::Error>) {
        let progress = Progress::start(self.out, "start ATC");
        let steps = Steps::new(variants.len(), &progress);
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<(Compiled, bool)>)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(variant) = variants.get(at) else { break };
                        let result = self.compile(variant, &|what| steps.set(at, what));
                        // An error is one of the machine or of the flags, which the next variant would meet too.
                        if result.is_err() {
                            next.store(variants.len(), Ordering::Relaxed);
                        }
                        steps.set(at, None);
                        locked(&done).push((at, result));
                    }
                });
            }
        });
        drop(progress);
        let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.sort_by_key(|(at, _)| *at);
        let (mut models, mut failed) = (Vec::new(), None);
        for (_, result) in done {
            match result {
                Ok(model) => models.push(model),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        (models, failed)
    }

    /// Optimizes and compiles one variant. Says too whether ATC said that it only simulates.
    fn compile(
        &self,
        variant: &Variant,
        step: &dyn Fn(Option<String>),
    ) -> Result<(Compiled, bool)> {
        step(Some("optimize".into()));
        let Prepared { name, mut model, file, command, .. } = self.prepare(variant)?;
        step(Some(name.clone()));
        // Beside the result, so that the file only has to change its name.
        clear_abandoned(self.place.existing(), &name);
        let work = tempfile::Builder::new()
            .prefix(&format!("{}{}-", work_prefix(&name), std::process::id()))
            .permissions(fs::Permissions::from_mode(0o777))
            .tempdir_in(self.place.existing())
            .with_context(|| {
                format!("make a work folder in {}", self.place.existing().display())
            })?;
        let optimized = work.path().join(&file);
        if !is_text(&self.subject.path) {
            Record::new(&self.subject.path, &optimized)?.write(&mut model);
        }
        model.header.metadata.push((TARGET.into(), Target::Ascend310P3.name().into()));
        store(&model, &optimized, &StoreOptions::default())
            .with_context(|| format!("write {}", optimized.display()))?;
        let (inputs, outputs) = ports(&model);
        drop(model);

        let timeout = self.args.timeout.map(|minutes| Duration::from_secs(minutes * 60));
        let mut observer = |event| match event {
            Event::Line(line) => {
                tracing::info!(%name, "{line}");
                step(Some(format!("{name}: {line}")));
            }
            Event::Dots(dots) => {
                step(Some(format!("{name}: compiles operators {}", ".".repeat(dots % 8))))
            }
        };
        let outcome = run_atc(&command, work.path(), self.machine, timeout, &mut observer)?;
        let simulated = outcome.output.lines().take(3).any(|line| line.contains("simulated"));

        let mut compiled = Compiled {
            name: name.clone(),
            om: None,
            size: 0,
            manifest: None,
            failures: outcome.failures.clone(),
            seconds: outcome.seconds,
            messages: explained(&outcome),
            fusion: outcome.fusion.clone(),
            log: outcome.log.clone(),
            command: command.line(),
            kept: None,
        };
        if let Some(made) = &outcome.om {
            let bound = if outcome.bound_to_host {
                format!("_linux_{}", std::env::consts::ARCH)
            } else {
                String::new()
            };
            let om = self.place.folder.join(format!("{name}{bound}.om"));
            let record = record_file(made, Path::new(om.file_name().unwrap_or_default()))?;
            compiled.size = record.size;
            let manifest = Manifest {
                schema: 1,
                onnxfix: env!("CARGO_PKG_VERSION").to_owned(),
                om: record,
                soc: self.soc.to_owned(),
                precision: self.args.precision.to_string(),
                gears: variant.gears.clone(),
                inputs,
                outputs,
                source: self.source.clone(),
                optimized: record_file(&optimized, Path::new(&file))?.blake3,
                atc: Compiler {
                    path: self.toolkit.atc.display().to_string(),
                    version: self.toolkit.version.clone(),
                    arguments: command.arguments.clone(),
                    seconds: outcome.seconds,
                    simulated,
                },
                warnings: outcome.of(Severity::Warning).cloned().collect::<Vec<Message>>(),
                fusion: outcome.fusion.clone(),
            };
            let beside = om.with_extension("om.json");
            let text = serde_json::to_string_pretty(&manifest)? + "\n";
            // The record first: a model without one would look like another program's.
            replace(&work.path().join("manifest.json"), &beside, Some(&text))?;
            replace(made, &om, None)?;
            compiled.manifest = Some(beside);
            compiled.om = Some(om);
        }
        compiled.kept = self.keep(work, &name, &outcome)?;
        Ok((compiled, simulated))
    }

    /// Keeps the work folder where that is wanted, and what ATC printed where it failed.
    fn keep(
        &self,
        work: tempfile::TempDir,
        name: &str,
        outcome: &Outcome,
    ) -> Result<Option<PathBuf>> {
        let log = self.place.folder.join(format!("{name}.atc.log"));
        if !self.args.keep {
            if outcome.om.is_some() {
                // An earlier failure's would speak of another model.
                let _was_none = fs::remove_file(&log);
                return Ok(None);
            }
            fs::write(&log, &outcome.output).with_context(|| format!("write {}", log.display()))?;
            return Ok(Some(log));
        }
        let kept = self.place.folder.join(format!("{name}.atc"));
        let at = || format!("keep the work folder as {}", kept.display());
        fs::write(work.path().join("output.txt"), &outcome.output).with_context(at)?;
        if kept.exists() {
            fs::remove_dir_all(&kept).with_context(at)?;
        }
        fs::rename(work.keep(), &kept).with_context(at)?;
        Ok(Some(kept))
    }
}

/// How the names of work folders for a result begin; the number of their process follows.
fn work_prefix(name: &str) -> String {
    format!(".{name}.atc-")
}

/// Removes the work folders of runs that were killed: they hold a whole model.
fn clear_abandoned(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let process = file.strip_prefix(&work_prefix(name)).and_then(|rest| rest.split('-').next());
        if let Some(process) = process.and_then(|process| process.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            // What cannot be removed is in nobody's way.
            let _removed = fs::remove_dir_all(entry.path());
        }
    }
}

/// Puts a file of a work folder in its place, with a new text if there is one.
fn replace(made: &Path, place: &Path, text: Option<&str>) -> Result<()> {
    let at = || format!("write {}", place.display());
    if let Some(text) = text {
        fs::write(made, text).with_context(at)?;
    }
    fs::rename(made, place).with_context(at)
}

/// Inputs and outputs for the record.
fn ports(model: &Model) -> (Vec<Port>, Vec<Port>) {
    let port = |&value: &ValueId| {
        let shape = model[value].shape();
        let dim = |dim: &onnxfix_ir::Dim| match dim {
            onnxfix_ir::Dim::Fixed(n) => *n,
            _ => -1,
        };
        Port {
            name: model[value].name().to_string(),
            dtype: model[value].dtype().map_or("", onnxfix_ir::DataType::name).to_owned(),
            shape: shape.map(|shape| shape.0.iter().map(dim).collect()).unwrap_or_default(),
        }
    };
    let root = &model[model.root()];
    (root.inputs().iter().map(port).collect(), root.outputs().iter().map(port).collect())
}

/// What runs at the moment, in one line.
struct Steps<'a> {
    now: Mutex<Vec<Option<String>>>,
    progress: &'a Progress,
}

impl Steps<'_> {
    fn new(count: usize, progress: &Progress) -> Steps<'_> {
        Steps { now: Mutex::new(vec![None; count]), progress }
    }

    fn set(&self, at: usize, what: Option<String>) {
        let mut now = locked(&self.now);
        now[at] = what;
        let all: Vec<&str> = now.iter().flatten().map(String::as_str).collect();
        self.progress.step(all.join(" | "));
    }
}

/// A lock whose holders do not panic.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
