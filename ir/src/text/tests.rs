use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{AttrValue, DataType, Def, TensorData, Use};

fn read(text: &str) -> Model {
    parse_graph(text, 13).unwrap_or_else(|err| panic!("{}", err.render(text)))
}

/// Reads a graph and prints it again.
fn reprint(text: &str) -> String {
    let model = read(text);
    print_graph(&model, model.root())
}

/// Asserts that a model's text comes out as it went in.
fn unchanged_model(text: &str) {
    let text = text.trim_start();
    let model = parse(text).unwrap_or_else(|err| panic!("{}", err.render(text)));
    assert_eq!(print(&model, Mode::Full { limit: 100 }).expect("small"), text);
}

/// Asserts that a graph's text comes out as it went in, printed alone and as part of a model.
fn unchanged(text: &str) {
    let text = text.trim_start();
    assert_eq!(reprint(text), text);
}

/// The value of this name, wherever it is.
fn value<'m>(model: &'m Model, name: &str) -> &'m crate::Value {
    model.all_values().map(|(_, v)| v).find(|v| *v.name() == *name).expect("a value of that name")
}

/// The packed elements of the initializer `w` of this type and with this data.
fn raw(ty: &str, data: &str) -> Vec<u8> {
    let model = read(&format!("g () => () <{ty} w = {{{data}}}> {{}}"));
    value(&model, "w").tensor().expect("an initializer").raw().expect("no strings").into_owned()
}

/// The data of the initializer `w` as it is printed.
fn printed(ty: &str, raw: &[u8], mode: Mode) -> String {
    let mut model = read(&format!("g () => () <{ty} w = [\"location\": \"nowhere\"]> {{}}"));
    let id = model[model.root()].initializers()[0];
    let mut tensor = value(&model, "w").tensor().expect("an initializer").as_ref().clone();
    tensor.data = TensorData::Raw(raw.to_vec().into());
    model.set_tensor(id, tensor.into());
    let text = print(&model, mode).expect("small");
    let start = text.find("= {").expect("data") + 3;
    text[start..].split_once('}').expect("end of the data").0.to_owned()
}

const FULL: Mode = Mode::Full { limit: 100 };

#[test]
fn prints_one_node_a_line() {
    insta::assert_snapshot!(reprint(
        "g (float[N,8] x) => (float[N,8] y) { c = Cast <to: int = 1> (x)  y = Relu (c) }"
    ), @r"
    g (float[N,8] x) => (float[N,8] y) {
       c = Cast <to: int = 1> (x)
       y = Relu (c)
    }
    ");
}

#[test]
fn prints_initializers_one_a_line_before_value_info() {
    insta::assert_snapshot!(reprint(
        "g (float[2] x) => (float[2] y) <float[2] t, float[2] w = {1.0, 2.50}, int64[1] axes = {-1}>
         { t = Add (x, w) y = ReduceSum <keepdims = 1> (t, axes) }"
    ), @r"
    g (float[2] x) => (float[2] y) <
       float[2] w = {1, 2.5},
       int64[1] axes = {-1},
       float[2] t
    > {
       t = Add (x, w)
       y = ReduceSum <keepdims: int = 1> (t, axes)
    }
    ");
}

#[test]
fn keeps_types() {
    unchanged(
        r#"
g (float s, float[] any, float[N,?,3,"a b"] x, "bool", seq(optional(float[2])) q, map(int64, string) m, sparse_tensor(int8[3]) p, opaque(a.b,c) o) => ("float", bfloat16[0] e) {
   float, e = F (s, any, x, bool, q, m, p, o)
}
"#,
    );
}

#[test]
fn keeps_names_that_are_no_identifiers() {
    unchanged(
        r#"
"main graph" (float[2] "/in/a \"b\" \\ # c") => (float[2] "ö") {
   "ö" = Relu ("/in/a \"b\" \\ # c")
}
"#,
    );
}

#[test]
fn keeps_left_out_inputs_and_outputs() {
    unchanged(
        r#"
g (float[2] x) => (float[2] y) {
   "", y = F (x, "", x)
   = Print (x, "")
}
"#,
    );
}

#[test]
fn reads_left_out_inputs_as_onnx_does() {
    let model = read("g (float x) => (float x) { a = F (, x) b = F (x,) c = F (,) d = F () }");
    let counts: Vec<usize> =
        model.nodes(model.root()).map(|node| model[node].inputs().len()).collect();
    assert_eq!(counts, [2, 1, 1, 0]);
}

#[test]
fn keeps_attributes_of_every_type() {
    unchanged(
        r#"
g (float x) => (float y) {
   y = F <f: float = 1, nan: float = -nan, inf: float = -inf, zero: float = -0.0, i: int = -9223372036854775808, s: string = "a\"b\\", fs: floats = [1, 2.5e-9], is: ints = [], ss: strings = ["", "b"], t: tensor = float[2] {1, 2}, named: tensor = int64 n {7}, ty: type_proto = seq(float[N]), ts: tensors = [bool {1}], tys: type_protos = [int8, float[]]> (x)
   z = d.e.G:o <r: ints = @axes, u = @any> (y)
}
"#,
    );
}

#[test]
fn takes_the_type_of_an_attribute_from_its_value() {
    insta::assert_snapshot!(reprint(
        r#"g (float x) => (float y) { y = F (x) <a = 1, b = 1.0, c = "s", d = [1, 2], e = [1e2], f = ["s"], t = float {1}, n = nan> }"#
    ), @r#"
    g (float x) => (float y) {
       y = F <a: int = 1, b: float = 1, c: string = "s", d: ints = [1, 2], e: floats = [100], f: strings = ["s"], t: tensor = float {1}, n: float = nan> (x)
    }
    "#);
}

#[test]
fn an_integer_is_a_float_where_one_is_due() {
    let model =
        read("g (float x) => (float y) { y = F <a: float = -0, b: floats = [16777217]> (x) }");
    let node = model.nodes(model.root()).next().expect("a node");
    assert_eq!(model[node].attrs.float("a").map(f32::to_bits), Some((-0.0f32).to_bits()));
    assert_eq!(model[node].attrs.floats("b"), Some(&[16_777_216.0][..]));
}

#[test]
fn bodies_stand_after_the_inputs() {
    unchanged(
        r"
g (bool c, float[N] x) => (float[N] y) {
   y = If (c) <then_branch: graph = t () => (float[N] a) {
      a = Relu (x)
   }, else_branch: graph = e () => (float[N] b) <
      float w = {2}
   > {
      b = Mul (x, w)
   }>
}
",
    );
}

#[test]
fn a_body_reads_values_around_it() {
    let model = read(
        "g (bool c, float x) => (float y) {
            y = If (c) <then_branch = t () => (float a) { a = Add (x, late) },
                        else_branch = e () => (float b) { b = If (c) <then_branch = u () => (float d) { d = Neg (x) },
                                                                      else_branch = v () => (x) {}> }>
            late = Relu (x)
         }",
    );
    let x = value(&model, "x");
    let readers = x.uses().iter().filter(|u| matches!(u, Use::Input { .. })).count();
    assert_eq!((readers, x.uses().len()), (3, 4));
    assert!(matches!(value(&model, "late").def(), Def::Node { .. }));
    assert_eq!(value(&model, "late").uses().len(), 1);
    for (_, node) in model.all_nodes() {
        for (_, body) in node.attrs.graphs() {
            assert_eq!(
                model[body].owner().map(|owner| model[owner].op().name.clone()),
                Some("If".into())
            );
        }
    }
}

#[test]
fn nodes_stay_in_the_order_of_the_text() {
    unchanged(
        r"
g (float x) => (float y) {
   y = Relu (t)
   t = Neg (x)
}
",
    );
}

#[test]
fn an_input_may_have_a_default() {
    let text = "g (float[2] x = {1, 2}, float[N] y) => () <float[2] y = {3, 4}> {}";
    insta::assert_snapshot!(reprint(text), @r"
    g (float[2] x, float[N] y) => () <
       float[2] x = {1, 2},
       float[2] y = {3, 4}
    > {
    }
    ");
    let model = read(text);
    assert_eq!(model[model.root()].inputs().len(), 2);
    assert!(model[model.root()].inputs().iter().all(|&input| model[input].tensor().is_some()));
}

#[test]
fn value_info_may_name_what_nothing_defines() {
    unchanged("g () => () <\n   float[2] leftover\n> {\n}\n");
}

#[test]
fn value_info_may_list_what_was_removed() {
    let mut model =
        parse("g (float[2] x) => (float[2] y) <float[2] t> { t = Neg (x)  y = Relu (x) }")
            .expect("a graph");
    let dead = model.nodes(model.root()).next().expect("a node");
    model.remove_node(dead);
    let text = print(&model, FULL).expect("a model");
    assert!(!text.contains("float[2] t"), "{text}");
}

#[test]
fn every_element_type_round_trips() {
    for &dtype in DataType::ALL {
        if dtype == DataType::String {
            continue;
        }
        for count in [0u64, 1, 5, 8] {
            let ty = format!("{dtype}[{count}]");
            let length = dtype.byte_len(count).expect("small");
            let mut bytes: Vec<u8> = (0..length).map(|i| (i * 37 + 129).to_le_bytes()[0]).collect();
            // What no element is in is zero.
            let unused = length * 8 - count * dtype.bits();
            if let Some(last) = bytes.last_mut() {
                *last &= 255 >> unused;
            }
            for mode in [FULL, Mode::Brief] {
                let text = printed(&ty, &bytes, mode);
                assert_eq!(raw(&ty, &text), bytes, "{ty} {mode:?} {text}");
            }
        }
    }
}

#[test]
fn half_floats_are_bits_or_values() {
    assert_eq!(raw("float16[3]", "1.0, 15360, -inf"), [0, 0x3c, 0, 0x3c, 0, 0xfc]);
    assert_eq!(printed("float16[2]", &[0, 0x3c, 0x66, 0x2e], FULL), "15360, 11878");
    assert_eq!(printed("float16[2]", &[0, 0x3c, 0x66, 0x2e], Mode::Brief), "1.0, 0.1");
    assert_eq!(printed("bfloat16[2]", &[0x80, 0x3f, 0xcd, 0x3d], Mode::Brief), "1.0, 0.1");
}

#[test]
fn packed_types_are_bytes_or_elements() {
    assert_eq!(raw("int4[3]", "1, -1, 7"), [0xf1, 0x07]);
    assert_eq!(raw("int4[3]", "241, 7"), [0xf1, 0x07]);
    assert_eq!(raw("int4[1]", "-1"), [0x0f]);
    assert_eq!(raw("uint2[4]", "0, 1, 2, 3"), [0b1110_0100]);
    assert_eq!(printed("int4[3]", &[0xf1, 0x07], FULL), "241, 7");
    assert_eq!(printed("int4[3]", &[0xf1, 0x07], Mode::Brief), "1, -1, 7");
}

#[test]
fn complex_numbers_are_pairs() {
    assert_eq!(raw("complex64[1]", "1, -2"), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
}

#[test]
fn strings_round_trip() {
    unchanged(
        "g () => () <\n   string[3] w = {\"a\\\"b\\\\\", \"two\nlines # ö\", \"\"}\n> {\n}\n",
    );
}

const MODEL: &str = r#"
<
   ir_version: 8,
   opset_import: ["" : 17, "local" : 1],
   producer_name: "a \"b\"",
   producer_version: "",
   domain: "d",
   model_version: 3,
   doc_string: "two
lines",
   metadata_props: ["k": "v", "k 2": ""]
>
"" (float[N] x) => (float[N] y) <
   float16[1] h = {15360},
   float[2] w = ["location": "weights", "offset": "16"]
> {
   ["node 0"] t = local.F:o <alpha: float = 2> (x)
   [""] y = ai.onnx.Relu (t)
}
<
   domain: "local",
   overload: "o",
   opset_import: ["" : 17],
   doc_string: "Doubles."
>
F <beta, alpha: float = 1> (a) => (b) <
   float[N] a
> {
   b = Elu <alpha: float = @alpha> (a)
}
"#;

#[test]
fn keeps_header_names_external_data_and_functions() {
    unchanged_model(MODEL);
}

#[test]
fn types_of_a_functions_inputs_are_value_info() {
    let model = parse(
        "g () => () {} f (float[N] a) => (float[N] b) <float[N] t> { t = Neg (a) b = Neg (t) }",
    );
    let model = model.expect("well formed");
    let body = &model[model.functions[0].body];
    let names: Vec<&str> = body.value_info.iter().map(|&v| model[v].name().as_str()).collect();
    assert_eq!(names, ["a", "b", "t"]);
}

#[test]
fn a_graph_without_header_imports_what_it_uses() {
    let model =
        read("g (float x) => (float y) { t = a.b.F (x) u = a.b.G (t) y = ai.onnx.Relu (u) }");
    let imports: Vec<(&str, Option<i64>)> =
        model.opsets.iter().map(|o| (o.domain.as_deref().unwrap_or("?"), o.version)).collect();
    assert_eq!(imports, [("", Some(13)), ("a.b", Some(1))]);
}

#[test]
fn comments_reach_to_the_end_of_the_line() {
    assert_eq!(reprint("# one\ng () => # two } {\n() {} # three"), "g () => () {\n}\n");
}

#[test]
fn large_tensors_are_refused_by_name() {
    let model = read(
        "g () => () <float[3] w = {1, 2, 3}> { c = Constant <value = int8[4] {1, 2, 3, 4}> () }",
    );
    let refused = |limit| print(&model, Mode::Full { limit }).expect_err("too large").to_string();
    assert_eq!(refused(2), "initializer `w` has 3 elements, more than the limit of 2");
    assert_eq!(
        refused(3),
        "attribute `value` of Constant making \"c\" has 4 elements, more than the limit of 3"
    );
    assert!(print(&model, Mode::Full { limit: 4 }).is_ok());
}

#[test]
fn what_has_no_words_is_refused() {
    let mut model = read("g (float x) => (float y) { y = F (x) }");
    let node = model.nodes(model.root()).next().expect("a node");
    let mut refused = |name: &str, value: AttrValue| {
        let mut attrs = crate::Attrs::default();
        attrs.set(name, value);
        *model.node_mut(node).attrs() = attrs;
        print(&model, FULL).expect_err("cannot be said").to_string()
    };
    assert_eq!(
        refused("a b", 1.into()),
        "F making \"y\": ONNX text cannot express this name of an attribute"
    );
    let bytes = AttrValue::String(vec![0xff].into());
    assert_eq!(
        refused("s", bytes),
        "attribute `s` of F making \"y\": ONNX text cannot express bytes that are not UTF-8"
    );
    let sparse = AttrValue::Sparse(Box::default());
    assert_eq!(
        refused("s", sparse),
        "attribute `s` of F making \"y\": ONNX text cannot express a sparse tensor"
    );
}

#[test]
fn counts_what_is_left_out() {
    let mut model = read("g (float x) => (float y) { y = F (x) }");
    let node = model.nodes(model.root()).next().expect("a node");
    *model.node_mut(node).doc_string() = Some("doc".into());
    model.node_mut(node).metadata().push(("k".into(), "v".into()));
    let text = print(&model, FULL).expect("small");
    assert!(
        text.starts_with(
            "# Left out: 1 documentation strings\n# Left out: 1 metadata entries\n<\n"
        ),
        "{text}"
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn bodies_get_names_that_can_stand_there() {
    let mut model =
        read("g (bool c, float x) => (float y) { y = If (c) <then_branch = t () => (x) {}> }");
    let body = model.graphs().last().expect("a body");
    for name in [None, Some("a/b"), Some("float"), Some("nan_"), Some("")] {
        *model.graph_mut(body).name() = name.map(Name::from);
        let text = print(&model, FULL).expect("small");
        assert!(text.contains("then_branch: graph = then_branch () => (float x) {"), "{text}");
        assert!(parse(&text).is_ok());
    }
}

#[test]
fn brief_is_for_people() {
    let mut data = String::new();
    for i in 0..300 {
        let _ = write!(data, "{}{i}", if i == 0 { "" } else { ", " });
    }
    let mut model = read(&format!(
        "g (float[300] x) => (float[300] y) <float[300] w = {{{data}}}, float[300] t> {{ t = Mul (x, w) y = Neg (t) }}"
    ));
    let node = model.nodes(model.root()).next().expect("a node");
    model.node_mut(node).metadata().push(("onnxfix.pass".into(), "fold-constants".into()));
    let text = print(&model, Mode::Brief).expect("brief never refuses");
    insta::assert_snapshot!(text, @r#"
    # Brief: for reading only. Large tensors are left out, so this text cannot be parsed.
    <
       ir_version: 8,
       opset_import: ["" : 13]
    >
    g (float[300] x) => (float[300] y) <
       float[300] w = {… 1.17 KiB, blake3 1737791d}
    > {
       t = Mul (x, w)  # float[300] by fold-constants
       y = Neg (t)  # float[300]
    }
    "#);
    assert!(parse(&text).is_err());
}

/// The error that a text gives, as `line:column message`.
fn error(text: &str) -> String {
    match parse_graph(text, 13) {
        Ok(_) => panic!("{text} is well formed"),
        Err(TextError { line, column, message }) => format!("{line}:{column} {message}"),
    }
}

#[test]
fn errors_say_what_was_expected_and_where() {
    for (text, expected) in [
        ("", "1:1 expected the name of a graph, found the end of the text"),
        ("g", "1:2 expected `=>`, found the end of the text"),
        ("g () = > () {}", "1:6 expected `=>`, found `=`"),
        ("g (float x y) => () {}", "1:12 expected `,` or `)`, found `y`"),
        ("g () => () { y Relu (x) }", "1:16 expected `=`, found `Relu`"),
        ("g () => () { y = 3 (x) }", "1:18 expected an operator, found a number"),
        ("g () => () { y = F (x", "1:22 expected `)`, found the end of the text"),
        ("g () => ()\n{\n  y = F ()\n", "4:1 expected a node or `}`, found the end of the text"),
        ("g () => () {} }", "1:15 expected the name of a function, found `}`"),
        ("g (\"a) => () {}", "1:4 string has no closing quote"),
        ("g () => () { \"ö\" = F <a = \"b\\", "1:27 string has no closing quote"),
        ("g (\"\" x) => () {}", "1:4 expected the name of a value, found an empty string"),
        ("g (float[x y] a) => () {}", "1:12 expected `,` or `]`, found `y`"),
        ("g (float[1.5] a) => () {}", "1:10 expected a whole number"),
        ("g (map(seq, int8) a) => () {}", "1:8 `seq` is not an element type"),
        ("g () => () { y = F <a> () }", "1:22 expected `=`, found `>`"),
        ("g () => () { y = F <a: real = 1> () }", "1:24 `real` is not an attribute type"),
        (
            "g () => () { y = F <a: int = 1.5> () }",
            "1:30 expected an attribute of type int, found float",
        ),
        (
            "g () => () { y = F <a: ints = 1> () }",
            "1:31 expected an attribute of type ints, found a single value",
        ),
        (
            "g () => () { y = F <a: int = [1]> () }",
            "1:30 expected an attribute of type int, found a list",
        ),
        (
            "g () => () { y = F <a = [1, 2.5]> () }",
            "1:29 expected an attribute of type int, found float",
        ),
        ("g () => () { y = F <a = []> () }", "1:25 an empty list needs a type, such as `: ints`"),
        ("g () => () { y = F <a = [@b]> () }", "1:26 a list cannot hold a reference"),
        ("g () => () { y = F <a = 1, a = 2> () }", "1:28 attribute `a` is given twice"),
        (
            "g () => () { y = F <a = 99999999999999999999> () }",
            "1:25 99999999999999999999 does not fit 64 bits",
        ),
        ("g () => () { y = F <a = 1e99> () }", "1:25 1e99 is too large for its type"),
        ("g () => () { y = F <a = 1e> () }", "1:25 1e is not a number"),
        ("g () => () <float[2] w = {1}> {}", "1:27 expected 2 elements, found 1"),
        ("g () => () <int4[5] w = {1, 2}> {}", "1:26 expected 5 elements, found 2"),
        ("g () => () <string[2] w = {\"\"}> {}", "1:28 expected 2 elements, found 1"),
        ("g () => () <int8[1] w = {128}> {}", "1:26 128 is not in the range of int8"),
        ("g () => () <int8[1] w = {1.0}> {}", "1:26 expected an element of type int8, found 1.0"),
        (
            "g () => () <float[1] w = {\"1\"}> {}",
            "1:27 expected an element of type float, found a string",
        ),
        (
            "g () => () <float[N] w = {1}> {}",
            "1:13 a tensor with elements needs an element type and fixed dimensions",
        ),
        (
            "g () => () <float[1] w = 1> {}",
            "1:26 expected `{` with elements or `[` with the place of external data, found a number",
        ),
        (
            "g () => () <float[4294967296,4294967296,2] w = {}> {}",
            "1:49 dimensions [4294967296, 4294967296, 2] are not a size",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn names_must_be_defined_once() {
    for (text, expected) in [
        ("g (float x) => (float y) {\n  y = Relu (z)\n}", "2:13 nothing defines `z`"),
        ("g (float x) => (float y) {}", "1:23 nothing defines `y`"),
        ("g (float x, float x) => () {}", "1:19 `x` is defined twice"),
        ("g (float x) => () { x = F () }", "1:21 `x` is defined twice"),
        ("g () => () <int8 w = {1}, int8 w = {2}> {}", "1:32 `w` is defined twice"),
        ("g () => () { a, a = F () }", "1:17 `a` is defined twice"),
        (
            "g (bool c) => () { y = If (c) <then_branch = t () => (c) { c = F () }> }",
            "1:60 `c` is defined by a graph around this one, too",
        ),
        // A function does not see the graph.
        ("g (float x) => () {} f () => (y) { y = F (x) }", "1:43 nothing defines `x`"),
        // Nor do bodies see each other.
        (
            "g () => () { y = F <a = t () => () { v = F () }, b = u () => (v) {}> () }",
            "1:63 nothing defines `v`",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn errors_in_headers() {
    let error = |text: &str| parse(text).map(|_| ()).expect_err("not a model").to_string();
    assert_eq!(
        error("<ir: 8> g () => () {}"),
        "line 1, column 2: expected one of ir_version, opset_import, producer_name, producer_version, domain, \
         model_version, doc_string, metadata_props, found `ir`"
    );
    assert_eq!(
        error("<ir_version: 8, opset_import: [13]> g () => () {}"),
        "line 1, column 32: expected a string, found a number"
    );
    assert_eq!(
        error("g () => () {} <ir_version: 8> f () => () {}"),
        "line 1, column 16: expected one of domain, overload, opset_import, doc_string, found `ir_version`"
    );
}

#[test]
fn the_caret_stands_below_the_place() {
    let text = "g (float x) => (float y) {\n\ty = Ö\n}";
    let err = parse_graph(text, 13).expect_err("not an operator");
    insta::assert_snapshot!(err.render(text), @r"
      |
    2 | 	y = Ö
      | 	    ^ expected an operator, found `Ö`
    ");
}

#[test]
fn nesting_has_a_limit() {
    let types = |depth: usize| {
        format!("g ({}float{} x) => () {{}}", "seq(".repeat(depth), ")".repeat(depth))
    };
    assert!(parse_graph(&types(64), 13).is_ok());
    assert_eq!(error(&types(100_000)), "1:264 nested more than 64 deep");
    let bodies = "g () => () { = F <a = ".repeat(100_000);
    assert!(error(&bodies).ends_with("nested more than 64 deep"));
}

proptest! {
    #[test]
    fn floats_come_back_bit_for_bit(bits: [u32; 4], double: u64) {
        // Of NaN only the sign is kept.
        let floats: Vec<f32> = bits.map(f32::from_bits).into_iter().filter(|f| !f.is_nan()).collect();
        let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
        let ty = format!("float[{}]", floats.len());
        prop_assert_eq!(raw(&ty, &printed(&ty, &bytes, FULL)), bytes);
        prop_assume!(!f64::from_bits(double).is_nan());
        let bytes = double.to_le_bytes();
        prop_assert_eq!(raw("double", &printed("double", &bytes, FULL)), bytes);
    }

    #[test]
    fn half_floats_come_back_bit_for_bit(bits: u16) {
        let bytes = bits.to_le_bytes();
        for ty in ["float16", "bfloat16"] {
            let text = printed(ty, &bytes, Mode::Brief);
            prop_assume!(!text.contains("nan"));
            prop_assert_eq!(raw(ty, &text), bytes, "{}", text);
        }
    }

    #[test]
    fn names_and_strings_come_back(text in "\\PC*") {
        let quoted = literal::quoted(&text);
        let model = read(&format!("{quoted} () => () <string w = {{{quoted}}}> {{}}"));
        prop_assert_eq!(model[model.root()].name.as_deref(), Some(text.as_str()));
        let tensor = value(&model, "w").tensor().expect("an initializer");
        prop_assert_eq!(&tensor.data, &TensorData::String([text.into()].into()));
    }

    /// A damaged text is read or refused, and what is read is printed such that it reads the same.
    #[test]
    fn damage_does_not_panic(cuts in prop::collection::vec((0usize..1000, 0usize..4, 0usize..40), 1..4)) {
        const PIECES: &[&str] = &["", "\"", "<", ">", "(", ")", "{", "}", "[", "]", ",", "=", "@a", "-", "9e9", "float", "nan"];
        let mut text: Vec<char> = MODEL.chars().collect();
        for (at, length, piece) in cuts {
            let start = at % text.len();
            let end = (start + length).min(text.len());
            text.splice(start..end, PIECES[piece % PIECES.len()].chars());
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(model) => {
                if let Ok(again) = print(&model, FULL) {
                    let model = parse(&again).map_err(|err| TestCaseError::fail(err.render(&again)))?;
                    prop_assert_eq!(print(&model, FULL).ok(), Some(again));
                }
            }
            Err(err) => prop_assert!(err.line >= 1 && err.column >= 1 && !err.render(&text).is_empty()),
        }
    }
}
