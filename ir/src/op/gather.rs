//! Elements picked by index, and put back by index.

use bytemuck::Pod;

use super::infer::{
    Inferred, any_dtype, dim, int_attr, is_unknown_attr, merge, one as output, same,
};
use super::kernel::{
    Axes, Number, Walk, area, checked_raw, from_units, sizes, strides, units, view, with_type,
    with_unit,
};
use super::schema::{
    attr::{int, string},
    one, opt,
    sets::{ANY, BOOL, INDEX, INT64, OLD_ANY, OLD_NUMBERS},
    types,
};
use super::{Class, EvalCx, EvalError, InferCx, InferError, Operator, normal_axis};
use crate::{DataType, Dim, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
Operator::new("Gather", &[1, 11, 13], gather).params(&[one("data", "T", ANY), one("indices", "", INDEX)], &[one("output", "T", ANY)]).attrs(&[int("axis")]).class(Class::MOVEMENT).eval(eval_gather),
Operator::new("GatherElements", &[11, 13], gather_elements).params(&[one("data", "T", ANY), one("indices", "", INDEX)], &[one("output", "T", ANY)]).attrs(&[int("axis")]).class(Class::MOVEMENT).eval(eval_gather_elements),
Operator::new("GatherND", &[11, 12, 13], gather_nd).params(&[one("data", "T", ANY), one("indices", "", INT64)], &[one("output", "T", ANY)]).attrs(&[int("batch_dims").since(12)]).class(Class::MOVEMENT).eval(eval_gather_nd),
Operator::new("Scatter", &[9, 11], same).params(&[one("data", "T", OLD_ANY), one("indices", "", INDEX), one("updates", "T", OLD_ANY)], &[one("output", "T", OLD_ANY)]).attrs(&[int("axis").until(11)]).eval(eval_scatter_elements),
Operator::new("ScatterElements", &[11, 13, 16, 18], scatter_elements).params(&[one("data", "T", ANY), one("indices", "", INDEX), one("updates", "T", ANY)], &[one("output", "T", ANY)]).attrs(&[int("axis"), string("reduction").since(16)]).eval(eval_scatter_elements),
Operator::new("ScatterND", &[11, 13, 16, 18], scatter_nd).params(&[one("data", "T", ANY), one("indices", "", INT64), one("updates", "T", ANY)], &[one("output", "T", ANY)]).attrs(&[string("reduction").since(16)]).eval(eval_scatter_nd),
Operator::new("OneHot", &[9, 11, 28], one_hot).params(&[one("indices", "", OLD_NUMBERS), one("depth", "", OLD_NUMBERS), one("values", "T3", ANY)], &[one("output", "T3", ANY)]).attrs(&[int("axis")]).eval(eval_one_hot),
Operator::new("Compress", &[9, 11, 28], compress).params(&[one("input", "T", ANY), one("condition", "", BOOL)], &[one("output", "T", ANY)]).attrs(&[int("axis")]).class(Class::MOVEMENT).eval(eval_compress),
Operator::new("TensorScatter", &[24], same).params(&[one("past_cache", "T", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0)), one("update", "T", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0)), opt("write_indices", "", INT64)], &[one("present_cache", "T", types!(Float Uint8 Int8 Uint16 Int16 Int32 Int64 String Bool Float16 Double Uint32 Uint64 Complex64 Complex128 Bfloat16 Float8E4m3fn Float8E4m3fnuz Float8E5m2 Float8E5m2fnuz Uint4 Int4 Float4E2m1 Float8E8m0))]).attrs(&[int("axis"), string("mode")]),
];

/// The elements at `places` along an axis. `dims` are the output's: the tensor's with that axis replaced.
pub(super) fn take(
    cx: &EvalCx<'_>,
    tensor: &Tensor,
    axis: usize,
    places: &[usize],
    dims: &[i64],
) -> Result<Tensor, EvalError> {
    let size = cx.size(tensor.dtype, dims)?;
    let from = sizes(&tensor.dims);
    let inner: usize = area(&from[axis + 1..]);
    let outer: usize = area(&from[..axis]);
    // A single run of rows may share the bytes.
    if let ([first, rest @ ..], 1) = (places, outer)
        && rest.iter().zip(first + 1..).all(|(&place, next)| place == next)
        && size > 0
    {
        return view(cx, tensor, dims, &[size], &[1], first * inner);
    }
    let raw = checked_raw(tensor)?;
    with_unit!(tensor.dtype, U => {
           let elements = units::<U>(&raw);
           let mut out: Vec<U> = Vec::with_capacity(size);
           if size > 0 {
               for block in elements.chunks_exact(from[axis] * inner) {
                   if inner == 1 {
                       out.extend(places.iter().map(|&place| block[place]));
                   } else {
                       for &place in places {
    out.extend_from_slice(&block[place * inner..(place + 1) * inner]);
    }
                   }
               }
           }
           Ok(from_units(tensor.dtype, dims, out))
       })
}

/// Indices counted from the front.
fn normal_indices(indices: &Tensor, len: i64) -> Result<Vec<usize>, EvalError> {
    // What is still negative becomes larger than any length.
    let normal = |i: i64| (if i < 0 { i.saturating_add(len) } else { i }) as usize;
    let places: Vec<usize> = match indices.dtype {
        DataType::Int64 => indices.elements::<i64>()?.iter().map(|&i| normal(i)).collect(),
        DataType::Int32 => indices.elements::<i32>()?.iter().map(|&i| normal(i.into())).collect(),
        _ => index_elements(indices)?.into_iter().map(normal).collect(),
    };
    match places.iter().position(|&place| place >= len as usize) {
        None => Ok(places),
        Some(at) => Err(outside(index_elements(indices)?[at], len)),
    }
}

fn index_elements(indices: &Tensor) -> Result<Vec<i64>, EvalError> {
    indices.check()?;
    if !indices.dtype.is_integer() {
        return Err(EvalError::invalid(format!("indices are {}", indices.dtype)));
    }
    indices.to_ints().ok_or(EvalError::Unsupported("indices of this type"))
}

fn normal_index(index: i64, len: i64) -> Result<usize, EvalError> {
    let i = if index < 0 { index.saturating_add(len) } else { index };
    if (0..len).contains(&i) { Ok(i as usize) } else { Err(outside(index, len)) }
}

fn outside(index: i64, len: i64) -> EvalError {
    EvalError::invalid(format!("index {index} is outside of an axis of {len}"))
}

fn gather(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let axis = int_attr(cx, "axis", 0);
    let (Some(data), Some(axis)) = (cx.shape(0), axis) else { return output(dtype, None) };
    let axis = normal_axis(axis, data.rank())?;
    let Some(indices) = cx.shape(1) else { return output(dtype, None) };
    let (front, back) = (&data.0[..axis], &data.0[axis + 1..]);
    output(dtype, Some(front.iter().chain(&indices.0).chain(back).cloned().collect()))
}

fn eval_gather(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = normal_axis(cx.int("axis", 0)?, data.dims.len())?;
    let places = normal_indices(indices, data.dims[axis])?;
    let dims = [&data.dims[..axis], &indices.dims, &data.dims[axis + 1..]].concat();
    Ok(vec![take(cx, data, axis, &places, &dims)?])
}

/// Data and indices are of one rank, and but for the axis no index lies outside.
fn check_elements(data: &Shape, indices: &Shape, axis: i64) -> Result<usize, InferError> {
    let axis = normal_axis(axis, data.rank())?;
    if data.rank() != indices.rank() {
        return Err(InferError::new(format!(
            "data {data} and indices {indices} are of different ranks"
        )));
    }
    for (i, (d, n)) in data.0.iter().zip(&indices.0).enumerate() {
        if i != axis && d.fixed().zip(n.fixed()).is_some_and(|(d, n)| n > d) {
            return Err(InferError::new(format!(
                "indices {indices} reach beyond {data} on axis {i}"
            )));
        }
    }
    Ok(axis)
}

fn gather_elements(cx: &InferCx<'_>) -> Inferred {
    if let (Some(data), Some(indices), Some(axis)) =
        (cx.shape(0), cx.shape(1), int_attr(cx, "axis", 0))
    {
        check_elements(data, indices, axis)?;
    }
    let shape =
        cx.shape(1).cloned().or_else(|| cx.shape(0).map(|data| Shape::unknown(data.rank())));
    output(cx.dtype(0), shape)
}

fn eval_gather_elements(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = check_elements(
        &Shape::fixed(&data.dims),
        &Shape::fixed(&indices.dims),
        cx.int("axis", 0)?,
    )?;
    let size = cx.size(data.dtype, &indices.dims)?;
    let places = normal_indices(indices, data.dims[axis])?;
    let raw = checked_raw(data)?;
    let (mut base, step) = element_strides(data, axis);
    base[axis] = 0;
    let dims = sizes(&indices.dims);
    let walk = Walk::new(&dims, [&strides(&dims), &base], [0, 0]);
    with_unit!(data.dtype, U => {
        let elements = units::<U>(&raw);
        let mut out: Vec<U> = Vec::with_capacity(size);
        walk.rows(|[at, base]| {
            // The indices are packed and read in order; the place in the data is known but for the axis.
            let (at, base) = (at as usize, base as usize);
            let run = places[at..at + walk.len].iter();
            out.extend(run.enumerate().map(|(k, &place)| elements[base + k * walk.step[1] as usize + place * step]));
        });
        Ok(vec![from_units(data.dtype, &indices.dims, out)])
    })
}

/// Strides of a tensor, and the one of `axis`.
fn element_strides(data: &Tensor, axis: usize) -> (Axes<isize>, usize) {
    let all = strides(&sizes(&data.dims));
    let step = usize::try_from(all[axis]).unwrap_or(0);
    (all, step)
}

/// Number of batch axes and of axes that an index tuple names.
fn nd_axes(
    data: &Shape,
    indices: &Shape,
    batch: i64,
) -> Result<Option<(usize, usize)>, InferError> {
    let text = |why: &str| InferError::new(format!("{why}: data {data}, indices {indices}"));
    let Some(last) = indices.0.last() else { return Err(text("indices need an axis")) };
    let batch =
        usize::try_from(batch).ok().filter(|&b| b < indices.rank() && b < data.rank().max(1));
    let batch = batch.ok_or_else(|| text("too many batch axes"))?;
    if let Some(axis) = (0..batch).find(|&i| merge(&data.0[i], &indices.0[i]).is_none()) {
        return Err(text(&format!("batches differ on axis {axis}")));
    }
    let Some(named) = last.fixed() else { return Ok(None) };
    match usize::try_from(named) {
        Ok(named) if batch + named <= data.rank() => Ok(Some((batch, named))),
        _ => Err(text(&format!("index tuples of {named} for {} axes", data.rank() - batch))),
    }
}

fn gather_nd(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let (Some(data), Some(indices), Some(batch)) =
        (cx.shape(0), cx.shape(1), int_attr(cx, "batch_dims", 0))
    else {
        return output(dtype, None);
    };
    let Some((batch, named)) = nd_axes(data, indices, batch)? else { return output(dtype, None) };
    let front = &indices.0[..indices.rank() - 1];
    output(dtype, Some(front.iter().chain(&data.0[batch + named..]).cloned().collect()))
}

/// Where each slice that an index tuple names begins, in elements; and how long it is.
fn nd_places(
    data: &Tensor,
    indices: &Tensor,
    batch: i64,
) -> Result<(Vec<usize>, usize, usize), EvalError> {
    let axes = nd_axes(&Shape::fixed(&data.dims), &Shape::fixed(&indices.dims), batch)?;
    let (batch, named) = axes.ok_or(EvalError::Unsupported("open shapes"))?;
    data.check()?;
    let all = index_elements(indices)?;
    let dims = sizes(&data.dims);
    let slice: usize = area(&dims[batch + named..]);
    let block: usize = area(&dims[batch..]);
    let batches: usize = area(&dims[..batch]);
    let tuples: usize = area(&sizes(&indices.dims[..indices.dims.len() - 1]));
    let lens = &data.dims[batch..batch + named];
    let mut places = Vec::with_capacity(tuples.min(all.len().max(1)));
    for tuple in 0..tuples {
        let index = &all[tuple * named..(tuple + 1) * named];
        let mut at = 0;
        for (&i, &len) in index.iter().zip(lens) {
            at = at * len as usize + normal_index(i, len)?;
        }
        places.push(tuple / (tuples / batches) * block + at * slice);
    }
    Ok((places, slice, batch + named))
}

fn eval_gather_nd(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let Some((_, front)) = indices.dims.split_last() else {
        return Err(EvalError::invalid("indices need an axis"));
    };
    // An empty tuple is a place too: there may be more of them than elements.
    cx.size(DataType::Int64, front)?;
    let batch = cx.int("batch_dims", 0)?;
    let (places, slice, axes) = nd_places(data, indices, batch)?;
    let dims = [front, &data.dims[axes..]].concat();
    let size = cx.size(data.dtype, &dims)?;
    let raw = checked_raw(data)?;
    with_unit!(data.dtype, U => {
           let elements = units::<U>(&raw);
           let mut out: Vec<U> = Vec::with_capacity(size);
           for &at in &places {
    out.extend_from_slice(&elements[at..at + slice]);
    }
           Ok(vec![from_units(data.dtype, &dims, out)])
       })
}

fn scatter_elements(cx: &InferCx<'_>) -> Inferred {
    if let (Some(data), Some(indices), Some(axis)) =
        (cx.shape(0), cx.shape(1), int_attr(cx, "axis", 0))
    {
        check_elements(data, indices, axis)?;
        if let Some(updates) = cx.shape(2)
            && (updates.rank() != indices.rank()
                || updates.0.iter().zip(&indices.0).any(|(u, i)| merge(u, i).is_none()))
        {
            return Err(InferError::new(format!("indices {indices} and updates {updates} differ")));
        }
    }
    output(any_dtype(cx, [0, 2]), cx.shape(0).cloned())
}

/// What becomes of an element and its update.
fn reduction<T: Number>(cx: &EvalCx<'_>) -> Result<fn(T, T) -> T, EvalError> {
    Ok(match cx.str("reduction", "none")? {
        "none" => |_, new| new,
        "add" => Number::add,
        "mul" => Number::mul,
        "max" => Number::larger,
        "min" => Number::smaller,
        _ => return Err(EvalError::Unsupported("this reduction")),
    })
}

/// The data with `updates` at `places`.
fn scattered(
    cx: &EvalCx<'_>,
    data: &Tensor,
    updates: &Tensor,
    places: impl Iterator<Item = usize>,
) -> Result<Vec<Tensor>, EvalError> {
    if data.dtype != updates.dtype {
        return Err(EvalError::invalid(format!("updates {} by {}", data.dtype, updates.dtype)));
    }
    cx.size(data.dtype, &data.dims)?;
    if cx.str("reduction", "none")? == "none" {
        fn put<U: Pod>(elements: &mut [U], updates: &[U], places: impl Iterator<Item = usize>) {
            places.zip(updates).for_each(|(place, &update)| elements[place] = update);
        }
        let (old, new) = (checked_raw(data)?, checked_raw(updates)?);
        return with_unit!(data.dtype, U => {
            let mut elements = units::<U>(&old).into_owned();
            put(&mut elements, &units::<U>(&new), places);
            Ok(vec![from_units(data.dtype, &data.dims, elements)])
        });
    }
    with_type!(numbers, data.dtype, T => {
        let f = reduction::<T>(cx)?;
        let mut elements = data.elements::<T>()?.into_owned();
        let updates = updates.elements::<T>()?;
        places.zip(updates.iter()).for_each(|(place, &update)| elements[place] = f(elements[place], update));
        Ok(vec![Tensor::new(&data.dims, elements)])
    })
}

fn eval_scatter_elements(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let axis = check_elements(
        &Shape::fixed(&data.dims),
        &Shape::fixed(&indices.dims),
        cx.int("axis", 0)?,
    )?;
    if updates.dims != indices.dims {
        return Err(EvalError::invalid(format!(
            "indices {:?} and updates {:?} differ",
            indices.dims, updates.dims
        )));
    }
    cx.size(DataType::Int64, &indices.dims)?;
    let places = normal_indices(indices, data.dims[axis])?;
    let (mut base, step) = element_strides(data, axis);
    base[axis] = 0;
    let dims = sizes(&indices.dims);
    let walk = Walk::new(&dims, [&strides(&dims), &base], [0, 0]);
    let mut all = Vec::with_capacity(places.len());
    walk.rows(|[at, base]| {
        let (at, base) = (at as usize, base as usize);
        let run = places[at..at + walk.len].iter();
        all.extend(
            run.enumerate().map(|(k, &place)| base + k * walk.step[1] as usize + place * step),
        );
    });
    scattered(cx, data, updates, all.into_iter())
}

fn scatter_nd(cx: &InferCx<'_>) -> Inferred {
    if let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1))
        && let Some((_, named)) = nd_axes(data, indices, 0)?
        && let Some(updates) = cx.shape(2)
    {
        let wanted: Shape =
            indices.0[..indices.rank() - 1].iter().chain(&data.0[named..]).cloned().collect();
        let fits = wanted.rank() == updates.rank()
            && wanted.0.iter().zip(&updates.0).all(|(w, u)| merge(w, u).is_some());
        if !fits {
            return Err(InferError::new(format!(
                "updates {updates} are not {wanted}, as data {data} and indices {indices} need them"
            )));
        }
    }
    output(any_dtype(cx, [0, 2]), cx.shape(0).cloned())
}

fn eval_scatter_nd(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let Some((_, front)) = indices.dims.split_last() else {
        return Err(EvalError::invalid("indices need an axis"));
    };
    cx.size(DataType::Int64, front)?;
    let (places, slice, axes) = nd_places(data, indices, 0)?;
    let wanted = [front, &data.dims[axes..]].concat();
    if updates.dims != wanted {
        return Err(EvalError::invalid(format!("updates {:?} are not {wanted:?}", updates.dims)));
    }
    scattered(cx, data, updates, places.into_iter().flat_map(|at| at..at + slice))
}

/// Where the new axis of `OneHot` goes.
fn one_hot_axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    normal_axis(axis, rank + 1)
}

fn one_hot(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(2);
    let (Some(indices), Some(axis)) = (cx.shape(0), int_attr(cx, "axis", -1)) else {
        return output(dtype, None);
    };
    let axis = one_hot_axis(axis, indices.rank())?;
    let mut shape = indices.clone();
    let depth = cx.input(1).tensor.and_then(|t| depth_of(t).ok());
    shape.0.insert(axis, depth.map_or_else(|| cx.dim(1), Dim::Fixed));
    output(dtype, Some(shape))
}

fn depth_of(depth: &Tensor) -> Result<i64, EvalError> {
    let depth = match (depth.to_ints(), depth.to_floats()) {
        (Some(ints), _) if ints.len() == 1 => ints[0],
        (_, Some(floats)) if floats.len() == 1 => floats[0] as i64,
        _ => return Err(EvalError::invalid("depth is not one number")),
    };
    if depth > 0 { Ok(depth) } else { Err(EvalError::invalid(format!("a depth of {depth}"))) }
}

fn eval_one_hot(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let (indices, values) = (cx.input(0)?, cx.input(2)?);
    let depth = depth_of(cx.input(1)?)?;
    indices.check()?;
    let all: Vec<i64> = match indices.to_floats() {
        Some(floats) => floats.iter().map(|&x| x as i64).collect(),
        None => index_elements(indices)?,
    };
    let axis = one_hot_axis(cx.int("axis", -1)?, indices.dims.len())?;
    let mut dims = indices.dims.clone();
    dims.insert(axis, depth);
    let size = cx.size(values.dtype, &dims)?;
    let raw = checked_raw(values)?;
    let inner: usize = area(&sizes(&indices.dims[axis..]));
    with_unit!(values.dtype, U => {
        let [off, on] = units::<U>(&raw)[..] else {
            return Err(EvalError::invalid("values are not two"));
        };
        let mut out = vec![off; size];
        for (at, &i) in all.iter().enumerate() {
            // Indices outside of the depth give no `on`.
            let i = if i < 0 { i.saturating_add(depth) } else { i };
            if (0..depth).contains(&i) {
                out[(at / inner * depth as usize + i as usize) * inner + at % inner] = on;
            }
        }
        Ok(vec![from_units(values.dtype, &dims, out)])
    })
}

fn compress(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let count = cx
        .input(1)
        .tensor
        .and_then(|t| t.elements::<bool>().ok())
        .map(|c| c.iter().filter(|&&c| c).count());
    let count = dim(count.map(|n| n as i64));
    let Some(axis) = cx.attrs.int("axis") else {
        let flat = (!is_unknown_attr(cx, "axis")).then(|| Shape([count].into_iter().collect()));
        return output(dtype, flat);
    };
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let mut shape = shape.clone();
    let axis = normal_axis(axis, shape.rank())?;
    shape.0[axis] = count;
    output(dtype, Some(shape))
}

fn eval_compress(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    let x = cx.input(0)?;
    let condition = cx.input(1)?.elements::<bool>()?;
    let places: Vec<usize> =
        condition.iter().enumerate().filter(|(_, c)| **c).map(|(i, _)| i).collect();
    cx.int("axis", 0)?;
    let (x, axis) = match cx.node.attrs.int("axis") {
        Some(axis) => (x.reshaped(&x.dims), normal_axis(axis, x.dims.len())?),
        None => (x.reshaped(&[x.len()? as i64]), 0),
    };
    if places.last().is_some_and(|&last| last as i64 >= x.dims[axis]) {
        return Err(EvalError::invalid(format!(
            "a condition of {} for an axis of {}",
            condition.len(),
            x.dims[axis]
        )));
    }
    let mut dims = x.dims.clone();
    dims[axis] = places.len() as i64;
    Ok(vec![take(cx, &x, axis, &places, &dims)?])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Case, f32s, ints, iota, scalar};
    use crate::{DataType, Tensor};

    #[test]
    fn gathers_rows_and_columns() {
        let gather = |axis: i64, indices| {
            Case::new("Gather").attr("axis", axis).input(iota(&[2, 3])).input(indices)
        };
        assert_eq!(
            gather(0, ints(&[-1, 0])).run()[0],
            f32s(&[2, 3], &[3.0, 4.0, 5.0, 0.0, 1.0, 2.0])
        );
        assert_eq!(gather(1, scalar(-1_i64)).run()[0], f32s(&[2], &[2.0, 5.0]));
        assert_eq!(gather(1, ints(&[])).run()[0].dims, [2, 0]);
        assert!(gather(1, ints(&[3])).try_run().is_err());
        assert!(gather(1, ints(&[i64::MIN])).try_run().is_err());
        let symbols =
            Case::new("Gather").typed(DataType::Float, "V,768").typed(DataType::Int64, "N,S");
        assert_eq!(symbols.infer(), "float[N,S,768]");
    }

    #[test]
    fn gathers_single_elements() {
        let indices = Tensor::new(&[2, 2], vec![0_i64, 2, -1, 0]);
        let y = Case::new("GatherElements")
            .attr("axis", 1_i64)
            .input(iota(&[2, 3]))
            .input(indices.clone())
            .run();
        assert_eq!(y[0], f32s(&[2, 2], &[0.0, 2.0, 5.0, 3.0]));
        let y = Case::new("GatherElements").input(iota(&[3, 2])).input(indices).run();
        assert_eq!(y[0], f32s(&[2, 2], &[0.0, 5.0, 4.0, 1.0]));
    }

    #[test]
    fn gathers_tuples() {
        let pairs = Tensor::new(&[2, 2], vec![0_i64, 1, 1, -1]);
        assert_eq!(
            Case::new("GatherND").input(iota(&[2, 2])).input(pairs).run()[0],
            f32s(&[2], &[1.0, 3.0])
        );
        let ones = Tensor::new(&[2, 1], vec![1_i64, 0]);
        let y = Case::new("GatherND")
            .attr("batch_dims", 1_i64)
            .input(iota(&[2, 2, 2]))
            .input(ones)
            .run();
        assert_eq!(y[0], f32s(&[2, 2], &[2.0, 3.0, 4.0, 5.0]));
        let long =
            Case::new("GatherND").typed(DataType::Float, "2,2").typed(DataType::Int64, "N,3");
        assert_eq!(long.infer_err(), "index tuples of 3 for 2 axes: data [2,2], indices [N,3]");
    }

    #[test]
    fn scatters() {
        let case = Case::new("ScatterElements")
            .attr("reduction", "add")
            .input(f32s(&[3], &[1.0, 2.0, 3.0]));
        let y = case.input(ints(&[0, -1, 0])).input(f32s(&[3], &[10.0, 20.0, 30.0])).run();
        assert_eq!(y[0], f32s(&[3], &[41.0, 2.0, 23.0]));
        let case =
            Case::new("ScatterND").input(iota(&[2, 2])).input(Tensor::new(&[1, 1], vec![1_i64]));
        assert_eq!(
            case.input(f32s(&[1, 2], &[8.0, 9.0])).run()[0],
            f32s(&[2, 2], &[0.0, 1.0, 8.0, 9.0])
        );
    }

    #[test]
    fn one_hot_ignores_what_is_outside() {
        let case =
            Case::new("OneHot").input(ints(&[1, -1, 5])).input(scalar(3_i64)).input(ints(&[0, 1]));
        assert_eq!(case.run()[0], Tensor::new(&[3, 3], vec![0_i64, 1, 0, 0, 0, 1, 0, 0, 0]));
    }

    #[test]
    fn compresses() {
        let keep = Tensor::new(&[2], vec![false, true]);
        let y = Case::new("Compress").attr("axis", 1_i64).input(iota(&[2, 3])).input(keep).run();
        assert_eq!(y[0], f32s(&[2, 1], &[1.0, 4.0]));
    }
}
