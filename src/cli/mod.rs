//! The command line: one file per subcommand, each with its arguments and its `run`.

mod atc;
mod bench;
mod bisect;
mod completions;
mod diff;
mod doctor;
mod eval;
mod files;
mod inspect;
mod npu;
mod optimize;
mod output;
mod passes;
mod pipeline;
mod predict;
mod prepare;
mod print;
mod progress;
mod run;
mod shapes;
mod single;
mod texts;
mod verify;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for verify: equal; for diff: the same; for inspect: nothing that the target refuses or runs badly
  1  it ran and the answer is no: the models differ, or the target, its compiler or this machine has something against it
  2  it could not run: wrong usage, unreadable file, impossible shapes

Start with:
  onnxfix optimize model.onnx
  onnxfix verify";

/// Rewrites exported transformer models (ONNX) so that Ascend's ATC compiles them well, and proves on the CPU that the
/// numbers stay the same.
#[derive(Debug, Parser)]
#[command(name = "onnxfix", version, after_help = EXIT_CODES, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Say more on stderr (-v passes, -vv every rewrite). ONNXFIX_LOG sets a tracing filter instead.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Optimize(optimize::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Run(Box<run::Args>),
    Bench(Box<bench::Args>),
    Diff(diff::Args),
    Print(print::Args),
    Passes(passes::Args),
    Atc(Box<atc::Args>),
    Prepare(prepare::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    Pipeline(pipeline::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// What a command that ran says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done, or yes.
    Clean,
    /// No.
    Findings,
}

/// Parses the command line, runs the command, and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    onnxfix_ir::exit_on_truncation();
    tell_panics_once();
    init_log(cli.verbose);
    let out = output::Output::new(cli.quiet);
    let verdict = match cli.command {
        Command::Optimize(args) => optimize::run(&args, &out),
        Command::Verify(args) => verify::run(&args, &out),
        Command::Inspect(args) => inspect::run(&args, &out),
        Command::Run(args) => run::run(&args, &out),
        Command::Bench(args) => bench::run(&args, &out),
        Command::Diff(args) => diff::run(&args, &out),
        Command::Print(args) => print::run(&args, &out),
        Command::Passes(args) => passes::run(&args, &out),
        Command::Atc(args) => atc::run(&args, &out),
        Command::Prepare(args) => prepare::run(&args, &out),
        Command::Eval(args) => eval::run(&args, &out),
        Command::Predict(args) => predict::run(&args, &out),
        Command::Pipeline(args) => pipeline::run(&args, &out),
        Command::Doctor(args) => doctor::run(&args, &out),
        Command::Completions(args) => completions::run(&args, &out),
    };
    match verdict {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Findings) => ExitCode::from(1),
        // Whoever reads our output may stop reading, as `head` does.
        Err(err) if output::is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            out.error(&err);
            ExitCode::from(2)
        }
    }
}

/// A panic of the CPU engine becomes an error, which is told as one.
fn tell_panics_once() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !crate::engine::is_guarded() {
            usual(panic);
        }
    }));
}

/// The definition of the command line, for completions.
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn init_log(verbose: u8) {
    let default = match verbose {
        0 => "off",
        1 => "onnxfix=info,onnxfix_ir=info,onnxfix_passes=info",
        _ => "onnxfix=debug,onnxfix_ir=debug,onnxfix_passes=debug",
    };
    let filter = EnvFilter::try_from_env("ONNXFIX_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    // Only fails when a subscriber is there already, which then does the job.
    let _already_set = subscriber.try_init();
}
