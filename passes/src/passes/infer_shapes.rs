//! infer-shapes

use onnxfix_ir::Model;
use onnxfix_ir::infer::infer;

use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Computes the type of every value and lists all of them in `value_info`.
    ///
    /// ## Why ATC needs it
    /// The other passes fire on proof, and most proofs are about shapes. In the file, the types let ATC and its users
    /// see at a glance that nothing is dynamic any more.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,3] x) => (float[] y) { t = Transpose <perm: ints = [1, 0]> (x)  y = Relu (t) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,3] x) => (float[3,2] y) <float[3,2] t> {
    ///    t = Transpose <perm: ints = [1, 0]> (x)
    ///    y = Relu (t)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Always. What an operator outside of the table gives stays as the file declares it.
    /// - Small constant nodes are evaluated on the way, so computed shape operands are seen through.
    ///
    /// ## Numerics
    /// Exact: only types change.
    pub InferShapes = "infer-shapes", Specialise, Exact
}

impl Pass for InferShapes {
    fn run(&self, model: &mut Model, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = infer(model)?;
        for graph in model.graphs().collect::<Vec<_>>() {
            changed |= model.list_value_info(graph);
        }
        Ok(changed.into())
    }
}
