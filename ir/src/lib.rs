//! ONNX models in memory.
//!
//! This crate reads and writes models (protobuf, ONNX text), holds them in typed arenas with both sides of every
//! def-use edge, checks them, and knows the operators: signatures, shape inference, reference evaluation.
//! It does not rewrite models; that is what the `onnxfix-passes` crate does through the edits offered here.

mod attr;
mod edit;
pub mod id;
mod model;
mod name;
pub mod op;
pub mod proto;
mod tensor;
mod types;

pub use attr::{Attr, AttrValue, Attrs};
pub use edit::{GraphMut, NewNode, NodeMut};
pub use id::{Arena, Id, SideTable};
pub use model::{Def, Function, Graph, GraphId, Header, Model, Node, NodeId, Op, Opset, Use, Value, ValueExtra, ValueId};
pub use name::Name;
pub use tensor::{Element, External, Tensor, TensorData, TensorError, TensorExtra};
pub use types::{DataType, Dim, Shape, TensorType, Type};
