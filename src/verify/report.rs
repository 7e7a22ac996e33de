//! The result of a comparison, for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::bisect::Bisection;
use super::compare::Output;
use super::half::Half;
use super::interface::Change;
use super::layers::{FirstDifference, Layers};
use super::points::Points;
use super::roles::Input;
use super::samples::{self, Kind, Sample};
use super::weights::Weights;
use super::{Subject, TARGET};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The source.
    pub before: String,
    /// The optimized model.
    pub after: String,
    /// The target that the optimized model says it was made for.
    pub target: Option<String>,
    /// Whether results that somebody else produced stand in the place of the source.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub results: bool,
    /// Whether the models are equal in everything that was compared.
    pub equal: bool,
    /// What callers would notice.
    pub interface: Vec<Change>,
    /// The constants.
    pub weights: Weights,
    /// What the inputs are, and how much of it the samples exercised.
    pub inputs: Vec<Coverage>,
    /// What was run; nothing when the inputs differ.
    pub runs: Option<Runs>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// The optimized model in 16-bit floats, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<Half>,
    /// Values along the way, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Numbers of single samples, of every output.
    pub points: Vec<Points>,
    /// The rewrite that makes an output differ, if it was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bisection: Option<Bisection>,
    /// The first value that differs, when an output does.
    pub first_difference: Option<FirstDifference>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Runs {
    /// Number of runs.
    pub count: usize,
    /// Number of sequences in all runs.
    pub sequences: usize,
    /// Positions of a sequence.
    pub length: usize,
    /// Sequences that are padded, on the right and on the left.
    pub padded: (usize, usize),
    /// Sequences of a single token.
    pub single: usize,
    /// Sequences that are nothing but padding.
    pub empty: usize,
    /// Seed of the samples; none where they were given.
    pub seed: Option<u64>,
}

impl Runs {
    pub(super) fn new(
        samples: &[Sample],
        inputs: &[Input],
        dims: &[Vec<i64>],
        seed: Option<u64>,
    ) -> Runs {
        let rows = || samples.iter().flat_map(|s| &s.rows);
        let count = |kind| rows().filter(|r| r.kind == kind).count();
        Runs {
            count: samples.len(),
            sequences: rows().count(),
            length: samples::extent(inputs, dims).1,
            padded: (count(Kind::Right), count(Kind::Left)),
            single: count(Kind::One),
            empty: count(Kind::Padding),
            seed,
        }
    }
}

/// An input and how much of its range was exercised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coverage {
    /// Name of the input.
    pub name: String,
    /// Element type in the source.
    pub before: String,
    /// Element type in the optimized model.
    pub after: String,
    /// Dimensions that were run.
    pub dims: Vec<i64>,
    /// What the input is.
    #[serde(flatten)]
    pub meaning: Meaning,
}

/// What an input is, by what the model does with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Meaning {
    /// It indexes tables.
    Ids {
        /// Rows of the smallest table.
        rows: u64,
        /// Different rows that the samples read.
        read: u64,
        /// Whether every row of every table was compared by content as well.
        compared: bool,
        /// The tables.
        tables: Vec<String>,
    },
    /// It says where padding is.
    Mask {
        /// Different patterns among the samples.
        patterns: usize,
    },
    /// It is added to the scores, and says so where padding is.
    Bias {
        /// Different patterns among the samples.
        patterns: usize,
    },
    /// Integers or bools of unknown meaning.
    Flags,
    /// Numbers.
    Data,
}

impl Report {
    pub(super) fn new(before: &Subject, after: &Subject) -> Report {
        let target = after.model.header.metadata.iter().find(|(key, _)| key == TARGET);
        Report {
            before: before.name.clone(),
            after: after.name.clone(),
            target: target.map(|(_, target)| target.clone()),
            results: false,
            equal: false,
            interface: Vec::new(),
            weights: Weights::default(),
            inputs: Vec::new(),
            runs: None,
            outputs: Vec::new(),
            half: None,
            layers: None,
            points: Vec::new(),
            bisection: None,
            first_difference: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, note: Option<String>) {
        self.notes.extend(note.filter(|n| !self.notes.contains(n)));
    }

    /// Draws the conclusion.
    pub(super) fn finish(mut self) -> Report {
        self.equal = self.interface.is_empty()
            && self.weights.changed.is_empty()
            && !self.outputs.is_empty()
            && self.outputs.iter().all(|o| o.equal)
            && self.half.as_ref().is_none_or(|half| half.clean);
        self
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let verdict = if self.equal { "equal" } else { "DIFFERENT" };
        line(&mut text, verdict, &format!("{} and {}", self.after, self.before));
        for change in &self.interface {
            line(&mut text, "interface", &change.to_string());
        }
        if !self.results {
            self.weights_text(&mut text);
        }
        for input in &self.inputs {
            line(&mut text, "input", &input.to_string());
        }
        if let Some(runs) = &self.runs {
            line(&mut text, "runs", &runs.to_string());
        }
        for output in &self.outputs {
            output_text(&mut text, "output", output);
        }
        for points in self.points.iter().filter(|points| !self.is_equal(&points.output)) {
            let worst: Vec<String> =
                points.worst.iter().take(WORST).map(ToString::to_string).collect();
            line(
                &mut text,
                "worst",
                &format!("samples of {}: {}", points.output, worst.join("; ")),
            );
        }
        if let Some(half) = &self.half {
            for output in &half.outputs {
                output_text(&mut text, "in float16", output);
            }
            half.text(&mut text);
        }
        if let Some(layers) = &self.layers {
            text += &layers.text();
        }
        if let Some(first) = &self.first_difference {
            line(&mut text, "first", &first.to_string());
        }
        if let Some(found) = &self.bisection {
            text += &found.text();
        }
        for note in &self.notes {
            line(&mut text, "note", note);
        }
        text
    }

    fn is_equal(&self, output: &str) -> bool {
        self.outputs.iter().filter(|o| o.name == output).all(|o| o.equal)
    }

    fn weights_text(&self, text: &mut String) {
        const SHOWN: usize = 10;
        let Weights { unchanged, unchanged_bytes, made, recomputed, gone, unmarked, changed } =
            &self.weights;
        let mut parts =
            vec![format!("{unchanged} unchanged bit for bit ({})", size(*unchanged_bytes))];
        if *made > 0 {
            let whose = if *unmarked { "new" } else { "made by passes" };
            parts.push(format!("{made} {whose}, {recomputed} of them recomputed from the source"));
        }
        if *gone > 0 {
            parts.push(format!("{gone} gone"));
        }
        line(text, "weights", &parts.join("; "));
        if *unmarked && *made > 0 {
            line(
                text,
                "",
                "no node says which pass made it, so nothing says which constants may be new",
            );
        }
        for changed in changed.iter().take(SHOWN) {
            line(text, "", &format!("✗ {changed}"));
        }
        if changed.len() > SHOWN {
            line(text, "", &format!("✗ and {} more", changed.len() - SHOWN));
        }
    }
}

/// Samples that the text names of an output that differs; the JSON and the page have more.
const WORST: usize = 3;

fn line(text: &mut String, label: &str, rest: &str) {
    // Writing to a string cannot fail.
    let _ok = writeln!(text, "{label:<10} {rest}");
}

fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

fn output_text(text: &mut String, label: &str, output: &Output) {
    let Output { name, dtype, dims, max_difference, spread, relative, tolerance, cosine, .. } =
        output;
    let mark = if output.equal { "" } else { "✗ " };
    let mut parts = if *spread > 0.0 {
        let limit = tolerance / spread;
        vec![
            format!(
                "max |Δ| {max_difference:.1e} = {relative:.1e} of the spread {spread:.3} (limit {limit:.0e})"
            ),
            format!("cosine {cosine:.7}"),
        ]
    } else if *max_difference > 0.0 {
        vec!["differs".to_owned()]
    } else {
        vec!["the same".to_owned()]
    };
    if let Some(agreement) = output.argmax {
        parts.push(format!("argmax {} of {}", agreement.same, agreement.of));
    }
    if output.not_finite > 0 {
        parts.push(format!("{} elements NaN or infinite on one side only", output.not_finite));
    }
    line(text, label, &format!("{mark}{name} {dtype}{dims:?}: {}", parts.join(", ")));
    if let Some(padding) = &output.padding {
        let counts = if padding.counts { "" } else { ", which does not count for this target" };
        let lost = if padding.not_finite > 0 {
            format!(", {} elements NaN or infinite", padding.not_finite)
        } else {
            String::new()
        };
        line(
            text,
            "",
            &format!("all padding: max |Δ| {:.1e}{counts}{lost}", padding.max_difference),
        );
    }
    if let Some(worst) = output.worst.as_ref().filter(|_| !output.equal) {
        let at = format!(
            "run {} at {:?}: {:e} became {:e}",
            worst.run, worst.at, worst.before, worst.after
        );
        line(text, "", &at);
    }
}

impl std::fmt::Display for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Runs { count, sequences, length, padded: (right, left), single, empty, seed } = self;
        write!(f, "{count} with {sequences} sequences of {length}")?;
        match seed {
            Some(seed) => write!(f, " (seed {seed})")?,
            None => f.write_str(" from files")?,
        }
        if right + left + single + empty > 0 {
            write!(
                f,
                ": {right} padded right, {left} left, {single} of one token, {empty} all padding"
            )?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Coverage { name, before, after, dims, meaning } = self;
        write!(f, "{name} {after}{dims:?}")?;
        if before != after {
            write!(f, " (was {before})")?;
        }
        match meaning {
            Meaning::Ids { rows, read, compared, .. } => {
                let all = match compared {
                    true => "all of them compared",
                    false => "the others were not compared",
                };
                write!(f, ": ids, {read} of {rows} rows read, {all}")
            }
            Meaning::Mask { patterns } => write!(f, ": mask, {patterns} patterns"),
            Meaning::Bias { patterns } => write!(f, ": additive mask, {patterns} patterns"),
            Meaning::Flags => f.write_str(": flags"),
            Meaning::Data => f.write_str(": numbers"),
        }
    }
}

impl std::fmt::Display for FirstDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FirstDifference { value, node, pass, relative, last_equal } = self;
        write!(
            f,
            "{value:?} differs first, by {relative:.1e} of its spread; the source makes it with {node}"
        )?;
        if let Some(pass) = pass {
            write!(f, ", the optimized model with a node of {pass}")?;
        }
        if let Some(equal) = last_equal {
            write!(f, "; {equal:?} before it is equal")?;
        }
        Ok(())
    }
}
