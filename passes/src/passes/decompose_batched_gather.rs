//! decompose-batched-gather

use onnxfix_ir::{Model, NodeId, Tensor};

use crate::matching::{dims_of_elements, input, output};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes the places of the batch into the index of a `GatherND` that has batches of its own.
    ///
    /// ## Why ATC needs it
    /// It refuses a `GatherND` with `batch_dims` (E11010).
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,8,4] x, int64[2,1] last) => (float[2,4] y) { y = GatherND <batch_dims: int = 1> (x, last) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,8,4] x, int64[2,1] last) => (float[2,4] y) <int64[2,1] y_const = {0, 1}> {
    ///    y_Concat = Concat <axis: int = -1> (y_const, last)
    ///    y = GatherND (x, y_Concat)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The dimensions of the index are static, and it has elements.
    ///
    /// ## Numerics
    /// Exact.
    pub DecomposeBatchedGather = "decompose-batched-gather", Legalise, Exact
}

impl Rewrite for DecomposeBatchedGather {
    fn roots(&self) -> &'static [&'static str] {
        &["GatherND"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, index, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let batches = m[root].attrs.int("batch_dims").unwrap_or(0);
        let batches = usize::try_from(batches).ok().filter(|&b| b > 0).ok_or(Miss::NoMatch)?;
        let dims = dims_of_elements(m, index)?;
        let Some((_, tuples)) = dims.split_last().filter(|(_, t)| t.len() >= batches) else {
            return Err(Miss::NoMatch);
        };
        let place = |tuple: i64, axis: usize| {
            tuple / tuples[axis + 1..].iter().product::<i64>() % tuples[axis]
        };
        let places: Vec<i64> = (0..tuples.iter().product::<i64>())
            .flat_map(|tuple| (0..batches).map(move |axis| (tuple, axis)))
            .map(|(tuple, axis)| place(tuple, axis))
            .collect();
        let of_places: Vec<i64> = tuples.iter().copied().chain([batches as i64]).collect();
        let mut patch = Patch::new(m, root);
        let places = patch.constant(Tensor::new(&of_places, places));
        let whole = patch.concat(&[places, index.into()], -1);
        let gathered = patch.node("GatherND", &[x.into(), whole]);
        patch.replace(y, gathered);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::DecomposeBatchedGather;
    use crate::testing::{check_skip, computed, untouched};

    #[test]
    fn two_axes_of_batches_are_counted_in_row_major_order() {
        let text = "g () => (float[2,2,2] y) <float[2,2,3] x = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, int64[2,2,2,1] i = {0, 1, 2, 0, 1, 1, -1, 0}> {
   e = GatherND <batch_dims = 2> (x, i)  y = Identity (e) }";
        assert_eq!(computed(Some(&DecomposeBatchedGather), text), computed(None, text));
    }

    #[test]
    fn one_without_batches_stays() {
        untouched(
            &DecomposeBatchedGather,
            "g (float[2,3] x, int64[2,1] i) => (float[2,3] y) { y = GatherND (x, i) }",
        );
    }

    #[test]
    fn batches_of_unknown_length_stay() {
        check_skip(
            &DecomposeBatchedGather,
            "g (float[N,3] x, int64[N,1] i) => (float[N] y) { y = GatherND <batch_dims = 1> (x, i) }",
            "not static",
        );
    }
}
