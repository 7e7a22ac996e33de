//! What the inputs of a model are, by what the model does with them.
//!
//! A name says nothing: one exporter calls the mask `input_mask`, another has none and compares the ids with a constant.
//! So the graph is followed from each input. An integer that ends up as the index of a Gather on axis 0 of a constant
//! table, through operators that only move or convert elements, is an id, and the table's rows are its range. Whatever
//! reaches the operand of a Softmax through element-wise operators is a mask.

use std::collections::{HashSet, VecDeque};

use onnxfix_ir::{
    AttrValue, DataType, Def, GraphId, Model, NodeId, SideTable, Use, Value, ValueId,
};

/// A constant table that an input indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Name of the table's value.
    pub(super) name: String,
    /// Smallest and largest legal value of the input.
    pub(super) range: (i64, i64),
}

/// What an input is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Role {
    /// Indices of the rows of tables.
    Ids {
        /// The tables in the graph's order.
        tables: Vec<Table>,
        /// Constants that the ids are compared with: the padding id is one of them.
        compared: Vec<i64>,
    },
    /// 1 where there is a token, 0 where there is padding.
    Mask,
    /// 0 where there is a token, a large negative number where there is padding: added to the scores as it is.
    Bias,
    /// Integers or bools of unknown meaning: 0 and 1 are tried, or how many tokens a row has if it has one number a row.
    Flags,
    /// Numbers.
    Data,
}

/// An input of a model.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) dtype: DataType,
    pub(super) role: Role,
}

impl Input {
    /// The tables that the input indexes.
    pub(super) fn tables(&self) -> &[Table] {
        match &self.role {
            Role::Ids { tables, .. } => tables,
            _ => &[],
        }
    }

    /// The values that every table of the input has a row for.
    pub(super) fn range(&self) -> Option<(i64, i64)> {
        self.tables().iter().map(|t| t.range).reduce(|(a, b), (c, d)| (a.max(c), b.min(d)))
    }
}

/// The inputs that a caller must give, in order.
pub(super) fn inputs(model: &Model) -> Vec<ValueId> {
    let inputs = model[model.root()].inputs().iter().copied();
    inputs.filter(|&v| matches!(model[v].def(), Def::Input)).collect()
}

/// Finds out what each input is.
pub(super) fn analyse(model: &Model) -> Vec<Input> {
    let varying = varying(model);
    let one = |value: ValueId| {
        let name = model[value].name().to_string();
        // A model without types for its inputs is refused before anything runs.
        let dtype = model[value].dtype().unwrap_or(DataType::Float);
        Input { name, dtype, role: role(model, value, dtype, &varying) }
    };
    inputs(model).into_iter().map(one).collect()
}

fn role(model: &Model, input: ValueId, dtype: DataType, varying: &SideTable<Value, ()>) -> Role {
    if dtype.is_integer() {
        let (tables, compared) = lookups(model, input, varying);
        if !tables.is_empty() {
            return Role::Ids { tables, compared };
        }
    }
    match (reaches_softmax(model, input), dtype.is_float()) {
        (Some(Mask::Changed), _) | (Some(Mask::Plain), false) => Role::Mask,
        (Some(Mask::Plain), true) => Role::Bias,
        (None, true) => Role::Data,
        (None, false) => Role::Flags,
    }
}

/// The values that depend on an input of the model. All others are constant, whatever computes them.
fn varying(model: &Model) -> SideTable<Value, ()> {
    let mut varying = SideTable::new();
    let mut queue: VecDeque<ValueId> = inputs(model).into();
    // What a loop hands to its body is not followed; nothing in a body counts as constant for that.
    for (value, v) in model.all_values() {
        let body = model[v.graph()].owner().is_some();
        if body && matches!(v.def(), Def::Input) {
            queue.push_back(value);
        }
    }
    while let Some(value) = queue.pop_front() {
        if varying.insert(value, ()).is_some() {
            continue;
        }
        for use_ in model[value].uses() {
            queue.extend(flows_to(model, *use_));
        }
    }
    varying
}

/// The values that a use of a value has an influence on.
fn flows_to(model: &Model, use_: Use) -> Vec<ValueId> {
    match use_ {
        Use::Input { node, slot } => match formal(model, node, slot) {
            Some(value) => vec![value],
            None => model[node].outputs().iter().flatten().copied().collect(),
        },
        Use::Output { graph, slot } => results(model, graph, slot),
    }
}

/// The function's own value for an argument of a call, when the node is one.
fn formal(model: &Model, node: NodeId, slot: u32) -> Option<ValueId> {
    let op = model[node].op();
    let domain = |name: Option<&str>| match name {
        Some("ai.onnx") | None => String::new(),
        Some(name) => name.to_owned(),
    };
    let function = model.functions.iter().find(|f| {
        f.name == op.name && domain(f.domain.as_deref()) == domain(op.domain.as_deref())
    })?;
    model[function.body].inputs().get(slot as usize).copied()
}

/// Where the output of a body or function goes.
fn results(model: &Model, graph: GraphId, slot: u32) -> Vec<ValueId> {
    if let Some(owner) = model[graph].owner() {
        return model[owner].outputs().iter().flatten().copied().collect();
    }
    if !model.functions.iter().any(|f| f.body == graph) {
        return Vec::new();
    }
    let first = model[graph].inputs().first().copied();
    let calls = model
        .all_nodes()
        .filter(|&(id, n)| !n.inputs().is_empty() && formal(model, id, 0) == first);
    calls.filter_map(|(_, n)| n.output(slot as usize)).collect()
}

/// Operators that move or convert elements of their first input and leave them what they are.
const MOVES: &[&str] = &[
    "Cast",
    "Clip",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// The tables that an input indexes, and the constants it is compared with.
fn lookups(
    model: &Model,
    input: ValueId,
    varying: &SideTable<Value, ()>,
) -> (Vec<Table>, Vec<i64>) {
    let (mut tables, mut compared) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(input, 0)]);
    while let Some((value, shift)) = queue.pop_front() {
        if !seen.insert((value, shift)) {
            continue;
        }
        for &use_ in model[value].uses() {
            let Use::Input { node, slot } = use_ else {
                queue.extend(flows_to(model, use_).into_iter().map(|v| (v, shift)));
                continue;
            };
            if let Some(inner) = formal(model, node, slot) {
                queue.push_back((inner, shift));
                continue;
            }
            let n = &model[node];
            if !n.op().domain().is_empty() {
                continue;
            }
            let other = n.input(1 - (slot as usize).min(1));
            let constant = || scalar(model, other?);
            let next = |shift| n.output(0).map(|y| (y, shift));
            match (n.op().name.as_str(), slot) {
                ("Gather", 1) => tables.extend(table(model, node, shift, varying)),
                ("OneHot", 0) => {
                    if let Some(depth) = n.input(1).and_then(|d| scalar(model, d)) {
                        let name =
                            n.output(0).map(|y| model[y].name().to_string()).unwrap_or_default();
                        tables.push(Table { name, range: (-shift, depth - 1 - shift) });
                    }
                }
                ("Equal", _) => compared.extend(constant().map(|c| c - shift)),
                ("Add", _) => queue.extend(constant().and_then(|c| next(shift + c))),
                ("Sub", 0) => queue.extend(constant().and_then(|c| next(shift - c))),
                ("Concat", _) | ("Where", 1 | 2) => queue.extend(next(shift)),
                (op, 0) if MOVES.contains(&op) => {
                    queue.extend(n.outputs().iter().flatten().map(|&y| (y, shift)));
                }
                _ => {}
            }
        }
    }
    compared.sort_unstable();
    compared.dedup();
    (tables, compared)
}

/// The table of a Gather, when it is constant and its rows are indexed.
fn table(
    model: &Model,
    gather: NodeId,
    shift: i64,
    varying: &SideTable<Value, ()>,
) -> Option<Table> {
    let n = &model[gather];
    let data = n.input(0)?;
    if varying.contains(data) {
        return None;
    }
    let dims = constant_dims(model, data, 64)?;
    let axis = n.attrs.int("axis").unwrap_or(0);
    let rows = *dims.first()?;
    let indexes_rows = axis == 0 || i64::try_from(dims.len()).is_ok_and(|rank| axis == -rank);
    // A vector of numbers is a shape or an index table, not an embedding.
    let found = indexes_rows && dims.len() >= 2 && rows > 0;
    found.then(|| Table { name: model[data].name().to_string(), range: (-shift, rows - 1 - shift) })
}

/// Dimensions of a constant, which an exporter may leave computed: Paddle multiplies its table by a column of ones.
fn constant_dims(model: &Model, value: ValueId, depth: u32) -> Option<Vec<i64>> {
    if let Some(tensor) = model.constant(value) {
        return Some(tensor.dims.clone());
    }
    let depth = depth.checked_sub(1)?;
    let node = match model[value].def() {
        Def::Node { node, .. } => *node,
        Def::Input => {
            // The constant is an argument of a function: every call passes one of the same size, so the first will do.
            let graph = model[value].graph();
            let slot = model[graph].inputs().iter().position(|&v| v == value)?;
            let first = model[graph].inputs().first().copied();
            let (_, call) = model
                .all_nodes()
                .find(|&(id, n)| !n.inputs().is_empty() && formal(model, id, 0) == first)?;
            return constant_dims(model, call.input(slot)?, depth);
        }
        _ => return None,
    };
    let n = &model[node];
    match n.op().name.as_str() {
        "Constant" => match n.attrs.get("value")? {
            AttrValue::Tensor(tensor) => Some(tensor.dims.clone()),
            _ => None,
        },
        "Identity" | "Cast" | "Dropout" => constant_dims(model, n.input(0)?, depth),
        "Add" | "Sub" | "Mul" | "Div" => {
            let (a, b) = (
                constant_dims(model, n.input(0)?, depth)?,
                constant_dims(model, n.input(1)?, depth)?,
            );
            let rank = a.len().max(b.len());
            let at =
                |dims: &[i64], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
            Some((0..rank).map(|i| at(&a, i).max(at(&b, i))).collect())
        }
        // Shape inference may know what this does not.
        _ => model[value].dims().map(|dims| dims.to_vec()),
    }
}

/// A constant integer of one element.
fn scalar(model: &Model, value: ValueId) -> Option<i64> {
    let of = |tensor: &onnxfix_ir::Tensor| {
        let ints = tensor.to_ints().or_else(|| {
            // Ids may be compared after a cast to float.
            #[expect(clippy::cast_possible_truncation, reason = "an id fits")]
            tensor.to_floats().map(|f| f.iter().map(|&x| x as i64).collect())
        })?;
        <[i64; 1]>::try_from(ints).ok().map(|[one]| one)
    };
    if let Some(tensor) = model.constant(value) {
        return of(tensor);
    }
    let n = &model[model.producer(value)?];
    match n.op().name.as_str() {
        "Constant" => match n.attrs.get("value").or_else(|| n.attrs.get("value_int"))? {
            AttrValue::Tensor(tensor) => of(tensor),
            AttrValue::Int(i) => Some(*i),
            _ => None,
        },
        "Identity" | "Cast" | "Reshape" | "Squeeze" | "Unsqueeze" => scalar(model, n.input(0)?),
        _ => None,
    }
}

enum Mask {
    /// As it came, but for its shape and type.
    Plain,
    /// After arithmetic or comparisons.
    Changed,
}

/// Operators that keep a mask a mask: element by element, in whichever operand it is.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "CumSum",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pow",
    "Sign",
    "Sqrt",
    "Sub",
    "Where",
    "Xor",
];

/// Whether a value gets to a Softmax without a matrix product or a normalisation on the way.
fn reaches_softmax(model: &Model, input: ValueId) -> Option<Mask> {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(input, false)]);
    let mut reached = None;
    while let Some((value, changed)) = queue.pop_front() {
        if !seen.insert((value, changed)) {
            continue;
        }
        for &use_ in model[value].uses() {
            let Use::Input { node, slot } = use_ else {
                queue.extend(flows_to(model, use_).into_iter().map(|v| (v, changed)));
                continue;
            };
            if let Some(inner) = formal(model, node, slot) {
                queue.push_back((inner, changed));
                continue;
            }
            let n = &model[node];
            let op = n.op().name.as_str();
            if !n.op().domain().is_empty() {
                continue;
            }
            if matches!(op, "Softmax" | "LogSoftmax") {
                if !changed {
                    return Some(Mask::Plain);
                }
                reached = Some(Mask::Changed);
            }
            let moved = (MOVES.contains(&op) && slot == 0) || op == "Concat";
            if moved || ELEMENTWISE.contains(&op) {
                // The addition to the scores is the use of a finished bias.
                let changed = changed || !(moved || op == "Add");
                queue.extend(n.outputs().iter().flatten().map(|&y| (y, changed)));
            }
        }
    }
    reached
}
