//! eliminate-nop-expand

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output, same_shape};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes an `Expand` or `Tile` that gives the shape it gets.
    ///
    /// ## Why ATC needs it
    /// On int64 it runs on the AI CPU; anywhere it is a copy.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) <int64[2] s = {2, 3}> {
    ///    e = Expand (x, s)
    ///    y = Relu (e)
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
    pub EliminateNopExpand = "eliminate-nop-expand", Eliminate, Exact
}

impl Rewrite for EliminateNopExpand {
    fn roots(&self) -> &'static [&'static str] {
        &["Expand", "Tile"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        if !same_shape(m, x, y)? {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
