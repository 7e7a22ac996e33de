//! Functions of one number: signs, roundings, exponentials, trigonometry, the error function.
//!
//! Floats are computed in float64 and rounded once, so results of smaller types are right to the last bit but for
//! rare ties.

use super::infer::{same, same_bool};
use super::kernel::{Number, map, with_type};
use super::schema::{
    attr::{int, ints},
    one,
    sets::{BOOL, FLOATS, FLOATS_AND_FLOAT8, NUMBERS, SIGNED},
};
use super::{Class, EvalCx, EvalError, Operator};
use crate::{Element, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Neg", &[1, 6, 13], same)
        .params(&[one("X", "T", SIGNED)], &[one("Y", "T", SIGNED)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(neg),
    Operator::new("Abs", &[1, 6, 13], same)
        .params(&[one("X", "T", NUMBERS)], &[one("Y", "T", NUMBERS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(abs),
    Operator::new("Sign", &[9, 13], same)
        .params(&[one("input", "T", NUMBERS)], &[one("output", "T", NUMBERS)])
        .class(Class::ELEMENTWISE)
        .eval(sign),
    Operator::new("Ceil", &[1, 6, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(ceil),
    Operator::new("Floor", &[1, 6, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(floor),
    Operator::new("Round", &[11, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(round),
    Operator::new("Reciprocal", &[1, 6, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(reciprocal),
    Operator::new("Sqrt", &[1, 6, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(sqrt),
    Operator::new("Exp", &[1, 6, 13], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(exp),
    Operator::new("Log", &[1, 6, 13], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(log),
    Operator::new("Erf", &[9, 13], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(eval_erf),
    Operator::new("Sin", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(sin),
    Operator::new("Cos", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(cos),
    Operator::new("Tan", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(tan),
    Operator::new("Asin", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(asin),
    Operator::new("Acos", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(acos),
    Operator::new("Atan", &[7, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(atan),
    Operator::new("Sinh", &[9, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(sinh),
    Operator::new("Cosh", &[9, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(cosh),
    Operator::new("Tanh", &[1, 6, 13], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(tanh),
    Operator::new("Asinh", &[9, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(asinh),
    Operator::new("Acosh", &[9, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(acosh),
    Operator::new("Atanh", &[9, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(atanh),
    Operator::new("IsNaN", &[9, 13, 20], same_bool)
        .params(&[one("X", "", FLOATS_AND_FLOAT8)], &[one("Y", "", BOOL)])
        .class(Class::ELEMENTWISE)
        .eval(is_nan),
    Operator::new("IsInf", &[10, 20], same_bool)
        .params(&[one("X", "", FLOATS_AND_FLOAT8)], &[one("Y", "", BOOL)])
        .attrs(&[int("detect_negative"), int("detect_positive")])
        .class(Class::ELEMENTWISE)
        .eval(is_inf),
];

/// `f` of every element of the first input.
pub(super) fn map_input<T: Element, R: Element>(
    cx: &EvalCx<'_>,
    f: impl Fn(T) -> R + Sync,
) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let elements = x.elements::<T>()?;
    cx.size(R::DTYPE, &x.dims)?;
    Ok(vec![Tensor::new(&x.dims, map(&elements, &f))])
}

/// `f` of every element of the first input, which holds floats.
pub(super) fn map_float(
    cx: &EvalCx<'_>,
    f: impl Fn(f64) -> f64 + Sync,
) -> Result<Vec<Tensor>, EvalError> {
    with_type!(floats, cx.input(0)?.dtype, T => map_input(cx, |x: T| <T as Number>::from_f64(f(Number::to_f64(x)))))
}

fn neg(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => map_input(cx, <T as Number>::neg))
}

fn abs(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => map_input(cx, <T as Number>::abs))
}

fn sign(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => map_input(cx, <T as Number>::signum))
}

macro_rules! float_functions {
    ($($name:ident = $f:expr;)*) => {$(
        fn $name(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
            map_float(cx, $f)
        }
    )*};
}

float_functions! {
    ceil = f64::ceil;
    floor = f64::floor;
    round = f64::round_ties_even;
    reciprocal = f64::recip;
    sqrt = f64::sqrt;
    exp = f64::exp;
    log = f64::ln;
    eval_erf = erf;
    sin = f64::sin;
    cos = f64::cos;
    tan = f64::tan;
    asin = f64::asin;
    acos = f64::acos;
    atan = f64::atan;
    sinh = f64::sinh;
    cosh = f64::cosh;
    tanh = f64::tanh;
    asinh = f64::asinh;
    acosh = f64::acosh;
    atanh = f64::atanh;
}

fn is_nan(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(floats, cx.input(0)?.dtype, T => map_input(cx, <T as Number>::is_nan))
}

fn is_inf(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let negative = cx.int("detect_negative", 1)? != 0;
    let positive = cx.int("detect_positive", 1)? != 0;
    with_type!(floats, cx.input(0)?.dtype, T => map_input(cx, |x: T| {
        let x = Number::to_f64(x);
        x.is_infinite() && if x > 0.0 { positive } else { negative }
    }))
}

/// From here on the series needs too many terms, and the continued fraction few.
const SERIES_END: f64 = 2.5;

/// The error function, to a few units in the last place of float64.
///
/// Below 2.5 the series `erf x = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3···(2n+1))`, whose terms are all of one sign
/// (Abramowitz and Stegun, 7.1.6), above it `1 − erfc x`.
pub(super) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < SERIES_END {
        let mut term = x;
        let mut sum = x;
        let mut odd = 1.0;
        while term.abs() > sum.abs() * f64::EPSILON * 0.25 {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    } else if x.is_nan() {
        x
    } else {
        (1.0 - erfc_tail(a)).copysign(x)
    }
}

/// `1 − erf x`, without cancellation where that is small.
pub(super) fn erfc(x: f64) -> f64 {
    if x >= SERIES_END { erfc_tail(x) } else { 1.0 - erf(x) }
}

/// The continued fraction `√π · e^(x²) · erfc x = 1/(x + ½/(x + 1/(x + 3⁄2/(x + 2/(x + …)))))`
/// (Abramowitz and Stegun, 7.1.14), from its 64th level outwards.
fn erfc_tail(x: f64) -> f64 {
    if x > 27.5 {
        // Below the smallest float64.
        return 0.0;
    }
    let fraction = (1..=64).rev().fold(x, |below, level| x + f64::from(level) * 0.5 / below);
    (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI * 0.5 / fraction
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{erf, erfc};
    use crate::Tensor;
    use crate::op::testing::{Case, f32s, ints};

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz and Stegun, table 7.1; the tails from 7.3.
        for (x, y) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916_018_284_89),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.5, 0.999_593_047_982_555),
            (3.0, 0.999_977_909_503_001_4),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - y).abs() <= 4.0 * f64::EPSILON, "erf {x} = {} not {y}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erfc(5.0) / 1.537_459_794_428_034_8e-12 - 1.0).abs() < 1e-13);
        assert!(erf(f64::NAN).is_nan());
        assert_eq!(erf(f64::NEG_INFINITY), -1.0);
    }

    #[test]
    fn halves_round_to_even() {
        let y = Case::new("Round").input(f32s(&[5], &[0.5, 1.5, 2.5, -0.5, -2.5])).run();
        assert_eq!(y[0], f32s(&[5], &[0.0, 2.0, 2.0, -0.0, -2.0]));
    }

    #[test]
    fn the_smallest_integer_has_no_absolute_value() {
        assert_eq!(Case::new("Abs").input(ints(&[i64::MIN, -3])).run()[0], ints(&[i64::MIN, 3]));
    }

    #[test]
    fn sixteen_bits_are_rounded_once() {
        let x = f16::from_f32(0.1);
        let y = Case::new("Exp").input(Tensor::new(&[1], vec![x])).run();
        assert_eq!(y[0], Tensor::new(&[1], vec![f16::from_f32(x.to_f32().exp())]));
    }
}
