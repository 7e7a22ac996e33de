//! The fusions that the simulation counts: those that a transformer is written for.

use std::collections::BTreeMap;

use onnxfix_ir::{Model, Node, NodeId};
use serde_json::json;

/// How often each pass found its pattern, by its name in `fusion_result.json`.
pub(crate) fn count(model: &Model) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (id, node) in model.all_nodes() {
        let name = match node.op().name.as_str() {
            "Sqrt" if is_layer_norm(model, id) => "LayerNormONNXFusionPass",
            "Erf" if is_gelu(model, node) => "GeluONNXFusionPass",
            "Softmax" => "SoftmaxFusionPass",
            _ => continue,
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// The file that ATC writes for these counts: numbers are texts there.
pub(crate) fn result(counts: &BTreeMap<&'static str, usize>) -> String {
    let passes: serde_json::Map<_, _> = counts
        .iter()
        .map(|(name, n)| {
            let times = json!({"effect_times": n.to_string(), "match_times": n.to_string()});
            ((*name).to_owned(), times)
        })
        .collect();
    let file = json!({"session_and_graph_id_0_0": {"graph_fusion": passes, "ub_fusion": {}}});
    format!("{file:#}")
}

fn only_user(model: &Model, node: NodeId) -> Option<NodeId> {
    let mut users = model.users(model[node].output(0)?);
    let user = users.next()?;
    users.next().is_none().then_some(user)
}

fn producer(model: &Model, node: &Node, slot: usize) -> Option<NodeId> {
    model.producer(node.input(slot)?)
}

/// `Pow`, `ReduceMean`, `Add`, `Sqrt`, `Div`: each read by the next one only.
fn is_layer_norm(model: &Model, sqrt: NodeId) -> bool {
    let is = |node: Option<NodeId>, name: &str| node.filter(|&n| model[n].op().is(name));
    let walk = || {
        let div = is(only_user(model, sqrt), "Div")?;
        let add = is(producer(model, &model[sqrt], 0), "Add")?;
        let mean = [0, 1]
            .into_iter()
            .find_map(|slot| is(producer(model, &model[add], slot), "ReduceMean"))?;
        let pow = is(producer(model, &model[mean], 0), "Pow")?;
        let centred = producer(model, &model[pow], 0)?;
        (producer(model, &model[div], 0)? == centred && model[centred].op().is("Sub")).then_some(())
    };
    walk().is_some()
}

/// A Div by the root of two in front of the Erf: a Mul with its inverse is not found.
fn is_gelu(model: &Model, erf: &Node) -> bool {
    let walk = || {
        let div = producer(model, erf, 0).filter(|&n| model[n].op().is("Div"))?;
        let by = model.constant(model[div].input(1)?)?.to_floats()?;
        (by.len() == 1 && (by[0] - std::f64::consts::SQRT_2).abs() < 1e-3).then_some(())
    };
    walk().is_some()
}
