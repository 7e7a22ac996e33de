//! What ATC's fusions look for, and DeBERTa's gathers and masks.

use onnxfix_ir::{DataType, Model, NodeId, ValueId};
use onnxfix_passes::{Options, Pipeline, run};

use super::{Cx, Kind, counted};
use crate::finding::Severity::{Note, Warning};

pub(super) fn check(cx: &mut Cx<'_>) {
    gather_elements(cx);
    masks(cx);
    forms(cx);
    attention(cx);
    backwards(cx);
}

/// Where a `GatherElements` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// Rows are gathered by vectors.
    Vector,
    /// Element by element.
    Scalar,
    /// Not on the AI Cores.
    AiCpu,
    /// The shapes are not known.
    Unknown,
}

impl Path {
    /// By the rules of the kernel of the 310P: the row of values, result and indices must fit the unified buffer.
    pub(crate) fn of(cx: &Cx<'_>, node: NodeId) -> Path {
        let chip = &cx.facts.chip;
        let (Some(data), Some(index)) = (cx.dims(node, 0), cx.dims(node, 1)) else {
            return Path::Unknown;
        };
        let input = |slot: usize| cx.model[node].input(slot).map(|v| &cx.model[v]);
        let wide = input(1).and_then(onnxfix_ir::Value::dtype) == Some(DataType::Int64);
        let rank = data.len();
        let axis = cx.model[node].attrs.int("axis").unwrap_or(0);
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        let last = axis + 1 == rank as i64 && data[..rank - 1] == index[..rank - 1];
        // Floats are float16 on the chip.
        let (value, number) = (2_u64, if wide { 8_u64 } else { 4 });
        let [row, picks] = [data[rank - 1], index[rank - 1]].map(i64::unsigned_abs);
        // Rows are repeated until they fill blocks of 32 bytes.
        let repeats = (1..=16).find(|k| k * row * value % 32 == 0).unwrap_or(16);
        let fits = repeats * (row * value + picks * (value + number)) < chip.gather_elements_row;
        if last && fits {
            return if wide { Path::Scalar } else { Path::Vector };
        }
        let bytes = data.iter().product::<i64>().unsigned_abs() * value;
        let indices = index.iter().product::<i64>().unsigned_abs();
        if bytes >= chip.gather_elements_data && indices >= chip.gather_elements_indices {
            Path::AiCpu
        } else {
            Path::Scalar
        }
    }
}

fn gather_elements(cx: &mut Cx<'_>) {
    let gathers = cx.running().filter(|(_, node)| node.op().is("GatherElements"));
    let mut found: Vec<(Path, NodeId)> = gathers.map(|(id, _)| (Path::of(cx, id), id)).collect();
    // What is not known first, then the slowest.
    found.sort_by_key(|&(path, _)| std::cmp::Reverse(path));
    let nodes: Vec<NodeId> = found.iter().map(|&(_, id)| id).collect();
    let on = |path: Path| found.iter().filter(|(p, _)| *p == path).count();
    let told = [
        (Path::AiCpu, "on the AI CPU"),
        (Path::Scalar, "element by element"),
        (Path::Vector, "by vectors"),
        (Path::Unknown, "where the shapes will decide"),
    ];
    let told: Vec<String> = told
        .into_iter()
        .filter(|(path, _)| on(*path) > 0)
        .map(|(path, how)| format!("{} {how}", on(path)))
        .collect();
    let kind = Kind {
        code: "gather-elements",
        severity: Warning,
        why: "most of the time of a DeBERTa: 4 to 5 sentences per second are published with them, where a BERT of the same \
              size does 577",
        source: "gather_elements kernel of CANN 8.1.RC1; results of the DeBERTa and BERT samples of the ModelZoo",
        confirmed: false,
        pass: Some("decompose-gather-elements"),
    };
    cx.find_nodes(&kind, &nodes, format!("{} GatherElements: {}", nodes.len(), told.join(", ")));
}

/// Operators that a mask goes through on its way to the scores.
const MASKING: &[&str] =
    &["Where", "Not", "And", "Or", "Equal", "Cast", "ReduceMax", "Sub", "Mul", "Add", "Div"];
const LOGIC: &[&str] = &["Where", "Not", "And", "Or", "Equal"];

/// Masks that are applied by selecting, in every layer anew.
fn masks(cx: &mut Cx<'_>) {
    let mut found: Vec<NodeId> = Vec::new();
    for (_, node) in cx.running() {
        if !node.op().is("Softmax") {
            continue;
        }
        let mut stack: Vec<NodeId> = Vec::new();
        // In front of the Softmax, up to the products, and behind it.
        stack.extend(node.input(0).and_then(|v| cx.model.producer(v)));
        stack.extend(node.outputs().iter().flatten().flat_map(|&v| cx.model.users(v)));
        let mut steps = 0;
        while let Some(at) = stack.pop() {
            let op = cx.model[at].op();
            steps += 1;
            if !MASKING.contains(&op.name.as_str()) || cx.origins.is_constant(at) || steps > 64 {
                continue;
            }
            if LOGIC.contains(&op.name.as_str()) {
                if found.contains(&at) {
                    continue;
                }
                found.push(at);
            }
            stack.extend(
                cx.model[at].inputs().iter().flatten().filter_map(|&v| cx.model.producer(v)),
            );
        }
    }
    let selects = found.iter().filter(|&&id| cx.model[id].op().is("Where")).count();
    if selects < 2 {
        return;
    }
    found.sort_unstable();
    let ops = cx.ops(&found);
    let kind = Kind {
        code: "mask",
        severity: Warning,
        why: "each layer reads and writes its whole score plane once more for them, and the attention fusions expect one \
              Add",
        source: "BigKernel rules of msit's surgeon; concluded",
        confirmed: false,
        pass: Some("share-attention-mask"),
    };
    cx.find_nodes(&kind, &found, format!("masks are applied by {ops}"));
}

/// A composite operator that ATC recognises in one form: code, name, the pass that writes that form, and the form.
const FORMS: &[(&str, &str, &str, &str)] = &[
    (
        "layer-norm",
        "layer normalizations",
        "canonicalise-layer-norm",
        "LayerNormONNXFusionPass takes one Sub with two readers, Pow by 2, and constants as second operands",
    ),
    (
        "gelu",
        "GELUs",
        "canonicalise-gelu",
        "GeluONNXFusionPass takes a Div by √2, Erf, Add of 1 and Mul by 0.5, each with one reader",
    ),
];

fn forms(cx: &mut Cx<'_>) {
    for (code, name, pass, why) in FORMS {
        let places = rewritten(cx.model, pass);
        if places.is_empty() {
            continue;
        }
        let kind = Kind {
            code,
            severity: Warning,
            why,
            source: "fusion passes of CANN as published in 2019 to 2022",
            confirmed: true,
            pass: Some(pass),
        };
        let what = format!("{name} in a form that ATC does not fuse: {}", places.len());
        cx.find(&kind, places, what);
    }
}

/// Where a pass would rewrite the model: the first node it made of each.
fn rewritten(model: &Model, pass: &str) -> Vec<String> {
    let Ok(pipeline) = Pipeline::of(&[pass]) else { return Vec::new() };
    let mut copy = model.clone();
    let Ok(report) = run(&mut copy, &pipeline, &Options::default(), &mut |_, _| ()) else {
        return Vec::new();
    };
    let rewrites: u64 = report.passes.iter().filter(|p| p.pass == pass).map(|p| p.rewrites).sum();
    // The nodes that are gone are where it happened; their names are what the user knows.
    let gone = model.all_nodes().filter(|(id, _)| copy.node(*id).is_none());
    let roots = gone.filter(|(_, node)| {
        node.op().is("ReduceMean") || node.op().is("Erf") || node.op().is("Tanh")
    });
    let mut places: Vec<String> = roots.map(|(id, _)| model.describe(id)).collect();
    let count = usize::try_from(rewrites).unwrap_or(usize::MAX);
    places.truncate(count);
    while places.len() < count.min(1 << 16) {
        places.push(format!("{pass} {}", places.len() + 1));
    }
    places
}

/// Attention whose scores go through more than a scale and a mask.
fn attention(cx: &mut Cx<'_>) {
    let model = cx.model;
    let one = |v: Option<ValueId>| v.and_then(|v| model.producer(v));
    let (mut nodes, mut between): (Vec<NodeId>, Vec<&str>) = (Vec::new(), Vec::new());
    for (id, node) in cx.running() {
        let feeds_product = node
            .outputs()
            .iter()
            .flatten()
            .flat_map(|&v| model.users(v))
            .any(|user| model[user].op().is("MatMul"));
        if !node.op().is("Softmax") || !feeds_product {
            continue;
        }
        let mut path = Vec::new();
        let mut at = one(node.input(0));
        while let Some(n) = at.filter(|&n| !model[n].op().is("MatMul") && path.len() < 16) {
            path.push(model[n].op().name.as_str());
            // The scores come first where both operands are computed, as exporters write them.
            at = one(model[n].input(usize::from(model[n].op().is("Where"))))
                .or_else(|| one(model[n].input(0)));
        }
        let canonical = path.iter().filter(|op| **op == "Add").count() <= 1
            && path.iter().all(|op| ["Add", "Mul", "Div"].contains(op));
        if !canonical {
            nodes.push(id);
            between.extend(path);
        }
    }
    let kind = Kind {
        code: "attention",
        severity: Note,
        why: "the fused attention operators take one scale and one mask between the product and Softmax; otherwise each \
              operator runs by itself",
        source: "BigKernel rules of msit's surgeon, AttentionScore of CANN 8.1.RC1",
        confirmed: false,
        pass: None,
    };
    let what = format!(
        "{} attentions have {} between product and Softmax",
        nodes.len(),
        counted(between.into_iter())
    );
    cx.find_nodes(&kind, &nodes, what);
}

/// Slices that run backwards.
fn backwards(cx: &mut Cx<'_>) {
    let steps = |id: NodeId| cx.model[id].input(4).and_then(|v| cx.model.constant(v)?.to_ints());
    let slices = cx.running().filter(|(_, n)| n.op().is("Slice")).map(|(id, _)| id);
    let nodes: Vec<NodeId> =
        slices.filter(|&id| steps(id).is_some_and(|s| s.iter().any(|&s| s < 0))).collect();
    let kind = Kind {
        code: "ai-cpu",
        severity: Warning,
        why: "the AI CPU is slow, and the AI Cores wait for it (ATC warns with W11001)",
        source: "StridedSlice plugin of the open-source ops-math of CANN (2026)",
        confirmed: true,
        pass: None,
    };
    cx.find_nodes(
        &kind,
        &nodes,
        format!("{} Slice with negative steps run on the AI CPU", nodes.len()),
    );
}
