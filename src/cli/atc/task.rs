//! Optimizing and compiling the variants of a model.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ascend::facts::Cann;
use onnxfix_atc::run::{Event, Outcome, run as run_atc};
use onnxfix_atc::toolkit::Toolkit;
use onnxfix_atc::{
    Command, Compiler, FileRecord, Flags, Job, Machine, Manifest, Message, Port, Precision,
    Severity, Shape, file_name, record_file, shell_word,
};
use onnxfix_ir::{Model, StoreOptions, ValueId, check, store};
use onnxfix_passes::{Options, Pipeline, run as run_passes};

use super::super::Verdict;
use super::super::output::Output;
use super::super::progress::Progress;
use super::report::{Compiled, explained};
use super::subject::Subject;
use super::variants::Variant;
use super::{Args, Place};
use crate::record::Record;
use crate::source::is_text;
use crate::target::Target;
use crate::verify::TARGET;

/// Everything that compiling one variant needs.
pub(super) struct Task<'a> {
    pub(super) args: &'a Args,
    pub(super) out: &'a Output,
    pub(super) subject: &'a Subject,
    pub(super) place: &'a Place,
    pub(super) machine: &'a Machine,
    pub(super) soc: &'a str,
    pub(super) toolkit: &'a Toolkit,
    pub(super) flags: &'a Flags,
    pub(super) cann: &'a Cann,
    pub(super) compilers: Option<usize>,
    pub(super) source: FileRecord,
}

/// What came of a variant, and whether ATC said that it only simulates.
type Made = (Compiled, bool);

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
        let inputs = Self::inputs(&model, variant)?;
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
    fn inputs(model: &Model, variant: &Variant) -> Result<Vec<Shape>> {
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
    pub(super) fn print_commands(&self, variants: &[Variant]) -> Result<Verdict> {
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
    pub(super) fn compile_all(
        &self,
        variants: &[Variant],
        jobs: usize,
    ) -> (Vec<Made>, Option<anyhow::Error>) {
        let progress = Progress::start(self.out, "start ATC");
        let steps = Steps::new(variants.len(), &progress);
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Made>)>> = Mutex::new(Vec::new());
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
    fn compile(&self, variant: &Variant, step: &dyn Fn(Option<String>)) -> Result<Made> {
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
                step(Some(format!("{name}: compiles operators {}", ".".repeat(dots % 8))));
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
