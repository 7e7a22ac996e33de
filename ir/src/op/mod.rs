//! The operator table: for each operator its signature, classes, shape inference and reference evaluation.
//!
//! One table serves inference, checker, folding, opset conversion, random-graph generation and target checks.
//! Each family of operators is a file with a `static OPS: &[Operator]`; [`FAMILIES`] lists them.
//!
//! Inference and evaluation see a node only through [`InferCx`] and [`EvalCx`]: attributes, opset version, inputs.
//! They know nothing of models, so the same functions serve a node of a graph, a test, and a generated node.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "evaluation converts between element types, and walks with signed strides over sizes that were checked"
)]
#![expect(
    clippy::many_single_char_names,
    clippy::similar_names,
    clippy::float_cmp,
    reason = "formulas are written as in their sources: `y = a · x + b`; comparing for equality is what operators do"
)]

mod activation;
mod arithmetic;
mod attention;
mod cast;
mod constant;
mod control;
mod conv;
mod gather;
mod history;
mod image;
mod infer;
mod kernel;
mod linear;
pub use linear::{Equation, equation as einsum_equation};
mod logic;
mod loss;
mod math;
mod movement;
mod norm;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod schema;
mod sequence;
mod shape;
pub(crate) use shape::{product, shape_range};
mod signal;
#[cfg(test)]
mod testing;
mod text;

use std::ops::Deref;
use std::sync::LazyLock;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::{Attrs, DataType, Dim, Name, Shape, Tensor, TensorError, TensorType, Type};

/// Every family, in reading order.
static FAMILIES: &[&[Operator]] = &[
    arithmetic::OPS,
    math::OPS,
    activation::OPS,
    logic::OPS,
    cast::OPS,
    shape::OPS,
    constant::OPS,
    movement::OPS,
    gather::OPS,
    reduce::OPS,
    linear::OPS,
    norm::OPS,
    attention::OPS,
    conv::OPS,
    recurrent::OPS,
    quantize::OPS,
    control::OPS,
    sequence::OPS,
    random::OPS,
    image::OPS,
    signal::OPS,
    text::OPS,
    loss::OPS,
];

/// An operator: what it takes, what it gives, what it is.
#[derive(Debug)]
pub struct Operator {
    /// Domain, `""` for ONNX's own.
    pub domain: &'static str,
    /// Operator type.
    pub name: &'static str,
    /// Opset versions in which signature or meaning changed, ascending; the first is where it appeared.
    pub versions: &'static [i64],
    /// Inputs in order.
    pub inputs: &'static [Param],
    /// Outputs in order.
    pub outputs: &'static [Param],
    /// Attributes.
    pub attrs: &'static [AttrDef],
    /// What passes may assume.
    pub class: Class,
    /// Types of the outputs from the types (and constant values) of the inputs.
    pub infer: InferFn,
    /// Exact evaluation on constants; none where folding would be wrong or is of no use.
    pub eval: Option<EvalFn>,
}

/// Gives one type per output, `None` where nothing is known.
pub type InferFn = fn(&InferCx<'_>) -> Result<Types, InferError>;
/// Gives one tensor per output.
pub type EvalFn = fn(&EvalCx<'_>) -> Result<Vec<Tensor>, EvalError>;
/// Types of a node's outputs.
pub type Types = SmallVec<[Option<Type>; 1]>;

/// An input or output of an operator.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Name in the operator's specification.
    pub name: &'static str,
    /// Type variable: parameters of one operator with the same variable have the same type.
    pub var: &'static str,
    /// Element types that the newest version takes.
    pub types: &'static [DataType],
    /// Whether it may be left out or repeated.
    pub arity: Arity,
    /// First opset version that has it.
    pub since: i64,
}

/// How often a parameter occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly once.
    One,
    /// Once or left out.
    Optional,
    /// Any number of times; only the last parameter.
    Variadic,
}

/// An attribute of an operator.
#[derive(Debug, Clone, Copy)]
pub struct AttrDef {
    /// Name.
    pub name: &'static str,
    /// Code in `AttributeProto.AttributeType`.
    pub type_code: i32,
    /// Whether a node must have it.
    pub required: bool,
    /// First opset version that has it.
    pub since: i64,
    /// First opset version that has it no more.
    pub until: i64,
}

/// What passes may assume of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Equal inputs give equal outputs and nothing else happens: such nodes can be folded and merged.
    /// False for random operators and for bodies that may hold one.
    pub pure: bool,
    /// Output element `i` depends on the elements that broadcast to `i`, and on no others.
    pub elementwise: bool,
    /// Output rows (all axes but the last) depend on the same rows of the first input only.
    pub rowwise: bool,
    /// The elements come out unchanged, at other places or some of them only.
    pub movement: bool,
}

impl Class {
    /// Pure and nothing more.
    pub const PURE: Class =
        Class { pure: true, elementwise: false, rowwise: false, movement: false };
    /// Neither pure nor anything else: never folded, never merged.
    pub const IMPURE: Class =
        Class { pure: false, elementwise: false, rowwise: false, movement: false };
    /// Element by element, with broadcasting.
    pub const ELEMENTWISE: Class =
        Class { pure: true, elementwise: true, rowwise: true, movement: false };
    /// Row by row along the last axis.
    pub const ROWWISE: Class =
        Class { pure: true, elementwise: false, rowwise: true, movement: false };
    /// Moves elements.
    pub const MOVEMENT: Class =
        Class { pure: true, elementwise: false, rowwise: false, movement: true };
}

impl Operator {
    /// A pure operator of ONNX's own domain that has no evaluation.
    pub(crate) const fn new(
        name: &'static str,
        versions: &'static [i64],
        infer: InferFn,
    ) -> Operator {
        Operator {
            domain: "",
            name,
            versions,
            inputs: &[],
            outputs: &[],
            attrs: &[],
            class: Class::PURE,
            infer,
            eval: None,
        }
    }

    /// With these inputs and outputs.
    pub(crate) const fn params(
        mut self,
        inputs: &'static [Param],
        outputs: &'static [Param],
    ) -> Operator {
        self.inputs = inputs;
        self.outputs = outputs;
        self
    }

    /// With these attributes.
    pub(crate) const fn attrs(mut self, attrs: &'static [AttrDef]) -> Operator {
        self.attrs = attrs;
        self
    }

    /// With this class.
    pub(crate) const fn class(mut self, class: Class) -> Operator {
        self.class = class;
        self
    }

    /// With an evaluation.
    pub(crate) const fn eval(mut self, eval: EvalFn) -> Operator {
        self.eval = Some(eval);
        self
    }

    /// The version of the operator that a model of this opset means; none when the opset is older than it.
    #[must_use]
    pub fn since(&self, opset: i64) -> Option<i64> {
        self.versions.iter().rev().find(|&&v| v <= opset).copied()
    }
}

/// The domain in one spelling: `ai.onnx` is `""`.
#[must_use]
pub fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Operators by domain and name, each with its name as the nodes share it.
type Table = HashMap<(&'static str, &'static str), (&'static Operator, Name)>;

static TABLE: LazyLock<Table> =
    LazyLock::new(|| all().map(|op| ((op.domain, op.name), (op, op.name.into()))).collect());

/// The operator of this domain (in its normal spelling) and type, if the table has it.
#[must_use]
pub fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    TABLE.get(&(domain, name)).map(|(operator, _)| *operator)
}

/// As [`find`], with the name that all nodes of the operator share: comparing names is most of what looking for a
/// pattern costs, and one place in memory stays in the cache of a processor.
pub(crate) fn find_named(domain: &str, name: &str) -> Option<(&'static Operator, Name)> {
    TABLE.get(&(domain, name)).map(|(operator, name)| (*operator, name.clone()))
}

/// Every operator of the table.
pub fn all() -> impl Iterator<Item = &'static Operator> {
    FAMILIES.iter().copied().flatten()
}

/// What a node says beside its inputs.
#[derive(Debug, Clone, Copy)]
pub struct NodeCx<'a> {
    /// Attributes.
    pub attrs: &'a Attrs,
    /// Opset version of the operator's domain.
    pub version: i64,
    /// Number of outputs, left-out ones at the end not counted.
    pub outputs: usize,
}

/// An input of a node, as inference sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Input<'a> {
    /// Whether the node has this input: an optional one may be left out.
    pub present: bool,
    /// What is known of its type.
    pub ty: Option<&'a Type>,
    /// Its elements, when it is constant.
    pub tensor: Option<&'a Tensor>,
    /// Elements of a short integer list that is not constant, as far as they follow from names of dimensions.
    pub names: Option<&'a [Dim]>,
}

impl Input<'_> {
    /// Elements of a short integer list as far as they are known.
    #[must_use]
    pub fn dims(&self) -> Option<Vec<Dim>> {
        match self.names {
            Some(names) => Some(names.to_vec()),
            None => Some(self.tensor?.to_ints()?.into_iter().map(Dim::Fixed).collect()),
        }
    }
}

/// What inference sees of a node.
#[derive(Debug, Clone, Copy)]
pub struct InferCx<'a> {
    /// Attributes, version.
    pub node: NodeCx<'a>,
    /// Inputs in order, left-out ones included.
    pub inputs: &'a [Input<'a>],
    /// Types of the outputs of each body, by the name of its attribute.
    pub bodies: &'a [(Name, Types)],
}

impl<'a> Deref for InferCx<'a> {
    type Target = NodeCx<'a>;
    fn deref(&self) -> &NodeCx<'a> {
        &self.node
    }
}

impl<'a> InferCx<'a> {
    /// The input at `slot`; one that is left out is not `present`.
    #[must_use]
    pub fn input(&self, slot: usize) -> Input<'a> {
        self.inputs.get(slot).copied().unwrap_or_default()
    }

    /// Whether the node has an input at `slot`.
    #[must_use]
    pub fn has(&self, slot: usize) -> bool {
        self.input(slot).present
    }

    /// Tensor type of an input, if known.
    #[must_use]
    pub fn tensor_type(&self, slot: usize) -> Option<&'a TensorType> {
        self.input(slot).ty?.as_tensor()
    }

    /// Element type of an input, if known.
    #[must_use]
    pub fn dtype(&self, slot: usize) -> Option<DataType> {
        Some(self.tensor_type(slot)?.dtype)
    }

    /// Shape of an input, if at least its rank is known.
    #[must_use]
    pub fn shape(&self, slot: usize) -> Option<&'a Shape> {
        self.tensor_type(slot)?.shape.as_ref()
    }

    /// Elements of a constant integer input.
    #[must_use]
    pub fn ints(&self, slot: usize) -> Option<Vec<i64>> {
        self.input(slot).tensor?.to_ints()
    }

    /// Elements of a short integer input as far as they are known.
    #[must_use]
    pub fn dims(&self, slot: usize) -> Option<Vec<Dim>> {
        self.input(slot).dims()
    }

    /// The one element of an integer input as far as it is known.
    #[must_use]
    pub fn dim(&self, slot: usize) -> Dim {
        match self.dims(slot).as_deref() {
            Some([dim]) => dim.clone(),
            _ => Dim::Unknown,
        }
    }
}

/// What evaluation sees of a node.
#[derive(Debug, Clone, Copy)]
pub struct EvalCx<'a> {
    /// Attributes, version.
    pub node: NodeCx<'a>,
    /// Inputs in order; one that is left out is `None`.
    pub inputs: &'a [Option<&'a Tensor>],
    /// The most bytes that one output may take.
    pub limit: u64,
}

impl<'a> Deref for EvalCx<'a> {
    type Target = NodeCx<'a>;
    fn deref(&self) -> &NodeCx<'a> {
        &self.node
    }
}

impl<'a> EvalCx<'a> {
    /// The input at `slot`, if the node has it.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&'a Tensor> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The input at `slot`, which the operator needs.
    ///
    /// # Errors
    /// When the node does not have it.
    pub fn input(&self, slot: usize) -> Result<&'a Tensor, EvalError> {
        self.get(slot).ok_or(EvalError::MissingInput(slot))
    }

    /// Number of elements of an output with these dimensions.
    ///
    /// # Errors
    /// When it is more than the caller allows, before anything is allocated.
    pub fn size(&self, dtype: DataType, dims: &[i64]) -> Result<usize, EvalError> {
        let n = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        let fits =
            n.and_then(|n| Some((n, dtype.byte_len(n)?))).filter(|&(_, bytes)| bytes <= self.limit);
        match fits {
            Some((n, _)) => usize::try_from(n).map_err(|_| EvalError::TooLarge(dims.to_vec())),
            None => Err(EvalError::TooLarge(dims.to_vec())),
        }
    }
}

/// The model contradicts itself at this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InferError(pub String);

impl InferError {
    /// An error with this text: lower case, no full stop, the contradicting shapes in it.
    pub fn new(what: impl Into<String>) -> InferError {
        InferError(what.into())
    }
}

/// Why a node was not evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Not implemented for these types or attributes: the node stays.
    #[error("not evaluated: {0}")]
    Unsupported(&'static str),
    /// The output has more elements than the caller allows: the node stays.
    #[error("an output of {0:?} is over the size limit")]
    TooLarge(Vec<i64>),
    /// An input that the operator needs is left out.
    #[error("input {0} is missing")]
    MissingInput(usize),
    /// The inputs contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// An input's elements cannot be had.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl EvalError {
    /// Inputs that contradict each other.
    pub fn invalid(what: impl Into<String>) -> EvalError {
        EvalError::Invalid(what.into())
    }
}

impl From<InferError> for EvalError {
    fn from(err: InferError) -> Self {
        EvalError::Invalid(err.0)
    }
}

/// The axis counted from the front.
///
/// # Errors
/// When it is outside `-rank..rank`.
pub fn normal_axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let n = rank as i64;
    if (-n..n).contains(&axis) {
        Ok(usize::try_from(axis.rem_euclid(n)).unwrap_or(0))
    } else {
        Err(InferError::new(format!("axis {axis} is outside of rank {rank}")))
    }
}

/// The shape that two shapes broadcast to, as numpy does it.
///
/// # Errors
/// When two known dimensions differ and neither is 1.
pub fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, InferError> {
    let rank = a.rank().max(b.rank());
    let at = |s: &Shape, i: usize| {
        let missing = rank - s.rank();
        if i < missing { Dim::Fixed(1) } else { s.0[i - missing].clone() }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => Ok(d),
            (Dim::Fixed(x), Dim::Fixed(y)) if x != y => {
                Err(InferError::new(format!("shapes {a} and {b} do not broadcast: {x} and {y}")))
            }
            // Whatever the other one is, it is this number or 1.
            (Dim::Fixed(n), _) | (_, Dim::Fixed(n)) => Ok(Dim::Fixed(n)),
            (x, y) if x.same(&y) => Ok(x),
            // A slice of at most `y` elements of a table broadcasts to `y`: it is `y` long, or 1.
            (x, y) if x.is_capped_by(&y) => Ok(y),
            (x, y) if y.is_capped_by(&x) => Ok(x),
            _ => Ok(Dim::Unknown),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Arity, all, find};

    #[test]
    fn the_table_is_sound() {
        for op in all() {
            let name = op.name;
            assert!(std::ptr::eq(find(op.domain, name).unwrap(), op), "{name} is there twice");
            assert!(op.versions.is_sorted() && !op.versions.is_empty(), "{name}: versions");
            for params in [op.inputs, op.outputs] {
                let arities: Vec<Arity> = params.iter().map(|p| p.arity).collect();
                let variadic = arities.iter().position(|&a| a == Arity::Variadic);
                assert!(
                    variadic.is_none_or(|at| at + 1 == arities.len()),
                    "{name}: variadic and not last"
                );
                for one in params {
                    let typed: Vec<_> =
                        params.iter().filter(|p| p.var == one.var && !p.var.is_empty()).collect();
                    assert!(
                        typed.iter().all(|p| p.types == one.types) || one.var.is_empty(),
                        "{name}: {}",
                        one.var
                    );
                }
            }
            for attr in op.attrs {
                let same = |other: &&super::AttrDef| {
                    other.name == attr.name && other.since < attr.until && attr.since < other.until
                };
                assert_eq!(
                    op.attrs.iter().filter(same).count(),
                    1,
                    "{name}: attribute {}",
                    attr.name
                );
            }
            assert!(
                op.eval.is_none() || op.class.pure || name == "Dropout",
                "{name} is evaluated and not pure"
            );
        }
        // All of ONNX as of opset 28.
        assert_eq!(all().count(), 203);
    }
}
