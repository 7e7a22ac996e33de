//! sink-expands

use onnxfix_ir::{DataType, Model, NodeId, Shape, Tensor, op};

use crate::matching::{dims, input, output, producer, shape, used_once};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Moves an `Expand` behind element-wise operators that would compute the same again and again.
    ///
    /// ## Why ATC needs it
    /// A mask per key that is repeated for each query before it becomes numbers is as large as a plane of scores. Repeated
    /// afterwards, it meets the sum that broadcasts it anyway, and *eliminate-broadcast-expand* drops the repetition.
    ///
    /// ## Before
    /// ```onnx
    /// g (bool[1,3] mask) => (float[3,3] y) <int64[2] s = {3, 3}, float zero = {0}, float low = {-10000}> {
    ///    e = Expand (mask, s)
    ///    y = Where (e, zero, low)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (bool[1,3] mask) => (float[3,3] y) <float zero = {0}, float low = {-10000}, int64[2] y_const = {3, 3}> {
    ///    y_Where = Where (mask, zero, low)
    ///    y = Expand (y_Where, y_const)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - Nothing else reads the Expand, and without it the result of the operator is smaller.
    /// - The shape of the result is static, and the opset 8 or later.
    /// - It is no Cast to int64, which *sink-widening-casts* moves the other way.
    ///
    /// ## Numerics
    /// Exact.
    pub SinkExpands = "sink-expands", Simplify, Exact
}

impl Rewrite for SinkExpands {
    fn roots(&self) -> &'static [&'static str] {
        &["And", "Or", "Not", "Cast", "Where", "Equal", "Add", "Sub", "Mul", "Div"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let y = output(m, root)?;
        let mut operands: Vec<Operand> = Vec::new();
        let mut narrow = Shape::default();
        let mut wide = None;
        for v in m[root].inputs() {
            let v = v.ok_or(Miss::NoMatch)?;
            let expand = producer(m, v, "Expand").ok();
            wide = wide.or(expand.map(|_| v));
            let x = expand.map_or(Ok(v), |expand| input(m, expand, 0))?;
            let Ok(joined) = op::broadcast(&narrow, shape(m, x)?) else {
                return Err(Miss::NoMatch);
            };
            narrow = joined;
            operands.push(x.into());
        }
        let wide = wide.ok_or(Miss::NoMatch)?;
        let to = dims(m, y)?;
        if narrow.dims().is_some_and(|narrow| narrow == to) {
            return Err(Miss::NoMatch);
        }
        if !used_once(m, wide) {
            return unmet("something else reads the Expand");
        }
        if m.opset(m[root].graph(), "").is_none_or(|version| version < 8) {
            return unmet("the opset is older than 8");
        }
        if m[root].op().is("Cast") && m[y].dtype() == Some(DataType::Int64) {
            return unmet("a Cast to int64 stands as late as it can");
        }
        let op = m[root].op().def.ok_or(Miss::NoMatch)?.name;
        let mut patch = Patch::new(m, root);
        let computed = patch.node_with(op, &operands, m[root].attrs.clone());
        let to = patch.constant(Tensor::ints(&to));
        let result = patch.node("Expand", &[computed, to]);
        patch.replace(y, result);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, untouched};

    #[test]
    fn look_alikes_stay() {
        untouched(
            &SinkExpands,
            "g (float[1,3] x, float[3,3] z) => (float[3,3] y) <int64[2] s = {3, 3}> { e = Expand (x, s)  y = Add (e, z) }",
        );
        check_skip(
            &SinkExpands,
            "g (bool[1,3] x) => (bool[3,3] y, bool[3,3] e) <int64[2] s = {3, 3}> { e = Expand (x, s)  y = Not (e) }",
            "something else reads the Expand",
        );
        check_skip(
            &SinkExpands,
            "g (bool[1,3] x, int64[2] s) => (bool[N,M] y) { e = Expand (x, s)  y = Not (e) }",
            "is not static",
        );
        check_skip(
            &SinkExpands,
            "g (int32[1,3] x) => (int64[3,3] y) <int64[2] s = {3, 3}> { e = Expand (x, s)  y = Cast <to = 7> (e) }",
            "as late as it can",
        );
    }
}
