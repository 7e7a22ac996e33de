//! `onnxfix atc`

mod report;
mod subject;
mod task;
mod variants;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ascend::facts::release;
use onnxfix_atc::toolkit::{Toolkit, find};
use onnxfix_atc::{Flags, Machine, Precision, default_jobs, npu_smi, parse_messages, record_file};

use self::report::Report;
use self::subject::Subject;
use self::task::Task;
use self::variants::Variant;
use super::Verdict;
use super::output::Output;
use super::shapes::Shapes;
use super::single::named_or_single;
use crate::source::ensure_unchanged;
use crate::target::toolkit;

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
    let subject = Subject::read(&path, args, out).context("atc")?;
    let place = Place::of(args, &path, variants.len())?;
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
