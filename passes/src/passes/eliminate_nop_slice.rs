//! eliminate-nop-slice

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, ints, output, same_shape};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Slice` that takes everything in order.
    ///
    /// ## Why ATC needs it
    /// It is a copy on the vector unit.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) <int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}> {
    ///    s = Slice (x, zero, three, one)
    ///    y = Relu (s)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - Both shapes are known to be equal, symbolic dimensions by their names.
    /// - Every step is 1: a reversed tensor has the shape of the original.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopSlice = "eliminate-nop-slice", Eliminate, Exact
}

impl Rewrite for EliminateNopSlice {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        if !same_shape(m, x, y)? {
            return Err(Miss::NoMatch);
        }
        if let Some(steps) = m[root].input(4)
            && ints(m, steps)?.iter().any(|&s| s != 1)
        {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
