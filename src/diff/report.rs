//! A comparison for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Change, ChangedConstant, ChangedNode, Constant, Diff, OneNode};
use crate::report::{bytes, changed_ops, wrap};

/// Width of a line.
const WIDTH: usize = 100;

impl Diff {
    /// The comparison for people, with at most `limit` entries of each list.
    #[must_use]
    pub fn text(&self, limit: usize) -> String {
        let mut text = String::new();
        let b = &self.before.summary;
        if self.same {
            let what = format!(
                "{} and {} ({} nodes, {} constants, {})",
                self.before.model,
                self.after.model,
                b.nodes,
                b.constants,
                bytes(b.constant_bytes)
            );
            line(&mut text, "same", &what);
            return text;
        }
        line(&mut text, "differ", &format!("{} and {}", self.before.model, self.after.model));
        for (label, changes) in
            [("file", &self.file), ("input", &self.inputs), ("output", &self.outputs)]
        {
            list(&mut text, label, changes, limit, one_change);
        }
        self.nodes_text(&mut text, limit);
        self.constants_text(&mut text, limit);
        text
    }

    fn nodes_text(&self, text: &mut String, limit: usize) {
        let nodes = &self.nodes;
        let counts = [
            (nodes.same, "alike"),
            (nodes.changed.len(), "changed"),
            (nodes.removed.len(), "removed"),
            (nodes.added.len(), "added"),
        ];
        let (b, a) = (self.before.summary.nodes, self.after.summary.nodes);
        line(text, "nodes", &format!("{b} → {a}: {}", counted(&counts)));
        let rows = changed_ops(&self.before.summary, &self.after.summary);
        let rows: Vec<String> = rows.iter().map(|(op, b, a)| format!("{op} {b}→{a}")).collect();
        for (i, row) in wrap(&rows, WIDTH - 11).iter().enumerate() {
            line(text, if i == 0 { "ops" } else { "" }, row);
        }
        if !nodes.relabelled.is_empty() {
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            for change in nodes.relabelled.iter().flat_map(|node| &node.changes) {
                *kinds.entry(kind(&change.what)).or_default() += 1;
            }
            let kinds: Vec<String> =
                kinds.into_iter().map(|(kind, n)| format!("{kind} {n}")).collect();
            let all = nodes.relabelled.len();
            let all = format!("{all} of those alike are called otherwise: {}", kinds.join(", "));
            line(text, "labels", &all);
        }
        list(text, "types", &nodes.types, limit, one_change);
        if nodes.typed_once > 0 {
            let once = format!("{} values have a type in one of the files only", nodes.typed_once);
            line(text, "types", &once);
        }
        list(text, "changed", &nodes.changed, limit, changed_node);
        list(text, "removed", &nodes.removed, limit, |node| node.node.clone());
        let made = made_by(&nodes.added);
        if !made.is_empty() {
            line(text, "added", &format!("by passes: {made}"));
        }
        list(text, "added", &nodes.added, limit, |node| node.node.clone());
    }

    fn constants_text(&self, text: &mut String, limit: usize) {
        let constants = &self.constants;
        let same = format!("alike ({})", bytes(constants.same_bytes));
        let counts = [
            (constants.same, same.as_str()),
            (constants.renamed.len(), "renamed"),
            (constants.changed.len(), "changed"),
            (constants.removed.len(), "removed"),
            (constants.added.len(), "added"),
        ];
        let (b, a) = (&self.before.summary, &self.after.summary);
        let sizes = format!(
            "{} → {} ({} → {}): {}",
            b.constants,
            a.constants,
            bytes(b.constant_bytes),
            bytes(a.constant_bytes),
            counted(&counts)
        );
        line(text, "constants", &sizes);
        if constants.moved > 0 {
            let moved = format!(
                "{} of those alike are Constant nodes in one model and initializers in the other",
                constants.moved
            );
            line(text, "", &moved);
        }
        list(text, "changed", &constants.changed, limit, changed_constant);
        list(text, "renamed", &constants.renamed, limit, |c| {
            format!("{:?} → {:?} ({} {})", c.before, c.after, c.ty, bytes(c.bytes))
        });
        list(text, "removed", &constants.removed, limit, one_constant);
        list(text, "added", &constants.added, limit, one_constant);
    }
}

fn line(text: &mut String, label: &str, rest: &str) {
    // Writing to a string cannot fail.
    let _ok = writeln!(text, "{label:<10} {rest}");
}

fn list<T>(text: &mut String, label: &str, items: &[T], limit: usize, show: impl Fn(&T) -> String) {
    for item in items.iter().take(limit) {
        line(text, label, &show(item));
    }
    if items.len() > limit {
        line(text, label, &format!("… {} more; --all shows them", items.len() - limit));
    }
}

/// The counts that are not zero.
fn counted(counts: &[(usize, &str)]) -> String {
    let there: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if there.is_empty() { "none".into() } else { there.join(", ") }
}

fn one_change(change: &Change) -> String {
    let Change { what, before, after } = change;
    match (before, after) {
        (Some(b), Some(a)) => format!("{what}: {b} → {a}"),
        (Some(b), None) => format!("{what}: {b} → none"),
        (None, Some(a)) => format!("{what}: none → {a}"),
        (None, None) => what.clone(),
    }
}

/// What kind of label differs, whichever output it is of.
fn kind(what: &str) -> &str {
    if what.starts_with("name of output") { "names of outputs" } else { what }
}

fn changed_node(node: &ChangedNode) -> String {
    let changes: Vec<String> = node.changes.iter().map(one_change).collect();
    let name = if node.before == node.after {
        node.after.clone()
    } else {
        format!("{} → {}", node.before, node.after)
    };
    format!("{name}: {}", changes.join("; "))
}

/// How many nodes each pass made, the most first.
fn made_by(nodes: &[OneNode]) -> String {
    let mut passes: BTreeMap<&str, usize> = BTreeMap::new();
    for pass in nodes.iter().filter_map(|node| node.pass.as_deref()) {
        *passes.entry(pass).or_default() += 1;
    }
    let mut passes: Vec<(&str, usize)> = passes.into_iter().collect();
    passes.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    passes.iter().map(|(pass, n)| format!("{pass} {n}")).collect::<Vec<_>>().join(", ")
}

fn one_constant(constant: &Constant) -> String {
    let Constant { name, ty, bytes: size, copy } = constant;
    let copy = if *copy { ", whose content the other model has elsewhere" } else { "" };
    format!("{name:?} ({ty}, {}{copy})", bytes(*size))
}

fn changed_constant(constant: &ChangedConstant) -> String {
    let ChangedConstant { name, renamed, before, after, elements } = constant;
    let name = match renamed {
        Some(renamed) => format!("{name:?} → {renamed:?}"),
        None => format!("{name:?}"),
    };
    if before != after {
        return format!("{name}: {before} → {after}");
    }
    let Some(e) = elements else { return format!("{name} ({before}): other elements") };
    format!(
        "{name} ({before}): {} of {} elements, the first at {:?}: {} → {}, largest difference {:.3e}",
        e.count, e.of, e.first, e.before, e.after, e.largest
    )
}
