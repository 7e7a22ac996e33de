//! The messages of `onnx.proto`, declared by hand: field numbers and types are facts of the format.
//!
//! A test compares every message, field number, type and label with the descriptor of the `onnx` package.

use bytes::Bytes;
/// `AttributeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeProto {
    /// `name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `ref_attr_name`, field 21.
    #[prost(string, optional, tag = "21")]
    pub ref_attr_name: Option<String>,
    /// `doc_string`, field 13.
    #[prost(string, optional, tag = "13")]
    pub doc_string: Option<String>,
    /// `type`, field 20.
    #[prost(int32, optional, tag = "20")]
    pub r#type: Option<i32>,
    /// `f`, field 2.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// `i`, field 3.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// `s`, field 4.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// `t`, field 5.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// `g`, field 6.
    #[prost(message, optional, boxed, tag = "6")]
    pub g: Option<Box<GraphProto>>,
    /// `sparse_tensor`, field 22.
    #[prost(message, optional, tag = "22")]
    pub sparse_tensor: Option<SparseTensorProto>,
    /// `tp`, field 14.
    #[prost(message, optional, boxed, tag = "14")]
    pub tp: Option<Box<TypeProto>>,
    /// `floats`, field 7.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// `ints`, field 8.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// `strings`, field 9.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// `tensors`, field 10.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// `graphs`, field 11.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    /// `sparse_tensors`, field 23.
    #[prost(message, repeated, tag = "23")]
    pub sparse_tensors: Vec<SparseTensorProto>,
    /// `type_protos`, field 15.
    #[prost(message, repeated, tag = "15")]
    pub type_protos: Vec<TypeProto>,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfoProto {
    /// `name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `type`, field 2.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
    /// `doc_string`, field 3.
    #[prost(string, optional, tag = "3")]
    pub doc_string: Option<String>,
    /// `metadata_props`, field 4.
    #[prost(message, repeated, tag = "4")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeProto {
    /// `input`, field 1.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// `output`, field 2.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// `name`, field 3.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// `op_type`, field 4.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// `domain`, field 7.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
    /// `overload`, field 8.
    #[prost(string, optional, tag = "8")]
    pub overload: Option<String>,
    /// `attribute`, field 5.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// `doc_string`, field 6.
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    /// `metadata_props`, field 9.
    #[prost(message, repeated, tag = "9")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// `device_configurations`, field 10.
    #[prost(message, repeated, tag = "10")]
    pub device_configurations: Vec<NodeDeviceConfigurationProto>,
}

/// `IntIntListEntryProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IntIntListEntryProto {
    /// `key`, field 1.
    #[prost(int64, optional, tag = "1")]
    pub key: Option<i64>,
    /// `value`, field 2.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub value: Vec<i64>,
}

/// `NodeDeviceConfigurationProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeDeviceConfigurationProto {
    /// `configuration_id`, field 1.
    #[prost(string, optional, tag = "1")]
    pub configuration_id: Option<String>,
    /// `sharding_spec`, field 2.
    #[prost(message, repeated, tag = "2")]
    pub sharding_spec: Vec<ShardingSpecProto>,
    /// `pipeline_stage`, field 3.
    #[prost(int32, optional, tag = "3")]
    pub pipeline_stage: Option<i32>,
}

/// `ShardingSpecProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardingSpecProto {
    /// `tensor_name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub tensor_name: Option<String>,
    /// `device`, field 2.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub device: Vec<i64>,
    /// `index_to_device_group_map`, field 3.
    #[prost(message, repeated, tag = "3")]
    pub index_to_device_group_map: Vec<IntIntListEntryProto>,
    /// `sharded_dim`, field 4.
    #[prost(message, repeated, tag = "4")]
    pub sharded_dim: Vec<ShardedDimProto>,
}

/// `ShardedDimProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardedDimProto {
    /// `axis`, field 1.
    #[prost(int64, optional, tag = "1")]
    pub axis: Option<i64>,
    /// `simple_sharding`, field 2.
    #[prost(message, repeated, tag = "2")]
    pub simple_sharding: Vec<SimpleShardedDimProto>,
}

/// `SimpleShardedDimProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SimpleShardedDimProto {
    /// Which kind it is.
    #[prost(oneof = "SimpleShardedDimProtoDim", tags = "1, 2")]
    pub dim: Option<SimpleShardedDimProtoDim>,
    /// `num_shards`, field 3.
    #[prost(int64, optional, tag = "3")]
    pub num_shards: Option<i64>,
}

/// `SimpleShardedDimProto.dim`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum SimpleShardedDimProtoDim {
    /// `dim_value`, field 1.
    #[prost(int64, tag = "1")]
    DimValue(i64),
    /// `dim_param`, field 2.
    #[prost(string, tag = "2")]
    DimParam(String),
}

/// `TrainingInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrainingInfoProto {
    /// `initialization`, field 1.
    #[prost(message, optional, tag = "1")]
    pub initialization: Option<GraphProto>,
    /// `algorithm`, field 2.
    #[prost(message, optional, tag = "2")]
    pub algorithm: Option<GraphProto>,
    /// `initialization_binding`, field 3.
    #[prost(message, repeated, tag = "3")]
    pub initialization_binding: Vec<StringStringEntryProto>,
    /// `update_binding`, field 4.
    #[prost(message, repeated, tag = "4")]
    pub update_binding: Vec<StringStringEntryProto>,
}

/// `ModelProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelProto {
    /// `ir_version`, field 1.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// `opset_import`, field 8.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// `producer_name`, field 2.
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    /// `producer_version`, field 3.
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    /// `domain`, field 4.
    #[prost(string, optional, tag = "4")]
    pub domain: Option<String>,
    /// `model_version`, field 5.
    #[prost(int64, optional, tag = "5")]
    pub model_version: Option<i64>,
    /// `doc_string`, field 6.
    #[prost(string, optional, tag = "6")]
    pub doc_string: Option<String>,
    /// `graph`, field 7.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// `metadata_props`, field 14.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// `training_info`, field 20.
    #[prost(message, repeated, tag = "20")]
    pub training_info: Vec<TrainingInfoProto>,
    /// `functions`, field 25.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
    /// `configuration`, field 26.
    #[prost(message, repeated, tag = "26")]
    pub configuration: Vec<DeviceConfigurationProto>,
}

/// `DeviceConfigurationProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceConfigurationProto {
    /// `name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `num_devices`, field 2.
    #[prost(int32, optional, tag = "2")]
    pub num_devices: Option<i32>,
    /// `device`, field 3.
    #[prost(string, repeated, tag = "3")]
    pub device: Vec<String>,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringStringEntryProto {
    /// `key`, field 1.
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    /// `value`, field 2.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// `TensorAnnotation`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorAnnotation {
    /// `tensor_name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub tensor_name: Option<String>,
    /// `quant_parameter_tensor_names`, field 2.
    #[prost(message, repeated, tag = "2")]
    pub quant_parameter_tensor_names: Vec<StringStringEntryProto>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphProto {
    /// `node`, field 1.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// `name`, field 2.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// `initializer`, field 5.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// `sparse_initializer`, field 15.
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensorProto>,
    /// `doc_string`, field 10.
    #[prost(string, optional, tag = "10")]
    pub doc_string: Option<String>,
    /// `input`, field 11.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// `output`, field 12.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// `value_info`, field 13.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// `quantization_annotation`, field 14.
    #[prost(message, repeated, tag = "14")]
    pub quantization_annotation: Vec<TensorAnnotation>,
    /// `metadata_props`, field 16.
    #[prost(message, repeated, tag = "16")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// `TensorProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorProto {
    /// `dims`, field 1.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// `data_type`, field 2.
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    /// `segment`, field 3.
    #[prost(message, optional, tag = "3")]
    pub segment: Option<Segment>,
    /// `float_data`, field 4.
    #[prost(float, repeated, packed = "true", tag = "4")]
    pub float_data: Vec<f32>,
    /// `int32_data`, field 5.
    #[prost(int32, repeated, packed = "true", tag = "5")]
    pub int32_data: Vec<i32>,
    /// `string_data`, field 6.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    /// `int64_data`, field 7.
    #[prost(int64, repeated, packed = "true", tag = "7")]
    pub int64_data: Vec<i64>,
    /// `name`, field 8.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// `doc_string`, field 12.
    #[prost(string, optional, tag = "12")]
    pub doc_string: Option<String>,
    /// `raw_data`, field 9.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    /// `external_data`, field 13.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// `data_location`, field 14.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
    /// `double_data`, field 10.
    #[prost(double, repeated, packed = "true", tag = "10")]
    pub double_data: Vec<f64>,
    /// `uint64_data`, field 11.
    #[prost(uint64, repeated, packed = "true", tag = "11")]
    pub uint64_data: Vec<u64>,
    /// `metadata_props`, field 16.
    #[prost(message, repeated, tag = "16")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// `TensorProto.Segment`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Segment {
    /// `begin`, field 1.
    #[prost(int64, optional, tag = "1")]
    pub begin: Option<i64>,
    /// `end`, field 2.
    #[prost(int64, optional, tag = "2")]
    pub end: Option<i64>,
}

/// `SparseTensorProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseTensorProto {
    /// `values`, field 1.
    #[prost(message, optional, tag = "1")]
    pub values: Option<TensorProto>,
    /// `indices`, field 2.
    #[prost(message, optional, tag = "2")]
    pub indices: Option<TensorProto>,
    /// `dims`, field 3.
    #[prost(int64, repeated, packed = "false", tag = "3")]
    pub dims: Vec<i64>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// `dim`, field 1.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// Which kind it is.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
    /// `denotation`, field 3.
    #[prost(string, optional, tag = "3")]
    pub denotation: Option<String>,
}

/// `TensorShapeProto.Dimension.value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// `dim_value`, field 1.
    #[prost(int64, tag = "1")]
    DimValue(i64),
    /// `dim_param`, field 2.
    #[prost(string, tag = "2")]
    DimParam(String),
}

/// `TypeProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// Which kind it is.
    #[prost(oneof = "TypeProtoValue", tags = "1, 4, 5, 7, 8, 9")]
    pub value: Option<TypeProtoValue>,
    /// `denotation`, field 6.
    #[prost(string, optional, tag = "6")]
    pub denotation: Option<String>,
}

/// `TypeProto.value`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum TypeProtoValue {
    /// `tensor_type`, field 1.
    #[prost(message, tag = "1")]
    TensorType(TypeTensor),
    /// `sequence_type`, field 4.
    #[prost(message, boxed, tag = "4")]
    SequenceType(Box<TypeSequence>),
    /// `map_type`, field 5.
    #[prost(message, boxed, tag = "5")]
    MapType(Box<TypeMap>),
    /// `opaque_type`, field 7.
    #[prost(message, tag = "7")]
    OpaqueType(TypeOpaque),
    /// `sparse_tensor_type`, field 8.
    #[prost(message, tag = "8")]
    SparseTensorType(TypeSparseTensor),
    /// `optional_type`, field 9.
    #[prost(message, boxed, tag = "9")]
    OptionalType(Box<TypeOptional>),
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeTensor {
    /// `elem_type`, field 1.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// `shape`, field 2.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// `TypeProto.Sequence`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeSequence {
    /// `elem_type`, field 1.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// `TypeProto.Map`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeMap {
    /// `key_type`, field 1.
    #[prost(int32, optional, tag = "1")]
    pub key_type: Option<i32>,
    /// `value_type`, field 2.
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<TypeProto>>,
}

/// `TypeProto.Optional`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeOptional {
    /// `elem_type`, field 1.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// `TypeProto.SparseTensor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeSparseTensor {
    /// `elem_type`, field 1.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// `shape`, field 2.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// `TypeProto.Opaque`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeOpaque {
    /// `domain`, field 1.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// `name`, field 2.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSetIdProto {
    /// `domain`, field 1.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// `version`, field 2.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// `FunctionProto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FunctionProto {
    /// `name`, field 1.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// `input`, field 4.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// `output`, field 5.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// `attribute`, field 6.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    /// `attribute_proto`, field 11.
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    /// `node`, field 7.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    /// `doc_string`, field 8.
    #[prost(string, optional, tag = "8")]
    pub doc_string: Option<String>,
    /// `opset_import`, field 9.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// `domain`, field 10.
    #[prost(string, optional, tag = "10")]
    pub domain: Option<String>,
    /// `overload`, field 13.
    #[prost(string, optional, tag = "13")]
    pub overload: Option<String>,
    /// `value_info`, field 12.
    #[prost(message, repeated, tag = "12")]
    pub value_info: Vec<ValueInfoProto>,
    /// `metadata_props`, field 14.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}
