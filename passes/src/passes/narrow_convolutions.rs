//! narrow-convolutions

use onnxfix_ir::{AttrValue, Model, NodeId};

use crate::matching::{dims, dims_of_elements, input, output, producer, sliced, used_once};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Convolves only at the positions that are used.
    ///
    /// ## Why ATC needs it
    /// Where a classifier reads one token, ConvBERT's last layer needs its separable convolution at one position, which sees
    /// five tokens. *narrow-to-used-rows* stops at a convolution, whose rows see their neighbours.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,4,1,8] x, float[4,1,1,3] w) => (float[1,4,1,2] y) <int64[1] a = {0}, int64[1] b = {2}, int64[1] axis = {3}> {
    ///    c = Conv <group: int = 4, pads: ints = [0, 1, 0, 1]> (x, w)
    ///    y = Slice (c, a, b, axis)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,4,1,8] x, float[4,1,1,3] w) => (float[1,4,1,2] y) <int64[1] y_const = {0}, int64[1] y_const_1 = {3}> {
    ///    y_Slice = Slice (x, y_const, y_const_1, y_const_1)
    ///    y = Conv <group: int = 4, pads: ints = [0, 1, 0, 0]> (y_Slice, w)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Slice of one spatial axis with step 1 reads fewer positions than a Conv makes, and nothing else reads those.
    /// - The padding is given by numbers, and the windows do not stand in it alone. Shapes are static.
    ///
    /// ## Numerics
    /// Exact: the same products. A library may add them in another order.
    pub NarrowConvolutions = "narrow-convolutions", Simplify, Relative(1e-6)
}

impl Rewrite for NarrowConvolutions {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let made = input(m, root, 0)?;
        let conv = producer(m, made, "Conv")?;
        let slice = sliced(m, root)?;
        let (x, weight) = (input(m, conv, 0)?, input(m, conv, 1)?);
        let (from, kernel) = (dims_of_elements(m, x)?, dims(m, weight)?);
        let out = dims_of_elements(m, made)?;
        let Some(spatial) = slice.axis.checked_sub(2) else {
            return unmet("the slice is not of positions");
        };
        if slice.step != 1 || slice.len == 0 || slice.len >= out[slice.axis] {
            return Err(Miss::NoMatch);
        }
        if !used_once(m, made) {
            return unmet("something else reads what the convolution makes");
        }
        let attrs = &m[conv].attrs;
        if attrs.str("auto_pad").is_some_and(|pad| pad != "NOTSET") {
            return unmet("the padding is not given by numbers");
        }
        let rank = from.len() - 2;
        let mut pads = attrs.ints("pads").map_or_else(|| vec![0; 2 * rank], <[i64]>::to_vec);
        let along =
            |name: &str| attrs.ints(name).and_then(|a| a.get(spatial)).copied().unwrap_or(1);
        let (stride, dilation) = (along("strides"), along("dilations"));
        let before = *pads.get(spatial).ok_or(Miss::NoMatch)?;
        // The elements that the first and the last window see, in places of `x`.
        let first = slice.start * stride - before;
        let window = (kernel[slice.axis] - 1) * dilation + 1;
        let end = first + (slice.len - 1) * stride + window;
        let (start, stop) = (first.max(0), end.min(from[slice.axis]));
        if start >= stop {
            return unmet("the windows stand in the padding alone");
        }
        pads[spatial] = start - first;
        *pads.get_mut(rank + spatial).ok_or(Miss::NoMatch)? = end - stop;
        let mut attrs = attrs.clone();
        attrs.set("pads", AttrValue::Ints(pads));
        let mut patch = Patch::new(m, root);
        let mut part = Operand::from(x);
        if (start, stop) != (0, from[slice.axis]) {
            part = patch.slice(part, slice.axis as i64, start, stop);
        }
        let mut operands = vec![part, weight.into()];
        operands.extend(m[conv].input(2).map(Operand::from));
        let result = patch.node_with("Conv", &operands, attrs);
        patch.replace(output(m, root)?, result);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten, untouched};

    /// A convolution of 12 elements with a window of 3, and the part `start..end` of what it makes.
    fn graph(attrs: &str, start: i64, end: i64, outputs: &str) -> String {
        format!(
            "g (float[1,1,12] x, float[1,1,3] w) => (float[1,1,{}] y{outputs})
             <int64[1] a = {{{start}}}, int64[1] b = {{{end}}}, int64[1] axis = {{2}}>
             {{ c = Conv <{attrs}> (x, w)  y = Slice (c, a, b, axis) }}",
            end - start
        )
    }

    #[test]
    fn the_padding_that_is_seen_stays() {
        for (attrs, start, end, x, pads) in [
            ("pads: ints = [1, 1]", 0, 1, Some((0, 2)), "[1, 0]"),
            ("pads: ints = [1, 1]", 11, 12, Some((10, 12)), "[0, 1]"),
            ("pads: ints = [1, 1]", 4, 6, Some((3, 7)), "[0, 0]"),
            ("pads: ints = [0, 2]", 1, 12, Some((1, 12)), "[0, 2]"),
            ("strides: ints = [2], pads: ints = [1, 0]", 1, 3, Some((1, 6)), "[0, 0]"),
            ("dilations: ints = [3], pads: ints = [4, 4]", 0, 2, Some((0, 4)), "[4, 0]"),
            ("pads: ints = [2, 1]", 0, 12, None, "[2, 0]"),
            ("group: int = 1", 0, 9, Some((0, 11)), "[0, 0]"),
        ] {
            let after = rewritten(&NarrowConvolutions, &graph(attrs, start, end, ""));
            assert!(after.contains(&format!("pads: ints = {pads}")), "{after}");
            match x {
                None => assert!(!after.contains("Slice (x"), "{after}"),
                Some((start, end)) => {
                    assert!(after.contains(&format!("= {{{start}}}")), "{after}");
                    assert!(after.contains(&format!("= {{{end}}}")), "{after}");
                }
            }
        }
    }

    #[test]
    fn look_alikes_stay() {
        for (text, why) in [
            (graph("pads: ints = [1, 1]", 0, 2, ", c"), "something else reads"),
            (graph("auto_pad: string = \"SAME_UPPER\"", 0, 2, ""), "not given by numbers"),
            (graph("pads: ints = [4, 0]", 0, 1, ""), "in the padding alone"),
            (
                "g (float[2,1,4] x, float[1,1,1] w) => (float[1,1,4] y) <int64[1] a = {0}, int64[1] b = {1}>
                 { c = Conv (x, w)  y = Slice (c, a, b, a) }"
                    .to_owned(),
                "not of positions",
            ),
        ] {
            check_skip(&NarrowConvolutions, &text, why);
        }
        untouched(&NarrowConvolutions, &graph("pads: ints = [1, 1]", 0, 12, ""));
    }
}
