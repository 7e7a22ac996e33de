use onnxfix_ir::infer::infer;
use onnxfix_ir::text::parse;

use super::*;

/// What CANN 7.0 for the 310P3 makes of a graph of opset 13: code, severity, what.
fn found(graph: &str) -> Vec<String> {
    found_in(&format!("<ir_version: 8, opset_import: [\"\" : 13]>\n{graph}"), "7.0")
}

fn found_in(text: &str, cann: &str) -> Vec<String> {
    let mut model = parse(text).unwrap_or_else(|e| panic!("{}", e.render(text)));
    infer(&mut model).expect("a sound graph");
    let facts = Facts::find("Ascend310P3", cann).expect("a known pair");
    let line = |f: &Finding| format!("{:?} {}: {} {:?}", f.severity, f.code, f.what, f.pass);
    inspect(&model, &facts).iter().map(line).collect()
}

#[test]
fn a_model_that_the_target_takes_has_no_findings() {
    let clean = "g (float[1,32,64] x, float[1,64,64] w) => (float[1,32,64] y) { a = MatMul (x, w)  y = Relu (a) }";
    assert_eq!(found(clean), Vec::<String>::new());
}

#[test]
fn each_fault_is_found() {
    let cases = [
        ("float64", "g (double[2] x) => (double[2] y) { y = Add (x, x) }"),
        ("bfloat16", "g (bfloat16[2] x) => (bfloat16[2] y) { y = Add (x, x) }"),
        ("int64", "g (int64[2] x) => (int64[2] y) { y = Add (x, x) }"),
        ("ai-cpu", "g (int64[2] x) => (int64[2] y) { y = Abs (x) }"),
        (
            "ai-cpu",
            "g (float[4] x) => (float[4] y) <int64[1] s = {-1}, int64[1] e = {-5}, int64[1] a = {0}, int64[1] t = {-1}> { y = Slice (x, s, e, a, t) }",
        ),
        ("open-shape", "g (float[N] x) => (float[N] y) { y = Relu (x) }"),
        ("data-dependent-shape", "g (float[4] x) => (int64[1,N] y) { y = NonZero (x) }"),
        ("empty-tensor", "g (float[0,2] x) => (float[0,2] y) { y = Relu (x) }"),
        ("rank", "g (float[1,1,1,1,1,1,1,1,2] x) => (float[1,1,1,1,1,1,1,1,2] y) { y = Relu (x) }"),
        (
            "tiny-products",
            "g (float[128,64,9] x, float[128,9,1] w) => (float[128,64,1] y) { y = MatMul (x, w) }",
        ),
        (
            "unaligned",
            "g (float[1,100,64] x, float[1,64,64] w) => (float[1,100,64] y) { y = MatMul (x, w) }",
        ),
        (
            "float16-overflow",
            "g (float[2] x) => (float[2] y) <float m = {-1e9}> { y = Add (x, m) }",
        ),
        (
            "float16-underflow",
            "g (float[2] x) => (float[2] y) <float e = {1e-12}> { y = Add (x, e) }",
        ),
        (
            "gather-elements",
            "g (float[4,8] x, int64[4,8] i) => (float[4,8] y) { y = GatherElements <axis: int = 1> (x, i) }",
        ),
        (
            "foldable",
            "g (float[2] x) => (float[2] y) <float[2] c = {1, -1}> { s = Sign (c)  y = Add (x, s) }",
        ),
        ("no-parser", "g (int8[2,2] x) => (int32[2,2] y) { y = MatMulInteger (x, x) }"),
        ("attribute", "g (float[2,3] x) => (float[3,2] y) { y = Transpose (x) }"),
        ("input-name", "g (float[2] \"x:0\") => (float[2] y) { y = Relu (\"x:0\") }"),
    ];
    for (code, graph) in cases {
        let found = found(graph);
        assert!(found.iter().any(|line| line.contains(&format!(" {code}:"))), "{code}: {found:?}");
    }
}

#[test]
fn the_release_decides() {
    let text = "<ir_version: 8, opset_import: [\"\" : 17, \"com.example\" : 1]>\n\
                g (float[2] x) => (float[2] y) { y = Relu (x) }";
    insta::assert_debug_snapshot!(found_in(text, "6.0"), @r#"
    [
        "Error opset: the model is of opset 17; CANN 6.0 takes 9 to 13 Some(\"convert-opset\")",
        "Error several-domains: the model imports 2 operator sets: ai.onnx, com.example Some(\"eliminate-unused-opsets\")",
    ]
    "#);
    insta::assert_debug_snapshot!(found_in(text, "8.5"), @r"
    []
    ");
}

#[test]
fn a_gather_by_int32_along_the_last_axis_is_gathered_by_vectors() {
    let graph = |int: &str| {
        format!(
            "g (float[12,256,512] x, {int}[12,256,256] i) => (float[12,256,256] y) {{ y = GatherElements <axis: int = -1> (x, i) }}"
        )
    };
    insta::assert_debug_snapshot!(found(&graph("int32")), @r#"
    [
        "Warning gather-elements: 1 GatherElements: 1 by vectors Some(\"decompose-gather-elements\")",
    ]
    "#);
    insta::assert_debug_snapshot!(found(&graph("int64")), @r#"
    [
        "Warning int64: arithmetic in int64: 1 GatherElements Some(\"cast-inputs-to-int32\")",
        "Warning gather-elements: 1 GatherElements: 1 element by element Some(\"decompose-gather-elements\")",
    ]
    "#);
}

#[test]
fn what_a_shape_operand_computes_is_no_arithmetic() {
    let graph = "g (float[2,3] x, int64[2] s) => (float[A,B] y) { y = Reshape (x, s) }";
    assert!(!found(graph).iter().any(|line| line.contains(" int64:")));
}
