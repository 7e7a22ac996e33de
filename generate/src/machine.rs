//! Runs models on the reference evaluator, node by node.
//!
//! An operator without evaluation (Attention, RNN …) is an unknown function: its output has the inferred type, and
//! elements that depend on operator, attributes and inputs in a fixed and arbitrary way. Equal inputs then give equal
//! outputs and different ones different outputs, which is all that a rewrite may count on. A random operator depends on
//! its own seed or name besides, so that no two of them agree.
//!
//! On the way every value is held against its type: what inference finds for the exact inputs, and what the model
//! declares.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use onnxfix_ir::op::{EvalCx, EvalError, InferCx, Input, NodeCx};
use onnxfix_ir::{
    Attr, AttrValue, Attrs, DataType, Dim, GraphId, Model, Name, NodeId, Tensor, TensorType, Type,
    ValueId,
};

use crate::choices::next;
use crate::data;

/// Elements of the values of a run.
pub type Values = HashMap<ValueId, Arc<Tensor>>;

/// The most bytes that one value may take.
const LIMIT: u64 = 1 << 18;
/// Rounds that a Loop may make.
const ROUNDS: usize = 64;

/// Why a model has no outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// The inputs of a node contradict each other, or are too large: the model is not for these inputs.
    Refused(String),
    /// Inference, declared types and evaluation disagree: one of them is wrong.
    Wrong(String),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stuck::Refused(what) => write!(f, "refused: {what}"),
            Stuck::Wrong(what) => write!(f, "wrong: {what}"),
        }
    }
}

/// A run of a model.
#[derive(Debug)]
pub struct Machine<'m> {
    model: &'m Model,
    /// Every value that was computed; in a body, in its last round.
    pub values: Values,
    /// Numbers of the symbolic dimensions.
    symbols: HashMap<String, i64>,
    /// Whether every zero loses its sign: exact passes do not keep it.
    plain_zeros: bool,
    /// What nodes should give but for rounding.
    reference: HashMap<NodeId, Arc<Tensor>>,
    /// Attributes of the calls around the node, the innermost last.
    calls: Vec<Attrs>,
    /// Nodes that were evaluated, and those that were taken for unknown functions.
    pub evaluated: usize,
    /// Nodes that were taken for unknown functions.
    pub unknown: usize,
}

impl<'m> Machine<'m> {
    /// A run that has not begun.
    #[must_use]
    pub fn new(model: &'m Model) -> Machine<'m> {
        Machine {
            model,
            values: Values::new(),
            symbols: HashMap::new(),
            plain_zeros: false,
            reference: HashMap::new(),
            calls: Vec::new(),
            evaluated: 0,
            unknown: 0,
        }
    }

    /// Takes the sign from every zero, inputs included.
    #[must_use]
    pub fn with_plain_zeros(mut self, plain_zeros: bool) -> Self {
        self.plain_zeros = plain_zeros;
        self
    }

    /// Takes the first output of each of these nodes for its reference where they are near: so a difference of rounding
    /// does not grow on its way, and does not turn a comparison.
    #[must_use]
    pub fn with_reference(mut self, reference: HashMap<NodeId, Arc<Tensor>>) -> Self {
        self.reference = reference;
        self
    }

    /// The outputs for these inputs, by name. An input that is narrower than what is fed takes the low bits.
    ///
    /// # Errors
    /// When the inputs do not go with the model, or the types in it are wrong.
    pub fn run(&mut self, feeds: &[(Name, Tensor)]) -> Result<Vec<Arc<Tensor>>, Stuck> {
        let root = self.model.root();
        for &input in self.model[root].inputs() {
            if self.model.constant(input).is_some() {
                continue;
            }
            let name = self.model[input].name();
            let fed = feeds.iter().find(|(n, _)| n == name).map(|(_, t)| t);
            let mut tensor =
                fed.ok_or_else(|| Stuck::Refused(format!("{name} is not fed")))?.clone();
            if let (Some(DataType::Int32), Some(ints)) =
                (self.model[input].dtype(), tensor.to_ints())
            {
                tensor = data::from_ints(DataType::Int32, &tensor.dims, &ints);
            }
            self.set(input, tensor)?;
        }
        self.graph(root)?;
        self.model[root].outputs().iter().map(|&v| self.value(v)).collect()
    }

    fn graph(&mut self, graph: GraphId) -> Result<(), Stuck> {
        self.model.nodes(graph).try_for_each(|node| self.node(node))
    }

    /// Runs one node.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn node(&mut self, node: NodeId) -> Result<(), Stuck> {
        let n = &self.model[node];
        let inputs: Vec<Option<Arc<Tensor>>> = n
            .inputs()
            .iter()
            .map(|v| v.map(|v| self.value(v)).transpose())
            .collect::<Result<_, _>>()?;
        let mut outputs = if n.op().is("If") {
            self.branch(node, &inputs)?
        } else if n.op().is("Loop") {
            self.repeat(node, &inputs)?
        } else if n.op().is("Scan") {
            self.scan(node, &inputs)?
        } else if let Some(at) = self.function(node) {
            self.call(node, at, &inputs)?
        } else {
            self.operator(node, &inputs)?
        };
        if let (Some(reference), Some(output)) = (self.reference.get(&node), outputs.first_mut())
            && data::is_near(reference, output)
        {
            *output = Tensor::clone(reference);
        }
        for (value, tensor) in n.outputs().to_vec().into_iter().zip(outputs) {
            if let Some(value) = value {
                self.set(value, tensor)?;
            }
        }
        Ok(())
    }

    fn value(&self, value: ValueId) -> Result<Arc<Tensor>, Stuck> {
        let found = self.values.get(&value).or_else(|| self.model.constant(value));
        found
            .cloned()
            .ok_or_else(|| Stuck::Wrong(format!("nothing made {:?}", self.model[value].name())))
    }

    /// Notes a value, which must be of its declared type.
    fn set(&mut self, value: ValueId, mut tensor: Tensor) -> Result<(), Stuck> {
        if let Some(Type::Tensor(ty)) = &self.model[value].ty {
            self.fits(ty, &tensor).map_err(|why| {
                Stuck::Wrong(format!(
                    "{:?} is declared {ty} and is {}: {why}",
                    self.model[value].name(),
                    data::show(&tensor)
                ))
            })?;
        }
        if self.plain_zeros && tensor.dtype.is_float() && tensor.to_floats().is_some() {
            tensor = Tensor::from_raw(tensor.dtype, &tensor.dims, data::canonical(&tensor).into())
                .map_err(|e| Stuck::Wrong(e.to_string()))?;
        }
        self.values.insert(value, Arc::new(tensor));
        Ok(())
    }

    fn fits(&mut self, ty: &TensorType, tensor: &Tensor) -> Result<(), String> {
        if ty.dtype != tensor.dtype {
            return Err("another element type".into());
        }
        let Some(shape) = &ty.shape else { return Ok(()) };
        if shape.rank() != tensor.dims.len() {
            return Err("another rank".into());
        }
        for (dim, &n) in shape.0.iter().zip(&tensor.dims) {
            let declared = match dim {
                Dim::Fixed(n) => *n,
                Dim::Symbol(_) if dim.is_open() => continue,
                Dim::Symbol(name) => *self.symbols.entry(name.as_str().to_owned()).or_insert(n),
                _ => match dim.replace_symbols(&|name| self.symbols.get(name).copied()).fixed() {
                    Some(n) => n,
                    None => continue,
                },
            };
            if declared != n {
                return Err(format!("{dim} is not {n}"));
            }
        }
        Ok(())
    }

    fn operator(
        &mut self,
        node: NodeId,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Tensor>, Stuck> {
        let n = &self.model[node];
        let place = || self.model.describe(node);
        let Some(def) = n.op().def else {
            return Err(Stuck::Refused(format!("{} is not in the table", place())));
        };
        let Some(version) = self.model.opset(n.graph(), def.domain) else {
            return Err(Stuck::Wrong(format!("{}: no operator set", place())));
        };
        let attrs = self.attributes(node);
        let cx = NodeCx { attrs: &attrs, version, outputs: n.outputs().len() };
        let types: Vec<Option<Type>> =
            inputs.iter().map(|t| t.as_ref().map(|t| Type::tensor(t.dtype, &t.dims))).collect();
        let known: Vec<Input<'_>> = inputs
            .iter()
            .zip(&types)
            .map(|(t, ty)| Input {
                present: t.is_some(),
                ty: ty.as_ref(),
                tensor: t.as_deref(),
                ..Input::default()
            })
            .collect();
        let inferred = (def.infer)(&InferCx { node: cx, inputs: &known, bodies: &[] });
        let tensors: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_deref).collect();
        let evaluated =
            def.eval.map(|eval| eval(&EvalCx { node: cx, inputs: &tensors, limit: LIMIT }));
        match (evaluated, inferred) {
            (Some(Ok(outputs)), Ok(types)) => {
                for (tensor, ty) in outputs.iter().zip(&types) {
                    tensor.check().map_err(|e| Stuck::Wrong(format!("{}: {e}", place())))?;
                    let Some(Type::Tensor(ty)) = ty else { continue };
                    let ty = ty.clone();
                    let place = place();
                    self.fits(&ty, tensor).map_err(|why| {
                        Stuck::Wrong(format!(
                            "{place} is inferred {ty} and gives {}: {why}",
                            data::show(tensor)
                        ))
                    })?;
                }
                self.evaluated += 1;
                Ok(outputs)
            }
            (Some(Ok(_)), Err(e)) => {
                Err(Stuck::Wrong(format!("{} computes, and inference says: {e}", place())))
            }
            (Some(Err(EvalError::Unsupported(_))) | None, Ok(types)) => {
                self.unknown += 1;
                let mut made = self.unknown_function(node, &attrs, inputs, &types)?;
                if n.op().is("Dropout") && keeps_all(cx, &tensors) {
                    // Only the mask is unknown.
                    made[0] = Tensor::clone(inputs[0].as_deref().unwrap_or(&made[0]));
                }
                Ok(made)
            }
            (Some(Err(e)), _) => Err(Stuck::Refused(format!("{}: {e}", place()))),
            (None, Err(e)) => Err(Stuck::Refused(format!("{}: {e}", place()))),
        }
    }

    /// The attributes with those of the calls around the node in them.
    fn attributes(&self, node: NodeId) -> Attrs {
        let resolve = |attr: &Attr| match &attr.value {
            AttrValue::Ref(name, _) => {
                Some(Attr { value: self.calls.last()?.get(name)?.clone(), ..attr.clone() })
            }
            _ => Some(attr.clone()),
        };
        self.model[node].attrs.0.iter().filter_map(resolve).collect()
    }

    fn unknown_function(
        &self,
        node: NodeId,
        attrs: &Attrs,
        inputs: &[Option<Arc<Tensor>>],
        types: &[Option<Type>],
    ) -> Result<Vec<Tensor>, Stuck> {
        let n = &self.model[node];
        let mut key = Hash::default();
        key.add(n.op().name.as_bytes());
        // How many elements TopK gives is in the shape of its result. Up to opset 9 an attribute says it, then an input.
        let is_top = n.op().is("TopK");
        let inputs = if is_top { inputs.get(..1).unwrap_or_default() } else { inputs };
        let mut sorted: Vec<&Attr> =
            attrs.0.iter().filter(|attr| !is_top || &*attr.name != "k").collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        for attr in sorted {
            key.add(format!("{} {:?}", attr.name, attr.value).as_bytes());
        }
        let draws = [
            "RandomNormal",
            "RandomUniform",
            "RandomNormalLike",
            "RandomUniformLike",
            "Bernoulli",
            "Multinomial",
        ];
        if draws.iter().any(|op| n.op().is(op)) && attrs.get("seed").is_none() {
            key.add(n.name.as_deref().unwrap_or("").as_bytes());
        }
        // Element by element, an input and what it broadcasts to are the same.
        let broadcast = n.op().def.is_some_and(|def| def.class.elementwise);
        let dims = types.first().and_then(Option::as_ref).and_then(Type::as_tensor);
        let dims = dims.and_then(|ty| ty.shape.as_ref()?.dims()).filter(|_| broadcast);
        for input in inputs {
            let wide = dims.as_ref().zip(input.as_deref()).and_then(|(d, t)| broadcast_to(t, d));
            match wide.as_ref().or(input.as_deref()) {
                // The shape is all that they look at.
                Some(t) if n.op().name.ends_with("Like") => {
                    key.add(format!("{:?}", t.dims).as_bytes());
                }
                Some(t) => {
                    key.add(format!("{} {:?}", t.dtype, t.dims).as_bytes());
                    key.add(&data::canonical(t));
                }
                None => key.add(b"none"),
            }
        }
        n.outputs()
            .iter()
            .enumerate()
            .map(|(slot, _)| {
                let ty = types.get(slot).and_then(Option::as_ref).and_then(Type::as_tensor);
                let dims = ty.and_then(|ty| Some((ty.dtype, ty.shape.as_ref()?.dims()?)));
                let Some((dtype, dims)) = dims else {
                    return Err(Stuck::Refused(format!("{}: no shape", self.model.describe(node))));
                };
                arbitrary(dtype, &dims, key.0.wrapping_add(slot as u64)).ok_or_else(|| {
                    Stuck::Refused(format!("{}: {dims:?} of {dtype}", self.model.describe(node)))
                })
            })
            .collect()
    }

    fn branch(
        &mut self,
        node: NodeId,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Tensor>, Stuck> {
        let taken = match inputs.first().cloned().flatten().and_then(|t| t.to_ints()).as_deref() {
            Some([0]) => "else_branch",
            Some([_]) => "then_branch",
            _ => return Err(Stuck::Refused("a condition that is not one bool".into())),
        };
        self.body(node, taken, &[])
    }

    /// Runs a body with these inputs.
    fn body(&mut self, node: NodeId, name: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, Stuck> {
        let Some(body) = self.model[node].attrs.graph(name) else {
            return Err(Stuck::Wrong(format!("{} has no {name}", self.model.describe(node))));
        };
        self.enter(body, inputs)
    }

    fn enter(&mut self, body: GraphId, inputs: &[Tensor]) -> Result<Vec<Tensor>, Stuck> {
        for (&value, tensor) in self.model[body].inputs().iter().zip(inputs) {
            self.set(value, tensor.clone())?;
        }
        self.graph(body)?;
        let outputs = self.model[body].outputs().iter();
        outputs.map(|&v| Ok(Tensor::clone(&*self.value(v)?))).collect()
    }

    fn repeat(
        &mut self,
        node: NodeId,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Tensor>, Stuck> {
        let one = |slot: usize| {
            inputs.get(slot).cloned().flatten().and_then(|t| t.to_ints()?.first().copied())
        };
        let rounds = one(0).map_or(ROUNDS, |n| usize::try_from(n).unwrap_or(0));
        let mut go = one(1).is_none_or(|c| c != 0);
        let mut carried: Vec<Tensor> =
            inputs.iter().skip(2).flatten().map(|t| Tensor::clone(t)).collect();
        let count = carried.len();
        let mut scanned: Vec<Vec<Tensor>> = Vec::new();
        let mut round = 0;
        while go && round < rounds {
            if round == ROUNDS {
                return Err(Stuck::Refused("a loop without end".into()));
            }
            let mut feeds = vec![Tensor::scalar(round as i64), Tensor::scalar(go)];
            feeds.append(&mut carried);
            let mut outputs = self.body(node, "body", &feeds)?;
            go = outputs.first().and_then(Tensor::to_ints).is_some_and(|c| c == [1]);
            scanned.push(outputs.split_off(count + 1));
            carried = outputs.split_off(1);
            round += 1;
        }
        carried.extend(stack(
            &scanned,
            self.model[node].outputs().len().saturating_sub(count),
            &[],
        )?);
        Ok(carried)
    }

    fn scan(&mut self, node: NodeId, inputs: &[Option<Arc<Tensor>>]) -> Result<Vec<Tensor>, Stuck> {
        let attrs = &self.model[node].attrs;
        let n = attrs.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let backwards =
            |name: &str, i: usize| attrs.ints(name).and_then(|d| d.get(i)).is_some_and(|&d| d == 1);
        let all: Vec<Arc<Tensor>> = inputs.iter().flatten().cloned().collect();
        let (first, sequences) = all.split_at(all.len().saturating_sub(n));
        let mut carried: Vec<Tensor> = first.iter().map(|t| Tensor::clone(t)).collect();
        let count = carried.len();
        let rounds = sequences
            .first()
            .and_then(|t| t.dims.first())
            .map_or(0, |&n| usize::try_from(n).unwrap_or(0));
        let backwards_in: Vec<bool> =
            (0..n).map(|i| backwards("scan_input_directions", i)).collect();
        let outputs = self.model[node].outputs().len().saturating_sub(count);
        let backwards_out: Vec<bool> =
            (0..outputs).map(|i| backwards("scan_output_directions", i)).collect();
        let mut scanned: Vec<Vec<Tensor>> = Vec::new();
        for round in 0..rounds {
            for (sequence, &backwards) in sequences.iter().zip(&backwards_in) {
                carried.push(row(sequence, if backwards { rounds - 1 - round } else { round })?);
            }
            let mut outputs = self.body(node, "body", &carried)?;
            scanned.push(outputs.split_off(count));
            carried = outputs;
        }
        carried.extend(stack(&scanned, outputs, &backwards_out)?);
        Ok(carried)
    }

    /// The model's function that a node calls.
    fn function(&self, node: NodeId) -> Option<usize> {
        let n = &self.model[node];
        self.model.functions.iter().position(|f| {
            f.name == n.op().name && f.domain.as_deref().unwrap_or("") == n.op().domain()
        })
    }

    fn call(
        &mut self,
        node: NodeId,
        at: usize,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Tensor>, Stuck> {
        let function = &self.model.functions[at];
        let mut attrs = function.defaults.clone();
        for attr in self.attributes(node).0 {
            attrs.set(&attr.name, attr.value);
        }
        let inputs: Vec<Tensor> = inputs.iter().flatten().map(|t| Tensor::clone(t)).collect();
        self.calls.push(attrs);
        let outputs = self.enter(function.body, &inputs);
        self.calls.pop();
        outputs
    }
}

/// One row of the first axis.
fn row(tensor: &Tensor, at: usize) -> Result<Tensor, Stuck> {
    let dims = tensor.dims.get(1..).unwrap_or_default();
    let raw = tensor.raw().map_err(|e| Stuck::Refused(e.to_string()))?;
    let width = raw.len() / usize::try_from(tensor.dims[0]).unwrap_or(1).max(1);
    Tensor::from_raw(tensor.dtype, dims, raw[at * width..(at + 1) * width].to_vec().into())
        .map_err(|e| Stuck::Refused(e.to_string()))
}

/// What rounds gave, one above the other.
fn stack(rounds: &[Vec<Tensor>], outputs: usize, backwards: &[bool]) -> Result<Vec<Tensor>, Stuck> {
    (0..outputs)
        .map(|slot| {
            let Some(first) = rounds.first().map(|r| &r[slot]) else {
                return Err(Stuck::Refused("nothing knows the shape of what no round gave".into()));
            };
            let mut raw = Vec::new();
            let mut each = |round: &Vec<Tensor>| {
                let tensor = &round[slot];
                if (tensor.dtype, &tensor.dims) != (first.dtype, &first.dims) {
                    return Err(Stuck::Refused("rounds give different shapes".into()));
                }
                raw.extend_from_slice(&tensor.raw().map_err(|e| Stuck::Refused(e.to_string()))?);
                Ok(())
            };
            if backwards.get(slot).copied().unwrap_or(false) {
                rounds.iter().rev().try_for_each(&mut each)?;
            } else {
                rounds.iter().try_for_each(&mut each)?;
            }
            let mut dims = vec![rounds.len() as i64];
            dims.extend(&first.dims);
            Tensor::from_raw(first.dtype, &dims, raw.into())
                .map_err(|e| Stuck::Wrong(e.to_string()))
        })
        .collect()
}

/// Whether a Dropout gives its input: in inference, or because it drops nothing.
fn keeps_all(cx: NodeCx<'_>, inputs: &[Option<&Tensor>]) -> bool {
    let given = |slot: usize| inputs.get(slot).copied().flatten();
    let training = given(2).and_then(Tensor::to_ints).is_some_and(|mode| mode != [0]);
    let ratio = given(1).and_then(Tensor::to_floats);
    cx.version >= 7 && (!training || ratio.is_some_and(|r| r == [0.0]))
}

/// FNV-1a.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for &b in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The tensor with its elements repeated to these dimensions, if it broadcasts to them.
fn broadcast_to(tensor: &Tensor, dims: &[i64]) -> Option<Tensor> {
    let ahead = dims.len().checked_sub(tensor.dims.len())?;
    let fits = |(&have, &want): (&i64, &i64)| have == want || have == 1;
    let raw = tensor.raw().ok()?;
    let width = usize::try_from(tensor.dtype.bits() / 8).ok()?;
    let whole = raw.len() == width * data::volume(&tensor.dims);
    if !whole || !tensor.dims.iter().zip(&dims[ahead..]).all(fits) {
        return None;
    }
    let mut out = Vec::new();
    for at in 0..data::volume(dims) {
        let (mut rest, mut from, mut stride) = (at, 0, 1);
        for (&have, &want) in tensor.dims.iter().zip(&dims[ahead..]).rev() {
            let (have, want) = (usize::try_from(have).ok()?, usize::try_from(want).ok()?);
            if have > 1 {
                from += rest % want * stride;
            }
            rest /= want;
            stride *= have;
        }
        out.extend_from_slice(&raw[from * width..(from + 1) * width]);
    }
    Tensor::from_raw(tensor.dtype, dims, out.into()).ok()
}

/// Elements that depend on a key.
fn arbitrary(dtype: DataType, dims: &[i64], mut key: u64) -> Option<Tensor> {
    let size = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
    if dtype.byte_len(size).is_none_or(|bytes| bytes > LIMIT) {
        return None;
    }
    let numbers: Vec<i64> = (0..size).map(|_| (next(&mut key) % 17) as i64).collect();
    let floats = || numbers.iter().map(|&n| (n - 8) as f64 / 4.0).collect::<Vec<f64>>();
    if data::DTYPES.contains(&dtype) {
        Some(match dtype {
            DataType::Bool => {
                data::from_ints(dtype, dims, &numbers.iter().map(|n| n % 2).collect::<Vec<_>>())
            }
            _ if dtype.is_float() => data::from_floats(dtype, dims, &floats()),
            _ => data::from_ints(dtype, dims, &numbers),
        })
    } else {
        let bytes = dtype.byte_len(size).and_then(|n| usize::try_from(n).ok())?;
        let raw: Vec<u8> = (0..bytes).map(|_| (next(&mut key) & 0x3f) as u8).collect();
        Tensor::from_raw(dtype, dims, raw.into()).ok()
    }
}
