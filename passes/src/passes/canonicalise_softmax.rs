//! canonicalise-softmax

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims_of_elements, input, output, shape};
use crate::{Miss, Patch, Rewrite, attrs, declare_pass};

declare_pass! {
    /// Writes out the axis of a `Softmax` or `LogSoftmax`, so that it is one axis in every reading.
    ///
    /// ## Why ATC needs it
    /// Before opset 13 all axes from the one named (1 where none is) are one line; ATC takes the one axis alone, and without
    /// a word computes something else.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 6, opset_import: ["" : 11]>
    /// g (float[2,1,5] x) => (float[2,1,5] y) { y = Softmax (x) }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 6, opset_import: ["" : 11]>
    /// g (float[2,1,5] x) => (float[2,1,5] y) { y = Softmax <axis: int = -1> (x) }
    /// ```
    ///
    /// ## Applies when
    /// - The node names no axis, or before opset 13 another one than the only long axis of its line.
    /// - Its rank is known. Where a line has several long axes, dimensions are static: they become one axis and back.
    ///
    /// ## Numerics
    /// Exact.
    pub CanonicaliseSoftmax = "canonicalise-softmax", Legalise, Exact
}

/// The opset from which on the axis is one axis.
const ONE_AXIS: i64 = 13;
/// The first opset in which axes may count from the back.
const NEGATIVE_AXES: i64 = 11;

impl Rewrite for CanonicaliseSoftmax {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax", "LogSoftmax"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let named = m[root].attrs.int("axis");
        let mut patch = Patch::new(m, root);
        let op = if m[root].op().is("Softmax") { "Softmax" } else { "LogSoftmax" };
        if patch.opset() >= ONE_AXIS {
            if named.is_some() {
                return Err(Miss::NoMatch);
            }
            let along_last = patch.node_with(op, &[x.into()], attrs([("axis", (-1).into())]));
            patch.replace(y, along_last);
            return Ok(patch);
        }
        let shape = shape(m, x)?;
        let first = onnxfix_ir::op::normal_axis(named.unwrap_or(1), shape.rank());
        let first = first.map_err(|_| Miss::NoMatch)?;
        let long = |axis: &usize| shape.0[*axis].fixed() != Some(1);
        let line: Vec<usize> = (first..shape.rank()).filter(long).collect();
        let last = shape.rank() as i64 - 1;
        let count = |axis: i64| if patch.opset() < NEGATIVE_AXES { axis } else { axis - last - 1 };
        let along = match line[..] {
            [] if named.is_some() => return Err(Miss::NoMatch),
            [] => last,
            [one] if named.is_some() && one == first => return Err(Miss::NoMatch),
            [one] => one as i64,
            _ => {
                let dims = dims_of_elements(m, x)?;
                let axis = i64::try_from(first).map_err(|_| Miss::NoMatch)?;
                let rows = patch.node_with("Flatten", &[x.into()], attrs([("axis", axis.into())]));
                let rows = patch.node_with(op, &[rows], attrs([("axis", 1.into())]));
                let shaped = patch.reshape(rows, &dims);
                patch.replace(y, shaped);
                return Ok(patch);
            }
        };
        let axis = count(along);
        let written = patch.node_with(op, &[x.into()], attrs([("axis", axis.into())]));
        patch.replace(y, written);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::CanonicaliseSoftmax;
    use crate::testing::{check_skip, rewritten, untouched};

    fn graph(opset: i64, axis: &str, shape: &str) -> String {
        format!(
            "<ir_version: 6, opset_import: [\"\" : {opset}]>
             g (float[{shape}] x) => (float[{shape}] y) {{ y = LogSoftmax {axis} (x) }}"
        )
    }

    #[test]
    fn the_axis_is_the_only_long_one_of_the_line() {
        for (opset, axis, shape, node) in [
            (13, "", "2,3", "LogSoftmax <axis: int = -1> (x)"),
            (12, "", "2,N", "LogSoftmax <axis: int = -1> (x)"),
            (11, "<axis = 1>", "2,1,3", "LogSoftmax <axis: int = -1> (x)"),
            (10, "<axis = 0>", "1,3,1", "LogSoftmax <axis: int = 1> (x)"),
            (10, "", "2,1,1", "LogSoftmax <axis: int = 2> (x)"),
        ] {
            let after = rewritten(&CanonicaliseSoftmax, &graph(opset, axis, shape));
            assert!(after.contains(node), "{opset} {axis} {shape}: {after}");
        }
    }

    #[test]
    fn a_line_of_several_axes_becomes_one_axis() {
        insta::assert_snapshot!(rewritten(&CanonicaliseSoftmax, &graph(11, "", "2,3,4")), @r"
        g (float[2,3,4] x) => (float[2,3,4] y) <
           int64[3] y_const = {2, 3, 4}
        > {
           y_Flatten = Flatten <axis: int = 1> (x)
           y_LogSoftmax = LogSoftmax <axis: int = 1> (y_Flatten)
           y = Reshape (y_LogSoftmax, y_const)
        }
        ");
    }

    #[test]
    fn what_is_said_already_stays() {
        for (opset, axis, shape) in
            [(13, "<axis = 0>", "2,3"), (11, "<axis = 2>", "2,3,4"), (11, "<axis = 1>", "2,3,1")]
        {
            untouched(&CanonicaliseSoftmax, &graph(opset, axis, shape));
        }
    }

    #[test]
    fn lines_of_unknown_length_stay() {
        check_skip(&CanonicaliseSoftmax, &graph(11, "", "2,N,4"), "not static");
    }
}
