//! hoist-bias

use onnxfix_ir::{Model, NodeId};

use crate::matching::{SplitColumns, dims_of_elements, input, output, producer, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Adds a bias to a product at once, not behind the Reshape and Transpose that make heads of it.
    ///
    /// ## Why ATC needs it
    /// A product and a bias of its columns are one operator there, and canonical attention has them side by side. DeBERTa v1
    /// adds its biases to queries and values that are heads already.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[6,2] x) => (float[2,2,3,1] y) <
    ///    float[2,2] w = {1, 2, 3, 4}, float[2,1,1] b = {5, 6}, int64[4] s = {2, 3, 2, 1}
    /// > {
    ///    p = MatMul (x, w)
    ///    r = Reshape (p, s)
    ///    t = Transpose <perm: ints = [0, 2, 1, 3]> (r)
    ///    y = Add (t, b)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[6,2] x) => (float[2,2,3,1] y) <
    ///    float[2,2] w = {1, 2, 3, 4}, float[2,1,1] b = {5, 6}, int64[4] y_const = {1, 2, 1, 1},
    ///    int64[1] y_const_1 = {2}, int64[4] y_const_2 = {2, 3, 2, 1}
    /// > {
    ///    p = MatMul (x, w)
    ///    y_Reshape = Reshape (b, y_const)
    ///    y_Transpose = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape)
    ///    y_Reshape_1 = Reshape (y_Transpose, y_const_1)
    ///    y_Add = Add (p, y_Reshape_1)
    ///    y_Reshape_2 = Reshape (y_Add, y_const_2)
    ///    y = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A constant is added to a product with a constant matrix, behind a Reshape that splits its columns and perhaps a
    ///   Transpose, and has one element for each column.
    /// - Nothing else reads what is between, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub HoistBias = "hoist-bias", Simplify, Exact
}

impl Rewrite for HoistBias {
    fn roots(&self) -> &'static [&'static str] {
        &["Add"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b) = (input(m, root, 0)?, input(m, root, 1)?);
        let (value, bias) = if m.constant(b).is_some() { (a, b) } else { (b, a) };
        let heads = SplitColumns::of(m, value)?;
        let product = heads.projected;
        let matrix = input(m, producer(m, product, "MatMul")?, 1)?;
        let of_bias = m.constant(bias).map(|t| t.dims.clone()).ok_or(Miss::NoMatch)?;
        if m.constant(matrix).is_none() {
            return unmet("the product's matrix is not constant");
        }
        if ![value, heads.split, product].into_iter().all(|v| used_once(m, v)) {
            return unmet("something else reads the product");
        }
        let columns = *dims_of_elements(m, product)?.last().ok_or(Miss::NoMatch)?;
        let rank = heads.dims.len();
        let turned = heads.perm.clone().unwrap_or_else(|| (0..rank as i64).collect());
        let Some(missing) = rank.checked_sub(of_bias.len()) else { return Err(Miss::NoMatch) };
        let aligned: Vec<i64> = std::iter::repeat_n(1, missing).chain(of_bias).collect();
        // Back on the axes that the Reshape made.
        let (mut back, mut of_columns) = (vec![0; rank], vec![1; rank]);
        for (at, &from) in turned.iter().enumerate() {
            let from = usize::try_from(from).map_err(|_| Miss::NoMatch)?;
            (back[from], of_columns[from]) = (at as i64, aligned[at]);
        }
        let front = heads.first_of(columns).ok_or(Miss::NoMatch)?;
        if of_columns[front..] != heads.dims[front..] || of_columns[..front].iter().any(|&d| d != 1)
        {
            return unmet("what is added is not one number for each column");
        }
        let mut patch = Patch::new(m, root);
        let mut bias = patch.reshape(bias.into(), &aligned);
        if heads.perm.is_some() {
            bias = patch.transpose(bias, &back);
        }
        let bias = patch.reshape(bias, &[columns]);
        let sum = patch.node("Add", &[product.into(), bias]);
        let mut result = patch.reshape(sum, &heads.dims);
        if let Some(perm) = &heads.perm {
            result = patch.transpose(result, perm);
        }
        patch.replace(output(m, root)?, result);
        Ok(patch)
    }
}

#[cfg(test)]
mod tests {
    use super::HoistBias;
    use crate::testing::{check_skip, computed};

    fn graph(nodes: &str, outputs: &str) -> String {
        format!(
            "g (float[6,2] x, float[2,2] m) => (float[A,B,C,D] out{outputs}) <
                float[2,2] w = {{1, 2, 3, 4}}, float[2,1,1] b = {{5, 6}}, float[3,1] c = {{7, 8, 9}}, float[2,1] d = {{5, 6}}, int64[4] s = {{2, 3, 2, 1}}
             > {{ {nodes}  out = Identity (y) }}"
        )
    }

    #[test]
    fn numbers_stay() {
        for nodes in [
            "p = MatMul (x, w)  r = Reshape (p, s)  t = Transpose <perm: ints = [0, 2, 1, 3]> (r)  y = Add (b, t)",
            "p = MatMul (x, w)  r = Reshape (p, s)  y = Add (r, d)",
        ] {
            let text = graph(nodes, "").replace("float[6,2] x, float[2,2] m", "").replace(
                "float[2,2] w",
                "float[6,2] x = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[2,2] w",
            );
            assert_eq!(computed(None, &text), computed(Some(&HoistBias), &text));
        }
    }

    #[test]
    fn look_alikes_stay() {
        let turned = "r = Reshape (p, s)  t = Transpose <perm: ints = [0, 2, 1, 3]> (r)";
        for (product, bias, outputs, why) in [
            ("p = MatMul (x, m)", "b", "", "matrix is not constant"),
            ("p = MatMul (x, w)", "c", "", "one number for each column"),
            ("p = MatMul (x, w)", "b", ", float[6,2] p", "something else reads"),
        ] {
            let nodes = format!("{product}  {turned}  y = Add (t, {bias})");
            check_skip(&HoistBias, &graph(&nodes, outputs), why);
        }
    }
}
