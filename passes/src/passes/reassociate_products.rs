//! reassociate-products

use onnxfix_ir::{Model, NodeId, Shape, ValueId};

use crate::matching::{
    Projection, SplitColumns, dims_of_elements, input, is_along_last, output, used_once,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Multiplies the few rows that are left of attention with the tokens first and with a projection's weights afterwards.
    ///
    /// ## Why ATC needs it
    /// Where a classifier reads one token, the last layer has one row of probabilities for each head, and still projects
    /// all tokens to values and keys for it. `P·(X·W)` is `(P·X)·W`, and `q·(X·W)ᵀ` is `(q·Wᵀ)·Xᵀ`: the rows that are
    /// projected are then as many as heads, not as tokens.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[6,2] x, float[1,2,1,6] scores) => (float[1,2,1,4] y) <
    ///    float[2,8] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, float[8] b = {1, 2, 3, 4, 5, 6, 7, 8},
    ///    int64[4] s = {1, 6, 2, 4}
    /// > {
    ///    p = Softmax <axis: int = -1> (scores)
    ///    v = MatMul (x, w)
    ///    v_b = Add (v, b)
    ///    r = Reshape (v_b, s)
    ///    t = Transpose <perm: ints = [0, 2, 1, 3]> (r)
    ///    y = MatMul (p, t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[6,2] x, float[1,2,1,6] scores) => (float[1,2,1,4] y) <
    ///    float[2,8] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    ///    float[8] b = {1, 2, 3, 4, 5, 6, 7, 8}, int64[2] y_const = {6, 2}, int64[3] y_const_1 = {2, 2, 4},
    ///    int64[2] y_const_2 = {2, 6}, int64[4] y_const_3 = {1, 2, 1, 2}, int64[3] y_const_4 = {2, 1, 4}
    /// > {
    ///    p = Softmax <axis: int = -1> (scores)
    ///    y_Reshape = Reshape (x, y_const)
    ///    y_Reshape_1 = Reshape (w, y_const_1)
    ///    y_Transpose = Transpose <perm: ints = [1, 0, 2]> (y_Reshape_1)
    ///    y_Reshape_2 = Reshape (p, y_const_2)
    ///    y_MatMul = MatMul (y_Reshape_2, y_Reshape)
    ///    y_Reshape_3 = Reshape (y_MatMul, y_const_3)
    ///    y_MatMul_1 = MatMul (y_Reshape_3, y_Transpose)
    ///    y_Reshape_4 = Reshape (b, y_const_4)
    ///    y = Add (y_MatMul_1, y_Reshape_4)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A product's right operand is a projection of tokens, by constant weights and perhaps a constant bias, that is split
    ///   into heads by a Reshape and a Transpose: for values `[0, 2, 1, 3]`, for keys `[0, 2, 3, 1]`.
    /// - Nothing else reads the projection.
    /// - Of keys with a bias, nothing but a Softmax along the last axis becomes, perhaps of sums with them.
    /// - There are at most half as many multiplications.
    ///
    /// ## Numerics
    /// The same sums in another order. A bias of values counts as often as the probabilities of a row sum up to, which is
    /// once behind a Softmax; one of keys adds the same to all scores of a row, which a Softmax takes away.
    pub ReassociateProducts = "reassociate-products", Simplify, Relative(1e-6)
}

impl Rewrite for ReassociateProducts {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (left, right, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let SplitColumns { projected, split, dims: of_split, perm } = SplitColumns::of(m, right)?;
        let perm = perm.ok_or(Miss::NoMatch)?;
        let Projection { x, matrix, bias, .. } = Projection::of(m, projected)?;
        let of_left = dims_of_elements(m, left)?;
        let (&[b, h, rows, _], &[batch, tokens, heads, width]) = (&of_left[..], &of_split[..])
        else {
            return Err(Miss::NoMatch);
        };
        let values = match perm[..] {
            [0, 2, 1, 3] => true,
            [0, 2, 3, 1] => false,
            _ => return unmet("the projection is not split into heads"),
        };
        let of_x = dims_of_elements(m, x)?;
        let channels = *of_x.last().ok_or(Miss::NoMatch)?;
        if (b, h) != (batch, heads) || of_x.iter().product::<i64>() != batch * tokens * channels {
            return unmet("the projection is not split into heads");
        }
        if dims_of_elements(m, projected)?.last() != Some(&(heads * width)) {
            return unmet("the projection is not split into heads");
        }
        if ![right, split, projected].into_iter().all(|v| used_once(m, v)) {
            return unmet("something else reads the projection");
        }
        if !values && bias.is_some() && !is_softmaxed(m, y) {
            return unmet("the keys' bias counts where no Softmax follows");
        }
        // Per sample.
        let before = tokens * channels * heads * width + heads * rows * tokens * width;
        let after = heads * rows * tokens * channels + heads * rows * channels * width;
        if 2 * after > before {
            return unmet("there are too many rows for it to pay");
        }
        let mut patch = Patch::new(m, root);
        let front: &[i64] = if batch == 1 { &[] } else { &[batch] };
        let flat = |last: [i64; 2]| [front, &last].concat();
        let x = patch.reshape(x.into(), &flat([tokens, channels]));
        let weights = patch.reshape(matrix.into(), &[channels, heads, width]);
        // Heads beside rows in one product with the tokens, which all heads share.
        let with_tokens = |patch: &mut Patch, left: Operand, x: Operand, [k, n]: [i64; 2]| {
            let left = patch.reshape(left, &flat([heads * rows, k]));
            let product = patch.node("MatMul", &[left, x]);
            patch.reshape(product, &[batch, heads, rows, n])
        };
        let result = if values {
            let weights = patch.transpose(weights, &[1, 0, 2]);
            let mixed = with_tokens(&mut patch, left.into(), x, [tokens, channels]);
            let product = patch.node("MatMul", &[mixed, weights]);
            match bias {
                None => product,
                Some(bias) => {
                    let mut bias = patch.reshape(bias.into(), &[heads, 1, width]);
                    let is_softmax = |n: &NodeId| m[*n].op().is("Softmax");
                    let sums_to_one =
                        m.producer(left).filter(is_softmax).is_some_and(|n| is_along_last(m, n, 4));
                    if !sums_to_one {
                        let sums = patch.reduce("ReduceSum", left.into(), 3);
                        bias = patch.node("Mul", &[sums, bias]);
                    }
                    patch.node("Add", &[product, bias])
                }
            }
        } else {
            let weights = patch.transpose(weights, &[1, 2, 0]);
            let x = patch.swap_last(x, front.len() + 2);
            let query = patch.node("MatMul", &[left.into(), weights]);
            with_tokens(&mut patch, query, x, [channels, tokens])
        };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// Whether all that becomes of scores is a Softmax along the last axis, perhaps of sums with them: a number that is added
/// to all scores of a row is lost there.
fn is_softmaxed(m: &Model, scores: ValueId) -> bool {
    let mut value = scores;
    while used_once(m, value) {
        let Some(user) = m.users(value).next() else { return false };
        let (Ok(y), Some(rank)) = (output(m, user), m[value].shape().map(Shape::rank)) else {
            return false;
        };
        if m[user].op().is("Softmax") {
            return is_along_last(m, user, rank);
        }
        // What broadcasts the scores gives each row of the sum one row of them.
        if !m[user].op().is("Add") || m[y].shape().map(Shape::rank) != Some(rank) {
            return false;
        }
        value = y;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::ReassociateProducts;
    use crate::testing::{check_skip, computed};

    fn numbers(n: usize) -> String {
        (0..n).map(|i| i * 7 % 11).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// One row of attention with the values, or keys, of two samples.
    fn graph(projection: &str, left: &str, perm: &str, outputs: &str) -> String {
        format!(
            "g (float[10,2] x, float[2,8] m, {left} p) => (float[2,2,1,n] out{outputs}) <
                float[2,8] w = {{{}}}, float[8] b = {{{}}}, float[10,8] c = {{{}}}, int64[4] s = {{2, 5, 2, 4}}
             > {{
                {projection}
                r = Reshape (v, s)  t = Transpose <perm: ints = {perm}> (r)  y = MatMul (p, t)
                out = Identity (y)
             }}",
            numbers(16),
            numbers(8),
            numbers(80),
        )
    }
    const ROW: &str = "float[2,2,1,5]";
    const VALUES: &str = "[0, 2, 1, 3]";
    const KEYS: &str = "[0, 2, 3, 1]";

    #[test]
    fn look_alikes_stay() {
        for (projection, left, perm, outputs, why) in [
            ("v = MatMul (x, m)", ROW, VALUES, "", "matrix is not constant"),
            ("q = MatMul (x, w)  v = Add (q, c)", ROW, VALUES, "", "one constant per column"),
            ("v = MatMul (x, w)", "float[2,2,5,5]", VALUES, "", "too many rows"),
            ("v = MatMul (x, w)", "float[2,5,1,2]", "[0, 1, 2, 3]", "", "split into heads"),
            ("v = MatMul (x, w)", ROW, VALUES, ", float[10,8] v", "something else reads"),
            ("q = MatMul (x, w)  v = Add (q, b)", "float[2,2,1,4]", KEYS, "", "no Softmax follows"),
        ] {
            check_skip(&ReassociateProducts, &graph(projection, left, perm, outputs), why);
        }
    }

    #[test]
    fn values_and_keys_keep_their_numbers() {
        for (left, width, perm) in [
            ("p = Softmax <axis: int = -1> (l)", 5, VALUES),
            ("p = Identity (l)", 5, VALUES),
            ("p = Identity (l)", 4, KEYS),
        ] {
            let nodes = format!("{left}  q = MatMul (x, w)  v = Add (q, b)");
            let text =
                graph(&nodes, "", perm, "").replace("(float[10,2] x, float[2,8] m,  p)", "()");
            let text = match perm {
                KEYS => text.replace(
                    "out = Identity (y)",
                    "z = Softmax <axis: int = -1> (y)  out = Identity (z)",
                ),
                _ => text,
            };
            let text = text.replace(
                "int64[4] s",
                &format!(
                    "float[10,2] x = {{{}}}, float[2,2,1,{width}] l = {{{}}}, int64[4] s",
                    numbers(20),
                    numbers(4 * width)
                ),
            );
            let before = computed(None, &text);
            let after = computed(Some(&ReassociateProducts), &text);
            assert_eq!(before.len(), after.len(), "{text}");
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() <= 1e-5 * a.abs(), "{a} {b}\n{text}");
            }
        }
    }
}
