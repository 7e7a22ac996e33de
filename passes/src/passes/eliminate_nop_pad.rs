//! eliminate-nop-pad

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, ints, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Pad` by nothing.
    ///
    /// ## Why ATC needs it
    /// It is a copy on the vector unit.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) <int64[4] p = {0, 0, 0, 0}> {
    ///    e = Pad (x, p)
    ///    y = Relu (e)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - All pads are constant zeros. Equal shapes are not enough: a pad may cut at one end what it adds at the other.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopPad = "eliminate-nop-pad", Eliminate, Exact
}

impl Rewrite for EliminateNopPad {
    fn roots(&self) -> &'static [&'static str] {
        &["Pad"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let zeros = match m[root].input(1) {
            Some(pads) => ints(m, pads)?.iter().all(|&p| p == 0),
            None => m[root].attrs.ints("pads").is_some_and(|p| p.iter().all(|&p| p == 0)),
        };
        if !zeros {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, y, x))
    }
}
