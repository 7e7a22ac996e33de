//! eliminate-dropout

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Removes `Dropout`, which does nothing at inference.
    ///
    /// ## Why ATC needs it
    /// It has no kernel to run then, but the node hides patterns from fusions.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    d = Dropout (x)
    ///    y = Relu (d)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - `training_mode` is left out or constantly false, or the ratio is constantly 0.
    /// - The mask output is not read.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateDropout = "eliminate-dropout", Eliminate, Exact
}

impl Rewrite for EliminateDropout {
    fn roots(&self) -> &'static [&'static str] {
        &["Dropout"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let zero =
            |slot| m[root].input(slot).is_none_or(|v| crate::matching::uniform(m, v) == Some(0.0));
        // Without a ratio input the ratio is 0.5.
        let no_ratio = m[root].input(1).is_some() && zero(1);
        if !zero(2) && !no_ratio {
            return unmet("training mode is not known to be off");
        }
        if m[root].output(1).is_some_and(|mask| !m[mask].uses().is_empty()) {
            return unmet("the mask is read");
        }
        Ok(Patch::forward(m, root, output(m, root)?, input(m, root, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_skip;

    #[test]
    fn stays_in_training_and_where_the_mask_is_read() {
        check_skip(
            &EliminateDropout,
            "g (float[2] x, bool t) => (float[2] y) <float r = {0.5}> { d = Dropout (x, r, t)  y = Relu (d) }",
            "training mode is not known to be off",
        );
        check_skip(
            &EliminateDropout,
            "g (float[2] x) => (float[2] y, bool[2] m) { d, m = Dropout (x)  y = Relu (d) }",
            "the mask is read",
        );
    }
}
