//! The model in memory: arenas of graphs, nodes and values, with both sides of every def-use edge.
//!
//! Everything of one model lives in one set of arenas, bodies of If, Loop and Scan and functions included. A node of a
//! body that reads a value of a graph around it refers to that value directly, so the value's uses are complete across
//! levels and a pass needs no special case for captures.
//!
//! Nodes of a graph form a linked list in the file's order: a new node goes beside an old one in constant time.

use std::ops::Index;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::id::{Arena, Id};
use crate::op::{self, Operator};
use crate::{Attrs, DataType, Name, Shape, Tensor, TensorType, Type, proto};

/// Index of a [`Node`].
pub type NodeId = Id<Node>;
/// Index of a [`Value`].
pub type ValueId = Id<Value>;
/// Index of a [`Graph`].
pub type GraphId = Id<Graph>;

/// An ONNX model.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// What the file says about itself.
    pub header: Header,
    /// Version of each operator set that the model uses, in the file's order.
    pub opsets: Vec<Opset>,
    /// Functions of the model.
    pub functions: Vec<Function>,
    pub(crate) graphs: Arena<Graph>,
    pub(crate) nodes: Arena<Node>,
    pub(crate) values: Arena<Value>,
    pub(crate) root: Option<GraphId>,
    /// How many values bear each name; fresh names avoid all of them.
    pub(crate) names: HashMap<Name, u32>,
    /// Where each use stands among the uses of a value that has very many and lost one.
    pub(crate) positions: HashMap<ValueId, HashMap<Use, usize>>,
}

/// What a model file says about itself. Absent and empty are kept apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    /// Version of the file format.
    pub ir_version: Option<i64>,
    /// Name of the exporter.
    pub producer_name: Option<String>,
    /// Version of the exporter.
    pub producer_version: Option<String>,
    /// Domain of the model (reverse DNS).
    pub domain: Option<String>,
    /// Version of the model.
    pub model_version: Option<i64>,
    /// Documentation.
    pub doc_string: Option<String>,
    /// Free key-value pairs.
    pub metadata: Vec<(String, String)>,
    /// Training information, carried through.
    pub training_info: Vec<proto::TrainingInfoProto>,
    /// Device configurations, carried through.
    pub configuration: Vec<proto::DeviceConfigurationProto>,
}

/// An operator set that a model or function imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opset {
    /// Domain as the file writes it: `""` and `ai.onnx` are the same one.
    pub domain: Option<Name>,
    /// Version.
    pub version: Option<i64>,
}

/// A function that nodes of the model call by its domain and name.
#[derive(Debug, Clone)]
pub struct Function {
    /// Name: the operator type of the nodes that call it.
    pub name: Name,
    /// Domain of the nodes that call it.
    pub domain: Option<Name>,
    /// Which of several functions of one name.
    pub overload: Option<Name>,
    /// Names of attributes without default.
    pub attributes: Vec<Name>,
    /// Attributes with defaults.
    pub defaults: Attrs,
    /// Operator sets that the body uses.
    pub opsets: Vec<Opset>,
    /// Body: its inputs and outputs are the function's.
    pub body: GraphId,
}

/// A graph: the model's own, the body of a control-flow node, or the body of a function.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Name.
    pub name: Option<Name>,
    /// Documentation.
    pub doc_string: Option<String>,
    /// Free key-value pairs.
    pub metadata: Vec<(String, String)>,
    /// Quantisation annotations, carried through.
    pub quantization: Vec<proto::TensorAnnotation>,
    /// Values whose types the file lists in `value_info`, in its order.
    pub value_info: Vec<ValueId>,
    /// The initializers in the file's order.
    pub(crate) initializers: Vec<ValueId>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) first: Option<NodeId>,
    pub(crate) last: Option<NodeId>,
    pub(crate) len: usize,
    /// The node that this is a body of; none for the model's graph and for functions.
    pub(crate) owner: Option<NodeId>,
}

impl Graph {
    /// Inputs in order. One that is an initializer too has a default that a caller may override.
    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Outputs in order.
    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Initializers in the file's order, those that passes made last.
    #[must_use]
    pub fn initializers(&self) -> &[ValueId] {
        &self.initializers
    }

    /// Number of nodes, those of bodies not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The node that this graph is a body of.
    #[must_use]
    pub fn owner(&self) -> Option<NodeId> {
        self.owner
    }
}

/// An application of an operator.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name; free text.
    pub name: Option<Name>,
    /// Attributes. Bodies among them are graphs of the model's arena.
    pub attrs: Attrs,
    /// Documentation.
    pub doc_string: Option<String>,
    /// Free key-value pairs; a pass that makes a node leaves its name here.
    pub metadata: Vec<(String, String)>,
    /// Which of several functions of one name is called.
    pub overload: Option<Name>,
    /// Device configurations, carried through.
    pub device_configurations: Vec<proto::NodeDeviceConfigurationProto>,
    pub(crate) op: Op,
    pub(crate) inputs: SmallVec<[Option<ValueId>; 3]>,
    pub(crate) outputs: SmallVec<[Option<ValueId>; 1]>,
    pub(crate) graph: GraphId,
    pub(crate) prev: Option<NodeId>,
    pub(crate) next: Option<NodeId>,
}

/// Domain and type of a node's operator, with its entry in the operator table.
#[derive(Debug, Clone)]
pub struct Op {
    /// Domain as the file writes it: absent, `""` and `ai.onnx` are the same one.
    pub domain: Option<Name>,
    /// Operator type.
    pub name: Name,
    /// Entry in the table, for operators that it knows.
    pub def: Option<&'static Operator>,
}

impl Op {
    /// An operator of the domain as the file writes it.
    #[must_use]
    pub fn new(domain: Option<Name>, name: Name) -> Op {
        let known = op::find_named(op::normal_domain(domain.as_deref().unwrap_or("")), &name);
        let (def, name) = known.map_or((None, name), |(def, shared)| (Some(def), shared));
        Op { domain, name, def }
    }

    /// The domain, with `ai.onnx` written `""`.
    #[must_use]
    pub fn domain(&self) -> &str {
        op::normal_domain(self.domain.as_deref().unwrap_or(""))
    }

    /// Whether this is the operator of that name in ONNX's own domain.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name == *name && self.domain().is_empty()
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.domain() {
            "" => write!(f, "{}", self.name),
            domain => write!(f, "{domain}.{}", self.name),
        }
    }
}

impl Node {
    /// The operator.
    #[must_use]
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Inputs in order; an optional one that is left out is `None`.
    #[must_use]
    pub fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// Outputs in order; an optional one that is left out is `None`.
    #[must_use]
    pub fn outputs(&self) -> &[Option<ValueId>] {
        &self.outputs
    }

    /// The input at `slot`, if there is one.
    #[must_use]
    pub fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The output at `slot`, if there is one.
    #[must_use]
    pub fn output(&self, slot: usize) -> Option<ValueId> {
        self.outputs.get(slot).copied().flatten()
    }

    /// The graph that the node is in.
    #[must_use]
    pub fn graph(&self) -> GraphId {
        self.graph
    }
}

/// What flows between nodes.
#[derive(Debug, Clone)]
pub struct Value {
    /// Type, as far as it is known.
    pub ty: Option<Type>,
    /// What the file says beside name and type.
    pub extra: Option<Box<ValueExtra>>,
    pub(crate) name: Name,
    pub(crate) def: Def,
    pub(crate) uses: SmallVec<[Use; 2]>,
    pub(crate) graph: GraphId,
}

/// Fields of a `ValueInfoProto` that say nothing about the value's type.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ValueExtra {
    /// Documentation.
    pub doc_string: Option<String>,
    /// Free key-value pairs.
    pub metadata: Vec<(String, String)>,
    /// The type as the file has it, where [`Type`] cannot say all of it (denotations).
    pub type_proto: Option<proto::TypeProto>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Def {
    /// An input of the value's graph.
    Input,
    /// A constant of the value's graph.
    Initializer(Arc<Tensor>),
    /// A sparse constant of the value's graph, carried through.
    Sparse(Arc<proto::SparseTensorProto>),
    /// Output `slot` of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Position among its outputs.
        slot: u32,
    },
    /// Nothing in the file defines it: an error where it is used, else a leftover in `value_info`.
    Missing,
}

/// Where a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Input `slot` of a node, maybe in a body.
    Input {
        /// The node.
        node: NodeId,
        /// Position among its inputs.
        slot: u32,
    },
    /// Output `slot` of a graph.
    Output {
        /// The graph.
        graph: GraphId,
        /// Position among its outputs.
        slot: u32,
    },
}

impl Value {
    /// Name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where the value comes from.
    #[must_use]
    pub fn def(&self) -> &Def {
        &self.def
    }

    /// Everything that reads the value, bodies included. No use means dead: a graph output is a use.
    #[must_use]
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// The graph that defines the value.
    #[must_use]
    pub fn graph(&self) -> GraphId {
        self.graph
    }

    /// The tensor of an initializer.
    #[must_use]
    pub fn tensor(&self) -> Option<&Arc<Tensor>> {
        match &self.def {
            Def::Initializer(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The type, if the value is a dense tensor.
    #[must_use]
    pub fn tensor_type(&self) -> Option<&TensorType> {
        self.ty.as_ref()?.as_tensor()
    }

    /// Element type, if known.
    #[must_use]
    pub fn dtype(&self) -> Option<DataType> {
        Some(self.tensor_type()?.dtype)
    }

    /// Shape, if at least the rank is known.
    #[must_use]
    pub fn shape(&self) -> Option<&Shape> {
        self.tensor_type()?.shape.as_ref()
    }

    /// All dimensions as numbers, if all are known.
    #[must_use]
    pub fn dims(&self) -> Option<SmallVec<[i64; 4]>> {
        self.shape()?.dims()
    }
}

impl Index<NodeId> for Model {
    type Output = Node;
    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }
}

impl Index<ValueId> for Model {
    type Output = Value;
    fn index(&self, id: ValueId) -> &Value {
        &self.values[id]
    }
}

impl Index<GraphId> for Model {
    type Output = Graph;
    fn index(&self, id: GraphId) -> &Graph {
        &self.graphs[id]
    }
}

impl Model {
    /// The model's own graph.
    ///
    /// # Panics
    /// Never: every constructor makes a root graph.
    #[must_use]
    pub fn root(&self) -> GraphId {
        self.root.expect("every constructor makes a root graph")
    }

    /// Every graph: the root, bodies, functions, in the order they were made.
    pub fn graphs(&self) -> impl Iterator<Item = GraphId> {
        self.graphs.iter().map(|(id, _)| id)
    }

    /// The nodes of one graph in order, bodies not entered.
    pub fn nodes(&self, graph: GraphId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(self.graphs[graph].first, |&node| self.nodes[node].next)
    }

    /// Every node of every graph, in the order they were made.
    pub fn all_nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter()
    }

    /// Every value of every graph, in the order they were made.
    pub fn all_values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter()
    }

    /// The graph, unless it was removed.
    #[must_use]
    pub fn graph(&self, id: GraphId) -> Option<&Graph> {
        self.graphs.get(id)
    }

    /// The node, unless it was removed.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The value, unless it was removed.
    #[must_use]
    pub fn value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id)
    }

    /// A value of this graph by its name. Linear: for the command line and tests, not for passes.
    #[must_use]
    pub fn value_named(&self, graph: GraphId, name: &str) -> Option<ValueId> {
        self.values.iter().find(|(_, v)| v.graph == graph && v.name == *name).map(|(id, _)| id)
    }

    /// The node that makes a value.
    #[must_use]
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.values[value].def {
            Def::Node { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The tensor of a constant value: an initializer that no caller can override.
    #[must_use]
    pub fn constant(&self, value: ValueId) -> Option<&Arc<Tensor>> {
        self.values[value].tensor()
    }

    /// The nodes that read a value, once per input slot.
    pub fn users(&self, value: ValueId) -> impl Iterator<Item = NodeId> {
        self.values[value].uses.iter().filter_map(|u| match u {
            Use::Input { node, .. } => Some(*node),
            Use::Output { .. } => None,
        })
    }

    /// Whether the value is an output of a graph.
    #[must_use]
    pub fn is_output(&self, value: ValueId) -> bool {
        self.values[value].uses.iter().any(|u| matches!(u, Use::Output { .. }))
    }

    /// Whether callers see the value's name: an input or an output of a graph.
    #[must_use]
    pub fn is_public(&self, value: ValueId) -> bool {
        self.is_output(value) || self.is_input(value)
    }

    /// Whether the value is an input of its graph.
    #[must_use]
    pub fn is_input(&self, value: ValueId) -> bool {
        match self.values[value].def {
            Def::Input => true,
            // The list is short, and only initializers of old files are in it.
            Def::Initializer(_) => self.graphs[self.values[value].graph].inputs.contains(&value),
            _ => false,
        }
    }

    /// Version of the operator set of `domain` (`""` for ONNX's own) for the nodes of `graph`.
    #[must_use]
    pub fn opset(&self, graph: GraphId, domain: &str) -> Option<i64> {
        let version = |opsets: &[Opset]| {
            let found = opsets
                .iter()
                .find(|o| op::normal_domain(o.domain.as_deref().unwrap_or("")) == domain)?;
            found.version
        };
        let outermost = self.outermost(graph);
        match self.functions.iter().find(|f| f.body == outermost) {
            Some(function) if !function.opsets.is_empty() => version(&function.opsets),
            _ => version(&self.opsets),
        }
    }

    /// The root graph or function body that `graph` is nested in.
    #[must_use]
    pub fn outermost(&self, mut graph: GraphId) -> GraphId {
        while let Some(owner) = self.graphs[graph].owner {
            graph = self.nodes[owner].graph;
        }
        graph
    }

    /// Whether `inner` is `outer` or nested in it.
    #[must_use]
    pub fn is_within(&self, mut inner: GraphId, outer: GraphId) -> bool {
        loop {
            if inner == outer {
                return true;
            }
            match self.graphs[inner].owner {
                Some(owner) => inner = self.nodes[owner].graph,
                None => return false,
            }
        }
    }

    /// The node of `graph` that is `node`, or in whose bodies it is.
    #[must_use]
    pub fn ancestor_in(&self, mut node: NodeId, graph: GraphId) -> Option<NodeId> {
        while self.nodes[node].graph != graph {
            node = self.graphs[self.nodes[node].graph].owner?;
        }
        Some(node)
    }

    /// How messages call a node: its name, or its operator and first output.
    #[must_use]
    pub fn describe(&self, node: NodeId) -> String {
        let n = &self.nodes[node];
        match n.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => format!("{name:?} ({})", n.op),
            None => match n.output(0) {
                Some(y) => format!("{} making {:?}", n.op, self.values[y].name),
                None => format!("{}", n.op),
            },
        }
    }
}
