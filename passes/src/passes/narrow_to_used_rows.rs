//! narrow-to-used-rows

use onnxfix_ir::{Attrs, Model, NodeId};

use crate::matching::{
    ALONG_AXIS, Dims, REDUCTIONS, Slice, dims, dims_of_elements, input, is_along_last, is_reshape,
    output, perm, reduces_last, sliced,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Takes the rows that are used before computing instead of afterwards.
    ///
    /// ## Why ATC needs it
    /// A classifier reads the first token alone, so that of the last layer one row in hundreds counts: its queries, scores,
    /// both linear layers and GELU. No compiler finds that out, as the Slice stands behind everything.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,6,4] x) => (float[2,8] y) <float[4,8] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}, int64 first = {0}> {
    ///    p = MatMul (x, w)
    ///    r = Relu (p)
    ///    y = Gather <axis: int = 1> (r, first)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,6,4] x) => (float[2,8] y) <float[4,8] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}, int64[2] y_const_2 = {2, 8}, int64[1] y_const_5 = {0}, int64[1] y_const_6 = {1}> {
    ///    y_Slice_2 = Slice (x, y_const_5, y_const_6, y_const_6)
    ///    y_Slice_1 = MatMul (y_Slice_2, w)
    ///    y_Slice = Relu (y_Slice_1)
    ///    y = Reshape (y_Slice, y_const_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Slice of one axis by constants, or a Gather by one number, reads what an element-wise operator, a product, a
    ///   Softmax, layer normalisation or reduction along another axis, a Transpose, a Concat of another axis, a Gather of
    ///   table rows or a Reshape made that keeps the axis or splits or joins it where the rows stay apart.
    /// - All that reads the value takes the same part of it.
    ///
    /// ## Numerics
    /// The same sums; kernels may add up in another order for fewer rows.
    pub NarrowToUsedRows = "narrow-to-used-rows", Simplify, Relative(1e-6)
}

impl Rewrite for NarrowToUsedRows {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice", "Gather"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (part, y) = (part(m, root)?, output(m, root)?);
        let node = m.producer(part.x).ok_or(Miss::NoMatch)?;
        let whole = dims_of_elements(m, part.x)?;
        let of_y = dims_of_elements(m, y)?;
        if part.len >= whole[part.axis] && part.step == 1 {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        if m[root].op().is("Gather") {
            // The Slice goes on from here.
            if !is_movable(m, node) {
                return Err(Miss::NoMatch);
            }
            let row = take(&mut patch, part.x.into(), &part, part.axis);
            let result = patch.reshape(row, &of_y);
            patch.replace(y, result);
            return Ok(patch);
        }
        let takes_same = |user: NodeId| self::part(m, user).is_ok_and(|other| other == part);
        if m.is_output(part.x) || !m.users(part.x).all(takes_same) {
            return unmet("something else reads more of it");
        }
        if m[node].graph() != m[root].graph() || m[node].outputs().iter().flatten().count() != 1 {
            return Err(Miss::NoMatch);
        }
        let users: Vec<NodeId> = m.users(part.x).filter(|&user| m[user].op().is("Slice")).collect();
        let mut patch = match users.len() {
            1 => patch,
            _ => {
                Patch::new(m, m.nodes(m[root].graph()).find(|n| users.contains(n)).unwrap_or(root))
            }
        };
        let narrow = Narrow { m, node, part, whole, of_y };
        let result = narrow.build(&mut patch)?;
        // All at once, so that what is computed once stays so.
        for &user in &users {
            patch.replace(output(m, user)?, result);
        }
        Ok(patch)
    }
}

/// What a node takes of the value that it reads.
fn part(m: &Model, node: NodeId) -> Result<Slice, Miss> {
    if !m[node].op().is("Gather") {
        return sliced(m, node);
    }
    let (x, index) = (input(m, node, 0)?, input(m, node, 1)?);
    let index = m.constant(index).filter(|t| t.dims.is_empty()).and_then(|t| t.to_ints());
    let (Some(&[index]), from) = (index.as_deref(), dims(m, x)?) else { return Err(Miss::NoMatch) };
    let axis = m[node].attrs.int("axis").unwrap_or(0);
    let axis = onnxfix_ir::op::normal_axis(axis, from.len()).map_err(|_| Miss::NoMatch)?;
    let start = if index < 0 { index + from[axis] } else { index };
    Ok(Slice { x, axis, start, len: 1, step: 1 })
}

/// Takes the part of an operand, on this axis.
fn take(patch: &mut Patch, x: Operand, part: &Slice, axis: usize) -> Operand {
    patch.slice_by(
        x,
        axis as i64,
        part.start,
        part.start + (part.len - 1) * part.step + 1,
        part.step,
    )
}

/// Whether a Slice behind the node may have a place before it.
fn is_movable(m: &Model, node: NodeId) -> bool {
    let n = &m[node];
    let op = |name: &&str| n.op().is(name);
    is_reshape(m, node)
        || n.op().def.is_some_and(|def| def.class.elementwise)
        || ALONG_AXIS.iter().any(op)
        || ["MatMul", "Gemm", "Transpose"].iter().any(op)
}

struct Narrow<'m> {
    m: &'m Model,
    /// The node whose result is taken a part of.
    node: NodeId,
    part: Slice,
    /// Dimensions of that result.
    whole: Dims,
    of_y: Dims,
}

impl Narrow<'_> {
    fn build(&self, patch: &mut Patch) -> Result<Operand, Miss> {
        let (m, node, axis) = (self.m, self.node, self.part.axis);
        let n = &m[node];
        let def = n.op().def.ok_or(Miss::NoMatch)?;
        let is_last = axis + 1 == self.whole.len();
        if is_reshape(m, node) {
            let x = self.reshaped(patch)?;
            return Ok(patch.reshape(x, &self.of_y));
        }
        match def.name {
            "MatMul" => self.product(patch),
            "Gemm" if axis == 0 && n.attrs.int("transA").unwrap_or(0) == 0 => {
                let mut operands: Vec<Operand> = self.operands()?;
                operands[0] = take(patch, operands[0], &self.part, 0);
                if let Some(c) = n.input(2)
                    && let [rows, _] = dims(m, c)?[..]
                    && rows > 1
                {
                    operands[2] = take(patch, c.into(), &self.part, 0);
                }
                Ok(self.again(patch, &operands))
            }
            "Transpose" => {
                let perm = perm(m, node, self.whole.len());
                let from = usize::try_from(perm[axis]).map_err(|_| Miss::NoMatch)?;
                let x = take(patch, input(m, node, 0)?.into(), &self.part, from);
                Ok(patch.transpose(x, &perm))
            }
            "Slice" => self.slice(patch),
            "Concat" => {
                let along = n.attrs.int("axis").ok_or(Miss::NoMatch)?;
                let along = onnxfix_ir::op::normal_axis(along, self.whole.len());
                if along.map_err(|_| Miss::NoMatch)? == axis {
                    return unmet("the parts are joined along this axis");
                }
                let parts = self.operands()?;
                let parts: Vec<Operand> =
                    parts.into_iter().map(|x| take(patch, x, &self.part, axis)).collect();
                Ok(self.again(patch, &parts))
            }
            "Gather" => {
                let indices = input(m, node, 1)?;
                if n.attrs.int("axis").unwrap_or(0) != 0 || axis >= dims(m, indices)?.len() {
                    return Err(Miss::NoMatch);
                }
                let rows = take(patch, indices.into(), &self.part, axis);
                Ok(self.again(patch, &[input(m, node, 0)?.into(), rows]))
            }
            name if ALONG_AXIS.contains(&name) || REDUCTIONS.contains(&name) => {
                let rank = self.whole.len();
                let is_reduction = REDUCTIONS.contains(&name);
                if is_reduction {
                    reduces_last(m, node, rank)?;
                }
                if is_last || !is_reduction && !is_along_last(m, node, rank) {
                    return unmet(format!("{} works along this axis", m.describe(node)));
                }
                let mut operands = self.operands()?;
                operands[0] = take(patch, operands[0], &self.part, axis);
                Ok(self.again(patch, &operands))
            }
            _ if def.class.elementwise => self.elementwise(patch),
            _ => Err(Miss::NoMatch),
        }
    }

    fn operands(&self) -> Result<Vec<Operand>, Miss> {
        let slots = self.m[self.node].inputs().iter();
        slots.map(|v| v.map(Operand::from).ok_or(Miss::NoMatch)).collect()
    }

    /// The node once more, with these operands.
    fn again(&self, patch: &mut Patch, operands: &[Operand]) -> Operand {
        let n = &self.m[self.node];
        let attrs: Attrs = n.attrs.clone();
        patch.node_with(n.op().def.map_or("Identity", |def| def.name), operands, attrs)
    }

    fn elementwise(&self, patch: &mut Patch) -> Result<Operand, Miss> {
        let (m, rank) = (self.m, self.whole.len());
        if m.opset(m[self.node].graph(), "").is_none_or(|version| version < 8) {
            return unmet("the opset is older than 8");
        }
        let mut operands = Vec::new();
        for v in m[self.node].inputs() {
            let v = v.ok_or(Miss::NoMatch)?;
            let shape = dims(m, v)?;
            let own = (self.part.axis + shape.len()).checked_sub(rank);
            let own = own.filter(|&axis| shape[axis] == self.whole[self.part.axis]);
            operands.push(match own {
                Some(axis) => take(patch, v.into(), &self.part, axis),
                None => v.into(),
            });
        }
        Ok(self.again(patch, &operands))
    }

    fn product(&self, patch: &mut Patch) -> Result<Operand, Miss> {
        let (m, axis, rank) = (self.m, self.part.axis, self.whole.len());
        let (a, b) = (input(m, self.node, 0)?, input(m, self.node, 1)?);
        let (of_a, of_b) = (dims(m, a)?, dims(m, b)?);
        if of_a.len() < 2 || of_b.len() < 2 {
            return unmet("a factor is a vector");
        }
        let mut operands = [Operand::from(a), b.into()];
        if axis + 2 == rank {
            operands[0] = take(patch, operands[0], &self.part, of_a.len() - 2);
        } else if axis + 1 == rank {
            operands[1] = take(patch, operands[1], &self.part, of_b.len() - 1);
        } else {
            for (operand, shape) in operands.iter_mut().zip([of_a, of_b]) {
                let own = (axis + shape.len()).checked_sub(rank);
                if let Some(own) = own.filter(|&own| shape[own] == self.whole[axis]) {
                    *operand = take(patch, *operand, &self.part, own);
                }
            }
        }
        Ok(self.again(patch, &operands))
    }

    /// A Slice of a Slice: of the same axis they are one, else the one of the earlier axis comes first.
    fn slice(&self, patch: &mut Patch) -> Result<Operand, Miss> {
        let (inner, outer) = (sliced(self.m, self.node)?, self.part);
        if inner.axis == outer.axis {
            let both = Slice {
                start: inner.start + outer.start * inner.step,
                step: inner.step * outer.step,
                ..outer
            };
            return Ok(take(patch, inner.x.into(), &both, outer.axis));
        }
        if outer.axis > inner.axis {
            return Err(Miss::NoMatch);
        }
        let x = take(patch, inner.x.into(), &outer, outer.axis);
        Ok(take(patch, x, &inner, inner.axis))
    }

    /// The part of what a Reshape reads.
    fn reshaped(&self, patch: &mut Patch) -> Result<Operand, Miss> {
        let x = input(self.m, self.node, 0)?;
        let (from, to) = (dims_of_elements(self.m, x)?, &self.whole);
        let Slice { axis, start, len, step, .. } = self.part;
        let before = |dims: &[i64], at: usize| dims[..at].iter().product::<i64>();
        let all = to[axis];
        for j in 0..from.len() {
            let outer = before(&from, j);
            // The same axis.
            if outer == before(to, axis) && from[j] == all {
                return Ok(take(patch, x.into(), &self.part, j));
            }
            // The axis is joined from two, perhaps with axes of length 1 between them: one entry of the second, of every
            // entry of the first.
            let next = (j + 1..from.len()).find(|&k| from[k] != 1);
            if let Some(next) = next
                && outer == before(to, axis)
                && from[j] * from[next] == all
            {
                let inner = from[next];
                let next = next as i64;
                if step == inner && start < inner && len == from[j] {
                    return Ok(patch.slice(x.into(), next, start, start + 1));
                }
                // Or a piece of one entry of the first.
                if step == 1 && start / inner == (start + len - 1) / inner {
                    let row = patch.slice(x.into(), j as i64, start / inner, start / inner + 1);
                    let at = start % inner;
                    return Ok(patch.slice(row, next, at, at + len));
                }
            }
            // The axis is split off: the second of two, of whose rows every so many are taken, which opset 10 brought,
            if axis > 0
                && patch.opset() >= 10
                && outer == before(to, axis - 1)
                && from[j] == to[axis - 1] * all
                && len == 1
            {
                let last = from[j] - all + start + 1;
                return Ok(patch.slice_by(x.into(), j as i64, start, last, all));
            }
            // or the first.
            if let Some(&inner) = to.get(axis + 1)
                && outer == before(to, axis)
                && from[j] == all * inner
                && step == 1
            {
                return Ok(patch.slice(x.into(), j as i64, start * inner, (start + len) * inner));
            }
        }
        unmet("the reshape mixes rows")
    }
}

#[cfg(test)]
mod tests {
    use super::NarrowToUsedRows;
    use crate::testing::{check_skip, rewritten, untouched};

    /// The last lines of a graph that takes a part of one node's result.
    fn narrowed(inputs: &str, constants: &str, output: &str, nodes: &str) -> String {
        let text = format!(
            "g ({inputs}) => (float[{output}] y) <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}{constants}> {{ {nodes} }}"
        );
        let seen = rewritten(&NarrowToUsedRows, &text);
        let nodes = seen.split("> {\n").nth(1).unwrap_or_default();
        nodes.trim_end_matches("}\n").trim_end().to_owned()
    }

    #[test]
    fn two_outputs_stay_two() {
        check_skip(
            &NarrowToUsedRows,
            "g (float[2,3,4] a) => (float[2,1,4] y, float[2,1,4] z) <int64[1] zero = {0}, int64[1] one = {1}>
             { x = Relu (a)  y = Slice (x, zero, one, one)  z = Slice (x, zero, one, one) }",
            "one value would need two public names",
        );
    }

    #[test]
    fn parts_are_taken_first() {
        for (inputs, constants, output, nodes, want) in [
            (
                "float[2,3,4] a, float[3,1] b",
                "",
                "2,1,4",
                "x = Add (a, b)  y = Slice (x, zero, one, one)",
                "y = Add (y_Slice, y_Slice_1)",
            ),
            (
                "float[2,3,4] a, float[4] b",
                "",
                "2,1,4",
                "x = Add (a, b)  y = Slice (x, zero, one, one)",
                "y = Add (y_Slice, b)",
            ),
            (
                "float[2,3,4] a",
                "",
                "2,1,4",
                "x = Softmax (a)  y = Slice (x, zero, one, one)",
                "y = Softmax (y_Slice)",
            ),
            (
                "float[2,3,4] a, float[2,4,5] b",
                "",
                "2,1,5",
                "x = MatMul (a, b)  y = Slice (x, zero, one, one)",
                "y = MatMul (y_Slice, b)",
            ),
            (
                "float[2,3,4] a, float[2,4,5] b",
                "",
                "2,3,1",
                "x = MatMul (a, b)  y = Slice (x, zero, one, two)",
                "y = MatMul (a, y_Slice)",
            ),
            (
                "float[2,3,4] a, float[2,4,5] b",
                "",
                "1,3,5",
                "x = MatMul (a, b)  y = Slice (x, zero, one, zero)",
                "y = MatMul (y_Slice, y_Slice_1)",
            ),
            (
                "float[3,4] a, float[4,5] b, float[3,5] c",
                "",
                "1,5",
                "x = Gemm (a, b, c)  y = Slice (x, zero, one, zero)",
                "y = Gemm (y_Slice, b, y_Slice_1)",
            ),
            (
                "float[2,3,4] a",
                "",
                "2,4,1",
                "x = Transpose <perm = [0, 2, 1]> (a)  y = Slice (x, zero, one, two)",
                "y = Transpose <perm: ints = [0, 2, 1]> (y_Slice)",
            ),
            (
                "float[2,6] a",
                ", int64[3] s = {2, 3, 2}",
                "2,1,2",
                "x = Reshape (a, s)  y = Slice (x, one, two, one)",
                "y = Reshape (y_Slice, y_const",
            ),
            (
                "float[2,3,4] a",
                ", int64[2] s = {6, 4}, int64[1] five = {5}, int64[1] three = {3}",
                "2,4",
                "x = Reshape (a, s)  y = Slice (x, one, five, zero, three)",
                "y = Reshape (y_Slice, y_const",
            ),
            (
                "float[2,1,3,4] a",
                ", int64[2] s = {6, 4}, int64[1] five = {5}, int64[1] three = {3}",
                "2,4",
                "x = Reshape (a, s)  y = Slice (x, one, five, zero, three)",
                "y = Reshape (y_Slice, y_const",
            ),
            (
                "float[6,4] a",
                ", int64[3] s = {2, 3, 4}",
                "2,1,4",
                "x = Reshape (a, s)  y = Slice (x, one, two, one)",
                "y = Reshape (y_Slice, y_const",
            ),
            (
                "float[4,6] a",
                "",
                "1,1",
                "x = Slice (a, one, two, one)  y = Slice (x, zero, one, zero)",
                "y = Slice (y_Slice, y_const",
            ),
        ] {
            let seen = narrowed(inputs, constants, output, nodes);
            let last = seen.lines().last().unwrap_or_default().trim();
            assert!(last.starts_with(want), "{nodes}: {seen}");
        }
    }

    #[test]
    fn what_is_read_twice_is_computed_once() {
        let nodes = "x = Erf (a)  b = Slice (x, zero, one, one)  c = Slice (x, zero, one, one)  y = Add (c, b)";
        let seen = narrowed("float[2,3,4] a", "", "2,1,4", nodes);
        assert_eq!(seen.matches("Erf").count(), 1, "{seen}");
    }

    #[test]
    fn look_alikes_stay() {
        for (nodes, outputs, why) in [
            (
                "x = Softmax <axis = 1> (a)  y = Slice (x, zero, one, one)",
                "",
                "works along this axis",
            ),
            (
                "x = Relu (a)  y = Slice (x, zero, one, one)  z = Neg (x)",
                ", float[2,3,4] z",
                "something else reads more",
            ),
            (
                "x = Relu (a)  y = Slice (x, zero, one, one)",
                ", float[2,3,4] x",
                "something else reads more",
            ),
            (
                "b = Reshape (a, s)  x = Reshape (b, t)  y = Slice (x, zero, one, one)",
                "",
                "the reshape mixes rows",
            ),
        ] {
            let shape = if nodes.contains("Reshape") { "3,1,4" } else { "2,1,4" };
            check_skip(
                &NarrowToUsedRows,
                &format!(
                    "g (float[2,3,4] a) => (float[{shape}] y{outputs}) <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[2] s = {{4, 6}}, int64[3] t = {{3, 2, 4}}> {{ {nodes} }}"
                ),
                why,
            );
        }
    }

    #[test]
    fn inputs_are_not_sliced_twice_and_everything_is_no_part() {
        for nodes in
            ["y = Slice (a, zero, one, zero)", "x = Relu (a)  y = Slice (x, zero, two, zero)"]
        {
            let rows = if nodes.contains("Relu") { 2 } else { 1 };
            untouched(
                &NarrowToUsedRows,
                &format!(
                    "g (float[2,3] a) => (float[{rows},3] y) <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}> {{ {nodes} }}"
                ),
            );
        }
    }
}
