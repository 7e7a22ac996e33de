//! What loading accepts, puts right and refuses, and the words it finds for it.

mod common;

use bytes::Bytes;
use common::{error, graph, if_node, load, load_error, model, node, order, tensor, value};
use onnxfix_ir::proto::{
    AttributeProto, Dimension, DimensionValue, GraphProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoValue, TypeTensor,
};
use onnxfix_ir::{AttrValue, LoadOptions, Type, check, from_bytes};
use prost::Message as _;

fn bytes_error(bytes: impl Into<Bytes>) -> String {
    error(from_bytes(bytes.into(), None, &LoadOptions::default()))
}

/// A model with a large tensor and a node.
fn sample() -> Vec<u8> {
    let mut g = graph(&["x"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    g.initializer = vec![tensor("w", &[64], vec![7; 256])];
    model(g).encode_to_vec()
}

#[test]
fn paths_that_are_no_model_files_are_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let load =
        |name: &str| error(onnxfix_ir::load(&dir.path().join(name), &LoadOptions::default()));
    std::fs::write(dir.path().join("empty"), "").expect("a file");
    assert_eq!(load("empty"), "the file is empty");
    assert_eq!(load("missing"), "there is no such file");
    assert_eq!(load("."), "is a directory, not a file");
}

#[test]
fn other_files_are_no_models() {
    assert_eq!(
        bytes_error(&b"version https://git-lfs.github.com/spec/v1\noid"[..]),
        "is not an ONNX model: it is a pointer of Git LFS to the file, not the file"
    );
    assert!(
        bytes_error(&b"hello, this is some text"[..])
            .starts_with("is not an ONNX model: it is text")
    );
    assert_eq!(bytes_error(&b"PK\x03\x04rest"[..]), "is not an ONNX model: it is a zip archive");
    assert_eq!(bytes_error(&b"\x08\x08"[..]), "is not an ONNX model: there is no `graph`");
    assert_eq!(
        bytes_error(&b"\xff\xff\xff"[..]),
        "is not an ONNX model: there is no field at byte 0"
    );
}

#[test]
fn a_file_that_was_cut_off_says_where() {
    let whole = sample();
    let end = whole.windows(9).position(|w| w == [7; 9]).expect("the weights") + 100;
    assert_eq!(
        bytes_error(whole[..end].to_vec()),
        format!(
            "ends at byte {end} inside of model.graph \"g\".initializer[0] \"w\".raw_data, 156 bytes too early"
        )
    );
}

#[test]
fn no_cut_loads_or_panics() {
    let whole = sample();
    for end in 1..whole.len() {
        bytes_error(whole[..end].to_vec());
    }
}

#[test]
fn no_changed_byte_panics() {
    let whole = sample();
    for (at, flip) in
        (0..whole.len()).flat_map(|at| [(at, 0x01), (at, 0x08), (at, 0x80), (at, 0xff)])
    {
        let mut file = whole.clone();
        file[at] ^= flip;
        let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
        if let Ok(loaded) = from_bytes(file.into(), None, &options) {
            let _ = check(&loaded.model);
            onnxfix_ir::write_to(&loaded.model, std::io::sink()).expect("no writer that fails");
        }
    }
}

#[test]
fn damage_is_located() {
    let mut file = sample();
    let op_type = file.windows(3).position(|w| w == b"Add").expect("the node");
    file[op_type] = 0xff;
    assert_eq!(
        bytes_error(file),
        format!(
            "is damaged at byte {op_type}, in model.graph \"g\".node[0] \"y\".op_type: the text is not UTF-8"
        )
    );
}

#[test]
fn unknown_fields_are_refused_unless_dropped() {
    let file = Bytes::from([sample(), vec![0xf8, 0x07, 1]].concat());
    assert_eq!(
        bytes_error(file.clone()),
        format!(
            "field 127 of ModelProto is unknown, in model at byte {}; --drop-unknown leaves such fields out",
            file.len() - 3
        )
    );
    let options = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
    let loaded = from_bytes(file, None, &options).expect("a model");
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn nesting_has_a_limit() {
    let mut nested = graph(&[], vec![], &[]);
    for _ in 0..40 {
        let attribute = AttributeProto {
            name: Some("b".into()),
            g: Some(Box::new(nested)),
            ..AttributeProto::default()
        };
        let mut owner = node("If", &[], &["y"]);
        owner.attribute = vec![attribute];
        nested = graph(&[], vec![owner], &[]);
    }
    assert!(
        bytes_error(model(nested).encode_to_vec())
            .starts_with("messages are nested more than 100 deep")
    );
}

#[test]
fn nodes_may_stand_before_what_they_read() {
    let nodes = vec![
        node("Relu", &["b"], &["c"]),
        node("Relu", &["x"], &["a"]),
        node("Relu", &["a"], &["b"]),
    ];
    let loaded = load(graph(&["x"], nodes, &["c"]));
    assert_eq!(order(&loaded.model), ["a", "b", "c"]);
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(check(&loaded.model), []);
}

#[test]
fn what_only_a_body_reads_comes_first_too() {
    let body = graph(&[], vec![node("Relu", &["late"], &["inner"])], &["inner"]);
    let mut owner = if_node("x", &body, "y");
    owner.attribute.truncate(1);
    let loaded = load(graph(&["x"], vec![owner, node("Relu", &["x"], &["late"])], &["y"]));
    assert_eq!(order(&loaded.model), ["late", "y"]);
}

#[test]
fn a_cycle_names_its_nodes() {
    let nodes = vec![
        node("Add", &["x", "c"], &["a"]),
        node("Relu", &["a"], &["c"]),
        node("Relu", &["c"], &["y"]),
    ];
    insta::assert_snapshot!(load_error(graph(&["x"], nodes, &["y"])),
        @r#"graph "g": 2 nodes need each other's results: "c" (Relu) → "a" (Add) → "c" (Relu)"#);
}

#[test]
fn a_name_that_nothing_defines_is_located() {
    let body = graph(&[], vec![node("Add", &["x", "gone"], &["inner"])], &["inner"]);
    insta::assert_snapshot!(load_error(graph(&["x"], vec![if_node("x", &body, "y")], &["y"])),
        @r#"graph "g" › "y" (If) › g › "inner" (Add) › input 1 reads "gone", which nothing defines"#);
}

#[test]
fn a_name_defined_twice_names_both() {
    let nodes = vec![node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"])];
    insta::assert_snapshot!(load_error(graph(&["x"], nodes, &["y"])),
        @r#"graph "g": "y" is defined twice: output 0 of "y" (Relu), and output 0 of "y" (Neg)"#);
}

#[test]
fn a_body_value_that_hides_another_is_renamed() {
    let body = graph(&[], vec![node("Relu", &["x"], &["a"])], &["a"]);
    let loaded =
        load(graph(&["x"], vec![node("Neg", &["x"], &["a"]), if_node("x", &body, "y")], &["y"]));
    assert_eq!(loaded.warnings.len(), 2);
    assert_eq!(check(&loaded.model), []);
}

#[test]
fn an_initializer_may_be_an_input() {
    let mut g = graph(&["x", "w"], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    g.initializer = vec![tensor("w", &[1], vec![0; 4])];
    let loaded = load(g);
    let root = loaded.model.root();
    let names: Vec<&str> =
        loaded.model[root].inputs().iter().map(|&v| loaded.model[v].name().as_str()).collect();
    assert_eq!(names, ["x", "w"]);
    assert_eq!(
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["graph \"g\": 1 initializers are inputs as well"]
    );
}

#[test]
fn stale_value_info_is_kept_and_harmless() {
    let mut g = graph(&["x"], vec![node("Relu", &["x"], &["y"])], &["y"]);
    g.value_info = vec![value("gone")];
    let loaded = load(g);
    assert_eq!(check(&loaded.model), []);
    let stored = onnxfix_ir::to_proto(&loaded.model).graph.expect("a graph");
    assert_eq!(stored.value_info, [value("gone")]);
}

#[test]
fn negative_and_nameless_dimensions_are_unknown_and_kept() {
    let shape = TensorShapeProto {
        dim: [
            DimensionValue::DimValue(-1),
            DimensionValue::DimParam(String::new()),
            DimensionValue::DimValue(2),
        ]
        .map(|value| Dimension { value: Some(value), denotation: None })
        .into(),
    };
    let ty = TypeProtoValue::TensorType(TypeTensor { elem_type: Some(1), shape: Some(shape) });
    let mut g = graph(&["x"], vec![], &[]);
    g.input[0].r#type = Some(TypeProto { value: Some(ty), denotation: None });
    let loaded = load(g.clone());
    let x = loaded.model[loaded.model.root()].inputs()[0];
    assert_eq!(
        loaded.model[x].ty.as_ref().map(ToString::to_string).as_deref(),
        Some("float[?,?,2]")
    );
    assert_eq!(onnxfix_ir::to_proto(&loaded.model).graph.expect("a graph").input, g.input);
}

#[test]
fn tensors_that_do_not_fit_their_dimensions_are_refused() {
    let with = |t: TensorProto| {
        let mut g = graph(&[], vec![], &["w"]);
        g.initializer = vec![t];
        load_error(g)
    };
    insta::assert_snapshot!(with(tensor("w", &[2], vec![0; 4])),
        @r#"graph "g" › initializer "w" holds 4 bytes of float, its dimensions need 8"#);
    insta::assert_snapshot!(with(tensor("w", &[-1], vec![0; 4])),
        @r#"graph "g" › initializer "w" dimensions [-1] are not a size"#);
    insta::assert_snapshot!(with(tensor("w", &[i64::MAX, 8], vec![0; 4])),
        @r#"graph "g" › initializer "w" dimensions [9223372036854775807, 8] are not a size"#);
    let both = TensorProto { float_data: vec![1.0], ..tensor("w", &[1], vec![0; 4]) };
    insta::assert_snapshot!(with(both),
        @r#"graph "g" › initializer "w" has its elements both in `raw_data` and in `float_data`"#);
    let huge =
        TensorProto { raw_data: None, float_data: vec![1.0], ..tensor("w", &[1 << 62], vec![]) };
    insta::assert_snapshot!(with(TensorProto { data_type: Some(14), ..huge }),
        @r#"graph "g" › initializer "w" holds 8 bytes of complex64, its dimensions need 18446744073709551615"#);
}

#[test]
fn an_attribute_without_a_type_has_that_of_its_value() {
    let mut n = node("Concat", &["x"], &["y"]);
    n.attribute =
        vec![AttributeProto { name: Some("axis".into()), i: Some(1), ..AttributeProto::default() }];
    let loaded = load(graph(&["x"], vec![n], &["y"]));
    let (_, n) = loaded.model.all_nodes().next().expect("a node");
    assert_eq!(n.attrs.get("axis"), Some(&AttrValue::Int(1)));
}

fn external(entries: &[(&str, &str)]) -> GraphProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto {
        key: Some((*k).into()),
        value: Some((*v).into()),
    };
    let mut g = graph(&[], vec![], &["w"]);
    g.initializer = vec![TensorProto {
        raw_data: None,
        data_location: Some(1),
        external_data: entries.iter().map(entry).collect(),
        ..tensor("w", &[2], vec![])
    }];
    g
}

#[test]
fn external_data_stays_in_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let outside = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(dir.path().join("w.bin"), [0u8; 12]).expect("a file");
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("a link");
    let load = |entries: &[(&str, &str)]| {
        let proto = model(external(entries));
        onnxfix_ir::from_proto(proto, Some(dir.path()), &LoadOptions::default())
    };
    assert!(load(&[("location", "w.bin"), ("offset", "4"), ("length", "8")]).is_ok());
    for location in ["/etc/hostname", "../w.bin", "link", "sub/../../x"] {
        let message = error(load(&[("location", location)]));
        assert!(message.ends_with("is outside of the model's folder"), "{message}");
    }
    let message = error(load(&[("location", "w.bin"), ("offset", "8")]));
    assert!(message.ends_with("w.bin has 12 bytes, the tensor needs 8 from byte 8"), "{message}");
    let message = error(load(&[("location", "gone.bin")]));
    assert!(message.contains("gone.bin: No such file"), "{message}");
    let message = error(load(&[("location", "w.bin"), ("offset", "x")]));
    assert!(message.ends_with("`offset` is \"x\", not a number of bytes"), "{message}");
}

#[test]
fn external_data_can_be_left_alone() {
    let options = LoadOptions { external_data: false, ..LoadOptions::default() };
    let loaded = onnxfix_ir::from_proto(model(external(&[("location", "w.bin")])), None, &options)
        .expect("a model");
    let (_, w) = loaded.model.all_values().next().expect("the tensor");
    assert_eq!(w.ty, Some(Type::tensor(onnxfix_ir::DataType::Float, &[2])));
}

#[test]
fn a_changed_file_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, sample()).expect("a file");
    let loaded = onnxfix_ir::load(&path, &LoadOptions::default()).expect("a model");
    assert!(loaded.sources[0].is_unchanged().expect("a file"));
    std::fs::write(&path, [sample(), sample()].concat()).expect("a file");
    assert!(!loaded.sources[0].is_unchanged().expect("a file"));
}
