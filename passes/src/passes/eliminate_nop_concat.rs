//! eliminate-nop-concat

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Concat`, `Sum`, `Max`, `Min` or `Mean` of one input.
    ///
    /// ## Why ATC needs it
    /// It is a copy, and hides patterns from fusions.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    c = Concat <axis = 0> (x)
    ///    y = Relu (c)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - There is one input.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopConcat = "eliminate-nop-concat", Eliminate, Exact
}

impl Rewrite for EliminateNopConcat {
    fn roots(&self) -> &'static [&'static str] {
        &["Concat", "Sum", "Max", "Min", "Mean"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        if m[root].inputs().len() != 1 {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
