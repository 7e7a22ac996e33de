//! Questions that matches ask. Each answers with what was asked for, or with the reason why the match fails.

use std::sync::Arc;

use onnxfix_ir::infer::evaluate;
use onnxfix_ir::{DataType, Dim, Model, NodeId, Shape, Tensor, Use, ValueId};
use smallvec::SmallVec;

use crate::{Miss, unmet};

/// Dimensions as numbers.
pub(crate) type Dims = SmallVec<[i64; 4]>;

/// The value at an input that the operator needs.
pub(crate) fn input(m: &Model, node: NodeId, slot: usize) -> Result<ValueId, Miss> {
    m[node].input(slot).ok_or(Miss::NoMatch)
}

/// The first output.
pub(crate) fn output(m: &Model, node: NodeId) -> Result<ValueId, Miss> {
    m[node].output(0).ok_or(Miss::NoMatch)
}

/// The node of that operator which makes a value.
pub(crate) fn producer(m: &Model, value: ValueId, op: &str) -> Result<NodeId, Miss> {
    m.producer(value).filter(|&n| m[n].op().is(op)).ok_or(Miss::NoMatch)
}

/// Operators that give their input another shape and change nothing else.
pub(crate) const RESHAPES: &[&str] = &["Reshape", "Squeeze", "Unsqueeze", "Flatten"];

/// Whether a node is one of [`RESHAPES`].
pub(crate) fn is_reshape(m: &Model, node: NodeId) -> bool {
    RESHAPES.iter().any(|op| m[node].op().is(op))
}

/// The elements of a constant.
pub(crate) fn constant(m: &Model, value: ValueId) -> Result<&Arc<Tensor>, Miss> {
    match m.constant(value) {
        Some(tensor) => Ok(tensor),
        None => unmet(format!("{:?} is not constant", m[value].name())),
    }
}

/// The most bytes that a match computes to look at them.
const LOOK_LIMIT: u64 = 512 << 20;
/// The most nodes that a match looks through for constants.
const LOOK_DEPTH: usize = 8;

/// Whether a value is constant, or computed from constants by a few nodes.
pub(crate) fn is_computed(m: &Model, value: ValueId) -> bool {
    fn reaches(m: &Model, value: ValueId, depth: usize) -> bool {
        if m.constant(value).is_some() {
            return true;
        }
        let Some(node) = m.producer(value).filter(|_| depth > 0) else { return false };
        let n = &m[node];
        n.op().def.is_some_and(|d| d.eval.is_some())
            && n.inputs().iter().flatten().all(|&v| reaches(m, v, depth - 1))
    }
    reaches(m, value, LOOK_DEPTH)
}

/// Whether the node that makes a value, or a node a few steps before it, repeats something.
pub(crate) fn is_repeated(m: &Model, value: ValueId) -> bool {
    fn reaches(m: &Model, value: ValueId, depth: usize) -> bool {
        let Some(node) = m.producer(value).filter(|_| depth > 0) else { return false };
        let n = &m[node];
        ["Expand", "Tile", "Concat"].iter().any(|op| n.op().is(op))
            || n.inputs().iter().flatten().any(|&v| reaches(m, v, depth - 1))
    }
    reaches(m, value, LOOK_DEPTH)
}

/// The elements of a constant, or of what a few nodes compute from constants: such nodes stay in the graph where their
/// results are larger than what folding may add.
pub(crate) fn computed(m: &Model, value: ValueId) -> Result<Arc<Tensor>, Miss> {
    fn look(m: &Model, value: ValueId) -> Option<Arc<Tensor>> {
        if let Some(tensor) = m.constant(value) {
            return Some(tensor.clone());
        }
        let node = m.producer(value)?;
        let slots = m[node].inputs().iter();
        let inputs: SmallVec<[Option<Arc<Tensor>>; 4]> = slots
            .map(|slot| slot.map_or(Some(None), |v| look(m, v).map(Some)))
            .collect::<Option<_>>()?;
        let inputs: SmallVec<[Option<&Tensor>; 4]> = inputs.iter().map(Option::as_deref).collect();
        let results = evaluate(m, node, &inputs, LOOK_LIMIT).ok()??;
        let at = m[node].outputs().iter().position(|v| *v == Some(value))?;
        results.into_iter().nth(at).map(Arc::new)
    }
    match is_computed(m, value).then(|| look(m, value)).flatten() {
        Some(tensor) => Ok(tensor),
        None => unmet(format!("{:?} is not constant", m[value].name())),
    }
}

/// After how many entries of the first axis a tensor is the same again: all of them where it does not repeat.
/// None where there are no elements to tell by.
pub(crate) fn period(tensor: &Tensor) -> Option<i64> {
    let bytes = tensor.raw().ok()?;
    let count = usize::try_from(*tensor.dims.first()?).ok()?;
    let entry = bytes.len().checked_div(count).filter(|&entry| entry > 0)?;
    let repeats = |n: usize| bytes[n * entry..] == bytes[..bytes.len() - n * entry];
    let period = (1..count).filter(|n| count % n == 0).find(|&n| repeats(n));
    i64::try_from(period.unwrap_or(count)).ok()
}

/// The first entries of the first axis, in memory of their own.
pub(crate) fn first(tensor: &Tensor, count: i64) -> Option<Tensor> {
    let (all, rest) = tensor.dims.split_first()?;
    let dims: Vec<i64> = [count].iter().chain(rest).copied().collect();
    let bytes = tensor.to_bytes().ok()?;
    let entry = bytes.len().checked_div(usize::try_from(*all).ok()?)?;
    let part = bytes.get(..entry.checked_mul(usize::try_from(count).ok()?)?)?;
    Tensor::from_raw(tensor.dtype, &dims, part.to_vec().into()).ok()
}

/// The elements of a constant of integers.
pub(crate) fn ints(m: &Model, value: ValueId) -> Result<Vec<i64>, Miss> {
    constant(m, value)?.to_ints().ok_or(Miss::NoMatch)
}

/// The shape, if at least the rank is known.
pub(crate) fn shape(m: &Model, value: ValueId) -> Result<&Shape, Miss> {
    match m[value].shape() {
        Some(shape) => Ok(shape),
        None => unmet(format!("the rank of {:?} is unknown", m[value].name())),
    }
}

/// The dimensions, if all are known.
pub(crate) fn dims(m: &Model, value: ValueId) -> Result<Dims, Miss> {
    match m[value].dims() {
        Some(dims) => Ok(dims),
        None => unmet(format!("the shape of {:?} is not static", m[value].name())),
    }
}

/// The dimensions, if all are known and none is 0: the second operand of a Reshape means by 0 the input's dimension.
pub(crate) fn dims_of_elements(m: &Model, value: ValueId) -> Result<Dims, Miss> {
    let dims = dims(m, value)?;
    if dims.contains(&0) {
        return unmet(format!("{:?} has no elements", m[value].name()));
    }
    Ok(dims)
}

/// The element type.
pub(crate) fn dtype(m: &Model, value: ValueId) -> Result<DataType, Miss> {
    match m[value].dtype() {
        Some(dtype) => Ok(dtype),
        None => unmet(format!("the type of {:?} is unknown", m[value].name())),
    }
}

/// Whether both values surely have the same shape.
pub(crate) fn same_shape(m: &Model, a: ValueId, b: ValueId) -> Result<bool, Miss> {
    let (a, b) = (shape(m, a)?, shape(m, b)?);
    if a.rank() != b.rank() {
        return Ok(false);
    }
    if a.0.iter().zip(&b.0).all(|(x, y)| x.same(y)) {
        return Ok(true);
    }
    let differ =
        a.0.iter()
            .zip(&b.0)
            .any(|(x, y)| matches!((x, y), (Dim::Fixed(x), Dim::Fixed(y)) if x != y));
    if differ { Ok(false) } else { unmet(format!("shapes {a} and {b} are not known to be equal")) }
}

/// Whether only one input slot in the whole model reads the value, and no graph gives it out.
pub(crate) fn used_once(m: &Model, value: ValueId) -> bool {
    m[value].uses().len() == 1 && !m.is_output(value)
}

/// The permutation of a Transpose, written out.
pub(crate) fn perm(m: &Model, node: NodeId, rank: usize) -> Vec<i64> {
    match m[node].attrs.ints("perm") {
        Some(perm) => perm.to_vec(),
        None => (0..rank as i64).rev().collect(),
    }
}

/// The scalar that all elements of a constant are equal to.
pub(crate) fn uniform(m: &Model, value: ValueId) -> Option<f64> {
    let tensor = m.constant(value)?;
    // A tensor of weights is no scalar, and reading it through would take long.
    if tensor.byte_len() > 1 << 16 {
        return None;
    }
    let all = tensor
        .to_floats()
        .or_else(|| Some(tensor.to_ints()?.into_iter().map(|i| i as f64).collect()))?;
    let first = *all.first()?;
    all.iter().all(|&x| x.to_bits() == first.to_bits()).then_some(first)
}

/// A number as a scalar of this type, which is float or double: 16 bits would round what passes mean.
pub(crate) fn float(dtype: DataType, x: f64) -> Result<Tensor, Miss> {
    if !matches!(dtype, DataType::Float | DataType::Double) {
        return unmet(format!("the elements are {dtype}"));
    }
    Tensor::filled(dtype, &[], x).ok_or(Miss::NoMatch)
}

/// Operators beside reductions that work along one axis, mostly the last.
pub(crate) const ALONG_AXIS: &[&str] = &["Softmax", "LogSoftmax", "LayerNormalization"];

/// Whether one of [`ALONG_AXIS`], of something of this rank, works along the last axis alone.
pub(crate) fn is_along_last(m: &Model, node: NodeId, rank: usize) -> bool {
    let last = rank as i64 - 1;
    match m[node].attrs.int("axis") {
        Some(axis) => axis == -1 || axis == last,
        None if m[node].op().is("LayerNormalization") => true,
        // The default was 1 before opset 13.
        None => last == 1 || m.opset(m[node].graph(), "").is_some_and(|version| version >= 13),
    }
}

/// The only reader of probabilities: the product with the values.
pub(crate) struct ProductOf {
    /// The MatMul.
    pub(crate) product: NodeId,
    /// The shape that a Reshape between the two gives the probabilities.
    pub(crate) reshaped: Option<Dims>,
}

/// The product that alone reads probabilities, perhaps behind reshapes that keep their rows.
pub(crate) fn product_of(m: &Model, probabilities: ValueId) -> Result<ProductOf, Miss> {
    let (mut read, mut reshaped) = (probabilities, None);
    loop {
        let only = m[read].uses().iter().next().copied().filter(|_| used_once(m, read));
        let Some(Use::Input { node, slot }) = only else {
            return unmet("something else reads the probabilities");
        };
        if slot == 0 && m[node].op().is("MatMul") {
            if dims(m, read)?.last() != dims(m, probabilities)?.last() || dims(m, read)?.len() < 2 {
                return unmet("a reshape cuts the rows of the probabilities");
            }
            return Ok(ProductOf { product: node, reshaped });
        }
        if !is_reshape(m, node) {
            return unmet("something else than a product reads the probabilities");
        }
        read = output(m, node)?;
        reshaped = Some(dims_of_elements(m, read)?);
    }
}

/// Reductions that inference and passes treat alike.
pub(crate) const REDUCTIONS: &[&str] = &["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"];

/// Succeeds where a reduction of something of this rank is along the last axis alone, which stays with length 1.
pub(crate) fn reduces_last(m: &Model, node: NodeId, rank: usize) -> Result<(), Miss> {
    if m[node].attrs.int("keepdims") == Some(0) {
        return unmet("the reduction drops its axis");
    }
    let axes = match m[node].input(1) {
        Some(axes) => ints(m, axes)?,
        None => m[node].attrs.ints("axes").unwrap_or_default().to_vec(),
    };
    match axes[..] {
        [axis] if axis == -1 || axis == rank as i64 - 1 => Ok(()),
        _ => unmet("the reduction is not along the last axis alone"),
    }
}

/// What a Slice takes of one axis: `start`, `start + step`, and so on, `len` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) x: ValueId,
    pub(crate) axis: usize,
    pub(crate) start: i64,
    pub(crate) len: i64,
    pub(crate) step: i64,
}

/// A Slice of one axis by constants, forwards.
pub(crate) fn sliced(m: &Model, node: NodeId) -> Result<Slice, Miss> {
    if !m[node].op().is("Slice") {
        return Err(Miss::NoMatch);
    }
    let x = input(m, node, 0)?;
    let from = dims(m, x)?;
    let operand = |slot: usize, attr: &str| match m[node].input(slot) {
        Some(v) => ints(m, v).map(Some),
        None => Ok(m[node].attrs.ints(attr).map(<[i64]>::to_vec)),
    };
    let (Some(starts), Some(ends)) = (operand(1, "starts")?, operand(2, "ends")?) else {
        return Err(Miss::NoMatch);
    };
    let axes = operand(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = operand(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    let (&[start], &[end], &[axis], &[step @ 1..=i64::MAX]) =
        (starts.as_slice(), ends.as_slice(), axes.as_slice(), steps.as_slice())
    else {
        return unmet("a slice takes more than one axis, or goes backwards");
    };
    let axis = onnxfix_ir::op::normal_axis(axis, from.len()).map_err(|_| Miss::NoMatch)?;
    let n = from[axis];
    let clamp = |i: i64| (if i < 0 { i.saturating_add(n) } else { i }).clamp(0, n);
    let (start, end) = (clamp(start), clamp(end));
    let len = (end - start).max(0).saturating_add(step - 1) / step;
    Ok(Slice { x, axis, start, len, step })
}

/// The one element of a constant that has no other, in as many axes as broadcast to nothing more than `rank` axes.
pub(crate) fn scalar(m: &Model, value: ValueId, rank: usize) -> Option<f64> {
    let tensor = m.constant(value)?;
    let narrow = tensor.dims.len() <= rank && tensor.dims.iter().all(|&d| d == 1);
    if narrow { uniform(m, value) } else { None }
}

/// The two inputs of a node of that operator, which makes the value.
pub(crate) fn operands(m: &Model, value: ValueId, op: &str) -> Option<[ValueId; 2]> {
    let node = m.producer(value).filter(|&n| m[n].op().is(op))?;
    Some([m[node].input(0)?, m[node].input(1)?])
}

/// Whether nothing but `nodes` reads what they make, `result` aside: then all of them die with it.
pub(crate) fn is_closed(m: &Model, nodes: &[NodeId], result: ValueId) -> bool {
    let inner = nodes.iter().flat_map(|&n| m[n].outputs().iter().flatten());
    inner
        .filter(|&&v| v != result)
        .all(|&v| !m.is_output(v) && m.users(v).all(|n| nodes.contains(&n)))
}

/// A slice of one axis by constants, forwards, step 1.
pub(crate) fn slice(m: &Model, value: ValueId) -> Result<Slice, Miss> {
    let slice = sliced(m, producer(m, value, "Slice")?)?;
    if slice.step == 1 { Ok(slice) } else { unmet("a slice takes steps") }
}

/// Zeros before and after one axis, when that is all that a Pad does.
pub(crate) fn zero_pads(m: &Model, node: NodeId, axis: usize, rank: usize) -> Option<(i64, i64)> {
    if m[node].attrs.str("mode").is_some_and(|mode| mode != "constant")
        || m[node].input(3).is_some()
    {
        return None;
    }
    let zero = match m[node].input(2) {
        Some(v) => uniform(m, v)? == 0.0,
        None => m[node].attrs.float("value").is_none_or(|v| v == 0.0),
    };
    let pads = match m[node].input(1) {
        Some(v) => m.constant(v)?.to_ints()?,
        None => m[node].attrs.ints("pads")?.to_vec(),
    };
    let only_here = pads.iter().enumerate().all(|(i, &p)| p == 0 || i % rank == axis);
    let (before, after) = (*pads.get(axis)?, *pads.get(axis + rank)?);
    (zero && only_here && pads.len() == 2 * rank && before >= 0 && after >= 0)
        .then_some((before, after))
}

/// A Transpose between two Reshapes.
pub(crate) struct Turned {
    /// What the first Reshape reads.
    pub(crate) x: ValueId,
    /// What the second one makes.
    pub(crate) y: ValueId,
    pub(crate) perm: Vec<i64>,
    /// Dimensions of `x`, before and behind the Transpose, and of `y`. There are elements.
    pub(crate) dims: [Dims; 4],
}

/// The Transpose between a Reshape and `second`, where nothing else reads what is between the two.
pub(crate) fn turned_between_reshapes(m: &Model, second: NodeId) -> Result<Turned, Miss> {
    let (turned, y) = (input(m, second, 0)?, output(m, second)?);
    let transpose = producer(m, turned, "Transpose")?;
    let shaped = input(m, transpose, 0)?;
    let first = m.producer(shaped).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    let x = input(m, first, 0)?;
    if !used_once(m, shaped) || !used_once(m, turned) {
        return unmet("something else reads what is between the reshapes");
    }
    let [a, b, c, d] = [x, shaped, turned, y].map(|v| dims_of_elements(m, v));
    let dims = [a?, b?, c?, d?];
    let perm = perm(m, transpose, dims[1].len());
    Ok(Turned { x, y, perm, dims })
}

/// A score of any size plus this, or less, is the number itself to the last bit.
pub(crate) const SWALLOWS: f64 = -1e30;

/// A Reshape, and perhaps a Transpose behind it, as heads are made of a projection's columns.
pub(crate) struct SplitColumns {
    /// What the Reshape reads.
    pub(crate) projected: ValueId,
    /// What the Reshape makes.
    pub(crate) split: ValueId,
    /// Dimensions of `split`. There are elements.
    pub(crate) dims: Dims,
    /// The permutation, where there is a Transpose.
    pub(crate) perm: Option<Vec<i64>>,
}

impl SplitColumns {
    /// The nodes that make a value.
    pub(crate) fn of(m: &Model, value: ValueId) -> Result<SplitColumns, Miss> {
        let transpose = producer(m, value, "Transpose").ok();
        let split = transpose.map_or(Ok(value), |node| input(m, node, 0))?;
        let reshape = m.producer(split).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
        let dims = dims_of_elements(m, split)?;
        let perm = transpose.map(|node| perm(m, node, dims.len()));
        Ok(SplitColumns { projected: input(m, reshape, 0)?, split, dims, perm })
    }

    /// The first of the last axes that together are so many columns. Axes of length 1 in front belong to the rows.
    pub(crate) fn first_of(&self, columns: i64) -> Option<usize> {
        let is_split = |&at: &usize| self.dims[at..].iter().product::<i64>() == columns;
        (0..self.dims.len()).rev().find(is_split)
    }
}

/// `x · matrix + bias`, the matrix and the bias constant.
pub(crate) struct Projection {
    pub(crate) x: ValueId,
    pub(crate) matrix: ValueId,
    pub(crate) bias: Option<ValueId>,
    pub(crate) gemm: bool,
}

impl Projection {
    /// Of a value that nothing but the caller's match reads.
    pub(crate) fn of(m: &Model, value: ValueId) -> Result<Projection, Miss> {
        let node = m.producer(value).ok_or(Miss::NoMatch)?;
        let attr = |name: &str, default: f32| {
            m[node].attrs.float(name).unwrap_or(default).to_bits() == default.to_bits()
        };
        let plain = ["transA", "transB"].iter().all(|&t| m[node].attrs.int(t).unwrap_or(0) == 0);
        let projection = if m[node].op().is("Gemm") {
            if !plain || !attr("alpha", 1.0) || !attr("beta", 1.0) {
                return unmet("a Gemm transposes or scales");
            }
            let bias = m[node].input(2);
            Projection { x: input(m, node, 0)?, matrix: input(m, node, 1)?, bias, gemm: true }
        } else if m[node].op().is("Add") {
            let (a, b) = (input(m, node, 0)?, input(m, node, 1)?);
            let (product, bias) = if m.constant(b).is_some() { (a, b) } else { (b, a) };
            let matmul = producer(m, product, "MatMul")?;
            if !used_once(m, product) {
                return unmet("something else reads a product or a projection");
            }
            let (x, matrix) = (input(m, matmul, 0)?, input(m, matmul, 1)?);
            Projection { x, matrix, bias: Some(bias), gemm: false }
        } else if m[node].op().is("MatMul") {
            let (x, matrix) = (input(m, node, 0)?, input(m, node, 1)?);
            Projection { x, matrix, bias: None, gemm: false }
        } else {
            return Err(Miss::NoMatch);
        };
        let Some(matrix) = m.constant(projection.matrix).map(|t| &t.dims) else {
            return unmet("a projection's matrix is not constant");
        };
        let [_, width] = matrix.as_slice() else {
            return unmet("a projection's matrix has batches");
        };
        let one_each = |v: ValueId| m.constant(v).is_some_and(|t| t.dims == [*width]);
        if projection.bias.is_some_and(|bias| !one_each(bias)) {
            return unmet("a projection's bias is not one constant per column");
        }
        Ok(projection)
    }
}
