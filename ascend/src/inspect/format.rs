//! The model as a file: opsets, operators, names, attributes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use onnxfix_ir::NodeId;
use onnxfix_ir::op::normal_domain;

use super::{Cx, Kind};
use crate::finding::Severity::{Error, Warning};

/// What ATC's options write shapes and names with.
const SEPARATORS: &[char] = &[':', ';', ',', '"', '\''];

pub(super) fn check(cx: &mut Cx<'_>) {
    opset(cx);
    domains(cx);
    operators(cx);
    interface(cx);
    node_names(cx);
    attributes(cx);
}

fn opset(cx: &mut Cx<'_>) {
    let (cann, model) = (&cx.facts.cann, cx.model);
    let Some(opset) = model.opset(model.root(), "") else { return };
    let [low, high] = cann.opsets;
    if (low..=high).contains(&opset) {
        return;
    }
    let what = format!("the model is of opset {opset}; CANN {} takes {low} to {high}", cann.line);
    let kind = Kind {
        code: "opset",
        severity: Error,
        why: "ATC looks for parsers of exactly the model's opset and finds none",
        source: &cann.source,
        confirmed: cann.confirmed,
        pass: Some("convert-opset"),
    };
    cx.find(&kind, Vec::new(), what);
}

fn domains(cx: &mut Cx<'_>) {
    let imported: BTreeSet<&str> = cx
        .model
        .opsets
        .iter()
        .map(|opset| normal_domain(opset.domain.as_deref().unwrap_or("")))
        .collect();
    if cx.facts.cann.several_domains || imported.len() < 2 {
        return;
    }
    let names: Vec<&str> =
        imported.iter().map(|d| if d.is_empty() { "ai.onnx" } else { d }).collect();
    let what = format!("the model imports {} operator sets: {}", names.len(), names.join(", "));
    let kind = Kind {
        code: "several-domains",
        severity: Error,
        why: "ATC up to CANN 8.1 takes one opset_import only (E16005)",
        source: "error texts of CANN 8.1.RC1",
        confirmed: true,
        pass: Some("eliminate-unused-opsets"),
    };
    cx.find(&kind, Vec::new(), what);
}

fn operators(cx: &mut Cx<'_>) {
    let model = cx.model;
    let Some(opset) = model.opset(model.root(), "") else { return };
    let mut missing: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in model.all_nodes() {
        let op = node.op();
        let registered = op.domain().is_empty()
            && cx.facts.parsers.opsets(&op.name).iter().any(|[a, b]| (*a..=*b).contains(&opset));
        if !registered {
            missing.entry(op.to_string()).or_default().push(id);
        }
    }
    let [low, high] = cx.facts.cann.opsets;
    for (name, nodes) in missing {
        let ranges = cx.facts.parsers.opsets(&name);
        let shown: Vec<String> = ranges.iter().map(|[a, b]| format!("{a} to {b}")).collect();
        let what = if shown.is_empty() {
            format!("ATC has no parser for {name}")
        } else {
            format!(
                "ATC has a parser for {name} in opsets {}, and the model is of {opset}",
                shown.join(" and ")
            )
        };
        let function = model.functions.iter().any(|f| {
            let domain = normal_domain(f.domain.as_deref().unwrap_or(""));
            name == format!("{domain}.{}", f.name)
        });
        let elsewhere = ranges.iter().any(|[a, b]| *a <= high && *b >= low);
        let pass = match name.as_str() {
            _ if function => Some("inline-functions"),
            "Einsum" => Some("decompose-einsum"),
            "Trilu" => Some("decompose-trilu"),
            _ if elsewhere => Some("convert-opset"),
            // These have forms in older operators.
            "Gelu" | "GroupNormalization" => Some("convert-opset"),
            _ => None,
        };
        let kind = Kind {
            code: "no-parser",
            severity: Error,
            why: "ATC stops at the first operator without a parser of the model's opset (E16002, before 2025 E19010)",
            source: "ONNX parser plugins of the open-source ops-math, ops-nn and ops-cv of CANN (2026); older releases have fewer",
            confirmed: true,
            pass,
        };
        cx.find_nodes(&kind, &nodes, what);
    }
}

fn interface(cx: &mut Cx<'_>) {
    let root = &cx.model[cx.model.root()];
    for (values, what) in [(root.inputs(), "inputs"), (root.outputs(), "outputs")] {
        if values.is_empty() {
            let kind = Kind {
                code: "no-interface",
                severity: Error,
                why: "ATC refuses a graph without them (E16001)",
                source: "error texts of CANN 8.1.RC1",
                confirmed: true,
                pass: None,
            };
            cx.find(&kind, Vec::new(), format!("the model has no {what}"));
        }
    }
    let bad = |name: &str| name.contains(SEPARATORS) || name.contains(char::is_whitespace);
    let named: Vec<String> = root
        .inputs()
        .iter()
        .filter(|&&v| bad(cx.model[v].name()))
        .map(|&v| cx.value_path(v))
        .collect();
    if !named.is_empty() {
        let what = format!("{} cannot be named in --input_shape", named.join(", "));
        let kind = Kind {
            code: "input-name",
            severity: Error,
            why: "ATC separates names and dimensions by ':', ';' and ',' and knows no way to quote them (E10016)",
            source: "concluded from the syntax of --input_shape",
            confirmed: false,
            pass: None,
        };
        cx.find(&kind, named, what);
    }
}

fn node_names(cx: &mut Cx<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (_, node) in cx.model.all_nodes() {
        if let Some(name) = node.name.as_deref().filter(|name| !name.is_empty()) {
            *seen.entry(name).or_default() += 1;
        }
    }
    let mut twice: Vec<String> =
        seen.iter().filter(|(_, n)| **n > 1).map(|(name, _)| format!("{name:?}")).collect();
    twice.sort_unstable();
    if !twice.is_empty() {
        let what = format!("names that several nodes have: {}", twice.len());
        let kind = Kind {
            code: "node-names",
            severity: Error,
            why: "ATC makes operators of the nodes' names, which must differ",
            source: "concluded from the name check of ATC's parser",
            confirmed: false,
            pass: Some("name-nodes"),
        };
        cx.find(&kind, twice, what);
    }
}

/// A node that ATC's parser stops at, or reads in another way than ONNX means it.
type Refused = (&'static str, fn(&Cx<'_>, NodeId, i64) -> bool, &'static str, Option<&'static str>);

const REFUSED: &[Refused] = &[
    (
        "GatherND",
        |cx, n, _| cx.model[n].attrs.int("batch_dims").unwrap_or(0) != 0,
        "GatherND with batch_dims is refused (E11010)",
        Some("decompose-batched-gather"),
    ),
    (
        "Clip",
        |cx, n, opset| {
            opset >= 11 && cx.model[n].input(1).is_none() && cx.model[n].input(2).is_none()
        },
        "Clip without a bound is refused (E11010)",
        Some("eliminate-nop-arithmetic"),
    ),
    (
        "Transpose",
        |cx, n, _| cx.model[n].attrs.ints("perm").is_none(),
        "Transpose without perm is refused",
        None,
    ),
    (
        "Pad",
        |cx, n, _| cx.model[n].input(3).is_some(),
        "Pad's axes are not read",
        Some("convert-opset"),
    ),
    (
        "Shape",
        |cx, n, _| {
            cx.model[n].attrs.int("start").is_some() || cx.model[n].attrs.int("end").is_some()
        },
        "Shape's start and end are not read",
        Some("fold-constants"),
    ),
    (
        "Gather",
        |cx, n, _| !cx.facts.cann.negative_gather_index && has_negative(cx, n),
        "a negative index of Gather is refused by releases before 6.3",
        Some("count-indices-from-front"),
    ),
];

fn has_negative(cx: &Cx<'_>, node: NodeId) -> bool {
    let indices = cx.model[node].input(1).and_then(|v| cx.model.constant(v));
    indices.and_then(|t| t.to_ints()).is_some_and(|ints| ints.iter().any(|&i| i < 0))
}

fn attributes(cx: &mut Cx<'_>) {
    let Some(opset) = cx.model.opset(cx.model.root(), "") else { return };
    for (op, is_refused, what, pass) in REFUSED {
        let nodes = cx.running().filter(|(_, node)| node.op().is(op)).map(|(id, _)| id);
        let nodes: Vec<NodeId> = nodes.filter(|&id| is_refused(cx, id, opset)).collect();
        let kind = Kind {
            code: "attribute",
            severity: Error,
            why: "ATC's parser of the operator stops or reads something else",
            source: "ONNX parser plugins of the open-source ops-math, ops-nn and ops-cv of CANN (2026)",
            confirmed: true,
            pass: *pass,
        };
        cx.find_nodes(&kind, &nodes, (*what).to_owned());
    }
    softmax_axis(cx, opset);
}

/// Before opset 13, Softmax works on all axes from its own on, taken as one.
fn softmax_axis(cx: &mut Cx<'_>, opset: i64) {
    if opset >= 13 {
        return;
    }
    let not_last = |id: NodeId| {
        let axis = cx.model[id].attrs.int("axis").unwrap_or(1);
        let rank = cx.model[id].input(0).and_then(|v| Some(cx.model[v].shape()?.rank() as i64));
        axis != -1 && rank.is_some_and(|rank| axis != rank - 1)
    };
    let softmax = cx.running().filter(|(_, n)| n.op().is("Softmax") || n.op().is("LogSoftmax"));
    let nodes: Vec<NodeId> = softmax.map(|(id, _)| id).filter(|&id| not_last(id)).collect();
    let what = format!("{} Softmax of opset {opset} with another axis than the last", nodes.len());
    let kind = Kind {
        code: "softmax-axis",
        severity: Warning,
        why: "below opset 13 ONNX takes all axes from this one on as one, ATC only this one: other numbers",
        source: "Softmax parser plugin of the open-source ops-nn of CANN (2026)",
        confirmed: true,
        pass: Some("canonicalise-softmax"),
    };
    cx.find_nodes(&kind, &nodes, what);
}
