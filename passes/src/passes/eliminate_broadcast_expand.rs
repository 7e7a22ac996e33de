//! eliminate-broadcast-expand

use onnxfix_ir::{Dim, Model, NodeId, Shape, Use, ValueId, op};

use crate::matching::{input, output, shape};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Lets operators that broadcast read the input of an `Expand` instead of its output.
    ///
    /// ## Why ATC needs it
    /// Expand writes the whole tensor to memory, on the AI CPU for int64, only for it to be read once.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,3] x, float[2,3] z) => (float[2,3] y) <int64[2] s = {2, 3}> {
    ///    e = Expand (x, s)
    ///    y = Add (e, z)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,3] x, float[2,3] z) => (float[2,3] y) { y = Add (x, z) }
    /// ```
    ///
    /// ## Applies when
    /// - The reader is element-wise (of opset 8 or later) and its other operands alone give the same shape, or it is a MatMul and the
    ///   expanded axes are batch axes that the other operand has in full.
    /// - Other readers keep the Expand.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateBroadcastExpand = "eliminate-broadcast-expand", Eliminate, Exact
}

impl Rewrite for EliminateBroadcastExpand {
    fn roots(&self) -> &'static [&'static str] {
        &["Expand", "Tile"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, y) = (input(m, root, 0)?, output(m, root)?);
        let narrow = shape(m, x)?;
        if m[root].op().is("Tile") && !tiles_ones(m, x, y)? {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        let mut any = false;
        for use_ in m[y].uses() {
            let Use::Input { node, slot } = *use_ else { continue };
            if broadcasts(m, node, y, narrow) {
                patch.set_input(node, slot as usize, x);
                any = true;
            }
        }
        if any { Ok(patch) } else { unmet("no reader broadcasts to the same shape") }
    }
}

/// Whether a Tile repeats only axes of length 1, which is what Expand does.
fn tiles_ones(m: &Model, x: ValueId, y: ValueId) -> Result<bool, Miss> {
    let (from, to) = (shape(m, x)?, shape(m, y)?);
    Ok(from.rank() == to.rank()
        && from.0.iter().zip(&to.0).all(|(a, b)| a.same(b) || *a == Dim::Fixed(1)))
}

/// Whether `node` gives the same when it reads a value of shape `narrow` wherever it reads `y`.
fn broadcasts(m: &Model, node: NodeId, y: ValueId, narrow: &Shape) -> bool {
    let Some(def) = m[node].op().def else { return false };
    let Some(result) = m[node].output(0).and_then(|v| m[v].shape()) else { return false };
    let shape_of = |v: ValueId| if v == y { Some(narrow) } else { m[v].shape() };
    let inputs: Option<Vec<&Shape>> = m[node].inputs().iter().map(|v| shape_of((*v)?)).collect();
    let Some(inputs) = inputs else { return false };
    // Before opset 8 the shapes of Max, Min, Sum and Mean had to be equal.
    let broadcasts = m.opset(m[node].graph(), "").is_some_and(|version| version >= 8);
    if def.class.elementwise && inputs.len() > 1 && broadcasts && reads_broadcast(def.name) {
        let joined = inputs.iter().try_fold(Shape::default(), |all, s| op::broadcast(&all, s).ok());
        return joined.is_some_and(|s| is_same(&s, result));
    }
    if m[node].op().is("MatMul") && inputs.len() == 2 && inputs.iter().all(|s| s.rank() >= 2) {
        let Some(wide) = m[y].shape() else { return false };
        let matrix = |s: &Shape| s.0[s.rank() - 2..].to_vec();
        let batch = |s: &Shape| Shape(s.0[..s.rank() - 2].into());
        return wide.rank() >= 2
            && matrix(wide) == matrix(narrow)
            && op::broadcast(&batch(inputs[0]), &batch(inputs[1]))
                .is_ok_and(|s| is_same(&s, &batch(result)));
    }
    false
}

fn is_same(a: &Shape, b: &Shape) -> bool {
    a.rank() == b.rank() && a.0.iter().zip(&b.0).all(|(x, y)| x.same(y))
}

/// Element-wise operators whose operands broadcast against each other in both directions.
fn reads_broadcast(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Pow"
            | "Mod"
            | "And"
            | "Or"
            | "Xor"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Where"
            | "Max"
            | "Min"
            | "Sum"
            | "Mean"
            | "BitwiseAnd"
            | "BitwiseOr"
            | "BitwiseXor"
            | "BitShift"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn batch_axes_of_a_matmul_broadcast() {
        let after = rewritten(
            &EliminateBroadcastExpand,
            "g (float[1,3,4] x, float[2,4,5] z) => (float[2,3,5] y) <int64[3] s = {2, 3, 4}>
             { e = Expand (x, s)  y = MatMul (e, z) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[1,3,4] x, float[2,4,5] z) => (float[2,3,5] y) <
           int64[3] s = {2, 3, 4}
        > {
           y = MatMul (x, z)
        }
        ");
    }

    #[test]
    fn stays_where_it_gives_the_shape() {
        check_skip(
            &EliminateBroadcastExpand,
            "g (float[1,3] x) => (float[2,3] y) <int64[2] s = {2, 3}> { e = Expand (x, s)  y = Add (e, e) }",
            "no reader broadcasts to the same shape",
        );
    }

    #[test]
    fn stays_before_operators_broadcast() {
        check_skip(
            &EliminateBroadcastExpand,
            "<ir_version: 8, opset_import: [\"\" : 7]>
             g (float[1] x, float[3] z) => (float[3] y) <int64[1] r = {3}> { t = Tile (x, r)  y = Max (t, z) }",
            "no reader broadcasts to the same shape",
        );
    }

    #[test]
    fn other_readers_keep_it() {
        let after = rewritten(
            &EliminateBroadcastExpand,
            "g (float[1,3] x, float[2,3] z) => (float[2,3] y, float[2,3] e) <int64[2] s = {2, 3}>
             { e = Expand (x, s)  y = Add (e, z) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[1,3] x, float[2,3] z) => (float[2,3] y, float[2,3] e) <
           int64[2] s = {2, 3}
        > {
           e = Expand (x, s)
           y = Add (x, z)
        }
        ");
    }
}
