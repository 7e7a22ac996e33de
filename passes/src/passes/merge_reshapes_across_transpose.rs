//! merge-reshapes-across-transpose

use onnxfix_ir::{Model, NodeId};

use crate::matching::{Dims, RESHAPES, Turned, turned_between_reshapes};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Reshape` of two around a `Transpose` when one of them only adds or drops axes of length 1 at the far end.
    ///
    /// ## Why ATC needs it
    /// A convolution wants an axis of length 1 that activations do not have. Made by the Reshape that is there anyway, it
    /// costs nothing, and the Transpose stands directly at the convolution.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[6,4] x) => (float[2,4,1,3] y) <int64[3] s = {2, 3, 4}, int64[4] t = {2, 4, 1, 3}> {
    ///    a = Reshape (x, s)
    ///    b = Transpose <perm: ints = [0, 2, 1]> (a)
    ///    y = Reshape (b, t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[6,4] x) => (float[2,4,1,3] y) <int64[4] y_const = {2, 1, 3, 4}> {
    ///    y_Reshape = Reshape (x, y_const)
    ///    y = Transpose <perm: ints = [0, 3, 1, 2]> (y_Reshape)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The second Reshape only adds axes of length 1, or the first one only drops such axes.
    /// - Nothing else reads what is between them. Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeReshapesAcrossTranspose = "merge-reshapes-across-transpose", Simplify, Exact
}

impl Rewrite for MergeReshapesAcrossTranspose {
    fn roots(&self) -> &'static [&'static str] {
        RESHAPES
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let Turned { x, y, perm, dims: [a, b, c, d] } = turned_between_reshapes(m, root)?;
        let mut patch = Patch::new(m, root);
        let result = if let Some(blocks) = blocks(&d, &c) {
            // The axes of the result in the order in which they are before the Transpose.
            let at = |axis: usize| perm.iter().position(|&p| p == axis as i64);
            let order: Vec<usize> =
                (0..b.len()).filter_map(at).flat_map(|i| blocks[i].clone()).collect();
            let made: Vec<i64> = order.iter().map(|&axis| d[axis]).collect();
            let moves: Vec<i64> = (0..d.len())
                .filter_map(|axis| order.iter().position(|&o| o == axis))
                .map(|i| i as i64)
                .collect();
            let reshaped = patch.reshape(x.into(), &made);
            patch.transpose(reshaped, &moves)
        } else if let Some(blocks) = blocks(&a, &b) {
            let block = |&p: &i64| usize::try_from(p).ok().and_then(|p| blocks.get(p));
            let moves: Vec<i64> =
                perm.iter().filter_map(block).flatten().map(|&axis| axis as i64).collect();
            let transposed = patch.transpose(x.into(), &moves);
            patch.reshape(transposed, &d)
        } else {
            return unmet("neither reshape only adds or drops axes of length 1 at its far end");
        };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// For each axis of `short` the axes of `long` that it is and the axes of length 1 in front of that, when `long` has
/// nothing more than such axes.
fn blocks(long: &Dims, short: &Dims) -> Option<Vec<Vec<usize>>> {
    let mut blocks: Vec<Vec<usize>> = Vec::with_capacity(short.len());
    let mut block = Vec::new();
    for (axis, &d) in long.iter().enumerate() {
        block.push(axis);
        if short.get(blocks.len()) == Some(&d) {
            blocks.push(std::mem::take(&mut block));
        } else if d != 1 {
            return None;
        }
    }
    if blocks.len() < short.len() || long.len() == short.len() {
        return None;
    }
    blocks.last_mut()?.extend(block);
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn an_axis_that_is_dropped_first_goes_along() {
        let after = rewritten(
            &MergeReshapesAcrossTranspose,
            "g (float[2,4,1,3] x) => (float[6,4] y) <int64[3] s = {2, 4, 3}, int64[2] t = {6, 4}>
             { a = Reshape (x, s)  b = Transpose <perm: ints = [0, 2, 1]> (a)  y = Reshape (b, t) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,4,1,3] x) => (float[6,4] y) <
           int64[3] s = {2, 4, 3},
           int64[2] t = {6, 4},
           int64[2] y_const = {6, 4}
        > {
           y_Transpose = Transpose <perm: ints = [0, 2, 3, 1]> (x)
           y = Reshape (y_Transpose, y_const)
        }
        ");
    }

    #[test]
    fn an_axis_at_the_end_stays_with_the_last() {
        let after = rewritten(
            &MergeReshapesAcrossTranspose,
            "g (float[6] x) => (float[3,2,1] y) <int64[2] s = {2, 3}, int64[3] t = {3, 2, 1}>
             { a = Reshape (x, s)  b = Transpose (a)  y = Reshape (b, t) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[6] x) => (float[3,2,1] y) <
           int64[2] s = {2, 3},
           int64[3] t = {3, 2, 1},
           int64[3] y_const = {2, 1, 3}
        > {
           y_Reshape = Reshape (x, y_const)
           y = Transpose <perm: ints = [2, 0, 1]> (y_Reshape)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        for (outputs, dims, why) in [
            ("", "3,8", "neither reshape only adds or drops"),
            (", b", "2,4,1,3", "something else reads"),
        ] {
            check_skip(
                &MergeReshapesAcrossTranspose,
                &format!(
                    "g (float[6,4] x) => (float[{dims}] y{outputs}) <int64[3] s = {{2, 3, 4}}, int64[{}] t = {{{dims}}}>
                     {{ a = Reshape (x, s)  b = Transpose <perm: ints = [0, 2, 1]> (a)  y = Reshape (b, t) }}",
                    dims.split(',').count()
                ),
                why,
            );
        }
    }
}
