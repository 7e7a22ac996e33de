//! Shapes: open and empty ones, ranks, sizes that cube units are bad at.

use onnxfix_ir::{NodeId, ValueId};

use super::{Cx, Kind};
use crate::finding::Severity::{Error, Note, Warning};
use crate::platform;

/// Edge of the tiles that a cube unit multiplies, as dimensions are counted.
const TILE: i64 = platform::TILE as i64;
/// Products of a batch that are worth a word: fewer take no time.
const MANY: i64 = 64;
/// Part of a tile that has to be used.
const USED: f64 = 0.1;

pub(super) fn check(cx: &mut Cx<'_>) {
    open(cx);
    empty_and_deep(cx);
    products(cx);
}

fn open(cx: &mut Cx<'_>) {
    let model = cx.model;
    let inputs = model[model.root()].inputs();
    let is_open = |v: &ValueId| model[*v].tensor_type().is_some() && model[*v].dims().is_none();
    let open: Vec<ValueId> = inputs.iter().copied().filter(is_open).collect();
    if !open.is_empty() {
        let shown: Vec<String> = open
            .iter()
            .map(|&v| {
                format!(
                    "{} {}",
                    model[v].name(),
                    model[v].shape().map(ToString::to_string).unwrap_or_default()
                )
            })
            .collect();
        let kind = Kind {
            code: "open-shape",
            severity: Warning,
            why: "ATC needs --input_shape or gears, and a dynamic shape costs the sink scheduling and most fusions",
            source: "ATC guide of GE (2026), shape configuration",
            confirmed: true,
            pass: Some("fix-input-shapes"),
        };
        cx.find(
            &kind,
            shown.clone(),
            format!("inputs without a fixed shape: {}", shown.join(", ")),
        );
        return;
    }
    let unknown = |id: &NodeId| {
        let mut outputs = model[*id].outputs().iter().flatten();
        outputs.any(|&v| model[v].tensor_type().is_none() || model[v].dims().is_none())
    };
    let nodes: Vec<NodeId> = cx.running().map(|(id, _)| id).filter(unknown).collect();
    let kind = Kind {
        code: "data-dependent-shape",
        severity: Warning,
        why: "a shape that depends on values makes the whole model dynamic: no sink scheduling, few fusions",
        source: "ATC guide of GE (2026), shape configuration",
        confirmed: true,
        pass: None,
    };
    let what = format!("shapes that are not known before the model runs: {}", cx.ops(&nodes));
    cx.find_nodes(&kind, &nodes, what);
}

fn empty_and_deep(cx: &mut Cx<'_>) {
    let model = cx.model;
    let shape = |id: NodeId| model[id].outputs().iter().flatten().filter_map(|&v| model[v].shape());
    let nodes: Vec<NodeId> = cx.running().map(|(id, _)| id).collect();
    let empty = |id: &NodeId| shape(*id).any(|s| s.0.iter().any(|d| d.fixed() == Some(0)));
    let empty: Vec<NodeId> = nodes.iter().copied().filter(empty).collect();
    let kind = Kind {
        code: "empty-tensor",
        severity: Error,
        why: "ATC takes no dimension of 0 but in constants",
        source: "ATC guide of GE (2026), restrictions",
        confirmed: true,
        pass: None,
    };
    cx.find_nodes(&kind, &empty, format!("tensors without elements: {}", cx.ops(&empty)));
    let most = cx.facts.chip.max_rank;
    let deep: Vec<NodeId> =
        nodes.iter().copied().filter(|id| shape(*id).any(|s| s.rank() > most)).collect();
    let kind = Kind {
        code: "rank",
        severity: Error,
        why: "kernels that move elements take so many axes only",
        source: "documentation of Transpose and GatherElements in the open-source ops of CANN (2026)",
        confirmed: true,
        pass: None,
    };
    cx.find_nodes(&kind, &deep, format!("tensors of more than {most} axes: {}", cx.ops(&deep)));
}

fn products(cx: &mut Cx<'_>) {
    let (mut tiny, mut unaligned) = (Vec::new(), Vec::new());
    for (id, node) in cx.running() {
        if !node.op().is("MatMul") {
            continue;
        }
        let (Some(a), Some(b)) = (cx.dims(id, 0), cx.dims(id, 1)) else { continue };
        let ([.., m, k], [.., n]) = (&a[..], &b[..]) else { continue };
        let batch: i64 = a[..a.len() - 2].iter().product();
        let padded = |d: i64| (d.max(1) + TILE - 1) / TILE * TILE;
        let used = [*m, *k, *n].map(|d| d as f64 / padded(d) as f64).iter().product::<f64>();
        if batch >= MANY && used < USED {
            tiny.push(id);
        } else if [*m, *k, *n].iter().any(|&d| d > TILE && d % TILE != 0) {
            unaligned.push(id);
        }
    }
    let kind = Kind {
        code: "tiny-products",
        severity: Warning,
        why: "the cube unit multiplies 16×16×16 tiles, and these fill less than a tenth of theirs",
        source: "platform files of CANN 8.1.RC1 (cube tile); the share is computed",
        confirmed: true,
        pass: Some("decompose-span-convolution"),
    };
    cx.find_nodes(&kind, &tiny, format!("batches of tiny products: {} MatMul", tiny.len()));
    let kind = Kind {
        code: "unaligned",
        severity: Note,
        why: "what does not fill the last 16×16 tile is computed and thrown away",
        source: "platform files of CANN 8.1.RC1 (cube tile)",
        confirmed: true,
        pass: None,
    };
    let what = format!("sizes that are no multiple of {TILE}: {} MatMul", unaligned.len());
    cx.find_nodes(&kind, &unaligned, what);
}
