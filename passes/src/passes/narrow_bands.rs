//! narrow-bands

use onnxfix_ir::{Model, NodeId};

use crate::matching::{dims, dims_of_elements, input, output, producer, sliced, uniform};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Makes one row of a band matrix from the weights of that row alone.
    ///
    /// ## Why ATC needs it
    /// Where a classifier reads one token, one row of the last layer's band counts. Made by *decompose-span-convolution*
    /// all rows of weights are needed for it, and with them two projections of all tokens.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,4,3] w) => (float[2,1,4] y) <
    ///    int64[6] pads = {0, 0, 0, 0, 2, 4}, int64[3] s = {2, 7, 6}, int64[2] a = {0, 1}, int64[2] b = {4, 5}, int64[2] c = {1, 2},
    ///    int64[1] zero = {0}, int64[1] one = {1}
    /// > {
    ///    p = Pad (w, pads)
    ///    r = Reshape (p, s)
    ///    band = Slice (r, a, b, c)
    ///    y = Slice (band, zero, one, one)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,4,3] w) => (float[2,1,4] y) <
    ///    int64[1] y_const = {0}, int64[1] y_const_1 = {1}, int64[1] y_const_2 = {3}, int64[1] y_const_3 = {2},
    ///    int64[6] y_const_4 = {0, 0, 0, 0, 0, 2}
    /// > {
    ///    y_Slice = Slice (w, y_const, y_const_1, y_const_1)
    ///    y_Slice_1 = Slice (y_Slice, y_const_1, y_const_2, y_const_3)
    ///    y = Pad (y_Slice_1, y_const_4)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Slice takes one row of rows and columns of a view, with rows one shorter, of weights with zeros around them.
    /// - The row holds weights of its own row only: those of the row above end before it begins.
    ///
    /// ## Numerics
    /// Exact.
    pub NarrowBands = "narrow-bands", Simplify, Exact
}

impl Rewrite for NarrowBands {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let band = producer(m, input(m, root, 0)?, "Slice")?;
        let reshape = producer(m, input(m, band, 0)?, "Reshape")?;
        let pad = producer(m, input(m, reshape, 0)?, "Pad")?;
        let taken = sliced(m, root)?;
        let (padded, view) = (dims(m, input(m, reshape, 0)?)?, dims(m, input(m, band, 0)?)?);
        let weights = input(m, pad, 0)?;
        let of_weights = dims_of_elements(m, weights)?;
        let rank = of_weights.len();
        let ([.., high, wide], [.., rows, columns]) = (&padded[..], &view[..]) else {
            return Err(Miss::NoMatch);
        };
        if view.len() != rank || (*high, *wide) != (*columns, *rows) || rows - 1 != *columns {
            return Err(Miss::NoMatch);
        }
        if taken.axis != rank - 2 || taken.len != 1 {
            return unmet("not one row is taken");
        }
        let pads = zeros(m, pad, rank)?;
        let (left, right) = (pads[rank - 1], pads[2 * rank - 1]);
        let (above, taps) = (pads[rank - 2], of_weights[rank - 1]);
        let (row, first, width) = piece(m, band, &view)?;
        // In a view with rows one shorter, row `r` begins `r` elements before row `r` of what is viewed.
        let row = row + taken.start;
        let begin = first - row;
        if above != 0 || row >= of_weights[rank - 2] || -begin > right {
            return unmet("the row holds weights of other rows");
        }
        // Which taps are in the piece, and how many zeros stand before them.
        let (from, to) = ((begin - left).max(0), (begin - left + width).min(taps));
        if from >= to {
            return unmet("the row holds no weight");
        }
        let before = (left - begin).max(0);
        let mut patch = Patch::new(m, root);
        let mut result = patch.slice(weights.into(), rank as i64 - 2, row, row + 1);
        if (from, to) != (0, taps) {
            result = patch.slice(result, rank as i64 - 1, from, to);
        }
        let result = patch.pad(result, rank, rank - 1, (before, width - before - (to - from)));
        patch.replace(output(m, root)?, result);
        Ok(patch)
    }
}

/// The zeros that a Pad puts around the last two axes, as its operand has them.
fn zeros(m: &Model, pad: NodeId, rank: usize) -> Result<Vec<i64>, Miss> {
    if m[pad].attrs.str("mode").is_some_and(|mode| mode != "constant") || m[pad].input(3).is_some()
    {
        return unmet("the weights do not have zeros around them");
    }
    let value = match m[pad].input(2) {
        Some(v) => uniform(m, v),
        None => Some(f64::from(m[pad].attrs.float("value").unwrap_or(0.0))),
    };
    let pads = match m[pad].input(1) {
        Some(v) => m.constant(v).and_then(|t| t.to_ints()),
        None => m[pad].attrs.ints("pads").map(<[i64]>::to_vec),
    };
    let pads = pads.filter(|p| p.len() == 2 * rank).ok_or(Miss::NoMatch)?;
    let outside = pads.iter().enumerate().any(|(i, &p)| p < 0 || (p != 0 && i % rank < rank - 2));
    if outside || value.is_none_or(|v| v != 0.0) {
        return unmet("the weights do not have zeros around them");
    }
    Ok(pads)
}

/// Of a Slice of rows and columns the first row, the first column and the number of columns.
fn piece(m: &Model, slice: NodeId, view: &[i64]) -> Result<(i64, i64, i64), Miss> {
    let operand = |slot: usize| match m[slice].input(slot) {
        Some(v) => crate::matching::ints(m, v),
        None => Err(Miss::NoMatch),
    };
    let (starts, ends, axes) = (operand(1)?, operand(2)?, operand(3)?);
    let rank = view.len() as i64;
    if axes != [rank - 2, rank - 1] || m[slice].input(4).is_some() {
        return Err(Miss::NoMatch);
    }
    match (&starts[..], &ends[..], view) {
        (&[row, first], &[last_row, last], &[.., rows, columns])
            if 0 <= row
                && row <= last_row
                && last_row <= rows
                && 0 <= first
                && first < last
                && last <= columns =>
        {
            Ok((row, first, last - first))
        }
        _ => Err(Miss::NoMatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, computed, untouched};

    /// Row `row` of a band of five rows of three weights, with these zeros before and behind them, and of the columns
    /// those from `first` to `last`.
    fn graph(row: i64, (left, right): (i64, i64), (first, last): (i64, i64)) -> String {
        let wide = left + 3 + right;
        format!(
            "g () => (float[1,{}] y) <float[5,3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
                int64[4] pads = {{0, {left}, {}, {right}}}, int64[2] s = {{{wide}, {}}}, int64[2] a = {{0, {first}}},
                int64[2] b = {{5, {last}}}, int64[2] c = {{0, 1}}, int64[1] from = {{{row}}}, int64[1] to = {{{}}}, int64[1] axis = {{0}}>
             {{ p = Pad (w, pads)  r = Reshape (p, s)  band = Slice (r, a, b, c)  z = Slice (band, from, to, axis)  y = Identity (z) }}",
            last - first,
            wide - 1 - 5,
            wide - 1,
            row + 1
        )
    }

    #[test]
    fn the_numbers_are_the_same() {
        for (pads, columns) in
            [((0, 5), (1, 6)), ((0, 5), (0, 7)), ((2, 5), (2, 8)), ((1, 7), (3, 8))]
        {
            for row in 0..4 {
                let text = graph(row, pads, columns);
                assert_eq!(computed(Some(&NarrowBands), &text), computed(None, &text), "{text}");
            }
        }
    }

    #[test]
    fn look_alikes_stay() {
        let text = graph(4, (0, 5), (1, 6));
        for (text, why) in [
            (graph(4, (4, 2), (0, 8)), "weights of other rows"),
            (graph(0, (0, 5), (4, 6)), "holds no weight"),
            (
                text.replace("to = {5}", "to = {6}")
                    .replace("from = {4}", "from = {3}")
                    .replace("[1,5] y", "[2,5] y"),
                "not one row",
            ),
            (
                text.replace("Pad (w, pads)", "Pad <mode: string = \"edge\"> (w, pads)"),
                "zeros around",
            ),
        ] {
            check_skip(&NarrowBands, &text, why);
        }
        untouched(&NarrowBands, &text.replace("Reshape (p, s)", "Transpose (p)"));
    }
}
