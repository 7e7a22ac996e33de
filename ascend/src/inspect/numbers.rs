//! Constants that do not survive float16.

use onnxfix_ir::{AttrValue, DataType, NodeId, Tensor, ValueId};
use rayon::prelude::*;

use super::{Cx, Kind};
use crate::finding::Severity::{Note, Warning};

/// The largest number of float16.
const LARGEST: f64 = 65504.0;
/// Half the smallest number of float16: what is below becomes 0.
const SMALLEST: f64 = 2.980_232_238_769_531_3e-8;

pub(super) fn check(cx: &mut Cx<'_>) {
    let constants = constants(cx);
    let ranges: Vec<Range> = constants.par_iter().map(|(_, tensor)| range(tensor)).collect();
    let pick = |is: &dyn Fn(&Range) -> bool| -> Vec<String> {
        let picked = constants.iter().zip(&ranges).filter(|(_, range)| is(range));
        picked.map(|((name, _), _)| name.clone()).collect()
    };
    let large = pick(&|range| range.largest > LARGEST);
    if !large.is_empty() {
        let most = ranges.iter().map(|range| range.largest).fold(0.0, f64::max);
        let clipped = if cx.facts.cann.clips_constants {
            "; this ATC clips them, unless --is_weight_clip=0"
        } else {
            ""
        };
        let kind = Kind {
            code: "float16-overflow",
            severity: Warning,
            why: "the chip computes in float16: beyond ±65504 there is infinity, and infinity minus infinity or times 0 \
                  is not a number, as in the rows of a sample that is all padding",
            source: "IEEE 754 half precision; force_fp16 is ATC's default",
            confirmed: true,
            pass: Some("bound-attention-mask"),
        };
        let what = format!("constants beyond float16: {}, up to ±{most:.3e}{clipped}", large.len());
        cx.find(&kind, large, what);
    }
    let small = pick(&|range| range.smallest < SMALLEST);
    if !small.is_empty() {
        let kind = Kind {
            code: "float16-underflow",
            severity: Note,
            why: "they are 0 in float16, which matters where they keep a divisor from being 0 and the operator is not \
                  fused",
            source: "IEEE 754 half precision",
            confirmed: true,
            pass: None,
        };
        let what = format!("constants that are 0 in float16: {}", small.len());
        cx.find(&kind, small, what);
    }
}

/// All constants in float32 or float64 that a node reads, with what messages call them.
fn constants<'a>(cx: &Cx<'a>) -> Vec<(String, &'a Tensor)> {
    let model = cx.model;
    let wide = |tensor: &Tensor| matches!(tensor.dtype, DataType::Float | DataType::Double);
    let values = model.all_values().filter_map(|(id, value)| Some((id, value.tensor()?)));
    let read = |id: &ValueId| model.users(*id).any(|node| !cx.origins.is_constant(node));
    let values = values.filter(|(id, tensor)| wide(tensor) && read(id));
    let mut found: Vec<(String, &Tensor)> =
        values.map(|(id, tensor)| (cx.value_path(id), &**tensor)).collect();
    let is_read = |id: NodeId| model[id].outputs().iter().flatten().any(&read);
    for (id, node) in model.all_nodes() {
        for attr in &node.attrs.0 {
            if let AttrValue::Tensor(tensor) = &attr.value
                && wide(tensor)
                && is_read(id)
            {
                found.push((model.describe(id), tensor));
            }
        }
    }
    found
}

/// Absolute values of the elements of a tensor.
struct Range {
    /// The largest.
    largest: f64,
    /// The smallest but 0, of a scalar only: single weights may vanish.
    smallest: f64,
}

fn range(tensor: &Tensor) -> Range {
    let mut range =
        Range { largest: tensor.max_abs().unwrap_or_default(), smallest: f64::INFINITY };
    if tensor.len().is_ok_and(|len| len == 1) && range.largest > 0.0 {
        range.smallest = range.largest;
    }
    range
}
