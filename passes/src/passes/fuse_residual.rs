//! fuse-residual

use onnxfix_ir::{DataType, Model, NodeId, Tensor, Use, ValueId};

use crate::matching::{constant, dims_of_elements, input, output, producer, used_once};
use crate::{Miss, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Lets a `Gemm` add what goes around it, in the place of its bias.
    ///
    /// ## Why ATC needs it
    /// It does not: ATC looks for the bias there. Other runtimes save a pass over the activations. The bias moves into the
    /// layer normalisation that made what goes around, and out of the biases of the linear layers that read it.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 17]>
    /// g (float[3,2] e, float[3,2] c) => (float[3,2] y, float[3,2] z) <float[2] scale = {1, 1}, float[2] shift = {0.5, 1}, float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2,2] v = {1, 0, 0, 1}, float[2] d = {5, 6}> {
    ///    x = LayerNormalization (e, scale, shift)
    ///    q = Gemm (x, v, d)
    ///    z = Relu (q)
    ///    o = Gemm (c, w, b)
    ///    y = Add (o, x)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 17]>
    /// g (float[3,2] e, float[3,2] c) => (float[3,2] y, float[3,2] z) <float[2] scale = {1, 1}, float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 0, 0, 1}, float[2] y_const = {1.5, 3}, float[2] y_const_1 = {4, 4}> {
    ///    x = LayerNormalization (e, scale, y_const)
    ///    q = Gemm (x, v, y_const_1)
    ///    z = Relu (q)
    ///    y = Gemm (c, w, x)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A sum of a Gemm with a constant bias and of a layer normalisation with a constant shift; nothing else reads the
    ///   Gemm.
    /// - Whatever else reads the normalisation is a Gemm with constant weights and bias. All are float.
    ///
    /// ## Numerics
    /// The biases are added in another order.
    pub FuseResidual = "fuse-residual", Fuse, Relative(1e-6)
}

impl Rewrite for FuseResidual {
    fn roots(&self) -> &'static [&'static str] {
        &["Add"]
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let (a, b, y) = (input(m, root, 0)?, input(m, root, 1)?, output(m, root)?);
        let layer = |v: ValueId| Layer::of(m, v).ok();
        let norm = |v: ValueId| producer(m, v, "LayerNormalization").ok();
        let (layer, x, norm, sum) = match (layer(a), norm(b), layer(b), norm(a)) {
            (Some(layer), Some(norm), ..) => (layer, b, norm, a),
            (_, _, Some(layer), Some(norm)) => (layer, a, norm, b),
            _ => return Err(Miss::NoMatch),
        };
        if !used_once(m, sum) {
            return unmet("something else reads the product");
        }
        let of_y = dims_of_elements(m, y)?;
        if of_y.len() != 2 || dims_of_elements(m, x)? != of_y || dims_of_elements(m, sum)? != of_y {
            return unmet("the sum is not of two matrices of one shape");
        }
        let bias = floats(m, layer.bias)?;
        let shift = floats(m, input(m, norm, 2)?)?;
        if bias.len() != shift.len() || of_y[1] != bias.len() as i64 {
            return unmet("the bias is not one number for each feature");
        }
        let mut patch = Patch::new(m, root);
        let moved: Vec<f64> = shift.iter().zip(&bias).map(|(s, b)| s + b).collect();
        let moved = patch.constant(single(&moved));
        patch.set_input(norm, 2, moved);
        for use_ in m[x].uses() {
            let reader = match *use_ {
                Use::Input { node, .. } if node == root => continue,
                Use::Input { node, slot: 0 } => node,
                _ => {
                    return unmet("something else than a linear layer reads the normalised values");
                }
            };
            let Ok(other) = Layer::at(m, reader) else {
                return unmet("something else than a linear layer reads the normalised values");
            };
            let left = other.without(m, &bias)?;
            let left = patch.constant(left);
            patch.set_input(reader, 2, left);
        }
        let gemm = m[layer.node].attrs.clone();
        let inputs = [input(m, layer.node, 0)?.into(), input(m, layer.node, 1)?.into(), x.into()];
        let result = patch.node_with("Gemm", &inputs, gemm);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// A Gemm with constant weights and bias that multiplies by nothing else.
struct Layer {
    node: NodeId,
    weights: ValueId,
    bias: ValueId,
    /// Whether the weights have features in columns.
    is_turned: bool,
}

impl Layer {
    fn of(m: &Model, value: ValueId) -> Result<Layer, Miss> {
        Layer::at(m, producer(m, value, "Gemm")?)
    }

    fn at(m: &Model, node: NodeId) -> Result<Layer, Miss> {
        let n = &m[node];
        let is_plain =
            |name: &str| n.attrs.float(name).is_none_or(|x| x.to_bits() == 1_f32.to_bits());
        if !n.op().is("Gemm") || !is_plain("alpha") || !is_plain("beta") {
            return Err(Miss::NoMatch);
        }
        if n.attrs.int("transA").unwrap_or(0) != 0 {
            return Err(Miss::NoMatch);
        }
        let (weights, bias) = (input(m, node, 1)?, input(m, node, 2)?);
        if constant(m, bias)?.dims.len() != 1 || constant(m, weights)?.dtype != DataType::Float {
            return Err(Miss::NoMatch);
        }
        Ok(Layer { node, weights, bias, is_turned: n.attrs.int("transB").unwrap_or(0) != 0 })
    }

    /// The bias of the layer where every row that it reads has `more` added.
    fn without(&self, m: &Model, more: &[f64]) -> Result<Tensor, Miss> {
        let tensor = constant(m, self.weights)?;
        let weights = tensor.elements::<f32>().map_err(|_| Miss::NoMatch)?;
        let mut bias = floats(m, self.bias)?;
        let (features, outputs) = (more.len(), bias.len());
        if features * outputs != weights.len() {
            return unmet("a bias is not one number for each feature");
        }
        if self.is_turned {
            for (bias, row) in bias.iter_mut().zip(weights.chunks_exact(features)) {
                *bias -= row.iter().zip(more).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
            }
        } else {
            for (row, x) in weights.chunks_exact(outputs).zip(more) {
                bias.iter_mut().zip(row).for_each(|(bias, &w)| *bias -= f64::from(w) * x);
            }
        }
        Ok(single(&bias))
    }
}

/// The elements of a constant of float.
fn floats(m: &Model, value: ValueId) -> Result<Vec<f64>, Miss> {
    let tensor = constant(m, value)?;
    let all = tensor.elements::<f32>().map_err(|_| Miss::NoMatch)?;
    Ok(all.iter().map(|&x| f64::from(x)).collect())
}

fn single(all: &[f64]) -> Tensor {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the type of the biases")]
    let all: Vec<f32> = all.iter().map(|&x| x as f32).collect();
    Tensor::new(&[all.len() as i64], all)
}

#[cfg(test)]
mod tests {
    use super::FuseResidual;
    use crate::testing::check_skip;

    fn graph(more: &str, nodes: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             g (float[3,2] e, float[3,2] c, float[2] given) => (float[3,2] y{more}) <float[2] s = {{1, 1}}, float[2] t = {{0.5, 1}}, float[2,2] w = {{1, 2, 3, 4}}, float[2] b = {{1, 2}}> {{
                x = LayerNormalization (e, s, t)  {nodes}
             }}"
        )
    }

    #[test]
    fn look_alikes_stay() {
        for (more, nodes, why) in [
            (
                ", float[3,2] x",
                "o = Gemm (c, w, b)  y = Add (o, x)",
                "something else than a linear layer",
            ),
            (
                ", float[3,2] z",
                "z = Relu (x)  o = Gemm (c, w, b)  y = Add (o, x)",
                "something else than a linear layer",
            ),
            (
                ", float[3,2] o",
                "o = Gemm (c, w, b)  y = Add (o, x)",
                "something else reads the product",
            ),
            (
                ", float[3,2] z",
                "z = Gemm (x, w, given)  o = Gemm (c, w, b)  y = Add (x, o)",
                "something else than a linear layer",
            ),
        ] {
            check_skip(&FuseResidual, &graph(more, nodes), why);
        }
    }
}
