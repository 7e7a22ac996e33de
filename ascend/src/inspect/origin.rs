//! What values are made of: of what users feed, or of constants and shapes only.

use onnxfix_ir::{Def, Model, Node, NodeId, SideTable, ValueId};

/// Which nodes depend on no input but through its shape. Once the shapes are numbers, they are constant.
pub(super) struct Origins {
    constant: SideTable<Node, ()>,
}

/// Operators that read nothing of their input but its shape.
const SHAPE_ONLY: &[&str] = &["Shape", "Size"];

impl Origins {
    pub(super) fn of(model: &Model) -> Origins {
        let mut origins = Origins { constant: SideTable::new() };
        let graphs: Vec<_> = model.graphs().collect();
        for graph in graphs {
            for node in model.nodes(graph) {
                let n = &model[node];
                let impure = n.op().def.is_none_or(|def| !def.class.pure);
                // What a body reads from outside is no input of its node.
                let has_body = n.attrs.graphs().next().is_some();
                let shape_only =
                    n.op().domain().is_empty() && SHAPE_ONLY.contains(&n.op().name.as_str());
                let mut inputs = n.inputs().iter().flatten();
                if !impure
                    && !has_body
                    && (shape_only || inputs.all(|&v| origins.is_made(model, v)))
                {
                    origins.constant.insert(node, ());
                }
            }
        }
        origins
    }

    /// Whether a node depends on constants and shapes only.
    pub(super) fn is_constant(&self, node: NodeId) -> bool {
        self.constant.contains(node)
    }

    /// Whether a value is a constant or made by such a node.
    pub(super) fn is_made(&self, model: &Model, value: ValueId) -> bool {
        match *model[value].def() {
            Def::Node { node, .. } => self.is_constant(node),
            _ => model.constant(value).is_some(),
        }
    }
}
