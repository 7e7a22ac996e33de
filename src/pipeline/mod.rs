//! The whole way of a model, from training to a table of accuracy and speed, told by one file.
//!
//! A stage is a list of commands: this program's own, or the Python scripts of `tools/`. A command is left out when it ran
//! before with the same arguments and the same content of what it reads; so a chain that broke goes on where it broke.

mod config;
mod report;
mod run;
mod stages;

use std::path::Path;

pub use config::{Config, ConfigError, Mode, Stage};
pub use report::{Cell, Report};
pub use run::{Chain, Ended, PipelineError};
/// Runs the chain of a file up to its end or the first command that fails, and writes the report.
///
/// `program` is this program; `again` runs everything, also what is up to date.
///
/// # Errors
/// When nothing can be written, what a stage needs cannot be read, or another chain is at work in the same folder.
pub fn pipeline(
    config: &Config,
    mode: Mode,
    program: &Path,
    again: bool,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Report> {
    run::run(config, mode, program, again, progress)
}
