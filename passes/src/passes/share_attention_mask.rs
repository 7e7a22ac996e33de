//! share-attention-mask

use onnxfix_ir::{Model, NodeId, ValueId};

use crate::matching::{
    Dims, ProductOf, SWALLOWS, dims, dims_of_elements, dtype, float, input, is_along_last,
    is_reshape, output, producer, product_of, reduces_last, uniform, used_once,
};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Masks attention by one sum that all layers share, where each layer chose with `Where`.
    ///
    /// ## Why ATC needs it
    /// DeBERTa's layers each put the smallest number in the place of masked scores, on the largest tensors of the model, and
    /// some exports clear the probabilities once more. A sum does the same, is what ATC's attention patterns have, and
    /// the mask is made once.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,2,3,3] s, bool[1,1,3,3] hidden, float[1,2,3,4] v) => (float[1,2,3,4] y) <float low = {-3e38}, float zero = {0}> {
    ///    masked = Where (hidden, low, s)
    ///    p = Softmax <axis: int = -1> (masked)
    ///    cleared = Where (hidden, zero, p)
    ///    y = MatMul (cleared, v)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,2,3,3] s, bool[1,1,3,3] hidden, float[1,2,3,4] v) => (float[1,2,3,4] y) <float low = {-3e38}, float y_const = {0}, float y_const_1 = {1}> {
    ///    y_Where = Where (hidden, low, y_const)
    ///    y_Add = Add (s, y_Where)
    ///    y_Softmax = Softmax <axis: int = 3> (y_Add)
    ///    y_MatMul = MatMul (y_Softmax, v)
    ///    y_Cast = Cast <to: int = 1> (hidden)
    ///    y_ReduceMin = ReduceMin <axes: ints = [3]> (y_Cast)
    ///    y_Sub = Sub (y_const_1, y_ReduceMin)
    ///    y = Mul (y_MatMul, y_Sub)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Softmax along the last axis reads a Where that puts one number, at most -1e30, in place of scores. The mask has
    ///   the length of the last axis there, and does not widen the scores.
    /// - Where a Where behind the Softmax clears the same places, a product with the values is all that reads it: rows that
    ///   are masked whole are then cleared in the product.
    /// - The largest score of a row, subtracted before, is left out: a Softmax takes no notice of it.
    ///
    /// ## Numerics
    /// Any score plus the number is the number. Without the shift of the scores, and with sums that are cleared instead of
    /// probabilities, roundings differ.
    pub ShareAttentionMask = "share-attention-mask", Simplify, Relative(1e-6)
}

impl Rewrite for ShareAttentionMask {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (masked, p) = (input(m, root, 0)?, output(m, root)?);
        let where_ = producer(m, masked, "Where")?;
        let condition = input(m, where_, 0)?;
        let number = |slot: usize| uniform(m, m[where_].input(slot)?).filter(|&n| n <= SWALLOWS);
        // The condition tells what is hidden, or what is shown.
        let (is_hidden, number) = match (number(1), number(2)) {
            (Some(number), None) => (true, number),
            (None, Some(number)) => (false, number),
            _ => return Err(Miss::NoMatch),
        };
        let slots = if is_hidden { [1, 2] } else { [2, 1] };
        let [low, scores] = slots.map(|slot| input(m, where_, slot));
        let (low, scores) = (low?, scores?);
        let shape = dims_of_elements(m, masked)?;
        let last = shape.len() as i64 - 1;
        if !is_along_last(m, root, shape.len()) {
            return unmet("the Softmax is not along the last axis");
        }
        if m.constant(low).is_none_or(|t| t.dims.len() > shape.len()) || dims(m, scores)? != shape {
            return unmet("the mask widens the scores");
        }
        if dims(m, condition)?.last() != shape.last() {
            return unmet("the mask is not along the last axis");
        }
        if !used_once(m, masked) {
            return unmet("something else reads the masked scores");
        }
        let cleared = cleared(m, p, condition, is_hidden)?;
        if number.is_infinite() && cleared.is_none() {
            return unmet("a row that is masked whole would change");
        }
        let root = cleared.as_ref().map_or(root, |c| c.product);
        let ty = dtype(m, p)?;
        let mut patch = Patch::new(m, root);
        let (scores, shifted) = unshifted(m, scores);
        let scores = if shifted { patch.reshape(scores.into(), &shape) } else { scores.into() };
        let low =
            if number.is_infinite() { patch.constant(float(ty, LOWEST)?) } else { low.into() };
        let zero = patch.constant(float(ty, 0.0)?);
        let bias =
            if is_hidden { [condition.into(), low, zero] } else { [condition.into(), zero, low] };
        let bias = patch.node("Where", &bias);
        let biased = patch.node("Add", &[scores, bias]);
        let Some(ProductOf { product, reshaped }) = cleared else {
            patch.set_input(root, 0, biased);
            return Ok(patch);
        };
        let mut attrs = onnxfix_ir::Attrs::default();
        attrs.set("axis", last);
        let p = patch.node_with("Softmax", &[biased], attrs);
        let p = match &reshaped {
            Some(dims) => patch.reshape(p, dims),
            None => p,
        };
        let (values, y) = (input(m, product, 1)?, output(m, product)?);
        let sums = patch.node("MatMul", &[p, values.into()]);
        // A row without a key that counts has no sum.
        let of_y = dims_of_elements(m, y)?;
        let rows: Dims = shape[..shape.len() - 1].iter().chain(of_y.last()).copied().collect();
        let sums = if rows == of_y { sums } else { patch.reshape(sums, &rows) };
        let along = dims(m, condition)?.len() as i64 - 1;
        let negated = producer(m, condition, "Not").and_then(|not| input(m, not, 0));
        let shown = if is_hidden { negated.ok() } else { Some(condition) };
        let some = if let Some(shown) = shown {
            let shown = patch.cast(shown.into(), ty);
            patch.reduce("ReduceMax", shown, along)
        } else {
            let hidden = patch.cast(condition.into(), ty);
            let all = patch.reduce("ReduceMin", hidden, along);
            let one = patch.constant(float(ty, 1.0)?);
            patch.node("Sub", &[one, all])
        };
        let sums = patch.node("Mul", &[sums, some]);
        let result = if rows == of_y { sums } else { patch.reshape(sums, &of_y) };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// What stands for minus infinity in a sum: finite in float and bfloat16, and any score swallows nothing of it.
const LOWEST: f64 = -3e38;

/// What clears the same places of the probabilities again.
fn cleared(
    m: &Model,
    p: ValueId,
    condition: ValueId,
    is_hidden: bool,
) -> Result<Option<ProductOf>, Miss> {
    let (zero, kept) = if is_hidden { (1, 2) } else { (2, 1) };
    let clears = |n: NodeId| {
        m[n].op().is("Where")
            && m[n].input(0) == Some(condition)
            && m[n].input(zero).and_then(|v| uniform(m, v)) == Some(0.0)
            && m[n].input(kept) == Some(p)
    };
    let Some(where_) = m.users(p).find(|&n| clears(n)) else { return Ok(None) };
    let read = output(m, where_)?;
    if !used_once(m, p) || dims(m, read)? != dims(m, p)? {
        return unmet("something else reads the probabilities");
    }
    product_of(m, read).map(Some)
}

/// The scores without a shift by the largest one of each row, and whether they need the shape that they had.
fn unshifted(m: &Model, scores: ValueId) -> (ValueId, bool) {
    let found = || -> Result<(ValueId, bool), Miss> {
        let maker = m.producer(scores).ok_or(Miss::NoMatch)?;
        let shifted = if is_reshape(m, maker) { input(m, maker, 0)? } else { scores };
        let sub = producer(m, shifted, "Sub")?;
        let (x, largest) = (input(m, sub, 0)?, input(m, sub, 1)?);
        let max = producer(m, largest, "ReduceMax")?;
        let of_x = dims(m, x)?;
        reduces_last(m, max, of_x.len())?;
        let is_same_row = of_x.last() == dims(m, scores)?.last();
        if input(m, max, 0)? == x && is_same_row {
            Ok((x, shifted != scores))
        } else {
            Err(Miss::NoMatch)
        }
    };
    found().unwrap_or((scores, false))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::ShareAttentionMask;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn the_shift_goes_and_heads_may_be_merged_with_the_batch() {
        assert_snapshot!(rewritten(&ShareAttentionMask, "
g (float[4,3,3] s, bool[2,1,3,3] hidden, float[4,3,5] v) => (float[4,3,5] y) <float low = {-inf}, float zero = {0}, int64[4] split = {2, 2, 3, 3}, int64[3] merged = {4, 3, 3}> {
   largest = ReduceMax <axes = [-1]> (s)  shifted = Sub (s, largest)  four = Reshape (shifted, split)
   masked = Where (hidden, low, four)  p = Softmax <axis = 3> (masked)  cleared = Where (hidden, zero, p)
   three = Reshape (cleared, merged)  y = MatMul (three, v)
}"), @r"
        g (float[4,3,3] s, bool[2,1,3,3] hidden, float[4,3,5] v) => (float[4,3,5] y) <
           float low = {-inf},
           float zero = {0},
           int64[4] split = {2, 2, 3, 3},
           int64[3] merged = {4, 3, 3},
           int64[4] y_const = {2, 2, 3, 3},
           float y_const_1 = {-3e38},
           float y_const_2 = {0},
           int64[3] y_const_3 = {4, 3, 3},
           int64[4] y_const_4 = {2, 2, 3, 5},
           float y_const_5 = {1},
           int64[3] y_const_6 = {4, 3, 5}
        > {
           y_Reshape = Reshape (s, y_const)
           y_Where = Where (hidden, y_const_1, y_const_2)
           y_Add = Add (y_Reshape, y_Where)
           y_Softmax = Softmax <axis: int = 3> (y_Add)
           y_Reshape_1 = Reshape (y_Softmax, y_const_3)
           y_MatMul = MatMul (y_Reshape_1, v)
           y_Reshape_2 = Reshape (y_MatMul, y_const_4)
           y_Cast = Cast <to: int = 1> (hidden)
           y_ReduceMin = ReduceMin <axes: ints = [3]> (y_Cast)
           y_Sub = Sub (y_const_5, y_ReduceMin)
           y_Mul = Mul (y_Reshape_2, y_Sub)
           y = Reshape (y_Mul, y_const_6)
        }
        ");
    }

    #[test]
    fn a_mask_that_is_negated_is_asked_for_what_is_shown() {
        let seen = rewritten(&ShareAttentionMask, "
g (float[3,3] s, bool[3,3] shown, float[3,5] v) => (float[3,5] y) <float low = {-inf}, float zero = {0}> {
   hidden = Not (shown)  masked = Where (hidden, low, s)  p = Softmax (masked)  cleared = Where (hidden, zero, p)
   y = MatMul (cleared, v)
}");
        let shown = rewritten(&ShareAttentionMask, "
g (float[3,3] s, bool[3,3] shown, float[3,5] v) => (float[3,5] y) <float low = {-inf}, float zero = {0}> {
   masked = Where (shown, s, low)  p = Softmax (masked)  cleared = Where (shown, p, zero)  y = MatMul (cleared, v)
}");
        assert!(shown.contains("ReduceMax") && !shown.contains("cleared"), "{shown}");
        assert!(seen.contains("ReduceMax") && !seen.contains("Sub"), "{seen}");
    }

    #[test]
    fn without_clearing_only_the_choice_becomes_a_sum() {
        assert_snapshot!(rewritten(&ShareAttentionMask, "
g (float[2,3,3] s, bool[3] hidden) => (float[2,3,3] p) <float low = {-3e38}> {
   masked = Where (hidden, low, s)  p = Softmax (masked)
}"), @r"
        g (float[2,3,3] s, bool[3] hidden) => (float[2,3,3] p) <
           float low = {-3e38},
           float p_const = {0}
        > {
           p_Where = Where (hidden, low, p_const)
           p_Add = Add (s, p_Where)
           p = Softmax (p_Add)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        let graph = |hidden: &str, low: &str, more: &str, nodes: &str| {
            format!(
                "g (float[2,3,3] s, bool[{hidden}] hidden) => (float[2,3,3] p{more}) <float low = {{{low}}}, float zero = {{0}}> {{ masked = Where (hidden, low, s)  {nodes} }}"
            )
        };
        for (hidden, low, more, nodes, why) in [
            ("3,1", "-3e38", "", "p = Softmax (masked)", "the mask is not along the last axis"),
            ("3,3", "-3e38", "", "p = Softmax <axis = 1> (masked)", "not along the last axis"),
            (
                "3,3",
                "-3e38",
                ", float[2,3,3] masked",
                "p = Softmax (masked)",
                "something else reads the masked",
            ),
            ("3,3", "-inf", "", "p = Softmax (masked)", "masked whole would change"),
            (
                "3,3",
                "-inf",
                ", float[2,3,3] q",
                "p = Softmax (masked)  q = Where (hidden, zero, p)",
                "something else reads",
            ),
        ] {
            check_skip(&ShareAttentionMask, &graph(hidden, low, more, nodes), why);
        }
        for low in ["-1000", "5"] {
            untouched(&ShareAttentionMask, &graph("3,3", low, "", "p = Softmax (masked)"));
        }
    }
}
