//! Activations: functions of one number with a few constants.
//!
//! As in the other element-wise families, floats are computed in float64 and rounded once.

use super::infer::same;
use super::kernel::{Number, with_type};
use super::math::{erf, erfc, map_float, map_input};
use super::schema::{
    attr::{float, ints, string},
    one, opt,
    sets::{FLOATS, NUMBERS, OLD_NUMBERS, SIGNED},
};
use super::{Class, EvalCx, EvalError, Operator};
use crate::{Element, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Relu", &[1, 6, 13, 14], same)
        .params(&[one("X", "T", SIGNED)], &[one("Y", "T", SIGNED)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(relu),
    Operator::new("Sigmoid", &[1, 6, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(sigmoid),
    Operator::new("Gelu", &[20], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[string("approximate")])
        .class(Class::ELEMENTWISE)
        .eval(gelu),
    Operator::new("Clip", &[1, 6, 11, 12, 13], same)
        .params(
            &[
                one("input", "T", NUMBERS),
                opt("min", "T", NUMBERS).since(11),
                opt("max", "T", NUMBERS).since(11),
            ],
            &[one("output", "T", NUMBERS)],
        )
        .attrs(&[ints("consumed_inputs").until(6), float("max").until(11), float("min").until(11)])
        .class(Class::ELEMENTWISE)
        .eval(clip),
    Operator::new("Elu", &[1, 6, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha"), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(elu),
    Operator::new("Selu", &[1, 6, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha"), float("gamma"), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(selu),
    Operator::new("Celu", &[12, 28], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha")])
        .class(Class::ELEMENTWISE)
        .eval(celu),
    Operator::new("LeakyRelu", &[1, 6, 16], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha"), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(leaky_relu),
    Operator::new("ThresholdedRelu", &[10, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha")])
        .class(Class::ELEMENTWISE)
        .eval(thresholded_relu),
    Operator::new("HardSigmoid", &[1, 6, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha"), float("beta"), ints("consumed_inputs").until(6)])
        .class(Class::ELEMENTWISE)
        .eval(hard_sigmoid),
    Operator::new("HardSwish", &[14, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(hard_swish),
    Operator::new("Softplus", &[1, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(softplus),
    Operator::new("Softsign", &[1, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(softsign),
    Operator::new("Mish", &[18, 22], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .class(Class::ELEMENTWISE)
        .eval(mish),
    Operator::new("Swish", &[24], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha")])
        .class(Class::ELEMENTWISE)
        .eval(swish),
    Operator::new("Shrink", &[9], same)
        .params(&[one("input", "T", OLD_NUMBERS)], &[one("output", "T", OLD_NUMBERS)])
        .attrs(&[float("bias"), float("lambd")])
        .class(Class::ELEMENTWISE)
        .eval(shrink),
];

fn relu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => map_input(cx, |x: T| Number::larger(x, <T as Number>::ZERO)))
}

/// `1 / (1 + e^-x)`.
pub(super) fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn sigmoid(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_float(cx, logistic)
}

fn gelu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    match cx.str("approximate", "none")? {
        // The two halves of `x/2 · (1 + erf(x/√2))`, neither of which cancels.
        "none" => map_float(cx, |x| {
            let scaled = x * std::f64::consts::FRAC_1_SQRT_2;
            if x < 0.0 { 0.5 * x * erfc(-scaled) } else { 0.5 * x * (1.0 + erf(scaled)) }
        }),
        "tanh" => map_float(cx, |x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }),
        _ => Err(EvalError::Unsupported("this approximation")),
    }
}

fn clip(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    with_type!(numbers, cx.input(0)?.dtype, T => {
        let (low, high) = if cx.version < 11 {
            let low = cx.float("min", f32::MIN)?;
            let high = cx.float("max", f32::MAX)?;
            (Some(<T as Number>::from_f64(low)), Some(<T as Number>::from_f64(high)))
        } else {
            (bound::<T>(cx, 1)?, bound::<T>(cx, 2)?)
        };
        map_input(cx, |x: T| {
            let x = low.map_or(x, |low| Number::larger(x, low));
            high.map_or(x, |high| Number::smaller(x, high))
        })
    })
}

/// A bound of Clip: a scalar, or as some exporters write it, one element.
fn bound<T: Element>(cx: &EvalCx<'_>, slot: usize) -> Result<Option<T>, EvalError> {
    let Some(tensor) = cx.get(slot) else { return Ok(None) };
    match tensor.elements::<T>()?.as_ref() {
        [one] => Ok(Some(*one)),
        other => {
            Err(EvalError::invalid(format!("a bound has {} elements instead of one", other.len())))
        }
    }
}

fn elu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let alpha = cx.float("alpha", 1.0)?;
    map_float(cx, |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
}

fn selu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    // Until opset 6 the constants were shorter.
    let (alpha, gamma) = if cx.version < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    let (alpha, gamma) = (cx.float("alpha", alpha)?, cx.float("gamma", gamma)?);
    map_float(cx, |x| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x })
}

fn celu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let alpha = cx.float("alpha", 1.0)?;
    map_float(cx, |x| if x < 0.0 { (alpha * (x / alpha).exp_m1()).min(0.0) } else { x })
}

fn leaky_relu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let alpha = cx.float("alpha", 0.01)?;
    map_float(cx, |x| if x < 0.0 { alpha * x } else { x })
}

fn thresholded_relu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let alpha = cx.float("alpha", 1.0)?;
    map_float(cx, |x| if x > alpha { x } else { 0.0 })
}

fn hard_sigmoid(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (alpha, beta) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
    map_float(cx, |x| clamp(alpha * x + beta))
}

fn hard_swish(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_float(cx, |x| x * clamp(x / 6.0 + 0.5))
}

fn clamp(x: f64) -> f64 {
    x.clamp(0.0, 1.0)
}

/// `ln(1 + e^x)` without overflow.
fn softplus_of(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

fn softplus(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_float(cx, softplus_of)
}

fn softsign(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_float(cx, |x| x / (1.0 + x.abs()))
}

fn mish(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_float(cx, |x| x * softplus_of(x).tanh())
}

fn swish(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let alpha = cx.float("alpha", 1.0)?;
    map_float(cx, |x| x * logistic(alpha * x))
}

fn shrink(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (bias, lambda) = (cx.float("bias", 0.0)?, cx.float("lambd", 0.5)?);
    map_float(cx, |x| {
        if x < -lambda {
            x + bias
        } else if x > lambda {
            x - bias
        } else {
            0.0
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, f32s, ints, scalar};

    #[test]
    fn the_upper_bound_wins() {
        let y = Case::new("Clip")
            .input(ints(&[1, 5, 9]))
            .input(scalar(6_i64))
            .input(scalar(2_i64))
            .run();
        assert_eq!(y[0], ints(&[2, 2, 2]));
    }

    #[test]
    fn a_bound_may_be_left_out() {
        let y = Case::new("Clip").input(ints(&[1, 5, 9])).absent().input(scalar(6_i64)).run();
        assert_eq!(y[0], ints(&[1, 5, 6]));
    }

    #[test]
    fn bounds_were_attributes() {
        let y = Case::new("Clip").opset(10).attr("min", 2.0).input(f32s(&[2], &[1.0, 3.0])).run();
        assert_eq!(y[0], f32s(&[2], &[2.0, 3.0]));
    }

    #[test]
    fn gelu_does_not_cancel() {
        let y = Case::new("Gelu").input(f32s(&[3], &[-8.0, 0.0, 8.0])).run();
        let y = y[0].to_floats().unwrap();
        assert!((y[0] / -4.976_768_2e-15 - 1.0).abs() < 1e-6, "{}", y[0]);
        assert_eq!(y[1..], [0.0, 8.0]);
    }

    #[test]
    fn gelu_of_minus_infinity_is_what_the_formula_gives() {
        let y = Case::new("Gelu").input(f32s(&[1], &[f32::NEG_INFINITY])).run();
        assert!(y[0].to_floats().unwrap()[0].is_nan(), "−∞ · 0");
    }
}
