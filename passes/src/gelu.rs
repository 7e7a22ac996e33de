//! GELU: how to recognise it in every spelling, and the forms in which passes write it.
//!
//! `y = ½·x·(1 + erf(x/√2))`, or by tanh `y = ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` (Hendrycks, Gimpel 2016). Exporters
//! write the products in any order, with factors multiplied out or not. So the arithmetic around the `Erf` or `Tanh` is
//! read as a polynomial in `x` and the result of that node, and the coefficients are compared.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};

use crate::matching::{
    dtype, input, is_closed, operands, output, same_shape, scalar, shape, used_once,
};
use crate::patch::attrs;
use crate::{Miss, Operand, Patch, unmet};

/// Operators that a match can begin with.
pub(crate) const ROOTS: &[&str] = &["Erf", "Tanh", "Gelu"];

/// The first opset that has Gelu.
pub(crate) const SINCE: i64 = 20;

/// Coefficient of `x³` in the form by tanh.
const CUBIC: f64 = 0.044_715;

/// `√(2/π)`
const SLOPE: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// A GELU of a value.
#[derive(Debug, Clone)]
pub(crate) struct Gelu {
    x: ValueId,
    y: ValueId,
    /// Whether it is the form by tanh.
    tanh: bool,
    /// What Erf or Tanh reads and gives; none for the operator.
    bend: Option<[ValueId; 2]>,
}

/// The GELU around an Erf, around a Tanh, or of the operator `root`.
pub(crate) fn find(m: &Model, root: NodeId) -> Result<Gelu, Miss> {
    let (arg, bent) = (input(m, root, 0)?, output(m, root)?);
    if m[root].op().is("Gelu") {
        let tanh = match m[root].attrs.str("approximate") {
            None | Some("none") => false,
            Some("tanh") => true,
            Some(_) => return Err(Miss::NoMatch),
        };
        return Ok(Gelu { x: arg, y: bent, tanh, bend: None });
    }
    let tanh = m[root].op().is("Tanh");
    let (linear, cubic) = if tanh { (SLOPE, SLOPE * CUBIC) } else { (FRAC_1_SQRT_2, 0.0) };
    let argument = Polynomial([[0.0; 2], [linear, 0.0], [0.0; 2], [cubic, 0.0]]);
    let tolerance = tolerance(dtype(m, arg)?)?;
    for x in behind(m, arg) {
        let mut reader = Reader::new(m, x, None)?;
        if reader.read(arg, DEPTH).is_some_and(|p| p.is_close(&argument, tolerance)) {
            reader.nodes.push(root);
            let (y, nodes) = around(&reader, bent, tolerance)?;
            if !is_closed(m, &nodes, y) {
                return unmet("something else reads a value in the middle");
            }
            if !same_shape(m, x, y)? {
                return unmet("a constant broadcasts the result");
            }
            return Ok(Gelu { x, y, tanh, bend: Some([arg, bent]) });
        }
    }
    Err(Miss::NoMatch)
}

/// `½·x·(1 + bent)` behind `bent`, and the nodes that compute it.
fn around(
    inner: &Reader<'_>,
    bent: ValueId,
    tolerance: f64,
) -> Result<(ValueId, Vec<NodeId>), Miss> {
    let result = Polynomial([[0.0; 2], [0.5, 0.5], [0.0; 2], [0.0; 2]]);
    let (m, x, mut y) = (inner.m, inner.x, bent);
    while used_once(m, y) {
        let next = m.users(y).next().and_then(|n| m[n].output(0));
        y = next.ok_or(Miss::NoMatch)?;
        let mut reader = Reader { nodes: inner.nodes.clone(), ..Reader::new(m, x, Some(bent))? };
        let found = reader.read(y, DEPTH).ok_or(Miss::NoMatch)?;
        if found.is_close(&result, tolerance) {
            return Ok((y, reader.nodes));
        }
    }
    Err(Miss::NoMatch)
}

/// How far constants may be off, relative to what they stand for: exporters write `√2` with seven digits or more, and
/// rounding to a type of few bits takes more.
fn tolerance(dtype: DataType) -> Result<f64, Miss> {
    match dtype {
        DataType::Float | DataType::Double => Ok(2e-6),
        DataType::Float16 => Ok(1e-3),
        DataType::Bfloat16 => Ok(1e-2),
        _ => Err(Miss::NoMatch),
    }
}

/// How many nodes of arithmetic a match reads one behind the other.
const DEPTH: usize = 7;

/// Operators that a [`Reader`] reads.
const ARITHMETIC: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow"];

/// What `x` of the argument could be: the values behind it, the nearest first.
fn behind(m: &Model, arg: ValueId) -> Vec<ValueId> {
    let mut found = vec![arg];
    let mut at = 0;
    while let (Some(&value), true) = (found.get(at), found.len() < 16) {
        let arithmetic = |n: &NodeId| ARITHMETIC.iter().any(|op| m[*n].op().is(op));
        if let Some(node) = m.producer(value).filter(arithmetic) {
            for &v in m[node].inputs().iter().flatten() {
                if m.constant(v).is_none() && !found.contains(&v) {
                    found.push(v);
                }
            }
        }
        at += 1;
    }
    found
}

/// Coefficients of `xⁱ·bentʲ`, `i` up to 3 and `j` up to 1.
#[derive(Debug, Clone, Copy)]
struct Polynomial([[f64; 2]; 4]);

impl Polynomial {
    fn number(x: f64) -> Polynomial {
        let mut p = Polynomial([[0.0; 2]; 4]);
        p.0[0][0] = x;
        p
    }

    fn plus(mut self, other: &Polynomial, factor: f64) -> Polynomial {
        let terms = self.0.as_flattened_mut().iter_mut().zip(other.0.as_flattened());
        terms.for_each(|(a, b)| *a += b * factor);
        self
    }

    /// None where a power would be too high.
    fn times(&self, other: &Polynomial) -> Option<Polynomial> {
        let mut product = Polynomial::number(0.0);
        for (i, j, a) in self.terms() {
            for (k, l, b) in other.terms() {
                *product.0.get_mut(i + k)?.get_mut(j + l)? += a * b;
            }
        }
        Some(product)
    }

    fn terms(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        let term = |i: usize| (i / 2, i % 2, self.0[i / 2][i % 2]);
        (0..8).map(term).filter(|t| t.2.abs() > 0.0)
    }

    /// The only coefficient, where the polynomial is a number.
    fn as_number(&self) -> Option<f64> {
        self.terms().all(|(i, j, _)| (i, j) == (0, 0)).then_some(self.0[0][0])
    }

    fn is_close(&self, other: &Polynomial, tolerance: f64) -> bool {
        let pairs = self.0.as_flattened().iter().zip(other.0.as_flattened());
        pairs.into_iter().all(|(a, b)| (a - b).abs() <= tolerance * b.abs())
    }
}

/// Reads arithmetic as a polynomial.
struct Reader<'m> {
    m: &'m Model,
    x: ValueId,
    bent: Option<ValueId>,
    rank: usize,
    nodes: Vec<NodeId>,
}

impl<'m> Reader<'m> {
    fn new(m: &'m Model, x: ValueId, bent: Option<ValueId>) -> Result<Reader<'m>, Miss> {
        Ok(Reader { m, x, bent, rank: shape(m, x)?.rank(), nodes: Vec::new() })
    }

    fn read(&mut self, value: ValueId, depth: usize) -> Option<Polynomial> {
        let mut one = Polynomial::number(0.0);
        if value == self.x {
            one.0[1][0] = 1.0;
            return Some(one);
        }
        if Some(value) == self.bent {
            one.0[0][1] = 1.0;
            return Some(one);
        }
        if let Some(x) = scalar(self.m, value, self.rank) {
            return Some(Polynomial::number(x));
        }
        let node = self.m.producer(value).filter(|_| depth > 0)?;
        let op = ARITHMETIC.iter().find(|op| self.m[node].op().is(op))?;
        let a = self.read(self.m[node].input(0)?, depth - 1)?;
        let b = self.read(self.m[node].input(1)?, depth - 1)?;
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
        }
        match *op {
            "Add" => Some(a.plus(&b, 1.0)),
            "Sub" => Some(a.plus(&b, -1.0)),
            "Mul" => a.times(&b),
            "Div" => a.times(&Polynomial::number(1.0 / b.as_number()?)),
            _ => match b.as_number()? {
                2.0 => a.times(&a),
                3.0 => a.times(&a)?.times(&a),
                _ => None,
            },
        }
    }
}

impl Gelu {
    /// Whether it is written in the nodes that [`Gelu::steps`] writes.
    pub(crate) fn is_in_steps(&self, m: &Model) -> bool {
        if self.tanh { self.is_in_tanh_steps(m) } else { self.is_in_erf_steps(m) }.is_some()
    }

    fn is_in_erf_steps(&self, m: &Model) -> Option<()> {
        let [arg, bent] = self.bend?;
        let product = with_constant(m, self.y, "Mul")?;
        let [x, sum] = operands(m, product, "Mul")?;
        let same = x == self.x
            && with_constant(m, sum, "Add")? == bent
            && with_constant(m, arg, "Div")? == self.x;
        same.then_some(())
    }

    fn is_in_tanh_steps(&self, m: &Model) -> Option<()> {
        let [arg, bent] = self.bend?;
        let [x, half] = operands(m, self.y, "Mul")?;
        let sum = with_constant(m, half, "Mul")?;
        let [linear, cubic] = operands(m, with_constant(m, arg, "Mul")?, "Add")?;
        let cube = with_constant(m, cubic, "Mul")?;
        let same = x == self.x
            && linear == self.x
            && with_constant(m, sum, "Add")? == bent
            && with_constant(m, cube, "Pow")? == self.x;
        same.then_some(())
    }

    /// Whether it is the operator.
    pub(crate) fn is_operator(&self) -> bool {
        self.bend.is_none()
    }

    /// As `Gelu`, which the opset has to have.
    pub(crate) fn fused(&self, m: &Model, root: NodeId) -> Patch {
        let mut patch = Patch::new(m, root);
        let approximate = if self.tanh { "tanh" } else { "none" };
        let attrs = attrs([("approximate", approximate.into())]);
        let y = patch.node_with("Gelu", &[self.x.into()], attrs);
        patch.replace(self.y, y);
        patch
    }

    /// As the nodes that ATC takes for one, constants as second operands.
    pub(crate) fn steps(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let mut patch = Patch::new(m, root);
        let own = dtype(m, self.x)?;
        let x = Operand::from(self.x);
        let y = if self.tanh {
            let cube = with_number(&mut patch, "Pow", x, own, 3.0)?;
            let cubic = with_number(&mut patch, "Mul", cube, own, CUBIC)?;
            let sum = patch.node("Add", &[x, cubic]);
            let arg = with_number(&mut patch, "Mul", sum, own, SLOPE)?;
            let bent = patch.node("Tanh", &[arg]);
            let sum = with_number(&mut patch, "Add", bent, own, 1.0)?;
            let half = with_number(&mut patch, "Mul", sum, own, 0.5)?;
            patch.node("Mul", &[x, half])
        } else {
            let arg = with_number(&mut patch, "Div", x, own, SQRT_2)?;
            let bent = patch.node("Erf", &[arg]);
            let sum = with_number(&mut patch, "Add", bent, own, 1.0)?;
            let product = patch.node("Mul", &[x, sum]);
            with_number(&mut patch, "Mul", product, own, 0.5)?
        };
        patch.replace(self.y, y);
        Ok(patch)
    }
}

/// The first operand of a node of that operator whose second one is constant.
fn with_constant(m: &Model, value: ValueId, op: &str) -> Option<ValueId> {
    let [a, b] = operands(m, value, op)?;
    m.constant(b).map(|_| a)
}

/// A node whose second operand is a number.
fn with_number(
    patch: &mut Patch,
    op: &'static str,
    x: Operand,
    own: DataType,
    number: f64,
) -> Result<Operand, Miss> {
    let number = patch.constant(Tensor::filled(own, &[], number).ok_or(Miss::NoMatch)?);
    Ok(patch.node(op, &[x, number]))
}
