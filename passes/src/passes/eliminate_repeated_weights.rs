//! eliminate-repeated-weights

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, computed, dims, dims_of_elements, first, input, is_computed, is_repeated, output, period,
};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Stores the matrices of a batched `MatMul` once, where the constant repeats them for every sample.
    ///
    /// ## Why ATC needs it
    /// Exporters merge batch and heads into one axis and repeat DeBERTa's position tables along it. As weights they would
    /// take the batch times their size in the model, on the device and on the way to the cube unit. With heads on an
    /// axis of their own, a MatMul broadcasts them.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[4,3,2] q) => (float[4,3,1] y) <float[4,2,1] w = {1, 2, 3, 4, 1, 2, 3, 4}> { y = MatMul (q, w) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[4,3,2] q) => (float[4,3,1] y) <float[4,2,1] w = {1, 2, 3, 4, 1, 2, 3, 4}, int64[4] y_const = {2, 2, 3, 2}, int64[1] y_const_1 = {0}, int64[1] y_const_2 = {2}, int64[3] y_const_3 = {4, 3, 1}> {
    ///    y_Reshape = Reshape (q, y_const)
    ///    y_Slice = Slice (w, y_const_1, y_const_2, y_const_1)
    ///    y_MatMul = MatMul (y_Reshape, y_Slice)
    ///    y = Reshape (y_MatMul, y_const_3)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - One operand has rank 3 and is constant, or a few nodes compute it from constants, one of which repeats; and its
    ///   matrices, at least two, repeat after the first few.
    /// - The other operand has rank 3 and as many matrices; its shape is static, and the product has elements.
    ///
    /// ## Numerics
    /// Exact: the same products.
    pub EliminateRepeatedWeights = "eliminate-repeated-weights", Eliminate, Exact
}

impl Rewrite for EliminateRepeatedWeights {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let operands = [input(m, root, 0)?, input(m, root, 1)?];
        let y = output(m, root)?;
        let of_three_axes = |v: ValueId| m[v].shape().is_some_and(|s| s.rank() == 3);
        // Looking at what is computed takes time, which folding needs as well.
        let fixed = |v| m.constant(v).is_some() || is_computed(m, v) && is_repeated(m, v);
        let found = operands.iter().position(|&v| of_three_axes(v) && fixed(v));
        let weights = found.ok_or(Miss::NoMatch)?;
        let (w, x) = (operands[weights], operands[1 - weights]);
        let (of_w, of_x, of_y) = (dims(m, w)?, dims(m, x)?, dims_of_elements(m, y)?);
        let ([all, ..], [samples, rows, columns]) = (&of_w[..], &of_x[..]) else {
            return Err(Miss::NoMatch);
        };
        if all != samples || *all < 2 {
            return Err(Miss::NoMatch);
        }
        let tensor = computed(m, w)?;
        let Some(period) = period(&tensor).filter(|period| period < all) else {
            return unmet(format!("the {all} matrices do not repeat"));
        };
        let mut patch = Patch::new(m, root);
        let view: Dims = [all / period, period, *rows, *columns].into_iter().collect();
        let view = patch.reshape(x.into(), &view);
        // A constant is cut by folding, which knows whether anything else reads it; what is computed is not stored first.
        let once = if m.constant(w).is_some() {
            patch.slice(w.into(), 0, 0, period)
        } else {
            patch.constant(first(&tensor, period).ok_or(Miss::NoMatch)?)
        };
        let product = if weights == 1 { [view, once] } else { [once, view] };
        let product = patch.node("MatMul", &product);
        let product = patch.reshape(product, &of_y);
        patch.replace(y, product);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::EliminateRepeatedWeights;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn a_table_on_the_left_is_stored_once_too() {
        assert_snapshot!(rewritten(&EliminateRepeatedWeights, "
g (float[2,2,3] k) => (float[2,1,3] y) <float[2,1,2] w = {1, 2, 1, 2}> { y = MatMul (w, k) }"), @r"
        g (float[2,2,3] k) => (float[2,1,3] y) <
           float[2,1,2] w = {1, 2, 1, 2},
           int64[4] y_const = {2, 1, 2, 3},
           int64[1] y_const_1 = {0},
           int64[1] y_const_2 = {1},
           int64[3] y_const_3 = {2, 1, 3}
        > {
           y_Reshape = Reshape (k, y_const)
           y_Slice = Slice (w, y_const_1, y_const_2, y_const_1)
           y_MatMul = MatMul (y_Slice, y_Reshape)
           y = Reshape (y_MatMul, y_const_3)
        }
        ");
    }

    #[test]
    fn repeating_may_be_left_to_the_graph() {
        assert_snapshot!(rewritten(&EliminateRepeatedWeights, "
g (float[4,3,2] q) => (float[4,3,1] y) <float[2,1,2] w = {1, 2, 3, 4}, int64[3] often = {2, 1, 1}> {
   all = Tile (w, often)  turned = Transpose <perm: ints = [0, 2, 1]> (all)  y = MatMul (q, turned)
}"), @r"
        g (float[4,3,2] q) => (float[4,3,1] y) <
           float[2,1,2] w = {1, 2, 3, 4},
           int64[3] often = {2, 1, 1},
           int64[4] y_const = {2, 2, 3, 2},
           float[2,2,1] y_const_1 = {1, 2, 3, 4},
           int64[3] y_const_2 = {4, 3, 1}
        > {
           y_Reshape = Reshape (q, y_const)
           y_MatMul = MatMul (y_Reshape, y_const_1)
           y = Reshape (y_MatMul, y_const_2)
        }
        ");
    }

    #[test]
    fn different_matrices_stay() {
        check_skip(
            &EliminateRepeatedWeights,
            "g (float[2,3,1] q) => (float[2,3,1] y) <float[2,1,1] w = {1, 2}> { y = MatMul (q, w) }",
            "the 2 matrices do not repeat",
        );
    }

    #[test]
    fn weights_that_broadcast_already_stay() {
        untouched(
            &EliminateRepeatedWeights,
            "g (float[2,3,1] q) => (float[2,3,1] y) <float[1,1] w = {1}> { y = MatMul (q, w) }",
        );
    }

    #[test]
    fn products_without_elements_stay() {
        check_skip(
            &EliminateRepeatedWeights,
            "g (float[2,0,1] q) => (float[2,0,1] y) <float[2,1,1] w = {1, 1}> { y = MatMul (q, w) }",
            "has no elements",
        );
    }
}
