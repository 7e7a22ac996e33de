//! fold-reshape-shape

use onnxfix_ir::{Dim, Model, NodeId};

use crate::matching::{input, output, shape};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Writes the shape that a `Reshape` computes as a constant: 0 for what is copied, -1 for one that follows.
    ///
    /// ## Why ATC needs it
    /// Where a dimension stays symbolic, exporters compute each target shape from Shape, Gather and Concat on int64,
    /// which runs on the AI CPU. With 0 and -1 the same Reshape takes any batch and needs none of it.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[batch,seq,768] x) => (float[batch,seq,12,64] y) <int64[2] one = {0, 1}, int64[2] split = {12, 64}> {
    ///    s = Shape (x)
    ///    front = Gather (s, one)
    ///    target = Concat <axis: int = 0> (front, split)
    ///    y = Reshape (x, target)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[batch,seq,768] x) => (float[batch,seq,12,64] y) <int64[4] y_const = {0, 0, 12, 64}> {
    ///    y = Reshape (x, y_const)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The target is not constant, and the output's dimensions are known: numbers, names or expressions of names.
    /// - At most one of them is neither a number nor the input's dimension at the same place.
    ///   None where another one is 0.
    ///
    /// ## Numerics
    /// Exact: nothing but the shape operand changes. A symbolic dimension is taken to be at least 1 when the model runs,
    /// since -1 means nothing in a tensor without elements.
    pub FoldReshapeShape = "fold-reshape-shape", Specialise, Exact
}

impl Rewrite for FoldReshapeShape {
    fn roots(&self) -> &'static [&'static str] {
        &["Reshape"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, target, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        if m.constant(target).is_some() {
            return Err(Miss::NoMatch);
        }
        let (from, to) = (shape(m, x)?, shape(m, y)?);
        let mut dims = Vec::with_capacity(to.rank());
        for (axis, dim) in to.0.iter().enumerate() {
            let copied = from.0.get(axis).is_some_and(|d| d.same(dim));
            dims.push(match dim {
                _ if copied && dim.fixed().is_none_or(|n| n == 0) => 0,
                Dim::Fixed(0) => return unmet("a dimension of 0 is not the input's"),
                Dim::Fixed(n) => *n,
                _ => -1,
            });
        }
        if dims.iter().filter(|&&n| n == -1).count() > 1 {
            return unmet(format!("more than one dimension of {to} is not one of {from}"));
        }
        // Without elements any number does for -1.
        if dims.contains(&-1) && (from.is_empty() || to.is_empty()) {
            return unmet(format!("a dimension of {to} is open beside one of 0"));
        }
        let mut patch = Patch::new(m, root);
        let reshaped = patch.reshape(x.into(), &dims);
        patch.replace(y, reshaped);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::FoldReshapeShape;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn one_dimension_follows_from_the_others() {
        assert_snapshot!(rewritten(&FoldReshapeShape, "
g (float[batch,seq,12,64] x) => (y) <int64[1] i = {0}, int64[1] j = {1}, int64[1] w = {768}> {
   s = Shape (x)  b = Gather (s, i)  q = Gather (s, j)  n = Mul (b, q)
   t = Concat <axis: int = 0> (n, w)
   y = Reshape (x, t)
}"), @r#"
        g (float[batch,seq,12,64] x) => (float["batch*seq",768] y) <
           int64[1] i = {0},
           int64[1] j = {1},
           int64[1] w = {768},
           int64[2] y_const = {-1, 768}
        > {
           y = Reshape (x, y_const)
        }
        "#);
    }

    #[test]
    fn two_new_dimensions_do_not_follow() {
        check_skip(
            &FoldReshapeShape,
            "
g (float[batch,seq] x) => (y) <int64[2] turned = {1, 0}> {
   s = Shape (x)  t = Gather (s, turned)  y = Reshape (x, t)
}",
            "more than one dimension of [seq,batch] is not one of [batch,seq]",
        );
    }

    #[test]
    fn a_name_for_every_open_dimension_says_nothing() {
        check_skip(
            &FoldReshapeShape,
            r#"
g (float["-1","-1"] x, int64["-1","-1"] other) => (y) { s = Shape (other)  y = Reshape (x, s) }"#,
            "more than one dimension",
        );
    }

    #[test]
    fn a_constant_target_stays() {
        untouched(
            &FoldReshapeShape,
            "
g (float[batch,4] x) => (float[batch,2,2] y) <int64[3] t = {-1, 2, 2}> { y = Reshape (x, t) }",
        );
    }

    #[test]
    fn beside_a_dimension_of_zero_none_follows() {
        check_skip(
            &FoldReshapeShape,
            "g (float[3,0,1] x, float[N,1] like) => (float[N,0,1] y) <int64[1] f = {0}, int64[1] t = {1}, int64[1] z = {0}, int64[1] one = {1}>
             { all = Shape (like)  n = Slice (all, f, t)  s = Concat <axis = 0> (n, z, one)  y = Reshape (x, s) }",
            "is open beside one of 0",
        );
    }
}
