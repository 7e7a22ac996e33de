//! Attributes of nodes.

use std::sync::Arc;

use bytes::Bytes;

use crate::{GraphId, Name, Tensor, proto};

/// A named attribute of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Attr {
    /// Name, unique in its node.
    pub name: Name,
    /// Value.
    pub value: AttrValue,
    /// Documentation.
    pub doc_string: Option<String>,
}

impl Attr {
    /// An attribute without documentation.
    pub fn new(name: &str, value: impl Into<AttrValue>) -> Attr {
        Attr { name: name.into(), value: value.into(), doc_string: None }
    }
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AttrValue {
    /// `f`
    Float(f32),
    /// `i`
    Int(i64),
    /// `s`: bytes, mostly UTF-8.
    String(Bytes),
    /// `t`
    Tensor(Arc<Tensor>),
    /// `g`: a body, whose nodes may read values of the graphs around it.
    Graph(GraphId),
    /// `sparse_tensor`, carried through.
    Sparse(Box<proto::SparseTensorProto>),
    /// `tp`
    Type(Box<proto::TypeProto>),
    /// `floats`
    Floats(Vec<f32>),
    /// `ints`
    Ints(Vec<i64>),
    /// `strings`
    Strings(Vec<Bytes>),
    /// `tensors`
    Tensors(Vec<Arc<Tensor>>),
    /// `graphs`
    Graphs(Vec<GraphId>),
    /// `sparse_tensors`, carried through.
    Sparses(Vec<proto::SparseTensorProto>),
    /// `type_protos`
    Types(Vec<proto::TypeProto>),
    /// `ref_attr_name`: the attribute of that name of the function around it, of this `AttributeType`.
    Ref(Name, i32),
}

impl AttrValue {
    /// Code in `AttributeProto.AttributeType`.
    #[must_use]
    pub fn type_code(&self) -> i32 {
        match self {
            AttrValue::Float(_) => 1,
            AttrValue::Int(_) => 2,
            AttrValue::String(_) => 3,
            AttrValue::Tensor(_) => 4,
            AttrValue::Graph(_) => 5,
            AttrValue::Floats(_) => 6,
            AttrValue::Ints(_) => 7,
            AttrValue::Strings(_) => 8,
            AttrValue::Tensors(_) => 9,
            AttrValue::Graphs(_) => 10,
            AttrValue::Sparse(_) => 11,
            AttrValue::Sparses(_) => 12,
            AttrValue::Type(_) => 13,
            AttrValue::Types(_) => 14,
            AttrValue::Ref(_, code) => *code,
        }
    }

    /// The bodies this attribute holds.
    #[must_use]
    pub fn graphs(&self) -> &[GraphId] {
        match self {
            AttrValue::Graph(graph) => std::slice::from_ref(graph),
            AttrValue::Graphs(graphs) => graphs,
            _ => &[],
        }
    }
}

impl From<i64> for AttrValue {
    fn from(i: i64) -> Self {
        AttrValue::Int(i)
    }
}
impl From<f32> for AttrValue {
    fn from(f: f32) -> Self {
        AttrValue::Float(f)
    }
}
impl From<&str> for AttrValue {
    fn from(s: &str) -> Self {
        AttrValue::String(Bytes::copy_from_slice(s.as_bytes()))
    }
}
impl From<Vec<i64>> for AttrValue {
    fn from(ints: Vec<i64>) -> Self {
        AttrValue::Ints(ints)
    }
}
impl From<&[i64]> for AttrValue {
    fn from(ints: &[i64]) -> Self {
        AttrValue::Ints(ints.to_vec())
    }
}
impl From<Tensor> for AttrValue {
    fn from(tensor: Tensor) -> Self {
        AttrValue::Tensor(Arc::new(tensor))
    }
}

/// Attributes of one node, in the file's order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attrs(pub Vec<Attr>);

impl Attrs {
    /// The value of the attribute with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&AttrValue> {
        self.0.iter().find(|a| a.name == *name).map(|a| &a.value)
    }

    /// Sets an attribute, in its old place if it was there.
    pub fn set(&mut self, name: &str, value: impl Into<AttrValue>) {
        match self.0.iter_mut().find(|a| a.name == *name) {
            Some(attr) => attr.value = value.into(),
            None => self.0.push(Attr::new(name, value)),
        }
    }

    /// Takes an attribute out.
    pub fn remove(&mut self, name: &str) -> Option<AttrValue> {
        let at = self.0.iter().position(|a| a.name == *name)?;
        Some(self.0.remove(at).value)
    }

    /// An integer attribute.
    #[must_use]
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            AttrValue::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A float attribute.
    #[must_use]
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name)? {
            AttrValue::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// A list of integers.
    #[must_use]
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name)? {
            AttrValue::Ints(ints) => Some(ints),
            _ => None,
        }
    }

    /// A list of floats.
    #[must_use]
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.get(name)? {
            AttrValue::Floats(floats) => Some(floats),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    #[must_use]
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            AttrValue::String(s) => std::str::from_utf8(s).ok(),
            _ => None,
        }
    }

    /// A tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Arc<Tensor>> {
        match self.get(name)? {
            AttrValue::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A body.
    #[must_use]
    pub fn graph(&self, name: &str) -> Option<GraphId> {
        match self.get(name)? {
            AttrValue::Graph(graph) => Some(*graph),
            _ => None,
        }
    }

    /// Every body, with the name of its attribute.
    pub fn graphs(&self) -> impl Iterator<Item = (&Name, GraphId)> {
        self.0.iter().flat_map(|a| a.value.graphs().iter().map(move |&g| (&a.name, g)))
    }
}

impl FromIterator<Attr> for Attrs {
    fn from_iter<I: IntoIterator<Item = Attr>>(attrs: I) -> Self {
        Attrs(attrs.into_iter().collect())
    }
}
