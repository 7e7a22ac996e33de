//! Layer normalization: how to recognise it in every spelling, and the two forms in which passes write it.
//!
//! `y = (x − mean(x)) / √(mean((x − mean(x))²) + ε) · scale + bias`, means over the last axes (Ba, Kiros, Hinton 2016).

use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};

use crate::matching::{
    Dims, constant, dtype, input, is_closed, operands, output, producer, scalar, shape, used_once,
};
use crate::patch::attrs;
use crate::{Miss, Operand, Patch, unmet};

/// Operators that a match can begin with: what divides by the deviation, and the operator of that name.
pub(crate) const ROOTS: &[&str] = &["Div", "Mul", "LayerNormalization"];

/// The first opset that has `LayerNormalization`.
pub(crate) const SINCE: i64 = 17;

/// A normalization over the last axes of a value.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    /// What is normalized, of this many axes.
    x: ValueId,
    rank: usize,
    /// How many of the last axes are one line.
    count: usize,
    epsilon: f32,
    /// Constants with a dimension for each normalized axis, unless an operator has others.
    scale: Option<ValueId>,
    bias: Option<ValueId>,
    /// What the last node gives.
    y: ValueId,
    /// Casts around it: from the narrow type of what the first one reads back to that type.
    narrow: Option<ValueId>,
    /// How it is written.
    pub(crate) form: Form,
}

/// How a normalization is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the operator.
    Operator,
    /// In the nodes that [`LayerNorm::steps`] writes.
    Steps,
    /// In other nodes.
    Other,
}

/// What has been seen of a pattern.
#[derive(Default)]
struct Seen {
    nodes: Vec<NodeId>,
    /// Whether something is written in another way than [`LayerNorm::steps`] writes it.
    other: bool,
}

impl Seen {
    fn node(&mut self, node: NodeId) {
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
    }

    /// The inputs of the node that makes a value.
    fn operands(&mut self, m: &Model, value: ValueId, op: &str) -> Result<[ValueId; 2], Miss> {
        let found = operands(m, value, op).ok_or(Miss::NoMatch)?;
        self.node(producer(m, value, op)?);
        Ok(found)
    }
}

/// The normalization whose quotient, or whose operator, is `root`.
pub(crate) fn find(m: &Model, root: NodeId) -> Result<LayerNorm, Miss> {
    if m[root].op().is("LayerNormalization") {
        return operator(m, root);
    }
    let (a, b) = (input(m, root, 0)?, input(m, root, 1)?);
    if m[root].op().is("Div") {
        return quotient(m, root, a, b, 0.5);
    }
    match quotient(m, root, a, b, -0.5) {
        Err(Miss::NoMatch) => quotient(m, root, b, a, -0.5),
        found => found,
    }
}

fn operator(m: &Model, root: NodeId) -> Result<LayerNorm, Miss> {
    let (x, y) = (input(m, root, 0)?, output(m, root)?);
    if m[root].outputs().iter().skip(1).flatten().any(|&v| !m[v].uses().is_empty()) {
        return unmet("its mean or its deviation is read as well");
    }
    let rank = shape(m, x)?.rank();
    let axis = m[root].attrs.int("axis").unwrap_or(-1);
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    let Some(count) = usize::try_from(from_front).ok().and_then(|axis| rank.checked_sub(axis))
    else {
        return Err(Miss::NoMatch);
    };
    let epsilon = m[root].attrs.float("epsilon").unwrap_or(1e-5);
    let (scale, bias) = (m[root].input(1), m[root].input(2));
    Ok(LayerNorm { x, rank, count, epsilon, scale, bias, y, narrow: None, form: Form::Operator })
}

/// The pattern around `centered · deviation^-1`, where `deviation` is what is given to that power: `½` when it divides,
/// `-½` when it multiplies.
fn quotient(
    m: &Model,
    root: NodeId,
    centered: ValueId,
    deviation: ValueId,
    power: f64,
) -> Result<LayerNorm, Miss> {
    let mut seen = Seen { other: !m[root].op().is("Div"), ..Seen::default() };
    seen.node(root);
    let (x, axes) = center(m, &mut seen, centered)?;
    let rank = shape(m, x)?.rank();
    let moved = powers(m, &mut seen, deviation, power, rank)?;
    let [a, b] = seen.operands(m, moved, "Add")?;
    let (variance, epsilon) = match (scalar(m, a, rank), scalar(m, b, rank)) {
        (_, Some(epsilon)) => (a, epsilon),
        (Some(epsilon), None) => {
            seen.other = true;
            (b, epsilon)
        }
        (None, None) => return Err(Miss::NoMatch),
    };
    let (square, over) = mean(m, &mut seen, variance)?;
    let [base, again] = match seen.operands(m, square, "Pow") {
        Ok([base, exponent]) if scalar(m, exponent, rank).is_some_and(|e| is_number(e, 2.0)) => {
            [base, base]
        }
        Ok(_) => return Err(Miss::NoMatch),
        Err(_) => {
            seen.other = true;
            seen.operands(m, square, "Mul")?
        }
    };
    for part in [base, again] {
        seen.other |= part != centered;
        if center(m, &mut seen, part)? != (x, axes.clone()) {
            return Err(Miss::NoMatch);
        }
    }
    if over != axes {
        return unmet("mean and variance are taken over different axes");
    }
    let count = axes.len();
    let last: Vec<usize> = (rank - count..rank).collect();
    if axes != last {
        return unmet("the axes are not the last ones");
    }
    #[expect(clippy::cast_possible_truncation, reason = "whether it fits is asked")]
    let narrow = epsilon as f32;
    if !is_number(f64::from(narrow), epsilon) {
        return unmet("epsilon is no float of 32 bits, as the attribute is");
    }
    let mut found = LayerNorm {
        x,
        rank,
        count,
        epsilon: narrow,
        scale: None,
        bias: None,
        y: output(m, root)?,
        narrow: None,
        form: Form::Other,
    };
    found.affine(m, &mut seen);
    if !is_closed(m, &seen.nodes, found.y) {
        return unmet("something else reads a value in the middle");
    }
    if !seen.other {
        found.form = Form::Steps;
    }
    Ok(found)
}

fn is_number(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits()
}

/// `x` of `x − mean(x)`, and the axes of the mean.
fn center(m: &Model, seen: &mut Seen, value: ValueId) -> Result<(ValueId, Vec<usize>), Miss> {
    let [x, average] = seen.operands(m, value, "Sub")?;
    let (from, axes) = mean(m, seen, average)?;
    if from == x { Ok((x, axes)) } else { Err(Miss::NoMatch) }
}

/// What a mean is taken of, and over which axes, counted from the front in ascending order. They have to stay.
fn mean(m: &Model, seen: &mut Seen, value: ValueId) -> Result<(ValueId, Vec<usize>), Miss> {
    let node = producer(m, value, "ReduceMean")?;
    seen.node(node);
    let x = input(m, node, 0)?;
    let rank = shape(m, x)?.rank() as i64;
    if m[node].attrs.int("keepdims").is_some_and(|keep| keep != 1) {
        return unmet("a mean drops its axes");
    }
    let axes = match m[node].input(1) {
        Some(axes) => constant(m, axes)?.to_ints().ok_or(Miss::NoMatch)?,
        None => m[node].attrs.ints("axes").ok_or(Miss::NoMatch)?.to_vec(),
    };
    // As `Patch::mean` writes them.
    let from_front = m.opset(m[node].graph(), "").is_none_or(|opset| opset < 11);
    seen.other |= axes.iter().any(|&axis| (axis >= 0) != from_front);
    let mut axes: Vec<usize> = axes
        .iter()
        .map(|&axis| usize::try_from(if axis < 0 { axis + rank } else { axis }))
        .collect::<Result<_, _>>()
        .map_err(|_| Miss::NoMatch)?;
    axes.sort_unstable();
    axes.dedup();
    if axes.is_empty() { Err(Miss::NoMatch) } else { Ok((x, axes)) }
}

/// The value whose power `wanted` this is, behind square roots, reciprocals and powers by constants.
fn powers(
    m: &Model,
    seen: &mut Seen,
    value: ValueId,
    wanted: f64,
    rank: usize,
) -> Result<ValueId, Miss> {
    let (mut value, mut power, mut steps) = (value, 1.0, 0);
    while !is_number(power, wanted) {
        let node = m.producer(value).filter(|_| steps < 3).ok_or(Miss::NoMatch)?;
        let at = |slot: usize| m[node].input(slot).and_then(|v| scalar(m, v, rank));
        let op = m[node].op();
        let (from, by) = match (at(0), at(1)) {
            _ if op.is("Sqrt") => (0, 0.5),
            _ if op.is("Reciprocal") => (0, -1.0),
            (None, Some(by)) if op.is("Pow") => (0, by),
            (Some(one), None) if op.is("Div") && is_number(one, 1.0) => (1, -1.0),
            _ => return Err(Miss::NoMatch),
        };
        seen.other |= !op.is("Sqrt");
        seen.node(node);
        value = input(m, node, from)?;
        power *= by;
        steps += 1;
    }
    Ok(value)
}

impl LayerNorm {
    /// Goes on to the scale and the bias behind the quotient, and over the Cast back to a narrow type before them.
    fn affine(&mut self, m: &Model, seen: &mut Seen) {
        let wide = producer(m, self.x, "Cast").and_then(|cast| input(m, cast, 0));
        if let (Ok(narrow), Some(cast)) = (wide, only_user(m, self.y, "Cast"))
            && matches!(m[narrow].dtype(), Some(DataType::Float16 | DataType::Bfloat16))
            && m[self.x].dtype() == Some(DataType::Float)
            && let Some(y) = m[cast].output(0).filter(|&y| m[y].dtype() == m[narrow].dtype())
        {
            self.narrow = Some(narrow);
            seen.node(cast);
            self.y = y;
        }
        if let Some((scale, y)) = self.operand(m, seen, "Mul") {
            (self.scale, self.y) = (Some(scale), y);
        }
        if let Some((bias, y)) = self.operand(m, seen, "Add") {
            (self.bias, self.y) = (Some(bias), y);
        }
    }

    /// The constant that the only reader combines the result with, one element for each place of a line.
    fn operand(&self, m: &Model, seen: &mut Seen, op: &str) -> Option<(ValueId, ValueId)> {
        let node = only_user(m, self.y, op)?;
        let slot = usize::from(m[node].input(0) == Some(self.y));
        let value = m[node].input(slot)?;
        let dims = &m.constant(value)?.dims;
        let line = self.line(m)?;
        let ahead = dims.len().checked_sub(self.count).filter(|_| dims.len() <= self.rank)?;
        if dims[ahead..] != line[..] || dims[..ahead].iter().any(|&d| d != 1) {
            return None;
        }
        seen.other |= slot == 0 || ahead > 0;
        seen.node(node);
        Some((value, m[node].output(0)?))
    }

    /// The dimensions of a line, if they are known.
    fn line(&self, m: &Model) -> Option<Dims> {
        let shape = m[self.x].shape()?;
        shape.0[self.rank - self.count..].iter().map(onnxfix_ir::Dim::fixed).collect()
    }

    /// As `LayerNormalization`, which the opset has to have.
    pub(crate) fn fused(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let Some(line) = self.line(m) else {
            return unmet("the length of a line is not known");
        };
        let mut patch = Patch::new(m, root);
        let x = self.narrow.unwrap_or(self.x);
        let ones = Tensor::filled(dtype(m, x)?, &line, 1.0).ok_or(Miss::NoMatch)?;
        let scale = match self.scale {
            Some(scale) => flat(&mut patch, m, scale, &line),
            None => patch.constant(ones),
        };
        let mut inputs = vec![x.into(), scale];
        inputs.extend(self.bias.map(|bias| flat(&mut patch, m, bias, &line)));
        let axis = -(self.count as i64);
        let attrs = attrs([("axis", axis.into()), ("epsilon", self.epsilon.into())]);
        let y = patch.node_with("LayerNormalization", &inputs, attrs);
        patch.replace(self.y, y);
        Ok(patch)
    }

    /// As the nodes that ATC takes for one: one Sub, Pow by 2, constants as second operands.
    pub(crate) fn steps(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let mut patch = Patch::new(m, root);
        let own = dtype(m, self.x)?;
        // The operator computes in 32 bits whatever it reads.
        let narrow =
            self.form == Form::Operator && matches!(own, DataType::Float16 | DataType::Bfloat16);
        let wide = if narrow { DataType::Float } else { own };
        let number = |x: f64| Tensor::filled(wide, &[], x).ok_or(Miss::NoMatch);
        let (two, epsilon) = (number(2.0)?, number(f64::from(self.epsilon))?);
        let x = if narrow { patch.cast(self.x.into(), wide) } else { self.x.into() };
        let average = patch.mean(x, self.rank, self.count);
        let centered = patch.node("Sub", &[x, average]);
        let two = patch.constant(two);
        let square = patch.node("Pow", &[centered, two]);
        let variance = patch.mean(square, self.rank, self.count);
        let epsilon = patch.constant(epsilon);
        let moved = patch.node("Add", &[variance, epsilon]);
        let deviation = patch.node("Sqrt", &[moved]);
        let mut y = patch.node("Div", &[centered, deviation]);
        if narrow || self.narrow.is_some() {
            y = patch.cast(y, self.narrow.map_or(Ok(own), |x| dtype(m, x))?);
        }
        let line = self.line(m);
        for (op, operand) in [("Mul", self.scale), ("Add", self.bias)] {
            let Some(value) = operand else { continue };
            let operand = match &line {
                Some(line) => flat(&mut patch, m, value, line),
                None => value.into(),
            };
            y = patch.node(op, &[y, operand]);
        }
        patch.replace(self.y, y);
        Ok(patch)
    }
}

/// The node of that operator that is the only one to read a value.
fn only_user(m: &Model, value: ValueId, op: &str) -> Option<NodeId> {
    m.users(value).next().filter(|&n| used_once(m, value) && m[n].op().is(op))
}

/// A constant without the axes of length 1 in front that the line does not have.
fn flat(patch: &mut Patch, m: &Model, value: ValueId, line: &[i64]) -> Operand {
    match m.constant(value) {
        Some(tensor) if tensor.dims[..] != *line && tensor.dims.ends_with(line) => {
            patch.constant(tensor.reshaped(line))
        }
        _ => value.into(),
    }
}
