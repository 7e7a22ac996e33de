//! eliminate-dead-nodes

use onnxfix_ir::{Model, NodeId};

use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Removes nodes and initializers that no output depends on.
    ///
    /// ## Why ATC needs it
    /// It compiles what it is given; leftovers of shape arithmetic cost compile time and memory.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float[1] w = {1}> {
    ///    y = Relu (x)
    ///    t = Add (x, w)
    ///    u = Neg (t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - Nothing reads any output of the node, bodies included; the graph's outputs count as readers.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateDeadNodes = "eliminate-dead-nodes", Eliminate, Exact
}

impl Pass for EliminateDeadNodes {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in model.graphs().collect::<Vec<_>>() {
            // A graph that was a body of a removed node is gone.
            if model.graph(graph).is_none() {
                continue;
            }
            let mut nodes: Vec<NodeId> = model.nodes(graph).collect();
            nodes.reverse();
            for node in nodes {
                let dead =
                    model[node].outputs().iter().flatten().all(|&v| model[v].uses().is_empty());
                if dead && cx.spend() {
                    model.remove_node(node);
                    changed = true;
                }
            }
        }
        for graph in model.graphs().collect::<Vec<_>>() {
            changed |= model.remove_dead_initializers(graph) > 0;
        }
        Ok(changed.into())
    }
}
