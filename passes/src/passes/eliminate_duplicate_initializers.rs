//! eliminate-duplicate-initializers

use hashbrown::HashMap;
use onnxfix_ir::{Model, ValueId};
use smallvec::SmallVec;

use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Stores once what several initializers hold alike.
    ///
    /// ## Why ATC needs it
    /// Each copy is loaded into device memory, and equal operands under two names hide equal nodes.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float[1] a = {1}, float[1] b = {1}> {
    ///    t = Add (x, a)
    ///    y = Mul (t, b)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) <float[1] a = {1}> {
    ///    t = Add (x, a)
    ///    y = Mul (t, a)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Both are initializers of one graph with equal type, dimensions and bits.
    /// - The one that goes is neither an input nor an output of a graph.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateDuplicateInitializers = "eliminate-duplicate-initializers", Eliminate, Exact
}

/// Looking at larger tensors takes reading from the file, which nothing before the end is the faster for.
const LARGE: u64 = 4096;

impl Pass for EliminateDuplicateInitializers {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut changed = false;
        for graph in model.graphs().collect::<Vec<_>>() {
            // Equality of tensors is of their types and dimensions as well.
            let mut buckets: HashMap<u64, SmallVec<[ValueId; 1]>> = HashMap::new();
            for &value in &model[graph].initializers().to_vec() {
                let Some(tensor) = model.constant(value) else { continue };
                if tensor.byte_len() > LARGE && !cx.settled {
                    continue;
                }
                let bucket = buckets.entry(tensor.fingerprint()).or_default();
                let equal = bucket
                    .iter()
                    .find(|&&v| model.constant(v).is_some_and(|t| t.same_content(tensor)));
                match equal {
                    Some(&first) if !model.is_public(value) => {
                        if !cx.spend() {
                            return Ok(changed.into());
                        }
                        model.replace_uses(value, first);
                        changed = true;
                    }
                    _ => bucket.push(value),
                }
            }
            model.remove_dead_initializers(graph);
        }
        Ok(changed.into())
    }
}
