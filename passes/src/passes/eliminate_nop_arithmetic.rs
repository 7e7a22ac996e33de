//! eliminate-nop-arithmetic

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};

use crate::matching::{dims, input, output, same_shape, uniform};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Removes arithmetic that changes nothing: `x + 0`, `x − 0`, `x · 1`, `x / 1`, `x ** 1`, a choice whose condition is constant, and a
    /// `Clip` without bounds.
    ///
    /// ## Why ATC needs it
    /// Each is a pass over the tensor on the vector unit. Folding leaves them where a scale or a bias comes out neutral. A Clip
    /// that has neither bound is an error of its parser (E11010).
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float one = {1}> {
    ///    m = Mul (x, one)
    ///    y = Relu (m)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - Every element of the constant operand is the neutral one: for Sub, Div and Pow the second operand only.
    /// - The shape does not change: the constant may have been there to broadcast. A mask that a constant only widens is
    ///   expanded instead.
    /// - A Clip has no bounds, of which one that is left out is none from opset 11 on.
    ///
    /// ## Numerics
    /// Exact, but for the sign of a zero: `−0 + 0` is 0.
    pub EliminateNopArithmetic = "eliminate-nop-arithmetic", Eliminate, Exact
}

impl Rewrite for EliminateNopArithmetic {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Where", "Clip"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        if m[root].op().is("Clip") {
            let bounds = m[root].inputs().iter().skip(1).flatten().count();
            if bounds > 0 || m.opset(m[root].graph(), "").is_none_or(|version| version < 11) {
                return Err(Miss::NoMatch);
            }
            return Ok(Patch::forward(m, root, output(m, root)?, input(m, root, 0)?));
        }
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let zero = |v: ValueId| uniform(m, v).is_some_and(|x| x.abs() < f64::MIN_POSITIVE);
        let one = |v: ValueId| uniform(m, v).is_some_and(|x| x.to_bits() == 1.0_f64.to_bits());
        let kept = match m[root].op().name.as_str() {
            "Add" | "Or" | "Sub" if zero(b) => a,
            "Mul" | "And" | "Div" | "Pow" if one(b) => a,
            "Add" | "Or" if zero(a) => b,
            "Mul" | "And" | "Where" if one(a) => b,
            "Where" if zero(a) => input(m, root, 2)?,
            _ => return Err(Miss::NoMatch),
        };
        if !same_shape(m, kept, y)? {
            if !matches!(m[root].op().name.as_str(), "And" | "Or")
                || m.opset(m[root].graph(), "").is_none_or(|version| version < 8)
            {
                return unmet("the constant broadcasts the other operand");
            }
            let to = dims(m, y)?;
            let mut patch = Patch::new(m, root);
            let to = patch.constant(Tensor::ints(&to));
            let expanded = patch.node("Expand", &[kept.into(), to]);
            patch.replace(y, expanded);
            return Ok(patch);
        }
        if m[kept].dtype() != m[y].dtype() {
            return unmet("the type of the result is another one");
        }
        Ok(Patch::forward(m, root, y, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn a_clip_without_bounds_goes_and_one_with_a_bound_stays() {
        let graph = |clip: &str| {
            format!(
                "g (float[2] x, float low) => (float[2] y) {{ c = Clip ({clip})  y = Relu (c) }}"
            )
        };
        let after = rewritten(&EliminateNopArithmetic, &graph("x"));
        assert!(after.contains("y = Relu (x)"), "{after}");
        untouched(&EliminateNopArithmetic, &graph("x, low"));
        // Before, a bound that is left out is the largest number of float.
        untouched(
            &EliminateNopArithmetic,
            "<ir_version: 5, opset_import: [\"\" : 10]>
             g (float[2] x) => (float[2] y) { c = Clip (x)  y = Relu (c) }",
        );
    }

    #[test]
    fn stays_where_the_constant_broadcasts() {
        check_skip(
            &EliminateNopArithmetic,
            "g (float[2] x) => (float[3,2] y) <float[3,2] z = {0, 0, 0, 0, 0, 0}> { a = Add (x, z)  y = Relu (a) }",
            "the constant broadcasts the other operand",
        );
    }

    #[test]
    fn a_mask_that_is_only_widened_is_expanded() {
        let after = rewritten(
            &EliminateNopArithmetic,
            "g (bool[2] x) => (bool[2,2] y) <bool[2,1] all = {1, 1}> { y = And (all, x) }",
        );
        insta::assert_snapshot!(after, @r"
        g (bool[2] x) => (bool[2,2] y) <
           bool[2,1] all = {1, 1},
           int64[2] y_const = {2, 2}
        > {
           y = Expand (x, y_const)
        }
        ");
    }

    #[test]
    fn one_minus_x_and_one_over_x_stay() {
        for op in ["Sub", "Div", "Pow"] {
            untouched(
                &EliminateNopArithmetic,
                &format!(
                    "g (float[2] x) => (float[2] y) <float c = {{1}}> {{ a = {op} (c, x)  y = Relu (a) }}"
                ),
            );
        }
    }
}
