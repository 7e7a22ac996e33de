//! eliminate-nop-gather

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims, input, ints, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Replaces a `Gather` that takes a whole axis in order by a Reshape.
    ///
    /// ## Why ATC needs it
    /// The 310P gathers element by element. An exported `unfold` gathers the axis of length 1 too, by the matrix [[0]].
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
    /// - The constant index counts 0, 1, 2 … up to the axis's length, in whatever shape.
    /// - Shapes are static, and no dimension is 0.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopGather = "eliminate-nop-gather", Eliminate, Exact
}

impl Rewrite for EliminateNopGather {
    fn roots(&self) -> &'static [&'static str] {
        &["Gather"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, index, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        if m.constant(index).is_none() {
            return Err(Miss::NoMatch);
        }
        let (from, to) = (dims(m, x)?, dims(m, y)?);
        let axis = onnxfix_ir::op::normal_axis(m[root].attrs.int("axis").unwrap_or(0), from.len())
            .map_err(|_| Miss::NoMatch)?;
        let index = ints(m, index)?;
        // -1 counts from the end: the only element of an axis of length 1.
        let counts = index.len() as i64 == from[axis]
            && index.iter().enumerate().all(|(i, &n)| n.rem_euclid(from[axis].max(1)) == i as i64);
        if !counts || to.contains(&0) {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let reshaped = patch.reshape(x.into(), &to);
        patch.replace(y, reshaped);
        Ok(patch)
    }
}
