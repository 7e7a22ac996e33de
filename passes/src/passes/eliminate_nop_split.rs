//! eliminate-nop-split

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Split` into one part.
    ///
    /// ## Why ATC needs it
    /// It is a copy, and hides patterns from fusions.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    c = Split <axis = 0> (x)
    ///    y = Relu (c)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - There is one output.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopSplit = "eliminate-nop-split", Eliminate, Exact
}

impl Rewrite for EliminateNopSplit {
    fn roots(&self) -> &'static [&'static str] {
        &["Split"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        if m[root].outputs().len() != 1 {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
