//! convert-opset

use onnxfix_ir::Model;

use crate::opset::convert;
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Brings the model to the opset that was asked for.
    ///
    /// ## Why ATC needs it
    /// It looks up each operator under the one version that the model imports, without falling back to an older one: an
    /// operator that is not registered for exactly this number is error E16002 or E19010. Every CANN from 5 on takes 13.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 18]>
    /// g (float[2,4] x) => (float[2,1] y) <int64[1] axes = {-1}> { y = ReduceMean (x, axes) }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 13]>
    /// g (float[2,4] x) => (float[2,1] y) { y = ReduceMean <axes: ints = [-1]> (x) }
    /// ```
    ///
    /// ## Applies when
    /// - An opset is wanted (`--opset`; 13 for an NPU) and the model is of another one, both from 7 to 21.
    /// - For every node the operator is the same in both, or there is a rule: axes, lengths, bounds and ratios
    ///   become attributes or inputs, attributes that say nothing go, operators that came later are written in older ones.
    ///   Where one node is in the way, the model keeps its opset and a warning names the node.
    /// - Element types are among those that the older operator took; inputs that become attributes are constant.
    /// - Functions of the model are inlined.
    ///
    /// ## Numerics
    /// Exact, but for `LayerNormalization`, Gelu and `HardSwish`, whose steps round at other places.
    pub ConvertOpset = "convert-opset", Legalise, Relative(1e-6)
}

impl Pass for ConvertOpset {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        let from = model.opset(model.root(), "");
        let wanted = cx.options.opset.and_then(|opset| i64::try_from(opset).ok());
        let (Some(to), Some(from)) = (wanted, from) else { return Ok(Changed::No) };
        if from == to {
            return Ok(Changed::No);
        }
        cx.retract(pass);
        match convert(model, to, pass, || cx.spend()) {
            Ok(Changed::Yes) => {
                cx.note(pass, format!("opset {from} is {to} now"));
                Ok(Changed::Yes)
            }
            Ok(Changed::No) => Ok(Changed::No),
            Err(why) => {
                cx.warn(pass, format!("the model stays at opset {from} instead of {to}: {why}"));
                Ok(Changed::No)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::Model;
    use onnxfix_ir::text::{parse, print_graph};

    use crate::{Options, Pipeline, run};

    fn model(from: i64, graph: &str) -> Model {
        let text = format!("<ir_version: 3, opset_import: [\"\" : {from}]>\n{graph}");
        let mut model = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        onnxfix_ir::infer::infer(&mut model).expect("a consistent graph");
        let broken = onnxfix_ir::check(&model);
        assert!(broken.is_empty(), "{broken:?}\n{text}");
        model
    }

    /// The nodes after a conversion, or what was in the way.
    #[track_caller]
    fn converted(from: i64, to: u64, graph: &str) -> Result<String, String> {
        let mut model = model(from, graph);
        let before = print_graph(&model, model.root());
        let options = Options { opset: Some(to), check_each: true, ..Options::default() };
        let pipeline = Pipeline::of(&["convert-opset"]).expect("a pass of the table");
        let report = run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let after = print_graph(&model, model.root());
        let now = model.opset(model.root(), "");
        if let Some(note) = report.notes.iter().find(|note| note.warning) {
            assert_eq!((now, after), (Some(from), before), "half converted");
            return Err(note.text.clone());
        }
        assert_eq!(now, i64::try_from(to).ok());
        onnxfix_ir::infer::infer(&mut model).expect("a consistent graph");
        Ok(after)
    }

    /// A node of `before` in opset `low` and one of `after` in opset `high` are the same, whichever is given.
    #[track_caller]
    fn there_and_back(low: i64, before: &str, high: i64, after: &str) {
        let (Ok(to_high), Ok(to_low)) = (u64::try_from(high), u64::try_from(low)) else {
            panic!("opsets are positive")
        };
        let up = converted(low, to_high, before).unwrap_or_else(|why| panic!("{why}"));
        let constants = |text: &str| text.replace("_const", "");
        let want = model(high, after);
        assert_eq!(constants(&up), constants(&print_graph(&want, want.root())), "up");
        let down = converted(high, to_low, after).unwrap_or_else(|why| panic!("{why}"));
        let mut want = model(low, before);
        let root = want.root();
        want.remove_dead_initializers(root);
        let mut have = model(low, &down);
        have.remove_dead_initializers(root);
        assert_eq!(print_graph(&have, root), print_graph(&want, root), "down");
    }

    #[test]
    fn axes_are_attributes_or_inputs() {
        for (op, low, high, shape) in [
            ("Squeeze", 11, 13, "2,1"),
            ("Unsqueeze", 11, 13, "2,1,1,1"),
            ("ReduceSum", 11, 13, "2,1,1"),
            ("ReduceMax", 13, 18, "2,1,1"),
            ("ReduceMean", 13, 18, "2,1,1"),
        ] {
            let axes = if op == "Squeeze" { -1 } else { 2 };
            there_and_back(
                low,
                &format!("g (float[2,1,1] x) => (float[{shape}] y) {{ y = {op} <axes: ints = [{axes}]> (x) }}"),
                high,
                &format!("g (float[2,1,1] x) => (float[{shape}] y) <int64[1] y = {{{axes}}}> {{ y = {op} (x, y_const) }}")
                    .replace("int64[1] y", "int64[1] y_const"),
            );
        }
    }

    #[test]
    fn lengths_bounds_and_ratios_are_attributes_or_inputs() {
        let wide = "g (float[4] x) => (float[1] a, float[3] b)";
        there_and_back(
            11,
            &format!("{wide} {{ a, b = Split <axis: int = 0, split: ints = [1, 3]> (x) }}"),
            13,
            &format!(
                "{wide} <int64[2] a_const = {{1, 3}}> {{ a, b = Split <axis: int = 0> (x, a_const) }}"
            ),
        );
        let same = "g (float[4] x) => (float[4] y)";
        there_and_back(
            10,
            &format!("{same} {{ y = Clip <max: float = 2> (x) }}"),
            13,
            &format!("{same} <float y_const = {{2}}> {{ y = Clip (x, , y_const) }}"),
        );
        there_and_back(
            10,
            &format!("{same} {{ y = Dropout <ratio: float = 0.25> (x) }}"),
            12,
            &format!("{same} <float y_const = {{0.25}}> {{ y = Dropout (x, y_const) }}"),
        );
        there_and_back(
            9,
            "g (float[4] x) => (float[6] y) { y = Pad <pads: ints = [1, 1], value: float = 3> (x) }",
            11,
            "g (float[4] x) => (float[6] y) <int64[2] y_const = {1, 1}, float y_const_1 = {3}> { y = Pad (x, y_const, y_const_1) }",
        );
        there_and_back(
            9,
            "g (float[4] x) => (float[2] y) { y = Slice <starts: ints = [1], ends: ints = [3], axes: ints = [0]> (x) }",
            13,
            "g (float[4] x) => (float[2] y) <int64[1] y_const = {1}, int64[1] y_const_1 = {3}, int64[1] y_const_2 = {0}> { y = Slice (x, y_const, y_const_1, y_const_2) }",
        );
        there_and_back(
            9,
            "g (float[4] x) => (float[2] y, int64[2] i) { y, i = TopK <k: int = 2> (x) }",
            11,
            "g (float[4] x) => (float[2] y, int64[2] i) <int64[1] y_const = {2}> { y, i = TopK (x, y_const) }",
        );
    }

    /// Conversions down, with what comes out.
    #[test]
    fn what_says_nothing_goes_and_what_came_later_is_written_otherwise() {
        let x = "g (float[2,3] x)";
        for (from, to, graph, nodes) in [
            (18, 13, format!("{x} => (float[2,2] a, float[2,1] b) {{ a, b = Split <axis: int = 1, num_outputs: int = 2> (x) }}"), "a, b = Split <axis: int = 1> (x, a_const)"),
            (18, 11, format!("{x} => (float[2,2] a, float[2,1] b) {{ a, b = Split <axis: int = 1, num_outputs: int = 2> (x) }}"), "split: ints = [2, 1]"),
            (18, 13, format!("{x} => (float[1,3] a, float[1,3] b) {{ a, b = Split <num_outputs: int = 2> (x) }}"), "a, b = Split (x)"),
            (18, 13, format!("{x} => (float[2,5] y) <int64[2] p = {{2, 0}}, int64[1] a = {{-1}}> {{ y = Pad (x, p, , a) }}"), "int64[4] y_const = {0, 2, 0, 0}"),
            (14, 13, format!("{x} => (float[3,2] y) <int64[2] s = {{3, -1}}> {{ y = Reshape <allowzero: int = 1> (x, s) }}"), "y = Reshape (x, s)"),
            (19, 13, format!("{x} => (int64[2,3] y) {{ y = Cast <saturate: int = 0, to: int = 7> (x) }}"), "y = Cast <to: int = 7> (x)"),
            (18, 13, format!("{x} => (float[2,3] y) <int64 axes = {{1}}> {{ y = ReduceMax <noop_with_empty_axes: int = 0> (x) }}").replace("[2,3] y", "[1,1] y"), "y = ReduceMax (x)"),
            (12, 11, format!("{x} => (int64[1,3] y) {{ y = ArgMax <select_last_index: int = 0> (x) }}"), "y = ArgMax (x)"),
            (15, 13, format!("{x} => (int64[1] y) {{ y = Shape <start: int = -1> (x) }}"), "y = Slice (y_Shape"),
            (15, 13, format!("{x} => (int64[2] y) {{ y = Shape <start: int = 0> (x) }}"), "y = Shape (x)"),
            (14, 13, format!("{x} => (float[2,3] y) {{ y = HardSwish (x) }}"), "y = Mul (x, y_HardSigmoid)"),
            (12, 11, format!("{x} => (bool[2,3] y) {{ y = LessOrEqual (x, x) }}"), "y = Or (y_Less, y_Equal)"),
            (15, 13, "g (float[2] x, int32 t) => (int32[2] y) { y = CastLike (x, t) }".into(), "y = Cast <to: int = 6> (x)"),
            (17, 13, format!("{x} => (float[2,3] y) <float[3] w = {{1, 2, 3}}> {{ y = LayerNormalization (x, w) }}"), "y = Mul (y_Div, w)"),
            (20, 17, format!("{x} => (float[2,3] y) {{ y = Gelu (x) }}"), "y = Mul (y_Mul, y_const_2)"),
            (11, 9, format!("{x} => (float[2,6] y) {{ y = Concat <axis: int = -1> (x, x) }}"), "Concat <axis: int = 1> (x, x)"),
            (11, 10, format!("{x} => (float[2] y) <int64 i = {{-1}}> {{ y = Gather <axis: int = -1> (x, i) }}"), "int64 y_const = {2}"),
            (11, 10, format!("{x} => (float[2,1,3] y) {{ y = Unsqueeze <axes: ints = [-2]> (x) }}"), "Unsqueeze <axes: ints = [1]> (x)"),
            (11, 10, format!("{x} => (float[2,2] y) <int64[1] s = {{1}}, int64[1] e = {{3}}, int64[1] a = {{-1}}> {{ y = Slice (x, s, e, a) }}"), "int64[1] y_const = {1}"),
        ] {
            let after = converted(from, to, &graph).unwrap_or_else(|why| panic!("{graph}: {why}"));
            assert!(after.contains(nodes), "{graph} became\n{after}");
        }
    }

    #[test]
    fn a_softmax_works_along_one_axis_or_over_all_behind_it() {
        let graph = |axis: &str, shape: &str| {
            format!("g (float[{shape}] x) => (float[{shape}] y) {{ y = Softmax {axis} (x) }}")
        };
        for (from, to, axis, shape, nodes) in [
            (11, 13, "", "2,3", "y = Softmax <axis: int = -1> (x)"),
            (11, 13, "", "2,3,1", "y = Softmax <axis: int = -2> (x)"),
            (11, 13, "<axis: int = 2>", "2,3,N", "y = Softmax <axis: int = -1> (x)"),
            (11, 13, "", "2,3,4", "y = Reshape (y_Softmax, y_const)"),
            (11, 13, "", "N,3,4", "y_Shape = Shape (x)"),
            (13, 11, "", "2,3,4", "y = Softmax <axis: int = -1> (x)"),
            (13, 10, "", "2,3,4", "y = Softmax <axis: int = 2> (x)"),
            (13, 11, "<axis: int = 1>", "2,3,1", "y = Softmax <axis: int = -2> (x)"),
            (
                13,
                11,
                "<axis: int = 0>",
                "2,3,4",
                "y = Transpose <perm: ints = [2, 0, 1]> (y_Softmax)",
            ),
        ] {
            let after = converted(from, to, &graph(axis, shape)).expect("a conversion");
            assert!(after.contains(nodes), "{from} to {to}, {axis}, {shape}:\n{after}");
        }
        let behind = converted(11, 13, &graph("<axis: int = 2>", "2,3")).expect_err("no axis");
        assert!(behind.contains("its axis is behind the last one"), "{behind}");
        let empty = converted(11, 13, &graph("", "2,0,3")).expect_err("no elements");
        assert!(empty.contains("it has no elements"), "{empty}");
    }

    #[test]
    fn what_is_in_the_way_is_named_and_nothing_changes() {
        let x = "g (float[2,3] x)";
        for (from, to, graph, why) in [
            (18, 13, "g (float[2,3] x, int64[1] a) => (float[] y) { r = Relu (x)  y = ReduceMean (r, a) }".to_owned(), "ReduceMean making \"y\": its axes are not constant"),
            (18, 13, format!("{x} => (float[2,3] y) {{ y = ReduceMean <noop_with_empty_axes: int = 1> (x) }}"), "does nothing without axes"),
            (13, 11, "g (bfloat16[2] x) => (bfloat16[2] y) { y = Add (x, x) }".into(), "it takes bfloat16 from opset 13 on"),
            (16, 15, "g (bfloat16[2] x, bool[2] c) => (bfloat16[2] y) { y = Where (c, x, x) }".into(), "it takes bfloat16 from opset 16 on"),
            (14, 13, "g (uint8[2] x) => (uint8[2] y) { y = Mul (x, x) }".into(), "it takes uint8 from opset 14 on"),
            (12, 11, "g (int64[2] x) => (int64[2] y) { y = Clip (x) }".into(), "it takes int64 from opset 12 on"),
            (11, 9, "g (float[2] x) => (bool[2] y) { y = Equal (x, x) }".into(), "it takes float from opset 11 on"),
            (12, 11, "g (float[2] x, double[2] e) => (float[2] y) { y = Pow (x, e) }".into(), "its exponent is of another type"),
            (14, 13, "g (float[2,0] x) => (float[0,5] y) <int64[2] s = {0, 5}> { y = Reshape <allowzero: int = 1> (x, s) }".into(), "it makes a dimension 0"),
            (12, 11, format!("{x} => (int64[1,3] y) {{ y = ArgMax <select_last_index: int = 1> (x) }}"), "its select_last_index is not in opset 11"),
            (19, 18, format!("{x} => (float[3,3] y) <int64[4] p = {{1, 0, 0, 0}}> {{ y = Pad <mode: string = \"wrap\"> (x, p) }}"), "its mode came with opset 19"),
            (13, 11, "g (float[4] x, int64[2] n) => (float[] a, float[] b) { a, b = Split (x, n) }".into(), "its lengths are not constant"),
            (12, 10, "g (float[4] x, bool t) => (float[4] y) { y = Dropout (x, , t) }".into(), "its training mode are not constant"),
            (12, 10, "g (float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout (x) }".into(), "its mask is read"),
            (11, 10, "g (float[4] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }".into(), "its indices may count from the back"),
            (11, 9, "g (float[2,2] x) => (float[2,2] y) { y = Gemm (x, x) }".into(), "it needs a third input"),
            (10, 13, "g (int64[2] i, float[2] v) => (float[2,3] y) <int64 d = {3}> { y = OneHot (i, d, v) }".into(), "its indices may count from the back"),
            (13, 10, "g (float[2] x, int64[1] i, float[1] u) => (float[2] y) { y = ScatterElements (x, i, u) }".into(), "its indices may count from the back"),
            (10, 9, "g (float[4] x) => (float[2] y) <int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {0}, int64[1] t = {2}> { y = Slice (x, s, e, a, t) }".into(), "its steps came with opset 10"),
            (8, 7, "g (float[2] x, float[1] z) => (float[2] y) { y = Max (x, z) }".into(), "it broadcasts"),
            (18, 17, "g (float[4] x, float[1] u) => (float[4] y) <int64[1] i = {0}> { y = ScatterElements <reduction: string = \"max\"> (x, i, u) }".into(), "its reduction came with opset 18"),
            (14, 13, "g (float[2,N] x) => (float[2,N] y) { y = Trilu (x) }".into(), "the last two dimensions are not static"),
            (18, 13, format!("{x} => (float[2,3] y) {{ y = Mish (x) }}"), "the operator came with opset 18"),
            (14, 13, "g (double[2] x) => (double[2] y) { y = HardSwish (x) }".into(), "a sixth as an attribute has 32 bits"),
            (22, 13, format!("{x} => (float[2,3] y) {{ y = Relu (x) }}"), "between opsets 7 and 21, not 22"),
            (9, 13, "g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[4] s = {1, 1, 1, 1}> { y = Upsample (x, s) }".into(), "there is no rule"),
        ] {
            let told = converted(from, to, &graph).expect_err(&graph);
            assert!(told.contains(why), "{graph}: {told}");
            assert!(told.starts_with(&format!("the model stays at opset {from} instead of {to}: ")));
        }
    }

    #[test]
    fn a_pad_that_copies_has_no_value() {
        let graph = "g (float[4] x) => (float[6] y) { y = Pad <mode: string = \"reflect\", pads: ints = [1, 1], value: float = 3> (x) }";
        let after = converted(10, 13, graph).expect("a conversion");
        assert!(after.contains("y = Pad <mode: string = \"reflect\"> (x, y_const)"), "{after}");
    }

    #[test]
    fn what_was_renamed_or_counts_from_the_front_goes_both_ways() {
        there_and_back(
            10,
            "g (float[2] x, uint8[2] n, float[1] u, float[2] v) => (float[2] y, float[2,3] z) <int64[1] i = {1}, int64 d = {3}> {
                y = Scatter <axis: int = 0> (x, i, u)  z = OneHot (n, d, v) }",
            13,
            "g (float[2] x, uint8[2] n, float[1] u, float[2] v) => (float[2] y, float[2,3] z) <int64[1] i = {1}, int64 d = {3}> {
                y = ScatterElements <axis: int = 0> (x, i, u)  z = OneHot (n, d, v) }",
        );
    }

    #[test]
    fn a_triangle_is_a_choice_in_older_opsets() {
        let after = converted(14, 13, "g (float[2,2] x) => (float[2,2] y) { y = Trilu (x) }");
        assert!(after.expect("a conversion").contains("y = Where (y_const, x, y_const_1)"));
    }

    #[test]
    fn bodies_are_converted_too() {
        let after = converted(
            18,
            13,
            "
g (bool c, float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> {
   y = If (c) <
      then_branch = t () => (float[2,1] u) { u = ReduceMean (x, a) },
      else_branch = e () => (float[2,1] v) { v = ReduceMax (x, a) }
   >
}",
        )
        .expect("a conversion");
        assert_eq!(after.matches("<axes: ints = [1]> (x)").count(), 2, "{after}");
    }

    #[test]
    fn the_format_is_as_new_as_the_opset_needs() {
        let version = |to: u64| {
            let mut model = model(13, "g (float[2] x) => (float[2] y) { y = Relu (x) }");
            let options = Options { opset: Some(to), ..Options::default() };
            let pipeline = Pipeline::of(&["convert-opset"]).expect("a pass of the table");
            let report = run(&mut model, &pipeline, &options, &mut |_, _| {}).expect("a run");
            assert_eq!(report.notes[0].text, format!("opset 13 is {to} now"));
            model.header.ir_version
        };
        assert_eq!([7, 11, 17, 20, 21].map(version), [3, 6, 8, 9, 10].map(Some));
    }
}
