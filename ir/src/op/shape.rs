//! Shapes as values, and other shapes for the same elements. Evaluation shares the elements' bytes.

use smallvec::SmallVec;

use super::infer::{
    Inferred, dim, fixed_len, int_attr, is_unknown_attr, normal_axes, one as output, same, several,
    tensor,
};
use super::schema::{
    attr::{float, int, ints},
    one, opt,
    sets::{BOOL, FLOATS_AND_FLOAT8, INT64, STORED},
    types,
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, NodeCx, Operator};
use crate::{DataType, Dim, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Identity", &[1, 13, 14, 16, 19, 21, 23, 24, 25], same)
        .params(&[one("input", "V", STORED)], &[one("output", "V", STORED)])
        .class(Class::MOVEMENT)
        .eval(identity),
    Operator::new("Dropout", &[1, 6, 7, 10, 12, 13, 22], dropout)
        .params(
            &[
                one("data", "T", FLOATS_AND_FLOAT8),
                opt("ratio", "", FLOATS_AND_FLOAT8).since(12),
                opt("training_mode", "T2", BOOL).since(12),
            ],
            // Until opset 10 the mask was of the data's type.
            &[
                one("output", "T", FLOATS_AND_FLOAT8),
                opt("mask", "", types!(Bool Float16 Float Double)),
            ],
        )
        .attrs(&[
            int("seed").since(12),
            ints("consumed_inputs").until(6),
            int("is_test").until(7),
            float("ratio").until(12),
        ])
        .class(Class::IMPURE)
        .eval(eval_dropout),
    Operator::new("Shape", &[1, 13, 15, 19, 21, 23, 24, 25], shape_of)
        .params(&[one("data", "", STORED)], &[one("shape", "", INT64)])
        .attrs(&[int("end").since(15), int("start").since(15)])
        .eval(eval_shape_of),
    Operator::new("Size", &[1, 13, 19, 21, 23, 24, 25], size_of)
        .params(&[one("data", "", STORED)], &[one("size", "", INT64)])
        .eval(eval_size_of),
    Operator::new("Reshape", &[1, 5, 13, 14, 19, 21, 23, 24, 25], reshape)
        .params(
            &[one("data", "T", STORED), one("shape", "", INT64).since(5)],
            &[one("reshaped", "T", STORED)],
        )
        .attrs(&[
            int("allowzero").since(14),
            ints("consumed_inputs").until(5),
            ints("shape").until(5),
        ])
        .class(Class::MOVEMENT)
        .eval(eval_reshape),
    Operator::new("Flatten", &[1, 9, 11, 13, 21, 23, 24, 25], flatten)
        .params(&[one("input", "T", STORED)], &[one("output", "T", STORED)])
        .attrs(&[int("axis")])
        .class(Class::MOVEMENT)
        .eval(eval_flatten),
    Operator::new("Squeeze", &[1, 11, 13, 21, 23, 24, 25], squeeze)
        .params(
            &[one("data", "T", STORED), opt("axes", "", INT64).since(13)],
            &[one("squeezed", "T", STORED)],
        )
        .attrs(&[ints("axes").until(13)])
        .class(Class::MOVEMENT)
        .eval(eval_squeeze),
    Operator::new("Unsqueeze", &[1, 11, 13, 21, 23, 24, 25], unsqueeze)
        .params(
            &[one("data", "T", STORED), one("axes", "", INT64).since(13)],
            &[one("expanded", "T", STORED)],
        )
        .attrs(&[ints("axes").required().until(13)])
        .class(Class::MOVEMENT)
        .eval(eval_unsqueeze),
];

fn identity(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    Ok(vec![x.reshaped(&x.dims)])
}

fn dropout(cx: &InferCx<'_>) -> Inferred {
    // The mask was of the data's type until opset 10.
    let mask = if cx.version < 10 { cx.dtype(0) } else { Some(DataType::Bool) };
    several(cx, [cx.input(0).ty.cloned(), tensor(mask, cx.shape(0).cloned())])
}

fn eval_dropout(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let training = match cx.get(2) {
        Some(mode) => !matches!(mode.elements::<bool>()?.as_ref(), [false]),
        None => cx.version < 7 && cx.int("is_test", 0)? == 0,
    };
    if training {
        return Err(EvalError::Unsupported("training"));
    }
    let x = cx.input(0)?;
    let mut outputs = vec![x.reshaped(&x.dims)];
    if cx.outputs > 1 {
        if cx.version < 12 {
            return Err(EvalError::Unsupported("a mask before opset 12"));
        }
        outputs.push(Tensor::new(&x.dims, vec![true; cx.size(DataType::Bool, &x.dims)?]));
    }
    Ok(outputs)
}

/// The part of the axes that Shape gives; everything until opset 15.
pub(crate) fn shape_range(cx: &NodeCx<'_>, rank: usize) -> std::ops::Range<usize> {
    let bound = |name, default: i64| {
        let n = cx.attrs.int(name).filter(|_| cx.version >= 15).unwrap_or(default);
        let n = if n < 0 { n.saturating_add(rank as i64) } else { n };
        usize::try_from(n).unwrap_or(0).min(rank)
    };
    let (start, end) = (bound("start", 0), bound("end", rank as i64));
    start..end.max(start)
}

fn shape_of(cx: &InferCx<'_>) -> Inferred {
    let unknown = is_unknown_attr(cx, "start") || is_unknown_attr(cx, "end");
    let len = cx.shape(0).filter(|_| !unknown).map(|s| shape_range(cx, s.rank()).len() as i64);
    output(Some(DataType::Int64), Some([dim(len)].into_iter().collect()))
}

fn eval_shape_of(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    for name in ["start", "end"] {
        cx.int(name, 0)?;
    }
    let dims = &cx.input(0)?.dims;
    Ok(vec![Tensor::ints(&dims[shape_range(cx, dims.len())])])
}

#[expect(clippy::unnecessary_wraps, reason = "an `InferFn`")]
fn size_of(_: &InferCx<'_>) -> Inferred {
    Ok(smallvec::smallvec![Some(crate::Type::tensor(DataType::Int64, &[]))])
}

fn eval_size_of(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let n = cx.input(0)?.len()?;
    Ok(vec![Tensor::scalar(
        i64::try_from(n).map_err(|_| EvalError::Unsupported("more elements than int64 counts"))?,
    )])
}

/// Product of dimensions.
pub(crate) fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    dims.into_iter().fold(Dim::Fixed(1), |product, d| product.times(d))
}

fn reshape(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let target = if cx.version < 5 {
        cx.attrs.ints("shape").map(|shape| shape.iter().copied().map(Dim::Fixed).collect())
    } else {
        cx.dims(1)
    };
    let Some(target) = target else {
        let rank = if cx.version < 5 { None } else { fixed_len(cx.input(1)) };
        return output(dtype, rank.map(Shape::unknown));
    };
    let Some(allow_zero) = allow_zero(cx) else {
        return output(dtype, Some(Shape::unknown(target.len())));
    };
    output(dtype, Some(reshaped(cx.shape(0), &target, allow_zero)?))
}

fn allow_zero(cx: &NodeCx<'_>) -> Option<bool> {
    if cx.version < 14 { Some(false) } else { int_attr(cx, "allowzero", 0).map(|i| i != 0) }
}

/// The shape that `target` asks for, `0` and `-1` resolved as far as they can be.
fn reshaped(from: Option<&Shape>, target: &[Dim], allow_zero: bool) -> Result<Shape, InferError> {
    let text = |why: &str| {
        let from = from.map_or_else(|| "?".to_owned(), ToString::to_string);
        let target: Shape = target.iter().cloned().collect();
        InferError::new(format!("{from} cannot become {target}: {why}"))
    };
    if let Some(bad) = target.iter().filter_map(Dim::fixed).find(|&n| n < -1) {
        return Err(text(&format!("{bad} is no dimension")));
    }
    let free = target.iter().filter(|&d| *d == Dim::Fixed(-1)).count();
    if free > 1 {
        return Err(text("more than one dimension is -1"));
    }
    if free == 1 && allow_zero && target.contains(&Dim::Fixed(0)) {
        return Err(text("-1 is ambiguous beside 0"));
    }

    let one = Dim::Fixed(1);
    // What is left of the input once the dimensions that are copied are taken out of both sides.
    let mut left: SmallVec<[&Dim; 6]> = from.map(|s| s.0.iter().collect()).unwrap_or_default();
    let mut shape = Shape::default();
    let mut asked = Dim::Fixed(1);
    // Whether a dimension that is copied may be 0: then there are no elements, and the others agree with anything.
    let mut may_be_empty = false;
    // Where a dimension is not asked for by number or name: what -1 stands for, and what is computed otherwise.
    let mut open: SmallVec<[usize; 4]> = SmallVec::new();
    for (axis, wanted) in target.iter().enumerate() {
        shape.0.push(match (wanted, from) {
            (Dim::Fixed(0), Some(from)) if !allow_zero => {
                let d =
                    from.0.get(axis).ok_or_else(|| text("0 copies an axis that is not there"))?;
                left[axis] = &one;
                // A name stands for the size of something, but what is computed with it may leave nothing.
                may_be_empty |= d.is_open() || matches!(d, Dim::Expr(_));
                d.clone()
            }
            (Dim::Fixed(0), None) if !allow_zero => Dim::Unknown,
            (Dim::Fixed(-1), _) => {
                open.push(axis);
                Dim::Unknown
            }
            (d, _) if d.is_natural() => {
                asked = asked.times(d);
                d.clone()
            }
            _ => {
                open.push(axis);
                Dim::Unknown
            }
        });
    }
    let (Some(from), false) = (from, asked == Dim::Unknown) else { return Ok(shape) };
    // Beside a zero nothing can be said about the others.
    if asked == Dim::Fixed(0) || from.is_empty() {
        return beside_zero(from, shape, free == 1, &open, text);
    }
    let numbers = left.iter().try_fold(1i64, |n, d| n.checked_mul(d.fixed().unwrap_or(1)));
    let Some(numbers) = numbers else { return Ok(shape) };
    let given = product(left.iter().copied());
    match (open.as_slice(), given.fixed(), asked.fixed()) {
        ([], ..) if may_be_empty => Ok(shape),
        ([], Some(given), Some(asked)) if given != asked => {
            Err(text(&format!("{given} and {asked} elements")))
        }
        ([], None, Some(asked)) if asked % numbers != 0 => {
            Err(text(&format!("{asked} elements are no multiple of {numbers}")))
        }
        ([_], Some(given), Some(asked)) if given % asked != 0 => {
            Err(text(&format!("{given} elements are no multiple of {asked}")))
        }
        (&[axis], ..) => {
            // A valid run leaves no remainder.
            shape.0[axis] = given.exactly_over(&asked).unwrap_or_else(|| given.over(&asked));
            Ok(shape)
        }
        _ => Ok(shape),
    }
}

/// The shape where the input or what is asked for has no elements; `free` says that one dimension is -1.
fn beside_zero(
    from: &Shape,
    mut shape: Shape,
    free: bool,
    open: &[usize],
    text: impl Fn(&str) -> InferError,
) -> Result<Shape, InferError> {
    match (from.len(), shape.len(), open) {
        (Some(from), Some(to), _) if from != to => Err(text(&format!("{from} and {to} elements"))),
        (Some(0), None, &[axis]) if free => {
            let others = shape.0.iter().enumerate().filter(|&(i, _)| i != axis);
            if others.map(|(_, d)| d.fixed()).all(|n| n.is_some_and(|n| n != 0)) {
                shape.0[axis] = Dim::Fixed(0);
            }
            Ok(shape)
        }
        _ => Ok(shape),
    }
}

fn eval_reshape(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let target = if cx.version < 5 {
        cx.ints("shape")?.ok_or_else(|| EvalError::invalid("the shape is missing"))?.to_vec()
    } else {
        cx.int_input(1)?
    };
    let allow_zero = cx.version >= 14 && cx.int("allowzero", 0)? != 0;
    let shape = reshaped(Some(&Shape::fixed(&x.dims)), &Shape::fixed(&target).0, allow_zero)?;
    with_shape(x, &shape)
}

/// The same elements in this shape, which must have as many.
fn with_shape(x: &Tensor, shape: &Shape) -> Result<Vec<Tensor>, EvalError> {
    let dims = shape.dims().ok_or(EvalError::Unsupported("a shape that is open beside a zero"))?;
    let y = x.reshaped(&dims);
    if y.len()? != x.len()? {
        return Err(EvalError::invalid(format!("{:?} cannot become {:?}", x.dims, y.dims)));
    }
    Ok(vec![y])
}

fn flatten(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let (Some(shape), Some(axis)) = (cx.shape(0), int_attr(cx, "axis", 1)) else {
        return output(dtype, Some(Shape::unknown(2)));
    };
    output(dtype, Some(flattened(shape, axis)?))
}

fn flattened(shape: &Shape, axis: i64) -> Result<Shape, InferError> {
    let rank = shape.rank() as i64;
    if !(-rank..=rank).contains(&axis) {
        return Err(InferError::new(format!("axis {axis} is outside of {shape}")));
    }
    let axis = if axis < 0 { axis + rank } else { axis };
    let (front, back) = shape.0.split_at(axis as usize);
    Ok([product(front), product(back)].into_iter().collect())
}

fn eval_flatten(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    with_shape(x, &flattened(&Shape::fixed(&x.dims), cx.int("axis", 1)?)?)
}

/// First opset where the axes of Squeeze and Unsqueeze are an input.
const AXES_INPUT: i64 = 13;

/// What a node says of its axes.
enum AxesOf {
    Absent,
    Known(Vec<i64>),
    /// Not known, at most how many.
    Unknown(Option<usize>),
}

fn axes_of(cx: &InferCx<'_>) -> AxesOf {
    if cx.version < AXES_INPUT {
        return match cx.attrs.ints("axes") {
            Some(axes) => AxesOf::Known(axes.to_vec()),
            None if is_unknown_attr(cx, "axes") => AxesOf::Unknown(None),
            None => AxesOf::Absent,
        };
    }
    if !cx.has(1) {
        return AxesOf::Absent;
    }
    cx.ints(1).map_or_else(|| AxesOf::Unknown(fixed_len(cx.input(1))), AxesOf::Known)
}

fn eval_axes(cx: &EvalCx<'_>) -> Result<Option<Vec<i64>>, EvalError> {
    if cx.version < AXES_INPUT {
        Ok(cx.ints("axes")?.map(<[i64]>::to_vec))
    } else {
        cx.opt_int_input(1)
    }
}

fn squeeze(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let squeezed = match axes_of(cx) {
        AxesOf::Known(axes) => Some(squeezed(shape, Some(&axes))?),
        AxesOf::Absent if shape.dims().is_some() => Some(squeezed(shape, None)?),
        AxesOf::Unknown(Some(n)) if n <= shape.rank() => Some(Shape::unknown(shape.rank() - n)),
        _ => None,
    };
    output(dtype, squeezed)
}

fn squeezed(shape: &Shape, axes: Option<&[i64]>) -> Result<Shape, InferError> {
    let Some(axes) = axes else {
        return Ok(shape.0.iter().filter(|&d| *d != Dim::Fixed(1)).cloned().collect());
    };
    let axes = normal_axes(axes, shape.rank())?;
    for &axis in &axes {
        if shape.0[axis].fixed().is_some_and(|n| n != 1) {
            return Err(InferError::new(format!("axis {axis} of {shape} is not 1")));
        }
    }
    Ok(shape
        .0
        .iter()
        .enumerate()
        .filter(|(i, _)| !axes.contains(i))
        .map(|(_, d)| d.clone())
        .collect())
}

fn eval_squeeze(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    with_shape(x, &squeezed(&Shape::fixed(&x.dims), eval_axes(cx)?.as_deref())?)
}

fn unsqueeze(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let unsqueezed = match axes_of(cx) {
        AxesOf::Known(axes) => Some(unsqueezed(shape, &axes)?),
        AxesOf::Unknown(Some(n)) => Some(Shape::unknown(shape.rank() + n)),
        _ => None,
    };
    output(dtype, unsqueezed)
}

fn unsqueezed(shape: &Shape, axes: &[i64]) -> Result<Shape, InferError> {
    let axes = normal_axes(axes, shape.rank() + axes.len())?;
    let mut old = shape.0.iter();
    let dims = (0..shape.rank() + axes.len())
        .map(|i| if axes.contains(&i) { Some(Dim::Fixed(1)) } else { old.next().cloned() });
    Ok(dims.flatten().collect())
}

fn eval_unsqueeze(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axes = eval_axes(cx)?.ok_or(EvalError::MissingInput(1))?;
    with_shape(x, &unsqueezed(&Shape::fixed(&x.dims), &axes)?)
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::{Case, ints, iota};

    fn reshape(from: &str, to: &[i64]) -> Case {
        Case::new("Reshape").typed(DataType::Float, from).input(ints(to))
    }

    #[test]
    fn symbols_cancel() {
        assert_eq!(reshape("N,S,768", &[0, 0, 12, 64]).infer(), "float[N,S,12,64]");
        assert_eq!(reshape("N,S,768", &[0, -1, 12, 64]).infer(), "float[N,S,12,64]");
        assert_eq!(reshape("N,S,768", &[-1, 768]).infer(), "float[N*S,768]");
        assert_eq!(reshape("?,S,12,64", &[0, 0, -1]).infer(), "float[?,S,768]");
        assert_eq!(reshape("2,?,6", &[0, -1, 3]).infer(), "float[2,?,3]");
    }

    #[test]
    fn element_counts_must_agree() {
        assert_eq!(
            reshape("2,3", &[4, 2]).infer_err(),
            "[2,3] cannot become [4,2]: 6 and 8 elements"
        );
        assert_eq!(
            reshape("2,3", &[4, -1]).infer_err(),
            "[2,3] cannot become [4,-1]: 6 elements are no multiple of 4"
        );
        assert_eq!(
            reshape("N,3", &[4, 2]).infer_err(),
            "[N,3] cannot become [4,2]: 8 elements are no multiple of 3"
        );
        assert_eq!(
            reshape("2,3", &[6, 1, 0]).infer_err(),
            "[2,3] cannot become [6,1,0]: 0 copies an axis that is not there"
        );
    }

    /// The end of a Slice may be known at run time only, and leave nothing.
    #[test]
    fn a_copied_dimension_may_be_zero() {
        assert_eq!(reshape("?,6", &[0]).infer(), "float[?]");
        assert!(reshape("N,6", &[0]).infer_err().contains("6 and 1 elements"));
    }

    #[test]
    fn zeros() {
        assert_eq!(reshape("0,3", &[3, -1]).infer(), "float[3,0]");
        let allow = |to: &[i64]| reshape("0,3", to).attr("allowzero", 1_i64);
        assert_eq!(allow(&[3, 0]).infer(), "float[3,0]");
        assert!(allow(&[0, -1]).infer_err().contains("ambiguous"));
    }

    #[test]
    fn shape_takes_a_part() {
        let y = Case::new("Shape")
            .attr("start", -2_i64)
            .attr("end", 9_i64)
            .input(iota(&[2, 3, 4]))
            .run();
        assert_eq!(y[0], ints(&[3, 4]));
    }

    #[test]
    fn axes_were_attributes() {
        let x = iota(&[1, 3, 1]);
        assert_eq!(
            Case::new("Squeeze").opset(12).ints("axes", &[-1]).input(x.clone()).run()[0].dims,
            [1, 3]
        );
        assert_eq!(Case::new("Squeeze").input(x.clone()).run()[0].dims, [3]);
        assert_eq!(
            Case::new("Unsqueeze").input(x).input(ints(&[0, -1])).run()[0].dims,
            [1, 1, 3, 1, 1]
        );
    }

    #[test]
    fn only_ones_are_squeezed() {
        let squeeze = Case::new("Squeeze").typed(DataType::Float, "N,3").input(ints(&[1]));
        assert_eq!(squeeze.infer_err(), "axis 1 of [N,3] is not 1");
        assert_eq!(
            Case::new("Squeeze").typed(DataType::Float, "N,1").input(ints(&[0])).infer(),
            "float[1]"
        );
        assert_eq!(Case::new("Squeeze").typed(DataType::Float, "N,1").infer(), "float[]");
    }

    #[test]
    fn flatten_keeps_a_lone_symbol() {
        assert_eq!(Case::new("Flatten").typed(DataType::Float, "N,2,3").infer(), "float[N,6]");
        assert_eq!(
            Case::new("Flatten").attr("axis", 0_i64).typed(DataType::Float, "N,2").infer(),
            "float[1,2*N]"
        );
    }
}
