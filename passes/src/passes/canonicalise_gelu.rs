//! canonicalise-gelu

use onnxfix_ir::{Model, NodeId};

use crate::gelu::{ROOTS, find};
use crate::{Miss, Patch, Rewrite, declare_pass};

declare_pass! {
    /// Writes a GELU in the steps that ATC takes for one.
    ///
    /// ## Why ATC needs it
    /// `GeluONNXFusionPass` makes one kernel of Div by √2, Erf, Add of 1, Mul by `x`, Mul by ½, and `GeluFusionPass` of the form by
    /// tanh. A Mul by 1/√2 instead of the Div is not recognised, and `Gelu` itself has no parser.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2,4] x) => (float[2,4] y) <float root = {0.70710677}, float one = {1}, float half = {0.5}> {
    ///    h = Mul (half, x)
    ///    a = Mul (x, root)
    ///    e = Erf (a)
    ///    s = Add (one, e)
    ///    y = Mul (h, s)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2,4] x) => (float[2,4] y) <float e_const = {1.4142135}, float e_const_1 = {1}, float e_const_2 = {0.5}> {
    ///    e_Div = Div (x, e_const)
    ///    e_Erf = Erf (e_Div)
    ///    e_Add = Add (e_Erf, e_const_1)
    ///    e_Mul = Mul (x, e_Add)
    ///    y = Mul (e_Mul, e_const_2)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - It is a GELU as *fuse-gelu* knows it, or the operator.
    /// - It is not written like this already.
    ///
    /// ## Numerics
    /// The same formula, rounded at other places. Of −∞ all forms are NaN.
    pub CanonicaliseGelu = "canonicalise-gelu", Decompose, Relative(1e-6)
}

impl Rewrite for CanonicaliseGelu {
    fn roots(&self) -> &'static [&'static str] {
        ROOTS
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let found = find(m, root)?;
        if found.is_in_steps(m) {
            return Err(Miss::NoMatch);
        }
        found.steps(m, root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_skip, operators, rewritten, untouched};

    const ERF: &str = "Div Erf Add Mul Mul";
    const TANH: &str = "Pow Mul Add Mul Tanh Add Mul Mul";

    fn graph(nodes: &str) -> String {
        format!(
            "g (float[2,4] x) => (float[2,4] y) <float one = {{1}}, float two = {{2}}, float[1] three = {{3}}, float half = {{0.5}},
                float r = {{1.4142135}}, float i = {{0.70710677}}, float k = {{0.7978846}}, float cubic = {{0.044715}}, float[4] w = {{1, 1, 1, 2}}> {{ {nodes} }}"
        )
    }

    #[test]
    fn every_spelling_by_erf_becomes_one() {
        for nodes in [
            "h = Mul (x, half)  a = Mul (x, i)  e = Erf (a)  s = Add (e, one)  y = Mul (h, s)",
            "a = Div (x, r)  e = Erf (a)  s = Add (one, e)  h = Mul (half, s)  y = Mul (x, h)",
            "a = Div (x, r)  e = Erf (a)  s = Add (e, one)  p = Mul (s, x)  y = Mul (half, p)",
            "a = Div (x, r)  e = Erf (a)  s = Add (e, one)  p = Mul (x, s)  y = Div (p, two)",
            "h = Div (x, two)  a = Div (x, r)  e = Erf (a)  p = Mul (h, e)  y = Add (p, h)",
        ] {
            assert_eq!(operators(&CanonicaliseGelu, &graph(nodes)), ERF, "{nodes}");
        }
    }

    #[test]
    fn every_spelling_by_tanh_becomes_one() {
        for inner in [
            "c = Pow (x, three)  m = Mul (cubic, c)  a = Add (m, x)  b = Mul (k, a)",
            "q = Mul (x, x)  c = Mul (q, x)  m = Mul (c, cubic)  a = Add (x, m)  b = Mul (a, k)",
            "q = Pow (x, two)  m = Mul (q, cubic)  a = Add (one, m)  n = Mul (x, k)  b = Mul (n, a)",
        ] {
            let nodes = format!(
                "{inner}  t = Tanh (b)  s = Add (one, t)  h = Mul (half, x)  y = Mul (h, s)"
            );
            assert_eq!(operators(&CanonicaliseGelu, &graph(&nodes)), TANH, "{inner}");
        }
    }

    #[test]
    fn what_is_written_so_stays() {
        untouched(
            &CanonicaliseGelu,
            &graph(
                "a = Div (x, r)  e = Erf (a)  s = Add (e, one)  p = Mul (x, s)  y = Mul (p, half)",
            ),
        );
        untouched(
            &CanonicaliseGelu,
            &graph(
                "c = Pow (x, three)  m = Mul (c, cubic)  a = Add (x, m)  b = Mul (a, k)  t = Tanh (b)
                 s = Add (t, one)  h = Mul (s, half)  y = Mul (x, h)",
            ),
        );
    }

    #[test]
    fn other_formulas_stay() {
        let nodes =
            "h = Mul (x, half)  a = Mul (x, i)  e = Erf (a)  s = Add (e, one)  y = Mul (h, s)";
        for (from, to) in [
            ("a = Mul (x, i)", "a = Mul (x, r)"),
            ("a = Mul (x, i)", "a = Div (x, i)"),
            ("a = Mul (x, i)", "a = Mul (x, half)"),
            ("s = Add (e, one)", "s = Sub (e, one)"),
            ("s = Add (e, one)", "s = Add (e, two)"),
            ("s = Add (e, one)", "s = Add (e, w)"),
            ("h = Mul (x, half)", "h = Mul (x, two)"),
            ("h = Mul (x, half)", "n = Relu (x)  h = Mul (n, half)"),
            ("e = Erf (a)", "e = Tanh (a)"),
            ("y = Mul (h, s)", "y = Mul (s, s)"),
        ] {
            assert!(nodes.contains(from));
            untouched(&CanonicaliseGelu, &graph(&nodes.replace(from, to)));
        }
    }

    #[test]
    fn a_value_in_the_middle_that_is_read_keeps_it() {
        check_skip(
            &CanonicaliseGelu,
            &graph(
                "h = Mul (x, half)  a = Mul (x, i)  e = Erf (a)  s = Add (e, one)  p = Mul (h, s)
                 z = Relu (h)  y = Add (p, z)",
            ),
            "something else reads a value in the middle",
        );
    }

    #[test]
    fn the_operator_becomes_steps() {
        let text = "<ir_version: 9, opset_import: [\"\" : 20]>
g (float16[2] x) => (float16[2] y, float16[2] z) { y = Gelu (x)  z = Gelu <approximate: string = \"tanh\"> (x) }";
        insta::assert_snapshot!(rewritten(&CanonicaliseGelu, text), @r"
        g (float16[2] x) => (float16[2] y, float16[2] z) <
           float16 y_const = {1.414},
           float16 y_const_1 = {1.0},
           float16 y_const_2 = {0.5},
           float16 z_const = {3.0},
           float16 z_const_1 = {0.0447},
           float16 z_const_2 = {0.798},
           float16 z_const_3 = {1.0},
           float16 z_const_4 = {0.5}
        > {
           y_Div = Div (x, y_const)
           y_Erf = Erf (y_Div)
           y_Add = Add (y_Erf, y_const_1)
           y_Mul = Mul (x, y_Add)
           y = Mul (y_Mul, y_const_2)
           z_Pow = Pow (x, z_const)
           z_Mul = Mul (z_Pow, z_const_1)
           z_Add = Add (x, z_Mul)
           z_Mul_1 = Mul (z_Add, z_const_2)
           z_Tanh = Tanh (z_Mul_1)
           z_Add_1 = Add (z_Tanh, z_const_3)
           z_Mul_2 = Mul (z_Add_1, z_const_4)
           z = Mul (x, z_Mul_2)
        }
        ");
    }
}
