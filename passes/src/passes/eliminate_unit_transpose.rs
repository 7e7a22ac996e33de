//! eliminate-unit-transpose

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims, input, output, perm};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Replaces a `Transpose` that only moves axes of length 1 by a Reshape.
    ///
    /// ## Why ATC needs it
    /// A Transpose is a copy, a Reshape is none; and Reshapes that follow each other become one.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,1,3] x) => (float[1,2,3] y) { y = Transpose <perm: ints = [1, 0, 2]> (x) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,1,3] x) => (float[1,2,3] y) <int64[3] y_const = {1, 2, 3}> { y = Reshape (x, y_const) }
    /// ```
    ///
    /// ## Applies when
    /// - The axes longer than 1 keep their order, and no dimension is 0.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateUnitTranspose = "eliminate-unit-transpose", Eliminate, Exact
}

impl Rewrite for EliminateUnitTranspose {
    fn roots(&self) -> &'static [&'static str] {
        &["Transpose"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let (from, to) = (dims(m, x)?, dims(m, y)?);
        let perm = perm(m, root, from.len());
        let long: Vec<i64> = perm
            .iter()
            .copied()
            .filter(|&p| usize::try_from(p).is_ok_and(|p| from.get(p) != Some(&1)))
            .collect();
        let in_order = perm.iter().enumerate().all(|(i, &p)| p == i as i64);
        if in_order || !long.is_sorted() || to.contains(&0) {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let reshaped = patch.reshape(x.into(), &to);
        patch.replace(y, reshaped);
        Ok(patch)
    }
}
