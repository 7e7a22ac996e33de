//! canonicalise-layer-norm

use onnxfix_ir::{Model, NodeId};

use crate::layer_norm::{Form, ROOTS, find};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes a layer normalization in the steps that ATC takes for one.
    ///
    /// ## Why ATC needs it
    /// `LayerNormONNXFusionPass` makes one kernel of exactly these nodes: one Sub, read by Pow and Div alone, the exponent 2
    /// and epsilon as scalars, means over negative axes, scale and bias as second operands. A square written as
    /// Mul, a second Sub or a Reciprocal leaves seven passes over the tensor, and in float16 a square that overflows. Of
    /// `LayerNormalization` ATC makes the kernel with a broadcast scale and five nodes around it, and below opset 17 there is none.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,4] x) => (float[2,4] y) <float[4] scale = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}, float epsilon = {0.5}> {
    ///    m = ReduceMean <axes: ints = [1]> (x)
    ///    c = Sub (x, m)
    ///    c2 = Sub (x, m)
    ///    p = Mul (c2, c2)
    ///    v = ReduceMean <axes: ints = [1]> (p)
    ///    e = Add (epsilon, v)
    ///    d = Sqrt (e)
    ///    r = Reciprocal (d)
    ///    q = Mul (c, r)
    ///    s = Mul (scale, q)
    ///    y = Add (bias, s)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,4] x) => (float[2,4] y) <float[4] scale = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}, float q_const = {2}, float q_const_1 = {0.5}> {
    ///    q_ReduceMean = ReduceMean <axes: ints = [-1]> (x)
    ///    q_Sub = Sub (x, q_ReduceMean)
    ///    q_Pow = Pow (q_Sub, q_const)
    ///    q_ReduceMean_1 = ReduceMean <axes: ints = [-1]> (q_Pow)
    ///    q_Add = Add (q_ReduceMean_1, q_const_1)
    ///    q_Sqrt = Sqrt (q_Add)
    ///    q_Div = Div (q_Sub, q_Sqrt)
    ///    q_Mul = Mul (q_Div, scale)
    ///    y = Add (q_Mul, bias)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - It is a layer normalization as *fuse-layer-norm* knows it, or the operator with nothing but its first output read.
    /// - It is not written like this already.
    ///
    /// ## Numerics
    /// The same formula, rounded at other places. Of a `LayerNormalization` of float16 or bfloat16 the steps are in float.
    /// Where the square of a number overflows, the steps give 0, which an operator that sums in more bits does not.
    pub CanonicaliseLayerNorm = "canonicalise-layer-norm", Decompose, Relative(1e-6)
}

impl Rewrite for CanonicaliseLayerNorm {
    fn roots(&self) -> &'static [&'static str] {
        ROOTS
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let found = find(m, root)?;
        if found.form == Form::Steps {
            return Err(Miss::NoMatch);
        }
        found.steps(m, root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, operators, rewritten, untouched};

    /// What ATC looks for.
    const STEPS: &str = "ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add";

    /// A graph with these nodes from `x` to `y`.
    fn graph(nodes: &str) -> String {
        format!(
            "g (float[2,3,4] x) => (float[2,3,4] y) <float[4] scale = {{1, 2, 3, 4}}, float[1,1,4] bias = {{4, 3, 2, 1}},
                float one = {{1}}, float two = {{2}}, float root = {{0.5}}, float inverse = {{-0.5}}, float[1] eps = {{0.25}}> {{ {nodes} }}"
        )
    }

    const CENTER: &str = "m = ReduceMean <axes: ints = [2]> (x)  c = Sub (x, m)";
    const VARIANCE: &str =
        "p = Mul (c, c)  v = ReduceMean <axes: ints = [-1]> (p)  e = Add (eps, v)";
    const ENDS: &str = "s = Mul (scale, q)  y = Add (bias, s)";

    #[test]
    fn every_spelling_becomes_one() {
        for quotient in [
            "d = Sqrt (e)  q = Div (c, d)",
            "d = Pow (e, root)  q = Div (c, d)",
            "d = Sqrt (e)  r = Reciprocal (d)  q = Mul (c, r)",
            "d = Sqrt (e)  r = Div (one, d)  q = Mul (r, c)",
            "r = Pow (e, inverse)  q = Mul (r, c)",
            "m2 = ReduceMean <axes: ints = [2]> (x)  c2 = Sub (x, m2)  d = Sqrt (e)  q = Div (c2, d)",
        ] {
            let nodes = format!("{CENTER}  {VARIANCE}  {quotient}  {ENDS}");
            assert_eq!(operators(&CanonicaliseLayerNorm, &graph(&nodes)), STEPS, "{quotient}");
        }
    }

    #[test]
    fn what_is_written_so_stays() {
        untouched(
            &CanonicaliseLayerNorm,
            &graph(
                "m = ReduceMean <axes: ints = [-1]> (x)  c = Sub (x, m)  p = Pow (c, two)
                 v = ReduceMean <axes: ints = [-1]> (p)  e = Add (v, eps)  d = Sqrt (e)
                 q = Div (c, d)  y = Mul (q, scale)",
            ),
        );
    }

    #[test]
    fn a_scale_that_is_no_weight_stays_outside() {
        let nodes = format!("{CENTER}  {VARIANCE}  d = Sqrt (e)  q = Div (c, d)  y = Mul (x, q)");
        assert_eq!(
            rewritten(&CanonicaliseLayerNorm, &graph(&nodes)).lines().rev().nth(1),
            Some("   y = Mul (x, q)")
        );
    }

    #[test]
    fn look_alikes_stay() {
        for (nodes, why) in [
            ("m = ReduceMean <axes: ints = [1]> (x)  c = Sub (x, m)", "over different axes"),
            (
                "m = ReduceMean <axes: ints = [2]> (x)  c = Sub (x, m)  w = Relu (m)",
                "something else reads",
            ),
        ] {
            let nodes = format!("{nodes}  {VARIANCE}  d = Sqrt (e)  y = Div (c, d)");
            check_skip(&CanonicaliseLayerNorm, &graph(&nodes), why);
        }
        let middle = "m = ReduceMean <axes: ints = [1]> (x)  c = Sub (x, m)  p = Mul (c, c)
            v = ReduceMean <axes: ints = [1]> (p)  e = Add (eps, v)  d = Sqrt (e)  y = Div (c, d)";
        check_skip(&CanonicaliseLayerNorm, &graph(middle), "not the last ones");
        let flat = "g (float[3,3] x) => (float[3,3] y) <float eps = {0.25}> {
            m = ReduceMean <axes: ints = [1], keepdims: int = 0> (x)  c = Sub (x, m)  p = Mul (c, c)
            v = ReduceMean <axes: ints = [1]> (p)  e = Add (v, eps)  d = Sqrt (e)  y = Div (c, d) }";
        check_skip(&CanonicaliseLayerNorm, flat, "drops its axes");
    }

    #[test]
    fn other_formulas_stay() {
        for (from, to) in [
            ("c = Sub (x, m)", "c = Add (x, m)"),
            ("p = Mul (c, c)", "p = Mul (c, x)"),
            ("p = Mul (c, c)", "p = Pow (c, inverse)"),
            ("e = Add (eps, v)", "e = Sub (v, eps)"),
            ("e = Add (eps, v)", "e = Add (scale, v)"),
            ("d = Sqrt (e)", "d = Exp (e)"),
            ("q = Div (c, d)", "q = Div (d, c)"),
            ("q = Div (c, d)", "q = Mul (c, d)"),
        ] {
            let nodes = format!("{CENTER}  {VARIANCE}  d = Sqrt (e)  q = Div (c, d)  {ENDS}");
            assert!(nodes.contains(from));
            untouched(&CanonicaliseLayerNorm, &graph(&nodes.replace(from, to)));
        }
    }

    #[test]
    fn the_operator_becomes_steps_over_all_its_axes() {
        let seen = rewritten(
            &CanonicaliseLayerNorm,
            "<ir_version: 8, opset_import: [\"\" : 18]>
             g (float[2,3,4] x, float[3,4] scale) => (float[2,3,4] y) {
                y = LayerNormalization <axis: int = 1> (x, scale)
             }",
        );
        insta::assert_snapshot!(seen, @r"
        g (float[2,3,4] x, float[3,4] scale) => (float[2,3,4] y) <
           int64[2] y_const = {-2, -1},
           float y_const_1 = {2},
           float y_const_2 = {1e-5}
        > {
           y_ReduceMean = ReduceMean (x, y_const)
           y_Sub = Sub (x, y_ReduceMean)
           y_Pow = Pow (y_Sub, y_const_1)
           y_ReduceMean_1 = ReduceMean (y_Pow, y_const)
           y_Add = Add (y_ReduceMean_1, y_const_2)
           y_Sqrt = Sqrt (y_Add)
           y_Div = Div (y_Sub, y_Sqrt)
           y = Mul (y_Div, scale)
        }
        ");
    }

    #[test]
    fn narrow_floats_are_computed_in_float() {
        let operator = "<ir_version: 8, opset_import: [\"\" : 17]>
             g (float16[2,4] x) => (float16[2,4] y) <float16[4] scale = {1, 2, 3, 4}> {
                y = LayerNormalization (x, scale)
             }";
        assert_eq!(
            operators(&CanonicaliseLayerNorm, operator),
            "Cast ReduceMean Sub Pow ReduceMean Add Sqrt Div Cast Mul"
        );
    }

    #[test]
    fn an_operator_whose_mean_is_read_stays() {
        check_skip(
            &CanonicaliseLayerNorm,
            "<ir_version: 8, opset_import: [\"\" : 17]>
             g (float[2,4] x, float[4] scale) => (float[2,4] y, float[2,1] mean) {
                y, mean = LayerNormalization (x, scale)
             }",
            "its mean or its deviation is read",
        );
    }
}
