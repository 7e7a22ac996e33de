//! eliminate-nop-cast

use onnxfix_ir::{DataType, Model, NodeId};

use crate::matching::{dtype, input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Cast` to the type that its input already has.
    ///
    /// ## Why ATC needs it
    /// A Cast is a kernel of its own on the vector unit and keeps neighbours from fusing.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    c = Cast <to = 1> (x)
    ///    y = Relu (c)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - The type of the input is known and is the one cast to.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopCast = "eliminate-nop-cast", Eliminate, Exact
}

impl Rewrite for EliminateNopCast {
    fn roots(&self) -> &'static [&'static str] {
        &["Cast", "CastLike"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let x = input(m, root, 0)?;
        let to = match m[root].input(1) {
            Some(like) => dtype(m, like)?,
            None => m[root]
                .attrs
                .int("to")
                .and_then(|c| DataType::from_code(i32::try_from(c).ok()?))
                .ok_or(Miss::NoMatch)?,
        };
        if dtype(m, x)? != to {
            return Err(Miss::NoMatch);
        }
        Ok(Patch::forward(m, root, output(m, root)?, x))
    }
}
