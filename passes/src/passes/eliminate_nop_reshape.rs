//! eliminate-nop-reshape

use onnxfix_ir::{Model, NodeId};

use crate::matching::{RESHAPES, input, output, same_shape};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Reshape`, `Flatten`, `Squeeze` or `Unsqueeze` that gives the shape it gets.
    ///
    /// ## Why ATC needs it
    /// It is free at run time, but hides patterns from fusions.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) <int64[2] s = {2, 3}> {
    ///    r = Reshape (x, s)
    ///    y = Relu (r)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - Both shapes are known to be equal, symbolic dimensions by their names.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopReshape = "eliminate-nop-reshape", Eliminate, Exact
}

impl Rewrite for EliminateNopReshape {
    fn roots(&self) -> &'static [&'static str] {
        RESHAPES
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        if !same_shape(m, x, y)? {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
