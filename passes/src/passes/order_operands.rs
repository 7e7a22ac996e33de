//! order-operands

use onnxfix_ir::{Model, NodeId};

use crate::matching::input;
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes a constant the second operand where the order does not matter.
    ///
    /// ## Why ATC needs it
    /// Its fusion passes take weights and scales from the second input only: a bias, a scale of a normalization, the factors of
    /// a GELU. Some exporters write them first.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float[2] bias = {1, 2}> { y = Add (bias, x) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float[2] bias = {1, 2}> { y = Add (x, bias) }
    /// ```
    ///
    /// ## Applies when
    /// - The operator is Add, Mul, And, Or, Xor or Equal; its first operand is constant, the second one is not.
    /// - The opset is 7 or later: before, the second operand was the one to broadcast.
    ///
    /// ## Numerics
    /// Exact.
    pub OrderOperands = "order-operands", Simplify, Exact
}

impl Rewrite for OrderOperands {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "Mul", "And", "Or", "Xor", "Equal"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b) = (input(m, root, 0)?, input(m, root, 1)?);
        if m.constant(a).is_none() || m.constant(b).is_some() {
            return Err(Miss::NoMatch);
        }
        if m.opset(m[root].graph(), "").is_none_or(|opset| opset < 7) {
            return unmet("before opset 7 the second operand is the one to broadcast");
        }
        let mut patch = Patch::new(m, root);
        patch.set_input(root, 0, b);
        patch.set_input(root, 1, a);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, untouched};

    #[test]
    fn an_order_that_matters_stays() {
        untouched(
            &OrderOperands,
            "g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { a = Sub (c, x)  b = Div (c, a)  y = Pow (c, b) }",
        );
    }

    #[test]
    fn two_constants_stay() {
        untouched(
            &OrderOperands,
            "g () => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> { y = Add (a, b) }",
        );
    }

    #[test]
    fn broadcasting_by_attribute_stays() {
        check_skip(
            &OrderOperands,
            "<ir_version: 3, opset_import: [\"\" : 6]>
             g (float[2] x, float[2] c) => (float[2] y) <float[2] c = {1, 2}> { y = Add (c, x) }",
            "the second operand is the one to broadcast",
        );
    }
}
