//! What the commands on texts share: tokenizers, data sets, label orders.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use onnxfix_task::dataset::{self, DataSet, Oddity, Split, Task};
use onnxfix_task::features::Holds;
use onnxfix_task::labels::LabelOrder;
use onnxfix_task::tokenizer::{Tokenizer, TokenizerError};

use super::npu::{Devices, Session, call, check_om};
use super::output::Output;
use crate::classify::Classifier;
use crate::engine::Lowering;
use crate::run::is_compiled;

/// How many of the lines with one oddity are named.
const NAMED: usize = 5;

/// Reads `mnli` or `sst2`.
pub(crate) fn task() -> impl TypedValueParser<Value = Task> {
    PossibleValuesParser::new(Task::ALL.map(Task::name)).map(|name| {
        let found = Task::ALL.into_iter().find(|task| task.name() == name);
        // The names are all there are.
        found.unwrap_or(Task::Mnli)
    })
}

/// Every split of either task by its name.
pub(crate) fn split() -> impl TypedValueParser<Value = Split> {
    let all = || Task::ALL.into_iter().flat_map(|t| t.splits().iter().map(|(split, _)| *split));
    PossibleValuesParser::new(all().map(Split::name))
        .map(move |name| all().find(|split| split.name() == name).unwrap_or(Split::Dev))
}

/// The tokenizer that was named, or the one beside a model.
///
/// # Errors
/// When there is none.
pub(crate) fn tokenizer(named: Option<&Path>, model: Option<&Path>) -> Result<Tokenizer> {
    if let Some(path) = named {
        return Tokenizer::open(path).context("--tokenizer");
    }
    let folder = model.map(|m| m.parent().filter(|p| !p.as_os_str().is_empty()));
    let folder = folder.map(|p| p.unwrap_or(Path::new(".")));
    match folder.map(Tokenizer::open) {
        Some(Ok(found)) => Ok(found),
        Some(Err(TokenizerError::NoFile { .. })) | None => bail!(
            "no tokenizer beside the model; name one with --tokenizer: a tokenizer.json, spm.model or vocab.txt, \
             or a folder with one of them"
        ),
        Some(Err(error)) => {
            Err(error).context("the tokenizer beside the model; --tokenizer names another")
        }
    }
}

/// The data sets of a task in a folder, or those of them that were asked for.
///
/// # Errors
/// When one cannot be read, or has lines that no sample could be made of and `skip` does not allow that.
pub(crate) fn read_sets(
    task: Task,
    path: &Path,
    only: &[Split],
    skip: bool,
    out: &Output,
) -> Result<Vec<DataSet>> {
    let mut sets = Vec::new();
    for (split, file) in dataset::find(task, path).context("--data")? {
        if !only.is_empty() && !only.contains(&split) {
            continue;
        }
        let set = dataset::read(task, split, &file).context("--data")?;
        let lost: Vec<_> = set.odd.iter().filter(|odd| odd.oddity.is_lost()).collect();
        if !lost.is_empty() && !skip {
            let lines = lost.iter().map(|odd| format!("line {}: {}", odd.line, odd.oddity));
            let lines: Vec<String> = lines.take(NAMED).collect();
            bail!(
                "{}: {} of {} lines are no samples ({}{}); mend them, or leave them out with --skip-odd-lines",
                file.display(),
                lost.len(),
                lost.len() + set.samples.len(),
                lines.join("; "),
                if lost.len() > NAMED { "; …" } else { "" }
            );
        }
        sets.push(set);
    }
    if let Some(missing) = only.iter().find(|s| !sets.iter().any(|set| set.split == **s)) {
        bail!("--data: {} has no file of {missing}", path.display());
    }
    if sets.iter().all(|set| set.samples.is_empty()) {
        bail!("--data: {} has no samples", path.display());
    }
    for set in &sets {
        report_odd(set, out);
    }
    Ok(sets)
}

/// Says once for each kind of oddity which lines have it.
pub(crate) fn report_odd(set: &DataSet, out: &Output) {
    let mut kinds: Vec<(&Oddity, Vec<u32>)> = Vec::new();
    for odd in &set.odd {
        match kinds.iter_mut().find(|(kind, _)| *kind == &odd.oddity) {
            Some((_, lines)) => lines.push(odd.line),
            None => kinds.push((&odd.oddity, vec![odd.line])),
        }
    }
    for (kind, lines) in kinds {
        let named: Vec<String> = lines.iter().take(NAMED).map(u32::to_string).collect();
        let text = format!(
            "{}: line{} {}{}: {kind}",
            set.path.display(),
            if lines.len() == 1 { "" } else { "s" },
            named.join(", "),
            if lines.len() > NAMED {
                format!(" and {} more", lines.len() - NAMED)
            } else {
                String::new()
            }
        );
        if kind.is_lost() { out.warn(&text) } else { out.note(&text) }
    }
}

/// The order of a model's labels: as said, or as the `config.json` beside it has it, or that of the published models.
///
/// # Errors
/// When what was said or written is no order of the task's labels.
pub(crate) fn label_order(
    task: Task,
    said: &[String],
    config: Option<&Path>,
    model: Option<&Path>,
) -> Result<LabelOrder> {
    if !said.is_empty() {
        return LabelOrder::parse(task, said).context("--labels");
    }
    let beside = model.map(|m| m.with_file_name("config.json")).filter(|path| path.is_file());
    let found = match (config, &beside) {
        (Some(path), _) => LabelOrder::from_config(task, path).context("--config")?,
        (None, Some(path)) => LabelOrder::from_config(task, path)
            .context("the order of labels; say it with --labels")?,
        (None, None) => None,
    };
    Ok(found.unwrap_or_else(|| LabelOrder::of(task)))
}

/// Models that take tokens, opened where they run: on the CPU, or compiled ones on NPUs.
pub(crate) struct Opened {
    pub(crate) model: Classifier,
    session: Option<Session>,
}

impl Opened {
    /// Opens models: all compiled, or none. `holds` tells what an input of a compiled one holds, by its name.
    ///
    /// # Errors
    /// When one cannot be read, or there is no device.
    pub(crate) fn new(
        paths: &[PathBuf],
        lowering: Lowering,
        devices: &Devices,
        holds: &dyn Fn(&str) -> Option<Holds>,
        out: &Output,
    ) -> Result<Opened> {
        let compiled = paths.iter().filter(|path| is_compiled(path)).count();
        if compiled == 0 {
            return Ok(Opened { model: Classifier::open(paths, lowering)?, session: None });
        }
        if compiled < paths.len() {
            bail!("compiled models (.om) run on NPUs and others on the CPU: give only one kind");
        }
        if lowering == Lowering::Half {
            bail!("--half is for the CPU: a compiled model computes in what it was compiled for");
        }
        paths.iter().try_for_each(|path| check_om(path))?;
        let session = devices.start(out)?;
        let npus = session.npus()?;
        match Classifier::open_compiled(paths, npus, holds) {
            Ok(model) => Ok(Opened { model, session: Some(session) }),
            Err(error) => {
                session.finish(call(&error), out);
                Err(error)
            }
        }
    }

    /// Releases the devices, whatever became of the work.
    pub(crate) fn finish<T>(self, outcome: Result<T>, out: &Output) -> Result<T> {
        let Opened { model, session } = self;
        // The devices are shared with the session, which ends them.
        drop(model);
        if let Some(session) = session {
            session.finish(outcome.as_ref().err().and_then(call), out);
        }
        outcome
    }
}

/// A size as the user says it or as the model has it, which must not contradict.
///
/// # Errors
/// When they do.
pub(crate) fn fitting(
    flag: &str,
    said: Option<usize>,
    model: Option<usize>,
) -> Result<Option<usize>> {
    match (said, model) {
        (Some(said), Some(model)) if said != model => {
            bail!("{flag} {said}: the model has {model} written into it")
        }
        (said, model) => Ok(said.or(model)),
    }
}

/// Lengths in ascending order, each once.
///
/// # Errors
/// When one is no length.
pub(crate) fn lengths(said: &[usize], max: usize) -> Result<Vec<usize>> {
    let mut lengths = said.to_vec();
    lengths.sort_unstable();
    lengths.dedup();
    match lengths.last() {
        None => Ok(vec![max]),
        Some(&last) if last > max => {
            bail!("--buckets: {last} is more than the greatest length, {max}; see --max-length")
        }
        Some(&last) => {
            // What fits none of the buckets needs one more.
            if last < max {
                lengths.push(max);
            }
            Ok(lengths)
        }
    }
}
