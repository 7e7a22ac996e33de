//! Numbers of single samples: what a chart shows, and which samples are furthest off.

use onnxfix_ir::Tensor;
use serde::Serialize;

use super::compare::Pair;
use super::measure::spread;
use super::samples::Kind;

/// Points of a chart at most: more would only lie on each other.
const POINTS: usize = 2000;
/// Samples that are named.
const WORST: usize = 8;

/// One output, number by number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Points {
    /// Name of the output.
    pub output: String,
    /// What the source gives and what the optimized model gives, of sequences with tokens; every n-th where there are many.
    pub pairs: Vec<(f64, f64)>,
    /// The samples with the largest differences, largest first.
    pub worst: Vec<WorstSample>,
}

/// A sample, and how far off it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorstSample {
    /// Which run.
    pub run: usize,
    /// Which sequence of it.
    pub row: usize,
    /// What was fed: the name of a file, or what kind of a sequence it is.
    pub what: String,
    /// Largest difference of its numbers.
    pub max_difference: f64,
    /// That difference relative to the spread over all samples.
    pub relative: f64,
    /// Place of the largest number, where there are several: in the source and in the optimized model.
    pub largest: Option<(usize, usize)>,
}

/// Takes an output apart. `names` has what the sequences of each run are called, where they were given.
pub(super) fn of(output: &str, pairs: &[Pair<'_>], names: &[Vec<String>]) -> Option<Points> {
    let floats = |t: &Tensor| t.dtype.is_float().then(|| t.to_floats()).flatten();
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    for (run, pair) in pairs.iter().enumerate() {
        let (before, after) = (floats(pair.before)?, floats(pair.after)?);
        let rows = pair.rows.len().max(1);
        let by_row = pair.before.dims.first().is_some_and(|&d| usize::try_from(d) == Ok(rows));
        let rows = if by_row && before.len() == after.len() { rows } else { 1 };
        let stride = (before.len() / rows).max(1);
        let sequences = before.chunks(stride).zip(after.chunks(stride)).enumerate();
        for (row, (before, after)) in sequences {
            let kind = pair.rows.get(row).map_or(Kind::Full, |row| row.kind);
            if kind == Kind::Padding {
                continue;
            }
            let difference =
                before.iter().zip(after).map(|(b, a)| (b - a).abs()).fold(0.0, f64::max);
            let name = names.get(run).and_then(|names| names.get(row));
            let what = name.cloned().unwrap_or_else(|| kind.to_string());
            samples.push(WorstSample {
                run,
                row,
                what,
                max_difference: difference,
                relative: 0.0,
                largest: (before.len() > 1 && before.len() < 1000)
                    .then(|| (super::compare::largest(before), super::compare::largest(after))),
            });
            all.extend(before.iter().copied().zip(after.iter().copied()));
        }
    }
    let spread = spread(all.iter().map(|&(before, _)| before));
    if spread > 0.0 {
        for sample in &mut samples {
            sample.relative = sample.max_difference / spread;
        }
    }
    samples.sort_by(|a, b| b.max_difference.total_cmp(&a.max_difference));
    samples.truncate(WORST);
    let step = all.len().div_ceil(POINTS).max(1);
    let finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let pairs = all.into_iter().step_by(step).filter(finite).collect();
    Some(Points { output: output.to_owned(), pairs, worst: samples })
}

impl std::fmt::Display for WorstSample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let WorstSample { run, row, what, max_difference, relative, largest } = self;
        write!(
            f,
            "run {run}, sequence {row} ({what}) by {max_difference:.1e} = {relative:.1e} of the spread"
        )?;
        match largest {
            Some((before, after)) if before != after => {
                write!(f, ", argmax {before} became {after}")
            }
            _ => Ok(()),
        }
    }
}
