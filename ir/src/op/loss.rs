//! Losses, as exports of training graphs have them. Inference only.

use super::infer::{Inferred, is_unknown_attr, several, tensor};
use super::schema::{
    attr::{int, string},
    one, opt,
    sets::{FLOATS, INDEX},
};
use super::{InferCx, Operator};
use crate::Shape;

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("NegativeLogLikelihoodLoss", &[12, 13, 22], loss)
        .params(
            &[one("input", "T", FLOATS), one("target", "", INDEX), opt("weight", "T", FLOATS)],
            &[one("loss", "T", FLOATS)],
        )
        .attrs(&[int("ignore_index"), string("reduction")]),
    Operator::new("SoftmaxCrossEntropyLoss", &[12, 13], loss)
        .params(
            &[one("scores", "T", FLOATS), one("labels", "", INDEX), opt("weights", "T", FLOATS)],
            &[one("output", "T", FLOATS), opt("log_prob", "T", FLOATS)],
        )
        .attrs(&[int("ignore_index"), string("reduction")]),
];

fn loss(cx: &InferCx<'_>) -> Inferred {
    let shape = match cx.attrs.str("reduction") {
        _ if is_unknown_attr(cx, "reduction") => None,
        Some("none") => cx.shape(1).cloned(),
        _ => Some(Shape::default()),
    };
    several(cx, [tensor(cx.dtype(0), shape), cx.input(0).ty.cloned()])
}
