//! The CPU engine: runs whole ONNX models with tract.
//!
//! The engine is the judge of what the passes did, so it shares nothing with them. It decodes the file with tract's own
//! reader, its operators and shape inference are tract's, and no code of `onnxfix-ir` evaluates anything here; only the
//! tensors that go in and come out are of that crate. What is done to a model before tract sees it is little and listed
//! in `read`: calls of the model's own functions are replaced by their bodies. Large weights take a shorter way from the file
//! (`weights`), and float16 is float32 that is rounded behind every node (`rounding`).
//!
//! tract's graph optimiser is not used but to measure it ([`Lowering::Optimizer`]). Choosing kernels ([`Lowering::Kernels`]) brings all of the speed on transformer
//! models, while the rewrites before it fail on some valid graphs (a strided Slice behind a Reshape) and are one more
//! thing that could be wrong. [`Lowering::Plain`] does not even choose kernels: slower, and a second opinion.

mod error;
mod external;
mod read;
mod rounding;
mod tensor;
#[cfg(test)]
mod tests;
mod weights;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use onnxfix_ir::{DataType, Tensor};
use tract_onnx::prelude::{
    DatumType, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor as TractTensor, TypedModel,
};
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::internal::{InferenceFact, TractResult, TypedRunnableModel};

pub use error::{EngineError, Missing};
pub use rounding::Rounded;

/// Where a model is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An ONNX file. External data are looked for in its folder, as the format says.
    File(&'a Path),
    /// The bytes of an ONNX file without external data.
    Bytes(&'a [u8]),
}

/// Element type and dimensions that an input has in one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Name of the input.
    pub name: String,
    /// Type of the elements.
    pub dtype: DataType,
    /// Dimensions. They override what the file declares, symbols and numbers alike.
    pub dims: Vec<i64>,
}

/// An output of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name of the output.
    pub name: String,
    /// Type of the elements.
    pub dtype: DataType,
}

/// How the model is prepared before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// Matrix products and the like go to the machine's kernels. Falls back to [`Lowering::Plain`] by itself.
    #[default]
    Kernels,
    /// Every operator runs as it was read.
    Plain,
    /// tract as its users run it: its own graph optimiser, which fails on some models, and then kernels.
    Optimizer,
    /// As [`Lowering::Kernels`], with every value rounded to float16 before anything reads it: inputs, constants, and what
    /// each node makes. Sums keep their digits, as in a matrix unit. [`Engine::rounded`] says what got lost.
    Half,
}

/// What to load.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where the model is.
    pub source: Source<'a>,
    /// Every input of the model, in the order in which [`Engine::run`] gets them.
    pub inputs: &'a [InputSpec],
    /// Values to return instead of the model's outputs; empty for the outputs. What they do not need is not computed.
    pub outputs: &'a [String],
    /// How to prepare it.
    pub lowering: Lowering,
    /// Names of nodes that [`Lowering::Half`] leaves in float32.
    pub keep: &'a [String],
}

/// A model ready to run with inputs of one shape.
///
/// Several threads may run one engine at the same time; every run has its own state.
pub struct Engine {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<InputSpec>,
    /// For every input of the plan, its position in `inputs`.
    order: Vec<usize>,
    /// The type in which the plan takes each of its inputs.
    takes: Vec<DatumType>,
    outputs: Vec<OutputSpec>,
    /// What is rounded to float16.
    sites: rounding::Sites,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads a model and prepares it for inputs of these types and dimensions.
    ///
    /// # Errors
    /// When the file cannot be read, an input is wrong or missing, or tract lacks an operator or refuses the model.
    pub fn load(request: &Request<'_>) -> Result<Engine, EngineError> {
        guarded(|| load(request))
    }

    /// The inputs in the order of [`Engine::run`].
    #[must_use]
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// The outputs in the order of [`Engine::run`].
    #[must_use]
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.outputs
    }

    /// The values that [`Lowering::Half`] rounds, in the order of the graph, and what that did in all runs so far. Empty under
    /// any other.
    #[must_use]
    pub fn rounded(&self) -> Vec<Rounded> {
        self.sites.counted()
    }

    /// Runs the model once.
    ///
    /// # Errors
    /// When an input has another type or other dimensions than the plan, or tract cannot run a node.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        if inputs.len() != self.inputs.len() {
            return Err(EngineError::Count { want: self.inputs.len(), have: inputs.len() });
        }
        for (spec, tensor) in self.inputs.iter().zip(inputs) {
            if spec.dtype != tensor.dtype || spec.dims != tensor.dims {
                return Err(EngineError::Feed {
                    name: spec.name.clone(),
                    want: (spec.dtype, spec.dims.clone()),
                    have: (tensor.dtype, tensor.dims.clone()),
                });
            }
        }
        guarded(|| {
            let mut feeds: TVec<TValue> = TVec::new();
            for (slot, &at) in self.order.iter().enumerate() {
                feeds.push(tensor::to_tract(&inputs[at], self.takes[slot])?.into());
            }
            let values = self.plan.run(feeds).map_err(|e| EngineError::refused("run", &e))?;
            let typed = values.iter().zip(&self.outputs);
            typed.map(|(value, spec)| tensor::from_tract(value, spec.dtype)).collect()
        })
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread will become an [`EngineError`], so that a panic hook has nothing to tell.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// tract is a large body of code with assertions of its own: one that fails must become an error, not end the program.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    outcome.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message =
            message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(EngineError::Panic { message: message.to_owned() })
    })
}

fn load(request: &Request<'_>) -> Result<Engine, EngineError> {
    // Shapes written in the file are claims of its exporter, and stale ones are common. Inference finds the real ones.
    let mut onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let (mut proto, mut weights) = read::decode(&onnx, request.source)?;
    read::prepare(&onnx, &mut proto)?;
    let names: Vec<String> = match (&proto.graph, request.outputs) {
        (Some(graph), []) => graph.output.iter().map(|o| o.name.clone()).collect(),
        (_, asked) => asked.to_vec(),
    };
    let mut sites = rounding::Sites::default();
    let halves = proto.graph.iter().flat_map(|graph| &graph.output).filter(|o| read::is_half(o));
    let halves: Vec<String> = halves.map(|o| o.name.clone()).collect();
    if request.lowering == Lowering::Half {
        rounding::register(&mut onnx);
        sites = rounding::insert(&mut proto, &mut weights, request.keep);
    }
    let parsed = onnx.parse(&proto, None).map_err(|e| EngineError::refused("read", &e))?;
    drop(proto);
    sites.find(&parsed.model);
    let is_weight = |name: &&String| weights.iter().any(|weight| weight.name == **name);
    if let Some(name) = parsed.unresolved_inputs.iter().find(|name| !is_weight(name)) {
        return Err(EngineError::Undefined { name: name.clone() });
    }
    let mut model = parsed.model;
    let refused = |e| EngineError::refused("prepare", &e);
    if let Source::File(path) = request.source {
        let outlet = |name: &str| parsed.outlets_by_name.get(name).copied();
        weights::place(&mut model, &weights, path, request.lowering == Lowering::Half, outlet)?;
    }

    let sources = model.input_outlets().map_err(refused)?.to_vec();
    let mut order = Vec::with_capacity(sources.len());
    for (slot, source) in sources.iter().enumerate() {
        let name = rounding::name_in_file(&model.node(source.node).name);
        let Some(at) = request.inputs.iter().position(|spec| spec.name == *name) else {
            return Err(EngineError::NotFed { name: name.to_owned() });
        };
        let spec = &request.inputs[at];
        let dtype = match (request.lowering, spec.dtype) {
            (Lowering::Half, DataType::Float16) => DatumType::F32,
            (_, dtype) => tensor::to_datum_type(dtype)?,
        };
        let fact = InferenceFact::dt_shape(dtype, tensor::to_shape(&spec.dims)?);
        model.set_input_fact(slot, fact).map_err(refused)?;
        order.push(at);
    }
    if let Some(extra) = (0..request.inputs.len()).find(|at| !order.contains(at)) {
        return Err(EngineError::NoSuchInput { name: request.inputs[extra].name.clone() });
    }
    if !request.outputs.is_empty() {
        let mut outlets = Vec::with_capacity(names.len());
        for name in &names {
            let outlet = parsed.outlets_by_name.get(name);
            outlets.push(*outlet.ok_or_else(|| EngineError::Undefined { name: name.clone() })?);
        }
        model.select_output_outlets(&outlets).map_err(refused)?;
    }
    for slot in 0..names.len() {
        model.set_output_fact(slot, InferenceFact::default()).map_err(refused)?;
    }

    let mut typed = model.into_typed().map_err(refused)?;
    let mut declared = Vec::with_capacity(names.len());
    for (slot, name) in names.iter().enumerate() {
        let fact = typed.output_fact(slot).map_err(refused)?;
        declared.push(match (request.lowering, fact.datum_type) {
            // Computed in float32 like everything, but the model declares float16.
            (Lowering::Half, DatumType::F32) if halves.contains(name) => DataType::Float16,
            (_, dtype) => tensor::from_datum_type(dtype)?,
        });
    }
    if request.lowering == Lowering::Optimizer {
        typed = typed.into_decluttered().map_err(refused)?;
    }
    let plan = match request.lowering {
        Lowering::Plain => plan(typed),
        Lowering::Kernels | Lowering::Optimizer | Lowering::Half => {
            let mut lowered = typed.clone();
            let prepared = lowered.optimize().and_then(|()| match request.lowering {
                Lowering::Optimizer => Ok(()),
                _ => straighten(&mut lowered),
            });
            match prepared.and_then(|()| lowered.into_runnable()) {
                Ok(runnable) => Ok(runnable),
                Err(error) => {
                    tracing::debug!("tract chose no kernels: {error:#}");
                    plan(typed)
                }
            }
        }
    }?;
    let outputs =
        names.into_iter().zip(declared).map(|(name, dtype)| OutputSpec { name, dtype }).collect();
    let takes = (0..order.len()).map(|slot| Ok(plan.model().input_fact(slot)?.datum_type));
    let takes = takes.collect::<TractResult<_>>().map_err(refused)?;
    Ok(Engine { plan, inputs: request.inputs.to_vec(), order, takes, outputs, sites })
}

/// tract adds axes to a constant without counting its strides anew, takes it for one that is not contiguous, and is several
/// times slower in arithmetic with it.
fn straighten(model: &mut TypedModel) -> TractResult<()> {
    for node in &mut model.nodes {
        let Some(tensor) = node.op_as::<Const>().map(Const::val) else { continue };
        let natural = TractTensor::natural_strides(tensor.shape());
        let axes = tensor.shape().iter().zip(tensor.strides()).zip(&natural);
        let contiguous =
            axes.clone().all(|((&dim, stride), natural)| dim == 1 || stride == natural);
        if !contiguous || axes.clone().all(|((_, stride), natural)| stride == natural) {
            continue;
        }
        let (mut counted, shape) = (TractTensor::clone(tensor), TVec::from(tensor.shape()));
        // Only another shape makes tract count.
        let all = counted.len();
        counted.set_shape(&[all, 1, 1])?;
        counted.set_shape(&shape)?;
        node.op = Box::new(Const::new(Arc::new(counted))?);
    }
    Ok(())
}

fn plan(model: TypedModel) -> Result<Arc<TypedRunnableModel>, EngineError> {
    model.into_runnable().map_err(|e| EngineError::refused("prepare", &e))
}
