//! Strings. Inference only.

use super::infer::{Inferred, broadcast_inputs, one as output, same_bool, several, tensor};
use super::schema::{
    attr::{floats, int, ints, string, strings},
    one,
    sets::{BOOL, FLOAT, INT64, STRING},
    types,
};
use super::{Class, InferCx, Operator};
use crate::{DataType, Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("StringConcat", &[20], concat)
        .params(&[one("X", "T", STRING), one("Y", "T", STRING)], &[one("Z", "T", STRING)])
        .class(Class::ELEMENTWISE),
    Operator::new("StringNormalizer", &[10], normalize)
        .params(&[one("X", "", STRING)], &[one("Y", "", STRING)])
        .attrs(&[
            string("case_change_action"),
            int("is_case_sensitive"),
            string("locale"),
            strings("stopwords"),
        ]),
    Operator::new("StringSplit", &[20], split)
        .params(&[one("X", "", STRING)], &[one("Y", "", STRING), one("Z", "", INT64)])
        .attrs(&[string("delimiter"), int("maxsplit")]),
    Operator::new("RegexFullMatch", &[20], same_bool)
        .params(&[one("X", "", STRING)], &[one("Y", "", BOOL)])
        .attrs(&[string("pattern")])
        .class(Class::ELEMENTWISE),
    Operator::new("TfIdfVectorizer", &[9], vectorize)
        .params(&[one("X", "", types!(Int32 Int64 String))], &[one("Y", "", FLOAT)])
        .attrs(&[
            int("max_gram_length").required(),
            int("max_skip_count").required(),
            int("min_gram_length").required(),
            string("mode").required(),
            ints("ngram_counts").required(),
            ints("ngram_indexes").required(),
            ints("pool_int64s"),
            strings("pool_strings"),
            floats("weights"),
        ]),
];

fn concat(cx: &InferCx<'_>) -> Inferred {
    output(Some(DataType::String), broadcast_inputs(cx, 0..2)?)
}

fn normalize(cx: &InferCx<'_>) -> Inferred {
    // Stop words fall out of the last axis.
    output(Some(DataType::String), cx.shape(0).map(|s| Shape::unknown(s.rank())))
}

fn split(cx: &InferCx<'_>) -> Inferred {
    let parts = cx.shape(0).map(|s| s.0.iter().cloned().chain([Dim::Unknown]).collect());
    several(
        cx,
        [
            tensor(Some(DataType::String), parts),
            tensor(Some(DataType::Int64), cx.shape(0).cloned()),
        ],
    )
}

fn vectorize(cx: &InferCx<'_>) -> Inferred {
    let width = cx.attrs.ints("ngram_indexes").and_then(|all| all.iter().max()?.checked_add(1));
    let shape = cx.shape(0).and_then(|s| {
        let (_, front) = s.0.split_last()?;
        Some(front.iter().cloned().chain([super::infer::dim(width)]).collect())
    });
    output(Some(DataType::Float), shape)
}
