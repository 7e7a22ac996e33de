//! Nodes that shall compute in a smaller element type, and the casts where they meet the rest of the model.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use onnxfix_ir::op::Arity;
use onnxfix_ir::{DataType, GraphId, Model, Name, NewNode, NodeId, Tensor, Type, Use, ValueId};
use smallvec::SmallVec;

use crate::patch::PROVENANCE;
use crate::replace_node;

/// Inputs and outputs of a node that have one element type.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) inputs: SmallVec<[usize; 4]>,
    pub(crate) outputs: SmallVec<[usize; 2]>,
}

impl Slots {
    /// The slots of the type that an operator computes in. None for an operator that is not in the table, or not
    /// clear.
    pub(crate) fn of(m: &Model, node: NodeId) -> Option<Slots> {
        let n = &m[node];
        let def = n.op().def.filter(|def| def.domain.is_empty())?;
        // What a reduction without axes does then is read in two ways.
        if n.attrs.int("noop_with_empty_axes").is_some_and(|noop| noop != 0) {
            return None;
        }
        let main = match def.name {
            // These name a type by an attribute.
            "Cast" | "ConstantOfShape" => {
                return Some(Slots { outputs: [0].into_iter().collect(), ..Slots::default() });
            }
            "Where" => 1,
            "OneHot" => 2,
            _ => 0,
        };
        let var = def.inputs.get(main)?.var;
        let param = |params: &'static [onnxfix_ir::op::Param], slot: usize| {
            params.get(slot).or(params.last().filter(|last| last.arity == Arity::Variadic))
        };
        let alike = |params: &'static [onnxfix_ir::op::Param], slot: usize| {
            !var.is_empty() && param(params, slot).is_some_and(|p| p.var == var)
        };
        // An exponent may be of another type, and is of the same one mostly.
        let dtype = |slot: usize| n.input(slot).and_then(|v| m[v].dtype());
        let exponent = |slot: usize| def.name == "Pow" && slot == 1 && dtype(0) == dtype(1);
        let is_input = |slot: &usize| *slot == main || alike(def.inputs, *slot) || exponent(*slot);
        let inputs = (0..n.inputs().len()).filter(is_input).filter(|&s| n.input(s).is_some());
        let outputs = (0..n.outputs().len()).filter(|&slot| alike(def.outputs, slot));
        Some(Slots {
            inputs: inputs.collect(),
            outputs: outputs.filter(|&slot| n.output(slot).is_some()).collect(),
        })
    }

    /// The values in these slots.
    pub(crate) fn values<'m>(
        &'m self,
        m: &'m Model,
        node: NodeId,
    ) -> impl Iterator<Item = ValueId> + 'm {
        let inputs = self.inputs.iter().filter_map(move |&slot| m[node].input(slot));
        inputs.chain(self.outputs.iter().filter_map(move |&slot| m[node].output(slot)))
    }
}

/// A change of the element type of some nodes.
pub(crate) struct Retype<'a> {
    /// The pass that asks for it.
    pub(crate) pass: &'static str,
    /// The new type.
    pub(crate) to: DataType,
    /// The nodes, each of which takes the new type in its [`Slots`].
    pub(crate) nodes: &'a HashSet<NodeId>,
    /// Whether a node that is not among them may read the new type at this input.
    pub(crate) takes_either: fn(&Model, NodeId, usize) -> bool,
    /// Whether the nodes compute something a little different.
    pub(crate) rounds: bool,
    /// A constant in the new type.
    pub(crate) constant: fn(&Tensor) -> Option<Tensor>,
}

impl Retype<'_> {
    /// Whether this reader makes do with the new type.
    pub(crate) fn is_served(&self, m: &Model, reader: &Use) -> bool {
        let Use::Input { node, slot } = *reader else { return false };
        let slot = slot as usize;
        if (self.takes_either)(m, node, slot) {
            return true;
        }
        self.nodes.contains(&node)
            && Slots::of(m, node).is_some_and(|slots| slots.inputs.contains(&slot))
    }

    /// Whether changing the nodes of a part takes fewer casts than it saves, or as many and does more than move them.
    pub(crate) fn saves(&self, m: &Model, part: &[NodeId]) -> bool {
        let is_cast = |node: NodeId| m[node].op().is("Cast");
        let (mut added, mut saved) = (HashSet::new(), 0);
        for &node in part {
            let Some(slots) = Slots::of(m, node) else { continue };
            let read = slots.inputs.iter().filter_map(|&slot| m[node].input(slot));
            added.extend(read.filter(|&v| {
                m.constant(v).is_none() && m.producer(v).is_none_or(|n| !self.nodes.contains(&n))
            }));
            let reads = m[node].input(0).and_then(|x| m[x].dtype());
            saved += usize::from(is_cast(node) && reads == Some(self.to));
            for y in slots.outputs.iter().filter_map(|&slot| m[node].output(slot)) {
                if m[y].uses().iter().any(|reader| !self.is_served(m, reader)) {
                    added.insert(y);
                }
                let casts = m.users(y).filter(|&n| is_cast(n) && !self.nodes.contains(&n));
                let makes_new =
                    |&n: &NodeId| m[n].output(0).is_some_and(|z| m[z].dtype() == Some(self.to));
                saved += casts.filter(makes_new).count();
            }
        }
        let moves = |&node: &NodeId| {
            is_cast(node) || m[node].op().def.is_some_and(|def| def.class.movement)
        };
        match added.len() {
            0 if saved == 0 => !part.iter().all(|&node| is_cast(node)),
            // As many casts at other places are no reason: other passes have theirs for where casts are.
            n if n == saved => !part.iter().all(moves),
            n => n < saved,
        }
    }

    /// Changes the nodes. Values keep their names where they are public.
    pub(crate) fn make(&self, m: &mut Model) {
        let mut narrow: HashMap<ValueId, ValueId> = HashMap::new();
        let mut needless: Vec<NodeId> = Vec::new();
        for (node, next) in in_order(m) {
            if !self.nodes.contains(&node) {
                continue;
            }
            let Some(slots) = Slots::of(m, node) else { continue };
            for &slot in &slots.inputs {
                let Some(wide) = m[node].input(slot) else { continue };
                if m[wide].dtype() == Some(self.to) {
                    continue;
                }
                let value = match narrow.get(&wide) {
                    Some(&value) => Some(value),
                    None => self.narrowed(m, wide, node),
                };
                if let Some(value) = value {
                    narrow.insert(wide, value);
                    m.set_input(node, slot, Some(value));
                }
            }
            if m[node].op().is("Cast") {
                m.node_mut(node).attrs().set("to", i64::from(self.to.code()));
                let from = m[node].input(0).and_then(|x| m[x].dtype());
                needless.extend((from == Some(self.to)).then_some(node));
            }
            let filled = m[node].attrs.tensor("value").cloned();
            if let Some(filled) = filled.and_then(|tensor| (self.constant)(&tensor)) {
                let value = onnxfix_ir::AttrValue::Tensor(Arc::new(filled));
                m.node_mut(node).attrs().set("value", value);
            }
            for &slot in &slots.outputs {
                let Some(y) = m[node].output(slot) else { continue };
                self.narrow_output(m, y, next);
            }
            let is_made = m[node].metadata.iter().any(|(key, _)| key == PROVENANCE);
            if self.rounds && !is_made {
                m.node_mut(node).metadata().push((PROVENANCE.into(), self.pass.into()));
            }
        }
        for node in needless {
            if let Some(x) = m[node].input(0) {
                replace_node(m, node, &[x]);
            }
        }
    }

    /// A value in the new type, for `reader`, which is the first to ask.
    fn narrowed(&self, m: &mut Model, wide: ValueId, reader: NodeId) -> Option<ValueId> {
        let graph = m[wide].graph();
        if let Some(tensor) = m.constant(wide).cloned() {
            return self.constant(m, graph, wide, &tensor);
        }
        let widened = m.producer(wide).filter(|&n| m[n].op().is("Cast"));
        let source = widened.and_then(|cast| m[cast].input(0));
        if let Some(source) = source.filter(|&x| m[x].dtype() == Some(self.to)) {
            return Some(source);
        }
        let before = m.ancestor_in(reader, graph);
        let name = m.fresh_name(&format!("{}_{}", m[wide].name(), self.to));
        self.cast(m, wide, self.to, name, before)
    }

    /// A constant in the new type, beside the old one.
    pub(crate) fn constant(
        &self,
        m: &mut Model,
        graph: GraphId,
        wide: ValueId,
        tensor: &Tensor,
    ) -> Option<ValueId> {
        let mut narrow = (self.constant)(tensor)?;
        narrow.extra_mut().metadata.push((PROVENANCE.into(), self.pass.into()));
        let name = m.fresh_name(&format!("{}_{}", m[wide].name(), self.to));
        Some(m.add_initializer(graph, name, Arc::new(narrow)))
    }

    /// Makes `y` a value of the new type; what needs the old one reads a Cast before `next`.
    fn narrow_output(&self, m: &mut Model, y: ValueId, next: Option<NodeId>) {
        let Some(old) = m[y].tensor_type().cloned() else { return };
        let (served, rest): (Vec<Use>, Vec<Use>) =
            m[y].uses().iter().copied().partition(|reader| self.is_served(m, reader));
        if !rest.is_empty()
            && let Some(wide) = self.cast(m, y, old.dtype, self.named_after(m, y, old.dtype), next)
        {
            let cast = m.producer(wide);
            if m.is_output(y) {
                m.swap_names(y, wide);
            }
            m.replace_uses(y, wide);
            for reader in served {
                if let Use::Input { node, slot } = reader {
                    m.set_input(node, slot as usize, Some(y));
                }
            }
            if let Some(cast) = cast {
                m.set_input(cast, 0, Some(y));
            }
        }
        let mut ty = old;
        ty.dtype = self.to;
        m.set_type(y, Some(Type::Tensor(ty)));
    }

    /// The name of a Cast of `y` back to its old type, which a public value gives away for its own.
    fn named_after(&self, m: &Model, y: ValueId, old: DataType) -> Name {
        let ty = if m.is_output(y) { self.to } else { old };
        m.fresh_name(&format!("{}_{ty}", m[y].name()))
    }

    fn cast(
        &self,
        m: &mut Model,
        x: ValueId,
        to: DataType,
        name: Name,
        before: Option<NodeId>,
    ) -> Option<ValueId> {
        let mut cast = NewNode::new("Cast", &[x], name.clone()).attr("to", i64::from(to.code()));
        cast.name = Some(name);
        let graph = m[x].graph();
        let node = m.add_node(graph, before, cast);
        m.node_mut(node).metadata().push((PROVENANCE.into(), self.pass.into()));
        let y = m[node].output(0)?;
        let mut ty = m[x].tensor_type().cloned()?;
        ty.dtype = to;
        m.set_type(y, Some(Type::Tensor(ty)));
        Some(y)
    }
}

/// The nodes that hand values of the old type to each other, in order.
pub(crate) fn parts(m: &Model, nodes: impl Iterator<Item = NodeId>) -> Vec<Vec<NodeId>> {
    let mut part_of: HashMap<NodeId, usize> = HashMap::new();
    let mut parts: Vec<Vec<NodeId>> = Vec::new();
    for node in nodes {
        let Some(slots) = Slots::of(m, node) else { continue };
        let read = slots.inputs.iter().filter_map(|&slot| m.producer(m[node].input(slot)?));
        let mut met: Vec<usize> = read.filter_map(|n| part_of.get(&n).copied()).collect();
        met.sort_unstable();
        met.dedup();
        let mut all: Vec<NodeId> =
            met.iter().flat_map(|&at| std::mem::take(&mut parts[at])).collect();
        all.push(node);
        let at = met.first().copied().unwrap_or_else(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        part_of.extend(all.iter().map(|&node| (node, at)));
        parts[at] = all;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Every node, bodies before the node that they belong to, each with the node that follows in its graph.
pub(crate) fn in_order(m: &Model) -> Vec<(NodeId, Option<NodeId>)> {
    fn walk(m: &Model, graph: GraphId, order: &mut Vec<(NodeId, Option<NodeId>)>) {
        let nodes: Vec<NodeId> = m.nodes(graph).collect();
        for (i, &node) in nodes.iter().enumerate() {
            for (_, body) in m[node].attrs.graphs() {
                walk(m, body, order);
            }
            order.push((node, nodes.get(i + 1).copied()));
        }
    }
    let mut order = Vec::new();
    walk(m, m.root(), &mut order);
    order
}
