//! Runs models on files: compiled ones on NPUs, others in tract on the CPU, with the same inputs, outputs and figures.

mod cpu;
mod feed;
mod prepared;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::Dim;
use onnxfix_npu::acl::Runtime;
use onnxfix_npu::summary::Figures;
use onnxfix_npu::{Interface, NpuError, Plan, Ran, Work as _, device_name, is_simulated};
use onnxfix_passes::{DimBinding, InputShape};
use onnxfix_samples::Slot;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub(crate) use feed::copy;
pub use feed::{Batches, Feed, PureData, SampleFiles, Target};
pub use prepared::{Route, Sizes, routes};

use crate::engine::{InputSpec, Lowering};
use crate::verify::{self, Subject};

/// Where batches come from and results go to.
#[derive(Debug, Clone)]
pub enum Source {
    /// Files, part after part.
    Files(Vec<Batches>),
    /// Data that are made up.
    Made {
        /// What to make up.
        data: PureData,
        /// How many batches.
        batches: usize,
        /// Where results go; none to drop them.
        target: Option<Target>,
    },
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// What ran the model: the chip's name, or tract.
    pub device: String,
    /// Whether the device is made up.
    pub simulated: bool,
    /// Samples of a run of the model.
    pub batch: u64,
    /// What the model takes.
    pub inputs: Vec<Slot>,
    /// Samples that were run, those that only fill up a batch left out.
    pub samples: u64,
    /// Batches that there were to run.
    pub batches: usize,
    /// The figures.
    pub figures: Figures,
    /// What ran, and why not everything did.
    pub ran: Ran,
    /// Files read and written, by sample.
    pub files: BTreeMap<String, SampleFiles>,
}

impl Report {
    /// Whether every batch was run.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ran.failure.is_none() && self.ran.finished == self.batches
    }

    /// The summary with the keys of `ais_bench`, and a few more. `args` are the flags.
    #[must_use]
    pub fn summary(&self, args: &impl Serialize) -> Value {
        let mut map = match serde_json::to_value(&self.figures) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let times: Vec<f32> = self.ran.times.iter().map(|t| t.compute).collect();
        map.insert("filesinfo".to_owned(), json!(self.files));
        map.insert("args".to_owned(), serde_json::to_value(args).unwrap_or_default());
        map.insert("npu_compute_time_list".to_owned(), json!(times));
        map.insert("pid".to_owned(), json!(std::process::id()));
        map.insert("device".to_owned(), json!(device_name(&self.device)));
        map.insert("batch".to_owned(), json!(self.batch));
        map.insert("batches_finished".to_owned(), json!(self.ran.finished));
        Value::Object(map)
    }

    /// The lines of `ais_bench`, with the device before them.
    #[must_use]
    pub fn text(&self, all: bool) -> String {
        let mut device = device_name(&self.device);
        if self.simulated {
            device += ": its times say nothing about an NPU";
        }
        let mut lines = vec![format!("[INFO] {device}")];
        lines.extend(self.figures.lines(self.batch, all));
        lines.join("\n")
    }
}

/// Samples of a batch: as the user says, else as the files do, else the first dimension of the first input.
fn batch_of(asked: Option<u64>, feed: &Feed, inputs: &[Slot]) -> u64 {
    let first = inputs.first().and_then(|slot| slot.dims.first()).copied();
    let files = feed.per_batch().filter(|&n| n > 1).map(|n| n as u64);
    asked.or(files).or(first.and_then(|n| u64::try_from(n).ok())).unwrap_or(1)
}

fn feed(interface: &Interface, source: &Source) -> Result<Feed> {
    match source {
        Source::Made { data, batches, target } => {
            Feed::made_up(interface, *data, *batches, target.as_ref())
        }
        Source::Files(parts) => Feed::of_files(interface, parts),
    }
}

/// What [`NpuError`]s and those of files have in common.
struct Failed(anyhow::Error);

impl From<NpuError> for Failed {
    fn from(error: NpuError) -> Failed {
        Failed(error.into())
    }
}

/// Runs a compiled model on devices. `batch` is what the user says a run has of samples.
///
/// # Errors
/// When the model cannot be loaded or the files do not go with it. What fails later is in the report.
pub fn run_compiled(
    runtime: &Arc<Runtime>,
    plan: &Plan<'_>,
    source: &Source,
    batch: Option<u64>,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Report> {
    let device = runtime.soc()?;
    let mut seen = None;
    let prepare = |interface: &Interface| {
        let made = feed(interface, source).map(Arc::new).map_err(Failed)?;
        let samples = batch_of(batch, &made, &interface.inputs);
        seen = Some((Arc::clone(&made), samples, interface.inputs.clone()));
        Ok(Shared(made))
    };
    let ran = onnxfix_npu::run(runtime, plan, prepare, stop, progress).map_err(|e: Failed| e.0)?;
    let (feed, batch, inputs) = seen.context("the model ran without work")?;
    let simulated = is_simulated(&device);
    Ok(report(device, simulated, (batch, inputs), feed, ran))
}

/// The feed, which the report needs once more after the run.
struct Shared(Arc<Feed>);

impl onnxfix_npu::Work for Shared {
    fn batches(&self) -> usize {
        self.0.batches()
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), onnxfix_npu::WorkError> {
        self.0.fill(batch, inputs)
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), onnxfix_npu::WorkError> {
        self.0.take(batch, outputs)
    }
}

fn report(
    device: String,
    simulated: bool,
    (batch, inputs): (u64, Vec<Slot>),
    feed: Arc<Feed>,
    ran: Ran,
) -> Report {
    let samples = feed.samples(ran.finished, batch).unwrap_or(ran.times.len() as u64 * batch);
    let figures = Figures::new(&ran.times, batch, samples, ran.seconds, simulated);
    let batches = feed.batches();
    let files = Arc::into_inner(feed).map(Feed::into_files).unwrap_or_default();
    Report { device, simulated, batch, inputs, samples, batches, figures, ran, files }
}

/// How a model runs on the CPU.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// Threads, with one batch each.
    pub threads: usize,
    /// Runs of each thread before those that count.
    pub warmups: usize,
    /// How often each batch runs.
    pub repeats: usize,
}

/// Runs a model that is not compiled, in tract. Its inputs have the dimensions of `specs`.
///
/// # Errors
/// When tract cannot run it, or the files do not go with it. What fails later is in the report.
pub fn run_on_cpu(
    model: &Subject,
    specs: &[InputSpec],
    cpu: Cpu,
    source: &Source,
    batch: Option<u64>,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Report> {
    let engine = verify::load(model, specs, verify::Plan::of(Lowering::Kernels))
        .with_context(|| format!("load {}", model.name))?;
    let slot = |spec: &InputSpec| Slot {
        name: spec.name.clone(),
        dtype: spec.dtype,
        dims: spec.dims.clone(),
    };
    let inputs: Vec<Slot> = specs.iter().map(slot).collect();
    // Only a run tells the dimensions of the outputs.
    let zeros: Vec<Vec<u8>> = specs.iter().map(cpu::zeros).collect();
    let results = cpu::compute(&engine, &zeros)
        .map_err(|e| anyhow::anyhow!(e))
        .with_context(|| format!("run {} on zeros", model.name))?;
    let named = engine.outputs().iter().zip(&results);
    let outputs: Vec<Slot> = named
        .map(|(spec, t)| Slot { name: spec.name.clone(), dtype: t.dtype, dims: t.dims.clone() })
        .collect();
    let interface = Interface { inputs, outputs };
    let feed = feed(&interface, source)?;
    let batch = batch_of(batch, &feed, &interface.inputs);
    let settings = (cpu.threads, cpu.warmups, cpu.repeats);
    let ran = cpu::run(&engine, &interface.outputs, &feed, settings, stop, progress);
    let device = "tract on the CPU".to_owned();
    Ok(report(device, false, (batch, interface.inputs), Arc::new(feed), ran))
}

/// What the model takes: the dimensions that it declares, those that the user gives, and for an open first one the batch, or 1.
///
/// # Errors
/// When a dimension is left open, or what is given contradicts the model.
pub fn input_specs(
    model: &Subject,
    shapes: &[InputShape],
    dims: &[DimBinding],
    batch: Option<u64>,
) -> Result<Vec<InputSpec>> {
    let model = &model.model;
    let inputs = verify::inputs(model);
    let known =
        |shape: &&InputShape| inputs.iter().any(|&v| model[v].name() == shape.name.as_str());
    if let Some(unknown) = shapes.iter().find(|shape| !known(shape)) {
        bail!("--input-shape: the model has no input {:?}", unknown.name);
    }
    let mut specs = Vec::with_capacity(inputs.len());
    for &input in &inputs {
        let name = model[input].name().to_string();
        let Some(dtype) = model[input].dtype() else {
            bail!("input {name:?} declares no type of elements");
        };
        let given = shapes.iter().find(|shape| shape.name == name).map(|shape| &shape.dims);
        let declared = match (model[input].shape(), given) {
            (Some(shape), Some(given)) if shape.rank() != given.len() => {
                bail!(
                    "--input-shape: {name:?} has {} dimensions, not {}",
                    shape.rank(),
                    given.len()
                )
            }
            (Some(shape), _) => shape.clone(),
            (None, Some(given)) => onnxfix_ir::Shape::unknown(given.len()),
            (None, None) => {
                bail!("input {name:?} declares no shape; give one: --input-shape {name}:1,256")
            }
        };
        let number = |symbol: &str| dims.iter().find(|d| d.symbol == symbol).map(|d| d.value);
        let mut numbers = Vec::with_capacity(declared.rank());
        for (axis, dim) in declared.0.iter().enumerate() {
            let open = || (axis == 0).then(|| batch.unwrap_or(1).cast_signed());
            let bound = || dim.replace_symbols(&number).fixed();
            let known = given.map(|given| given[axis]).or_else(|| dim.fixed());
            let Some(number) = known.or_else(bound).or_else(open) else {
                let flag = match dim {
                    Dim::Symbol(symbol) => format!("--dim {symbol}=N"),
                    _ => format!("--input-shape {name}:N,.."),
                };
                bail!("axis {axis} of input {name:?} is open; say how long it is: {flag}");
            };
            numbers.push(number);
        }
        specs.push(InputSpec { name, dtype, dims: numbers });
    }
    Ok(specs)
}

/// Whether a path is that of a compiled model.
#[must_use]
pub fn is_compiled(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("om"))
}
