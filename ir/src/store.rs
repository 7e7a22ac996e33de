//! Writing models.

use std::path::{Path, PathBuf};
use std::io::{self, Write};
use prost::Message as _;

use crate::proto::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use crate::{
    Attr, AttrValue, Def, Dim, Function, GraphId, Model, Name, NodeId, Opset, Tensor, TensorData, TensorType, Type,
    ValueId,
};

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {}

/// What was written.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Bytes of the model file.
    pub size: u64,
}

/// Writes a model.
///
/// # Errors
/// When the system refuses.
pub fn store(model: &Model, path: &Path, _options: &StoreOptions) -> Result<Stored, StoreError> {
    let bytes = to_proto(model).encode_to_vec();
    std::fs::write(path, &bytes).map_err(|source| StoreError::Io { path: path.to_path_buf(), source })?;
    Ok(Stored { size: bytes.len() as u64 })
}

/// Writes a model.
///
/// # Errors
/// When the writer refuses.
pub fn write_to(model: &Model, mut out: impl Write) -> io::Result<()> {
    out.write_all(&to_proto(model).encode_to_vec())
}

/// The messages of a model. Elements of tensors that are raw bytes are shared, not copied.
#[must_use]
pub fn to_proto(model: &Model) -> ModelProto {
    let header = &model.header;
    ModelProto {
        ir_version: header.ir_version,
        opset_import: opsets(&model.opsets),
        producer_name: header.producer_name.clone(),
        producer_version: header.producer_version.clone(),
        domain: header.domain.clone(),
        model_version: header.model_version,
        doc_string: header.doc_string.clone(),
        graph: Some(graph(model, model.root())),
        metadata_props: entries(&header.metadata),
        training_info: header.training_info.clone(),
        functions: model.functions.iter().map(|f| function(model, f)).collect(),
        configuration: header.configuration.clone(),
    }
}

fn function(model: &Model, function: &Function) -> proto::FunctionProto {
    let body = &model[function.body];
    let name = |&value: &ValueId| model[value].name().as_str().to_owned();
    proto::FunctionProto {
        name: Some(function.name.as_str().to_owned()),
        input: body.inputs().iter().map(name).collect(),
        output: body.outputs().iter().map(name).collect(),
        attribute: function.attributes.iter().map(|a| a.as_str().to_owned()).collect(),
        attribute_proto: function.defaults.0.iter().map(|a| attribute(model, a)).collect(),
        node: model.nodes(function.body).map(|n| node(model, n)).collect(),
        doc_string: body.doc_string.clone(),
        opset_import: opsets(&function.opsets),
        domain: text(function.domain.as_ref()),
        overload: text(function.overload.as_ref()),
        value_info: value_infos(model, function.body),
        metadata_props: entries(&body.metadata),
    }
}

fn graph(model: &Model, id: GraphId) -> GraphProto {
    let graph = &model[id];
    let mut initializer = Vec::new();
    let mut sparse_initializer = Vec::new();
    for &value in graph.initializers() {
        let name = model[value].name().as_str().to_owned();
        match model[value].def() {
            Def::Initializer(t) => initializer.push(TensorProto { name: Some(name), ..tensor(t) }),
            Def::Sparse(sparse) => {
                let mut sparse = proto::SparseTensorProto::clone(sparse);
                sparse.values.get_or_insert_default().name = Some(name);
                sparse_initializer.push(sparse);
            }
            Def::Input | Def::Node { .. } | Def::Missing => {}
        }
    }
    let info = |&value: &ValueId| value_to_proto(model, value);
    GraphProto {
        node: model.nodes(id).map(|n| node(model, n)).collect(),
        name: text(graph.name.as_ref()),
        initializer,
        sparse_initializer,
        doc_string: graph.doc_string.clone(),
        input: graph.inputs().iter().map(info).collect(),
        output: graph.outputs().iter().map(info).collect(),
        value_info: value_infos(model, id),
        quantization_annotation: graph.quantization.clone(),
        metadata_props: entries(&graph.metadata),
    }
}

fn value_infos(model: &Model, graph: GraphId) -> Vec<ValueInfoProto> {
    // A pass may have removed a value that the list still names.
    let live = |&&value: &&ValueId| model.value(value).is_some();
    model[graph].value_info.iter().filter(live).map(|&value| value_to_proto(model, value)).collect()
}

fn node(model: &Model, id: NodeId) -> NodeProto {
    let node = &model[id];
    let name = |&value: &Option<ValueId>| match value {
        Some(value) => model[value].name().as_str().to_owned(),
        None => String::new(),
    };
    NodeProto {
        input: node.inputs().iter().map(name).collect(),
        output: node.outputs().iter().map(name).collect(),
        name: text(node.name.as_ref()),
        op_type: Some(node.op().name.as_str().to_owned()),
        domain: text(node.op().domain.as_ref()),
        overload: text(node.overload.as_ref()),
        attribute: node.attrs.0.iter().map(|a| attribute(model, a)).collect(),
        doc_string: node.doc_string.clone(),
        metadata_props: entries(&node.metadata),
        device_configurations: node.device_configurations.clone(),
    }
}

fn attribute(model: &Model, attr: &Attr) -> AttributeProto {
    let mut proto = AttributeProto {
        name: Some(attr.name.as_str().to_owned()),
        doc_string: attr.doc_string.clone(),
        r#type: Some(attr.value.type_code()).filter(|&code| code != 0),
        ..AttributeProto::default()
    };
    match &attr.value {
        AttrValue::Float(f) => proto.f = Some(*f),
        AttrValue::Int(i) => proto.i = Some(*i),
        AttrValue::String(s) => proto.s = Some(s.clone()),
        AttrValue::Tensor(t) => proto.t = Some(tensor(t)),
        AttrValue::Graph(body) => proto.g = Some(Box::new(graph(model, *body))),
        AttrValue::Sparse(sparse) => proto.sparse_tensor = Some(proto::SparseTensorProto::clone(sparse)),
        AttrValue::Type(ty) => proto.tp = Some(ty.clone()),
        AttrValue::Floats(floats) => proto.floats.clone_from(floats),
        AttrValue::Ints(ints) => proto.ints.clone_from(ints),
        AttrValue::Strings(strings) => proto.strings.clone_from(strings),
        AttrValue::Tensors(tensors) => proto.tensors = tensors.iter().map(|t| tensor(t)).collect(),
        AttrValue::Graphs(bodies) => proto.graphs = bodies.iter().map(|&body| graph(model, body)).collect(),
        AttrValue::Sparses(sparses) => proto.sparse_tensors.clone_from(sparses),
        AttrValue::Types(types) => proto.type_protos.clone_from(types),
        AttrValue::Ref(of, _) => proto.ref_attr_name = Some(of.as_str().to_owned()),
    }
    proto
}

fn tensor(tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        dims: tensor.dims.clone(),
        data_type: Some(tensor.dtype.code()),
        ..TensorProto::default()
    };
    match &tensor.data {
        TensorData::Raw(raw) => proto.raw_data = Some(raw.clone()),
        TensorData::Float(v) => proto.float_data = v.to_vec(),
        TensorData::Int32(v) => proto.int32_data = v.to_vec(),
        TensorData::Int64(v) => proto.int64_data = v.to_vec(),
        TensorData::Double(v) => proto.double_data = v.to_vec(),
        TensorData::Uint64(v) => proto.uint64_data = v.to_vec(),
        TensorData::String(v) => proto.string_data = v.to_vec(),
        TensorData::External(external) => {
            proto.external_data = entries(&external.entries);
            proto.data_location = Some(1);
        }
    }
    if let Some(extra) = tensor.extra.as_deref() {
        proto.name = text(extra.name.as_ref());
        proto.doc_string.clone_from(&extra.doc_string);
        proto.metadata_props = entries(&extra.metadata);
        proto.segment = extra.segment.map(|(begin, end)| proto::Segment { begin, end });
        if extra.explicit_location {
            proto.data_location = Some(0);
        }
        if extra.absent_data {
            proto.raw_data = None;
        }
        proto.external_data.extend(entries(&extra.unused_external));
    }
    proto
}

/// The declaration of a value.
#[must_use]
pub fn value_to_proto(model: &Model, value: ValueId) -> ValueInfoProto {
    let value = &model[value];
    let mut proto = ValueInfoProto {
        name: Some(value.name().as_str().to_owned()),
        r#type: value.ty.as_ref().map(type_to_proto),
        ..ValueInfoProto::default()
    };
    if let Some(extra) = value.extra.as_deref() {
        proto.doc_string.clone_from(&extra.doc_string);
        proto.metadata_props = entries(&extra.metadata);
        if extra.type_proto.is_some() {
            proto.r#type.clone_from(&extra.type_proto);
        }
    }
    proto
}

/// The message of a type.
#[must_use]
pub fn type_to_proto(ty: &Type) -> proto::TypeProto {
    use proto::TypeProtoValue as V;
    let inner = |ty: &Type| Some(Box::new(type_to_proto(ty)));
    let value = match ty {
        Type::Tensor(TensorType { dtype, shape }) => {
            V::TensorType(proto::TypeTensor { elem_type: Some(dtype.code()), shape: shape.as_ref().map(shape_to_proto) })
        }
        Type::Sparse(TensorType { dtype, shape }) => V::SparseTensorType(proto::TypeSparseTensor {
            elem_type: Some(dtype.code()),
            shape: shape.as_ref().map(shape_to_proto),
        }),
        Type::Sequence(ty) => V::SequenceType(Box::new(proto::TypeSequence { elem_type: inner(ty) })),
        Type::Optional(ty) => V::OptionalType(Box::new(proto::TypeOptional { elem_type: inner(ty) })),
        Type::Map(key, ty) => {
            V::MapType(Box::new(proto::TypeMap { key_type: Some(key.code()), value_type: inner(ty) }))
        }
        Type::Opaque(domain, name) => V::OpaqueType(proto::TypeOpaque {
            domain: Some(domain.as_str().to_owned()),
            name: Some(name.as_str().to_owned()),
        }),
    };
    proto::TypeProto { value: Some(value), denotation: None }
}

fn shape_to_proto(shape: &crate::Shape) -> proto::TensorShapeProto {
    let dim = |d: &Dim| proto::Dimension {
        value: match d {
            Dim::Fixed(n) => Some(proto::DimensionValue::DimValue(*n)),
            Dim::Symbol(name) => Some(proto::DimensionValue::DimParam(name.as_str().to_owned())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    proto::TensorShapeProto { dim: shape.0.iter().map(dim).collect() }
}

fn entries(pairs: &[(String, String)]) -> Vec<StringStringEntryProto> {
    let entry = |(key, value): &(String, String)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    pairs.iter().map(entry).collect()
}

fn opsets(opsets: &[Opset]) -> Vec<proto::OperatorSetIdProto> {
    opsets.iter().map(|o| proto::OperatorSetIdProto { domain: text(o.domain.as_ref()), version: o.version }).collect()
}

fn text(name: Option<&Name>) -> Option<String> {
    name.map(|name| name.as_str().to_owned())
}
