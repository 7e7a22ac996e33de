//! sink-reshapes

use onnxfix_ir::{AttrValue, Attrs, Model, NodeId, Tensor, ValueId};

use crate::matching::{
    ALONG_AXIS, Dims, REDUCTIONS, dims, dims_of_elements, dtype, input, is_along_last, is_reshape,
    output, reduces_last,
};
use crate::{Miss, Operand, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Moves a `Reshape` that splits the rows of a matrix behind operators that work row by row.
    ///
    /// ## Why ATC needs it
    /// Its fusions of attention, and the cube unit, want activations as matrices: tokens by features. Together with
    /// *flatten-linear-layers* this pass keeps everything between two attentions a matrix, through bias, GELU, layer
    /// normalisation and the sum with what went around.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[6,4] x) => (float[2,3,4] y) <int64[3] s = {2, 3, 4}, float[4] bias = {1, 2, 3, 4}> {
    ///    r = Reshape (x, s)
    ///    y = Add (r, bias)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[6,4] x) => (float[2,3,4] y) <float[4] bias = {1, 2, 3, 4}, int64[3] y_const = {2, 3, 4}> {
    ///    y_Add = Add (x, bias)
    ///    y = Reshape (y_Add, y_const)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - An operand is a Reshape of a matrix that keeps the last axis, and the operator is element-wise, or a Softmax, a
    ///   layer normalisation or a reduction along the last axis, or a MatMul with a matrix.
    /// - What else an element-wise operator reads is the same for all rows, or has the same rows, which are then joined.
    /// - Shapes are static, and there are elements.
    ///
    /// ## Numerics
    /// Exact.
    pub SinkReshapes = "sink-reshapes", Simplify, Exact
}

/// Element-wise operators of encoders.
const ELEMENTWISE: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Erf",
    "Tanh",
    "Sigmoid",
    "Relu",
    "Gelu",
    "Neg",
    "Cast",
    "Where",
    "Min",
    "Max",
    "Clip",
];

/// How a node reads rows.
enum Rows {
    /// Every operand has them, or is the same for all.
    Each,
    /// Only the first operand does.
    First(Attrs),
    /// Only the first operand does, and the second one names the axis.
    Reduced,
}

impl Rewrite for SinkReshapes {
    fn roots(&self) -> &'static [&'static str] {
        static ALL: std::sync::LazyLock<Vec<&'static str>> = std::sync::LazyLock::new(|| {
            [ELEMENTWISE, ALONG_AXIS, REDUCTIONS, &["MatMul"]].concat()
        });
        &ALL
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let split = |v: ValueId| split_rows(m, v).ok();
        let (first, matrix) = m[root]
            .inputs()
            .iter()
            .flatten()
            .find_map(|&v| Some((v, split(v)?)))
            .ok_or(Miss::NoMatch)?;
        let op = m[root].op().def.ok_or(Miss::NoMatch)?.name;
        // Casts of integers move the other way, towards the inputs.
        if op == "Cast" && !dtype(m, first)?.is_float() {
            return Err(Miss::NoMatch);
        }
        let y = output(m, root)?;
        if m[root].outputs().iter().skip(1).flatten().next().is_some() {
            return unmet("it has more than one output");
        }
        let rows = rows_of(m, root, op)?;
        let (from, to) = (dims_of_elements(m, first)?, dims_of_elements(m, y)?);
        let leading = &from[..from.len() - 1];
        if to.len() != from.len() || to[..to.len() - 1] != *leading {
            return unmet("the result has other rows");
        }
        let count = leading.iter().product();
        let mut patch = Patch::new(m, root);
        let mut attrs = m[root].attrs.clone();
        let mut operands: Vec<Operand> = Vec::new();
        match rows {
            Rows::Each => {
                for &v in m[root].inputs() {
                    operands.push(joined(m, &mut patch, v.ok_or(Miss::NoMatch)?, leading, count)?);
                }
            }
            Rows::First(changed) => {
                if m[root].input(0) != Some(first) {
                    return Err(Miss::NoMatch);
                }
                attrs = changed;
                operands.push(matrix.into());
                operands.extend(m[root].inputs()[1..].iter().flatten().map(|&v| Operand::from(v)));
            }
            Rows::Reduced => {
                let axis = patch.constant(Tensor::ints(&[1]));
                operands.extend([matrix.into(), axis]);
            }
        }
        let result = patch.node_with(op, &operands, attrs);
        let result = patch.reshape(result, &to);
        patch.replace(y, result);
        Ok(patch)
    }
}

/// The matrix whose rows a Reshape gives more axes.
fn split_rows(m: &Model, value: ValueId) -> Result<ValueId, Miss> {
    let node = m.producer(value).filter(|&n| is_reshape(m, n)).ok_or(Miss::NoMatch)?;
    let matrix = input(m, node, 0)?;
    let (from, to) = (dims(m, matrix)?, dims(m, value)?);
    if from.len() == 2 && to.len() > 2 && from.last() == to.last() {
        Ok(matrix)
    } else {
        Err(Miss::NoMatch)
    }
}

/// How the node reads rows, where it works along the last axis.
fn rows_of(m: &Model, node: NodeId, op: &str) -> Result<Rows, Miss> {
    let n = &m[node];
    // Before opset 8 operands broadcast by attribute.
    if m.opset(n.graph(), "").is_none_or(|version| version < 8) {
        return unmet("the opset is older than 8");
    }
    let rank = dims(m, input(m, node, 0)?)?.len();
    let mut attrs = n.attrs.clone();
    if op == "MatMul" {
        if dims(m, input(m, node, 1)?)?.len() != 2 {
            return Err(Miss::NoMatch);
        }
        return Ok(Rows::First(attrs));
    }
    if ALONG_AXIS.contains(&op) {
        if !is_along_last(m, node, rank) {
            return unmet("it is not along the last axis");
        }
        attrs.set("axis", 1);
        return Ok(Rows::First(attrs));
    }
    if REDUCTIONS.contains(&op) {
        reduces_last(m, node, rank)?;
        if n.input(1).is_some() {
            return Ok(Rows::Reduced);
        }
        attrs.set("axes", AttrValue::Ints(vec![1]));
        return Ok(Rows::First(attrs));
    }
    Ok(Rows::Each)
}

/// An operand of an element-wise operator on matrices of `count` rows.
fn joined(
    m: &Model,
    patch: &mut Patch,
    v: ValueId,
    leading: &[i64],
    count: i64,
) -> Result<Operand, Miss> {
    if let Ok(matrix) = split_rows(m, v)
        && dims(m, v)?[..leading.len()] == *leading
    {
        return Ok(matrix.into());
    }
    let shape: Dims = dims_of_elements(m, v)?;
    let Some((&last, front)) = shape.split_last() else { return Ok(v.into()) };
    if front.is_empty() {
        return Ok(v.into());
    }
    if front.iter().all(|&d| d == 1) {
        return Ok(patch.reshape(v.into(), &[last]));
    }
    if front == leading {
        return Ok(patch.reshape(v.into(), &[count, last]));
    }
    unmet(format!("{:?} is neither the same for all rows nor has as many", m[v].name()))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::SinkReshapes;
    use crate::testing::{check_skip, rewritten, untouched};

    /// A graph of one operator behind a Reshape of a matrix of 6 rows.
    fn graph(inputs: &str, constants: &str, output: &str, node: &str) -> String {
        format!(
            "g (float[6,4] x{inputs}) => ({output} y) <int64[3] s = {{2, 3, 4}}{constants}> {{ r = Reshape (x, s)  y = {node} }}"
        )
    }

    #[test]
    fn what_works_along_the_last_axis_works_on_a_matrix() {
        for (constants, output, node) in [
            ("", "float[2,3,4]", "Softmax <axis = -1> (r)"),
            ("", "float[2,3,4]", "Softmax (r)"),
            ("", "float[2,3,1]", "ReduceMean <axes = [2]> (r)"),
            (", int64[1] a = {-1}", "float[2,3,1]", "ReduceSum (r, a)"),
            (", float[4,1] w = {1, 2, 3, 4}", "float[2,3,1]", "MatMul (r, w)"),
            (", float half = {0.5}", "float[2,3,4]", "Mul (half, r)"),
            (", float[1,1,4] b = {1, 2, 3, 4}", "float[2,3,4]", "Add (b, r)"),
        ] {
            let seen = rewritten(&SinkReshapes, &graph("", constants, output, node));
            let last = seen.lines().rev().nth(1).unwrap_or_default();
            assert!(last.contains("y = Reshape"), "{node}: {seen}");
        }
    }

    #[test]
    fn rows_that_another_operand_has_are_joined() {
        let text = graph(", float[2,3,4] z", "", "float[2,3,4]", "Add (r, z)");
        assert_snapshot!(rewritten(&SinkReshapes, &text), @r"
        g (float[6,4] x, float[2,3,4] z) => (float[2,3,4] y) <
           int64[3] s = {2, 3, 4},
           int64[2] y_const = {6, 4},
           int64[3] y_const_1 = {2, 3, 4}
        > {
           y_Reshape = Reshape (z, y_const)
           y_Add = Add (x, y_Reshape)
           y = Reshape (y_Add, y_const_1)
        }
        ");
    }

    #[test]
    fn look_alikes_stay() {
        for (inputs, constants, output, node, why) in [
            ("", "", "float[2,3,4]", "Softmax <axis = 1> (r)", "not along the last axis"),
            (
                "",
                "",
                "float[2,1,4]",
                "ReduceMean <axes = [1]> (r)",
                "not along the last axis alone",
            ),
            ("", "", "float[2,3]", "ReduceMean <axes = [2], keepdims = 0> (r)", "drops its axis"),
            (", float[3,4] z", "", "float[2,3,4]", "Add (r, z)", "neither the same for all rows"),
            (", float[5,2,3,4] z", "", "float[5,2,3,4]", "Add (r, z)", "the result has other rows"),
        ] {
            check_skip(&SinkReshapes, &graph(inputs, constants, output, node), why);
        }
    }

    #[test]
    fn a_reshape_that_cuts_rows_stays() {
        untouched(
            &SinkReshapes,
            "g (float[6,4] x) => (float[6,2,2] y) <int64[3] s = {6, 2, 2}> { r = Reshape (x, s)  y = Neg (r) }",
        );
    }
}
