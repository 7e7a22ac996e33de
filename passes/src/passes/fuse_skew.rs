//! fuse-skew

use onnxfix_ir::{Model, NodeId, Tensor};

use crate::patch::attrs;
use crate::skew::Skew;
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Reads the band of a product that *decompose-gather-elements* leaves by one Gather of rows instead of two slices.
    ///
    /// ## Why ATC needs it
    /// It does not: there two plain copies of aligned pieces are better than a Gather, and the product has an even width.
    /// Other runtimes copy once instead of twice, for one column more. Seen with rows of `n` the
    /// pieces stand in every second row of the product, when it has `2n + 1` columns.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,8] q, float[8,4] t) => (float[2,2] y) <int64[1] flat = {8}, int64[1] one = {1}, int64[1] seven = {7}, int64[1] zero = {0}, int64[2] rows = {2, 3}, int64[1] two = {2}> {
    ///    p = MatMul (q, t)
    ///    a = Reshape (p, flat)
    ///    b = Slice (a, one, seven, zero)
    ///    c = Reshape (b, rows)
    ///    y = Slice (c, zero, two, one)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,8] q, float[8,4] t) => (float[2,2] y) <int64[1] y_const = {0}, int64[1] y_const_1 = {1}, int64[2] y_const_2 = {5, 2}, int64[2] y_const_3 = {1, 3}> {
    ///    y_Slice = Slice (t, y_const, y_const_1, y_const_1)
    ///    y_Concat = Concat <axis: int = 1> (y_Slice, t)
    ///    y_MatMul = MatMul (q, y_Concat)
    ///    y_Reshape = Reshape (y_MatMul, y_const_2)
    ///    y = Gather <axis: int = 0> (y_Reshape, y_const_3)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A product of `n` rows and `2n` columns is flattened, cut from `n - 1` on, seen with one column less, of which `n`
    ///   are taken; nothing else reads it on the way.
    ///
    /// ## Numerics
    /// Exact: the same dot products.
    pub FuseSkew = "fuse-skew", Fuse, Exact
}

impl Rewrite for FuseSkew {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let skew = Skew::of(m, root)?;
        let mut patch = Patch::new(m, root);
        let (view, axis) = skew.rows(&mut patch);
        let every_second: Vec<i64> = (0..skew.n).map(|i| 2 * i + 1).collect();
        let rows = patch.constant(Tensor::ints(&every_second));
        let band = patch.node_with("Gather", &[view, rows], attrs([("axis", axis.into())]));
        patch.replace(skew.y, band);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::FuseSkew;
    use crate::testing::{check_skip, untouched};

    fn graph(outputs: &str, start: i64, take: &str) -> String {
        let end = start + 6;
        format!(
            "g (float[2,8] q, float[8,4] t) => (float[2,2] y{outputs}) <int64[1] flat = {{8}}, int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] zero = {{0}}, int64[2] rows = {{2, 3}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}> {{
                p = MatMul (q, t)  a = Reshape (p, flat)  b = Slice (a, s, e, zero)  c = Reshape (b, rows)  y = Slice (c, {take}, one)
            }}"
        )
    }

    #[test]
    fn other_bands_stay() {
        untouched(&FuseSkew, &graph("", 2, "zero, two"));
        untouched(&FuseSkew, &graph("", 1, "one, three"));
    }

    #[test]
    fn a_product_that_is_read_elsewhere_stays() {
        check_skip(&FuseSkew, &graph(", float[2,4] p", 1, "zero, two"), "something else reads");
    }
}
