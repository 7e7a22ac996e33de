//! A graph as the page draws it.

use std::collections::HashMap;

use onnxfix_ir::{Def, Model, Node, NodeId, Type, ValueId};
use onnxfix_passes::PROVENANCE;
use serde::{Serialize, Serializer};

use super::layers;

/// The model's own graph, as small as it can be said: the page of a deep model has thousands of nodes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Drawing {
    /// How many layers were found.
    layers: usize,
    /// Operators with their kinds.
    ops: Table<(String, Kind)>,
    /// Types of values.
    types: Table<String>,
    /// Passes.
    passes: Table<String>,
    /// Inputs, nodes without constants in the graph's order, outputs.
    nodes: Vec<Drawn>,
}

/// The layer of every node that belongs to one.
pub(crate) fn layers_of(model: &Model) -> HashMap<NodeId, usize> {
    let (drawing, places) = Drawing::with_places(model);
    let layer = |(node, place): (NodeId, usize)| Some((node, drawing.nodes.get(place)?.layer?));
    places.into_iter().filter_map(layer).collect()
}

/// A node of a drawing; all that is said more than once is a place in a table.
#[derive(Debug, Clone)]
struct Drawn {
    name: String,
    op: usize,
    layer: Option<usize>,
    pass: Option<usize>,
    /// Where each input comes from, nowhere for constants, and its type.
    inputs: Vec<(Option<usize>, Option<usize>)>,
    outputs: Vec<Option<usize>>,
}

impl Serialize for Drawn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Drawn { name, op, layer, pass, inputs, outputs } = self;
        (name, op, layer, pass, inputs, outputs).serialize(s)
    }
}

/// What kind of work an operator is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Products of matrices.
    Product,
    /// One element at a time.
    Element,
    /// Over an axis.
    Reduce,
    /// The same elements elsewhere.
    Move,
    /// Integers about shapes.
    Shape,
    /// Types and truth values.
    Logic,
    /// Whatever else.
    Other,
    /// Where the graph begins and ends.
    Interface,
}

impl Kind {
    /// Every kind with what it is called.
    pub(super) const ALL: [(Kind, &'static str, &'static str); 8] = [
        (Kind::Product, "product", "matrix products"),
        (Kind::Element, "element", "element-wise"),
        (Kind::Reduce, "reduce", "over an axis"),
        (Kind::Move, "move", "moves data"),
        (Kind::Shape, "shape", "shape arithmetic"),
        (Kind::Logic, "logic", "types and logic"),
        (Kind::Other, "other", "other"),
        (Kind::Interface, "interface", "inputs, outputs"),
    ];

    /// The kind of an operator by its name.
    pub(super) fn of(op: &str) -> Kind {
        match op {
            "MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "Einsum" | "MatMulInteger"
            | "QLinearMatMul" | "Attention" => Kind::Product,
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Sqrt" | "Erf" | "Tanh" | "Relu" | "Gelu"
            | "Sigmoid" | "Exp" | "Log" | "Neg" | "Abs" | "Sign" | "Ceil" | "Floor" | "Clip"
            | "Min" | "Max" | "Reciprocal" | "Sum" | "Mean" | "Mod" | "Dropout" | "Identity"
            | "Elu" | "LeakyRelu" | "HardSigmoid" | "Softplus" | "Round" | "PRelu" | "Sin"
            | "Cos" => Kind::Element,
            "Softmax"
            | "LogSoftmax"
            | "LayerNormalization"
            | "RMSNormalization"
            | "CumSum"
            | "ArgMax"
            | "ArgMin"
            | "TopK"
            | "GlobalAveragePool"
            | "AveragePool"
            | "MaxPool"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "GroupNormalization" => Kind::Reduce,
            _ if op.starts_with("Reduce") => Kind::Reduce,
            "Reshape" | "Transpose" | "Slice" | "Concat" | "Gather" | "GatherElements"
            | "GatherND" | "Expand" | "Squeeze" | "Unsqueeze" | "Split" | "Pad" | "Tile"
            | "Flatten" | "ScatterND" | "ScatterElements" | "Trilu" | "OneHot" => Kind::Move,
            "Shape" | "Size" | "ConstantOfShape" | "Range" | "Constant" | "NonZero" => Kind::Shape,
            "Cast" | "CastLike" | "Where" | "Equal" | "Not" | "And" | "Or" | "Xor" | "Less"
            | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "IsNaN" | "IsInf" => Kind::Logic,
            "input" | "output" => Kind::Interface,
            _ => Kind::Other,
        }
    }

    /// Name of its class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, ..)| *kind == self).map_or("other", |(_, class, _)| class)
    }
}

/// Things that are said by their place in a list.
#[derive(Debug, Clone)]
struct Table<T> {
    items: Vec<T>,
    places: HashMap<T, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { items: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Table<T> {
    fn place(&mut self, item: T) -> usize {
        *self.places.entry(item).or_insert_with_key(|item| {
            self.items.push(item.clone());
            self.items.len() - 1
        })
    }
}

impl<T: Serialize> Serialize for Table<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(s)
    }
}

impl Drawing {
    /// Draws the model's own graph; what bodies of its nodes read counts as read by those nodes.
    #[must_use]
    pub fn of(model: &Model) -> Drawing {
        Drawing::with_places(model).0
    }

    /// The drawing, and which of its nodes each node of the graph is.
    fn with_places(model: &Model) -> (Drawing, HashMap<NodeId, usize>) {
        let mut drawing = Drawing::default();
        let root = model.root();
        let mut made: HashMap<ValueId, usize> = HashMap::new();
        let mut places: HashMap<NodeId, usize> = HashMap::new();
        for &input in model[root].inputs().iter().filter(|&&v| *model[v].def() == Def::Input) {
            made.insert(input, drawing.nodes.len());
            drawing.end(model, input, "input", None);
        }
        for id in model.nodes(root).filter(|&id| !model[id].op().is("Constant")) {
            let place = drawing.node(model, &model[id], &made);
            places.insert(id, place);
            made.extend(model[id].outputs().iter().flatten().map(|&v| (v, place)));
        }
        drawing.bodies(model, &made, &places);
        drawing.layers(model, &places);
        for &output in model[root].outputs() {
            drawing.end(model, output, "output", made.get(&output).copied());
        }
        (drawing, places)
    }

    fn node(&mut self, model: &Model, node: &Node, made: &HashMap<ValueId, usize>) -> usize {
        let pass = node.metadata.iter().find(|(key, _)| key == PROVENANCE);
        let pass = pass.map(|(_, pass)| self.passes.place(pass.clone()));
        let inputs = node.inputs().iter().flatten();
        let inputs = inputs.map(|v| (made.get(v).copied(), self.ty(model, *v))).collect();
        let outputs = node.outputs().iter().flatten().map(|&v| self.ty(model, v)).collect();
        let name = node.name.as_deref().filter(|name| !name.is_empty());
        let name = name.or_else(|| node.output(0).map(|v| &**model[v].name())).unwrap_or("");
        let op = self.op(&node.op().to_string());
        self.nodes.push(Drawn { name: name.into(), op, layer: None, pass, inputs, outputs });
        self.nodes.len() - 1
    }

    /// An input or output of the graph.
    fn end(&mut self, model: &Model, value: ValueId, op: &str, from: Option<usize>) {
        let ty = self.ty(model, value);
        let (inputs, outputs) =
            if op == "input" { (Vec::new(), vec![ty]) } else { (vec![(from, ty)], Vec::new()) };
        let layer = from.and_then(|from| self.nodes[from].layer);
        let (name, op) = (model[value].name().to_string(), self.op(op));
        self.nodes.push(Drawn { name, op, layer, pass: None, inputs, outputs });
    }

    fn op(&mut self, op: &str) -> usize {
        self.ops.place((op.to_owned(), Kind::of(op)))
    }

    fn ty(&mut self, model: &Model, value: ValueId) -> Option<usize> {
        let ty = model[value].ty.as_ref().map(Type::to_string)?;
        Some(self.types.place(ty))
    }

    /// Adds what bodies read to the nodes of the graph that have them.
    fn bodies(
        &mut self,
        model: &Model,
        made: &HashMap<ValueId, usize>,
        places: &HashMap<NodeId, usize>,
    ) {
        let inner = model.all_nodes().filter(|(_, node)| node.graph() != model.root());
        for (id, node) in inner {
            let owner = model.ancestor_in(id, model.root()).and_then(|id| places.get(&id));
            let Some(&owner) = owner else { continue };
            for &value in node.inputs().iter().flatten() {
                if let Some(&from) = made.get(&value) {
                    let ty = self.ty(model, value);
                    self.nodes[owner].inputs.push((Some(from), ty));
                }
            }
        }
    }

    fn layers(&mut self, model: &Model, places: &HashMap<NodeId, usize>) {
        // What only asks for a shape does not carry a layer's result on.
        let asks = |node: &Drawn| matches!(&*self.ops.items[node.op].0, "Shape" | "Size");
        let reads = |node: &Drawn| -> Vec<usize> {
            if asks(node) {
                return Vec::new();
            }
            node.inputs.iter().filter_map(|(from, _)| *from).collect()
        };
        let reads: Vec<Vec<usize>> = self.nodes.iter().map(reads).collect();
        // A Softmax that gives the answer is no attention.
        let is_attention = |id: &NodeId| {
            model[*id].op().is("Softmax")
                && model[*id].output(0).is_some_and(|v| !model.is_output(v))
        };
        let mut softmaxes: Vec<usize> =
            places.iter().filter(|(id, _)| is_attention(id)).map(|(_, &place)| place).collect();
        softmaxes.sort_unstable();
        let (layers, count) = layers::find(&layers::Steps { reads: &reads, softmaxes: &softmaxes });
        for (node, layer) in self.nodes.iter_mut().zip(layers) {
            node.layer = layer;
        }
        self.layers = count;
    }

    /// How many nodes each layer has.
    #[cfg(test)]
    pub(super) fn layer_sizes(&self) -> Vec<usize> {
        let size = |layer| self.nodes.iter().filter(|node| node.layer == Some(layer)).count();
        (0..self.layers).map(size).collect()
    }
}
