//! AscendCL's objects as types that release themselves, and the only place that calls it.
//!
//! Every object holds what it was made from, so that nothing is released before what needs it: a [`Slot`] its [`Model`], a
//! model its [`Context`], a context its [`Runtime`]. Objects of a context stay in the thread that opened it (they are not
//! `Send`), because the library demands that a model is loaded, run and unloaded in one context. A release that fails
//! cannot be an error of the caller: it is noted in the runtime, see [`Runtime::finish`].
#![expect(unsafe_code, reason = "calls a library in C")]

use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::FromRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ascendcl_sys::{
    ACL_DYNAMIC_AIPP_NAME, ACL_DYNAMIC_TENSOR_NAME, ACL_EVENT_TIME_LINE, ACL_MAX_DIM_CNT, Api,
    Error, aclDataBuffer, aclDataType, aclError, aclmdlBatch, aclmdlDataset, aclmdlDesc,
    aclmdlIODims, aclrtContext, aclrtEvent, aclrtMemAttr, aclrtMemMallocPolicy, aclrtMemcpyKind,
    aclrtStream,
};
use onnxfix_ir::DataType;
use onnxfix_samples::Slot as Tensor;

use crate::NpuError;

/// A call of AscendCL that failed.
pub type CallError = Error;

/// `aclInit` was called before, by somebody else in this process: no harm.
const REPEAT_INITIALIZE: aclError = 100_002;

/// Calls a function and turns its code into an error.
macro_rules! acl {
    ($runtime:expr, $name:ident($($arg:expr),* $(,)?)) => {{
        let api: &Api = &$runtime.api;
        // SAFETY: the handles are alive, since their owners are borrowed here, memory is as long as is said, and the
        // signature is that of the library (`tools/abi-check`).
        let code = unsafe { (api.$name)($($arg),*) };
        Error::check(api, stringify!($name), code)
    }};
}

/// AscendCL, initialized.
#[derive(Debug)]
pub struct Runtime {
    api: Api,
    /// Whether it is this program that has to finalize it.
    own: bool,
    version: (i32, i32, i32),
    failures: Mutex<Vec<Error>>,
}

impl Runtime {
    /// Loads the library and initializes it. `config` is a file of JSON for AscendCL itself, for profiling and dumps.
    ///
    /// # Errors
    /// When the library cannot be loaded, or refuses.
    pub fn start(library: &Path, config: Option<&Path>) -> Result<Arc<Runtime>, NpuError> {
        // SAFETY: whoever names a library vouches for it; the others come from CANN's own folders.
        let api = unsafe { Api::load(library) }?;
        let config = config.map(c_path).transpose()?;
        let config = config.as_ref().map_or(null(), |path| path.as_ptr());
        // SAFETY: a text that ends with a zero, or null.
        let code = unsafe { (api.aclInit)(config) };
        if code != REPEAT_INITIALIZE {
            Error::check(&api, "aclInit", code).map_err(NpuError::during("start AscendCL"))?;
        }
        let own = code != REPEAT_INITIALIZE;
        let mut runtime = Runtime { api, own, version: (0, 0, 0), failures: Mutex::default() };
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        acl!(runtime, aclrtGetVersion(&raw mut major, &raw mut minor, &raw mut patch))
            .map_err(NpuError::during("ask for the version of AscendCL"))?;
        runtime.version = (major, minor, patch);
        Ok(Arc::new(runtime))
    }

    /// Name of the chip, as ATC's `--soc_version` takes it. There must be a device.
    ///
    /// # Errors
    /// When the library does not know.
    pub fn soc(&self) -> Result<String, NpuError> {
        // SAFETY: the function takes nothing.
        let name = unsafe { (self.api.aclrtGetSocName)() };
        if name.is_null() {
            let error = Error::recent(&self.api, "aclrtGetSocName", None);
            return Err(NpuError::during("ask for the name of the chip")(error));
        }
        // SAFETY: not null, so a text of the library that ends with a zero and stays.
        Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Version of the interface; 1.13.0 is that of CANN 8.1.
    #[must_use]
    pub fn version(&self) -> (i32, i32, i32) {
        self.version
    }

    /// The library's file.
    #[must_use]
    pub fn library(&self) -> &Path {
        self.api.path()
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// When there is none, or the driver does not answer.
    pub fn devices(&self) -> Result<u32, NpuError> {
        let mut count = 0;
        acl!(self, aclrtGetDeviceCount(&raw mut count))
            .map_err(NpuError::during("count the devices"))?;
        Ok(count)
    }

    /// Ends AscendCL, and gives what failed to be released since it started. Everything else must have been dropped.
    #[must_use]
    pub fn finish(self: Arc<Runtime>) -> Vec<Error> {
        match Arc::into_inner(self) {
            Some(mut runtime) => {
                runtime.finalize();
                std::mem::take(runtime.failures.get_mut().unwrap_or_else(PoisonError::into_inner))
            }
            // Somebody still uses it, and ends it.
            None => Vec::new(),
        }
    }

    fn finalize(&mut self) {
        if std::mem::take(&mut self.own) {
            let outcome = acl!(self, aclFinalize());
            self.note(outcome);
        }
    }

    /// Notes that a release failed. One failure may make many releases fail alike, and is noted once.
    fn note(&self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if !failures.contains(&error) {
                failures.push(error);
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.finalize();
    }
}

fn c_path(path: &Path) -> Result<CString, NpuError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| NpuError::Path(path.to_owned()))
}

/// A device, opened by this thread, with a context of its own.
#[derive(Debug)]
pub struct Context {
    runtime: Arc<Runtime>,
    device: i32,
    handle: aclrtContext,
    /// Contexts belong to threads.
    _stays: PhantomData<*const ()>,
}

impl Context {
    /// Opens a device.
    ///
    /// # Errors
    /// When there is no such device, or it cannot be reached.
    pub fn open(runtime: &Arc<Runtime>, device: i32) -> Result<Rc<Context>, NpuError> {
        let what = || format!("open device {device}");
        acl!(runtime, aclrtSetDevice(device)).map_err(NpuError::during(what()))?;
        let mut handle = null_mut();
        if let Err(error) = acl!(runtime, aclrtCreateContext(&raw mut handle, device)) {
            runtime.note(acl!(runtime, aclrtResetDevice(device)));
            return Err(NpuError::during(what())(error));
        }
        Ok(Rc::new(Context { runtime: Arc::clone(runtime), device, handle, _stays: PhantomData }))
    }

    /// Number of the device.
    #[must_use]
    pub fn device(&self) -> i32 {
        self.device
    }

    /// Free and total bytes of the device.
    ///
    /// # Errors
    /// When the library does not tell.
    pub fn memory(&self) -> Result<(usize, usize), NpuError> {
        let (mut free, mut total) = (0, 0);
        acl!(
            self.runtime,
            aclrtGetMemInfo(aclrtMemAttr::ACL_DDR_MEM, &raw mut free, &raw mut total)
        )
        .map_err(NpuError::during("ask for the memory of the device"))?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.runtime.note(acl!(self.runtime, aclrtDestroyContext(self.handle)));
        self.runtime.note(acl!(self.runtime, aclrtResetDevice(self.device)));
    }
}

/// A stream with the times at which the last thing given to it began and ended.
#[derive(Debug)]
pub struct Lane {
    start: Event,
    end: Event,
    stream: Stream,
}

#[derive(Debug)]
struct Stream {
    cx: Rc<Context>,
    handle: aclrtStream,
}

#[derive(Debug)]
struct Event {
    cx: Rc<Context>,
    handle: aclrtEvent,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclrtDestroyStream(self.handle)));
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclrtDestroyEvent(self.handle)));
    }
}

impl Event {
    fn new(cx: &Rc<Context>) -> Result<Event, Error> {
        let mut handle = null_mut();
        acl!(cx.runtime, aclrtCreateEventWithFlag(&raw mut handle, ACL_EVENT_TIME_LINE))?;
        Ok(Event { cx: Rc::clone(cx), handle })
    }
}

impl Lane {
    /// A stream of a device.
    ///
    /// # Errors
    /// When the device has no more streams or events.
    pub fn new(cx: &Rc<Context>) -> Result<Rc<Lane>, NpuError> {
        let failed =
            |error| NpuError::during(format!("make a stream on device {}", cx.device))(error);
        let mut handle = null_mut();
        acl!(cx.runtime, aclrtCreateStream(&raw mut handle)).map_err(failed)?;
        let stream = Stream { cx: Rc::clone(cx), handle };
        let (start, end) = (Event::new(cx).map_err(failed)?, Event::new(cx).map_err(failed)?);
        Ok(Rc::new(Lane { start, end, stream }))
    }

    fn runtime(&self) -> &Runtime {
        &self.stream.cx.runtime
    }

    /// Gives the stream something to do, between its two events.
    fn give(&self, task: impl FnOnce(aclrtStream) -> Result<(), Error>) -> Result<(), Error> {
        let stream = self.stream.handle;
        acl!(self.runtime(), aclrtRecordEvent(self.start.handle, stream))?;
        task(stream)?;
        acl!(self.runtime(), aclrtRecordEvent(self.end.handle, stream))
    }

    fn wait(&self) -> Result<(), Error> {
        acl!(self.runtime(), aclrtSynchronizeStream(self.stream.handle))
    }

    /// Milliseconds between the two events.
    fn elapsed(&self) -> Result<f32, Error> {
        let mut ms = 0.0;
        let (start, end) = (self.start.handle, self.end.handle);
        acl!(self.runtime(), aclrtEventElapsedTime(&raw mut ms, start, end))?;
        Ok(ms)
    }
}

/// Memory of the device or, pinned, of the host.
#[derive(Debug)]
struct Memory {
    cx: Rc<Context>,
    address: NonNull<c_void>,
    len: usize,
    pinned: bool,
}

impl Memory {
    fn new(cx: &Rc<Context>, len: usize, pinned: bool) -> Result<Memory, Error> {
        let mut address = null_mut();
        // Nothing of no size can be had, but an input may be empty.
        let bytes = len.max(1);
        let name = if pinned {
            acl!(cx.runtime, aclrtMallocHost(&raw mut address, bytes))?;
            "aclrtMallocHost"
        } else {
            let policy = aclrtMemMallocPolicy::ACL_MEM_MALLOC_HUGE_FIRST;
            acl!(cx.runtime, aclrtMalloc(&raw mut address, bytes, policy))?;
            "aclrtMalloc"
        };
        let Some(address) = NonNull::new(address) else {
            return Err(Error::recent(&cx.runtime.api, name, None));
        };
        if pinned {
            // SAFETY: memory of the host, of that many bytes.
            unsafe { address.as_ptr().cast::<u8>().write_bytes(0, bytes) };
        }
        Ok(Memory { cx: Rc::clone(cx), address, len, pinned })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let (runtime, address) = (&self.cx.runtime, self.address.as_ptr());
        runtime.note(if self.pinned {
            acl!(runtime, aclrtFreeHost(address))
        } else {
            acl!(runtime, aclrtFree(address))
        });
    }
}

/// The description of a model.
#[derive(Debug)]
struct Desc {
    cx: Rc<Context>,
    handle: NonNull<aclmdlDesc>,
}

impl Drop for Desc {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclmdlDestroyDesc(self.handle.as_ptr())));
    }
}

/// A model in memory of a device.
#[derive(Debug)]
struct Loaded {
    cx: Rc<Context>,
    id: u32,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclmdlUnload(self.id)));
    }
}

/// The size at which a model with gears runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gear {
    /// Samples of a batch.
    Batch(u64),
    /// The dimensions of all inputs, one behind the other.
    Dims(Vec<i64>),
}

/// The sizes among which a model can choose when it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gears {
    /// One size only.
    None,
    /// Samples of a batch.
    Batch(Vec<u64>),
    /// The dimensions of all inputs, one behind the other.
    Dims(Vec<Vec<i64>>),
}

/// A compiled model that is loaded.
#[derive(Debug)]
pub struct Model {
    // Unloaded first, then its description goes.
    loaded: Loaded,
    desc: Desc,
    cx: Rc<Context>,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Bytes of every input and output at the largest gear, the input of the gears among them.
    input_bytes: Vec<usize>,
    output_bytes: Vec<usize>,
    gear_input: Option<usize>,
    gears: Gears,
    gear: Option<Gear>,
}

impl Model {
    /// Loads a model and chooses its gear: the one that is asked for, or the largest.
    ///
    /// # Errors
    /// When the device refuses the model, it has no such gear, or needs what is not supported here: sizes that are only known
    /// after a run, image preprocessing that is set at run time.
    pub fn load(cx: &Rc<Context>, path: &Path, gear: Option<Gear>) -> Result<Rc<Model>, NpuError> {
        let what = || format!("load {} on device {}", path.display(), cx.device);
        let mut id = 0;
        let name = c_path(path)?;
        acl!(cx.runtime, aclmdlLoadFromFile(name.as_ptr(), &raw mut id))
            .map_err(NpuError::during(what()))?;
        let loaded = Loaded { cx: Rc::clone(cx), id };
        // SAFETY: the function takes nothing.
        let handle = unsafe { (cx.runtime.api.aclmdlCreateDesc)() };
        let Some(handle) = NonNull::new(handle) else {
            let error = Error::recent(&cx.runtime.api, "aclmdlCreateDesc", None);
            return Err(NpuError::during(what())(error));
        };
        let desc = Desc { cx: Rc::clone(cx), handle };
        acl!(cx.runtime, aclmdlGetDesc(handle.as_ptr(), id)).map_err(NpuError::during(what()))?;

        let mut model = Model {
            loaded,
            desc,
            cx: Rc::clone(cx),
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_bytes: Vec::new(),
            output_bytes: Vec::new(),
            gear_input: None,
            gears: Gears::None,
            gear: None,
        };
        model.read_inputs()?;
        model.read_gears().map_err(NpuError::during(what()))?;
        model.choose(gear)?;
        model.read_outputs()?;
        Ok(Rc::new(model))
    }

    /// What it takes, at its gear, without the input of the gears.
    #[must_use]
    pub fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    /// What it gives, at its gear.
    #[must_use]
    pub fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    /// The sizes among which it can choose.
    #[must_use]
    pub fn gears(&self) -> &Gears {
        &self.gears
    }

    fn runtime(&self) -> &Runtime {
        &self.cx.runtime
    }

    fn read_inputs(&mut self) -> Result<(), NpuError> {
        let (api, desc) = (&self.cx.runtime.api, self.desc.handle.as_ptr());
        // SAFETY: the description is alive, here and below.
        let count = unsafe { (api.aclmdlGetNumInputs)(desc) };
        if count == 0 {
            let error = Error::recent(api, "aclmdlGetNumInputs", None);
            return Err(NpuError::during("ask for the model's inputs")(error));
        }
        for at in 0..count {
            // SAFETY: as above; the name is the description's and ends with a zero.
            let name = unsafe { lent((api.aclmdlGetInputNameByIndex)(desc, at)) };
            let Some(name) = name else {
                let error = Error::recent(api, "aclmdlGetInputNameByIndex", None);
                return Err(NpuError::during(format!("ask for input {at}"))(error));
            };
            // SAFETY: as above.
            let bytes = unsafe { (api.aclmdlGetInputSizeByIndex)(desc, at) };
            if bytes == 0 {
                return Err(self.no_size("input", &name, "aclmdlGetInputSizeByIndex"));
            }
            self.input_bytes.push(bytes);
            if name == ACL_DYNAMIC_TENSOR_NAME {
                self.gear_input = Some(at);
                continue;
            }
            if name == ACL_DYNAMIC_AIPP_NAME {
                return Err(NpuError::Unsupported(
                    "image preprocessing that is set at run time (dynamic AIPP)".to_owned(),
                ));
            }
            // SAFETY: as above.
            let ty = unsafe { (api.aclmdlGetInputDataType)(desc, at) };
            let dtype = self.dtype("aclmdlGetInputDataType", ty, &name)?;
            let mut dims = aclmdlIODims::default();
            acl!(self.cx.runtime, aclmdlGetInputDims(desc, at, &raw mut dims))
                .map_err(NpuError::during(format!("ask for input {at}")))?;
            self.inputs.push(Tensor { dtype, dims: dims_of(&dims), name });
        }
        match self.gear_input {
            // Inputs are read and written by their positions, and the library puts that of the gears last.
            Some(at) if at + 1 != count => Err(NpuError::Unsupported(format!(
                "a model with {ACL_DYNAMIC_TENSOR_NAME} as input {at} of {count}, where it should be the last"
            ))),
            _ => Ok(()),
        }
    }

    fn dtype(&self, call: &'static str, ty: aclDataType, name: &str) -> Result<DataType, NpuError> {
        if ty == aclDataType::ACL_DT_UNDEFINED {
            let error = Error::recent(&self.cx.runtime.api, call, None);
            return Err(NpuError::during(format!("ask for the type of {name:?}"))(error));
        }
        dtype(ty, name)
    }

    fn no_size(&self, kind: &str, name: &str, call: &'static str) -> NpuError {
        let error = Error::recent(&self.cx.runtime.api, call, None);
        if error.message.is_empty() {
            return NpuError::Unsupported(format!(
                "{kind} {name:?} has no size before the model runs (a range of shapes); compile the model for \
                 fixed shapes or for gears"
            ));
        }
        NpuError::during(format!("ask for {kind} {name:?}"))(error)
    }

    fn read_gears(&mut self) -> Result<(), Error> {
        if self.gear_input.is_none() {
            return Ok(());
        }
        let (runtime, desc) = (&self.cx.runtime, self.desc.handle.as_ptr());
        let mut batch = aclmdlBatch::default();
        acl!(runtime, aclmdlGetDynamicBatch(desc, &raw mut batch))?;
        if batch.batchCount > 0 {
            let count = batch.batchCount.min(batch.batch.len());
            self.gears = Gears::Batch(batch.batch[..count].to_vec());
            return Ok(());
        }
        let mut count = 0;
        acl!(runtime, aclmdlGetInputDynamicGearCount(desc, usize::MAX, &raw mut count))?;
        let mut gears = vec![aclmdlIODims::default(); count];
        acl!(runtime, aclmdlGetInputDynamicDims(desc, usize::MAX, gears.as_mut_ptr(), count))?;
        self.gears = Gears::Dims(gears.iter().map(dims_of).collect());
        Ok(())
    }

    /// Takes the gear that is asked for, or the largest, and gives the inputs its dimensions.
    fn choose(&mut self, asked: Option<Gear>) -> Result<(), NpuError> {
        self.gear = match (&self.gears, asked) {
            (Gears::None, None) => return Ok(()),
            (Gears::None, Some(_)) => return Err(NpuError::NoGears),
            (Gears::Batch(all), None) => all.iter().max().map(|&n| Gear::Batch(n)),
            (Gears::Dims(all), None) => {
                let size =
                    |dims: &&Vec<i64>| dims.iter().map(|d| d.unsigned_abs()).product::<u64>();
                all.iter().max_by_key(size).map(|dims| Gear::Dims(dims.clone()))
            }
            (Gears::Batch(all), Some(Gear::Batch(n))) if all.contains(&n) => Some(Gear::Batch(n)),
            (Gears::Dims(all), Some(Gear::Dims(dims))) if all.contains(&dims) => {
                Some(Gear::Dims(dims))
            }
            (all, Some(asked)) => return Err(NpuError::Gear { asked, all: all.clone() }),
        };
        let mut dims = match &self.gear {
            Some(Gear::Dims(dims)) => dims.iter(),
            _ => [].iter(),
        };
        for input in &mut self.inputs {
            for (axis, dim) in input.dims.iter_mut().enumerate() {
                match &self.gear {
                    Some(Gear::Batch(n)) if axis == 0 && *dim == -1 => *dim = n.cast_signed(),
                    Some(Gear::Dims(_)) => *dim = dims.next().copied().unwrap_or(*dim),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn read_outputs(&mut self) -> Result<(), NpuError> {
        let (api, desc) = (&self.cx.runtime.api, self.desc.handle.as_ptr());
        // SAFETY: the description is alive, here and below.
        let count = unsafe { (api.aclmdlGetNumOutputs)(desc) };
        if count == 0 {
            let error = Error::recent(api, "aclmdlGetNumOutputs", None);
            return Err(NpuError::during("ask for the model's outputs")(error));
        }
        for at in 0..count {
            // SAFETY: as above; the name is the description's and ends with a zero.
            let name = unsafe { lent((api.aclmdlGetOutputNameByIndex)(desc, at)) };
            let Some(name) = name else {
                let error = Error::recent(api, "aclmdlGetOutputNameByIndex", None);
                return Err(NpuError::during(format!("ask for output {at}"))(error));
            };
            // SAFETY: as above.
            let (bytes, ty) = unsafe {
                (
                    (api.aclmdlGetOutputSizeByIndex)(desc, at),
                    (api.aclmdlGetOutputDataType)(desc, at),
                )
            };
            if bytes == 0 {
                return Err(self.no_size("output", &name, "aclmdlGetOutputSizeByIndex"));
            }
            let dtype = self.dtype("aclmdlGetOutputDataType", ty, &name)?;
            let mut dims = aclmdlIODims::default();
            acl!(self.cx.runtime, aclmdlGetOutputDims(desc, at, &raw mut dims))
                .map_err(NpuError::during(format!("ask for output {at}")))?;
            self.output_bytes.push(bytes);
            self.outputs.push(Tensor { dtype, dims: dims_of(&dims), name });
        }
        Ok(())
    }

    /// Tells the library the gear of a data set, and learns the outputs' dimensions from it.
    fn set_gear(&self, inputs: *mut aclmdlDataset) -> Result<(), Error> {
        let (Some(index), Some(gear)) = (self.gear_input, &self.gear) else { return Ok(()) };
        match gear {
            Gear::Batch(batch) => {
                acl!(
                    self.runtime(),
                    aclmdlSetDynamicBatchSize(self.loaded.id, inputs, index, *batch)
                )
            }
            Gear::Dims(dims) => {
                let count = dims.len().min(ACL_MAX_DIM_CNT);
                let mut io = aclmdlIODims { dimCount: count, ..aclmdlIODims::default() };
                io.dims[..count].copy_from_slice(&dims[..count]);
                let id = self.loaded.id;
                acl!(self.runtime(), aclmdlSetInputDynamicDims(id, inputs, index, &raw const io))
            }
        }
    }

    /// What it gives at its gear. To be asked after a gear was set.
    fn current_outputs(&self) -> Result<Vec<Tensor>, Error> {
        let mut outputs = self.outputs.clone();
        if self.gear.is_some() {
            for (at, output) in outputs.iter_mut().enumerate() {
                let mut dims = aclmdlIODims::default();
                let desc = self.desc.handle.as_ptr();
                acl!(self.runtime(), aclmdlGetCurOutputDims(desc, at, &raw mut dims))?;
                output.dims = dims_of(&dims);
            }
        }
        Ok(outputs)
    }
}

/// A copy of a text of the library.
///
/// # Safety
/// It must be null, or end with a zero.
unsafe fn lent(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: the caller vouches for it.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

fn dims_of(dims: &aclmdlIODims) -> Vec<i64> {
    dims.dims[..dims.dimCount.min(ACL_MAX_DIM_CNT)].to_vec()
}

fn dtype(ty: aclDataType, name: &str) -> Result<DataType, NpuError> {
    Ok(match ty {
        aclDataType::ACL_FLOAT => DataType::Float,
        aclDataType::ACL_FLOAT16 => DataType::Float16,
        aclDataType::ACL_DOUBLE => DataType::Double,
        aclDataType::ACL_INT8 => DataType::Int8,
        aclDataType::ACL_INT16 => DataType::Int16,
        aclDataType::ACL_INT32 => DataType::Int32,
        aclDataType::ACL_INT64 => DataType::Int64,
        aclDataType::ACL_UINT8 => DataType::Uint8,
        aclDataType::ACL_UINT16 => DataType::Uint16,
        aclDataType::ACL_UINT32 => DataType::Uint32,
        aclDataType::ACL_UINT64 => DataType::Uint64,
        aclDataType::ACL_BOOL => DataType::Bool,
        _ => {
            return Err(NpuError::Unsupported(format!(
                "elements of AscendCL's type {} in {name:?}",
                ty.0
            )));
        }
    })
}

/// Inputs or outputs of a run on the device: memory, its descriptions, and the data set of these.
#[derive(Debug)]
struct Bound {
    // Released in this order.
    dataset: Dataset,
    buffers: Vec<DataBuffer>,
    memory: Vec<Memory>,
}

#[derive(Debug)]
struct Dataset {
    cx: Rc<Context>,
    handle: NonNull<aclmdlDataset>,
}

#[derive(Debug)]
struct DataBuffer {
    cx: Rc<Context>,
    handle: NonNull<aclDataBuffer>,
}

impl Drop for Dataset {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclmdlDestroyDataset(self.handle.as_ptr())));
    }
}

impl Drop for DataBuffer {
    fn drop(&mut self) {
        let runtime = &self.cx.runtime;
        runtime.note(acl!(runtime, aclDestroyDataBuffer(self.handle.as_ptr())));
    }
}

impl Bound {
    fn new(cx: &Rc<Context>, sizes: &[usize]) -> Result<Bound, Error> {
        let memory = sizes.iter().map(|&size| Memory::new(cx, size, false));
        let memory = memory.collect::<Result<Vec<_>, _>>()?;
        let mut buffers = Vec::with_capacity(sizes.len());
        let api = &cx.runtime.api;
        for one in &memory {
            // SAFETY: the memory is alive, and outlives the description.
            let handle = unsafe { (api.aclCreateDataBuffer)(one.address.as_ptr(), one.len) };
            let Some(handle) = NonNull::new(handle) else {
                return Err(Error::recent(api, "aclCreateDataBuffer", None));
            };
            buffers.push(DataBuffer { cx: Rc::clone(cx), handle });
        }
        // SAFETY: the function takes nothing.
        let handle = unsafe { (api.aclmdlCreateDataset)() };
        let Some(handle) = NonNull::new(handle) else {
            return Err(Error::recent(api, "aclmdlCreateDataset", None));
        };
        let dataset = Dataset { cx: Rc::clone(cx), handle };
        for buffer in &buffers {
            acl!(cx.runtime, aclmdlAddDatasetBuffer(handle.as_ptr(), buffer.handle.as_ptr()))?;
        }
        Ok(Bound { dataset, buffers, memory })
    }

    fn handle(&self) -> *mut aclmdlDataset {
        debug_assert_eq!(self.buffers.len(), self.memory.len());
        self.dataset.handle.as_ptr()
    }
}

/// All that one run of a model needs: pinned memory of the host and memory of the device for inputs and outputs.
///
/// What is begun on a [`Lane`] is going on until [`Slot::wait`]; meanwhile the slot gives nothing of its memory away, and
/// when it is dropped it waits first.
#[derive(Debug)]
pub struct Slot {
    flight: Option<Rc<Lane>>,
    inputs: Bound,
    outputs: Bound,
    host_inputs: Vec<Memory>,
    host_outputs: Vec<Memory>,
    output_specs: Vec<Tensor>,
    model: Rc<Model>,
}

impl Slot {
    /// Memory for one run at the model's gear.
    ///
    /// # Errors
    /// When the device or the host has not enough of it.
    pub fn new(model: &Rc<Model>) -> Result<Slot, NpuError> {
        let cx = &model.cx;
        let failed = |e| NpuError::during(format!("reserve memory on device {}", cx.device))(e);
        let inputs = Bound::new(cx, &model.input_bytes).map_err(failed)?;
        let outputs = Bound::new(cx, &model.output_bytes).map_err(failed)?;
        model.set_gear(inputs.handle()).map_err(NpuError::during("choose the gear"))?;
        let output_specs =
            model.current_outputs().map_err(NpuError::during("ask for the outputs"))?;
        let pinned = |specs: &[Tensor], most: &[usize]| {
            let sizes = specs.iter().zip(most).map(|(spec, &most)| bytes(spec).min(most));
            sizes.map(|size| Memory::new(cx, size, true)).collect::<Result<Vec<_>, _>>()
        };
        let host_inputs = pinned(&model.inputs, &model.input_bytes).map_err(failed)?;
        let host_outputs = pinned(&output_specs, &model.output_bytes).map_err(failed)?;
        Ok(Slot {
            flight: None,
            inputs,
            outputs,
            host_inputs,
            host_outputs,
            output_specs,
            model: Rc::clone(model),
        })
    }

    /// What a run gives.
    #[must_use]
    pub fn outputs(&self) -> &[Tensor] {
        &self.output_specs
    }

    fn ensure_landed(&self) {
        assert!(self.flight.is_none(), "memory that a stream uses is not to be touched");
    }

    /// The host's memory of all inputs: packed elements.
    ///
    /// # Panics
    /// While something is going on.
    pub fn inputs_mut(&mut self) -> Vec<&mut [u8]> {
        self.ensure_landed();
        let bytes = |memory: &mut Memory| {
            // SAFETY: memory of the host, of that length, written when it was made, and nobody else uses it now. The
            // parts of a list do not overlap.
            unsafe { std::slice::from_raw_parts_mut(memory.address.as_ptr().cast(), memory.len) }
        };
        self.host_inputs.iter_mut().map(bytes).collect()
    }

    /// The host's memory of all outputs: packed elements.
    ///
    /// # Panics
    /// While something is going on.
    #[must_use]
    pub fn outputs_data(&self) -> Vec<&[u8]> {
        self.ensure_landed();
        let bytes = |memory: &Memory| {
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts(memory.address.as_ptr().cast(), memory.len) }
        };
        self.host_outputs.iter().map(bytes).collect()
    }

    /// Begins to copy the inputs to the device.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn begin_upload(&mut self, lane: &Rc<Lane>) -> Result<(), Error> {
        self.begin(lane, |slot, stream| slot.copy(true, Some(stream)))
    }

    /// Begins to run the model.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn begin_execute(&mut self, lane: &Rc<Lane>) -> Result<(), Error> {
        self.begin(lane, |slot, stream| {
            let (inputs, outputs) = (slot.inputs.handle(), slot.outputs.handle());
            let (runtime, id) = (slot.model.runtime(), slot.model.loaded.id);
            acl!(runtime, aclmdlExecuteAsync(id, inputs, outputs, stream))
        })
    }

    /// Begins to copy the outputs to the host.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn begin_download(&mut self, lane: &Rc<Lane>) -> Result<(), Error> {
        self.begin(lane, |slot, stream| slot.copy(false, Some(stream)))
    }

    fn begin(
        &mut self,
        lane: &Rc<Lane>,
        task: impl FnOnce(&Slot, aclrtStream) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.ensure_landed();
        // Even a task that is refused may have begun in part.
        self.flight = Some(Rc::clone(lane));
        lane.give(|stream| task(self, stream))
    }

    /// Waits for what was begun, and tells how many milliseconds it took on the device.
    ///
    /// # Errors
    /// When it failed.
    pub fn wait(&mut self) -> Result<f32, Error> {
        let Some(lane) = self.flight.clone() else { return Ok(0.0) };
        lane.wait()?;
        self.flight = None;
        lane.elapsed()
    }

    /// Copies the inputs to the device, and tells how many milliseconds that took.
    ///
    /// # Errors
    /// When it failed.
    pub fn upload(&mut self) -> Result<f32, Error> {
        self.ensure_landed();
        timed(|| self.copy(true, None))
    }

    /// Runs the model and waits for it, and tells how many milliseconds that took, as seen by the host.
    ///
    /// # Errors
    /// When it failed.
    pub fn execute(&mut self) -> Result<f32, Error> {
        self.ensure_landed();
        let (inputs, outputs) = (self.inputs.handle(), self.outputs.handle());
        let (runtime, id) = (self.model.runtime(), self.model.loaded.id);
        timed(|| acl!(runtime, aclmdlExecute(id, inputs, outputs)))
    }

    /// Copies the outputs to the host, and tells how many milliseconds that took.
    ///
    /// # Errors
    /// When it failed.
    pub fn download(&mut self) -> Result<f32, Error> {
        self.ensure_landed();
        timed(|| self.copy(false, None))
    }

    /// Copies all inputs to the device, or all outputs from it.
    fn copy(&self, up: bool, stream: Option<aclrtStream>) -> Result<(), Error> {
        let (host, device, kind) = if up {
            (&self.host_inputs, &self.inputs, aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE)
        } else {
            (&self.host_outputs, &self.outputs, aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_HOST)
        };
        let runtime = self.model.runtime();
        for (host, device) in host.iter().zip(&device.memory).filter(|(host, _)| host.len > 0) {
            let (to, from) = if up { (device, host) } else { (host, device) };
            let (to, room, from) =
                (to.address.as_ptr(), to.len, from.address.as_ptr().cast_const());
            match stream {
                Some(stream) => {
                    acl!(runtime, aclrtMemcpyAsync(to, room, from, host.len, kind, stream))?;
                }
                None => acl!(runtime, aclrtMemcpy(to, room, from, host.len, kind))?,
            }
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(lane) = self.flight.take() {
            lane.runtime().note(lane.wait());
        }
    }
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<f32, Error> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f32() * 1e3)
}

/// Bytes of a tensor.
pub(crate) fn bytes(spec: &Tensor) -> usize {
    let count = spec.len().and_then(|n| u64::try_from(n).ok());
    let bytes = count.and_then(|n| spec.dtype.byte_len(n));
    bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Lets whatever writes to the process's stdout write to its stderr from now on, and gives what was stdout.
///
/// AscendCL and the libraries below it print, also when they are unloaded and at exit, and would spoil a result there.
///
/// # Errors
/// When the process has no stdout or stderr.
pub fn divert_stdout() -> std::io::Result<File> {
    let failed = std::io::Error::last_os_error;
    // SAFETY: these calls take numbers of files and have no other conditions; C's own buffer is emptied to where it belongs.
    let real = unsafe {
        libc::fflush(null_mut());
        libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3)
    };
    if real < 0 {
        return Err(failed());
    }
    // SAFETY: the file was opened here and is nobody else's.
    let file = unsafe { File::from_raw_fd(real) };
    // SAFETY: as above.
    if unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } < 0 {
        return Err(failed());
    }
    Ok(file)
}
