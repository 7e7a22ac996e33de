//! Finds where two models part.
//!
//! Passes keep the name of a value that keeps its meaning, so both models have many values in common. A few of them,
//! spread over the graph, are computed in both; then those between the last equal and the first different one.

use std::collections::HashMap;

use onnxfix_ir::{NodeId, Tensor};
use serde::Serialize;

use super::measure::{alike, spread};
use super::run::{Plan, Runner};
use super::samples::Sample;
use super::{Side, Subject, VerifyError, computed, made_by};
use crate::engine::Lowering;

/// Values to compute at a time: each of a base-size model may take some megabytes.
const AT_A_TIME: usize = 32;

/// Difference relative to the spread of a value from which on it counts as different.
const RTOL: f64 = 1e-4;

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

/// Looks for the first value that differs; none when all that can be compared are equal.
pub(super) fn locate(
    before: &Subject,
    after: &Subject,
    dims: &[Vec<i64>],
    sample: &Sample,
) -> Result<Option<FirstDifference>, VerifyError> {
    let in_after: HashMap<&str, NodeId> =
        computed(&after.model).map(|(n, v)| (after.model[v].name().as_str(), n)).collect();
    let common: Vec<(String, NodeId, NodeId)> = computed(&before.model)
        .filter_map(|(node, v)| {
            let name = before.model[v].name();
            Some((name.to_string(), node, *in_after.get(name.as_str())?))
        })
        .collect();
    let (mut low, mut high) = (0, common.len());
    let (mut found, mut last_equal) = (None, None);
    // `low..high` holds the first difference, if there is one.
    while low < high {
        let step = (high - low).div_ceil(AT_A_TIME);
        // From the end, so that the last value is among them: an output.
        let mut picked: Vec<usize> =
            (0..).map(|i| high - 1 - i * step).take((high - low).div_ceil(step)).collect();
        picked.reverse();
        let names: Vec<String> = picked.iter().map(|&i| common[i].0.clone()).collect();
        let sides = [(Side::Before, before), (Side::After, after)];
        let [b, a] = sides.map(|(side, subject)| {
            let failed = |source| VerifyError::Engine { side, name: subject.name.clone(), source };
            let (runner, _) =
                Runner::new(subject, dims, Plan { values: &names, ..Plan::of(Lowering::Plain) })
                    .map_err(failed)?;
            runner.run(sample).map_err(failed)
        });
        let (b, a) = (b?, a?);
        let differs =
            picked.iter().zip(b.iter().zip(&a)).find_map(|(&i, (b, a))| Some((i, relative(b, a)?)));
        let Some((first, relative)) = differs else {
            // None of these differs: what was found before, if anything, is the first.
            last_equal = picked.last().map(|&i| common[i].0.clone()).or(last_equal);
            break;
        };
        let (name, node, other) = &common[first];
        found = Some(FirstDifference {
            value: name.clone(),
            node: before.model.describe(*node),
            pass: made_by(&after.model, *other),
            relative,
            last_equal: None,
        });
        let at = picked.iter().position(|&i| i == first).unwrap_or(0);
        if let Some(&equal) = at.checked_sub(1).and_then(|at| picked.get(at)) {
            last_equal = Some(common[equal].0.clone());
            low = equal + 1;
        }
        high = first;
        if step == 1 {
            break;
        }
    }
    Ok(found.map(|found| FirstDifference { last_equal, ..found }))
}

/// How far two values are apart, if they are.
fn relative(before: &Tensor, after: &Tensor) -> Option<f64> {
    // A pass may well give a value another shape or type; only its reader can tell whether that is right.
    if before.dims != after.dims {
        return None;
    }
    let (b, a) = (before.to_floats()?, after.to_floats()?);
    let spread = spread(b.iter().copied());
    let mut worst = 0.0_f64;
    for (&b, &a) in b.iter().zip(&a) {
        if alike(b, a) {
            continue;
        }
        let difference = (b - a).abs();
        worst = worst.max(if difference.is_finite() { difference / spread } else { f64::INFINITY });
    }
    (worst > RTOL).then_some(worst)
}
