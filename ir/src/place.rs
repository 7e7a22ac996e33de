//! Places in a model, as messages name them.

use std::fmt;

use crate::{GraphId, Model, NodeId, Use};

/// A place in a model: graph › node › slot. Bodies are reached through the nodes that own them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Graphs and nodes from the outside to the inside.
    path: Vec<String>,
}

impl Place {
    /// A graph.
    #[must_use]
    pub fn graph(model: &Model, graph: GraphId) -> Place {
        let g = &model[graph];
        let name = g.name.as_deref().unwrap_or("");
        let Some(owner) = g.owner() else {
            let function = model.functions.iter().find(|f| f.body == graph);
            let what = match function {
                Some(f) => format!("function {:?}", &*f.name),
                None if name.is_empty() => "graph".to_owned(),
                None => format!("graph {name:?}"),
            };
            return Place { path: vec![what] };
        };
        let attr = model[owner]
            .attrs
            .graphs()
            .find(|&(_, body)| body == graph)
            .map(|(attr, _)| attr.as_str());
        Place::node(model, owner).then(attr.unwrap_or(if name.is_empty() { "body" } else { name }))
    }

    /// A node.
    #[must_use]
    pub fn node(model: &Model, node: NodeId) -> Place {
        Place::graph(model, model[node].graph()).then(model.describe(node))
    }

    /// An input of a node, or an output of a graph.
    #[must_use]
    pub fn reader(model: &Model, use_: Use) -> Place {
        match use_ {
            Use::Input { node, slot } => Place::node(model, node).then(format!("input {slot}")),
            Use::Output { graph, slot } => {
                Place::graph(model, graph).then(format!("output {slot}"))
            }
        }
    }

    /// A place inside of this one.
    #[must_use]
    pub fn then(mut self, what: impl Into<String>) -> Place {
        self.path.push(what.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.path.iter().enumerate() {
            let arrow = if i == 0 { "" } else { " › " };
            write!(f, "{arrow}{part}")?;
        }
        Ok(())
    }
}
