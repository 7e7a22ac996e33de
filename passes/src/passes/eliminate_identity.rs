//! eliminate-identity

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes `Identity`.
    ///
    /// ## Why ATC needs it
    /// It does not, but an Identity in the middle hides patterns from ATC's fusions and from our own passes.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    i = Identity (x)
    ///    y = Relu (i)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - Not both input and output are public: between an input (or initializer) and an output of the graph it stays,
    ///   or one value would need two names.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateIdentity = "eliminate-identity", Eliminate, Exact
}

impl Rewrite for EliminateIdentity {
    fn roots(&self) -> &'static [&'static str] {
        &["Identity"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        Ok(Patch::forward(m, root, output(m, root)?, input(m, root, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn takes_the_name_of_a_graph_output() {
        let after = rewritten(
            &EliminateIdentity,
            "g (float[2] x) => (float[2] y) { r = Relu (x)  y = Identity (r) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2] x) => (float[2] y) {
           y = Relu (x)
        }
        ");
    }

    #[test]
    fn stays_between_public_values() {
        check_skip(
            &EliminateIdentity,
            "g (float[2] x) => (float[2] y) { y = Identity (x) }",
            "one value would need two public names",
        );
    }

    #[test]
    fn stays_between_two_outputs() {
        check_skip(
            &EliminateIdentity,
            "g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Identity (y) }",
            "one value would need two public names",
        );
    }
}
