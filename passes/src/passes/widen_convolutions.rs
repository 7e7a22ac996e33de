//! widen-convolutions

use onnxfix_ir::{AttrValue, Model, NodeId};

use crate::matching::{dims_of_elements, input, output};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Gives a one-dimensional `Conv` a second axis of length 1.
    ///
    /// ## Why ATC needs it
    /// It has two-dimensional convolutions only, and puts an Unsqueeze and a Squeeze, with changes of layout, around each
    /// one-dimensional one. Written once, those between convolutions that follow each other vanish. ONNX Runtime too has
    /// its fast layout for two dimensions only.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,4,8] x, float[4,1,3] w) => (float[1,4,8] y) {
    ///    y = Conv <group: int = 4, pads: ints = [1, 1]> (x, w)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,4,8] x, float[4,1,3] w) => (float[1,4,8] y) <
    ///    int64[4] y_const = {1, 4, 1, 8}, int64[4] y_const_1 = {4, 1, 1, 3}, int64[3] y_const_2 = {1, 4, 8}
    /// > {
    ///    y_Reshape = Reshape (x, y_const)
    ///    y_Reshape_1 = Reshape (w, y_const_1)
    ///    y_Conv = Conv <group: int = 4, pads: ints = [0, 1, 0, 1]> (y_Reshape, y_Reshape_1)
    ///    y = Reshape (y_Conv, y_const_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The convolution has one spatial axis. Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact: the same products.
    pub WidenConvolutions = "widen-convolutions", Legalise, Exact
}

impl Rewrite for WidenConvolutions {
    fn roots(&self) -> &'static [&'static str] {
        &["Conv"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, weight, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        if m[x].shape().is_some_and(|shape| shape.rank() != 3) {
            return Err(Miss::NoMatch);
        }
        let (from, kernel) = (dims_of_elements(m, x)?, dims_of_elements(m, weight)?);
        let to = dims_of_elements(m, y)?;
        if from.len() != 3 || kernel.len() != 3 {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let wide = patch.reshape(x.into(), &[from[0], from[1], 1, from[2]]);
        let wide_kernel = patch.reshape(weight.into(), &[kernel[0], kernel[1], 1, kernel[2]]);
        let mut operands = vec![wide, wide_kernel];
        operands.extend(m[root].input(2).map(Operand::from));
        let mut attrs = m[root].attrs.clone();
        for attr in &mut attrs.0 {
            let AttrValue::Ints(values) = &mut attr.value else { continue };
            match (attr.name.as_str(), values.as_slice()) {
                ("pads", &[before, after]) => *values = vec![0, before, 0, after],
                ("kernel_shape" | "strides" | "dilations", &[along]) => *values = vec![1, along],
                (name, _) => return unmet(format!("{name} is not that of one axis")),
            }
        }
        let result = patch.node_with("Conv", &operands, attrs);
        let result = patch.reshape(result, &to);
        patch.replace(y, result);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn every_attribute_is_widened() {
        let after = rewritten(
            &WidenConvolutions,
            "g (float[2,4,9] x, float[6,4,3] w, float[6] b) => (float[2,6,3] y)
             { y = Conv <auto_pad: string = \"VALID\", dilations: ints = [2], kernel_shape: ints = [3], strides: ints = [2]> (x, w, b) }",
        );
        insta::assert_snapshot!(after, @r#"
        g (float[2,4,9] x, float[6,4,3] w, float[6] b) => (float[2,6,3] y) <
           int64[4] y_const = {2, 4, 1, 9},
           int64[4] y_const_1 = {6, 4, 1, 3},
           int64[3] y_const_2 = {2, 6, 3}
        > {
           y_Reshape = Reshape (x, y_const)
           y_Reshape_1 = Reshape (w, y_const_1)
           y_Conv = Conv <auto_pad: string = "VALID", dilations: ints = [1, 2], kernel_shape: ints = [1, 3], strides: ints = [1, 2]> (y_Reshape, y_Reshape_1, b)
           y = Reshape (y_Conv, y_const_2)
        }
        "#);
    }

    #[test]
    fn two_dimensions_stay() {
        untouched(
            &WidenConvolutions,
            "g (float[1,4,2,2] x, float[6,4,1,1] w) => (float[1,6,2,2] y) { y = Conv (x, w) }",
        );
    }

    #[test]
    fn a_shape_that_is_not_static_stays() {
        check_skip(
            &WidenConvolutions,
            "g (float[N,4,9] x, float[6,4,3] w) => (float[N,6,7] y) { y = Conv (x, w) }",
            "is not static",
        );
    }
}
