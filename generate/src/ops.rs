//! One node of each operator. Element-wise operators come from the table alone; where operands are constrained, the
//! family has a function that chooses them so that they fit.

use onnxfix_ir::op::{self, Arity, Class, Operator, Param};
use onnxfix_ir::{AttrValue, DataType, Tensor, ValueId};

use crate::build::{AttrList, Builder};
use crate::data::{self, DTYPES, volume};

/// Operators that are never generated, and why.
pub const NOT_GENERATED: &[(&str, &[&str])] = &[
    (
        "their values are no tensors",
        &[
            "SequenceMap",
            "SequenceEmpty",
            "SequenceConstruct",
            "SequenceInsert",
            "SequenceErase",
            "SequenceAt",
            "SequenceLength",
            "SplitToSequence",
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
        ],
    ),
    (
        "they work on strings",
        &["StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"],
    ),
    (
        "their output's shape depends on elements and nothing here evaluates them",
        &["Unique", "NonMaxSuppression", "ImageDecoder"],
    ),
    (
        "no pass knows them, and they are unknown functions of several constrained inputs",
        &[
            "QLinearConv",
            "QLinearMatMul",
            "DeformConv",
            "CausalConvWithState",
            "MaxUnpool",
            "MaxRoiPool",
            "Col2Im",
            "RoiAlign",
            "Upsample",
            "TensorScatter",
            "LinearAttention",
            "NegativeLogLikelihoodLoss",
            "SoftmaxCrossEntropyLoss",
            "STFT",
            "DFT",
            "MelWeightMatrix",
            "BitCast",
        ],
    ),
];

/// Whether operators of this name are never generated.
#[must_use]
pub fn is_left_out(name: &str) -> bool {
    NOT_GENERATED.iter().any(|(_, names)| names.contains(&name))
}

const FLOATS: &[DataType] =
    &[DataType::Float, DataType::Float16, DataType::Double, DataType::Bfloat16];
const PLAIN_FLOATS: &[DataType] = &[DataType::Float, DataType::Float16, DataType::Double];

/// A node of this operator, and the value of its first output. None where it cannot be made here.
pub(crate) fn node(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    operator.since(b.opset)?;
    match operator.name {
        "Identity" | "NonZero" | "Hardmax" | "Softmax" | "LogSoftmax" | "LpNormalization"
        | "Flatten" => along(b, operator),
        "Dropout" => dropout(b),
        "Shape" | "Size" => shape(b, operator.name),
        "Reshape" => reshape(b),
        "Squeeze" => squeeze(b),
        "Unsqueeze" => unsqueeze(b),
        "Constant" => {
            let dtype = b.pick_dtype(DTYPES);
            let rank = b.c.below(3);
            let dims = b.new_dims(rank);
            let tensor = data::random(b.c, dtype, &dims, false);
            Some(b.constant(tensor))
        }
        "ConstantOfShape" => constant_of_shape(b),
        "Range" => range(b),
        "EyeLike" => eye(b),
        "Transpose" => transpose(b),
        "Expand" => expand(b),
        "Tile" => tile(b),
        "Concat" => concat(b),
        "Split" => split(b),
        "Slice" => slice(b),
        "Pad" => pad(b),
        "Trilu" => trilu(b),
        "DepthToSpace" | "SpaceToDepth" => blocks(b, operator.name),
        "ReverseSequence" => reverse_sequence(b),
        "CenterCropPad" => crop(b),
        "Gather" => gather(b),
        "GatherElements" => gather_elements(b),
        "GatherND" => gather_nd(b),
        "Scatter" | "ScatterElements" => scatter_elements(b, operator.name),
        "ScatterND" => scatter_nd(b),
        "OneHot" => one_hot(b),
        "Compress" => compress(b),
        "ArgMax" | "ArgMin" => arg(b, operator),
        "TopK" => top_k(b),
        "CumSum" | "CumProd" => cumulate(b, operator),
        "MatMul" => matmul(b),
        "Gemm" => gemm(b),
        "MatMulInteger" => matmul_integer(b),
        "Einsum" => einsum(b),
        "Det" => square(b),
        "LayerNormalization" | "RMSNormalization" => layer_norm(b, operator.name),
        "BatchNormalization" | "InstanceNormalization" | "GroupNormalization" => {
            channel_norm(b, operator.name)
        }
        "MeanVarianceNormalization"
        | "LRN"
        | "GlobalMaxPool"
        | "GlobalAveragePool"
        | "GlobalLpPool" => image(b, operator.name),
        "Conv" | "ConvTranspose" | "ConvInteger" => conv(b, operator.name),
        "MaxPool" | "AveragePool" | "LpPool" => pool(b, operator.name),
        "RNN" | "GRU" | "LSTM" => recurrent(b, operator.name),
        "Attention" => attention(b),
        "RotaryEmbedding" => rotary(b),
        "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" => {
            quantize(b, operator.name)
        }
        "RandomNormal" | "RandomUniform" | "RandomNormalLike" | "RandomUniformLike"
        | "Bernoulli" | "Multinomial" => random(b, operator.name),
        "Resize" => resize(b),
        "GridSample" | "AffineGrid" => grid(b, operator.name),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => {
            let n = b.c.between(1, 5);
            let n = b.constant(Tensor::scalar(n));
            b.add(operator.name, &[Some(n)], vec![])
        }
        "Cast" => cast(b),
        "CastLike" => {
            let (x, like) = (b.operand(DTYPES, 0), b.operand(DTYPES, 0));
            b.add("CastLike", &[Some(x), Some(like)], vec![])
        }
        "Where" => select(b),
        "If" => crate::bodies::branch(b),
        "Loop" => crate::bodies::repeat(b),
        "Scan" => crate::bodies::scan(b),
        name if name.starts_with("Reduce") => reduce(b, operator),
        _ if operator.class == Class::ELEMENTWISE => elementwise(b, operator),
        _ => None,
    }
}

/// The types of a parameter that this opset has: the 16-bit float of the brain came with opset 13.
fn types(b: &Builder<'_, '_>, param: &Param) -> Vec<DataType> {
    let new = |d: &DataType| *d != DataType::Bfloat16 || b.opset >= 16;
    // Until opset 13 arithmetic was on the wider types.
    let old = |d: &DataType| {
        b.opset >= 14
            || !matches!(d, DataType::Int8 | DataType::Int16 | DataType::Uint8 | DataType::Uint16)
            || param.types.len() < 5
    };
    param.types.iter().copied().filter(|d| DTYPES.contains(d) && new(d) && old(d)).collect()
}

/// An operator that computes element by element, from its entry in the table.
fn elementwise(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    if b.opset < operator.versions[0].max(7) {
        return None;
    }
    let first = operator.inputs.first()?;
    let dtypes = types(b, first);
    let x = b.operand(&dtypes, 0);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let mut inputs = vec![Some(x)];
    for param in &operator.inputs[1..] {
        let absent = param.since > b.opset || (param.arity == Arity::Optional && b.c.chance(40));
        if absent {
            inputs.push(None);
            continue;
        }
        let dtype = if param.var == first.var && !param.var.is_empty() {
            dtype
        } else {
            let of = types(b, param);
            b.pick_dtype(&of)
        };
        // The bounds of Clip are scalars.
        let value = if param.arity == Arity::Optional {
            scalar(b, dtype)
        } else {
            partner(b, dtype, &dims)
        };
        inputs.push(Some(value));
    }
    if first.arity == Arity::Variadic {
        for _ in 0..b.c.below(3) {
            let value = partner(b, dtype, &dims);
            inputs.push(Some(value));
        }
    }
    let attrs = attributes(b, operator);
    b.add(operator.name, &inputs, attrs)
}

/// Attributes of the table with values that every element-wise operator takes.
fn attributes(b: &mut Builder<'_, '_>, operator: &'static Operator) -> AttrList {
    let mut attrs = AttrList::new();
    for attr in operator.attrs {
        let old = attr.since > b.opset || attr.until <= b.opset;
        if old || matches!(attr.name, "consumed_inputs" | "axis" | "broadcast" | "stash_type") {
            continue;
        }
        if !attr.required && b.c.chance(50) {
            continue;
        }
        let value: AttrValue = match (attr.name, attr.type_code) {
            ("direction", _) => (*b.c.pick(&["LEFT", "RIGHT"])).into(),
            ("approximate", _) => (*b.c.pick(&["none", "tanh"])).into(),
            ("fmod", _) => 1.into(),
            (_, 1) => b.c.pick(&[0.5_f32, 0.125, 1.0, 2.0]).to_owned().into(),
            (_, 2) => (b.c.below(2) as i64).into(),
            _ => continue,
        };
        attrs.push((attr.name, value));
    }
    attrs
}

/// A scalar of this type.
fn scalar(b: &mut Builder<'_, '_>, dtype: DataType) -> ValueId {
    if b.c.chance(40)
        && let Some(found) = b.find(|t| t.dtype == dtype && t.dims.is_empty())
    {
        return found;
    }
    b.leaf(dtype, &[])
}

/// A value that broadcasts with one of these dimensions.
fn partner(b: &mut Builder<'_, '_>, dtype: DataType, dims: &[i64]) -> ValueId {
    let fits = |other: &[i64]| {
        let n = other.len().min(dims.len());
        let ends = other[other.len() - n..].iter().zip(&dims[dims.len() - n..]);
        ends.into_iter().all(|(&a, &b)| a == b || a == 1 || b == 1)
    };
    if b.c.chance(60)
        && let Some(found) = b.find(|t| t.dtype == dtype && fits(&t.dims))
    {
        return found;
    }
    // Neutral elements are what passes look for.
    if b.c.chance(15) {
        let n = b.c.below(2) as i64;
        return b.constant(data::from_ints(dtype, &[], &[n]));
    }
    let from = if b.c.chance(40) { b.c.below(dims.len() + 1) } else { 0 };
    let dims: Vec<i64> = dims[from..].iter().map(|&d| if b.c.chance(25) { 1 } else { d }).collect();
    b.leaf(dtype, &dims)
}

/// Operators of one input with at most an axis.
fn along(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    let has_axis = operator.attrs.iter().any(|a| a.name == "axis");
    let dtypes = types(b, &operator.inputs[0]);
    let x = b.operand(&dtypes, usize::from(has_axis));
    let rank = b.rank(x);
    let mut attrs = AttrList::new();
    if has_axis && rank > 0 && b.c.chance(75) {
        let axis = b.axis(rank).1;
        attrs.push(("axis", axis.into()));
    } else if operator.name == "Flatten" && b.c.chance(50) {
        attrs.push(("axis", (rank as i64).into()));
    }
    if operator.name == "LpNormalization" {
        attrs.push(("p", b.c.between(1, 2).into()));
    }
    b.add(operator.name, &[Some(x)], attrs)
}

fn dropout(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(FLOATS, 0);
    let mut inputs = vec![Some(x)];
    let mut attrs = AttrList::new();
    if b.opset >= 12 && b.c.chance(60) {
        let ratio = *b.c.pick(&[0.5, 0.0, 0.25]);
        let ratio = b.constant(Tensor::scalar::<f32>(ratio));
        inputs.push(Some(ratio));
        if b.c.chance(50) {
            let off = b.constant(Tensor::scalar(false));
            inputs.push(Some(off));
        }
    } else if b.opset < 12 {
        attrs.push(("ratio", 0.5_f32.into()));
    }
    let outputs = 1 + usize::from(b.opset >= 10 && b.c.chance(25));
    Some(b.add_many("Dropout", &inputs, attrs, outputs)?[0])
}

fn shape(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let mut attrs = AttrList::new();
    if name == "Shape" && b.opset >= 15 && b.c.chance(40) {
        attrs.push(("start", b.c.between(-3, 3).into()));
        if b.c.chance(50) {
            attrs.push(("end", b.c.between(-3, 5).into()));
        }
    }
    b.add(name, &[Some(x)], attrs)
}

/// Other dimensions for as many elements.
fn redivided(b: &mut Builder<'_, '_>, dims: &[i64]) -> Vec<i64> {
    let mut out: Vec<i64> = dims.to_vec();
    for _ in 0..=b.c.below(3) {
        match b.c.below(4) {
            0 if out.len() > 1 => {
                let at = b.c.below(out.len() - 1);
                let next = out.remove(at + 1);
                out[at] *= next;
            }
            1 if !out.is_empty() => {
                let at = b.c.below(out.len());
                let n = out[at];
                if let Some(d) = (2..n).find(|d| n % d == 0) {
                    out[at] = d;
                    out.insert(at + 1, n / d);
                }
            }
            2 => {
                let at = b.c.below(out.len() + 1);
                out.insert(at, 1);
            }
            _ if out.contains(&1) => {
                let at = out.iter().position(|&d| d == 1).unwrap_or(0);
                out.remove(at);
            }
            _ => {}
        }
    }
    out.truncate(6);
    if volume(&out) == volume(dims) { out } else { vec![volume(dims) as i64] }
}

fn reshape(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let dims = b.dims(x);
    let out = if b.c.chance(10) { dims.clone() } else { redivided(b, &dims) };
    let mut target = out.clone();
    let mut attrs = AttrList::new();
    if target.contains(&0) {
        if b.opset >= 14 && b.c.chance(60) {
            attrs.push(("allowzero", 1.into()));
        }
    } else {
        for (i, n) in target.iter_mut().enumerate() {
            if dims.get(i) == Some(n) && b.c.chance(20) {
                *n = 0;
            }
        }
        if !target.is_empty() && b.c.chance(40) {
            let at = b.c.below(target.len());
            target[at] = -1;
        }
    }
    let target = b.ints(&target);
    b.add("Reshape", &[Some(x), Some(target)], attrs)
}

fn squeeze(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |dims| dims.contains(&1), 2);
    let dims = b.dims(x);
    let axes: Vec<i64> = (0..dims.len())
        .filter(|&i| dims[i] == 1 && b.c.chance(60))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|i| b.written(i, dims.len()))
        .collect();
    let axes = Some(axes).filter(|a| !a.is_empty());
    b.with_axes("Squeeze", x, axes.as_deref(), 13, vec![])
}

fn unsqueeze(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let count = 1 + b.c.below(2);
    let rank = b.rank(x) + count;
    let mut axes: Vec<usize> = Vec::new();
    while axes.len() < count {
        let mut axis = b.c.below(rank);
        while axes.contains(&axis) {
            axis = (axis + 1) % rank;
        }
        axes.push(axis);
    }
    let axes: Vec<i64> = axes.into_iter().map(|a| b.written(a, rank)).collect();
    b.unsqueeze(x, &axes)
}

fn constant_of_shape(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let rank = b.c.below(4);
    let dims = b.new_dims(rank);
    let dims = b.ints(&dims);
    let mut attrs = AttrList::new();
    if b.c.chance(70) {
        let dtype = b.pick_dtype(&DTYPES[..12]);
        attrs.push(("value", data::random(b.c, dtype, &[1], true).into()));
    }
    b.add("ConstantOfShape", &[Some(dims)], attrs)
}

fn range(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let dtype = b.pick_dtype(&[DataType::Int64, DataType::Int32, DataType::Float]);
    let (start, delta) = (b.c.between(-3, 3), *b.c.pick(&[1, 2, -1]));
    let limit = start + delta * b.c.between(0, 6);
    let mut inputs = Vec::new();
    for n in [start, limit, delta] {
        let tensor = data::from_ints(dtype, &[], &[n]);
        inputs.push(Some(if b.c.chance(8) && !b.in_function {
            b.input(tensor)
        } else {
            b.constant(tensor)
        }));
    }
    b.add("Range", &inputs, vec![])
}

fn eye(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |dims| dims.len() == 2, 2);
    let mut attrs = vec![("k", AttrValue::from(b.c.between(-2, 2)))];
    if b.c.chance(70) {
        attrs.push(("dtype", i64::from(b.pick_dtype(DTYPES).code()).into()));
    }
    b.add("EyeLike", &[Some(x)], attrs)
}

/// Axes in some order, in no order where nothing is left to change.
fn permutation(b: &mut Builder<'_, '_>, rank: usize) -> Vec<i64> {
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    if b.c.chance(10) {
        return perm;
    }
    for i in (1..rank).rev() {
        let j = b.c.below(i + 1);
        perm.swap(i, j);
    }
    perm
}

pub(crate) fn transpose(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 2);
    let rank = b.rank(x);
    let attrs = if b.c.chance(90) { vec![("perm", permutation(b, rank).into())] } else { vec![] };
    b.add("Transpose", &[Some(x)], attrs)
}

fn expand(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let mut dims = b.dims(x);
    for n in &mut dims {
        if *n == 1 && b.c.chance(60) {
            *n = b.c.between(1, 4);
        } else if b.c.chance(20) {
            *n = 1;
        }
    }
    if b.c.chance(30) {
        dims.insert(0, b.c.between(1, 3));
    }
    let dims = b.ints(&dims);
    b.add("Expand", &[Some(x), Some(dims)], vec![])
}

fn tile(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let repeats: Vec<i64> = (0..b.rank(x)).map(|_| *b.c.pick(&[1, 2, 1, 3, 0])).collect();
    let repeats = b.ints(&repeats);
    b.add("Tile", &[Some(x), Some(repeats)], vec![])
}

fn concat(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let (axis, written) = b.axis(dims.len());
    let mut inputs = vec![Some(x)];
    for _ in 0..b.c.below(3) {
        let fits = |other: &[i64]| {
            other.len() == dims.len() && (0..dims.len()).all(|i| i == axis || dims[i] == other[i])
        };
        let found =
            if b.c.chance(70) { b.find(|t| t.dtype == dtype && fits(&t.dims)) } else { None };
        let part = found.unwrap_or_else(|| {
            let mut dims = dims.clone();
            dims[axis] = b.c.between(0, 3);
            b.leaf(dtype, &dims)
        });
        inputs.push(Some(part));
    }
    b.add("Concat", &inputs, vec![("axis", written.into())])
}

fn split(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let dims = b.dims(x);
    let (axis, written) = b.axis(dims.len());
    let n = dims[axis];
    let count = (1 + b.c.below(3)).min(usize::try_from(n).unwrap_or(1).max(1));
    let mut attrs = vec![("axis", AttrValue::from(written))];
    let mut inputs = vec![Some(x)];
    let even = n % count as i64 == 0;
    if !even || b.c.chance(50) {
        let mut parts = vec![1; count];
        parts[b.c.below(count)] += n - count as i64;
        if parts.iter().any(|&p| p < 0) {
            return None;
        }
        if b.opset >= 13 {
            inputs.push(Some(b.ints(&parts)));
        } else {
            attrs.push(("split", parts.into()));
        }
    } else if b.opset >= 18 {
        attrs.push(("num_outputs", (count as i64).into()));
    }
    let made = b.add_many("Split", &inputs, attrs, count)?;
    Some(*b.c.pick(&made))
}

/// Bounds of a slice: in range, negative, far outside; steps forwards and backwards.
fn slice(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let dims = b.dims(x);
    let rank = dims.len();
    let perm = permutation(b, rank);
    let count = 1 + b.c.below(rank.min(2));
    let (mut starts, mut ends, mut axes, mut steps) = (vec![], vec![], vec![], vec![]);
    for &axis in perm.iter().take(count) {
        let n = dims[usize::try_from(axis).unwrap_or(0)];
        let (start, end, step) = match b.c.below(6) {
            0 => (0, i64::MAX, 1),
            1 => (b.c.between(-n - 2, n + 2), b.c.between(-n - 2, n + 2), 1),
            2 => (b.c.between(0, n), i64::from(i32::MAX), *b.c.pick(&[1, 2, 3])),
            3 => (-1, i64::MIN, *b.c.pick(&[-1, -2])),
            4 => (b.c.between(-n - 1, n), b.c.between(-n - 1, n), *b.c.pick(&[-1, 2, -3])),
            _ => (0, n, 1),
        };
        starts.push(start);
        ends.push(end);
        axes.push(b.written(usize::try_from(axis).unwrap_or(0), rank));
        steps.push(step);
    }
    if b.opset < 10 {
        let attrs = vec![("starts", starts.into()), ("ends", ends.into()), ("axes", axes.into())];
        return b.add("Slice", &[Some(x)], attrs);
    }
    let narrow = ends.iter().chain(&starts).all(|&n| i32::try_from(n).is_ok());
    let dtype = if narrow && b.c.chance(15) { DataType::Int32 } else { DataType::Int64 };
    let mut inputs = vec![Some(x)];
    inputs.push(Some(b.ints_of(dtype, &starts)));
    inputs.push(Some(b.ints_of(dtype, &ends)));
    let plain = steps.iter().all(|&s| s == 1);
    inputs.push(Some(b.ints_of(dtype, &axes)));
    inputs.push(if plain && b.c.chance(50) { None } else { Some(b.ints_of(dtype, &steps)) });
    b.add("Slice", &inputs, vec![])
}

fn pad(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let dtypes = if b.opset >= 13 { DTYPES } else { PLAIN_FLOATS };
    let x = b.operand(dtypes, 1);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let mode = *b.c.pick(&["constant", "constant", "reflect", "edge"]);
    let mut attrs = vec![("mode", AttrValue::from(mode))];
    let pads: Vec<i64> = (0..2 * dims.len())
        .map(|i| {
            let n = dims[i % dims.len()];
            match mode {
                "constant" => *b.c.pick(&[0, 1, 0, 2, -1]),
                _ => b.c.between(0, (n - 1).clamp(0, 2)),
            }
        })
        .collect();
    if b.opset < 11 {
        attrs.push(("pads", pads.into()));
        if b.c.chance(50) {
            attrs.push(("value", 0.5_f32.into()));
        }
        return b.add("Pad", &[Some(x)], attrs);
    }
    let mut inputs = vec![Some(x)];
    if b.opset >= 18 && b.c.chance(30) {
        let (axis, written) = b.axis(dims.len());
        inputs.push(Some(b.ints(&[pads[axis], pads[axis + dims.len()]])));
        inputs.push(None);
        inputs.push(Some(b.ints(&[written])));
    } else {
        inputs.push(Some(b.ints(&pads)));
        if mode == "constant" && b.c.chance(50) {
            inputs.push(Some(scalar(b, dtype)));
        }
    }
    b.add("Pad", &inputs, attrs)
}

fn trilu(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 2);
    let k = if b.c.chance(60) {
        let k = b.c.between(-3, 3);
        Some(b.constant(Tensor::scalar(k)))
    } else {
        None
    };
    let upper = b.c.below(2) as i64;
    b.add("Trilu", &[Some(x), k], vec![("upper", upper.into())])
}

fn blocks(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let size = b.c.between(1, 2);
    let dims =
        if name == "DepthToSpace" { [1, size * size * 2, 2, 3] } else { [2, 2, size * 2, size] };
    let x = b.leaf(DataType::Float, &dims);
    let mut attrs = vec![("blocksize", AttrValue::from(size))];
    if name == "DepthToSpace" && b.opset >= 11 && b.c.chance(50) {
        attrs.push(("mode", (*b.c.pick(&["DCR", "CRD"])).into()));
    }
    b.add(name, &[Some(x)], attrs)
}

fn reverse_sequence(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |d| d.len() >= 2 && d[0] > 0, 2);
    let dims = b.dims(x);
    let (time, batch) = if b.c.chance(50) { (0, 1) } else { (1, 0) };
    let lengths: Vec<i64> = (0..dims[batch]).map(|_| b.c.between(1, dims[time].max(1))).collect();
    let lengths = b.ints(&lengths);
    b.add(
        "ReverseSequence",
        &[Some(x), Some(lengths)],
        vec![("time_axis", (time as i64).into()), ("batch_axis", (batch as i64).into())],
    )
}

fn crop(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let (_, axis) = b.axis(b.rank(x));
    let n = b.c.between(1, 5);
    let n = b.ints(&[n]);
    b.add("CenterCropPad", &[Some(x), Some(n)], vec![("axes", vec![axis].into())])
}

/// Indices below `n`, also counted from the back: constant, in steps or at random.
fn indices(b: &mut Builder<'_, '_>, n: i64, dims: &[i64]) -> ValueId {
    let dtype = *b.c.pick(&[DataType::Int64, DataType::Int64, DataType::Int32]);
    let count = volume(dims) as i64;
    let all: Vec<i64> = if b.c.chance(35) {
        // A progression, as slices and unfolds are written.
        let start = b.c.between(0, n - 1);
        let step = *b.c.pick(&[1, 1, 2, -1]);
        (0..count).map(|i| (start + i * step).rem_euclid(n)).collect()
    } else {
        let low = if b.opset >= 11 { -n } else { 0 };
        (0..count).map(|_| b.c.between(low, n - 1)).collect()
    };
    let tensor = data::from_ints(dtype, dims, &all);
    if b.c.chance(20) && !b.in_function { b.input(tensor) } else { b.constant(tensor) }
}

fn gather(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |d| !d.is_empty() && !d.contains(&0), 2);
    let dims = b.dims(x);
    let (axis, written) = b.axis(dims.len());
    let n = dims[axis];
    if n == 0 {
        return None;
    }
    let shape = match b.c.below(4) {
        0 => vec![],
        1 => vec![n],
        2 => vec![b.c.between(1, 3), b.c.between(1, 3)],
        _ => vec![b.c.between(0, 4)],
    };
    let index = if shape == [n] && b.c.chance(40) {
        b.ints(&(0..n).collect::<Vec<_>>())
    } else {
        indices(b, n, &shape)
    };
    let attrs = if axis == 0 && b.c.chance(40) { vec![] } else { vec![("axis", written.into())] };
    b.add("Gather", &[Some(x), Some(index)], attrs)
}

fn gather_elements(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |d| !d.is_empty() && !d.contains(&0), 2);
    let mut dims = b.dims(x);
    let (axis, written) = b.axis(dims.len());
    let n = dims[axis];
    if n == 0 {
        return None;
    }
    dims[axis] = b.c.between(1, 4);
    let index = indices(b, n, &dims);
    b.add("GatherElements", &[Some(x), Some(index)], vec![("axis", written.into())])
}

fn gather_nd(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(DTYPES, |d| !d.is_empty() && !d.contains(&0), 2);
    let dims = b.dims(x);
    if dims.contains(&0) {
        return None;
    }
    let batch = if b.opset >= 12 { b.c.below(dims.len()) } else { 0 };
    let last = 1 + b.c.below(dims.len() - batch);
    let mut shape = dims[..batch].to_vec();
    shape.push(b.c.between(1, 3));
    let tuples = volume(&shape);
    let all: Vec<i64> = (0..tuples * last)
        .map(|i| {
            let n = dims[batch + i % last];
            b.c.between(-n, n - 1)
        })
        .collect();
    shape.push(last as i64);
    let index = b.constant(data::from_ints(DataType::Int64, &shape, &all));
    let attrs = if batch > 0 { vec![("batch_dims", (batch as i64).into())] } else { vec![] };
    b.add("GatherND", &[Some(x), Some(index)], attrs)
}

fn scatter_elements(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let x = b.operand_where(&DTYPES[..8], |d| !d.is_empty() && !d.contains(&0), 2);
    let (dtype, mut dims) = (b.dtype(x), b.dims(x));
    let (axis, written) = b.axis(dims.len());
    let n = dims[axis];
    // Each place at most once: the order of two updates is not defined.
    dims[axis] = 1;
    if n == 0 {
        return None;
    }
    let index = indices(b, n, &dims);
    let updates = b.leaf(dtype, &dims);
    let mut attrs = vec![("axis", AttrValue::from(written))];
    if b.opset >= 18 && dtype != DataType::Bool && b.c.chance(30) {
        attrs.push(("reduction", (*b.c.pick(&["add", "mul", "max", "min"])).into()));
    }
    if name == "Scatter" && b.opset >= 11 {
        attrs.clear();
        if axis != 0 {
            return None;
        }
    }
    b.add(name, &[Some(x), Some(index), Some(updates)], attrs)
}

fn scatter_nd(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(&DTYPES[..8], |d| !d.is_empty() && !d.contains(&0), 2);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    if dims.contains(&0) {
        return None;
    }
    let at = b.c.between(-dims[0], dims[0] - 1);
    let index = b.constant(data::from_ints(DataType::Int64, &[1, 1], &[at]));
    let mut shape = vec![1];
    shape.extend(&dims[1..]);
    let updates = b.leaf(dtype, &shape);
    b.add("ScatterND", &[Some(x), Some(index), Some(updates)], vec![])
}

fn one_hot(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let dims = b.new_dims(1);
    let n = b.c.between(1, 4);
    let index = indices(b, n, &dims);
    let depth = b.constant(Tensor::scalar(n));
    let values = b.leaf(DataType::Float, &[2]);
    let axis = *b.c.pick(&[-1, 0, 1]);
    b.add("OneHot", &[Some(index), Some(depth), Some(values)], vec![("axis", axis.into())])
}

fn compress(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 1);
    let dims = b.dims(x);
    let (axis, written) = b.axis(dims.len());
    let n = usize::try_from(dims[axis]).unwrap_or(0);
    let keep: Vec<i64> = (0..n).map(|_| b.c.below(2) as i64).collect();
    let keep = b.constant(data::from_ints(DataType::Bool, &[n as i64], &keep));
    b.add("Compress", &[Some(x), Some(keep)], vec![("axis", written.into())])
}

fn reduce(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    let mut dtypes = types(b, &operator.inputs[0]);
    dtypes.retain(|&d| d != DataType::Bool || b.opset >= 20);
    let x = b.operand(&dtypes, 1);
    let rank = b.rank(x);
    let perm = permutation(b, rank);
    let count = b.c.below(rank + 1);
    let axes: Vec<i64> = perm
        .iter()
        .take(count)
        .map(|&a| b.written(usize::try_from(a).unwrap_or(0), rank))
        .collect();
    let mut attrs = vec![("keepdims", AttrValue::from(b.c.below(2) as i64))];
    let since = operator.inputs[1].since;
    if b.opset >= since && b.c.chance(20) {
        attrs.push(("noop_with_empty_axes", 1.into()));
    }
    let axes = Some(axes).filter(|a| !a.is_empty());
    b.with_axes(operator.name, x, axes.as_deref(), since, attrs)
}

fn arg(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    let dtypes = types(b, &operator.inputs[0]);
    let x = b.operand_where(&dtypes, |d| !d.is_empty() && !d.contains(&0), 1);
    let (_, axis) = b.axis(b.rank(x));
    let mut attrs =
        vec![("axis", AttrValue::from(axis)), ("keepdims", (b.c.below(2) as i64).into())];
    if b.opset >= 12 && b.c.chance(30) {
        attrs.push(("select_last_index", 1.into()));
    }
    b.add(operator.name, &[Some(x)], attrs)
}

fn top_k(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(&DTYPES[..3], 1);
    let dims = b.dims(x);
    let (axis, written) = b.axis(dims.len());
    let k = b.c.between(0, dims[axis]);
    let mut attrs = vec![("axis", AttrValue::from(written))];
    let mut inputs = vec![Some(x)];
    if b.opset >= 10 {
        inputs.push(Some(b.ints(&[k])));
    } else {
        attrs.push(("k", k.into()));
    }
    if b.opset >= 11 {
        attrs.push(("largest", (b.c.below(2) as i64).into()));
    }
    let made = b.add_many("TopK", &inputs, attrs, 2)?;
    Some(*b.c.pick(&made))
}

fn cumulate(b: &mut Builder<'_, '_>, operator: &'static Operator) -> Option<ValueId> {
    let dtypes = types(b, &operator.inputs[0]);
    let x = b.operand(&dtypes, 1);
    let (_, axis) = b.axis(b.rank(x));
    let axis = b.constant(Tensor::scalar(axis));
    let flag = |b: &mut Builder<'_, '_>| AttrValue::from(b.c.below(2) as i64);
    let attrs = vec![("exclusive", flag(b)), ("reverse", flag(b))];
    b.add(operator.name, &[Some(x), Some(axis)], attrs)
}

fn matmul(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(PLAIN_FLOATS, |d| !d.is_empty(), 2);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let k = *dims.last()?;
    let n = b.c.between(1, 4);
    let other = match b.c.below(4) {
        0 => vec![k],
        1 if dims.len() > 2 => {
            let mut all = dims[..dims.len() - 2].to_vec();
            all.extend([k, n]);
            all
        }
        2 => vec![b.c.between(1, 1), k, n],
        _ => vec![k, n],
    };
    let y = b.leaf(dtype, &other);
    b.add("MatMul", &[Some(x), Some(y)], vec![])
}

fn gemm(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(PLAIN_FLOATS, |d| d.len() == 2, 2);
    let dims = b.dims(x);
    if dims.len() != 2 {
        return None;
    }
    let dtype = b.dtype(x);
    let (a, t) = (b.c.below(2), b.c.below(2));
    let (m, k) = if a == 1 { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let n = b.c.between(1, 4);
    let y = b.leaf(dtype, &if t == 1 { [n, k] } else { [k, n] });
    let bias = if b.opset < 11 || b.c.chance(60) {
        let dims = match b.c.below(3) {
            0 => vec![n],
            1 => vec![m, n],
            _ => vec![1, n],
        };
        Some(b.leaf(dtype, &dims))
    } else {
        None
    };
    let mut attrs = vec![("transA", AttrValue::from(a as i64)), ("transB", (t as i64).into())];
    if b.c.chance(40) {
        attrs.push(("alpha", 0.5_f32.into()));
        attrs.push(("beta", 2.0_f32.into()));
    }
    b.add("Gemm", &[Some(x), Some(y), bias], attrs)
}

fn matmul_integer(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (m, k, n) = (b.c.between(1, 3), b.c.between(1, 3), b.c.between(1, 3));
    let (t, u) = (
        *b.c.pick(&[DataType::Uint8, DataType::Int8]),
        *b.c.pick(&[DataType::Uint8, DataType::Int8]),
    );
    let (x, y) = (b.leaf(t, &[m, k]), b.leaf(u, &[k, n]));
    let zero = if b.c.chance(50) { Some(scalar(b, t)) } else { None };
    b.add("MatMulInteger", &[Some(x), Some(y), zero], vec![])
}

fn einsum(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (m, k, n) = (b.c.between(1, 3), b.c.between(1, 3), b.c.between(1, 3));
    let dtype = b.pick_dtype(&[DataType::Float, DataType::Double, DataType::Int32]);
    let (equation, dims): (&str, Vec<Vec<i64>>) = match b.c.below(6) {
        0 => ("ij,jk->ik", vec![vec![m, k], vec![k, n]]),
        1 => ("bij,bkj->bik", vec![vec![2, m, k], vec![2, n, k]]),
        2 => ("ij->ji", vec![vec![m, k]]),
        3 => ("ii->i", vec![vec![k, k]]),
        4 => ("...ij,...jk->...ik", vec![vec![2, m, k], vec![k, n]]),
        _ => ("i,j->ij", vec![vec![m], vec![n]]),
    };
    let inputs: Vec<Option<ValueId>> = dims.iter().map(|d| Some(b.leaf(dtype, d))).collect();
    b.add("Einsum", &inputs, vec![("equation", equation.into())])
}

fn square(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let n = b.c.between(1, 3);
    let x = b.leaf(DataType::Float, &[2, n, n]);
    b.add("Det", &[Some(x)], vec![])
}

fn layer_norm(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let x = b.operand_where(PLAIN_FLOATS, |d| !d.is_empty() && !d.contains(&0), 2);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let (axis, written) = b.axis(dims.len());
    let scale = b.leaf(dtype, &dims[axis..]);
    let mut inputs = vec![Some(x), Some(scale)];
    if name == "LayerNormalization" && b.c.chance(60) {
        inputs.push(Some(b.leaf(dtype, &dims[axis..])));
    }
    b.add(name, &inputs, vec![("axis", written.into()), ("epsilon", 0.01_f32.into())])
}

fn channel_norm(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let x = b.operand_where(&[DataType::Float], |d| d.len() >= 3 && !d.contains(&0), 3);
    let dims = b.dims(x);
    if dims.len() < 3 {
        return None;
    }
    let channels = dims[1];
    let mut inputs = vec![Some(x)];
    let count = if name == "BatchNormalization" { 4 } else { 2 };
    for i in 0..count {
        let mut tensor = data::random(b.c, DataType::Float, &[channels], true);
        if i == 3 {
            // A variance is positive.
            tensor = data::from_floats(
                DataType::Float,
                &[channels],
                &vec![0.75; data::volume(&[channels])],
            );
        }
        let value = b.constant(tensor);
        inputs.push(Some(value));
    }
    let mut attrs = vec![("epsilon", AttrValue::from(0.01_f32))];
    if name == "GroupNormalization" {
        if b.opset < 21 {
            return None;
        }
        attrs.push(("num_groups", 1.into()));
    }
    b.add(name, &inputs, attrs)
}

fn image(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let dims = [1, b.c.between(1, 3), b.c.between(1, 3), b.c.between(1, 3)];
    let x = b.leaf(DataType::Float, &dims);
    let attrs = if name == "LRN" { vec![("size", 3.into())] } else { vec![] };
    b.add(name, &[Some(x)], attrs)
}

fn conv(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let dtype = if name == "ConvInteger" { DataType::Uint8 } else { DataType::Float };
    let spatial = 1 + b.c.below(2);
    let (batch, channels, out) = (b.c.between(1, 2), b.c.between(1, 3), b.c.between(1, 3));
    let mut dims = vec![batch, channels];
    dims.extend(vec![b.c.between(3, 5); spatial]);
    let wanted = dims.clone();
    let x = match b.find(|t| {
        t.dtype == dtype && t.dims.len() == wanted.len() && t.dims[2..].iter().all(|&d| d >= 3)
    }) {
        Some(x) => x,
        None => b.leaf(dtype, &dims),
    };
    let channels = b.dims(x)[1];
    let kernel = b.c.between(1, 3);
    let mut weights =
        if name == "ConvTranspose" { vec![channels, out] } else { vec![out, channels] };
    weights.extend(vec![kernel; spatial]);
    let w = b.leaf(dtype, &weights);
    let mut inputs = vec![Some(x), Some(w)];
    if dtype == DataType::Float && b.c.chance(50) {
        inputs.push(Some(b.leaf(dtype, &[out])));
    }
    let mut attrs = vec![("kernel_shape", AttrValue::from(vec![kernel; spatial]))];
    if b.c.chance(50) {
        attrs.push(("pads", vec![b.c.between(0, 1); 2 * spatial].into()));
    }
    if b.c.chance(30) {
        attrs.push(("strides", vec![2; spatial].into()));
    }
    b.add(name, &inputs, attrs)
}

fn pool(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let dims = [1, b.c.between(1, 2), b.c.between(3, 5), b.c.between(3, 5)];
    let x = b.leaf(DataType::Float, &dims);
    let kernel = b.c.between(1, 3);
    let mut attrs = vec![("kernel_shape", AttrValue::from(vec![kernel; 2]))];
    if b.opset >= 10 && name != "LpPool" && b.c.chance(40) {
        attrs.push(("ceil_mode", 1.into()));
    }
    if b.c.chance(50) {
        attrs.push(("strides", vec![2; 2].into()));
    }
    b.add(name, &[Some(x)], attrs)
}

fn recurrent(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let gates = match name {
        "RNN" => 1,
        "GRU" => 3,
        _ => 4,
    };
    let (steps, batch, width, hidden) =
        (b.c.between(1, 3), b.c.between(1, 2), b.c.between(1, 3), b.c.between(1, 2));
    let x = b.leaf(DataType::Float, &[steps, batch, width]);
    let w = b.leaf(DataType::Float, &[1, gates * hidden, width]);
    let r = b.leaf(DataType::Float, &[1, gates * hidden, hidden]);
    let made =
        b.add_many(name, &[Some(x), Some(w), Some(r)], vec![("hidden_size", hidden.into())], 2)?;
    Some(*b.c.pick(&made))
}

fn attention(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (batch, heads, length, width) =
        (b.c.between(1, 2), b.c.between(1, 2), b.c.between(1, 3), b.c.between(1, 3));
    let dims = [batch, heads, length, width];
    let inputs: Vec<Option<ValueId>> =
        (0..3).map(|_| Some(b.leaf(DataType::Float, &dims))).collect();
    let causal = b.c.below(2) as i64;
    b.add("Attention", &inputs, vec![("is_causal", causal.into())])
}

fn rotary(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let (length, width) = (b.c.between(1, 3), 2 * b.c.between(1, 2));
    let x = b.leaf(DataType::Float, &[1, 2, length, width]);
    let (cos, sin) = (
        b.leaf(DataType::Float, &[1, length, width / 2]),
        b.leaf(DataType::Float, &[1, length, width / 2]),
    );
    b.add("RotaryEmbedding", &[Some(x), Some(cos), Some(sin)], vec![])
}

fn quantize(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let dtype = *b.c.pick(&[DataType::Uint8, DataType::Int8]);
    if name == "DynamicQuantizeLinear" {
        let x = b.operand(&[DataType::Float], 0);
        let made = b.add_many(name, &[Some(x)], vec![], 3)?;
        return Some(made[0]);
    }
    let from = if name == "QuantizeLinear" { DataType::Float } else { dtype };
    let x = b.operand(&[from], 0);
    let scale = b.constant(Tensor::scalar(0.25_f32));
    let zero =
        if b.c.chance(60) { Some(b.constant(data::from_ints(dtype, &[], &[1]))) } else { None };
    b.add(name, &[Some(x), Some(scale), zero], vec![])
}

fn random(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    let mut attrs = AttrList::new();
    if b.in_function || b.depth > 0 || b.c.chance(50) {
        // No two nodes share a seed.
        let seed = b.refused.len() + b.scope.len() * 64 + b.c.below(64);
        attrs.push(("seed", (seed as f32).into()));
    }
    let mut inputs = Vec::new();
    match name {
        "RandomNormal" | "RandomUniform" => {
            let rank = b.c.below(3);
            attrs.push(("shape", b.new_dims(rank).into()));
        }
        "Multinomial" => {
            let n = b.c.between(1, 4);
            inputs.push(Some(b.leaf(DataType::Float, &[2, n])));
        }
        _ => inputs.push(Some(b.operand(PLAIN_FLOATS, 0))),
    }
    b.add(name, &inputs, attrs)
}

fn resize(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand_where(&[DataType::Float], |d| d.len() >= 2 && !d.contains(&0), 2);
    let dims = b.dims(x);
    let scales: Vec<f64> = dims.iter().map(|_| *b.c.pick(&[1.0, 2.0, 1.0])).collect();
    let scales = b.constant(data::from_floats(DataType::Float, &[scales.len() as i64], &scales));
    let inputs =
        if b.opset >= 11 { vec![Some(x), None, Some(scales)] } else { vec![Some(x), Some(scales)] };
    // Until opset 13 the unused region of interest could not be left out.
    if (11..13).contains(&b.opset) {
        return None;
    }
    b.add("Resize", &inputs, vec![("mode", "nearest".into())])
}

fn grid(b: &mut Builder<'_, '_>, name: &'static str) -> Option<ValueId> {
    if name == "AffineGrid" {
        let theta = b.leaf(DataType::Float, &[1, 2, 3]);
        let size = b.ints(&[1, 1, 2, 3]);
        return b.add(name, &[Some(theta), Some(size)], vec![]);
    }
    let (x, grid) =
        (b.leaf(DataType::Float, &[1, 2, 3, 3]), b.leaf(DataType::Float, &[1, 2, 2, 2]));
    b.add(name, &[Some(x), Some(grid)], vec![])
}

pub(crate) fn cast(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let to = b.pick_dtype(DTYPES);
    if to == DataType::Bfloat16 && b.opset < 13 {
        return None;
    }
    b.add("Cast", &[Some(x)], vec![("to", i64::from(to.code()).into())])
}

fn select(b: &mut Builder<'_, '_>) -> Option<ValueId> {
    let x = b.operand(DTYPES, 0);
    let (dtype, dims) = (b.dtype(x), b.dims(x));
    let condition = partner(b, DataType::Bool, &dims);
    let y = partner(b, dtype, &dims);
    let mut sides = [Some(x), Some(y)];
    if b.c.chance(50) {
        sides.swap(0, 1);
    }
    b.add("Where", &[Some(condition), sides[0], sides[1]], vec![])
}

/// The operators that are generated.
pub(crate) fn generated() -> Vec<&'static Operator> {
    op::all().filter(|op| op.domain.is_empty() && !is_left_out(op.name)).collect()
}
