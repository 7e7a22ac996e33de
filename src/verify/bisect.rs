//! Which rewrite makes two models differ, and the smallest model that shows it.
//!
//! The pipeline runs again from the source, with one rewrite more or less each time, until the number of rewrites is known
//! up to which the outputs are equal. What stands on both sides of that one rewrite is then compared node by node, and
//! the part that differs is cut out, with the numbers that go into it.

use onnxfix_ir::{AttrValue, Model, Shape, Tensor, TensorType};
use serde::Serialize;

use super::compare::{self, Limits, Pair as Compared};
use super::cut::{Pair, Region};
use super::run::{Plan, Runner};
use super::samples::Sample;
use super::{
    InputSpec, Options, Side, Subject, VerifyError, load, roles, samples, shapes, target_limits,
};
use crate::engine::{EngineError, Lowering};

/// What a run of the pipeline gave.
#[derive(Debug, Clone)]
pub struct Made {
    /// The model as it was then.
    pub model: Model,
    /// Rewrites of each pass.
    pub rewrites: Vec<(String, u64)>,
}

/// Runs the pipeline on the source; up to so many rewrites, or to its end. The error says why it could not.
pub type Remake<'a> = &'a dyn Fn(&Model, Option<u64>) -> Result<Made, String>;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BisectStep {
    /// The source runs.
    Source,
    /// The model after so many rewrites runs; of how many.
    Try(u64, u64),
    /// The part that differs is cut out.
    Cut,
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bisection {
    /// Rewrites of the whole pipeline.
    pub rewrites: u64,
    /// Every number of rewrites that was tried, in this order.
    pub tried: Vec<Tried>,
    /// The rewrite from which on the outputs differ, if the pipeline makes them differ at all.
    pub culprit: Option<Culprit>,
    /// Numbers of rewrites above the culprit's that give equal outputs all the same, or below it that do not: there is
    /// more than one cause then, or one that another rewrite hides.
    pub contradictions: Vec<u64>,
    /// The failing part, where one was cut out.
    pub case: Option<CaseFacts>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A number of rewrites, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// How many rewrites were made.
    pub rewrites: u64,
    /// Whether the outputs differ from the source's; unknown where the model could not be run.
    pub differs: Option<bool>,
    /// The largest difference relative to the spread of an output.
    pub relative: Option<f64>,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The rewrite that makes the outputs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Culprit {
    /// Its number; `--max-rewrites` with one less stops before it.
    pub rewrite: u64,
    /// Its pass.
    pub pass: String,
    /// The nodes that it removed or changed.
    pub removed: Vec<String>,
    /// The nodes that it made or changed.
    pub made: Vec<String>,
}

/// The failing part in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseFacts {
    /// Nodes before the rewrite, and after it.
    pub nodes: (usize, usize),
    /// Nodes of the whole model.
    pub of: usize,
    /// Whether the pass, run alone on the part as it was before, makes the difference by itself.
    pub alone: bool,
    /// The largest difference relative to the spread of an output of the part.
    pub relative: f64,
}

/// A failing part with what goes in and should come out.
#[derive(Debug, Clone)]
pub struct Case {
    /// The part before the rewrite.
    pub before: Model,
    /// The part after it.
    pub after: Model,
    /// Inputs by name.
    pub inputs: Vec<(String, Tensor)>,
    /// What the part before the rewrite gives.
    pub outputs: Vec<(String, Tensor)>,
}

/// Looks for the rewrite that makes the outputs of `after`'s pipeline differ from those of `before`. `runs` are the samples
/// to look at, of those that the options generate.
///
/// # Errors
/// When the source cannot be run, or the pipeline cannot run at all.
pub fn bisect(
    before: &Subject,
    after: &Subject,
    options: &Options,
    runs: &[usize],
    remake: Remake<'_>,
    progress: &dyn Fn(BisectStep),
) -> Result<(Bisection, Option<Case>), VerifyError> {
    let (dims, _) = shapes::resolve(&before.model, &after.model, options)?;
    let all = super::samples_of(before, &dims, options)?;
    let mut samples: Vec<Sample> = runs.iter().filter_map(|&run| all.get(run).cloned()).collect();
    if samples.is_empty() {
        samples.extend(all.into_iter().take(1));
    }
    progress(BisectStep::Source);
    let limits = target_limits(options, &after.model);
    let theirs = outputs(before, &dims, &samples).map_err(|source| VerifyError::Engine {
        side: Side::Before,
        name: before.name.clone(),
        source,
    })?;
    let end = remake(&before.model, None).map_err(VerifyError::Pipeline)?;
    let total = end.rewrites.iter().map(|(_, n)| n).sum();
    let mut search = Search {
        before,
        dims: &dims,
        samples: &samples,
        theirs,
        limits,
        remake,
        tried: Vec::new(),
    };
    let found = search.run(total, progress);
    let mut bisection = Bisection {
        rewrites: total,
        tried: Vec::new(),
        culprit: None,
        contradictions: Vec::new(),
        case: None,
        notes: Vec::new(),
    };
    let Some((good, bad)) = found else {
        bisection.notes.push(match search.verdict(total) {
            Some(true) => "the outputs differ before the first rewrite: no pass makes the difference".into(),
            Some(false) => format!(
                "the passes of this version make no difference of {}: {} was changed since it was made, or was made by \
                 another version or with other options",
                before.name, after.name
            ),
            None => "the model as the pipeline leaves it cannot be run".into(),
        });
        bisection.tried = search.tried;
        return Ok((bisection, None));
    };
    bisection.contradictions = search.contradictions(bad, total, progress);
    let (b, a) = (search.made(good), search.made(bad));
    let (Ok(b), Ok(a)) = (b, a) else {
        bisection.tried = search.tried;
        return Ok((bisection, None));
    };
    progress(BisectStep::Cut);
    let pair = Pair::new(&b.model, &a.model);
    let (removed, made) = pair.changed();
    let more = a.rewrites.iter().zip(&b.rewrites).find(|(a, b)| a.1 > b.1);
    let pass = more.map(|(a, _)| a.0.clone()).unwrap_or_default();
    bisection.culprit = Some(Culprit { rewrite: bad, pass: pass.clone(), removed, made });
    if bad - good > 1 {
        bisection.notes.push(format!(
            "the models after rewrites {} to {} cannot be run, so it may be any of those up to {bad}",
            good + 1,
            bad - 1
        ));
    }
    let case = smallest(&pair, &b.model, &dims, &search);
    match &case {
        Ok((case, relative)) => {
            let len = |model: &Model| model[model.root()].len();
            bisection.case = Some(CaseFacts {
                nodes: (len(&case.before), len(&case.after)),
                of: pair.len(),
                alone: false,
                relative: *relative,
            });
        }
        Err(why) => bisection.notes.push(format!(
            "no part of the model shows the difference by itself, so nothing was cut out ({why})"
        )),
    }
    bisection.tried = search.tried;
    Ok((bisection, case.ok().map(|(case, _)| case)))
}

struct Search<'a> {
    before: &'a Subject,
    dims: &'a [Vec<i64>],
    samples: &'a [Sample],
    /// The source's outputs.
    theirs: Vec<Vec<Tensor>>,
    limits: Limits,
    remake: Remake<'a>,
    tried: Vec<Tried>,
}

impl Search<'_> {
    /// The largest number of rewrites that is known to be good below the smallest that is known to be bad.
    fn run(&mut self, total: u64, progress: &dyn Fn(BisectStep)) -> Option<(u64, u64)> {
        let (mut good, mut bad) = (0, total);
        if self.look(total, total, progress) != Some(true)
            || self.look(0, total, progress) != Some(false)
        {
            return None;
        }
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            // A model that cannot be run says nothing; the next one may.
            let near = (0..(bad - good))
                .flat_map(|step| [middle.checked_add(step), middle.checked_sub(step)]);
            let mut candidates = near.flatten().filter(|n| *n > good && *n < bad);
            let known = candidates.find_map(|n| Some((n, self.look(n, total, progress)?)));
            match known {
                Some((n, true)) => bad = n,
                Some((n, false)) => good = n,
                None => break,
            }
        }
        Some((good, bad))
    }

    /// Whether the outputs differ after so many rewrites; none where that cannot be said.
    fn look(&mut self, rewrites: u64, total: u64, progress: &dyn Fn(BisectStep)) -> Option<bool> {
        if let Some(tried) = self.tried.iter().find(|t| t.rewrites == rewrites) {
            return tried.differs;
        }
        progress(BisectStep::Try(rewrites, total));
        let outcome = self.made(rewrites).and_then(|made| {
            let subject = Subject {
                name: format!("after {rewrites} rewrites"),
                model: made.model,
                file: None,
            };
            outputs(&subject, self.dims, self.samples).map_err(|e| e.to_string())
        });
        let tried = match outcome {
            Ok(ours) => {
                let (differs, relative) = self.differs(&ours);
                Tried { rewrites, differs: Some(differs), relative: Some(relative), error: None }
            }
            Err(error) => Tried { rewrites, differs: None, relative: None, error: Some(error) },
        };
        let differs = tried.differs;
        self.tried.push(tried);
        differs
    }

    /// What is known of the whole pipeline when no rewrite was found.
    fn verdict(&self, total: u64) -> Option<bool> {
        self.tried.iter().find(|t| t.rewrites == total).and_then(|t| t.differs)
    }

    fn made(&self, rewrites: u64) -> Result<Made, String> {
        (self.remake)(&self.before.model, Some(rewrites))
    }

    fn differs(&self, ours: &[Vec<Tensor>]) -> (bool, f64) {
        let (mut differs, mut relative) = (false, 0.0_f64);
        for slot in 0..self.theirs.first().map_or(0, Vec::len) {
            let pairs: Vec<Compared<'_>> = (self.theirs.iter().zip(ours).zip(self.samples))
                .filter_map(|((b, a), sample)| {
                    Some(Compared { before: b.get(slot)?, after: a.get(slot)?, rows: &sample.rows })
                })
                .collect();
            if pairs.len() < self.samples.len()
                || pairs
                    .iter()
                    .any(|p| p.before.dims != p.after.dims || p.before.dtype != p.after.dtype)
            {
                return (true, f64::INFINITY);
            }
            let output = compare::compare("", &pairs, self.limits);
            differs |= !output.equal;
            relative = relative.max(output.relative);
            if output.not_finite > 0 {
                relative = f64::INFINITY;
            }
        }
        (differs, relative)
    }

    /// Looks at a few more numbers of rewrites on both sides: what differs from there on must go on to differ.
    fn contradictions(&mut self, bad: u64, total: u64, progress: &dyn Fn(BisectStep)) -> Vec<u64> {
        const EACH: u64 = 4;
        let below = (1..=EACH).map(|i| bad.saturating_sub(1) * i / (EACH + 1));
        let above = (1..=EACH).map(|i| bad + (total - bad) * i / (EACH + 1));
        for rewrites in below.chain(above).collect::<Vec<_>>() {
            self.look(rewrites, total, progress);
        }
        let wrong = |t: &&Tried| t.differs.is_some_and(|differs| differs != (t.rewrites >= bad));
        let mut wrong: Vec<u64> = self.tried.iter().filter(wrong).map(|t| t.rewrites).collect();
        wrong.sort_unstable();
        wrong
    }
}

/// The outputs of a model for every sample.
fn outputs(
    subject: &Subject,
    dims: &[Vec<i64>],
    samples: &[Sample],
) -> Result<Vec<Vec<Tensor>>, EngineError> {
    let (runner, _) = Runner::new(subject, dims, Plan::of(Lowering::Kernels))?;
    runner.run_all(samples, &|_| {})
}

/// The smallest part that shows the difference, with how far off it is. The error says why the largest part does not.
fn smallest(
    pair: &Pair,
    before: &Model,
    dims: &[Vec<i64>],
    search: &Search<'_>,
) -> Result<(Case, f64), String> {
    let Some(sample) = search.samples.first() else { return Err("there is no sample".to_owned()) };
    let whole = Subject { name: "before the rewrite".into(), model: before.clone(), file: None };
    let (mut steps, mut last): (_, Option<(Region, String)>) = (0, None);
    loop {
        let region = pair.region(steps);
        if let Some((_, why)) = last.take_if(|(before, _)| *before == region) {
            return Err(why);
        }
        match case(pair, &region, &whole, dims, sample, search.limits) {
            Ok(found) => return Ok(found),
            Err(why) => last = Some((region, why)),
        }
        steps = (2 * steps).max(1);
    }
}

/// A region as a model of its own, if it shows the difference; else why it does not.
fn case(
    pair: &Pair,
    region: &Region,
    whole: &Subject,
    dims: &[Vec<i64>],
    sample: &Sample,
    limits: Limits,
) -> Result<(Case, f64), String> {
    if region.outputs.is_empty() || region.inputs.is_empty() {
        return Err("nothing goes into it or comes out".to_owned());
    }
    let names: Vec<String> = region.inputs.iter().chain(&region.outputs).cloned().collect();
    let mut values = values(whole, &names, dims, sample).map_err(|e| e.to_string())?;
    let outputs = values.split_off(region.inputs.len());
    let types = |tensors: &[Tensor]| -> Vec<TensorType> {
        tensors.iter().map(|t| TensorType::new(t.dtype, Shape::fixed(&t.dims))).collect()
    };
    let (before, after) = pair.cut(region, &types(&values), &types(&outputs))?;
    let run = |model: &Model| -> Result<Vec<Tensor>, String> {
        let subject = Subject { name: "the part".into(), model: model.clone(), file: None };
        run_on(&subject, &region.inputs, &values).map_err(|e| e.to_string())
    };
    let (theirs, ours) = (run(&before)?, run(&after)?);
    let mut relative = 0.0_f64;
    let mut differs = false;
    for (b, a) in theirs.iter().zip(&ours) {
        if b.dims != a.dims || b.dtype != a.dtype {
            differs = true;
            relative = f64::INFINITY;
            continue;
        }
        let limits = Limits { padding_counts: true, ..limits };
        let output = compare::compare("", &[Compared { before: b, after: a, rows: &[] }], limits);
        // The largest of thousands of numbers that are no scores may well change its place.
        differs |= output.max_difference > output.tolerance || output.not_finite > 0;
        relative =
            relative.max(if output.not_finite > 0 { f64::INFINITY } else { output.relative });
    }
    let case = Case {
        before,
        after,
        inputs: region.inputs.iter().cloned().zip(values).collect(),
        outputs: region.outputs.iter().cloned().zip(theirs).collect(),
    };
    if differs {
        Ok((case, relative))
    } else {
        Err(format!("its outputs differ by {relative:.1e} of their spread"))
    }
}

/// Values of a model by name, inputs among them.
fn values(
    subject: &Subject,
    names: &[String],
    dims: &[Vec<i64>],
    sample: &Sample,
) -> Result<Vec<Tensor>, EngineError> {
    let inputs = roles::inputs(&subject.model);
    let input = |name: &String| {
        let at = inputs.iter().position(|&v| subject.model[v].name().as_str() == name)?;
        let dtype = subject.model[inputs[at]].dtype()?;
        sample.feeds[at].tensor(dtype, &dims[at])
    };
    let computed: Vec<String> =
        names.iter().filter(|name| input(name).is_none()).cloned().collect();
    let plan = Plan { values: &computed, ..Plan::of(Lowering::Kernels) };
    let mut tensors = if computed.is_empty() {
        Vec::new()
    } else {
        Runner::new(subject, dims, plan)?.0.run(sample)?
    };
    tensors.reverse();
    let missing = || EngineError::Undefined { name: subject.name.clone() };
    names.iter().map(|name| input(name).or_else(|| tensors.pop()).ok_or_else(missing)).collect()
}

/// The outputs of a model for these inputs.
fn run_on(
    subject: &Subject,
    names: &[String],
    tensors: &[Tensor],
) -> Result<Vec<Tensor>, EngineError> {
    let specs: Vec<InputSpec> = names
        .iter()
        .zip(tensors)
        .map(|(name, t)| InputSpec { name: name.clone(), dtype: t.dtype, dims: t.dims.clone() })
        .collect();
    load(subject, &specs, Plan::of(Lowering::Kernels))?.run(tensors)
}

/// Whether a model, run on the inputs of a case, gives something else than the part before the rewrite.
///
/// # Errors
/// When it cannot be run.
pub fn shows(case: &Case, model: &Model, options: &Options) -> Result<bool, EngineError> {
    let (names, tensors): (Vec<String>, Vec<Tensor>) = case.inputs.iter().cloned().unzip();
    let subject = Subject { name: "the part".into(), model: model.clone(), file: None };
    // A pass may narrow integer inputs.
    let inputs = roles::inputs(model);
    let tensors: Vec<Tensor> = inputs
        .iter()
        .zip(tensors)
        .map(|(&v, tensor)| match model[v].dtype() {
            Some(dtype) if dtype != tensor.dtype => samples::Numbers::of(&tensor)
                .and_then(|n| n.tensor(dtype, &tensor.dims))
                .unwrap_or(tensor),
            _ => tensor,
        })
        .collect();
    let ours = run_on(&subject, &names, &tensors)?;
    let limits = Limits { padding_counts: true, ..target_limits(options, model) };
    Ok(case.outputs.iter().zip(&ours).any(|((_, b), a)| {
        if b.dims != a.dims || b.dtype != a.dtype {
            return true;
        }
        let output = compare::compare("", &[Compared { before: b, after: a, rows: &[] }], limits);
        output.max_difference > output.tolerance || output.not_finite > 0
    }))
}

impl Bisection {
    /// The lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        // Writing to a string cannot fail.
        match &self.culprit {
            Some(Culprit { rewrite, pass, removed, made }) => {
                let _ok = writeln!(
                    text,
                    "bisect     rewrite {rewrite} of {}, by {pass}, makes the outputs differ (found in {} tries)",
                    self.rewrites,
                    self.tried.len()
                );
                for (what, nodes) in [("it removed", removed), ("it made", made)] {
                    if !nodes.is_empty() {
                        let _ok = writeln!(text, "           {what} {}", few(nodes));
                    }
                }
            }
            None => {
                let _ok = writeln!(text, "bisect     no rewrite found among {}", self.rewrites);
            }
        }
        if !self.contradictions.is_empty() {
            let numbers: Vec<String> =
                self.contradictions.iter().map(ToString::to_string).collect();
            let _ok = writeln!(
                text,
                "           but after {} rewrites it is the other way round: there is more than one cause, or one hides another",
                numbers.join(", ")
            );
        }
        if let Some(CaseFacts { nodes: (before, after), of, alone, relative }) = &self.case {
            let _ok = writeln!(
                text,
                "           {before} nodes that became {after}, of {of}, show it: {relative:.1e} of the spread{}",
                if *alone { "; the pass alone makes the difference of them" } else { "" }
            );
        }
        for note in &self.notes {
            let _ok = writeln!(text, "           {note}");
        }
        text
    }
}

fn few(nodes: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = nodes.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match nodes.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Elements from which on a constant is a weight, and no number of the graph's arithmetic.
const WEIGHT: u64 = 64;

/// A model with random numbers in the place of its weights, of the same mean and deviation, for who may not show them.
#[must_use]
pub fn without_weights(model: &Model, seed: u64) -> Model {
    let mut model = model.clone();
    let mut random = samples::Random::new(seed);
    let is_weight = |t: &Tensor| t.dtype.is_float() && t.len().is_ok_and(|len| len >= WEIGHT);
    let constants: Vec<_> = model
        .all_values()
        .filter_map(|(id, value)| Some((id, value.tensor()?.clone())))
        .filter(|(_, tensor)| is_weight(tensor))
        .collect();
    for (value, tensor) in constants {
        if let Some(new) = random_like(&tensor, &mut random) {
            model.set_tensor(value, new.into());
        }
    }
    let nodes: Vec<_> = model.all_nodes().map(|(id, _)| id).collect();
    for node in nodes {
        let mut attrs = model[node].attrs.clone();
        let mut changed = false;
        for attr in &mut attrs.0 {
            if let AttrValue::Tensor(tensor) = &mut attr.value
                && is_weight(tensor)
                && let Some(new) = random_like(tensor, &mut random)
            {
                (*tensor, changed) = (new.into(), true);
            }
        }
        if changed {
            *model.node_mut(node).attrs() = attrs;
        }
    }
    model
}

fn random_like(tensor: &Tensor, random: &mut samples::Random) -> Option<Tensor> {
    let numbers = tensor.to_floats()?;
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
    let drawn = numbers.iter().map(|_| mean + deviation * random.normal()).collect();
    samples::Numbers::Floats(drawn).tensor(tensor.dtype, &tensor.dims)
}
