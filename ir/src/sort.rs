//! Order of the nodes of a graph: what is read is made before.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::{Def, GraphId, Model, NodeId, SideTable, ValueId};

/// Nodes that need each other's results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} nodes need each other's results: {}", .nodes.len(), chain(.nodes))]
pub struct Cycle {
    /// Descriptions of the nodes: each is read by the one after it, and the last one by the first.
    pub nodes: Vec<String>,
}

/// Enough of the cycle to find it; one over the whole model would fill the screen.
fn chain(nodes: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = nodes.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(" → ");
    match nodes.len() {
        n if n > SHOWN => format!("{shown} → …"),
        _ => format!("{shown} → {}", nodes.first().map_or("", String::as_str)),
    }
}

/// Sorts the nodes of one graph, bodies not entered, and says whether that changed the order.
///
/// What a node's bodies read of the graph is needed by the node. Among the nodes that could come next, the one that
/// stands first in the old order does, so a sorted graph stays as it is and others change little.
///
/// # Errors
/// When there is no such order.
pub fn sort(model: &mut Model, graph: GraphId) -> Result<bool, Cycle> {
    let nodes: Vec<NodeId> = model.nodes(graph).collect();
    let mut position = SideTable::new();
    for (i, &node) in nodes.iter().enumerate() {
        position.insert(node, i);
    }
    let needs: Vec<Vec<usize>> = nodes
        .iter()
        .map(|&node| {
            let mut needs = Vec::new();
            producers(model, graph, node, &mut |producer| {
                needs.extend(position.get(producer).copied());
            });
            needs
        })
        .collect();
    if needs.iter().enumerate().all(|(i, needs)| needs.iter().all(|&n| n < i)) {
        return Ok(false);
    }
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut readers = vec![Vec::new(); nodes.len()];
    for (i, needs) in needs.iter().enumerate() {
        for &need in needs {
            readers[need].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(nodes[i]);
        for &reader in &readers[i] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() < nodes.len() {
        let nodes = cycle(&needs, &waiting).into_iter().map(|i| model.describe(nodes[i])).collect();
        return Err(Cycle { nodes });
    }
    model.reorder(graph, &order);
    Ok(true)
}

/// Calls `found` with every node of `graph` that makes what `node` or one of its bodies reads.
pub(crate) fn producers(
    model: &Model,
    graph: GraphId,
    node: NodeId,
    found: &mut impl FnMut(NodeId),
) {
    let mut read = |value: ValueId| {
        if let Def::Node { node, .. } = model[value].def
            && model[node].graph == graph
        {
            found(node);
        }
    };
    let mut todo = vec![node];
    while let Some(node) = todo.pop() {
        model[node].inputs.iter().flatten().copied().for_each(&mut read);
        for (_, body) in model[node].attrs.graphs() {
            model[body].outputs.iter().copied().for_each(&mut read);
            todo.extend(model.nodes(body));
        }
    }
}

/// A cycle among the nodes that still wait: going from each to one it waits for ends up in one.
fn cycle(needs: &[Vec<usize>], waiting: &[usize]) -> Vec<usize> {
    let waits = |i: &usize| waiting[*i] > 0;
    let mut seen = vec![false; needs.len()];
    let mut path = Vec::new();
    let mut at = (0..needs.len()).find(waits);
    while let Some(i) = at {
        if seen[i] {
            let start = path.iter().position(|&p| p == i).unwrap_or(0);
            path.drain(..start);
            break;
        }
        seen[i] = true;
        path.push(i);
        at = needs[i].iter().copied().find(waits);
    }
    // Each waits for the next one; told the other way round, each is read by the next one.
    path.reverse();
    path
}
