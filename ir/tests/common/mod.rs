//! Small models as messages, for tests of what no text could say.

#![allow(dead_code, reason = "each test uses some of them")]

use std::path::{Path, PathBuf};

use onnxfix_ir::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use onnxfix_ir::{LoadError, LoadOptions, Loaded, Model, from_proto};

/// A model of IR version 8 and opset 17 with this graph.
pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A graph with inputs, nodes and outputs.
pub(crate) fn graph(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("g".into()),
        node: nodes,
        input: inputs.iter().map(|name| value(name)).collect(),
        output: outputs.iter().map(|name| value(name)).collect(),
        ..GraphProto::default()
    }
}

/// A declaration without a type.
pub(crate) fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

/// A node named like its first output.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: outputs.first().map(|&name| name.into()),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        ..NodeProto::default()
    }
}

/// An `If` node, both of whose branches are this body.
pub(crate) fn if_node(cond: &str, body: &GraphProto, output: &str) -> NodeProto {
    let branch = |name: &str| AttributeProto {
        name: Some(name.into()),
        r#type: Some(5),
        g: Some(Box::new(body.clone())),
        ..AttributeProto::default()
    };
    let attribute = vec![branch("then_branch"), branch("else_branch")];
    NodeProto { attribute, ..node("If", &[cond], &[output]) }
}

/// A float tensor of these raw bytes.
pub(crate) fn tensor(name: &str, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// Reads a graph that should load.
pub(crate) fn load(graph: GraphProto) -> Loaded {
    from_proto(model(graph), None, &LoadOptions::default()).unwrap_or_else(|err| panic!("{err}"))
}

/// Reads a graph that should not load, and gives the message.
pub(crate) fn load_error(graph: GraphProto) -> String {
    error(from_proto(model(graph), None, &LoadOptions::default()))
}

/// The message of an error.
pub(crate) fn error(result: Result<Loaded, LoadError>) -> String {
    match result {
        Ok(_) => panic!("loaded"),
        Err(err) => err.to_string(),
    }
}

/// Names of the nodes of the main graph in order.
pub(crate) fn order(model: &Model) -> Vec<&str> {
    model.nodes(model.root()).map(|node| model[node].name.as_deref().unwrap_or("")).collect()
}

/// The models of the repository, and those of the folder in `ONNXFIX_DATA`.
#[expect(clippy::print_stderr, reason = "a test that looks at less says so")]
pub(crate) fn models() -> Vec<PathBuf> {
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models")];
    match std::env::var_os("ONNXFIX_DATA") {
        Some(dir) => dirs.push(Path::new(&dir).join("models")),
        None => eprintln!("skipped the large exports: ONNXFIX_DATA is not set"),
    }
    let files = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).expect("a folder of models"));
    let paths = files.map(|file| file.expect("a file").path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect()
}
