//! Lists of tensors, and values that may be absent. Inference only.

use super::infer::{
    Inferred, any_dtype, dtype_attr, int_attr, is_unknown_attr, nothing, one as output,
};
use super::schema::{
    attr::{int, type_proto},
    many, one, opt,
    sets::{ALL, ANY, BOOL, INDEX, INT64, NO_TENSOR, OLD_ANY},
};
use super::{InferCx, Operator, normal_axis};
use crate::{DataType, Dim, Shape, TensorType, Type};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("SequenceEmpty", &[11], empty)
        .params(&[], &[one("output", "", NO_TENSOR)])
        .attrs(&[int("dtype")]),
    Operator::new("SequenceConstruct", &[11], construct)
        .params(&[many("inputs", "T", OLD_ANY)], &[one("output_sequence", "", NO_TENSOR)]),
    Operator::new("SequenceInsert", &[11], insert).params(
        &[
            one("input_sequence", "S", NO_TENSOR),
            one("tensor", "", OLD_ANY),
            opt("position", "", INDEX),
        ],
        &[one("output_sequence", "S", NO_TENSOR)],
    ),
    Operator::new("SequenceErase", &[11], erase).params(
        &[one("input_sequence", "S", NO_TENSOR), opt("position", "", INDEX)],
        &[one("output_sequence", "S", NO_TENSOR)],
    ),
    Operator::new("SequenceAt", &[11], at).params(
        &[one("input_sequence", "", NO_TENSOR), one("position", "", INDEX)],
        &[one("tensor", "", OLD_ANY)],
    ),
    Operator::new("SequenceLength", &[11], length)
        .params(&[one("input_sequence", "", NO_TENSOR)], &[one("length", "", INT64)]),
    Operator::new("SplitToSequence", &[11, 24], split)
        .params(
            &[one("input", "", ANY), opt("split", "", INDEX)],
            &[one("output_sequence", "", NO_TENSOR)],
        )
        .attrs(&[int("axis"), int("keepdims")]),
    Operator::new("ConcatFromSequence", &[11], concat)
        .params(&[one("input_sequence", "", NO_TENSOR)], &[one("concat_result", "", OLD_ANY)])
        .attrs(&[int("axis").required(), int("new_axis")]),
    Operator::new("Optional", &[15, 28], optional)
        .params(&[opt("input", "", ALL)], &[one("output", "", NO_TENSOR)])
        .attrs(&[type_proto("type")]),
    Operator::new("OptionalGetElement", &[15, 18, 28], get_element)
        .params(&[one("input", "", ALL)], &[one("output", "", ALL)]),
    Operator::new("OptionalHasElement", &[15, 18, 28], has_element)
        .params(&[opt("input", "", ALL)], &[one("output", "", BOOL)]),
];

#[expect(clippy::unnecessary_wraps, reason = "ends inferences")]
fn value(ty: Option<Type>) -> Inferred {
    Ok(smallvec::smallvec![ty])
}

fn sequence(of: Option<Type>) -> Inferred {
    value(of.map(|of| Type::Sequence(Box::new(of))))
}

fn tensor(dtype: Option<DataType>, shape: Option<Shape>) -> Option<Type> {
    super::infer::tensor(dtype, shape)
}

/// What the first input, a sequence, holds.
fn element<'a>(cx: &InferCx<'a>) -> Option<&'a Type> {
    match cx.input(0).ty? {
        Type::Sequence(of) => Some(of),
        _ => None,
    }
}

fn empty(cx: &InferCx<'_>) -> Inferred {
    if is_unknown_attr(cx, "dtype") {
        return nothing(cx);
    }
    sequence(tensor(dtype_attr(cx, "dtype")?.or(Some(DataType::Float)), None))
}

fn construct(cx: &InferCx<'_>) -> Inferred {
    let slots = 0..cx.inputs.len();
    let first = cx.shape(0).filter(|first| slots.clone().all(|slot| cx.shape(slot) == Some(first)));
    let open = first.is_some_and(|s| s.0.contains(&Dim::Unknown));
    sequence(tensor(any_dtype(cx, slots), first.filter(|_| !open).cloned()))
}

fn insert(cx: &InferCx<'_>) -> Inferred {
    let dtype = element(cx).and_then(Type::as_tensor).map(|ty| ty.dtype).or(cx.dtype(1));
    sequence(tensor(dtype, None))
}

fn erase(cx: &InferCx<'_>) -> Inferred {
    value(cx.input(0).ty.cloned())
}

fn at(cx: &InferCx<'_>) -> Inferred {
    value(element(cx).cloned())
}

fn length(_: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Int64), Some(Shape::default()))
}

fn split(cx: &InferCx<'_>) -> Inferred {
    let (Some(shape), Some(axis), Some(keep)) =
        (cx.shape(0), int_attr(cx, "axis", 0), int_attr(cx, "keepdims", 1))
    else {
        return sequence(tensor(cx.dtype(0), None));
    };
    let axis = normal_axis(axis, shape.rank())?;
    let mut part = shape.clone();
    // Without lengths every part is one long, and the axis may be dropped.
    if cx.has(1) {
        part.0[axis] = Dim::Unknown;
    } else if keep != 0 {
        part.0[axis] = Dim::Fixed(1);
    } else {
        part.0.remove(axis);
    }
    sequence(tensor(cx.dtype(0), Some(part)))
}

fn concat(cx: &InferCx<'_>) -> Inferred {
    let Some(Type::Tensor(TensorType { dtype, shape })) = element(cx) else { return nothing(cx) };
    let (Some(shape), Some(axis), Some(new)) =
        (shape, cx.attrs.int("axis"), int_attr(cx, "new_axis", 0))
    else {
        return output(Some(*dtype), None);
    };
    let mut joined = shape.clone();
    if new != 0 {
        let axis = normal_axis(axis, shape.rank() + 1)?;
        joined.0.insert(axis, Dim::Unknown);
    } else {
        let axis = normal_axis(axis, shape.rank())?;
        joined.0[axis] = Dim::Unknown;
    }
    output(Some(*dtype), Some(joined))
}

fn optional(cx: &InferCx<'_>) -> Inferred {
    // An empty one is of the type that the attribute gives, which is carried as the file has it.
    value(cx.input(0).ty.map(|ty| Type::Optional(Box::new(ty.clone()))))
}

fn get_element(cx: &InferCx<'_>) -> Inferred {
    value(match cx.input(0).ty {
        Some(Type::Optional(of)) => Some((**of).clone()),
        // Since opset 18 whatever is no optional value is one that is there.
        other => other.cloned(),
    })
}

fn has_element(_: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Bool), Some(Shape::default()))
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::Case;

    #[test]
    fn elements_of_one_shape() {
        let construct = |b| {
            Case::new("SequenceConstruct")
                .typed(DataType::Float, "2")
                .typed(DataType::Float, b)
                .infer()
        };
        assert_eq!(construct("2"), "seq(float[2])");
        assert_eq!(construct("3"), "seq(float[])");
        assert_eq!(
            Case::new("SplitToSequence")
                .attr("keepdims", 0_i64)
                .typed(DataType::Float, "4,N")
                .infer(),
            "seq(float[N])"
        );
    }
}
