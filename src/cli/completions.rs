//! `onnxfix completions`

use anyhow::Result;
use clap_complete::Shell;

use super::Verdict;
use super::output::Output;

/// Print shell completions.
///
/// bash: onnxfix completions bash > ~/.local/share/bash-completion/completions/onnxfix
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "onnxfix", &mut text);
    out.result(&String::from_utf8_lossy(&text))?;
    Ok(Verdict::Clean)
}
