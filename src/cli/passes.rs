//! `onnxfix passes`

use std::fmt::Write as _;

use anyhow::Result;
use onnxfix_passes::{PASSES, PassInfo, find};
use serde::Serialize;

use super::Verdict;
use super::output::Output;
use crate::target::Target;

/// List the passes, or show one pass's page.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the page of this pass: what it does, why, when, with an example.
    #[arg(long, value_name = "PASS")]
    explain: Option<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    info: &'static PassInfo,
    summary: String,
    targets: Vec<&'static str>,
}

impl Entry {
    fn new(info: &'static PassInfo) -> Entry {
        let targets =
            [Target::Ascend310P3, Target::Portable].into_iter().filter(|t| t.uses(info.name));
        Entry { info, summary: info.summary(), targets: targets.map(Target::name).collect() }
    }
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Verdict> {
    if let Some(name) = &args.explain {
        let entry = Entry::new(find(name)?.info());
        if args.json {
            out.json(&entry)?;
        } else {
            out.result(&page(&entry))?;
        }
        return Ok(Verdict::Clean);
    }
    let entries: Vec<Entry> = PASSES.iter().map(|p| Entry::new(p.info())).collect();
    if args.json {
        out.json(&entries)?;
        return Ok(Verdict::Clean);
    }
    let width = entries.iter().map(|e| e.info.name.len()).max().unwrap_or(0);
    // Writing to a String cannot fail.
    let mut text = String::new();
    let mut group = None;
    for entry in &entries {
        if group != Some(entry.info.group) {
            group = Some(entry.info.group);
            let _ok = writeln!(text, "{}", entry.info.group);
        }
        let only = if entry.targets.len() == 1 {
            format!(" [{} only]", entry.targets[0])
        } else {
            String::new()
        };
        let _ok = writeln!(text, "  {:width$}  {}{only}", entry.info.name, entry.summary);
    }
    out.result(&text)?;
    Ok(Verdict::Clean)
}

fn page(entry: &Entry) -> String {
    let doc: Vec<&str> = entry.info.doc.lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
    format!(
        "# {}\n\n{}\n\nGroup: {}. Numerics: {}. Targets: {}.\n",
        entry.info.name,
        doc.join("\n").trim(),
        entry.info.group,
        entry.info.numerics,
        entry.targets.join(", ")
    )
}
