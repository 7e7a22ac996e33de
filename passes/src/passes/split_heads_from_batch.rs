//! split-heads-from-batch

use std::sync::LazyLock;

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};

use crate::matching::{
    Dims, REDUCTIONS, dims, dims_of_elements, dtype, input, is_along_last, is_reshape, output,
    perm, reduces_last,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Gives heads an axis of their own where exporters merge them with the batch.
    ///
    /// ## Why ATC needs it
    /// Its attention patterns have four axes: batch, heads, tokens, features. DeBERTa merges the first two before the
    /// scores and splits them before the mask, and again for the values: Reshapes in the midst of attention.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,4,3,5] q, float[2,4,5,3] k) => (float[2,4,3,3] y) <int64[3] a = {8, 3, 5}, int64[3] b = {8, 5, 3}, int64[4] c = {2, 4, 3, 3}> {
    ///    q3 = Reshape (q, a)
    ///    k3 = Reshape (k, b)
    ///    s = MatMul (q3, k3)
    ///    y = Reshape (s, c)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,4,3,5] q, float[2,4,5,3] k) => (float[2,4,3,3] y) <int64[4] c = {2, 4, 3, 3}, int64[3] s_const = {8, 3, 3}> {
    ///    s_MatMul = MatMul (q, k)
    ///    s = Reshape (s_MatMul, s_const)
    ///    y = Reshape (s, c)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - An operand is a Reshape from four axes to three that joins the first two, and the operator is element-wise, a
    ///   MatMul, a Softmax or reduction along the last axis or a Transpose of the last two.
    /// - What else it reads is joined alike, is the same for all heads, or has one entry for each head of one sample.
    /// - Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub SplitHeadsFromBatch = "split-heads-from-batch", Simplify, Exact
}

const ELEMENTWISE: &[&str] = &["Add", "Sub", "Mul", "Div", "Where", "Cast", "Neg", "Exp"];

impl Rewrite for SplitHeadsFromBatch {
    fn roots(&self) -> &'static [&'static str] {
        static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
            [ELEMENTWISE, REDUCTIONS, &["MatMul", "Softmax", "Transpose"]].concat()
        });
        &ALL
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let split = m[root].inputs().iter().flatten().find_map(|&v| split(m, v).ok());
        let (x, front) = split.ok_or(Miss::NoMatch)?;
        let op = m[root].op().def.ok_or(Miss::NoMatch)?.name;
        // Casts of integers move the other way, towards the inputs.
        if op == "Cast" && !dtype(m, x)?.is_float() {
            return Err(Miss::NoMatch);
        }
        let y = output(m, root)?;
        let of_y = dims_of_elements(m, y)?;
        if of_y.len() == 4 {
            return unjoined(m, root, front[0], op);
        }
        if of_y.len() != 3 || of_y[0] != front[0] * front[1] {
            return unmet("the result has other samples or heads");
        }
        let mut patch = Patch::new(m, root);
        let mut attrs = m[root].attrs.clone();
        if op == "Transpose" {
            let perm = perm(m, root, 3);
            if perm[0] != 0 {
                return unmet("the transpose moves samples and heads");
            }
            attrs.set("perm", vec![0, 1, perm[1] + 1, perm[2] + 1]);
        }
        if op == "Softmax" {
            if !is_along_last(m, root, 3) {
                return unmet("the Softmax is not along the last axis");
            }
            attrs.set("axis", 3);
        }
        let mut operands: Vec<Operand> = Vec::new();
        if REDUCTIONS.contains(&op) {
            reduces_last(m, root, 3)?;
            operands.push(operand(m, input(m, root, 0)?, &front, op)?);
            if m[root].input(1).is_some() {
                operands.push(patch.constant(Tensor::ints(&[3])));
            } else {
                attrs.set("axes", vec![3]);
            }
        } else {
            for &v in m[root].inputs().iter().flatten() {
                operands.push(operand(m, v, &front, op)?);
            }
        }
        let result = patch.node_with(op, &operands, attrs);
        let result = patch.reshape(result, &of_y);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// One sample's heads, joined with it only to be broadcast to four axes again.
fn unjoined(m: &Model, root: NodeId, samples: i64, op: &str) -> Result<Patch, Miss> {
    if samples != 1 || !(ELEMENTWISE.contains(&op) || op == "MatMul") {
        return Err(Miss::NoMatch);
    }
    let mut patch = Patch::new(m, root);
    for (slot, v) in m[root].inputs().iter().enumerate() {
        if let Some((x, _)) = v.and_then(|v| split(m, v).ok()) {
            patch.set_input(root, slot, x);
        }
    }
    Ok(patch)
}

/// The value of four axes of which a Reshape joins the first two, and these.
fn split(m: &Model, value: ValueId) -> Result<(ValueId, [i64; 2]), Miss> {
    let node = m.producer(value).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    let x = input(m, node, 0)?;
    match (&dims_of_elements(m, x)?[..], &dims(m, value)?[..]) {
        (&[samples, heads, a, b], &[_, c, d]) if a == c && b == d => Ok((x, [samples, heads])),
        _ => Err(Miss::NoMatch),
    }
}

/// What the operator reads with heads on an axis of their own.
fn operand(m: &Model, value: ValueId, front: &[i64; 2], op: &str) -> Result<Operand, Miss> {
    if let Ok((x, own)) = split(m, value)
        && own == *front
    {
        return Ok(x.into());
    }
    let of_value: Dims = dims_of_elements(m, value)?;
    let is_same_for_all = match &of_value[..] {
        [heads, _, _] => *heads == 1 || front[0] == 1 && *heads == front[1],
        all => all.len() < 3 && (ELEMENTWISE.contains(&op) || all.len() == 2),
    };
    if is_same_for_all {
        return Ok(value.into());
    }
    unmet(format!("{:?} has samples and heads in another way", m[value].name()))
}

#[cfg(test)]
mod tests {
    use super::SplitHeadsFromBatch;
    use crate::testing::{check_skip, rewritten, untouched};

    /// A graph of one operator on heads that are merged with a batch of 2, or of 1.
    fn graph(samples: i64, more: &str, output: &str, node: &str) -> String {
        let merged = 4 * samples;
        format!(
            "g (float[{samples},4,3,3] x{more}) => ({output} y) <int64[3] s = {{{merged}, 3, 3}}> {{ r = Reshape (x, s)  y = {node} }}"
        )
    }

    #[test]
    fn what_keeps_heads_apart_works_on_four_axes() {
        for (samples, more, node) in [
            (2, "", "Softmax <axis = -1> (r)"),
            (2, "", "Transpose <perm = [0, 2, 1]> (r)"),
            (2, "", "Add (r, r)"),
            (2, ", float c", "Mul (c, r)"),
            (1, ", float[4,3,3] t", "MatMul (r, t)"),
            (2, ", float[3,3] w", "MatMul (r, w)"),
        ] {
            let text = graph(samples, more, &format!("float[{},3,3]", 4 * samples), node);
            let seen = rewritten(&SplitHeadsFromBatch, &text);
            let last = seen.lines().rev().nth(1).unwrap_or_default();
            assert!(last.contains("y = Reshape"), "{node}: {seen}");
        }
    }

    #[test]
    fn one_sample_is_not_joined_to_be_split_by_broadcasting() {
        let text = graph(1, ", float[1,4,3,3] t", "float[1,4,3,3]", "Add (t, r)");
        let seen = rewritten(&SplitHeadsFromBatch, &text);
        assert!(seen.contains("y = Add (t, x)"), "{seen}");
    }

    #[test]
    fn look_alikes_stay() {
        for (more, output, node, why) in [
            ("", "float[8,3,3]", "Softmax <axis = 1> (r)", "not along the last axis"),
            ("", "float[3,8,3]", "Transpose <perm = [1, 0, 2]> (r)", "other samples or heads"),
            (", float[8,3,3] t", "float[8,3,3]", "MatMul (r, t)", "in another way"),
            (", float[3] v", "float[8,3]", "MatMul (r, v)", "other samples or heads"),
        ] {
            check_skip(&SplitHeadsFromBatch, &graph(2, more, output, node), why);
        }
    }

    #[test]
    fn a_reshape_that_cuts_heads_differently_stays() {
        untouched(
            &SplitHeadsFromBatch,
            "g (float[2,4,3,3] x) => (float[8,9,1] y) <int64[3] s = {8, 9, 1}> { r = Reshape (x, s)  y = Neg (r) }",
        );
    }
}
