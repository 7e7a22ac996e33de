//! fuse-gemm

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{dims_of_elements, dtype, input, output, producer, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Gemm` of a product of matrices and the bias that is added to it.
    ///
    /// ## Why ATC needs it
    /// It does not: ATC fuses MatMul and Add by itself and its attention patterns are written with them. Other runtimes
    /// have one node fewer to run and one result less to store.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[6,4] x) => (float[6,2] y) <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] bias = {1, 2}> {
    ///    product = MatMul (x, w)
    ///    y = Add (bias, product)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[6,4] x) => (float[6,2] y) <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] bias = {1, 2}> { y = Gemm (x, w, bias) }
    /// ```
    ///
    /// ## Applies when
    /// - The product is of two matrices, nothing else reads it, and what is added broadcasts to it.
    /// - The elements are floats.
    ///
    /// ## Numerics
    /// The sum may be rounded once less.
    pub FuseGemm = "fuse-gemm", Fuse, Relative(1e-6)
}

impl Rewrite for FuseGemm {
    fn roots(&self) -> &'static [&'static str] {
        &["Add"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let is_product = |v: ValueId| producer(m, v, "MatMul").ok();
        let (product, node, bias) = match (is_product(a), is_product(b)) {
            (Some(node), None) => (a, node, b),
            (_, Some(node)) => (b, node, a),
            _ => return Err(Miss::NoMatch),
        };
        let (left, right) = (input(m, node, 0)?, input(m, node, 1)?);
        let [of_left, of_right, of_bias, of_y] =
            [left, right, bias, y].map(|v| dims_of_elements(m, v));
        let (of_left, of_right, of_bias, of_y) = (of_left?, of_right?, of_bias?, of_y?);
        if of_left.len() != 2 || of_right.len() != 2 {
            return Err(Miss::NoMatch);
        }
        if !used_once(m, product) {
            return unmet("something else reads the product");
        }
        if of_y.len() != 2 || of_bias.len() > 2 || of_y[0] != of_left[0] || of_y[1] != of_right[1] {
            return unmet("what is added widens the product");
        }
        if !dtype(m, y)?.is_float() {
            return unmet("the elements are integers");
        }
        if m.opset(m[root].graph(), "").is_none_or(|version| version < 11) {
            return unmet(
                "a Gemm needs all operands in the shape of the result before opset 7 and a bias before 11",
            );
        }
        let mut patch = Patch::new(m, root);
        let gemm = patch.node("Gemm", &[left.into(), right.into(), bias.into()]);
        patch.replace(y, gemm);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::FuseGemm;
    use crate::testing::{check_skip, untouched};

    #[test]
    fn look_alikes_stay() {
        for (text, why) in [
            (
                "g (float[6,4] x, float[4,2] w, float[2] b) => (float[6,2] y, float[6,2] p) { p = MatMul (x, w)  y = Add (p, b) }",
                "something else reads the product",
            ),
            (
                "g (float[1,4] x, float[4,2] w, float[3,2] b) => (float[3,2] y) { p = MatMul (x, w)  y = Add (p, b) }",
                "widens the product",
            ),
            (
                "g (int32[6,4] x, int32[4,2] w, int32[2] b) => (int32[6,2] y) { p = MatMul (x, w)  y = Add (p, b) }",
                "integers",
            ),
        ] {
            check_skip(&FuseGemm, text, why);
        }
    }

    #[test]
    fn batched_products_stay() {
        untouched(
            &FuseGemm,
            "g (float[2,6,4] x, float[4,2] w, float[2] b) => (float[2,6,2] y) { p = MatMul (x, w)  y = Add (p, b) }",
        );
    }
}
