//! Types of all values from the types of the inputs, and the constants that fall out on the way.
//!
//! Shape operands are mostly computed in the graph (Shape, Gather, Concat …), so inference evaluates small constant
//! nodes as it goes. The model keeps its nodes; making constants of them is the business of a pass.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::check::element_type_violation;
use crate::op::{EvalCx, EvalError, InferCx, InferError, Input, NodeCx, Types, shape_range};
use crate::symbolic;
use crate::{
    Def, Dim, GraphId, Model, Name, NodeId, Shape, SideTable, Tensor, TensorType, Type, Value,
    ValueId,
};

/// Constants of at most this many bytes are evaluated on the way: shape operands are far smaller.
const SMALL: u64 = 64 << 10;

/// Elements of values that are constant although no initializer holds them.
#[derive(Debug, Default)]
pub struct Known {
    tensors: SideTable<Value, Arc<Tensor>>,
    /// Short lists that hold names of dimensions.
    names: SideTable<Value, Box<[Dim]>>,
}

impl Known {
    /// Nothing beyond the initializers.
    #[must_use]
    pub fn new() -> Known {
        Known::default()
    }

    /// The elements of a constant value.
    #[must_use]
    pub fn get<'a>(&'a self, model: &'a Model, value: ValueId) -> Option<&'a Arc<Tensor>> {
        self.tensors.get(value).or_else(|| model.constant(value))
    }

    /// Notes the elements of a value.
    pub fn insert(&mut self, value: ValueId, tensor: Arc<Tensor>) {
        self.tensors.insert(value, tensor);
    }

    /// Forgets the elements of a value, which may be large.
    pub fn remove(&mut self, value: ValueId) {
        self.tensors.remove(value);
    }

    /// The elements of a short integer list that is not constant, as far as they follow from names of dimensions.
    #[must_use]
    pub fn names(&self, value: ValueId) -> Option<&[Dim]> {
        self.names.get(value).map(Box::as_ref)
    }
}

/// A node whose inputs contradict each other.
#[derive(Debug, Clone, thiserror::Error)]
#[error("node {node_name}: {error}")]
pub struct Contradiction {
    /// The node.
    pub node: NodeId,
    /// Its name and operator.
    pub node_name: String,
    /// What contradicts.
    pub error: InferError,
}

/// Types of the outputs of one node; nothing where the operator is not in the table.
///
/// # Errors
/// When the types of the inputs contradict each other.
pub fn infer_node(model: &Model, node: NodeId, known: &Known) -> Result<Types, InferError> {
    let n = &model[node];
    let nothing = || n.outputs().iter().map(|_| None).collect();
    let Some(def) = n.op().def else { return Ok(nothing()) };
    let Some(version) = model.opset(n.graph(), def.domain) else { return Ok(nothing()) };
    let inputs: SmallVec<[Input<'_>; 4]> = n
        .inputs()
        .iter()
        .map(|&slot| match slot {
            None => Input::default(),
            Some(v) => Input {
                present: true,
                ty: model[v].ty.as_ref(),
                tensor: known.get(model, v).map(Arc::as_ref),
                names: known.names(v),
            },
        })
        .collect();
    let bodies: Vec<(Name, Types)> = n
        .attrs
        .graphs()
        .map(|(name, body)| {
            (name.clone(), model[body].outputs().iter().map(|&v| model[v].ty.clone()).collect())
        })
        .collect();
    let node_cx = NodeCx { attrs: &n.attrs, version, outputs: n.outputs().len() };
    let mut types = (def.infer)(&InferCx { node: node_cx, inputs: &inputs, bodies: &bodies })?;
    types.resize(n.outputs().len(), None);
    Ok(types)
}

/// Elements of the outputs of one node, when its inputs are constant, or its input's shape for Shape and Size.
///
/// # Errors
/// When the operator cannot be evaluated, or its outputs would take more than `limit` bytes each.
/// `None` when an input is not constant or the operator must not be folded.
fn evaluate_node(
    model: &Model,
    node: NodeId,
    known: &Known,
    limit: u64,
) -> Result<Option<Vec<Tensor>>, EvalError> {
    if let Some(tensor) = known_shape(model, node) {
        return Ok(Some(vec![tensor]));
    }
    let mut inputs: SmallVec<[Option<&Tensor>; 4]> = SmallVec::new();
    for &slot in model[node].inputs() {
        match slot {
            None => inputs.push(None),
            Some(v) => match known.get(model, v) {
                Some(tensor) => inputs.push(Some(tensor)),
                None => return Ok(None),
            },
        }
    }
    evaluate(model, node, &inputs, limit)
}

/// Elements of the outputs of one node from those of its inputs, in order; `None` when the operator must not be folded.
///
/// # Errors
/// When the operator cannot be evaluated, or its outputs would take more than `limit` bytes each.
pub fn evaluate(
    model: &Model,
    node: NodeId,
    inputs: &[Option<&Tensor>],
    limit: u64,
) -> Result<Option<Vec<Tensor>>, EvalError> {
    let n = &model[node];
    let Some(def) = n.op().def else { return Ok(None) };
    if !def.class.pure || n.attrs.graphs().next().is_some() {
        return Ok(None);
    }
    let Some(version) = model.opset(n.graph(), def.domain) else { return Ok(None) };
    let Some(eval) = def.eval else { return Ok(None) };
    // A reference to an attribute of the function around it has no value here.
    if n.attrs.0.iter().any(|a| matches!(a.value, crate::AttrValue::Ref(..))) {
        return Ok(None);
    }
    let node_cx = NodeCx { attrs: &n.attrs, version, outputs: n.outputs().len() };
    eval(&EvalCx { node: node_cx, inputs, limit }).map(Some)
}

/// What Shape and Size give for an input whose dimensions are known, though its elements are not; `None` for other
/// operators.
#[must_use]
pub fn known_shape(model: &Model, node: NodeId) -> Option<Tensor> {
    let n = &model[node];
    let shape = model[n.input(0)?].shape()?;
    if n.op().is("Shape") {
        let version = model.opset(n.graph(), "")?;
        let part = shape_range(&NodeCx { attrs: &n.attrs, version, outputs: 1 }, shape.rank());
        let dims: Vec<i64> = shape.0[part].iter().map(Dim::fixed).collect::<Option<_>>()?;
        Some(Tensor::ints(&dims))
    } else if n.op().is("Size") {
        Some(Tensor::scalar(shape.len()?))
    } else {
        None
    }
}

/// Joins what is declared and what is inferred: the inferred type wins where both are known and differ.
#[must_use]
pub fn merge(declared: Option<&Type>, inferred: Option<Type>) -> Option<Type> {
    match (declared, inferred) {
        (Some(Type::Tensor(old)), Some(Type::Tensor(new))) if old.dtype == new.dtype => {
            let shape = match (&old.shape, new.shape) {
                (Some(a), Some(b)) if a.rank() == b.rank() => {
                    Some(a.0.iter().zip(b.0).map(|(a, b)| more_known(a, b)).collect())
                }
                (Some(a), None) => Some(a.clone()),
                (_, b) => b,
            };
            Some(Type::Tensor(TensorType { dtype: new.dtype, shape }))
        }
        (old, None) => old.cloned(),
        (_, new) => new,
    }
}

/// What is inferred is proven, what a file declares may be stale: it counts where nothing is inferred.
fn more_known(declared: &Dim, inferred: Dim) -> Dim {
    if inferred.is_open() && *declared != Dim::Unknown { declared.clone() } else { inferred }
}

/// Infers the types of every value of the model, in order; says whether any of them is news.
///
/// Declared types stay where inference knows less.
///
/// # Errors
/// At the first node whose inputs contradict each other.
pub fn infer(model: &mut Model) -> Result<bool, Contradiction> {
    infer_graph(model, model.root(), &mut Known::new())
}

fn infer_graph(
    model: &mut Model,
    graph: GraphId,
    known: &mut Known,
) -> Result<bool, Contradiction> {
    let mut changed = false;
    let mut next = model[graph].first;
    while let Some(node) = next {
        next = model[node].next;
        let bodies: SmallVec<[GraphId; 2]> = model[node].attrs.graphs().map(|(_, g)| g).collect();
        for body in bodies {
            // A branch that is never taken may contradict itself: exporters squeeze a dimension of 1 under an If
            // that asks whether it is 1. What it says then counts for nothing.
            changed |= infer_graph(model, body, known).unwrap_or(false);
        }
        changed |= infer_and_evaluate(model, node, known)?;
    }
    Ok(changed)
}

/// Infers one node and evaluates it if it is small and constant; says whether a type is news.
///
/// # Errors
/// When its inputs contradict each other.
pub fn infer_and_evaluate(
    model: &mut Model,
    node: NodeId,
    known: &mut Known,
) -> Result<bool, Contradiction> {
    let contradiction =
        |model: &Model, error| Contradiction { node, node_name: model.describe(node), error };
    let types = infer_node(model, node, known).map_err(|e| contradiction(model, e))?;
    let outputs: SmallVec<[Option<ValueId>; 1]> = model[node].outputs().into();
    let mut changed = false;
    for (value, inferred) in outputs.iter().zip(types) {
        if let Some(value) = *value {
            let merged = merge(model[value].ty.as_ref(), inferred);
            changed |= model.set_type(value, merged);
        }
    }
    // Element types that only inference knows may contradict each other where the declared ones did not.
    if let Some(what) = element_type_violation(model, node) {
        return Err(contradiction(model, InferError(what.to_string())));
    }
    if !is_small(model, node) {
        return Ok(changed);
    }
    match evaluate_node(model, node, known, SMALL) {
        Ok(Some(tensors)) => {
            for (value, tensor) in outputs.iter().zip(tensors) {
                let Some(value) = *value else { continue };
                // Evaluation knows the exact dimensions, also where inference gave up.
                let ty = Type::Tensor(TensorType::new(tensor.dtype, Shape::fixed(&tensor.dims)));
                changed |= model.set_type(value, Some(ty));
                known.insert(value, Arc::new(tensor));
            }
            Ok(changed)
        }
        Err(EvalError::Invalid(what)) => Err(contradiction(model, InferError(what))),
        _ => {
            let lists = symbolic::evaluate(model, node, known).unwrap_or_default();
            for (value, list) in outputs.iter().zip(lists) {
                if let Some(value) = *value
                    && symbolic::belongs(model, value, &list)
                {
                    known.names.insert(value, list.into());
                }
            }
            Ok(changed)
        }
    }
}

/// Whether evaluating a node costs little: inputs and outputs are short, as shape operands are.
fn is_small(model: &Model, node: NodeId) -> bool {
    let n = &model[node];
    if n.op().is("Shape") || n.op().is("Size") {
        return true;
    }
    n.inputs().iter().chain(n.outputs()).flatten().all(|&v| match model[v].tensor_type() {
        Some(TensorType { dtype, shape: Some(shape) }) => {
            let bytes = shape.len().and_then(|n| dtype.byte_len(u64::try_from(n).ok()?));
            bytes.is_none_or(|b| b <= SMALL)
        }
        _ => true,
    })
}

/// Drops what the file declared about the shapes of computed values: after inputs got other shapes it may be wrong.
/// Element types stay.
pub fn forget_shapes(model: &mut Model) {
    let ids: Vec<ValueId> = model
        .all_values()
        .filter(|(_, v)| {
            // Inputs of bodies carry what flows through a loop.
            let computed = match v.def() {
                Def::Node { .. } => true,
                Def::Input => {
                    model[v.graph()].owner().is_some() && v.shape().is_some_and(|s| s.rank() > 0)
                }
                _ => false,
            };
            computed && v.tensor_type().is_some_and(|t| t.shape.is_some())
        })
        .map(|(id, _)| id)
        .collect();
    for id in ids {
        if let Some(dtype) = model[id].dtype() {
            model.set_type(id, Some(Type::Tensor(TensorType { dtype, shape: None })));
        }
    }
}
