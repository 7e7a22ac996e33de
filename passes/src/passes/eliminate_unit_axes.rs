//! eliminate-unit-axes

use onnxfix_ir::{Model, NodeId};

use crate::matching::{Dims, RESHAPES, Turned, turned_between_reshapes};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Removes an axis of length 1 that one `Reshape` makes only for a `Transpose` to carry it to the next.
    ///
    /// ## Why ATC needs it
    /// It does not: ATC looks for attention in four axes, so this pass is for other runtimes. At batch 1 it saves a
    /// Reshape for every query, key, value and context.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,6,8] x) => (float[2,6,4] y) <int64[4] s = {1, 6, 2, 4}, int64[3] t = {2, 6, 4}> {
    ///    a = Reshape (x, s)
    ///    b = Transpose <perm: ints = [0, 2, 1, 3]> (a)
    ///    y = Reshape (b, t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,6,8] x) => (float[2,6,4] y) <int64[3] y_const = {6, 2, 4}> {
    ///    y_Reshape = Reshape (x, y_const)
    ///    y = Transpose <perm: ints = [1, 0, 2]> (y_Reshape)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The first Reshape only adds axes of length 1, or the second one only drops such axes.
    /// - Nothing else reads what is between them. Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateUnitAxes = "eliminate-unit-axes", Simplify, Exact
}

impl Rewrite for EliminateUnitAxes {
    fn roots(&self) -> &'static [&'static str] {
        RESHAPES
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let Turned { x, y, perm, dims: [a, b, c, d] } = turned_between_reshapes(m, root)?;
        let mut patch = Patch::new(m, root);
        let result = if let Some(kept) = without_units(&c, &d) {
            // The second Reshape drops axes: they are not made in the first place.
            let axes: Vec<i64> = kept.iter().filter_map(|&at| perm.get(at).copied()).collect();
            let mut order = axes.clone();
            order.sort_unstable();
            let made: Vec<i64> =
                order.iter().filter_map(|&p| b.get(usize::try_from(p).ok()?).copied()).collect();
            let reshaped = patch.reshape(x.into(), &made);
            let moves: Vec<i64> = axes
                .iter()
                .filter_map(|p| order.iter().position(|q| q == p))
                .map(|i| i as i64)
                .collect();
            patch.transpose(reshaped, &moves)
        } else if let Some(kept) = without_units(&b, &a) {
            // The first Reshape adds axes: what it was given is transposed instead.
            let moves: Vec<i64> = perm
                .iter()
                .filter_map(|&p| kept.iter().position(|&k| k as i64 == p))
                .map(|i| i as i64)
                .collect();
            let transposed = patch.transpose(x.into(), &moves);
            patch.reshape(transposed, &d)
        } else {
            return unmet("neither reshape only adds or drops axes of length 1");
        };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// For each axis of `short` its place in `long`, when `long` has nothing more than axes of length 1.
fn without_units(long: &Dims, short: &Dims) -> Option<Vec<usize>> {
    let mut places = Vec::with_capacity(short.len());
    let mut next = short.iter().peekable();
    for (place, &d) in long.iter().enumerate() {
        // A 1 that the shorter one needs for itself is kept while there are not more 1s than it needs.
        if next.peek() == Some(&&d) {
            next.next();
            places.push(place);
        } else if d != 1 {
            return None;
        }
    }
    (next.peek().is_none() && places.len() < long.len()).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn an_added_axis_is_left_out() {
        let after = rewritten(
            &EliminateUnitAxes,
            "g (float[2,6,4] x) => (float[1,6,8] y) <int64[4] s = {1, 2, 6, 4}, int64[3] t = {1, 6, 8}>
             { a = Reshape (x, s)  b = Transpose <perm = [0, 2, 1, 3]> (a)  y = Reshape (b, t) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,6,4] x) => (float[1,6,8] y) <
           int64[4] s = {1, 2, 6, 4},
           int64[3] t = {1, 6, 8},
           int64[3] y_const = {1, 6, 8}
        > {
           y_Transpose = Transpose <perm: ints = [1, 0, 2]> (x)
           y = Reshape (y_Transpose, y_const)
        }
        ");
    }

    #[test]
    fn a_batch_stays() {
        check_skip(
            &EliminateUnitAxes,
            "g (float[3,6,8] x) => (float[6,6,4] y) <int64[4] s = {3, 6, 2, 4}, int64[3] t = {6, 6, 4}>
             { a = Reshape (x, s)  b = Transpose <perm = [0, 2, 1, 3]> (a)  y = Reshape (b, t) }",
            "neither reshape",
        );
    }

    #[test]
    fn without_elements_there_is_no_shape_to_write() {
        check_skip(
            &EliminateUnitAxes,
            "g (float[3,0] x) => (float[3,0] y) <int64[1] i = {0}, int64[1] j = {1}>
             { a = Unsqueeze (x, i)  b = Transpose <perm = [1, 0, 2]> (a)  y = Squeeze (b, j) }",
            "has no elements",
        );
    }
}
