//! merge-reshapes-across-softmax

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{dims_of_elements, input, is_reshape, output, used_once};
use crate::patch::attrs;
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Reshape` of two with a `Softmax` between them, and lets the Softmax run along the last axis.
    ///
    /// ## Why ATC needs it
    /// ConvBERT takes the softmax of its taps in the middle axis of `[tokens · heads, 9, 1]`: rows of one element, for
    /// which a vector unit is not made, and a transpose and its inverse in ONNX Runtime.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,4,6] x) => (float[1,4,2,3] y) <int64[3] s = {8, 3, 1}, int64[4] t = {1, 4, 2, 3}> {
    ///    a = Reshape (x, s)
    ///    b = Softmax <axis: int = 1> (a)
    ///    y = Reshape (b, t)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,4,6] x) => (float[1,4,2,3] y) <int64[4] b_const = {1, 4, 2, 3}> {
    ///    b_Reshape = Reshape (x, b_const)
    ///    y = Softmax <axis: int = 3> (b_Reshape)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Axes behind that of the Softmax have length 1. Then they go behind it, to a Reshape of their own.
    /// - Or it stands between two Reshapes that nothing else reads, and its axis is the last one of the second one's
    ///   result.
    /// - Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeReshapesAcrossSoftmax = "merge-reshapes-across-softmax", Simplify, Exact
}

impl Rewrite for MergeReshapesAcrossSoftmax {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax", "LogSoftmax"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let dims = dims_of_elements(m, x)?;
        let opset = m.opset(m[root].graph(), "").unwrap_or(0);
        // Until opset 12 all axes from this one on were taken together: the same where those behind have length 1.
        let default = if opset < 13 { 1 } else { -1 };
        let axis = m[root].attrs.int("axis").unwrap_or(default);
        let axis = onnxfix_ir::op::normal_axis(axis, dims.len()).map_err(|_| Miss::NoMatch)?;
        let mut patch = Patch::new(m, root);
        let op = if m[root].op().is("Softmax") { "Softmax" } else { "LogSoftmax" };
        let along = |patch: &mut Patch, x: Operand, dims: &[i64]| {
            let x = patch.reshape(x, dims);
            let last = dims.len() as i64 - 1;
            patch.node_with(op, &[x], attrs([("axis", last.into())]))
        };
        if dims[axis + 1..].iter().any(|&d| d != 1) {
            return unmet("axes behind the softmax's are longer than 1");
        }
        if let Some((first, second)) = between(m, x, y) {
            let (from, result) = (input(m, first, 0)?, output(m, second)?);
            let to = dims_of_elements(m, result)?;
            if to.last() == Some(&dims[axis]) {
                let softmax = along(&mut patch, from.into(), &to);
                patch.replace(result, softmax);
                return Ok(patch);
            }
        }
        if axis + 1 == dims.len() {
            return Err(Miss::NoMatch);
        }
        let softmax = along(&mut patch, x.into(), &dims[..=axis]);
        let result = patch.reshape(softmax, &dims);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The Reshapes before and behind a node, when nothing else reads what it reads and makes.
fn between(m: &Model, x: ValueId, y: ValueId) -> Option<(NodeId, NodeId)> {
    let first = m.producer(x).filter(|&n| is_reshape(m, n) && used_once(m, x))?;
    let second = m.users(y).next().filter(|&n| is_reshape(m, n) && used_once(m, y))?;
    Some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn axes_of_length_1_go_behind() {
        let after = rewritten(
            &MergeReshapesAcrossSoftmax,
            "<ir_version: 7, opset_import: [\"\" : 11]>
             g (float[2,3,1] x) => (float[2,3,1] y) { y = Softmax (x) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,3,1] x) => (float[2,3,1] y) <
           int64[2] y_const = {2, 3},
           int64[3] y_const_1 = {2, 3, 1}
        > {
           y_Reshape = Reshape (x, y_const)
           y_Softmax = Softmax <axis: int = 1> (y_Reshape)
           y = Reshape (y_Softmax, y_const_1)
        }
        ");
    }

    #[test]
    fn long_axes_behind_stay() {
        check_skip(
            &MergeReshapesAcrossSoftmax,
            "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax <axis: int = 1> (x) }",
            "longer than 1",
        );
    }

    #[test]
    fn another_reader_keeps_the_reshapes() {
        for outputs in ["a, float[6,4] b", "b"] {
            let before = if outputs == "b" { "Relu (x)" } else { "Reshape (x, s)" };
            untouched(
                &MergeReshapesAcrossSoftmax,
                &format!(
                    "g (float[6,4] x) => (float[2,3,4] y, float[6,4] {outputs}) <int64[2] s = {{6, 4}}, int64[3] t = {{2, 3, 4}}>
                     {{ a = {before}  b = Softmax <axis: int = 1> (a)  y = Reshape (b, t) }}"
                ),
            );
        }
    }

    #[test]
    fn a_reshape_that_cuts_the_softmaxs_axis_stays() {
        untouched(
            &MergeReshapesAcrossSoftmax,
            "g (float[24] x) => (float[6,2,2] y) <int64[2] s = {6, 4}, int64[3] t = {6, 2, 2}>
             { a = Reshape (x, s)  b = Softmax <axis: int = 1> (a)  y = Reshape (b, t) }",
        );
    }
}
