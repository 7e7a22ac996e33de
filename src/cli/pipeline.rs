//! `onnxfix pipeline`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Verdict;
use super::output::Output;
use super::progress::Progress;
use crate::pipeline::{Config, Mode, Stage, pipeline};

/// Run the whole way of a model as a file tells it: train, export, optimize, verify, prepare, atc, run, eval, predict, bench.
///
/// Every stage may be left out. A stage that ran before with the same arguments on the same content is up to date and does
/// not run again, so a chain that broke goes on where it broke. The folder `work` of the file gets logs, one for each
/// command, results.log, and a report (JSON and HTML) with accuracy and frames per second, published and ours. Examples are
/// examples/convbert_sst2.toml and examples/deberta_mnli.toml.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "the text of --help is no Markdown")]
pub(crate) struct Args {
    /// The file.
    file: PathBuf,

    /// How much, in place of what the file says: a few steps and samples, no training, or all.
    #[arg(long, value_name = "MODE", value_parser = mode())]
    mode: Option<Mode>,

    /// Only these stages, in place of those of the file.
    #[arg(long, value_name = "STAGE,STAGE", value_delimiter = ',', value_parser = stage())]
    stages: Vec<Stage>,

    /// In place of what the file says: batches=[1,8], data=FOLDER, args.atc=[...]. Paths are relative to the file. May be
    /// repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Run also what is up to date.
    #[arg(long)]
    again: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn mode() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).map(|name| {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        // The names are all there are.
        found.unwrap_or(Mode::WholeInfer)
    })
}

fn stage() -> impl TypedValueParser<Value = Stage> {
    PossibleValuesParser::new(Stage::ALL.map(Stage::name)).map(|name| {
        let found = Stage::ALL.into_iter().find(|stage| stage.name() == name);
        // The names are all there are.
        found.unwrap_or(Stage::Eval)
    })
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    let mut settings = args.settings.clone();
    if !args.stages.is_empty() {
        let names: Vec<String> =
            args.stages.iter().map(|stage| format!("{:?}", stage.name())).collect();
        settings.push(format!("stages=[{}]", names.join(",")));
    }
    let config = Config::open(&args.file, &settings).context("pipeline")?;
    let mode = args.mode.unwrap_or(config.mode);
    let program = std::env::current_exe().context("find this program")?;
    let report = {
        let progress = Progress::start(out, "pipeline");
        pipeline(&config, mode, &program, args.again, &|step| progress.step(step))
            .context("pipeline")?
    };
    if args.json {
        out.json(&report)?;
    } else {
        out.result(&report.text())?;
    }
    Ok(if report.is_done() { Verdict::Clean } else { Verdict::Findings })
}
