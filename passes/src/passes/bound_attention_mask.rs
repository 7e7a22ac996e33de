//! bound-attention-mask

use onnxfix_ir::{DataType, Model, NodeId, ValueId};

use crate::matching::{
    Dims, ProductOf, SWALLOWS, dims, dims_of_elements, dtype, float, input, is_along_last,
    is_reshape, output, producer, product_of, uniform,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Masks attention by -10000 where exporters write the smallest number of float.
    ///
    /// ## Why ATC needs it
    /// In float16 that number is minus infinity, zero times it is not a number, and neither is a row of which everything is
    /// masked. -10000 leaves room for the scores, two of them still fit, and its exponential is 0. A row whose keys are
    /// all masked has equal probabilities in the original; here their mean takes the place of the product, because
    /// in a row of padding that a classifier reads (with padding on the left) it counts.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,2,3,4] q, float[1,2,4,3] k, bool[1,1,1,3] shown) => (float[1,2,3,3] p) <float low = {-3e38}, float zero = {0}> {
    ///    s = MatMul (q, k)
    ///    mask = Where (shown, zero, low)
    ///    masked = Add (s, mask)
    ///    p = Softmax <axis: int = -1> (masked)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,2,3,4] q, float[1,2,4,3] k, bool[1,1,1,3] shown) => (float[1,2,3,3] p) <float zero = {0}, float p_const = {-10000}> {
    ///    s = MatMul (q, k)
    ///    p_Where = Where (shown, zero, p_const)
    ///    p_Add = Add (s, p_Where)
    ///    p = Softmax <axis: int = -1> (p_Add)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Softmax along the last axis reads the sum of scores and a mask, which a Where of 0 and one number below -10000
    ///   makes, or the product of such a number and a mask of ones and zeros, perhaps in another shape.
    /// - A mask that differs from row to row: its number is at most -1e30, and a product with the values is all that reads
    ///   the probabilities.
    ///
    /// ## Numerics
    /// Scores stay below 5000. A sample that is all padding has another mean, over the same values.
    pub BoundAttentionMask = "bound-attention-mask", Legalise, Relative(1e-6)
}

/// What a masked score gets added.
const MASK: f64 = -1e4;
/// The most nodes between the number and the sum.
const DEPTH: usize = 6;

impl Rewrite for BoundAttentionMask {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (masked, p) = (input(m, root, 0)?, output(m, root)?);
        let sum = producer(m, masked, "Add")?;
        let (a, b) = (input(m, sum, 0)?, input(m, sum, 1)?);
        let (mask, scores) = [(a, b), (b, a)]
            .into_iter()
            .find(|&(mask, _)| number(m, mask, DEPTH).is_some())
            .ok_or(Miss::NoMatch)?;
        let shape = dims_of_elements(m, masked)?;
        if !is_along_last(m, root, shape.len()) {
            return unmet("the Softmax is not along the last axis");
        }
        let of_mask = dims(m, mask)?;
        if of_mask.last() != shape.last() || dims(m, scores)? != shape {
            return unmet("the mask is not along the last axis, or widens the scores");
        }
        // Only a sample without any token is masked whole by a mask that is the same for all rows.
        let of_rows = of_mask.len() >= 2 && of_mask[of_mask.len() - 2] != 1;
        if of_rows && number(m, mask, DEPTH).is_none_or(|n| n > SWALLOWS) {
            return unmet(
                "rows that are masked whole differ, as the number leaves something of the scores",
            );
        }
        let product = if of_rows { Some(product_of(m, p)?) } else { None };
        let product = product.filter(|found| !clears_rows(m, found.product, mask));
        let ty = dtype(m, p)?;
        let at = product.as_ref().map_or(root, |found| found.product);
        let mut patch = Patch::new(m, at);
        let bounded = bounded(m, &mut patch, mask, DEPTH)?;
        let biased = patch.node("Add", &[scores.into(), bounded]);
        let p_new = patch.node_with("Softmax", &[biased], m[root].attrs.clone());
        let Some(ProductOf { product, reshaped }) = product else {
            patch.replace(p, p_new);
            return Ok(patch);
        };
        let p = match &reshaped {
            Some(dims) => patch.reshape(p_new, dims),
            None => p_new,
        };
        let (values, y) = (input(m, product, 1)?, output(m, product)?);
        let (of_values, of_y) = (dims_of_elements(m, values)?, dims_of_elements(m, y)?);
        let (Some(&features), true) = (of_y.last(), of_values.len() == of_y.len()) else {
            return unmet("the values broadcast");
        };
        let view = |rows: i64| -> Dims {
            shape[..shape.len() - 2].iter().copied().chain([rows, features]).collect()
        };
        // Rows of several planes in one matrix share its values.
        let means = of_values.iter().product::<i64>() / of_values[of_values.len() - 2];
        if of_y != view(shape[shape.len() - 2]) && means != view(1).iter().product::<i64>() {
            return unmet("the values broadcast");
        }
        let sums = patch.node("MatMul", &[p, values.into()]);
        let mean = patch.reduce("ReduceMean", values.into(), of_values.len() as i64 - 2);
        let keep = of_y == view(shape[shape.len() - 2]);
        let [sums, mean] = [(sums, shape[shape.len() - 2]), (mean, 1)]
            .map(|(x, rows)| if keep { x } else { patch.reshape(x, &view(rows)) });
        let largest = patch.reduce("ReduceMax", bounded, of_mask.len() as i64 - 1);
        let per_mask = patch.constant(float(ty, 1.0 / MASK)?);
        let all = patch.node("Mul", &[largest, per_mask]);
        let one = patch.constant(float(ty, 1.0)?);
        let some = patch.node("Sub", &[one, all]);
        let sums = patch.node("Mul", &[sums, some]);
        let mean = patch.node("Mul", &[mean, all]);
        let result = patch.node("Add", &[sums, mean]);
        let result = if keep { result } else { patch.reshape(result, &of_y) };
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The slot of the number below -10000, where the node makes a mask of 0 and that number.
fn slot_of_number(m: &Model, node: NodeId) -> Option<usize> {
    let n = &m[node];
    let at = |slot: usize| uniform(m, n.input(slot)?);
    let is_low = |slot: usize| at(slot).is_some_and(|x| x < MASK);
    if n.op().is("Where") {
        return [(1, 2), (2, 1)]
            .into_iter()
            .find(|&(low, zero)| is_low(low) && at(zero) == Some(0.0))
            .map(|(low, _)| low);
    }
    let mask = |slot: usize| n.input(slot).is_some_and(|v| is_zero_or_one(m, v, DEPTH));
    if n.op().is("Mul") {
        return [(0, 1), (1, 0)]
            .into_iter()
            .find(|&(low, other)| is_low(low) && mask(other))
            .map(|(low, _)| low);
    }
    None
}

/// Whether a value is a mask of ones and zeros: a bool as a number, a mask that the user feeds, or one minus these.
fn is_zero_or_one(m: &Model, value: ValueId, depth: usize) -> bool {
    let Some(node) = m.producer(value).filter(|_| depth > 0) else {
        return m.constant(value).is_none() && m[value].dtype().is_some_and(DataType::is_integer);
    };
    let from = |slot: usize| m[node].input(slot);
    let goes_on = |slot: usize| from(slot).is_some_and(|v| is_zero_or_one(m, v, depth - 1));
    let op = m[node].op();
    if op.is("Cast") {
        return from(0).is_some_and(|v| m[v].dtype() == Some(DataType::Bool)) || goes_on(0);
    }
    if op.is("Sub") {
        return from(0).and_then(|v| uniform(m, v)) == Some(1.0) && goes_on(1);
    }
    if op.is("Mul") {
        return goes_on(0) && goes_on(1);
    }
    (is_reshape(m, node) || op.is("Transpose") || op.is("Expand")) && goes_on(0)
}

/// The number below -10000 of a mask.
fn number(m: &Model, mask: ValueId, depth: usize) -> Option<f64> {
    let node = m.producer(mask).filter(|_| depth > 0)?;
    if let Some(slot) = slot_of_number(m, node) {
        return uniform(m, m[node].input(slot)?);
    }
    if is_reshape(m, node) || ["Transpose", "Expand"].iter().any(|op| m[node].op().is(op)) {
        return number(m, m[node].input(0)?, depth - 1);
    }
    None
}

/// The nodes that make the mask once more, with the smaller number.
fn bounded(m: &Model, patch: &mut Patch, mask: ValueId, depth: usize) -> Result<Operand, Miss> {
    let node = m.producer(mask).filter(|_| depth > 0).ok_or(Miss::NoMatch)?;
    let op = m[node].op().def.ok_or(Miss::NoMatch)?.name;
    let mut operands: Vec<Operand> = m[node].inputs().iter().flatten().map(|&v| v.into()).collect();
    if let Some(slot) = slot_of_number(m, node) {
        operands[slot] = patch.constant(float(dtype(m, mask)?, MASK)?);
    } else {
        operands[0] = bounded(m, patch, input(m, node, 0)?, depth - 1)?;
    }
    Ok(patch.node_with(op, &operands, m[node].attrs.clone()))
}

/// Whether the rows of a product are multiplied by 0 where all of them are masked.
fn clears_rows(m: &Model, product: NodeId, mask: ValueId) -> bool {
    let Ok(choice) = producer(m, mask, "Where") else { return false };
    let condition = m[choice].input(0);
    let is_hidden = slot_of_number(m, choice) == Some(1);
    let Some(mut y) = m[product].output(0) else { return false };
    loop {
        let mut users = m.users(y);
        let (Some(user), None) = (users.next(), users.next()) else { return false };
        let Some(next) = m[user].output(0) else { return false };
        if m[user].op().is("Mul") {
            let other = m[user].inputs().iter().flatten().find(|&&v| v != y);
            let made_by = |v: Option<ValueId>, op: &str| producer(m, v?, op).ok();
            let negated = made_by(condition, "Not").and_then(|n| m[n].input(0));
            let shown = if is_hidden { negated } else { condition };
            let some = made_by(other.copied(), "ReduceMax").and_then(|n| m[n].input(0));
            if shown.is_some() && made_by(some, "Cast").and_then(|n| m[n].input(0)) == shown {
                return true;
            }
            let sub = made_by(other.copied(), "Sub");
            let all = made_by(sub.and_then(|n| m[n].input(1)), "ReduceMin");
            let cast = made_by(all.and_then(|n| m[n].input(0)), "Cast");
            let one = sub.and_then(|n| uniform(m, m[n].input(0)?));
            return one == Some(1.0) && is_hidden && cast.and_then(|n| m[n].input(0)) == condition;
        }
        if !is_reshape(m, user) {
            return false;
        }
        y = next;
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::BoundAttentionMask;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn values_that_all_planes_share_stay() {
        check_skip(
            &BoundAttentionMask,
            "
g (bool[2,1,3,3] hidden, float[2,2,3,3] scores) => (float[12,4] y) <float big = {-3e38}, int64[2] flat = {12, 3}, float[3,4] values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
   h = Cast <to: int = 1> (hidden)  mask = Mul (h, big)  biased = Add (mask, scores)
   p = Softmax <axis: int = 3> (biased)  rows = Reshape (p, flat)  y = MatMul (rows, values)
}",
            "the values broadcast",
        );
    }

    #[test]
    fn a_row_that_is_masked_whole_has_the_mean_of_the_values() {
        assert_snapshot!(rewritten(&BoundAttentionMask, "
g (float[2,2,3,3] s, bool[2,1,3,3] shown, float[4,3,5] v) => (float[4,3,5] y) <float low = {-inf}, float zero = {0}, int64[3] merged = {4, 3, 3}> {
   mask = Where (shown, zero, low)  masked = Add (mask, s)  p = Softmax (masked)
   three = Reshape (p, merged)  y = MatMul (three, v)
}"), @r"
        g (float[2,2,3,3] s, bool[2,1,3,3] shown, float[4,3,5] v) => (float[4,3,5] y) <
           float low = {-inf},
           float zero = {0},
           int64[3] merged = {4, 3, 3},
           float y_const = {-10000},
           int64[3] y_const_1 = {4, 3, 3},
           int64[4] y_const_2 = {2, 2, 3, 5},
           int64[4] y_const_3 = {2, 2, 1, 5},
           float y_const_4 = {-0.0001},
           float y_const_5 = {1},
           int64[3] y_const_6 = {4, 3, 5}
        > {
           y_Where = Where (shown, zero, y_const)
           y_Add = Add (s, y_Where)
           y_Softmax = Softmax (y_Add)
           y_Reshape = Reshape (y_Softmax, y_const_1)
           y_MatMul = MatMul (y_Reshape, v)
           y_ReduceMean = ReduceMean <axes: ints = [1]> (v)
           y_Reshape_1 = Reshape (y_MatMul, y_const_2)
           y_Reshape_2 = Reshape (y_ReduceMean, y_const_3)
           y_ReduceMax = ReduceMax <axes: ints = [3]> (y_Where)
           y_Mul = Mul (y_ReduceMax, y_const_4)
           y_Sub = Sub (y_const_5, y_Mul)
           y_Mul_1 = Mul (y_Reshape_1, y_Sub)
           y_Mul_2 = Mul (y_Reshape_2, y_Mul)
           y_Add_1 = Add (y_Mul_1, y_Mul_2)
           y = Reshape (y_Add_1, y_const_6)
        }
        ");
    }

    #[test]
    fn a_factor_of_a_mask_of_ones_is_bounded_too() {
        assert_snapshot!(rewritten(&BoundAttentionMask, "
g (float[2,2,3,3] s, int32[2,3] mask) => (float[2,2,3,3] p) <float low = {-3e38}, float one = {1}, int64[2] axes = {1, 2}> {
   shown = Cast <to = 1> (mask)  hidden = Sub (one, shown)  low_ = Mul (hidden, low)
   mask_ = Unsqueeze (low_, axes)  masked = Add (s, mask_)  p = Softmax (masked)
}"), @r"
        g (float[2,2,3,3] s, int32[2,3] mask) => (float[2,2,3,3] p) <
           float low = {-3e38},
           float one = {1},
           int64[2] axes = {1, 2},
           float p_const = {-10000}
        > {
           shown = Cast <to: int = 1> (mask)
           hidden = Sub (one, shown)
           p_Mul = Mul (hidden, p_const)
           p_Unsqueeze = Unsqueeze (p_Mul, axes)
           p_Add = Add (s, p_Unsqueeze)
           p = Softmax (p_Add)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        let graph = |low: &str, more: &str, nodes: &str| {
            format!(
                "g (float[2,3,3] s, bool[3,3] hidden, float[3,3] h) => (float[2,3,3] p{more}) <float low = {{{low}}}, float zero = {{0}}> {{ {nodes} }}"
            )
        };
        let mask = "mask = Where (hidden, low, zero)  masked = Add (s, mask)";
        for (more, nodes, why) in [
            ("", "p = Softmax <axis = 1> (masked)", "not along the last axis"),
            ("", "p = Softmax (masked)", "something else reads the probabilities"),
            (
                ", float[2,3,3] y",
                "p = Softmax (masked)  y = Neg (p)",
                "something else reads the probabilities",
            ),
        ] {
            check_skip(
                &BoundAttentionMask,
                &graph("-3e38", more, &format!("{mask}  {nodes}")),
                why,
            );
        }
        check_skip(
            &BoundAttentionMask,
            &graph("-65504", "", &format!("{mask}  p = Softmax (masked)")),
            "leaves something of the scores",
        );
        for (low, nodes) in [
            ("-10000", format!("{mask}  p = Softmax (masked)")),
            (
                "-3e38",
                "mask = Mul (h, low)  masked = Add (s, mask)  p = Softmax (masked)".to_owned(),
            ),
        ] {
            untouched(&BoundAttentionMask, &graph(low, "", &nodes));
        }
    }
}
