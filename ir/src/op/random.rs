//! Numbers that nobody knows before: never folded, never merged.

use super::infer::{Inferred, dim, dtype_attr, is_unknown_attr, one as output};
use super::schema::{
    attr::{float, int, ints},
    one,
    sets::{ANY, FLOATS, INDEX, NUMBERS_AND_BOOL},
};
use super::{Class, InferCx, InferError, Operator};
use crate::{DataType, Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("RandomNormal", &[1, 22], draw)
        .params(&[], &[one("output", "", FLOATS)])
        .attrs(&[
            int("dtype"),
            float("mean"),
            float("scale"),
            float("seed"),
            ints("shape").required(),
        ])
        .class(Class::IMPURE),
    Operator::new("RandomUniform", &[1, 22], draw)
        .params(&[], &[one("output", "", FLOATS)])
        .attrs(&[
            int("dtype"),
            float("high"),
            float("low"),
            float("seed"),
            ints("shape").required(),
        ])
        .class(Class::IMPURE),
    Operator::new("RandomNormalLike", &[1, 22], draw_like)
        .params(&[one("input", "", ANY)], &[one("output", "", FLOATS)])
        .attrs(&[int("dtype"), float("mean"), float("scale"), float("seed")])
        .class(Class::IMPURE),
    Operator::new("RandomUniformLike", &[1, 22], draw_like)
        .params(&[one("input", "", ANY)], &[one("output", "", FLOATS)])
        .attrs(&[int("dtype"), float("high"), float("low"), float("seed")])
        .class(Class::IMPURE),
    Operator::new("Bernoulli", &[15, 22], draw_like)
        .params(&[one("input", "", FLOATS)], &[one("output", "", NUMBERS_AND_BOOL)])
        .attrs(&[int("dtype"), float("seed")])
        .class(Class::IMPURE),
    Operator::new("Multinomial", &[7, 22], multinomial)
        .params(&[one("input", "", FLOATS)], &[one("output", "", INDEX)])
        .attrs(&[int("dtype"), int("sample_size"), float("seed")])
        .class(Class::IMPURE),
];

/// The type that `dtype` names, else `default`.
fn dtype(cx: &InferCx<'_>, default: Option<DataType>) -> Result<Option<DataType>, InferError> {
    if is_unknown_attr(cx, "dtype") { Ok(None) } else { Ok(dtype_attr(cx, "dtype")?.or(default)) }
}

fn draw(cx: &InferCx<'_>) -> Inferred {
    output(dtype(cx, Some(DataType::Float))?, cx.attrs.ints("shape").map(Shape::fixed))
}

fn draw_like(cx: &InferCx<'_>) -> Inferred {
    output(dtype(cx, cx.dtype(0))?, cx.shape(0).cloned())
}

fn multinomial(cx: &InferCx<'_>) -> Inferred {
    let batch = cx.shape(0).and_then(|s| s.0.first().cloned()).unwrap_or(Dim::Unknown);
    let unknown = is_unknown_attr(cx, "sample_size");
    let count = dim((!unknown).then(|| cx.attrs.int("sample_size").unwrap_or(1)));
    output(dtype(cx, Some(DataType::Int32))?, Some([batch, count].into_iter().collect()))
}
