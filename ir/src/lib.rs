//! ONNX models in memory.
//!
//! This crate reads and writes models (protobuf, ONNX text), holds them in typed arenas with both sides of every
//! def-use edge, checks them, and knows the operators: signatures, shape inference, reference evaluation.
//! It does not rewrite models; that is what the `onnxfix-passes` crate does through the edits offered here.

mod attr;
mod build;
mod check;
mod dim;
mod edit;
mod external;
mod hash;
pub mod id;
pub mod infer;
mod load;
mod map;
mod model;
mod name;
pub mod op;
mod piece;
mod place;
pub mod proto;
mod rope;
mod sort;
mod store;
mod symbolic;
mod tensor;
pub mod text;
mod types;
mod view;
mod wire;

pub use attr::{Attr, AttrValue, Attrs};
pub use build::type_from_proto;
pub use check::{Broken, Violation, check};
pub use dim::{Dim, Expr};
pub use edit::{GraphMut, NewNode, NodeMut};
pub use external::ExternalError;
pub use hash::content_hash;
pub use id::{Arena, Id, SideTable};
pub use load::{
    LoadError, LoadOptions, LoadWarning, Loaded, from_bytes, from_proto, load, tensor_from_bytes,
};
pub use map::{Source, exit_on_truncation};
pub use model::{
    Def, Function, Graph, GraphId, Header, Model, Node, NodeId, Op, Opset, Use, Value, ValueExtra,
    ValueId,
};
pub use name::Name;
pub use place::Place;
pub use sort::{Cycle, sort};
pub use store::{
    ExternalData, StoreError, StoreOptions, Stored, store, to_proto, type_to_proto, value_to_proto,
    write_to,
};
pub use tensor::{Element, External, Tensor, TensorData, TensorError, TensorExtra};
pub use types::{DataType, Shape, TensorType, Type};
pub use view::{View, Visited, dot};
