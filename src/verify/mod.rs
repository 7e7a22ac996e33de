//! Whether an optimized model still computes what its source computes.
//!
//! Four questions, in this order, and a model that fails one is different:
//!
//! 1. *Interface*: are inputs and outputs the same, by name, order, type and rank?
//! 2. *Weights*: is every constant that no pass made the same, bit for bit? And those that passes computed from the
//!    source, are they what the engine computes from it?
//! 3. *Numbers*: do both models give the same outputs for inputs that mean something: ids from the whole vocabulary,
//!    padding on either side, a single token, nothing but padding, all segments?
//! 4. Where they do not: which value is the first one that differs?
//!
//! Both models run in the [engine](crate::engine), the source as its file has it. Where the engine cannot run one of
//! them there is no answer, and that is an error, not "equal".

mod compare;
mod interface;
mod locate;
pub(crate) mod measure;
mod report;
mod roles;
mod run;
mod samples;
mod shapes;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};
use onnxfix_passes::{DimBinding, InputShape, PROVENANCE};

use crate::engine::{Engine, EngineError, InputSpec, Lowering, Request, Source};
use compare::{Limits, Pair};
use roles::{Input, Role};
use run::Runner;
use samples::Sample;

pub use compare::{Agreement, Element, Output, Padding};
pub use interface::Change;
pub use locate::FirstDifference;
pub use report::{Coverage, Meaning, Report, Runs};
pub use weights::{Changed, Difference, Weights};

/// Metadata key of an optimized model: the target it was made for.
pub const TARGET: &str = "onnxfix.target";

/// Two largest values that are closer than this part of the spread are a tie: float32 rounding decides which one wins.
const TIE: f64 = 1e-6;

/// Largest difference, relative to the spread, of a model that computes in 16-bit floats.
const HALF_RTOL: f64 = 5e-2;

/// A model to compare.
#[derive(Debug, Clone)]
pub struct Subject {
    /// How the report calls it.
    pub name: String,
    /// The model.
    pub model: Model,
    /// The protobuf file it was read from. The engine then reads that file itself; else it reads what `model` stores.
    pub file: Option<PathBuf>,
}

/// What to compare, and how closely.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many sequences to run, at least. Every kind of padding is among them whatever the number.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Largest difference relative to the spread of an output; by default 1e-4, for 16-bit floats 1e-2.
    pub rtol: Option<f64>,
    /// Largest absolute difference, in addition.
    pub atol: f64,
    /// Shapes for inputs with symbolic dimensions.
    pub shapes: Vec<InputShape>,
    /// Numbers for symbolic dimensions.
    pub dims: Vec<DimBinding>,
    /// Also run the optimized model in 16-bit floats: whether its numbers stay finite and near those of the source.
    pub half: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            samples: 8,
            seed: 0,
            rtol: None,
            atol: 0.0,
            shapes: Vec::new(),
            dims: Vec::new(),
            half: false,
        }
    }
}

/// One of the two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Before,
    /// The optimized model.
    After,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Before => "the source",
            Side::After => "the optimized model",
        })
    }
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All constants are compared.
    Weights,
    /// The engine recomputes constants that passes made.
    Recompute,
    /// The engine reads a model.
    Prepare(Side),
    /// The engine runs a model on all samples.
    Run(Side),
    /// The first value that differs is looked for.
    Locate,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Weights => f.write_str("compare weights"),
            Step::Recompute => f.write_str("recompute folded constants"),
            Step::Prepare(side) => write!(f, "read {side}"),
            Step::Run(side) => write!(f, "run {side}"),
            Step::Locate => f.write_str("look for the first value that differs"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The engine cannot run a model.
    #[error("not verified: {side} {name:?} cannot be run on the CPU")]
    Engine {
        /// Which model.
        side: Side,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// The inputs are not known well enough, or not what the user says.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// Why it is not known what to run models with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A model declares no type or no rank for an input.
    #[error("input {name:?} has no declared {what}; give one with --input-shape {name:?}:DIMS")]
    Undeclared {
        /// The input.
        name: String,
        /// What is not declared.
        what: &'static str,
    },
    /// The user's shape contradicts the model's.
    #[error("input {name:?} is {declared} in the model, which {given} contradicts")]
    Shape {
        /// The input.
        name: String,
        /// What the model declares.
        declared: String,
        /// What the user gave.
        given: String,
    },
    /// The user named an input that there is not.
    #[error("the models have no input {0:?}")]
    NoInput(String),
}

/// Compares two models.
///
/// # Errors
/// When there is no answer, mostly because the engine cannot run one of them.
pub fn verify(
    before: &Subject,
    after: &Subject,
    options: &Options,
    progress: &dyn Fn(Step),
) -> Result<Report, VerifyError> {
    let mut report = Report::new(before, after);
    report.interface = interface::compare(&before.model, &after.model);

    progress(Step::Weights);
    let weights = weights::compare(&before.model, &after.model);
    report.weights = weights.report;
    // Without the same inputs there is nothing that could be run on both.
    if interface::same_inputs(&before.model, &after.model).is_none() {
        return Ok(report.finish());
    }

    let inputs = roles::analyse(&before.model);
    let (dims, notes) = shapes::resolve(&before.model, &after.model, options)?;
    report.notes.extend(notes);
    let samples = samples::generate(&inputs, &dims, options.samples, options.seed);

    progress(Step::Recompute);
    let recomputed = recompute(before, after, &dims, &samples, &weights.made, &inputs)?;
    report.weights.recomputed = recomputed.equal.len();
    report.weights.changed.extend(recomputed.changed);
    let compared: HashSet<String> =
        weights.unchanged.into_iter().chain(recomputed.equal).chain(recomputed.tables).collect();
    report.inputs = coverage(&inputs, after, &dims, &samples, &compared);
    report.runs = Some(Runs::new(&samples, &inputs, &dims, options.seed));

    let context = Context { before, after, dims: &dims, samples: &samples, options };
    let mut source = context.run(Side::Before, Lowering::Kernels, progress, &mut report)?;
    let ours = context.run(Side::After, Lowering::Kernels, progress, &mut report)?;
    let mut outputs = context.compare(&source, &ours, context.limits(), &mut report);
    if outputs.iter().any(|o| !o.equal) {
        // A kernel of the engine could be what is wrong: the answer "different" wants a second opinion.
        source = context.run(Side::Before, Lowering::Plain, progress, &mut report)?;
        let ours = context.run(Side::After, Lowering::Plain, progress, &mut report)?;
        outputs = context.compare(&source, &ours, context.limits(), &mut report);
    }
    if options.half {
        let ours = context.run(Side::After, Lowering::Half, progress, &mut report)?;
        let limits = Limits { rtol: Some(HALF_RTOL), tie: HALF_RTOL, ..context.limits() };
        report.half = Some(context.compare(&source, &ours, limits, &mut report));
    }
    if let Some(worst) = outputs.iter().find(|o| !o.equal) {
        progress(Step::Locate);
        let run = worst.worst.as_ref().map_or(0, |w| w.run);
        report.first_difference = locate::locate(before, after, &dims, &samples[run])?;
    }
    report.outputs = outputs;
    Ok(report.finish())
}

/// A model ready to run on one sample that means something.
pub(crate) struct Loaded {
    runner: Runner,
    sample: Sample,
    /// Dimensions of the first input.
    pub(crate) dims: Vec<i64>,
    /// What the user should know about how it runs.
    pub(crate) notes: Vec<String>,
}

/// Why a model is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Loaded {
    /// Prepares a model for the shapes of `options`, and a sample of its seed.
    pub(crate) fn new(
        subject: &Subject,
        options: &Options,
        lowering: Lowering,
    ) -> Result<Loaded, LoadError> {
        let model = &subject.model;
        let (dims, mut notes) = shapes::resolve(model, model, options)?;
        let inputs = roles::analyse(model);
        let mut samples = samples::generate(&inputs, &dims, 1, options.seed);
        let (runner, note) = Runner::new(subject, &dims, &[], lowering)?;
        notes.extend(note);
        // There is always one, of right-padded sequences where there is padding.
        let sample = samples.swap_remove(0);
        Ok(Loaded { runner, sample, dims: dims.into_iter().next().unwrap_or_default(), notes })
    }

    /// The outputs.
    pub(crate) fn run(&self) -> Result<Vec<Tensor>, EngineError> {
        self.runner.run(&self.sample)
    }
}

/// Runs a model on samples that mean something, and hands over the values of these names for each of them. What the
/// user should know about how it ran comes back.
pub(crate) fn values(
    subject: &Subject,
    options: &Options,
    names: &[String],
    mut each: impl FnMut(&[Tensor]),
) -> Result<Vec<String>, LoadError> {
    let model = &subject.model;
    let (dims, mut notes) = shapes::resolve(model, model, options)?;
    let samples = samples::generate(&roles::analyse(model), &dims, options.samples, options.seed);
    let (runner, note) = Runner::new(subject, &dims, names, Lowering::Kernels)?;
    notes.extend(note);
    for sample in &samples {
        each(&runner.run(sample)?);
    }
    Ok(notes)
}

struct Context<'a> {
    before: &'a Subject,
    after: &'a Subject,
    dims: &'a [Vec<i64>],
    samples: &'a [Sample],
    options: &'a Options,
}

impl Context<'_> {
    /// The outputs of one model for every sample.
    fn run(
        &self,
        side: Side,
        lowering: Lowering,
        progress: &dyn Fn(Step),
        report: &mut Report,
    ) -> Result<Vec<Vec<Tensor>>, VerifyError> {
        let subject = if side == Side::Before { self.before } else { self.after };
        progress(Step::Prepare(side));
        let failed = |source| VerifyError::Engine { side, name: subject.name.clone(), source };
        let (runner, note) = Runner::new(subject, self.dims, &[], lowering).map_err(failed)?;
        report.note(note);
        progress(Step::Run(side));
        runner.run_all(self.samples).map_err(failed)
    }

    fn limits(&self) -> Limits {
        let target = self.after.model.header.metadata.iter().find(|(key, _)| key == TARGET);
        Limits {
            rtol: self.options.rtol,
            atol: self.options.atol,
            tie: TIE,
            padding_counts: target.is_none_or(|(_, target)| target == "portable"),
        }
    }

    /// Compares the outputs of both models; one that has another type is noted as a change of the interface.
    fn compare(
        &self,
        before: &[Vec<Tensor>],
        after: &[Vec<Tensor>],
        limits: Limits,
        report: &mut Report,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (slot, name) in interface::outputs(&self.before.model).iter().enumerate() {
            let pairs: Vec<Pair<'_>> = self
                .samples
                .iter()
                .zip(before.iter().zip(after))
                .filter_map(|(s, (b, a))| {
                    Some(Pair { before: b.get(slot)?, after: a.get(slot)?, rows: &s.rows })
                })
                .collect();
            let change = pairs.iter().find_map(|p| interface::result(name, p.before, p.after));
            match change {
                None => outputs.push(compare::compare(name, &pairs, limits)),
                Some(change) if report.interface.contains(&change) => {}
                Some(change) => report.interface.push(change),
            }
        }
        outputs
    }
}

struct Recomputed {
    /// Constants that passes made and that are what the source computes.
    equal: Vec<String>,
    /// Tables that both models compute, and compute alike.
    tables: Vec<String>,
    changed: Vec<Changed>,
}

/// Lets the engine compute the constants that passes made, wherever the source has a value of that name; and tables that
/// both models compute from constants, of which the samples read a few rows only.
fn recompute(
    before: &Subject,
    after: &Subject,
    dims: &[Vec<i64>],
    samples: &[Sample],
    made: &[String],
    inputs: &[Input],
) -> Result<Recomputed, VerifyError> {
    let mut result = Recomputed { equal: Vec::new(), tables: Vec::new(), changed: Vec::new() };
    let names = |model: &Model| {
        computed(model).map(|(_, v)| model[v].name().to_string()).collect::<HashSet<_>>()
    };
    let (in_before, in_after) = (names(&before.model), names(&after.model));
    let mut names: Vec<String> =
        made.iter().filter(|&name| in_before.contains(name)).cloned().collect();
    let folded = names.len();
    for table in inputs.iter().flat_map(Input::tables) {
        if in_before.contains(&table.name)
            && in_after.contains(&table.name)
            && !names.contains(&table.name)
        {
            names.push(table.name.clone());
        }
    }
    let (Some(sample), false) = (samples.first(), names.is_empty()) else { return Ok(result) };
    let compute = |side, subject: &Subject, names: &[String]| {
        let failed = |source| VerifyError::Engine { side, name: subject.name.clone(), source };
        let (runner, _) = Runner::new(subject, dims, names, Lowering::Plain).map_err(failed)?;
        // Constants that follow from the shapes are those of another batch.
        if runner.splits_batches() {
            Ok(None)
        } else {
            runner.run(sample).map(Some).map_err(failed)
        }
    };
    let Some(tensors) = compute(Side::Before, before, &names)? else { return Ok(result) };
    let (of_tables, tables) = (names.split_off(folded), &tensors[folded..]);
    let root = after.model.root();
    let constants: HashMap<&str, ValueId> = after.model[root]
        .initializers()
        .iter()
        .map(|&v| (after.model[v].name().as_str(), v))
        .collect();
    for (name, tensor) in names.into_iter().zip(&tensors) {
        let ours = constants.get(name.as_str()).and_then(|&v| after.model.constant(v));
        let Some(ours) = ours else { continue };
        match weights::recomputed(&name, tensor, ours) {
            None => result.equal.push(name),
            Some(changed) => result.changed.push(changed),
        }
    }
    if of_tables.is_empty() {
        return Ok(result);
    }
    let ours = compute(Side::After, after, &of_tables)?.unwrap_or_default();
    for ((name, theirs), ours) in of_tables.into_iter().zip(tables).zip(&ours) {
        match weights::recomputed(&name, theirs, ours) {
            None => result.tables.push(name),
            Some(changed) => result.changed.push(changed),
        }
    }
    Ok(result)
}

/// The values that nodes of the model's own graph make, in order, with their nodes.
fn computed(model: &Model) -> impl Iterator<Item = (NodeId, ValueId)> {
    model
        .nodes(model.root())
        .flat_map(|n| model[n].outputs().iter().flatten().map(move |&v| (n, v)))
}

fn coverage(
    inputs: &[Input],
    after: &Subject,
    dims: &[Vec<i64>],
    samples: &[Sample],
    compared: &HashSet<String>,
) -> Vec<Coverage> {
    let after_types: Vec<Option<DataType>> =
        roles::inputs(&after.model).into_iter().map(|v| after.model[v].dtype()).collect();
    let one = |(i, input): (usize, &Input)| {
        let meaning = match &input.role {
            Role::Ids { tables, .. } => {
                // The samples stay within the smallest table.
                let (low, high) = input.range().unwrap_or((0, 0));
                Meaning::Ids {
                    rows: u64::try_from(high - low + 1).unwrap_or(0),
                    read: samples::distinct(samples, i).len() as u64,
                    compared: tables.iter().all(|t| compared.contains(&t.name)),
                    tables: tables.iter().map(|t| t.name.clone()).collect(),
                }
            }
            Role::Mask => Meaning::Mask { patterns: samples::patterns(samples) },
            Role::Bias => Meaning::Bias { patterns: samples::patterns(samples) },
            Role::Flags => Meaning::Flags,
            Role::Data => Meaning::Data,
        };
        let after = after_types.get(i).copied().flatten().unwrap_or(input.dtype);
        Coverage {
            name: input.name.clone(),
            before: input.dtype.to_string(),
            after: after.to_string(),
            dims: dims.get(i).cloned().unwrap_or_default(),
            meaning,
        }
    };
    inputs.iter().enumerate().map(one).collect()
}

/// The pass that made a node, by its metadata.
fn made_by(model: &Model, node: NodeId) -> Option<String> {
    model[node].metadata.iter().find(|(key, _)| key == PROVENANCE).map(|(_, pass)| pass.clone())
}

/// The inputs that a model is fed with, initializers left out.
pub(crate) fn inputs(model: &Model) -> Vec<ValueId> {
    roles::inputs(model)
}

/// Loads a model into the engine, from its file where it has one.
pub(crate) fn load(
    subject: &Subject,
    inputs: &[InputSpec],
    outputs: &[String],
    lowering: Lowering,
) -> Result<Engine, EngineError> {
    let request = |source| Request { source, inputs, outputs, lowering };
    if let Some(path) = &subject.file {
        return Engine::load(&request(Source::File(path)));
    }
    let mut bytes = Vec::new();
    onnxfix_ir::write_to(&subject.model, &mut bytes)
        .map_err(|e| EngineError::Decode { reason: e.to_string() })?;
    Engine::load(&request(Source::Bytes(&bytes)))
}
