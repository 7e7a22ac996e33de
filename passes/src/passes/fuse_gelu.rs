//! fuse-gelu

use onnxfix_ir::{Model, NodeId};

use crate::gelu::{ROOTS, SINCE, find};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Writes a GELU as one `Gelu` where the opset has it.
    ///
    /// ## Why ATC needs it
    /// It does not: it has no parser for `Gelu` and looks for the steps of *canonicalise-gelu*. Other runtimes have a kernel
    /// that reads the tensor once.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 9, opset_import: ["" : 20]>
    /// g (float[2,4] x) => (float[2,4] y) <float root = {1.4142135}, float one = {1}, float half = {0.5}> {
    ///    a = Div (x, root)
    ///    e = Erf (a)
    ///    s = Add (e, one)
    ///    p = Mul (x, s)
    ///    y = Mul (p, half)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 9, opset_import: ["" : 20]>
    /// g (float[2,4] x) => (float[2,4] y) { y = Gelu <approximate: string = "none"> (x) }
    /// ```
    ///
    /// ## Applies when
    /// - `½·x·(1 + erf(x/√2))`, or `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, with factors in any order and multiplied out or
    ///   not. Constants may be off by 2e-6 of themselves, in float16 and bfloat16 by what rounding takes.
    /// - Nothing else reads a value in the middle, and no constant broadcasts the result.
    /// - The opset is 20 or later. The model is not brought there for it.
    ///
    /// ## Numerics
    /// The same formula, rounded at other places. Of −∞ all forms are NaN.
    pub FuseGelu = "fuse-gelu", Fuse, Relative(1e-6)
}

impl Rewrite for FuseGelu {
    fn roots(&self) -> &'static [&'static str] {
        ROOTS
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let found = find(m, root)?;
        if found.is_operator() {
            return Err(Miss::NoMatch);
        }
        if m.opset(m[root].graph(), "").is_none_or(|opset| opset < SINCE) {
            return unmet(format!("Gelu came with opset {SINCE}"));
        }
        Ok(found.fused(m, root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    fn graph(opset: i64, nodes: &str) -> String {
        format!(
            "<ir_version: 9, opset_import: [\"\" : {opset}]>
             g (float[2,4] x) => (float[2,4] y) <float one = {{1}}, float half = {{0.5}}, float k = {{0.7978846}}, float cubic = {{0.044715}}> {{ {nodes} }}"
        )
    }

    const TANH: &str =
        "q = Mul (x, x)  c = Mul (q, x)  m = Mul (c, cubic)  a = Add (x, m)  b = Mul (a, k)
        t = Tanh (b)  s = Add (one, t)  h = Mul (half, x)  y = Mul (h, s)";

    #[test]
    fn the_form_by_tanh_says_so() {
        let seen = rewritten(&FuseGelu, &graph(20, TANH));
        assert!(seen.contains("y = Gelu <approximate: string = \"tanh\"> (x)"), "{seen}");
    }

    #[test]
    fn below_opset_20_it_stays() {
        check_skip(&FuseGelu, &graph(19, TANH), "Gelu came with opset 20");
    }

    #[test]
    fn the_operator_stays() {
        untouched(&FuseGelu, &graph(20, "y = Gelu (x)"));
    }
}
