//! A model of the stand-in's ATC: what it takes and gives, and how it is run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ascendcl_sys::aclDataType;
use bytes::Bytes;
use onnxfix_engine::{Engine, InputSpec, Lowering, Request, Source};
use onnxfix_ir::{DataType, Dim, LoadOptions, Shape, Tensor, TensorType, Type};

use crate::faults::SETTINGS;
use crate::state::{Engines, Outcome, failure};

/// An input or output.
#[derive(Debug, Clone)]
pub(crate) struct Io {
    pub(crate) name: String,
    pub(crate) dtype: DataType,
    /// Dimensions at the largest gear.
    pub(crate) dims: Vec<i64>,
}

impl Io {
    pub(crate) fn bytes(&self) -> usize {
        let count: i64 = self.dims.iter().product();
        let bytes = self.dtype.byte_len(count.unsigned_abs()).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn acl_type(&self) -> aclDataType {
        acl_type(self.dtype)
    }
}

fn unreadable<T>(what: &str) -> Outcome<T> {
    failure(100_013, format!("E19999: the model: {what}"))
}

/// A size at which a model runs.
#[derive(Debug)]
pub(crate) struct Gear {
    /// Samples, where these are what is chosen.
    pub(crate) batch: Option<u64>,
    /// The dimensions of the inputs, and of the outputs that they lead to.
    pub(crate) inputs: Vec<Vec<i64>>,
    pub(crate) outputs: Vec<Vec<i64>>,
}

/// A compiled model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) soc: String,
    pub(crate) inputs: Vec<Io>,
    pub(crate) outputs: Vec<Io>,
    pub(crate) gears: Vec<Gear>,
    pub(crate) bytes: usize,
    onnx: Bytes,
    engines: Engines,
}

impl Model {
    /// Reads a file of the stand-in's ATC.
    pub(crate) fn load(path: &Path) -> Outcome<Model> {
        Model::of(ascend_sim_om::read(path))
    }

    /// Reads such a file that is in memory.
    pub(crate) fn parse(bytes: &[u8]) -> Outcome<Model> {
        Model::of(ascend_sim_om::parse(&Bytes::copy_from_slice(bytes)))
    }

    fn of(read: Result<ascend_sim_om::Om, ascend_sim_om::OmError>) -> Outcome<Model> {
        use ascend_sim_om::OmError;
        let om = match read {
            Ok(om) => om,
            Err(error) => {
                let code = match &error {
                    OmError::Io(_) => 145_002,
                    OmError::Truncated { .. } => 145_006,
                    OmError::Checksum => 545_003,
                    _ => 100_013,
                };
                return failure(code, format!("E19999: {error}"));
            }
        };
        let options = LoadOptions { drop_unknown: true, external_data: false };
        let mut model = match onnxfix_ir::from_bytes(om.onnx.clone(), None, &options) {
            Ok(loaded) => loaded.model,
            Err(error) => return unreadable(&error.to_string()),
        };
        let sizes = sizes(&model, &om.description)?;
        let mut gears = Vec::with_capacity(sizes.len());
        for (batch, dims) in sizes {
            let (inputs, outputs) = shapes_at(&mut model, &dims)?;
            let all = |ios: Vec<Io>| ios.into_iter().map(|io| io.dims).collect();
            gears.push(Gear { batch, inputs: all(inputs), outputs: all(outputs) });
        }
        let largest = largest(&gears).map(|at| gears[at].inputs.concat()).unwrap_or_default();
        let (inputs, outputs) = shapes_at(&mut model, &largest)?;
        let bytes = om.onnx.len();
        Ok(Model {
            soc: om.description.soc,
            inputs,
            outputs,
            gears,
            bytes,
            onnx: om.onnx,
            engines: Mutex::new(HashMap::new()),
        })
    }

    /// The gear where none is chosen; none for a model of one size.
    pub(crate) fn largest(&self) -> Option<usize> {
        largest(&self.gears)
    }

    /// The dimensions of an input at a gear.
    pub(crate) fn input_dims(&self, at: usize, gear: Option<usize>) -> &[i64] {
        match gear.and_then(|gear| self.gears.get(gear)) {
            Some(gear) => &gear.inputs[at],
            None => &self.inputs[at].dims,
        }
    }

    /// The dimensions of an output at a gear.
    pub(crate) fn output_dims(&self, at: usize, gear: Option<usize>) -> &[i64] {
        match gear.and_then(|gear| self.gears.get(gear)) {
            Some(gear) => &gear.outputs[at],
            None => &self.outputs[at].dims,
        }
    }

    /// The dimensions of an input, -1 where gears choose.
    pub(crate) fn open_dims(&self, at: usize) -> Vec<i64> {
        let mut dims = self.inputs[at].dims.clone();
        for (axis, dim) in dims.iter_mut().enumerate() {
            if self.gears.iter().any(|gear| gear.inputs[at][axis] != *dim) {
                *dim = -1;
            }
        }
        dims
    }

    /// Makes ready what runs at a gear.
    pub(crate) fn prepare(&self, gear: Option<usize>) -> Outcome<Arc<Engine>> {
        let key = gear.unwrap_or(0);
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&key) {
            return Ok(Arc::clone(engine));
        }
        let spec = |(at, io): (usize, &Io)| InputSpec {
            name: io.name.clone(),
            dtype: io.dtype,
            dims: self.input_dims(at, gear).to_vec(),
        };
        let inputs: Vec<InputSpec> = self.inputs.iter().enumerate().map(spec).collect();
        let request = Request {
            source: Source::Bytes(&self.onnx),
            inputs: &inputs,
            outputs: &[],
            lowering: Lowering::Kernels,
            keep: &[],
        };
        match Engine::load(&request) {
            Ok(engine) => {
                let engine = Arc::new(engine);
                engines.insert(key, Arc::clone(&engine));
                Ok(engine)
            }
            Err(error) => failure(545_001, format!("E19999: {error}")),
        }
    }

    /// Runs the model. Buffers are addresses and lengths of inputs and outputs, each at least as long as it must be.
    ///
    /// # Safety
    /// All buffers must be memory of that length that nobody else uses meanwhile.
    pub(crate) unsafe fn execute(
        &self,
        gear: Option<usize>,
        inputs: &[(usize, usize)],
        outputs: &[(usize, usize)],
    ) -> Outcome {
        if !SETTINGS.compute {
            for &(address, length) in outputs {
                // SAFETY: the caller vouches for the buffer.
                unsafe { (address as *mut u8).write_bytes(0, length) };
            }
            return Ok(());
        }
        let engine = self.prepare(gear)?;
        let failed = |what: String| failure(507_011, format!("EZ9999: {what}"));
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for (at, (io, &(address, _))) in self.inputs.iter().zip(inputs).enumerate() {
            let dims = self.input_dims(at, gear).to_vec();
            let length = Io { dims: dims.clone(), ..io.clone() }.bytes();
            // SAFETY: the caller vouches for the buffer, whose length was checked.
            let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, length) };
            match Tensor::from_raw(io.dtype, &dims, Bytes::copy_from_slice(bytes)) {
                Ok(tensor) => tensors.push(tensor),
                Err(error) => return failed(error.to_string()),
            }
        }
        let results = match engine.run(&tensors) {
            Ok(results) => results,
            Err(error) => return failed(error.to_string()),
        };
        for (result, &(address, length)) in results.iter().zip(outputs) {
            let raw = match result.raw() {
                Ok(raw) if raw.len() <= length => raw,
                Ok(raw) => return failed(format!("an output has {} bytes", raw.len())),
                Err(error) => return failed(error.to_string()),
            };
            // SAFETY: the caller vouches for the buffer, and the result fits.
            unsafe {
                std::ptr::copy_nonoverlapping(raw.as_ptr(), address as *mut u8, raw.len());
            }
        }
        Ok(())
    }
}

/// The position of the gear with most elements of inputs.
fn largest(gears: &[Gear]) -> Option<usize> {
    let elements =
        |gear: &Gear| -> i64 { gear.inputs.iter().map(|d| d.iter().product::<i64>()).sum() };
    (0..gears.len()).max_by_key(|&at| elements(&gears[at]))
}

/// The dimensions of all inputs, one behind the other, at each gear, with its number of samples where that is what is chosen.
fn sizes(
    model: &onnxfix_ir::Model,
    description: &ascend_sim_om::Description,
) -> Outcome<Vec<(Option<u64>, Vec<i64>)>> {
    let inputs = model[model.root()].inputs();
    let mut sizes: Vec<(Option<u64>, Vec<i64>)> = Vec::new();
    for &batch in &description.gears {
        let mut dims = Vec::new();
        for &input in inputs {
            let Some(shape) = model[input].shape() else {
                return unreadable(&format!("{:?} has no shape", model[input].name()));
            };
            for (axis, dim) in shape.0.iter().enumerate() {
                match dim.fixed() {
                    Some(dim) => dims.push(dim),
                    None if axis == 0 => dims.push(batch.cast_signed()),
                    None => return unreadable("an axis is open that gears do not choose"),
                }
            }
        }
        sizes.push((Some(batch), dims));
    }
    sizes.extend(description.dims.iter().map(|dims| (None, dims.clone())));
    Ok(sizes)
}

/// Inputs and outputs where all inputs together have these dimensions; where there are none, as the model has them.
fn shapes_at(model: &mut onnxfix_ir::Model, dims: &[i64]) -> Outcome<(Vec<Io>, Vec<Io>)> {
    let root = model.root();
    if !dims.is_empty() {
        let mut rest = dims.iter();
        for input in model[root].inputs().to_vec() {
            let (Some(dtype), Some(shape)) = (model[input].dtype(), model[input].shape()) else {
                return unreadable(&format!("{:?} has no shape", model[input].name()));
            };
            let rank = shape.rank();
            let own = Shape(rest.by_ref().take(rank).map(|&d| Dim::Fixed(d)).collect());
            if own.rank() != rank {
                return unreadable("a gear has fewer dimensions than the inputs");
            }
            let ty = TensorType { dtype, shape: Some(own) };
            model.set_type(input, Some(Type::Tensor(ty)));
        }
        onnxfix_ir::infer::forget_shapes(model);
    }
    if let Err(error) = onnxfix_ir::infer::infer(model) {
        return unreadable(&error.to_string());
    }
    let ios = |values: &[onnxfix_ir::ValueId]| {
        let io = |&value: &onnxfix_ir::ValueId| {
            let value = &model[value];
            match (value.dtype(), value.dims()) {
                (Some(dtype), Some(dims)) => {
                    Ok(Io { name: value.name().to_string(), dtype, dims: dims.to_vec() })
                }
                _ => unreadable(&format!("{:?} has no fixed shape", value.name())),
            }
        };
        values.iter().map(io).collect::<Outcome<Vec<Io>>>()
    };
    Ok((ios(model[root].inputs())?, ios(model[root].outputs())?))
}

fn acl_type(dtype: DataType) -> aclDataType {
    match dtype {
        DataType::Float => aclDataType::ACL_FLOAT,
        DataType::Float16 => aclDataType::ACL_FLOAT16,
        DataType::Bfloat16 => aclDataType::ACL_BF16,
        DataType::Double => aclDataType::ACL_DOUBLE,
        DataType::Int8 => aclDataType::ACL_INT8,
        DataType::Int16 => aclDataType::ACL_INT16,
        DataType::Int32 => aclDataType::ACL_INT32,
        DataType::Int64 => aclDataType::ACL_INT64,
        DataType::Uint8 => aclDataType::ACL_UINT8,
        DataType::Uint16 => aclDataType::ACL_UINT16,
        DataType::Uint32 => aclDataType::ACL_UINT32,
        DataType::Uint64 => aclDataType::ACL_UINT64,
        DataType::Bool => aclDataType::ACL_BOOL,
        _ => aclDataType::ACL_DT_UNDEFINED,
    }
}
