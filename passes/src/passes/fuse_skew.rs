//! fuse-skew

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};

use crate::matching::{
    Slice, dims, dims_of_elements, input, is_reshape, output, producer, sliced, used_once,
};
use crate::patch::attrs;
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

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
        let (columns, y) = (sliced(m, root)?, output(m, root)?);
        let (cut, seen) = (reshape_of(m, columns.x)?, dims(m, columns.x)?);
        let piece = sliced(m, producer(m, cut, "Slice")?)?;
        let product = reshape_of(m, piece.x)?;
        let node = producer(m, product, "MatMul")?;
        let of_product = dims_of_elements(m, product)?;
        let [front @ .., n, width] = &of_product[..] else { return Err(Miss::NoMatch) };
        let (n, width) = (*n, *width);
        let flat: Vec<i64> = front.iter().copied().chain([n * width]).collect();
        let shorter: Vec<i64> = front.iter().copied().chain([n, width - 1]).collect();
        let axis = front.len();
        let is_skew = width == 2 * n
            && dims(m, piece.x)?[..] == flat
            && seen[..] == shorter
            && piece == Slice { x: piece.x, axis, start: n - 1, len: n * (width - 1), step: 1 }
            && columns == Slice { x: columns.x, axis: axis + 1, start: 0, len: n, step: 1 };
        if !is_skew {
            return Err(Miss::NoMatch);
        }
        if [product, piece.x, cut, columns.x].into_iter().any(|v| !used_once(m, v)) {
            return unmet("something else reads the product");
        }
        let (left, table) = (input(m, node, 0)?, input(m, node, 1)?);
        let last = dims(m, table)?.len() as i64 - 1;
        let mut patch = Patch::new(m, root);
        let first = patch.slice(table.into(), last, 0, 1);
        let table = patch.concat(&[first, table.into()], last);
        let product = patch.node("MatMul", &[left.into(), table]);
        let view: Vec<i64> = front.iter().copied().chain([width + 1, n]).collect();
        let view = patch.reshape(product, &view);
        let every_second: Vec<i64> = (0..n).map(|i| 2 * i + 1).collect();
        let rows = patch.constant(Tensor::ints(&every_second));
        let band =
            patch.node_with("Gather", &[view, rows], attrs([("axis", (axis as i64).into())]));
        patch.replace(y, band);
        Ok(patch)
    }
}

fn reshape_of(m: &Model, value: ValueId) -> Result<ValueId, Miss> {
    let node = m.producer(value).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    input(m, node, 0)
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
