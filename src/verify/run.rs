//! Runs a model on samples, whatever batch is written into it.

use std::sync::atomic::{AtomicUsize, Ordering};

use onnxfix_ir::{DataType, Tensor};
use rayon::prelude::*;

use super::samples::{Numbers, Sample};
use super::{Subject, load, roles};
use crate::engine::{Engine, EngineError, InputSpec, Lowering, Rounded};

/// What to prepare a model for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Values to compute instead of the outputs; empty for the outputs.
    pub(crate) values: &'a [String],
    pub(crate) lowering: Lowering,
    /// Nodes that [`Lowering::Half`] leaves in float32.
    pub(crate) keep: &'a [String],
}

impl Plan<'_> {
    /// For the outputs.
    pub(crate) fn of(lowering: Lowering) -> Plan<'static> {
        Plan { values: &[], lowering, keep: &[] }
    }
}

/// A model that is ready for samples of certain dimensions.
pub(super) struct Runner {
    engine: Engine,
    /// Dimensions of the samples, which may be several batches of the model.
    dims: Vec<Vec<i64>>,
    /// Runs that one sample takes.
    parts: usize,
}

impl Runner {
    /// Prepares a model for samples of these dimensions; also says what is unusual about it.
    pub(super) fn new(
        subject: &Subject,
        dims: &[Vec<i64>],
        plan: Plan<'_>,
    ) -> Result<(Runner, Option<String>), EngineError> {
        let model = &subject.model;
        let inputs = roles::inputs(model);
        let declared = |i: usize| model[inputs[i]].shape().filter(|s| s.rank() == dims[i].len());
        let parts =
            parts(dims, |i| Some(declared(i)?.0.iter().map(onnxfix_ir::Dim::fixed).collect()));
        let specs: Vec<InputSpec> = inputs
            .iter()
            .zip(dims)
            .map(|(&v, dims)| {
                let mut dims = dims.clone();
                if let Some(batch) = dims.first_mut().filter(|_| parts > 1) {
                    *batch /= i64::try_from(parts).unwrap_or(1);
                }
                let dtype = model[v].dtype().unwrap_or(DataType::Float);
                InputSpec { name: model[v].name().to_string(), dtype, dims }
            })
            .collect();
        let overridden = specs.iter().enumerate().find(|(i, spec)| {
            declared(*i).is_some_and(|s| {
                s.0.iter().zip(&spec.dims).any(|(d, &n)| d.fixed().is_some_and(|d| d != n))
            })
        });
        let note = match overridden {
            _ if parts > 1 => {
                let batch = specs.iter().find_map(|s| s.dims.first()).copied().unwrap_or(1);
                Some(format!(
                    "{} has a batch of {batch} written into it, so each sample took {parts} runs",
                    subject.name
                ))
            }
            Some((i, spec)) => {
                let shape = declared(i).map(ToString::to_string).unwrap_or_default();
                Some(format!(
                    "{} declares {:?} as {shape}; it was run with {:?}",
                    subject.name, spec.name, spec.dims
                ))
            }
            None => None,
        };
        let engine = load(subject, &specs, plan)?;
        Ok((Runner { engine, dims: dims.to_vec(), parts }, note))
    }

    /// Whether a sample takes several runs.
    pub(super) fn splits_batches(&self) -> bool {
        self.parts > 1
    }

    /// The outputs for every sample. Samples run side by side: the engine uses one core for each. `done` hears how many
    /// there are by now.
    pub(super) fn run_all(
        &self,
        samples: &[Sample],
        done: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Tensor>>, EngineError> {
        let count = AtomicUsize::new(0);
        let run = |sample| {
            let outputs = self.run(sample)?;
            done(count.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(outputs)
        };
        samples.par_iter().map(run).collect()
    }

    /// What rounding to float16 did in all runs.
    pub(super) fn rounded(&self) -> Vec<Rounded> {
        self.engine.rounded()
    }

    /// The outputs for one sample.
    pub(super) fn run(&self, sample: &Sample) -> Result<Vec<Tensor>, EngineError> {
        let mut parts = Vec::with_capacity(self.parts);
        for part in 0..self.parts {
            let mut feeds = Vec::with_capacity(sample.feeds.len());
            for ((numbers, spec), dims) in
                sample.feeds.iter().zip(self.engine.inputs()).zip(&self.dims)
            {
                let numbers =
                    if self.parts > 1 { &slice(numbers, dims, self.parts, part) } else { numbers };
                let tensor = numbers.tensor(spec.dtype, &spec.dims);
                feeds.push(
                    tensor
                        .ok_or_else(|| EngineError::DataType { dtype: spec.dtype.to_string() })?,
                );
            }
            parts.push(self.engine.run(&feeds)?);
        }
        join(parts)
    }
}

/// Into how many runs a sample must be split: when the model has a smaller batch written into it and agrees otherwise.
/// Running it as it is beats overriding what it declares.
fn parts(dims: &[Vec<i64>], declared: impl Fn(usize) -> Option<Vec<Option<i64>>>) -> usize {
    let mut parts = None;
    for (i, dims) in dims.iter().enumerate() {
        let (Some(declared), Some(&batch)) = (declared(i), dims.first()) else { return 1 };
        let Some(own) = declared[0].filter(|&own| own > 0 && batch > own && batch % own == 0)
        else {
            return 1;
        };
        if declared[1..].iter().zip(&dims[1..]).any(|(d, &n)| d.is_some_and(|d| d != n)) {
            return 1;
        }
        if *parts.get_or_insert(batch / own) != batch / own {
            return 1;
        }
    }
    parts.and_then(|p| usize::try_from(p).ok()).unwrap_or(1)
}

fn slice(numbers: &Numbers, dims: &[i64], parts: usize, part: usize) -> Numbers {
    let count = usize::try_from(dims.iter().product::<i64>()).unwrap_or(0) / parts;
    let range = part * count..(part + 1) * count;
    match numbers {
        Numbers::Ints(v) => Numbers::Ints(v[range].to_vec()),
        Numbers::Floats(v) => Numbers::Floats(v[range].to_vec()),
    }
}

/// Joins the outputs of several runs along their first axis.
fn join(mut parts: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>, EngineError> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let outputs = parts.first().map_or(0, Vec::len);
    (0..outputs)
        .map(|slot| {
            let tensors: Vec<&Tensor> = parts.iter().filter_map(|p| p.get(slot)).collect();
            let first = tensors[0];
            let Some((_, rest)) = first.dims.split_first() else {
                return Err(EngineError::Dims { dims: first.dims.clone() });
            };
            let (mut raw, mut batch) = (Vec::new(), 0);
            for tensor in &tensors {
                let bytes =
                    tensor.raw().map_err(|_| EngineError::Dims { dims: tensor.dims.clone() })?;
                raw.extend_from_slice(&bytes);
                batch += tensor.dims[0];
            }
            let mut dims = vec![batch];
            dims.extend(rest);
            Tensor::from_raw(first.dtype, &dims, raw.into()).map_err(|_| EngineError::Dims { dims })
        })
        .collect()
}
