//! Signals: Fourier transforms and windows. Inference only.

use super::infer::{Inferred, dim, dtype_attr, int_attr, is_unknown_attr, one as output};
use super::schema::{
    attr::int,
    one, opt,
    sets::{FLOATS, INDEX, INT64, NUMBERS},
};
use super::{InferCx, InferError, Operator, normal_axis};
use crate::{DataType, Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("DFT", &[17, 20], fourier)
        .params(
            &[
                one("input", "T1", FLOATS),
                opt("dft_length", "", INDEX),
                opt("axis", "", INT64).since(20),
            ],
            &[one("output", "T1", FLOATS)],
        )
        .attrs(&[int("inverse"), int("onesided"), int("axis").until(20)]),
    Operator::new("STFT", &[17], short_fourier)
        .params(
            &[
                one("signal", "T1", FLOATS),
                one("frame_step", "T2", INDEX),
                opt("window", "T1", FLOATS),
                opt("frame_length", "T2", INDEX),
            ],
            &[one("output", "T1", FLOATS)],
        )
        .attrs(&[int("onesided")]),
    Operator::new("HannWindow", &[17], window)
        .params(&[one("size", "", INDEX)], &[one("output", "", NUMBERS)])
        .attrs(&[int("output_datatype"), int("periodic")]),
    Operator::new("HammingWindow", &[17], window)
        .params(&[one("size", "", INDEX)], &[one("output", "", NUMBERS)])
        .attrs(&[int("output_datatype"), int("periodic")]),
    Operator::new("BlackmanWindow", &[17], window)
        .params(&[one("size", "", INDEX)], &[one("output", "", NUMBERS)])
        .attrs(&[int("output_datatype"), int("periodic")]),
    Operator::new("MelWeightMatrix", &[17], mel)
        .params(
            &[
                one("num_mel_bins", "T1", INDEX),
                one("dft_length", "T1", INDEX),
                one("sample_rate", "T1", INDEX),
                one("lower_edge_hertz", "T2", FLOATS),
                one("upper_edge_hertz", "T2", FLOATS),
            ],
            &[one("output", "", NUMBERS)],
        )
        .attrs(&[int("output_datatype")]),
];

/// The one integer of a constant input.
fn number(cx: &InferCx<'_>, slot: usize) -> Option<i64> {
    cx.ints(slot).filter(|all| all.len() == 1).map(|all| all[0])
}

fn fourier(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    // The axis was an attribute until opset 20.
    let axis = match cx.version {
        ..20 => int_attr(cx, "axis", 1),
        _ if cx.has(2) => number(cx, 2),
        _ => Some(-2),
    };
    let (Some(axis), Some(one_sided), Some(inverse)) =
        (axis, int_attr(cx, "onesided", 0), int_attr(cx, "inverse", 0))
    else {
        return output(dtype, Some(Shape::unknown(shape.rank())));
    };
    let axis = normal_axis(axis, shape.rank())?;
    let mut out = shape.clone();
    if cx.has(1) {
        out.0[axis] = dim(number(cx, 1));
    }
    let complex = i64::from(!(one_sided != 0 && inverse != 0)) + 1;
    if one_sided != 0 {
        // Half of a spectrum, or the signal that it was.
        let half = |n: i64| if inverse == 0 { Some(n / 2 + 1) } else { None };
        out.0[axis] = match (cx.has(1), inverse) {
            (true, 1..) => dim(number(cx, 1)),
            _ => dim(out.0[axis].fixed().and_then(half)),
        };
    }
    if let Some(last) = out.0.last_mut() {
        *last = Dim::Fixed(complex);
    }
    output(dtype, Some(out))
}

fn short_fourier(cx: &InferCx<'_>) -> Inferred {
    let batch = cx.shape(0).and_then(|s| s.0.first().cloned()).unwrap_or(Dim::Unknown);
    let length = cx.shape(0).and_then(|s| s.0.get(1)?.fixed());
    let frame = if cx.has(3) {
        number(cx, 3)
    } else {
        cx.shape(2).and_then(|window| window.0.first()?.fixed())
    };
    let frame = frame.filter(|&frame| frame > 0);
    let step = number(cx, 1).filter(|&step| step > 0);
    let frames = match (length, frame, step) {
        (Some(length), Some(frame), Some(step)) if length >= frame => {
            Some((length - frame) / step + 1)
        }
        _ => None,
    };
    let bins = match (frame, int_attr(cx, "onesided", 1)) {
        (Some(frame), Some(0)) => Some(frame),
        (Some(frame), Some(_)) => Some(frame / 2 + 1),
        _ => None,
    };
    let shape = [batch, dim(frames), dim(bins), Dim::Fixed(2)];
    output(cx.dtype(0), Some(shape.into_iter().collect()))
}

/// The type that `output_datatype` names, else float.
fn named(cx: &InferCx<'_>) -> Result<Option<DataType>, InferError> {
    if is_unknown_attr(cx, "output_datatype") {
        return Ok(None);
    }
    Ok(dtype_attr(cx, "output_datatype")?.or(Some(DataType::Float)))
}

fn window(cx: &InferCx<'_>) -> Inferred {
    output(named(cx)?, Some([dim(number(cx, 0))].into_iter().collect()))
}

fn mel(cx: &InferCx<'_>) -> Inferred {
    let bins = number(cx, 1).and_then(|n| (n / 2).checked_add(1));
    output(named(cx)?, Some([dim(bins), dim(number(cx, 0))].into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::{Case, scalar};

    #[test]
    fn frames_of_a_window_or_of_a_length() {
        let case = || Case::new("STFT").opset(17).typed(DataType::Float, "N,128,1");
        let step = || scalar(8_i64);
        let window = case().input(step()).typed(DataType::Float, "16");
        assert_eq!(window.infer(), "float[N,15,9,2]");
        let length = case().attr("onesided", 0_i64).input(step()).absent().input(scalar(16_i64));
        assert_eq!(length.infer(), "float[N,15,16,2]");
    }
}
