//! The one writer of def-use edges: both sides of an edge change together or not at all.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a slot counts inputs of one node, which are fewer than 2^32"
)]

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::model::{Def, Graph, GraphId, Model, Node, NodeId, Op, Use, Value, ValueId};
use crate::{Attrs, Name, Shape, Tensor, TensorType, Type};

/// Uses of one value from which on their positions are kept.
const MANY_USES: usize = 1 << 12;

/// A node to be made: what [`Model::add_node`] needs to know.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Operator.
    pub op: Op,
    /// Name of the node.
    pub name: Option<Name>,
    /// Inputs in order.
    pub inputs: Vec<Option<ValueId>>,
    /// Names of the outputs in order; `None` leaves an optional output out.
    pub outputs: Vec<Option<Name>>,
    /// Attributes.
    pub attrs: Attrs,
}

impl NewNode {
    /// A node of ONNX's own domain with one output of that name.
    #[must_use]
    pub fn new(op: &str, inputs: &[ValueId], output: Name) -> NewNode {
        NewNode {
            op: Op::new(None, op.into()),
            name: None,
            inputs: inputs.iter().map(|&v| Some(v)).collect(),
            outputs: vec![Some(output)],
            attrs: Attrs::default(),
        }
    }

    /// With an attribute more.
    #[must_use]
    pub fn attr(mut self, name: &str, value: impl Into<crate::AttrValue>) -> NewNode {
        self.attrs.set(name, value);
        self
    }
}

impl Model {
    /// A model with an empty graph and no operator sets.
    #[must_use]
    pub fn new() -> Model {
        let mut model = Model::default();
        let root = model.graphs.push(Graph::default());
        model.root = Some(root);
        model
    }

    /// An empty graph: a body of `owner`, or of a function when there is none.
    pub fn add_graph(&mut self, owner: Option<NodeId>) -> GraphId {
        self.graphs.push(Graph { owner, ..Graph::default() })
    }

    /// Name, documentation and other fields of a graph that hold no edges.
    pub fn graph_mut(&mut self, graph: GraphId) -> GraphMut<'_> {
        GraphMut(&mut self.graphs[graph])
    }

    /// Sets the node that a graph is a body of; loading makes bodies before their nodes.
    pub(crate) fn set_owner(&mut self, graph: GraphId, owner: NodeId) {
        self.graphs[graph].owner = Some(owner);
    }

    fn add_value(&mut self, graph: GraphId, name: Name, def: Def, ty: Option<Type>) -> ValueId {
        *self.names.entry(name.clone()).or_default() += 1;
        self.values.push(Value { ty, extra: None, name, def, uses: SmallVec::new(), graph })
    }

    /// A value that nothing defines yet; loading makes them for names that are read first.
    pub(crate) fn add_missing(&mut self, graph: GraphId, name: Name) -> ValueId {
        self.add_value(graph, name, Def::Missing, None)
    }

    /// An input at the end of the graph's inputs.
    pub fn add_input(&mut self, graph: GraphId, name: Name, ty: Option<Type>) -> ValueId {
        let value = self.add_value(graph, name, Def::Input, ty);
        self.graphs[graph].inputs.push(value);
        value
    }

    /// Lists a value among the graph's inputs: an initializer of an old file.
    pub(crate) fn list_input(&mut self, graph: GraphId, value: ValueId) {
        self.graphs[graph].inputs.push(value);
    }

    /// Takes initializers out of the graph's inputs, so that no caller can override them; says how many.
    pub fn unlist_initializers(&mut self, graph: GraphId) -> usize {
        let mut inputs = std::mem::take(&mut self.graphs[graph].inputs);
        let before = inputs.len();
        inputs.retain(|&v| matches!(self.values[v].def, Def::Input));
        let after = inputs.len();
        self.graphs[graph].inputs = inputs;
        before - after
    }

    /// A constant at the end of the graph's initializers.
    pub fn add_initializer(&mut self, graph: GraphId, name: Name, tensor: Arc<Tensor>) -> ValueId {
        let ty = Type::Tensor(TensorType::new(tensor.dtype, Shape::fixed(&tensor.dims)));
        let value = self.add_value(graph, name, Def::Initializer(tensor), Some(ty));
        self.graphs[graph].initializers.push(value);
        value
    }

    /// Makes a value that nothing defines a constant.
    pub(crate) fn define(&mut self, value: ValueId, def: Def) {
        debug_assert!(matches!(self.values[value].def, Def::Missing));
        if let Def::Initializer(tensor) = &def
            && self.values[value].ty.is_none()
        {
            self.values[value].ty =
                Some(Type::Tensor(TensorType::new(tensor.dtype, Shape::fixed(&tensor.dims))));
        }
        if matches!(def, Def::Initializer(_) | Def::Sparse(_)) {
            let graph = self.values[value].graph;
            self.graphs[graph].initializers.push(value);
        }
        self.values[value].def = def;
    }

    /// Replaces the elements of an initializer by others of the same type and dimensions.
    ///
    /// # Panics
    /// When the value is no initializer, or the type differs: the caller looked at both.
    pub fn set_tensor(&mut self, value: ValueId, tensor: Arc<Tensor>) {
        let old = self.values[value].tensor().expect("an initializer");
        assert!(
            old.dtype == tensor.dtype && old.dims == tensor.dims,
            "type of an initializer stays"
        );
        self.values[value].def = Def::Initializer(tensor);
    }

    /// Turns the single output of a node into a constant of the same graph and removes the node.
    /// The value keeps its name and its uses.
    ///
    /// # Panics
    /// When the value is not the output of a node: the caller looked.
    pub fn make_initializer(&mut self, value: ValueId, tensor: Arc<Tensor>) {
        let Def::Node { node, slot } = self.values[value].def else { panic!("output of a node") };
        self.nodes[node].outputs[slot as usize] = None;
        self.values[value].def = Def::Missing;
        self.values[value].ty = None;
        self.define(value, Def::Initializer(tensor));
        if self.nodes[node].outputs.iter().all(Option::is_none) {
            self.remove_node(node);
        }
    }

    /// Lists a value as the next output of a graph.
    pub fn add_output(&mut self, graph: GraphId, value: ValueId) {
        let slot = self.graphs[graph].outputs.len() as u32;
        self.graphs[graph].outputs.push(value);
        self.add_use(value, Use::Output { graph, slot });
    }

    /// A node of `graph` before `before`, or at the end. Its outputs are new values of unknown type.
    pub fn add_node(&mut self, graph: GraphId, before: Option<NodeId>, new: NewNode) -> NodeId {
        let NewNode { op, name, inputs, outputs, attrs } = new;
        let node = self.nodes.push(Node {
            name,
            attrs,
            doc_string: None,
            metadata: Vec::new(),
            overload: None,
            device_configurations: Vec::new(),
            op,
            inputs: inputs.into(),
            outputs: SmallVec::new(),
            graph,
            prev: None,
            next: None,
        });
        self.link(graph, before, node);
        for slot in 0..self.nodes[node].inputs.len() {
            if let Some(value) = self.nodes[node].inputs[slot] {
                self.add_use(value, Use::Input { node, slot: slot as u32 });
            }
        }
        for (slot, name) in outputs.into_iter().enumerate() {
            let slot = slot as u32;
            let value =
                name.map(|name| self.add_value(graph, name, Def::Node { node, slot }, None));
            self.nodes[node].outputs.push(value);
        }
        let bodies: Vec<GraphId> = self.nodes[node].attrs.graphs().map(|(_, g)| g).collect();
        for body in bodies {
            self.set_owner(body, node);
        }
        node
    }

    /// Gives a node one more input; loading does, once all names are known.
    pub(crate) fn attach_input(&mut self, node: NodeId, value: Option<ValueId>) {
        let slot = self.nodes[node].inputs.len() as u32;
        self.nodes[node].inputs.push(value);
        if let Some(value) = value {
            self.add_use(value, Use::Input { node, slot });
        }
    }

    /// Makes a value that nothing defines the output of a node; loading does, for names that are read first.
    pub(crate) fn attach_output(&mut self, node: NodeId, value: Option<ValueId>) {
        let slot = self.nodes[node].outputs.len() as u32;
        self.nodes[node].outputs.push(value);
        if let Some(value) = value {
            debug_assert!(matches!(self.values[value].def, Def::Missing));
            self.values[value].def = Def::Node { node, slot };
        }
    }

    fn link(&mut self, graph: GraphId, before: Option<NodeId>, node: NodeId) {
        let prev = match before {
            Some(next) => self.nodes[next].prev.replace(node),
            None => self.graphs[graph].last.replace(node),
        };
        match prev {
            Some(prev) => self.nodes[prev].next = Some(node),
            None => self.graphs[graph].first = Some(node),
        }
        self.nodes[node].prev = prev;
        self.nodes[node].next = before;
        self.graphs[graph].len += 1;
    }

    fn unlink(&mut self, node: NodeId) {
        let (graph, prev, next) =
            (self.nodes[node].graph, self.nodes[node].prev, self.nodes[node].next);
        match prev {
            Some(prev) => self.nodes[prev].next = next,
            None => self.graphs[graph].first = next,
        }
        match next {
            Some(next) => self.nodes[next].prev = prev,
            None => self.graphs[graph].last = prev,
        }
        self.graphs[graph].len -= 1;
    }

    /// Puts the nodes of a graph into this order, which must name each of them once.
    pub(crate) fn reorder(&mut self, graph: GraphId, order: &[NodeId]) {
        debug_assert_eq!(order.len(), self.graphs[graph].len);
        self.graphs[graph].first = order.first().copied();
        self.graphs[graph].last = order.last().copied();
        for (i, &node) in order.iter().enumerate() {
            self.nodes[node].prev = i.checked_sub(1).map(|p| order[p]);
            self.nodes[node].next = order.get(i + 1).copied();
        }
    }

    /// Name, attributes and other fields of a node that hold no edges.
    ///
    /// Bodies among the attributes must stay the graphs they are.
    pub fn node_mut(&mut self, node: NodeId) -> NodeMut<'_> {
        NodeMut(&mut self.nodes[node])
    }

    /// Makes input `slot` of a node read `value`.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: Option<ValueId>) {
        let use_ = Use::Input { node, slot: slot as u32 };
        if let Some(old) = self.nodes[node].inputs[slot] {
            self.remove_use(old, use_);
        }
        self.nodes[node].inputs[slot] = value;
        if let Some(new) = value {
            self.add_use(new, use_);
        }
    }

    /// Makes `value` the next input of a node.
    pub fn push_input(&mut self, node: NodeId, value: ValueId) {
        let slot = self.nodes[node].inputs.len() as u32;
        self.nodes[node].inputs.push(Some(value));
        self.add_use(value, Use::Input { node, slot });
    }

    /// Drops the inputs of a node from `len` on.
    pub fn truncate_inputs(&mut self, node: NodeId, len: usize) {
        for slot in len..self.nodes[node].inputs.len() {
            self.set_input(node, slot, None);
        }
        self.nodes[node].inputs.truncate(len);
    }

    fn add_use(&mut self, value: ValueId, use_: Use) {
        let uses = &mut self.values[value].uses;
        if let Some(positions) = self.positions.get_mut(&value) {
            positions.insert(use_, uses.len());
        }
        uses.push(use_);
    }

    /// The uses of a value stay in order, unless they are very many: then looking for one and closing the gap would take
    /// a time that is quadratic in them.
    fn remove_use(&mut self, value: ValueId, use_: Use) {
        let uses = &mut self.values[value].uses;
        if uses.len() < MANY_USES && !self.positions.contains_key(&value) {
            let at = uses.iter().position(|&u| u == use_).expect("edges are reciprocal");
            uses.remove(at);
            return;
        }
        let index = || uses.iter().enumerate().map(|(at, &use_)| (use_, at)).collect();
        let positions = self.positions.entry(value).or_insert_with(index);
        let at = positions.remove(&use_).expect("edges are reciprocal");
        uses.swap_remove(at);
        if let Some(&moved) = uses.get(at) {
            positions.insert(moved, at);
        }
        if uses.is_empty() {
            self.positions.remove(&value);
        }
    }

    /// Makes every use of `old` read `new`. Afterwards `old` is dead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        self.positions.remove(&old);
        for use_ in std::mem::take(&mut self.values[old].uses) {
            match use_ {
                Use::Input { node, slot } => self.nodes[node].inputs[slot as usize] = Some(new),
                Use::Output { graph, slot } => self.graphs[graph].outputs[slot as usize] = new,
            }
            self.add_use(new, use_);
        }
    }

    /// Exchanges the names of two values: what replaces a public value takes its name.
    pub fn swap_names(&mut self, a: ValueId, b: ValueId) {
        let name = self.values[a].name.clone();
        let other = std::mem::replace(&mut self.values[b].name, name);
        self.values[a].name = other;
    }

    /// Gives a value another name, which must be free.
    pub fn rename(&mut self, value: ValueId, name: Name) {
        let old = std::mem::replace(&mut self.values[value].name, name.clone());
        self.forget_name(&old);
        *self.names.entry(name).or_default() += 1;
    }

    fn forget_name(&mut self, name: &Name) {
        if let Some(n) = self.names.get_mut(name) {
            *n -= 1;
            if *n == 0 {
                self.names.remove(name);
            }
        }
    }

    /// Sets what is known of a value's type; says whether that is news.
    pub fn set_type(&mut self, value: ValueId, ty: Option<Type>) -> bool {
        if self.values[value].ty == ty {
            return false;
        }
        // The exact form in the file speaks of the old type.
        if let Some(extra) = &mut self.values[value].extra {
            extra.type_proto = None;
        }
        self.values[value].ty = ty;
        true
    }

    /// Makes `value_info` list every node output whose type is known, graph outputs left out, in node order.
    /// Says whether the list changed.
    pub fn list_value_info(&mut self, graph: GraphId) -> bool {
        let nodes: Vec<NodeId> = self.nodes(graph).collect();
        let outputs = nodes.iter().flat_map(|&n| self.nodes[n].outputs.iter().flatten().copied());
        let list: Vec<ValueId> =
            outputs.filter(|&v| self.values[v].ty.is_some() && !self.is_output(v)).collect();
        let changed = self.graphs[graph].value_info != list;
        self.graphs[graph].value_info = list;
        changed
    }

    /// Copies the nodes and initializers of `body` into `graph` before `before`. Reads of the body's inputs become
    /// reads of `args`, references to attributes of a function become those of `call`. Returns the values that the
    /// body's outputs became.
    pub fn copy_body(
        &mut self,
        body: GraphId,
        graph: GraphId,
        before: NodeId,
        args: &[Option<ValueId>],
        call: &Attrs,
    ) -> Vec<ValueId> {
        let mut map: HashMap<ValueId, Option<ValueId>> = HashMap::new();
        for (slot, &input) in self.graphs[body].inputs.clone().iter().enumerate() {
            map.insert(input, args.get(slot).copied().flatten());
        }
        self.copy_into(body, graph, Some(before), &mut map, call);
        self.graphs[body]
            .outputs
            .iter()
            .map(|v| map.get(v).copied().flatten().unwrap_or(*v))
            .collect()
    }

    fn copy_into(
        &mut self,
        body: GraphId,
        graph: GraphId,
        before: Option<NodeId>,
        map: &mut HashMap<ValueId, Option<ValueId>>,
        call: &Attrs,
    ) {
        for v in self.graphs[body].initializers.clone() {
            if let Def::Initializer(tensor) = self.values[v].def.clone() {
                let name = self.fresh_name(&self.values[v].name);
                map.insert(v, Some(self.add_initializer(graph, name, tensor)));
            }
        }
        let nodes: Vec<NodeId> = self.nodes(body).collect();
        for node in nodes {
            let old = self.nodes[node].clone();
            // A value from outside of the body stays what it is.
            let inputs = old
                .inputs
                .iter()
                .map(|i| i.and_then(|v| map.get(&v).copied().unwrap_or(Some(v))))
                .collect();
            let outputs: Vec<Option<Name>> = old
                .outputs
                .iter()
                .map(|o| o.map(|v| self.fresh_name(&self.values[v].name)))
                .collect();
            let mut attrs = Attrs::default();
            for mut attr in old.attrs.0 {
                if let crate::AttrValue::Ref(name, _) = &attr.value {
                    match call.get(name) {
                        Some(value) => attr.value = value.clone(),
                        None => continue,
                    }
                }
                attrs.0.push(attr);
            }
            // Bodies are copied once their captures have been.
            let bodies: Vec<GraphId> = attrs.graphs().map(|(_, g)| g).collect();
            let copies: Vec<GraphId> =
                bodies.iter().map(|&g| self.copy_graph(g, map, call)).collect();
            let mut copies = copies.into_iter();
            for attr in &mut attrs.0 {
                match &mut attr.value {
                    crate::AttrValue::Graph(g) => *g = copies.next().unwrap_or(*g),
                    crate::AttrValue::Graphs(gs) => {
                        for g in gs {
                            *g = copies.next().unwrap_or(*g);
                        }
                    }
                    _ => {}
                }
            }
            let copy = self.add_node(
                graph,
                before,
                NewNode { op: old.op, name: old.name, inputs, outputs, attrs },
            );
            let new = &mut self.nodes[copy];
            new.doc_string = old.doc_string;
            new.metadata = old.metadata;
            new.overload = old.overload;
            new.device_configurations = old.device_configurations;
            for (from, to) in old.outputs.iter().zip(self.nodes[copy].outputs.clone()) {
                if let (Some(from), Some(to)) = (from, to) {
                    map.insert(*from, Some(to));
                    let ty = self.values[*from].ty.clone();
                    self.values[to].ty = ty;
                }
            }
        }
    }

    fn copy_graph(
        &mut self,
        graph: GraphId,
        map: &mut HashMap<ValueId, Option<ValueId>>,
        call: &Attrs,
    ) -> GraphId {
        let copy = self.graphs.push(Graph {
            name: self.graphs[graph].name.clone(),
            doc_string: self.graphs[graph].doc_string.clone(),
            metadata: self.graphs[graph].metadata.clone(),
            ..Graph::default()
        });
        for v in self.graphs[graph].inputs.clone() {
            let name = self.fresh_name(&self.values[v].name);
            let ty = self.values[v].ty.clone();
            map.insert(v, Some(self.add_input(copy, name, ty)));
        }
        self.copy_into(graph, copy, None, map, call);
        for v in self.graphs[graph].outputs.clone() {
            self.add_output(copy, map.get(&v).copied().flatten().unwrap_or(v));
        }
        copy
    }

    /// What the file says of a value beside its name and type.
    pub fn extra_mut(&mut self, value: ValueId) -> &mut crate::model::ValueExtra {
        self.values[value].extra.get_or_insert_default()
    }

    /// Removes a node with its bodies and its outputs, which must have no uses.
    ///
    /// # Panics
    /// When an output is still read.
    pub fn remove_node(&mut self, node: NodeId) {
        for slot in 0..self.nodes[node].inputs.len() {
            self.set_input(node, slot, None);
        }
        for slot in 0..self.nodes[node].outputs.len() {
            if let Some(value) = self.nodes[node].outputs[slot] {
                self.remove_value(value);
            }
        }
        let bodies: Vec<GraphId> = self.nodes[node].attrs.graphs().map(|(_, g)| g).collect();
        for body in bodies {
            self.remove_graph(body);
        }
        self.unlink(node);
        self.nodes.remove(node);
    }

    /// Removes initializers of `graph` that nothing reads; says how many.
    pub fn remove_dead_initializers(&mut self, graph: GraphId) -> usize {
        let mut list = std::mem::take(&mut self.graphs[graph].initializers);
        let before = list.len();
        let inputs = std::mem::take(&mut self.graphs[graph].inputs);
        list.retain(|&v| {
            let live = !self.values[v].uses.is_empty() || inputs.contains(&v);
            if !live {
                self.drop_value(v);
            }
            live
        });
        let removed = before - list.len();
        self.graphs[graph].inputs = inputs;
        self.graphs[graph].initializers = list;
        removed
    }

    /// Removes a graph with everything in it.
    pub fn remove_graph(&mut self, graph: GraphId) {
        for slot in 0..self.graphs[graph].outputs.len() {
            let value = self.graphs[graph].outputs[slot];
            self.remove_use(value, Use::Output { graph, slot: slot as u32 });
        }
        self.graphs[graph].outputs.clear();
        // Backwards, so that each node's outputs have lost their uses.
        while let Some(last) = self.graphs[graph].last {
            self.remove_node(last);
        }
        let Some(removed) = self.graphs.remove(graph) else { return };
        // A value may be in several of these lists, and those of `value_info` may be gone already.
        for value in [removed.inputs, removed.initializers, removed.value_info].concat() {
            if self.values.get(value).is_some_and(|v| v.graph == graph) {
                self.drop_value(value);
            }
        }
    }

    fn remove_value(&mut self, value: ValueId) {
        let v = &self.values[value];
        assert!(v.uses.is_empty(), "removed value {:?} is still read", v.name);
        self.drop_value(value);
    }

    fn drop_value(&mut self, value: ValueId) {
        let name = self.values[value].name.clone();
        self.forget_name(&name);
        self.positions.remove(&value);
        self.values.remove(value);
    }

    /// A name that no value bears: `base`, or `base` with a number.
    #[must_use]
    pub fn fresh_name(&self, base: &str) -> Name {
        if !base.is_empty() && !self.names.contains_key(base) {
            return base.into();
        }
        let name = |n: u64| format!("{base}_{n}");
        let is_free = |n: u64| !self.names.contains_key(name(n).as_str());
        // There may be as many of these names as there are calls of a function, so they are not all tried: the steps
        // double up to a free one, and halve back to one that a taken one comes before.
        let mut free = 1;
        while !is_free(free) {
            free *= 2;
        }
        let mut taken = free / 2;
        while free - taken > 1 {
            let middle = taken + (free - taken) / 2;
            if is_free(middle) { free = middle } else { taken = middle }
        }
        name(free).into()
    }
}

/// Fields of a graph that hold no edges.
pub struct GraphMut<'a>(&'a mut Graph);

impl GraphMut<'_> {
    /// Name of the graph.
    pub fn name(&mut self) -> &mut Option<Name> {
        &mut self.0.name
    }
    /// Documentation.
    pub fn doc_string(&mut self) -> &mut Option<String> {
        &mut self.0.doc_string
    }
    /// Free key-value pairs.
    pub fn metadata(&mut self) -> &mut Vec<(String, String)> {
        &mut self.0.metadata
    }
    /// Quantisation annotations.
    pub fn quantization(&mut self) -> &mut Vec<crate::proto::TensorAnnotation> {
        &mut self.0.quantization
    }
    /// Values whose types are stored, in order.
    pub fn value_info(&mut self) -> &mut Vec<ValueId> {
        &mut self.0.value_info
    }
}

/// Fields of a node that hold no edges.
pub struct NodeMut<'a>(&'a mut Node);

impl NodeMut<'_> {
    /// Name of the node.
    pub fn name(&mut self) -> &mut Option<Name> {
        &mut self.0.name
    }
    /// Attributes; bodies among them must stay the graphs they are.
    pub fn attrs(&mut self) -> &mut Attrs {
        &mut self.0.attrs
    }
    /// Documentation.
    pub fn doc_string(&mut self) -> &mut Option<String> {
        &mut self.0.doc_string
    }
    /// Free key-value pairs.
    pub fn metadata(&mut self) -> &mut Vec<(String, String)> {
        &mut self.0.metadata
    }
    /// Which of several functions of one name is called.
    pub fn overload(&mut self) -> &mut Option<Name> {
        &mut self.0.overload
    }
    /// Device configurations.
    pub fn device_configurations(
        &mut self,
    ) -> &mut Vec<crate::proto::NodeDeviceConfigurationProto> {
        &mut self.0.device_configurations
    }
}
