//! Conversions between element types.
//!
//! Floats to floats round to nearest even and overflow to infinity; floats to integers truncate, and beyond the
//! integer's range, where the format leaves the result open, saturate; integers to smaller integers keep the low bits;
//! everything but zero is true.

use super::infer::{Inferred, dtype_attr, is_unknown_attr, nothing, one as output};
use super::kernel::{Number, map, with_type};
use super::schema::{
    attr::{int, string},
    one, types,
};
use super::{Class, EvalCx, EvalError, InferCx, Operator};
use crate::{AttrValue, DataType, Element, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
Operator::new("Cast", &[1, 6, 9, 13, 19, 21, 23, 24, 25, 28], cast).params(&[one("input", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2 Float6E2m3 Float6E3m2))], &[one("output", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2 Float6E2m3 Float6E3m2))]).attrs(&[string("round_mode").since(24), int("saturate").since(19), int("to").required().since(6), string("to").required().until(6)]).class(Class::ELEMENTWISE).eval(eval_cast),
Operator::new("CastLike", &[15, 19, 21, 23, 24, 25], cast_like).params(&[one("input", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2)), one("target_type", "T2", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2))], &[one("output", "T2", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2))]).attrs(&[string("round_mode").since(24), int("saturate").since(19)]).class(Class::ELEMENTWISE).eval(eval_cast_like),
Operator::new("BitCast", &[26], bit_cast).params(&[one("input", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2))], &[one("output", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2))]).attrs(&[int("to").required()]).class(Class::ELEMENTWISE).eval(eval_bit_cast),
];

fn cast(cx: &InferCx<'_>) -> Inferred {
    if is_unknown_attr(cx, "to") {
        return nothing(cx);
    }
    output(target(&cx.node)?, cx.shape(0).cloned())
}

fn target(cx: &super::NodeCx<'_>) -> Result<Option<DataType>, super::InferError> {
    // Until opset 6 the type was given by name.
    if let Some(AttrValue::String(name)) = cx.attrs.get("to") {
        let name = std::str::from_utf8(name).unwrap_or_default().to_ascii_lowercase();
        return Ok(DataType::from_name(&name));
    }
    dtype_attr(cx, "to")
}

fn cast_like(cx: &InferCx<'_>) -> Inferred {
    output(cx.dtype(1), cx.shape(0).cloned())
}

fn bit_cast(cx: &InferCx<'_>) -> Inferred {
    cast(cx)
}

fn eval_cast(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    if is_unknown_attr(cx, "to") {
        return Err(EvalError::Unsupported("an attribute of the function around the node"));
    }
    let to = target(&cx.node)?.ok_or(EvalError::Unsupported("this type"))?;
    Ok(vec![converted(cx, cx.input(0)?, to)?])
}

fn eval_cast_like(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![converted(cx, cx.input(0)?, cx.input(1)?.dtype)?])
}

fn eval_bit_cast(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let to = target(&cx.node)?.ok_or(EvalError::Unsupported("this type"))?;
    if to.bits() != x.dtype.bits() || to == DataType::String {
        return Err(EvalError::invalid(format!("{} and {to} are not of one size", x.dtype)));
    }
    x.check()?;
    Ok(vec![Tensor::from_raw(to, &x.dims, x.to_bytes()?)?])
}

/// A number that a cast reads or writes.
trait Convert: Element {
    fn to<R: From64>(self) -> R;
}

/// Both ways that lead to every type without loss: integers and bool through int128, floats through float64.
trait From64: Element {
    fn from_integer(i: i128) -> Self;
    fn from_float(x: f64) -> Self;
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl Convert for $ty {
            fn to<R: From64>(self) -> R { R::from_integer(i128::from(self)) }
        }
        impl From64 for $ty {
            fn from_integer(i: i128) -> Self { i as $ty }
            fn from_float(x: f64) -> Self { x as $ty }
        }
    )*};
}

macro_rules! floats {
    ($($ty:ty)*) => {$(
        impl Convert for $ty {
            fn to<R: From64>(self) -> R { R::from_float(Number::to_f64(self)) }
        }
        impl From64 for $ty {
            fn from_float(x: f64) -> Self { Number::from_f64(x) }
            fn from_integer(i: i128) -> Self {
                // An integer that float64 does not hold exactly is rounded to odd, so that a second rounding does
                // no harm.
                let near = i as f64;
                let back = near as i128;
                if back == i || size_of::<$ty>() == 8 {
                    return Number::from_f64(near);
                }
                let towards_zero = if back.abs() > i.abs() { near.to_bits() - 1 } else { near.to_bits() };
                Number::from_f64(f64::from_bits(towards_zero | 1))
            }
        }
    )*};
}

integers! { i8 i16 i32 i64 u8 u16 u32 u64 }
floats! { f32 f64 half::f16 half::bf16 }

impl Convert for bool {
    fn to<R: From64>(self) -> R {
        R::from_integer(i128::from(self))
    }
}

impl From64 for bool {
    fn from_integer(i: i128) -> Self {
        i != 0
    }
    fn from_float(x: f64) -> Self {
        x != 0.0
    }
}

/// The elements of `x` as another type.
fn converted(cx: &EvalCx<'_>, x: &Tensor, to: DataType) -> Result<Tensor, EvalError> {
    if x.dtype == to {
        x.check()?;
        return Ok(x.reshaped(&x.dims));
    }
    with_type!(all, x.dtype, T => {
        let elements = x.elements::<T>()?;
        with_type!(all, to, R => {
            cx.size(to, &x.dims)?;
            Ok(Tensor::new(&x.dims, map(&elements, &|e: T| -> R { Convert::to(e) })))
        })
    })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use crate::op::testing::{Case, bools, f32s, ints};
    use crate::{DataType, Tensor};

    fn cast(x: Tensor, to: DataType) -> Tensor {
        Case::new("Cast").attr("to", i64::from(to.code())).input(x).run().remove(0)
    }

    #[test]
    fn floats_truncate_and_saturate() {
        let x = f32s(&[5], &[1.9, -1.9, 1e30, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!(cast(x, DataType::Int64), ints(&[1, -1, i64::MAX, i64::MIN, 0]));
    }

    #[test]
    fn integers_keep_low_bits() {
        assert_eq!(cast(ints(&[300, -1]), DataType::Uint8), Tensor::new(&[2], vec![44_u8, 255]));
    }

    #[test]
    fn anything_but_zero_is_true() {
        assert_eq!(
            cast(f32s(&[4], &[0.0, -0.0, 0.5, f32::NAN]), DataType::Bool),
            bools(&[false, false, true, true])
        );
    }

    #[test]
    fn float64_is_rounded_once() {
        // Just above the middle between 1 and the next float16; by way of float32 it would be the middle.
        let x = 1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40);
        let y = cast(Tensor::new(&[1], vec![x]), DataType::Float16);
        assert_eq!(y, Tensor::new(&[1], vec![f16::from_bits(0x3c01)]));
        // The same from an integer, whose last bit float64 does not hold.
        let y = cast(ints(&[(1 << 62) + (1 << 38) + 1]), DataType::Float);
        assert_eq!(y, f32s(&[1], &[4.611_686_6e18]));
    }

    #[test]
    fn the_type_is_inferred_without_the_input() {
        let case = Case::new("Cast").attr("to", 7_i64).typed(DataType::Float, "N,2");
        assert_eq!(case.infer(), "int64[N,2]");
        assert_eq!(
            Case::new("Cast").attr("to", 99_i64).infer_err(),
            "attribute to is 99, which is no element type"
        );
    }
}
