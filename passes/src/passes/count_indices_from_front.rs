//! count-indices-from-front

use onnxfix_ir::{DataType, Model, NodeId, Tensor};

use crate::matching::{dims, input, ints};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes constant indices that count from the back of an axis as places from its front.
    ///
    /// ## Why ATC needs it
    /// CANN 6.0 has no indices that count from the back: Huawei's sample of `VilBERT` replaces such a Gather.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,8,4] x) => (float[1,4] y) <int64 i = {-1}> { y = Gather <axis: int = 1> (x, i) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,8,4] x) => (float[1,4] y) <int64 y_const = {7}> { y = Gather <axis: int = 1> (x, y_const) }
    /// ```
    ///
    /// ## Applies when
    /// - The index of a Gather, `GatherElements` or `ScatterElements` is constant, and some of it is negative.
    /// - The length of the axis is known.
    ///
    /// ## Numerics
    /// Exact.
    pub CountIndicesFromFront = "count-indices-from-front", Legalise, Exact
}

impl Rewrite for CountIndicesFromFront {
    fn roots(&self) -> &'static [&'static str] {
        &["Gather", "GatherElements", "ScatterElements"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (x, index) = (input(m, root, 0)?, input(m, root, 1)?);
        let Some(tensor) = m.constant(index) else { return Err(Miss::NoMatch) };
        let places = ints(m, index)?;
        if places.iter().all(|&i| i >= 0) {
            return Err(Miss::NoMatch);
        }
        let dims = dims(m, x)?;
        let axis = m[root].attrs.int("axis").unwrap_or(0);
        let axis = onnxfix_ir::op::normal_axis(axis, dims.len()).map_err(|_| Miss::NoMatch)?;
        let from_front = |i: i64| if i < 0 { i.checked_add(dims[axis]) } else { Some(i) };
        let places: Option<Vec<i64>> = places.into_iter().map(from_front).collect();
        // What is in front of the first element is no place.
        let places = places.filter(|all| all.iter().all(|&i| i >= 0)).ok_or(Miss::NoMatch)?;
        let counted = if tensor.dtype == DataType::Int32 {
            let small: Result<Vec<i32>, _> = places.into_iter().map(i32::try_from).collect();
            Tensor::new(&tensor.dims, small.map_err(|_| Miss::NoMatch)?)
        } else {
            Tensor::new(&tensor.dims, places)
        };
        let mut patch = Patch::new(m, root);
        let counted = patch.constant(counted);
        patch.set_input(root, 1, counted);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::CountIndicesFromFront;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn the_type_and_what_counts_from_the_front_stay() {
        let after = rewritten(
            &CountIndicesFromFront,
            "g (float[2,5] x) => (float[2,3] y) <int32[2,3] i = {0, -1, 4, -5, 1, -2}> { y = GatherElements <axis = -1> (x, i) }",
        );
        assert!(after.contains("int32[2,3] y_const = {0, 4, 4, 0, 1, 3}"), "{after}");
    }

    #[test]
    fn places_that_are_none_stay() {
        untouched(
            &CountIndicesFromFront,
            "g (float[2] x) => (float[1] y) <int64[1] i = {-3}> { y = Gather (x, i) }",
        );
    }

    #[test]
    fn the_end_of_an_open_axis_is_unknown() {
        check_skip(
            &CountIndicesFromFront,
            "g (float[N] x) => (float[1] y) <int64[1] i = {-1}> { y = Gather (x, i) }",
            "not static",
        );
    }
}
