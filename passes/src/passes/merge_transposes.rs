//! merge-transposes

use onnxfix_ir::{Model, NodeId};

use crate::matching::{input, output, perm, producer, shape};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Transpose` of two that follow each other, or none.
    ///
    /// ## Why ATC needs it
    /// Each is a copy of the whole tensor in an unfriendly order.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3,4] x) => (float[4,2,3] y) {
    ///    t = Transpose <perm: ints = [1, 0, 2]> (x)
    ///    y = Transpose <perm: ints = [2, 1, 0]> (t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3,4] x) => (float[4,2,3] y) { y = Transpose <perm: ints = [2, 0, 1]> (x) }
    /// ```
    ///
    /// ## Applies when
    /// - The rank is known where a `perm` is left out.
    /// - Other readers of the first one keep it.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeTransposes = "merge-transposes", Simplify, Exact
}

impl Rewrite for MergeTransposes {
    fn roots(&self) -> &'static [&'static str] {
        &["Transpose"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let between = input(m, root, 0)?;
        let first = producer(m, between, "Transpose")?;
        let (x, y) = (input(m, first, 0)?, output(m, root)?);
        let rank = shape(m, between)?.rank();
        let (inner, outer) = (perm(m, first, rank), perm(m, root, rank));
        let merged: Option<Vec<i64>> =
            outer.iter().map(|&p| inner.get(usize::try_from(p).ok()?).copied()).collect();
        let Some(merged) = merged else { return unmet("perm is not a permutation") };
        let mut patch = Patch::new(m, root);
        if merged.iter().enumerate().all(|(i, &p)| p == i as i64) {
            patch.replace(y, x);
        } else {
            let transposed = patch.transpose(x.into(), &merged);
            patch.replace(y, transposed);
        }
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::rewritten;

    #[test]
    fn there_and_back_is_nothing() {
        let after = rewritten(
            &MergeTransposes,
            "g (float[2,3] x) => (float[2,3] y) { t = Transpose (x)  s = Transpose (t)  y = Relu (s) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,3] x) => (float[2,3] y) {
           y = Relu (x)
        }
        ");
    }

    #[test]
    fn another_reader_keeps_the_first() {
        let after = rewritten(
            &MergeTransposes,
            "g (float[2,3] x) => (float[2,3] y, float[3,2] t) { t = Transpose (x)  s = Transpose (t)  y = Relu (s) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,3] x) => (float[2,3] y, float[3,2] t) {
           t = Transpose (x)
           y = Relu (x)
        }
        ");
    }
}
