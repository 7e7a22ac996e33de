//! What an `optimize` run did, as text, JSON and HTML.

mod html;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use onnxfix_ascend::cost::Prediction;
use onnxfix_ascend::finding::Finding;
use onnxfix_ir::{AttrValue, Model};
use onnxfix_passes::Report as Passes;
use serde::Serialize;

pub use html::Drawing;
pub(crate) use html::{Text, layers_of, verification_page};

use crate::verify::Report as Verification;

/// Version of the JSON form; it changes when a field changes its meaning or goes.
const SCHEMA: &str = "onnxfix.optimize/1";

/// Everything about one run of `optimize`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Version of the program.
    pub onnxfix: &'static str,
    /// The model that was read.
    pub model: PathBuf,
    /// The model that was written; none in a dry run.
    pub output: Option<PathBuf>,
    /// Name of the target.
    pub target: &'static str,
    /// The model as it was read.
    pub before: Summary,
    /// The model as it was written.
    pub after: Summary,
    /// What the passes did.
    #[serde(flatten)]
    pub passes: Passes,
    /// By how much each pass changed the number of each operator, where that was followed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ops_by_pass: BTreeMap<&'static str, BTreeMap<String, i64>>,
    /// Warnings from reading the file.
    pub load_warnings: Vec<String>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// How the result compares with the source, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
    /// What the target says to both models, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Both<Vec<Finding>>>,
    /// How long both will take there, where that can be said.
    #[serde(skip_serializing_if = "Both::is_empty")]
    pub cost: Both<Option<Prediction>>,
    /// The graphs of both, for the page.
    #[serde(skip)]
    pub graphs: Option<Both<Drawing>>,
}

/// Something of the model as it was read, and as it was written.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Both<T> {
    /// Of the model as it was read.
    pub before: T,
    /// Of the model as it was written.
    pub after: T,
}

impl<T> Both<Option<T>> {
    fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

/// Follows what each pass of a run changes in the number of each operator.
#[derive(Debug)]
pub struct Tally {
    last: BTreeMap<String, usize>,
    passes: BTreeMap<&'static str, BTreeMap<String, i64>>,
}

impl Tally {
    /// Begins with the model as it is.
    #[must_use]
    pub fn new(model: &Model) -> Tally {
        Tally { last: operators(model), passes: BTreeMap::new() }
    }

    /// Counts what has changed since the last time as the work of `pass`.
    pub fn see(&mut self, pass: &'static str, model: &Model) {
        let now = operators(model);
        let of_pass = self.passes.entry(pass).or_default();
        let count = |ops: &BTreeMap<String, usize>, op| ops.get(op).copied().unwrap_or(0) as i64;
        for op in self.last.keys().chain(now.keys().filter(|op| !self.last.contains_key(*op))) {
            let change = count(&now, op) - count(&self.last, op);
            if change != 0 {
                *of_pass.entry(op.clone()).or_default() += change;
            }
        }
        self.last = now;
    }

    /// The changes by pass and operator; what a pass took back again is none.
    #[must_use]
    pub fn finish(mut self) -> BTreeMap<&'static str, BTreeMap<String, i64>> {
        self.passes.values_mut().for_each(|ops| ops.retain(|_, change| *change != 0));
        self.passes
    }
}

/// How often each operator occurs, Constant left out.
fn operators(model: &Model) -> BTreeMap<String, usize> {
    let mut ops: BTreeMap<String, usize> = BTreeMap::new();
    for (_, node) in model.all_nodes().filter(|(_, node)| !node.op().is("Constant")) {
        *ops.entry(node.op().to_string()).or_default() += 1;
    }
    ops
}

/// A model in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Nodes of all graphs, Constant nodes left out.
    pub nodes: usize,
    /// Constant nodes and initializers.
    pub constants: usize,
    /// Bytes of all constants.
    pub constant_bytes: u64,
    /// How often each operator occurs, Constant left out.
    pub ops: BTreeMap<String, usize>,
    /// Inputs with their types.
    pub inputs: Vec<String>,
    /// Outputs with their types.
    pub outputs: Vec<String>,
}

impl Summary {
    /// Counts a model.
    #[must_use]
    pub fn of(model: &Model) -> Summary {
        let ops = operators(model);
        let mut constants = 0;
        let mut constant_bytes = 0;
        for (_, node) in model.all_nodes() {
            constants += usize::from(node.op().is("Constant"));
            constant_bytes += node.attrs.0.iter().map(|a| attr_bytes(&a.value)).sum::<u64>();
        }
        for tensor in model.all_values().filter_map(|(_, v)| v.tensor()) {
            constants += 1;
            constant_bytes += tensor.byte_len();
        }
        let typed = |ids: &[onnxfix_ir::ValueId]| {
            let one = |&v: &onnxfix_ir::ValueId| match &model[v].ty {
                Some(ty) => format!("{} {ty}", model[v].name()),
                None => model[v].name().to_string(),
            };
            ids.iter().map(one).collect()
        };
        let root = &model[model.root()];
        Summary {
            nodes: ops.values().sum(),
            constants,
            constant_bytes,
            ops,
            inputs: typed(root.inputs()),
            outputs: typed(root.outputs()),
        }
    }
}

fn attr_bytes(value: &AttrValue) -> u64 {
    match value {
        AttrValue::Tensor(t) => t.byte_len(),
        _ => 0,
    }
}

/// Operators whose number differs: name, before, after; the largest change first.
pub(crate) fn changed_ops<'a>(
    before: &'a Summary,
    after: &'a Summary,
) -> Vec<(&'a str, usize, usize)> {
    let names = before.ops.keys().chain(after.ops.keys());
    let count = |s: &Summary, op: &str| s.ops.get(op).copied().unwrap_or(0);
    let mut rows: Vec<(&str, usize, usize)> =
        names.map(|op| (op.as_str(), count(before, op), count(after, op))).collect();
    rows.sort_unstable();
    rows.dedup();
    rows.retain(|(_, a, b)| a != b);
    rows.sort_by_key(|&(op, a, b)| (std::cmp::Reverse(a.abs_diff(b)), op));
    rows
}

/// A number of bytes for people.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut scaled = n as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 99.95);
    if unit == 0 { format!("{n} B") } else { format!("{scaled:.digits$} {}", UNITS[unit]) }
}

impl Report {
    /// A report; `passes` are those that ran.
    #[must_use]
    pub fn new(
        model: PathBuf,
        target: &'static str,
        before: Summary,
        after: Summary,
        passes: Passes,
    ) -> Report {
        Report {
            schema: SCHEMA,
            onnxfix: env!("CARGO_PKG_VERSION"),
            model,
            output: None,
            target,
            before,
            after,
            passes,
            ops_by_pass: BTreeMap::new(),
            load_warnings: Vec::new(),
            seconds: 0.0,
            verify: None,
            findings: None,
            cost: Both::default(),
            graphs: None,
        }
    }

    /// A few lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let out = self
            .output
            .as_ref()
            .map_or("(dry run, nothing written)".into(), |p| p.display().to_string());
        let (a, b) = (&self.before, &self.after);
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "{} → {out}", self.model.display());
        let _ok = writeln!(
            text,
            "  nodes {} → {}, constants {} → {} ({} → {}), {:.2} s, target {}",
            a.nodes,
            b.nodes,
            a.constants,
            b.constants,
            bytes(a.constant_bytes),
            bytes(b.constant_bytes),
            self.seconds,
            self.target
        );
        let row = |(op, a, b): &(&str, usize, usize)| format!("{op} {a}→{b}");
        let rows: Vec<String> = changed_ops(&self.before, &self.after).iter().map(row).collect();
        for (i, line) in wrap(&rows, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "ops  " } else { "     " });
        }
        for (i, line) in wrap(&b.inputs, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "in   " } else { "     " });
        }
        for (i, line) in wrap(&b.outputs, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "out  " } else { "     " });
        }
        text
    }
}

/// Items joined by commas into lines of about this width.
pub(crate) fn wrap(items: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if line.len() + item.len() + 2 <= width => {
                line.push_str(", ");
                line.push_str(item);
            }
            _ => lines.push(item.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_at_least() {
        assert_eq!(
            [0, 999, 1000, 99_940, 740_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "99.9 kB", "740 MB"]
        );
    }
}
