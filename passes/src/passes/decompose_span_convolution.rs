//! decompose-span-convolution

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, Slice, dims, dims_of_elements, dtype, input, output, producer, slice, zero_pads,
};
use crate::trace::Trace;
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Replaces the product of a sequence's windows with one weight per tap by a band matrix times the sequence, or by
    /// one multiply-add per tap.
    ///
    /// ## Why ATC needs it
    /// ConvBERT's span convolution weighs the nine neighbours of each token with weights of the token's own. Exports write
    /// it as a batched MatMul of `[64,9]` with `[9,1]`, one for each token and head: a shape of which a matrix unit uses a
    /// few percent, on an operand that holds the sequence nine times. As a band matrix, `band[i, i+j-4] = weight[i, j]`, it
    /// is one product like that of the attention's probabilities, and the sequence stays as it is. The band is made
    /// without an index: weights padded to rows one longer than wanted stand, in a view with rows one shorter, each one
    /// column further right than the row above. Where sequences are so long that the band costs more than it
    /// saves, slices of the padded sequence are multiplied by a column of weights each, and added.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,8,12] x, float[32,3,1] taps) => (float[32,3,1] y) <
    ///    int64[6] pads = {0, 1, 0, 0, 1, 0}, int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2},
    ///    int64[1] i8 = {8}, int64[1] i9 = {9}, int64[1] i10 = {10}, int64[4] s = {1, 3, 8, 12}, int64[3] t = {32, 3, 3}
    /// > {
    ///    p = Pad (x, pads)
    ///    a = Slice (p, i0, i8, i1)
    ///    b = Slice (p, i1, i9, i1)
    ///    c = Slice (p, i2, i10, i1)
    ///    all = Concat <axis: int = 1> (a, b, c)
    ///    split = Reshape (all, s)
    ///    turned = Transpose <perm: ints = [0, 2, 3, 1]> (split)
    ///    windows = Reshape (turned, t)
    ///    y = MatMul (windows, taps)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,8,12] x, float[32,3,1] taps) => (float[32,3,1] y) <
    ///    int64[4] y_const = {1, 8, 4, 3}, int64[8] y_const_1 = {0, 0, 0, 0, 0, 0, 2, 8}, int64[4] y_const_2 = {1, 4, 11, 10},
    ///    int64[2] y_const_3 = {0, 1}, int64[2] y_const_4 = {8, 9}, int64[2] y_const_5 = {2, 3}, int64[3] y_const_6 = {32, 3, 1}
    /// > {
    ///    y_Reshape = Reshape (x, y_const)
    ///    y_Transpose = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape)
    ///    y_Reshape_1 = Reshape (taps, y_const)
    ///    y_Transpose_1 = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape_1)
    ///    y_Pad = Pad (y_Transpose_1, y_const_1)
    ///    y_Reshape_2 = Reshape (y_Pad, y_const_2)
    ///    y_Slice = Slice (y_Reshape_2, y_const_3, y_const_4, y_const_5)
    ///    y_MatMul = MatMul (y_Slice, y_Transpose)
    ///    y_Transpose_2 = Transpose <perm: ints = [0, 2, 1, 3]> (y_MatMul)
    ///    y = Reshape (y_Transpose_2, y_const_6)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - One operand of a MatMul is a rearranged Concat of slices of one sequence, at equally spaced starts, and the other
    ///   has one row or column and the taps on the axis that is summed over: exactly the axis of the slices' number, or of the
    ///   place within them where they begin one apart.
    /// - Nothing else reads the windows, and both operands have the same batches. Elements are floats, shapes static.
    /// - The band is made where neighbouring windows start one apart and it has fewer elements to write than the
    ///   multiply-adds; zeros around the sequence then are columns that it does not have.
    ///
    /// ## Numerics
    /// Sums in another order, with zeros among the terms: finite numbers stay within rounding.
    pub DecomposeSpanConvolution = "decompose-span-convolution", Decompose, Relative(1e-6)
}

impl Rewrite for DecomposeSpanConvolution {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let is_one = |v: ValueId, from_end: usize| {
            m[v].dims().is_some_and(|d| d.len() >= 2 && d[d.len() - from_end] == 1)
        };
        // The axis of the windows that is summed over is its last as the left operand, the one before as the right one.
        let convolution = if is_one(b, 1) {
            SpanConvolution::of(m, a, b, true).or_else(|miss| match miss {
                Miss::NoMatch if is_one(a, 2) => SpanConvolution::of(m, b, a, false),
                miss => Err(miss),
            })?
        } else if is_one(a, 2) {
            SpanConvolution::of(m, b, a, false)?
        } else {
            return Err(Miss::NoMatch);
        };
        let mut patch = Patch::new(m, root);
        let result = if convolution.is_band_cheaper() {
            convolution.band(&mut patch)
        } else {
            convolution.multiply_adds(&mut patch)
        };
        let result = patch.reshape(result, &dims(m, y)?);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// `y[n, c] = sum over j of taps[n, j] · windows[n, c, j]`, where `n` counts positions, heads and sentences.
struct SpanConvolution {
    /// The padded sequence.
    padded: ValueId,
    /// The sequence without its zeros, how long it is, and how many zeros stand before it.
    source: ValueId,
    source_len: i64,
    before: i64,
    padded_len: i64,
    taps: ValueId,
    /// Where each tap's slice of the padded sequence begins.
    starts: Vec<i64>,
    /// How many windows there are.
    positions: i64,
    /// Lengths of the parts that axes are cut into.
    len: Vec<i64>,
    /// The part that is the position, and the one that is the channel of a head.
    position: usize,
    channel: usize,
    /// Position, channel and all other parts in the order of the sequence, and of the result.
    above: Vec<usize>,
    below: Vec<usize>,
}

impl SpanConvolution {
    fn of(m: &Model, windows: ValueId, taps: ValueId, left: bool) -> Result<SpanConvolution, Miss> {
        let shape = dims_of_elements(m, windows)?;
        let rank = shape.len();
        if rank < 2 {
            return Err(Miss::NoMatch);
        }
        let (channel_axis, tap_axis) =
            if left { (rank - 2, rank - 1) } else { (rank - 1, rank - 2) };
        let mut trace = Trace::new(m, windows)?;
        trace.climb(m)?;
        let (axis, slices) = slices(m, trace.value)?;
        let step = slices[1].start - slices[0].start;
        if trace.shared {
            return unmet("something else reads the windows");
        }
        let weights = dims(m, taps)?;
        if weights.len() != rank || weights[..rank - 2] != shape[..rank - 2] {
            return unmet("windows and taps differ in their batches");
        }
        if !dtype(m, taps)?.is_float() {
            return unmet("the elements are no floats");
        }
        let first = &slices[0];
        let mut joined = dims(m, trace.value)?;
        joined[axis] = slices.len() as i64;
        joined.insert(axis + 1, first.len);
        let above = trace.cut_above(&joined)?;
        let below = trace.cut_below(&shape)?;
        // Cutting one side may have cut a part of the other.
        let above =
            if trace.len.len() == parts(&above) { above } else { trace.cut_above(&joined)? };
        // As many slices as taps, each as long as there are positions; or the other way round, where there are fewer
        // positions.
        let by_tap = below[tap_axis] == above[axis];
        let (tap, position) = if by_tap { (axis, axis + 1) } else { (axis + 1, axis) };
        let ([tap], [position], [channel]) =
            (above[tap].as_slice(), above[position].as_slice(), below[channel_axis].as_slice())
        else {
            return unmet("taps, positions or channels are not one axis each");
        };
        let (tap, position, channel) = (*tap, *position, *channel);
        if below[tap_axis] != [tap] || channel == position || (!by_tap && step != 1) {
            return unmet("the axis that is summed over is not that of the taps");
        }
        let (starts, positions) = if by_tap {
            (slices.iter().map(|s| s.start).collect(), first.len)
        } else {
            ((first.start..first.start + first.len).collect(), slices.len() as i64)
        };
        let source = unpadded(m, first);
        let length = |v: ValueId| Ok::<i64, Miss>(dims(m, v)?[axis]);
        Ok(SpanConvolution {
            padded: first.x,
            source: source.map_or(first.x, |(x, _)| x),
            source_len: length(source.map_or(first.x, |(x, _)| x))?,
            before: source.map_or(0, |(_, before)| before),
            padded_len: length(first.x)?,
            taps,
            starts,
            positions,
            above: trace.above.iter().copied().filter(|&p| p != tap).collect(),
            below: trace.below.iter().copied().filter(|&p| p != tap).collect(),
            len: trace.len,
            position,
            channel,
        })
    }

    /// Rows of the view in which the band is made: as long as to hold all windows and the whole sequence. The first
    /// window stands as many columns further right as it begins behind the sequence's first element.
    fn band_size(&self) -> (i64, i64) {
        let offset = (self.starts[0] - self.before).max(0);
        let first_column = offset - (self.starts[0] - self.before);
        let windows = self.positions + self.starts.len() as i64 - 1 + offset;
        (windows.max(first_column + self.source_len), offset)
    }

    fn is_band_cheaper(&self) -> bool {
        let (view, _) = self.band_size();
        let (taps, channels) = (self.starts.len() as i64, self.len[self.channel]);
        let band = view * (view + 1) + self.positions * self.source_len;
        let adds = 3 * taps * self.positions * channels;
        self.starts[1] - self.starts[0] == 1 && band <= adds
    }

    /// `band · sequence`, all heads and sentences side by side.
    fn band(&self, patch: &mut Patch) -> Operand {
        let mut others = self.above.clone();
        others.retain(|&p| p != self.position && p != self.channel);
        // Two axes before the matrices, as attention has them.
        let units = 2_usize.saturating_sub(others.len());
        let rank = units + others.len() + 2;
        let taps = self.starts.len() as i64;

        let order: Vec<usize> = [others.as_slice(), &[self.position, self.channel]].concat();
        let sequence = self.reshaped(patch, self.source, units, &self.above, self.source_len);
        let sequence = moved(patch, sequence, units, &self.above, &order);

        // In the taps, as in the result, their own axis is where the channel is in the windows.
        let weights = self.weights(patch, units);
        let weights = moved(patch, weights, units, &self.taps_order(), &order);

        let (view, offset) = self.band_size();
        let mut pads = vec![0; 2 * rank];
        pads[rank - 1] = offset;
        pads[2 * rank - 2] = view - self.positions;
        pads[2 * rank - 1] = view + 1 - offset - taps;
        let band = patch.pad_axes(weights, &pads);
        let front = std::iter::repeat_n(1, units).chain(others.iter().map(|&p| self.len[p]));
        let shape: Dims = front.chain([view + 1, view]).collect();
        let band = patch.reshape(band, &shape);
        let (rows, columns) = (rank as i64 - 2, rank as i64 - 1);
        let first = offset - (self.starts[0] - self.before);
        let band = patch.slice_axes(
            band,
            &[(rows, 0, self.positions), (columns, first, first + self.source_len)],
        );
        let product = patch.node("MatMul", &[band, sequence]);
        moved(patch, product, units, &order, &self.taps_order())
    }

    /// The sum over all taps of their slice times their column of the weights.
    fn multiply_adds(&self, patch: &mut Patch) -> Operand {
        let sequence = self.reshaped(patch, self.padded, 0, &self.above, self.padded_len);
        let weights = self.weights(patch, 0);
        let weights = moved(patch, weights, 0, &self.taps_order(), &self.above);
        let place =
            |part: usize| self.above.iter().position(|&p| p == part).map_or(0, |axis| axis as i64);
        let (position, channel) = (place(self.position), place(self.channel));
        let mut sum: Option<Operand> = None;
        for (tap, &start) in (0..).zip(&self.starts) {
            let window = patch.slice(sequence, position, start, start + self.positions);
            let weight = patch.slice(weights, channel, tap, tap + 1);
            let term = patch.node("Mul", &[window, weight]);
            sum = Some(match sum {
                Some(sum) => patch.node("Add", &[sum, term]),
                None => term,
            });
        }
        // There are at least two taps.
        let sum = sum.unwrap_or(sequence);
        moved(patch, sum, 0, &self.above, &self.taps_order())
    }

    /// The parts as the taps have them: like the result's, but with the axis that is summed over, or the channels, last.
    fn taps_order(&self) -> Vec<usize> {
        let rest = self.below.iter().copied().filter(|&p| p != self.channel);
        rest.chain([self.channel]).collect()
    }

    /// The weights with an axis for each part but the channel, and the taps in the place of that.
    fn weights(&self, patch: &mut Patch, units: usize) -> Operand {
        let order = self.taps_order();
        let front = std::iter::repeat_n(1, units);
        let lens = order[..order.len() - 1].iter().map(|&p| self.len[p]);
        let shape: Dims = front.chain(lens).chain([self.starts.len() as i64]).collect();
        patch.reshape(self.taps.into(), &shape)
    }

    /// A sequence of this length with an axis for each part.
    fn reshaped(
        &self,
        patch: &mut Patch,
        x: ValueId,
        units: usize,
        order: &[usize],
        length: i64,
    ) -> Operand {
        let len = |&p: &usize| if p == self.position { length } else { self.len[p] };
        let shape: Dims = std::iter::repeat_n(1, units).chain(order.iter().map(len)).collect();
        patch.reshape(x.into(), &shape)
    }
}

/// The slices that a Concat joins along the axis they are taken from: of one sequence, equally long, at equally spaced
/// starts.
fn slices(m: &Model, joined: ValueId) -> Result<(usize, Vec<Slice>), Miss> {
    let concat = producer(m, joined, "Concat")?;
    let rank = dims(m, joined)?.len();
    let axis = onnxfix_ir::op::normal_axis(m[concat].attrs.int("axis").unwrap_or(0), rank)
        .map_err(|_| Miss::NoMatch)?;
    let parts: Option<Vec<ValueId>> = m[concat].inputs().iter().copied().collect();
    let slices: Vec<Slice> =
        parts.ok_or(Miss::NoMatch)?.into_iter().map(|p| slice(m, p)).collect::<Result<_, _>>()?;
    let [first, second, ..] = slices.as_slice() else { return Err(Miss::NoMatch) };
    let step = second.start - first.start;
    let same = |s: &Slice| s.x == first.x && s.axis == axis && s.len == first.len;
    let spaced = |(i, s): (i64, &Slice)| s.start == first.start + i * step;
    if !slices.iter().all(same) || !(0..).zip(&slices).all(spaced) {
        return unmet("the slices differ in source, axis, length or distance");
    }
    Ok((axis, slices))
}

/// What a slice's source was before zeros were put around it, and how many stand before.
fn unpadded(m: &Model, slice: &Slice) -> Option<(ValueId, i64)> {
    let pad = producer(m, slice.x, "Pad").ok()?;
    let (before, _) = zero_pads(m, pad, slice.axis, m[slice.x].dims()?.len())?;
    Some((m[pad].input(0)?, before))
}

fn parts(groups: &[Vec<usize>]) -> usize {
    groups.iter().map(Vec::len).sum()
}

/// `x`, whose axes behind the first `units` are `from`, with them in the order of `to`.
fn moved(patch: &mut Patch, x: Operand, units: usize, from: &[usize], to: &[usize]) -> Operand {
    if from == to {
        return x;
    }
    let place = |part: &usize| from.iter().position(|p| p == part).map(|at| (units + at) as i64);
    let perm: Vec<i64> = (0..units as i64).chain(to.iter().filter_map(place)).collect();
    patch.transpose(x, &perm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, computed, rewritten};

    /// A span convolution as exports have it, over `[batch, length, heads * channels]`.
    #[derive(Clone, Copy)]
    struct Export {
        batch: usize,
        length: usize,
        heads: usize,
        channels: usize,
        taps: usize,
        pads: (usize, usize),
        step: usize,
        /// Whether the windows are the left operand.
        left: bool,
        /// Whether each slice is a window, instead of what one tap sees.
        by_position: bool,
    }

    const SMALL: Export = Export {
        batch: 1,
        length: 5,
        heads: 2,
        channels: 3,
        taps: 3,
        pads: (1, 1),
        step: 1,
        left: true,
        by_position: false,
    };

    impl Export {
        /// The graph; `x` and `taps` are inputs, or constants of small integers.
        fn text(&self, constant: bool) -> String {
            let Export {
                batch,
                length,
                heads,
                channels,
                taps,
                pads: (before, after),
                step,
                left,
                by_position,
            } = *self;
            let width = heads * channels;
            let positions = length + before + after - (taps - 1) * step;
            let n = batch * positions * heads;
            let (of_taps, of_windows, of_y) = if left {
                (format!("{n},{taps},1"), [n, channels, taps], [n, channels, 1])
            } else {
                (format!("{n},1,{taps}"), [n, taps, channels], [n, 1, channels])
            };
            let x = format!("float[{batch},{length},{width}] x");
            let w = format!("float[{of_taps}] taps");
            let list =
                |numbers: &[usize]| format!("{numbers:?}")[1..].trim_end_matches(']').to_owned();
            let numbers =
                |count: usize, of: usize| list(&(0..count).map(|i| i * i % of).collect::<Vec<_>>());
            let (inputs, constants) = if constant {
                let (a, b) = (numbers(batch * length * width, 17), numbers(n * taps, 11));
                (String::new(), format!("{x} = {{{a}}}, {w} = {{{b}}},"))
            } else {
                (format!("{x}, {w}"), String::new())
            };
            let (count, len) = if by_position { (positions, taps) } else { (taps, positions) };
            let slice = |i: usize| format!("s{i} = Slice (p, b{i}, e{i}, one)");
            let bounds = |i: usize| {
                let start = i * step;
                format!("int64[1] b{i} = {{{start}}}, int64[1] e{i} = {{{}}},", start + len)
            };
            let bounds: String = (0..count).map(bounds).collect();
            let slices: Vec<String> = (0..count).map(slice).collect();
            let parts: Vec<String> = (0..count).map(|i| format!("s{i}")).collect();
            let (split, product) = if left {
                (vec![batch, count, len, width], "MatMul (w, taps)")
            } else {
                (vec![batch, count, len, heads, channels], "MatMul (taps, w)")
            };
            let perm = match (left, by_position) {
                (true, false) => "0, 2, 3, 1",
                (true, true) => "0, 1, 3, 2",
                (false, false) => "0, 2, 3, 1, 4",
                (false, true) => "0, 1, 3, 2, 4",
            };
            format!(
                "g ({inputs}) => (float{of_y:?} y) <{constants} {bounds}
                    int64[6] pads = {{0, {before}, 0, 0, {after}, 0}}, int64[1] one = {{1}},
                    int64[{}] split = {{{}}}, int64[3] shape = {{{}}}
                 > {{
                    p = Pad (x, pads)  {}
                    all = Concat <axis: int = 1> ({})  r = Reshape (all, split)
                    t = Transpose <perm: ints = [{perm}]> (r)  w = Reshape (t, shape)
                    z = {product}  y = Identity (z)
                 }}",
                split.len(),
                list(&split),
                list(&of_windows),
                slices.join("\n"),
                parts.join(", "),
            )
        }
    }

    #[test]
    fn the_numbers_are_the_same() {
        let exports = [
            SMALL,
            Export { batch: 3, left: false, ..SMALL },
            // As many taps as fit, and even numbers of them.
            Export { taps: 4, pads: (2, 1), ..SMALL },
            Export { taps: 9, pads: (4, 4), channels: 20, ..SMALL },
            // No zeros, zeros on one side, more zeros than taps.
            Export { pads: (0, 0), channels: 40, ..SMALL },
            Export { pads: (2, 0), channels: 40, ..SMALL },
            Export { pads: (0, 2), channels: 40, ..SMALL },
            Export { pads: (4, 5), channels: 40, ..SMALL },
            Export { heads: 1, channels: 40, ..SMALL },
            Export { batch: 2, heads: 3, channels: 40, left: false, ..SMALL },
            // Windows two apart, and a slice for each.
            Export { step: 2, pads: (2, 2), channels: 40, ..SMALL },
            Export { by_position: true, channels: 40, ..SMALL },
            Export { by_position: true, left: false, taps: 9, pads: (4, 4), ..SMALL },
        ];
        for export in exports {
            let text = export.text(true);
            let after = computed(Some(&DecomposeSpanConvolution), &text);
            assert_eq!(after, computed(None, &text), "{text}");
        }
    }

    #[test]
    fn long_sequences_and_distant_windows_are_multiplied_and_added() {
        let count = |export: Export, op: &str| {
            rewritten(&DecomposeSpanConvolution, &export.text(false)).matches(op).count()
        };
        let wide = Export { channels: 40, ..SMALL };
        assert_eq!((count(wide, "MatMul ("), count(wide, "Mul (")), (1, 1));
        let long = Export { length: 500, ..wide };
        assert_eq!((count(long, "MatMul ("), count(long, " Mul (")), (0, 3));
        let distant = Export { step: 2, ..wide };
        assert_eq!((count(distant, "MatMul ("), count(distant, " Mul (")), (0, 3));
    }

    #[test]
    fn multiply_adds_slice_the_padded_sequence() {
        let export = Export { length: 40, channels: 2, taps: 2, pads: (0, 1), ..SMALL };
        let after = rewritten(&DecomposeSpanConvolution, &export.text(false));
        insta::assert_snapshot!(after, @r"
        g (float[1,40,4] x, float[80,2,1] taps) => (float[80,2,1] y) <
           int64[1] b0 = {0},
           int64[1] e0 = {40},
           int64[1] b1 = {1},
           int64[1] e1 = {41},
           int64[6] pads = {0, 0, 0, 0, 1, 0},
           int64[1] one = {1},
           int64[4] split = {1, 2, 40, 4},
           int64[3] shape = {80, 2, 2},
           int64[3] z_const = {41, 2, 2},
           int64[3] z_const_1 = {40, 2, 2},
           int64[1] z_const_2 = {0},
           int64[1] z_const_3 = {40},
           int64[1] z_const_4 = {1},
           int64[1] z_const_5 = {2},
           int64[1] z_const_6 = {41},
           int64[3] z_const_7 = {80, 2, 1}
        > {
           p = Pad (x, pads)
           z_Reshape = Reshape (p, z_const)
           z_Reshape_1 = Reshape (taps, z_const_1)
           z_Slice = Slice (z_Reshape, z_const_2, z_const_3, z_const_2)
           z_Slice_1 = Slice (z_Reshape_1, z_const_2, z_const_4, z_const_5)
           z_Mul = Mul (z_Slice, z_Slice_1)
           z_Slice_2 = Slice (z_Reshape, z_const_4, z_const_6, z_const_2)
           z_Slice_3 = Slice (z_Reshape_1, z_const_4, z_const_5, z_const_5)
           z_Mul_1 = Mul (z_Slice_2, z_Slice_3)
           z_Add = Add (z_Mul, z_Mul_1)
           z = Reshape (z_Add, z_const_7)
           y = Identity (z)
        }
        ");
    }

    #[test]
    fn a_sum_over_channels_stays() {
        let text = Export { left: false, ..SMALL }.text(false);
        let text = text.replace("MatMul (taps, w)", "MatMul (w, taps)");
        let text = text
            .replace("float[10,1,3] taps", "float[10,3,1] taps")
            .replace("[10, 1, 3] y", "[10, 3, 1] y");
        check_skip(&DecomposeSpanConvolution, &text, "is not that of the taps");
        // Five windows of three, two apart.
        let text = Export { by_position: true, ..SMALL }.text(false);
        let text =
            (1..5).fold(text.replace("{0, 1, 0, 0, 1, 0}", "{0, 3, 0, 0, 3, 0}"), |text, i| {
                let bounds = |b: usize| format!("b{i} = {{{b}}}, int64[1] e{i} = {{{}}}", b + 3);
                text.replace(&bounds(i), &bounds(2 * i))
            });
        check_skip(&DecomposeSpanConvolution, &text, "is not that of the taps");
    }

    #[test]
    fn look_alikes_stay() {
        let text = SMALL.text(false);
        assert!(!rewritten(&DecomposeSpanConvolution, &text).contains("Concat"));
        for (from, to, why) in [
            ("y)", "y, float[10,3,3] w)", "something else reads the windows"),
            ("10,3,1] taps", "1,3,1] taps", "differ in their batches"),
            ("float[", "int32[", "the elements are no floats"),
            ("b1 = {1}, int64[1] e1 = {6}", "b1 = {0}, int64[1] e1 = {5}", "differ in source"),
            ("s2 = Slice (p,", "o = Neg (p)  s2 = Slice (o,", "differ in source"),
        ] {
            assert!(text.contains(from), "{from} is not in {text}");
            check_skip(&DecomposeSpanConvolution, &text.replace(from, to), why);
        }
    }
}
