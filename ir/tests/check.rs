//! The checker's words for what edits can do to a model.

mod common;

use common::{graph, if_node, node, tensor};
use onnxfix_ir::{DataType, Model, NewNode, NodeId, Type, check};

/// `y = Add(x, w)`, of which `w` is constant, and that node.
fn model() -> (Model, NodeId) {
    let mut g = graph(&["x"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    g.initializer = vec![tensor("w", &[1], vec![0; 4])];
    let model = common::load(g).model;
    let node = model.nodes(model.root()).next().expect("a node");
    (model, node)
}

fn broken(model: &Model) -> String {
    check(model).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_good_model_passes() {
    assert_eq!(broken(&model().0), "");
}

#[test]
fn reading_a_later_value() {
    let (mut m, add) = model();
    let y = m[add].outputs()[0].expect("an output");
    m.add_node(m.root(), Some(add), NewNode::new("Relu", &[y], "z".into()));
    insta::assert_snapshot!(broken(&m), @r#"graph "g" › Relu making "z" › input 0: reads "y" before it is made"#);
}

#[test]
fn names_that_are_taken() {
    let (mut m, _) = model();
    let x = m[m.root()].inputs()[0];
    m.add_node(m.root(), None, NewNode::new("Relu", &[x], "y".into()));
    insta::assert_snapshot!(broken(&m), @r#"graph "g" › value "y": the name "y" is that of another value in sight"#);
}

#[test]
fn a_model_that_does_not_say_its_versions() {
    let (mut m, _) = model();
    m.header.ir_version = None;
    insta::assert_snapshot!(broken(&m), @r#"graph "g": the model states no version of the format (ir_version) or imports no operator set (opset_import)"#);
}

#[test]
fn an_operator_set_that_is_not_imported() {
    let (mut m, _) = model();
    m.opsets[0].domain = Some("other".into());
    insta::assert_snapshot!(broken(&m), @r#"graph "g" › "y" (Add): no operator set is imported for domain """#);
}

#[test]
fn what_an_operator_needs() {
    let (mut m, add) = model();
    let x = m[m.root()].inputs()[0];
    m.set_input(add, 0, None);
    m.add_node(m.root(), None, NewNode::new("Concat", &[x], "z".into()));
    insta::assert_snapshot!(broken(&m), @r#"
    graph "g" › "y" (Add): lacks input `A` of Add
    graph "g" › Concat making "z": lacks attribute `axis` of Concat
    "#);
}

#[test]
fn more_inputs_than_the_operator_has() {
    let (mut m, _) = model();
    let x = m[m.root()].inputs()[0];
    m.add_node(m.root(), None, NewNode::new("Relu", &[x, x], "z".into()));
    insta::assert_snapshot!(broken(&m), @r#"graph "g" › Relu making "z": has 2 inputs, Relu takes at most 1"#);
}

#[test]
fn element_types_that_do_not_go_together() {
    let (mut m, _) = model();
    let x = m[m.root()].inputs()[0];
    m.set_type(x, Some(Type::tensor(DataType::Int64, &[1])));
    insta::assert_snapshot!(broken(&m),
        @r#"graph "g" › "y" (Add): A of Add is int64 and B is float, which should be the same"#);
}

#[test]
fn values_of_a_body_are_not_seen_outside() {
    let body = graph(&[], vec![node("Relu", &["x"], &["inner"])], &["inner"]);
    let mut owner = if_node("x", &body, "y");
    owner.attribute.truncate(1);
    let mut m = common::load(graph(&["x"], vec![owner], &["y"])).model;
    let (inner, _) = m.all_values().find(|(_, v)| *v.name() == "inner").expect("a value");
    m.add_node(m.root(), None, NewNode::new("Relu", &[inner], "z".into()));
    let found = broken(&m);
    assert!(
        found.contains(
            r#"Relu making "z" › input 0: reads "inner" of a graph that is not around it"#
        ),
        "{found}"
    );
}

#[test]
fn a_graph_that_belongs_to_nothing() {
    let (mut m, _) = model();
    m.add_graph(None);
    insta::assert_snapshot!(broken(&m), @"Graph#1: the graph belongs to nothing");
}

#[test]
fn the_exports_are_well_formed() {
    for path in common::models() {
        let loaded = onnxfix_ir::load(&path, &onnxfix_ir::LoadOptions::default()).expect("a model");
        assert_eq!(broken(&loaded.model), "", "{}", path.display());
    }
}

#[test]
fn an_old_dropout_has_a_mask_of_the_type_of_its_data() {
    let text = "<ir_version: 4, opset_import: [\"\" : 9]>
g (float[2] x) => (float[2] y) <float[2] mask> { y, mask = Dropout (x) }";
    assert_eq!(broken(&onnxfix_ir::text::parse(text).expect("a model")), "");
}

#[test]
fn a_fused_layer_normalization_may_be_older_than_its_operator_set() {
    let text = "<ir_version: 7, opset_import: [\"\" : 13]>
g (float[2] x, float[2] w) => (float[2] y) { y = LayerNormalization (x, w) }";
    assert_eq!(broken(&onnxfix_ir::text::parse(text).expect("a model")), "");
}
