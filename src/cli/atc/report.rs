//! What is said of each model that was compiled, or was not.

use std::fmt::Write as _;
use std::path::PathBuf;

use onnxfix_atc::run::{Failure, Outcome};
use onnxfix_atc::{Fusion, Message, Said, Severity, codes};
use serde::Serialize;

use crate::report::bytes;

/// What came of one model.
#[derive(Debug, Serialize)]
pub(super) struct Compiled {
    /// Its name: `deberta_bs8`.
    pub(super) name: String,
    /// The file, where there is one.
    pub(super) om: Option<PathBuf>,
    /// Bytes of the file.
    pub(super) size: u64,
    /// The record beside it.
    pub(super) manifest: Option<PathBuf>,
    /// Why there is none.
    pub(super) failures: Vec<Failure>,
    /// Wall time of ATC in seconds.
    pub(super) seconds: f64,
    /// Errors, then warnings, each with its explanation.
    pub(super) messages: Vec<Said>,
    /// Fusions that ATC made.
    pub(super) fusion: Option<Fusion>,
    /// Last lines of level ERROR of ATC's log.
    pub(super) log: Vec<String>,
    /// The command, to be typed where the files are.
    pub(super) command: String,
    /// All that ATC printed, where it failed; or the work folder, where it was kept.
    pub(super) kept: Option<PathBuf>,
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of this form.
    pub(super) schema: u32,
    /// The model that all were made from.
    pub(super) source: PathBuf,
    /// The chip.
    pub(super) soc: String,
    /// The preset of precision.
    pub(super) precision: String,
    /// The compiler, with the release of its toolkit.
    pub(super) atc: PathBuf,
    /// Release of its toolkit, where it is known.
    pub(super) cann: Option<String>,
    /// Whether it said that it only simulates.
    pub(super) simulated: bool,
    /// The models, in the order in which they were asked for.
    pub(super) models: Vec<Compiled>,
}

/// Errors before warnings, with what is known of them.
pub(super) fn explained(outcome: &Outcome) -> Vec<Said> {
    let errors = outcome.of(Severity::Error);
    let all: Vec<Message> = errors.chain(outcome.of(Severity::Warning)).cloned().collect();
    explain(&all)
}

/// Messages with what is known of them.
pub(super) fn explain(messages: &[Message]) -> Vec<Said> {
    let said =
        |message: &Message| Said { message: message.clone(), explanation: codes::explain(message) };
    messages.iter().map(said).collect()
}

/// Messages for people.
pub(super) fn messages_text(messages: &[Said]) -> String {
    let mut text = String::new();
    write_all(messages, &mut |name, what| put(&mut text, name, what));
    text
}

/// Writes a line: a name, and what is said of it.
fn put(text: &mut String, name: &str, what: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "{}", format!("{name:<10} {what}").trim_end());
}

impl Report {
    /// Whether every model was compiled.
    pub(super) fn is_complete(&self) -> bool {
        self.models.iter().all(|model| model.om.is_some())
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for model in &self.models {
            model.write(&mut text, &self.soc, &self.precision);
        }
        if self.simulated {
            text += "simulated ATC: no kernel was compiled\n";
        }
        text
    }
}

impl Compiled {
    fn write(&self, text: &mut String, soc: &str, precision: &str) {
        let mut line = |name: &str, what: &str| put(text, name, what);
        if let Some(om) = &self.om {
            let (om, size) = (om.display(), bytes(self.size));
            line("compiled", &format!("{om} ({size}, {soc}, {precision}, {:.1} s)", self.seconds));
        } else {
            // What else is missing follows from how it ended, unless it says that all is well.
            let first = self.failures.first().map(ToString::to_string).unwrap_or_default();
            line("failed", &format!("{}: {first}", self.name));
        }
        if let Some(fusion) = &self.fusion
            && self.om.is_some()
        {
            let passes: Vec<String> = fusion
                .passes
                .iter()
                .filter(|pass| pass.effective > 0)
                .map(|pass| format!("{} {}", pass.effective, pass.name))
                .collect();
            let passes = if passes.is_empty() { "none".to_owned() } else { passes.join(", ") };
            line("  fusions", &passes);
        }
        write_all(&self.messages, &mut line);
        for entry in &self.log {
            line("  log", entry);
        }
        if self.om.is_none() {
            line("  command", &self.command);
        }
        if let Some(kept) = &self.kept {
            line("  kept", &kept.display().to_string());
        }
    }
}

/// Most messages of one kind that are shown.
const SHOWN: usize = 12;

/// Writes messages, those of one kind together.
fn write_all(messages: &[Said], line: &mut dyn FnMut(&str, &str)) {
    let alike =
        |a: &Said, b: &Said| a.message.code == b.message.code && a.explanation == b.explanation;
    for group in messages.chunk_by(alike) {
        write_messages(group, line);
    }
}

/// Writes messages of one code, which have one explanation.
fn write_messages(group: &[Said], line: &mut dyn FnMut(&str, &str)) {
    let Some(Said { message: Message { code, solution, .. }, explanation }) = group.first() else {
        return;
    };
    // Traces end in places of ATC's own source, which help nobody here.
    let named = |said: &Said| {
        let own = |line: &&String| !line.contains("[FUNC:");
        let more: Vec<String> = said.message.trace.iter().filter(own).cloned().collect();
        std::iter::once(said.message.text.clone()).chain(more)
    };
    let texts: Vec<String> = group.iter().flat_map(named).collect();
    for (i, text) in texts.iter().take(SHOWN).enumerate() {
        line(&if i == 0 { format!("  {code}") } else { String::new() }, text);
    }
    if texts.len() > SHOWN {
        line("", &format!("and {} more (--json has all)", texts.len() - SHOWN));
    }
    let Some(explanation) = explanation else {
        line(
            "    about",
            codes::family(code).unwrap_or("something that this program does not know"),
        );
        if let Some(solution) = solution {
            line("    cure", &format!("{solution} (ATC's own words)"));
        }
        return;
    };
    let unsure = if explanation.confirmed { "" } else { " (not confirmed)" };
    line("    means", &explanation.means);
    line("    cause", &format!("{}{unsure}", explanation.cause));
    line("    cure", &explanation.cure);
    for (name, list) in [("    passes", &explanation.passes), ("    flags", &explanation.flags)] {
        if !list.is_empty() {
            line(name, &list.join(", "));
        }
    }
}
