//! What the text says, before names are resolved: a name may be read before it is defined.

use crate::{AttrValue, Name, Opset, Tensor, Type};

/// A name and its place in the text.
#[derive(Debug)]
pub(super) struct Ident {
    pub(super) name: Name,
    pub(super) at: usize,
}

/// A value where it is declared: an input, an output, an entry of `value_info`, an initializer when it has data.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) ty: Option<Type>,
    pub(super) name: Ident,
    pub(super) data: Option<Tensor>,
}

#[derive(Debug)]
pub(super) struct GraphText {
    pub(super) name: Name,
    pub(super) inputs: Vec<Declared>,
    pub(super) outputs: Vec<Declared>,
    /// Entries of `value_info` and initializers.
    pub(super) others: Vec<Declared>,
    pub(super) nodes: Vec<NodeText>,
}

#[derive(Debug)]
pub(super) struct NodeText {
    pub(super) name: Option<Name>,
    pub(super) outputs: Vec<Ident>,
    pub(super) domain: Option<Name>,
    pub(super) op: Name,
    pub(super) overload: Option<Name>,
    pub(super) attrs: Vec<AttrText>,
    pub(super) inputs: Vec<Ident>,
}

#[derive(Debug)]
pub(super) struct AttrText {
    pub(super) name: Name,
    pub(super) value: AttrValueText,
}

/// An attribute's value: bodies become graphs of the model only with the node.
#[derive(Debug)]
pub(super) enum AttrValueText {
    Plain(AttrValue),
    Graph(Box<GraphText>),
    Graphs(Vec<GraphText>),
}

#[derive(Debug, Default)]
pub(super) struct HeaderText {
    pub(super) header: crate::Header,
    pub(super) overload: Option<Name>,
    pub(super) opsets: Vec<Opset>,
}

#[derive(Debug)]
pub(super) struct FunctionText {
    pub(super) header: HeaderText,
    pub(super) attributes: Vec<Name>,
    pub(super) defaults: Vec<AttrText>,
    /// Name, inputs, outputs and nodes.
    pub(super) graph: GraphText,
}
