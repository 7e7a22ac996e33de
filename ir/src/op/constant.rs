//! Tensors from nothing, or from a few numbers.

use super::infer::{Inferred, dims_from, dtype_attr, is_unknown_attr, nothing, one as output};
use super::kernel::{Number, checked_raw, from_units, units, with_type, with_unit};
use super::schema::{
    attr::{float, floats, int, ints, sparse_tensor, string, strings, tensor},
    one,
    sets::{INT64, NUMBERS_AND_BOOL, STORED},
    types,
};
use super::{EvalCx, EvalError, InferCx, InferError, NodeCx, Operator};
use crate::{AttrValue, DataType, Dim, Shape, Tensor, TensorData};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
Operator::new("Constant", &[1, 9, 11, 12, 13, 19, 21, 23, 24, 25], constant).params(&[], &[one("output", "", STORED)]).attrs(&[sparse_tensor("sparse_value").since(11), tensor("value"), float("value_float").since(12), floats("value_floats").since(12), int("value_int").since(12), ints("value_ints").since(12), string("value_string").since(12), strings("value_strings").since(12)]).eval(eval_constant),
Operator::new("ConstantOfShape", &[9, 20, 21, 23, 24, 25], constant_of_shape).params(&[one("input", "", INT64)], &[one("output", "", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 Bool Float16 Double Uint32 Uint64 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0 Uint2 Int2))]).attrs(&[tensor("value")]).eval(eval_constant_of_shape),
Operator::new("Range", &[11, 27], range).params(&[one("start", "T", types!(Float Int16 Int32 Int64 Float16 Double Bfloat16)), one("limit", "T", types!(Float Int16 Int32 Int64 Float16 Double Bfloat16)), one("delta", "T", types!(Float Int16 Int32 Int64 Float16 Double Bfloat16))], &[one("output", "T", types!(Float Int16 Int32 Int64 Float16 Double Bfloat16))]).attrs(&[int("stash_type").since(27)]).eval(eval_range),
Operator::new("EyeLike", &[9, 22], eye_like).params(&[one("input", "", NUMBERS_AND_BOOL)], &[one("output", "", NUMBERS_AND_BOOL)]).attrs(&[int("dtype"), int("k")]).eval(eval_eye_like),
];

/// The tensor that a Constant's attribute is.
fn value(cx: &NodeCx<'_>) -> Option<Tensor> {
    let text = |strings: &[bytes::Bytes], dims: &[i64]| Tensor {
        dtype: DataType::String,
        dims: dims.to_vec(),
        data: TensorData::String(strings.into()),
        extra: None,
    };
    cx.attrs.0.iter().find_map(|attr| {
        Some(match (&*attr.name, &attr.value) {
            ("value", AttrValue::Tensor(tensor)) => tensor.reshaped(&tensor.dims),
            ("value_float", AttrValue::Float(x)) => Tensor::scalar(*x),
            ("value_int", AttrValue::Int(i)) => Tensor::scalar(*i),
            ("value_floats", AttrValue::Floats(xs)) => Tensor::new(&[xs.len() as i64], xs.clone()),
            ("value_ints", AttrValue::Ints(ints)) => Tensor::ints(ints),
            ("value_string", AttrValue::String(s)) => text(std::slice::from_ref(s), &[]),
            ("value_strings", AttrValue::Strings(s)) => text(s, &[s.len() as i64]),
            _ => return None,
        })
    })
}

fn constant(cx: &InferCx<'_>) -> Inferred {
    match value(cx) {
        Some(tensor) => output(Some(tensor.dtype), Some(Shape::fixed(&tensor.dims))),
        None => nothing(cx),
    }
}

fn eval_constant(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    value(cx).map(|tensor| vec![tensor]).ok_or(EvalError::Unsupported("a sparse constant"))
}

fn constant_of_shape(cx: &InferCx<'_>) -> Inferred {
    let dtype = match cx.attrs.get("value") {
        Some(AttrValue::Tensor(tensor)) => Some(tensor.dtype),
        Some(_) => None,
        None => Some(DataType::Float),
    };
    let shape = dims_from(cx.input(0));
    check_dims(shape.as_ref())?;
    output(dtype, shape)
}

fn check_dims(shape: Option<&Shape>) -> Result<(), InferError> {
    match shape {
        Some(shape) if shape.0.iter().any(|d| d.fixed().is_some_and(|n| n < 0)) => {
            Err(InferError::new(format!("{shape} has a negative dimension")))
        }
        _ => Ok(()),
    }
}

fn eval_constant_of_shape(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let dims = cx.int_input(0)?;
    check_dims(Some(&Shape::fixed(&dims)))?;
    let zero = Tensor::new(&[1], vec![0.0_f32]);
    let value = match cx.attrs.get("value") {
        None => &zero,
        Some(AttrValue::Tensor(tensor)) => tensor,
        Some(_) => return Err(EvalError::Unsupported("a value that is no tensor")),
    };
    let raw = checked_raw(value)?;
    let size = cx.size(value.dtype, &dims)?;
    with_unit!(value.dtype, U => match units::<U>(&raw).as_ref() {
        [unit] => Ok(vec![from_units(value.dtype, &dims, vec![*unit; size])]),
        other => Err(EvalError::invalid(format!("the value has {} elements instead of one", other.len()))),
    })
}

fn range(cx: &InferCx<'_>) -> Inferred {
    let dtype = super::infer::any_dtype(cx, 0..3);
    let inputs: Option<Vec<&Tensor>> = (0..3).map(|slot| cx.input(slot).tensor).collect();
    let len = match inputs.as_deref() {
        Some([start, limit, delta]) => range_len(start, limit, delta).ok(),
        _ => None,
    };
    let len = len.map_or_else(|| open_range_len(cx), Dim::Fixed);
    output(dtype, Some([len].into_iter().collect()))
}

/// The length of a range of integers whose bounds hold names of dimensions.
fn open_range_len(cx: &InferCx<'_>) -> Dim {
    let span = cx.dim(1).minus(&cx.dim(0)).max(&Dim::Fixed(0));
    match cx.dim(2) {
        Dim::Fixed(1) => span,
        Dim::Fixed(step @ 2..) => span.plus(&Dim::Fixed(step - 1)).over(&Dim::Fixed(step)),
        _ => Dim::Unknown,
    }
}

/// `ceil((limit − start) / delta)`, not below 0.
fn range_len(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<i64, EvalError> {
    let one = |ints: Vec<i64>| if let [i] = ints[..] { Some(i128::from(i)) } else { None };
    if start.dtype.is_integer() {
        let ints = [start, limit, delta].map(|t| t.to_ints().and_then(one));
        let [Some(start), Some(limit), Some(delta)] = ints else {
            return Err(EvalError::invalid("start, limit and delta are not three integers"));
        };
        if delta == 0 {
            return Err(EvalError::invalid("a range with steps of 0"));
        }
        let span = limit - start;
        let len = span / delta + i128::from(span % delta != 0 && (span < 0) == (delta < 0));
        return i64::try_from(len.max(0))
            .map_err(|_| EvalError::Unsupported("a range of more than int64 counts"));
    }
    let one = |floats: Vec<f64>| if let [x] = floats[..] { Some(x) } else { None };
    let [Some(from), Some(to), Some(by)] =
        [start, limit, delta].map(|t| t.to_floats().and_then(one))
    else {
        return Err(EvalError::invalid("start, limit and delta are not three numbers"));
    };
    // The difference is taken in the type of the elements.
    let span =
        if start.dtype == DataType::Float { f64::from((to - from) as f32) } else { to - from };
    let len = (span / by).ceil();
    if len.is_finite() && len < 9e15 {
        Ok((len as i64).max(0))
    } else {
        Err(EvalError::invalid(format!("a range from {from} to {to} by {by} has no end")))
    }
}

fn eval_range(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let [start, limit, delta] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    if matches!(start.dtype, DataType::Float16 | DataType::Bfloat16) {
        return Err(EvalError::Unsupported("a range of 16-bit floats"));
    }
    let len = range_len(start, limit, delta)?;
    cx.size(start.dtype, &[len])?;
    with_type!(numbers, start.dtype, T => {
        let (from, by) = (start.elements::<T>()?, delta.elements::<T>()?);
        let ([from], [by]) = (from.as_ref(), by.as_ref()) else {
            return Err(EvalError::invalid("start and delta are not scalars"));
        };
        let elements: Vec<T> = if T::FLOAT {
            let (from, by) = (Number::to_f64(*from), Number::to_f64(*by));
            (0..len).map(|i| <T as Number>::from_f64(from + i as f64 * by)).collect()
        } else {
            let mut next = *from;
            (0..len)
                .map(|_| {
                    let this = next;
                    next = Number::add(next, *by);
                    this
                })
                .collect()
        };
        Ok(vec![Tensor::new(&[len], elements)])
    })
}

fn eye_like(cx: &InferCx<'_>) -> Inferred {
    let dtype =
        if is_unknown_attr(cx, "dtype") { None } else { dtype_attr(cx, "dtype")?.or(cx.dtype(0)) };
    if let Some(shape) = cx.shape(0)
        && shape.rank() != 2
    {
        return Err(InferError::new(format!("{shape} is no matrix")));
    }
    output(dtype, Some(cx.shape(0).cloned().unwrap_or_else(|| Shape::unknown(2))))
}

fn eval_eye_like(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let [height, width] = x.dims[..] else {
        return Err(EvalError::invalid(format!("{:?} is no matrix", x.dims)));
    };
    cx.int("dtype", 0)?;
    let dtype = dtype_attr(cx, "dtype")?.unwrap_or(x.dtype);
    let k = cx.int("k", 0)?;
    let size = cx.size(dtype, &x.dims)?;
    if dtype == DataType::Bool {
        return Err(EvalError::Unsupported("a matrix of bools"));
    }
    with_type!(numbers, dtype, T => {
        let mut elements = vec![<T as Number>::ZERO; size];
        for y in 0..if size == 0 { 0 } else { height } {
            if let Some(x) = y.checked_add(k).filter(|x| (0..width).contains(x)) {
                elements[(y * width + x) as usize] = <T as Number>::ONE;
            }
        }
        Ok(vec![Tensor::new(&x.dims, elements)])
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, f32s, ints, scalar};
    use crate::{DataType, Tensor};

    fn range<T: crate::Element>(start: T, limit: T, delta: T) -> Case {
        Case::new("Range").input(scalar(start)).input(scalar(limit)).input(scalar(delta))
    }

    #[test]
    fn ranges_count_upwards_and_downwards() {
        assert_eq!(range(0_i64, 5, 2).run()[0], ints(&[0, 2, 4]));
        assert_eq!(range(5_i64, 0, -2).run()[0], ints(&[5, 3, 1]));
        assert_eq!(range(5_i64, 0, 1).run()[0], ints(&[]));
        assert_eq!(range(0.0_f32, 1.0, 0.3).run()[0].dims, [4]);
        assert!(range(0_i64, 5, 0).try_run().is_err());
        assert!(range(0.0_f64, 5.0, 0.0).try_run().is_err());
        assert!(range(i64::MIN, i64::MAX, 1).try_run().is_err());
    }

    #[test]
    fn the_default_constant_is_a_float_zero() {
        assert_eq!(
            Case::new("ConstantOfShape").input(ints(&[2])).run()[0],
            f32s(&[2], &[0.0, 0.0])
        );
        let seven = Tensor::new(&[1], vec![7_i64]);
        assert_eq!(
            Case::new("ConstantOfShape").attr("value", seven).input(ints(&[])).run()[0],
            scalar(7_i64)
        );
        assert_eq!(
            Case::new("ConstantOfShape").input(ints(&[-1])).infer_err(),
            "[-1] has a negative dimension"
        );
        assert_eq!(
            Case::new("ConstantOfShape").typed(DataType::Int64, "3").infer(),
            "float[?,?,?]"
        );
    }

    #[test]
    fn constants_of_every_kind() {
        assert_eq!(Case::new("Constant").ints("value_ints", &[1, 2]).run()[0], ints(&[1, 2]));
        assert_eq!(Case::new("Constant").attr("value_float", 0.5).run()[0], scalar(0.5_f32));
    }
}
