//! Nodes with bodies, and calls of functions.

use onnxfix_ir::{Attr, AttrValue, Attrs, DataType, Function, GraphId, Op, Opset, Tensor, ValueId};

use crate::build::Builder;
use crate::data::{self, DTYPES};
use crate::{motifs, ops};

/// Bodies in bodies are as deep as this.
const DEPTH: usize = 2;

/// Domain of the functions.
const LOCAL: &str = "local";

/// What a body is made in: the graph around it comes back when it is done.
struct Outside {
    graph: GraphId,
    scope: Vec<ValueId>,
}

impl Builder<'_, '_> {
    /// Begins a body. It reads what the graph around it has.
    fn begin(&mut self) -> (GraphId, Outside) {
        let body = self.model.add_graph(None);
        *self.model.graph_mut(body).name() = Some(self.name("body"));
        let outside = Outside { graph: self.graph, scope: self.scope.clone() };
        self.graph = body;
        self.depth += 1;
        (body, outside)
    }

    /// Goes back to the graph around a body.
    fn end(&mut self, outside: Outside) {
        self.graph = outside.graph;
        self.scope = outside.scope;
        self.depth -= 1;
    }

    /// A few nodes.
    fn some_nodes(&mut self) {
        for _ in 0..=self.c.below(3) {
            any(self);
        }
    }

    /// A value that the current graph makes, of this type, and not among `taken`; made for it where there is none.
    /// Nothing says that a body may give one value twice, and ONNX Runtime computes nonsense then.
    fn own(&mut self, dtype: DataType, dims: Option<&[i64]>, taken: &[ValueId]) -> Option<ValueId> {
        let (graph, root) = (self.graph, self.model.root());
        let own: Vec<ValueId> = self
            .scope
            .iter()
            .copied()
            .filter(|&v| self.model[v].graph() == graph && graph != root)
            .collect();
        let found = own.into_iter().rev().find(|&v| {
            let tensor = self.tensor(v);
            tensor.dtype == dtype
                && dims.is_none_or(|d| d == tensor.dims)
                && self.producer(v).is_some()
                && !taken.contains(&v)
        });
        if found.is_some() && self.c.chance(80) {
            return found;
        }
        let source = self.find(|t| t.dtype == dtype && dims.is_none_or(|d| d == t.dims));
        let source = if let Some(value) = source {
            value
        } else {
            let tensor = data::random(self.c, dtype, dims.unwrap_or(&[2]), true);
            self.constant(tensor)
        };
        self.add("Identity", &[Some(source)], vec![])
    }
}

/// One node, or one of the patterns that passes look for.
pub(crate) fn any(b: &mut Builder<'_, '_>) {
    if b.c.chance(45) {
        motifs::any(b);
        return;
    }
    let all = ops::generated();
    let operator = all[b.c.below(all.len())];
    if operator.attrs.iter().any(|a| a.type_code == 5) && (b.depth >= DEPTH || b.in_function) {
        return;
    }
    ops::node(b, operator);
}

/// A condition: constant, computed, or an input.
fn condition(b: &mut Builder<'_, '_>) -> ValueId {
    let holds = b.c.chance(50);
    match b.c.below(4) {
        0 if !b.in_function => b.input(Tensor::scalar(holds)),
        1 => {
            let x = b.operand(DTYPES, 0);
            let n = b.c.between(0, 12);
            let made = b.add("Size", &[Some(x)], vec![]).and_then(|size| {
                let bound = b.constant(Tensor::scalar(n));
                // Less takes integers from opset 9 on.
                let op = if b.opset >= 9 { "Less" } else { "Equal" };
                b.add(op, &[Some(size), Some(bound)], vec![])
            });
            made.unwrap_or_else(|| b.constant(Tensor::scalar(holds)))
        }
        _ => b.constant(Tensor::scalar(holds)),
    }
}

pub(crate) fn branch(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.depth >= DEPTH {
        return None;
    }
    let condition = condition(b);
    let (then, outside) = b.begin();
    b.some_nodes();
    let dtype = b.pick_dtype(DTYPES);
    let count = 1 + b.c.below(2);
    let mut given = Vec::new();
    for _ in 0..count {
        given.extend(b.own(dtype, None, &given));
    }
    b.end(outside);
    let (other, outside) = b.begin();
    b.some_nodes();
    let mut also = Vec::new();
    for &value in &given {
        let dims = b.dims(value);
        let same = b.c.chance(80);
        also.extend(b.own(dtype, same.then_some(&dims[..]), &also));
    }
    b.end(outside);
    if given.is_empty() || also.len() != given.len() {
        b.model.remove_graph(then);
        b.model.remove_graph(other);
        return None;
    }
    for &value in &given {
        b.model.add_output(then, value);
    }
    for &value in &also {
        b.model.add_output(other, value);
    }
    let bodies =
        vec![("then_branch", AttrValue::Graph(then)), ("else_branch", AttrValue::Graph(other))];
    Some(b.add_many("If", &[Some(condition)], bodies, given.len())?[0])
}

pub(crate) fn repeat(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.depth >= DEPTH || b.opset < 11 {
        return None;
    }
    let rounds = b.c.between(1, 3);
    let rounds = b.constant(Tensor::scalar(rounds));
    let go = if b.c.chance(60) { Some(b.constant(Tensor::scalar(true))) } else { None };
    let carried: Vec<ValueId> = (0..=b.c.below(2)).map(|_| b.operand(DTYPES, 0)).collect();
    let (body, outside) = b.begin();
    let round = b.body_input(body, Tensor::scalar(0_i64), true);
    let still = b.body_input(body, Tensor::scalar(true), true);
    b.scope.extend([round, still]);
    for &value in &carried {
        let input = b.body_input(body, Tensor::clone(&b.tensor(value)), true);
        b.scope.push(input);
    }
    b.some_nodes();
    let mut given = vec![b.add("Identity", &[Some(still)], vec![])?];
    for &value in &carried {
        let (dtype, dims) = (b.dtype(value), b.dims(value));
        given.extend(b.own(dtype, Some(&dims), &given));
    }
    let more = b.c.below(2);
    for _ in 0..more {
        given.extend(b.own(DataType::Float, None, &given));
    }
    b.end(outside);
    if given.len() != 1 + carried.len() + more {
        b.model.remove_graph(body);
        return None;
    }
    for &value in &given {
        b.model.add_output(body, value);
    }
    let mut inputs = vec![Some(rounds), go];
    inputs.extend(carried.iter().copied().map(Some));
    let made =
        b.add_many("Loop", &inputs, vec![("body", AttrValue::Graph(body))], given.len() - 1)?;
    Some(*b.c.pick(&made))
}

pub(crate) fn scan(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.depth >= DEPTH || b.opset < 9 {
        return None;
    }
    let state = b.operand(DTYPES, 0);
    let sequence = b.operand_where(DTYPES, |d| !d.is_empty() && !d.contains(&0), 2);
    let dims = b.dims(sequence);
    let first = data::random(b.c, b.dtype(sequence), &dims[1..], true);
    let (body, outside) = b.begin();
    let inside = b.body_input(body, Tensor::clone(&b.tensor(state)), true);
    let element = b.body_input(body, first, true);
    b.scope.extend([inside, element]);
    b.some_nodes();
    let (dtype, dims) = (b.dtype(state), b.dims(state));
    let mut given: Vec<ValueId> = b.own(dtype, Some(&dims), &[]).into_iter().collect();
    given.extend(b.own(DataType::Float, None, &given));
    b.end(outside);
    if given.len() != 2 {
        b.model.remove_graph(body);
        return None;
    }
    for &value in &given {
        b.model.add_output(body, value);
    }
    let mut attrs = vec![("body", AttrValue::Graph(body)), ("num_scan_inputs", 1.into())];
    if b.c.chance(30) {
        attrs.push(("scan_input_directions", vec![1].into()));
    }
    let made = b.add_many("Scan", &[Some(state), Some(sequence)], attrs, 2)?;
    Some(*b.c.pick(&made))
}

/// A function of the model, called once or twice.
pub(crate) fn call(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.in_function || b.depth > 0 {
        return None;
    }
    let arguments: Vec<ValueId> = (0..=b.c.below(2)).map(|_| b.operand(DTYPES, 0)).collect();
    let (body, outside) = b.begin();
    b.in_function = true;
    b.scope.clear();
    for &value in &arguments {
        let input = b.body_input(body, Tensor::clone(&b.tensor(value)), false);
        b.scope.push(input);
    }
    b.some_nodes();
    // An attribute of the call reaches a node inside.
    let sloped = b.find(|t| t.dtype == DataType::Float).filter(|_| b.c.chance(40));
    let slope = sloped.and_then(|x| {
        let attrs = Attrs(vec![Attr::new("alpha", AttrValue::Float(0.5))]);
        Some(b.add_op(Op::new(None, "LeakyRelu".into()), &[Some(x)], attrs, 1)?[0])
    });
    if let Some(node) = slope.and_then(|v| b.producer(v)) {
        b.model.node_mut(node).attrs().set("alpha", AttrValue::Ref("slope".into(), 1));
    }
    let dtype = b.scope.last().map(|&v| b.dtype(v))?;
    let output = b.own(dtype, None, &[]);
    b.in_function = false;
    b.end(outside);
    let Some(output) = output else {
        b.model.remove_graph(body);
        return None;
    };
    b.model.add_output(body, output);
    if b.model.functions.is_empty() {
        b.model.opsets.push(Opset { domain: Some(LOCAL.into()), version: Some(1) });
    }
    let name = b.name("f");
    let defaulted = b.c.chance(50);
    b.model.functions.push(Function {
        name: name.clone(),
        domain: Some(LOCAL.into()),
        overload: None,
        attributes: if slope.is_some() && !defaulted { vec!["slope".into()] } else { vec![] },
        defaults: if slope.is_some() && defaulted {
            Attrs(vec![Attr::new("slope", 0.25_f32)])
        } else {
            Attrs::default()
        },
        opsets: vec![Opset { domain: Some("".into()), version: Some(b.opset) }],
        body,
    });
    let inputs: Vec<Option<ValueId>> = arguments.into_iter().map(Some).collect();
    let attrs = || {
        let given = slope.is_some() && !defaulted;
        Attrs(if given { vec![Attr::new("slope", 2.0_f32)] } else { vec![] })
    };
    let op = Op::new(Some(LOCAL.into()), name);
    let made = b.add_op(op.clone(), &inputs, attrs(), 1);
    if b.c.chance(40) {
        b.add_op(op, &inputs, attrs(), 1);
    }
    made.map(|made| made[0])
}
