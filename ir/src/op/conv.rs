//! Windows that move over space: convolutions and pooling. Only Conv is evaluated, for passes to be judged by.

use smallvec::SmallVec;

use super::infer::{
    Inferred, any_dtype, dim, is_unknown_attr, merge, one as output, several, tensor,
};
use super::schema::{
    attr::{float, int, ints, string},
    one, opt,
    sets::{ANY, BYTES, FLOAT, FLOATS, INT32, INT64, SMALL_FLOATS},
    types,
};
use super::{EvalCx, EvalError, InferCx, InferError, Operator};
use crate::tensor::Element;
use crate::{DataType, Dim, Shape, Tensor};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Conv", &[1, 11, 22], conv)
        .params(
            &[one("X", "T", FLOATS), one("W", "T", FLOATS), opt("B", "T", FLOATS)],
            &[one("Y", "T", FLOATS)],
        )
        .attrs(&[
            string("auto_pad"),
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            ints("pads"),
            ints("strides"),
        ])
        .eval(eval_conv),
    Operator::new("ConvInteger", &[10], conv_integer)
        .params(
            &[
                one("x", "T1", BYTES),
                one("w", "T2", BYTES),
                opt("x_zero_point", "T1", BYTES),
                opt("w_zero_point", "T2", BYTES),
            ],
            &[one("y", "", INT32)],
        )
        .attrs(&[
            string("auto_pad"),
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            ints("pads"),
            ints("strides"),
        ]),
    Operator::new("QLinearConv", &[10], qlinear_conv)
        .params(
            &[
                one("x", "T1", BYTES),
                one("x_scale", "", FLOAT),
                one("x_zero_point", "T1", BYTES),
                one("w", "T2", BYTES),
                one("w_scale", "", FLOAT),
                one("w_zero_point", "T2", BYTES),
                one("y_scale", "", FLOAT),
                one("y_zero_point", "T3", BYTES),
                opt("B", "", INT32),
            ],
            &[one("y", "T3", BYTES)],
        )
        .attrs(&[
            string("auto_pad"),
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            ints("pads"),
            ints("strides"),
        ]),
    Operator::new("ConvTranspose", &[1, 11, 22], conv_transpose)
        .params(
            &[one("X", "T", FLOATS), one("W", "T", FLOATS), opt("B", "T", FLOATS)],
            &[one("Y", "T", FLOATS)],
        )
        .attrs(&[
            string("auto_pad"),
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            ints("output_padding"),
            ints("output_shape"),
            ints("pads"),
            ints("strides"),
        ]),
    Operator::new("DeformConv", &[19, 22], deform_conv)
        .params(
            &[
                one("X", "T", FLOATS),
                one("W", "T", FLOATS),
                one("offset", "T", FLOATS),
                opt("B", "T", FLOATS),
                opt("mask", "T", FLOATS),
            ],
            &[one("Y", "T", FLOATS)],
        )
        .attrs(&[
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            int("offset_group"),
            ints("pads"),
            ints("strides"),
        ]),
    Operator::new("CausalConvWithState", &[27], causal_conv)
        .params(
            &[
                one("input", "T", SMALL_FLOATS),
                one("weight", "T", SMALL_FLOATS),
                opt("bias", "T", SMALL_FLOATS),
                opt("past_state", "T", SMALL_FLOATS),
            ],
            &[one("output", "T", SMALL_FLOATS), one("present_state", "T", SMALL_FLOATS)],
        )
        .attrs(&[string("activation")]),
    Operator::new("MaxPool", &[1, 8, 10, 11, 12, 22], max_pool)
        .params(
            &[one("X", "T", types!(Float Uint8 Int8 Float16 Double Bfloat16))],
            &[
                one("Y", "T", types!(Float Uint8 Int8 Float16 Double Bfloat16)),
                opt("Indices", "", INT64).since(8),
            ],
        )
        .attrs(&[
            string("auto_pad"),
            int("ceil_mode").since(10),
            ints("dilations").since(10),
            ints("kernel_shape").required(),
            ints("pads"),
            int("storage_order").since(8),
            ints("strides"),
        ]),
    Operator::new("AveragePool", &[1, 7, 10, 11, 19, 22], pool)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[
            string("auto_pad"),
            int("ceil_mode").since(10),
            int("count_include_pad").since(7),
            ints("dilations").since(19),
            ints("kernel_shape").required(),
            ints("pads"),
            ints("strides"),
        ]),
    Operator::new("LpPool", &[1, 2, 11, 18, 22], pool)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[
            string("auto_pad"),
            int("ceil_mode").since(18),
            ints("dilations").since(18),
            ints("kernel_shape").required(),
            int("p").since(2),
            ints("pads"),
            ints("strides"),
            float("p").until(2),
        ]),
    Operator::new("GlobalMaxPool", &[1, 22], global_pool)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)]),
    Operator::new("GlobalAveragePool", &[1, 22], global_pool)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)]),
    Operator::new("GlobalLpPool", &[1, 2, 22], global_pool)
        .params(&[one("X", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[int("p").since(2), float("p").until(2)]),
    Operator::new("MaxUnpool", &[9, 11, 22], max_unpool)
        .params(
            &[one("X", "T1", FLOATS), one("I", "T2", INT64), opt("output_shape", "T2", INT64)],
            &[one("output", "T1", FLOATS)],
        )
        .attrs(&[ints("kernel_shape").required(), ints("pads"), ints("strides")]),
    Operator::new("MaxRoiPool", &[1, 22], roi_pool)
        .params(&[one("X", "T", FLOATS), one("rois", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[ints("pooled_shape").required(), float("spatial_scale")]),
    Operator::new("Col2Im", &[18], col2im)
        .params(
            &[one("input", "T", ANY), one("image_shape", "", INT64), one("block_shape", "", INT64)],
            &[one("output", "T", ANY)],
        )
        .attrs(&[ints("dilations"), ints("pads"), ints("strides")]),
];

/// How a window moves, by spatial axis.
struct Window {
    kernel: SmallVec<[Dim; 3]>,
    strides: SmallVec<[i64; 3]>,
    dilations: SmallVec<[i64; 3]>,
    /// Before all axes, then after them; none where they follow from the sizes.
    pads: Option<SmallVec<[i64; 6]>>,
    /// Output sizes are input sizes over strides, rounded up.
    same: bool,
}

/// Reads the window's attributes. None when one of them is not known.
fn window(
    cx: &InferCx<'_>,
    space: usize,
    weight: Option<&[Dim]>,
) -> Result<Option<Window>, InferError> {
    let names = ["kernel_shape", "strides", "dilations", "pads", "auto_pad"];
    if names.iter().any(|name| is_unknown_attr(cx, name)) {
        return Ok(None);
    }
    let list = |name: &str, len: usize, least: i64| match cx.attrs.ints(name) {
        Some(ints) if ints.len() != len => Err(InferError::new(format!(
            "{name} {ints:?} are not {len}, for {space} axes of space"
        ))),
        Some(ints) if ints.iter().any(|&n| n < least) => {
            Err(InferError::new(format!("{name} {ints:?}")))
        }
        ints => Ok(ints),
    };
    let ones = || smallvec::smallvec![1; space];
    let kernel: SmallVec<[Dim; 3]> = match (list("kernel_shape", space, 1)?, weight) {
        (Some(kernel), Some(weight)) => {
            let kernel: Shape = Shape::fixed(kernel);
            if kernel.0.iter().zip(weight).any(|(k, w)| merge(k, w).is_none()) {
                let weight: Shape = weight.iter().cloned().collect();
                return Err(InferError::new(format!(
                    "kernel_shape {kernel} but a weight of {weight}"
                )));
            }
            kernel.0.into_iter().collect()
        }
        (Some(kernel), None) => kernel.iter().map(|&k| Dim::Fixed(k)).collect(),
        (None, Some(weight)) => weight.iter().cloned().collect(),
        (None, None) => return Ok(None),
    };
    let (pads, same) = match cx.attrs.str("auto_pad").unwrap_or("NOTSET") {
        "SAME_UPPER" | "SAME_LOWER" => (None, true),
        "VALID" => (None, false),
        _ => (list("pads", 2 * space, i64::MIN)?.map(Into::into), false),
    };
    Ok(Some(Window {
        kernel,
        strides: list("strides", space, 1)?.map_or_else(ones, Into::into),
        dilations: list("dilations", space, 1)?.map_or_else(ones, Into::into),
        pads,
        same,
    }))
}

impl Window {
    /// Sizes of the output over an input of these sizes.
    fn over(&self, space: &[Dim], ceil: bool) -> Result<Vec<Dim>, InferError> {
        (0..space.len()).map(|axis| self.along(axis, &space[axis], ceil)).collect()
    }

    fn along(&self, axis: usize, size: &Dim, ceil: bool) -> Result<Dim, InferError> {
        let (stride, dilation) = (self.strides[axis], self.dilations[axis]);
        if self.same {
            return Ok(match size {
                _ if stride == 1 => size.clone(),
                d => d.plus(&Dim::Fixed(stride - 1)).over(&Dim::Fixed(stride)),
            });
        }
        let (Some(kernel), half) = (self.kernel[axis].fixed(), self.kernel.len()) else {
            return Ok(Dim::Unknown);
        };
        let pads = self.pads.as_ref().map_or((0, 0), |pads| (pads[axis], pads[axis + half]));
        let extent = kernel
            .checked_sub(1)
            .and_then(|k| k.checked_mul(dilation))
            .and_then(|k| k.checked_add(1));
        let (Some(extent), Some(padding)) = (extent, pads.0.checked_add(pads.1)) else {
            return Ok(Dim::Unknown);
        };
        let Some(n) = size.fixed() else {
            // A window as wide as its padding keeps the size, whatever it is.
            if stride == 1 && Some(padding) == extent.checked_sub(1) {
                return Ok(size.clone());
            }
            let room = size.plus(&dim(padding.checked_sub(extent)));
            let counts = !ceil || stride == 1;
            return Ok(if counts {
                room.over(&Dim::Fixed(stride)).plus(&Dim::Fixed(1))
            } else {
                Dim::Unknown
            });
        };
        let Some(room) = n.checked_add(padding).and_then(|n| n.checked_sub(extent)) else {
            return Ok(Dim::Unknown);
        };
        if room < 0 {
            return Err(InferError::new(format!(
                "a window of {extent} does not fit into {n} with padding {padding} on axis {}",
                axis + 2
            )));
        }
        let mut count = room / stride + 1;
        // Rounded up, but no window may begin in the padding behind the input.
        if ceil && room % stride != 0 && count * stride < n + pads.0 {
            count += 1;
        }
        Ok(Dim::Fixed(count))
    }
}

/// Batch and channels, and the axes of space.
fn split_space(shape: &Shape) -> Result<(&Dim, &Dim, &[Dim]), InferError> {
    match &shape.0[..] {
        [n, c, space @ ..] if !space.is_empty() => Ok((n, c, space)),
        _ => Err(InferError::new(format!("{shape} has no axes of space"))),
    }
}

fn conv(cx: &InferCx<'_>) -> Inferred {
    output(any_dtype(cx, 0..3), conv_shape(cx, cx.shape(0), cx.shape(1), cx.shape(2))?)
}

/// More products than this take longer than anyone waits for a folded convolution.
const MAX_PRODUCTS: usize = 1 << 28;

fn eval_conv(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, EvalError> {
    match cx.input(0)?.dtype {
        DataType::Float => convolved(cx, f64::from, |sum| {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to the type")]
            let rounded = sum as f32;
            rounded
        }),
        DataType::Double => convolved::<f64>(cx, |x| x, |sum| sum),
        _ => Err(EvalError::Unsupported("a convolution of this type")),
    }
}

/// An axis of space: sizes of input, kernel and output, steps, and the padding in front.
struct Along {
    input: usize,
    kernel: usize,
    output: usize,
    stride: usize,
    dilation: usize,
    before: i64,
}

impl Along {
    fn of(cx: &EvalCx<'_>, axis: usize, input: i64, kernel: i64) -> Result<Along, EvalError> {
        let at = |name: &str, axis: usize, default: i64| match cx.attrs.ints(name) {
            Some(ints) => ints.get(axis).copied().ok_or_else(|| EvalError::invalid(name)),
            None => Ok(default),
        };
        let (stride, dilation) = (at("strides", axis, 1)?, at("dilations", axis, 1)?);
        let half = cx.input(0)?.dims.len() - 2;
        let extent = (kernel - 1).checked_mul(dilation).and_then(|n| n.checked_add(1));
        let extent = extent.ok_or_else(|| EvalError::invalid("dilations"))?;
        if stride < 1 || dilation < 1 || kernel < 1 {
            return Err(EvalError::invalid("a window without elements, or that does not move"));
        }
        let same = |lower: bool| {
            let windows = (input + stride - 1) / stride;
            let padding = ((windows - 1) * stride + extent - input).max(0);
            let before = if lower { padding - padding / 2 } else { padding / 2 };
            (before, padding - before)
        };
        let (before, behind) = match cx.attrs.str("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" => same(false),
            "SAME_LOWER" => same(true),
            "VALID" => (0, 0),
            _ => (at("pads", axis, 0)?, at("pads", half + axis, 0)?),
        };
        let room = input.checked_add(before).and_then(|n| n.checked_add(behind));
        let room = room.map(|n| n.saturating_sub(extent)).filter(|&room| room >= 0);
        let room = room.ok_or_else(|| EvalError::invalid("a window that does not fit"))?;
        let size = |n: i64| usize::try_from(n).map_err(|_| EvalError::invalid("a negative size"));
        Ok(Along {
            input: size(input)?,
            kernel: size(kernel)?,
            output: size(room / stride + 1)?,
            stride: size(stride)?,
            dilation: size(dilation)?,
            before,
        })
    }

    /// The element that the window at `position` sees at `tap`, outside of the padding.
    fn element(&self, position: usize, tap: usize) -> Option<usize> {
        let at = i64::try_from(position * self.stride + tap * self.dilation).ok()? - self.before;
        usize::try_from(at).ok().filter(|&at| at < self.input)
    }
}

/// The convolution in double precision, rounded once.
fn convolved<T: Element + Copy>(
    cx: &EvalCx<'_>,
    widen: impl Fn(T) -> f64,
    round: impl Fn(f64) -> T,
) -> Result<Vec<Tensor>, EvalError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let group = cx.attrs.int("group").unwrap_or(1);
    let (&[samples, channels, ref space @ ..], &[filters, taken, ref kernel @ ..]) =
        (&x.dims[..], &w.dims[..])
    else {
        return Err(EvalError::invalid("no axes of space"));
    };
    let fits = taken.checked_mul(group) == Some(channels) && group > 0 && filters % group == 0;
    if !fits || space.len() != kernel.len() || space.is_empty() {
        return Err(EvalError::invalid("input and weight do not go together"));
    }
    let axes: Vec<Along> = (0..space.len())
        .map(|axis| Along::of(cx, axis, space[axis], kernel[axis]))
        .collect::<Result<_, _>>()?;
    let mut dims = vec![samples, filters];
    dims.extend(axes.iter().map(|a| a.output as i64));
    let size = cx.size(x.dtype, &dims)?;
    let taps: usize = axes.iter().map(|a| a.kernel).product();
    let size_of = |n: i64| usize::try_from(n).unwrap_or(0);
    let (taken, channels, filters) = (size_of(taken), size_of(channels), size_of(filters));
    if size.saturating_mul(taps).saturating_mul(taken) > MAX_PRODUCTS {
        return Err(EvalError::Unsupported("a convolution of this size"));
    }
    let (xs, ws) = (x.elements::<T>()?, w.elements::<T>()?);
    let bias = cx.get(2).map(Tensor::elements::<T>).transpose()?;
    let positions: usize = axes.iter().map(|a| a.output).product();
    let plane: usize = axes.iter().map(|a| a.input).product();
    let per_group = filters / size_of(group).max(1);
    // Which element of a plane the window at a position sees at a tap, none in the padding.
    let seen = |mut position: usize, mut tap: usize| {
        let (mut element, mut step) = (0, 1);
        for axis in axes.iter().rev() {
            element += axis.element(position % axis.output, tap % axis.kernel)? * step;
            (position, tap, step) = (position / axis.output, tap / axis.kernel, step * axis.input);
        }
        Some(element)
    };
    let out = (0..size).map(|at| {
        let (position, filter) = (at % positions, at / positions % filters);
        let sample = at / positions / filters;
        let mut sum = bias.as_ref().and_then(|b| b.get(filter)).map_or(0.0, |&b| widen(b));
        for channel in 0..taken {
            let base = (sample * channels + filter / per_group * taken + channel) * plane;
            for tap in 0..taps {
                let Some(element) = seen(position, tap) else { continue };
                let weight = ws[(filter * taken + channel) * taps + tap];
                sum += widen(xs[base + element]) * widen(weight);
            }
        }
        round(sum)
    });
    Ok(vec![Tensor::new(&dims, out.collect())])
}

/// Shape of a convolution of `x` by `w` with a bias.
fn conv_shape(
    cx: &InferCx<'_>,
    x: Option<&Shape>,
    w: Option<&Shape>,
    bias: Option<&Shape>,
) -> Result<Option<Shape>, InferError> {
    let (Some(x), Some(w)) = (x, w) else {
        return Ok(x.or(w).map(|s| Shape::unknown(s.rank())));
    };
    let (n, c, space) = split_space(x)?;
    let (filters, taken, kernel) = split_space(w)?;
    if x.rank() != w.rank() {
        return Err(InferError::new(format!("input {x} and weight {w} are of different ranks")));
    }
    if !is_unknown_attr(cx, "group") {
        let group = cx.attrs.int("group").unwrap_or(1);
        let given = taken.fixed().and_then(|t| t.checked_mul(group));
        if let (Some(c), Some(given)) = (c.fixed(), given)
            && c != given
        {
            return Err(InferError::new(format!(
                "input {x} has {c} channels, weight {w} with group {group} takes {given}"
            )));
        }
        if let Some(filters) = filters.fixed()
            && (group <= 0 || filters % group != 0)
        {
            return Err(InferError::new(format!("weight {w} does not go into {group} groups")));
        }
    }
    if let Some(bias) = bias
        && (bias.rank() != 1 || merge(&bias.0[0], filters).is_none())
    {
        return Err(InferError::new(format!("bias {bias} does not go with weight {w}")));
    }
    let Some(window) = window(cx, space.len(), Some(kernel))? else {
        return Ok(Some(Shape::unknown(x.rank())));
    };
    let space = window
        .over(space, false)
        .map_err(|err| InferError::new(format!("{}: input {x}, weight {w}", err.0)))?;
    Ok(Some([n.clone(), filters.clone()].into_iter().chain(space).collect()))
}

fn conv_integer(cx: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Int32), conv_shape(cx, cx.shape(0), cx.shape(1), None)?)
}

fn qlinear_conv(cx: &InferCx<'_>) -> Inferred {
    output(cx.dtype(7), conv_shape(cx, cx.shape(0), cx.shape(3), cx.shape(8))?)
}

fn deform_conv(cx: &InferCx<'_>) -> Inferred {
    output(any_dtype(cx, 0..2), conv_shape(cx, cx.shape(0), cx.shape(1), cx.shape(3))?)
}

fn causal_conv(cx: &InferCx<'_>) -> Inferred {
    // The last inputs that the next call's first window covers.
    let kernel = cx.shape(1).and_then(|w| w.0.last()?.fixed());
    let tail = |x: &Shape| match &x.0[..] {
        [batch, channels, _] => {
            let length = dim(kernel.filter(|&k| k > 0).map(|k| k - 1));
            [batch.clone(), channels.clone(), length].into_iter().collect()
        }
        _ => Shape::unknown(x.rank()),
    };
    let state = cx.input(3).ty.cloned().or_else(|| tensor(cx.dtype(0), cx.shape(0).map(tail)));
    several(cx, [cx.input(0).ty.cloned(), state])
}

fn conv_transpose(cx: &InferCx<'_>) -> Inferred {
    let dtype = any_dtype(cx, 0..3);
    let (Some(x), Some(w)) = (cx.shape(0), cx.shape(1)) else {
        return output(dtype, cx.shape(0).or(cx.shape(1)).map(|s| Shape::unknown(s.rank())));
    };
    let (n, c, space) = split_space(x)?;
    let (taken, filters, kernel) = split_space(w)?;
    if x.rank() != w.rank() {
        return Err(InferError::new(format!("input {x} and weight {w} are of different ranks")));
    }
    if merge(c, taken).is_none() {
        return Err(InferError::new(format!(
            "input {x} has {c} channels, weight {w} takes {taken}"
        )));
    }
    let group =
        if is_unknown_attr(cx, "group") { None } else { Some(cx.attrs.int("group").unwrap_or(1)) };
    let filters = group.map_or(Dim::Unknown, |group| filters.times(&Dim::Fixed(group)));
    let unknown = ["output_shape", "output_padding"].iter().any(|name| is_unknown_attr(cx, name));
    let window = if unknown { None } else { window(cx, space.len(), Some(kernel))? };
    let Some(window) = window else {
        let space = space.iter().map(|_| Dim::Unknown);
        return output(dtype, Some([n.clone(), filters].into_iter().chain(space).collect()));
    };
    let given = cx.attrs.ints("output_shape");
    let extra = cx.attrs.ints("output_padding");
    let along = |axis: usize| {
        if let Some(&size) =
            given.and_then(|given| given.get(given.len().checked_sub(space.len())? + axis))
        {
            return Some(Dim::Fixed(size));
        }
        let size = &space[axis];
        let stride = window.strides[axis];
        if window.same {
            return Some(size.times(&Dim::Fixed(stride)));
        }
        let pads =
            window.pads.as_ref().map_or((0, 0), |pads| (pads[axis], pads[axis + space.len()]));
        let extent = window.kernel[axis]
            .fixed()?
            .checked_sub(1)?
            .checked_mul(window.dilations[axis])?
            .checked_add(1)?;
        let extra = extra.and_then(|extra| extra.get(axis)).copied().unwrap_or(0);
        let more = extent
            .checked_sub(stride)?
            .checked_add(extra)?
            .checked_sub(pads.0)?
            .checked_sub(pads.1)?;
        let full = size.times(&Dim::Fixed(stride)).plus(&Dim::Fixed(more));
        (full.fixed().is_none_or(|n| n >= 0)).then_some(full)
    };
    output(
        dtype,
        Some(
            [n.clone(), filters]
                .into_iter()
                .chain((0..space.len()).map(|i| along(i).unwrap_or(Dim::Unknown)))
                .collect(),
        ),
    )
}

fn pool_shape(cx: &InferCx<'_>) -> Result<Option<Shape>, InferError> {
    let Some(x) = cx.shape(0) else { return Ok(None) };
    let (n, c, space) = split_space(x)?;
    if is_unknown_attr(cx, "ceil_mode") {
        return Ok(Some(Shape::unknown(x.rank())));
    }
    let ceil = cx.attrs.int("ceil_mode").unwrap_or(0) != 0;
    let Some(window) = window(cx, space.len(), None)? else {
        return Ok(Some(Shape::unknown(x.rank())));
    };
    let space =
        window.over(space, ceil).map_err(|err| InferError::new(format!("{}: {x}", err.0)))?;
    Ok(Some([n.clone(), c.clone()].into_iter().chain(space).collect()))
}

fn pool(cx: &InferCx<'_>) -> Inferred {
    output(cx.dtype(0), pool_shape(cx)?)
}

fn max_pool(cx: &InferCx<'_>) -> Inferred {
    let shape = pool_shape(cx)?;
    several(cx, [tensor(cx.dtype(0), shape.clone()), tensor(Some(DataType::Int64), shape)])
}

fn global_pool(cx: &InferCx<'_>) -> Inferred {
    let Some(x) = cx.shape(0) else { return output(cx.dtype(0), None) };
    let (n, c, space) = split_space(x)?;
    let ones = space.iter().map(|_| Dim::Fixed(1));
    output(cx.dtype(0), Some([n.clone(), c.clone()].into_iter().chain(ones).collect()))
}

fn max_unpool(cx: &InferCx<'_>) -> Inferred {
    if let Some(given) = cx.ints(2) {
        return output(cx.dtype(0), Some(Shape::fixed(&given)));
    }
    let Some(x) = cx.shape(0) else { return output(cx.dtype(0), None) };
    let attrs = ["kernel_shape", "strides", "pads"];
    if cx.has(2) || x.rank() < 2 || attrs.iter().any(|name| is_unknown_attr(cx, name)) {
        return output(cx.dtype(0), Some(Shape::unknown(x.rank())));
    }
    let space = x.rank() - 2;
    let [kernel, strides, pads] = attrs.map(|name| cx.attrs.ints(name).unwrap_or_default());
    let at = |ints: &[i64], i: usize, default: i64| ints.get(i).copied().unwrap_or(default);
    let along = |axis: usize| {
        let padding = at(pads, axis, 0).checked_add(at(pads, axis + space, 0))?;
        let steps = x.0[axis + 2].fixed()?.checked_sub(1)?.checked_mul(at(strides, axis, 1))?;
        let size = steps.checked_add(*kernel.get(axis)?)?.checked_sub(padding)?;
        (size >= 0).then_some(size)
    };
    let space = (0..space).map(|axis| dim(along(axis)));
    output(cx.dtype(0), Some(x.0[..2].iter().cloned().chain(space).collect()))
}

fn roi_pool(cx: &InferCx<'_>) -> Inferred {
    let at = |slot: usize, axis: usize| {
        cx.shape(slot).and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown)
    };
    let pooled = |i: usize| dim(cx.attrs.ints("pooled_shape").and_then(|p| p.get(i).copied()));
    output(cx.dtype(0), Some([at(1, 0), at(0, 1), pooled(0), pooled(1)].into_iter().collect()))
}

fn col2im(cx: &InferCx<'_>) -> Inferred {
    let Some(image) = super::infer::dims_from(cx.input(1)) else {
        return output(cx.dtype(0), None);
    };
    let at = |axis: usize| cx.shape(0).and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown);
    let block = cx.ints(2).and_then(|b| b.iter().try_fold(1i64, |n, &d| n.checked_mul(d)));
    let channels =
        at(1).fixed().zip(block).filter(|&(c, b)| b > 0 && c % b == 0).map(|(c, b)| c / b);
    output(cx.dtype(0), Some([at(0), dim(channels)].into_iter().chain(image.0).collect()))
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::{Case, f32s, iota};

    fn conv(x: &str, w: &str) -> Case {
        Case::new("Conv").typed(DataType::Float, x).typed(DataType::Float, w)
    }

    #[test]
    fn convolutions() {
        // Two groups, a dilated window that moves by two, unequal padding, a bias for each filter.
        let grouped = Case::new("Conv")
            .attr("group", 2_i64)
            .ints("pads", &[1, 2])
            .ints("strides", &[2])
            .ints("dilations", &[2])
            .input(iota(&[1, 2, 5]))
            .input(f32s(&[2, 1, 3], &[1.0, 10.0, 100.0, 2.0, 0.0, 1.0]))
            .input(f32s(&[2], &[1.0, -1.0]));
        assert_eq!(grouped.run()[0], f32s(&[1, 2, 2], &[311.0, 32.0, 7.0, 11.0]));
        let same = |auto_pad: &str| {
            let weight = f32s(&[1, 1, 2, 2], &[1.0, 10.0, 100.0, 1000.0]);
            let case = Case::new("Conv").attr("auto_pad", auto_pad);
            case.input(iota(&[1, 1, 3, 3])).input(weight).run().remove(0).to_floats()
        };
        assert_eq!(
            same("SAME_UPPER").unwrap_or_default(),
            [4310.0, 5421.0, 502.0, 7643.0, 8754.0, 805.0, 76.0, 87.0, 8.0]
        );
        assert_eq!(
            same("SAME_LOWER").unwrap_or_default(),
            [0.0, 1000.0, 2100.0, 3000.0, 4310.0, 5421.0, 6030.0, 7643.0, 8754.0]
        );
        let channels = Case::new("Conv").input(iota(&[1, 2, 6])).input(iota(&[2, 2, 1]));
        assert_eq!(
            channels.run()[0].to_floats().unwrap_or_default(),
            [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 18.0, 23.0, 28.0, 33.0, 38.0, 43.0]
        );
        // What is told apart from what cannot be.
        let wrong = Case::new("Conv").input(iota(&[1, 3, 6])).input(iota(&[2, 2, 1])).try_run();
        assert!(wrong.is_err_and(|e| e.to_string().contains("do not go together")));
        let large = Case::new("Conv").input(iota(&[1, 2, 4])).input(iota(&[2, 2, 5])).try_run();
        assert!(large.is_err_and(|e| e.to_string().contains("does not fit")));
    }

    #[test]
    fn sizes_of_convolutions() {
        assert_eq!(
            conv("N,768,S", "768,1,9").attr("group", 768_i64).ints("pads", &[4, 4]).infer(),
            "float[N,768,S]"
        );
        assert_eq!(
            conv("1,3,224,224", "64,3,7,7").ints("strides", &[2, 2]).infer(),
            "float[1,64,109,109]"
        );
        assert_eq!(
            conv("1,3,5", "4,3,3").attr("auto_pad", "SAME_UPPER").ints("strides", &[2]).infer(),
            "float[1,4,3]"
        );
        assert_eq!(conv("1,3,9", "4,3,3").ints("dilations", &[2]).infer(), "float[1,4,5]");
    }

    #[test]
    fn channels_must_agree() {
        assert_eq!(
            conv("1,128,768", "768,1,9").attr("group", 768_i64).infer_err(),
            "input [1,128,768] has 128 channels, weight [768,1,9] with group 768 takes 768"
        );
        assert_eq!(
            conv("1,3,4", "8,3,5").infer_err(),
            "a window of 5 does not fit into 4 with padding 0 on axis 2: input [1,3,4], weight [8,3,5]"
        );
    }

    #[test]
    fn windows_do_not_begin_behind_the_input() {
        let pool = |size: &str| {
            Case::new("MaxPool")
                .ints("kernel_shape", &[2])
                .ints("strides", &[3])
                .attr("ceil_mode", 1_i64)
                .typed(DataType::Float, size)
        };
        assert_eq!(pool("1,1,6").infer(), "float[1,1,2]");
        assert_eq!(pool("1,1,7").infer(), "float[1,1,3]");
    }

    #[test]
    fn transposed_convolutions_grow() {
        let case = Case::new("ConvTranspose")
            .typed(DataType::Float, "1,4,5")
            .typed(DataType::Float, "4,2,3");
        assert_eq!(case.ints("strides", &[2]).attr("group", 2_i64).infer(), "float[1,4,11]");
    }

    #[test]
    fn a_causal_convolution_keeps_what_its_window_still_needs() {
        let case = Case::new("CausalConvWithState").opset(27).outputs(2);
        let case = case.typed(DataType::Float, "B,6,T").typed(DataType::Float, "6,1,4");
        assert_eq!(case.infer(), "float[B,6,T] float[B,6,3]");
    }

    #[test]
    fn unpooling_undoes_the_size_of_pooling() {
        let case = Case::new("MaxUnpool").ints("kernel_shape", &[2, 3]).ints("strides", &[2, 3]);
        let case = case.ints("pads", &[0, 1, 0, 1]);
        let case = case.typed(DataType::Float, "N,1,2,3").typed(DataType::Int64, "N,1,2,3");
        assert_eq!(case.infer(), "float[N,1,4,7]");
    }
}
