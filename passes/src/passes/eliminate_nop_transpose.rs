//! eliminate-nop-transpose

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output, perm, shape};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Transpose` that keeps the order of the axes.
    ///
    /// ## Why ATC needs it
    /// It is a copy, and hides patterns from fusions.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) {
    ///    t = Transpose <perm: ints = [0, 1]> (x)
    ///    y = Relu (t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - `perm` is 0, 1, 2 …
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopTranspose = "eliminate-nop-transpose", Eliminate, Exact
}

impl Rewrite for EliminateNopTranspose {
    fn roots(&self) -> &'static [&'static str] {
        &["Transpose"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let rank = shape(m, x)?.rank();
        if perm(m, root, rank).iter().enumerate().any(|(i, &p)| p != i as i64) {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
