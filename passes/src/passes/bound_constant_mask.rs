//! bound-constant-mask

use onnxfix_ir::{DataType, Model, NodeId, Tensor, ValueId};

use crate::matching::{
    dims, dims_of_elements, dtype, input, is_along_last, is_reshape, output, producer, uniform,
};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Masks attention by -10000 where a constant mask has the smallest number of float.
    ///
    /// ## Why ATC needs it
    /// Which tokens may look ahead is known before a model runs, and exporters store it as numbers beyond float16. There they
    /// are minus infinity, which older releases do not bound when they narrow weights, and two of them are not a number.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,2,2,4] q, float[1,2,4,2] k) => (float[1,2,2,2] p) <float[1,1,2,2] ahead = {0, -3e38, 0, 0}> {
    ///    s = MatMul (q, k)
    ///    masked = Add (s, ahead)
    ///    p = Softmax <axis: int = -1> (masked)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,2,2,4] q, float[1,2,4,2] k) => (float[1,2,2,2] p) <float[1,1,2,2] p_const = {0, -10000, 0, 0}> {
    ///    s = MatMul (q, k)
    ///    p_Add = Add (s, p_const)
    ///    p = Softmax <axis: int = -1> (p_Add)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Softmax along the last axis reads the sum of scores and a constant with numbers below -10000, of float or double, that
    ///   is along the last axis and does not widen the scores.
    /// - Some number of each row of the constant is not negative: what is masked then has the probability 0 either way.
    /// - The scores are a product of matrices, perhaps scaled or reshaped: a second mask could hide all that this one shows.
    ///
    /// ## Numerics
    /// Scores stay below 4900.
    pub BoundConstantMask = "bound-constant-mask", Legalise, Relative(1e-6)
}

/// What a masked score gets added: the exponential of it is 0, and two of them fit float16.
const MASK: f64 = -1e4;
/// The largest mask that is read through, in bytes.
const READ_LIMIT: u64 = 64 << 20;

impl Rewrite for BoundConstantMask {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (masked, p) = (input(m, root, 0)?, output(m, root)?);
        let sum = producer(m, masked, "Add")?;
        let (a, b) = (input(m, sum, 0)?, input(m, sum, 1)?);
        let (scores, mask) = if m.constant(b).is_some() { (a, b) } else { (b, a) };
        let tensor =
            m.constant(mask).filter(|t| t.byte_len() <= READ_LIMIT).ok_or(Miss::NoMatch)?;
        let numbers = tensor.to_floats().ok_or(Miss::NoMatch)?;
        if !numbers.iter().any(|&x| x < MASK) || numbers.iter().any(|x| x.is_nan()) {
            return Err(Miss::NoMatch);
        }
        let shape = dims_of_elements(m, masked)?;
        if !is_along_last(m, root, shape.len()) {
            return unmet("the Softmax is not along the last axis");
        }
        if tensor.dims.last() != shape.last() || dims(m, scores)? != shape {
            return unmet("the mask is not along the last axis, or widens the scores");
        }
        let row = usize::try_from(shape[shape.len() - 1]).map_err(|_| Miss::NoMatch)?;
        if !numbers.chunks(row).all(|row| row.iter().any(|&x| x >= 0.0)) {
            return unmet("a row of the mask shows nothing");
        }
        if !is_product(m, scores) {
            return unmet("the scores are more than a product, and may be masked already");
        }
        let bounded = numbers.into_iter().map(|x| x.max(MASK));
        let bounded = match dtype(m, mask)? {
            #[expect(clippy::cast_possible_truncation, reason = "they were float32 before")]
            DataType::Float => Tensor::new(&tensor.dims, bounded.map(|x| x as f32).collect()),
            DataType::Double => Tensor::new(&tensor.dims, bounded.collect::<Vec<f64>>()),
            other => return unmet(format!("the elements are {other}")),
        };
        let mut patch = Patch::new(m, root);
        let bounded = patch.constant(bounded);
        let biased = patch.node("Add", &[scores.into(), bounded]);
        let probabilities = patch.node_with("Softmax", &[biased], m[root].attrs.clone());
        patch.replace(p, probabilities);
        Ok(patch)
    }
}

/// Whether a value is a product of matrices, perhaps scaled or in another shape.
fn is_product(m: &Model, value: ValueId) -> bool {
    let mut at = value;
    while let Some(node) = m.producer(at) {
        let operand = |slot: usize| m[node].input(slot);
        let is_scale = |slot: usize| operand(slot).is_some_and(|v| uniform(m, v).is_some());
        let op = m[node].op();
        let next = if op.is("MatMul") || op.is("Gemm") {
            return true;
        } else if is_reshape(m, node) || op.is("Transpose") || op.is("Cast") {
            operand(0)
        } else if op.is("Mul") && is_scale(0) {
            operand(1)
        } else if (op.is("Mul") || op.is("Div")) && is_scale(1) {
            operand(0)
        } else {
            return false;
        };
        let Some(next) = next else { return false };
        at = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::BoundConstantMask;
    use crate::testing::{check_skip, rewritten, untouched};

    fn graph(mask: &str, nodes: &str) -> String {
        format!(
            "g (float[2,3,4] q, float[2,4,2] k, bool[2,3,2] hidden) => (float[2,3,2] p) <{mask}, float two = {{2}}, float low = {{-3e38}}> {{
   s = MatMul (q, k)  {nodes}
}}"
        )
    }

    #[test]
    fn scores_may_be_scaled_and_the_mask_may_be_minus_infinity() {
        let text = graph(
            "float[3,2] mask = {0, -inf, -500, 0, -20000, 1}",
            "h = Div (s, two)  m = Add (mask, h)  p = Softmax <axis = 2> (m)",
        );
        let after = rewritten(&BoundConstantMask, &text);
        assert!(after.contains("float[3,2] p_const = {0, -10000, -500, 0, -10000, 1}"), "{after}");
        assert!(after.contains("p_Add = Add (h, p_const)"), "{after}");
    }

    #[test]
    fn look_alikes_stay() {
        let plain = "m = Add (s, mask)  p = Softmax <axis = 2> (m)";
        for (mask, nodes, why) in [
            (
                "float[3,2] mask = {0, -3e38, -3e38, -3e38, 0, 0}",
                plain,
                "a row of the mask shows nothing",
            ),
            ("float[3,1] mask = {0, -3e38, 0}", plain, "not along the last axis"),
            (
                "float[2] mask = {0, -3e38}",
                "m = Add (s, mask)  p = Softmax <axis = 1> (m)",
                "Softmax is not along",
            ),
            (
                "float[2] mask = {0, -3e38}",
                "w = Where (hidden, low, s)  m = Add (w, mask)  p = Softmax <axis = 2> (m)",
                "may be masked already",
            ),
        ] {
            check_skip(&BoundConstantMask, &graph(mask, nodes), why);
        }
        untouched(&BoundConstantMask, &graph("float[2] mask = {0, -10000}", plain));
    }
}
