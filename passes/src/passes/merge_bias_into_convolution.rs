//! merge-bias-into-convolution

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{constant, dims_of_elements, input, is_reshape, output, producer, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes the bias that is added behind a `Conv` the convolution's own.
    ///
    /// ## Why ATC needs it
    /// A matrix unit adds the bias while it writes the result. ConvBERT's separable convolution adds it as an operator of
    /// its own, which reads and writes everything again.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,4,5] x, float[2,4,1] w) => (float[1,2,5] y) <float[2,1] b = {1, 2}> {
    ///    c = Conv (x, w)
    ///    y = Add (c, b)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,4,5] x, float[2,4,1] w) => (float[1,2,5] y) <float[2,1] b = {1, 2}, int64[1] y_const = {2}> {
    ///    y_Reshape = Reshape (b, y_const)
    ///    y = Conv (x, w, y_Reshape)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - What is added is constant and has one element per channel, on the axis of the channels. Between the two may be a
    ///   reshape of the axes behind the channels.
    /// - Nothing else reads the convolution's result. Shapes are static.
    ///
    /// ## Numerics
    /// A sum in another order.
    pub MergeBiasIntoConvolution = "merge-bias-into-convolution", Simplify, Relative(1e-6)
}

impl Rewrite for MergeBiasIntoConvolution {
    fn roots(&self) -> &'static [&'static str] {
        &["Add"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let (sum, conv, bias) = match (convolution(m, a), convolution(m, b)) {
            (Some(conv), _) if m.constant(b).is_some() => (a, conv, b),
            (_, Some(conv)) if m.constant(a).is_some() => (b, conv, a),
            _ => return Err(Miss::NoMatch),
        };
        let made = output(m, conv)?;
        if !used_once(m, sum) || !used_once(m, made) {
            return unmet("something else reads the convolution's result");
        }
        let (from, to) = (dims_of_elements(m, made)?, dims_of_elements(m, sum)?);
        if from.get(..2) != to.get(..2) {
            return unmet("the reshape changes batch or channels");
        }
        let bias_dims = &constant(m, bias)?.dims;
        // From the back: where the bias has an axis it is 1, but for the channels.
        let behind = to.len() - 2;
        let per_channel = bias_dims.len() > behind
            && bias_dims.len() <= to.len()
            && bias_dims
                .iter()
                .rev()
                .enumerate()
                .all(|(i, &d)| d == if i == behind { to[1] } else { 1 });
        if !per_channel {
            return unmet("what is added is not one number per channel");
        }
        let mut patch = Patch::new(m, root);
        let mut bias = patch.reshape(bias.into(), &[to[1]]);
        if let Some(own) = m[conv].input(2) {
            bias = patch.node("Add", &[own.into(), bias]);
        }
        let (x, weight) = (input(m, conv, 0)?, input(m, conv, 1)?);
        let operands = [x.into(), weight.into(), bias];
        let mut result = patch.node_with("Conv", &operands, m[conv].attrs.clone());
        if sum != made {
            result = patch.reshape(result, &to);
        }
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The convolution that makes a value, perhaps with a reshape behind it.
fn convolution(m: &Model, value: ValueId) -> Option<NodeId> {
    let node = m.producer(value)?;
    let made = if is_reshape(m, node) { m[node].input(0)? } else { value };
    producer(m, made, "Conv").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    #[test]
    fn a_bias_behind_a_reshape_joins_the_one_there_is() {
        let after = rewritten(
            &MergeBiasIntoConvolution,
            "g (float[2,4,1,5] x, float[3,4,1,1] w, float[3] own) => (float[2,3,5] y) <int64[3] s = {2, 3, 5}, float[1,3,1] b = {1, 2, 3}>
             { c = Conv <strides: ints = [1, 1]> (x, w, own)  r = Reshape (c, s)  y = Add (b, r) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[2,4,1,5] x, float[3,4,1,1] w, float[3] own) => (float[2,3,5] y) <
           int64[3] s = {2, 3, 5},
           float[1,3,1] b = {1, 2, 3},
           int64[1] y_const = {3},
           int64[3] y_const_1 = {2, 3, 5}
        > {
           y_Reshape = Reshape (b, y_const)
           y_Add = Add (own, y_Reshape)
           y_Conv = Conv <strides: ints = [1, 1]> (x, w, y_Add)
           y = Reshape (y_Conv, y_const_1)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        for (bias, outputs, why) in [
            ("float[5] b = {1, 2, 3, 4, 5}", "", "not one number per channel"),
            ("float[1] b = {1}", "", "not one number per channel"),
            ("float[1,1,2,1] b = {1, 2}", "", "not one number per channel"),
            ("float[2,1] b = {1, 2}", ", float[1,2,5] c", "something else reads"),
        ] {
            let y = if bias.starts_with("float[1,1,2") { "1,1,2,5" } else { "1,2,5" };
            check_skip(
                &MergeBiasIntoConvolution,
                &format!(
                    "g (float[1,4,5] x, float[2,4,1] w) => (float[{y}] y{outputs}) <{bias}> {{ c = Conv (x, w)  y = Add (c, b) }}"
                ),
                why,
            );
        }
    }

    #[test]
    fn channels_that_a_reshape_joins_stay() {
        check_skip(
            &MergeBiasIntoConvolution,
            "g (float[1,4,5] x, float[2,4,1] w) => (float[1,10] y) <int64[2] s = {1, 10}, float[1,10] b = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0}>
             { c = Conv (x, w)  r = Reshape (c, s)  y = Add (r, b) }",
            "the reshape changes batch or channels",
        );
    }
}
