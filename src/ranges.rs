//! Which numbers a model computes, and whether they fit float16: tract runs it on samples and every float is looked at.

use onnxfix_ascend::finding::{Finding, Severity};
use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};
use serde::Serialize;

use crate::verify::{LoadError, Options, Subject, values};

/// The largest number of float16.
const LARGEST: f64 = 65504.0;
/// The smallest number of float16 that has all its digits.
const NORMAL: f64 = 6.103_515_625e-5;
/// Bytes of values that are held at a time.
const HELD: u64 = 512 << 20;

/// The numbers of every float that a model computes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranges {
    /// Sequences, or samples, that were run.
    pub samples: usize,
    /// The values, in the order of the graph.
    pub values: Vec<Range>,
    /// Nodes to be kept in float32, for ATC's `--keep_dtype`: those that make or read what float16 cannot hold.
    pub keep_dtype: Vec<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// The numbers of one value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Range {
    /// Name of the value.
    pub value: String,
    /// The node that makes it.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The smallest number.
    pub low: f64,
    /// The largest number.
    pub high: f64,
    /// How many elements are infinite or no number.
    pub not_finite: u64,
    /// Whether float16 holds none of its numbers with all digits although they are not 0.
    pub vanishes: bool,
}

impl Range {
    /// Whether float16 has no number as large.
    #[must_use]
    pub fn overflows(&self) -> bool {
        self.low < -LARGEST || self.high > LARGEST
    }

    fn add(&mut self, tensor: &Tensor) {
        for x in tensor.to_floats().unwrap_or_default() {
            if x.is_finite() {
                self.low = self.low.min(x);
                self.high = self.high.max(x);
            } else {
                self.not_finite += 1;
            }
        }
    }
}

/// Runs a model on samples and looks at every float it computes.
///
/// # Errors
/// When the engine cannot run it.
pub fn measure(
    subject: &Subject,
    options: &Options,
    progress: &dyn Fn(usize, usize),
) -> Result<Ranges, RangeError> {
    let model = &subject.model;
    let failed = |source| RangeError { name: subject.name.clone(), source };
    let made = floats(model);
    let mut ranges = Ranges {
        samples: options.samples,
        values: Vec::new(),
        keep_dtype: Vec::new(),
        notes: Vec::new(),
    };
    let mut rest = &made[..];
    while !rest.is_empty() {
        progress(made.len() - rest.len(), made.len());
        let mut held = 0;
        let fits = |(_, value): &&(NodeId, ValueId)| {
            held += bytes(model, *value);
            held <= HELD
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        let mut found: Vec<Range> = now.iter().map(|&(node, v)| empty(model, node, v)).collect();
        let names: Vec<String> = now.iter().map(|&(_, v)| model[v].name().to_string()).collect();
        let notes = values(subject, options, &names, |tensors| {
            found.iter_mut().zip(tensors).for_each(|(range, tensor)| range.add(tensor));
        });
        let notes = notes.map_err(failed)?;
        for note in notes {
            if !ranges.notes.contains(&note) {
                ranges.notes.push(note);
            }
        }
        ranges.values.extend(found);
        rest = later;
    }
    for range in &mut ranges.values {
        let most = range.low.abs().max(range.high.abs());
        range.vanishes = range.low <= range.high && most > 0.0 && most < NORMAL;
    }
    ranges.keep_dtype = keep(model, &made, &ranges.values);
    Ok(ranges)
}

/// Why the numbers of a model are not known.
#[derive(Debug, thiserror::Error)]
#[error("{name}")]
pub struct RangeError {
    name: String,
    source: LoadError,
}

/// The floats that nodes of the model's own graph make and others read.
fn floats(model: &Model) -> Vec<(NodeId, ValueId)> {
    let float = |v: ValueId| {
        matches!(model[v].dtype(), Some(DataType::Float | DataType::Float16 | DataType::Double))
    };
    let outputs = |node: NodeId| model[node].outputs().iter().flatten().map(move |&v| (node, v));
    let made = model
        .nodes(model.root())
        .filter(|&node| !model[node].op().is("Constant"))
        .flat_map(outputs);
    made.filter(|&(_, v)| float(v) && !model[v].uses().is_empty()).collect()
}

fn bytes(model: &Model, value: ValueId) -> u64 {
    let count = model[value].dims().map(|dims| dims.iter().product::<i64>().unsigned_abs());
    count.map_or(HELD / 16, |count| count.saturating_mul(4))
}

fn empty(model: &Model, node: NodeId, value: ValueId) -> Range {
    Range {
        value: model[value].name().to_string(),
        node: model.describe(node),
        op: model[node].op().to_string(),
        low: f64::INFINITY,
        high: f64::NEG_INFINITY,
        not_finite: 0,
        vanishes: false,
    }
}

/// The names of the nodes that make or read a value beyond float16. ATC knows a node without a name by its operator and
/// its place, which no list can rely on.
fn keep(model: &Model, made: &[(NodeId, ValueId)], ranges: &[Range]) -> Vec<String> {
    let beyond = made.iter().zip(ranges).filter(|(_, range)| range.overflows());
    let mut nodes: Vec<NodeId> = beyond
        .flat_map(|(&(node, value), _)| std::iter::once(node).chain(model.users(value)))
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let name = |node: NodeId| model[node].name.as_deref().map(ToString::to_string);
    nodes.into_iter().filter_map(name).filter(|name| !name.is_empty()).collect()
}

impl Ranges {
    /// What does not fit float16, as findings.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let of = |is: &dyn Fn(&Range) -> bool| -> Vec<&Range> {
            self.values.iter().filter(|range| is(range)).collect()
        };
        let finding = |code, severity, found: Vec<&Range>, what: String, why: &str, pass| Finding {
            code,
            severity,
            at: found.iter().map(|range| range.node.clone()).collect(),
            what,
            why: why.to_owned(),
            source: format!("{} samples, run on the CPU in float32", self.samples),
            confirmed: true,
            pass,
        };
        let mut findings = Vec::new();
        let beyond = of(&Range::overflows);
        if !beyond.is_empty() {
            let most = beyond.iter().map(|r| r.low.abs().max(r.high.abs())).fold(0.0, f64::max);
            findings.push(finding(
                "range-overflow",
                Severity::Warning,
                beyond.clone(),
                format!("{} values reach ±{most:.3e}, and float16 ends at ±65504", beyond.len()),
                "the chip makes infinity of them; keep these nodes in float32 with ATC's --keep_dtype",
                Some("bound-attention-mask"),
            ));
        }
        let broken = of(&|range: &Range| range.not_finite > 0);
        if !broken.is_empty() {
            findings.push(finding(
                "range-not-finite",
                Severity::Warning,
                broken.clone(),
                format!("{} values are infinite or no number in float32 already", broken.len()),
                "what the model computes with them is not defined on the chip either",
                None,
            ));
        }
        let small = of(&|range: &Range| range.vanishes);
        if !small.is_empty() {
            findings.push(finding(
                "range-vanishes",
                Severity::Note,
                small.clone(),
                format!("{} values stay below 6.1e-5, where float16 loses digits", small.len()),
                "sums of squares and variances may become 0",
                None,
            ));
        }
        findings
    }
}
