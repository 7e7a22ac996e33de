//! Arithmetic of two or more tensors with broadcasting: sum, product, power, remainder, maximum.
//!
//! Integers wrap around, division truncates. Until opset 6 broadcasting was by attribute; that is not inferred.

use std::ops::Range;

use super::infer::{Inferred, any_dtype, broadcast_inputs, merge, one as output};
use super::kernel::{
    Number, Walk, broadcast_strides, checked_raw, sizes, with_type, zip, zip_packed,
};
use super::schema::{
    attr::{int, ints},
    many, one,
    sets::{FLOATS, NUMBERS, WIDE_NUMBERS},
    types,
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, Operator, broadcast};
use crate::{Element, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Add", &[1, 6, 7, 13, 14], binary)
        .params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "T", NUMBERS)])
        .attrs(&[int("axis").until(7), int("broadcast").until(7), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(add),
    Operator::new("Sub", &[1, 6, 7, 13, 14], binary)
        .params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "T", NUMBERS)])
        .attrs(&[int("axis").until(7), int("broadcast").until(7), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(sub),
    Operator::new("Mul", &[1, 6, 7, 13, 14], binary)
        .params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "T", NUMBERS)])
        .attrs(&[int("axis").until(7), int("broadcast").until(7), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(mul),
    Operator::new("Div", &[1, 6, 7, 13, 14], binary)
        .params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "T", NUMBERS)])
        .attrs(&[int("axis").until(7), int("broadcast").until(7), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(div),
    Operator::new("Mod", &[10, 13, 28], binary)
        .params(&[one("A", "T", NUMBERS), one("B", "T", NUMBERS)], &[one("C", "T", NUMBERS)])
        .attrs(&[int("fmod")])
        .class(Class::ELEMENTWISE)
        .eval(modulo),
    Operator::new("Pow", &[1, 7, 12, 13, 15], pow)
        .params(
            &[
                one("X", "T", types!(Float Int32 Int64 Float16 Double Bfloat16)),
                one("Y", "", NUMBERS),
            ],
            &[one("Z", "T", types!(Float Int32 Int64 Float16 Double Bfloat16))],
        )
        .attrs(&[int("axis").until(7), int("broadcast").until(7)])
        .class(Class::ELEMENTWISE)
        .eval(eval_pow),
    Operator::new("Max", &[1, 6, 8, 12, 13], variadic)
        .params(&[many("data_0", "T", NUMBERS)], &[one("max", "T", NUMBERS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(max),
    Operator::new("Min", &[1, 6, 8, 12, 13], variadic)
        .params(&[many("data_0", "T", NUMBERS)], &[one("min", "T", NUMBERS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(min),
    Operator::new("Sum", &[1, 6, 8, 13], variadic)
        .params(&[many("data_0", "T", FLOATS)], &[one("sum", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(sum),
    Operator::new("Mean", &[1, 6, 8, 13], variadic)
        .params(&[many("data_0", "T", FLOATS)], &[one("mean", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(mean),
    Operator::new("PRelu", &[1, 6, 7, 9, 16], prelu)
        .params(
            &[one("X", "T", WIDE_NUMBERS), one("slope", "T", WIDE_NUMBERS)],
            &[one("Y", "T", WIDE_NUMBERS)],
        )
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(eval_prelu),
];

/// First opset that broadcasts as numpy does.
const NUMPY_BROADCAST: i64 = 7;

/// First opset in which Max, Mean, Min and Sum broadcast; until then their inputs are of one shape.
const VARIADIC_BROADCAST: i64 = 8;

/// Two inputs and an output of one type.
pub(super) fn binary(cx: &InferCx<'_>) -> Inferred {
    if cx.version < NUMPY_BROADCAST {
        // The second input broadcasts to the first.
        return output(any_dtype(cx, 0..2), cx.shape(0).cloned());
    }
    output(any_dtype(cx, 0..2), broadcast_inputs(cx, 0..2)?)
}

fn pow(cx: &InferCx<'_>) -> Inferred {
    if cx.version < NUMPY_BROADCAST {
        return output(cx.dtype(0), cx.shape(0).cloned());
    }
    output(cx.dtype(0), broadcast_inputs(cx, 0..2)?)
}

fn variadic(cx: &InferCx<'_>) -> Inferred {
    let slots = 0..cx.inputs.len();
    if cx.version < VARIADIC_BROADCAST {
        return output(any_dtype(cx, slots.clone()), one_shape(cx, slots)?);
    }
    output(any_dtype(cx, slots.clone()), broadcast_inputs(cx, slots)?)
}

/// The shape that all inputs have.
fn one_shape(cx: &InferCx<'_>, slots: Range<usize>) -> Result<Option<Shape>, InferError> {
    let mut known: Option<Shape> = None;
    for shape in slots.filter_map(|i| cx.shape(i)) {
        let both = match &known {
            None => Some(shape.clone()),
            Some(one) if one.rank() == shape.rank() => {
                one.0.iter().zip(&shape.0).map(|(a, b)| merge(a, b)).collect()
            }
            Some(_) => None,
        };
        known = Some(both.ok_or_else(|| {
            let one = known.as_ref().map(ToString::to_string).unwrap_or_default();
            InferError::new(format!("inputs are {one} and {shape}, and have to be of one shape"))
        })?);
    }
    Ok(known)
}

fn prelu(cx: &InferCx<'_>) -> Inferred {
    output(any_dtype(cx, 0..2), cx.shape(0).cloned())
}

/// Dimensions that two tensors broadcast to, and the walk over both.
pub(super) fn broadcast_walk(a: &Tensor, b: &Tensor) -> Result<(Vec<i64>, Walk<2>), EvalError> {
    let shape = broadcast(&Shape::fixed(&a.dims), &Shape::fixed(&b.dims))?;
    let dims: Vec<i64> = shape.0.iter().filter_map(crate::Dim::fixed).collect();
    let rank = dims.len();
    let a = broadcast_strides(&sizes(&a.dims), rank);
    let b = broadcast_strides(&sizes(&b.dims), rank);
    let walk = Walk::new(&sizes(&dims), [&a, &b], [0, 0]);
    Ok((dims, walk))
}

/// `f` of every two elements of the first two inputs.
pub(super) fn zip_inputs<A: Element, B: Element, R: Element>(
    cx: &EvalCx<'_>,
    f: impl Fn(A, B) -> R + Sync,
) -> Result<Vec<Tensor>, EvalError> {
    if cx.version < NUMPY_BROADCAST {
        return Err(EvalError::Unsupported("broadcasting by attribute"));
    }
    Ok(vec![zip_tensors(cx, cx.input(0)?, cx.input(1)?, f)?])
}

fn zip_tensors<A: Element, B: Element, R: Element>(
    cx: &EvalCx<'_>,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(A, B) -> R + Sync,
) -> Result<Tensor, EvalError> {
    /// Elements from which on more than one core pays.
    const MANY: usize = 1 << 18;

    if a.dims == b.dims && a.dtype == A::DTYPE && b.dtype == B::DTYPE {
        let size = cx.size(R::DTYPE, &a.dims)?;
        if size >= MANY {
            let (xs, ys) = (checked_raw(a)?, checked_raw(b)?);
            return Ok(Tensor::new(&a.dims, zip_packed(&xs, &ys, &f)));
        }
    }
    let (xs, ys) = (a.elements::<A>()?, b.elements::<B>()?);
    let (dims, walk) = broadcast_walk(a, b)?;
    let size = cx.size(R::DTYPE, &dims)?;
    Ok(Tensor::new(&dims, zip(&walk, &xs, &ys, size, &f)))
}

fn add(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => zip_inputs(cx, <T as Number>::add))
}

fn sub(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => zip_inputs(cx, <T as Number>::sub))
}

fn mul(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => zip_inputs(cx, <T as Number>::mul))
}

fn div(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => {
        check_divisors::<T>(cx)?;
        zip_inputs(cx, <T as Number>::div)
    })
}

fn modulo(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let fmod = cx.int("fmod", 0)? != 0;
    with_type!(numbers, cx.input(0)?.dtype, T => {
        check_divisors::<T>(cx)?;
        if fmod {
            zip_inputs(cx, <T as Number>::rem)
        } else if T::FLOAT {
            Err(EvalError::Unsupported("Mod of floats without fmod"))
        } else {
            zip_inputs(cx, <T as Number>::modulo)
        }
    })
}

/// No integer is divided by zero.
fn check_divisors<T: Number>(cx: &EvalCx<'_>) -> Result<(), EvalError> {
    if !T::FLOAT
        && !cx.input(0)?.is_empty()
        && cx.input(1)?.elements::<T>()?.iter().any(|d| d.is_zero())
    {
        return Err(EvalError::invalid("an integer is divided by zero"));
    }
    Ok(())
}

fn eval_pow(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (base, exponent) = (cx.input(0)?, cx.input(1)?);
    if cx.version < NUMPY_BROADCAST {
        return Err(EvalError::Unsupported("broadcasting by attribute"));
    }
    if base.dtype.is_integer() && exponent.dtype.is_integer() {
        let all = exponent
            .to_ints()
            .ok_or(EvalError::Unsupported("an exponent that int64 does not hold"))?;
        if all.iter().any(|&n| n < 0) {
            return Err(EvalError::Unsupported("an integer to a negative power"));
        }
        let exponent = Tensor::new(&exponent.dims, all);
        return with_type!(ints, base.dtype, T => {
            Ok(vec![zip_tensors(cx, base, &exponent, |x: T, y: i64| power(x, y.cast_unsigned()))?])
        });
    }
    // One instance per type of the base is enough: every exponent fits float64 but for the last bits of a huge integer.
    let exponent = with_type!(numbers, exponent.dtype, E => Ok::<_, EvalError>(Tensor::new(
        &exponent.dims,
        exponent.elements::<E>()?.iter().map(|y| y.to_f64()).collect::<Vec<f64>>(),
    )))?;
    with_type!(numbers, base.dtype, T => {
        Ok(vec![zip_tensors(cx, base, &exponent, |x: T, y: f64| T::from_f64(raised(x.to_f64(), y)))?])
    })
}

/// Squares are what layer normalisation takes of every element; the general function takes fifty times as long.
fn raised(x: f64, y: f64) -> f64 {
    if y.to_bits() == 2_f64.to_bits() { x * x } else { x.powf(y) }
}

/// Power by squaring, wrapping around.
fn power<T: Number>(mut base: T, mut exponent: u64) -> T {
    let mut result = T::ONE;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.mul(base);
        }
        base = base.mul(base);
        exponent >>= 1;
    }
    result
}

fn max(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => fold(cx, <T as Number>::larger))
}

fn min(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => fold(cx, <T as Number>::smaller))
}

fn fold<T: Element>(
    cx: &EvalCx<'_>,
    f: impl Fn(T, T) -> T + Sync,
) -> Result<Vec<Tensor>, EvalError> {
    if cx.version < VARIADIC_BROADCAST && cx.inputs.len() > 1 {
        same_dims(cx)?;
    }
    let mut all = cx.input(0)?.reshaped(&cx.input(0)?.dims);
    for slot in 1..cx.inputs.len() {
        all = zip_tensors(cx, &all, cx.input(slot)?, &f)?;
    }
    Ok(vec![all])
}

fn same_dims(cx: &EvalCx<'_>) -> Result<(), EvalError> {
    let first = &cx.input(0)?.dims;
    for slot in 1..cx.inputs.len() {
        if cx.input(slot)?.dims != *first {
            return Err(EvalError::Unsupported("inputs of different shapes before opset 8"));
        }
    }
    Ok(())
}

fn sum(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![scaled_sum(cx, 1.0)?])
}

fn mean(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    Ok(vec![scaled_sum(cx, cx.inputs.len() as f64)?])
}

/// The sum of all inputs over `divisor`, rounded once.
fn scaled_sum(cx: &EvalCx<'_>, divisor: f64) -> Result<Tensor, EvalError> {
    fn widen<T: Number>(tensor: &Tensor) -> Result<Tensor, EvalError> {
        let elements = tensor.elements::<T>()?;
        Ok(Tensor::new(&tensor.dims, elements.iter().map(|x| x.to_f64()).collect::<Vec<f64>>()))
    }
    if cx.version < VARIADIC_BROADCAST {
        same_dims(cx)?;
    }
    // Sums are held in float64, whatever the type.
    let wide = EvalCx { limit: cx.limit.saturating_mul(4), ..*cx };
    with_type!(floats, cx.input(0)?.dtype, T => {
        let mut all = widen::<T>(cx.input(0)?)?;
        for slot in 1..cx.inputs.len() {
            all = zip_tensors(&wide, &all, &widen::<T>(cx.input(slot)?)?, |x: f64, y: f64| x + y)?;
        }
        cx.size(T::DTYPE, &all.dims)?;
        let sums = all.elements::<f64>()?;
        Ok(Tensor::new(&all.dims, sums.iter().map(|&x| T::from_f64(x / divisor)).collect::<Vec<T>>()))
    })
}

fn eval_prelu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, slope) = (cx.input(0)?, cx.input(1)?);
    if cx.version < NUMPY_BROADCAST {
        // One slope for each channel, which is axis 1.
        return Err(EvalError::Unsupported("slopes by channel"));
    }
    if broadcast(&Shape::fixed(&x.dims), &Shape::fixed(&slope.dims))? != Shape::fixed(&x.dims) {
        return Err(EvalError::Unsupported("a slope that is larger than what it applies to"));
    }
    with_type!(numbers, x.dtype, T => {
        zip_inputs(cx, sloped::<T>)
    })
}

fn sloped<T: Number>(x: T, slope: T) -> T {
    if x < T::ZERO { x.mul(slope) } else { x }
}

#[cfg(test)]
mod tests {
    use crate::op::EvalError;
    use crate::op::testing::{Case, f32s, ints, scalar};
    use crate::{DataType, Tensor};

    #[test]
    fn broadcasts() {
        let y = Case::new("Add")
            .input(f32s(&[2, 1], &[1.0, 2.0]))
            .input(f32s(&[3], &[10.0, 20.0, 30.0]))
            .run();
        assert_eq!(y[0], f32s(&[2, 3], &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0]));
        let empty = Case::new("Mul").input(f32s(&[0, 1], &[])).input(f32s(&[3], &[1.0; 3])).run();
        assert_eq!(empty[0].dims, [0, 3]);
    }

    /// Large tensors of one shape are done in pieces.
    #[test]
    fn large_tensors_keep_their_order() {
        let n = (1 << 18) + 3;
        let (xs, ys): (Vec<i64>, Vec<i64>) = (0..n).map(|i| (3 * i, i)).unzip();
        let difference: Vec<i64> = (0..n).map(|i| 2 * i).collect();
        let run = Case::new("Sub").input(Tensor::new(&[n], xs)).input(Tensor::new(&[n], ys)).run();
        assert!(run[0] == Tensor::new(&[n], difference));
    }

    #[test]
    fn a_mismatch_names_both_shapes() {
        let err = Case::new("Add")
            .typed(DataType::Float, "2,3")
            .typed(DataType::Float, "2,4")
            .infer_err();
        assert_eq!(err, "shapes [2,3] and [2,4] do not broadcast: 3 and 4");
    }

    #[test]
    fn the_second_input_broadcasts_to_the_first_before_opset_7() {
        for op in ["Add", "Pow", "PRelu"] {
            let typed = Case::new(op).opset(6).typed(DataType::Float, "2,3,4");
            assert_eq!(typed.typed(DataType::Float, "3").infer(), "float[2,3,4]", "{op}");
        }
        let x = || f32s(&[1, 2, 1], &[-1.0, -1.0]);
        let slopes = Case::new("PRelu").opset(6).input(x()).input(f32s(&[2], &[2.0, 3.0]));
        assert!(matches!(slopes.try_run(), Err(EvalError::Unsupported(_))));
    }

    #[test]
    fn sums_are_of_one_shape_before_opset_8() {
        for op in ["Max", "Mean", "Min", "Sum"] {
            let one = || Case::new(op).opset(7).typed(DataType::Float, "N,1");
            assert_eq!(one().typed(DataType::Float, "3,1").infer(), "float[3,1]", "{op}");
            assert_eq!(
                one().typed(DataType::Float, "1,1,3,1").infer_err(),
                "inputs are [N,1] and [1,1,3,1], and have to be of one shape",
                "{op}"
            );
        }
    }

    #[test]
    fn symbols_stay() {
        let add =
            |a, b| Case::new("Add").typed(DataType::Float, a).typed(DataType::Float, b).infer();
        assert_eq!(add("N,3", "1"), "float[N,3]");
        assert_eq!(add("N,3", "N,3"), "float[N,3]");
        assert_eq!(add("N,3", "M,1"), "float[?,3]");
    }

    #[test]
    fn integers_wrap_and_truncate() {
        let run = |op, a: i64, b: i64| Case::new(op).input(scalar(a)).input(scalar(b)).try_run();
        assert_eq!(run("Div", -7, 2).unwrap()[0], scalar(-3_i64));
        assert_eq!(run("Div", i64::MIN, -1).unwrap()[0], scalar(i64::MIN));
        assert_eq!(run("Add", i64::MAX, 1).unwrap()[0], scalar(i64::MIN));
        assert_eq!(run("Mod", -7, 3).unwrap()[0], scalar(2_i64));
        assert!(run("Div", 1, 0).is_err());
        assert!(run("Mod", 1, 0).is_err());
    }

    #[test]
    fn powers_of_mixed_types_keep_the_base_type() {
        let y = Case::new("Pow").input(ints(&[2, 3])).input(f32s(&[], &[2.0])).run();
        assert_eq!(y[0], ints(&[4, 9]));
        let y = Case::new("Pow").input(f32s(&[1], &[3.0])).input(ints(&[-1])).run();
        assert_eq!(y[0], f32s(&[1], &[1.0 / 3.0]));
    }

    #[test]
    fn maximum_keeps_nan() {
        let y = Case::new("Max")
            .input(f32s(&[2], &[f32::NAN, 1.0]))
            .input(f32s(&[2], &[2.0, f32::NAN]))
            .run();
        assert!(y[0].to_floats().unwrap().iter().all(|x| x.is_nan()));
    }

    #[test]
    fn the_limit_holds_before_anything_is_allocated() {
        let wide = Tensor::new(&[1 << 15, 1], vec![1.0_f32; 1 << 15]);
        let y = Case::new("Add").input(wide.clone()).input(wide.reshaped(&[1, 1 << 15])).try_run();
        assert!(matches!(y, Err(crate::op::EvalError::TooLarge(_))));
    }
}
