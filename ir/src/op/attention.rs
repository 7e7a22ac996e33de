//! Attention in one operator, and what goes with it.

use super::arithmetic::binary;
use super::infer::{Inferred, dim, is_unknown_attr, merge, same, several, tensor};
use super::schema::{
    attr::{float, int, string},
    one, opt,
    sets::{FLOATS, INT64, NUMBERS_AND_BOOL, SMALL_FLOATS},
};
use super::{Class, InferCx, InferError, Operator};
use crate::{DataType, Dim, Shape};

/// The operators of this family.
pub(super) static OPS: &[Operator] = &[
    Operator::new("Attention", &[23, 24, 25], attention)
        .params(
            &[
                one("Q", "T1", FLOATS),
                one("K", "T1", FLOATS),
                one("V", "T2", FLOATS),
                opt("attn_mask", "", NUMBERS_AND_BOOL),
                opt("past_key", "T1", FLOATS),
                opt("past_value", "T2", FLOATS),
                opt("nonpad_kv_seqlen", "", INT64).since(24),
            ],
            &[
                one("Y", "T1", FLOATS),
                opt("present_key", "T1", FLOATS),
                opt("present_value", "T2", FLOATS),
                opt("qk_matmul_output", "T1", FLOATS),
            ],
        )
        .attrs(&[
            int("is_causal"),
            int("kv_num_heads"),
            int("left_window_size").since(25),
            int("q_num_heads"),
            int("qk_matmul_output_mode"),
            int("right_window_size").since(25),
            float("scale"),
            float("softcap"),
            int("softmax_precision"),
        ]),
    Operator::new("RotaryEmbedding", &[23], same)
        .params(
            &[
                one("X", "T", SMALL_FLOATS),
                one("cos_cache", "T", SMALL_FLOATS),
                one("sin_cache", "T", SMALL_FLOATS),
                opt("position_ids", "", INT64),
            ],
            &[one("Y", "T", SMALL_FLOATS)],
        )
        .attrs(&[int("interleaved"), int("num_heads"), int("rotary_embedding_dim")]),
    Operator::new("LinearAttention", &[27], linear_attention)
        .params(
            &[
                one("query", "T", SMALL_FLOATS),
                one("key", "T", SMALL_FLOATS),
                one("value", "T", SMALL_FLOATS),
                opt("past_state", "S", SMALL_FLOATS),
                opt("decay", "T", SMALL_FLOATS),
                opt("beta", "T", SMALL_FLOATS),
            ],
            &[one("output", "T", SMALL_FLOATS), one("present_state", "S", SMALL_FLOATS)],
        )
        .attrs(&[
            int("chunk_size"),
            int("kv_num_heads").required(),
            int("q_num_heads").required(),
            float("scale"),
            string("update_rule"),
        ]),
    Operator::new("SwiGLU", &[28], binary)
        .params(&[one("A", "T", FLOATS), one("B", "T", FLOATS)], &[one("Y", "T", FLOATS)])
        .attrs(&[float("alpha")])
        .class(Class::ELEMENTWISE),
];

/// Batch, heads, length and head size of queries, keys or values: of rank 4 as they are, of rank 3 with the heads
/// beside each other.
fn heads(cx: &InferCx<'_>, slot: usize, count: &str) -> Result<Option<[Dim; 4]>, InferError> {
    let Some(shape) = cx.shape(slot) else { return Ok(None) };
    match &shape.0[..] {
        [batch, heads, length, size] => Ok(Some([batch, heads, length, size].map(Clone::clone))),
        [batch, length, width] => {
            let heads = if is_unknown_attr(cx, count) { None } else { cx.attrs.int(count) };
            let size = match (width.fixed(), heads) {
                (_, None) => Dim::Unknown,
                (Some(width), Some(heads)) if heads <= 0 || width % heads != 0 => {
                    return Err(InferError::new(format!("{shape} does not go into {heads} heads")));
                }
                (width, Some(heads)) => dim(width.map(|width| width / heads)),
            };
            Ok(Some([batch.clone(), dim(heads), length.clone(), size]))
        }
        _ => Err(InferError::new(format!("{shape} is neither of rank 3 nor of rank 4"))),
    }
}

fn attention(cx: &InferCx<'_>) -> Inferred {
    let q = heads(cx, 0, "q_num_heads")?;
    let k = heads(cx, 1, "kv_num_heads")?;
    let v = heads(cx, 2, "kv_num_heads")?;
    if let (Some(q), Some(k)) = (&q, &k)
        && merge(&q[3], &k[3]).is_none()
    {
        return Err(InferError::new(format!(
            "queries of {} and keys of {} do not multiply",
            q[3], k[3]
        )));
    }
    if let (Some(k), Some(v)) = (&k, &v)
        && merge(&k[2], &v[2]).is_none()
    {
        return Err(InferError::new(format!("{} keys for {} values", k[2], v[2])));
    }
    let flat = cx.shape(0).is_some_and(|s| s.rank() == 3);
    let y: Option<Shape> = match (&q, &v) {
        (Some([batch, heads, length, _]), Some([.., size])) if flat => {
            Some([batch.clone(), length.clone(), heads.times(size)].into_iter().collect())
        }
        (Some([batch, heads, length, _]), Some([.., size])) => {
            Some([batch, heads, length, size].into_iter().cloned().collect())
        }
        _ => None,
    };
    // Keys and values of earlier calls stand in front of the new ones.
    let past = cx.shape(4).and_then(|s| s.0.get(2));
    let total = match (&k, past) {
        (Some(k), None) if !cx.has(4) => k[2].clone(),
        (Some(k), Some(past)) => k[2].plus(past),
        _ => Dim::Unknown,
    };
    let present = |side: &Option<[Dim; 4]>| -> Option<Shape> {
        let [batch, heads, _, size] = side.as_ref()?;
        Some([batch, heads, &total, size].into_iter().cloned().collect())
    };
    let scores = q.as_ref().map(|[batch, heads, length, _]| {
        [batch, heads, length, &total].into_iter().cloned().collect()
    });
    several(
        cx,
        [
            tensor(cx.dtype(0), y),
            tensor(cx.dtype(1), present(&k)),
            tensor(cx.dtype(2), present(&v)),
            tensor(cx.dtype(0), scores),
        ],
    )
}

fn linear_attention(cx: &InferCx<'_>) -> Inferred {
    let q = heads(cx, 0, "q_num_heads")?;
    let k = heads(cx, 1, "kv_num_heads")?;
    let v = heads(cx, 2, "kv_num_heads")?;
    let y: Option<Shape> = match (&q, &v) {
        (Some([batch, heads, length, _]), Some([.., size])) => {
            let width = heads.fixed().zip(size.fixed()).and_then(|(h, s)| h.checked_mul(s));
            Some([batch.clone(), length.clone(), dim(width)].into_iter().collect())
        }
        _ => None,
    };
    // What the keys so far, times their values, add up to.
    let sum = || match (&k, &v) {
        (Some([batch, heads, _, rows]), Some([.., columns])) => {
            Some([batch, heads, rows, columns].into_iter().cloned().collect())
        }
        _ => None,
    };
    let state: Option<DataType> = cx.dtype(3).or(cx.dtype(0));
    let state = tensor(state, cx.shape(3).cloned().or_else(sum));
    several(cx, [tensor(cx.dtype(0), y), state])
}

#[cfg(test)]
mod tests {
    use crate::DataType;
    use crate::op::testing::Case;

    #[test]
    fn heads_beside_each_other() {
        let case =
            Case::new("Attention").opset(23).attr("q_num_heads", 8_i64).attr("kv_num_heads", 2_i64);
        let case = case
            .typed(DataType::Float, "B,Q,64")
            .typed(DataType::Float, "B,K,16")
            .typed(DataType::Float, "B,K,32");
        assert_eq!(case.outputs(3).infer(), "float[B,Q,128] float[B,2,K,8] float[B,2,K,16]");
    }

    #[test]
    fn linear_attention_keeps_one_state_per_head_of_keys() {
        let case = Case::new("LinearAttention").opset(27);
        let case = case.attr("q_num_heads", 4_i64).attr("kv_num_heads", 2_i64);
        let case = case
            .typed(DataType::Float16, "B,T,32")
            .typed(DataType::Float16, "B,T,16")
            .typed(DataType::Float16, "B,T,6");
        assert_eq!(case.outputs(2).infer(), "float16[B,T,12] float16[B,2,8,3]");
    }
}
