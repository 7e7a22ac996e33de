//! merge-reshapes

use onnxfix_ir::{Dim, Model, NodeId, Shape, ValueId};

use crate::matching::{RESHAPES, input, is_reshape, output, shape};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one `Reshape` of two that follow each other, `Squeeze`, `Unsqueeze` and `Flatten` counted as such.
    ///
    /// ## Why ATC needs it
    /// A Reshape is free where the layout allows, a copy where it does not; two hide patterns from fusions in any case.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[3,2] y) <int64[1] six = {6}, int64[2] s = {3, 2}> {
    ///    r = Reshape (x, six)
    ///    y = Reshape (r, s)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[3,2] y) <int64[2] y_const = {3, 2}> { y = Reshape (x, y_const) }
    /// ```
    ///
    /// ## Applies when
    /// - All but one dimension of the result are known.
    /// - None of them is 0, which a Reshape takes for "as in the input".
    /// - Other readers of the first one keep it.
    ///
    /// ## Numerics
    /// Exact.
    pub MergeReshapes = "merge-reshapes", Simplify, Exact
}

impl Rewrite for MergeReshapes {
    fn roots(&self) -> &'static [&'static str] {
        RESHAPES
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let between = input(m, root, 0)?;
        let first = m.producer(between).ok_or(Miss::NoMatch)?;
        if !is_reshape(m, first) {
            return Err(Miss::NoMatch);
        }
        let (x, y) = (input(m, first, 0)?, output(m, root)?);
        let dims = operand(shape(m, y)?)?;
        let mut patch = Patch::new(m, root);
        if is_shape(m, x, &dims) {
            patch.replace(y, x);
        } else {
            let reshaped = patch.reshape(x.into(), &dims);
            patch.replace(y, reshaped);
        }
        Ok(patch)
    }
}

/// The second operand of a Reshape to this shape.
fn operand(shape: &Shape) -> Result<Vec<i64>, Miss> {
    if shape.is_empty() {
        return unmet("a dimension of the result is 0");
    }
    let dims: Vec<i64> = shape.0.iter().map(|d| d.fixed().unwrap_or(-1)).collect();
    if dims.iter().filter(|&&d| d == -1).count() > 1 {
        return unmet(format!("more than one dimension of {shape} is unknown"));
    }
    Ok(dims)
}

fn is_shape(m: &Model, x: ValueId, dims: &[i64]) -> bool {
    let same = |s: &Shape| {
        s.rank() == dims.len() && s.0.iter().zip(dims).all(|(d, &n)| *d == Dim::Fixed(n))
    };
    m[x].shape().is_some_and(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn there_and_back_is_nothing() {
        let after = rewritten(
            &MergeReshapes,
            "g (float[2,3] x) => (float[2,3] y) <int64[1] a = {0}>
             { u = Unsqueeze (x, a)  s = Squeeze (u, a)  y = Relu (s) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,3] x) => (float[2,3] y) <
           int64[1] a = {0}
        > {
           y = Relu (x)
        }
        ");
    }

    #[test]
    fn one_open_dimension_is_left_to_the_reshape() {
        let after = rewritten(
            &MergeReshapes,
            "g (float[N,2,3] x) => (float[N,3,2] y) <int64[2] a = {-1, 6}, int64[3] b = {-1, 3, 2}>
             { r = Reshape (x, a)  y = Reshape (r, b) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[N,2,3] x) => (float[N,3,2] y) <
           int64[2] a = {-1, 6},
           int64[3] b = {-1, 3, 2},
           int64[3] y_const = {-1, 3, 2}
        > {
           y = Reshape (x, y_const)
        }
        ");
    }

    #[test]
    fn two_open_dimensions_stay() {
        check_skip(
            &MergeReshapes,
            "g (float[N,M,6] x, int64[2] s) => (float[K,L] y)
             { r = Flatten (x)  y = Reshape (r, s) }",
            "more than one dimension",
        );
    }
}
