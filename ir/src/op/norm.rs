//! Normalizations: lines of elements scaled by their own sums.
//!
//! Sums are held in float64 and each element is rounded once, also where the specification's own decomposition
//! would round between its steps.

use super::infer::{Inferred, int_attr, one as output, same, several, tensor};
use super::kernel::{Axes, Number, area, broadcast_strides, sizes, with_type};
use super::schema::{
    attr::{float, int, ints},
    one, opt,
    sets::FLOATS,
    types,
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, Operator, normal_axis};
use crate::{DataType, Dim, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Softmax", &[1, 11, 13], along_axis)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[int("axis")])
        .class(Class::ROWWISE)
        .eval(eval_softmax),
    Operator::new("LogSoftmax", &[1, 11, 13], along_axis)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[int("axis")])
        .class(Class::ROWWISE)
        .eval(eval_log_softmax),
    Operator::new("Hardmax", &[1, 11, 13], along_axis)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[int("axis")])
        .class(Class::ROWWISE)
        .eval(eval_hardmax),
    // ONNX Runtime's optimizer writes it into models of older opsets too, where it means the same.
    Operator::new("LayerNormalization", &[1, 17], layer_norm)
        .params(
            &[one("X", "T", FLOATS), one("Scale", "T", FLOATS), opt("B", "T", FLOATS)],
            &[
                one("Y", "T", FLOATS),
                opt("Mean", "U", types!(Float Bfloat16)),
                opt("InvStdDev", "U", types!(Float Bfloat16)),
            ],
        )
        .attrs(&[int("axis"), float("epsilon"), int("stash_type")])
        .class(Class::ROWWISE)
        .eval(eval_layer_norm),
    Operator::new("RMSNormalization", &[23], rms_norm)
        .params(&[one("X", "", FLOATS), one("scale", "V", FLOATS)], &[one("Y", "V", FLOATS)])
        .attrs(&[int("axis"), float("epsilon"), int("stash_type")])
        .class(Class::ROWWISE)
        .eval(eval_rms_norm),
    Operator::new("BatchNormalization", &[1, 6, 7, 9, 14, 15], batch_norm)
        .params(
            &[
                one("X", "T", FLOATS),
                one("scale", "T1", FLOATS),
                one("B", "T1", FLOATS),
                one("input_mean", "T2", FLOATS),
                one("input_var", "T2", FLOATS),
            ],
            &[
                one("Y", "T", FLOATS),
                opt("running_mean", "T2", FLOATS),
                opt("running_var", "T2", FLOATS),
                // Until opset 14.
                opt("saved_mean", "T2", FLOATS),
                opt("saved_var", "T2", FLOATS),
            ],
        )
        .attrs(&[
            float("epsilon"),
            float("momentum"),
            int("training_mode").since(14),
            ints("consumed_inputs").required().until(6),
            int("is_test").until(7),
            int("spatial").until(9),
        ])
        .eval(eval_batch_norm),
    Operator::new("InstanceNormalization", &[1, 6, 22], same)
        .params(
            &[one("input", "T", FLOATS), one("scale", "T", FLOATS), one("B", "T", FLOATS)],
            &[one("output", "T", FLOATS)],
        )
        .attrs(&[float("epsilon"), ints("consumed_inputs").until(6)])
        .eval(eval_instance_norm),
    Operator::new("GroupNormalization", &[18, 21], group_norm)
        .params(
            &[one("X", "T", FLOATS), one("scale", "T", FLOATS), one("bias", "T", FLOATS)],
            &[one("Y", "T", FLOATS)],
        )
        .attrs(&[
            float("epsilon").since(21),
            int("num_groups").required().since(21),
            int("stash_type").since(21),
        ])
        .eval(eval_group_norm),
    Operator::new("LpNormalization", &[1, 22], same)
        .params(&[one("input", "T", FLOATS)], &[one("output", "T", FLOATS)])
        .attrs(&[int("axis"), int("p")])
        .eval(eval_lp_norm),
    Operator::new("MeanVarianceNormalization", &[9, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("axes")]),
    Operator::new("LRN", &[1, 13], same)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha"), float("beta"), float("bias"), int("size").required()]),
];

/// The axis was the first of those that become one line; since opset 13 it is the line.
const ONE_AXIS: i64 = 13;

fn along_axis(cx: &InferCx<'_>) -> Inferred {
    let default = if cx.version < ONE_AXIS { 1 } else { -1 };
    if let (Some(shape), Some(axis)) = (cx.shape(0), int_attr(cx, "axis", default)) {
        line_axis(cx.version, axis, shape.rank())
            .map_err(|err| InferError::new(format!("{}: {shape}", err.0)))?;
    }
    same(cx)
}

fn line_axis(version: i64, axis: i64, rank: usize) -> Result<usize, InferError> {
    // The old form could end behind the last axis, with lines of one element; a scalar is one line anyway.
    if (version < ONE_AXIS && axis == rank as i64) || (rank == 0 && (-1..=0).contains(&axis)) {
        return Ok(rank);
    }
    normal_axis(axis, rank)
}

/// `f` replaces each line of the first input, widened to float64.
fn map_lines(cx: &EvalCx<'_>, f: impl Fn(&mut [f64])) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axis = cx.int("axis", if cx.version < ONE_AXIS { 1 } else { -1 })?;
    let axis = line_axis(cx.version, axis, x.dims.len())?;
    let dims = sizes(&x.dims);
    let (len, inner) = if cx.version < ONE_AXIS || axis == dims.len() {
        (area(&dims[axis..]), 1)
    } else {
        (dims[axis], area(&dims[axis + 1..]))
    };
    map_strided(cx, x, len, inner, f)
}

/// `f` replaces each line of `len` elements that are `inner` elements apart.
fn map_strided(
    cx: &EvalCx<'_>,
    x: &Tensor,
    len: usize,
    inner: usize,
    f: impl Fn(&mut [f64]),
) -> Result<Vec<Tensor>, EvalError> {
    cx.size(x.dtype, &x.dims)?;
    with_type!(floats, x.dtype, T => {
        let elements = x.elements::<T>()?;
        let mut out = vec![<T as Number>::ZERO; elements.len()];
        let mut line = vec![0.0; if elements.is_empty() { 0 } else { len }];
        if !elements.is_empty() {
            for (from, to) in elements.chunks_exact(len * inner).zip(out.chunks_exact_mut(len * inner)) {
                for at in 0..inner {
                    from[at..].iter().step_by(inner).zip(&mut line).for_each(|(x, l)| *l = Number::to_f64(*x));
                    f(&mut line);
                    to[at..].iter_mut().step_by(inner).zip(&line).for_each(|(y, l)| *y = <T as Number>::from_f64(*l));
                }
            }
        }
        Ok(vec![Tensor::new(&x.dims, out)])
    })
}

fn largest(line: &[f64]) -> f64 {
    line.iter().copied().fold(f64::NEG_INFINITY, Number::larger)
}

fn eval_softmax(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_lines(cx, |line| {
        let top = largest(line);
        for x in &mut *line {
            *x = (*x - top).exp();
        }
        let sum: f64 = line.iter().sum();
        for x in line {
            *x /= sum;
        }
    })
}

fn eval_log_softmax(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_lines(cx, |line| {
        let top = largest(line);
        let log_sum = line.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
        for x in line {
            *x = *x - top - log_sum;
        }
    })
}

fn eval_hardmax(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    map_lines(cx, |line| {
        let top = largest(line);
        // The first of several.
        let at = line.iter().position(|&x| x == top);
        line.iter_mut().enumerate().for_each(|(i, x)| *x = f64::from(u8::from(Some(i) == at)));
    })
}

fn layer_norm(cx: &InferCx<'_>) -> Inferred {
    let stash = int_attr(cx, "stash_type", 1)
        .and_then(|code| DataType::from_code(i32::try_from(code).ok()?));
    let stats = match (cx.shape(0), int_attr(cx, "axis", -1)) {
        (Some(shape), Some(axis)) => {
            let axis = normal_axis(axis, shape.rank())?;
            for slot in 1..3 {
                fits_below(shape, axis, cx.shape(slot))?;
            }
            let one = |(i, d): (usize, &Dim)| if i < axis { d.clone() } else { Dim::Fixed(1) };
            Some(shape.0.iter().enumerate().map(one).collect::<Shape>())
        }
        _ => None,
    };
    several(cx, [cx.input(0).ty.cloned(), tensor(stash, stats.clone()), tensor(stash, stats)])
}

/// A scale or bias broadcasts to the normalized axes.
fn fits_below(shape: &Shape, axis: usize, scale: Option<&Shape>) -> Result<(), InferError> {
    let Some(scale) = scale else { return Ok(()) };
    let both = super::broadcast(shape, scale);
    if both.is_ok_and(|both| both.rank() == shape.rank()) {
        Ok(())
    } else {
        let normal: Shape = shape.0[axis..].iter().cloned().collect();
        Err(InferError::new(format!("scale or bias {scale} does not go with {normal} of {shape}")))
    }
}

fn rms_norm(cx: &InferCx<'_>) -> Inferred {
    if let (Some(shape), Some(axis)) = (cx.shape(0), int_attr(cx, "axis", -1)) {
        let axis = normal_axis(axis, shape.rank())?;
        fits_below(shape, axis, cx.shape(1))?;
    }
    output(cx.dtype(1).or(cx.dtype(0)), cx.shape(0).cloned())
}

/// A scale or bias in float64, one for each element of a line that all lines share.
fn per_element(tensor: &Tensor, normal: &[i64]) -> Result<Vec<f64>, EvalError> {
    tensor.check()?;
    let values = tensor.to_floats().ok_or(EvalError::Unsupported("element type"))?;
    let dims = sizes(&tensor.dims);
    // Leading ones say nothing.
    let ones =
        dims.iter().take_while(|&&d| d == 1).count().min(dims.len().saturating_sub(normal.len()));
    let (dims, size) = (&dims[ones..], sizes(normal));
    let fits = dims.len() <= size.len()
        && dims.iter().rev().zip(size.iter().rev()).all(|(&d, &n)| d == n || d == 1);
    if !fits {
        return Err(EvalError::Unsupported("a scale or bias that differs from line to line"));
    }
    if dims == &size[..] {
        return Ok(values);
    }
    let steps: Axes<isize> = broadcast_strides(dims, size.len());
    let walk = super::kernel::Walk::new(&size, [&steps], [0]);
    let mut all = Vec::new();
    walk.rows(|[at]| {
        all.extend((0..walk.len).map(|k| values[at as usize + k * walk.step[0] as usize]));
    });
    Ok(all)
}

fn eval_layer_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axis = normal_axis(cx.int("axis", -1)?, x.dims.len())?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    if cx.int("stash_type", 1)? != 1 {
        return Err(EvalError::Unsupported("this stash type"));
    }
    if x.is_empty() {
        return Err(EvalError::Unsupported("the mean of nothing"));
    }
    let normal = &x.dims[axis..];
    cx.size(x.dtype, &x.dims)?;
    let scale = per_element(cx.input(1)?, normal)?;
    let bias = cx.get(2).map(|b| per_element(b, normal)).transpose()?;
    let len = area(&sizes(normal));
    let (y, means, deviations) = with_type!(floats, x.dtype, T => {
        let elements = x.elements::<T>()?;
        let mut out: Vec<T> = Vec::with_capacity(elements.len());
        let (mut means, mut deviations) = (Vec::new(), Vec::new());
        for line in elements.chunks_exact(len.max(1)) {
            let mean = line.iter().map(|x| Number::to_f64(*x)).sum::<f64>() / len as f64;
            let variance = line.iter().map(|x| (Number::to_f64(*x) - mean).powi(2)).sum::<f64>() / len as f64;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            out.extend(line.iter().enumerate().map(|(i, x)| {
                let y = (Number::to_f64(*x) - mean) * inverse * scale[i];
                <T as Number>::from_f64(y + bias.as_ref().map_or(0.0, |bias| bias[i]))
            }));
            means.push(mean as f32);
            deviations.push(inverse as f32);
        }
        Ok::<_, EvalError>((Tensor::new(&x.dims, out), means, deviations))
    })?;
    let mut outputs = vec![y];
    if cx.outputs > 1 {
        let mut dims = x.dims.clone();
        dims[axis..].fill(1);
        outputs.extend([means, deviations].map(|stat| Tensor::new(&dims, stat)));
        outputs.truncate(cx.outputs);
    }
    Ok(outputs)
}

fn eval_rms_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let axis = normal_axis(cx.int("axis", -1)?, x.dims.len())?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    if scale.dtype != x.dtype || cx.int("stash_type", 1)? != 1 {
        return Err(EvalError::Unsupported("mixed element types"));
    }
    if x.is_empty() {
        return Err(EvalError::Unsupported("the mean of nothing"));
    }
    let scale = per_element(scale, &x.dims[axis..])?;
    let len = area(&sizes(&x.dims[axis..]));
    map_strided(cx, x, len, 1, |line| {
        let mean = line.iter().map(|x| x * x).sum::<f64>() / line.len() as f64;
        let inverse = 1.0 / (mean + epsilon).sqrt();
        line.iter_mut().zip(&scale).for_each(|(x, s)| *x *= inverse * s);
    })
}

fn batch_norm(cx: &InferCx<'_>) -> Inferred {
    let channels = cx.shape(0).and_then(|s| s.0.get(1));
    let mut all = vec![cx.input(0).ty.cloned()];
    for slot in 1..5 {
        if let (Some(c), Some(shape), Some(x)) = (channels, cx.shape(slot), cx.shape(0)) {
            // Until opset 9 a scale could have one value for each element.
            let wrong = shape.rank() != 1 || super::infer::merge(c, &shape.0[0]).is_none();
            if wrong && cx.version >= 9 {
                return Err(InferError::new(format!(
                    "input {slot} is {shape}, not [{c}] as {x} needs it"
                )));
            }
        }
        let stat = channels.map(|c| [c.clone()].into_iter().collect::<Shape>());
        all.push(tensor(cx.dtype(slot.max(3)).or(cx.dtype(0)), stat));
    }
    several(cx, all)
}

/// One number for each channel.
fn per_channel(cx: &EvalCx<'_>, slot: usize, channels: usize) -> Result<Vec<f64>, EvalError> {
    let tensor = cx.input(slot)?;
    tensor.check()?;
    let values = tensor.to_floats().ok_or(EvalError::Unsupported("element type"))?;
    if tensor.dims.len() == 1 && values.len() == channels {
        Ok(values)
    } else {
        Err(EvalError::invalid(format!(
            "input {slot} is {:?}, for {channels} channels",
            tensor.dims
        )))
    }
}

fn eval_batch_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let training = match cx.version {
        ..=6 => cx.int("is_test", 0)? == 0,
        7..=13 => cx.outputs > 1,
        _ => cx.int("training_mode", 0)? != 0,
    };
    if training || cx.outputs > 1 || cx.int("spatial", 1)? != 1 {
        return Err(EvalError::Unsupported("training"));
    }
    let epsilon = cx.float("epsilon", 1e-5)?;
    let dims = sizes(&x.dims);
    let channels = dims
        .get(1)
        .copied()
        .ok_or_else(|| EvalError::invalid(format!("{:?} has no channels", x.dims)))?;
    let area = area(&dims[2..]);
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|slot| per_channel(cx, slot, channels));
    let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
    cx.size(x.dtype, &x.dims)?;
    with_type!(floats, x.dtype, T => {
        let elements = x.elements::<T>()?;
        let mut out: Vec<T> = Vec::with_capacity(elements.len());
        for (i, plane) in elements.chunks_exact(area.max(1)).enumerate() {
            let c = i % channels;
            let factor = scale[c] / (variance[c] + epsilon).sqrt();
            out.extend(plane.iter().map(|x| <T as Number>::from_f64((Number::to_f64(*x) - mean[c]) * factor + bias[c])));
        }
        Ok(vec![Tensor::new(&x.dims, out)])
    })
}

/// Groups of channels, each normalized over all its elements.
fn eval_groups(
    cx: &EvalCx<'_>,
    groups: usize,
    scale: impl Fn(usize) -> f64,
    bias: impl Fn(usize) -> f64,
) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let dims = sizes(&x.dims);
    let channels = dims[1];
    let area = area(&dims[2..]);
    let epsilon = cx.float("epsilon", 1e-5)?;
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(EvalError::invalid(format!("{groups} groups of {channels} channels")));
    }
    let row = std::cell::Cell::new(0);
    let per_group = channels / groups;
    map_strided(cx, x, per_group.saturating_mul(area), 1, |line| {
        let mean = line.iter().sum::<f64>() / line.len() as f64;
        let variance = line.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / line.len() as f64;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        let first = row.get() % groups * per_group;
        for (i, x) in line.iter_mut().enumerate() {
            let c = first + i / area;
            *x = (*x - mean) * inverse * scale(c) + bias(c);
        }
        row.set(row.get() + 1);
    })
}

fn eval_instance_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let channels = channels_of(cx)?;
    let (scale, bias) = (per_channel(cx, 1, channels)?, per_channel(cx, 2, channels)?);
    eval_groups(cx, channels, |c| scale[c], |c| bias[c])
}

fn channels_of(cx: &EvalCx<'_>) -> Result<usize, EvalError> {
    let x = cx.input(0)?;
    sizes(&x.dims)
        .get(1)
        .copied()
        .ok_or_else(|| EvalError::invalid(format!("{:?} has no channels", x.dims)))
}

fn group_norm(cx: &InferCx<'_>) -> Inferred {
    if let (Some(shape), Some(groups)) = (cx.shape(0), cx.attrs.int("num_groups"))
        && let Some(c) = shape.0.get(1).and_then(Dim::fixed)
        && (groups <= 0 || c % groups != 0)
    {
        return Err(InferError::new(format!(
            "{c} channels do not go into {groups} groups: {shape}"
        )));
    }
    same(cx)
}

fn eval_group_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let channels = channels_of(cx)?;
    let groups = usize::try_from(cx.int("num_groups", 0)?).unwrap_or(0);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(EvalError::invalid(format!("{groups} groups of {channels} channels")));
    }
    // Until opset 21 a scale belonged to a group.
    let (count, each) = if cx.version < 21 { (groups, channels / groups) } else { (channels, 1) };
    let (scale, bias) = (per_channel(cx, 1, count)?, per_channel(cx, 2, count)?);
    eval_groups(cx, groups, |c| scale[c / each], |c| bias[c / each])
}

fn eval_lp_norm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axis = normal_axis(cx.int("axis", -1)?, x.dims.len())?;
    let p = cx.int("p", 2)?;
    if p != 1 && p != 2 {
        return Err(EvalError::invalid(format!("a norm of {p}")));
    }
    let dims = sizes(&x.dims);
    map_strided(cx, x, dims[axis], area(&dims[axis + 1..]), |line| {
        let norm: f64 = if p == 1 {
            line.iter().map(|x| x.abs()).sum()
        } else {
            line.iter().map(|x| x * x).sum::<f64>().sqrt()
        };
        // Nothing has no direction.
        for x in line {
            *x = if norm == 0.0 { 0.0 } else { *x / norm };
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::{Case, f32s, iota};

    fn close(a: &crate::Tensor, b: &[f64]) -> bool {
        let a = a.to_floats().unwrap();
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6)
    }

    #[test]
    fn lines_were_all_axes_from_one_on() {
        let softmax = |opset| {
            Case::new("Softmax").opset(opset).input(f32s(&[1, 2, 2], &[0.0; 4])).run().remove(0)
        };
        assert_eq!(softmax(12), f32s(&[1, 2, 2], &[0.25; 4]));
        assert_eq!(softmax(13), f32s(&[1, 2, 2], &[0.5; 4]));
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        let x = f32s(&[3], &[1e30, 1e30, f32::NEG_INFINITY]);
        assert_eq!(Case::new("Softmax").input(x).run()[0], f32s(&[3], &[0.5, 0.5, 0.0]));
    }

    #[test]
    fn lines_along_the_first_axis() {
        let y = Case::new("Softmax")
            .attr("axis", 0_i64)
            .input(f32s(&[2, 2], &[0.0, 1.0, 0.0, 1.0]))
            .run();
        assert_eq!(y[0], f32s(&[2, 2], &[0.5; 4]));
    }

    #[test]
    fn layers() {
        let case =
            Case::new("LayerNormalization").outputs(3).attr("epsilon", 0.0).input(iota(&[1, 2]));
        let y = case.input(f32s(&[2], &[1.0, 2.0])).input(f32s(&[2], &[0.0, 1.0])).run();
        assert!(close(&y[0], &[-1.0, 3.0]) && close(&y[1], &[0.5]) && close(&y[2], &[2.0]));
        let case = Case::new("LayerNormalization")
            .typed(DataType::Float, "N,4")
            .typed(DataType::Float, "5");
        assert_eq!(case.infer_err(), "scale or bias [5] does not go with [4] of [N,4]");
    }

    #[test]
    fn layers_of_an_old_opset_come_from_a_fusion() {
        let typed = Case::new("LayerNormalization").opset(13).typed(DataType::Float, "N,4");
        assert_eq!(typed.typed(DataType::Float, "4").infer(), "float[N,4]");
    }

    #[test]
    fn channels() {
        let case = Case::new("BatchNormalization").attr("epsilon", 0.0).input(iota(&[1, 2, 1]));
        let one = |x: f32| f32s(&[2], &[x; 2]);
        let y = case.input(one(2.0)).input(one(1.0)).input(one(1.0)).input(one(4.0)).run();
        assert!(close(&y[0], &[0.0, 1.0]));
        let case = Case::new("InstanceNormalization").attr("epsilon", 0.0).input(iota(&[1, 2, 2]));
        let y = case.input(f32s(&[2], &[1.0, 2.0])).input(f32s(&[2], &[0.0, 1.0])).run();
        assert!(close(&y[0], &[-1.0, 1.0, -1.0, 3.0]));
    }
}
