//! Builds a model node by node, each computed as soon as it is there: what follows is chosen by what values are.

use std::sync::Arc;

use onnxfix_ir::{
    Attr, AttrValue, Attrs, DataType, GraphId, Model, Name, NewNode, NodeId, Op, Tensor, Type,
    ValueId,
};

use crate::Choices;
use crate::data::{self, DTYPES};
use crate::machine::{Machine, Stuck, Values};

/// Attributes of a node to be made.
pub(crate) type AttrList = Vec<(&'static str, AttrValue)>;

/// The most elements of most values, so that a model is computed in no time.
const ELEMENTS: usize = 600;

/// A model that is being made.
pub(crate) struct Builder<'c, 'a> {
    pub(crate) c: &'c mut Choices<'a>,
    pub(crate) model: Model,
    pub(crate) opset: i64,
    /// The graph that new nodes go to.
    pub(crate) graph: GraphId,
    /// The values that a new node may read, in the order they were made.
    pub(crate) scope: Vec<ValueId>,
    pub(crate) feeds: Vec<(Name, Tensor)>,
    /// Whether the graph is the body of a function: it reads nothing of other graphs and has no initializers.
    pub(crate) in_function: bool,
    /// How deep in bodies the graph is.
    pub(crate) depth: usize,
    /// The most elements that a new value may have.
    pub(crate) most: usize,
    /// Names of constants may be inputs besides, as in old files.
    pub(crate) listed: Vec<ValueId>,
    values: Values,
    /// Whether every node must be evaluated.
    evaluated: bool,
    names: usize,
    /// Operators whose node was dropped, with the reason.
    pub(crate) refused: Vec<(String, String)>,
    /// The first node at which inference and evaluation disagree.
    pub(crate) wrong: Option<String>,
}

impl<'c, 'a> Builder<'c, 'a> {
    pub(crate) fn new(c: &'c mut Choices<'a>, opset: i64, evaluated: bool) -> Builder<'c, 'a> {
        let mut model = Model::new();
        model.header.ir_version = Some(10);
        model.opsets.push(onnxfix_ir::Opset { domain: Some("".into()), version: Some(opset) });
        let graph = model.root();
        *model.graph_mut(graph).name() = Some("g".into());
        Builder {
            c,
            model,
            opset,
            graph,
            scope: Vec::new(),
            feeds: Vec::new(),
            in_function: false,
            depth: 0,
            most: ELEMENTS,
            listed: Vec::new(),
            values: Values::new(),
            evaluated,
            names: 0,
            refused: Vec::new(),
            wrong: None,
        }
    }

    pub(crate) fn name(&mut self, base: &str) -> Name {
        self.names += 1;
        format!("{base}{}", self.names).into()
    }

    /// The elements that a value has.
    pub(crate) fn tensor(&self, value: ValueId) -> Arc<Tensor> {
        self.values
            .get(&value)
            .or_else(|| self.model.constant(value))
            .cloned()
            .unwrap_or_else(|| Arc::new(Tensor::ints(&[])))
    }

    pub(crate) fn dtype(&self, value: ValueId) -> DataType {
        self.tensor(value).dtype
    }

    pub(crate) fn dims(&self, value: ValueId) -> Vec<i64> {
        self.tensor(value).dims.clone()
    }

    pub(crate) fn rank(&self, value: ValueId) -> usize {
        self.tensor(value).dims.len()
    }

    /// Declares a value that something else gives: an input of a body.
    pub(crate) fn body_input(&mut self, graph: GraphId, tensor: Tensor, typed: bool) -> ValueId {
        let name = self.name("b");
        let ty = typed.then(|| Type::tensor(tensor.dtype, &tensor.dims));
        let value = self.model.add_input(graph, name, ty);
        self.values.insert(value, Arc::new(tensor));
        value
    }

    /// An input of the model.
    pub(crate) fn input(&mut self, tensor: Tensor) -> ValueId {
        let name = self.name("x");
        let ty = Type::tensor(tensor.dtype, &tensor.dims);
        let value = self.model.add_input(self.model.root(), name.clone(), Some(ty));
        self.feeds.push((name, tensor.clone()));
        self.values.insert(value, Arc::new(tensor));
        self.show(value);
        value
    }

    /// A constant: an initializer of this graph or the model's, or a Constant node.
    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        if self.in_function || self.c.chance(15) {
            let attrs = vec![("value", AttrValue::from(tensor.clone()))];
            if let Some(made) = self.add("Constant", &[], attrs) {
                return made;
            }
        }
        let graph = if self.c.chance(50) { self.graph } else { self.model.root() };
        let name = self.name("c");
        let value = self.model.add_initializer(graph, name, Arc::new(tensor));
        if graph == self.model.root() && self.c.chance(3) {
            self.listed.push(value);
        }
        self.scope.push(value);
        value
    }

    /// Makes a value of the model's own graph readable, in the bodies that are being made as well.
    fn show(&mut self, value: ValueId) {
        self.scope.push(value);
    }

    /// A value of this type that nothing computes: mostly an input, else a constant.
    pub(crate) fn leaf(&mut self, dtype: DataType, dims: &[i64]) -> ValueId {
        let as_input = !self.in_function && self.c.chance(60);
        let mut tensor = data::random(self.c, dtype, dims, self.depth > 0);
        if as_input {
            // What an NPU takes as int32 must fit it.
            if let Some(ints) = tensor.to_ints() {
                let small: Vec<i64> =
                    ints.iter().map(|&i| if i32::try_from(i).is_ok() { i } else { 3 }).collect();
                tensor = data::from_ints(dtype, dims, &small);
            } else if dtype == DataType::Uint64 {
                tensor = data::from_ints(dtype, dims, &vec![5; data::volume(dims)]);
            }
            self.input(tensor)
        } else {
            self.constant(tensor)
        }
    }

    /// A readable value that is as asked for, the newest ones first.
    pub(crate) fn find(&mut self, wanted: impl Fn(&Tensor) -> bool) -> Option<ValueId> {
        let found: Vec<ValueId> =
            self.scope.iter().copied().filter(|&v| wanted(&self.tensor(v))).collect();
        if found.is_empty() {
            return None;
        }
        let back = if self.c.chance(60) {
            self.c.below(found.len().min(2))
        } else {
            self.c.below(found.len())
        };
        Some(found[found.len() - 1 - back])
    }

    /// A value of one of these types and of at least this rank.
    pub(crate) fn operand(&mut self, dtypes: &[DataType], rank: usize) -> ValueId {
        self.operand_where(dtypes, |dims| dims.len() >= rank, rank)
    }

    /// A value of one of these types, whose dimensions are as asked for; a new one is of this rank.
    pub(crate) fn operand_where(
        &mut self,
        dtypes: &[DataType],
        wanted: impl Fn(&[i64]) -> bool,
        rank: usize,
    ) -> ValueId {
        if self.c.chance(85)
            && let Some(found) = self.find(|t| dtypes.contains(&t.dtype) && wanted(&t.dims))
        {
            return found;
        }
        let dtype = self.pick_dtype(dtypes);
        let rank = rank + usize::from(self.c.chance(30));
        let dims = self.new_dims(rank);
        let dims = if wanted(&dims) { dims } else { vec![2; rank] };
        self.leaf(dtype, &dims)
    }

    /// One of these types that generated values have, floats before others.
    pub(crate) fn pick_dtype(&mut self, dtypes: &[DataType]) -> DataType {
        let of: Vec<DataType> = DTYPES.iter().copied().filter(|d| dtypes.contains(d)).collect();
        if self.c.chance(50) { of[0] } else { *self.c.pick(&of) }
    }

    /// Dimensions: 1 to 5, rarely 0.
    pub(crate) fn new_dims(&mut self, rank: usize) -> Vec<i64> {
        let empty = self.c.chance(3);
        let dims: Vec<i64> = (0..rank)
            .map(|_| {
                if empty && self.c.chance(40) { 0 } else { *self.c.pick(&[2, 1, 3, 4, 1, 5, 2, 6]) }
            })
            .collect();
        if data::volume(&dims) > ELEMENTS { vec![2; rank] } else { dims }
    }

    /// An axis, counted from the front or from the back.
    pub(crate) fn axis(&mut self, rank: usize) -> (usize, i64) {
        let axis = self.c.below(rank);
        (axis, self.written(axis, rank))
    }

    /// An axis as a file may write it.
    pub(crate) fn written(&mut self, axis: usize, rank: usize) -> i64 {
        // Axes from the back came with opset 11 to most operators.
        if self.opset >= 11 && self.c.chance(35) { axis as i64 - rank as i64 } else { axis as i64 }
    }

    /// A node with one output.
    pub(crate) fn add(
        &mut self,
        op: &str,
        inputs: &[Option<ValueId>],
        attrs: AttrList,
    ) -> Option<ValueId> {
        self.add_many(op, inputs, attrs, 1).map(|made| made[0])
    }

    /// A node of ONNX's own domain. None where the operator is newer than the model, or refuses its inputs.
    pub(crate) fn add_many(
        &mut self,
        op: &str,
        inputs: &[Option<ValueId>],
        attrs: AttrList,
        outputs: usize,
    ) -> Option<Vec<ValueId>> {
        let attrs = attrs.into_iter().map(|(name, value)| Attr::new(name, value)).collect();
        self.add_op(Op::new(None, op.into()), inputs, attrs, outputs)
    }

    pub(crate) fn add_op(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        outputs: usize,
    ) -> Option<Vec<ValueId>> {
        if op.def.is_some_and(|def| def.since(self.opset).is_none()) {
            // Bodies that were made for the node go with it.
            attrs
                .graphs()
                .map(|(_, body)| body)
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|b| self.model.remove_graph(b));
            return None;
        }
        let mut inputs = inputs.to_vec();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let op_name = op.name.as_str().to_owned();
        let outputs: Vec<Option<Name>> = (0..outputs).map(|_| Some(self.name("v"))).collect();
        // A random operator without a seed is known by its name, which calls of a function would share.
        let draws =
            op_name.starts_with("Random") || ["Bernoulli", "Multinomial"].contains(&&*op_name);
        let mut attrs = attrs;
        if draws && self.in_function && attrs.get("seed").is_none() {
            attrs.set("seed", 0.5_f32);
        }
        let name = Some(self.name("n")).filter(|_| draws || self.c.chance(20));
        let node =
            self.model.add_node(self.graph, None, NewNode { op, name, inputs, outputs, attrs });
        let mut machine = Machine::new(&self.model);
        machine.values = std::mem::take(&mut self.values);
        let done = machine.node(node);
        let left_out = self.evaluated && machine.unknown > 0;
        self.values = machine.values;
        match done {
            Ok(()) => {}
            Err(Stuck::Refused(why)) => {
                self.refused.push((op_name, why));
                self.model.remove_node(node);
                return None;
            }
            Err(Stuck::Wrong(why)) => {
                self.wrong.get_or_insert(why);
                self.model.remove_node(node);
                return None;
            }
        }
        let made: Vec<ValueId> = self.model[node].outputs().iter().flatten().copied().collect();
        if left_out || made.iter().any(|&v| !self.is_small(&self.dims(v))) {
            self.model.remove_node(node);
            return None;
        }
        self.scope.extend(&made);
        Some(made)
    }

    /// Integers for a shape, axes or bounds: constant, computed from constants or from shapes, or an input.
    pub(crate) fn ints(&mut self, ints: &[i64]) -> ValueId {
        self.ints_of(DataType::Int64, ints)
    }

    /// The same of this type.
    pub(crate) fn ints_of(&mut self, dtype: DataType, ints: &[i64]) -> ValueId {
        let tensor = data::from_ints(dtype, &[ints.len() as i64], ints);
        match self.c.below(20) {
            // An input cannot be known: nothing may be assumed of it.
            18 if !self.in_function && ints.iter().all(|&i| i32::try_from(i).is_ok()) => {
                self.input(tensor)
            }
            16 | 17 | 19 if dtype == DataType::Int64 && !ints.is_empty() => {
                self.computed(ints).unwrap_or_else(|| self.constant(tensor))
            }
            _ => self.constant(tensor),
        }
    }

    /// The same integers from a computation of shapes, as exporters write it.
    fn computed(&mut self, ints: &[i64]) -> Option<ValueId> {
        let mut parts = Vec::new();
        for &n in ints {
            let place = self.find(|t| t.dims.contains(&n)).filter(|_| self.c.chance(70));
            let scalar = if let Some(value) = place {
                let at = self.dims(value).iter().position(|&d| d == n)? as i64;
                let shape = self.add("Shape", &[Some(value)], vec![])?;
                let at = self.constant(Tensor::scalar(at));
                self.add("Gather", &[Some(shape), Some(at)], vec![("axis", 0.into())])?
            } else {
                let part = self.c.between(-3, 3);
                let a = self.constant(Tensor::scalar(part));
                let b = self.constant(Tensor::scalar(n.wrapping_sub(part)));
                self.add("Add", &[Some(a), Some(b)], vec![])?
            };
            parts.push(Some(self.unsqueeze(scalar, &[0])?));
        }
        self.add("Concat", &parts, vec![("axis", 0.into())])
    }

    /// An operator whose axes are an attribute until `since` and an input from then on.
    pub(crate) fn with_axes(
        &mut self,
        op: &str,
        x: ValueId,
        axes: Option<&[i64]>,
        since: i64,
        mut attrs: AttrList,
    ) -> Option<ValueId> {
        let mut inputs = vec![Some(x)];
        match axes {
            Some(axes) if self.opset >= since => inputs.push(Some(self.ints(axes))),
            Some(axes) => attrs.push(("axes", axes.into())),
            None => {}
        }
        self.add(op, &inputs, attrs)
    }

    pub(crate) fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> Option<ValueId> {
        self.with_axes("Unsqueeze", x, Some(axes), 13, vec![])
    }

    /// Whether a value may have these dimensions.
    fn is_small(&self, dims: &[i64]) -> bool {
        data::volume(dims) <= self.most && dims.len() <= 6
    }

    /// The node that made a value.
    pub(crate) fn producer(&self, value: ValueId) -> Option<NodeId> {
        self.model.producer(value)
    }
}
