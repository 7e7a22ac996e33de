//! How long a model will take on a chip: a prediction from published figures, per node.

use serde::Serialize;

/// Microseconds, with the interval that the model of the costs claims.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Interval {
    /// Hardly less than this.
    pub low: f64,
    /// The best guess.
    pub likely: f64,
    /// Hardly more than this.
    pub high: f64,
}

/// Which part of the chip runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Matrix products.
    Cube,
    /// Element-wise work, reductions, moves.
    Vector,
    /// One element after the other on an AI Core.
    Scalar,
    /// The processors beside the AI Cores.
    AiCpu,
    /// Nothing to do at run time.
    None,
}

/// The predicted time of one node, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeCost {
    /// Path of the node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Which layer of the encoder it belongs to, from 0; none before the first and behind the last.
    pub layer: Option<usize>,
    /// What runs it.
    pub unit: Unit,
    /// Computing.
    pub compute: f64,
    /// Moving bytes.
    pub memory: f64,
    /// Starting it.
    pub overhead: f64,
    /// All of it.
    pub total: f64,
}

/// The predicted time of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The chip.
    pub soc: String,
    /// Samples in a batch.
    pub batch: u64,
    /// One run of the model.
    pub time: Interval,
    /// Samples per second.
    pub fps: Interval,
    /// Every node, in the order of the graph.
    pub nodes: Vec<NodeCost>,
    /// What the prediction takes for granted.
    pub assumptions: Vec<String>,
}
