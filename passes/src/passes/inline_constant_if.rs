//! inline-constant-if

use onnxfix_ir::{Attrs, Model, NodeId};

use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Replaces an `If` with a constant condition by the branch that is taken.
    ///
    /// ## Why ATC needs it
    /// A branch keeps shapes dynamic and splits the graph into subgraphs that no fusion crosses. Exporters write an `If`
    /// for every `squeeze` whose dimension they did not know.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <bool cond = {1}> {
    ///    y = If (cond) <
    ///       then_branch: graph = a () => (float[2] t) { t = Relu (x) },
    ///       else_branch: graph = b () => (float[2] e) { e = Neg (x) }
    ///    >
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - The condition is an initializer (folding makes one of what can be computed).
    ///
    /// ## Numerics
    /// Exact.
    pub InlineConstantIf = "inline-constant-if", Specialise, Exact
}

impl Pass for InlineConstantIf {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        let ifs: Vec<NodeId> =
            model.all_nodes().filter(|(_, n)| n.op().is("If")).map(|(id, _)| id).collect();
        for node in ifs {
            // An If inside a branch that was not taken is gone by now.
            if model.node(node).is_some() {
                changed |= inline(model, node, cx);
            }
        }
        Ok(changed.into())
    }
}

fn inline(model: &mut Model, node: NodeId, cx: &mut PassCx<'_>) -> bool {
    let Some(cond) = model[node].input(0).and_then(|v| model.constant(v)).and_then(|t| t.to_ints())
    else {
        return false;
    };
    let taken = if cond.first().is_some_and(|&c| c != 0) { "then_branch" } else { "else_branch" };
    let Some(body) = model[node].attrs.graph(taken) else { return false };
    if !cx.spend() {
        return false;
    }
    let graph = model[node].graph();
    let results = model.copy_body(body, graph, node, &[], &Attrs::default());
    crate::replace_node(model, node, &results);
    true
}
