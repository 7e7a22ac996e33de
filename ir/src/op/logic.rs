//! Comparisons, logic, bits, and selection.

use super::arithmetic::{binary, broadcast_walk, zip_inputs};
use super::infer::{Inferred, any_dtype, broadcast_inputs, one as output, same};
use super::kernel::{
    Walk, broadcast_strides, checked_raw, from_units, sizes, units, with_type, with_unit, zip,
};
use super::math::map_input;
use super::schema::{
    attr::{int, string},
    one,
    sets::{ANY, BOOL, INTS, NUMBERS},
    types,
};
use super::{Class, EvalCx, EvalError, InferCx, Operator, broadcast};
use crate::{DataType, Dim, Element, Shape, Tensor, TensorData};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
Operator::new("Equal", &[1, 7, 11, 13, 19], compare).params(&[one("A", "T", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16)), one("B", "T", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Bfloat16))], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(equal),
Operator::new("Greater", &[1, 7, 9, 13], compare).params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(greater),
Operator::new("GreaterOrEqual", &[12, 16], compare).params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "", BOOL)]).class(Class::ELEMENTWISE).eval(greater_or_equal),
Operator::new("Less", &[1, 7, 9, 13], compare).params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(less),
Operator::new("LessOrEqual", &[12, 16], compare).params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "", BOOL)]).class(Class::ELEMENTWISE).eval(less_or_equal),
Operator::new("And", &[1, 7], compare).params(&[one("A", "T", BOOL), one("B", "T", BOOL)], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(and),
Operator::new("Or", &[1, 7], compare).params(&[one("A", "T", BOOL), one("B", "T", BOOL)], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(or),
Operator::new("Xor", &[1, 7], compare).params(&[one("A", "T", BOOL), one("B", "T", BOOL)], &[one("C", "", BOOL)]).attrs(&[int("axis").until(7), int("broadcast").until(7)]).class(Class::ELEMENTWISE).eval(xor),
Operator::new("Not", &[1], same).params(&[one("X", "T", BOOL)], &[one("Y", "T", BOOL)]).class(Class::ELEMENTWISE).eval(not),
Operator::new("Where", &[9, 16], select).params(&[one("condition", "", BOOL), one("X", "T", ANY), one("Y", "T", ANY)], &[one("output", "T", ANY)]).class(Class::ELEMENTWISE).eval(eval_select),
Operator::new("BitwiseAnd", &[18], binary).params(&[one("A", "T", INTS), one("B", "T", INTS)], &[one("C", "T", INTS)]).class(Class::ELEMENTWISE).eval(bitwise_and),
Operator::new("BitwiseOr", &[18], binary).params(&[one("A", "T", INTS), one("B", "T", INTS)], &[one("C", "T", INTS)]).class(Class::ELEMENTWISE).eval(bitwise_or),
Operator::new("BitwiseXor", &[18], binary).params(&[one("A", "T", INTS), one("B", "T", INTS)], &[one("C", "T", INTS)]).class(Class::ELEMENTWISE).eval(bitwise_xor),
Operator::new("BitwiseNot", &[18], same).params(&[one("X", "T", INTS)], &[one("Y", "T", INTS)]).class(Class::ELEMENTWISE).eval(bitwise_not),
Operator::new("BitShift", &[11, 28], binary).params(&[one("X", "T", INTS), one("Y", "T", INTS)], &[one("Z", "T", INTS)]).attrs(&[string("direction").required()]).class(Class::ELEMENTWISE).eval(bit_shift),
];

fn compare(cx: &InferCx<'_>) -> Inferred {
    if cx.version < 7 {
        // The second input broadcasts to the first.
        return output(Some(DataType::Bool), cx.shape(0).cloned());
    }
    output(Some(DataType::Bool), broadcast_inputs(cx, 0..2)?)
}

fn select(cx: &InferCx<'_>) -> Inferred {
    output(any_dtype(cx, 1..3), broadcast_inputs(cx, 0..3)?)
}

fn equal(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if let (TensorData::String(xs), TensorData::String(ys)) = (&a.data, &b.data) {
        let (dims, walk) = broadcast_walk(a, b)?;
        let size = cx.size(DataType::Bool, &dims)?;
        let place = |n: usize| (0..n).collect::<Vec<usize>>();
        a.check()?;
        b.check()?;
        let out = zip(&walk, &place(xs.len()), &place(ys.len()), size, &|i, j| xs[i] == ys[j]);
        return Ok(vec![Tensor::new(&dims, out)]);
    }
    with_type!(all, a.dtype, T => zip_inputs(cx, |x: T, y: T| x == y))
}

macro_rules! comparisons {
    ($($name:ident = $op:tt;)*) => {$(
        fn $name(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
            with_type!(numbers, cx.input(0)?.dtype, T => zip_inputs(cx, |x: T, y: T| x $op y))
        }
    )*};
}

comparisons! {
    greater = >;
    greater_or_equal = >=;
    less = <;
    less_or_equal = <=;
}

fn and(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    zip_inputs(cx, |x: bool, y: bool| x && y)
}

fn or(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    zip_inputs(cx, |x: bool, y: bool| x || y)
}

fn xor(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    zip_inputs(cx, |x: bool, y: bool| x != y)
}

fn not(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_input(cx, |x: bool| !x)
}

fn bitwise_and(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(ints, cx.input(0)?.dtype, T => zip_inputs(cx, |x: T, y: T| x & y))
}

fn bitwise_or(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(ints, cx.input(0)?.dtype, T => zip_inputs(cx, |x: T, y: T| x | y))
}

fn bitwise_xor(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(ints, cx.input(0)?.dtype, T => zip_inputs(cx, |x: T, y: T| x ^ y))
}

fn bitwise_not(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(ints, cx.input(0)?.dtype, T => map_input(cx, |x: T| !x))
}

fn bit_shift(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    fn shift<T: Element>(
        cx: &EvalCx<'_>,
        bits: u32,
        amount: impl Fn(T) -> i128 + Sync,
        left: impl Fn(T, u32) -> T + Sync,
        right: impl Fn(T, u32) -> T + Sync,
    ) -> Result<Vec<Tensor>, EvalError> {
        let is_left = match cx.str("direction", "")? {
            "LEFT" => true,
            "RIGHT" => false,
            other => {
                return Err(EvalError::invalid(format!(
                    "direction {other:?} is neither LEFT nor RIGHT"
                )));
            }
        };
        // What a shift by the whole width gives is not defined.
        if cx
            .input(1)?
            .elements::<T>()?
            .iter()
            .any(|&y| amount(y) >= i128::from(bits) || amount(y) < 0)
        {
            return Err(EvalError::Unsupported("a shift by the whole width or more"));
        }
        zip_inputs(cx, |x: T, y: T| {
            let n = amount(y) as u32;
            if is_left { left(x, n) } else { right(x, n) }
        })
    }
    with_type!(ints, cx.input(0)?.dtype, T => {
        shift(cx, T::BITS, |y: T| i128::from(y), |x: T, n| x.wrapping_shl(n), |x: T, n| x.wrapping_shr(n))
    })
}

fn eval_select(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (condition, x, y) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if x.dtype != y.dtype {
        return Err(EvalError::invalid(format!("selects between {} and {}", x.dtype, y.dtype)));
    }
    let shape = broadcast(
        &broadcast(&Shape::fixed(&condition.dims), &Shape::fixed(&x.dims))?,
        &Shape::fixed(&y.dims),
    )?;
    let dims: Vec<i64> = shape.0.iter().filter_map(Dim::fixed).collect();
    if x.dtype == DataType::String {
        return Err(EvalError::Unsupported("strings"));
    }
    let size = cx.size(x.dtype, &dims)?;
    let choose = condition.elements::<bool>()?;
    let (xs, ys) = (checked_raw(x)?, checked_raw(y)?);
    let strides = |t: &Tensor| broadcast_strides(&sizes(&t.dims), dims.len());
    let walk = Walk::new(&sizes(&dims), [&strides(condition), &strides(x), &strides(y)], [0; 3]);
    with_unit!(x.dtype, U => {
        let (xs, ys) = (units::<U>(&xs), units::<U>(&ys));
        let mut out = Vec::with_capacity(size);
        let len = walk.len;
        walk.rows(|[c, i, j]| {
            let (c, i, j) = (c as usize, i as usize, j as usize);
            match walk.step {
                [0, 1, _] if choose[c] => out.extend_from_slice(&xs[i..i + len]),
                [0, _, 1] if !choose[c] => out.extend_from_slice(&ys[j..j + len]),
                [1, 1, 1] => out.extend(
                    choose[c..c + len].iter().zip(&xs[i..i + len]).zip(&ys[j..j + len]).map(|((&c, &x), &y)| if c { x } else { y }),
                ),
                [r, s, t] => out.extend((0..len).map(|k| {
                    if choose[c + k * r as usize] { xs[i + k * s as usize] } else { ys[j + k * t as usize] }
                })),
            }
        });
        Ok(vec![from_units(x.dtype, &dims, out)])
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, bools, f32s, ints, scalar};
    use crate::{DataType, Tensor};

    #[test]
    fn nan_equals_nothing() {
        let y = Case::new("Equal")
            .input(f32s(&[2], &[f32::NAN, 0.0]))
            .input(f32s(&[2], &[f32::NAN, -0.0]))
            .run();
        assert_eq!(y[0], bools(&[false, true]));
    }

    #[test]
    fn comparisons_give_bools() {
        let less = Case::new("Less").typed(DataType::Float, "N,1").typed(DataType::Float, "4");
        assert_eq!(less.infer(), "bool[N,4]");
    }

    #[test]
    fn selection_broadcasts_three_ways() {
        let y = Case::new("Where")
            .input(bools(&[true, false]).reshaped(&[2, 1]))
            .input(ints(&[1, 2]))
            .input(scalar(9_i64));
        assert_eq!(y.run()[0], Tensor::new(&[2, 2], vec![1_i64, 2, 9, 9]));
    }

    #[test]
    fn shifts() {
        let shift = |n: u8| {
            Case::new("BitShift")
                .attr("direction", "RIGHT")
                .input(scalar(8_u8))
                .input(scalar(n))
                .try_run()
        };
        assert_eq!(shift(2).unwrap()[0], scalar(2_u8));
        assert!(shift(8).is_err());
    }
}
