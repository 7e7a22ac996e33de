//! Counts what the syntax has no words for.

use crate::proto::{TypeProto, TypeProtoValue as V};
use crate::{Attrs, GraphId, Model, Tensor, ValueExtra};

#[derive(Default)]
struct Counts {
    docs: usize,
    metadata: usize,
    quantization: usize,
    training: usize,
    devices: usize,
    denotations: usize,
}

/// What is left out of a text that can be read again, with how much of it there is.
pub(super) fn omissions(model: &Model) -> Vec<(&'static str, usize)> {
    let mut counts = Counts {
        training: model.header.training_info.len(),
        devices: model.header.configuration.len(),
        ..Counts::default()
    };
    for graph in model.graphs() {
        counts.graph(model, graph);
    }
    for (_, node) in model.all_nodes() {
        counts.text(node.doc_string.as_deref(), &node.metadata);
        counts.devices += node.device_configurations.len();
        counts.attrs(&node.attrs);
    }
    for (_, value) in model.all_values() {
        if let Some(extra) = &value.extra {
            counts.value(extra);
        }
        if let Some(tensor) = value.tensor() {
            counts.tensor(tensor);
        }
    }
    for function in &model.functions {
        counts.attrs(&function.defaults);
    }
    let all = [
        ("documentation strings", counts.docs),
        ("metadata entries", counts.metadata),
        ("quantisation annotations", counts.quantization),
        ("training graphs", counts.training),
        ("device configurations", counts.devices),
        ("types with denotations", counts.denotations),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

impl Counts {
    fn text(&mut self, doc: Option<&str>, metadata: &[(String, String)]) {
        self.docs += usize::from(doc.is_some_and(|doc| !doc.is_empty()));
        self.metadata += metadata.len();
    }

    fn graph(&mut self, model: &Model, graph: GraphId) {
        let is_function = model.functions.iter().any(|function| function.body == graph);
        let graph = &model[graph];
        // A function's documentation has its place in the function's header.
        self.text(graph.doc_string.as_deref().filter(|_| !is_function), &graph.metadata);
        self.quantization += graph.quantization.len();
    }

    fn attrs(&mut self, attrs: &Attrs) {
        for attr in &attrs.0 {
            self.text(attr.doc_string.as_deref(), &[]);
            match &attr.value {
                crate::AttrValue::Tensor(tensor) => self.tensor(tensor),
                crate::AttrValue::Tensors(tensors) => {
                    for tensor in tensors {
                        self.tensor(tensor);
                    }
                }
                _ => {}
            }
        }
    }

    fn value(&mut self, extra: &ValueExtra) {
        self.text(extra.doc_string.as_deref(), &extra.metadata);
        self.denotations += usize::from(extra.type_proto.as_ref().is_some_and(is_denoted));
    }

    fn tensor(&mut self, tensor: &Tensor) {
        if let Some(extra) = &tensor.extra {
            self.text(extra.doc_string.as_deref(), &extra.metadata);
        }
    }
}

/// Whether a type, or a part of it, says what it is meant for.
fn is_denoted(ty: &TypeProto) -> bool {
    let inner = |ty: &Option<Box<TypeProto>>| ty.as_deref().is_some_and(is_denoted);
    let shape = match &ty.value {
        Some(V::TensorType(t)) => t.shape.as_ref(),
        Some(V::SparseTensorType(t)) => t.shape.as_ref(),
        _ => None,
    };
    let within = match &ty.value {
        Some(V::SequenceType(t)) => inner(&t.elem_type),
        Some(V::OptionalType(t)) => inner(&t.elem_type),
        Some(V::MapType(t)) => inner(&t.value_type),
        _ => shape.is_some_and(|shape| shape.dim.iter().any(|dim| dim.denotation.is_some())),
    };
    ty.denotation.is_some() || within
}
