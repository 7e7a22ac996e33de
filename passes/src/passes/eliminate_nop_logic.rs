//! eliminate-nop-logic

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output, producer};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Removes a `Not` in front of a choice, whose branches change places, and of another `Not`.
    ///
    /// ## Why ATC needs it
    /// Masks are made by logic that runs for every sentence; on booleans much of it is left to the AI CPU.
    ///
    /// ## Before
    /// ```onnx
    /// g (bool[2] c, float[2] a, float[2] b) => (float[2] y) {
    ///    n = Not (c)
    ///    y = Where (n, a, b)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (bool[2] c, float[2] a, float[2] b) => (float[2] y) { y = Where (c, b, a) }
    /// ```
    ///
    /// ## Applies when
    /// - A Not makes the condition of a Where, or what another Not reads.
    /// - Other readers keep the Not.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateNopLogic = "eliminate-nop-logic", Eliminate, Exact
}

impl Rewrite for EliminateNopLogic {
    fn roots(&self) -> &'static [&'static str] {
        &["Where", "Not"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let not = producer(m, input(m, root, 0)?, "Not")?;
        let (condition, y) = (input(m, not, 0)?, output(m, root)?);
        if m[root].op().is("Not") {
            return Ok(Patch::forward(m, root, y, condition));
        }
        let (a, b) = (input(m, root, 1)?, input(m, root, 2)?);
        let mut patch = Patch::new(m, root);
        let chosen = patch.node("Where", &[condition.into(), b.into(), a.into()]);
        patch.replace(y, chosen);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{rewritten, untouched};

    #[test]
    fn two_are_none() {
        let after = rewritten(
            &EliminateNopLogic,
            "g (bool[2] c) => (bool[2] y) { a = Not (c)  b = Not (a)  y = Identity (b) }",
        );
        insta::assert_snapshot!(after, @r"
        g (bool[2] c) => (bool[2] y) {
           y = Identity (c)
        }
        ");
    }

    #[test]
    fn a_branch_that_is_negated_stays() {
        untouched(
            &EliminateNopLogic,
            "g (bool[2] c, bool[2] a, bool[2] b) => (bool[2] y) { n = Not (a)  y = Where (c, n, b) }",
        );
    }
}
