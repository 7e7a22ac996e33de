//! What inferences share.

use smallvec::{SmallVec, smallvec};

use super::{InferCx, InferError, Input, NodeCx, Types, broadcast, normal_axis};
use crate::{AttrValue, DataType, Dim, Shape, TensorType, Type};

/// What an inference returns.
pub(super) type Inferred = Result<Types, InferError>;

/// A tensor type; nothing where the element type is unknown.
pub(super) fn tensor(dtype: Option<DataType>, shape: Option<Shape>) -> Option<Type> {
    Some(Type::Tensor(TensorType { dtype: dtype?, shape }))
}

/// One output, a tensor.
#[expect(clippy::unnecessary_wraps, reason = "ends inferences")]
pub(super) fn one(dtype: Option<DataType>, shape: Option<Shape>) -> Inferred {
    Ok(smallvec![tensor(dtype, shape)])
}

/// As many of these outputs as the node has, and at least one.
#[expect(clippy::unnecessary_wraps, reason = "ends inferences")]
pub(super) fn several(cx: &NodeCx<'_>, types: impl IntoIterator<Item = Option<Type>>) -> Inferred {
    let mut types: Types = types.into_iter().take(cx.outputs.max(1)).collect();
    types.resize(cx.outputs.max(1), None);
    Ok(types)
}

/// Nothing known of any output.
pub(super) fn nothing(cx: &InferCx<'_>) -> Inferred {
    several(cx, [])
}

/// The output is of the first input's type.
#[expect(clippy::unnecessary_wraps, reason = "an `InferFn`")]
pub(super) fn same(cx: &InferCx<'_>) -> Inferred {
    Ok(smallvec![cx.input(0).ty.cloned()])
}

/// The output is of the first input's shape and holds bools.
pub(super) fn same_bool(cx: &InferCx<'_>) -> Inferred {
    one(Some(DataType::Bool), cx.shape(0).cloned())
}

/// The first element type that is known among these inputs, which all have the same.
pub(super) fn any_dtype(
    cx: &InferCx<'_>,
    slots: impl IntoIterator<Item = usize>,
) -> Option<DataType> {
    slots.into_iter().find_map(|slot| cx.dtype(slot))
}

/// The shape that these inputs broadcast to; none unless all are known.
pub(super) fn broadcast_inputs(
    cx: &InferCx<'_>,
    slots: impl IntoIterator<Item = usize>,
) -> Result<Option<Shape>, InferError> {
    let mut all: Option<Shape> = None;
    let mut complete = true;
    for slot in slots {
        // A contradiction among those that are known is one whatever the others are.
        match (cx.shape(slot), &all) {
            (Some(shape), Some(so_far)) => all = Some(broadcast(so_far, shape)?),
            (Some(shape), None) => all = Some(shape.clone()),
            (None, _) => complete = false,
        }
    }
    Ok(all.filter(|_| complete))
}

/// The element type that an attribute names by its code.
pub(super) fn dtype_attr(cx: &NodeCx<'_>, name: &str) -> Result<Option<DataType>, InferError> {
    match cx.attrs.get(name) {
        Some(AttrValue::Int(code)) => {
            i32::try_from(*code).ok().and_then(DataType::from_code).map(Some).ok_or_else(|| {
                InferError::new(format!("attribute {name} is {code}, which is no element type"))
            })
        }
        _ => Ok(None),
    }
}

/// Whether an attribute is given by reference to one of the function around the node, so that nobody knows its value.
pub(super) fn is_unknown_attr(cx: &NodeCx<'_>, name: &str) -> bool {
    matches!(cx.attrs.get(name), Some(AttrValue::Ref(..)))
}

/// An integer attribute with its default; none when its value is unknown.
pub(super) fn int_attr(cx: &NodeCx<'_>, name: &str, default: i64) -> Option<i64> {
    if is_unknown_attr(cx, name) { None } else { Some(cx.attrs.int(name).unwrap_or(default)) }
}

/// The dimensions that a constant or partly known 1-D input of dimensions gives.
pub(super) fn dims_from(input: Input<'_>) -> Option<Shape> {
    if let Some(dims) = input.dims() {
        return Some(dims.into_iter().collect());
    }
    let rank = fixed_len(input)?;
    Some(Shape::unknown(rank))
}

/// Length of a 1-D input.
pub(super) fn fixed_len(input: Input<'_>) -> Option<usize> {
    let shape = input.ty?.as_tensor()?.shape.as_ref()?;
    match shape.0.as_slice() {
        [Dim::Fixed(n)] => usize::try_from(*n).ok().filter(|&n| n <= MAX_RANK),
        _ => None,
    }
}

/// No tensor has more axes than this; a longer list of dimensions is not taken for one.
const MAX_RANK: usize = 64;

/// Axes counted from the front, in the given order, each at most once.
pub(super) fn normal_axes(axes: &[i64], rank: usize) -> Result<SmallVec<[usize; 4]>, InferError> {
    let mut seen = SmallVec::<[usize; 4]>::new();
    for &axis in axes {
        let axis = normal_axis(axis, rank)?;
        if seen.contains(&axis) {
            return Err(InferError::new(format!("axes {axes:?} name axis {axis} twice")));
        }
        seen.push(axis);
    }
    Ok(seen)
}

/// The one dimension that both are, where they agree or one is unknown.
pub(super) fn merge(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Fixed(x), Dim::Fixed(y)) => (x == y).then(|| a.clone()),
        (Dim::Fixed(_), _) => Some(a.clone()),
        (_, Dim::Fixed(_)) | (Dim::Unknown, _) => Some(b.clone()),
        _ => Some(a.clone()),
    }
}

/// A dimension where the number is known.
pub(super) fn dim(n: Option<i64>) -> Dim {
    n.map_or(Dim::Unknown, Dim::Fixed)
}
