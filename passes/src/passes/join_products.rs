//! join-products

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, Projection, SplitColumns, dims, dims_of_elements, input, output, producer, used_once,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `MatMul` of several that are joined along a batch axis and whose right operands are projections of one
    /// value.
    ///
    /// ## Why ATC needs it
    /// ConvBERT's attention and convolution each weigh a projection of the tokens, head by head, and their heads stand side
    /// by side in the result. With the weights of both projections in one matrix there is one projection and one batched
    /// product of all heads, which spread better over the cores than two of half the size.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,2,2] x, float[1,2,2,2] p, float[1,1,2,2] q) => (float[1,3,2,2] y) <
    ///    float[2,4] v = {1, 2, 3, 4, 5, 6, 7, 8}, float[2,2] w = {1, 2, 3, 4},
    ///    int64[4] s = {1, 2, 2, 2}, int64[4] t = {1, 2, 1, 2}
    /// > {
    ///    a = MatMul (x, v)
    ///    b = MatMul (x, w)
    ///    c = Reshape (a, s)
    ///    d = Reshape (b, t)
    ///    e = Transpose <perm: ints = [0, 2, 1, 3]> (c)
    ///    f = Transpose <perm: ints = [0, 2, 1, 3]> (d)
    ///    h = MatMul (p, e)
    ///    i = MatMul (q, f)
    ///    y = Concat <axis: int = 1> (h, i)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,2,2] x, float[1,2,2,2] p, float[1,1,2,2] q) => (float[1,3,2,2] y) <
    ///    float[2,4] v = {1, 2, 3, 4, 5, 6, 7, 8}, float[2,2] w = {1, 2, 3, 4}, int64[4] y_const = {1, 2, 3, 2}
    /// > {
    ///    y_Concat = Concat <axis: int = 1> (p, q)
    ///    y_Concat_1 = Concat <axis: int = 1> (v, w)
    ///    y_MatMul = MatMul (x, y_Concat_1)
    ///    y_Reshape = Reshape (y_MatMul, y_const)
    ///    y_Transpose = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape)
    ///    y = MatMul (y_Concat, y_Transpose)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Each part of the Concat is a MatMul whose operands have the same batch axes, and the Concat is along one of them.
    /// - Each right operand is a Transpose, the same for all, of a Reshape, which splits the last axis and agrees with the
    ///   others but for the axis that is joined, of a product of one value with a constant matrix: a MatMul, perhaps with
    ///   a bias added, or a Gemm.
    /// - Nothing else reads what is between.
    ///
    /// ## Numerics
    /// Exact: the same sums. A library may add them in another order where the matrix is wider.
    pub JoinProducts = "join-products", Simplify, Relative(1e-6)
}

impl Rewrite for JoinProducts {
    fn roots(&self) -> &'static [&'static str] {
        &["Concat"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let parts: Option<Vec<ValueId>> = m[root].inputs().iter().copied().collect();
        let parts = parts.filter(|p| p.len() > 1).ok_or(Miss::NoMatch)?;
        let y = output(m, root)?;
        let rank = dims_of_elements(m, y)?.len();
        let axis = onnxfix_ir::op::normal_axis(m[root].attrs.int("axis").unwrap_or(1), rank)
            .map_err(|_| Miss::NoMatch)?;
        let heads: Vec<Heads> =
            parts.iter().map(|&p| Heads::of(m, p, axis)).collect::<Result<_, _>>()?;
        let (first, rest) = heads.split_first().ok_or(Miss::NoMatch)?;
        for other in rest {
            first.agrees_with(other)?;
        }
        let mut patch = Patch::new(m, root);
        let mut join = |values: &mut dyn Iterator<Item = ValueId>, axis: usize| {
            let values: Vec<Operand> = values.map(Into::into).collect();
            patch.concat(&values, axis as i64)
        };
        let left = join(&mut heads.iter().map(|h| h.left), axis);
        let matrix = join(&mut heads.iter().map(|h| h.projection.matrix), 1);
        let bias = first
            .projection
            .bias
            .map(|_| join(&mut heads.iter().filter_map(|h| h.projection.bias), 0));
        let x = first.projection.x.into();
        let projected = match (first.projection.gemm, bias) {
            (true, Some(bias)) => patch.node("Gemm", &[x, matrix, bias]),
            (true, None) => patch.node("Gemm", &[x, matrix]),
            (false, Some(bias)) => {
                let product = patch.node("MatMul", &[x, matrix]);
                patch.node("Add", &[product, bias])
            }
            (false, None) => patch.node("MatMul", &[x, matrix]),
        };
        let mut split = first.split.clone();
        split[first.axis] = heads.iter().map(|h| h.split[h.axis]).sum();
        let right = patch.reshape(projected, &split);
        let right = patch.transpose(right, &first.perm);
        let result = patch.node("MatMul", &[left, right]);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// A batched product with the heads of a projection.
struct Heads {
    left: ValueId,
    /// The projection's last axis split, with the heads on `axis`, and how that is transposed.
    split: Dims,
    axis: usize,
    perm: Vec<i64>,
    projection: Projection,
}

impl Heads {
    /// The product that makes `part`, whose heads are on this axis.
    fn of(m: &Model, part: ValueId, axis: usize) -> Result<Heads, Miss> {
        let product = producer(m, part, "MatMul")?;
        let (left, right) = (input(m, product, 0)?, input(m, product, 1)?);
        let SplitColumns { projected, split: turned, dims: split, perm } =
            SplitColumns::of(m, right)?;
        let perm = perm.ok_or(Miss::NoMatch)?;
        let projection = Projection::of(m, projected)?;
        let (a, b) = (dims(m, left)?, dims_of_elements(m, right)?);
        let batch = |d: &Dims| d.len().checked_sub(2).map(|n| Dims::from(&d[..n]));
        if batch(&a) != batch(&b) || axis + 2 >= a.len() {
            return unmet(
                "the operands of a product differ in their batches, or are not joined along one",
            );
        }
        if ![part, right, turned, projected].into_iter().all(|v| used_once(m, v)) {
            return unmet("something else reads a product or a projection");
        }
        let from = perm.get(axis).and_then(|&a| usize::try_from(a).ok()).ok_or(Miss::NoMatch)?;
        if split[from..].iter().product::<i64>()
            != *dims(m, projected)?.last().ok_or(Miss::NoMatch)?
        {
            return unmet(
                "the axis that is joined is not the outermost one of the projection's last",
            );
        }
        Ok(Heads { left, split, axis: from, perm, projection })
    }

    fn agrees_with(&self, other: &Heads) -> Result<(), Miss> {
        let (mut a, mut b) = (self.split.clone(), other.split.clone());
        if a.len() != b.len() || self.perm != other.perm {
            return unmet("the projections are split or transposed in different ways");
        }
        (a[self.axis], b[other.axis]) = (0, 0);
        let (p, q) = (&self.projection, &other.projection);
        if a != b || p.gemm != q.gemm || p.bias.is_some() != q.bias.is_some() {
            return unmet("the projections are split or transposed in different ways");
        }
        if p.x != q.x {
            return unmet("the projections are of different values");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    /// Products with two heads and one of the projections that these nodes make of `x` and `z`.
    fn graph(nodes: &str, perm: &str, outputs: &str) -> String {
        format!(
            "g (float[1,2,2] x, float[1,2,2] z, float[2,2] m, float[1,2,2,2] p, float[1,1,2,2] q) => (float[1,3,2,2] y{outputs})
             <float[2,4] v = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[4] k = {{1, 2, 3, 4}}, float[2,2] w = {{1, 2, 3, 4}},
              float[2] l = {{5, 6}}, float[2,2] n = {{5, 6, 7, 8}}, int64[4] s = {{1, 2, 2, 2}}, int64[4] t = {{1, 2, 1, 2}},
              int64[2] flat = {{2, 2}}> {{
                {nodes}
                c = Reshape (a, s)  d = Reshape (b, t)
                e = Transpose <perm: ints = [0, 2, 1, 3]> (c)  f = Transpose <perm: ints = {perm}> (d)
                h = MatMul (p, e)  i = MatMul (q, f)  y = Concat <axis: int = 1> (h, i)
             }}"
        )
    }
    const PERM: &str = "[0, 2, 1, 3]";

    #[test]
    fn biases_are_joined_too() {
        for nodes in [
            "o = MatMul (x, v)  r = MatMul (x, w)  a = Add (k, o)  b = Add (r, l)",
            "o = Reshape (x, flat)  a = Gemm (o, v, k)  b = Gemm (o, w, l)",
        ] {
            let after = rewritten(&JoinProducts, &graph(nodes, PERM, ""));
            assert_eq!(
                after.matches("MatMul (").count() + after.matches("Gemm (").count(),
                2,
                "{after}"
            );
            assert!(after.contains("Concat <axis: int = 0> (k, l)"), "{after}");
        }
    }

    #[test]
    fn look_alikes_stay() {
        for (nodes, perm, outputs, why) in [
            ("a = MatMul (x, v)  b = MatMul (z, w)", PERM, "", "of different values"),
            ("a = MatMul (x, v)  b = MatMul (x, m)", PERM, "", "matrix is not constant"),
            ("a = MatMul (x, v)  r = MatMul (x, w)  b = Add (r, l)", PERM, "", "in different ways"),
            (
                "o = MatMul (x, v)  r = MatMul (x, w)  a = Add (o, k)  b = Add (r, n)",
                PERM,
                "",
                "one constant per column",
            ),
            ("a = MatMul (x, v)  b = MatMul (x, w)", "[0, 2, 3, 1]", "", "in different ways"),
            (
                "a = MatMul (x, v)  b = MatMul (x, w)",
                PERM,
                ", float[1,2,2] b",
                "something else reads",
            ),
            (
                "o = Reshape (x, flat)  a = Gemm (o, v)  b = Gemm <alpha: float = 2> (o, w)",
                PERM,
                "",
                "a Gemm transposes or scales",
            ),
        ] {
            check_skip(&JoinProducts, &graph(nodes, perm, outputs), why);
        }
    }

    #[test]
    fn rows_side_by_side_stay() {
        untouched(
            &JoinProducts,
            "g (float[2,2] p, float[2,2] q, float[2,2] e) => (float[4,2] y)
             { h = MatMul (p, e)  i = MatMul (q, e)  y = Concat <axis: int = 0> (h, i) }",
        );
    }
}
