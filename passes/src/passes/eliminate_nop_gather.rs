//! eliminate-nop-gather

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims, input, ints, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Replaces a `Gather` that takes a whole axis in order, or a `GatherND` that takes everything in order, by a Reshape.
    ///
    /// ## Why ATC needs it
    /// The 310P gathers element by element. An exported `unfold` gathers the axis of length 1 too, by the matrix [[0]]; an
    /// exported mask gathers itself by the places of all its elements.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[3,1] x) => (float[3,1,1] y) <int64[1,1] i = {0}> { y = Gather <axis: int = 1> (x, i) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[3,1] x) => (float[3,1,1] y) <int64[3] y_const = {3, 1, 1}> { y = Reshape (x, y_const) }
    /// ```
    ///
    /// ## Applies when
    /// - The constant index counts 0, 1, 2 … up to the axis's length, in whatever shape; that of a `GatherND` counts
    ///   the places of the axes it names in row-major order, without batches of its own.
    /// - Shapes are static, and no dimension is 0.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopGather = "eliminate-nop-gather", Eliminate, Exact
}

impl Rewrite for EliminateNopGather {
    fn roots(&self) -> &'static [&'static str] {
        &["Gather", "GatherND"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, index, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        if m.constant(index).is_none() {
            return Err(Miss::NoMatch);
        }
        let (from, to) = (dims(m, x)?, dims(m, y)?);
        let in_order = if m[root].op().is("Gather") {
            let axis = m[root].attrs.int("axis").unwrap_or(0);
            let axis = onnxfix_ir::op::normal_axis(axis, from.len()).map_err(|_| Miss::NoMatch)?;
            counts_up(&ints(m, index)?, 1, &from[axis..=axis])
        } else {
            let named = dims(m, index)?.last().and_then(|&n| usize::try_from(n).ok());
            let named = named.filter(|&n| 0 < n && n <= from.len()).ok_or(Miss::NoMatch)?;
            m[root].attrs.int("batch_dims").unwrap_or(0) == 0
                && counts_up(&ints(m, index)?, named, &from[..named])
        };
        if !in_order || to.contains(&0) {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let reshaped = patch.reshape(x.into(), &to);
        patch.replace(y, reshaped);
        Ok(patch)
    }
}

/// Whether the tuples of an index are all the places of these axes in row-major order.
fn counts_up(index: &[i64], tuple: usize, axes: &[i64]) -> bool {
    // -1 counts from the end: the only element of an axis of length 1.
    let place = |tuple: &[i64]| {
        tuple.iter().zip(axes).fold(0, |place, (&i, &d)| place * d + i.rem_euclid(d.max(1)))
    };
    let places = index.chunks_exact(tuple).map(place);
    index.len() as i64 == axes.iter().product::<i64>() * tuple as i64
        && places.eq(0..axes.iter().product())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{rewritten, untouched};

    #[test]
    fn a_mask_that_gathers_itself_is_reshaped() {
        let after = rewritten(
            &EliminateNopGather,
            "g (bool[2,2] x) => (bool[2,1,2] y) <int64[2,1,2,2] i = {0, 0, 0, 1, 1, 0, 1, 1}> { y = GatherND (x, i) }",
        );
        insta::assert_snapshot!(after, @r"
        g (bool[2,2] x) => (bool[2,1,2] y) <
           int64[2,1,2,2] i = {0, 0, 0, 1, 1, 0, 1, 1},
           int64[3] y_const = {2, 1, 2}
        > {
           y = Reshape (x, y_const)
        }
        ");
    }

    #[test]
    fn other_orders_stay() {
        for index in ["0, 0, 1, 0, 0, 1, 1, 1", "0, 0, 0, 1, 1, 0, 0, 1"] {
            untouched(
                &EliminateNopGather,
                &format!(
                    "g (bool[2,2] x) => (bool[2,2] y) <int64[2,2,2] i = {{{index}}}>
                     {{ y = GatherND (x, i) }}"
                ),
            );
        }
    }

    #[test]
    fn batches_of_its_own_stay() {
        untouched(
            &EliminateNopGather,
            "g (float[2,1] x) => (float[2] y) <int64[2,1] i = {0, 0}> { y = GatherND <batch_dims: int = 1> (x, i) }",
        );
    }
}
