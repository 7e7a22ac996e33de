//! decompose-gather-elements

use std::sync::Arc;

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};

use crate::matching::{
    Dims, computed, dims, dims_of_elements, first, input, is_reshape, output, period, producer,
    used_once,
};
use crate::patch::attrs;
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Replaces a `GatherElements` by relative position with a table that has one column per distance, and two slices.
    ///
    /// ## Why ATC needs it
    /// DeBERTa reads its position scores by `GatherElements`, twice in every layer, which an NPU does element by element.
    /// The index depends on the distance `i - j` only, so the columns of the table can be put in order of
    /// distance, which folds where it is constant. Row `i` of the product then holds what is wanted in one piece that starts one column
    /// further left in each row, and a view of the product with rows one shorter makes these pieces stand below
    /// each other.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[4,2,8] q, float[8,3] table) => (float[4,2,2] y) <int64[4,2,2] index = {1, 0, 2, 1, 1, 0, 2, 1, 1, 0, 2, 1, 1, 0, 2, 1}> {
    ///    scores = MatMul (q, table)
    ///    y = GatherElements <axis: int = -1> (scores, index)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[4,2,8] q, float[8,3] table) => (float[4,2,2] y) <int64[4] y_const = {2, 1, 0, 0}, int64[2] y_const_1 = {4, 8}, int64[1] y_const_2 = {1}, int64[1] y_const_3 = {7}, int64[3] y_const_4 = {4, 2, 3}, int64[1] y_const_5 = {0}, int64[1] y_const_6 = {2}> {
    ///    y_Gather = Gather <axis: int = -1> (table, y_const)
    ///    y_MatMul = MatMul (q, y_Gather)
    ///    y_Reshape = Reshape (y_MatMul, y_const_1)
    ///    y_Slice = Slice (y_Reshape, y_const_2, y_const_3, y_const_2)
    ///    y_Reshape_1 = Reshape (y_Slice, y_const_4)
    ///    y = Slice (y_Reshape_1, y_const_5, y_const_6, y_const_6)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The index is constant, equal for all batches and heads, and on the last axis depends on `i - j` only. An index
    ///   on the axis before is taken for the transposed problem.
    /// - The scores are a MatMul that nothing else reads, perhaps with batch and heads merged; its shapes are static, and
    ///   there are elements.
    ///
    /// ## Numerics
    /// Exact: the same dot products, at other places.
    pub DecomposeGatherElements = "decompose-gather-elements", Decompose, Exact
}

impl Rewrite for DecomposeGatherElements {
    fn roots(&self) -> &'static [&'static str] {
        &["GatherElements"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (scores, index, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let (product, front) = product(m, scores)?;
        let (from, to) = (dims(m, scores)?, dims_of_elements(m, y)?);
        let rank = to.len();
        if rank < 2 || from.len() != rank || from[..rank - 2] != to[..rank - 2] {
            return unmet("the index leaves out batches or heads");
        }
        let last = match m[root].attrs.int("axis").unwrap_or(0) {
            axis if axis == -1 || axis == rank as i64 - 1 => true,
            axis if axis == -2 || axis == rank as i64 - 2 => false,
            axis => return unmet(format!("axis {axis} is neither of the last two")),
        };
        let (row_axis, axis) = if last { (rank - 2, rank - 1) } else { (rank - 1, rank - 2) };
        let (rows, columns) = (to[row_axis], to[axis]);
        let (read, width) = (from[row_axis], from[axis]);
        if rows != read {
            return unmet("the index leaves out rows");
        }
        let of_distance = by_distance(&*plane(m, index, rank)?, rows, columns, width, last)?;

        let (left, right) = (input(m, product, 0)?, input(m, product, 1)?);
        let mut patch = Patch::new(m, root);
        // One column more than there are distances, so that the width is even where rows and columns are.
        let order: Vec<i64> =
            of_distance.iter().rev().chain(of_distance.first()).copied().collect();
        let order = patch.constant(Tensor::ints(&order));
        let along = |axis: i64| attrs([("axis", axis.into())]);
        let product = if last {
            let table = patch.node_with("Gather", &[right.into(), order], along(-1));
            patch.node("MatMul", &[left.into(), table])
        } else {
            let table = patch.node_with("Gather", &[left.into(), order], along(-2));
            let table = turned(&mut patch, m, table, left)?;
            let other = turned(&mut patch, m, right.into(), right)?;
            patch.node("MatMul", &[other, table])
        };
        let skewed = skew(&mut patch, product, &front, rows, columns);
        let result = if last { skewed } else { patch.swap_last(skewed, front.len() + 2) };
        let viewed = front[..] != to[..rank - 2];
        let result = if viewed { patch.reshape(result, &to) } else { result };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The index; where it is repeated for all batches and heads, what is repeated.
fn plane(m: &Model, index: ValueId, rank: usize) -> Result<Arc<Tensor>, Miss> {
    let to = dims(m, index)?;
    if let Ok(expand) = producer(m, index, "Expand") {
        let narrow = input(m, expand, 0)?;
        if dims(m, narrow)?.ends_with(&to[rank - 2..]) {
            return computed(m, narrow);
        }
    }
    computed(m, index)
}

/// The MatMul that makes the scores, and its axes before the last two: heads may be merged with the batch behind it.
fn product(m: &Model, scores: ValueId) -> Result<(NodeId, Dims), Miss> {
    if !used_once(m, scores) {
        return unmet("something else reads the scores");
    }
    let maker = m.producer(scores).ok_or(Miss::NoMatch)?;
    let made = if is_reshape(m, maker) { input(m, maker, 0)? } else { scores };
    let product = producer(m, made, "MatMul")?;
    let (shape, viewed) = (dims(m, made)?, dims(m, scores)?);
    let planes = |dims: &[i64]| dims.len().checked_sub(2).map(|at| dims[at..].to_vec());
    if planes(&shape) != planes(&viewed) {
        return unmet("a reshape between product and index changes rows or columns");
    }
    if made != scores && !used_once(m, made) {
        return unmet("something else reads the scores");
    }
    let front = shape[..shape.len().saturating_sub(2)].into();
    Ok((product, front))
}

/// The column of the scores that belongs to each distance from `1 - columns` to `rows - 1`.
fn by_distance(
    index: &Tensor,
    rows: i64,
    columns: i64,
    width: i64,
    last: bool,
) -> Result<Vec<i64>, Miss> {
    // Compared as bytes, of which there are many for each layer: only one plane is read as numbers.
    let planes =
        index.reshaped(&[index.dims[..index.dims.len() - 2].iter().product(), rows * columns]);
    if period(&planes) != Some(1) {
        return unmet("the index differs between batches or heads");
    }
    let plane = first(&planes, 1).and_then(|plane| plane.to_ints()).ok_or(Miss::NoMatch)?;
    let (rows, columns) = (size(rows)?, size(columns)?);
    let at = |i: usize, j: usize| {
        let n = if last { plane[i * columns + j] } else { plane[j * rows + i] };
        if n < 0 { n + width } else { n }
    };
    // Down the last column, which has the negative distances, then along it: up to 0 in row 0 and from there down.
    let mut found: Vec<i64> = (0..columns).rev().map(|j| at(0, j)).collect();
    found.extend((1..rows).map(|i| at(i, 0)));
    for i in 0..rows {
        for j in 0..columns {
            if at(i, j) != found[i + columns - 1 - j] {
                return unmet("the index does not depend on the distance alone");
            }
        }
    }
    Ok(found)
}

fn size(n: i64) -> Result<usize, Miss> {
    usize::try_from(n).map_err(|_| Miss::NoMatch)
}

/// `out[i, j] = x[i, rows - 1 - i + j]` of an `x` of `rows` and `rows + columns`: in a view with one column less, row `i`
/// starts `i` elements earlier.
fn skew(patch: &mut Patch, x: Operand, front: &[i64], rows: i64, columns: i64) -> Operand {
    let width = rows + columns;
    let flat: Dims = front.iter().copied().chain([rows * width]).collect();
    let shorter: Dims = front.iter().copied().chain([rows, width - 1]).collect();
    let axis = front.len() as i64;
    let x = patch.reshape(x, &flat);
    let x = patch.slice(x, axis, rows - 1, rows - 1 + rows * (width - 1));
    let x = patch.reshape(x, &shorter);
    patch.slice(x, axis + 1, 0, columns)
}

/// An operand with the last two axes swapped.
fn turned(patch: &mut Patch, m: &Model, x: Operand, like: ValueId) -> Result<Operand, Miss> {
    let rank = dims(m, like)?.len();
    if rank < 2 {
        return unmet("an operand of the MatMul is a vector");
    }
    Ok(patch.swap_last(x, rank))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::DecomposeGatherElements;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn an_index_on_the_rows_is_the_transposed_problem() {
        // index[j, i] depends on i - j; the scores are the table times the keys.
        assert_snapshot!(rewritten(&DecomposeGatherElements, "
g (float[1,8,2] k, float[3,8] table) => (float[1,2,2] y) <int64[1,2,2] index = {1, 0, 2, 1}> {
   scores = MatMul (table, k)  y = GatherElements <axis: int = 1> (scores, index)
}"), @r"
        g (float[1,8,2] k, float[3,8] table) => (float[1,2,2] y) <
           int64[1,2,2] index = {1, 0, 2, 1},
           int64[4] y_const = {0, 1, 2, 2},
           int64[2] y_const_1 = {1, 8},
           int64[1] y_const_2 = {1},
           int64[1] y_const_3 = {7},
           int64[3] y_const_4 = {1, 2, 3},
           int64[1] y_const_5 = {0},
           int64[1] y_const_6 = {2}
        > {
           y_Gather = Gather <axis: int = -2> (table, y_const)
           y_Transpose = Transpose <perm: ints = [1, 0]> (y_Gather)
           y_Transpose_1 = Transpose <perm: ints = [0, 2, 1]> (k)
           y_MatMul = MatMul (y_Transpose_1, y_Transpose)
           y_Reshape = Reshape (y_MatMul, y_const_1)
           y_Slice = Slice (y_Reshape, y_const_2, y_const_3, y_const_2)
           y_Reshape_1 = Reshape (y_Slice, y_const_4)
           y_Slice_1 = Slice (y_Reshape_1, y_const_5, y_const_6, y_const_6)
           y = Transpose <perm: ints = [0, 2, 1]> (y_Slice_1)
        }
        ");
    }

    #[test]
    fn rows_and_columns_may_differ_and_indices_count_from_the_back() {
        assert_snapshot!(rewritten(&DecomposeGatherElements, "
g (float[2,8] q, float[8,4] table) => (float[2,3] y) <int64[2,3] index = {2, 1, 0, -1, 2, 1}> {
   scores = MatMul (q, table)  y = GatherElements <axis: int = 1> (scores, index)
}"), @r"
        g (float[2,8] q, float[8,4] table) => (float[2,3] y) <
           int64[2,3] index = {2, 1, 0, -1, 2, 1},
           int64[5] y_const = {3, 2, 1, 0, 0},
           int64[1] y_const_1 = {10},
           int64[1] y_const_2 = {1},
           int64[1] y_const_3 = {9},
           int64[1] y_const_4 = {0},
           int64[2] y_const_5 = {2, 4},
           int64[1] y_const_6 = {3}
        > {
           y_Gather = Gather <axis: int = -1> (table, y_const)
           y_MatMul = MatMul (q, y_Gather)
           y_Reshape = Reshape (y_MatMul, y_const_1)
           y_Slice = Slice (y_Reshape, y_const_2, y_const_3, y_const_4)
           y_Reshape_1 = Reshape (y_Slice, y_const_5)
           y = Slice (y_Reshape_1, y_const_4, y_const_6, y_const_2)
        }
        ");
    }

    /// A graph over scores `[2,2,3]` with this index, its axis and what else there is.
    fn graph(index: &str, axis: i64, output: &str) -> String {
        format!(
            "g (float[2,2,8] q, float[8,3] table) => (float[2,2,2] y{output}) <int64[2,2,2] index = {{{index}}}> {{
                scores = MatMul (q, table)
                y = GatherElements <axis: int = {axis}> (scores, index)
            }}"
        )
    }

    #[test]
    fn look_alikes_stay() {
        for (index, axis, output, why) in [
            ("1, 0, 2, 2, 1, 0, 2, 2", 2, "", "does not depend on the distance alone"),
            ("1, 0, 2, 1, 0, 0, 0, 0", 2, "", "differs between batches or heads"),
            ("1, 0, 0, 1, 1, 0, 0, 1", 0, "", "axis 0 is neither of the last two"),
            ("1, 0, 2, 1, 1, 0, 2, 1", 2, ", scores", "something else reads the scores"),
        ] {
            check_skip(&DecomposeGatherElements, &graph(index, axis, output), why);
        }
    }

    #[test]
    fn an_index_that_leaves_out_rows_stays() {
        check_skip(
            &DecomposeGatherElements,
            "
g (float[3,8] q, float[8,3] table) => (float[2,2] y) <int64[2,2] index = {1, 0, 2, 1}> {
   scores = MatMul (q, table)  y = GatherElements <axis: int = 1> (scores, index)
}",
            "the index leaves out rows",
        );
    }

    #[test]
    fn an_index_that_is_repeated_when_the_model_runs_is_constant() {
        let seen = rewritten(&DecomposeGatherElements, "
g (float[9,2,8] q, float[8,3] table) => (float[9,2,2] y) <int64[1,2,2] index = {1, 0, 2, 1}, int64[3] all = {9, 2, 2}> {
   scores = MatMul (q, table)  repeated = Expand (index, all)
   y = GatherElements <axis: int = 2> (scores, repeated)
}");
        assert!(!seen.contains("GatherElements"), "{seen}");
    }

    #[test]
    fn heads_may_be_merged_behind_the_product() {
        let seen = rewritten(&DecomposeGatherElements, "
g (float[1,2,2,8] q, float[2,8,3] table) => (float[2,2,2] y) <int64[3] merged = {2, 2, 3}, int64[2,2,2] index = {1, 0, 2, 1, 1, 0, 2, 1}> {
   product = MatMul (q, table)  scores = Reshape (product, merged)
   y = GatherElements <axis: int = 2> (scores, index)
}");
        assert!(!seen.contains("GatherElements") && seen.contains("y = Reshape"), "{seen}");
    }

    #[test]
    fn scores_that_are_no_product_stay() {
        untouched(
            &DecomposeGatherElements,
            "
g (float[2,3] x) => (float[2,2] y) <int64[2,2] index = {1, 0, 2, 1}> {
   y = GatherElements <axis: int = 1> (x, index)
}",
        );
    }

    #[test]
    fn scores_without_elements_stay() {
        check_skip(
            &DecomposeGatherElements,
            "g (float[0,2,8] q, float[8,3] table) => (float[0,2,2] y) <int64[2,2] i = {1, 0, 2, 1}, int64[3] s = {0, 2, 2}>
             { index = Expand (i, s)  scores = MatMul (q, table)  y = GatherElements <axis: int = 2> (scores, index) }",
            "has no elements",
        );
    }
}
