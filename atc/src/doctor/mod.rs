//! What of driver, toolkit, library and chip is there, and whether it fits together.
//!
//! Each check asks one question of a [`Machine`] and gives findings; one that has something against the machine names its
//! cure. Nothing is changed, and no model is compiled or run.

mod device;
mod installation;
mod models;
mod python;
mod versions;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::Machine;
use crate::npu_smi;
use crate::toolkit::{self, Toolkit};

/// What a machine is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Compiling models, which needs a toolkit and no NPU.
    Compile,
    /// Running them, which needs an NPU with its driver, and a toolkit or a runtime.
    Run,
}

/// How a finding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Works, but not as well as it could, or perhaps not always.
    Warning,
    /// Does not work.
    Problem,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: stable, for scripts.
    pub check: &'static str,
    /// How it counts.
    pub status: Status,
    /// What it is about; none where it is for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// What is there, or what is wrong.
    pub what: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// Whether what is said is inferred, not from a source that says so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

/// What is asked beyond the machine itself.
#[derive(Debug, Clone, Default)]
pub struct Questions {
    /// ATC, where it is named.
    pub atc: Option<PathBuf>,
    /// What the machine is wanted for; both where it is none.
    pub purpose: Option<Purpose>,
    /// Compiled models that shall run here.
    pub models: Vec<PathBuf>,
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// Version of this form.
    pub schema: u32,
    /// Whether models can be compiled here; none where that was not asked.
    pub compile: Option<bool>,
    /// Whether models can be run here; none where that was not asked.
    pub run: Option<bool>,
    /// In the order of the checks: driver first, models last.
    pub findings: Vec<Finding>,
}

/// What checks work on.
struct Cx<'a> {
    machine: &'a Machine,
    toolkit: Option<Toolkit>,
    /// The toolkit's folder, or that of an installation that only runs models.
    home: Option<PathBuf>,
    smi: npu_smi::Info,
    in_container: bool,
    findings: Vec<Finding>,
}

/// Looks at a machine.
#[must_use]
pub fn examine(machine: &Machine, questions: &Questions) -> Examination {
    let toolkit = toolkit::find(machine, questions.atc.as_deref());
    let home = toolkit.as_ref().ok().and_then(|toolkit| toolkit.home.clone());
    let home = home.or_else(|| installation::runtime_home(machine));
    let in_container = machine.exists("/.dockerenv") || machine.exists("/run/.containerenv");
    let mut cx = Cx {
        machine,
        home,
        toolkit: None,
        smi: npu_smi::Info::default(),
        in_container,
        findings: Vec::new(),
    };
    device::check(&mut cx);
    installation::check(&mut cx, toolkit);
    python::check(&mut cx);
    models::check(&mut cx, &questions.models);

    let wanted = |purpose| questions.purpose.is_none_or(|wanted| wanted == purpose);
    cx.findings.retain(|finding| finding.purpose.is_none_or(wanted));
    let works = |purpose| {
        let against =
            |f: &Finding| f.status == Status::Problem && f.purpose.is_none_or(|p| p == purpose);
        wanted(purpose).then(|| !cx.findings.iter().any(against))
    };
    let (compile, run) = (works(Purpose::Compile), works(Purpose::Run));
    Examination { schema: 1, compile, run, findings: cx.findings }
}

impl Cx<'_> {
    fn find(
        &mut self,
        check: &'static str,
        status: Status,
        what: impl Into<String>,
    ) -> &mut Finding {
        self.findings.push(Finding {
            check,
            status,
            purpose: None,
            what: what.into(),
            cure: None,
            unconfirmed: false,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }
}

impl Finding {
    fn only_for(&mut self, purpose: Purpose) -> &mut Finding {
        self.purpose = Some(purpose);
        self
    }

    fn cured_by(&mut self, cure: impl Into<String>) -> &mut Finding {
        self.cure = Some(cure.into());
        self
    }

    fn inferred(&mut self) -> &mut Finding {
        self.unconfirmed = true;
        self
    }
}

impl Examination {
    /// Whether all that was asked for works.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.compile != Some(false) && self.run != Some(false)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let status = match finding.status {
                Status::Ok => "ok",
                Status::Note => "note",
                Status::Warning => "warning",
                Status::Problem => "problem",
            };
            let unsure = if finding.unconfirmed { " (not confirmed)" } else { "" };
            // Writing to a text does not fail.
            let _ = writeln!(text, "{status:<8} {:<12} {}{unsure}", finding.check, finding.what);
            if let Some(cure) = &finding.cure {
                let _ = writeln!(text, "{:<8} {:<12} {cure}", "", "  cure");
            }
        }
        for (name, purpose, works) in
            [("compile", Purpose::Compile, self.compile), ("run", Purpose::Run, self.run)]
        {
            let Some(works) = works else { continue };
            let against = self
                .findings
                .iter()
                .filter(|f| f.status == Status::Problem && f.purpose.is_none_or(|p| p == purpose));
            let answer = match against.count() {
                _ if works => "yes".to_owned(),
                1 => "no: 1 problem".to_owned(),
                n => format!("no: {n} problems"),
            };
            let _ = writeln!(text, "{name:<8} {answer}");
        }
        text
    }
}

#[cfg(test)]
mod tests;
