//! How long models take on the CPU, one beside the other.
//!
//! All models are loaded first and then run in turn, round after round, so that a busy moment of the machine hits all of
//! them; what one takes relative to another is the median over the rounds of the ratio. Each runs on one core, as the
//! [engine](crate::engine) does.

pub mod npu;
mod page;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use onnxfix_ir::{Dim, Tensor, ValueId};
use onnxfix_passes::InputShape;
use serde::Serialize;

use crate::engine::{EngineError, Lowering};
use crate::verify::measure::spread;
use crate::verify::{LoadError, Loaded, Options as Inputs, Subject};

/// How often to run, on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Runs of each model that count.
    pub runs: usize,
    /// Runs of each model before those that count.
    pub warmups: usize,
    /// Shapes and numbers for what the models leave open, and the seed of the inputs.
    pub inputs: Inputs,
    /// How tract prepares the models.
    pub lowering: Lowering,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What ran the models.
    pub engine: &'static str,
    /// Cores that a model ran on.
    pub cores: usize,
    /// Runs of each model before those that count.
    pub warmups: usize,
    /// The models, in the order in which they were given.
    pub models: Vec<Timing>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// The times of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// The model.
    pub model: String,
    /// Sequences, or samples, of a run: the first dimension of its inputs.
    pub batch: i64,
    /// The first input's dimensions.
    pub dims: Vec<i64>,
    /// Seconds until it was ready to run.
    pub load: f64,
    /// Seconds of each run.
    pub seconds: Vec<f64>,
    /// Median of the runs, in seconds.
    pub median: f64,
    /// The fastest run, in seconds.
    pub fastest: f64,
    /// Time of the run that 99 % are not slower than, in seconds.
    pub p99: f64,
    /// Samples per second at the median.
    pub fps: f64,
    /// Median over the rounds of the time relative to the first model's.
    pub ratio: f64,
    /// How far the outputs are from the first model's, at most, relative to their spread; none where they differ in
    /// number or shape.
    pub difference: Option<f64>,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A model is made ready: its position, and of how many.
    Load(usize, usize),
    /// Round, and of how many.
    Round(usize, usize),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Load(at, all) => write!(f, "load model {at} of {all}"),
            Step::Round(at, all) => write!(f, "round {at} of {all}"),
        }
    }
}

/// Why nothing was measured: the model, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{name}")]
pub struct BenchError {
    name: String,
    source: LoadError,
}

/// Times the models.
///
/// # Errors
/// When one of them cannot be run on the CPU.
pub fn bench(
    models: &[Subject],
    options: &Options,
    progress: &dyn Fn(Step),
) -> Result<Report, BenchError> {
    let (mut loaded, mut notes) = (Vec::with_capacity(models.len()), Vec::new());
    for (i, model) in models.iter().enumerate() {
        progress(Step::Load(i + 1, models.len()));
        let start = Instant::now();
        let inputs = Inputs { shapes: shapes(model, models, options), ..options.inputs.clone() };
        let one = Loaded::new(model, &inputs, options.lowering)
            .map_err(|source| BenchError { name: model.name.clone(), source })?;
        let new = one.notes.iter().filter(|note| !notes.contains(*note)).cloned();
        notes.extend(new.collect::<Vec<String>>());
        loaded.push((one, start.elapsed()));
    }
    let of_first = loaded[..].first().map(|(one, _)| one.dims.clone()).unwrap_or_default();
    let others = loaded.iter().zip(models).filter(|((one, _), _)| one.dims != of_first);
    notes.extend(others.map(|(_, model)| {
        format!(
            "{} has inputs of another size than the first model: their times do not compare",
            model.name
        )
    }));
    let mut times: Vec<Vec<f64>> = vec![Vec::with_capacity(options.runs); models.len()];
    let mut outputs: Vec<Vec<Tensor>> = Vec::new();
    let rounds = options.warmups + options.runs;
    for round in 0..rounds {
        progress(Step::Round(round + 1, rounds));
        for (at, (one, _)) in loaded.iter().enumerate() {
            let start = Instant::now();
            let outcome = one.run();
            let time = start.elapsed().as_secs_f64();
            let failed =
                |e: EngineError| BenchError { name: models[at].name.clone(), source: e.into() };
            let outcome = outcome.map_err(failed)?;
            if round == 0 {
                outputs.push(outcome);
            }
            if round >= options.warmups {
                times[at].push(time);
            }
        }
    }
    let timings = loaded.iter().zip(models).zip(&times).zip(&outputs);
    let timings = timings.map(|((((one, load), model), seconds), output)| {
        let ratios: Vec<f64> = seconds.iter().zip(&times[0]).map(|(a, b)| a / b).collect();
        let same = one.dims == of_first;
        let difference = difference(&outputs[0], output).filter(|_| same);
        let facts = (model.name.clone(), &one.dims[..], *load);
        Timing::new(facts, seconds.clone(), percentile(&ratios, 50.0), difference)
    });
    Ok(Report {
        engine: match options.lowering {
            Lowering::Optimizer => "tract with its optimizer",
            _ => "tract",
        },
        cores: 1,
        warmups: options.warmups,
        models: timings.collect(),
        notes,
    })
}

/// The shapes that the user gives, and for inputs that a model leaves open those that another model has, so that
/// a model runs on what the one made from it runs on.
fn shapes(model: &Subject, models: &[Subject], options: &Options) -> Vec<InputShape> {
    let mut shapes = options.inputs.shapes.clone();
    let inputs = |subject: &Subject| {
        let model = &subject.model;
        let shape = |&v: &ValueId| Some((model[v].name().to_string(), model[v].shape()?.0.clone()));
        model[model.root()].inputs().iter().filter_map(shape).collect::<Vec<_>>()
    };
    for (name, open) in inputs(model) {
        let fits = |dims: &Vec<i64>| {
            dims.len() == open.len()
                && open.iter().zip(dims).all(|(d, &n)| d.fixed().is_none_or(|d| d == n))
        };
        let is_open = open.iter().any(|d| d.fixed().is_none());
        if !is_open || shapes.iter().any(|s| s.name == name) || !options.inputs.dims.is_empty() {
            continue;
        }
        let others = models.iter().flat_map(inputs).filter(|(other, _)| *other == name);
        let mut fixed = others
            .filter_map(|(_, dims)| dims.iter().map(Dim::fixed).collect::<Option<Vec<i64>>>());
        if let Some(dims) = fixed.find(fits) {
            shapes.push(InputShape { name, dims });
        }
    }
    shapes
}

impl Timing {
    fn new(
        (model, dims, load): (String, &[i64], Duration),
        seconds: Vec<f64>,
        ratio: f64,
        difference: Option<f64>,
    ) -> Timing {
        let (batch, median) = (dims.first().copied().unwrap_or(1), percentile(&seconds, 50.0));
        Timing {
            model,
            batch,
            dims: dims.to_vec(),
            load: load.as_secs_f64(),
            median,
            fastest: percentile(&seconds, 0.0),
            p99: percentile(&seconds, 99.0),
            fps: batch as f64 / median,
            seconds,
            ratio,
            difference,
        }
    }
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let head =
            ["model", "input", "load", "median", "fastest", "p99", "fps", "to first", "differs by"];
        let mut rows: Vec<[String; 9]> = vec![head.map(str::to_owned)];
        for (at, t) in self.models.iter().enumerate() {
            let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
            let difference = match t.difference {
                _ if at == 0 => "–".to_owned(),
                Some(share) => format!("{share:.1e}"),
                None => "other outputs".to_owned(),
            };
            rows.push([
                t.model.clone(),
                dims.join("×"),
                milliseconds(t.load),
                milliseconds(t.median),
                milliseconds(t.fastest),
                milliseconds(t.p99),
                format!("{:.2}", t.fps),
                format!("{:.2}", t.ratio),
                difference,
            ]);
        }
        let mut text = aligned(&rows);
        let runs = self.models.first().map_or(0, |t| t.seconds.len());
        let _ = writeln!(
            text,
            "{} on {} core, {runs} runs of each in turn after {} to warm up",
            self.engine, self.cores, self.warmups
        );
        text
    }
}

/// Columns below one another, the first to the left and the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

/// A percentile of numbers, of which there is one at least.
fn percentile(numbers: &[f64], percent: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    onnxfix_npu::summary::percentile(&sorted, percent)
}

/// How far outputs are from others, relative to the spread of those.
fn difference(want: &[Tensor], have: &[Tensor]) -> Option<f64> {
    if want.len() != have.len() {
        return None;
    }
    let mut worst = 0.0_f64;
    for (want, have) in want.iter().zip(have) {
        if want.dims != have.dims {
            return None;
        }
        let (want, have) = (want.to_floats()?, have.to_floats()?);
        let spread = spread(want.iter().copied());
        let most = want.iter().zip(&have).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        worst = worst.max(if most == 0.0 { 0.0 } else { most / spread });
    }
    Some(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_other_shapes_have_no_difference() {
        let of = |numbers: &[f32]| vec![Tensor::new(&[numbers.len() as i64], numbers.to_vec())];
        assert_eq!(difference(&of(&[1.0, 3.0]), &of(&[1.0, 3.5])), Some(0.25));
        assert_eq!(difference(&of(&[1.0, 3.0]), &of(&[1.0])), None);
    }
}
