//! `onnxfix doctor`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use onnxfix_atc::Machine;
use onnxfix_atc::doctor::{Purpose, Questions, examine};

use super::Verdict;
use super::output::Output;

/// Look over driver, toolkit and chips, and say what cures what is wrong.
///
/// Nothing is changed, compiled or run. Exit code 1 says that something is in the way.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compiled models (.om) that shall run here.
    models: Vec<PathBuf>,

    /// What the machine is for [default: both].
    #[arg(long = "for", value_enum, value_name = "WHAT")]
    purpose: Option<For>,

    /// ATC, or the folder of its toolkit [default: that of the environment, of PATH, or of a usual place].
    #[arg(long, value_name = "PATH")]
    atc: Option<PathBuf>,

    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,

    /// Look at a machine whose files are below this folder.
    #[arg(long, value_name = "FOLDER", hide = true)]
    root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    /// Compiling models: a toolkit, no NPU.
    Compile,
    /// Running models: an NPU with its driver, a toolkit or a runtime.
    Run,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let this = Machine::this();
    let machine = match &args.root {
        Some(root) => Machine::below(root, this.variables().clone()),
        None => this,
    };
    let questions = Questions {
        atc: args.atc.clone(),
        purpose: args.purpose.map(|purpose| match purpose {
            For::Compile => Purpose::Compile,
            For::Run => Purpose::Run,
        }),
        models: args.models.clone(),
    };
    let found = examine(&machine, &questions);
    if args.json {
        out.json(&found)?;
    } else {
        out.result(&found.text())?;
    }
    Ok(if found.is_healthy() { Verdict::Clean } else { Verdict::Findings })
}
