//! Writes the first corpus of the protobuf target: the texts given as protobuf, pieces of the models given, and a model
//! with what text has no words for.

// Its objects count coverage, which this program is built with as the targets are.
use libfuzzer_sys as _;

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnxfix_ir::proto::{
    AttributeProto, DeviceConfigurationProto, GraphProto, ModelProto, NodeDeviceConfigurationProto,
    NodeProto, OperatorSetIdProto, Segment, SparseTensorProto, StringStringEntryProto,
    TensorAnnotation, TensorProto, TrainingInfoProto, ValueInfoProto,
};
use onnxfix_ir::{text, to_proto};
use prost::Message as _;

/// Nodes of one piece of a model.
const PIECE: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = args.next().ok_or("usage: seeds FOLDER MODEL.onnx|TEXT.onnxtxt ...")?;
    let write =
        |name: String, model: &ModelProto| fs::write(folder.join(name), model.encode_to_vec());
    write("unspoken".into(), &unspoken())?;
    for path in args {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if is_text(&path) {
            let model = text::parse(&fs::read_to_string(&path)?)
                .map_err(|err| format!("{}: {err}", path.display()))?;
            write(stem.into_owned(), &to_proto(&model))?;
        } else {
            let model = ModelProto::decode(Bytes::from(fs::read(&path)?))?;
            for (i, piece) in pieces(&model).iter().enumerate() {
                write(format!("{stem}-{i}"), piece)?;
            }
        }
    }
    Ok(())
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnxtxt")
}

/// A few nodes at a time, each with its weights cut to one element: what they read and nothing makes becomes an input.
fn pieces(model: &ModelProto) -> Vec<ModelProto> {
    let Some(graph) = &model.graph else { return Vec::new() };
    let mut seen = HashSet::new();
    // Layers repeat; the first piece of each kind is enough.
    let kinds = |nodes: &[NodeProto]| nodes.iter().map(|n| n.op_type.clone()).collect::<Vec<_>>();
    let chunks = graph.node.chunks(PIECE).filter(|nodes| seen.insert(kinds(nodes)));
    chunks.map(|nodes| ModelProto { graph: Some(piece(graph, nodes)), ..model.clone() }).collect()
}

fn piece(graph: &GraphProto, nodes: &[NodeProto]) -> GraphProto {
    let made: HashSet<&String> = nodes.iter().flat_map(|n| &n.output).collect();
    let mut read: Vec<&String> = nodes.iter().flat_map(|n| &n.input).collect();
    read.sort();
    read.dedup();
    read.retain(|name| !made.contains(name) && !name.is_empty());
    let (mut initializer, mut input) = (Vec::new(), Vec::new());
    for name in read {
        match graph.initializer.iter().find(|t| t.name.as_ref() == Some(name)) {
            Some(tensor) => initializer.push(TensorProto {
                dims: vec![1],
                raw_data: Some(vec![0; 8].into()),
                data_type: Some(7),
                name: tensor.name.clone(),
                ..TensorProto::default()
            }),
            None => {
                input.push(ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() })
            }
        }
    }
    let output = nodes.last().into_iter().flat_map(|n| &n.output);
    let named =
        |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
    GraphProto {
        node: nodes.to_vec(),
        name: graph.name.clone(),
        initializer,
        input,
        output: output.map(named).collect(),
        ..GraphProto::default()
    }
}

/// What text has no words for.
fn unspoken() -> ModelProto {
    let text = |text: &str| Some(text.to_owned());
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: text(key), value: text(value) };
    let value = |name: &str| ValueInfoProto {
        name: text(name),
        doc_string: text("d"),
        metadata_props: vec![entry("k", "v")],
        ..ValueInfoProto::default()
    };
    let tensor = |name: &str, code, dims: &[i64]| TensorProto {
        name: text(name),
        data_type: Some(code),
        dims: dims.to_vec(),
        ..TensorProto::default()
    };
    let sparse = || SparseTensorProto {
        values: Some(TensorProto { float_data: vec![1.0], ..tensor("s", 1, &[1]) }),
        indices: Some(TensorProto { int64_data: vec![2], ..tensor("", 7, &[1]) }),
        dims: vec![4],
    };
    let external = TensorProto {
        external_data: vec![
            entry("location", "w.data"),
            entry("offset", "0"),
            entry("length", "8"),
        ],
        data_location: Some(1),
        segment: Some(Segment { begin: Some(0), end: Some(2) }),
        ..tensor("w", 1, &[2])
    };
    let attribute = AttributeProto {
        name: text("a"),
        r#type: Some(11),
        sparse_tensor: Some(sparse()),
        doc_string: text("d"),
        ..AttributeProto::default()
    };
    let node = NodeProto {
        input: vec!["x".into(), "w".into(), "s".into()],
        output: vec!["y".into()],
        op_type: text("Op"),
        domain: text("custom"),
        attribute: vec![attribute],
        doc_string: text("d"),
        metadata_props: vec![entry("k", "v")],
        device_configurations: vec![NodeDeviceConfigurationProto {
            configuration_id: text("c"),
            ..NodeDeviceConfigurationProto::default()
        }],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        name: text("g"),
        initializer: vec![external, TensorProto { uint64_data: vec![7], ..tensor("u", 12, &[]) }],
        sparse_initializer: vec![sparse()],
        doc_string: text("d"),
        input: vec![value("x")],
        output: vec![value("y")],
        value_info: vec![value("stale")],
        quantization_annotation: vec![TensorAnnotation {
            tensor_name: text("x"),
            quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "u")],
        }],
        metadata_props: vec![entry("k", "v")],
    };
    let opset = |domain, version| OperatorSetIdProto { domain, version: Some(version) };
    ModelProto {
        ir_version: Some(12),
        opset_import: vec![opset(None, 20), opset(text("custom"), 1)],
        graph: Some(graph),
        training_info: vec![TrainingInfoProto {
            initialization: Some(GraphProto::default()),
            initialization_binding: vec![entry("a", "b")],
            ..TrainingInfoProto::default()
        }],
        configuration: vec![DeviceConfigurationProto {
            name: text("c"),
            num_devices: Some(2),
            device: vec!["d".into()],
        }],
        metadata_props: vec![entry("k", "v")],
        ..ModelProto::default()
    }
}
