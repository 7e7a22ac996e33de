//! Messages in their wire form, with large tensors left where they are.
//!
//! `prost` encodes into one buffer, which would be a second copy of the weights. Here the small parts are encoded and
//! the large ones are kept as views, so a model of any size is laid out in little memory and written in one go.
//! Fields come in the order of their numbers, as every protobuf library writes them.

use std::io::{self, Write};
use std::mem::take;

use bytes::Bytes;
use prost::Message;

use crate::piece::PieceWriter;
use crate::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// From this size on a view costs less than a copy.
const LARGE: usize = 4096;

/// Encoded bytes in pieces.
#[derive(Default)]
pub(crate) struct Rope {
    parts: Vec<Bytes>,
    /// What comes after the parts.
    tail: Vec<u8>,
    len: u64,
}

impl Rope {
    /// Number of bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes all bytes to a file.
    pub(crate) fn write_to_file(&self, out: &mut PieceWriter) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| out.write_bytes(part))?;
        out.write_all(&self.tail)
    }

    /// Writes all bytes.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| out.write_all(part))?;
        out.write_all(&self.tail)
    }

    /// A model.
    pub(crate) fn model(mut model: ModelProto) -> Rope {
        let graph = model.graph.take();
        let functions = take(&mut model.functions);
        let configuration = take(&mut model.configuration);
        let after_graph = ModelProto {
            opset_import: take(&mut model.opset_import),
            metadata_props: take(&mut model.metadata_props),
            training_info: take(&mut model.training_info),
            ..ModelProto::default()
        };
        let mut rope = Rope::default();
        rope.fields(&model);
        if let Some(graph) = graph {
            rope.nested(7, Rope::graph(graph));
        }
        rope.fields(&after_graph);
        for function in functions {
            rope.nested(25, Rope::function(function));
        }
        rope.fields(&ModelProto { configuration, ..ModelProto::default() });
        rope
    }

    fn graph(mut graph: GraphProto) -> Rope {
        let mut rope = Rope::default();
        for node in take(&mut graph.node) {
            rope.node(1, node);
        }
        rope.fields(&GraphProto { name: graph.name.take(), ..GraphProto::default() });
        for tensor in take(&mut graph.initializer) {
            rope.tensor(5, tensor);
        }
        rope.fields(&graph);
        rope
    }

    fn function(mut function: FunctionProto) -> Rope {
        let mut rope = Rope::default();
        let nodes = take(&mut function.node);
        rope.fields(&FunctionProto {
            name: function.name.take(),
            input: take(&mut function.input),
            output: take(&mut function.output),
            attribute: take(&mut function.attribute),
            ..FunctionProto::default()
        });
        for node in nodes {
            rope.node(7, node);
        }
        rope.fields(&function);
        rope
    }

    fn node(&mut self, field: u32, mut node: NodeProto) {
        if !node.attribute.iter().any(is_large_attribute) {
            self.message(field, &node);
            return;
        }
        let mut rope = Rope::default();
        let attributes = take(&mut node.attribute);
        rope.fields(&NodeProto {
            input: take(&mut node.input),
            output: take(&mut node.output),
            name: node.name.take(),
            op_type: node.op_type.take(),
            ..NodeProto::default()
        });
        for attribute in attributes {
            rope.attribute(5, attribute);
        }
        rope.fields(&node);
        self.nested(field, rope);
    }

    fn attribute(&mut self, field: u32, mut attribute: AttributeProto) {
        if !is_large_attribute(&attribute) {
            self.message(field, &attribute);
            return;
        }
        // Such an attribute has a tensor or a body, and so none of the fields between those.
        let mut rope = Rope::default();
        rope.fields(&AttributeProto { name: attribute.name.take(), ..AttributeProto::default() });
        if let Some(tensor) = attribute.t.take() {
            rope.tensor(5, tensor);
        }
        if let Some(graph) = attribute.g.take() {
            rope.nested(6, Rope::graph(*graph));
        }
        for tensor in take(&mut attribute.tensors) {
            rope.tensor(10, tensor);
        }
        for graph in take(&mut attribute.graphs) {
            rope.nested(11, Rope::graph(graph));
        }
        rope.fields(&attribute);
        self.nested(field, rope);
    }

    fn tensor(&mut self, field: u32, mut tensor: TensorProto) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= LARGE) else {
            self.message(field, &tensor);
            return;
        };
        let after = TensorProto {
            double_data: take(&mut tensor.double_data),
            uint64_data: take(&mut tensor.uint64_data),
            doc_string: tensor.doc_string.take(),
            external_data: take(&mut tensor.external_data),
            data_location: tensor.data_location.take(),
            metadata_props: take(&mut tensor.metadata_props),
            ..TensorProto::default()
        };
        let mut rope = Rope::default();
        rope.fields(&tensor);
        rope.key(9, raw.len() as u64);
        rope.view(raw);
        rope.fields(&after);
        self.nested(field, rope);
    }

    /// The fields of a message, without a tag around them.
    fn fields(&mut self, message: &impl Message) {
        let before = self.tail.len();
        message.encode(&mut self.tail).expect("a vector grows as needed");
        self.len += (self.tail.len() - before) as u64;
    }

    /// A message as a field.
    fn message(&mut self, field: u32, message: &impl Message) {
        self.key(field, message.encoded_len() as u64);
        self.fields(message);
    }

    /// An encoded message as a field.
    fn nested(&mut self, field: u32, inner: Rope) {
        self.key(field, inner.len);
        for part in inner.parts {
            self.view(part);
        }
        self.tail.extend_from_slice(&inner.tail);
        self.len += inner.tail.len() as u64;
    }

    /// Tag and length of a field.
    fn key(&mut self, field: u32, len: u64) {
        let before = self.tail.len();
        prost::encoding::encode_key(
            field,
            prost::encoding::WireType::LengthDelimited,
            &mut self.tail,
        );
        prost::encoding::encode_varint(len, &mut self.tail);
        self.len += (self.tail.len() - before) as u64;
    }

    /// Bytes that are kept as they are.
    fn view(&mut self, bytes: Bytes) {
        if !self.tail.is_empty() {
            self.parts.push(take(&mut self.tail).into());
        }
        self.len += bytes.len() as u64;
        self.parts.push(bytes);
    }
}

/// Whether an attribute holds, or may hold in its nodes, a tensor that should not be copied.
fn is_large_attribute(attribute: &AttributeProto) -> bool {
    let large =
        |tensor: &TensorProto| tensor.raw_data.as_ref().is_some_and(|raw| raw.len() >= LARGE);
    attribute.t.iter().chain(&attribute.tensors).any(large)
        || attribute.g.is_some()
        || !attribute.graphs.is_empty()
}
