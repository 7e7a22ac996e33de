//! Elements moved along axes: transposed, repeated, joined, cut, padded.

use smallvec::SmallVec;

use super::gather::take;
use super::infer::{
    Inferred, any_dtype, dims_from, fixed_len, int_attr, is_unknown_attr, merge, normal_axes,
    one as output, same, several, tensor,
};
use super::kernel::{
    Axes, Walk, area, broadcast_strides, checked_raw, empty, from_units, sizes, strides, units,
    view, with_unit,
};
use super::schema::{
    attr::{float, int, ints, string},
    many, one, opt,
    sets::{ANY, INDEX, INT64, STORED},
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, Operator, broadcast, normal_axis};
use crate::{DataType, Dim, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Transpose", &[1, 13, 21, 23, 24, 25], transpose)
        .params(&[one("data", "T", STORED)], &[one("transposed", "T", STORED)])
        .attrs(&[ints("perm")])
        .class(Class::MOVEMENT)
        .eval(eval_transpose),
    Operator::new("Expand", &[8, 13], expand)
        .params(&[one("input", "T", ANY), one("shape", "", INT64)], &[one("output", "T", ANY)])
        .class(Class::MOVEMENT)
        .eval(eval_expand),
    Operator::new("Tile", &[1, 6, 13], tile)
        .params(&[one("input", "T", ANY), one("repeats", "", INT64)], &[one("output", "T", ANY)])
        .class(Class::MOVEMENT)
        .eval(eval_tile),
    Operator::new("Concat", &[1, 4, 11, 13], concat)
        .params(&[many("inputs", "T", ANY)], &[one("concat_result", "T", ANY)])
        .attrs(&[int("axis").required()])
        .class(Class::MOVEMENT)
        .eval(eval_concat),
    Operator::new("Split", &[1, 2, 11, 13, 18], split)
        .params(
            &[one("input", "T", ANY), opt("split", "", INT64).since(13)],
            &[many("outputs", "T", ANY)],
        )
        .attrs(&[int("axis"), int("num_outputs").since(18), ints("split").until(13)])
        .class(Class::MOVEMENT)
        .eval(eval_split),
    Operator::new("Slice", &[1, 10, 11, 13], slice)
        .params(
            &[
                one("data", "T", ANY),
                one("starts", "Tind", INDEX).since(10),
                one("ends", "Tind", INDEX).since(10),
                opt("axes", "Tind", INDEX).since(10),
                opt("steps", "Tind", INDEX).since(10),
            ],
            &[one("output", "T", ANY)],
        )
        .attrs(&[
            ints("axes").until(10),
            ints("ends").required().until(10),
            ints("starts").required().until(10),
        ])
        .class(Class::MOVEMENT)
        .eval(eval_slice),
    Operator::new("Pad", &[1, 2, 11, 13, 18, 19, 21, 23, 24, 25], pad)
        .params(
            &[
                one("data", "T", STORED),
                one("pads", "", INT64).since(11),
                opt("constant_value", "T", STORED).since(11),
                opt("axes", "", INDEX).since(18),
            ],
            &[one("output", "T", STORED)],
        )
        .attrs(&[
            string("mode"),
            ints("paddings").required().until(2),
            ints("pads").required().since(2).until(11),
            float("value").until(11),
        ])
        .eval(eval_pad),
    Operator::new("Trilu", &[14], same)
        .params(&[one("input", "T", ANY), opt("k", "", INT64)], &[one("output", "T", ANY)])
        .attrs(&[int("upper")])
        .eval(eval_trilu),
    Operator::new("DepthToSpace", &[1, 11, 13, 28], depth_to_space)
        .params(&[one("input", "T", ANY)], &[one("output", "T", ANY)])
        .attrs(&[int("blocksize").required(), string("mode").since(11)])
        .class(Class::MOVEMENT)
        .eval(eval_depth_to_space),
    Operator::new("SpaceToDepth", &[1, 13, 28], space_to_depth)
        .params(&[one("input", "T", ANY)], &[one("output", "T", ANY)])
        .attrs(&[int("blocksize").required(), string("mode").since(28)])
        .class(Class::MOVEMENT)
        .eval(eval_space_to_depth),
    Operator::new("ReverseSequence", &[10, 28], same)
        .params(&[one("input", "T", ANY), one("sequence_lens", "", INT64)], &[one("Y", "T", ANY)])
        .attrs(&[int("batch_axis"), int("time_axis")])
        .class(Class::MOVEMENT)
        .eval(eval_reverse_sequence),
    Operator::new("CenterCropPad", &[18], center_crop_pad)
        .params(
            &[one("input_data", "T", ANY), one("shape", "", INDEX)],
            &[one("output_data", "T", ANY)],
        )
        .attrs(&[ints("axes")]),
];

/// The permutation of a Transpose: by default the axes turn round.
fn permutation(perm: Option<&[i64]>, rank: usize) -> Result<SmallVec<[usize; 4]>, InferError> {
    let Some(perm) = perm else { return Ok((0..rank).rev().collect()) };
    let axes = normal_axes(perm, rank)?;
    if axes.len() == rank {
        Ok(axes)
    } else {
        Err(InferError::new(format!("perm {perm:?} is not of rank {rank}")))
    }
}

fn transpose(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let perm = cx.attrs.ints("perm");
    let (Some(shape), false) = (cx.shape(0), is_unknown_attr(cx, "perm")) else {
        let rank = perm.map(<[i64]>::len).or(cx.shape(0).map(Shape::rank));
        return output(dtype, rank.map(Shape::unknown));
    };
    let perm = permutation(perm, shape.rank())
        .map_err(|err| InferError::new(format!("{}: {shape}", err.0)))?;
    output(dtype, Some(perm.iter().map(|&axis| shape.0[axis].clone()).collect()))
}

fn eval_transpose(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let perm = permutation(cx.ints("perm")?, x.dims.len())?;
    let from = strides(&sizes(&x.dims));
    let dims: Vec<i64> = perm.iter().map(|&axis| x.dims[axis]).collect();
    let to: Axes<isize> = perm.iter().map(|&axis| from[axis]).collect();
    Ok(vec![view(cx, x, &dims, &sizes(&dims), &to, 0)?])
}

fn expand(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let (Some(shape), Some(target)) = (cx.shape(0), dims_from(cx.input(1))) else {
        return output(dtype, None);
    };
    let target = target
        .0
        .into_iter()
        .map(|d| if d.fixed().is_some_and(|n| n < 0) { Dim::Unknown } else { d });
    output(dtype, Some(broadcast(shape, &target.collect())?))
}

fn eval_expand(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let target = cx.int_input(1)?;
    if target.iter().any(|&n| n < 0) {
        return Err(EvalError::Unsupported("a negative dimension"));
    }
    let shape = broadcast(&Shape::fixed(&x.dims), &Shape::fixed(&target))?;
    let dims: Vec<i64> = shape.0.iter().filter_map(Dim::fixed).collect();
    Ok(vec![view(cx, x, &dims, &sizes(&dims), &broadcast_strides(&sizes(&x.dims), dims.len()), 0)?])
}

fn tile(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else {
        let rank = if cx.version < 6 { None } else { fixed_len(cx.input(1)) };
        return output(dtype, rank.map(Shape::unknown));
    };
    match cx.dims(1) {
        Some(repeats) if cx.version >= 6 => output(dtype, Some(tiled(shape, &repeats)?)),
        _ => output(dtype, Some(Shape::unknown(shape.rank()))),
    }
}

fn tiled(shape: &Shape, repeats: &[Dim]) -> Result<Shape, InferError> {
    if repeats.len() != shape.rank() || repeats.iter().any(|n| n.fixed().is_some_and(|n| n < 0)) {
        let repeats: Shape = repeats.iter().cloned().collect();
        return Err(InferError::new(format!("{shape} cannot be repeated {repeats} times")));
    }
    let times = |d: &Dim, n: &Dim| if *n == Dim::Fixed(1) { d.clone() } else { d.times(n) };
    Ok(shape.0.iter().zip(repeats).map(|(d, n)| times(d, n)).collect())
}

fn eval_tile(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    if cx.version < 6 {
        return Err(EvalError::Unsupported("Tile along one axis"));
    }
    let x = cx.input(0)?;
    let repeats = cx.int_input(1)?;
    let shape = tiled(&Shape::fixed(&x.dims), &Shape::fixed(&repeats).0)?;
    let dims: Vec<i64> = shape.dims().ok_or_else(|| EvalError::TooLarge(repeats.clone()))?.to_vec();
    // Each axis is seen as two: how often, and what.
    let mut seen = Axes::new();
    let mut steps = Axes::new();
    for ((size, step), repeat) in
        sizes(&x.dims).into_iter().zip(strides(&sizes(&x.dims))).zip(sizes(&repeats))
    {
        seen.extend([repeat, size]);
        steps.extend([0, step]);
    }
    Ok(vec![view(cx, x, &dims, &seen, &steps, 0)?])
}

fn concat(cx: &InferCx<'_>) -> Inferred {
    let slots = 0..cx.inputs.len();
    let dtype = any_dtype(cx, slots.clone());
    let known: Vec<&Shape> = slots.clone().filter_map(|slot| cx.shape(slot)).collect();
    let Some(first) = known.first() else { return output(dtype, None) };
    let Some(axis) = int_attr(cx, "axis", 1) else {
        return output(dtype, Some(Shape::unknown(first.rank())));
    };
    let mut shape = concatenated(&known, axis)?;
    if known.len() < slots.len() {
        let axis = normal_axis(axis, shape.rank())?;
        shape.0[axis] = Dim::Unknown;
    }
    output(dtype, Some(shape))
}

fn concatenated(shapes: &[&Shape], axis: i64) -> Result<Shape, InferError> {
    let Some((first, rest)) = shapes.split_first() else { return Ok(Shape::default()) };
    let mut all = (*first).clone();
    let axis = normal_axis(axis, first.rank())?;
    for shape in rest {
        if shape.rank() != first.rank() {
            return Err(InferError::new(format!("{first} and {shape} are of different ranks")));
        }
        for (i, (so_far, d)) in all.0.iter_mut().zip(&shape.0).enumerate() {
            *so_far = if i == axis {
                match (&*so_far, d) {
                    (Dim::Fixed(0), d) | (d, Dim::Fixed(0)) => d.clone(),
                    (a, b) => a.plus(b),
                }
            } else {
                merge(so_far, d).ok_or_else(|| {
                    InferError::new(format!(
                        "{first} and {shape} differ on axis {i}, and are joined on axis {axis}"
                    ))
                })?
            };
        }
    }
    Ok(all)
}

fn eval_concat(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let inputs = (0..cx.inputs.len()).map(|slot| cx.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let first = cx.input(0)?;
    let dtype = first.dtype;
    if let Some(other) = inputs.iter().find(|t| t.dtype != dtype) {
        return Err(EvalError::invalid(format!("joins {dtype} and {}", other.dtype)));
    }
    let axis = cx.int("axis", 1)?;
    let shapes: Vec<Shape> = inputs.iter().map(|t| Shape::fixed(&t.dims)).collect();
    let shape = concatenated(&shapes.iter().collect::<Vec<_>>(), axis)?;
    let dims = shape.dims().ok_or_else(|| EvalError::TooLarge(first.dims.clone()))?;
    let axis = normal_axis(axis, dims.len())?;
    let size = cx.size(dtype, &dims)?;
    if size == 0 {
        return Ok(vec![empty(dtype, &dims)]);
    }
    let outer = area(&sizes(&dims[..axis]));
    let raws = inputs.iter().map(|t| checked_raw(t)).collect::<Result<Vec<_>, _>>()?;
    with_unit!(dtype, U => {
        let parts: Vec<_> = raws.iter().map(|raw| units::<U>(raw)).collect();
        let mut out = Vec::with_capacity(size);
        for row in 0..outer {
            for part in &parts {
                let len = part.len() / outer;
                out.extend_from_slice(&part[row * len..(row + 1) * len]);
            }
        }
        Ok(vec![from_units(dtype, &dims, out)])
    })
}

/// Lengths of the parts, given the length of the axis where it is known.
fn parts(
    version: i64,
    outputs: usize,
    lengths: Option<&[Dim]>,
    count: Option<i64>,
    total: &Dim,
) -> Result<Vec<Dim>, InferError> {
    if let Some(lengths) = lengths {
        if lengths.len() < outputs {
            return Err(InferError::new(format!(
                "{} lengths for {outputs} outputs",
                lengths.len()
            )));
        }
        let sum = lengths.iter().fold(Dim::Fixed(0), |sum, n| sum.plus(n));
        let negative = lengths.iter().any(|n| n.fixed().is_some_and(|n| n < 0));
        let differs = sum.fixed().zip(total.fixed()).is_some_and(|(sum, total)| sum != total);
        // A sum that is no number any more is larger than any axis.
        let overflow = sum == Dim::Unknown && lengths.iter().all(|n| n.fixed().is_some());
        if negative || differs || overflow {
            let lengths: Shape = lengths.iter().cloned().collect();
            return Err(InferError::new(format!("an axis of {total} is not the sum of {lengths}")));
        }
        return Ok(lengths.to_vec());
    }
    let n = count.unwrap_or(outputs as i64);
    if n < outputs as i64 || n <= 0 {
        return Err(InferError::new(format!("{n} parts for {outputs} outputs")));
    }
    let Some(total) = total.fixed() else {
        // Until opset 18 all parts are equal; later ones may end with a shorter one.
        let part = if version < 18 {
            total.over(&Dim::Fixed(n))
        } else {
            total.exactly_over(&Dim::Fixed(n)).unwrap_or(Dim::Unknown)
        };
        return Ok(vec![part; outputs]);
    };
    if version < 18 && total % n != 0 {
        return Err(InferError::new(format!(
            "an axis of {total} is not divisible into {n} equal parts"
        )));
    }
    // The last parts are shorter, or empty.
    let len = total / n + i64::from(total % n != 0);
    Ok((0..outputs as i64)
        .map(|i| Dim::Fixed(total.saturating_sub(i.saturating_mul(len)).clamp(0, len)))
        .collect())
}

fn split(cx: &InferCx<'_>) -> Inferred {
    let outputs = cx.outputs.max(1);
    let dtype = cx.dtype(0);
    let attr = cx.attrs.ints("split").filter(|_| cx.version < 13).map(<[i64]>::to_vec);
    let unknown = (cx.version < 13 && is_unknown_attr(cx, "split"))
        || (cx.version >= 13 && cx.has(1) && cx.dims(1).is_none())
        || is_unknown_attr(cx, "num_outputs");
    let lengths = if cx.version < 13 {
        attr.map(|l| l.into_iter().map(Dim::Fixed).collect())
    } else {
        cx.dims(1)
    };
    let Some(shape) = cx.shape(0) else { return several(cx, vec![tensor(dtype, None); outputs]) };
    let Some(axis) = int_attr(cx, "axis", 0) else {
        return several(cx, vec![tensor(dtype, Some(Shape::unknown(shape.rank()))); outputs]);
    };
    let axis = normal_axis(axis, shape.rank())?;
    let lengths = if unknown {
        vec![Dim::Unknown; outputs]
    } else {
        let count = cx.attrs.int("num_outputs").filter(|_| cx.version >= 18);
        parts(cx.version, outputs, lengths.as_deref(), count, &shape.0[axis])
            .map_err(|err| InferError::new(format!("{}: {shape} on axis {axis}", err.0)))?
    };
    several(
        cx,
        lengths.into_iter().map(|len| {
            let mut part = shape.clone();
            part.0[axis] = len;
            tensor(dtype, Some(part))
        }),
    )
}

fn eval_split(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axis = normal_axis(cx.int("axis", 0)?, x.dims.len())?;
    let lengths =
        if cx.version < 13 { cx.ints("split")?.map(<[i64]>::to_vec) } else { cx.opt_int_input(1)? };
    cx.int("num_outputs", 0)?;
    let count = cx.node.attrs.int("num_outputs").filter(|_| cx.version >= 18);
    let lengths = lengths.map(|l| l.into_iter().map(Dim::Fixed).collect::<Vec<_>>());
    let total = Dim::Fixed(x.dims[axis]);
    let lengths = parts(cx.version, cx.outputs, lengths.as_deref(), count, &total)?;
    let steps = strides(&sizes(&x.dims));
    let mut start = 0;
    let mut outputs = Vec::new();
    for len in lengths.iter().filter_map(Dim::fixed).take(cx.outputs) {
        let mut dims = x.dims.clone();
        dims[axis] = len;
        let at = if x.is_empty() { 0 } else { start * steps[axis] as usize };
        outputs.push(view(cx, x, &dims, &sizes(&dims), &steps, at)?);
        start += len as usize;
    }
    Ok(outputs)
}

/// One axis of a slice: first index, and number of elements.
///
/// A start before the first element is clamped to it, backwards too, as the specification has it. Python would take no
/// element then.
fn slice_axis(len: i64, start: i64, end: i64, step: i64) -> Result<(i64, i64), InferError> {
    let from_back = |i: i64| if i < 0 { i.saturating_add(len) } else { i };
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let start = from_back(start).clamp(0, high.max(0));
    let end = from_back(end).clamp(low, high.max(low));
    let (span, step) = (i128::from(end) - i128::from(start), i128::from(step));
    if step == 0 {
        return Err(InferError::new("a step of 0"));
    }
    let count = if (span > 0) == (step > 0) && span != 0 && len > 0 {
        (span.abs() + step.abs() - 1) / step.abs()
    } else {
        0
    };
    Ok((start, i64::try_from(count).unwrap_or(0)))
}

/// Elements of a slice of an axis, where length or bounds hold names.
fn slice_open_axis(len: &Dim, start: &Dim, end: &Dim, step: i64) -> Dim {
    // Longer than any axis: exporters write both the largest int32 and int64.
    let to_the_end = |d: &Dim| d.fixed().is_some_and(|n| n >= i64::from(i32::MAX));
    let before_the_start = |d: &Dim| d.fixed().is_some_and(|n| n <= i64::from(i32::MIN));
    let zero = Dim::Fixed(0);
    let every = |all: &Dim, step: i64| match step {
        1 => all.clone(),
        step => all.plus(&Dim::Fixed(step - 1)).over(&Dim::Fixed(step)),
    };
    if step < 0 {
        let backwards = (*start == Dim::Fixed(-1) || to_the_end(start)) && before_the_start(end);
        return match step.checked_neg().filter(|_| backwards) {
            Some(step) => every(len, step),
            None => Dim::Unknown,
        };
    }
    if *start == zero && to_the_end(end) {
        return every(len, step);
    }
    let upper = |end: &Dim| if to_the_end(end) { len.clone() } else { end.min(len) };
    // Whether a bound counts from the back must be known.
    let from_back = |d: &Dim| {
        if d.is_natural() { Some(false) } else { d.at_most(&Dim::Fixed(-1)).then_some(true) }
    };
    let (Some(start_from_back), Some(end_from_back)) = (from_back(start), from_back(end)) else {
        return Dim::Unknown;
    };
    let count = match (start_from_back, end_from_back) {
        // The bounds are max(0, len + start) and max(0, len + end).
        (true, true) => end.minus(start).min(&len.plus(end)),
        (false, true) => len.plus(end).minus(start),
        // Beyond the length nothing is left, so the start needs no limit.
        (false, false) => upper(end).minus(start),
        (true, false) => upper(end).min(&upper(end).minus(len).minus(start)),
    };
    every(&count.max(&zero), step)
}

/// Bounds of a slice, as attributes (until opset 10) or inputs give them.
struct Bounds {
    starts: Option<Vec<Dim>>,
    ends: Option<Vec<Dim>>,
    /// Axes in order; none when not even they are known.
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
}

fn bounds(cx: &InferCx<'_>) -> Bounds {
    let count = |n: usize| Some((0..n as i64).collect::<Vec<i64>>());
    if cx.version < 10 {
        let get = |name| cx.attrs.ints(name).map(<[i64]>::to_vec);
        let starts = get("starts");
        let n = starts.as_ref().map(Vec::len);
        let dims = |list: Option<Vec<i64>>| list.map(|l| l.into_iter().map(Dim::Fixed).collect());
        let axes = if is_unknown_attr(cx, "axes") {
            None
        } else {
            get("axes").or_else(|| n.and_then(count))
        };
        return Bounds {
            ends: dims(get("ends")),
            axes,
            steps: n.map(|n| vec![1; n]),
            starts: dims(starts),
        };
    }
    let n = [0, 1, 2].map(|slot| {
        let input = cx.input(slot + 1);
        input.tensor.and_then(Tensor::to_ints).map(|ints| ints.len()).or_else(|| fixed_len(input))
    });
    let n = n.into_iter().flatten().next();
    let axes = if cx.has(3) { cx.ints(3) } else { n.and_then(count) };
    let n = n.or(axes.as_ref().map(Vec::len));
    let steps = if cx.has(4) { cx.ints(4) } else { n.map(|n| vec![1; n]) };
    Bounds { starts: cx.dims(1), ends: cx.dims(2), axes, steps }
}

fn slice(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let Bounds { starts, ends, axes, steps } = bounds(cx);
    let Some(axes) = axes else { return output(dtype, Some(Shape::unknown(shape.rank()))) };
    for (name, list) in [
        ("starts", starts.as_ref().map(Vec::len)),
        ("ends", ends.as_ref().map(Vec::len)),
        ("steps", steps.as_ref().map(Vec::len)),
    ] {
        if let Some(n) = list.filter(|&n| n != axes.len()) {
            return Err(InferError::new(format!("{n} {name} for {} axes of {shape}", axes.len())));
        }
    }
    let mut sliced = shape.clone();
    let normal = normal_axes(&axes, shape.rank())
        .map_err(|err| InferError::new(format!("{}: {shape}", err.0)))?;
    for (i, axis) in normal.into_iter().enumerate() {
        let at = |list: &Option<Vec<Dim>>| list.as_ref().map_or(Dim::Unknown, |l| l[i].clone());
        let (len, start, end) = (&shape.0[axis], at(&starts), at(&ends));
        sliced.0[axis] = match (len.fixed().zip(start.fixed()).zip(end.fixed()), &steps) {
            (_, None) => Dim::Unknown,
            (_, Some(steps)) if steps[i] == 0 => return Err(InferError::new("a step of 0")),
            (Some(((len, start), end)), Some(steps)) => {
                Dim::Fixed(slice_axis(len, start, end, steps[i])?.1)
            }
            (None, Some(steps)) => slice_open_axis(len, &start, &end, steps[i]),
        };
    }
    output(dtype, Some(sliced))
}

fn eval_slice(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let (starts, ends, axes, steps) = if cx.version < 10 {
        let get = |name| Ok::<_, EvalError>(cx.ints(name)?.map(<[i64]>::to_vec));
        let missing = || EvalError::invalid("starts or ends are missing");
        (get("starts")?.ok_or_else(missing)?, get("ends")?.ok_or_else(missing)?, get("axes")?, None)
    } else {
        (cx.int_input(1)?, cx.int_input(2)?, cx.opt_int_input(3)?, cx.opt_int_input(4)?)
    };
    let n = starts.len();
    let axes = axes.unwrap_or_else(|| (0..n as i64).collect());
    let steps_by = steps.unwrap_or_else(|| vec![1; n]);
    if ends.len() != n || axes.len() != n || steps_by.len() != n {
        return Err(EvalError::invalid("starts, ends, axes and steps differ in number"));
    }
    let mut dims = x.dims.clone();
    let mut steps = strides(&sizes(&x.dims));
    let mut at = 0;
    for (i, axis) in normal_axes(&axes, dims.len())?.into_iter().enumerate() {
        let (start, count) = slice_axis(x.dims[axis], starts[i], ends[i], steps_by[i])?;
        dims[axis] = count;
        if count > 0 {
            at += start as isize * steps[axis];
        }
        // A single element is no step away from anything.
        steps[axis] = if count > 1 { steps[axis] * steps_by[i] as isize } else { 0 };
    }
    let at = if dims.contains(&0) { 0 } else { at as usize };
    Ok(vec![view(cx, x, &dims, &sizes(&dims), &steps, at)?])
}

/// Padding before and after each axis.
fn pads_by_axis(
    pads: &[i64],
    axes: Option<&[i64]>,
    shape: &Shape,
) -> Result<SmallVec<[(i64, i64); 4]>, InferError> {
    let rank = shape.rank();
    let axes = axes.map_or_else(|| Ok((0..rank).collect()), |axes| normal_axes(axes, rank))?;
    if pads.len() != 2 * axes.len() {
        let n = axes.len();
        return Err(InferError::new(format!(
            "pads {pads:?} are not 2 × {n}, as {shape} needs them"
        )));
    }
    let mut all: SmallVec<[(i64, i64); 4]> = smallvec::smallvec![(0, 0); rank];
    for (i, &axis) in axes.iter().enumerate() {
        all[axis] = (pads[i], pads[i + axes.len()]);
    }
    Ok(all)
}

fn padded(shape: &Shape, pads: &[(i64, i64)]) -> Result<Shape, InferError> {
    let one = |d: &Dim, (before, after): (i64, i64)| {
        if (before, after) == (0, 0) {
            return Ok(d.clone());
        }
        let sum = d.plus(&Dim::Fixed(before)).plus(&Dim::Fixed(after));
        if sum.fixed().is_some_and(|n| n < 0) {
            return Err(InferError::new(format!(
                "pads {before} and {after} leave nothing of {d}: {shape}"
            )));
        }
        Ok(sum)
    };
    shape.0.iter().zip(pads).map(|(d, &pads)| one(d, pads)).collect()
}

fn pad(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let pads = match cx.version {
        ..=1 => cx.attrs.ints("paddings").map(<[i64]>::to_vec),
        2..=10 => cx.attrs.ints("pads").map(<[i64]>::to_vec),
        _ => cx.ints(1),
    };
    let Some(shape) = cx.shape(0) else {
        let rank = pads.map(|pads| pads.len() / 2).filter(|_| !cx.has(3));
        return output(dtype, rank.map(Shape::unknown));
    };
    let axes = cx.ints(3).filter(|_| cx.version >= 18);
    let unknown_axes = cx.version >= 18 && cx.has(3) && axes.is_none();
    match pads {
        Some(pads) if !unknown_axes => {
            output(dtype, Some(padded(shape, &pads_by_axis(&pads, axes.as_deref(), shape)?)?))
        }
        _ => {
            if !cx.has(3)
                && let Some(n) = fixed_len(cx.input(1))
                && n != 2 * shape.rank()
            {
                return Err(InferError::new(format!(
                    "{n} pads for {shape}, which needs {}",
                    2 * shape.rank()
                )));
            }
            output(dtype, Some(Shape::unknown(shape.rank())))
        }
    }
}

fn eval_pad(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let missing = || EvalError::invalid("pads are missing");
    let pads = match cx.version {
        ..=1 => cx.ints("paddings")?.ok_or_else(missing)?.to_vec(),
        2..=10 => cx.ints("pads")?.ok_or_else(missing)?.to_vec(),
        _ => cx.int_input(1)?,
    };
    let axes = if cx.version < 18 { None } else { cx.opt_int_input(3)? };
    let shape = Shape::fixed(&x.dims);
    let pads = pads_by_axis(&pads, axes.as_deref(), &shape)?;
    let dims =
        padded(&shape, &pads)?.dims().ok_or_else(|| EvalError::TooLarge(x.dims.clone()))?.to_vec();
    let mode = cx.str("mode", "constant")?;
    if mode == "constant" {
        return pad_constant(cx, x, &dims, &pads);
    }
    if pads.iter().any(|&(before, after)| before < 0 || after < 0) {
        return Err(EvalError::Unsupported("negative pads that are not constant"));
    }
    let size = cx.size(x.dtype, &dims)?;
    let mut y = x.reshaped(&x.dims);
    for (axis, &(before, after)) in pads.iter().enumerate().filter(|(_, pads)| **pads != (0, 0)) {
        let len = x.dims[axis];
        if len == 0 {
            return Err(EvalError::invalid(format!("nothing of {shape} to pad axis {axis} with")));
        }
        if size == 0 {
            return Ok(vec![empty(x.dtype, &dims)]);
        }
        let place: fn(i64, i64) -> i64 = match mode {
            "edge" => |i, len| i.clamp(0, len - 1),
            "wrap" if cx.version >= 19 => |i, len| i.rem_euclid(len),
            "reflect" => |i, len| {
                let i = i.rem_euclid((2 * (len - 1)).max(1));
                if i < len { i } else { 2 * (len - 1) - i }
            },
            _ => return Err(EvalError::Unsupported("this mode")),
        };
        let places: Vec<usize> = (-before..len + after).map(|i| place(i, len) as usize).collect();
        let mut grown = y.dims.clone();
        grown[axis] = dims[axis];
        y = take(cx, &y, axis, &places, &grown)?;
    }
    Ok(vec![y])
}

fn pad_constant(
    cx: &EvalCx<'_>,
    x: &Tensor,
    dims: &[i64],
    pads: &[(i64, i64)],
) -> Result<Vec<Tensor>, EvalError> {
    let size = cx.size(x.dtype, dims)?;
    let raw = checked_raw(x)?;
    let value = match cx.get(2).filter(|_| cx.version >= 11) {
        Some(value) if value.dtype != x.dtype => {
            return Err(EvalError::invalid(format!("pads {} with {}", x.dtype, value.dtype)));
        }
        Some(value) => checked_raw(value)?.into_owned(),
        None if cx.version < 11 && cx.float("value", 0.0)? != 0.0 => {
            let value = cx.float("value", 0.0)?;
            match x.dtype {
                DataType::Float => (value as f32).to_le_bytes().to_vec(),
                DataType::Double => value.to_le_bytes().to_vec(),
                DataType::Float16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
                _ => return Err(EvalError::Unsupported("a value by attribute for this type")),
            }
        }
        None => vec![0; (x.dtype.bits() / 8) as usize],
    };
    // The part of the input that stays, and where it goes.
    let (from, to) = (strides(&sizes(&x.dims)), strides(&sizes(dims)));
    let (mut start, mut kept) = ([0, 0], Axes::new());
    for (axis, &(before, after)) in pads.iter().enumerate() {
        let len = x.dims[axis].saturating_add(before.min(0)).saturating_add(after.min(0));
        kept.push(usize::try_from(len).unwrap_or(0));
        if len > 0 {
            start[0] += -before.min(0) as isize * from[axis];
            start[1] += before.max(0) as isize * to[axis];
        }
    }
    with_unit!(x.dtype, U => {
        let (values, elements) = (units::<U>(&value), units::<U>(&raw));
        let [value] = values[..] else {
            return Err(EvalError::invalid(format!("the value has {} elements instead of one", values.len())));
        };
        let mut out = vec![value; size];
        let walk = Walk::new(&kept, [&from, &to], start);
        walk.rows(|[from, to]| {
            let (from, to) = (from as usize, to as usize);
            // Rows are packed on both sides, or single elements.
            if walk.step == [1, 1] || walk.len == 1 {
                out[to..to + walk.len].copy_from_slice(&elements[from..from + walk.len]);
            } else {
                let [s, t] = walk.step.map(|step| step as usize);
                (0..walk.len).for_each(|k| out[to + k * t] = elements[from + k * s]);
            }
        });
        Ok(vec![from_units(x.dtype, dims, out)])
    })
}

fn eval_trilu(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let [.., height, width] = x.dims[..] else {
        return Err(EvalError::invalid(format!("{:?} is no matrix", x.dims)));
    };
    let upper = cx.int("upper", 1)? != 0;
    let k = match cx.opt_int_input(1)?.as_deref() {
        None => 0,
        Some([k]) => *k,
        Some(_) => return Err(EvalError::invalid("k is not one integer")),
    };
    cx.size(x.dtype, &x.dims)?;
    let raw = checked_raw(x)?;
    with_unit!(x.dtype, U => {
        let mut out = units::<U>(&raw).into_owned();
        if !x.is_empty() {
            for (row, line) in out.chunks_exact_mut(width as usize).enumerate() {
                let row = row as i64 % height;
                // The first element above the diagonal that starts k to the right.
                let at = row.saturating_add(k).saturating_add(i64::from(!upper)).clamp(0, width) as usize;
                if upper { line[..at].fill(0) } else { line[at..].fill(0) }
            }
        }
        Ok(vec![from_units(x.dtype, &x.dims, out)])
    })
}

fn block_size(cx: &InferCx<'_>) -> Result<Option<i64>, InferError> {
    match cx.attrs.int("blocksize") {
        Some(n) if n <= 0 => Err(InferError::new(format!("a block size of {n}"))),
        n => Ok(n),
    }
}

fn depth_to_space(cx: &InferCx<'_>) -> Inferred {
    blocks(
        cx,
        |n, b| n.checked_div(b.checked_mul(b)?).filter(|q| q.checked_mul(b * b) == Some(n)),
        i64::checked_mul,
    )
}

fn space_to_depth(cx: &InferCx<'_>) -> Inferred {
    blocks(cx, |n, b| n.checked_mul(b.checked_mul(b)?), |n, b| (n % b == 0).then_some(n / b))
}

fn blocks(
    cx: &InferCx<'_>,
    depth: impl Fn(i64, i64) -> Option<i64>,
    space: impl Fn(i64, i64) -> Option<i64>,
) -> Inferred {
    let size = block_size(cx)?;
    let (Some(shape), Some(size)) = (cx.shape(0), size) else {
        return output(cx.dtype(0), Some(Shape::unknown(4)));
    };
    let [n, c, h, w] = &shape.0[..] else {
        return Err(InferError::new(format!("{shape} is not of rank 4")));
    };
    let side = |d: &Dim, f: &dyn Fn(i64, i64) -> Option<i64>| match d.fixed() {
        None => Ok(Dim::Unknown),
        Some(n) => f(n, size).map(Dim::Fixed).ok_or_else(|| {
            InferError::new(format!("{n} does not go into blocks of {size}: {shape}"))
        }),
    };
    output(
        cx.dtype(0),
        Some(
            [n.clone(), side(c, &depth)?, side(h, &space)?, side(w, &space)?].into_iter().collect(),
        ),
    )
}

fn eval_depth_to_space(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let b = cx.int("blocksize", 1)?;
    let [n, c, h, w] = four(x)?;
    let area = b.checked_mul(b).filter(|&area| b > 0 && c % area == 0);
    let depth =
        c / area.ok_or_else(|| EvalError::invalid(format!("{:?} in blocks of {b}", x.dims)))?;
    let (h2, w2) = h
        .checked_mul(b)
        .zip(w.checked_mul(b))
        .ok_or_else(|| EvalError::TooLarge(x.dims.clone()))?;
    // [n, block, block, depth, h, w] or [n, depth, block, block, h, w] → [n, depth, h, block, w, block]
    let (split, perm) = match cx.str("mode", "DCR")? {
        "DCR" => ([n, b, b, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, b, b, h, w], [0, 1, 4, 2, 5, 3]),
        _ => return Err(EvalError::Unsupported("this mode")),
    };
    rearranged(cx, x, &split, perm, &[n, depth, h2, w2])
}

fn eval_space_to_depth(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let b = cx.int("blocksize", 1)?;
    let [n, c, h, w] = four(x)?;
    if b <= 0 || h % b != 0 || w % b != 0 {
        return Err(EvalError::invalid(format!("{:?} in blocks of {b}", x.dims)));
    }
    let split = [n, c, h / b, b, w / b, b];
    let depth = c
        .checked_mul(b)
        .and_then(|n| n.checked_mul(b))
        .ok_or_else(|| EvalError::TooLarge(x.dims.clone()))?;
    let perm = match cx.str("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        _ => return Err(EvalError::Unsupported("this mode")),
    };
    rearranged(cx, x, &split, perm, &[n, depth, h / b, w / b])
}

fn four(x: &Tensor) -> Result<[i64; 4], EvalError> {
    <[i64; 4]>::try_from(&x.dims[..])
        .map_err(|_| EvalError::invalid(format!("{:?} is not of rank 4", x.dims)))
}

/// The elements, seen as `split`, with axes in another order, as `dims`.
fn rearranged(
    cx: &EvalCx<'_>,
    x: &Tensor,
    split: &[i64],
    perm: [usize; 6],
    dims: &[i64],
) -> Result<Vec<Tensor>, EvalError> {
    let (size, step) = (sizes(split), strides(&sizes(split)));
    let seen: Axes<usize> = perm.iter().map(|&axis| size[axis]).collect();
    let steps: Axes<isize> = perm.iter().map(|&axis| step[axis]).collect();
    Ok(vec![view(cx, x, dims, &seen, &steps, 0)?])
}

fn eval_reverse_sequence(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let lengths = cx.int_input(1)?;
    let (time, batch) = (cx.int("time_axis", 0)?, cx.int("batch_axis", 1)?);
    if x.is_empty() {
        return Ok(vec![x.reshaped(&x.dims)]);
    }
    let [rows, columns, ..] = sizes(&x.dims)[..] else {
        return Err(EvalError::invalid(format!("{:?} has no two axes", x.dims)));
    };
    let (long, wide) = match (time, batch) {
        (0, 1) => (rows, columns),
        (1, 0) => (columns, rows),
        _ => return Err(EvalError::Unsupported("other axes than the first two")),
    };
    if lengths.len() != wide
        || lengths.iter().any(|n| usize::try_from(*n).is_ok_and(|n| n > long) || *n < 0)
    {
        return Err(EvalError::invalid(format!("lengths {lengths:?} for {:?}", x.dims)));
    }
    cx.size(x.dtype, &x.dims)?;
    let raw = checked_raw(x)?;
    with_unit!(x.dtype, U => {
        let from = units::<U>(&raw);
        let mut out = Vec::with_capacity(from.len());
        let width = from.len().checked_div(rows * columns).unwrap_or(0);
        for row in 0..rows {
            for column in 0..columns {
                let (t, b) = if time == 0 { (row, column) } else { (column, row) };
                let n = lengths[b] as usize;
                let t = if t < n { n - 1 - t } else { t };
                let at = if time == 0 { t * columns + column } else { row * columns + t } * width;
                out.extend_from_slice(&from[at..at + width]);
            }
        }
        Ok(vec![from_units(x.dtype, &x.dims, out)])
    })
}

fn center_crop_pad(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let Some(target) = cx.ints(1).filter(|_| !is_unknown_attr(cx, "axes")) else {
        return output(dtype, Some(Shape::unknown(shape.rank())));
    };
    let axes = match cx.attrs.ints("axes") {
        Some(axes) => normal_axes(axes, shape.rank())?,
        None => (0..shape.rank()).collect(),
    };
    if axes.len() != target.len() {
        return Err(InferError::new(format!(
            "{} lengths for {} axes of {shape}",
            target.len(),
            axes.len()
        )));
    }
    let mut cropped = shape.clone();
    axes.iter().zip(target).for_each(|(&axis, n)| cropped.0[axis] = Dim::Fixed(n));
    output(dtype, Some(cropped))
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, f32s, ints, iota};
    use crate::{DataType, Tensor};

    #[test]
    fn transposes_by_squares() {
        let y = Case::new("Transpose").ints("perm", &[0, 2, 1]).input(iota(&[2, 70, 33])).run();
        let elements = y[0].elements::<f32>().unwrap();
        let right = |i: usize| {
            let (n, x, y) = (i / 2310, i / 70 % 33, i % 70);
            (n * 2310 + y * 33 + x) as f32
        };
        assert!(elements.iter().enumerate().all(|(i, &x)| x == right(i)));
        assert_eq!(Case::new("Transpose").typed(DataType::Float, "A,B,3").infer(), "float[3,B,A]");
        assert!(
            Case::new("Transpose")
                .ints("perm", &[0, 0])
                .typed(DataType::Float, "A,B")
                .infer_err()
                .contains("twice")
        );
    }

    #[test]
    fn large_parts_share_bytes() {
        let x = iota(&[4, 2048]);
        let y = Case::new("Slice").input(x.clone()).input(ints(&[1])).input(ints(&[3])).run();
        let at = |t: &Tensor| t.raw().unwrap().as_ptr() as usize;
        assert_eq!(at(&y[0]), at(&x) + 8192);
    }

    fn slice(x: Tensor, start: i64, end: i64, step: i64) -> Vec<f32> {
        let case = Case::new("Slice").input(x).input(ints(&[start])).input(ints(&[end]));
        let y = case.input(ints(&[-1])).input(ints(&[step])).run();
        y[0].elements::<f32>().unwrap().to_vec()
    }

    #[test]
    fn slices_clamp_as_the_specification_says() {
        let x = || iota(&[5]);
        assert_eq!(slice(x(), 1, i64::MAX, 2), [1.0, 3.0]);
        assert_eq!(slice(x(), -1, i64::MIN, -2), [4.0, 2.0, 0.0]);
        assert_eq!(slice(x(), i64::MAX, i64::MIN, -1), [4.0, 3.0, 2.0, 1.0, 0.0]);
        assert_eq!(slice(x(), 3, 0, -1), [3.0, 2.0, 1.0]);
        assert_eq!(slice(x(), -9, 2, 1), [0.0, 1.0]);
        assert_eq!(slice(x(), -9, -9, -1), [0.0]);
        assert_eq!(slice(x(), 0, 5, i64::MAX), [0.0]);
        assert_eq!(slice(x(), 4, 0, i64::MIN), [4.0]);
        assert!(slice(x(), 2, 2, 1).is_empty());
        assert!(slice(iota(&[0]), 0, 5, 1).is_empty());
        assert!(slice(iota(&[0]), -1, -9, -1).is_empty());
    }

    #[test]
    fn slices_of_a_name_are_expressions() {
        const END: i64 = i64::MAX;
        let slice = |start: i64, end: i64, step: i64| {
            Case::new("Slice")
                .typed(DataType::Float, "S")
                .input(ints(&[start]))
                .input(ints(&[end]))
                .input(ints(&[0]))
                .input(ints(&[step]))
                .infer()
        };
        for (bounds, becomes) in [
            ((1, END, 1), "max(0, S - 1)"),
            ((0, -1, 1), "max(0, S - 1)"),
            ((0, 5, 1), "min(5, S)"),
            ((-1, END, 1), "min(1, S)"),
            ((-3, -1, 1), "max(0, min(S - 1, 2))"),
            ((0, END, 2), "((S + 1)//2)"),
            ((-1, i64::MIN, -1), "S"),
            ((-1, i64::MIN, -2), "((S + 1)//2)"),
            ((3, 0, -1), "?"),
        ] {
            let (start, end, step) = bounds;
            assert_eq!(slice(start, end, step), format!("float[{becomes}]"), "{bounds:?}");
        }
    }

    #[test]
    fn a_whole_slice_keeps_the_symbol() {
        let case = Case::new("Slice")
            .typed(DataType::Float, "N,S")
            .input(ints(&[0, 1]))
            .input(ints(&[i64::MAX, 3]));
        assert_eq!(case.infer(), "float[N,max(0, min(3, S) - 1)]");
        let old = Case::new("Slice")
            .opset(9)
            .ints("starts", &[1])
            .ints("ends", &[-1])
            .typed(DataType::Float, "5,S");
        assert_eq!(old.infer(), "float[3,S]");
    }

    #[test]
    fn pads() {
        let pad = |mode: &str, pads: &[i64]| {
            Case::new("Pad")
                .attr("mode", mode)
                .input(f32s(&[3], &[1.0, 2.0, 3.0]))
                .input(ints(pads))
                .run()
                .remove(0)
        };
        assert_eq!(pad("constant", &[1, -1]), f32s(&[3], &[0.0, 1.0, 2.0]));
        assert_eq!(pad("reflect", &[2, 1]), f32s(&[6], &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]));
        assert_eq!(pad("edge", &[1, 1]), f32s(&[5], &[1.0, 1.0, 2.0, 3.0, 3.0]));
        assert_eq!(pad("wrap", &[1, 1]), f32s(&[5], &[3.0, 1.0, 2.0, 3.0, 1.0]));
        let wrong = Case::new("Pad").typed(DataType::Float, "1,2,3").input(ints(&[0, 1, 0, 1]));
        assert_eq!(wrong.infer_err(), "pads [0, 1, 0, 1] are not 2 × 3, as [1,2,3] needs them");
    }

    #[test]
    fn joins() {
        let join = |a, b| {
            Case::new("Concat")
                .attr("axis", -1_i64)
                .typed(DataType::Float, a)
                .typed(DataType::Float, b)
        };
        assert_eq!(join("N,2", "N,3").infer(), "float[N,5]");
        assert_eq!(join("4,S", "N,3").infer(), "float[4,S + 3]");
        assert_eq!(
            join("4,2", "5,2").infer_err(),
            "[4,2] and [5,2] differ on axis 0, and are joined on axis 1"
        );
        let y =
            Case::new("Concat").attr("axis", 1_i64).input(iota(&[2, 1])).input(iota(&[2, 2])).run();
        assert_eq!(y[0], f32s(&[2, 3], &[0.0, 0.0, 1.0, 1.0, 2.0, 3.0]));
    }

    #[test]
    fn splits() {
        let y = Case::new("Split").outputs(3).attr("num_outputs", 3_i64).input(iota(&[7])).run();
        assert_eq!(y.iter().map(|t| t.dims[0]).collect::<Vec<_>>(), [3, 3, 1]);
        let old = Case::new("Split")
            .opset(11)
            .outputs(2)
            .ints("split", &[1, 2])
            .attr("axis", 1_i64)
            .input(iota(&[2, 3]));
        assert_eq!(old.run()[1], f32s(&[2, 2], &[1.0, 2.0, 4.0, 5.0]));
        let uneven = Case::new("Split").opset(13).outputs(2).input(iota(&[3]));
        assert_eq!(
            uneven.infer_err(),
            "an axis of 3 is not divisible into 2 equal parts: [3] on axis 0"
        );
        let sum = Case::new("Split").outputs(2).typed(DataType::Float, "5").input(ints(&[2, 2]));
        assert_eq!(sum.infer_err(), "an axis of 5 is not the sum of [2,2]: [5] on axis 0");
    }

    #[test]
    fn repeats() {
        let y = Case::new("Tile").input(f32s(&[1, 2], &[1.0, 2.0])).input(ints(&[2, 2])).run();
        assert_eq!(y[0], f32s(&[2, 4], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]));
        let y = Case::new("Expand").input(f32s(&[2, 1], &[1.0, 2.0])).input(ints(&[3])).run();
        assert_eq!(y[0], f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]));
    }

    #[test]
    fn triangles() {
        let lower = Case::new("Trilu").attr("upper", 0_i64).input(f32s(&[2, 2], &[1.0; 4])).run();
        assert_eq!(lower[0], f32s(&[2, 2], &[1.0, 0.0, 1.0, 1.0]));
        let upper = Case::new("Trilu")
            .input(f32s(&[2, 2], &[1.0; 4]))
            .input(ints(&[1]).reshaped(&[]))
            .run();
        assert_eq!(upper[0], f32s(&[2, 2], &[0.0, 1.0, 0.0, 0.0]));
    }
}
