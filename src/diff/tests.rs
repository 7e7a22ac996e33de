use std::path::Path;
use std::sync::Arc;

use insta::assert_snapshot;
use onnxfix_ir::{LoadOptions, Model, Tensor, load, text};
use onnxfix_passes::{Options, run};

use super::{Diff, diff};
use crate::target::Target;

fn model(graph: &str) -> Model {
    let text = if graph.trim_start().starts_with('<') {
        graph.to_owned()
    } else {
        format!("<ir_version: 8, opset_import: [\"\" : 13]>\n{graph}")
    };
    text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// What changed between two graphs in ONNX text.
fn told(before: &str, after: &str) -> String {
    diff(("a", &model(before)), ("b", &model(after))).text(usize::MAX)
}

#[test]
fn order_does_not_count() {
    let before = "g (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {3, 4}> {
        a = Mul (x, v)  b = Mul (x, w)  y = Add (a, b) }";
    let after = "g (float[2] x) => (float[2] y) <float[2] w = {3, 4}, float[2] v = {1, 2}> {
        b = Mul (x, w)  a = Mul (x, v)  y = Add (a, b) }";
    assert_snapshot!(told(before, after), @r#"
    same       a and b (3 nodes, 2 constants, 16 B)
    "#);
}

#[test]
fn interface_opset_and_metadata() {
    assert_snapshot!(told(
        r#"<ir_version: 8, opset_import: ["" : 13], producer_name: "torch", metadata_props: ["k": "v"]>
        g (int64[n,4] ids, float[1] z) => (float[n,4] y) { f = Cast <to = 1> (ids)  y = Add (f, z) }"#,
        r#"<ir_version: 8, opset_import: ["" : 14], producer_name: "torch">
        g (int32[1,4] ids, float[1] w) => (float[1,4] y) { f = Cast <to = 1> (ids)  y = Add (f, w) }"#
    ), @r#"
    differ     a and b
    file       opset ai.onnx: 13 → 14
    file       metadata k: v → none
    input      ids: int64[n,4] → int32[1,4]
    input      z: float[1] → none
    input      w: none → float[1]
    output     y: float[n,4] → float[1,4]
    nodes      2 → 2: 1 alike, 1 changed
    changed    Add making "y": input 1: "z" → "w"
    constants  0 → 0 (0 B → 0 B): none
    "#);
}

/// Exporters number nodes, so one more moves all names behind it.
#[test]
fn structure_goes_before_names() {
    assert_snapshot!(told(
        "g (float[2] x) => (float[2] y) { [Relu_0] a = Relu (x)  [Abs_1] b = Abs (a)  [Relu_2] c = Relu (b)  [Relu_3] y = Relu (c) }",
        "g (float[2] x) => (float[2] y) { [Neg_0] n = Neg (x)  [Relu_1] a = Relu (n)  [Abs_2] b = Abs (a)  [Relu_3] c = Relu (b)  [Relu_4] y = Relu (c) }"
    ), @r#"
    differ     a and b
    nodes      4 → 5: 3 alike, 1 changed, 1 added
    ops        Neg 0→1
    labels     3 of those alike are called otherwise: name 3
    changed    "Relu_0" (Relu) → "Relu_1" (Relu): input 0: "x" → "n" of Neg
    added      "Neg_0" (Neg)
    constants  0 → 0 (0 B → 0 B): none
    "#);
}

/// Models of two exporters have no name in common; weights say which product is which.
#[test]
fn weights_tell_nodes_apart() {
    let before = "g (float[2,2] x) => (float[2,2] y) <float[2,2] q = {1, 2, 3, 4}, float[2,2] k = {5, 6, 7, 8}> {
        a = MatMul (x, q)  b = MatMul (x, k)  t = Transpose <perm = [1, 0]> (b)  y = MatMul (a, t) }";
    let after = "g (float[2,2] input) => (float[2,2] y) <float[2,2] w1 = {5, 6, 7, 8}, float[2,2] w0 = {1, 2, 3, 4}> {
        r = Relu (input)  m0 = MatMul (r, w1)  m1 = MatMul (r, w0)  p = Transpose <perm = [1, 0]> (m0)  y = MatMul (m1, p) }";
    assert_snapshot!(told(before, after), @r#"
    differ     a and b
    input      x: float[2,2] → none
    input      input: none → float[2,2]
    nodes      4 → 5: 2 alike, 2 changed, 1 added
    ops        Relu 0→1
    labels     1 of those alike are called otherwise: names of outputs 1
    changed    MatMul making "a" → MatMul making "m1": input 0: "x" → "r" of Relu
    changed    MatMul making "b" → MatMul making "m0": input 0: "x" → "r" of Relu
    added      Relu making "r"
    constants  2 → 2 (32 B → 32 B): 2 renamed
    renamed    "q" → "w0" (float[2,2] 16 B)
    renamed    "k" → "w1" (float[2,2] 16 B)
    "#);
}

/// Which operand comes first is a matter of taste, and no reason to lose the node and what stands in front of it.
#[test]
fn operands_may_change_places() {
    assert_snapshot!(told(
        "g (float[2,2] x) => (float[2,2] y) <float[2] c = {1, 2}> { a = Softmax <axis = 0> (x)  b = Add (c, a)  y = Relu (b) }",
        "g (float[2,2] x) => (float[2,2] y) <float[2] c = {1, 2}> { p = Softmax <axis = 1> (x)  q = Add (p, c)  y = Relu (q) }"
    ), @r#"
    differ     a and b
    nodes      3 → 3: 1 alike, 2 changed
    changed    Softmax making "a" → Softmax making "p": attribute axis: 0 → 1
    changed    Add making "b" → Add making "q": order of inputs: "c", "a" → "p", "c"
    constants  1 → 1 (8 B → 8 B): 1 alike (8 B)
    "#);
}

/// A weight with another name and other numbers is still the one that this product reads.
#[test]
fn places_tell_constants_apart() {
    assert_snapshot!(told(
        "g (float[2] x) => (float[2] y) <float[2,2] w = {1, 2, 3, 4}> { a = Relu (x)  y = MatMul (a, w) }",
        "g (float[2] x) => (float[2] y) <float[2,2] v = {1, 2, 3, 5}> { a = Relu (x)  y = MatMul (a, v) }"
    ), @r#"
    differ     a and b
    nodes      2 → 2: 2 alike
    constants  1 → 1 (16 B → 16 B): 1 changed
    changed    "w" → "v" (float[2,2]): 1 of 4 elements, the first at [1, 1]: 4 → 5, largest difference 1.000e0
    "#);
}

#[test]
fn constants_are_compared_by_content() {
    let before = "g (float[3] x) => (float[3] y) <float[3] same = {1, 2, 3}, float[3] old = {4, 5, 6}, float[3] w = {7, 8, 9}, float[1] z = {0}, int64[1] gone = {1}> {
        a = Add (x, same)  b = Add (a, old)  c = Add (b, w)  d = Add (c, z)  e = Unsqueeze (d, gone)  y = Squeeze (e, gone) }";
    let after = "g (float[3] x) => (float[3] y) <float[3] new = {4, 5, 6}, float[3] w = {7, 8, 9.5}, float[3] z = {0, 0, 0}> {
        same = Constant <value: tensor = float[3] {1, 2, 3}> ()  a = Add (x, same)  b = Add (a, new)  c = Add (b, w)  y = Add (c, z) }";
    assert_snapshot!(told(before, after), @r#"
    differ     a and b
    output     source of y: "y" of Squeeze → "y" of Add
    nodes      6 → 4: 4 alike, 2 removed
    ops        Squeeze 1→0, Unsqueeze 1→0
    labels     1 of those alike are called otherwise: names of outputs 1
    removed    Unsqueeze making "e"
    removed    Squeeze making "y"
    constants  5 → 4 (48 B → 48 B): 1 alike (12 B), 1 renamed, 2 changed, 1 removed
               1 of those alike are Constant nodes in one model and initializers in the other
    changed    "w" (float[3]): 1 of 3 elements, the first at [2]: 9 → 9.5, largest difference 5.000e-1
    changed    "z": float[1] → float[3]
    renamed    "old" → "new" (float[3] 12 B)
    removed    "gone" (int64[1], 8 B)
    "#);
}

#[test]
fn attributes_inputs_and_operators() {
    assert_snapshot!(told(
        "g (float[2,2] x, float[2,2] z) => (float[2,2] y) { [s] a = Softmax <axis = 0> (x)  [m] b = Add (a, z)  [r] y = Relu (b) }",
        "g (float[2,2] x, float[2,2] z) => (float[2,2] y) { [s] a = Softmax <axis = 1> (x)  [m] b = Add (z, a)  [r] y = Relu (b) }"
    ), @r#"
    differ     a and b
    nodes      3 → 3: 1 alike, 2 changed
    changed    "s" (Softmax): attribute axis: 0 → 1
    changed    "m" (Add): order of inputs: "a", "z" → "z", "a"
    constants  0 → 0 (0 B → 0 B): none
    "#);
    assert_snapshot!(told(
        "g (float[2] x) => (float[2] y) { i = Identity (x)  [r] y = Relu (i) }",
        "g (float[2] x) => (float[2] y) { [r] y = Relu (x) }"
    ), @r#"
    differ     a and b
    nodes      2 → 1: 1 changed, 1 removed
    ops        Identity 1→0
    changed    "r" (Relu): input 0: "i" of Identity → "x"
    removed    Identity making "i"
    constants  0 → 0 (0 B → 0 B): none
    "#);
}

#[test]
fn bodies_and_functions() {
    let with = |op: &str, axis: &str| {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 13, "f" : 1]>
            g (bool c, float[2] x) => (float[2] y) {{
               h = If (c) <then_branch = t () => (float[2] p) {{ p = Relu (x) }}, else_branch = e () => (float[2] q) {{ q = {op} (x) }}>
               y = f.Twice (h) }}
            <domain: "f", opset_import: ["" : 13]> Twice (a) => (b) {{ b = Softmax <axis = {axis}> (a) }}"#
        )
    };
    assert_snapshot!(told(&with("Abs", "0"), &with("Neg", "-1")), @r#"
    differ     a and b
    file       source of q of else_branch of If making "h": "q" of Abs → "q" of Neg
    nodes      5 → 5: 3 alike, 1 changed, 1 removed, 1 added
    ops        Abs 1→0, Neg 0→1
    changed    function "Twice" › Softmax making "b": attribute axis: 0 → -1
    removed    graph "g" › If making "h" › else_branch › Abs making "q"
    added      graph "g" › If making "h" › else_branch › Neg making "q"
    constants  0 → 0 (0 B → 0 B): none
    "#);
}

/// An output may get another value under its name.
#[test]
fn outputs_are_followed() {
    assert_snapshot!(told(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Abs (x) }",
        "g (float[2] x) => (float[2] y, float[2] z) { z = Relu (x)  y = Abs (x) }"
    ), @r#"
    differ     a and b
    output     source of y: "y" of Relu → "y" of Abs
    output     source of z: "z" of Abs → "z" of Relu
    nodes      2 → 2: 2 alike
    labels     2 of those alike are called otherwise: names of outputs 2
    constants  0 → 0 (0 B → 0 B): none
    "#);
}

/// The elements of a tensor that is read in many pieces.
#[test]
fn an_element_of_a_large_tensor() {
    let numbers: Vec<String> = (0..160_000).map(|i| i.to_string()).collect();
    let before = model(&format!(
        "g (float[400,400] x) => (float[400,400] y) <float[400,400] w = {{{}}}> {{ y = Add (x, w) }}",
        numbers.join(", ")
    ));
    let mut after = before.clone();
    let value = after.value_named(after.root(), "w").expect("an initializer");
    let tensor = after[value].tensor().expect("an initializer").clone();
    let mut elements = tensor.elements::<f32>().expect("floats").into_owned();
    elements[123_456] = f32::NAN;
    elements[123_457] += 0.5;
    after.set_tensor(value, Arc::new(Tensor::new(&[400, 400], elements)));
    let found = diff(("a", &before), ("b", &after));
    let elements = found.constants.changed[0].elements.as_ref().expect("numbers of one type");
    assert_eq!((elements.count, elements.first.as_slice()), (2, &[308, 256][..]));
    assert!((elements.largest - 0.5).abs() < 1e-9 && elements.after.is_nan());
    assert_eq!(found.nodes.same, 1, "what reads it does the same");
}

/// Every node is alike, changed or in one model only, whichever model comes first.
#[test]
fn nothing_is_lost() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models");
    for name in ["deberta_v3_tiny.onnx", "deberta_v3_tiny_dynamo.onnx", "convbert_tiny.onnx"] {
        let before = load(&folder.join(name), &LoadOptions::default()).expect("a fixture").model;
        assert!(diff(("a", &before), ("b", &before)).same, "{name} is the same as itself");
        let mut after = before.clone();
        let options = Options::default();
        let pipeline = Target::Portable.pipeline().expect("passes of the table");
        run(&mut after, &pipeline, &options, &mut |_, _| {}).expect("a run");
        let there = diff(("a", &before), ("b", &after));
        let back = diff(("b", &after), ("a", &before));
        let counts = |d: &Diff| {
            let n = &d.nodes;
            (n.same + n.changed.len(), n.removed.len(), n.added.len())
        };
        let (paired, removed, added) = counts(&there);
        assert_eq!(paired + removed, there.before.summary.nodes, "{name}");
        assert_eq!(paired + added, there.after.summary.nodes, "{name}");
        assert_eq!(counts(&back).0, paired, "{name}");
        assert!(there.nodes.added.iter().all(|node| node.pass.is_some()), "{name}: passes mark");
        let c = &there.constants;
        let kept = c.same + c.renamed.len() + c.changed.len();
        assert_eq!(kept + c.removed.len(), there.before.summary.constants, "{name}");
        assert_eq!(kept + c.added.len(), there.after.summary.constants, "{name}");
    }
}
