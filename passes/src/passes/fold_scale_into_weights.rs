//! fold-scale-into-weights

use onnxfix_ir::{DataType, Model, NodeId, Tensor, Use, ValueId};

use rayon::prelude::*;

use crate::matching::{constant, input, is_reshape, output, uniform, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Folds a multiplication or division by a number into the weights that made the value.
    ///
    /// ## Why ATC needs it
    /// Attention scores are divided by the root of the head's size, in DeBERTa three times in every layer, on the largest
    /// tensors of the model. The same factor fits into the projection of the keys and into the position tables.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,4] x) => (float[2,2] y) <float[4,2] w = {2, 4, 6, 8, 2, 4, 6, 8}, float[2] bias = {2, 4}, float two = {2}> {
    ///    p = MatMul (x, w)
    ///    k = Add (p, bias)
    ///    y = Div (k, two)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,4] x) => (float[2,2] y) <float[4,2] y_const = {1, 2, 3, 4, 1, 2, 3, 4}, float[2] y_const_1 = {1, 2}> {
    ///    p = MatMul (x, y_const)
    ///    y = Add (p, y_const_1)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - The value comes by reshapes, transposes, slices and sums from products with constants, of which every one can take
    ///   the factor. Of a product of two computed values one of them takes it.
    /// - What else reads a value on the way multiplies it by a constant, which then takes the inverse, or scales a product
    ///   of it by the same number, which is then not needed.
    /// - The constants are float or double, and nothing else reads the large ones.
    ///
    /// ## Numerics
    /// The rounding of the weights instead of the scores'.
    pub FoldScaleIntoWeights = "fold-scale-into-weights", Simplify, Relative(1e-6)
}

impl Rewrite for FoldScaleIntoWeights {
    fn roots(&self) -> &'static [&'static str] {
        &["Mul", "Div"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let is_div = m[root].op().is("Div");
        let (x, number) = match (uniform(m, a), uniform(m, b)) {
            (None, Some(number)) => (a, number),
            (Some(number), None) if !is_div => (b, number),
            _ => return Err(Miss::NoMatch),
        };
        if m[x].shape() != m[y].shape() || m[x].shape().is_none() {
            return Err(Miss::NoMatch);
        }
        let factor = if is_div { number.recip() } else { number };
        if !(MIN_FACTOR..=MIN_FACTOR.recip()).contains(&factor.abs()) {
            return Err(Miss::NoMatch);
        }
        let mut scale = Scale { m, changes: Vec::new(), dropped: Vec::new() };
        scale.take(x, factor, root, DEPTH)?;
        let mut patch = Patch::new(m, root);
        for Change { node, slot, factor } in scale.changes {
            let scaled = scaled(constant(m, input(m, node, slot)?)?, factor)?;
            let scaled = patch.constant(scaled);
            patch.set_input(node, slot, scaled);
        }
        for node in scale.dropped {
            let scaled = m[node].inputs().iter().flatten().find(|&&v| uniform(m, v).is_none());
            patch.replace(output(m, node)?, *scaled.ok_or(Miss::NoMatch)?);
        }
        patch.replace(y, x);
        Ok(patch)
    }
}

/// Smaller factors, and larger ones than its inverse, would bring weights near the ends of their range.
const MIN_FACTOR: f64 = 1.0 / 65536.0;
/// The most nodes on the way to a product.
const DEPTH: usize = 12;
/// Constants of at most this many bytes may be stored once more.
const SMALL: u64 = 64 << 10;

/// A constant operand that is to be multiplied.
struct Change {
    node: NodeId,
    slot: usize,
    factor: f64,
}

struct Scale<'m> {
    m: &'m Model,
    changes: Vec<Change>,
    /// Multiplications by the same number, which are not needed any more.
    dropped: Vec<NodeId>,
}

impl Scale<'_> {
    /// Finds what has to change so that `reader` gets `value` multiplied.
    fn take(
        &mut self,
        value: ValueId,
        factor: f64,
        reader: NodeId,
        depth: usize,
    ) -> Result<(), Miss> {
        let m = self.m;
        let Some(node) = m.producer(value).filter(|_| depth > 0) else { return Err(Miss::NoMatch) };
        let op = m[node].op();
        let Some(def) = op.def else { return Err(Miss::NoMatch) };
        if m[node].graph() != m[reader].graph() || m.is_output(value) {
            return unmet(format!("{:?} is an output, or read in a body", m[value].name()));
        }
        for user in others(m, value, reader)? {
            self.undo(user, value, factor.recip(), depth - 1)?;
        }
        match def.name {
            _ if is_move(m, node) => self.take(input(m, node, 0)?, factor, node, depth - 1),
            "Add" | "Sub" | "Concat" => (0..m[node].inputs().len())
                .try_for_each(|slot| self.operand(node, slot, factor, depth - 1)),
            "Gemm" | "Conv" => {
                self.weights(node, 1, factor)?;
                if m[node].input(2).is_some() {
                    self.weights(node, 2, factor)?;
                }
                Ok(())
            }
            "MatMul" => {
                if m[node].input(0) == m[node].input(1) {
                    return unmet("a value times itself would take the factor twice");
                }
                if m.constant(input(m, node, 1)?).is_some() {
                    return self.weights(node, 1, factor);
                }
                if m.constant(input(m, node, 0)?).is_some() {
                    return self.weights(node, 0, factor);
                }
                let (begun, dropped) = (self.changes.len(), self.dropped.len());
                self.take(input(m, node, 1)?, factor, node, depth - 1).or_else(|_| {
                    self.changes.truncate(begun);
                    self.dropped.truncate(dropped);
                    self.take(input(m, node, 0)?, factor, node, depth - 1)
                })
            }
            name => {
                if name == "Mul" || name == "Div" {
                    // A pattern such as GELU, which has its own numbers.
                    return Err(Miss::NoMatch);
                }
                unmet(format!("{} does not pass a factor on", m.describe(node)))
            }
        }
    }

    fn operand(
        &mut self,
        node: NodeId,
        slot: usize,
        factor: f64,
        depth: usize,
    ) -> Result<(), Miss> {
        let value = input(self.m, node, slot)?;
        if self.m.constant(value).is_some() {
            self.weights(node, slot, factor)
        } else {
            self.take(value, factor, node, depth)
        }
    }

    /// Has a constant operand multiplied.
    fn weights(&mut self, node: NodeId, slot: usize, factor: f64) -> Result<(), Miss> {
        let value = input(self.m, node, slot)?;
        let tensor = constant(self.m, value)?;
        if !matches!(tensor.dtype, DataType::Float | DataType::Double) {
            return unmet(format!(
                "{:?} is {}, which would be rounded",
                self.m[value].name(),
                tensor.dtype
            ));
        }
        if tensor.byte_len() > SMALL && self.m[value].uses().len() > 1 {
            return unmet(format!("something else reads {:?}", self.m[value].name()));
        }
        self.changes.push(Change { node, slot, factor });
        Ok(())
    }

    /// Finds what has to change so that `node` gives the same although `value` is multiplied by the inverse.
    fn undo(
        &mut self,
        node: NodeId,
        value: ValueId,
        factor: f64,
        depth: usize,
    ) -> Result<(), Miss> {
        let m = self.m;
        let inputs = m[node].inputs();
        if depth > 0 && is_move(m, node) && m[node].input(0) == Some(value) {
            let y = output(m, node)?;
            return others(m, y, node)?
                .into_iter()
                .try_for_each(|user| self.undo(user, y, factor, depth - 1));
        }
        let slots: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i] == Some(value)).collect();
        if m[node].op().is("MatMul")
            && slots.len() == 1
            && let Some(same) = self.same_behind(output(m, node)?, factor)
        {
            if self.dropped.contains(&same) {
                return unmet("both operands of a product would take the factor");
            }
            self.dropped.push(same);
            return Ok(());
        }
        if m[node].op().is("MatMul")
            && let [slot] = slots[..]
            && m[node].input(1 - slot).is_some_and(|v| m.constant(v).is_some())
        {
            return self.weights(node, 1 - slot, factor);
        }
        unmet(format!("{} reads {:?} as it is", m.describe(node), m[value].name()))
    }

    /// What alone reads a value, behind moves, and multiplies it by the inverse of the factor.
    fn same_behind(&self, mut value: ValueId, factor: f64) -> Option<NodeId> {
        let m = self.m;
        for _ in 0..DEPTH {
            let reader = m.users(value).next().filter(|_| used_once(m, value))?;
            if m[reader].graph() != m[m.producer(value)?].graph() {
                return None;
            }
            let op = m[reader].op();
            let slot = usize::from(m[reader].input(0) == Some(value));
            if op.is("Div") && slot == 1 || op.is("Mul") {
                let number = uniform(m, m[reader].input(slot)?)?;
                let by = if op.is("Div") { number.recip() } else { number };
                let keeps_shape = m[value].shape() == m[m[reader].output(0)?].shape();
                return ((by * factor - 1.0).abs() < 1e-9 && keeps_shape).then_some(reader);
            }
            if !is_move(m, reader) || m[reader].input(0) != Some(value) {
                return None;
            }
            value = m[reader].output(0)?;
        }
        None
    }
}

/// Whether a node gives the elements of its first input, or some of them, in another order or shape.
fn is_move(m: &Model, node: NodeId) -> bool {
    is_reshape(m, node) || ["Transpose", "Slice", "Identity"].iter().any(|op| m[node].op().is(op))
}

/// The nodes that read a value, but for one of them.
fn others(m: &Model, value: ValueId, reader: NodeId) -> Result<Vec<NodeId>, Miss> {
    let mut found = Vec::new();
    for use_ in m[value].uses() {
        match *use_ {
            Use::Input { node, .. } if node == reader => {}
            Use::Input { node, .. } if m[node].graph() == m[reader].graph() => found.push(node),
            _ => return unmet(format!("{:?} is an output, or read in a body", m[value].name())),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Elements that one core multiplies at a time.
const PIECE: usize = 1 << 15;

/// The constant multiplied, rounded once.
fn scaled(tensor: &Tensor, factor: f64) -> Result<Tensor, Miss> {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the type of the weights")]
    let single = |&x: &f32| (f64::from(x) * factor) as f32;
    let result = match tensor.dtype {
        DataType::Float => tensor.elements::<f32>().map(|all| {
            Tensor::new(
                &tensor.dims,
                all.par_iter().with_min_len(PIECE).map(single).collect::<Vec<f32>>(),
            )
        }),
        _ => tensor.elements::<f64>().map(|all| {
            Tensor::new(&tensor.dims, all.iter().map(|x| x * factor).collect::<Vec<f64>>())
        }),
    };
    result.map_err(|_| Miss::NoMatch)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::FoldScaleIntoWeights;
    use crate::testing::{check_skip, rewritten, untouched};

    #[test]
    fn of_two_computed_operands_the_one_that_can_takes_it() {
        // Keys are read by a position table too, which takes the inverse.
        assert_snapshot!(rewritten(&FoldScaleIntoWeights, "
g (float[2,2] x, float[2,2] q) => (float[2,2] y, float[2,1] z) <float[2,2] w = {2, 4, 6, 8}, float[2,1] table = {1, 2}, float two = {2}> {
   k = MatMul (x, w)  kt = Transpose <perm = [1, 0]> (k)
   s = MatMul (q, kt)  y = Div (s, two)  z = MatMul (k, table)
}"), @r"
        g (float[2,2] x, float[2,2] q) => (float[2,2] y, float[2,1] z) <
           float[2,2] w = {2, 4, 6, 8},
           float[2,1] table = {1, 2},
           float two = {2},
           float[2,1] y_const = {2, 4},
           float[2,2] y_const_1 = {1, 2, 3, 4}
        > {
           k = MatMul (x, y_const_1)
           kt = Transpose <perm: ints = [1, 0]> (k)
           y = MatMul (q, kt)
           z = MatMul (k, y_const)
        }
        ");
    }

    #[test]
    fn the_same_scale_of_another_product_goes_as_well() {
        assert_snapshot!(rewritten(&FoldScaleIntoWeights, "
g (float[2,2] x, float[2,2] q, float[2,1] table) => (float[2,2] y, float[1,2] z) <float[2,2] w = {2, 4, 6, 8}, float two = {2}, float half = {0.5}> {
   k = MatMul (x, w)  kt = Transpose <perm = [1, 0]> (k)  scaled = Div (kt, two)  y = MatMul (q, scaled)
   p = MatMul (k, table)  pt = Transpose <perm = [1, 0]> (p)  z = Mul (half, pt)
}"), @r"
        g (float[2,2] x, float[2,2] q, float[2,1] table) => (float[2,2] y, float[1,2] z) <
           float[2,2] w = {2, 4, 6, 8},
           float two = {2},
           float half = {0.5},
           float[2,2] scaled_const = {1, 2, 3, 4}
        > {
           k = MatMul (x, scaled_const)
           kt = Transpose <perm: ints = [1, 0]> (k)
           y = MatMul (q, kt)
           p = MatMul (k, table)
           z = Transpose <perm: ints = [1, 0]> (p)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        let constants = "float[2,2] w = {2, 4, 6, 8}, float two = {2}, float[2] v = {2, 3}";
        for (inputs, outputs, nodes, why) in [
            ("", ", float[2,2] p", "p = MatMul (x, w)  y = Div (p, two)", "is an output"),
            (
                "",
                ", float[2,2] r",
                "p = MatMul (x, w)  r = Relu (p)  y = Div (p, two)",
                "reads \"p\" as it is",
            ),
            ("", "", "e = Exp (x)  y = Mul (e, two)", "does not pass a factor on"),
            (
                "",
                "",
                "p = MatMul (x, w)  s = MatMul (p, p)  y = Div (s, two)",
                "take the factor twice",
            ),
            (
                "",
                ", float[2,2] z",
                "p = MatMul (x, w)  t = Transpose (p)  y = Div (p, two)  s = MatMul (p, t)  z = Div (s, two)",
                "both operands of a product",
            ),
        ] {
            let text = format!(
                "g (float[2,2] x{inputs}) => (float[2,2] y{outputs}) <{constants}> {{ {nodes} }}"
            );
            check_skip(&FoldScaleIntoWeights, &text, why);
        }
        for node in ["Div (p, v)", "Mul (p, s)", "Div (two, p)"] {
            let text = format!(
                "g (float[2,2] x, float s) => (float[2,2] y) <{constants}> {{ p = MatMul (x, w)  y = {node} }}"
            );
            untouched(&FoldScaleIntoWeights, &text);
        }
    }

    #[test]
    fn shared_weights_stay() {
        let row = vec!["1"; 128 * 129].join(", ");
        check_skip(
            &FoldScaleIntoWeights,
            &format!(
                "g (float[2,128] x) => (float[2,129] y, float[2,129] z) <float[128,129] w = {{{row}}}, float two = {{2}}> {{
                    p = MatMul (x, w)  y = Div (p, two)  n = Neg (x)  z = MatMul (n, w)
                }}"
            ),
            "something else reads \"w\"",
        );
    }

    #[test]
    fn halves_stay() {
        check_skip(
            &FoldScaleIntoWeights,
            "g (float16[2,2] x) => (float16[2,2] y) <float16[2,2] w = {1.0, 2.0, 3.0, 4.0}, float16 three = {3.0}> {
                p = MatMul (x, w)  y = Div (p, three)
            }",
            "would be rounded",
        );
    }
}
