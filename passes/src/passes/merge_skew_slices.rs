//! merge-skew-slices

use onnxfix_ir::{Model, NodeId};

use crate::cost::{LEAST, pays};
use crate::matching::{dims, is_computed};
use crate::skew::Skew;
use crate::{CostModel, Miss, Patch, Rewrite, Storage, declare_pass, unmet};

declare_pass! {
    /// Reads the band of a product that *decompose-gather-elements* leaves by one slice with steps instead of two slices.
    ///
    /// ## Why ATC needs it
    /// Two slices copy three times as many elements as the band has, and the second one reads rows of odd length, which
    /// begin anywhere in the blocks of 32 bytes that an NPU moves. With one column more, the product can be seen in rows as
    /// long as those of the band, of which every second one is wanted: one copy of aligned rows. Whether that is
    /// faster than what the column costs the target says.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,8] q, float[8,4] t) => (float[2,2] y) <int64[1] flat = {8}, int64[1] one = {1}, int64[1] seven = {7}, int64[1] zero = {0}, int64[2] rows = {2, 3}, int64[1] two = {2}> {
    ///    p = MatMul (q, t)
    ///    a = Reshape (p, flat)
    ///    b = Slice (a, one, seven, zero)
    ///    c = Reshape (b, rows)
    ///    y = Slice (c, zero, two, one)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,8] q, float[8,4] t) => (float[2,2] y) <int64[1] y_const = {0}, int64[1] y_const_1 = {1}, int64[2] y_const_2 = {5, 2}, int64[1] y_const_3 = {4}, int64[1] y_const_4 = {2}> {
    ///    y_Slice = Slice (t, y_const, y_const_1, y_const_1)
    ///    y_Concat = Concat <axis: int = 1> (y_Slice, t)
    ///    y_MatMul = MatMul (q, y_Concat)
    ///    y_Reshape = Reshape (y_MatMul, y_const_2)
    ///    y = Slice (y_Reshape, y_const_1, y_const_3, y_const, y_const_4)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A product of `n` rows and `2n` columns is flattened, cut from `n - 1` on, seen with one column less, of which `n`
    ///   are taken; nothing else reads it on the way.
    /// - On the target the product with `2n + 1` columns and one copy take less time, by more than the target's costs are
    ///   uncertain.
    ///
    /// ## Numerics
    /// Exact: the same dot products.
    pub MergeSkewSlices = "merge-skew-slices", Simplify, Exact
}

impl Rewrite for MergeSkewSlices {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let skew = Skew::of(m, root)?;
        let mut patch = Patch::new(m, root);
        if patch.opset() < 10 {
            return unmet("a Slice has steps from opset 10 on");
        }
        let (view, axis) = skew.rows(&mut patch);
        let band = patch.slice_by(view, axis, 1, 2 * skew.n, 2);
        patch.replace(skew.y, band);
        Ok(patch)
    }

    fn choose(&self, m: &Model, root: NodeId, costs: &dyn CostModel) -> Result<Patch, Miss> {
        let skew = Skew::of(m, root)?;
        let size = |dims: &[i64]| dims.iter().map(|d| d.unsigned_abs()).product::<u64>();
        let (planes, n) = (size(&skew.front), skew.n.unsigned_abs());
        let depth = dims(m, skew.left)?.last().map_or(1, |d| d.unsigned_abs());
        let at = Storage::of(2 * planes * n * n, costs);
        let product = |columns| costs.product([planes, n, depth, columns], at);
        let (cut, band) = (planes * n * (2 * n - 1), planes * n * n);
        let two = product(2 * n) + costs.copy(cut, cut, at) + costs.copy(band, band, at);
        // The rows between those that are wanted lie in the same pages of memory.
        let mut one = product(2 * n + 1) + costs.copy(2 * band, band, at);
        if !is_computed(m, skew.table) {
            let table = size(&dims(m, skew.table)?);
            one += costs.copy(table, table, Storage::Memory);
        }
        if !pays(two, one, LEAST) {
            return unmet(format!("one slice would take {one:.1} µs and two take {two:.1} µs"));
        }
        self.try_rewrite(m, root)
    }
}

#[cfg(test)]
mod tests {
    use super::MergeSkewSlices;
    use crate::testing::{Costs, check_skip, chosen, untouched};

    fn graph(start: i64, take: &str) -> String {
        let end = start + 6;
        format!(
            "g (float[2,8] q, float[8,4] t) => (float[2,2] y) <int64[1] flat = {{8}}, int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] zero = {{0}}, int64[2] rows = {{2, 3}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}> {{
                p = MatMul (q, t)  a = Reshape (p, flat)  b = Slice (a, s, e, zero)  c = Reshape (b, rows)  y = Slice (c, {take}, one)
            }}"
        )
    }

    #[test]
    fn other_bands_stay() {
        untouched(&MergeSkewSlices, &graph(2, "zero, two"));
        untouched(&MergeSkewSlices, &graph(1, "one, three"));
    }

    #[test]
    fn a_slice_without_steps_stays() {
        let skew = graph(1, "zero, two").replace(
            "b = Slice (a, s, e, zero)",
            "b = Slice <starts: ints = [1], ends: ints = [7], axes: ints = [0]> (a)",
        );
        let skew = skew.replace(
            "y = Slice (c, zero, two, one)",
            "y = Slice <starts: ints = [0], ends: ints = [2], axes: ints = [1]> (c)",
        );
        let model = format!("<ir_version: 4, opset_import: [\"\" : 9]> {skew}");
        check_skip(&MergeSkewSlices, &model, "from opset 10 on");
    }

    #[test]
    fn the_target_decides() {
        let skew = graph(1, "zero, two")
            .replace(", float[8,4] t)", ")")
            .replace("int64[1] flat", "int64[2] sizes = {8, 4}, int64[1] flat")
            .replace("p = MatMul", "t = ConstantOfShape (sizes)  p = MatMul");
        let slow_starts = Costs { start: 1.0, ..Costs::default() };
        assert!(chosen(&MergeSkewSlices, &skew, slow_starts).is_ok());
        let slow_products = Costs { multiplied: 1.0, ..Costs::default() };
        let why = chosen(&MergeSkewSlices, &skew, slow_products).expect_err("stays");
        assert_eq!(why, "one slice would take 80.0 µs and two take 64.0 µs");
    }
}
