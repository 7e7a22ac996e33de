//! What is said about a model: findings.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It compiles but runs slowly, or may give other numbers.
    Warning,
    /// ATC refuses the model, or the device cannot run it.
    Error,
}

/// Something that the target refuses, runs badly, or that is worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of finding it is: stable, for scripts.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Paths of the nodes, or names of the values, that it is about; empty where it is about the model.
    pub at: Vec<String>,
    /// What was found, in one sentence.
    pub what: String,
    /// Why that matters on the target.
    pub why: String,
    /// Where the fact comes from.
    pub source: String,
    /// Whether that source says so, or it was concluded from it.
    pub confirmed: bool,
    /// The pass that mends it.
    pub pass: Option<&'static str>,
}
