//! eliminate-common-subexpressions

use hashbrown::HashMap;
use onnxfix_ir::{GraphId, Model, NodeId, ValueId};

use crate::key::OpKey;
use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Computes once what several nodes compute alike.
    ///
    /// ## Why ATC needs it
    /// Exporters repeat masks, positions and shape arithmetic in every layer.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    a = Relu (x)
    ///    b = Relu (x)
    ///    y = Add (a, b)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    a = Relu (x)
    ///    y = Add (a, a)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Operator, attributes, inputs and number of outputs are equal; inputs of commutative operators in any order.
    /// - The operator is pure: random operators and nodes with bodies are never merged.
    /// - Not both are graph outputs, each of which needs a node of its own.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateCommonSubexpressions = "eliminate-common-subexpressions", Eliminate, Exact
}

impl Pass for EliminateCommonSubexpressions {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in model.graphs().collect::<Vec<GraphId>>() {
            let mut firsts: HashMap<OpKey, NodeId> = HashMap::new();
            for node in model.nodes(graph).collect::<Vec<_>>() {
                let Some(key) = OpKey::new(model, node, |v| v.index() + 1) else { continue };
                let Some(&first) = firsts.get(&key) else {
                    firsts.insert(key, node);
                    continue;
                };
                let pairs: Option<Vec<(ValueId, ValueId)>> = outputs_in_pairs(model, first, node);
                let Some(pairs) = pairs else { continue };
                let both_public =
                    pairs.iter().any(|&(a, b)| model.is_output(a) && model.is_output(b));
                if both_public || !cx.spend() {
                    continue;
                }
                for (kept, gone) in pairs {
                    if model.is_output(gone) {
                        model.swap_names(kept, gone);
                    }
                    model.replace_uses(gone, kept);
                }
                model.remove_node(node);
                changed = true;
            }
        }
        Ok(changed.into())
    }
}

/// Outputs of both nodes side by side, where the first has all that the second has.
fn outputs_in_pairs(
    model: &Model,
    first: NodeId,
    second: NodeId,
) -> Option<Vec<(ValueId, ValueId)>> {
    let gone = model[second].outputs().iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?)));
    gone.map(|(i, gone)| Some((model[first].output(i)?, gone))).collect()
}
