//! Types of what no pass looks into and no evaluator computes: sequences, text, signals, losses, images.

use onnxfix_ir::infer::infer;
use onnxfix_ir::text::parse_graph;

/// The types of all values that nodes make, in order.
fn types(inputs: &str, nodes: &str) -> String {
    let text = format!("g ({inputs}) => () {{ {nodes} }}");
    let mut model = parse_graph(&text, 21).unwrap_or_else(|e| panic!("{e}\n{text}"));
    infer(&mut model).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let made = model.nodes(model.root()).flat_map(|node| model[node].outputs().to_vec());
    let types =
        made.flatten().map(|v| model[v].ty.as_ref().map_or("?".into(), ToString::to_string));
    types.collect::<Vec<_>>().join(" ")
}

#[test]
fn sequences_hold_tensors() {
    let x = "float[2,3] x, int64 i";
    for (nodes, want) in [
        ("s = SequenceConstruct (x, x)  y = SequenceAt (s, i)", "seq(float[2,3]) float[2,3]"),
        ("s = SequenceConstruct (x)  n = SequenceLength (s)", "seq(float[2,3]) int64"),
        ("s = SequenceEmpty <dtype = 7> ()  t = SequenceErase (s)", "seq(int64[]) seq(int64[])"),
        ("s = SequenceEmpty ()  t = SequenceInsert (s, x)", "seq(float[]) seq(float[])"),
        (
            "s = SplitToSequence <axis = 1> (x)  y = ConcatFromSequence <axis = 1> (s)",
            "seq(float[2,1]) float[2,?]",
        ),
        (
            "s = SplitToSequence (x, i)  y = ConcatFromSequence <axis = 0, new_axis = 1> (s)",
            "seq(float[?,3]) float[?,?,3]",
        ),
    ] {
        assert_eq!(types(x, nodes), want, "{nodes}");
    }
}

#[test]
fn optional_values_hold_anything() {
    let nodes = "o = Optional (x)  y = OptionalGetElement (o)  b = OptionalHasElement (o)";
    assert_eq!(types("float[2] x", nodes), "optional(float[2]) float[2] bool");
    assert_eq!(types("float[2] x", "y = OptionalGetElement (x)"), "float[2]");
}

#[test]
fn text_keeps_its_shape_or_loses_it() {
    for (inputs, nodes, want) in [
        ("string[N] a, string[2,1] b", "y = StringConcat (a, b)", "string[2,N]"),
        ("string[3] a", "y = StringNormalizer (a)", "string[?]"),
        ("string[3] a", "y, n = StringSplit (a)", "string[3,?] int64[3]"),
        ("string[3] a", "y = RegexFullMatch <pattern = \"a\"> (a)", "bool[3]"),
    ] {
        assert_eq!(types(inputs, nodes), want, "{nodes}");
    }
    let counted = "y = TfIdfVectorizer <max_gram_length = 1, max_skip_count = 0, min_gram_length = 1, mode = \"TF\", \
         ngram_counts = [0], ngram_indexes = [0, 4, 2], pool_int64s = [1, 2, 3]> (a)";
    assert_eq!(types("int64[N,7] a", counted), "float[N,5]");
}

#[test]
fn losses_are_scalars_unless_told_otherwise() {
    let inputs = "float[4,10] x, int64[4] t";
    assert_eq!(types(inputs, "y = NegativeLogLikelihoodLoss (x, t)"), "float");
    let nodes = "y, p = SoftmaxCrossEntropyLoss <reduction = \"none\"> (x, t)";
    assert_eq!(types(inputs, nodes), "float[4] float[4,10]");
}

#[test]
fn spectra_have_a_real_and_an_imaginary_part() {
    let constant = |name: &str, n: i64| format!("{name} = Constant <value_int = {n}> () ");
    let dft = |attrs: &str| types("float[1,8,1] x", &format!("y = DFT {attrs} (x)"));
    assert_eq!(dft(""), "float[1,8,2]");
    assert_eq!(dft("<onesided = 1>"), "float[1,5,2]");
    assert_eq!(dft("<onesided = 1, inverse = 1>"), "float[1,?,1]");
    let nodes = constant("n", 6) + "y = DFT (x, n)";
    assert_eq!(types("float[1,8,1] x", &nodes), "int64 float[1,6,2]");
    let nodes = constant("s", 2) + &constant("n", 4) + "y = STFT (x, s, \"\", n)";
    assert_eq!(types("float[3,10,1] x", &nodes), "int64 int64 float[3,4,3,2]");
    let nodes = constant("n", 5) + "y = HannWindow (n)";
    assert_eq!(types("", &nodes), "int64 float[5]");
    let nodes =
        constant("bins", 8) + &constant("n", 16) + "y = MelWeightMatrix (bins, n, n, low, high)";
    assert_eq!(types("float low, float high", &nodes), "int64 int64 float[9,8]");
}

#[test]
fn images_are_scaled_and_sampled() {
    for (inputs, nodes, want) in [
        ("float[1,2,3,4] x, float[1,5,6,2] g", "y = GridSample (x, g)", "float[1,2,5,6]"),
        (
            "float[N,2,3,4] x, float[R,4] r, int64[R] b",
            "y = RoiAlign <output_height = 2, output_width = 3> (x, r, b)",
            "float[R,2,2,3]",
        ),
        ("float[1,B,4] b, float[1,C,B] s", "y = NonMaxSuppression (b, s)", "int64[?,3]"),
        ("uint8[N] x", "y = ImageDecoder (x)", "uint8[?,?,?]"),
        (
            "float[1,2,3,4] x",
            "s = Constant <value_floats = [1.0, 1.0, 2.0, 0.5]> () y = Resize (x, \"\", s)",
            "float[4] float[1,2,6,2]",
        ),
        (
            "float[1,2,3,4] x",
            "s = Constant <value_ints = [5, 6]> () y = Resize <axes = [2, 3]> (x, \"\", \"\", s)",
            "int64[2] float[1,2,5,6]",
        ),
        (
            "float[1,2,3] t",
            "s = Constant <value_ints = [1, 1, 5, 6]> () y = AffineGrid (t, s)",
            "int64[4] float[1,5,6,2]",
        ),
    ] {
        assert_eq!(types(inputs, nodes), want, "{nodes}");
    }
}
