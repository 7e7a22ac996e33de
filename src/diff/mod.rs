//! What changed between two models: interface, operator sets, nodes, constants.
//!
//! Nothing is run and nothing is proved about numbers; that is what `verify` does. What does not count: the order of nodes
//! and of initializers, the field of the file that holds the elements of a tensor, and what a file says of a tensor or a
//! value beside its name and type.

mod attrs;
mod constants;
mod interface;
mod nodes;
mod pairs;
mod report;
#[cfg(test)]
mod tests;

use onnxfix_ir::Model;
use serde::Serialize;

pub use constants::{ChangedConstant, Constant, Constants, Elements, Renamed};
pub use nodes::{ChangedNode, Nodes, OneNode, Relabelled};

use crate::report::Summary;

/// Version of the JSON form; it changes when a field changes its meaning or goes.
const SCHEMA: &str = "onnxfix.diff/1";

/// What changed between two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    schema: &'static str,
    /// The models.
    pub before: Side,
    /// The models.
    pub after: Side,
    /// Whether nothing changed that counts.
    pub same: bool,
    /// What the files say about themselves: version of the format, exporter, operator sets, metadata, functions.
    pub file: Vec<Change>,
    /// Inputs: type by name, where it changed.
    pub inputs: Vec<Change>,
    /// Outputs: type by name, where it changed, and what makes them.
    pub outputs: Vec<Change>,
    /// The nodes, Constant nodes left out.
    pub nodes: Nodes,
    /// The constants: initializers and Constant nodes.
    pub constants: Constants,
}

/// One of the models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Where it was read.
    pub model: String,
    /// What it has.
    #[serde(flatten)]
    pub summary: Summary,
}

/// Something that differs; none where a model does not have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub what: String,
    /// What the first model says.
    pub before: Option<String>,
    /// What the second model says.
    pub after: Option<String>,
}

impl Change {
    /// The change of something that both models may have; none where they agree.
    fn between(
        what: impl Into<String>,
        before: Option<String>,
        after: Option<String>,
    ) -> Option<Change> {
        (before != after).then(|| Change { what: what.into(), before, after })
    }
}

/// Compares two models, each with the name that it is called by.
#[must_use]
pub fn diff(before: (&str, &Model), after: (&str, &Model)) -> Diff {
    let side = |(name, model): (&str, &Model)| Side {
        model: name.to_owned(),
        summary: Summary::of(model),
    };
    let (b, a) = (before.1, after.1);
    let (labels, mut constants) = constants::pair(b, a);
    let mut pairs = pairs::find(b, a, labels);
    let more = constants.pair_by_reader(pairs.constants());
    pairs.join_constants(&more);
    let mut diff = Diff {
        schema: SCHEMA,
        before: side(before),
        after: side(after),
        same: false,
        file: interface::file(b, a),
        inputs: interface::values(b, a, b[b.root()].inputs(), a[a.root()].inputs()),
        outputs: interface::values(b, a, b[b.root()].outputs(), a[a.root()].outputs()),
        nodes: nodes::compare(&pairs),
        constants: constants.compare(),
    };
    diff.file.extend(nodes::bodies(&pairs));
    diff.outputs.extend(nodes::outputs(&pairs));
    diff.same = diff.file.is_empty()
        && diff.inputs.is_empty()
        && diff.outputs.is_empty()
        && diff.nodes.is_same()
        && diff.constants.is_same();
    diff
}
