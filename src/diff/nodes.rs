//! Nodes of two models that belong together, compared, and those that only one of them has.

use onnxfix_ir::{Def, Model, NodeId, Place, ValueId};
use onnxfix_passes::PROVENANCE;
use serde::Serialize;

use super::pairs::{Pairs, Side};
use super::{Change, attrs};

/// How the nodes of two models compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Nodes {
    /// Nodes that do the same on the same values.
    pub same: usize,
    /// Those of them with another name, documentation or metadata, or with other names of their outputs.
    pub relabelled: Vec<Relabelled>,
    /// Values of which both models say another type.
    pub types: Vec<Change>,
    /// How many values have a type in one of the models only.
    pub typed_once: usize,
    /// Nodes that belong together and differ.
    pub changed: Vec<ChangedNode>,
    /// Nodes of the first model that have no counterpart.
    pub removed: Vec<OneNode>,
    /// Nodes of the second model that have no counterpart.
    pub added: Vec<OneNode>,
}

impl Nodes {
    /// Whether nothing changed.
    pub(super) fn is_same(&self) -> bool {
        self.relabelled.is_empty()
            && self.types.is_empty()
            && self.typed_once == 0
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.added.is_empty()
    }
}

/// A node that only one model has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OneNode {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The pass that made it, as its metadata says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
}

/// A node that both models have, with what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedNode {
    /// The node in the first model.
    pub before: String,
    /// The node in the second model.
    pub after: String,
    /// The pass that made the second one, as its metadata says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// What differs: operator, inputs, attributes, outputs.
    pub changes: Vec<Change>,
}

/// A node that does the same under other names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Relabelled {
    /// The node in the second model.
    pub node: String,
    /// What differs.
    pub changes: Vec<Change>,
}

/// Compares the nodes of both models.
pub(super) fn compare(pairs: &Pairs<'_>) -> Nodes {
    let mut nodes = Nodes::default();
    let (before, after) = (&pairs.before, &pairs.after);
    for &b in &before.nodes {
        let Some(&a) = before.paired.get(&b) else {
            nodes.removed.push(one(before, b));
            continue;
        };
        let changes = changes(pairs, b, a);
        if changes.is_empty() {
            nodes.same += 1;
            let changes = labels(pairs, b, a);
            if !changes.is_empty() {
                nodes.relabelled.push(Relabelled { node: place(after.model, a), changes });
            }
        } else {
            nodes.changed.push(ChangedNode {
                before: place(before.model, b),
                after: place(after.model, a),
                pass: pass(after.model, a),
                changes,
            });
        }
        types(pairs, b, a, &mut nodes);
    }
    let new = after.nodes.iter().filter(|&&a| !after.paired.contains_key(&a));
    nodes.added = new.map(|&a| one(after, a)).collect();
    nodes
}

/// Outputs of the model that are another value under the same name.
pub(super) fn outputs(pairs: &Pairs<'_>) -> Vec<Change> {
    let (before, after) = (pairs.before.model, pairs.after.model);
    let others = after[after.root()].outputs();
    let named = |v: ValueId| others.iter().find(|&&o| after[o].name() == before[v].name());
    let both = before[before.root()].outputs().iter().filter_map(|&v| Some((v, *named(v)?)));
    both.filter_map(|(b, a)| another(pairs, b, a)).collect()
}

/// Bodies and functions with other names of their inputs and outputs, or with other values as outputs.
pub(super) fn bodies(pairs: &Pairs<'_>) -> Vec<Change> {
    let (before, after) = (pairs.before.model, pairs.after.model);
    let names = |model: &Model, ids: &[ValueId]| {
        let names: Vec<&str> = ids.iter().map(|&v| &**model[v].name()).collect();
        Some(names.join(", "))
    };
    let mut changes = Vec::new();
    for (b, a, what) in pairs.graphs.iter().filter(|(b, ..)| *b != before.root()) {
        let (one, other) = (&before[*b], &after[*a]);
        let lists =
            [("inputs", one.inputs(), other.inputs()), ("outputs", one.outputs(), other.outputs())];
        changes.extend(lists.into_iter().filter_map(|(list, b, a)| {
            Change::between(format!("{list} of {what}"), names(before, b), names(after, a))
        }));
        let both = one.outputs().iter().zip(other.outputs());
        let another = both.filter_map(|(&b, &a)| another(pairs, b, a));
        changes.extend(another.map(|c| Change { what: format!("{} of {what}", c.what), ..c }));
    }
    changes
}

fn another(pairs: &Pairs<'_>, before: ValueId, after: ValueId) -> Option<Change> {
    (!pairs.same_value(before, after)).then(|| Change {
        what: format!("source of {}", pairs.before.model[before].name()),
        before: Some(source(pairs.before.model, before)),
        after: Some(source(pairs.after.model, after)),
    })
}

fn one(side: &Side<'_>, id: NodeId) -> OneNode {
    let model = side.model;
    OneNode { node: place(model, id), op: model[id].op().to_string(), pass: pass(model, id) }
}

fn pass(model: &Model, id: NodeId) -> Option<String> {
    let metadata = &model[id].metadata;
    metadata.iter().find(|(key, _)| key == PROVENANCE).map(|(_, pass)| pass.clone())
}

/// A node: where it is, unless it is in the model's own graph.
fn place(model: &Model, id: NodeId) -> String {
    if model[id].graph() == model.root() {
        model.describe(id)
    } else {
        Place::node(model, id).to_string()
    }
}

/// What makes a value.
fn source(model: &Model, value: ValueId) -> String {
    let name = model[value].name();
    match model[value].def() {
        Def::Node { node, .. } => format!("{name:?} of {}", model[*node].op()),
        Def::Initializer(tensor) => {
            format!("{name:?}, constant {}", super::constants::tensor_type(tensor))
        }
        Def::Sparse(_) => format!("{name:?}, constant"),
        Def::Input | Def::Missing => format!("{name:?}"),
    }
}

/// What a pair does otherwise.
fn changes(pairs: &Pairs<'_>, before: NodeId, after: NodeId) -> Vec<Change> {
    let (b, a) = (&pairs.before.model[before], &pairs.after.model[after]);
    let op = |node: &onnxfix_ir::Node| {
        let overload = node.overload.as_deref().filter(|o| !o.is_empty());
        Some(overload.map_or_else(|| node.op().to_string(), |o| format!("{}:{o}", node.op())))
    };
    let mut changes: Vec<Change> = Change::between("operator", op(b), op(a)).into_iter().collect();
    if !pairs.are_graphs(b.graph(), a.graph()) {
        let graph = |model, id| Some(Place::graph(model, id).to_string());
        changes.push(Change {
            what: "graph".into(),
            before: graph(pairs.before.model, b.graph()),
            after: graph(pairs.after.model, a.graph()),
        });
    }
    changes.extend(inputs(pairs, b.inputs(), a.inputs()));
    changes.extend(attrs::compare(&b.attrs, &a.attrs));
    // Which optional outputs there are; nothing but their number is theirs alone.
    let outputs = |node: &onnxfix_ir::Node| {
        let there: Vec<String> = (0..node.outputs().len())
            .filter(|&slot| node.output(slot).is_some())
            .map(|slot| slot.to_string())
            .collect();
        Some(there.join(", "))
    };
    changes.extend(Change::between("outputs", outputs(b), outputs(a)));
    changes
}

fn inputs(pairs: &Pairs<'_>, before: &[Option<ValueId>], after: &[Option<ValueId>]) -> Vec<Change> {
    let same = |b: Option<ValueId>, a: Option<ValueId>| match (b, a) {
        (Some(b), Some(a)) => pairs.same_value(b, a),
        (None, None) => true,
        _ => false,
    };
    let shown = |model: &Model, v: Option<ValueId>| v.map(|v| source(model, v));
    let (b, a) = (pairs.before.model, pairs.after.model);
    if let ([b0, b1], [a0, a1]) = (before, after)
        && !(same(*b0, *a0) && same(*b1, *a1))
        && same(*b0, *a1)
        && same(*b1, *a0)
    {
        let order = |model: &Model, ids: &[Option<ValueId>]| {
            let names = ids.iter().flatten().map(|&v| format!("{:?}", model[v].name()));
            Some(names.collect::<Vec<_>>().join(", "))
        };
        return vec![Change {
            what: "order of inputs".into(),
            before: order(b, before),
            after: order(a, after),
        }];
    }
    (0..before.len().max(after.len()))
        .map(|slot| (slot, before.get(slot).copied().flatten(), after.get(slot).copied().flatten()))
        .filter(|&(_, x, y)| !same(x, y))
        .map(|(slot, x, y)| Change {
            what: format!("input {slot}"),
            before: shown(b, x),
            after: shown(a, y),
        })
        .collect()
}

/// What a pair is called otherwise.
fn labels(pairs: &Pairs<'_>, before: NodeId, after: NodeId) -> Vec<Change> {
    let (b, a) = (&pairs.before.model[before], &pairs.after.model[after]);
    let text = |name: Option<&str>| name.filter(|n| !n.is_empty()).map(str::to_owned);
    let metadata = |pairs: &[(String, String)]| {
        let shown: Vec<String> = pairs.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    };
    let named = Change::between("name", text(b.name.as_deref()), text(a.name.as_deref()));
    let documented = Change::between(
        "documentation",
        text(b.doc_string.as_deref()),
        text(a.doc_string.as_deref()),
    );
    let noted = Change::between("metadata", metadata(&b.metadata), metadata(&a.metadata));
    let mut changes: Vec<Change> = [named, documented, noted].into_iter().flatten().collect();
    let name = |model: &Model, v: Option<ValueId>| v.map(|v| model[v].name().to_string());
    for (slot, (&x, &y)) in b.outputs().iter().zip(a.outputs()).enumerate() {
        let (x, y) = (name(pairs.before.model, x), name(pairs.after.model, y));
        changes.extend(Change::between(format!("name of output {slot}"), x, y));
    }
    changes
}

/// Types of what a pair makes.
fn types(pairs: &Pairs<'_>, before: NodeId, after: NodeId, nodes: &mut Nodes) {
    let (b, a) = (pairs.before.model, pairs.after.model);
    for (x, y) in b[before].outputs().iter().zip(a[after].outputs()) {
        let (Some(x), Some(y)) = (*x, *y) else { continue };
        // Types of outputs are said with them.
        if a[a.root()].outputs().contains(&y) {
            continue;
        }
        match (&b[x].ty, &a[y].ty) {
            (Some(one), Some(other)) => {
                let (one, other) = (Some(one.to_string()), Some(other.to_string()));
                nodes.types.extend(Change::between(a[y].name().to_string(), one, other));
            }
            (None, None) => {}
            _ => nodes.typed_once += 1,
        }
    }
}
