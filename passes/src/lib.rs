//! Rewrite passes over ONNX models, and the driver that runs them.
//!
//! One file per pass; [`PASSES`] is the ordered table of all of them. A pass does no input or output, prints nothing,
//! and never imports another pass. What it tells the user goes through [`PassCx`].

mod cost;
mod gelu;
mod interval;
mod key;
mod layer_norm;
mod matching;
mod opset;
mod pass;
mod passes;
mod patch;
mod pipeline;
mod retype;
mod rewrite;
mod shapes;
mod skew;
#[cfg(test)]
mod testing;
mod trace;

pub use cost::{CostModel, Storage};
pub(crate) use pass::declare_pass;
pub use pass::{
    Changed, Documented, Group, Miss, MissAt, Note, Numerics, Pass, PassCx, PassError, PassInfo,
    unmet,
};
pub(crate) use patch::replace_node;
pub use patch::{Operand, PROVENANCE, Patch, attrs};
pub use pipeline::{
    NPU_ONLY, Observer, Options, PASSES, PORTABLE_ONLY, PassStats, Pipeline, Report, Stop, find,
    run,
};
pub use rewrite::Rewrite;
pub use shapes::{DimBinding, InputShape, ShapeError, parse_dim, parse_input_shapes};
