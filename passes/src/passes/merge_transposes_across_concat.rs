//! merge-transposes-across-concat

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{dims, input, output, perm, producer, used_once};
use crate::patch::attrs;
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Joins first and transposes once where every part of a `Concat` is transposed in the same way.
    ///
    /// ## Why ATC needs it
    /// Each Transpose is an operator that copies. ConvBERT joins the heads of its attention with those of its convolution
    /// after it has transposed each of them.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] a, float[4,3] b) => (float[3,6] y) {
    ///    s = Transpose <perm: ints = [1, 0]> (a)
    ///    t = Transpose <perm: ints = [1, 0]> (b)
    ///    y = Concat <axis: int = 1> (s, t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] a, float[4,3] b) => (float[3,6] y) {
    ///    y_Concat = Concat <axis: int = 0> (a, b)
    ///    y = Transpose <perm: ints = [1, 0]> (y_Concat)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - There are at least two parts, all of them Transposes with the same permutation.
    /// - Nothing else reads what they make. Shapes are static.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeTransposesAcrossConcat = "merge-transposes-across-concat", Simplify, Exact
}

impl Rewrite for MergeTransposesAcrossConcat {
    fn roots(&self) -> &'static [&'static str] {
        &["Concat"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let parts: Option<Vec<ValueId>> = m[root].inputs().iter().copied().collect();
        let parts = parts.filter(|p| p.len() > 1).ok_or(Miss::NoMatch)?;
        let turns: Vec<NodeId> =
            parts.iter().map(|&p| producer(m, p, "Transpose")).collect::<Result<_, _>>()?;
        let y = output(m, root)?;
        let rank = dims(m, y)?.len();
        let perm = perm(m, turns[0], rank);
        if turns.iter().any(|&t| self::perm(m, t, rank) != perm) {
            return unmet("the parts are transposed in different ways");
        }
        if !parts.iter().all(|&p| used_once(m, p)) {
            return unmet("something else reads a transposed part");
        }
        let axis = onnxfix_ir::op::normal_axis(m[root].attrs.int("axis").unwrap_or(1), rank)
            .map_err(|_| Miss::NoMatch)?;
        let axis = *perm.get(axis).ok_or(Miss::NoMatch)?;
        let sources: Vec<Operand> =
            turns.iter().map(|&t| input(m, t, 0).map(Into::into)).collect::<Result<_, _>>()?;
        let mut patch = Patch::new(m, root);
        let joined = patch.node_with("Concat", &sources, attrs([("axis", axis.into())]));
        let result = patch.transpose(joined, &perm);
        patch.replace(y, result);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_skip;

    #[test]
    fn look_alikes_stay() {
        for (perm, output, why) in [
            ("[0, 2, 1]", "", "in different ways"),
            ("[1, 0, 2]", ", t", "something else reads a transposed part"),
        ] {
            check_skip(
                &MergeTransposesAcrossConcat,
                &format!(
                    "g (float[2,2,2] a, float[2,2,2] b) => (float[2,4,2] y{output}) {{
                        s = Transpose <perm: ints = [1, 0, 2]> (a)  t = Transpose <perm: ints = {perm}> (b)
                        y = Concat <axis: int = 1> (s, t)
                    }}"
                ),
                why,
            );
        }
    }
}
