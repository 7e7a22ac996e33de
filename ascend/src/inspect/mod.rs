//! What a target refuses, runs badly, or does not recognise in a model.
//!
//! Each file has checks of one kind; each check gives one [`Finding`] for all the nodes it is about.

mod format;
mod numbers;
mod origin;
mod patterns;
mod shapes;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use onnxfix_ir::{Model, Node, NodeId, ValueId};

use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use origin::Origins;

/// What a target makes of a model: findings, the worst ones first.
///
/// The types of the model's values must have been inferred ([`onnxfix_ir::infer::infer`]); what has no type is left out.
#[must_use]
pub fn inspect(model: &Model, facts: &Facts) -> Vec<Finding> {
    let mut cx = Cx { model, facts, origins: Origins::of(model), findings: Vec::new() };
    format::check(&mut cx);
    types::check(&mut cx);
    shapes::check(&mut cx);
    numbers::check(&mut cx);
    patterns::check(&mut cx);
    // Stable: within a severity the order of the checks stays.
    cx.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    cx.findings
}

/// What the checks work on.
struct Cx<'a> {
    model: &'a Model,
    facts: &'a Facts,
    origins: Origins,
    findings: Vec<Finding>,
}

/// All of a finding but where and what.
struct Kind<'k> {
    code: &'static str,
    severity: Severity,
    why: &'static str,
    source: &'k str,
    confirmed: bool,
    pass: Option<&'static str>,
}

impl<'a> Cx<'a> {
    fn find(&mut self, kind: &Kind<'_>, at: Vec<String>, what: String) {
        self.findings.push(Finding {
            code: kind.code,
            severity: kind.severity,
            at,
            what,
            why: kind.why.to_owned(),
            source: kind.source.to_owned(),
            confirmed: kind.confirmed,
            pass: kind.pass,
        });
    }

    /// The nodes that compute something when the model runs: what depends on shapes and constants only is left out.
    fn running(&self) -> impl Iterator<Item = (NodeId, &'a Node)> + '_ {
        self.model.all_nodes().filter(|(id, _)| !self.origins.is_constant(*id))
    }

    /// A finding about nodes; without nodes there is none.
    fn find_nodes(&mut self, kind: &Kind<'_>, nodes: &[NodeId], what: String) {
        if nodes.is_empty() {
            return;
        }
        let at = nodes.iter().map(|&node| self.model.describe(node)).collect();
        self.find(kind, at, what);
    }

    /// Nodes by their operators: "3 Add, 1 Mul".
    fn ops(&self, nodes: &[NodeId]) -> String {
        counted(nodes.iter().map(|&node| self.model[node].op().name.as_str()))
    }

    /// The dimensions of an input of a node, where all are numbers.
    fn dims(&self, node: NodeId, slot: usize) -> Option<smallvec::SmallVec<[i64; 4]>> {
        self.model[self.model[node].input(slot)?].dims()
    }

    fn value_path(&self, value: ValueId) -> String {
        format!("{:?}", self.model[value].name())
    }
}

/// Names with how often they occur, the most frequent first.
fn counted<'n>(ops: impl Iterator<Item = &'n str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for op in ops {
        *counts.entry(op).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(op, count)| (std::cmp::Reverse(count), op));
    let counts: Vec<String> = counts.iter().map(|(op, count)| format!("{count} {op}")).collect();
    counts.join(", ")
}
