//! Which node of one model does the job of which node of another.
//!
//! Neither the order of nodes nor their names can be trusted: exporters number both, and one more node moves all that
//! follow. So the surest evidence comes first, and each pair is evidence for its neighbours:
//!
//! 1. All that a node computes from is the same, up to the inputs and constants of the model.
//! 2. Both are the only ones to read one weight.
//! 3. They stand beside a pair, and are the only ones there of their operator, attributes and constants.
//! 4. They have the same operator and name, or name of the first output, and are the only ones.
//! 5. They stand beside a pair and have the same operator, in the order of the graph.
//!
//! What is paired is compared afterwards, so wrong evidence makes a report longer but never hides a difference.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use onnxfix_ir::{Def, GraphId, Model, Node, NodeId, Use, ValueId};

use super::attrs;
use super::constants::{Labels, constant_output};
use super::interface::function_name;

/// The nodes of two models that belong together.
pub(super) struct Pairs<'a> {
    pub(super) before: Side<'a>,
    pub(super) after: Side<'a>,
    /// Inputs of graphs that belong together.
    inputs: HashMap<ValueId, ValueId>,
    /// Graphs that belong together, each with what it is.
    pub(super) graphs: Vec<(GraphId, GraphId, String)>,
}

/// A model with what is known of its nodes.
pub(super) struct Side<'a> {
    pub(super) model: &'a Model,
    labels: HashMap<ValueId, usize>,
    /// All nodes but constants, graph by graph, in order.
    pub(super) nodes: Vec<NodeId>,
    /// The counterpart of each node that has one.
    pub(super) paired: HashMap<NodeId, NodeId>,
    /// Operator, attributes, constants.
    local: HashMap<NodeId, u64>,
}

impl<'a> Side<'a> {
    fn new(model: &'a Model, labels: HashMap<ValueId, usize>) -> Side<'a> {
        let nodes: Vec<NodeId> = model
            .graphs()
            .flat_map(|graph| model.nodes(graph))
            .filter(|&id| constant_output(&model[id]).is_none())
            .collect();
        let mut side = Side { model, labels, nodes, paired: HashMap::new(), local: HashMap::new() };
        side.local = side.nodes.iter().map(|&id| (id, side.hash_locally(id))).collect();
        side
    }

    fn hash_locally(&self, id: NodeId) -> u64 {
        let node = &self.model[id];
        let mut state = DefaultHasher::new();
        hash_operator(node, &mut state);
        let label = |input: &Option<ValueId>| {
            (input.is_some(), input.and_then(|v| self.labels.get(&v).copied()))
        };
        let mut labels: Vec<_> = node.inputs().iter().map(label).collect();
        if is_commutative(node) {
            labels.sort_unstable();
        }
        labels.hash(&mut state);
        state.finish()
    }

    fn is_free(&self, node: NodeId) -> bool {
        !self.paired.contains_key(&node) && self.local.contains_key(&node)
    }

    /// The nodes without counterpart that read a value, with the slot.
    fn free_users(&self, value: ValueId) -> Vec<(NodeId, u32)> {
        let mut users: Vec<(NodeId, u32)> = self.model[value]
            .uses()
            .iter()
            .filter_map(|use_| match *use_ {
                Use::Input { node, slot } if self.is_free(node) => {
                    Some((node, if is_commutative(&self.model[node]) { 0 } else { slot }))
                }
                _ => None,
            })
            .collect();
        // Edits reorder uses; the file's order is that of ids.
        users.sort_unstable();
        users
    }

    /// What each node computes from, all the way up: equal for nodes that compute the same.
    fn hash_deeply(&self) -> HashMap<NodeId, u64> {
        let mut of = Depths { side: self, nodes: HashMap::new(), values: HashMap::new() };
        // Bodies are reached through their nodes, behind the values that they read.
        for graph in self.model.graphs().filter(|&g| self.model[g].owner().is_none()) {
            of.graph(graph);
        }
        of.nodes
    }
}

/// Whether the order of a node's inputs is a matter of taste: exporters differ in it.
fn is_commutative(node: &Node) -> bool {
    ["Add", "Mul", "And", "Or", "Xor", "Equal"].iter().any(|op| node.op().is(op))
}

fn hash_operator(node: &Node, state: &mut impl Hasher) {
    (node.op().domain(), &node.op().name, node.overload.as_deref()).hash(state);
    attrs::hash(&node.attrs, state);
}

struct Depths<'a> {
    side: &'a Side<'a>,
    nodes: HashMap<NodeId, u64>,
    values: HashMap<ValueId, u64>,
}

impl Depths<'_> {
    fn graph(&mut self, graph: GraphId) -> u64 {
        let model = self.side.model;
        let root = graph == model.root();
        for (position, &input) in model[graph].inputs().iter().enumerate() {
            let mut state = DefaultHasher::new();
            // Callers know the inputs of the model by name, and those of bodies and functions by position.
            let name = root.then(|| model[input].name());
            (name, if root { 0 } else { position }).hash(&mut state);
            self.values.insert(input, state.finish());
        }
        for id in model.nodes(graph) {
            self.node(id);
        }
        let mut state = DefaultHasher::new();
        for &output in model[graph].outputs() {
            self.value(output).hash(&mut state);
        }
        state.finish()
    }

    fn node(&mut self, id: NodeId) {
        let node = &self.side.model[id];
        let mut state = DefaultHasher::new();
        hash_operator(node, &mut state);
        let value = |input: &Option<ValueId>| input.map(|v| self.value(v));
        let mut inputs: Vec<Option<u64>> = node.inputs().iter().map(value).collect();
        if is_commutative(node) {
            inputs.sort_unstable();
        }
        inputs.hash(&mut state);
        for (_, body) in node.attrs.graphs() {
            self.graph(body).hash(&mut state);
        }
        let hash = state.finish();
        self.nodes.insert(id, hash);
        for (slot, output) in node.outputs().iter().enumerate() {
            if let Some(output) = output {
                let mut state = DefaultHasher::new();
                (hash, slot).hash(&mut state);
                self.values.insert(*output, state.finish());
            }
        }
    }

    fn value(&self, value: ValueId) -> u64 {
        let mut state = DefaultHasher::new();
        match self.side.labels.get(&value) {
            Some(label) => ("constant", label).hash(&mut state),
            None => self.values.get(&value).hash(&mut state),
        }
        state.finish()
    }
}

/// Finds what belongs together.
pub(super) fn find<'a>(before: &'a Model, after: &'a Model, labels: Labels) -> Pairs<'a> {
    let mut pairs = Pairs {
        before: Side::new(before, labels.before),
        after: Side::new(after, labels.after),
        inputs: HashMap::new(),
        graphs: Vec::new(),
    };
    pairs.join_graphs(before.root(), after.root(), "graph".into());
    let functions = |model: &Model| -> HashMap<String, GraphId> {
        model.functions.iter().map(|f| (function_name(f), f.body)).collect()
    };
    let of_after = functions(after);
    for function in &before.functions {
        let name = function_name(function);
        if let Some(&body) = of_after.get(&name) {
            pairs.join_graphs(function.body, body, format!("function {name}"));
        }
    }
    pairs.by_depth();
    pairs.by_weight();
    pairs.spread(false);
    pairs.by_name();
    pairs.spread(false);
    pairs.spread(true);
    pairs
}

impl Pairs<'_> {
    /// Whether both nodes belong together.
    pub(super) fn are(&self, before: NodeId, after: NodeId) -> bool {
        self.before.paired.get(&before) == Some(&after)
    }

    /// Whether both graphs belong together.
    pub(super) fn are_graphs(&self, before: GraphId, after: GraphId) -> bool {
        self.graphs.iter().any(|&(b, a, _)| (b, a) == (before, after))
    }

    /// Whether both values hold the same job's result.
    pub(super) fn same_value(&self, before: ValueId, after: ValueId) -> bool {
        match (self.before.labels.get(&before), self.after.labels.get(&after)) {
            (Some(b), Some(a)) => return b == a,
            (None, None) => {}
            _ => return false,
        }
        match (self.before.model[before].def(), self.after.model[after].def()) {
            (Def::Node { node: b, slot: i }, Def::Node { node: a, slot: j }) => {
                i == j && self.are(*b, *a)
            }
            (Def::Input, Def::Input) => self.inputs.get(&before) == Some(&after),
            _ => false,
        }
    }

    /// Constants that nodes which belong together read in the same place, and that are not known to belong together.
    pub(super) fn constants(&self) -> Vec<(ValueId, ValueId)> {
        let mut found = Vec::new();
        for &before in &self.before.nodes {
            let Some(&after) = self.before.paired.get(&before) else { continue };
            let (b, a) = (&self.before.model[before], &self.after.model[after]);
            let slots = |node: &Node, labels: &HashMap<ValueId, usize>| -> Vec<(usize, ValueId)> {
                let inputs = node.inputs().iter().enumerate();
                let constant = |(slot, v): (usize, &Option<ValueId>)| {
                    let slot = if is_commutative(node) { 0 } else { slot };
                    Some((slot, (*v).filter(|v| labels.contains_key(v))?))
                };
                inputs.filter_map(constant).collect()
            };
            let theirs = slots(a, &self.after.labels);
            for (slot, one) in slots(b, &self.before.labels) {
                let other = theirs.iter().find(|(other, _)| *other == slot);
                let other = other.map(|&(_, v)| v).filter(|&v| !self.same_value(one, v));
                found.extend(other.map(|other| (one, other)));
            }
        }
        found
    }

    /// Takes constants for the same although their content differs.
    pub(super) fn join_constants(&mut self, constants: &[(ValueId, ValueId)]) {
        for (n, &(before, after)) in constants.iter().enumerate() {
            // Labels count up from zero.
            self.before.labels.insert(before, usize::MAX - n);
            self.after.labels.insert(after, usize::MAX - n);
        }
    }

    fn join_graphs(&mut self, before: GraphId, after: GraphId, what: String) {
        let (b, a) = (self.before.model, self.after.model);
        let (inputs, others) = (b[before].inputs(), a[after].inputs());
        if before == b.root() && after == a.root() {
            let named: HashMap<&str, ValueId> =
                others.iter().map(|&v| (&**a[v].name(), v)).collect();
            let both = inputs.iter().filter_map(|&v| Some((v, *named.get(&**b[v].name())?)));
            self.inputs.extend(both);
        } else {
            self.inputs.extend(inputs.iter().copied().zip(others.iter().copied()));
        }
        self.graphs.push((before, after, what));
    }

    fn join(&mut self, before: NodeId, after: NodeId) {
        self.before.paired.insert(before, after);
        self.after.paired.insert(after, before);
        let (b, a) = (&self.before.model[before], &self.after.model[after]);
        let bodies: HashMap<&str, GraphId> = a.attrs.graphs().map(|(n, g)| (&**n, g)).collect();
        let joined: Vec<_> = b
            .attrs
            .graphs()
            .filter_map(|(name, body)| Some((body, *bodies.get(&**name)?, name)))
            .map(|(b, a, name)| (b, a, format!("{name} of {}", self.before.model.describe(before))))
            .collect();
        for (before, after, what) in joined {
            self.join_graphs(before, after, what);
        }
    }

    /// Pairs free nodes that have the same key, in order, those of the same name first.
    fn by_depth(&mut self) {
        let (b, a) = (self.before.hash_deeply(), self.after.hash_deeply());
        for named in [true, false] {
            let key = |side: &Side<'_>, depths: &HashMap<NodeId, u64>, id: NodeId| {
                let name = side.model[id].name.clone().filter(|_| named);
                (depths.get(&id).copied(), name)
            };
            let free = |side: &Side<'_>| -> Vec<NodeId> {
                side.nodes.iter().copied().filter(|&id| side.is_free(id)).collect()
            };
            let mut waiting: HashMap<_, VecDeque<NodeId>> = HashMap::new();
            for id in free(&self.after) {
                waiting.entry(key(&self.after, &a, id)).or_default().push_back(id);
            }
            for id in free(&self.before) {
                let other = waiting.get_mut(&key(&self.before, &b, id));
                if let Some(other) = other.and_then(VecDeque::pop_front) {
                    self.join(id, other);
                }
            }
        }
    }

    /// Pairs free nodes whose keys are unique in both models.
    fn by_unique<K: Hash + Eq>(&mut self, keys: impl Fn(&Side<'_>, NodeId) -> Vec<K>) {
        let unique = |side: &Side<'_>| -> Vec<(K, NodeId)> {
            let mut once: HashMap<K, Option<NodeId>> = HashMap::new();
            for &id in side.nodes.iter().filter(|&&id| side.is_free(id)) {
                for key in keys(side, id) {
                    once.entry(key).and_modify(|id| *id = None).or_insert(Some(id));
                }
            }
            let order: Vec<NodeId> =
                side.nodes.iter().copied().filter(|&id| side.is_free(id)).collect();
            let of = |id: NodeId| {
                let keys = keys(side, id).into_iter();
                keys.filter(|k| once.get(k) == Some(&Some(id))).map(|k| (k, id)).collect::<Vec<_>>()
            };
            order.into_iter().flat_map(of).collect()
        };
        let of_after: HashMap<K, NodeId> = unique(&self.after).into_iter().collect();
        for (key, id) in unique(&self.before) {
            match of_after.get(&key) {
                Some(&other) if self.before.is_free(id) && self.after.is_free(other) => {
                    self.join(id, other);
                }
                _ => {}
            }
        }
    }

    /// Pairs the only readers of one weight.
    fn by_weight(&mut self) {
        self.by_unique(|side, id| {
            let node = &side.model[id];
            let slots = node.inputs().iter().enumerate();
            let weight = |(slot, input): (usize, &Option<ValueId>)| {
                let value = (*input)?;
                let label = *side.labels.get(&value)?;
                // Numbers and shapes are alike in many places.
                let ty = side.model[value].tensor_type()?;
                let large = ty.shape.as_ref().and_then(onnxfix_ir::Shape::len)? > 1;
                let slot = if is_commutative(node) { 0 } else { slot };
                (ty.dtype.is_float() && large).then(|| (node.op().to_string(), slot, label))
            };
            slots.filter_map(weight).collect()
        });
    }

    /// Pairs the only ones of one operator and name, then those of one operator and name of the first output.
    fn by_name(&mut self) {
        self.by_unique(|side, id| {
            let node = &side.model[id];
            let name = node.name.clone().filter(|name| !name.is_empty());
            name.map(|name| (node.op().to_string(), name)).into_iter().collect()
        });
        self.by_unique(|side, id| {
            let node = &side.model[id];
            let name = node.output(0).map(|v| side.model[v].name().clone());
            name.map(|name| (node.op().to_string(), name)).into_iter().collect()
        });
    }

    /// Pairs neighbours of pairs until there are no more. With `freely` the operator is evidence enough.
    fn spread(&mut self, freely: bool) {
        let mut values: VecDeque<(ValueId, ValueId)> = VecDeque::new();
        let mut inputs: Vec<_> = self.inputs.iter().map(|(&b, &a)| (b, a)).collect();
        inputs.sort_unstable();
        values.extend(inputs);
        let mut graphs = 0;
        let mut done: VecDeque<NodeId> = self.before.nodes.iter().copied().collect();
        done.retain(|id| self.before.paired.contains_key(id));
        loop {
            // Results of graphs that belong together, found meanwhile or before.
            let ends: Vec<(ValueId, ValueId)> = self.graphs[graphs..]
                .iter()
                .flat_map(|&(b, a, _)| {
                    let outputs = self.before.model[b].outputs().iter().copied();
                    outputs.zip(self.after.model[a].outputs().iter().copied())
                })
                .collect();
            let begins: Vec<(ValueId, ValueId)> = self.graphs[graphs..]
                .iter()
                .flat_map(|&(b, _, _)| self.before.model[b].inputs())
                .filter_map(|v| Some((*v, *self.inputs.get(v)?)))
                .collect();
            graphs = self.graphs.len();
            values.extend(begins);
            for (b, a) in ends {
                done.extend(self.up(b, a, freely));
            }
            if let Some(id) = done.pop_front() {
                let other = self.before.paired[&id];
                let (b, a) = (&self.before.model[id], &self.after.model[other]);
                let outputs = b.outputs().iter().zip(a.outputs());
                values.extend(outputs.filter_map(|(b, a)| Some(((*b)?, (*a)?))));
                let (ours, theirs) = (b.inputs(), a.inputs());
                let mut both: Vec<_> = ours.iter().zip(theirs).collect();
                if is_commutative(b) {
                    both.extend(ours.iter().zip(theirs.iter().rev()));
                }
                let both = both.into_iter().filter_map(|(b, a)| Some(((*b)?, (*a)?)));
                for (b, a) in both.collect::<Vec<_>>() {
                    done.extend(self.up(b, a, freely));
                }
            } else if let Some((b, a)) = values.pop_front() {
                done.extend(self.down(b, a, freely));
            } else if graphs == self.graphs.len() {
                return;
            }
        }
    }

    /// Pairs the nodes that make two values.
    fn up(&mut self, before: ValueId, after: ValueId, freely: bool) -> Option<NodeId> {
        let (b, a) = (self.before.model.producer(before)?, self.after.model.producer(after)?);
        if !self.before.is_free(b) || !self.after.is_free(a) {
            return None;
        }
        let (one, other) = (&self.before.model[b], &self.after.model[a]);
        let operator = one.op().name == other.op().name && one.op().domain() == other.op().domain();
        let alike = self.before.local[&b] == self.after.local[&a];
        (operator && (freely || alike)).then(|| {
            self.join(b, a);
            b
        })
    }

    /// Pairs the nodes that read two values.
    fn down(&mut self, before: ValueId, after: ValueId, freely: bool) -> Vec<NodeId> {
        let mut joined = Vec::new();
        let local = |side: &Side<'_>, (id, slot): (NodeId, u32)| (side.local[&id], slot);
        let named = |side: &Side<'_>, (id, slot): (NodeId, u32)| {
            let name = side.model[id].name.as_ref().map(ToString::to_string);
            (side.local[&id], slot, name.filter(|n| !n.is_empty()))
        };
        let operator =
            |side: &Side<'_>, (id, slot): (NodeId, u32)| (slot, side.model[id].op().to_string());
        self.down_by(before, after, named, false, &mut joined);
        self.down_by(before, after, local, freely, &mut joined);
        if freely {
            self.down_by(before, after, operator, true, &mut joined);
        }
        joined
    }

    /// Pairs the readers of two values that have the same key: the only ones, or with `several` in their order.
    fn down_by<K: Hash + Eq>(
        &mut self,
        before: ValueId,
        after: ValueId,
        key: impl Fn(&Side<'_>, (NodeId, u32)) -> K,
        several: bool,
        joined: &mut Vec<NodeId>,
    ) {
        let users = self.before.free_users(before);
        if users.is_empty() {
            return;
        }
        let mut waiting: HashMap<K, (usize, VecDeque<NodeId>)> = HashMap::new();
        for user in users.iter().copied() {
            waiting.entry(key(&self.before, user)).or_default().0 += 1;
        }
        for user in self.after.free_users(after) {
            if let Some((_, nodes)) = waiting.get_mut(&key(&self.after, user)) {
                nodes.push_back(user.0);
            }
        }
        for user in users {
            let Some((of_before, of_after)) = waiting.get_mut(&key(&self.before, user)) else {
                continue;
            };
            if !several && (*of_before, of_after.len()) != (1, 1) {
                continue;
            }
            // A node that reads a value twice is found twice.
            let free = |&id: &NodeId| self.after.is_free(id);
            let next = std::iter::from_fn(|| of_after.pop_front()).find(free);
            if let Some(other) = next.filter(|_| self.before.is_free(user.0)) {
                self.join(user.0, other);
                joined.push(user.0);
            }
        }
    }
}
