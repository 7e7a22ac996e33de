//! decompose-einsum

use onnxfix_ir::op::einsum_equation;
use onnxfix_ir::{DataType, Model, NodeId};

use crate::matching::{dims_of_elements, dtype, input, output};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Writes an `Einsum` of one or two operands as a product of matrices, with the axes moved to where it wants them.
    ///
    /// ## Why ATC needs it
    /// The 310P has no kernel for Einsum, and ATC breaks it up on newer chips only. What comes from TensorFlow has one for
    /// each projection and two for each attention, which nothing recognises.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[1,5,8] x, float[8,2,4] w) => (float[1,2,5,4] y) { y = Einsum <equation: string = "abc,cde->adbe"> (x, w) }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[1,5,8] x, float[8,2,4] w) => (float[1,2,5,4] y) <int64[2] y_const = {8, 8}, int64[4] y_const_1 = {1, 5, 2, 4}> {
    ///    y_Reshape = Reshape (w, y_const)
    ///    y_MatMul = MatMul (x, y_Reshape)
    ///    y_Reshape_1 = Reshape (y_MatMul, y_const_1)
    ///    y = Transpose <perm: ints = [0, 2, 1, 3]> (y_Reshape_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - There are one or two operands, of static shapes with elements, and of a type that products and sums have: a float, or
    ///   an integer of 32 or 64 bits.
    /// - No label stands for two axes of one operand, and none for a length 1 that broadcasts.
    ///
    /// ## Numerics
    /// The same products, added in another order.
    pub DecomposeEinsum = "decompose-einsum", Decompose, Relative(1e-6)
}

/// The types that MatMul and `ReduceSum` both take.
const MULTIPLIED: &[DataType] = &[
    DataType::Float,
    DataType::Double,
    DataType::Float16,
    DataType::Bfloat16,
    DataType::Int32,
    DataType::Int64,
    DataType::Uint32,
    DataType::Uint64,
];

impl Rewrite for DecomposeEinsum {
    fn roots(&self) -> &'static [&'static str] {
        &["Einsum"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let y = output(m, root)?;
        let Some(text) = m[root].attrs.str("equation") else { return Err(Miss::NoMatch) };
        let ty = dtype(m, y)?;
        if !MULTIPLIED.contains(&ty) {
            return unmet(format!("there are no products of {ty}"));
        }
        let count = m[root].inputs().len();
        let mut terms = Vec::with_capacity(count);
        let mut ranks = Vec::with_capacity(count);
        for slot in 0..count {
            let x = input(m, root, slot)?;
            let dims = dims_of_elements(m, x)?;
            ranks.push(dims.len());
            terms.push((x, dims));
        }
        let equation = einsum_equation(text, &ranks).map_err(|_| Miss::NoMatch)?;
        let mut patch = Patch::new(m, root);
        let mut axes: Vec<Term> = Vec::with_capacity(count);
        for ((x, dims), labels) in terms.into_iter().zip(&equation.inputs) {
            let term = Term { x: x.into(), axes: labels.iter().copied().zip(dims).collect() };
            term.check(&axes)?;
            axes.push(term);
        }
        let result = match axes.as_mut_slice() {
            [x] => {
                x.sum_over(&mut patch, |label| !equation.output.contains(&label));
                x.clone()
            }
            [a, b] => {
                a.sum_over(&mut patch, |l| !equation.output.contains(&l) && !b.has(l));
                b.sum_over(&mut patch, |l| !equation.output.contains(&l) && !a.has(l));
                product(&mut patch, a, b, &equation.output)
            }
            _ => return unmet("it has more than two operands"),
        };
        let result = result.arranged(&mut patch, &equation.output);
        patch.replace(y, result.x);
        Ok(patch)
    }
}

/// An operand, and the label and length of each of its axes.
#[derive(Clone)]
struct Term {
    x: Operand,
    axes: Vec<(i32, i64)>,
}

impl Term {
    fn has(&self, label: i32) -> bool {
        self.axes.iter().any(|&(l, _)| l == label)
    }

    fn check(&self, others: &[Term]) -> Result<(), Miss> {
        for (i, (label, length)) in self.axes.iter().enumerate() {
            if self.axes[..i].iter().any(|(l, _)| l == label) {
                return unmet("a label stands for two axes of one operand");
            }
            let mut elsewhere = others.iter().flat_map(|term| &term.axes);
            if elsewhere.any(|(l, n)| l == label && n != length) {
                return unmet("an axis of length 1 broadcasts");
            }
        }
        Ok(())
    }

    /// Adds up along the axes with such a label.
    fn sum_over(&mut self, patch: &mut Patch, is_summed: impl Fn(i32) -> bool) {
        let kept: Vec<(i32, i64)> =
            self.axes.iter().copied().filter(|&(l, _)| !is_summed(l)).collect();
        if kept.len() == self.axes.len() {
            return;
        }
        for (at, &(label, _)) in self.axes.iter().enumerate() {
            if is_summed(label) {
                self.x = patch.reduce("ReduceSum", self.x, at as i64);
            }
        }
        self.axes = kept;
        let dims: Vec<i64> = self.axes.iter().map(|a| a.1).collect();
        self.x = patch.reshape(self.x, &dims);
    }

    /// The axes in this order.
    fn arranged(mut self, patch: &mut Patch, order: &[i32]) -> Term {
        let place = |label: &i32| self.axes.iter().position(|(l, _)| l == label);
        let perm: Vec<usize> = order.iter().filter_map(place).collect();
        if perm.iter().copied().ne(0..self.axes.len()) {
            let by: Vec<i64> = perm.iter().map(|&at| at as i64).collect();
            self.x = patch.transpose(self.x, &by);
            self.axes = perm.iter().map(|&at| self.axes[at]).collect();
        }
        self
    }

    /// The lengths of these axes.
    fn lengths(&self, labels: &[i32]) -> Vec<i64> {
        let length = |label: &i32| self.axes.iter().find(|(l, _)| l == label).map(|a| a.1);
        labels.iter().filter_map(length).collect()
    }

    /// In another shape, unless it has that.
    fn shaped(&mut self, patch: &mut Patch, dims: &[i64]) {
        if self.axes.iter().map(|a| a.1).ne(dims.iter().copied()) {
            self.x = patch.reshape(self.x, dims);
        }
    }
}

/// The sum over all labels that are not in the output of the products of two operands.
fn product(patch: &mut Patch, a: &Term, b: &Term, output: &[i32]) -> Term {
    let labels = |of: &Term| -> Vec<i32> { of.axes.iter().map(|a| a.0).collect() };
    // Those of the result in its order, so that as little as possible is left to move.
    let of_output = |keep: &dyn Fn(i32) -> bool| -> Vec<i32> {
        output.iter().copied().filter(|&l| keep(l)).collect()
    };
    let batch = of_output(&|l| a.has(l) && b.has(l));
    let left = of_output(&|l| a.has(l) && !b.has(l));
    let right = of_output(&|l| !a.has(l) && b.has(l));
    let summed: Vec<i32> = labels(a).into_iter().filter(|l| !output.contains(l)).collect();
    let (rows, columns) = (a.lengths(&left), b.lengths(&right));
    let of_batch = a.lengths(&batch);
    let one = |dims: &[i64]| -> i64 { dims.iter().product() };
    let result = [&batch[..], &left, &right].concat();
    let dims = [&of_batch[..], &rows, &columns].concat();
    let mut x = a.clone().arranged(patch, &[&batch[..], &left, &summed].concat());
    let made;
    if summed.is_empty() {
        let mut y = b.clone().arranged(patch, &[&batch[..], &right].concat());
        x.shaped(patch, &[&of_batch[..], &rows, &vec![1; columns.len()]].concat());
        y.shaped(patch, &[&of_batch[..], &vec![1; rows.len()], &columns].concat());
        made = patch.node("Mul", &[x.x, y.x]);
        return Term { x: made, axes: result.into_iter().zip(dims).collect() };
    }
    let mut y = b.clone().arranged(patch, &[&batch[..], &summed, &right].concat());
    let inner = one(&a.lengths(&summed));
    // Rows of one matrix may stay on several axes.
    let several = batch.is_empty() && !rows.is_empty();
    let rows_of = if several { rows.clone() } else { vec![one(&rows)] };
    x.shaped(patch, &[&of_batch[..], &rows_of, &[inner]].concat());
    y.shaped(patch, &[&of_batch[..], &[inner, one(&columns)]].concat());
    made = patch.node("MatMul", &[x.x, y.x]);
    let flat = [&of_batch[..], &rows_of, &[one(&columns)]].concat();
    let mut product = Term { x: made, axes: flat.iter().map(|&n| (0, n)).collect() };
    product.shaped(patch, &dims);
    product.axes = result.into_iter().zip(dims).collect();
    product
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::DecomposeEinsum;
    use crate::testing::{check_skip, computed, operators, rewritten};

    #[test]
    fn every_kind_of_label_comes_out_right() {
        let operand = |dims: &[i64], from: i64| -> String {
            let size: i64 = dims.iter().product();
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            let numbers: Vec<String> =
                (0..size).map(|i| ((i * 7 + from) % 5).to_string()).collect();
            format!("float[{}] {{{}}}", dims.join(","), numbers.join(", "))
        };
        for (equation, a, b) in [
            ("ij,jk->ik", &[2, 3][..], &[3, 4][..]),
            ("ij,jk", &[2, 3], &[3, 4]),
            ("ij,kj->ki", &[2, 3], &[4, 3]),
            ("bqhd,bkhd->bhqk", &[2, 3, 2, 4], &[2, 5, 2, 4]),
            ("bhqk,bkhd->bqhd", &[2, 2, 3, 5], &[2, 5, 2, 4]),
            ("abc,cde->abde", &[1, 3, 4], &[4, 2, 2]),
            ("abcd,cde->abe", &[1, 3, 2, 2], &[2, 2, 4]),
            ("...ij,jk->...ik", &[2, 2, 3], &[3, 4]),
            ("i,j->ji", &[2], &[3]),
            ("ij,ij->ij", &[2, 3], &[2, 3]),
            ("ij,ij->i", &[2, 3], &[2, 3]),
            ("ijk,il->ji", &[2, 3, 2], &[2, 4]),
            ("i,i->", &[3], &[3]),
        ] {
            let (x, w) = (operand(a, 0), operand(b, 3));
            let text = format!(
                "g () => (y) {{ a = Constant <value: tensor = {x}> ()  b = Constant <value: tensor = {w}> ()
                 e = Einsum <equation = \"{equation}\"> (a, b)  y = Identity (e) }}"
            );
            assert_eq!(
                computed(Some(&DecomposeEinsum), &text),
                computed(None, &text),
                "{equation}"
            );
        }
    }

    #[test]
    fn one_operand_is_added_up_and_turned() {
        assert_snapshot!(operators(&DecomposeEinsum, "
g (float[2,3,4] x) => (float[4,2] y) { y = Einsum <equation = \"abc->ca\"> (x) }"), @"ReduceSum Reshape Transpose");
    }

    #[test]
    fn scores_are_one_product() {
        assert_snapshot!(rewritten(&DecomposeEinsum, "
g (float[1,2,5,4] q, float[1,2,7,4] k) => (float[1,2,5,7] y) { y = Einsum <equation = \"bhqd,bhkd->bhqk\"> (q, k) }"), @r"
        g (float[1,2,5,4] q, float[1,2,7,4] k) => (float[1,2,5,7] y) {
           y_Transpose = Transpose <perm: ints = [0, 1, 3, 2]> (k)
           y = MatMul (q, y_Transpose)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        for (inputs, equation, why) in [
            ("float[2,2] x", "ii->i", "two axes of one operand"),
            ("float[N,2] x", "ij->ji", "not static"),
            ("float[2,1] x, float[3,2] z", "ij,jk->ik", "length 1 broadcasts"),
            ("float[2] x, float[2] z, float[2] w", "i,i,i->i", "more than two operands"),
            ("uint8[2] x, uint8[2] z", "i,i->i", "there are no products of uint8"),
            ("float[2] x", "i->i", "two public names"),
        ] {
            let names: Vec<&str> = inputs.split(", ").filter_map(|i| i.split(' ').nth(1)).collect();
            let text = format!(
                "g ({inputs}) => (y) {{ y = Einsum <equation = \"{equation}\"> ({}) }}",
                names.join(", ")
            );
            check_skip(&DecomposeEinsum, &text, why);
        }
    }
}
