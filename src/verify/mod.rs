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

pub mod bisect;
mod compare;
mod cut;
mod given;
mod half;
mod interface;
mod layers;
pub(crate) mod measure;
mod points;
mod report;
mod roles;
mod run;
mod samples;
mod shapes;
#[cfg(test)]
mod tests;
mod tokens;
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
pub use given::Given;
pub use half::{Half, Trouble};
pub use interface::Change;
pub use layers::{FirstDifference, Layers, Value, Which};
pub use points::{Points, WorstSample};
pub use report::{Coverage, Meaning, Report, Runs};
pub(crate) use run::Plan;
pub use tokens::{Takes, TokenInput, token_inputs};
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
    /// Also run the optimized model with every value rounded to float16: whether its numbers stay finite and near those of
    /// the source.
    pub half: bool,
    /// Nodes that stay in float32 meanwhile.
    pub keep: Vec<String>,
    /// Which values along the way to compare as well.
    pub layers: Which,
    /// What to run in place of generated samples.
    pub given: Option<Given>,
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
            keep: Vec::new(),
            layers: Which::None,
            given: None,
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
    /// The engine runs a model on all samples: how many it has, and of how many.
    Run(Side, usize, usize),
    /// The engine runs the optimized model in float16.
    Half(usize, usize),
    /// Values along the way are compared.
    Layers,
    /// The first value that differs is looked for.
    Locate,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Weights => f.write_str("compare weights"),
            Step::Recompute => f.write_str("recompute folded constants"),
            Step::Prepare(side) => write!(f, "read {side}"),
            Step::Run(side, ..) => write!(f, "run {side}"),
            Step::Half(..) => f.write_str("run the optimized model in float16"),
            Step::Layers => f.write_str("compare layers"),
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
    /// Results of somebody else cannot be used.
    #[error("{0}")]
    Results(String),
    /// The passes cannot run again.
    #[error("the passes cannot run on the source again: {0}")]
    Pipeline(String),
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
    progress: &(dyn Fn(Step) + Sync),
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
    let samples = samples_of(before, &dims, options)?;

    progress(Step::Recompute);
    let recomputed = recompute(before, after, &dims, &samples, &weights.made, &inputs)?;
    report.weights.recomputed = recomputed.equal.len();
    report.weights.changed.extend(recomputed.changed);
    let compared: HashSet<String> =
        weights.unchanged.into_iter().chain(recomputed.equal).chain(recomputed.tables).collect();
    report.inputs = coverage(&inputs, after, &dims, &samples, &compared);
    report.runs =
        Some(Runs::new(&samples, &inputs, &dims, options.given.is_none().then_some(options.seed)));

    let context = Context { before, after, dims: &dims, samples: &samples, options };
    let mut source = context.run(Side::Before, Lowering::Kernels, progress, &mut report)?;
    let ours = context.run(Side::After, Lowering::Kernels, progress, &mut report)?;
    let mut outputs = context.compare(&source, &ours, context.limits(), &mut report);
    if outputs.iter().any(|o| !o.equal) {
        // A kernel of the engine could be what is wrong: the answer "different" wants a second opinion.
        source = context.run(Side::Before, Lowering::Plain, progress, &mut report)?;
        let ours = context.run(Side::After, Lowering::Plain, progress, &mut report)?;
        report.points.clear();
        outputs = context.compare(&source, &ours, context.limits(), &mut report);
    }
    if options.half {
        report.half = Some(context.half(&source, progress, &mut report)?);
    }
    let worst = outputs.iter().find(|o| !o.equal);
    let run = worst.and_then(|o| o.worst.as_ref()).map_or(0, |w| w.run);
    // Where the models differ, somebody wants to know from where on.
    let (which, lowering) = match worst {
        Some(_) => (Which::All, Lowering::Plain),
        None => (options.layers, Lowering::Kernels),
    };
    if which != Which::None
        && let Some(sample) = samples.get(run)
    {
        progress(if worst.is_some() { Step::Locate } else { Step::Layers });
        let limits = context.limits();
        let (sample, how) = ((run, sample), (which, lowering));
        let layers =
            layers::compare(before, after, &dims, sample, how, limits.rtol, limits.padding_counts)?;
        report.first_difference = layers.first_difference().filter(|_| worst.is_some());
        report.layers = Some(layers);
    }
    report.outputs = outputs;
    Ok(report.finish())
}

/// What both models run on.
fn samples_of(
    before: &Subject,
    dims: &[Vec<i64>],
    options: &Options,
) -> Result<Vec<Sample>, VerifyError> {
    let inputs = roles::analyse(&before.model);
    match &options.given {
        None => Ok(samples::generate(&inputs, dims, options.samples, options.seed)),
        Some(given) => given::samples(given, &inputs, dims).ok_or_else(|| {
            InputError::Undeclared { name: "of the samples".into(), what: "type that runs" }.into()
        }),
    }
}

/// An input as one run takes it: name, type of the optimized model, dimensions.
pub type Slot = (String, DataType, Vec<i64>);

/// What one run of both models takes.
///
/// # Errors
/// When the shapes are not known, or the models have different inputs.
pub fn slots(before: &Model, after: &Model, options: &Options) -> Result<Vec<Slot>, InputError> {
    let (dims, _) = shapes::resolve(before, after, options)?;
    let inputs = roles::inputs(after).into_iter().zip(dims);
    let slot = |(v, dims): (ValueId, Vec<i64>)| {
        (after[v].name().to_string(), after[v].dtype().unwrap_or(DataType::Float), dims)
    };
    Ok(inputs.map(slot).collect())
}

/// Reads what somebody else says of an output: of which run, its position, its name, and what the model gives.
pub type Results<'a> = &'a dyn Fn(usize, usize, &str, &Tensor) -> Result<Tensor, String>;

/// Compares what a model gives with results that somebody else produced from the same samples, called `name`.
///
/// # Errors
/// When the model cannot be run, or results are missing.
pub fn verify_results(
    subject: &Subject,
    name: &str,
    options: &Options,
    results: Results<'_>,
    progress: &(dyn Fn(Step) + Sync),
) -> Result<Report, VerifyError> {
    let mut report = Report::new(subject, subject);
    name.clone_into(&mut report.before);
    report.results = true;
    let (dims, notes) = shapes::resolve(&subject.model, &subject.model, options)?;
    report.notes.extend(notes);
    let inputs = roles::analyse(&subject.model);
    let samples = samples_of(subject, &dims, options)?;
    report.inputs = coverage(&inputs, subject, &dims, &samples, &HashSet::new());
    report.runs =
        Some(Runs::new(&samples, &inputs, &dims, options.given.is_none().then_some(options.seed)));
    let context =
        Context { before: subject, after: subject, dims: &dims, samples: &samples, options };
    let ours = context.run(Side::After, Lowering::Kernels, progress, &mut report)?;
    let names = interface::outputs(&subject.model);
    let mut theirs = Vec::with_capacity(ours.len());
    for (run, outputs) in ours.iter().enumerate() {
        let read = names.iter().zip(outputs).enumerate();
        let read = read.map(|(at, (name, tensor))| results(run, at, name, tensor));
        theirs.push(read.collect::<Result<Vec<_>, _>>().map_err(VerifyError::Results)?);
    }
    report.outputs = context.compare(&theirs, &ours, context.limits(), &mut report);
    if options.half {
        report.half = Some(context.half(&theirs, progress, &mut report)?);
    }
    Ok(report.finish())
}

/// How closely the outputs of a model for its target are compared.
fn target_limits(options: &Options, after: &Model) -> Limits {
    let target = after.header.metadata.iter().find(|(key, _)| key == TARGET);
    Limits {
        rtol: options.rtol,
        atol: options.atol,
        tie: TIE,
        padding_counts: target.is_none_or(|(_, target)| target == "portable"),
    }
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
        let (runner, note) = Runner::new(subject, &dims, Plan::of(lowering))?;
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
    let plan = Plan { values: names, ..Plan::of(Lowering::Kernels) };
    let (runner, note) = Runner::new(subject, &dims, plan)?;
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
        progress: &(dyn Fn(Step) + Sync),
        report: &mut Report,
    ) -> Result<Vec<Vec<Tensor>>, VerifyError> {
        let subject = if side == Side::Before { self.before } else { self.after };
        progress(Step::Prepare(side));
        let failed = |source| VerifyError::Engine { side, name: subject.name.clone(), source };
        let (runner, note) = Runner::new(subject, self.dims, Plan::of(lowering)).map_err(failed)?;
        report.note(note);
        let all = self.samples.len();
        progress(Step::Run(side, 0, all));
        runner.run_all(self.samples, &|done| progress(Step::Run(side, done, all))).map_err(failed)
    }

    /// The optimized model in float16 against the source as it is.
    fn half(
        &self,
        source: &[Vec<Tensor>],
        progress: &(dyn Fn(Step) + Sync),
        report: &mut Report,
    ) -> Result<Half, VerifyError> {
        let side = Side::After;
        let failed = |source| VerifyError::Engine { side, name: self.after.name.clone(), source };
        progress(Step::Prepare(side));
        let keep = &self.options.keep;
        let plan = Plan { keep, ..Plan::of(Lowering::Half) };
        let (runner, _) = Runner::new(self.after, self.dims, plan).map_err(failed)?;
        let all = self.samples.len();
        progress(Step::Half(0, all));
        let step = |done| progress(Step::Half(done, all));
        let ours = runner.run_all(self.samples, &step).map_err(failed)?;
        let limits = Limits { rtol: Some(HALF_RTOL), tie: HALF_RTOL, ..self.limits() };
        let outputs = self.compare(source, &ours, limits, report);
        Ok(Half::new(&self.after.model, &runner.rounded(), outputs, keep))
    }

    fn limits(&self) -> Limits {
        target_limits(self.options, &self.after.model)
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
            if change.is_none() && report.points.len() == slot {
                let names = self.options.given.as_ref().map_or(&[][..], |given| &given.names);
                report.points.extend(points::of(name, &pairs, names));
            }
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
        let plan = Plan { values: names, ..Plan::of(Lowering::Plain) };
        let (runner, _) = Runner::new(subject, dims, plan).map_err(failed)?;
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
    plan: Plan<'_>,
) -> Result<Engine, EngineError> {
    let Plan { values, lowering, keep } = plan;
    let request = |source| Request { source, inputs, outputs: values, lowering, keep };
    if let Some(path) = &subject.file {
        return Engine::load(&request(Source::File(path)));
    }
    let mut bytes = Vec::new();
    onnxfix_ir::write_to(&subject.model, &mut bytes)
        .map_err(|e| EngineError::Decode { reason: e.to_string() })?;
    Engine::load(&request(Source::Bytes(&bytes)))
}
