//! decompose-unfold

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, Slice, dims, dims_of_elements, input, ints, is_reshape, output, perm, slice, zero_pads,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Turns an unfold, the windows of a sequence one beside the other, into slices of the sequence and one Concat.
    ///
    /// ## Why ATC needs it
    /// Exporters write `unfold` as a Gather by a matrix of positions, which the 310P runs element by element, or as a loop
    /// of slices that are stacked along the last axis, where each element goes to memory on its own. Slices of whole rows
    /// are plain copies. Every exporter's form ends in this one.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,4,2] x) => (float[1,2,3,4] y) <
    ///    int64[3,4] i = {0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5}, int64[6] p = {0, 0, 1, 0, 0, 1}
    /// > {
    ///    t = Transpose <perm: ints = [0, 2, 1]> (x)
    ///    s = Pad (t, p)
    ///    y = Gather <axis: int = 2> (s, i)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,4,2] x) => (float[1,2,3,4] y) <
    ///    int64[6] y_const = {0, 1, 0, 0, 1, 0},
    ///    int64[1] y_const_1 = {0}, int64[1] y_const_2 = {4}, int64[1] y_const_3 = {1},
    ///    int64[1] y_const_4 = {5}, int64[1] y_const_5 = {2}, int64[1] y_const_6 = {6},
    ///    int64[4] y_const_7 = {1, 3, 4, 2}
    /// > {
    ///    y_Pad = Pad (x, y_const)
    ///    y_Slice = Slice (y_Pad, y_const_1, y_const_2, y_const_3)
    ///    y_Slice_1 = Slice (y_Pad, y_const_3, y_const_4, y_const_3)
    ///    y_Slice_2 = Slice (y_Pad, y_const_5, y_const_6, y_const_3)
    ///    y_Concat = Concat <axis: int = 1> (y_Slice, y_Slice_1, y_Slice_2)
    ///    y_Reshape = Reshape (y_Concat, y_const_7)
    ///    y = Transpose <perm: ints = [0, 3, 1, 2]> (y_Reshape)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Gather's index is a constant matrix whose rows (or columns) are 0, 1, 2 … shifted by equal steps, proven on its
    ///   values; or a Concat stacks slices of equal length at equally spaced starts along a new axis.
    /// - There are 2 to 64 windows.
    /// - Shapes are static, and there are elements. The sequence is looked for behind Transposes, axes of length 1 and a constant Pad, so that it
    ///   is sliced in the layout it was made in.
    ///
    /// ## Numerics
    /// Exact: elements only move.
    pub DecomposeUnfold = "decompose-unfold", Decompose, Exact
}

/// More slices than this cost more than the Gather they replace.
const MAX_WINDOWS: i64 = 64;

impl Rewrite for DecomposeUnfold {
    fn roots(&self) -> &'static [&'static str] {
        &["Gather", "Concat"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let unfold = if m[root].op().is("Gather") { gathered(m, root)? } else { stacked(m, root)? };
        let out = dims_of_elements(m, output(m, root)?)?;
        let mut patch = Patch::new(m, root);
        let y = unfold.build(m, &mut patch, &out)?;
        patch.replace(output(m, root)?, y);
        Ok(patch)
    }
}

/// Windows of `x` along one axis.
struct Unfold {
    x: ValueId,
    /// The axis of `x` that is unfolded.
    axis: usize,
    /// Where the first window begins, the distance to the next, their number and their length.
    start: i64,
    step: i64,
    count: i64,
    len: i64,
    /// Where the two axes are that come out of `axis`, counting only axes of the result that come from an axis of `x`
    /// or are one of the two: position of the windows' number and of the place within a window.
    count_at: usize,
    len_at: usize,
}

/// A Gather by a constant matrix of positions.
fn gathered(m: &Model, root: NodeId) -> Result<Unfold, Miss> {
    let (x, index) = (input(m, root, 0)?, input(m, root, 1)?);
    let Some(tensor) = m.constant(index) else { return Err(Miss::NoMatch) };
    let &[rows, columns] = tensor.dims.as_slice() else { return Err(Miss::NoMatch) };
    let from = dims(m, x)?;
    let axis = onnxfix_ir::op::normal_axis(m[root].attrs.int("axis").unwrap_or(0), from.len())
        .map_err(|_| Miss::NoMatch)?;
    let index = ints(m, index)?;
    let at = |i: i64, j: i64| index.get(usize::try_from(i * columns + j).ok()?).copied();
    let Some(start) = at(0, 0) else { return Err(Miss::NoMatch) };
    let down = if rows > 1 { at(1, 0).map_or(0, |n| n - start) } else { 0 };
    let right = if columns > 1 { at(0, 1).map_or(0, |n| n - start) } else { 0 };
    let linear =
        (0..rows).all(|i| (0..columns).all(|j| at(i, j) == Some(start + i * down + j * right)));
    if !linear {
        return unmet("the index is not an arithmetic progression");
    }
    // A window after the first may begin before it: rows {0, 1} and {-1, 0}.
    if index.iter().any(|i| !(0..from[axis]).contains(i)) {
        return unmet("the index leaves the axis");
    }
    // The longer side is the window that slides; the other one counts the windows.
    let by_rows = right == 1 && (columns >= rows || down != 1);
    let (step, count, len) = if by_rows { (down, rows, columns) } else { (right, columns, rows) };
    if !by_rows && down != 1 {
        return unmet("the windows' elements are not neighbours");
    }
    let (count_at, len_at) = if by_rows { (axis, axis + 1) } else { (axis + 1, axis) };
    Unfold { x, axis, start, step, count, len, count_at, len_at }.bounded()
}

/// A Concat along a new axis of slices at equally spaced starts.
fn stacked(m: &Model, root: NodeId) -> Result<Unfold, Miss> {
    let parts: Option<Vec<ValueId>> = m[root].inputs().iter().copied().collect();
    let parts = parts.filter(|p| p.len() >= 2).ok_or(Miss::NoMatch)?;
    let out = dims(m, output(m, root)?)?;
    let stack = onnxfix_ir::op::normal_axis(m[root].attrs.int("axis").unwrap_or(0), out.len())
        .map_err(|_| Miss::NoMatch)?;
    let slices =
        parts.iter().map(|&p| stacked_slice(m, p, stack)).collect::<Result<Vec<Slice>, Miss>>()?;
    let first = &slices[0];
    let step = slices[1].start - first.start;
    let same = |s: &Slice| s.x == first.x && s.axis == first.axis && s.len == first.len;
    if !slices.iter().all(same) {
        return unmet("the slices differ in source, axis or length");
    }
    if slices.iter().enumerate().any(|(i, s)| s.start != first.start + step * i as i64) {
        return unmet("the slices do not start at equal distances");
    }
    // In the result, the stacked axis comes before or behind the sliced one.
    let len_at = if stack <= first.axis { first.axis + 1 } else { first.axis };
    Unfold {
        x: first.x,
        axis: first.axis,
        start: first.start,
        step,
        count: slices.len() as i64,
        len: first.len,
        count_at: stack,
        len_at,
    }
    .bounded()
}

/// The slice behind an Unsqueeze (or Reshape) that makes `axis` of length 1.
fn stacked_slice(m: &Model, part: ValueId, axis: usize) -> Result<Slice, Miss> {
    let wide = dims(m, part)?;
    let reshape = m.producer(part).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    let narrow = input(m, reshape, 0)?;
    let mut without = wide.clone();
    if without.get(axis) != Some(&1) {
        return Err(Miss::NoMatch);
    }
    without.remove(axis);
    if dims(m, narrow)? != without {
        return Err(Miss::NoMatch);
    }
    slice(m, narrow)
}

impl Unfold {
    fn bounded(self) -> Result<Unfold, Miss> {
        if self.count < 2 || self.len < 2 || self.step == 0 {
            return Err(Miss::NoMatch);
        }
        if self.count > MAX_WINDOWS {
            return unmet(format!("{} windows are more than {MAX_WINDOWS}", self.count));
        }
        Ok(self)
    }

    /// The slices, their Concat, and the axes put where the result has them.
    fn build(&self, m: &Model, patch: &mut Patch, out: &Dims) -> Result<Operand, Miss> {
        let layout = Layout::of(m, self.x, self.axis)?;
        let source = dims(m, layout.source)?;
        let axis = layout.axis;
        let mut x: Operand = layout.source.into();
        if layout.pads != (0, 0) {
            x = patch.pad(x, source.len(), axis, layout.pads);
        }
        let windows: Vec<Operand> = (0..self.count)
            .map(|i| {
                let start = self.start + i * self.step;
                patch.slice(x, axis as i64, start, start + self.len)
            })
            .collect();
        let joined = patch.concat(&windows, axis as i64);
        // [.., count · len, ..] as [.., count, len, ..]
        let mut split: Vec<i64> = source.to_vec();
        split[axis] = self.count;
        split.insert(axis + 1, self.len);
        let y = patch.reshape(joined, &split);
        let order = self.order(&layout, source.len());
        let in_order = order.iter().enumerate().all(|(i, &p)| p == i as i64);
        let y = if in_order { y } else { patch.transpose(y, &order) };
        let moved: Vec<i64> =
            order.iter().map(|&p| split[usize::try_from(p).unwrap_or(0)]).collect();
        Ok(if moved == out.as_slice() { y } else { patch.reshape(y, out) })
    }

    /// The permutation that brings the axes of the split windows into the order of the result, axes of length 1 that the
    /// source does not have left out.
    fn order(&self, layout: &Layout, rank: usize) -> Vec<i64> {
        // An axis of the source behind the sliced one moved one place when that became two.
        let place = |axis: usize| if axis > layout.axis { axis + 1 } else { axis };
        let mut order: Vec<i64> = Vec::with_capacity(rank + 1);
        let mut rest = layout
            .axes
            .iter()
            .enumerate()
            .filter(|&(x_axis, _)| x_axis != self.axis)
            .map(|(_, a)| *a);
        for at in 0..=layout.axes.len() {
            let from = if at == self.count_at {
                Some(layout.axis)
            } else if at == self.len_at {
                Some(layout.axis + 1)
            } else {
                rest.next().flatten().map(place)
            };
            order.extend(from.map(|a| a as i64));
        }
        // Axes of length 1 that `x` has lost along the way go to the end, where they change nothing.
        for axis in 0..rank {
            if axis != layout.axis && !order.contains(&(place(axis) as i64)) {
                order.push(place(axis) as i64);
            }
        }
        order
    }
}

/// A value seen as the transposed and padded view of the value it was made from.
struct Layout {
    source: ValueId,
    /// For each axis of the view the axis of the source, none for axes of length 1 made on the way.
    axes: Vec<Option<usize>>,
    /// The unfolded axis, in the source.
    axis: usize,
    /// Zeros before and after the source along that axis.
    pads: (i64, i64),
}

impl Layout {
    /// Walks up from `x` through Transposes, Reshapes that only make or drop axes of length 1, and Pads by zero of the
    /// unfolded axis.
    fn of(m: &Model, x: ValueId, axis: usize) -> Result<Layout, Miss> {
        let rank = dims(m, x)?.len();
        let mut layout =
            Layout { source: x, axes: (0..rank).map(Some).collect(), axis, pads: (0, 0) };
        while let Some(node) = m.producer(layout.source) {
            if !layout.step(m, node) {
                break;
            }
        }
        Ok(layout)
    }

    /// Goes behind one node; says whether it could.
    fn step(&mut self, m: &Model, node: NodeId) -> bool {
        let Some(x) = m[node].input(0) else { return false };
        let (Some(from), Some(to)) = (m[x].dims(), m[self.source].dims()) else { return false };
        let Some(map) = axis_map(m, node, &from, &to) else { return false };
        let Some(axis) = map[self.axis] else { return false };
        if m[node].op().is("Pad") {
            let Some(pads) = zero_pads(m, node, self.axis, from.len()) else { return false };
            self.pads = (self.pads.0 + pads.0, self.pads.1 + pads.1);
        }
        for a in &mut self.axes {
            *a = a.and_then(|a| map[a]);
        }
        self.axis = axis;
        self.source = x;
        true
    }
}

/// For each axis of a node's output the axis of its input that it is, none for new axes of length 1; none at all when
/// the node does something else.
fn axis_map(m: &Model, node: NodeId, from: &Dims, to: &Dims) -> Option<Vec<Option<usize>>> {
    let op = m[node].op();
    if op.is("Pad") {
        return Some((0..to.len()).map(Some).collect());
    }
    if op.is("Transpose") {
        return perm(m, node, from.len())
            .into_iter()
            .map(|p| Some(usize::try_from(p).ok()))
            .collect();
    }
    if !is_reshape(m, node) {
        return None;
    }
    // Equal but for axes of length 1, which are matched where both sides have one.
    let mut map = Vec::with_capacity(to.len());
    let mut next = 0;
    for &d in to {
        if d == 1 {
            let also = from.get(next) == Some(&1);
            map.push(also.then_some(next));
            next += usize::from(also);
            continue;
        }
        while from.get(next) == Some(&1) {
            next += 1;
        }
        if from.get(next) != Some(&d) {
            return None;
        }
        map.push(Some(next));
        next += 1;
    }
    from[next..].iter().all(|&d| d == 1).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, rewritten};

    /// What torch's `unfold` looks like after folding: two Gathers, the second by the matrix [[0]].
    #[test]
    fn stays_where_an_index_counts_from_the_back() {
        check_skip(
            &DecomposeUnfold,
            "g (float[1,2,2,1] x) => (float[1,2,2,2,1] y) <int64[2,2] i = {0, 1, -1, 0}> { y = Gather <axis: int = 2> (x, i) }",
            "the index leaves the axis",
        );
    }

    #[test]
    fn columns_may_be_the_windows() {
        let after = rewritten(
            &DecomposeUnfold,
            "g (float[6,2] x) => (float[4,3,2] y) <int64[4,3] i = {0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5}>
             { y = Gather <axis = 0> (x, i) }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[6,2] x) => (float[4,3,2] y) <
           int64[4,3] i = {0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5},
           int64[1] y_const = {0},
           int64[1] y_const_1 = {4},
           int64[1] y_const_2 = {1},
           int64[1] y_const_3 = {5},
           int64[1] y_const_4 = {2},
           int64[1] y_const_5 = {6},
           int64[3] y_const_6 = {3, 4, 2}
        > {
           y_Slice = Slice (x, y_const, y_const_1, y_const)
           y_Slice_1 = Slice (x, y_const_2, y_const_3, y_const)
           y_Slice_2 = Slice (x, y_const_4, y_const_5, y_const)
           y_Concat = Concat <axis: int = 0> (y_Slice, y_Slice_1, y_Slice_2)
           y_Reshape = Reshape (y_Concat, y_const_6)
           y = Transpose <perm: ints = [1, 0, 2]> (y_Reshape)
        }
        ");
    }

    #[test]
    fn a_loop_of_slices_is_the_same() {
        let after = rewritten(
            &DecomposeUnfold,
            "g (float[1,6,2] x) => (float[1,4,2,3] y)
             <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
              int64[1] five = {5}, int64[1] six = {6}> {
                a = Slice (x, zero, four, one)  b = Slice (x, one, five, one)  c = Slice (x, two, six, one)
                p = Unsqueeze (a, three)  q = Unsqueeze (b, three)  r = Unsqueeze (c, three)
                y = Concat <axis = 3> (p, q, r)
             }",
        );
        insta::assert_snapshot!(after, @r"
        g (float[1,6,2] x) => (float[1,4,2,3] y) <
           int64[1] zero = {0},
           int64[1] one = {1},
           int64[1] two = {2},
           int64[1] three = {3},
           int64[1] four = {4},
           int64[1] five = {5},
           int64[1] six = {6},
           int64[1] y_const = {0},
           int64[1] y_const_1 = {4},
           int64[1] y_const_2 = {1},
           int64[1] y_const_3 = {5},
           int64[1] y_const_4 = {2},
           int64[1] y_const_5 = {6},
           int64[4] y_const_6 = {1, 3, 4, 2}
        > {
           y_Slice = Slice (x, y_const, y_const_1, y_const_2)
           y_Slice_1 = Slice (x, y_const_2, y_const_3, y_const_2)
           y_Slice_2 = Slice (x, y_const_4, y_const_5, y_const_2)
           y_Concat = Concat <axis: int = 1> (y_Slice, y_Slice_1, y_Slice_2)
           y_Reshape = Reshape (y_Concat, y_const_6)
           y = Transpose <perm: ints = [0, 2, 3, 1]> (y_Reshape)
        }
        ");
    }

    #[test]
    fn other_indices_stay() {
        check_skip(
            &DecomposeUnfold,
            "g (float[6,2] x) => (float[2,3,2] y) <int64[2,3] i = {0, 1, 2, 1, 2, 4}> { y = Gather <axis = 0> (x, i) }",
            "not an arithmetic progression",
        );
        check_skip(
            &DecomposeUnfold,
            "g (float[9,2] x) => (float[2,3,2] y) <int64[2,3] i = {0, 2, 4, 2, 4, 6}> { y = Gather <axis = 0> (x, i) }",
            "not neighbours",
        );
    }

    #[test]
    fn unequal_slices_stay() {
        check_skip(
            &DecomposeUnfold,
            "g (float[6] x) => (float[2,2] y)
             <int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] five = {5}> {
                a = Slice (x, zero, two, zero)  b = Slice (x, three, five, zero)  c = Slice (x, two, three, zero)
                p = Unsqueeze (a, zero)  q = Unsqueeze (b, zero)
                y = Concat <axis = 0> (p, q, p)
             }",
            "equal distances",
        );
    }

    #[test]
    fn windows_without_elements_stay() {
        check_skip(
            &DecomposeUnfold,
            "g (float[3,0] x) => (float[2,2,0] y) <int64[2,2] i = {0, 1, 1, 2}> { y = Gather (x, i) }",
            "has no elements",
        );
    }
}
