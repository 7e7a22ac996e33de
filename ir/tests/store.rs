//! Storing: whole files or none, inside of one message or beside it.

mod common;

use std::fs;
use std::path::Path;

use common::{graph, model, node, tensor};
use onnxfix_ir::proto::{AttributeProto, GraphProto, ModelProto, ValueInfoProto};
use onnxfix_ir::{
    ExternalData, LoadOptions, Model, StoreOptions, content_hash, load, store, to_proto, write_to,
};
use prost::Message as _;

/// Large tensors as initializer, as attribute and in a body.
fn large() -> ModelProto {
    let attribute =
        |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let constant = |output: &str| {
        let t =
            AttributeProto { t: Some(tensor("", &[2000], vec![3; 8000])), ..attribute("value") };
        let mut n = node("Constant", &[], &[output]);
        n.attribute =
            vec![AttributeProto { r#type: Some(4), doc_string: Some("weights".into()), ..t }];
        n.doc_string = Some("a node".into());
        n
    };
    let mut body = graph(&[], vec![constant("inner")], &["inner"]);
    body.initializer = vec![tensor("v", &[2000], vec![5; 8000])];
    let mut g = graph(&["x"], vec![constant("k"), common::if_node("x", &body, "y")], &["y"]);
    g.node[1].attribute.truncate(1);
    g.initializer = vec![tensor("small", &[1], vec![0; 4]), tensor("w", &[5000], vec![7; 20000])];
    g.doc_string = Some("a graph".into());
    ModelProto { doc_string: Some("a model".into()), ..model(g) }
}

fn build(proto: ModelProto) -> Model {
    onnxfix_ir::from_proto(proto, None, &LoadOptions::default()).expect("a model").model
}

fn options(external_data: ExternalData) -> StoreOptions {
    StoreOptions { external_data }
}

/// Names of the files in a folder.
fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a folder").map(|f| f.expect("a file").file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn bytes_are_those_that_prost_writes() {
    let mut written = Vec::new();
    write_to(&build(large()), &mut written).expect("memory");
    assert!(written == large().encode_to_vec());
}

#[test]
fn a_model_may_be_stored_over_its_own_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    fs::write(&path, large().encode_to_vec()).expect("a file");
    let loaded = load(&path, &LoadOptions::default()).expect("a model");
    let stored = store(&loaded.model, &path, &StoreOptions::default()).expect("a file");
    assert_eq!((stored.size, stored.data), (large().encoded_len() as u64, None));
    assert!(to_proto(&loaded.model) == large(), "the old file's elements are still there");
    assert!(ModelProto::decode(&fs::read(&path).expect("a file")[..]) == Ok(large()));
    assert_eq!(files(dir.path()), ["m.onnx"]);
}

/// Elements are read and written in pieces of 256 KiB, wherever they stand in the file.
#[test]
fn large_elements_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (dir.path().join("from.onnx"), dir.path().join("to.onnx"));
    let bytes = |seed: u32| {
        (0..1_200_000u32).map(|i| (i.wrapping_mul(seed) >> 13).to_le_bytes()[0]).collect()
    };
    let mut g = graph(&["x"], vec![node("Add", &["v", "w"], &["y"])], &["y"]);
    g.initializer =
        vec![tensor("v", &[300_000], bytes(7919)), tensor("w", &[300_000], bytes(104_729))];
    let proto = model(g);
    fs::write(&from, proto.encode_to_vec()).expect("a file");
    let loaded = load(&from, &LoadOptions::default()).expect("a model");
    store(&loaded.model, &to, &StoreOptions::default()).expect("a file");
    assert!(fs::read(&to).expect("a file") == proto.encode_to_vec());
    let beside = options(ExternalData::Always);
    store(&loaded.model, &to, &beside).expect("two files");
    let again = load(&to, &LoadOptions::default()).expect("a model");
    let both = [loaded.model, again.model].map(|m| {
        let initializers = m[m.root()].initializers().iter();
        initializers.map(|&v| m.constant(v).cloned().expect("a tensor")).collect::<Vec<_>>()
    });
    let same =
        |(a, b): (&std::sync::Arc<onnxfix_ir::Tensor>, &std::sync::Arc<onnxfix_ir::Tensor>)| {
            a.same_content(b) && a.fingerprint() == b.fingerprint()
        };
    assert!(
        both[0].iter().zip(&both[1]).all(same),
        "the elements are the same in a file of their own"
    );
    assert!(!both[0][0].same_content(&both[0][1]));
}

/// Where the elements of `large` go.
const DATA: &str = "m.onnx.57da3cbb768391ea.data";

/// A process may end at any moment: whichever model is there, its own elements are beside it.
#[test]
fn a_model_with_other_elements_has_another_data_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    let first = store(&build(large()), &path, &options(ExternalData::Always)).expect("files");
    let old = fs::read(&path).expect("a model");
    let mut other = large();
    for tensor in &mut other.graph.as_mut().expect("a graph").initializer {
        tensor.raw_data = tensor.raw_data.take().map(|raw| raw.iter().map(|b| b ^ 1).collect());
    }
    let second = store(&build(other), &path, &options(ExternalData::Always)).expect("files");
    assert_eq!(second.unused, first.data.map(|(path, _)| path).into_iter().collect::<Vec<_>>());
    fs::write(&path, old).expect("the model as it was before the second one was put in place");
    let loaded = load(&path, &LoadOptions::default()).expect("a model");
    store(&loaded.model, &path, &StoreOptions::default()).expect("a file");
    assert!(ModelProto::decode(&fs::read(&path).expect("a file")[..]) == Ok(large()));
}

#[test]
fn a_failure_leaves_the_old_file_and_no_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    fs::write(&path, "old").expect("a file");
    // The data file cannot be put in place of a folder.
    fs::create_dir(dir.path().join(DATA)).expect("a folder");
    assert!(store(&build(large()), &path, &options(ExternalData::Always)).is_err());
    assert_eq!(fs::read(&path).expect("a file"), b"old");
    assert_eq!(files(dir.path()), ["m.onnx", DATA]);
}

#[test]
fn external_data_goes_out_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    let stored = store(&build(large()), &path, &options(ExternalData::Always)).expect("files");
    assert_eq!(files(dir.path()), ["m.onnx", DATA]);
    // The second tensor begins at a multiple of 4096.
    assert_eq!(stored.data, Some((dir.path().join(DATA), 20480 + 8000)));
    let loaded = load(&path, &LoadOptions::default()).expect("a model");
    assert_eq!(loaded.sources.len(), 2);
    store(&loaded.model, &path, &StoreOptions::default()).expect("a file");
    assert!(ModelProto::decode(&fs::read(&path).expect("a file")[..]) == Ok(large()));
}

#[test]
fn elements_that_were_not_loaded_are_not_stored() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.onnx");
    store(&build(large()), &path, &options(ExternalData::Always)).expect("files");
    let loaded = load(&path, &LoadOptions { external_data: false, ..LoadOptions::default() })
        .expect("a model");
    let err = store(&loaded.model, &dir.path().join("n.onnx"), &StoreOptions::default())
        .expect_err("no elements");
    assert_eq!(err.to_string(), "graph \"g\" › initializer \"w\": the elements were not loaded");
}

#[test]
fn what_is_no_file_is_written_to_and_stays() {
    let null = Path::new("/dev/null");
    store(&build(large()), null, &StoreOptions::default()).expect("written");
    assert!(!fs::metadata(null).expect("a device").is_file());
}

#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, link) = (dir.path().join("m.onnx"), dir.path().join("link.onnx"));
    fs::write(&file, "old").expect("a file");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    store(&build(large()), &link, &StoreOptions::default()).expect("a file");
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert!(fs::read(&file).expect("a file") == large().encode_to_vec());
}

#[test]
fn the_hash_sees_everything_but_large_elements() {
    let dir = tempfile::tempdir().expect("a folder");
    let hash = |proto: &ModelProto| {
        let path = dir.path().join("m.onnx");
        fs::write(&path, proto.encode_to_vec()).expect("a file");
        content_hash(&path).expect("a hash")
    };
    let before = hash(&large());
    let change = |change: &dyn Fn(&mut GraphProto)| {
        let mut proto = large();
        change(proto.graph.as_mut().expect("a graph"));
        hash(&proto)
    };
    assert_eq!(change(&|g| g.initializer[1].raw_data = Some(vec![8; 20000].into())), before);
    assert_ne!(change(&|g| g.initializer[0].raw_data = Some(vec![8; 4].into())), before);
    assert_ne!(change(&|g| g.initializer[1] = tensor("w", &[5001], vec![7; 20004])), before);
    assert_ne!(change(&|g| g.name = Some("h".into())), before);
}

#[test]
fn value_info_lists_the_typed_outputs_in_order() {
    let mut proto = model(graph(
        &["x"],
        vec![node("Relu", &["x"], &["a"]), node("Relu", &["a"], &["y"])],
        &["y"],
    ));
    let ty =
        onnxfix_ir::type_to_proto(&onnxfix_ir::Type::tensor(onnxfix_ir::DataType::Float, &[2]));
    proto.graph.as_mut().expect("a graph").value_info = ["gone", "a"]
        .map(|name| ValueInfoProto { r#type: Some(ty.clone()), ..common::value(name) })
        .into();
    let mut m = build(proto);
    m.list_value_info(m.root());
    let listed = to_proto(&m).graph.expect("a graph").value_info;
    assert_eq!(listed.iter().map(ValueInfoProto::name).collect::<Vec<_>>(), ["a"]);
}
