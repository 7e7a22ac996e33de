//! canonicalise-reshapes

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims_of_elements, input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes `Squeeze`, `Unsqueeze` and `Flatten` as `Reshape`, where shapes are static.
    ///
    /// ## Why ATC needs it
    /// It registers them under several names by opset, and its fusions look for Reshape. Exporters differ in what they
    /// write; afterwards the same model from each of them is the same graph.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[2,1,3] y) <int64[1] axes = {1}> { y = Unsqueeze (x, axes) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[2,1,3] y) <int64[3] y_const = {2, 1, 3}> { y = Reshape (x, y_const) }
    /// ```
    ///
    /// ## Applies when
    /// - The shape is static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub CanonicaliseReshapes = "canonicalise-reshapes", Legalise, Exact
}

impl Rewrite for CanonicaliseReshapes {
    fn roots(&self) -> &'static [&'static str] {
        &["Squeeze", "Unsqueeze", "Flatten"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let shape = dims_of_elements(m, y)?;
        let mut patch = Patch::new(m, root);
        let reshaped = patch.reshape(x.into(), &shape);
        patch.replace(y, reshaped);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::CanonicaliseReshapes;
    use crate::testing::check_skip;

    #[test]
    fn open_shapes_stay() {
        check_skip(
            &CanonicaliseReshapes,
            "g (float[N,3] x) => (float[N,1,3] y) <int64[1] axes = {1}> { y = Unsqueeze (x, axes) }",
            "is not static",
        );
    }

    #[test]
    fn without_elements_there_is_no_shape_to_write() {
        check_skip(
            &CanonicaliseReshapes,
            "g (float[0,3] x) => (float[0,1,3] y) <int64[1] axes = {1}> { y = Unsqueeze (x, axes) }",
            "has no elements",
        );
    }
}
