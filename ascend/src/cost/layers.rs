//! Which layer of an encoder a node belongs to.
//!
//! Each layer has one block of attention: products that read probabilities, beside each other where there are several.
//! Between two blocks there is a place where all that the first one gave is in one value, the residual stream; the last
//! such place is where the next layer begins.

use std::collections::{HashMap, HashSet};

use onnxfix_ir::{Model, NodeId, ValueId};

use super::operators::{Kind, Operators, is_product};

/// The layer of every node that belongs to one.
pub(super) fn of(m: &Model, operators: &Operators<'_>) -> HashMap<NodeId, usize> {
    let nodes: Vec<NodeId> = m.nodes(m.root()).collect();
    let graph = Sequence { m, operators, nodes: &nodes };
    let blocks = graph.blocks();
    let mut starts: Vec<usize> = Vec::new();
    for (at, &block) in blocks.iter().enumerate() {
        let from = match at.checked_sub(1) {
            Some(before) => graph.descendants(blocks[before]),
            None => match graph.embedding(block) {
                Some(embedding) => graph.descendants(embedding),
                None => HashSet::new(),
            },
        };
        let after = at.checked_sub(1).map_or(0, |before| blocks[before] + 1);
        starts.push(graph.cuts(&from, after, block).last().map_or(after, |cut| cut + 1));
    }
    let mut layers = HashMap::new();
    for (layer, &start) in starts.iter().enumerate() {
        let end = match starts.get(layer + 1) {
            Some(&next) => next,
            None => graph.end(&blocks, &starts),
        };
        layers.extend(nodes.iter().take(end).skip(start).map(|&node| (node, layer)));
    }
    layers
}

/// The nodes of a graph in order.
struct Sequence<'a, 'm> {
    m: &'a Model,
    operators: &'a Operators<'m>,
    nodes: &'a [NodeId],
}

impl Sequence<'_, '_> {
    /// Positions of the products that read probabilities and something else that is computed: one for each layer, the
    /// last of those of which none depends on another.
    fn blocks(&self) -> Vec<usize> {
        let mut level: HashMap<ValueId, usize> = HashMap::new();
        let mut probabilities: HashSet<ValueId> = HashSet::new();
        let mut blocks: Vec<usize> = Vec::new();
        for (at, &node) in self.nodes.iter().enumerate() {
            let n = &self.m[node];
            let inputs = || n.inputs().iter().flatten();
            let mut depth = inputs().filter_map(|v| level.get(v)).max().copied().unwrap_or(0);
            let computed = inputs().all(|v| !self.operators.is_constant(*v));
            let reads = inputs().any(|v| probabilities.contains(v));
            if n.op().is("MatMul") && reads && computed {
                if depth == blocks.len() {
                    blocks.push(at);
                } else {
                    blocks[depth] = at;
                }
                depth += 1;
            } else if n.op().is("Softmax") || (reads && !is_product(self.m, node)) {
                probabilities.extend(n.outputs().iter().flatten());
            }
            level.extend(n.outputs().iter().flatten().map(|&v| (v, depth)));
        }
        blocks
    }

    /// The position of the first Gather of rows of a constant by what the inputs of the model say. Exports compute
    /// positions in front of it that do not depend on them.
    fn embedding(&self, block: usize) -> Option<usize> {
        let mut from_inputs: HashSet<ValueId> =
            self.m[self.m.root()].inputs().iter().copied().collect();
        self.spread(&mut from_inputs, 0);
        let is_embedding = |node: NodeId| {
            let n = &self.m[node];
            let is_constant = n.input(0).is_some_and(|v| self.operators.is_constant(v));
            n.op().is("Gather")
                && is_constant
                && n.input(1).is_some_and(|v| from_inputs.contains(&v))
        };
        self.nodes.iter().take(block).position(|&node| is_embedding(node))
    }

    /// Values that depend on the node at a position.
    fn descendants(&self, from: usize) -> HashSet<ValueId> {
        let mut found: HashSet<ValueId> =
            self.m[self.nodes[from]].outputs().iter().flatten().copied().collect();
        self.spread(&mut found, from + 1);
        found
    }

    /// Adds what depends on these values, from a position on. A shape is known at compile time and depends on nothing.
    fn spread(&self, found: &mut HashSet<ValueId>, from: usize) {
        for &node in &self.nodes[from..] {
            let made = || self.m[node].outputs().iter().flatten();
            let reads = self.m[node].inputs().iter().flatten().any(|v| found.contains(v));
            if reads && !made().all(|v| self.operators.is_constant(*v)) {
                found.extend(made());
            }
        }
    }

    /// Positions from `after` up to `before` behind which only one of these values is read.
    fn cuts(&self, of: &HashSet<ValueId>, after: usize, before: usize) -> Vec<usize> {
        let position: HashMap<NodeId, usize> =
            self.nodes.iter().enumerate().map(|(at, &node)| (node, at)).collect();
        let last_use = |v: ValueId| {
            let users = self.m.users(v).filter_map(|user| position.get(&user)).max().copied();
            if self.m.is_output(v) { Some(self.nodes.len()) } else { users }
        };
        let mut live: Vec<(ValueId, usize)> = Vec::new();
        let mut cuts = Vec::new();
        for (at, &node) in self.nodes.iter().enumerate().take(before) {
            live.retain(|&(_, until)| until > at);
            let made = self.m[node].outputs().iter().flatten().copied();
            live.extend(made.filter(|v| of.contains(v)).filter_map(|v| Some((v, last_use(v)?))));
            if at >= after && live.len() == 1 {
                cuts.push(at);
            }
        }
        cuts
    }

    /// Where the last layer ends: it has as many normalizations behind its attention as the layer before.
    fn end(&self, blocks: &[usize], starts: &[usize]) -> usize {
        let all = self.nodes.len();
        let (Some(&last), Some(&before)) = (blocks.last(), blocks.iter().rev().nth(1)) else {
            return all;
        };
        let norms = |from: usize, to: usize| -> Vec<usize> {
            let is_last_of_norm = |at: &usize| {
                let node = self.nodes[*at];
                self.operators.owner(node).is_some_and(|o| {
                    let operator = &self.operators.list[o];
                    let norm = operator.kind == Kind::LayerNorm
                        || self.m[operator.root].op().is("LayerNormalization");
                    norm && operator.nodes.last() == Some(&node)
                })
            };
            (from..to).filter(is_last_of_norm).collect()
        };
        let count = norms(before, starts.last().copied().unwrap_or(all)).len();
        let behind = norms(last, all);
        let from = self.descendants(last);
        let Some(&own) = count.checked_sub(1).and_then(|at| behind.get(at)) else { return all };
        let cuts = self.cuts(&from, own, all);
        match behind.get(count) {
            Some(&next) => cuts.iter().rev().find(|&&cut| cut < next).map_or(own, |cut| *cut) + 1,
            None => own + 1,
        }
    }
}
