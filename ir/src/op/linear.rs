//! Matrix products.

use std::borrow::Cow;

use gemm::Parallelism;

use super::infer::{Inferred, any_dtype, int_attr, is_unknown_attr, merge, one as output};
use super::kernel::{Axes, Number, Walk, area, broadcast_strides, sizes, with_type};
use super::schema::{
    attr::{float, int, string},
    many, one, opt,
    sets::{BYTES, FLOATS, INT32, NUMBERS, QUANTIZED, SMALL_FLOATS, WIDE_NUMBERS},
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, Operator, broadcast};
use crate::{DataType, Dim, Element, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("MatMul", &[1, 9, 13], matmul)
        .params(
            &[one("A", "T", WIDE_NUMBERS), one("B", "T", WIDE_NUMBERS)],
            &[one("Y", "T", WIDE_NUMBERS)],
        )
        .class(Class::ROWWISE)
        .eval(eval_matmul),
    Operator::new("Gemm", &[1, 6, 7, 9, 11, 13], gemm_type)
        .params(
            &[
                one("A", "T", WIDE_NUMBERS),
                one("B", "T", WIDE_NUMBERS),
                opt("C", "T", WIDE_NUMBERS),
            ],
            &[one("Y", "T", WIDE_NUMBERS)],
        )
        .attrs(&[
            float("alpha"),
            float("beta"),
            int("transA"),
            int("transB"),
            int("broadcast").until(7),
        ])
        .eval(eval_gemm),
    Operator::new("MatMulInteger", &[10], matmul_integer)
        .params(
            &[
                one("A", "T1", BYTES),
                one("B", "T2", BYTES),
                opt("a_zero_point", "T1", BYTES),
                opt("b_zero_point", "T2", BYTES),
            ],
            &[one("Y", "", INT32)],
        )
        .eval(eval_matmul_integer),
    Operator::new("QLinearMatMul", &[10, 21], qlinear_matmul).params(
        &[
            one("a", "T1", QUANTIZED),
            one("a_scale", "TS", SMALL_FLOATS),
            one("a_zero_point", "T1", QUANTIZED),
            one("b", "T2", QUANTIZED),
            one("b_scale", "TS", SMALL_FLOATS),
            one("b_zero_point", "T2", QUANTIZED),
            one("y_scale", "TS", SMALL_FLOATS),
            one("y_zero_point", "T3", QUANTIZED),
        ],
        &[one("y", "T3", QUANTIZED)],
    ),
    Operator::new("Einsum", &[12, 28], einsum)
        .params(&[many("Inputs", "T", NUMBERS)], &[one("Output", "T", NUMBERS)])
        .attrs(&[string("equation").required()])
        .eval(eval_einsum),
    Operator::new("Det", &[11, 22], det).params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)]),
];

fn matmul(cx: &InferCx<'_>) -> Inferred {
    let dtype = any_dtype(cx, 0..2);
    output(dtype, product_shape(cx, 0, 1)?)
}

/// Shape of the matrix product of two inputs.
fn product_shape(cx: &InferCx<'_>, a: usize, b: usize) -> Result<Option<Shape>, InferError> {
    match (cx.shape(a), cx.shape(b)) {
        (Some(a), Some(b)) => matmul_shape(a, b).map(Some),
        _ => Ok(None),
    }
}

fn matmul_shape(a: &Shape, b: &Shape) -> Result<Shape, InferError> {
    let (Some((ak, a_front)), Some((b_last, b_front))) = (a.0.split_last(), b.0.split_last())
    else {
        return Err(InferError::new(format!("a scalar is no matrix: {a} × {b}")));
    };
    // A vector is a row on the left and a column on the right.
    let bk = b_front.last().unwrap_or(b_last);
    if merge(ak, bk).is_none() {
        return Err(InferError::new(format!("inner dimensions {ak} and {bk} differ: {a} × {b}")));
    }
    let batch = |front: &[Dim]| -> Shape {
        front.split_last().map_or(&[][..], |(_, batch)| batch).iter().cloned().collect()
    };
    let mut shape = broadcast(&batch(a_front), &batch(b_front))
        .map_err(|_| InferError::new(format!("batches do not broadcast: {a} × {b}")))?;
    shape.0.extend(a_front.last().cloned());
    if !b_front.is_empty() {
        shape.0.push(b_last.clone());
    }
    Ok(shape)
}

/// A matrix in memory: first element, and steps from row to row and from column to column.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    elements: &'a [T],
    row: usize,
    column: usize,
}

impl<T> Matrix<'_, T> {
    /// Whether all elements of `rows` × `columns` are there.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.elements.len()
    }
}

/// Number types that matrix products are computed in.
trait Product: Number {
    /// `out = factor · a · b`, `out` packed.
    fn product(
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        size: [usize; 3],
        factor: f64,
        out: &mut [Self],
    );
}

/// The one call into the kernels, whose interface is raw pointers.
#[expect(unsafe_code, reason = "the kernels take pointers")]
fn kernel<T: Number>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    [m, k, n]: [usize; 3],
    factor: T,
    out: &mut [T],
) {
    /// Below this many multiplications threads cost more than they do.
    const MANY: usize = 1 << 18;

    assert!(a.holds(m, k) && b.holds(k, n) && out.len() == m * n, "matrices of {m}×{k}×{n}");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        out.fill(T::ZERO);
        return;
    }
    let threads = if m.saturating_mul(n).saturating_mul(k) < MANY {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: the assertion says that every element that the steps reach lies inside of its slice, and `out` is
    // borrowed alone; T is one of the kernels' own number types.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.elements.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.elements.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::ZERO,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

macro_rules! by_kernel {
    ($($ty:ty)*) => {$(
        impl Product for $ty {
            fn product(a: Matrix<'_, Self>, b: Matrix<'_, Self>, size: [usize; 3], factor: f64, out: &mut [Self]) {
                kernel(a, b, size, factor as $ty, out);
            }
        }
    )*};
}

macro_rules! by_hand {
    ($($ty:ty)*) => {$(
        impl Product for $ty {
            fn product(a: Matrix<'_, Self>, b: Matrix<'_, Self>, [m, k, n]: [usize; 3], _: f64, out: &mut [Self]) {
                out.fill(0);
                for i in 0..m {
                    let line = &mut out[i * n..(i + 1) * n];
                    for l in 0..k {
                        let x = a.elements[i * a.row + l * a.column];
                        for (j, sum) in line.iter_mut().enumerate() {
                            *sum = Number::add(*sum, Number::mul(x, b.elements[l * b.row + j * b.column]));
                        }
                    }
                }
            }
        }
    )*};
}

by_kernel! { f32 f64 }
by_hand! { i8 i16 i32 i64 u8 u16 u32 u64 }

/// Runs the body with the type that a product of this element type is computed in.
macro_rules! with_product {
    ($dtype:expr, $T:ident, $W:ident => $body:expr) => {
        match $dtype {
            DataType::Float => {
                type $T = f32;
                type $W = f32;
                $body
            }
            DataType::Float16 => {
                type $T = half::f16;
                type $W = f32;
                $body
            }
            DataType::Bfloat16 => {
                type $T = half::bf16;
                type $W = f32;
                $body
            }
            DataType::Double => {
                type $T = f64;
                type $W = f64;
                $body
            }
            DataType::Int32 => {
                type $T = i32;
                type $W = i32;
                $body
            }
            DataType::Int64 => {
                type $T = i64;
                type $W = i64;
                $body
            }
            DataType::Uint32 => {
                type $T = u32;
                type $W = u32;
                $body
            }
            DataType::Uint64 => {
                type $T = u64;
                type $W = u64;
                $body
            }
            _ => Err(EvalError::Unsupported("element type")),
        }
    };
}

/// A number in another type.
fn convert<T: Number, W: Number>(x: T) -> W {
    W::from_f64(x.to_f64())
}

/// The elements in the type that the product is computed in: the same, or float32 for 16-bit floats.
fn widened<T: Number, W: Number>(tensor: &Tensor) -> Result<Cow<'_, [W]>, EvalError> {
    if T::DTYPE == W::DTYPE {
        return Ok(tensor.elements::<W>()?);
    }
    Ok(Cow::Owned(tensor.elements::<T>()?.iter().map(|&x| convert(x)).collect()))
}

fn eval_matmul(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    with_product!(a.dtype, T, W => {
        let (xs, ys) = (widened::<T, W>(a)?, widened::<T, W>(b)?);
        let (dims, out) = products::<W>(cx, T::DTYPE, a, b, &xs, &ys)?;
        Ok(vec![rounded::<T, W>(&dims, out)])
    })
}

/// The batched product of the elements of two tensors.
fn products<W: Product>(
    cx: &EvalCx<'_>,
    dtype: DataType,
    a: &Tensor,
    b: &Tensor,
    xs: &[W],
    ys: &[W],
) -> Result<(Vec<i64>, Vec<W>), EvalError> {
    let shape = matmul_shape(&Shape::fixed(&a.dims), &Shape::fixed(&b.dims))?;
    let dims: Vec<i64> = shape.0.iter().filter_map(Dim::fixed).collect();
    let size = cx.size(dtype, &dims)?;
    let (a_dims, b_dims) = (sizes(&a.dims), sizes(&b.dims));
    let (mut m, k) = match a_dims[..] {
        [.., m, k] => (m, k),
        _ => (1, a_dims[0]),
    };
    let n = if b_dims.len() == 1 { 1 } else { b_dims[b_dims.len() - 1] };
    let front = |dims: &Axes<usize>| -> Axes<usize> { dims[..dims.len().saturating_sub(2)].into() };
    let (mut a_batch, b_batch) = (front(&a_dims), front(&b_dims));
    if b_batch.iter().all(|&d| d == 1) && a_batch.len() >= b_batch.len() {
        // One matrix on the right: all rows on the left are one matrix too.
        m = m.saturating_mul(area(&a_batch));
        a_batch.clear();
    }
    let rank = a_batch.len().max(b_batch.len());
    let batch: Axes<usize> = if a_batch.is_empty() && b_batch.iter().all(|&d| d == 1) {
        Axes::new()
    } else {
        sizes(&dims[..rank])
    };
    let scaled = |front: &[usize], area: usize| -> Axes<isize> {
        let steps = broadcast_strides(front, batch.len().max(front.len()));
        steps
            .iter()
            .map(|s| s.saturating_mul(area as isize))
            .skip(steps.len() - batch.len())
            .collect()
    };
    let (a_steps, b_steps) =
        (scaled(&a_batch, m.saturating_mul(k)), scaled(&b_batch, k.saturating_mul(n)));
    let mut out = vec![W::ZERO; size];
    let mut done = 0;
    let walk = Walk::new(&batch, [&a_steps, &b_steps], [0, 0]);
    if size > 0 {
        walk.rows(|[i, j]| {
            for step in 0..walk.len {
                let (i, j) = (
                    i as usize + step * walk.step[0] as usize,
                    j as usize + step * walk.step[1] as usize,
                );
                let a = Matrix { elements: &xs[i..], row: k, column: 1 };
                let b = Matrix { elements: &ys[j..], row: n, column: 1 };
                W::product(a, b, [m, k, n], 1.0, &mut out[done..done + m * n]);
                done += m * n;
            }
        });
    }
    Ok((dims, out))
}

/// The results in the tensor's own type, each rounded once.
fn rounded<T: Number, W: Number>(dims: &[i64], out: Vec<W>) -> Tensor {
    if T::DTYPE == W::DTYPE {
        return Tensor::new(dims, out);
    }
    Tensor::new(dims, out.into_iter().map(|x| T::from_f64(x.to_f64())).collect::<Vec<T>>())
}

fn gemm_type(cx: &InferCx<'_>) -> Inferred {
    let dtype = any_dtype(cx, 0..3);
    let (Some(ta), Some(tb)) = (int_attr(cx, "transA", 0), int_attr(cx, "transB", 0)) else {
        return output(dtype, Some(Shape::unknown(2)));
    };
    // Each side tells a dimension, even alone.
    let side = |slot: usize, transposed: bool| match cx.shape(slot).map(|s| &s.0[..]) {
        None => Ok([Dim::Unknown, Dim::Unknown]),
        Some([x, y]) if transposed => Ok([y.clone(), x.clone()]),
        Some([x, y]) => Ok([x.clone(), y.clone()]),
        Some(_) => Err(InferError::new(format!(
            "{} is no matrix",
            cx.shape(slot).cloned().unwrap_or_default()
        ))),
    };
    let ([m, ka], [kb, n]) = (side(0, ta != 0)?, side(1, tb != 0)?);
    if merge(&ka, &kb).is_none() {
        return Err(gemm_mismatch(&ka, &kb, cx.shape(0), cx.shape(1), ta != 0, tb != 0));
    }
    let shape: Shape = [m, n].into_iter().collect();
    if let Some(c) = cx.shape(2) {
        let wrong = || InferError::new(format!("bias {c} does not broadcast to {shape}"));
        let both = broadcast(&shape, c).map_err(|_| wrong())?;
        // The bias may not make the result larger.
        if both.rank() > 2
            || both
                .0
                .iter()
                .zip(&shape.0)
                .any(|(b, s)| *s == Dim::Fixed(1) && b.fixed().is_some_and(|b| b != 1))
        {
            return Err(wrong());
        }
    }
    output(dtype, Some(shape))
}

fn gemm_mismatch(
    ka: &Dim,
    kb: &Dim,
    a: Option<&Shape>,
    b: Option<&Shape>,
    ta: bool,
    tb: bool,
) -> InferError {
    let side = |shape: Option<&Shape>, transposed: bool| {
        let shape = shape.map_or_else(|| "?".to_owned(), ToString::to_string);
        if transposed { format!("{shape}ᵀ") } else { shape }
    };
    InferError::new(format!(
        "inner dimensions {ka} and {kb} differ: {} × {}",
        side(a, ta),
        side(b, tb)
    ))
}

fn eval_gemm(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (a, b, c) = (cx.input(0)?, cx.input(1)?, cx.get(2));
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let (ta, tb) = (cx.int("transA", 0)? != 0, cx.int("transB", 0)? != 0);
    let (&[a0, a1], &[b0, b1]) = (&sizes(&a.dims)[..], &sizes(&b.dims)[..]) else {
        return Err(EvalError::invalid(format!("{:?} or {:?} is no matrix", a.dims, b.dims)));
    };
    let (m, ka) = if ta { (a1, a0) } else { (a0, a1) };
    let (kb, n) = if tb { (b1, b0) } else { (b0, b1) };
    if ka != kb {
        let dim = |n: usize| Dim::Fixed(n as i64);
        let (a, b) = (Shape::fixed(&a.dims), Shape::fixed(&b.dims));
        return Err(gemm_mismatch(&dim(ka), &dim(kb), Some(&a), Some(&b), ta, tb).into());
    }
    let dims = [m as i64, n as i64];
    let size = cx.size(a.dtype, &dims)?;
    if a.dtype.is_integer() && (alpha != 1.0 || beta != 1.0) {
        return Err(EvalError::Unsupported("integers times a float"));
    }
    with_product!(a.dtype, T, W => {
        let (xs, ys) = (widened::<T, W>(a)?, widened::<T, W>(b)?);
        let matrix = |rows: usize, columns: usize, transposed: bool| {
            if transposed { (1, rows) } else { (columns, 1) }
        };
        let (row, column) = matrix(m, ka, ta);
        let left = Matrix { elements: &xs[..], row, column };
        let (row, column) = matrix(ka, n, tb);
        let right = Matrix { elements: &ys[..], row, column };
        let mut out = vec![<W as Number>::ZERO; size];
        W::product(left, right, [m, ka, n], alpha, &mut out);
        if let Some(c) = c {
            let zs = widened::<T, W>(c)?;
            if broadcast(&Shape::fixed(&dims), &Shape::fixed(&c.dims))? != Shape::fixed(&dims) {
                return Err(EvalError::invalid(format!("bias {:?} does not broadcast to {dims:?}", c.dims)));
            }
            let steps = broadcast_strides(&sizes(&c.dims), 2);
            for (i, line) in out.chunks_exact_mut(n.max(1)).enumerate() {
                for (j, sum) in line.iter_mut().enumerate() {
                    let z = zs[i * steps[0] as usize + j * steps[1] as usize];
                    let z = if beta == 1.0 { z } else { <W as Number>::from_f64(beta * Number::to_f64(z)) };
                    *sum = Number::add(*sum, z);
                }
            }
        }
        Ok(vec![rounded::<T, W>(&dims, out)])
    })
}

fn matmul_integer(cx: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Int32), product_shape(cx, 0, 1)?)
}

fn eval_matmul_integer(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    /// The elements as int32, less their zero point: one, or one for each row (left) or column (right).
    fn centred(x: &Tensor, zero: Option<&Tensor>, rows: bool) -> Result<Vec<i32>, EvalError> {
        let widen = |t: &Tensor| -> Result<Vec<i32>, EvalError> {
            match t.dtype {
                DataType::Int8 => Ok(t.elements::<i8>()?.iter().map(|&x| i32::from(x)).collect()),
                DataType::Uint8 => Ok(t.elements::<u8>()?.iter().map(|&x| i32::from(x)).collect()),
                _ => Err(EvalError::Unsupported("element type")),
            }
        };
        let mut all = widen(x)?;
        let zero = zero.map(|t| Ok::<_, EvalError>((widen(t)?, t.dims.len()))).transpose()?;
        match zero {
            None => {}
            Some((zero, _)) if zero.len() == 1 => all.iter_mut().for_each(|x| *x -= zero[0]),
            Some((zero, 1)) if x.dims.len() == 2 => {
                let columns = x.dims[1] as usize;
                if zero.len() != x.dims[usize::from(!rows)] as usize {
                    return Err(EvalError::invalid(format!(
                        "{} zero points for {:?}",
                        zero.len(),
                        x.dims
                    )));
                }
                all.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x -= zero[if rows { i / columns } else { i % columns }]);
            }
            Some(_) => return Err(EvalError::Unsupported("zero points of this shape")),
        }
        Ok(all)
    }
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (xs, ys) = (centred(a, cx.get(2), true)?, centred(b, cx.get(3), false)?);
    let (dims, out) = products::<i32>(cx, DataType::Int32, a, b, &xs, &ys)?;
    Ok(vec![Tensor::new(&dims, out)])
}

fn qlinear_matmul(cx: &InferCx<'_>) -> Inferred {
    output(cx.dtype(7).or(cx.dtype(0)), product_shape(cx, 0, 3)?)
}

/// An equation of Einsum. Labels are letters; the axes of an ellipsis are counted from the back, below 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equation {
    /// The labels of each input's axes.
    pub inputs: Vec<Vec<i32>>,
    /// The labels of the result's axes, each once.
    pub output: Vec<i32>,
}

/// Reads an equation for inputs of these ranks.
///
/// # Errors
/// Says what of it makes no sense.
pub fn equation(text: &str, ranks: &[usize]) -> Result<Equation, InferError> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let wrong = |why: &str| InferError::new(format!("equation {text:?}: {why}"));
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&text[..], None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(wrong(&format!("{} terms for {} inputs", terms.len(), ranks.len())));
    }
    let letters = |term: &str, dots: usize| -> Result<Vec<i32>, InferError> {
        let mut labels = Vec::new();
        let (front, back) = match term.split_once("...") {
            Some((front, back)) => (front, Some(back)),
            None => (term, None),
        };
        let add = |labels: &mut Vec<i32>, part: &str| {
            for c in part.chars() {
                if !c.is_ascii_alphabetic() {
                    return Err(wrong(&format!("{c:?} is no label")));
                }
                labels.push(c as i32);
            }
            Ok(())
        };
        add(&mut labels, front)?;
        if let Some(back) = back {
            labels.extend((0..dots as i32).map(|i| i - dots as i32));
            add(&mut labels, back)?;
        }
        Ok(labels)
    };
    let mut most = 0;
    let mut inputs = Vec::new();
    for (term, &rank) in terms.iter().zip(ranks) {
        let named = term.replace("...", "").chars().count();
        let dots = rank.checked_sub(named).filter(|&dots| dots == 0 || term.contains("..."));
        let dots = dots.ok_or_else(|| wrong(&format!("{term:?} for an input of rank {rank}")))?;
        most = most.max(dots);
        inputs.push(letters(term, dots)?);
    }
    let output = if let Some(right) = right {
        letters(right, most)?
    } else {
        // Whatever occurs once, in the order of the alphabet, behind the ellipsis.
        let mut all: Vec<i32> = inputs.iter().flatten().copied().collect();
        all.sort_unstable();
        let once = |l: i32| all.iter().filter(|&&other| other == l).count() == 1;
        let mut output: Vec<i32> = (0..most as i32).map(|i| i - most as i32).collect();
        output.extend(all.iter().copied().filter(|&l| l >= 0 && once(l)));
        output
    };
    for (i, label) in output.iter().enumerate() {
        let name = char::from_u32(*label as u32).unwrap_or('.');
        if output[..i].contains(label) {
            return Err(wrong(&format!("{name} occurs twice in the result")));
        }
        if *label >= 0 && !inputs.iter().flatten().any(|l| l == label) {
            return Err(wrong(&format!("{name} occurs in the result alone")));
        }
    }
    Ok(Equation { inputs, output })
}

impl Equation {
    /// The dimension of a label.
    fn dim(&self, label: i32, shapes: &[&Shape]) -> Result<Dim, InferError> {
        let mut all = Dim::Fixed(1);
        for (labels, shape) in self.inputs.iter().zip(shapes) {
            for (_, d) in labels.iter().zip(&shape.0).filter(|(l, _)| **l == label) {
                let one = |d: &Dim| -> Shape { [d.clone()].into_iter().collect() };
                let both = broadcast(&one(&all), &one(d)).map_err(|_| {
                    let name = char::from_u32(label as u32).unwrap_or('.');
                    let shapes: Vec<String> = shapes.iter().map(ToString::to_string).collect();
                    InferError::new(format!(
                        "{name} is both {all} and {d}: {}",
                        shapes.join(" and ")
                    ))
                })?;
                all = both.0[0].clone();
            }
        }
        Ok(all)
    }
}

fn einsum(cx: &InferCx<'_>) -> Inferred {
    let slots = 0..cx.inputs.len();
    let dtype = any_dtype(cx, slots.clone());
    let shapes: Option<Vec<&Shape>> = slots.map(|slot| cx.shape(slot)).collect();
    let (Some(shapes), Some(text), false) =
        (shapes, cx.attrs.str("equation"), is_unknown_attr(cx, "equation"))
    else {
        return output(dtype, None);
    };
    let ranks: Vec<usize> = shapes.iter().map(|s| s.rank()).collect();
    let equation = equation(text, &ranks)?;
    // Labels that are summed over must agree as well.
    for &label in equation.inputs.iter().flatten() {
        equation.dim(label, &shapes)?;
    }
    let dims = equation.output.iter().map(|&label| equation.dim(label, &shapes));
    output(dtype, Some(dims.collect::<Result<Shape, _>>()?))
}

fn eval_einsum(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    /// As many products as may be summed one by one.
    const MOST: usize = 1 << 27;

    let inputs = (0..cx.inputs.len()).map(|slot| cx.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let owned: Vec<Shape> = inputs.iter().map(|t| Shape::fixed(&t.dims)).collect();
    let shapes: Vec<&Shape> = owned.iter().collect();
    let ranks: Vec<usize> = shapes.iter().map(|s| s.rank()).collect();
    let equation = equation(cx.str("equation", "")?, &ranks)?;
    let mut summed: Vec<i32> = equation.inputs.iter().flatten().copied().collect();
    summed.sort_unstable();
    summed.dedup();
    summed.retain(|l| !equation.output.contains(l));
    let number = |&label: &i32| -> Result<i64, EvalError> {
        equation.dim(label, &shapes)?.fixed().ok_or(EvalError::Unsupported("open shapes"))
    };
    let dims = equation.output.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let inner = summed.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let dtype = inputs.first().ok_or(EvalError::MissingInput(0))?.dtype;
    let size = cx.size(dtype, &dims)?;
    let terms = sizes(&inner).iter().try_fold(size.max(1), |n, &d| n.checked_mul(d));
    if terms.is_none_or(|n| n > MOST) {
        return Err(EvalError::Unsupported("so large a sum"));
    }
    // A label that an input has twice steps along both axes.
    let steps_of = |i: usize, labels: &[i32]| -> Axes<isize> {
        let own = broadcast_strides(&sizes(&inputs[i].dims), ranks[i]);
        let step = |label: &i32| {
            own.iter().zip(&equation.inputs[i]).filter(|(_, l)| *l == label).map(|(s, _)| *s).sum()
        };
        labels.iter().map(step).collect()
    };
    let (outer_dims, inner_dims) = (sizes(&dims), sizes(&inner));
    with_type!(numbers, dtype, T => {
        let one = [<T as Number>::ONE];
        let (xs, ys) = match inputs[..] {
            [x] => (x.elements::<T>()?, Cow::Borrowed(&one[..])),
            [x, y] => (x.elements::<T>()?, y.elements::<T>()?),
            _ => return Err(EvalError::Unsupported("more than two inputs")),
        };
        let steps = |labels: &[i32]| -> [Axes<isize>; 2] {
            let second = if inputs.len() == 2 { steps_of(1, labels) } else { labels.iter().map(|_| 0).collect() };
            [steps_of(0, labels), second]
        };
        let [a, b] = steps(&equation.output);
        let outer = Walk::new(&outer_dims, [&a, &b], [0, 0]);
        let [a, b] = steps(&summed);
        let inner = Walk::new(&inner_dims, [&a, &b], [0, 0]);
        let mut out: Vec<T> = Vec::with_capacity(size);
        outer.rows(|[i, j]| {
            for k in 0..outer.len as isize {
                let (i, j) = (i + k * outer.step[0], j + k * outer.step[1]);
                let (mut exact, mut wrapped) = (0.0, <T as Number>::ZERO);
                inner.rows(|[p, q]| {
                    for l in 0..inner.len as isize {
                        let x = xs[(i + p + l * inner.step[0]) as usize];
                        let y = ys[(j + q + l * inner.step[1]) as usize];
                        if T::FLOAT {
                            exact += Number::to_f64(x) * Number::to_f64(y);
                        } else {
                            wrapped = Number::add(wrapped, Number::mul(x, y));
                        }
                    }
                });
                out.push(if T::FLOAT { <T as Number>::from_f64(exact) } else { wrapped });
            }
        });
        Ok(vec![Tensor::new(&dims, out)])
    })
}

fn det(cx: &InferCx<'_>) -> Inferred {
    let shape = match cx.shape(0).map(|s| (s, s.0.as_slice())) {
        None => None,
        Some((_, [front @ .., x, y])) if merge(x, y).is_some() => {
            Some(front.iter().cloned().collect())
        }
        Some((shape, _)) => return Err(InferError::new(format!("{shape} is no square matrix"))),
    };
    output(cx.dtype(0), shape)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, f32s, ints, iota, scalar};
    use crate::{DataType, Tensor};

    fn matmul(a: &str, b: &str) -> Case {
        Case::new("MatMul").typed(DataType::Float, a).typed(DataType::Float, b)
    }

    #[test]
    fn product_shapes() {
        assert_eq!(matmul("N,S,768", "768,3072").infer(), "float[N,S,3072]");
        assert_eq!(matmul("N,1,4,5", "12,5,6").infer(), "float[N,12,4,6]");
        assert_eq!(matmul("5", "N,5,6").infer(), "float[N,6]");
        assert_eq!(matmul("N,4,5", "5").infer(), "float[N,4]");
        assert_eq!(matmul("5", "5").infer(), "float");
        assert_eq!(
            matmul("1,32,64", "48,64").infer_err(),
            "inner dimensions 64 and 48 differ: [1,32,64] × [48,64]"
        );
        assert_eq!(
            matmul("2,3,4", "3,4,5").infer_err(),
            "batches do not broadcast: [2,3,4] × [3,4,5]"
        );
    }

    #[test]
    fn products() {
        let run = |a: &[i64], b: &[i64]| {
            Case::new("MatMul").input(iota(a)).input(iota(b)).run().remove(0)
        };
        assert_eq!(run(&[2, 2], &[2, 2]), f32s(&[2, 2], &[2.0, 3.0, 6.0, 11.0]));
        assert_eq!(run(&[2], &[2, 2]), f32s(&[2], &[2.0, 3.0]));
        assert_eq!(run(&[2, 2], &[2]), f32s(&[2], &[1.0, 3.0]));
        assert_eq!(run(&[2, 1, 2], &[2, 2, 1]), f32s(&[2, 1, 1], &[1.0, 13.0]));
        assert_eq!(run(&[1, 2], &[2, 2, 1]), f32s(&[2, 1, 1], &[1.0, 3.0]));
        assert_eq!(run(&[2, 1, 2], &[1, 2, 1]), f32s(&[2, 1, 1], &[1.0, 3.0]));
        assert_eq!(run(&[2, 0], &[0, 2]), f32s(&[2, 2], &[0.0; 4]));
        assert_eq!(run(&[2, 0, 3], &[3, 2]).dims, [2, 0, 2]);
        let y = Case::new("MatMul").input(ints(&[i64::MAX, 1])).input(ints(&[2, 3])).run();
        assert_eq!(y[0], scalar(1_i64));
    }

    #[test]
    fn large_products_use_the_kernel() {
        let ones: Vec<f32> = std::iter::repeat_n(1.0, 64 * 70).collect();
        let y = Case::new("MatMul").input(iota(&[65, 64])).input(f32s(&[64, 70], &ones)).run();
        let y = y[0].elements::<f32>().unwrap();
        assert!(
            y.chunks(70)
                .enumerate()
                .all(|(i, row)| row.iter().all(|&x| x == (i * 4096 + 2016) as f32))
        );
    }

    #[test]
    fn gemm_transposes_scales_and_adds() {
        let case = Case::new("Gemm").attr("transB", 1_i64).attr("alpha", 2.0).attr("beta", 0.5);
        let y = case
            .input(iota(&[1, 2]))
            .input(iota(&[3, 2]))
            .input(f32s(&[3], &[2.0, 4.0, 6.0]))
            .run();
        assert_eq!(y[0], f32s(&[1, 3], &[3.0, 8.0, 13.0]));
        let y =
            Case::new("Gemm").attr("transA", 1_i64).input(iota(&[2, 1])).input(iota(&[2, 1])).run();
        assert_eq!(y[0], f32s(&[1, 1], &[1.0]));
        let wrong = Case::new("Gemm")
            .attr("transB", 1_i64)
            .typed(DataType::Float, "N,4")
            .typed(DataType::Float, "4,5");
        assert_eq!(wrong.infer_err(), "inner dimensions 4 and 5 differ: [N,4] × [4,5]ᵀ");
        let bias = Case::new("Gemm")
            .typed(DataType::Float, "2,4")
            .typed(DataType::Float, "4,5")
            .typed(DataType::Float, "4");
        assert_eq!(bias.infer_err(), "bias [4] does not broadcast to [2,5]");
    }

    #[test]
    fn sixteen_bit_products_are_rounded_once() {
        let half = |xs: &[f32]| xs.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>();
        let a = Tensor::new(&[1, 3], half(&[2048.0, 1.0, 1.0]));
        let y =
            Case::new("MatMul").input(a).input(Tensor::new(&[3, 1], half(&[1.0, 1.0, 1.0]))).run();
        assert_eq!(y[0], Tensor::new(&[1, 1], half(&[2050.0])));
    }

    #[test]
    fn sums_by_equation() {
        let einsum = |text: &str| Case::new("Einsum").attr("equation", text);
        let y = einsum("bij, jk -> bik").input(iota(&[1, 2, 2])).input(iota(&[2, 2])).run();
        assert_eq!(y[0], f32s(&[1, 2, 2], &[2.0, 3.0, 6.0, 11.0]));
        assert_eq!(einsum("ii").input(iota(&[2, 2])).run()[0], scalar(3.0_f32));
        assert_eq!(
            einsum("...ij->...ji").input(iota(&[1, 2])).run()[0],
            f32s(&[2, 1], &[0.0, 1.0])
        );
        let shape = einsum("bhqd,bhkd->bhqk")
            .typed(DataType::Float, "B,12,Q,64")
            .typed(DataType::Float, "B,12,K,64");
        assert_eq!(shape.infer(), "float[B,12,Q,K]");
        let wrong = einsum("ij,jk").typed(DataType::Float, "2,3").typed(DataType::Float, "4,5");
        assert_eq!(wrong.infer_err(), "j is both 3 and 4: [2,3] and [4,5]");
    }

    #[test]
    fn integers_of_eight_bits_have_zero_points() {
        let a = Tensor::new(&[1, 2], vec![11_u8, 7]);
        let case = Case::new("MatMulInteger").input(a).input(Tensor::new(&[2, 1], vec![1_i8, 2]));
        assert_eq!(case.input(scalar(12_u8)).run()[0], Tensor::new(&[1, 1], vec![-11_i32]));
    }
}
