//! Why the engine cannot load or run a model.

use std::fmt;
use std::io;
use std::path::PathBuf;

use onnxfix_ir::DataType;
use tract_onnx::prelude::TractError;

/// An operator that the engine lacks, and where the model has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Domain and operator type.
    pub op: String,
    /// Name of the first node of this operator.
    pub node: String,
    /// How many nodes there are.
    pub count: usize,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (node {:?}", self.op, self.node)?;
        match self.count - 1 {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

/// Why the engine cannot load or run a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file cannot be opened.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are not a model.
    #[error("not an ONNX model: {reason}")]
    Decode {
        /// What the decoder says.
        reason: String,
    },
    /// External data of a tensor cannot be read.
    #[error("external data of tensor {tensor:?} cannot be read: {source}")]
    External {
        /// The tensor.
        tensor: String,
        /// Why.
        source: io::Error,
    },
    /// The model has operators that tract lacks.
    #[error("the CPU engine lacks {}", list(missing))]
    Operators {
        /// Each operator once.
        missing: Vec<Missing>,
    },
    /// A function of the model cannot be put in the place of its calls.
    #[error("the CPU engine cannot expand the model's function {name}: it {why}")]
    Function {
        /// Domain and name.
        name: String,
        /// What stands in the way.
        why: &'static str,
    },
    /// Something reads a value, or a caller asks for one, that nothing defines.
    #[error("nothing in the model defines the value {name:?}")]
    Undefined {
        /// The value.
        name: String,
    },
    /// An input of the model was left out.
    #[error("the model has an input {name:?}, and no shape was given for it")]
    NotFed {
        /// The input.
        name: String,
    },
    /// A shape was given for an input that the model does not have.
    #[error("the model has no input {name:?}")]
    NoSuchInput {
        /// The name.
        name: String,
    },
    /// tract has no such element type.
    #[error("the CPU engine has no elements of type {dtype}")]
    DataType {
        /// The type, in ONNX's or tract's words.
        dtype: String,
    },
    /// Dimensions of an input are no size.
    #[error("{dims:?} are no dimensions")]
    Dims {
        /// The dimensions.
        dims: Vec<i64>,
    },
    /// A run got another number of tensors than the model has inputs.
    #[error("{have} tensors for {want} inputs")]
    Count {
        /// Inputs of the model.
        want: usize,
        /// Tensors given.
        have: usize,
    },
    /// A run got a tensor that does not fit the plan.
    #[error("input {name:?} is {}{:?}, the engine was prepared for {}{:?}", have.0, have.1, want.0, want.1)]
    Feed {
        /// The input.
        name: String,
        /// Type and dimensions that the plan was made for.
        want: (DataType, Vec<i64>),
        /// Type and dimensions of the tensor.
        have: (DataType, Vec<i64>),
    },
    /// tract refused the model or failed in it.
    #[error("tract cannot {step} the model{}: {reason}", node.as_ref().map(|n| format!(" at node {n:?}")).unwrap_or_default())]
    Refused {
        /// What tract was doing.
        step: &'static str,
        /// The node, where tract's message names one.
        node: Option<String>,
        /// tract's message and its causes.
        reason: String,
    },
    /// An assertion in tract failed.
    #[error("tract failed: {message}")]
    Panic {
        /// What the assertion said.
        message: String,
    },
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl EngineError {
    pub(super) fn refused(step: &'static str, error: &TractError) -> EngineError {
        // tract prints whole nodes, tensors included, into its messages.
        const LIMIT: usize = 160;
        let parts: Vec<String> = error
            .chain()
            .map(|cause| {
                let text = cause.to_string();
                let line = text.lines().next().unwrap_or_default();
                match line.char_indices().nth(LIMIT) {
                    Some((end, _)) => format!("{}…", &line[..end]),
                    None => line.to_owned(),
                }
            })
            .collect();
        // The innermost message that names a node is the most precise one.
        let node = error.chain().filter_map(|cause| node_in(&cause.to_string())).last();
        EngineError::Refused { step, node, reason: parts.join(": ") }
    }
}

/// Finds the name in tract's way to write a node: `#12 "name" Operator`.
fn node_in(text: &str) -> Option<String> {
    text.match_indices('#').find_map(|(at, _)| {
        let rest = text[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit());
        let name = rest.strip_prefix(" \"")?;
        Some(name[..name.find('"')?].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::node_in;

    #[test]
    fn finds_the_node_in_a_message() {
        assert_eq!(node_in(r#"Evaluating #7 "/layer.0/Add" Add"#).as_deref(), Some("/layer.0/Add"));
        assert_eq!(node_in("rank #2 mismatch").as_deref(), None);
    }
}
