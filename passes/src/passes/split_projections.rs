//! split-projections

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Projection, SplitColumns, dims_of_elements, input, output, sliced, used_once,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Gives queries, keys and values that alternate from head to head in one projection a projection each.
    ///
    /// ## Why ATC needs it
    /// DeBERTa v1 projects to all three at once and takes them apart within each head: strided copies of every activation.
    /// Taken apart in the weights they cost nothing, and each has its own bias and scale, as attention in canonical form has.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,3,2] x) => (float[1,3,2,1] q, float[1,3,2,2] k) <
    ///    float[2,6] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int64[4] s = {1, 3, 2, 3}, int64[2] parts = {1, 2}
    /// > {
    ///    p = MatMul (x, w)
    ///    r = Reshape (p, s)
    ///    q, k = Split <axis: int = 3> (r, parts)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,3,2] x) => (float[1,3,2,1] q, float[1,3,2,2] k) <
    ///    float[2,6] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int64[3] q_const = {2, 2, 3},
    ///    int64[1] q_const_1 = {0}, int64[1] q_const_2 = {1}, int64[1] q_const_3 = {2},
    ///    int64[2] q_const_4 = {2, 2}, int64[4] q_const_5 = {1, 3, 2, 1}, int64[1] q_const_6 = {3},
    ///    int64[2] q_const_7 = {2, 4}, int64[4] q_const_8 = {1, 3, 2, 2}
    /// > {
    ///    q_Reshape = Reshape (w, q_const)
    ///    q_Slice = Slice (q_Reshape, q_const_1, q_const_2, q_const_3)
    ///    q_Reshape_1 = Reshape (q_Slice, q_const_4)
    ///    q_MatMul = MatMul (x, q_Reshape_1)
    ///    q = Reshape (q_MatMul, q_const_5)
    ///    q_Reshape_3 = Reshape (w, q_const)
    ///    q_Slice_1 = Slice (q_Reshape_3, q_const_2, q_const_6, q_const_3)
    ///    q_Reshape_4 = Reshape (q_Slice_1, q_const_7)
    ///    q_MatMul_1 = MatMul (x, q_Reshape_4)
    ///    k = Reshape (q_MatMul_1, q_const_8)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Split, or Slices of parts that do not overlap, take apart one axis of a projection: a product with a constant
    ///   matrix, perhaps with a bias, that a Reshape splits and perhaps a Transpose turns. Parts that stand side by side as a
    ///   whole, of all heads, stay together: one larger product is as good.
    /// - Nothing else reads the projection, and there are elements.
    ///
    /// ## Numerics
    /// Exact: the same dot products. A library may add them in another order where the matrix is narrower.
    pub SplitProjections = "split-projections", Simplify, Relative(1e-6)
}

impl Rewrite for SplitProjections {
    fn roots(&self) -> &'static [&'static str] {
        &["Split", "Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let whole = input(m, root, 0)?;
        let heads = SplitColumns::of(m, whole)?;
        let Projection { x, matrix, bias, gemm: _ } = Projection::of(m, heads.projected)?;
        let parts = parts(m, root, whole)?;
        let of_projected = dims_of_elements(m, heads.projected)?;
        let of_matrix = dims_of_elements(m, matrix)?;
        let axis = match &heads.perm {
            Some(perm) => usize::try_from(perm[parts.axis]).map_err(|_| Miss::NoMatch)?,
            None => parts.axis,
        };
        let columns = of_matrix[1];
        let front = heads.first_of(columns).filter(|_| of_projected.last() == Some(&columns));
        let Some(front) = front else {
            return unmet("the reshape does not split the projection's last axis");
        };
        let tail = &heads.dims[front..];
        let within = axis.checked_sub(front).filter(|&at| tail[..at].iter().any(|&d| d > 1));
        let Some(within) = within else { return unmet("the parts stand side by side") };
        // Without a Transpose the parts read `split` themselves.
        if !used_once(m, heads.projected) || heads.perm.is_some() && !used_once(m, heads.split) {
            return unmet("something else reads the projection");
        }
        let mut patch = Patch::new(m, parts.first);
        for &(start, len, y) in &parts.taken {
            let take = |patch: &mut Patch, weights: ValueId, front: &[i64]| -> Operand {
                let split = patch.reshape(weights.into(), &[front, tail].concat());
                let axis = (front.len() + within) as i64;
                let part = patch.slice(split, axis, start, start + len);
                patch.reshape(part, &[front, &[columns / tail[within] * len]].concat())
            };
            let matrix = take(&mut patch, matrix, &of_matrix[..1]);
            let mut product = patch.node("MatMul", &[x.into(), matrix]);
            if let Some(bias) = bias {
                let bias = take(&mut patch, bias, &[]);
                product = patch.node("Add", &[product, bias]);
            }
            let mut shape = heads.dims.clone();
            shape[axis] = len;
            let mut part = patch.reshape(product, &shape);
            if let Some(perm) = &heads.perm {
                part = patch.transpose(part, perm);
            }
            patch.replace(y, part);
        }
        Ok(patch)
    }
}

/// What is taken of one axis of a value.
struct Parts {
    /// The first node that takes a part.
    first: NodeId,
    axis: usize,
    /// Start, length and result of each part.
    taken: Vec<(i64, i64, ValueId)>,
}

/// The parts that all readers of `whole` together take.
fn parts(m: &Model, root: NodeId, whole: ValueId) -> Result<Parts, Miss> {
    if m.is_output(whole) {
        return unmet("something else reads the projection");
    }
    let of_whole = dims_of_elements(m, whole)?;
    if m[root].op().is("Split") {
        if !used_once(m, whole) {
            return unmet("something else reads the projection");
        }
        let axis = m[root].attrs.int("axis").unwrap_or(0);
        let axis = onnxfix_ir::op::normal_axis(axis, of_whole.len()).map_err(|_| Miss::NoMatch)?;
        let (mut start, mut taken) = (0, Vec::new());
        for &y in m[root].outputs().iter().flatten() {
            let len = dims_of_elements(m, y)?[axis];
            taken.push((start, len, y));
            start += len;
        }
        if start != of_whole[axis] || taken.len() < 2 {
            return Err(Miss::NoMatch);
        }
        return Ok(Parts { first: root, axis, taken });
    }
    let axis = sliced(m, root)?.axis;
    let users: Vec<NodeId> = m.users(whole).collect();
    let mut taken = Vec::new();
    for &user in &users {
        let slice = m[user].op().is("Slice").then(|| sliced(m, user)).and_then(Result::ok);
        let Some(slice) = slice.filter(|s| s.x == whole && s.axis == axis && s.step == 1) else {
            return unmet("something else reads the projection");
        };
        if m[user].graph() != m[root].graph() {
            return unmet("something else reads the projection");
        }
        taken.push((slice.start, slice.len, output(m, user)?));
    }
    taken.sort_unstable();
    if taken.len() < 2 || taken.windows(2).any(|w| w[0].0 + w[0].1 > w[1].0) {
        return unmet("the parts overlap, or are only one");
    }
    let first = m.nodes(m[root].graph()).find(|n| users.contains(n)).unwrap_or(root);
    Ok(Parts { first, axis, taken })
}

#[cfg(test)]
mod tests {
    use super::SplitProjections;
    use crate::testing::{check_skip, computed, operators};

    /// Two heads of which each has one feature of one and two of another.
    fn graph(projection: &str, take: &str, shape: &str, outputs: &str) -> String {
        format!(
            "g (float[1,3,2] x, float[2,6] m) => (float[] a, float[] b{outputs}) <
                float[2,6] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, float[6] c = {{1, 2, 3, 4, 5, 6}},
                int64[4] s = {{{shape}}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}
             > {{
                {projection}
                r = Reshape (p, s)  t = Transpose <perm: ints = [0, 2, 1, 3]> (r)
                {take}
             }}"
        )
    }
    const SLICES: &str = "a = Slice (t, one, three, three)  b = Slice (t, zero, one, three)";
    const HEADS: &str = "1, 3, 2, 3";

    #[test]
    fn slices_and_a_bias_are_taken_apart() {
        let projection = "q = MatMul (x, w)  p = Add (q, c)";
        let seen = operators(&SplitProjections, &graph(projection, SLICES, HEADS, ""));
        assert_eq!((seen.matches("MatMul").count(), seen.matches("Add").count()), (2, 2), "{seen}");
    }

    #[test]
    fn parts_keep_their_numbers() {
        let text = graph("q = MatMul (x, w)  p = Add (c, q)", SLICES, HEADS, "")
            .replace("float[1,3,2] x, float[2,6] m", "")
            .replace("(float[] a, float[] b)", "(float[] y)")
            .replace("float[2,6] w", "float[1,3,2] x = {1, 2, 3, 4, 5, 6}, float[2,6] w")
            .replace("b = Slice (t, zero, one, three)", "b = Slice (t, zero, one, three)  o = Concat <axis: int = 3> (a, b)  y = Identity (o)");
        assert_eq!(computed(None, &text), computed(Some(&SplitProjections), &text));
    }

    #[test]
    fn look_alikes_stay() {
        let product = "p = MatMul (x, w)";
        for (projection, take, shape, outputs, why) in [
            ("p = MatMul (x, m)", SLICES, HEADS, "", "matrix is not constant"),
            (product, SLICES, HEADS, ", float[1,2,3,3] t", "something else reads"),
            (product, SLICES, HEADS, ", float[1,3,6] p", "something else reads"),
            (
                product,
                "a = Slice (t, zero, two, three)  b = Slice (t, one, three, three)",
                HEADS,
                "",
                "overlap",
            ),
            (
                product,
                "a = Slice (t, zero, one, one)  b = Slice (t, one, two, one)",
                HEADS,
                "",
                "side by side",
            ),
            (product, SLICES, "9, 1, 1, 2", "", "does not split the projection's last axis"),
        ] {
            check_skip(&SplitProjections, &graph(projection, take, shape, outputs), why);
        }
    }
}
