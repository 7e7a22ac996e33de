//! Between floats and small integers with a scale. Inference only: folding would undo what quantization saved.

use super::infer::{Inferred, dtype_attr, is_unknown_attr, one as output, several, tensor};
use super::schema::{
    attr::int,
    one, opt,
    sets::{FLOAT, SMALL_FLOATS, UINT8},
    types,
};
use super::{InferCx, Operator};
use crate::{DataType, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
Operator::new("QuantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], quantize).params(&[one("x", "", types!(Float Int32 Float16 Bfloat16)), one("y_scale", "", types!(Float Int32 Float16 Bfloat16 Float8E8m0)), opt("y_zero_point", "T3", types!(Uint8 Int8 Uint16 Int16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Uint2 Int2 Float6E2m3 Float6E3m2))], &[one("y", "T3", types!(Uint8 Int8 Uint16 Int16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Uint2 Int2 Float6E2m3 Float6E3m2))]).attrs(&[int("axis").since(13), int("block_size").since(21), int("output_dtype").since(21), int("precision").since(23), int("saturate").since(19)]),
Operator::new("DequantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], dequantize).params(&[one("x", "T1", types!(Uint8 Int8 Uint16 Int16 Int32 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Uint2 Int2 Float6E2m3 Float6E3m2)), one("x_scale", "", types!(Float Float16 Bfloat16 Float8E8m0)), opt("x_zero_point", "T1", types!(Uint8 Int8 Uint16 Int16 Int32 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Uint2 Int2 Float6E2m3 Float6E3m2))], &[one("y", "", SMALL_FLOATS)]).attrs(&[int("axis").since(13), int("block_size").since(21), int("output_dtype").since(23)]),
Operator::new("DynamicQuantizeLinear", &[11], dynamic_quantize).params(&[one("x", "", FLOAT)], &[one("y", "T2", UINT8), one("y_scale", "", FLOAT), one("y_zero_point", "T2", UINT8)]),
];

fn quantize(cx: &InferCx<'_>) -> Inferred {
    let named = if is_unknown_attr(cx, "output_dtype") || cx.attrs.int("output_dtype") == Some(0) {
        None
    } else {
        dtype_attr(cx, "output_dtype")?
    };
    let dtype = match (cx.has(2), is_unknown_attr(cx, "output_dtype")) {
        (true, _) => cx.dtype(2).or(named),
        (false, true) => None,
        (false, false) => named.or(Some(DataType::Uint8)),
    };
    output(dtype, cx.shape(0).cloned())
}

fn dequantize(cx: &InferCx<'_>) -> Inferred {
    let dtype = match cx.attrs.int("output_dtype") {
        _ if is_unknown_attr(cx, "output_dtype") => None,
        None | Some(0) => cx.dtype(1),
        Some(_) => dtype_attr(cx, "output_dtype")?,
    };
    output(dtype, cx.shape(0).cloned())
}

fn dynamic_quantize(cx: &InferCx<'_>) -> Inferred {
    let scalar = || Some(Shape::default());
    several(
        cx,
        [
            tensor(Some(DataType::Uint8), cx.shape(0).cloned()),
            tensor(Some(DataType::Float), scalar()),
            tensor(Some(DataType::Uint8), scalar()),
        ],
    )
}
