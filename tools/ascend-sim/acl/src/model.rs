//! A model of the stand-in's ATC: what it takes and gives, and how it is run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ascendcl_sys::aclDataType;
use bytes::Bytes;
use onnxfix_engine::{Engine, InputSpec, Lowering, Request, Source};
use onnxfix_ir::{DataType, LoadOptions, Shape, Tensor, Type};

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

    /// Dimensions at a gear: samples are on the first axis.
    fn at(&self, gear: Option<u64>, largest: u64) -> Vec<i64> {
        let mut dims = self.dims.clone();
        if let (Some(gear), Some(first)) = (gear, dims.first_mut()) {
            *first = *first / largest.max(1).cast_signed() * gear.cast_signed();
        }
        dims
    }

    pub(crate) fn dims_at(&self, model: &Model, gear: Option<u64>) -> Vec<i64> {
        self.at(gear, model.largest())
    }

    pub(crate) fn acl_type(&self) -> aclDataType {
        acl_type(self.dtype)
    }
}

fn unreadable<T>(what: &str) -> Outcome<T> {
    failure(100_013, format!("E19999: the model: {what}"))
}

/// A compiled model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) soc: String,
    pub(crate) inputs: Vec<Io>,
    pub(crate) outputs: Vec<Io>,
    pub(crate) gears: Vec<u64>,
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
        let gears = om.description.gears;
        let root = model.root();
        if let Some(&largest) = gears.iter().max() {
            for input in model[root].inputs().to_vec() {
                let (Some(dtype), Some(shape)) = (model[input].dtype(), model[input].shape())
                else {
                    continue;
                };
                let mut dims = shape.0.clone();
                if let Some(first) = dims.first_mut().filter(|d| d.fixed().is_none()) {
                    *first = onnxfix_ir::Dim::Fixed(largest.cast_signed());
                }
                let ty = onnxfix_ir::TensorType { dtype, shape: Some(Shape(dims)) };
                model.set_type(input, Some(Type::Tensor(ty)));
            }
            onnxfix_ir::infer::forget_shapes(&mut model);
        }
        if let Err(error) = onnxfix_ir::infer::infer(&mut model) {
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
        let (inputs, outputs) = (ios(model[root].inputs())?, ios(model[root].outputs())?);
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

    pub(crate) fn largest(&self) -> u64 {
        self.gears.iter().copied().max().unwrap_or(1)
    }

    /// Makes ready what runs at a gear.
    pub(crate) fn prepare(&self, gear: Option<u64>) -> Outcome<Arc<Engine>> {
        let key = gear.unwrap_or(0);
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&key) {
            return Ok(Arc::clone(engine));
        }
        let spec = |io: &Io| InputSpec {
            name: io.name.clone(),
            dtype: io.dtype,
            dims: io.at(gear, self.largest()),
        };
        let inputs: Vec<InputSpec> = self.inputs.iter().map(spec).collect();
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
        gear: Option<u64>,
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
        for (io, &(address, _)) in self.inputs.iter().zip(inputs) {
            let dims = io.at(gear, self.largest());
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
