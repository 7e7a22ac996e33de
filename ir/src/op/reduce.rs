//! Many elements to one, along axes: sums, extremes, where they are; running sums; the places of what is not zero.
//!
//! Sums and products of floats are held in float64 and rounded once; those of integers wrap around.

use smallvec::SmallVec;

use super::infer::{
    Inferred, dim, fixed_len, int_attr, is_unknown_attr, normal_axes, one as output, several,
    tensor,
};
use super::kernel::{Axes, Number, Walk, area, empty, sizes, strides, with_type};
use super::schema::{
    attr::{int, ints},
    one, opt,
    sets::{ANY, FLOATS, INDEX, INT64, NUMBERS, WIDE_NUMBERS},
    types,
};
use super::{EvalCx, EvalError, InferCx, InferError, Operator, normal_axis};
use crate::{DataType, Dim, Element, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("ReduceSum", &[1, 11, 13], reduce_sum)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(13)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(13), ints("axes").until(13)])
        .eval(eval_sum),
    Operator::new("ReduceMean", &[1, 11, 13, 18], reduce)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_mean),
    Operator::new("ReduceMax", &[1, 11, 12, 13, 18, 20], reduce)
        .params(
            &[
                one(
                    "data",
                    "T",
                    types!(Float Uint8 Int8 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16),
                ),
                opt("axes", "", INT64).since(18),
            ],
            &[one(
                "reduced",
                "T",
                types!(Float Uint8 Int8 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16),
            )],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_max),
    Operator::new("ReduceMin", &[1, 11, 12, 13, 18, 20], reduce)
        .params(
            &[
                one(
                    "data",
                    "T",
                    types!(Float Uint8 Int8 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16),
                ),
                opt("axes", "", INT64).since(18),
            ],
            &[one(
                "reduced",
                "T",
                types!(Float Uint8 Int8 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16),
            )],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_min),
    Operator::new("ReduceProd", &[1, 11, 13, 18], reduce)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_prod),
    Operator::new("ReduceL1", &[1, 11, 13, 18], reduce)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_l1),
    Operator::new("ReduceL2", &[1, 11, 13, 18], reduce)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_l2),
    Operator::new("ReduceSumSquare", &[1, 11, 13, 18], reduce)
        .params(
            &[one("data", "T", WIDE_NUMBERS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_sum_square),
    Operator::new("ReduceLogSum", &[1, 11, 13, 18, 28], reduce)
        .params(
            &[one("data", "T", FLOATS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", FLOATS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_log_sum),
    Operator::new("ReduceLogSumExp", &[1, 11, 13, 18, 28], reduce)
        .params(
            &[one("data", "T", FLOATS), opt("axes", "", INT64).since(18)],
            &[one("reduced", "T", FLOATS)],
        )
        .attrs(&[int("keepdims"), int("noop_with_empty_axes").since(18), ints("axes").until(18)])
        .eval(eval_log_sum_exp),
    Operator::new("ArgMax", &[1, 11, 12, 13], arg)
        .params(&[one("data", "", NUMBERS)], &[one("reduced", "", INT64)])
        .attrs(&[int("axis"), int("keepdims"), int("select_last_index").since(12)])
        .eval(eval_arg_max),
    Operator::new("ArgMin", &[1, 11, 12, 13], arg)
        .params(&[one("data", "", NUMBERS)], &[one("reduced", "", INT64)])
        .attrs(&[int("axis"), int("keepdims"), int("select_last_index").since(12)])
        .eval(eval_arg_min),
    Operator::new("TopK", &[1, 10, 11, 24], top_k)
        .params(
            &[one("X", "T", NUMBERS), one("K", "", INT64).since(10)],
            &[one("Values", "T", NUMBERS), one("Indices", "", INT64)],
        )
        .attrs(&[
            int("axis"),
            int("largest").since(11),
            int("sorted").since(11),
            int("k").required().until(10),
        ])
        .eval(eval_top_k),
    Operator::new("CumSum", &[11, 14], cumulate)
        .params(
            &[one("x", "T", WIDE_NUMBERS), one("axis", "", INDEX)],
            &[one("y", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("exclusive"), int("reverse")])
        .eval(eval_cum_sum),
    Operator::new("CumProd", &[26], cumulate)
        .params(
            &[one("x", "T", WIDE_NUMBERS), one("axis", "", INDEX)],
            &[one("y", "T", WIDE_NUMBERS)],
        )
        .attrs(&[int("exclusive"), int("reverse")])
        .eval(eval_cum_prod),
    Operator::new("NonZero", &[9, 13], non_zero)
        .params(&[one("X", "", ANY)], &[one("Y", "", INT64)])
        .eval(eval_non_zero),
    Operator::new("Unique", &[11, 28], unique)
        .params(
            &[one("X", "T", ANY)],
            &[
                one("Y", "T", ANY),
                opt("indices", "", INT64),
                opt("inverse_indices", "", INT64),
                opt("counts", "", INT64),
            ],
        )
        .attrs(&[int("axis"), int("sorted")]),
];

/// First opset where the axes of `ReduceSum` are an input.
const SUM_AXES_INPUT: i64 = 13;
/// The same of the other reductions.
const AXES_INPUT: i64 = 18;

fn reduce_sum(cx: &InferCx<'_>) -> Inferred {
    reduce_since(cx, SUM_AXES_INPUT)
}

fn reduce(cx: &InferCx<'_>) -> Inferred {
    reduce_since(cx, AXES_INPUT)
}

fn reduce_since(cx: &InferCx<'_>, axes_input: i64) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let Some(keep) = int_attr(cx, "keepdims", 1).map(|keep| keep != 0) else {
        return output(dtype, None);
    };
    let (axes, unknown) = if cx.version < axes_input {
        (cx.attrs.ints("axes").map(<[i64]>::to_vec), is_unknown_attr(cx, "axes"))
    } else {
        let axes = cx.ints(1);
        let unknown = cx.has(1) && axes.is_none();
        (axes, unknown)
    };
    if unknown {
        let rank = shape.rank();
        if keep {
            return output(dtype, Some(Shape::unknown(rank)));
        }
        let count = fixed_len(cx.input(1)).filter(|&n| n > 0 && n <= rank);
        return output(dtype, count.map(|n| Shape::unknown(rank - n)));
    }
    let axes = axes.unwrap_or_default();
    if axes.is_empty() && cx.version >= axes_input {
        match int_attr(cx, "noop_with_empty_axes", 0) {
            None => return output(dtype, None),
            Some(0) => {}
            Some(_) => return output(dtype, Some(shape.clone())),
        }
    }
    let axes = reduced_axes(&axes, shape.rank())
        .map_err(|err| InferError::new(format!("{}: {shape}", err.0)))?;
    output(dtype, Some(without(shape, &axes, keep)))
}

/// No axes are all axes.
fn reduced_axes(axes: &[i64], rank: usize) -> Result<SmallVec<[usize; 4]>, InferError> {
    if axes.is_empty() { Ok((0..rank).collect()) } else { normal_axes(axes, rank) }
}

fn without(shape: &Shape, axes: &[usize], keep: bool) -> Shape {
    let one = |(i, d): (usize, &Dim)| {
        if !axes.contains(&i) {
            Some(d.clone())
        } else if keep {
            Some(Dim::Fixed(1))
        } else {
            None
        }
    };
    shape.0.iter().enumerate().filter_map(one).collect()
}

/// What an evaluation does with the elements that become one.
trait Fold {
    fn fold<T: Number>(elements: &[T]) -> T;
    /// Whether a reduction over no axis changes nothing.
    const IDENTITY: bool = false;
}

fn total<T: Number>(elements: &[T], f: impl Fn(f64) -> f64) -> f64 {
    // The sum of nothing would be a negative zero.
    if elements.is_empty() { 0.0 } else { elements.iter().map(|x| f(x.to_f64())).sum() }
}

struct Sum;
struct Mean;
struct Prod;
struct L1;
struct L2;
struct SumSquare;
struct LogSum;
struct LogSumExp;
struct Max;
struct Min;

impl Fold for Sum {
    const IDENTITY: bool = true;
    fn fold<T: Number>(elements: &[T]) -> T {
        if T::FLOAT {
            T::from_f64(total(elements, |x| x))
        } else {
            elements.iter().fold(T::ZERO, |s, &x| s.add(x))
        }
    }
}

impl Fold for Mean {
    const IDENTITY: bool = true;
    fn fold<T: Number>(elements: &[T]) -> T {
        // An integer mean truncates.
        T::from_f64(total(elements, |x| x) / elements.len() as f64)
    }
}

impl Fold for Prod {
    const IDENTITY: bool = true;
    fn fold<T: Number>(elements: &[T]) -> T {
        if T::FLOAT {
            T::from_f64(elements.iter().map(|x| x.to_f64()).product())
        } else {
            elements.iter().fold(T::ONE, |p, &x| p.mul(x))
        }
    }
}

impl Fold for L1 {
    fn fold<T: Number>(elements: &[T]) -> T {
        if T::FLOAT {
            T::from_f64(total(elements, f64::abs))
        } else {
            elements.iter().fold(T::ZERO, |s, &x| s.add(x.abs()))
        }
    }
}

impl Fold for L2 {
    fn fold<T: Number>(elements: &[T]) -> T {
        T::from_f64(total(elements, |x| x * x).sqrt())
    }
}

impl Fold for SumSquare {
    fn fold<T: Number>(elements: &[T]) -> T {
        if T::FLOAT {
            T::from_f64(total(elements, |x| x * x))
        } else {
            elements.iter().fold(T::ZERO, |s, &x| s.add(x.mul(x)))
        }
    }
}

impl Fold for LogSum {
    fn fold<T: Number>(elements: &[T]) -> T {
        T::from_f64(total(elements, |x| x).ln())
    }
}

impl Fold for LogSumExp {
    fn fold<T: Number>(elements: &[T]) -> T {
        let top = elements.iter().map(|x| x.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        // Shifted by the largest, no term overflows; an infinite one would make NaN of itself.
        let shift = if top.is_finite() { top } else { 0.0 };
        T::from_f64(total(elements, |x| (x - shift).exp()).ln() + shift)
    }
}

impl Fold for Max {
    const IDENTITY: bool = true;
    fn fold<T: Number>(elements: &[T]) -> T {
        let least = T::from_f64(f64::NEG_INFINITY);
        elements.iter().fold(least, |top, &x| top.larger(x))
    }
}

impl Fold for Min {
    const IDENTITY: bool = true;
    fn fold<T: Number>(elements: &[T]) -> T {
        let most = T::from_f64(f64::INFINITY);
        elements.iter().fold(most, |low, &x| low.smaller(x))
    }
}

/// `f` of every line of elements along `axes`, in the order of the other axes.
fn lines<T: Copy, R>(
    elements: &[T],
    dims: &[i64],
    axes: &[usize],
    size: usize,
    f: impl Fn(&[T]) -> R,
) -> Vec<R> {
    if size == 0 {
        return Vec::new();
    }
    let (dims, steps) = (sizes(dims), strides(&sizes(dims)));
    let pick = |inside: bool| -> (Axes<usize>, Axes<isize>) {
        (0..dims.len()).filter(|i| axes.contains(i) == inside).map(|i| (dims[i], steps[i])).unzip()
    };
    let ((inner_dims, inner_steps), (outer_dims, outer_steps)) = (pick(true), pick(false));
    let inner = Walk::new(&inner_dims, [&inner_steps], [0]);
    let outer = Walk::new(&outer_dims, [&outer_steps], [0]);
    let count = area(&inner_dims);
    let mut out = Vec::with_capacity(size);
    let mut line = Vec::new();
    outer.rows(|[row]| {
        for k in 0..outer.len {
            let at = row as usize + k * outer.step[0] as usize;
            if count == inner.len && (inner.step == [1] || count == 1) {
                out.push(f(&elements[at..at + count]));
            } else {
                line.clear();
                inner.rows(|[from]| {
                    let from = at + from as usize;
                    line.extend(
                        (0..inner.len).map(|k| elements[from + k * inner.step[0] as usize]),
                    );
                });
                out.push(f(&line));
            }
        }
    });
    out
}

fn eval_fold<F: Fold>(cx: &EvalCx<'_>, axes_input: i64) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axes = if cx.version < axes_input {
        cx.ints("axes")?.map(<[i64]>::to_vec)
    } else {
        cx.opt_int_input(1)?
    };
    let axes = axes.unwrap_or_default();
    if axes.is_empty() && cx.version >= axes_input && cx.int("noop_with_empty_axes", 0)? != 0 {
        if !F::IDENTITY {
            return Err(EvalError::Unsupported("no axes"));
        }
        return Ok(vec![x.reshaped(&x.dims)]);
    }
    let axes = reduced_axes(&axes, x.dims.len())?;
    let keep = cx.int("keepdims", 1)? != 0;
    let shape = without(&Shape::fixed(&x.dims), &axes, keep);
    let dims: Vec<i64> = shape.0.iter().filter_map(Dim::fixed).collect();
    if x.dtype == DataType::Bool {
        // Only the extremes take bools: they are the extremes of 0 and 1.
        let bytes: Vec<u8> = x.elements::<bool>()?.iter().map(|&b| u8::from(b)).collect();
        let size = cx.size(DataType::Bool, &dims)?;
        let out = lines(&bytes, &x.dims, &axes, size, |line| F::fold(line) != 0);
        return Ok(vec![Tensor::new(&dims, out)]);
    }
    with_type!(numbers, x.dtype, T => {
        let elements = x.elements::<T>()?;
        let size = cx.size(x.dtype, &dims)?;
        Ok(vec![Tensor::new(&dims, lines(&elements, &x.dims, &axes, size, |line: &[T]| F::fold(line)))])
    })
}

macro_rules! folds {
    ($($name:ident = $fold:ty, $axes:expr;)*) => {$(
        fn $name(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
            eval_fold::<$fold>(cx, $axes)
        }
    )*};
}

folds! {
    eval_sum = Sum, SUM_AXES_INPUT;
    eval_max = Max, AXES_INPUT;
    eval_min = Min, AXES_INPUT;
    eval_prod = Prod, AXES_INPUT;
    eval_l1 = L1, AXES_INPUT;
    eval_l2 = L2, AXES_INPUT;
    eval_sum_square = SumSquare, AXES_INPUT;
    eval_log_sum = LogSum, AXES_INPUT;
    eval_log_sum_exp = LogSumExp, AXES_INPUT;
}

fn eval_mean(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    /// Up to here float64 holds every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;

    let x = cx.input(0)?;
    if matches!(x.dtype, DataType::Int64 | DataType::Uint64) {
        let sum = x.to_ints().map(|all| all.iter().map(|i| i.unsigned_abs() as f64).sum::<f64>());
        if sum.is_none_or(|sum| sum > EXACT) {
            return Err(EvalError::Unsupported("a mean of huge integers"));
        }
    }
    eval_fold::<Mean>(cx, AXES_INPUT)
}

fn arg(cx: &InferCx<'_>) -> Inferred {
    let int64 = Some(DataType::Int64);
    let keep = int_attr(cx, "keepdims", 1).map(|keep| keep != 0);
    let (Some(shape), Some(axis), Some(keep)) = (cx.shape(0), int_attr(cx, "axis", 0), keep) else {
        return output(int64, None);
    };
    let axis = normal_axis(axis, shape.rank())?;
    output(int64, Some(without(shape, &[axis], keep)))
}

fn eval_arg(cx: &EvalCx<'_>, better: std::cmp::Ordering) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let axis = normal_axis(cx.int("axis", 0)?, x.dims.len())?;
    let keep = cx.int("keepdims", 1)? != 0;
    let last = cx.version >= 12 && cx.int("select_last_index", 0)? != 0;
    if x.dims[axis] == 0 {
        return Err(EvalError::invalid(format!("axis {axis} of {:?} has no extreme", x.dims)));
    }
    let shape = without(&Shape::fixed(&x.dims), &[axis], keep);
    let dims: Vec<i64> = shape.0.iter().filter_map(Dim::fixed).collect();
    let size = cx.size(DataType::Int64, &dims)?;
    with_type!(numbers, x.dtype, T => {
        let elements = x.elements::<T>()?;
        no_nan(&elements)?;
        let best = |line: &[T]| {
            let mut best = 0;
            for (i, x) in line.iter().enumerate() {
                let order = x.partial_cmp(&line[best]);
                if order == Some(better) || (last && order == Some(std::cmp::Ordering::Equal)) {
                    best = i;
                }
            }
            best as i64
        };
        Ok(vec![Tensor::new(&dims, lines(&elements, &x.dims, &[axis], size, best))])
    })
}

/// How NaN compares is not defined.
fn no_nan<T: Number>(elements: &[T]) -> Result<(), EvalError> {
    if elements.iter().any(|x| x.is_nan()) {
        Err(EvalError::Unsupported("an order of NaN"))
    } else {
        Ok(())
    }
}

fn eval_arg_max(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    eval_arg(cx, std::cmp::Ordering::Greater)
}

fn eval_arg_min(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    eval_arg(cx, std::cmp::Ordering::Less)
}

fn top_k(cx: &InferCx<'_>) -> Inferred {
    let wanted = if cx.version < 10 { dim(cx.attrs.int("k")) } else { cx.dim(1) };
    let shape = match (cx.shape(0), int_attr(cx, "axis", -1)) {
        (Some(shape), Some(axis)) => {
            let mut top = shape.clone();
            let axis = normal_axis(axis, shape.rank())?;
            if let Some(k) = wanted.fixed()
                && (k < 0 || shape.0[axis].fixed().is_some_and(|n| k > n))
            {
                return Err(InferError::new(format!("{k} of axis {axis}: {shape}")));
            }
            top.0[axis] = wanted;
            Some(top)
        }
        (Some(shape), None) => Some(Shape::unknown(shape.rank())),
        _ => None,
    };
    several(cx, [tensor(cx.dtype(0), shape.clone()), tensor(Some(DataType::Int64), shape)])
}

fn eval_top_k(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let k = if cx.version < 10 {
        cx.int("k", -1)?
    } else {
        match cx.int_input(1)?[..] {
            [k] => k,
            _ => return Err(EvalError::invalid("k is not one integer")),
        }
    };
    let axis = normal_axis(cx.int("axis", -1)?, x.dims.len())?;
    let largest = cx.version < 11 || cx.int("largest", 1)? != 0;
    if !(0..=x.dims[axis]).contains(&k) {
        return Err(EvalError::invalid(format!("{k} of axis {axis}: {:?}", x.dims)));
    }
    let mut dims = x.dims.clone();
    dims[axis] = k;
    let size = cx.size(DataType::Int64, &dims)?;
    if size == 0 {
        x.check()?;
        let outputs = [empty(x.dtype, &dims), empty(DataType::Int64, &dims)];
        return Ok(outputs.into_iter().take(cx.outputs.max(1)).collect());
    }
    let (keep, k) = (dims.clone(), k as usize);
    with_type!(numbers, x.dtype, T => {
        let elements = x.elements::<T>()?;
        no_nan(&elements)?;
        let best = |line: &[T]| {
            let mut order: Vec<usize> = (0..line.len()).collect();
            // Stable: of equal elements the first comes first.
            order.sort_by(|&a, &b| {
                let order = line[a].partial_cmp(&line[b]).unwrap_or(std::cmp::Ordering::Equal);
                if largest { order.reverse() } else { order }
            });
            order.truncate(k);
            order.into_iter().map(|i| (line[i], i as i64)).collect::<Vec<(T, i64)>>()
        };
        let tops = lines(&elements, &x.dims, &[axis], size, best);
        // Lines lie along the axis: element `j` of line `i` has its place among the lines' `j`s.
        let inner = area(&sizes(&keep[axis + 1..]));
        let (mut values, mut indices) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for block in tops.chunks(inner.max(1)) {
            for j in 0..k {
                values.extend(block.iter().map(|line| line[j].0));
                indices.extend(block.iter().map(|line| line[j].1));
            }
        }
        let mut outputs = vec![Tensor::new(&keep, values)];
        if cx.outputs > 1 {
            outputs.push(Tensor::new(&keep, indices));
        }
        Ok(outputs)
    })
}

fn cumulate(cx: &InferCx<'_>) -> Inferred {
    if let (Some(shape), Some([axis])) = (cx.shape(0), cx.ints(1).as_deref()) {
        normal_axis(*axis, shape.rank())
            .map_err(|err| InferError::new(format!("{}: {shape}", err.0)))?;
    }
    super::infer::same(cx)
}

/// Running results along an axis; floats are held in float64.
fn eval_cumulate(cx: &EvalCx<'_>, product: bool) -> Result<Vec<Tensor>, EvalError> {
    fn run<T: Number, A: Copy>(
        x: &Tensor,
        axis: usize,
        (exclusive, reverse): (bool, bool),
        first: A,
        step: impl Fn(A, T) -> A,
        round: impl Fn(A) -> T,
    ) -> Result<Tensor, EvalError> {
        let elements = x.elements::<T>()?;
        let mut out = vec![T::ZERO; elements.len()];
        let dims = sizes(&x.dims);
        let (len, inner) = (dims[axis], area(&dims[axis + 1..]));
        if !elements.is_empty() {
            for block in (0..elements.len()).step_by(len * inner) {
                for column in 0..inner {
                    let mut sum = first;
                    for i in 0..len {
                        let i = if reverse { len - 1 - i } else { i };
                        let at = block + i * inner + column;
                        if exclusive {
                            out[at] = round(sum);
                        }
                        sum = step(sum, elements[at]);
                        if !exclusive {
                            out[at] = round(sum);
                        }
                    }
                }
            }
        }
        Ok(Tensor::new(&x.dims, out))
    }
    let x = cx.input(0)?;
    let [axis] = cx.int_input(1)?[..] else {
        return Err(EvalError::invalid("the axis is not one integer"));
    };
    let axis = normal_axis(axis, x.dims.len())?;
    let how = (cx.int("exclusive", 0)? != 0, cx.int("reverse", 0)? != 0);
    cx.size(x.dtype, &x.dims)?;
    with_type!(numbers, x.dtype, T => {
        let y = match (T::FLOAT, product) {
            (true, false) => run::<T, f64>(x, axis, how, 0.0, |s, x| s + Number::to_f64(x), <T as Number>::from_f64)?,
            (true, true) => run::<T, f64>(x, axis, how, 1.0, |s, x| s * Number::to_f64(x), <T as Number>::from_f64)?,
            (false, false) => run::<T, T>(x, axis, how, <T as Number>::ZERO, Number::add, |s| s)?,
            (false, true) => run::<T, T>(x, axis, how, <T as Number>::ONE, Number::mul, |s| s)?,
        };
        Ok(vec![y])
    })
}

fn eval_cum_sum(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    eval_cumulate(cx, false)
}

fn eval_cum_prod(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    eval_cumulate(cx, true)
}

fn non_zero(cx: &InferCx<'_>) -> Inferred {
    // Of a scalar the specification and numpy think differently.
    let rank = cx.shape(0).map(|s| s.rank() as i64).filter(|&n| n > 0);
    output(Some(DataType::Int64), Some([dim(rank), Dim::Unknown].into_iter().collect()))
}

fn eval_non_zero(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    fn places<T: Element>(x: &Tensor, zero: &T) -> Result<Vec<usize>, EvalError> {
        Ok(x.elements::<T>()?
            .iter()
            .enumerate()
            .filter(|(_, x)| *x != zero)
            .map(|(i, _)| i)
            .collect())
    }
    let x = cx.input(0)?;
    if x.dims.is_empty() {
        return Err(EvalError::Unsupported("a scalar"));
    }
    let places = if x.dtype == DataType::Bool {
        places::<bool>(x, &false)?
    } else {
        with_type!(numbers, x.dtype, T => places::<T>(x, &<T as Number>::ZERO))?
    };
    let dims = [x.dims.len() as i64, places.len() as i64];
    let mut out = Vec::with_capacity(cx.size(DataType::Int64, &dims)?);
    for (&len, step) in x.dims.iter().zip(strides(&sizes(&x.dims))) {
        out.extend(places.iter().map(|&at| (at as i64 / step as i64) % len));
    }
    Ok(vec![Tensor::new(&dims, out)])
}

fn unique(cx: &InferCx<'_>) -> Inferred {
    let line = || Some([Dim::Unknown].into_iter().collect::<Shape>());
    let shape = match (cx.attrs.int("axis"), cx.shape(0)) {
        _ if is_unknown_attr(cx, "axis") => None,
        (None, _) => line(),
        (Some(_), None) => None,
        (Some(axis), Some(shape)) => {
            let mut shape = shape.clone();
            let axis = normal_axis(axis, shape.rank())?;
            shape.0[axis] = Dim::Unknown;
            Some(shape)
        }
    };
    let places = tensor(Some(DataType::Int64), line());
    several(cx, [tensor(cx.dtype(0), shape), places.clone(), places.clone(), places])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, bools, f32s, ints, iota, scalar};
    use crate::{DataType, Tensor};

    #[test]
    fn axes_by_attribute_and_by_input() {
        let x = iota(&[2, 3]);
        let sum = Case::new("ReduceSum").opset(11).ints("axes", &[-1]).input(x.clone());
        assert_eq!(sum.run()[0], f32s(&[2, 1], &[3.0, 12.0]));
        let sum = Case::new("ReduceSum")
            .opset(13)
            .attr("keepdims", 0_i64)
            .input(x.clone())
            .input(ints(&[0]));
        assert_eq!(sum.run()[0], f32s(&[3], &[3.0, 5.0, 7.0]));
        let mean = Case::new("ReduceMean").opset(13).ints("axes", &[0, 1]).input(x.clone());
        assert_eq!(mean.run()[0], f32s(&[1, 1], &[2.5]));
        let none = Case::new("ReduceMax")
            .attr("noop_with_empty_axes", 1_i64)
            .input(x.clone())
            .input(ints(&[]));
        assert_eq!(none.run()[0], x);
        let wrong =
            Case::new("ReduceMean").opset(13).ints("axes", &[2]).typed(DataType::Float, "N,3");
        assert_eq!(wrong.infer_err(), "axis 2 is outside of rank 2: [N,3]");
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let run = |op| Case::new(op).attr("keepdims", 0_i64).input(f32s(&[0], &[])).run().remove(0);
        assert_eq!(run("ReduceSum"), scalar(0.0_f32));
        assert_eq!(run("ReduceProd"), scalar(1.0_f32));
        assert_eq!(run("ReduceMax"), scalar(f32::NEG_INFINITY));
        assert_eq!(run("ReduceLogSumExp"), scalar(f32::NEG_INFINITY));
    }

    #[test]
    fn extremes_of_bools() {
        let y = Case::new("ReduceMin").attr("keepdims", 0_i64).input(bools(&[true, false])).run();
        assert_eq!(y[0], scalar(false));
    }

    #[test]
    fn log_sum_exp_does_not_overflow() {
        let y = Case::new("ReduceLogSumExp").input(f32s(&[2], &[1000.0, 1000.0])).run();
        assert_eq!(y[0], f32s(&[1], &[1000.0 + std::f32::consts::LN_2]));
    }

    #[test]
    fn extremes_have_places() {
        let x = f32s(&[2, 3], &[1.0, 3.0, 3.0, 2.0, 0.0, 2.0]);
        let arg = |last: i64| {
            Case::new("ArgMax").attr("axis", 1_i64).attr("select_last_index", last).input(x.clone())
        };
        assert_eq!(arg(0).run()[0], Tensor::new(&[2, 1], vec![1_i64, 0]));
        assert_eq!(arg(1).run()[0], Tensor::new(&[2, 1], vec![2_i64, 2]));
        let top = Case::new("TopK").outputs(2).attr("axis", 0_i64).input(x).input(ints(&[1])).run();
        assert_eq!(top[0], f32s(&[1, 3], &[2.0, 3.0, 3.0]));
        assert_eq!(top[1], Tensor::new(&[1, 3], vec![1_i64, 0, 0]));
        let many = Case::new("TopK").typed(DataType::Float, "3").input(ints(&[4]));
        assert_eq!(many.infer_err(), "4 of axis 0: [3]");
    }

    #[test]
    fn running_sums() {
        let sum = |exclusive: i64, reverse: i64| {
            let case = Case::new("CumSum").attr("exclusive", exclusive).attr("reverse", reverse);
            case.input(ints(&[1, 2, 3])).input(scalar(-1_i64)).run().remove(0)
        };
        assert_eq!(sum(0, 0), ints(&[1, 3, 6]));
        assert_eq!(sum(1, 0), ints(&[0, 1, 3]));
        assert_eq!(sum(0, 1), ints(&[6, 5, 3]));
        assert_eq!(sum(1, 1), ints(&[5, 3, 0]));
    }

    #[test]
    fn places_of_what_is_not_zero() {
        let y = Case::new("NonZero").input(f32s(&[2, 2], &[1.0, 0.0, f32::NAN, 4.0])).run();
        assert_eq!(y[0], Tensor::new(&[2, 3], vec![0_i64, 1, 1, 0, 0, 1]));
    }
}
