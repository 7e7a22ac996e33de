//! decompose-trilu

use onnxfix_ir::{Model, NodeId};

use crate::opset::triangle;
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes a `Trilu` as a choice by a constant triangle.
    ///
    /// ## Why ATC needs it
    /// The 310P has no kernel for Trilu, and opset 13 has no such operator.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 7, opset_import: ["" : 14]>
    /// g (float[2,3] x) => (float[2,3] y) { y = Trilu <upper: int = 0> (x) }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 7, opset_import: ["" : 14]>
    /// g (float[2,3] x) => (float[2,3] y) <bool[2,3] y_const = {1, 0, 0, 1, 1, 0}, float y_const_1 = {0}> {
    ///    y = Where (y_const, x, y_const_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The number of the diagonal is constant, and the last two dimensions are known.
    /// - Where takes the type: bfloat16 from opset 16 on. Truth values become an And.
    ///
    /// ## Numerics
    /// Exact.
    pub DecomposeTrilu = "decompose-trilu", Decompose, Exact
}

impl Rewrite for DecomposeTrilu {
    fn roots(&self) -> &'static [&'static str] {
        &["Trilu"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        triangle(m, root)
    }
}

#[cfg(test)]
mod tests {
    use super::DecomposeTrilu;
    use crate::testing::{check_skip, computed, rewritten};

    const HEAD: &str = "<ir_version: 7, opset_import: [\"\" : 14]>";

    #[test]
    fn every_diagonal_comes_out_right() {
        for (upper, k) in [(1, -3), (1, -1), (1, 0), (1, 2), (0, -2), (0, 0), (0, 1), (0, 9)] {
            let text = format!(
                "{HEAD} g () => (float[2,2,3] y) <float[2,2,3] x = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, int64 k = {{{k}}}> {{
   t = Trilu <upper: int = {upper}> (x, k)  y = Identity (t) }}"
            );
            assert_eq!(
                computed(Some(&DecomposeTrilu), &text),
                computed(None, &text),
                "upper {upper}, diagonal {k}"
            );
        }
    }

    #[test]
    fn truth_values_are_and_ed() {
        let text = format!("{HEAD} g (bool[2,2] x) => (bool[2,2] y) {{ y = Trilu (x) }}");
        assert!(rewritten(&DecomposeTrilu, &text).contains("y = And (x, y_const)"));
    }

    #[test]
    fn what_is_not_known_stays() {
        for (inputs, node, why) in [
            ("float[2,2] x, int64 k", "Trilu (x, k)", "its diagonal is not constant"),
            ("float[N,2] x", "Trilu (x)", "last two dimensions are not static"),
            ("bfloat16[2,2] x", "Trilu (x)", "Where takes bfloat16 from opset 16 on"),
        ] {
            let text = format!("{HEAD} g ({inputs}) => (y) {{ y = {node} }}");
            check_skip(&DecomposeTrilu, &text, why);
        }
    }
}
