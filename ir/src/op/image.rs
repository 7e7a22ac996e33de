//! Images: resizing, sampling, regions, boxes. Inference only.

use super::infer::{
    Inferred, dim, dims_from, int_attr, is_unknown_attr, normal_axes, one as output,
};
use super::schema::{
    attr::{float, floats, int, ints, string},
    one, opt,
    sets::{ANY, FLOAT, FLOATS, INT64, OLD_ANY, UINT8},
    types,
};
use super::{InferCx, InferError, Operator};
use crate::{DataType, Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Resize", &[10, 11, 13, 18, 19], resize)
        .params(
            &[
                one("X", "T1", ANY),
                opt("roi", "", types!(Float Float16 Double)),
                opt("scales", "", FLOAT).since(11),
                opt("sizes", "", INT64).since(11),
            ],
            &[one("Y", "T1", ANY)],
        )
        .attrs(&[
            int("antialias").since(18),
            ints("axes").since(18),
            string("coordinate_transformation_mode").since(11),
            float("cubic_coeff_a").since(11),
            int("exclude_outside").since(11),
            float("extrapolation_value").since(11),
            string("keep_aspect_ratio_policy").since(18),
            string("mode"),
            string("nearest_mode").since(11),
        ]),
    Operator::new("Upsample", &[1, 7, 9, 10], upsample)
        .params(
            &[one("X", "T", OLD_ANY), one("scales", "", FLOAT).since(9)],
            &[one("Y", "T", OLD_ANY)],
        )
        .attrs(&[
            float("height_scale").required().until(7),
            string("mode").until(10),
            floats("scales").required().since(7).until(9),
            float("width_scale").required().until(7),
        ]),
    Operator::new("GridSample", &[16, 20, 22], grid_sample)
        .params(&[one("X", "T1", ANY), one("grid", "", FLOATS)], &[one("Y", "T1", ANY)])
        .attrs(&[int("align_corners"), string("mode"), string("padding_mode")]),
    Operator::new("AffineGrid", &[20], affine_grid)
        .params(&[one("theta", "T1", FLOATS), one("size", "", INT64)], &[one("grid", "T1", FLOATS)])
        .attrs(&[int("align_corners")]),
    Operator::new("RoiAlign", &[10, 16, 22], roi_align)
        .params(
            &[one("X", "T1", FLOATS), one("rois", "T1", FLOATS), one("batch_indices", "", INT64)],
            &[one("Y", "T1", FLOATS)],
        )
        .attrs(&[
            string("coordinate_transformation_mode").since(16),
            string("mode"),
            int("output_height"),
            int("output_width"),
            int("sampling_ratio"),
            float("spatial_scale"),
        ]),
    Operator::new("NonMaxSuppression", &[10, 11], suppress)
        .params(
            &[
                one("boxes", "", FLOAT),
                one("scores", "", FLOAT),
                opt("max_output_boxes_per_class", "", INT64),
                opt("iou_threshold", "", FLOAT),
                opt("score_threshold", "", FLOAT),
            ],
            &[one("selected_indices", "", INT64)],
        )
        .attrs(&[int("center_point_box")]),
    Operator::new("ImageDecoder", &[20], decode)
        .params(&[one("encoded_stream", "", UINT8)], &[one("image", "", UINT8)])
        .attrs(&[string("pixel_format")]),
];

/// The shape with some axes scaled, sizes rounded down.
fn scaled(shape: &Shape, axes: &[usize], scales: &[f64]) -> Result<Shape, InferError> {
    if scales.len() != axes.len() {
        return Err(InferError::new(format!(
            "{} scales for {} axes of {shape}",
            scales.len(),
            axes.len()
        )));
    }
    let mut resized = shape.clone();
    for (&axis, &scale) in axes.iter().zip(scales) {
        if scale.is_nan() || scale <= 0.0 {
            return Err(InferError::new(format!("a scale of {scale}")));
        }
        let scaled =
            resized.0[axis].fixed().map(|n| (n as f64 * scale).floor()).filter(|n| *n < 9e15);
        if scale != 1.0 {
            resized.0[axis] = dim(scaled.map(|n| n as i64));
        }
    }
    Ok(resized)
}

/// Sizes that keep the proportions, as the smallest (or largest) of the scales that `sizes` ask for makes them.
///
/// None where the dimensions are unknown, or where rounding is so close that it depends on the runtime's precision.
fn proportional(shape: &Shape, axes: &[usize], sizes: &[i64], largest: bool) -> Vec<Option<i64>> {
    let unknown = vec![None; axes.len()];
    let dims: Option<Vec<i64>> = axes.iter().map(|&axis| shape.0[axis].fixed()).collect();
    let Some(dims) = dims else { return unknown };
    // Products of two of them have to be exact.
    let small = |&n: &i64| (1..1 << 20).contains(&n);
    if dims.is_empty() || !dims.iter().chain(sizes).all(small) {
        return unknown;
    }
    let by_scale = |&a: &usize, &b: &usize| (sizes[a] * dims[b]).cmp(&(sizes[b] * dims[a]));
    let all = 0..dims.len();
    let chosen = if largest { all.max_by(by_scale) } else { all.min_by(by_scale) };
    let Some(chosen) = chosen else { return unknown };
    let along = |&n: &i64| {
        let (doubled, whole) = (2 * n * sizes[chosen] + dims[chosen], 2 * dims[chosen]);
        (doubled % whole != 0).then_some(doubled / whole)
    };
    dims.iter().map(along).collect()
}

fn resize(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let (scales, sizes) = if cx.version < 11 { (1, usize::MAX) } else { (2, 3) };
    let axes = match cx.attrs.ints("axes") {
        Some(axes) => normal_axes(axes, shape.rank())?,
        None if is_unknown_attr(cx, "axes") => {
            return output(dtype, Some(Shape::unknown(shape.rank())));
        }
        None => (0..shape.rank()).collect(),
    };
    if let Some(given) = cx.ints(sizes).filter(|given| !given.is_empty()) {
        if given.len() != axes.len() {
            return Err(InferError::new(format!(
                "{} sizes for {} axes of {shape}",
                given.len(),
                axes.len()
            )));
        }
        let policy = match cx.attrs.str("keep_aspect_ratio_policy") {
            _ if is_unknown_attr(cx, "keep_aspect_ratio_policy") => None,
            given => given.or(Some("stretch")),
        };
        let sizes = match policy {
            Some("stretch") => given.into_iter().map(Some).collect(),
            Some("not_larger") => proportional(shape, &axes, &given, false),
            Some("not_smaller") => proportional(shape, &axes, &given, true),
            _ => vec![None; given.len()],
        };
        let mut resized = shape.clone();
        axes.iter().zip(sizes).for_each(|(&axis, n)| resized.0[axis] = dim(n));
        return output(dtype, Some(resized));
    }
    let scales = cx
        .input(scales)
        .tensor
        .and_then(crate::Tensor::to_floats)
        .filter(|scales| !scales.is_empty());
    if let (Some(scales), false) = (scales, cx.has(sizes)) {
        return output(dtype, Some(scaled(shape, &axes, &scales)?));
    }
    let mut resized = shape.clone();
    axes.iter().for_each(|&axis| resized.0[axis] = Dim::Unknown);
    output(dtype, Some(resized))
}

fn upsample(cx: &InferCx<'_>) -> Inferred {
    let dtype = cx.dtype(0);
    let Some(shape) = cx.shape(0) else { return output(dtype, None) };
    let scales = match cx.version {
        ..7 => None,
        7 | 8 => {
            cx.attrs.floats("scales").map(|scales| scales.iter().map(|&s| f64::from(s)).collect())
        }
        _ => cx.input(1).tensor.and_then(crate::Tensor::to_floats),
    };
    let axes: Vec<usize> = (0..shape.rank()).collect();
    let shape = match scales {
        Some(scales) => scaled(shape, &axes, &scales)?,
        None => Shape::unknown(shape.rank()),
    };
    output(dtype, Some(shape))
}

fn grid_sample(cx: &InferCx<'_>) -> Inferred {
    let shape = match (cx.shape(0).map(|s| &s.0[..]), cx.shape(1).map(|s| &s.0[..])) {
        (Some([n, c, ..]), Some([_, space @ .., _])) => {
            Some([n, c].into_iter().chain(space).cloned().collect())
        }
        (Some(x), None) => Some(Shape::unknown(x.len())),
        _ => None,
    };
    output(cx.dtype(0), shape)
}

fn affine_grid(cx: &InferCx<'_>) -> Inferred {
    let shape = match dims_from(cx.input(1)).map(|s| s.0.into_vec()).as_deref() {
        Some([n, _, space @ ..]) if matches!(space.len(), 2 | 3) => {
            let last = Dim::Fixed(space.len() as i64);
            Some(std::iter::once(n).chain(space).cloned().chain([last]).collect())
        }
        _ => None,
    };
    output(cx.dtype(0), shape)
}

fn roi_align(cx: &InferCx<'_>) -> Inferred {
    let at = |slot: usize, axis: usize| {
        cx.shape(slot).and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown)
    };
    let side = |name| dim(int_attr(cx, name, 1));
    output(
        cx.dtype(0),
        Some(
            [at(1, 0), at(0, 1), side("output_height"), side("output_width")].into_iter().collect(),
        ),
    )
}

fn suppress(_: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Int64), Some([Dim::Unknown, Dim::Fixed(3)].into_iter().collect()))
}

fn decode(_: &InferCx<'_>) -> Inferred {
    output(Some(DataType::Uint8), Some(Shape::unknown(3)))
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::{Case, f32s, ints};

    #[test]
    fn resizes_by_sizes_or_scales() {
        let x = || Case::new("Resize").typed(DataType::Float, "N,3,5,7").absent();
        assert_eq!(x().absent().input(ints(&[1, 3, 10, 9])).infer(), "float[1,3,10,9]");
        assert_eq!(x().input(f32s(&[4], &[1.0, 1.0, 1.5, 2.0])).infer(), "float[N,3,7,14]");
        assert_eq!(
            x().ints("axes", &[2, 3]).absent().input(ints(&[10, 9])).infer(),
            "float[N,3,10,9]"
        );
    }

    #[test]
    fn resizes_in_proportion() {
        let case = |policy: &str, sizes: &[i64]| {
            let case = Case::new("Resize").attr("keep_aspect_ratio_policy", policy);
            let case = case.ints("axes", &[2, 3]).typed(DataType::Float, "1,1,2,4");
            case.absent().absent().input(ints(sizes)).infer()
        };
        assert_eq!(case("not_larger", &[7, 8]), "float[1,1,4,8]");
        assert_eq!(case("not_smaller", &[7, 8]), "float[1,1,7,14]");
        // 4 · 5/4 is 5; 2 · 5/4 is 2.5, which runtimes round up or down.
        assert_eq!(case("not_larger", &[9, 5]), "float[1,1,?,5]");
    }
}
