//! Inputs and outputs: what callers of a model rely on.

use onnxfix_ir::{DataType, Model, Tensor, ValueId};
use serde::Serialize;

use super::roles;

/// A difference that callers would notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Change {
    /// The inputs have other names or another order.
    Inputs {
        /// Names in the source.
        before: Vec<String>,
        /// Names in the optimized model.
        after: Vec<String>,
    },
    /// The outputs have other names or another order.
    Outputs {
        /// Names in the source.
        before: Vec<String>,
        /// Names in the optimized model.
        after: Vec<String>,
    },
    /// An input or output has another element type.
    DataType {
        /// Input or output.
        name: String,
        /// Type in the source.
        before: String,
        /// Type in the optimized model.
        after: String,
    },
    /// An input or output has other dimensions.
    Shape {
        /// Input or output.
        name: String,
        /// Dimensions in the source.
        before: String,
        /// Dimensions in the optimized model.
        after: String,
    },
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::Inputs { before, after } => {
                write!(f, "the inputs were {} and are {}", before.join(", "), after.join(", "))
            }
            Change::Outputs { before, after } => {
                write!(f, "the outputs were {} and are {}", before.join(", "), after.join(", "))
            }
            Change::DataType { name, before, after } | Change::Shape { name, before, after } => {
                write!(f, "{name:?} was {before} and is {after}")
            }
        }
    }
}

/// Names of the outputs.
pub(super) fn outputs(model: &Model) -> Vec<String> {
    model[model.root()].outputs().iter().map(|&v| model[v].name().to_string()).collect()
}

/// The inputs of both models, pair by pair, when they have the same names in the same order.
pub(super) fn same_inputs(before: &Model, after: &Model) -> Option<Vec<(ValueId, ValueId)>> {
    let (b, a) = (roles::inputs(before), roles::inputs(after));
    let same =
        b.len() == a.len() && b.iter().zip(&a).all(|(&b, &a)| before[b].name() == after[a].name());
    same.then(|| b.into_iter().zip(a).collect())
}

/// Compares what both models declare.
pub(super) fn compare(before: &Model, after: &Model) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(pairs) = same_inputs(before, after) {
        for (b, a) in pairs {
            let narrowed = |b: DataType, a: DataType| b == a || (b.is_integer() && a.is_integer());
            changes.extend(declared(before, b, after, a, narrowed));
        }
    } else {
        let names =
            |m: &Model| roles::inputs(m).into_iter().map(|v| m[v].name().to_string()).collect();
        changes.push(Change::Inputs { before: names(before), after: names(after) });
    }
    let (b, a) = (outputs(before), outputs(after));
    if b == a {
        let pairs = before[before.root()].outputs().iter().zip(after[after.root()].outputs());
        changes.extend(pairs.flat_map(|(&b, &a)| declared(before, b, after, a, |b, a| b == a)));
    } else {
        changes.push(Change::Outputs { before: b, after: a });
    }
    changes
}

/// Types that a value is declared with; what a model does not declare is compared once it has run.
fn declared(
    before: &Model,
    b: ValueId,
    after: &Model,
    a: ValueId,
    same: impl Fn(DataType, DataType) -> bool,
) -> Vec<Change> {
    let (before, after) = (&before[b], &after[a]);
    let name = || before.name().to_string();
    let mut changes = Vec::new();
    if let (Some(b), Some(a)) = (before.dtype(), after.dtype())
        && !same(b, a)
    {
        changes.push(Change::DataType {
            name: name(),
            before: b.to_string(),
            after: a.to_string(),
        });
    }
    if let (Some(b), Some(a)) = (before.shape(), after.shape())
        && b.rank() != a.rank()
    {
        changes.push(Change::Shape { name: name(), before: b.to_string(), after: a.to_string() });
    }
    changes
}

/// Compares the types of an output that both models have computed.
pub(super) fn result(name: &str, before: &Tensor, after: &Tensor) -> Option<Change> {
    let name = name.to_owned();
    if before.dtype != after.dtype {
        return Some(Change::DataType {
            name,
            before: before.dtype.to_string(),
            after: after.dtype.to_string(),
        });
    }
    let shown = |t: &Tensor| format!("{:?}", t.dims);
    (before.dims != after.dims).then(|| Change::Shape {
        name,
        before: shown(before),
        after: shown(after),
    })
}
