//! What becomes of a model's numbers in float16.

use std::collections::HashMap;
use std::fmt::Write as _;

use onnxfix_ir::{Model, NodeId, ValueId};
use serde::Serialize;

use super::compare::Output;
use super::made_by;
use crate::engine::Rounded;

/// The optimized model with every value rounded to float16, on the CPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Half {
    /// Whether nothing overflows, nothing stops being a number, and the outputs are within their limits.
    pub clean: bool,
    /// The outputs against those of the source.
    pub outputs: Vec<Output>,
    /// Values that were rounded.
    pub values: usize,
    /// Nodes that stayed in float32 because they were named.
    pub kept: usize,
    /// Values with numbers beyond ±65504, which float16 makes infinity of, in the order of the graph.
    pub overflows: Vec<Trouble>,
    /// Values where what is no number begins: nothing that their nodes read has any.
    pub not_numbers: Vec<Trouble>,
    /// Values that were infinite in float32 already, where nothing that their nodes read is.
    pub infinite: Vec<Trouble>,
    /// Values of which all numbers other than 0 become 0.
    pub vanished: usize,
    /// What this is and what it is not.
    pub note: &'static str,
}

/// A value that float16 does not hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trouble {
    /// Name of the value.
    pub value: String,
    /// The node that makes it; nothing for a constant or an input.
    pub node: Option<String>,
    /// The pass that made that node, if one did.
    pub pass: Option<String>,
    /// Elements, over all runs.
    pub elements: u64,
    /// The largest finite magnitude before rounding.
    pub largest: f32,
}

/// Said wherever the simulation is reported.
const NOTE: &str = "a simulation of rounding, not of a device: every value is rounded to float16 after its node, sums are \
                    made in float32, and what a chip does inside of an operator is not known";

impl Half {
    pub(super) fn new(
        model: &Model,
        rounded: &[Rounded],
        outputs: Vec<Output>,
        keep: &[String],
    ) -> Half {
        let of: HashMap<&str, &Rounded> = rounded.iter().map(|r| (r.value.as_str(), r)).collect();
        let trouble = |r: &Rounded, elements: u64| {
            let value = model.value_named(model.root(), &r.value);
            let node = value.and_then(|v| model.producer(v));
            Trouble {
                value: r.value.clone(),
                node: node
                    .map(|n| model.describe(n))
                    .or_else(|| (!r.node.is_empty()).then(|| r.node.clone())),
                pass: node.and_then(|n| made_by(model, n)),
                elements,
                largest: r.largest,
            }
        };
        let begins = |is: fn(&Rounded) -> bool, reads: fn(&Rounded) -> bool| {
            let here = |r: &&Rounded| {
                let value = model.value_named(model.root(), &r.value);
                let node = value.and_then(|v| model.producer(v));
                is(r) && !node.is_some_and(|node| any_read(model, node, &of, reads))
            };
            rounded.iter().filter(here).collect::<Vec<_>>()
        };
        let not_numbers = begins(|r| r.nan > 0, |r| r.nan > 0);
        let infinite = begins(|r| r.infinite > 0, |r| r.infinite + r.overflowed > 0);
        let overflows: Vec<Trouble> =
            rounded.iter().filter(|r| r.overflowed > 0).map(|r| trouble(r, r.overflowed)).collect();
        let not_numbers: Vec<Trouble> =
            not_numbers.into_iter().map(|r| trouble(r, r.nan)).collect();
        let infinite: Vec<Trouble> = infinite.into_iter().map(|r| trouble(r, r.infinite)).collect();
        Half {
            clean: overflows.is_empty()
                && not_numbers.is_empty()
                && outputs.iter().all(|o| o.equal),
            outputs,
            values: rounded.len(),
            kept: model
                .all_nodes()
                .filter(|(_, n)| {
                    n.name.as_deref().is_some_and(|name| keep.iter().any(|k| k == name))
                })
                .count(),
            overflows,
            not_numbers,
            infinite,
            vanished: rounded
                .iter()
                .filter(|r| r.vanished > 0 && f64::from(r.largest) < SMALLEST)
                .count(),
            note: NOTE,
        }
    }

    /// The lines for people.
    pub(super) fn text(&self, text: &mut String) {
        const SHOWN: usize = 5;
        let mut add = |line: String| {
            // Writing to a string cannot fail.
            let _ok = writeln!(text, "           {line}");
        };
        let kinds = [
            ("overflows", "beyond ±65504: infinity in float16", &self.overflows),
            ("not a number", "no number, and nothing it is made from is", &self.not_numbers),
            ("infinite", "infinite in float32 already", &self.infinite),
        ];
        for (what, why, all) in kinds {
            for one in all.iter().take(SHOWN) {
                add(format!("✗ {what}: {one} ({why})"));
            }
            if all.len() > SHOWN {
                add(format!("✗ {what}: and {} more values", all.len() - SHOWN));
            }
        }
        if self.overflows.is_empty() && self.not_numbers.is_empty() {
            add(format!(
                "nothing overflows and everything stays a number, in {} values",
                self.values
            ));
        }
        if self.vanished > 0 {
            add(format!("{} values become 0 altogether: they are below 6e-8", self.vanished));
        }
        if self.kept > 0 {
            add(format!("{} nodes stayed in float32", self.kept));
        }
        add(self.note.to_owned());
    }
}

/// Half of the smallest float16 that is not 0: whatever is below becomes 0.
const SMALLEST: f64 = 2.980_232_238_769_531_3e-8;

/// Whether one of the values that a node reads, wherever nodes that only move elements brought it from, is so.
fn any_read(
    model: &Model,
    node: NodeId,
    of: &HashMap<&str, &Rounded>,
    is: fn(&Rounded) -> bool,
) -> bool {
    let (mut stack, mut seen) = (vec![node], std::collections::HashSet::new());
    while let Some(node) = stack.pop() {
        if !seen.insert(node) {
            continue;
        }
        let inputs: Vec<ValueId> = model[node].inputs().iter().flatten().copied().collect();
        for value in inputs {
            match of.get(model[value].name().as_str()) {
                Some(rounded) if is(rounded) => return true,
                Some(_) => {}
                None => stack.extend(model.producer(value)),
            }
        }
    }
    false
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Trouble { value, node, pass, elements, largest } = self;
        match node {
            Some(node) => write!(f, "{elements} elements of {value:?}, made by {node}")?,
            None => write!(f, "{elements} elements of {value:?}, a constant or an input")?,
        }
        if let Some(pass) = pass {
            write!(f, " of {pass}")?;
        }
        write!(f, ", largest finite {largest:.3e}")
    }
}
