//! How far two models are apart at each step of the way.
//!
//! A pass keeps the name of a value that keeps its meaning, so both models have many values in common. They are computed in
//! one run of each model, compared and dropped. Where that would take too much memory, every n-th of them is; or, when all
//! are asked for, as many at a time as fit, with a run for each part.
//!
//! A pass that moves a scale or a bias from one side of a value to the other changes that value and nothing behind it. So a
//! value that is off counts only where everything that is made from it is off as well, and where it is not just a multiple
//! of what it was.

use std::collections::HashMap;
use std::fmt::Write as _;

use onnxfix_ir::{Model, NodeId, Tensor, ValueId};
use serde::Serialize;

use super::measure::{alike, spread};
use super::run::{Plan, Runner};
use super::samples::{Row, Sample};
use super::{Side, Subject, VerifyError, computed, made_by};
use crate::engine::Lowering;
use crate::report::layers_of;

/// Bytes of one model's values that are held at a time.
const HELD: u64 = 256 << 20;
/// Bytes of a value whose dimensions nobody knows.
const UNKNOWN: u64 = 1 << 20;
/// Difference relative to the spread of a value from which on it counts as different, where the user says none.
const RTOL: f64 = 1e-4;

/// Which values to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// None of them.
    #[default]
    None,
    /// As many as one run can hold, evenly over the graph.
    Some,
    /// All of them.
    All,
}

/// How values that both models have compare, in the order of the source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layers {
    /// The run whose values these are.
    pub run: usize,
    /// Floats that both models have by name.
    pub common: usize,
    /// Values among them that have other dimensions in the optimized model, and were not compared.
    pub reshaped: usize,
    /// Largest difference relative to the spread of a value that passes.
    pub limit: f64,
    /// The values that were compared.
    pub values: Vec<Value>,
    /// The first of them beyond the limit.
    pub first_beyond: Option<usize>,
}

/// A value that both models compute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Its name.
    pub value: String,
    /// The source's node that makes it.
    pub node: String,
    /// That node's operator.
    pub op: String,
    /// Nodes on the longest way to it from an input or a constant.
    pub depth: usize,
    /// Layer of the encoder, where there are layers.
    pub layer: Option<usize>,
    /// The pass that made the optimized model's node, if one did.
    pub pass: Option<String>,
    /// Largest difference.
    pub max_difference: f64,
    /// Largest minus smallest number in the source.
    pub spread: f64,
    /// `max_difference / spread`.
    pub relative: f64,
    /// Elements that are finite on one side only.
    pub not_finite: u64,
    /// Whether it is further off than the limit, but a multiple of what it was, or something that is made from it is not off:
    /// a pass moved a factor or a sum across it.
    pub moved: bool,
}

struct Common {
    name: String,
    before: NodeId,
    after: NodeId,
    bytes: u64,
}

/// Compares the values that both models have.
pub(super) fn compare(
    before: &Subject,
    after: &Subject,
    dims: &[Vec<i64>],
    (run, sample): (usize, &Sample),
    (which, lowering): (Which, Lowering),
    rtol: Option<f64>,
    padding_counts: bool,
) -> Result<Layers, VerifyError> {
    let common = common(&before.model, &after.model);
    let mut layers = Layers {
        run,
        common: common.len(),
        reshaped: 0,
        limit: rtol.unwrap_or(RTOL),
        values: Vec::new(),
        first_beyond: None,
    };
    let (depths, numbers) = (depths(&before.model), layers_of(&before.model));
    let parts: Vec<Vec<&Common>> = match which {
        Which::None => return Ok(layers),
        Which::Some => vec![evenly(&common)],
        Which::All => parts(&common),
    };
    for part in parts {
        let names: Vec<String> = part.iter().map(|c| c.name.clone()).collect();
        if names.is_empty() {
            continue;
        }
        let values = |side, subject: &Subject| {
            let failed = |source| VerifyError::Engine { side, name: subject.name.clone(), source };
            let plan = Plan { values: &names, ..Plan::of(lowering) };
            let (runner, _) = Runner::new(subject, dims, plan).map_err(failed)?;
            runner.run(sample).map_err(failed)
        };
        let (theirs, ours) = (values(Side::Before, before)?, values(Side::After, after)?);
        for ((common, b), a) in part.into_iter().zip(theirs).zip(ours) {
            if !b.dtype.is_float() || !a.dtype.is_float() {
                // Nobody knew before that these are no numbers of the network.
                layers.common -= 1;
                continue;
            }
            let Some(value) = value(&b, &a, &sample.rows, padding_counts, layers.limit) else {
                layers.reshaped += 1;
                continue;
            };
            let node = common.before;
            layers.values.push(Value {
                value: common.name.clone(),
                node: before.model.describe(node),
                op: before.model[node].op().to_string(),
                depth: depths.get(&node).copied().unwrap_or(0),
                layer: numbers.get(&node).copied(),
                pass: made_by(&after.model, common.after),
                ..value
            });
        }
    }
    mark_moved(&before.model, &mut layers);
    layers.first_beyond = layers.values.iter().position(|value| layers.is_beyond(value));
    Ok(layers)
}

/// Finds the values that are off while something made from them is not.
fn mark_moved(model: &Model, layers: &mut Layers) {
    let at: HashMap<&str, usize> =
        layers.values.iter().enumerate().map(|(at, v)| (v.value.as_str(), at)).collect();
    let off: Vec<bool> = layers.values.iter().map(|value| layers.is_beyond(value)).collect();
    let nodes: Vec<NodeId> = model.nodes(model.root()).collect();
    // Whether a node makes a value that is not off, or something behind it does; and for each value that is off the same
    // without itself.
    let (mut leads, mut moved) = (HashMap::new(), Vec::new());
    for &node in nodes.iter().rev() {
        let mut any = false;
        for &value in model[node].outputs().iter().flatten() {
            let behind = model.users(value).any(|user| leads.get(&user).copied().unwrap_or(false));
            let compared = at.get(model[value].name().as_str());
            moved.extend(compared.filter(|&&at| off[at] && behind).copied());
            any |= behind || compared.is_some_and(|&at| !off[at]);
        }
        leads.insert(node, any);
    }
    for at in moved {
        layers.values[at].moved = true;
    }
}

/// The computed values that both models have, in the source's order.
fn common(before: &Model, after: &Model) -> Vec<Common> {
    let in_after: HashMap<&str, (NodeId, ValueId)> =
        computed(after).map(|(n, v)| (after[v].name().as_str(), (n, v))).collect();
    let both = computed(before).filter(|&(n, _)| !before[n].op().is("Constant"));
    both.filter_map(|(node, v)| {
        let &(other, value) = in_after.get(before[v].name().as_str())?;
        // Exporters leave most types out; passes find them.
        let dtype = after[value].dtype().or(before[v].dtype());
        if dtype.is_some_and(|dtype| !dtype.is_float()) {
            return None;
        }
        let dims = after[value].dims().or_else(|| before[v].dims());
        let count = dims.map(|dims| dims.iter().product::<i64>().unsigned_abs());
        Some(Common {
            name: before[v].name().to_string(),
            before: node,
            after: other,
            bytes: count.map_or(UNKNOWN, |count| count.saturating_mul(4)),
        })
    })
    .collect()
}

/// Every n-th, so that all of them fit; the last one among them.
fn evenly(common: &[Common]) -> Vec<&Common> {
    for step in 1..=common.len() {
        let chosen: Vec<&Common> = common.iter().rev().step_by(step).collect();
        if chosen.iter().map(|c| c.bytes).fold(0, u64::saturating_add) <= HELD {
            return chosen.into_iter().rev().collect();
        }
    }
    Vec::new()
}

/// All, in parts that fit.
fn parts(common: &[Common]) -> Vec<Vec<&Common>> {
    let (mut parts, mut held) = (vec![Vec::new()], 0_u64);
    for one in common {
        held = held.saturating_add(one.bytes);
        if held > HELD {
            parts.push(Vec::new());
            held = one.bytes;
        }
        parts.last_mut().into_iter().for_each(|part| part.push(one));
    }
    parts
}

/// Nodes on the longest way to each node, itself included.
fn depths(model: &Model) -> HashMap<NodeId, usize> {
    let mut depths: HashMap<NodeId, usize> = HashMap::new();
    for node in model.nodes(model.root()) {
        let inputs = model[node].inputs().iter().flatten();
        let makers = inputs.filter_map(|&v| depths.get(&model.producer(v)?));
        let depth = 1 + makers.max().copied().unwrap_or(0);
        depths.insert(node, depth);
    }
    depths
}

/// How two tensors compare, where their elements can be told to be the same ones.
fn value(
    before: &Tensor,
    after: &Tensor,
    rows: &[Row],
    padding_counts: bool,
    limit: f64,
) -> Option<Value> {
    if !regrouped(&before.dims, &after.dims) {
        return None;
    }
    let (b, a) = (before.to_floats()?, after.to_floats()?);
    let counts = |i: usize| padding_counts || is_token(i, &before.dims, rows);
    let real = || b.iter().zip(&a).enumerate().filter(|(i, _)| counts(*i)).map(|(_, pair)| pair);
    let spread = spread(real().map(|(&b, _)| b));
    let (mut max_difference, mut not_finite) = (0.0_f64, 0);
    for (&b, &a) in real().filter(|&(&b, &a)| !alike(b, a)) {
        let difference = (b - a).abs();
        if difference.is_finite() {
            max_difference = max_difference.max(difference);
        } else {
            not_finite += 1;
        }
    }
    let relative = if max_difference > 0.0 { max_difference / spread } else { 0.0 };
    // The factor by which both come nearest to each other.
    let (ab, aa) = real().fold((0.0, 0.0), |(ab, aa), (&b, &a)| (ab + a * b, aa + a * a));
    let rest = real().map(|(&b, &a)| (b - a * ab / aa).abs()).fold(0.0, f64::max);
    let is_multiple = aa > 0.0 && ab != 0.0 && rest <= limit * spread;
    Some(Value {
        value: String::new(),
        node: String::new(),
        op: String::new(),
        depth: 0,
        layer: None,
        pass: None,
        max_difference,
        spread,
        relative,
        not_finite,
        moved: relative > limit && not_finite == 0 && is_multiple,
    })
}

/// Whether the axes of one shape are neighbours of the other joined or split, so that elements keep their order.
fn regrouped(a: &[i64], b: &[i64]) -> bool {
    let borders = |dims: &[i64]| {
        let mut product = 1_i64;
        dims.iter()
            .map(|d| {
                product = product.saturating_mul(*d);
                product
            })
            .collect::<Vec<_>>()
    };
    let (mut few, mut many) = (borders(a), borders(b));
    if few.last().unwrap_or(&1) != many.last().unwrap_or(&1) {
        return false;
    }
    few.dedup();
    many.dedup();
    if few.len() > many.len() {
        std::mem::swap(&mut few, &mut many);
    }
    few.iter().all(|border| *border == 1 || many.contains(border))
}

/// Whether an element belongs to tokens on every axis that has a place for each position of a sequence.
fn is_token(at: usize, dims: &[i64], rows: &[Row]) -> bool {
    let (batch, length) = (rows.len(), rows.first().map_or(0, |row| row.tokens.len()));
    let size = |axis: usize| dims.get(axis).and_then(|&d| usize::try_from(d).ok()).unwrap_or(0);
    let of = |row: usize, position: usize| {
        rows.get(row).is_none_or(|row| row.tokens.get(position).copied().unwrap_or(true))
    };
    let places = super::measure::position(at, dims);
    if batch > 0 && length > 1 && size(0) == batch * length {
        return of(places[0] / length, places[0] % length);
    }
    if size(0) != batch {
        return true;
    }
    let row = places[0];
    let is_real = rows.get(row).is_none_or(Row::is_real);
    is_real
        && (1..places.len()).filter(|&axis| size(axis) == length).all(|axis| of(row, places[axis]))
}

/// The first value, in the source's order, that the optimized model computes differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstDifference {
    /// Name of the value.
    pub value: String,
    /// The source's node that makes it.
    pub node: String,
    /// The pass that made the optimized model's node, if one did.
    pub pass: Option<String>,
    /// Largest difference relative to the spread.
    pub relative: f64,
    /// The last value before it that both models compute alike.
    pub last_equal: Option<String>,
}

impl Layers {
    /// The first value beyond the limit, with the last one before it that is within.
    #[must_use]
    pub fn first_difference(&self) -> Option<FirstDifference> {
        let at = self.first_beyond?;
        let first = self.values.get(at)?;
        let equal = self.values[..at].iter().rfind(|value| !value.moved);
        Some(FirstDifference {
            value: first.value.clone(),
            node: first.node.clone(),
            pass: first.pass.clone(),
            relative: if first.not_finite > 0 { f64::INFINITY } else { first.relative },
            last_equal: equal.map(|value| value.value.clone()),
        })
    }

    /// Whether a value is further off than the limit, and so is all that is made from it.
    #[must_use]
    pub fn is_beyond(&self, value: &Value) -> bool {
        !value.moved && (value.relative > self.limit || value.not_finite > 0)
    }

    /// The table for people: a row for each layer with its worst value, and the first value beyond the limit.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Layers { run, common, reshaped, limit, values, .. } = self;
        // Writing to a string cannot fail.
        let _ok = writeln!(
            text,
            "layers     {} of {common} values that both models have, in run {run} (limit {limit:.0e} of the spread{})",
            values.len(),
            match reshaped {
                0 => String::new(),
                n => format!("; {n} more have other dimensions"),
            }
        );
        if values.is_empty() {
            return text;
        }
        let _ok = writeln!(
            text,
            "           {:<8} {:>6} {:>9} {:>9}  {BAR_HEAD:<width$}  worst value",
            "layer",
            "values",
            "of spread",
            "max |Δ|",
            width = BAR
        );
        for (layer, values) in self.by_layer() {
            let counted: Vec<&Value> = values.iter().copied().filter(|v| !v.moved).collect();
            let Some(worst) = worst(&counted) else { continue };
            let name = layer.map_or_else(|| "outside".to_owned(), |layer| layer.to_string());
            let mark = if values.iter().any(|v| self.is_beyond(v)) { "✗ " } else { "" };
            let _ok = writeln!(
                text,
                "           {name:<8} {:>6} {:>9} {:>9}  {:<width$}  {mark}{} (depth {})",
                values.len(),
                share(worst.relative),
                share(worst.max_difference),
                bar(worst.relative),
                worst.node,
                worst.depth,
                width = BAR
            );
        }
        let moved = values.iter().filter(|value| value.moved).count();
        if moved > 0 {
            let _ok = writeln!(
                text,
                "           left out: {moved} values across which passes moved a factor or a sum; what is made from them is equal"
            );
        }
        text
    }

    /// The values of each layer, in the order in which layers begin; what is before, between and behind them first.
    #[must_use]
    pub fn by_layer(&self) -> Vec<(Option<usize>, Vec<&Value>)> {
        let mut layers: Vec<Option<usize>> = self.values.iter().map(|v| v.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let of = |layer| self.values.iter().filter(|v| v.layer == layer).collect();
        layers.into_iter().map(|layer| (layer, of(layer))).collect()
    }
}

/// The value that is furthest off.
fn worst<'a>(values: &[&'a Value]) -> Option<&'a Value> {
    values
        .iter()
        .copied()
        .max_by(|a, b| a.not_finite.cmp(&b.not_finite).then(a.relative.total_cmp(&b.relative)))
}

/// Cells of a bar of the chart: two for each power of ten from 1e-8 to 1.
const BAR: usize = 16;
const BAR_HEAD: &str = "1e-8 … 1";

fn bar(relative: f64) -> String {
    let cells =
        if relative > 0.0 { (2.0 * (relative.log10() + 8.0)).ceil().clamp(1.0, 16.0) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 16")]
    let cells = cells as usize;
    "█".repeat(cells)
}

fn share(number: f64) -> String {
    if number > 0.0 { format!("{number:.1e}") } else { "0".to_owned() }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text;

    use super::*;

    #[test]
    fn a_sum_that_moved_across_a_value_is_no_difference() {
        let parsed = |name: &str, body: &str| {
            let head = "<ir_version: 8, opset_import: [\"\" : 13]>";
            let constants = "<float[1] two = {2}, float[1] three = {3}>";
            let model =
                format!("{head} g (float[2,3] x) => (float[2,3] y) {constants} {{ {body} }}");
            Subject { name: name.into(), model: text::parse(&model).expect("a model"), file: None }
        };
        let before =
            parsed("before", "a = Add (x, two) b = Add (a, three) c = Tanh (b) y = Neg (c)");
        let moved = parsed("moved", "a = Add (x, three) b = Add (a, two) c = Tanh (b) y = Neg (c)");
        let wrong =
            parsed("wrong", "a = Add (x, three) b = Add (a, three) c = Tanh (b) y = Neg (c)");
        let sample = Sample {
            feeds: vec![super::super::samples::Numbers::Floats(vec![
                0.1, -0.2, 0.3, 0.0, 0.2, 0.4,
            ])],
            rows: Vec::new(),
        };
        let compare = |after| {
            let dims = [vec![2, 3]];
            super::compare(
                &before,
                after,
                &dims,
                (0, &sample),
                (Which::All, Lowering::Plain),
                None,
                true,
            )
            .expect("runs")
        };
        let layers = compare(&moved);
        assert_eq!((layers.values[0].moved, layers.first_beyond), (true, None));
        let layers = compare(&wrong);
        assert_eq!((layers.values[0].moved, layers.first_beyond), (false, Some(0)));
        assert!(layers.text().contains("✗"), "{}", layers.text());
    }

    #[test]
    fn joined_and_split_axes_keep_elements_in_place() {
        assert!(regrouped(&[1, 256, 768], &[256, 768]));
        assert!(regrouped(&[2, 12, 64], &[24, 64]));
        assert!(regrouped(&[1], &[]));
        assert!(!regrouped(&[2, 3], &[3, 2]));
        assert!(!regrouped(&[1, 256, 768], &[1, 1, 768]));
    }

    #[test]
    fn padding_is_known_on_every_axis() {
        let row = |tokens: &[bool]| Row {
            kind: super::super::samples::Kind::Right,
            tokens: tokens.to_vec(),
        };
        let rows = [row(&[true, true, true]), row(&[true, false, false])];
        let tokens = |dims: &[i64]| -> Vec<bool> {
            let count = usize::try_from(dims.iter().product::<i64>()).expect("small");
            (0..count).map(|i| is_token(i, dims, &rows)).collect()
        };
        assert_eq!(tokens(&[2, 3]), [true, true, true, true, false, false]);
        assert_eq!(tokens(&[6]), [true, true, true, true, false, false]);
        // Scores: the row of a query and the column of a key.
        assert_eq!(tokens(&[2, 3, 3]).iter().filter(|t| **t).count(), 9 + 1);
        assert_eq!(tokens(&[4]), [true; 4]);
    }
}
