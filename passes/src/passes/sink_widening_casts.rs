//! sink-widening-casts

use onnxfix_ir::{DataType, Model, NodeId, Use};

use crate::matching::{dtype, input, output, producer};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Moves a `Cast` from int32 to int64 behind operators that only move elements.
    ///
    /// ## Why ATC needs it
    /// What moves is then int32, and the Cast meets the next Cast or index, which takes int32 itself. int64 data go to
    /// the AI CPU for Expand, Pad and others.
    ///
    /// ## Before
    /// ```onnx
    /// g (int32[2] x) => (int64[1,2] y) <int64[1] axes = {0}> {
    ///    w = Cast <to = 7> (x)
    ///    y = Unsqueeze (w, axes)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (int32[2] x) => (int64[1,2] y) <int64[1] axes = {0}> {
    ///    y_Unsqueeze = Unsqueeze (x, axes)
    ///    y = Cast <to: int = 7> (y_Unsqueeze)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The operator moves elements of its first input, has one output, and takes any type.
    /// - What else reads the Cast only moves elements, too, or casts or compares them, so that no second one stays.
    ///
    /// ## Numerics
    /// Exact.
    pub SinkWideningCasts = "sink-widening-casts", Simplify, Exact
}

const MOVEMENTS: &[&str] = &[
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Expand",
    "Tile",
    "Slice",
    "Gather",
    "Identity",
];

/// Whether a reader of a Cast to int64 will make do with the int32.
fn takes_int32(m: &Model, reader: &Use) -> bool {
    let Use::Input { node, slot: 0 } = *reader else { return false };
    let is = |op: &&str| m[node].op().is(op);
    MOVEMENTS.iter().any(is) || is(&"Cast") || is(&"Equal")
}

impl Rewrite for SinkWideningCasts {
    fn roots(&self) -> &'static [&'static str] {
        MOVEMENTS
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let wide = input(m, root, 0)?;
        let cast = producer(m, wide, "Cast")?;
        let x = input(m, cast, 0)?;
        if dtype(m, x)? != DataType::Int32 || dtype(m, wide)? != DataType::Int64 {
            return Err(Miss::NoMatch);
        }
        if !m[wide].uses().iter().all(|u| takes_int32(m, u)) {
            return unmet("something else reads int64");
        }
        let y = output(m, root)?;
        let node = &m[root];
        let rest: Option<Vec<Operand>> =
            node.inputs()[1..].iter().map(|v| v.map(Operand::Value)).collect();
        let Some(rest) = rest else { return unmet("an input is left out") };
        let Some(def) = node.op().def else { return Err(Miss::NoMatch) };
        let mut patch = Patch::new(m, root);
        let mut inputs = vec![x.into()];
        inputs.extend(rest);
        let moved = patch.node_with(def.name, &inputs, node.attrs.clone());
        let cast = patch.cast(moved, DataType::Int64);
        patch.replace(y, cast);
        Ok(patch)
    }
}
