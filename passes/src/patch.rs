//! A rewrite as a value: what a match wants done, before anything is done.
#![expect(clippy::cast_possible_truncation, reason = "a patch makes fewer than 2^32 nodes")]

use std::sync::Arc;

use onnxfix_ir::infer::{Known, infer_node, merge};
use onnxfix_ir::{
    AttrValue, Attrs, Def, GraphId, Model, Name, NewNode, NodeId, Op, Tensor, Type, Use, ValueId,
};

/// What a new node reads and what replaces an old value: something there is, or something the patch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A value of the model.
    Value(ValueId),
    /// The first output of a node of the patch.
    Node(u32),
    /// An output of a node of the patch: the node, and the output's position.
    Output(u32, u32),
    /// A constant of the patch.
    Constant(u32),
}

impl From<ValueId> for Operand {
    fn from(value: ValueId) -> Self {
        Operand::Value(value)
    }
}

/// New nodes and constants, and which old values they replace.
#[derive(Debug, Clone)]
pub struct Patch {
    root: NodeId,
    opset: i64,
    nodes: Vec<PatchNode>,
    constants: Vec<Tensor>,
    replaced: Vec<(ValueId, Operand)>,
    inputs: Vec<(NodeId, usize, Operand)>,
}

#[derive(Debug, Clone)]
struct PatchNode {
    op: &'static str,
    inputs: Vec<Option<Operand>>,
    attrs: Attrs,
    outputs: u32,
}

impl Patch {
    /// An empty patch at `root`: new nodes go before it.
    #[must_use]
    pub fn new(model: &Model, root: NodeId) -> Patch {
        let opset = model.opset(model[root].graph(), "").unwrap_or(0);
        Patch {
            root,
            opset,
            nodes: Vec::new(),
            constants: Vec::new(),
            replaced: Vec::new(),
            inputs: Vec::new(),
        }
    }

    /// Everything that reads `old` reads `new` instead: the whole patch of most eliminations.
    #[must_use]
    pub fn forward(model: &Model, root: NodeId, old: ValueId, new: ValueId) -> Patch {
        let mut patch = Patch::new(model, root);
        patch.replace(old, new);
        patch
    }

    /// A node of ONNX's own domain with one output.
    pub fn node(&mut self, op: &'static str, inputs: &[Operand]) -> Operand {
        self.node_with(op, inputs, Attrs::default())
    }

    /// A node with attributes.
    pub fn node_with(&mut self, op: &'static str, inputs: &[Operand], attrs: Attrs) -> Operand {
        let inputs = inputs.iter().map(|&i| Some(i)).collect();
        self.nodes.push(PatchNode { op, inputs, attrs, outputs: 1 });
        Operand::Node(self.nodes.len() as u32 - 1)
    }

    /// `x` in parts of these sizes along an axis.
    pub fn split(&mut self, x: Operand, axis: i64, sizes: &[i64]) -> Vec<Operand> {
        // Opset 13 made the sizes an input.
        let (inputs, attrs) = if self.opset >= 13 {
            (vec![x, self.constant(Tensor::ints(sizes))], attrs([("axis", axis.into())]))
        } else {
            (vec![x], attrs([("axis", axis.into()), ("split", sizes.into())]))
        };
        let node = self.nodes.len() as u32;
        self.node_with("Split", &inputs, attrs);
        let parts = sizes.len() as u32;
        self.nodes[node as usize].outputs = parts;
        (0..parts).map(|slot| Operand::Output(node, slot)).collect()
    }

    /// A constant; equal ones of a patch are one.
    pub fn constant(&mut self, tensor: Tensor) -> Operand {
        let at = self.constants.iter().position(|c| c.same_content(&tensor)).unwrap_or_else(|| {
            self.constants.push(tensor);
            self.constants.len() - 1
        });
        Operand::Constant(at as u32)
    }

    /// `x` in another shape.
    pub fn reshape(&mut self, x: Operand, dims: &[i64]) -> Operand {
        let shape = self.constant(Tensor::ints(dims));
        self.node("Reshape", &[x, shape])
    }

    /// `x` with its axes in another order.
    pub fn transpose(&mut self, x: Operand, perm: &[i64]) -> Operand {
        self.node_with("Transpose", &[x], attrs([("perm", perm.into())]))
    }

    /// `x` of this rank, which is at least 2, with its last two axes swapped.
    pub fn swap_last(&mut self, x: Operand, rank: usize) -> Operand {
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 2, rank - 1);
        self.transpose(x, &perm)
    }

    /// `start..end` of one axis of `x`.
    pub fn slice(&mut self, x: Operand, axis: i64, start: i64, end: i64) -> Operand {
        self.slice_axes(x, &[(axis, start, end)])
    }

    /// For each axis given, its `start..end` of `x`.
    pub fn slice_axes(&mut self, x: Operand, pieces: &[(i64, i64, i64)]) -> Operand {
        let axes: Vec<i64> = pieces.iter().map(|p| p.0).collect();
        let starts: Vec<i64> = pieces.iter().map(|p| p.1).collect();
        let ends: Vec<i64> = pieces.iter().map(|p| p.2).collect();
        if self.opset < 10 {
            return self.node_with(
                "Slice",
                &[x],
                attrs([
                    ("axes", AttrValue::Ints(axes)),
                    ("starts", AttrValue::Ints(starts)),
                    ("ends", AttrValue::Ints(ends)),
                ]),
            );
        }
        let [starts, ends, axes] = [starts, ends, axes].map(|i| self.constant(Tensor::ints(&i)));
        self.node("Slice", &[x, starts, ends, axes])
    }

    /// As [`slice`](Patch::slice), only every `step`th. Steps are there from opset 10 on.
    pub fn slice_by(&mut self, x: Operand, axis: i64, start: i64, end: i64, step: i64) -> Operand {
        if step == 1 {
            return self.slice(x, axis, start, end);
        }
        let [start, end, axis, step] =
            [start, end, axis, step].map(|i| self.constant(Tensor::ints(&[i])));
        self.node("Slice", &[x, start, end, axis, step])
    }

    /// `x` of this rank with zeros before and after one axis.
    pub fn pad(
        &mut self,
        x: Operand,
        rank: usize,
        axis: usize,
        (before, after): (i64, i64),
    ) -> Operand {
        let mut pads = vec![0; 2 * rank];
        pads[axis] = before;
        pads[rank + axis] = after;
        self.pad_axes(x, &pads)
    }

    /// `x` with zeros before each axis, then behind each axis, as many as this list says.
    pub fn pad_axes(&mut self, x: Operand, pads: &[i64]) -> Operand {
        if self.opset < 11 {
            return self.node_with("Pad", &[x], attrs([("pads", pads.into())]));
        }
        let pads = self.constant(Tensor::ints(pads));
        self.node("Pad", &[x, pads])
    }

    /// `x` reduced along one axis, which stays with length 1.
    pub fn reduce(&mut self, op: &'static str, x: Operand, axis: i64) -> Operand {
        // ReduceSum had its axes as an input before the others had.
        if self.opset < if op == "ReduceSum" { 13 } else { 18 } {
            return self.node_with(op, &[x], attrs([("axes", AttrValue::Ints(vec![axis]))]));
        }
        let axes = self.constant(Tensor::ints(&[axis]));
        self.node(op, &[x, axes])
    }

    /// The mean over the last `count` axes of `x`, which stay as axes of length 1.
    pub fn mean(&mut self, x: Operand, rank: usize, count: usize) -> Operand {
        let (rank, count) = (rank as i64, count as i64);
        // Counting from the back is what later opsets have in common, and what ATC looks for.
        let first = if self.opset < 11 { rank - count } else { -count };
        let axes: Vec<i64> = (first..first + count).collect();
        if self.opset < 18 {
            return self.node_with("ReduceMean", &[x], attrs([("axes", axes.into())]));
        }
        let axes = self.constant(Tensor::ints(&axes));
        self.node("ReduceMean", &[x, axes])
    }

    /// The parts joined along an axis.
    pub fn concat(&mut self, parts: &[Operand], axis: i64) -> Operand {
        self.node_with("Concat", parts, attrs([("axis", axis.into())]))
    }

    /// `x` in another element type.
    pub fn cast(&mut self, x: Operand, to: onnxfix_ir::DataType) -> Operand {
        self.node_with("Cast", &[x], attrs([("to", i64::from(to.code()).into())]))
    }

    /// Everything that reads `old` shall read `new`.
    pub fn replace(&mut self, old: ValueId, new: impl Into<Operand>) {
        self.replaced.push((old, new.into()));
    }

    /// Input `slot` of `node`, an old node at or behind the root, shall be `new`.
    pub fn set_input(&mut self, node: NodeId, slot: usize, new: impl Into<Operand>) {
        self.inputs.push((node, slot, new.into()));
    }

    /// The version of ONNX's own operators that new nodes are of.
    #[must_use]
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Why the patch must not be applied although the match is good.
    pub(crate) fn obstacle(&self, model: &Model) -> Option<&'static str> {
        for &(old, new) in &self.replaced {
            let outputs: Vec<GraphId> = outputs_of(model, old).collect();
            if outputs.is_empty() {
                continue;
            }
            match new {
                // A graph output bears a public name, which only a node of its own graph can give.
                Operand::Value(v) => {
                    if model.is_public(v) {
                        return Some("one value would need two public names");
                    }
                    if !matches!(model[v].def(), Def::Node { .. })
                        || outputs.iter().any(|&g| g != model[v].graph())
                    {
                        return Some("a graph output needs a node of its graph that makes it");
                    }
                }
                Operand::Constant(_) => {
                    return Some("a graph output needs a node of its graph that makes it");
                }
                // Two outputs of a graph would be one.
                Operand::Node(_) | Operand::Output(..) => {
                    let same = |&(other, by): &(ValueId, Operand)| {
                        by == new && other != old && outputs_of(model, other).next().is_some()
                    };
                    if self.replaced.iter().any(same) {
                        return Some("one value would need two public names");
                    }
                }
            }
        }
        None
    }
}

fn outputs_of(model: &Model, value: ValueId) -> impl Iterator<Item = GraphId> {
    model[value].uses().iter().filter_map(|u| match u {
        Use::Output { graph, .. } => Some(*graph),
        Use::Input { .. } => None,
    })
}

/// What applying a patch changed: where the driver looks next.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// New nodes, and nodes that read something new.
    pub(crate) touched: Vec<NodeId>,
    /// Values that lost a use; their producers may be dead.
    pub(crate) loosened: Vec<ValueId>,
}

/// Key of the metadata entry that says which pass made a node or tensor.
pub const PROVENANCE: &str = "onnxfix.pass";

/// Whether ATC's options use a character as a mark, or end a line with it, so that no name can have it.
pub(crate) fn takes_no_part_in_names(c: char) -> bool {
    matches!(c, ':' | ';' | ',') || c.is_whitespace() || c.is_control()
}

/// A name for a node, of one for a value: what [cannot be part of it](takes_no_part_in_names) becomes '_'.
pub(crate) fn node_name(of: &Name) -> Name {
    if of.chars().any(takes_no_part_in_names) {
        let clean: String =
            of.chars().map(|c| if takes_no_part_in_names(c) { '_' } else { c }).collect();
        return Name::from(clean.as_str());
    }
    of.clone()
}

/// Makes the nodes of a patch and redirects what they replace. The patch has no [obstacle](Patch::obstacle).
pub(crate) fn apply(
    model: &mut Model,
    patch: Patch,
    pass: &'static str,
) -> Result<Applied, String> {
    let root = patch.root;
    let graph = model[root].graph();
    let base = base_name(model, root);
    let constants: Vec<ValueId> = patch
        .constants
        .into_iter()
        .map(|mut tensor| {
            tensor.extra_mut().metadata.push((PROVENANCE.into(), pass.into()));
            let name = model.fresh_name(&format!("{base}_const"));
            model.add_initializer(graph, name, Arc::new(tensor))
        })
        .collect();
    let mut made: Vec<NodeId> = Vec::with_capacity(patch.nodes.len());
    let resolve = |model: &Model, made: &[NodeId], operand: Operand| match operand {
        Operand::Value(v) => Some(v),
        Operand::Node(i) => model[made[i as usize]].output(0),
        Operand::Output(i, slot) => model[made[i as usize]].output(slot as usize),
        Operand::Constant(i) => Some(constants[i as usize]),
    };
    let known = Known::new();
    for new in patch.nodes {
        let inputs =
            new.inputs.into_iter().map(|i| i.and_then(|i| resolve(model, &made, i))).collect();
        let outputs: Vec<Name> = match new.outputs {
            1 => vec![model.fresh_name(&format!("{base}_{}", new.op))],
            n => (0..n).map(|i| model.fresh_name(&format!("{base}_{}_{i}", new.op))).collect(),
        };
        let node = model.add_node(
            graph,
            Some(root),
            NewNode {
                op: Op::new(
                    model[root].op().domain.clone().filter(|d| d == "ai.onnx"),
                    new.op.into(),
                ),
                name: outputs.first().cloned(),
                inputs,
                outputs: outputs.into_iter().map(Some).collect(),
                attrs: new.attrs,
            },
        );
        model.node_mut(node).metadata().push((PROVENANCE.into(), pass.into()));
        let types = infer_node(model, node, &known).map_err(|e| format!("new {}: {e}", new.op))?;
        for (slot, ty) in types.into_iter().enumerate() {
            if let (Some(y), Some(ty)) = (model[node].output(slot), ty) {
                model.set_type(y, Some(ty));
            }
        }
        made.push(node);
    }
    let mut applied = Applied { touched: made.clone(), loosened: Vec::new() };
    for (old, new) in patch.replaced {
        let new = resolve(model, &made, new).ok_or("a patch replaces a value by nothing")?;
        compatible(model[old].ty.as_ref(), model[new].ty.as_ref()).map_err(|e| {
            format!("{:?} would become {:?}: {e}", model[old].name(), model[new].name())
        })?;
        applied.touched.extend(model.users(old));
        let both = merge(model[old].ty.as_ref(), model[new].ty.clone());
        model.set_type(new, both);
        // The old name stays in the file: for a graph output it must, elsewhere it helps whoever compares layers.
        let own = matches!(model[new].def(), Def::Node { node, .. } if made.contains(node));
        if model.is_output(old) || own && !model.is_output(new) {
            model.swap_names(old, new);
        }
        model.replace_uses(old, new);
        applied.loosened.push(old);
    }
    for (node, slot, new) in patch.inputs {
        let new = resolve(model, &made, new).ok_or("a patch sets an input to nothing")?;
        if let Some(old) = model[node].input(slot) {
            applied.loosened.push(old);
        }
        model.set_input(node, slot, Some(new));
        applied.touched.push(node);
    }
    Ok(applied)
}

/// What names of new values begin with: the name of the root's output, without what an earlier patch added to it.
fn base_name(model: &Model, root: NodeId) -> Name {
    let n = &model[root];
    let name = n.output(0).map_or_else(Name::default, |v| model[v].name().clone());
    if !n.metadata.iter().any(|(key, _)| key == PROVENANCE) {
        return name;
    }
    let unnumbered = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let unnumbered = unnumbered.strip_suffix('_').unwrap_or(&name);
    [unnumbered, &*name]
        .iter()
        .find_map(|all| all.strip_suffix(&*n.op().name)?.strip_suffix('_'))
        .map_or(name.clone(), Name::from)
}

/// Whether a value of type `new` can stand where one of type `old` stood.
fn compatible(old: Option<&Type>, new: Option<&Type>) -> Result<(), String> {
    let (Some(Type::Tensor(a)), Some(Type::Tensor(b))) = (old, new) else { return Ok(()) };
    let shapes = match (&a.shape, &b.shape) {
        (Some(x), Some(y)) => {
            x.rank() == y.rank()
                && x.0.iter().zip(&y.0).all(|(x, y)| match (x.fixed(), y.fixed()) {
                    (Some(x), Some(y)) => x == y,
                    _ => true,
                })
        }
        _ => true,
    };
    if a.dtype == b.dtype && shapes {
        Ok(())
    } else {
        Err(format!("its type was {a} and would be {b}"))
    }
}

/// Attributes from pairs.
pub fn attrs<const N: usize>(pairs: [(&str, AttrValue); N]) -> Attrs {
    pairs.into_iter().map(|(name, value)| onnxfix_ir::Attr::new(name, value)).collect()
}

/// Puts `results` in the place of a node's outputs and removes the node.
pub(crate) fn replace_node(model: &mut Model, node: NodeId, results: &[ValueId]) {
    let graph = model[node].graph();
    for (slot, &result) in results.iter().enumerate() {
        let Some(old) = model[node].output(slot) else { continue };
        let private = !model.is_public(result)
            && model[result].graph() == graph
            && model.producer(result).is_some();
        let new = if !model.is_output(old) || private {
            result
        } else {
            // A graph output bears a public name, which only a node of its own graph can give.
            let name = model.fresh_name(model[old].name());
            let identity =
                model.add_node(graph, Some(node), NewNode::new("Identity", &[result], name));
            model[identity].output(0).unwrap_or(result)
        };
        if model[new].ty.is_none() {
            let ty = model[old].ty.clone();
            model.set_type(new, ty);
        }
        if model.is_output(old) {
            model.swap_names(old, new);
        }
        model.replace_uses(old, new);
    }
    model.remove_node(node);
}
