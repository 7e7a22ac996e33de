//! What a pass is, how it is declared, and what it works with.

use std::fmt;

use onnxfix_ir::infer::Contradiction;
use onnxfix_ir::{Model, NodeId};
use serde::Serialize;

use crate::Options;

/// A step of a pipeline.
pub trait Pass: Documented + Sync {
    /// Runs once over `model`, which is well formed before and after, not in between.
    ///
    /// # Errors
    /// When the model cannot become what the pass is for: the user has to know.
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError>;
}

/// Implemented by `declare_pass!`.
pub trait Documented {
    /// Name, group and page of the pass.
    fn info(&self) -> &'static PassInfo;
}

/// Name, group and page of a pass.
#[derive(Debug, Clone, Serialize)]
pub struct PassInfo {
    /// Verb and object, as users type it.
    pub name: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// What it does to the numbers.
    pub numerics: Numerics,
    /// The page: Markdown with a before and an after as ONNX text.
    pub doc: &'static str,
}

impl PassInfo {
    /// The first sentence of the page.
    #[must_use]
    pub fn summary(&self) -> String {
        let paragraph = self.doc.trim().split("\n\n").next().unwrap_or("");
        paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    }

    /// The graph in the fenced block under `## Before` or `## After`.
    #[must_use]
    pub fn example(&self, heading: &str) -> Option<String> {
        let section = self.doc.split(&format!("## {heading}\n")).nth(1)?;
        let block = section.split("```onnx\n").nth(1)?.split("```").next()?;
        Some(block.lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n"))
    }
}

/// The groups of passes, in pipeline order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Makes shapes and constants known.
    Specialise,
    /// Removes what has no effect.
    Eliminate,
    /// Says the same with fewer or simpler nodes.
    Simplify,
    /// Replaces an operator by simpler ones.
    Decompose,
    /// Makes one operator of several.
    Fuse,
    /// Brings the model to what the target takes.
    Legalise,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Specialise => "specialise",
            Group::Eliminate => "eliminate",
            Group::Simplify => "simplify",
            Group::Decompose => "decompose",
            Group::Fuse => "fuse",
            Group::Legalise => "legalise",
        })
    }
}

/// What a pass does to the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Numerics {
    /// The same arithmetic per element: equal bits, but for the sign of a zero.
    Exact,
    /// Within this share of an output's spread.
    Relative(f64),
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numerics::Exact => f.write_str("exact"),
            Numerics::Relative(share) => write!(f, "within {share:e} of the spread"),
        }
    }
}

/// Declares a pass: its type, its name and its page.
///
/// The page is the doc comment. Its `## Before` and `## After` are run as a test.
macro_rules! declare_pass {
    ($(#[doc = $doc:literal])* pub $ty:ident = $name:literal, $group:ident, $numerics:expr) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $ty;

        impl $crate::Documented for $ty {
            fn info(&self) -> &'static $crate::PassInfo {
                use $crate::Numerics::*;
                static INFO: $crate::PassInfo = $crate::PassInfo {
                    name: $name,
                    group: $crate::Group::$group,
                    numerics: $numerics,
                    doc: concat!($($doc, "\n"),*),
                };
                &INFO
            }
        }
    };
}

pub(crate) use declare_pass;

/// Whether a pass changed the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Changed {
    /// Nothing happened.
    No,
    /// Something happened.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Changed::Yes } else { Changed::No }
    }
}

/// What passes work with beside the model.
pub struct PassCx<'a> {
    /// What the user asked for.
    pub options: &'a Options,
    /// Whether no pass of this run has seen the model before: what the user asked for is checked once.
    pub first_sweep: bool,
    /// Whether the last passes of the pipeline run by now, and all before them found nothing more: the time for what is
    /// worth doing once.
    pub settled: bool,
    /// Whether a pass left something for the next sweep, which there has to be then.
    pub postponed: bool,
    /// Things the user should know.
    pub notes: Vec<Note>,
    /// Places that looked right but did not fire, when someone asks.
    pub misses: Vec<MissAt>,
    /// Rewrites made so far, over the whole pipeline.
    pub rewrites: u64,
    /// Bytes that folding may still add to the model.
    pub fold_budget: u64,
}

impl PassCx<'_> {
    /// Tells the user something.
    pub fn note(&mut self, pass: &'static str, text: impl Into<String>) {
        let note = Note { pass, text: text.into(), warning: false };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Takes back what a pass said in earlier sweeps; it says it again where it still holds.
    pub fn retract(&mut self, pass: &'static str) {
        self.notes.retain(|note| note.pass != pass);
    }

    /// Warns the user of something.
    pub fn warn(&mut self, pass: &'static str, text: impl Into<String>) {
        let note = Note { pass, text: text.into(), warning: true };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Notes why a pass did not fire at a node, when someone asks.
    pub fn miss(&mut self, model: &Model, pass: &'static str, node: NodeId, why: &str) {
        if self.options.why_not.as_deref() == Some(pass) {
            let found = MissAt { pass, node: place(model, node), why: why.to_owned() };
            if !self.misses.contains(&found) {
                self.misses.push(found);
            }
        }
    }

    /// Whether one more rewrite is allowed; counts it.
    pub fn spend(&mut self) -> bool {
        if self.options.max_rewrites.is_some_and(|max| self.rewrites >= max) {
            return false;
        }
        self.rewrites += 1;
        true
    }
}

/// Something the user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The pass that says it.
    pub pass: &'static str,
    /// What it says.
    pub text: String,
    /// Whether the result may not be what the user wants.
    pub warning: bool,
}

/// A place that looked right to a pass but did not fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissAt {
    /// The pass.
    pub pass: &'static str,
    /// The node where the match began.
    pub node: String,
    /// The condition that failed.
    pub why: String,
}

/// Why a pipeline stopped without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The model contradicts itself.
    #[error("the model contradicts itself")]
    Contradiction(#[from] Contradiction),
    /// Shapes that the user gave do not go with the model.
    #[error(transparent)]
    Shape(#[from] crate::ShapeError),
    /// There is no pass of that name.
    #[error("there is no pass {name:?}{}", did_you_mean(.near.as_ref()))]
    Unknown {
        /// What the user typed.
        name: String,
        /// The nearest name there is.
        near: Option<&'static str>,
    },
    /// A bug in a pass.
    #[error(
        "internal error: pass {pass} left the model invalid at {node}: {broken} (rewrite {rewrite}; \
         --max-rewrites {} stops before it, --skip-passes {pass} goes around it)", rewrite.saturating_sub(1)
    )]
    Broken {
        /// The pass.
        pass: &'static str,
        /// Number of the rewrite over the whole pipeline.
        rewrite: u64,
        /// The node it happened at.
        node: String,
        /// What is broken.
        broken: String,
    },
}

fn did_you_mean(near: Option<&&'static str>) -> String {
    match near {
        Some(near) => format!("; did you mean {near}? `onnxfix passes` lists them all"),
        None => "; `onnxfix passes` lists them all".into(),
    }
}

/// Why a rewrite did not fire.
#[derive(Debug, Clone)]
pub enum Miss {
    /// Another pattern. Nobody wants to know.
    NoMatch,
    /// The pattern is ours, but a condition fails. Shown by `--why-not`.
    Unmet(std::borrow::Cow<'static, str>),
}

/// The condition that fails, as the error of a match.
///
/// # Errors
/// Always: that is what it is for.
pub fn unmet<T>(why: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Miss> {
    Err(Miss::Unmet(why.into()))
}

/// The node's page in messages.
pub(crate) fn place(model: &Model, node: NodeId) -> String {
    if model.node(node).is_some() { model.describe(node) } else { "a removed node".into() }
}
