//! One graph as petgraph sees it: nodes, and an edge from each node to the nodes that read what it makes.
//!
//! A node whose body reads a value reads it. petgraph's order of nodes is not the file's, so its results answer
//! questions (is there a path, what dominates what) and never decide in which order nodes are stored.

use petgraph::Direction;
use petgraph::dot::{Config, Dot};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{
    GraphBase, GraphRef, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, VisitMap,
    Visitable,
};

use crate::{GraphId, Model, Node, NodeId, SideTable, ValueId, sort};

/// One graph of a model, bodies not entered.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The model.
    pub model: &'a Model,
    /// The graph.
    pub graph: GraphId,
}

/// The nodes that a walk has been to.
#[derive(Debug, Clone, Default)]
pub struct Visited(Vec<bool>);

impl VisitMap<NodeId> for Visited {
    fn visit(&mut self, node: NodeId) -> bool {
        if self.0.len() <= node.index() {
            self.0.resize(node.index() + 1, false);
        }
        !std::mem::replace(&mut self.0[node.index()], true)
    }

    fn is_visited(&self, node: &NodeId) -> bool {
        self.0.get(node.index()).copied().unwrap_or(false)
    }

    fn unvisit(&mut self, node: NodeId) -> bool {
        self.0.get_mut(node.index()).is_some_and(std::mem::take)
    }
}

impl GraphBase for View<'_> {
    type NodeId = NodeId;
    /// Producer and reader.
    type EdgeId = (NodeId, NodeId);
}

impl GraphRef for View<'_> {}

impl IntoNeighbors for View<'_> {
    type Neighbors = std::vec::IntoIter<NodeId>;
    fn neighbors(self, node: NodeId) -> Self::Neighbors {
        self.neighbors_directed(node, Direction::Outgoing)
    }
}

impl IntoNeighborsDirected for View<'_> {
    type NeighborsDirected = std::vec::IntoIter<NodeId>;
    fn neighbors_directed(self, node: NodeId, direction: Direction) -> Self::NeighborsDirected {
        let mut found = Vec::new();
        match direction {
            Direction::Incoming => {
                sort::producers(self.model, self.graph, node, &mut |n| found.push(n));
            }
            Direction::Outgoing => {
                let readers =
                    self.model[node].outputs().iter().flatten().flat_map(|&v| self.model.users(v));
                found.extend(
                    readers.filter_map(|reader| self.model.ancestor_in(reader, self.graph)),
                );
            }
        }
        found.into_iter()
    }
}

impl IntoNodeIdentifiers for View<'_> {
    type NodeIdentifiers = std::vec::IntoIter<NodeId>;
    fn node_identifiers(self) -> Self::NodeIdentifiers {
        self.model.nodes(self.graph).collect::<Vec<_>>().into_iter()
    }
}

impl Visitable for View<'_> {
    type Map = Visited;
    fn visit_map(&self) -> Visited {
        Visited::default()
    }
    fn reset_map(&self, map: &mut Visited) {
        map.0.clear();
    }
}

/// A graph for Graphviz: a box for each node with its operator, its name and the shapes it makes, and an arrow for each
/// value that another node reads. Constants are left out.
#[must_use]
pub fn dot(model: &Model, graph: GraphId) -> String {
    let mut drawn: DiGraph<String, String> = DiGraph::new();
    let mut boxes: SideTable<Node, NodeIndex> = SideTable::new();
    let shape = |value: ValueId| match model[value].tensor_type() {
        Some(ty) => ty.to_string(),
        None => String::new(),
    };
    for node in model.nodes(graph).filter(|&node| !model[node].op().is("Constant")) {
        let n = &model[node];
        let makes: Vec<String> = n.outputs().iter().flatten().map(|&v| shape(v)).collect();
        let name = n.name.as_deref().unwrap_or_default();
        let lines = [n.op().to_string(), name.to_owned(), makes.join(", ")];
        let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        boxes.insert(node, drawn.add_node(lines.join("\n")));
    }
    let interface = |drawn: &mut DiGraph<String, String>, what: &str, v: ValueId| {
        drawn.add_node(format!("{what} {}\n{}", model[v].name(), shape(v)))
    };
    for &input in model[graph].inputs() {
        let from = interface(&mut drawn, "input", input);
        for to in model.users(input).filter_map(|user| model.ancestor_in(user, graph)) {
            if let Some(&to) = boxes.get(to) {
                drawn.update_edge(from, to, String::new());
            }
        }
    }
    let view = View { model, graph };
    for node in model.nodes(graph) {
        let Some(&from) = boxes.get(node) else { continue };
        for to in view.neighbors(node) {
            if let Some(&to) = boxes.get(to) {
                drawn.update_edge(from, to, String::new());
            }
        }
    }
    for &output in model[graph].outputs() {
        let to = interface(&mut drawn, "output", output);
        if let Some(&from) = model.producer(output).and_then(|node| boxes.get(node)) {
            drawn.update_edge(from, to, String::new());
        }
    }
    let text = Dot::with_config(&drawn, &[Config::EdgeNoLabel]).to_string();
    text.replacen("digraph {", "digraph {\n    node [shape=box]", 1)
}

#[cfg(test)]
mod tests {
    use petgraph::algo::{dominators, has_path_connecting, toposort};

    use super::*;
    use crate::{AttrValue, NewNode};

    /// `a` is read by `b` and, inside of a body, by `c`.
    fn model() -> (Model, [NodeId; 3]) {
        let mut model = Model::new();
        let root = model.root();
        let input = model.add_input(root, "x".into(), None);
        let a = model.add_node(root, None, NewNode::new("Relu", &[input], "a".into()));
        let made = model[a].outputs()[0].expect("an output");
        let b = model.add_node(root, None, NewNode::new("Relu", &[made], "b".into()));
        let body = model.add_graph(None);
        let inner = model.add_node(body, None, NewNode::new("Relu", &[made], "inner".into()));
        let y = model[inner].outputs()[0].expect("an output");
        model.add_output(body, y);
        let c = model.add_node(
            root,
            None,
            NewNode::new("If", &[input], "c".into()).attr("then_branch", AttrValue::Graph(body)),
        );
        (model, [a, b, c])
    }

    #[test]
    fn a_body_that_reads_a_value_makes_an_edge() {
        let (model, [a, b, c]) = model();
        let view = View { model: &model, graph: model.root() };
        assert!(has_path_connecting(view, a, c, None));
        assert!(!has_path_connecting(view, b, c, None));
        assert_eq!(view.neighbors_directed(c, Direction::Incoming).collect::<Vec<_>>(), [a]);
    }

    #[test]
    fn a_drawing_has_a_box_for_each_node_and_an_arrow_for_each_edge() {
        let (model, _) = model();
        let text = dot(&model, model.root());
        assert!(text.starts_with("digraph {\n    node [shape=box]\n"), "{text}");
        // x, a, b and c; x to a and c, a to b and c.
        assert_eq!((text.matches("label").count(), text.matches("->").count()), (4, 4), "{text}");
    }

    #[test]
    fn algorithms_run_on_the_view() {
        let (model, [a, b, _]) = model();
        let view = View { model: &model, graph: model.root() };
        assert_eq!(toposort(view, None).expect("no cycle")[0], a);
        assert_eq!(dominators::simple_fast(view, a).immediate_dominator(b), Some(a));
    }
}
