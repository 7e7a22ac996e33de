//! flatten-linear-layers

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims_of_elements, input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Multiplies activations by a matrix as one matrix of tokens, whatever axes the tokens have.
    ///
    /// ## Why ATC needs it
    /// A product with three axes is compiled as a batched one, and ATC's attention and MatMul fusions look for matrices:
    /// engineers who tune BERT by hand insert these Reshapes. *sink-reshapes* makes most of them meet and vanish.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3,4] x, float[4,5] w) => (float[2,3,5] y) { y = MatMul (x, w) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3,4] x, float[4,5] w) => (float[2,3,5] y) <int64[2] y_const = {6, 4}, int64[3] y_const_1 = {2, 3, 5}> {
    ///    y_Reshape = Reshape (x, y_const)
    ///    y_MatMul = MatMul (y_Reshape, w)
    ///    y = Reshape (y_MatMul, y_const_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The second operand is a matrix and the first one has more axes.
    /// - Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact: the same dot products.
    pub FlattenLinearLayers = "flatten-linear-layers", Simplify, Exact
}

impl Rewrite for FlattenLinearLayers {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, w, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let [of_x, of_w, of_y] = [x, w, y].map(|v| dims_of_elements(m, v));
        let (of_x, of_w, of_y) = (of_x?, of_w?, of_y?);
        let ([front @ .., features], 2) = (&of_x[..], of_w.len()) else {
            return Err(Miss::NoMatch);
        };
        if front.len() < 2 {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let rows = patch.reshape(x.into(), &[front.iter().product(), *features]);
        let product = patch.node("MatMul", &[rows, w.into()]);
        let product = patch.reshape(product, &of_y);
        patch.replace(y, product);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::FlattenLinearLayers;
    use crate::testing::{check_skip, untouched};

    #[test]
    fn products_of_two_batches_and_of_matrices_stay() {
        for text in [
            "g (float[2,3,4] x, float[2,4,5] w) => (float[2,3,5] y) { y = MatMul (x, w) }",
            "g (float[3,4] x, float[4,5] w) => (float[3,5] y) { y = MatMul (x, w) }",
            "g (float[2,3,4] x, float[4] w) => (float[2,3] y) { y = MatMul (x, w) }",
        ] {
            untouched(&FlattenLinearLayers, text);
        }
    }

    #[test]
    fn without_elements_there_is_no_shape_to_write() {
        check_skip(
            &FlattenLinearLayers,
            "g (float[2,0,4] x, float[4,5] w) => (float[2,0,5] y) { y = MatMul (x, w) }",
            "has no elements",
        );
    }

    #[test]
    fn an_open_batch_stays() {
        check_skip(
            &FlattenLinearLayers,
            "g (float[N,3,4] x, float[4,5] w) => (float[N,3,5] y) { y = MatMul (x, w) }",
            "is not static",
        );
    }
}
