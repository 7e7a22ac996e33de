//! Recurrent networks. Inference only.

use super::infer::{Inferred, any_dtype, int_attr, is_unknown_attr, merge, several, tensor};
use super::schema::{
    attr::{float, floats, int, string, strings},
    one, opt,
    sets::{FLOATS, INT32},
};
use super::{InferCx, InferError, Operator};
use crate::{Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("RNN", &[1, 7, 14, 22], recurrent)
        .params(
            &[
                one("X", "T", FLOATS),
                one("W", "T", FLOATS),
                one("R", "T", FLOATS),
                opt("B", "T", FLOATS),
                opt("sequence_lens", "", INT32),
                opt("initial_h", "T", FLOATS),
            ],
            &[opt("Y", "T", FLOATS), opt("Y_h", "T", FLOATS)],
        )
        .attrs(&[
            floats("activation_alpha"),
            floats("activation_beta"),
            strings("activations"),
            float("clip"),
            string("direction"),
            int("hidden_size"),
            int("layout").since(14),
            int("output_sequence").until(7),
        ]),
    Operator::new("GRU", &[1, 3, 7, 14, 22], recurrent)
        .params(
            &[
                one("X", "T", FLOATS),
                one("W", "T", FLOATS),
                one("R", "T", FLOATS),
                opt("B", "T", FLOATS),
                opt("sequence_lens", "", INT32),
                opt("initial_h", "T", FLOATS),
            ],
            &[opt("Y", "T", FLOATS), opt("Y_h", "T", FLOATS)],
        )
        .attrs(&[
            floats("activation_alpha"),
            floats("activation_beta"),
            strings("activations"),
            float("clip"),
            string("direction"),
            int("hidden_size"),
            int("layout").since(14),
            int("linear_before_reset").since(3),
            int("output_sequence").until(7),
        ]),
    Operator::new("LSTM", &[1, 7, 14, 22], recurrent)
        .params(
            &[
                one("X", "T", FLOATS),
                one("W", "T", FLOATS),
                one("R", "T", FLOATS),
                opt("B", "T", FLOATS),
                opt("sequence_lens", "", INT32),
                opt("initial_h", "T", FLOATS),
                opt("initial_c", "T", FLOATS),
                opt("P", "T", FLOATS),
            ],
            &[opt("Y", "T", FLOATS), opt("Y_h", "T", FLOATS), opt("Y_c", "T", FLOATS)],
        )
        .attrs(&[
            floats("activation_alpha"),
            floats("activation_beta"),
            strings("activations"),
            float("clip"),
            string("direction"),
            int("hidden_size"),
            int("input_forget"),
            int("layout").since(14),
            int("output_sequence").until(7),
        ]),
];

fn recurrent(cx: &InferCx<'_>) -> Inferred {
    let dtype = any_dtype(cx, 0..3);
    let at = |slot: usize, axis: usize| {
        cx.shape(slot).and_then(|s| s.0.get(axis).cloned()).unwrap_or(Dim::Unknown)
    };
    for slot in 0..3 {
        if let Some(shape) = cx.shape(slot)
            && shape.rank() != 3
        {
            return Err(InferError::new(format!(
                "input {slot} is {shape}, which is not of rank 3"
            )));
        }
    }
    if let (Some(x), Some(w)) = (cx.shape(0), cx.shape(1))
        && merge(&x.0[2], &w.0[2]).is_none()
    {
        return Err(InferError::new(format!("input {x} does not go with weight {w}")));
    }
    let directions = match cx.attrs.str("direction") {
        _ if is_unknown_attr(cx, "direction") => Dim::Unknown,
        Some("bidirectional") => Dim::Fixed(2),
        _ => Dim::Fixed(1),
    };
    let hidden = match cx.attrs.int("hidden_size") {
        Some(n) => Dim::Fixed(n),
        None => at(2, 2),
    };
    let layout = if cx.version < 14 { Some(0) } else { int_attr(cx, "layout", 0) };
    let (all, last): (Shape, Shape) = match layout {
        Some(0) => {
            let (length, batch) = (at(0, 0), at(0, 1));
            (
                [length, directions.clone(), batch.clone(), hidden.clone()].into_iter().collect(),
                [directions, batch, hidden].into_iter().collect(),
            )
        }
        Some(_) => {
            let (batch, length) = (at(0, 0), at(0, 1));
            (
                [batch.clone(), length, directions.clone(), hidden.clone()].into_iter().collect(),
                [batch, directions, hidden].into_iter().collect(),
            )
        }
        None => (Shape::unknown(4), Shape::unknown(3)),
    };
    several(
        cx,
        [tensor(dtype, Some(all)), tensor(dtype, Some(last.clone())), tensor(dtype, Some(last))],
    )
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::Case;

    #[test]
    fn both_directions() {
        let case = Case::new("LSTM")
            .outputs(3)
            .attr("hidden_size", 16_i64)
            .attr("direction", "bidirectional");
        let case = case.typed(DataType::Float, "S,B,8").typed(DataType::Float, "2,64,8");
        assert_eq!(case.infer(), "float[S,2,B,16] float[2,B,16] float[2,B,16]");
    }
}
