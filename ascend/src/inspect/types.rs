//! Element types: what has no kernel, what leaves the AI Cores, what ATC does not fold.

use std::collections::BTreeMap;

use onnxfix_ir::{DataType, Node, NodeId, Use, ValueId};

use super::{Cx, Kind};
use crate::finding::Severity::{Error, Note, Warning};

pub(super) fn check(cx: &mut Cx<'_>) {
    unsupported(cx, DataType::Bfloat16, cx.facts.chip.bfloat16, "bfloat16", None);
    unsupported(cx, DataType::Double, cx.facts.chip.float64, "float64", Some("narrow-doubles"));
    integers(cx);
    ai_cpu(cx);
    foldable(cx);
}

/// The element types of all inputs and outputs of a node.
fn types<'a>(cx: &'a Cx<'_>, node: &'a Node) -> impl Iterator<Item = DataType> + 'a {
    let values = node.inputs().iter().chain(node.outputs()).flatten();
    values.filter_map(|&v| cx.model[v].dtype())
}

fn unsupported(
    cx: &mut Cx<'_>,
    dtype: DataType,
    has_it: bool,
    code: &'static str,
    pass: Option<&'static str>,
) {
    if has_it {
        return;
    }
    let uses = |node: &Node| types(cx, node).any(|t| t == dtype);
    let nodes: Vec<NodeId> = cx.running().filter(|(_, n)| uses(n)).map(|(id, _)| id).collect();
    let ops = cx.ops(&nodes);
    let what = format!("{ops} in {dtype}, which {} does not compute in", cx.facts.chip.family);
    let kind = Kind {
        code,
        severity: Error,
        why: "no AI Core has kernels for it, and few operators have one on the AI CPU (EZ3003)",
        source: "operator information library of the 310P in CANN 8.1.RC1",
        confirmed: cx.facts.chip.confirmed,
        pass,
    };
    cx.find_nodes(&kind, &nodes, what);
}

/// Inputs that say where and how far, not what: they are read when the model is compiled.
fn is_shape_operand(op: &str, slot: usize) -> bool {
    match op {
        "Reshape" | "Expand" | "Tile" | "Unsqueeze" | "Squeeze" | "Split" | "TopK" | "CumSum"
        | "OneHot" => slot == 1,
        "Slice" | "Pad" | "Resize" | "CenterCropPad" => slot >= 1,
        "ConstantOfShape" => slot == 0,
        _ => op.starts_with("Reduce") && slot == 1,
    }
}

fn integers(cx: &mut Cx<'_>) {
    let model = cx.model;
    let wide = |v: ValueId| matches!(model[v].dtype(), Some(DataType::Int64 | DataType::Uint64));
    let operand_only = |v: ValueId| {
        let slot = |u: &Use| match u {
            Use::Input { node, slot } => is_shape_operand(&model[*node].op().name, *slot as usize),
            Use::Output { .. } => false,
        };
        !model[v].uses().is_empty() && model[v].uses().iter().all(slot)
    };
    let computes = |node: &Node| {
        let read = node.inputs().iter().enumerate().filter_map(|(slot, v)| Some((slot, (*v)?)));
        let mut read = read.filter(|(slot, _)| !is_shape_operand(&node.op().name, *slot));
        let mut made = node.outputs().iter().flatten();
        read.any(|(_, v)| wide(v)) || made.any(|&v| wide(v) && !operand_only(v))
    };
    // A cast from or to int64 is where it begins and ends.
    let nodes: Vec<NodeId> = cx.running().filter(|(_, n)| computes(n)).map(|(id, _)| id).collect();
    let ops = cx.ops(&nodes);
    let fed = model[model.root()].inputs().iter().any(|&v| wide(v));
    let kind = Kind {
        code: "int64",
        severity: Warning,
        why: "64-bit integers are computed element by element or on the AI CPU; which operators have kernels for them \
              depends on the release",
        source: "operator information library of the 310P in CANN 8.1.RC1; older releases have fewer",
        confirmed: cx.facts.cann.line == cx.facts.chip.cann,
        pass: Some(if fed { "cast-inputs-to-int32" } else { "narrow-integers" }),
    };
    cx.find_nodes(&kind, &nodes, format!("arithmetic in int64: {ops}"));
}

fn ai_cpu(cx: &mut Cx<'_>) {
    let mut found: BTreeMap<(String, &'static str), Vec<NodeId>> = BTreeMap::new();
    for (id, node) in cx.running() {
        if !node.op().domain().is_empty() {
            continue;
        }
        let Some(kernel) = cx.facts.chip.kernel(&node.op().name) else { continue };
        let deciding = node.input(kernel.input).and_then(|v| cx.model[v].dtype());
        // A cast has two types.
        let result = node.output(0).and_then(|v| cx.model[v].dtype());
        let cast = result.filter(|_| node.op().is("Cast"));
        let refused = deciding.into_iter().chain(cast).find(|&dtype| !kernel.takes(dtype));
        if let Some(dtype) = refused {
            found.entry((node.op().name.to_string(), dtype.name())).or_default().push(id);
        }
    }
    let (chip, line) = (&cx.facts.chip, &cx.facts.cann.line);
    let confirmed = chip.confirmed && chip.cann == *line;
    for ((op, dtype), nodes) in found {
        let pass = match dtype {
            _ if op == "Einsum" => Some("decompose-einsum"),
            _ if op == "Trilu" => Some("decompose-trilu"),
            "int64" => Some("narrow-integers"),
            "double" => Some("narrow-doubles"),
            _ => None,
        };
        let kind = Kind {
            code: "ai-cpu",
            severity: Warning,
            why: "the AI CPU is slow, and the AI Cores wait for it (ATC warns with W11001)",
            source: "operator information library of the 310P in CANN 8.1.RC1",
            confirmed,
            pass,
        };
        cx.find_nodes(&kind, &nodes, format!("on the AI CPU: {} {op} of {dtype}", nodes.len()));
    }
}

/// Arithmetic on constants and shapes, which ATC folds in part.
fn foldable(cx: &mut Cx<'_>) {
    let model = cx.model;
    let folds = |node: &Node| cx.facts.chip.folds.iter().any(|op| node.op().is(op));
    let constant =
        model.all_nodes().filter(|(id, n)| cx.origins.is_constant(*id) && !n.op().is("Constant"));
    let nodes: Vec<NodeId> = constant.map(|(id, _)| id).collect();
    let stays: Vec<NodeId> = nodes.iter().copied().filter(|&id| !folds(&model[id])).collect();
    let wide = |id: &NodeId| types(cx, &model[*id]).any(|t| t == DataType::Int64);
    let wide = nodes.iter().filter(|id| wide(id)).count();
    let what = if stays.is_empty() {
        format!(
            "computed from shapes and constants only, by {} nodes; ATC folds them once shapes are fixed",
            nodes.len()
        )
    } else {
        let ops = cx.ops(&stays);
        format!(
            "computed from shapes and constants only, by {} nodes, {wide} of them on int64; ATC does not fold {ops}",
            nodes.len()
        )
    };
    let kind = Kind {
        code: "foldable",
        severity: if stays.is_empty() { Note } else { Warning },
        why: "what is not folded is computed for every sample, and integers mostly on the AI CPU; what it feeds stays \
              unfolded too",
        source: "host kernels of CANN 8.1.RC1 (host_cpu_kernel.json) and GE's own",
        confirmed: false,
        pass: Some("fold-constants"),
    };
    cx.find_nodes(&kind, if stays.is_empty() { &nodes } else { &stays }, what);
}
