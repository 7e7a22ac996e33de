//! fuse-layer-norm

use onnxfix_ir::{Model, NodeId};

use crate::layer_norm::{Form, ROOTS, SINCE, find};
use crate::opset::convert;
use crate::{Changed, Documented, Miss, PassCx, PassError, Patch, Rewrite, declare_pass, unmet};

declare_pass! {
    /// Writes a layer normalization as one `LayerNormalization`.
    ///
    /// ## Why ATC needs it
    /// It does not: it looks for the single steps, as *canonicalise-layer-norm* writes them. Other runtimes have a kernel
    /// for the operator, which reads the tensor once where the steps read it seven times.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 17]>
    /// g (float[2,4] x) => (float[2,4] y) <float[4] scale = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}, float two = {2}, float epsilon = {0.5}> {
    ///    m = ReduceMean <axes: ints = [-1]> (x)
    ///    c = Sub (x, m)
    ///    p = Pow (c, two)
    ///    v = ReduceMean <axes: ints = [-1]> (p)
    ///    e = Add (v, epsilon)
    ///    d = Sqrt (e)
    ///    q = Div (c, d)
    ///    s = Mul (q, scale)
    ///    y = Add (s, bias)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 17]>
    /// g (float[2,4] x) => (float[2,4] y) <float[4] scale = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}> {
    ///    y = LayerNormalization <axis: int = -1, epsilon: float = 0.5> (x, scale, bias)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - `x` is centered, divided by the root of its mean square and `epsilon`, perhaps times a constant, perhaps plus one:
    ///   in any spelling, also with a Cast to float before and back behind. What is centered twice counts as once.
    /// - The means are over the last axes, the same ones, and keep them; the length of a line is known.
    /// - Nothing else reads a value in the middle.
    /// - The opset has the operator. Below opset 17 the model is brought there first, unless an opset was asked for or a
    ///   node is in the way: see *convert-opset*.
    ///
    /// ## Numerics
    /// The same formula; a kernel may add in another order. Float16 and bfloat16 are computed in float.
    /// Where the square of a number overflows, the steps give 0, which an operator that sums in more bits does not.
    pub FuseLayerNorm = "fuse-layer-norm", Fuse, Relative(1e-6)
}

impl Rewrite for FuseLayerNorm {
    fn roots(&self) -> &'static [&'static str] {
        ROOTS
    }

    fn prepare(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        let root = model.root();
        let Some(opset) = model.opset(root, "").filter(|&opset| opset < SINCE) else {
            return Ok(Changed::No);
        };
        let fuses = |node: NodeId| {
            ROOTS.iter().any(|op| model[node].op().is(op))
                && find(model, node).is_ok_and(|n| n.form != Form::Operator)
        };
        if cx.options.opset.is_some() || !model.all_nodes().any(|(node, _)| fuses(node)) {
            return Ok(Changed::No);
        }
        cx.retract(pass);
        match convert(model, SINCE, pass, || cx.spend()) {
            Ok(changed) => {
                if changed == Changed::Yes {
                    let text = format!(
                        "opset {opset} is {SINCE} now, which has LayerNormalization; --opset {opset} keeps it"
                    );
                    cx.note(pass, text);
                }
                Ok(changed)
            }
            Err(why) => {
                let text = format!("layer normalizations stay as they are: opset {SINCE}: {why}");
                cx.note(pass, text);
                Ok(Changed::No)
            }
        }
    }

    fn try_rewrite(&self, m: &Model, root: NodeId) -> Result<Patch, Miss> {
        let found = find(m, root)?;
        if found.form == Form::Operator {
            return Err(Miss::NoMatch);
        }
        if m.opset(m[root].graph(), "").is_none_or(|opset| opset < SINCE) {
            return unmet(format!("LayerNormalization came with opset {SINCE}"));
        }
        found.fused(m, root)
    }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::{parse, print_graph};

    use super::*;
    use crate::testing::{after, check_skip, operators, rewritten};
    use crate::{Options, Pipeline, run};

    /// A normalization in a model of this opset, with what stands before `x`, and behind `q`, its quotient.
    fn graph(opset: i64, inputs: &str, before: &str, behind: &str) -> String {
        format!(
            "<ir_version: 7, opset_import: [\"\" : {opset}]>
             g ({inputs}) => (float[2,4] y) <float two = {{2}}, float eps = {{0.25}}, float[4] w = {{1, 2, 3, 4}}> {{
                {before}  m = ReduceMean <axes: ints = [-1]> (x)  c = Sub (x, m)  p = Pow (c, two)
                v = ReduceMean <axes: ints = [-1]> (p)  e = Add (v, eps)  d = Sqrt (e)  {behind} }}"
        )
    }

    const X: &str = "float[2,4] x";

    #[test]
    fn a_bias_alone_goes_with_a_scale_of_ones() {
        let seen = rewritten(&FuseLayerNorm, &graph(17, X, "", "q = Div (c, d)  y = Add (w, q)"));
        assert!(seen.contains("float[4] q_const = {1, 1, 1, 1}"), "{seen}");
        assert!(seen.contains("(x, q_const, w)"), "{seen}");
    }

    #[test]
    fn casts_around_it_go() {
        let seen = rewritten(
            &FuseLayerNorm,
            &graph(
                17,
                "float16[2,4] h",
                "x = Cast <to: int = 1> (h)",
                "q = Div (c, d)  n = Cast <to: int = 10> (q)  y = Mul (n, w)",
            )
            .replace("float[2,4] y", "float16[2,4] y")
            .replace("float[4] w", "float16[4] w"),
        );
        assert!(
            seen.contains("LayerNormalization <axis: int = -1, epsilon: float = 0.25> (h, w)"),
            "{seen}"
        );
    }

    #[test]
    fn the_opset_is_raised_for_it() {
        let model = after(&FuseLayerNorm, &graph(13, X, "", "y = Div (c, d)"));
        assert_eq!(model.opset(model.root(), ""), Some(17));
        assert_eq!(model.header.ir_version, Some(8));
    }

    #[test]
    fn an_opset_that_was_asked_for_stays() {
        let mut model = parse(&graph(13, X, "", "y = Div (c, d)")).expect("a model");
        onnxfix_ir::infer::infer(&mut model).expect("a consistent graph");
        let before = print_graph(&model, model.root());
        let options = Options { opset: Some(13), ..Options::default() };
        let pipeline = Pipeline::of(&["fuse-layer-norm"]).expect("a pass of the table");
        run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        assert_eq!(print_graph(&model, model.root()), before);
        assert_eq!(model.opset(model.root(), ""), Some(13));
    }

    #[test]
    fn a_model_that_cannot_be_raised_says_why() {
        let behind = "q = Div (c, d)  r = Upsample (q, scales)  y = Relu (r)";
        let text =
            graph(9, X, "", behind).replace("float two", "float[2] scales = {1, 1}, float two");
        let mut model = parse(&text).expect("a model");
        onnxfix_ir::infer::infer(&mut model).expect("a consistent graph");
        let pipeline = Pipeline::of(&["fuse-layer-norm"]).expect("a pass of the table");
        let report =
            run(&mut model, &pipeline, &Options::default(), &mut |_, _| {}).expect("a run");
        assert_eq!(model.opset(model.root(), ""), Some(9));
        assert!(report.notes[0].text.contains("Upsample"), "{:?}", report.notes);
    }

    #[test]
    fn a_line_of_unknown_length_stays() {
        check_skip(
            &FuseLayerNorm,
            &graph(17, "float[2,N] x", "", "y = Div (c, d)"),
            "the length of a line is not known",
        );
    }

    #[test]
    fn a_model_without_one_keeps_its_opset() {
        let text = "g (float[2] x) => (float[2] y) { y = Div (x, x) }";
        let model = after(&FuseLayerNorm, text);
        assert_eq!(model.opset(model.root(), ""), Some(13));
        assert_eq!(operators(&FuseLayerNorm, text), "Div");
    }
}
