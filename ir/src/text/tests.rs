use super::*;

/// Reads a graph and prints it again.
fn reprint(text: &str) -> String {
    let model = parse_graph(text, 13).unwrap_or_else(|err| panic!("{}", err.render(text)));
    print_graph(&model, model.root())
}

#[test]
fn prints_one_node_a_line() {
    insta::assert_snapshot!(reprint(
        "g (float[N,8] x) => (float[N,8] y) { c = Cast <to: int = 1> (x)  y = Relu (c) }"
    ), @"");
}

#[test]
fn prints_initializers_one_a_line() {
    insta::assert_snapshot!(reprint(
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2.5}, int64[1] axes = {-1}, float[2] t>
         { t = Add (x, w) y = ReduceSum <keepdims = 1> (t, axes) }"
    ), @"");
}
