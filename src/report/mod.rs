//! What an `optimize` run did, as text, JSON and HTML.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use onnxfix_ir::{AttrValue, Model};
use onnxfix_passes::Report as Passes;
use serde::Serialize;

use crate::verify::Report as Verification;

/// Version of the JSON form; it changes when a field changes its meaning or goes.
const SCHEMA: &str = "onnxfix.optimize/1";

/// Everything about one run of `optimize`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Version of the program.
    pub onnxfix: &'static str,
    /// The model that was read.
    pub model: PathBuf,
    /// The model that was written; none in a dry run.
    pub output: Option<PathBuf>,
    /// Name of the target.
    pub target: &'static str,
    /// The model as it was read.
    pub before: Summary,
    /// The model as it was written.
    pub after: Summary,
    /// What the passes did.
    #[serde(flatten)]
    pub passes: Passes,
    /// Warnings from reading the file.
    pub load_warnings: Vec<String>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// How the result compares with the source, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
}

/// A model in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Nodes of all graphs, Constant nodes left out.
    pub nodes: usize,
    /// Constant nodes and initializers.
    pub constants: usize,
    /// Bytes of all constants.
    pub constant_bytes: u64,
    /// How often each operator occurs, Constant left out.
    pub ops: BTreeMap<String, usize>,
    /// Inputs with their types.
    pub inputs: Vec<String>,
    /// Outputs with their types.
    pub outputs: Vec<String>,
}

impl Summary {
    /// Counts a model.
    #[must_use]
    pub fn of(model: &Model) -> Summary {
        let mut ops: BTreeMap<String, usize> = BTreeMap::new();
        let mut constants = 0;
        let mut constant_bytes = 0;
        for (_, node) in model.all_nodes() {
            if node.op().is("Constant") {
                constants += 1;
            } else {
                *ops.entry(node.op().to_string()).or_default() += 1;
            }
            constant_bytes += node.attrs.0.iter().map(|a| attr_bytes(&a.value)).sum::<u64>();
        }
        for tensor in model.all_values().filter_map(|(_, v)| v.tensor()) {
            constants += 1;
            constant_bytes += tensor.byte_len();
        }
        let typed = |ids: &[onnxfix_ir::ValueId]| {
            let one = |&v: &onnxfix_ir::ValueId| match &model[v].ty {
                Some(ty) => format!("{} {ty}", model[v].name()),
                None => model[v].name().to_string(),
            };
            ids.iter().map(one).collect()
        };
        let root = &model[model.root()];
        Summary {
            nodes: ops.values().sum(),
            constants,
            constant_bytes,
            ops,
            inputs: typed(root.inputs()),
            outputs: typed(root.outputs()),
        }
    }
}

fn attr_bytes(value: &AttrValue) -> u64 {
    match value {
        AttrValue::Tensor(t) => t.byte_len(),
        _ => 0,
    }
}

/// Operators whose number differs: name, before, after; the largest change first.
pub(crate) fn changed_ops<'a>(
    before: &'a Summary,
    after: &'a Summary,
) -> Vec<(&'a str, usize, usize)> {
    let names = before.ops.keys().chain(after.ops.keys());
    let count = |s: &Summary, op: &str| s.ops.get(op).copied().unwrap_or(0);
    let mut rows: Vec<(&str, usize, usize)> =
        names.map(|op| (op.as_str(), count(before, op), count(after, op))).collect();
    rows.sort_unstable();
    rows.dedup();
    rows.retain(|(_, a, b)| a != b);
    rows.sort_by_key(|&(op, a, b)| (std::cmp::Reverse(a.abs_diff(b)), op));
    rows
}

/// A number of bytes for people.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut scaled = n as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 99.95);
    if unit == 0 { format!("{n} B") } else { format!("{scaled:.digits$} {}", UNITS[unit]) }
}

impl Report {
    /// A report; `passes` are those that ran.
    #[must_use]
    pub fn new(
        model: PathBuf,
        target: &'static str,
        before: Summary,
        after: Summary,
        passes: Passes,
    ) -> Report {
        Report {
            schema: SCHEMA,
            onnxfix: env!("CARGO_PKG_VERSION"),
            model,
            output: None,
            target,
            before,
            after,
            passes,
            load_warnings: Vec::new(),
            seconds: 0.0,
            verify: None,
        }
    }

    /// A few lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let out = self
            .output
            .as_ref()
            .map_or("(dry run, nothing written)".into(), |p| p.display().to_string());
        let (a, b) = (&self.before, &self.after);
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "{} → {out}", self.model.display());
        let _ok = writeln!(
            text,
            "  nodes {} → {}, constants {} → {} ({} → {}), {:.2} s, target {}",
            a.nodes,
            b.nodes,
            a.constants,
            b.constants,
            bytes(a.constant_bytes),
            bytes(b.constant_bytes),
            self.seconds,
            self.target
        );
        let row = |(op, a, b): &(&str, usize, usize)| format!("{op} {a}→{b}");
        let rows: Vec<String> = changed_ops(&self.before, &self.after).iter().map(row).collect();
        for (i, line) in wrap(&rows, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "ops  " } else { "     " });
        }
        for (i, line) in wrap(&b.inputs, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "in   " } else { "     " });
        }
        for (i, line) in wrap(&b.outputs, 100).iter().enumerate() {
            let _ok = writeln!(text, "  {} {line}", if i == 0 { "out  " } else { "     " });
        }
        text
    }

    /// A page that stands on its own.
    #[must_use]
    pub fn html(&self) -> String {
        let mut rows = String::new();
        for (op, a, b) in changed_ops(&self.before, &self.after) {
            let _ok = write!(rows, "<tr><td>{}</td><td>{a}</td><td>{b}</td></tr>", escape(op));
        }
        let mut passes = String::new();
        for pass in self.passes.passes.iter().filter(|p| p.rewrites > 0) {
            let ms = pass.time.as_secs_f64() * 1e3;
            let _ok = write!(
                passes,
                "<tr><td>{}</td><td>{}</td><td>{ms:.1}</td></tr>",
                pass.pass, pass.rewrites
            );
        }
        let mut notes = String::new();
        for note in &self.passes.notes {
            let class = if note.warning { " class=warning" } else { "" };
            let _ok = write!(notes, "<li{class}><b>{}</b>: {}</li>", note.pass, escape(&note.text));
        }
        for warning in &self.load_warnings {
            let _ok = write!(notes, "<li class=warning>{}</li>", escape(warning));
        }
        let verification = self.verify.as_ref().map_or_else(String::new, |report| {
            format!("<h2>Compared with the source</h2><pre>{}</pre>", escape(&report.text()))
        });
        let list = |items: &[String]| {
            items
                .iter()
                .map(|i| format!("<code>{}</code>", escape(i)))
                .collect::<Vec<_>>()
                .join("<br>")
        };
        let (a, b) = (&self.before, &self.after);
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>onnxfix: {name}</title><style>{CSS}</style>\
             <h1>{name}</h1><p>{model} → {output}<br>target {target}, onnxfix {version}, {seconds:.2} s</p>\
             <table><tr><th></th><th>before</th><th>after</th></tr>\
             <tr><td>nodes</td><td>{}</td><td>{}</td></tr>\
             <tr><td>constants</td><td>{}</td><td>{}</td></tr>\
             <tr><td>bytes of constants</td><td>{}</td><td>{}</td></tr>\
             <tr><td>inputs</td><td>{}</td><td>{}</td></tr>\
             <tr><td>outputs</td><td>{}</td><td>{}</td></tr></table>\
             <h2>Operators that changed</h2><table><tr><th>operator</th><th>before</th><th>after</th></tr>{rows}</table>\
             <h2>Passes that fired</h2><table><tr><th>pass</th><th>rewrites</th><th>ms</th></tr>{passes}</table>\
             <h2>Notes</h2><ul>{notes}</ul>{verification}</html>\n",
            a.nodes,
            b.nodes,
            a.constants,
            b.constants,
            bytes(a.constant_bytes),
            bytes(b.constant_bytes),
            list(&a.inputs),
            list(&b.inputs),
            list(&a.outputs),
            list(&b.outputs),
            name = escape(&self.model.file_name().unwrap_or_default().to_string_lossy()),
            model = escape(&self.model.display().to_string()),
            output = escape(
                &self
                    .output
                    .as_ref()
                    .map_or("nothing (dry run)".into(), |p| p.display().to_string())
            ),
            target = self.target,
            version = self.onnxfix,
            seconds = self.seconds,
        )
    }
}

const CSS: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}table{border-collapse:collapse}\
td,th{padding:.25em 1em .25em 0;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}\
td:nth-child(n+2){font-variant-numeric:tabular-nums}.warning{color:#a40}code{font-size:.9em}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Items joined by commas into lines of about this width.
pub(crate) fn wrap(items: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if line.len() + item.len() + 2 <= width => {
                line.push_str(", ");
                line.push_str(item);
            }
            _ => lines.push(item.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_at_least() {
        assert_eq!(
            [0, 999, 1000, 99_940, 740_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "99.9 kB", "740 MB"]
        );
    }
}
