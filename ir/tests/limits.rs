//! Sizes that no honest model has: what is long is walked without recursion, in a time that is linear in it.

mod common;

use std::fs;

use common::{error, graph, model, node, tensor};
use onnxfix_ir::proto::{
    AttributeProto, ModelProto, StringStringEntryProto, TensorProto, TypeProto, TypeProtoValue,
    TypeSequence, ValueInfoProto,
};
use onnxfix_ir::text::{Mode, parse, print};
use onnxfix_ir::{LoadOptions, Model, check, from_bytes, from_proto, infer, load, to_proto};
use prost::Message as _;

const MANY: usize = 100_000;

/// `v1 = Relu(v0)`, `v2 = Relu(v1)` and so on, the last one first.
fn reversed_chain() -> ModelProto {
    let name = |i: usize| format!("v{i}");
    let nodes = (0..MANY).rev().map(|i| node("Relu", &[&name(i)], &[&name(i + 1)])).collect();
    model(graph(&["v0"], nodes, &[&name(MANY)]))
}

fn loaded(proto: ModelProto) -> Model {
    from_proto(proto, None, &LoadOptions::default()).unwrap_or_else(|err| panic!("{err}")).model
}

#[test]
fn a_long_chain() {
    let mut model = loaded(reversed_chain());
    assert_eq!(check(&model), []);
    infer::infer(&mut model).expect("no contradiction");
    let text = print(&model, Mode::Full { limit: 1 }).expect("can be said");
    let again = parse(&text).expect("was printed");
    assert_eq!(to_proto(&again).graph.expect("a graph").node.len(), MANY);
}

#[test]
fn a_cycle_of_all_nodes() {
    let mut proto = reversed_chain();
    let nodes = &mut proto.graph.as_mut().expect("a graph").node;
    nodes[MANY - 1].input = vec![format!("v{MANY}")];
    let why = error(from_proto(proto, None, &LoadOptions::default()));
    assert!(why.contains("100000 nodes need each other's results"), "{why}");
}

#[test]
fn a_value_that_very_many_nodes_read() {
    let nodes = (0..MANY).map(|i| node("Add", &["x", "w"], &[&format!("v{i}")])).collect();
    let mut g = graph(&["x"], nodes, &["v0"]);
    g.initializer = vec![tensor("w", &[1], vec![0; 4])];
    let mut model = loaded(common::model(g));
    let all: Vec<_> = model.nodes(model.root()).skip(1).collect();
    let x = model[model.root()].inputs()[0];
    // In neither order of removal, and not while uses are added.
    for (i, &node) in all.iter().enumerate() {
        match i % 3 {
            0 => model.remove_node(node),
            1 => model.set_input(node, 1, Some(x)),
            _ => {}
        }
    }
    for &node in all.iter().rev().filter(|node| model.node(**node).is_some()).collect::<Vec<_>>() {
        model.remove_node(node);
    }
    assert_eq!(check(&model), []);
    assert_eq!(model[x].uses().len(), 1);
}

#[test]
fn names_that_very_many_values_want() {
    let mut model =
        loaded(common::model(graph(&["x"], vec![node("Relu", &["x"], &["y"])], &["y"])));
    for _ in 0..MANY {
        let name = model.fresh_name("y");
        model.add_input(model.root(), name, None);
    }
    assert_eq!(check(&model), []);
    assert_eq!(model.fresh_name("y"), *format!("y_{}", MANY + 1).as_str());
}

#[test]
fn bodies_that_are_removed_one_by_one() {
    let nodes = (0..5000).map(|i| {
        let body = graph(&[], vec![node("Relu", &["x"], &[&format!("b{i}")])], &[&format!("b{i}")]);
        common::if_node("x", &body, &format!("v{i}"))
    });
    let mut model = loaded(common::model(graph(&["x"], nodes.collect(), &["v0"])));
    for node in model.nodes(model.root()).skip(1).collect::<Vec<_>>() {
        model.remove_node(node);
    }
    assert_eq!(check(&model), []);
}

#[test]
fn types_within_types() {
    let mut ty = TypeProto::default();
    for _ in 0..200 {
        let inner = TypeSequence { elem_type: Some(Box::new(ty)) };
        ty = TypeProto {
            value: Some(TypeProtoValue::SequenceType(Box::new(inner))),
            denotation: None,
        };
    }
    let mut g = graph(&["x"], vec![node("Relu", &["x"], &["y"])], &["y"]);
    g.input[0].r#type = Some(ty);
    let why = error(from_bytes(model(g).encode_to_vec().into(), None, &LoadOptions::default()));
    assert!(why.starts_with("messages are nested more than 100 deep, in model.graph"), "{why}");
}

#[test]
fn dimensions_that_are_no_sizes() {
    let refused = |dims: &[i64]| {
        let mut g = graph(&["x"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
        g.initializer =
            vec![TensorProto { raw_data: Some(vec![0; 4].into()), ..tensor("w", dims, vec![]) }];
        error(from_proto(model(g), None, &LoadOptions::default()))
    };
    for dims in [&[1 << 40, 1 << 40][..], &[i64::MAX, 2], &[-1], &[-1, -1], &[i64::MIN], &[1 << 61]]
    {
        let why = refused(dims);
        assert!(why.starts_with("graph \"g\" › initializer \"w\""), "{dims:?}: {why}");
    }
}

fn external(entries: &[(&str, &str)]) -> ModelProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).into()),
        value: Some((*value).into()),
    };
    let t = TensorProto {
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(1),
        raw_data: None,
        ..tensor("w", &[2], vec![])
    };
    let mut g = graph(&["x"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    g.initializer = vec![t];
    model(g)
}

/// Bytes may begin anywhere and be shared; they may not be outside of the file.
#[test]
fn places_of_external_data() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("w"), [0; 20]).expect("a folder of ours");
    let load = |entries: &[(&str, &str)]| {
        from_proto(external(entries), Some(dir.path()), &LoadOptions::default())
    };
    assert!(load(&[("location", "w"), ("offset", "3"), ("length", "8")]).is_ok());
    for (offset, length) in [
        ("13", "8"),
        ("-1", "8"),
        ("0", "-8"),
        ("18446744073709551615", "8"),
        ("1e1", "8"),
        ("0", "4"),
    ] {
        let why = error(load(&[("location", "w"), ("offset", offset), ("length", length)]));
        assert!(why.contains("initializer \"w\""), "{offset} {length}: {why}");
    }
}

/// Opening a pipe would wait for somebody who writes into it.
#[cfg(unix)]
#[test]
fn external_data_that_is_no_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status();
    assert!(made.expect("mkfifo").success());
    fs::create_dir(dir.path().join("folder")).expect("a folder");
    for location in ["pipe", "folder"] {
        fs::write(dir.path().join("m.onnx"), external(&[("location", location)]).encode_to_vec())
            .expect("a folder of ours");
        let why = error(load(&dir.path().join("m.onnx"), &LoadOptions::default()));
        assert!(why.contains(location) && why.contains("is not a file"), "{why}");
    }
}

#[test]
fn names_that_are_not_unique() {
    let twice = |proto: &dyn Fn(&mut ModelProto)| {
        let mut m = model(graph(&["x"], vec![node("Relu", &["x"], &["y"])], &["y"]));
        proto(&mut m);
        let loaded = from_proto(m, None, &LoadOptions::default());
        loaded.map_or_else(
            |e| e.to_string(),
            |l| check(&l.model).iter().map(ToString::to_string).collect(),
        )
    };
    let attribute = |i| AttributeProto {
        name: Some("a".into()),
        r#type: Some(2),
        i: Some(i),
        ..AttributeProto::default()
    };
    let attributes = twice(&|m| {
        m.graph.as_mut().expect("a graph").node[0].attribute = vec![attribute(1), attribute(2)];
    });
    insta::assert_snapshot!(attributes, @r#"
    graph "g" › "y" (Relu): has attribute "a" twice
    "#);
    let opsets = twice(&|m| {
        let mut second = m.opset_import[0].clone();
        second.version = Some(7);
        m.opset_import.push(second);
    });
    insta::assert_snapshot!(opsets, @r#"
    graph "g": imports versions 17 and 7 of domain ""
    "#);
    let functions = twice(&|m| {
        let f = onnxfix_ir::proto::FunctionProto {
            name: Some("f".into()),
            domain: Some("d".into()),
            ..Default::default()
        };
        m.functions = vec![f.clone(), f];
    });
    insta::assert_snapshot!(functions, @r#"
    model: has function "f" of domain "d" twice
    "#);
    let inputs = twice(&|m| {
        let x = ValueInfoProto { name: Some("x".into()), ..ValueInfoProto::default() };
        m.graph.as_mut().expect("a graph").input.push(x);
    });
    insta::assert_snapshot!(inputs, @r#"
    graph "g": "x" is defined twice: an input, and an input
    "#);
}
