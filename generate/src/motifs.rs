//! Groups of nodes that passes look for: what does nothing, what is done twice, what exporters make of an unfold.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use onnxfix_ir::{DataType, Tensor, ValueId};

use crate::build::Builder;
use crate::data::{self, DTYPES};
use crate::{bodies, ops};

/// One of them, on values that are there.
pub(crate) fn any(b: &mut Builder<'_, '_>) {
    let _made = match b.c.below(39) {
        1 | 2 => nothing(b),
        3 => again(b),
        4 => unfold(b),
        5 => stacked_slices(b),
        6 => widened(b),
        7 => between_reshapes(b),
        8 => expanded(b),
        9 => bodies::call(b),
        10 => neutral(b),
        11 => moved_through(b),
        12 if !b.in_function => bodies::branch(b),
        13 => unit_axes(b),
        14 => moved_after_widening(b),
        15 => by_distance(b),
        16 => repeated_weights(b),
        17 => normalization(b),
        18 => gelu(b),
        19 => linear(b),
        20 | 21 => attention(b),
        22 => band(b),
        23 => residual(b),
        24 => rows(b),
        25 => span_convolution(b),
        26 => joined_heads(b),
        27 => row_of_band(b),
        28 => biased_convolution(b),
        29 if b.c.chance(50) => negated(b),
        30 => few_rows(b),
        31 => diagonal(b),
        32..=35 => alternating_heads(b),
        36 if !b.in_function => feed_forward(b),
        29 => turned_for_convolution(b),
        _ => chain(b),
    };
}

/// Two or three Transposes, Reshapes, Casts or Slices behind each other.
fn chain(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let kind = b.c.below(5);
    for _ in 0..2 + b.c.below(2) {
        let name = match kind {
            0 => {
                ops::transpose(b)?;
                continue;
            }
            1 => {
                ops::cast(b)?;
                continue;
            }
            2 => "Reshape",
            3 => "Slice",
            _ => *b.c.pick(&["Squeeze", "Unsqueeze", "Flatten", "Reshape", "Transpose"]),
        };
        ops::node(b, onnxfix_ir::op::find("", name)?)?;
    }
    None
}

/// A node that changes nothing.
fn nothing(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let rank = dims.len();
    match b.c.below(12) {
        0 => b.add("Identity", &[Some(x)], vec![]),
        1 => b.add("Cast", &[Some(x)], vec![("to", i64::from(dtype.code()).into())]),
        2 => {
            let shape = b.ints(&dims);
            b.add("Reshape", &[Some(x), Some(shape)], vec![])
        }
        3 => b.add(
            "Transpose",
            &[Some(x)],
            vec![("perm", (0..rank as i64).collect::<Vec<_>>().into())],
        ),
        4 => {
            let shape = if b.c.chance(50) { b.ints(&dims) } else { b.ints(&vec![1; rank]) };
            b.add("Expand", &[Some(x), Some(shape)], vec![])
        }
        5 if b.opset >= 10 => {
            let (from, to) = (b.ints(&[0]), b.ints(&[i64::MAX]));
            let axis = b.ints(&[rank as i64 - 1]);
            b.add("Slice", &[Some(x), Some(from), Some(to), Some(axis)], vec![])
        }
        6 if b.opset >= 11 => {
            let pads = b.ints(&vec![0; 2 * rank]);
            b.add("Pad", &[Some(x), Some(pads)], vec![])
        }
        7 => b.add("Concat", &[Some(x)], vec![("axis", 0.into())]),
        8 if b.opset >= 13 => {
            let parts = b.ints(&[dims[0]]);
            b.add("Split", &[Some(x), Some(parts)], vec![("axis", 0.into())])
        }
        9 => {
            let (axis, written) = b.axis(rank);
            let all = b.ints(&(0..dims[axis]).collect::<Vec<_>>());
            b.add("Gather", &[Some(x), Some(all)], vec![("axis", written.into())])
        }
        10 => {
            let ones = b.ints(&vec![1; rank]);
            b.add("Tile", &[Some(x), Some(ones)], vec![])
        }
        _ => {
            let holds = b.c.chance(50);
            let condition = b.constant(Tensor::scalar(holds));
            let other = b.leaf(dtype, &[]);
            let sides = if holds { [Some(x), Some(other)] } else { [Some(other), Some(x)] };
            b.add("Where", &[Some(condition), sides[0], sides[1]], vec![])
        }
    }
}

/// A node that is there already, maybe with its operands the other way round.
fn again(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let graph = b.graph;
    let nodes: Vec<_> = b.model.nodes(graph).collect();
    if nodes.is_empty() {
        return None;
    }
    let node = nodes[b.c.below(nodes.len())];
    let n = &b.model[node];
    if n.attrs.graphs().next().is_some() {
        return None;
    }
    let (op, attrs, outputs) = (n.op().clone(), n.attrs.clone(), n.outputs().len());
    let mut inputs = n.inputs().to_vec();
    let elementwise = n.op().def.is_some_and(|def| def.class.elementwise);
    if let (true, [Some(x), Some(y)]) = (elementwise, &inputs[..])
        && b.dtype(*x) == b.dtype(*y)
        && b.c.chance(40)
    {
        inputs.swap(0, 1);
    }
    let made = b.add_op(op, &inputs, attrs, outputs)?;
    // Both are read.
    let (x, y) = (made[0], b.find(|_| true)?);
    if b.dtype(x) == b.dtype(y) && b.dtype(x) == DataType::Float {
        b.add("Add", &[Some(x), Some(y)], vec![]);
    }
    Some(x)
}

/// Windows of a sequence by a constant index matrix.
fn unfold(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 11 {
        return None;
    }
    let (length, width) = (b.c.between(2, 5), b.c.between(1, 3));
    let channels_first = b.c.chance(60);
    let dims = if channels_first { [1, width, length] } else { [1, length, width] };
    let mut x = b.leaf(DataType::Float, &dims);
    if b.c.chance(40) {
        let perm = if b.c.chance(80) { vec![0, 2, 1] } else { vec![1, 0, 2] };
        x = b.add("Transpose", &[Some(x)], vec![("perm", perm.into())])?;
    }
    if b.c.chance(30) {
        x = b.unsqueeze(x, &[3])?;
    }
    let rank = b.rank(x);
    let axis = 1 + b.c.below(2.min(rank - 1));
    if b.c.chance(70) {
        let mut pads = vec![0; 2 * rank];
        pads[axis] = b.c.between(0, 2);
        pads[rank + axis] = b.c.between(0, 2);
        let pads = b.ints(&pads);
        x = b.add("Pad", &[Some(x), Some(pads)], vec![])?;
    }
    let n = b.dims(x)[axis];
    let kernel = b.c.between(1, n.min(4));
    let (step, dilation) = (*b.c.pick(&[1, 1, 1, 2]), *b.c.pick(&[1, 1, 2]));
    let count = (n - (kernel - 1) * dilation - 1).div_euclid(step) + 1;
    if count < 1 {
        return None;
    }
    let by_tap = b.c.chance(50);
    let (rows, columns) = if by_tap { (kernel, count) } else { (count, kernel) };
    let index: Vec<i64> = (0..rows)
        .flat_map(|r| {
            (0..columns).map(
                move |c| if by_tap { r * dilation + c * step } else { r * step + c * dilation },
            )
        })
        .collect();
    let index = b.constant(Tensor::new(&[rows, columns], index));
    x = b.add("Gather", &[Some(x), Some(index)], vec![("axis", (axis as i64).into())])?;
    if b.c.chance(60) {
        let rank = b.rank(x);
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(1 + b.c.below(rank - 1), rank - 1);
        x = b.add("Transpose", &[Some(x)], vec![("perm", perm.into())])?;
    }
    if b.c.chance(60) {
        let dims = b.dims(x);
        let merged: i64 = dims[1..].iter().product();
        let shape = b.ints(&[dims[0], merged]);
        x = b.add("Reshape", &[Some(x), Some(shape)], vec![])?;
    }
    Some(x)
}

/// Slices of equal length, stacked along a new axis.
fn stacked_slices(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 10 {
        return None;
    }
    let (length, width) = (b.c.between(3, 6), b.c.between(1, 3));
    let x = b.leaf(DataType::Float, &[1, length, width]);
    let (count, step) = (b.c.between(2, 3), b.c.between(1, 1));
    let taken = length - (count - 1) * step;
    if taken < 1 {
        return None;
    }
    let at = b.c.between(1, 3);
    let mut parts = Vec::new();
    for i in 0..count {
        let (from, to) = (b.ints(&[i * step]), b.ints(&[i * step + taken]));
        let axis = b.ints(&[1]);
        let part = b.add("Slice", &[Some(x), Some(from), Some(to), Some(axis)], vec![])?;
        parts.push(Some(b.unsqueeze(part, &[at])?));
    }
    b.add("Concat", &parts, vec![("axis", at.into())])
}

/// A Cast to a wider type, what moves elements or computes, and a Cast back.
fn widened(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let narrow =
        [DataType::Int32, DataType::Uint8, DataType::Float16, DataType::Bool, DataType::Int8];
    let x = b.operand(&narrow, 1);
    let wide = *b.c.pick(&[DataType::Int64, DataType::Float, DataType::Int32, DataType::Double]);
    let mut y = b.add("Cast", &[Some(x)], vec![("to", i64::from(wide.code()).into())])?;
    let dims = b.dims(y);
    for _ in 0..b.c.below(3) {
        y = match b.c.below(4) {
            0 => b.unsqueeze(y, &[0])?,
            1 => {
                let other = b.leaf(wide, &dims);
                b.add(if b.opset >= 11 { "Equal" } else { "Add" }, &[Some(y), Some(other)], vec![])?
            }
            2 => {
                let index = b.constant(Tensor::ints(&[0]));
                if b.dims(y).first().is_none_or(|&n| n == 0) {
                    return None;
                }
                b.add("Gather", &[Some(y), Some(index)], vec![])?
            }
            _ if b.dtype(y) == DataType::Bool => b.add("Not", &[Some(y)], vec![])?,
            _ => b.add("Abs", &[Some(y)], vec![])?,
        };
    }
    let back = if b.c.chance(50) { b.dtype(x) } else { DataType::Float };
    b.add("Cast", &[Some(y)], vec![("to", i64::from(back.code()).into())])
}

/// A Cast of an input to int64, and behind it what only moves elements.
fn moved_after_widening(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(
        &[DataType::Int32, DataType::Uint8],
        |d| d.len() >= 2 && !d.contains(&0),
        2,
    );
    let mut y =
        b.add("Cast", &[Some(x)], vec![("to", i64::from(DataType::Int64.code()).into())])?;
    let rank = b.rank(y);
    y = match b.c.below(4) {
        0 => {
            let perm = shuffled(b, rank);
            b.add("Transpose", &[Some(y)], vec![("perm", perm.into())])?
        }
        1 => {
            let n = data::volume(&b.dims(y)) as i64;
            let shape = b.ints(&[n]);
            b.add("Reshape", &[Some(y), Some(shape)], vec![])?
        }
        2 => b.unsqueeze(y, &[1])?,
        _ => {
            let index = b.constant(Tensor::ints(&[0]));
            b.add("Gather", &[Some(y), Some(index)], vec![("axis", 1.into())])?
        }
    };
    let to = *b.c.pick(&[DataType::Float, DataType::Bool, DataType::Int32, DataType::Int64]);
    b.add("Cast", &[Some(y)], vec![("to", i64::from(to.code()).into())])
}

/// Axes of length 1 around a Transpose, as convolutions over sequences have them.
fn unit_axes(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(&[DataType::Float], |d| d.len() == 3, 3);
    if b.rank(x) != 3 {
        return None;
    }
    let at = b.c.between(0, 3);
    let u = b.unsqueeze(x, &[at])?;
    let perm = shuffled(b, 4);
    let t = b.add("Transpose", &[Some(u)], vec![("perm", perm.into())])?;
    let dims = b.dims(t);
    let unit = dims.iter().position(|&d| d == 1)?;
    if b.c.chance(70) {
        return b.with_axes("Squeeze", t, Some(&[unit as i64]), 13, vec![]);
    }
    let rest: Vec<i64> =
        dims.iter().enumerate().filter(|(i, _)| *i != unit).map(|(_, &d)| d).collect();
    let shape = b.ints(&rest);
    b.add("Reshape", &[Some(t), Some(shape)], vec![])
}

/// Transpose, Reshape, Transpose, as heads are split and joined.
fn between_reshapes(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |d| d.len() >= 2 && d.len() < 5, 3);
    let rank = b.rank(x);
    let perm = shuffled(b, rank);
    let t = b.add("Transpose", &[Some(x)], vec![("perm", perm.into())])?;
    let dims = b.dims(t);
    let mut out = dims.clone();
    let at = b.c.below(out.len());
    if b.c.chance(50) && at + 1 < out.len() {
        let next = out.remove(at + 1);
        out[at] *= next;
    } else {
        out.insert(at, 1);
    }
    let out_rank = out.len();
    let out = b.ints(&out);
    let r = b.add("Reshape", &[Some(t), Some(out)], vec![])?;
    let perm = shuffled(b, out_rank);
    b.add("Transpose", &[Some(r)], vec![("perm", perm.into())])
}

fn shuffled(b: &mut Builder<'_, '_>, rank: usize) -> Vec<i64> {
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    for i in (1..rank).rev() {
        let j = b.c.below(i + 1);
        perm.swap(i, j);
    }
    perm
}

/// An Expand or Tile that a broadcasting operator reads.
fn expanded(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(&[DataType::Float, DataType::Int64], |d| d.contains(&1), 2);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let n = b.c.between(1, 3);
    let wide: Vec<i64> =
        dims.iter().map(|&d| if d == 1 && b.c.chance(70) { n } else { d }).collect();
    let e = if b.c.chance(60) {
        let shape = b.ints(&wide);
        b.add("Expand", &[Some(x), Some(shape)], vec![])?
    } else {
        let repeats: Vec<i64> =
            dims.iter().zip(&wide).map(|(&d, &w)| if d == w { 1 } else { w }).collect();
        let repeats = b.ints(&repeats);
        b.add("Tile", &[Some(x), Some(repeats)], vec![])?
    };
    let whole = b.c.chance(60);
    let other: Vec<i64> =
        wide.iter().map(|&d| if whole || b.c.chance(50) { d } else { 1 }).collect();
    let y = b.leaf(dtype, &other);
    let op = *b.c.pick(&["Add", "Mul", "Sub", "Max"]);
    b.add(op, &[Some(e), Some(y)], vec![])
}

/// Arithmetic with a neutral or a uniform constant, of the full shape or broadcast.
fn neutral(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(&[DataType::Float, DataType::Int64, DataType::Float16, DataType::Int32], 0);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let (op, n) = *b.c.pick(&[
        ("Add", 0),
        ("Sub", 0),
        ("Mul", 1),
        ("Div", 1),
        ("Pow", 1),
        ("Mul", 0),
        ("Add", 1),
    ]);
    let shape: Vec<i64> = match b.c.below(4) {
        0 => vec![],
        1 => dims.clone(),
        2 => vec![1; dims.len() + 1],
        _ => dims.iter().map(|&d| if d == 1 { 2 } else { d }).collect(),
    };
    let constant = data::from_ints(dtype, &shape, &vec![n; data::volume(&shape)]);
    let constant = b.constant(constant);
    let mut inputs = [Some(x), Some(constant)];
    if b.c.chance(35) {
        inputs.swap(0, 1);
    }
    b.add(op, &inputs, vec![])
}

/// A Transpose or Reshape before and behind element-wise operators.
fn moved_through(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(&[DataType::Float], |d| d.len() >= 2, 3);
    let rank = b.rank(x);
    let perm = shuffled(b, rank);
    let t = b.add("Transpose", &[Some(x)], vec![("perm", perm.clone().into())])?;
    let mut y = b.add("Relu", &[Some(t)], vec![])?;
    if b.c.chance(50) {
        let dims = b.dims(y);
        let other = b.leaf(DataType::Float, &dims);
        y = b.add("Add", &[Some(y), Some(other)], vec![])?;
    }
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(i, &p)| back[usize::try_from(p).unwrap_or(0)] = i as i64);
    b.add("Transpose", &[Some(y)], vec![("perm", back.into())])
}

/// Scores whose columns are read by relative position.
fn by_distance(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (rows, columns, inner) = (b.c.between(2, 3), b.c.between(2, 4), b.c.between(1, 3));
    let front = *b.c.pick(&[0, 1, 1, 2]);
    let front: Vec<i64> = (0..front).map(|_| b.c.between(1, 2)).collect();
    let distances = rows + columns - 1;
    let with = |last: [i64; 2]| front.iter().copied().chain(last).collect::<Vec<i64>>();
    let last = b.c.chance(60);
    let (q, table) = if last {
        (
            b.leaf(DataType::Float, &with([rows, inner])),
            b.leaf(DataType::Float, &[inner, distances]),
        )
    } else {
        (
            b.leaf(DataType::Float, &[distances, inner]),
            b.leaf(DataType::Float, &with([inner, rows])),
        )
    };
    let scores = b.add("MatMul", &[Some(q), Some(table)], vec![])?;
    let shape = with(if last { [rows, columns] } else { [columns, rows] });
    // Now and then the columns are in another order than that of the distance, or one is asked for that is none's.
    let turn = *b.c.pick(&[0, 0, 1]);
    let odd = b.c.chance(10);
    let volume: i64 = shape.iter().product();
    let index: Vec<i64> = (0..volume)
        .map(|at| {
            let at = at % (rows * columns);
            let (i, j) = if last { (at / columns, at % columns) } else { (at % rows, at / rows) };
            let distance = (i - j + columns - 1 + turn).rem_euclid(distances);
            if odd && at == 1 { 0 } else { distance }
        })
        .collect();
    let index = b.constant(Tensor::new(&shape, index));
    let axis = shape.len() - if last { 1 } else { 2 };
    let axis = b.written(axis, shape.len());
    b.add("GatherElements", &[Some(scores), Some(index)], vec![("axis", axis.into())])
}

/// A MatMul with matrices that are the same again after the first few.
fn repeated_weights(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (period, times) = (b.c.between(1, 2), b.c.between(1, 3));
    let (rows, inner, columns) = (b.c.between(0, 3), b.c.between(1, 3), b.c.between(1, 3));
    let on_the_left = b.c.chance(40);
    let dims = if on_the_left { [period, rows, inner] } else { [period, inner, columns] };
    let first = data::random(b.c, DataType::Float, &dims, true);
    let bytes = first.to_bytes().ok()?.repeat(usize::try_from(times).ok()?);
    let all = [period * times, dims[1], dims[2]];
    let weights = b.constant(Tensor::from_raw(DataType::Float, &all, bytes.into()).ok()?);
    let other = if on_the_left { [inner, columns] } else { [rows, inner] };
    let x = b.leaf(DataType::Float, &[period * times, other[0], other[1]]);
    let inputs = if on_the_left { [Some(weights), Some(x)] } else { [Some(x), Some(weights)] };
    b.add("MatMul", &inputs, vec![])
}

/// Types that normalizations and GELUs are made for.
const PLAIN_FLOATS: &[DataType] = &[DataType::Float, DataType::Float16, DataType::Double];

/// A node of two operands in either order.
fn either_way(b: &mut Builder<'_, '_>, op: &str, x: ValueId, y: ValueId) -> Option<ValueId> {
    let inputs = if b.c.chance(50) { [Some(x), Some(y)] } else { [Some(y), Some(x)] };
    b.add(op, &inputs, vec![])
}

fn number(b: &mut Builder<'_, '_>, like: ValueId, x: f64) -> ValueId {
    let dims: &[i64] = if b.c.chance(30) { &[1] } else { &[] };
    let tensor = data::from_floats(b.dtype(like), dims, &[x]);
    b.constant(tensor)
}

/// A layer normalization in one of its spellings.
fn normalization(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(PLAIN_FLOATS, 1);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let rank = dims.len();
    let count = if rank > 1 && b.c.chance(25) { 2 } else { 1 };
    let axes: Vec<i64> = (rank - count..rank).map(|axis| b.written(axis, rank)).collect();
    let average = b.with_axes("ReduceMean", x, Some(&axes), 18, vec![])?;
    let centered = b.add("Sub", &[Some(x), Some(average)], vec![])?;
    let again =
        if b.c.chance(30) { b.add("Sub", &[Some(x), Some(average)], vec![])? } else { centered };
    let square = if b.c.chance(50) {
        let two = number(b, x, 2.0);
        b.add("Pow", &[Some(again), Some(two)], vec![])?
    } else {
        b.add("Mul", &[Some(again), Some(centered)], vec![])?
    };
    let variance = b.with_axes("ReduceMean", square, Some(&axes), 18, vec![])?;
    let epsilon = number(b, x, 0.25);
    let moved = either_way(b, "Add", variance, epsilon)?;
    let deviation = b.add("Sqrt", &[Some(moved)], vec![])?;
    let mut y = if b.c.chance(50) {
        b.add("Div", &[Some(centered), Some(deviation)], vec![])?
    } else {
        let inverse = b.add("Reciprocal", &[Some(deviation)], vec![])?;
        either_way(b, "Mul", centered, inverse)?
    };
    for op in ["Mul", "Add"] {
        if b.c.chance(60) {
            let weights = data::random(b.c, dtype, &dims[rank - count..], true);
            let weights = b.constant(weights);
            y = either_way(b, op, y, weights)?;
        }
    }
    Some(y)
}

/// A GELU in one of its spellings.
fn gelu(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(PLAIN_FLOATS, 1);
    let bent = if b.c.chance(60) {
        let (op, factor) = *b.c.pick(&[("Div", SQRT_2), ("Mul", FRAC_1_SQRT_2)]);
        let factor = number(b, x, factor);
        let argument = b.add(op, &[Some(x), Some(factor)], vec![])?;
        b.add("Erf", &[Some(argument)], vec![])?
    } else {
        let square = b.add("Mul", &[Some(x), Some(x)], vec![])?;
        let cube = either_way(b, "Mul", square, x)?;
        let [small, slope] = [0.044_715, FRAC_2_SQRT_PI * FRAC_1_SQRT_2].map(|c| number(b, x, c));
        let cubic = either_way(b, "Mul", cube, small)?;
        let sum = either_way(b, "Add", x, cubic)?;
        let argument = either_way(b, "Mul", sum, slope)?;
        b.add("Tanh", &[Some(argument)], vec![])?
    };
    let [one, half] = [1.0, 0.5].map(|c| number(b, x, c));
    let sum = either_way(b, "Add", bent, one)?;
    let (first, last) = *b.c.pick(&[([x, half], sum), ([x, sum], half), ([sum, half], x)]);
    let product = either_way(b, "Mul", first[0], first[1])?;
    either_way(b, "Mul", product, last)
}

/// Small numbers, none of them special: sums of scores and masks are no place for infinities.
fn tame(b: &mut Builder<'_, '_>, dims: &[i64]) -> ValueId {
    let tensor = data::random(b.c, DataType::Float, dims, true);
    if b.c.chance(70) && !b.in_function { b.input(tensor) } else { b.constant(tensor) }
}

fn single(b: &mut Builder<'_, '_>, x: f32) -> ValueId {
    b.constant(Tensor::scalar(x))
}

/// A product with constant weights of these dimensions, with a constant bias or not.
fn projection(
    b: &mut Builder<'_, '_>,
    x: ValueId,
    weights: [i64; 2],
    with_bias: bool,
) -> Option<ValueId> {
    let columns = weights[1];
    let weights = data::random(b.c, DataType::Float, &weights, true);
    let weights = b.constant(weights);
    let product = b.add("MatMul", &[Some(x), Some(weights)], vec![])?;
    if !with_bias {
        return Some(product);
    }
    let bias = data::random(b.c, DataType::Float, &[columns], true);
    let bias = b.constant(bias);
    either_way(b, "Add", product, bias)
}

/// A linear layer, of tokens with one or two axes, with a bias and a scale behind it or not.
fn linear(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (inner, columns) = (b.c.between(1, 3), b.c.between(1, 3));
    let axes = b.c.between(1, 2);
    let rows: Vec<i64> = (0..axes).map(|_| b.c.between(1, 3)).collect();
    let with = |last: i64| rows.iter().copied().chain([last]).collect::<Vec<i64>>();
    let x = tame(b, &with(inner));
    let with_bias = b.c.chance(70);
    let mut y = projection(b, x, [inner, columns], with_bias)?;
    if b.c.chance(50) {
        let scale = single(b, 4.0);
        let op = *b.c.pick(&["Div", "Mul"]);
        y = b.add(op, &[Some(y), Some(scale)], vec![])?;
    }
    if b.c.chance(20) {
        b.add("Relu", &[Some(y)], vec![])?;
    }
    Some(y)
}

/// Two linear layers with a hidden one between them, whose rows are a page of memory long.
fn feed_forward(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let width = 1024;
    let [rows, inner, columns] = [9, 1, 1].map(|least| b.c.between(least, least + 1));
    let x = tame(b, &[rows, inner]);
    let most = std::mem::replace(&mut b.most, data::volume(&[rows, width]));
    let hidden = activated(b, x, [inner, width]);
    b.most = most;
    let with_bias = b.c.chance(50);
    projection(b, hidden?, [width, columns], with_bias)
}

/// A linear layer and what is made of its elements one by one.
fn activated(b: &mut Builder<'_, '_>, x: ValueId, weights: [i64; 2]) -> Option<ValueId> {
    let with_bias = b.c.chance(70);
    let sums = projection(b, x, weights, with_bias)?;
    let activation = *b.c.pick(&["Tanh", "Relu", "Sigmoid", "Erf"]);
    let y = b.add(activation, &[Some(sums)], vec![])?;
    if b.c.chance(50) { either_way(b, "Mul", y, sums) } else { Some(y) }
}

/// Scores with a mask, a Softmax, and the product with values.
fn attention(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (samples, heads) = (b.c.between(1, 2), b.c.between(1, 2));
    let (tokens, features) = (b.c.between(2, 3), b.c.between(1, 2));
    let mut scores = tame(b, &[samples, heads, tokens, tokens]);
    let of_keys = b.c.chance(40);
    let dims = if of_keys { [samples, 1, 1, tokens] } else { [samples, 1, tokens, tokens] };
    // A sample without a key that counts is not one that the NPU's mask keeps.
    let hidden: Vec<i64> = (0..data::volume(&dims) as i64)
        .map(|at| i64::from(!(of_keys && at % tokens == 0) && b.c.chance(50)))
        .collect();
    let hidden = data::from_ints(DataType::Bool, &dims, &hidden);
    let hidden = if b.in_function { b.constant(hidden) } else { b.input(hidden) };
    let is_cleared = b.c.chance(50);
    let zero = single(b, 0.0);
    let masked = match b.c.below(3) {
        0 => {
            let lows = if is_cleared { [-3e38, f32::NEG_INFINITY] } else { [-3e38, -1e9] };
            let low = *b.c.pick(&lows);
            let low = single(b, low);
            if b.c.chance(30) {
                let largest = b.with_axes("ReduceMax", scores, Some(&[3]), 18, vec![])?;
                scores = b.add("Sub", &[Some(scores), Some(largest)], vec![])?;
            }
            b.add("Where", &[Some(hidden), Some(low), Some(scores)], vec![])?
        }
        1 => {
            let low = single(b, -3e38);
            let mask = b.add("Where", &[Some(hidden), Some(low), Some(zero)], vec![])?;
            b.add("Add", &[Some(scores), Some(mask)], vec![])?
        }
        _ => {
            let low = *b.c.pick(&[-3e38, -1e4]);
            let low = single(b, low);
            let ones = b.add("Cast", &[Some(hidden)], vec![("to", 1.into())])?;
            let mask = b.add("Mul", &[Some(ones), Some(low)], vec![])?;
            b.add("Add", &[Some(mask), Some(scores)], vec![])?
        }
    };
    let mut p = b.add("Softmax", &[Some(masked)], vec![("axis", 3.into())])?;
    if is_cleared {
        p = b.add("Where", &[Some(hidden), Some(zero), Some(p)], vec![])?;
    }
    let front = if b.c.chance(40) { vec![samples * heads] } else { vec![samples, heads] };
    let with = |last: [i64; 2]| front.iter().copied().chain(last).collect::<Vec<i64>>();
    if front.len() == 1 {
        let shape = b.ints(&with([tokens, tokens]));
        p = b.add("Reshape", &[Some(p), Some(shape)], vec![])?;
    }
    let values = tame(b, &with([tokens, features]));
    b.add("MatMul", &[Some(p), Some(values)], vec![])
}

/// The band of a product that stands in its rows one further left in each.
fn band(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (n, inner) = (b.c.between(1, 3), b.c.between(1, 2));
    let front: Vec<i64> = if b.c.chance(50) { vec![b.c.between(1, 2)] } else { Vec::new() };
    let with = |last: &[i64]| front.iter().chain(last).copied().collect::<Vec<i64>>();
    let left = tame(b, &with(&[n, inner]));
    let table = data::random(b.c, DataType::Float, &[inner, 2 * n], true);
    let table = b.constant(table);
    let product = b.add("MatMul", &[Some(left), Some(table)], vec![])?;
    let axis = front.len() as i64;
    let flat = b.ints(&with(&[2 * n * n]));
    let flat = b.add("Reshape", &[Some(product), Some(flat)], vec![])?;
    let cut = sliced(b, flat, axis, n - 1, n - 1 + n * (2 * n - 1))?;
    let rows = b.ints(&with(&[n, 2 * n - 1]));
    let rows = b.add("Reshape", &[Some(cut), Some(rows)], vec![])?;
    sliced(b, rows, axis + 1, 0, n)
}

/// A part of one axis.
fn sliced(b: &mut Builder<'_, '_>, x: ValueId, axis: i64, start: i64, end: i64) -> Option<ValueId> {
    if b.opset < 10 {
        let one = |i: i64| vec![i].into();
        let attrs = vec![("axes", one(axis)), ("starts", one(start)), ("ends", one(end))];
        return b.add("Slice", &[Some(x)], attrs);
    }
    let [start, end, axis] = [start, end, axis].map(|i| b.ints(&[i]));
    b.add("Slice", &[Some(x), Some(start), Some(end), Some(axis)], vec![])
}

/// Normalised values that linear layers read, and that go around one of them.
fn residual(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 17 {
        return None;
    }
    let (rows, features) = (b.c.between(1, 3), b.c.between(1, 3));
    let weights = |b: &mut Builder<'_, '_>, dims: &[i64]| {
        let tensor = data::random(b.c, DataType::Float, dims, true);
        Some(b.constant(tensor))
    };
    let e = tame(b, &[rows, features]);
    let (scale, shift) = (weights(b, &[features]), weights(b, &[features]));
    let x = b.add("LayerNormalization", &[Some(e), scale, shift], vec![])?;
    let gemm = |b: &mut Builder<'_, '_>, x: ValueId, turned: bool| {
        let (w, bias) = (weights(b, &[features, features]), weights(b, &[features]));
        let attrs = if turned { vec![("transB", 1.into())] } else { vec![] };
        b.add("Gemm", &[Some(x), w, bias], attrs)
    };
    if b.c.chance(60) {
        let turned = b.c.chance(50);
        gemm(b, x, turned)?;
    }
    let c = tame(b, &[rows, features]);
    let o = gemm(b, c, false)?;
    either_way(b, "Add", o, x)
}

/// A few steps that work row by row, of which one row is read.
fn rows(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let dims = [b.c.between(1, 2), b.c.between(2, 3), b.c.between(2, 3)];
    let mut x = tame(b, &dims);
    for _ in 0..b.c.between(1, 4) {
        let now = b.dims(x);
        x = match b.c.below(6) {
            0 => b.add("Relu", &[Some(x)], vec![])?,
            1 => {
                let other = tame(b, &now[now.len() - 1..]);
                either_way(b, "Add", x, other)?
            }
            2 => {
                let other = tame(b, &now);
                either_way(b, "Mul", x, other)?
            }
            3 => {
                let weights = tame(b, &[now[now.len() - 1], 2]);
                b.add("MatMul", &[Some(x), Some(weights)], vec![])?
            }
            4 if now.len() == 3 => {
                b.add("Transpose", &[Some(x)], vec![("perm", vec![1, 0, 2].into())])?
            }
            4 | 5 if now.len() == 3 => {
                let joined = b.ints(&[now[0] * now[1], now[2]]);
                b.add("Reshape", &[Some(x), Some(joined)], vec![])?
            }
            _ => b.add("Softmax", &[Some(x)], vec![("axis", (now.len() as i64 - 1).into())])?,
        };
    }
    let axis = b.c.below(b.rank(x) - 1) as i64;
    if b.c.chance(50) {
        return sliced(b, x, axis, 0, 1);
    }
    let first = b.constant(Tensor::scalar(0_i64));
    b.add("Gather", &[Some(x), Some(first)], vec![("axis", axis.into())])
}

/// Windows of a padded sequence, each element with a weight per position and head, as exports of ConvBERT weigh them.
fn span_convolution(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 11 {
        return None;
    }
    let (samples, length, heads) = (b.c.between(1, 2), b.c.between(2, 4), b.c.between(1, 2));
    let (channels, taps) = (b.c.between(1, 3), b.c.between(2, 3));
    let mut x = tame(b, &[samples, length, heads * channels]);
    let pads = [b.c.between(0, 2), b.c.between(0, 2)];
    let positions = length + pads[0] + pads[1] - taps + 1;
    if positions < 1 {
        return None;
    }
    // Computed or given from outside, one of so many would nearly always hide what this is.
    let ints = |b: &mut Builder<'_, '_>, ints: &[i64]| b.constant(Tensor::ints(ints));
    let around = ints(b, &[0, pads[0], 0, 0, pads[1], 0]);
    x = b.add("Pad", &[Some(x), Some(around)], vec![])?;
    let by_tap = b.c.chance(70);
    let (count, taken) = if by_tap { (taps, positions) } else { (positions, taps) };
    let mut parts = Vec::new();
    for i in 0..count {
        let (from, to, axis) = (ints(b, &[i]), ints(b, &[i + taken]), ints(b, &[1]));
        parts.push(Some(b.add("Slice", &[Some(x), Some(from), Some(to), Some(axis)], vec![])?));
    }
    let all = b.add("Concat", &parts, vec![("axis", 1.into())])?;
    let split = ints(b, &[samples, count, taken, heads, channels]);
    let split = b.add("Reshape", &[Some(all), Some(split)], vec![])?;
    let left = b.c.chance(60);
    let perm = match (by_tap, left) {
        (true, true) => vec![0, 2, 3, 4, 1],
        (true, false) => vec![0, 2, 3, 1, 4],
        (false, true) => vec![0, 1, 3, 4, 2],
        (false, false) => vec![0, 1, 3, 2, 4],
    };
    let turned = b.add("Transpose", &[Some(split)], vec![("perm", perm.into())])?;
    let n = samples * positions * heads;
    let matrix = |rows: i64, columns: i64| [n, rows, columns];
    let of_windows = if left { matrix(channels, taps) } else { matrix(taps, channels) };
    let shape = ints(b, &of_windows);
    let windows = b.add("Reshape", &[Some(turned), Some(shape)], vec![])?;
    let weights = tame(b, &if left { matrix(taps, 1) } else { matrix(1, taps) });
    let operands = if left { [windows, weights] } else { [weights, windows] };
    b.add("MatMul", &operands.map(Some), vec![])
}

/// Two products with the heads of two projections of one value, side by side, transposed before or behind.
fn joined_heads(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (tokens, features, channels) = (b.c.between(1, 3), b.c.between(1, 2), b.c.between(1, 2));
    let x = tame(b, &[1, tokens, features]);
    let transposed = b.c.chance(50);
    let with_bias = b.c.chance(50);
    let mut parts = Vec::new();
    for _ in 0..2 {
        let heads = b.c.between(1, 2);
        let y = projection(b, x, [features, heads * channels], with_bias)?;
        let shape = b.ints(&[1, tokens, heads, channels]);
        let y = b.add("Reshape", &[Some(y), Some(shape)], vec![])?;
        let y = b.add("Transpose", &[Some(y)], vec![("perm", vec![0, 2, 1, 3].into())])?;
        let left = tame(b, &[1, heads, tokens, tokens]);
        let mut y = b.add("MatMul", &[Some(left), Some(y)], vec![])?;
        if transposed {
            y = b.add("Transpose", &[Some(y)], vec![("perm", vec![0, 2, 1, 3].into())])?;
        }
        parts.push(Some(y));
    }
    b.add("Concat", &parts, vec![("axis", if transposed { 2 } else { 1 }.into())])
}

/// A few rows of probabilities, or queries, with the heads of a projection of all tokens.
fn few_rows(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (samples, heads, rows) = (b.c.between(1, 2), b.c.between(1, 2), b.c.between(1, 2));
    let (tokens, channels, width) = (b.c.between(2, 5), b.c.between(1, 2), b.c.between(2, 4));
    let x = tame(b, &[samples * tokens, channels]);
    let with_bias = b.c.chance(60);
    let y = projection(b, x, [channels, heads * width], with_bias)?;
    let shape = b.ints(&[samples, tokens, heads, width]);
    let y = b.add("Reshape", &[Some(y), Some(shape)], vec![])?;
    let is_values = b.c.chance(50);
    let perm = if is_values { vec![0, 2, 1, 3] } else { vec![0, 2, 3, 1] };
    let y = b.add("Transpose", &[Some(y)], vec![("perm", perm.into())])?;
    let mut left = tame(b, &[samples, heads, rows, if is_values { tokens } else { width }]);
    if is_values && b.c.chance(50) {
        left = b.add("Softmax", &[Some(left)], vec![("axis", 3.into())])?;
    }
    let product = b.add("MatMul", &[Some(left), Some(y)], vec![])?;
    if is_values || b.c.chance(30) {
        return Some(product);
    }
    let mask = if b.c.chance(50) {
        // The first token is shown to all.
        let hidden: Vec<f32> =
            (0..tokens).map(|i| if i > 0 && b.c.chance(50) { -3e38 } else { 0.0 }).collect();
        b.constant(Tensor::new(&[1, 1, 1, tokens], hidden))
    } else {
        tame(b, &[samples, 1, 1, tokens])
    };
    let masked = b.add("Add", &[Some(product), Some(mask)], vec![])?;
    b.add("Softmax", &[Some(masked)], vec![("axis", 3.into())])
}

/// A projection whose heads hold several parts each, which Slices take, or get their bias late.
fn alternating_heads(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (tokens, channels, heads) = (b.c.between(1, 3), b.c.between(1, 2), b.c.between(2, 3));
    let parts = [b.c.between(1, 2), b.c.between(1, 2)];
    let width = parts.iter().sum::<i64>();
    let x = tame(b, &[1, tokens, channels]);
    let with_bias = b.c.chance(50);
    let y = projection(b, x, [channels, heads * width], with_bias)?;
    let shape = b.ints(&[1, tokens, heads, width]);
    let mut y = b.add("Reshape", &[Some(y), Some(shape)], vec![])?;
    let mut bias = [1, heads, width];
    if b.c.chance(60) {
        y = b.add("Transpose", &[Some(y)], vec![("perm", vec![0, 2, 1, 3].into())])?;
        bias = [heads, 1, width];
    }
    if b.c.chance(40) {
        let bias = data::random(b.c, DataType::Float, &bias, true);
        let bias = b.constant(bias);
        return either_way(b, "Add", y, bias);
    }
    let first = sliced(b, y, 3, 0, parts[0])?;
    // Perhaps the parts overlap.
    let begin = if b.c.chance(10) { 0 } else { parts[0] };
    let second = sliced(b, y, 3, begin, width)?;
    b.add("Concat", &[Some(second), Some(first)], vec![("axis", 3.into())])
}

/// One element of each row of a product.
fn diagonal(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 10 {
        return None;
    }
    let (rows, inner, columns) = (b.c.between(2, 3), b.c.between(1, 2), b.c.between(2, 5));
    let front: Vec<i64> = if b.c.chance(50) { vec![b.c.between(1, 2)] } else { Vec::new() };
    let with = |last: &[i64]| front.iter().chain(last).copied().collect::<Vec<i64>>();
    let left = tame(b, &with(&[rows, inner]));
    let table = data::random(b.c, DataType::Float, &[inner, columns], true);
    let table = b.constant(table);
    let product = b.add("MatMul", &[Some(left), Some(table)], vec![])?;
    let flat = b.ints(&with(&[rows * columns]));
    let flat = b.add("Reshape", &[Some(product), Some(flat)], vec![])?;
    // From the left or from the right, or down one column.
    let step = columns + b.c.between(-1, 1);
    let start = if step < columns { columns - 1 } else { 0 };
    let end = (start + (rows - 1) * step + 1).min(rows * columns);
    let (start, end) = (b.ints(&[start]), b.ints(&[end]));
    let (axis, step) = (b.ints(&[front.len() as i64]), b.ints(&[step]));
    b.add("Slice", &[Some(flat), Some(start), Some(end), Some(axis), Some(step)], vec![])
}

/// One row of what weights become in a view with rows one shorter.
fn row_of_band(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 11 {
        return None;
    }
    let (rows, taps) = (b.c.between(1, 3), b.c.between(1, 3));
    let (left, right) = (b.c.between(0, 2), b.c.between(rows, 5));
    let wide = left + taps + right;
    let weights = tame(b, &[rows, taps]);
    let pads = b.ints(&[0, left, wide - 1 - rows, right]);
    let padded = b.add("Pad", &[Some(weights), Some(pads)], vec![])?;
    let shape = b.ints(&[wide, wide - 1]);
    let view = b.add("Reshape", &[Some(padded), Some(shape)], vec![])?;
    let first = b.c.between(0, left.min(wide - 2));
    let (from, to) = (b.ints(&[0, first]), b.ints(&[rows, wide - 1]));
    let axes = b.ints(&[0, 1]);
    let band = b.add("Slice", &[Some(view), Some(from), Some(to), Some(axes)], vec![])?;
    let row = b.c.between(0, rows - 1);
    let (from, to, axis) = (b.ints(&[row]), b.ints(&[row + 1]), b.ints(&[0]));
    b.add("Slice", &[Some(band), Some(from), Some(to), Some(axis)], vec![])
}

/// A convolution with a bias added behind it, of which all or some positions are used.
fn biased_convolution(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    if b.opset < 10 {
        return None;
    }
    let (channels, filters, length) = (b.c.between(1, 2), b.c.between(1, 2), b.c.between(3, 6));
    let x = tame(b, &[1, channels, length]);
    let taps = b.c.between(1, 3);
    let w = tame(b, &[filters, channels, taps]);
    let pads = vec![b.c.between(0, 2), b.c.between(0, 2)];
    let mut y = b.add("Conv", &[Some(x), Some(w)], vec![("pads", pads.into())])?;
    if b.c.chance(60) {
        let dims: &[i64] = if b.c.chance(80) { &[filters, 1] } else { &[1] };
        let bias = data::random(b.c, DataType::Float, dims, true);
        let bias = b.constant(bias);
        y = either_way(b, "Add", y, bias)?;
    }
    if b.c.chance(60) {
        let last = b.dims(y)[2];
        let start = b.c.between(0, last - 1);
        let end = b.c.between(start + 1, last);
        let (from, to, axis) = (b.ints(&[start]), b.ints(&[end]), b.ints(&[2]));
        y = b.add("Slice", &[Some(y), Some(from), Some(to), Some(axis)], vec![])?;
    }
    Some(y)
}

/// A Not in front of another, or of a choice.
fn negated(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.leaf(DataType::Bool, &[2, 1]);
    let not = b.add("Not", &[Some(x)], vec![])?;
    if b.c.chance(50) {
        return b.add("Not", &[Some(not)], vec![]);
    }
    let (low, high) = (single(b, -1.0), single(b, 1.0));
    b.add("Where", &[Some(not), Some(low), Some(high)], vec![])
}

/// A matrix that is split, transposed and given an axis of length 1, or the way back.
fn turned_for_convolution(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (samples, tokens, features) = (b.c.between(1, 2), b.c.between(2, 3), b.c.between(2, 3));
    let mut shapes = [
        vec![samples * tokens, features],
        vec![samples, tokens, features],
        vec![samples, features, 1, tokens],
    ];
    if b.c.chance(50) {
        shapes.reverse();
        shapes[1] = vec![samples, features, tokens];
    }
    let x = tame(b, &shapes[0]);
    let split = b.ints(&shapes[1]);
    let split = b.add("Reshape", &[Some(x), Some(split)], vec![])?;
    let turned = b.add("Transpose", &[Some(split)], vec![("perm", vec![0, 2, 1].into())])?;
    let shape = b.ints(&shapes[2]);
    b.add("Reshape", &[Some(turned), Some(shape)], vec![])
}
