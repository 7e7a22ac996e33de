//! The `onnxfix` program: the only place that prints, and with `onnxfix-atc` the only one that starts processes.

pub mod bench;
pub mod classify;
pub mod cli;
pub mod diff;
pub mod pipeline;
pub mod ranges;
pub mod record;
pub mod report;
pub mod run;
pub mod source;
pub mod target;
pub mod verify;
mod whole;

/// The CPU engine.
pub use onnxfix_engine as engine;
