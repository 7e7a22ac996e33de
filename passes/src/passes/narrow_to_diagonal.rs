//! narrow-to-diagonal

use onnxfix_ir::{Model, NodeId, Tensor};

use crate::matching::{dims_of_elements, input, is_reshape, output, producer, sliced, used_once};
use crate::patch::attrs;
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Multiplies each row by the one column that counts where a diagonal is all that is read of a product.
    ///
    /// ## Why ATC needs it
    /// In DeBERTa's last layer the classifier reads one token, and of the product of all keys with all distances there is
    /// left one distance for each key. The product is as large as in any other layer, and a Slice with a step of a whole
    /// row copies element by element.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,2,2] k) => (float[1,2] y) <
    ///    float[2,3] t = {1, 2, 3, 4, 5, 6}, int64[2] flat = {1, 6}, int64[1] start = {2}, int64[1] end = {5}, int64[1] one = {1},
    ///    int64[1] step = {2}
    /// > {
    ///    p = MatMul (k, t)
    ///    f = Reshape (p, flat)
    ///    y = Slice (f, start, end, one, step)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,2,2] k) => (float[1,2] y) <
    ///    float[2,3] t = {1, 2, 3, 4, 5, 6}, int64[2] y_const = {2, 1}, int64[1] y_const_1 = {1},
    ///    int64[2] y_const_2 = {1, 2}
    /// > {
    ///    y_Transpose = Transpose <perm: ints = [0, 2, 1]> (k)
    ///    y_Gather = Gather <axis: int = 1> (t, y_const)
    ///    y_Mul = Mul (y_Transpose, y_Gather)
    ///    y_ReduceSum = ReduceSum (y_Mul, y_const_1)
    ///    y = Reshape (y_ReduceSum, y_const_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A Slice takes one element of every row of a product, whose rows stand one behind the other for it.
    /// - The right operand is constant.
    /// - Nothing else reads the product.
    ///
    /// ## Numerics
    /// The same products are added, in another order.
    pub NarrowToDiagonal = "narrow-to-diagonal", Simplify, Relative(1e-6)
}

impl Rewrite for NarrowToDiagonal {
    fn roots(&self) -> &'static [&'static str] {
        &["Slice"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (taken, y) = (sliced(m, root)?, output(m, root)?);
        let flatten = m.producer(taken.x).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
        let product = input(m, flatten, 0)?;
        let node = producer(m, product, "MatMul")?;
        let (left, right) = (input(m, node, 0)?, input(m, node, 1)?);
        let (of_product, flat) = (dims_of_elements(m, product)?, dims_of_elements(m, taken.x)?);
        let [batch @ .., rows, columns] = &of_product[..] else { return Err(Miss::NoMatch) };
        let is_flat = flat.split_last() == Some((&(rows * columns), batch));
        if !is_flat || taken.axis != batch.len() || *rows < 2 {
            return Err(Miss::NoMatch);
        }
        let column = |row: i64| taken.start + row * (taken.step - columns);
        if taken.len != *rows || !(0..*rows).all(|row| (0..*columns).contains(&column(row))) {
            return unmet("the slice does not take one element of each row");
        }
        let Some(of_table) = m.constant(right).map(|t| t.dims.clone()) else {
            return unmet("the right operand is not constant");
        };
        if !used_once(m, product) || !used_once(m, taken.x) {
            return unmet("something else reads the product");
        }
        let (rank, table_rank) = (dims_of_elements(m, left)?.len(), of_table.len());
        if rank < 2 || table_rank < 2 {
            return Err(Miss::NoMatch);
        }
        let mut patch = Patch::new(m, root);
        // Attention has the keys in this order too.
        let left = patch.swap_last(left.into(), rank);
        let columns: Vec<i64> = (0..*rows).map(column).collect();
        let columns = patch.constant(Tensor::ints(&columns));
        let axis = attrs([("axis", (table_rank as i64 - 1).into())]);
        let table = patch.node_with("Gather", &[right.into(), columns], axis);
        let products = patch.node("Mul", &[left, table]);
        let sums = patch.reduce("ReduceSum", products, batch.len() as i64);
        let shape: Vec<i64> = batch.iter().copied().chain([*rows]).collect();
        let diagonal = patch.reshape(sums, &shape);
        patch.replace(y, diagonal);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::NarrowToDiagonal;
    use crate::testing::{check_skip, computed};

    fn graph(table: &str, start: i64, end: i64, outputs: &str) -> String {
        format!(
            "g (float[2,3] k, float[3,4] u) => (float[2] out{outputs})
             <float[3,4] t = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}, int64[1] flat = {{8}}, int64[1] s = {{{start}}},
              int64[1] e = {{{end}}}, int64[1] zero = {{0}}, int64[1] step = {{3}}> {{
                p = MatMul (k, {table})  f = Reshape (p, flat)  y = Slice (f, s, e, zero, step)
                out = Identity (y)
             }}"
        )
    }

    #[test]
    fn the_diagonal_stays_the_same() {
        let text = graph("t", 3, 8, "")
            .replace("float[2,3] k, float[3,4] u", "")
            .replace("<float[3,4] t", "<float[2,3] k = {1, -2, 3, 4, 5, -6}, float[3,4] t");
        assert_eq!(computed(Some(&NarrowToDiagonal), &text), computed(None, &text));
    }

    #[test]
    fn look_alikes_stay() {
        for (table, start, end, outputs, why) in [
            ("u", 3, 8, "", "not constant"),
            ("t", 0, 4, "", "one element of each row"),
            ("t", 3, 8, ", float[2,4] p", "something else reads"),
        ] {
            check_skip(&NarrowToDiagonal, &graph(table, start, end, outputs), why);
        }
    }
}
