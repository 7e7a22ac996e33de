//! The functions, in the order in which a program meets them.

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::types::{
    CType, aclDataBuffer, aclDataType, aclError, aclFormat, aclTensorDesc, aclmdlBatch,
    aclmdlDataset, aclmdlDesc, aclmdlIODims, aclrtContext, aclrtEvent, aclrtMemAttr,
    aclrtMemMallocPolicy, aclrtMemcpyKind, aclrtRunMode, aclrtStream,
};

/// Why the library cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The loader refuses it: it is not there, or lacks a library that it needs.
    #[error("load {}", path.display())]
    Open {
        /// The file, or the name that the loader looked for.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// It is another library, or of a release before 5.0.
    #[error("{} has no function {name}: it is not AscendCL, or older than CANN 5.0", path.display())]
    Symbol {
        /// The file.
        path: PathBuf,
        /// The function.
        name: &'static str,
    },
}

/// A function of the library, to compare it with a header.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Whether only some releases have it.
    pub optional: bool,
    /// Its prototype in C, ended by a semicolon.
    pub prototype: fn() -> String,
}

fn prototype(result: &str, name: &str, parameters: &[String]) -> String {
    match parameters {
        [] => format!("{result} {name}(void);"),
        _ => format!("{result} {name}({});", parameters.join(", ")),
    }
}

macro_rules! functions {
    (
        required { $($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty;)* }
        optional { $($(#[$odoc:meta])* $oname:ident($($oarg:ident: $oty:ty),* $(,)?) -> $oret:ty;)* }
    ) => {
        /// The library's functions. It stays loaded until the process ends, because unloading it is not safe.
        ///
        /// None of them may be called before [`aclInit`](Api::aclInit) or after [`aclFinalize`](Api::aclFinalize), but for those of errors and
        /// versions. Sizes are in bytes.
        #[derive(Debug)]
        pub struct Api {
            path: PathBuf,
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($arg: $ty),*) -> $ret,)*
            $($(#[$odoc])* pub $oname: Option<unsafe extern "C" fn($($oarg: $oty),*) -> $oret>,)*
        }

        /// Every function that is loaded.
        pub const FUNCTIONS: &[Function] = &[
            $(Function {
                name: stringify!($name),
                optional: false,
                prototype: || prototype(
                    &<$ret as CType>::spelling(),
                    stringify!($name),
                    &[$(<$ty as CType>::spelling()),*],
                ),
            },)*
            $(Function {
                name: stringify!($oname),
                optional: true,
                prototype: || prototype(
                    &<$oret as CType>::spelling(),
                    stringify!($oname),
                    &[$(<$oty as CType>::spelling()),*],
                ),
            },)*
        ];

        impl Api {
            /// Loads the library. Its symbols become visible to the plugins that it loads itself.
            ///
            /// # Errors
            /// When the loader refuses it, or it lacks a function that every release has.
            ///
            /// # Safety
            /// The file must be AscendCL: its code runs as it is loaded, and its functions must have the signatures
            /// declared here.
            pub unsafe fn load(path: &Path) -> Result<Api, LoadError> {
                // SAFETY: the caller vouches for what runs when the library is loaded.
                let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
                let library = library
                    .map_err(|source| LoadError::Open { path: path.to_owned(), source })?;
                let missing = |name| move |_| LoadError::Symbol { path: path.to_owned(), name };
                let api = Api {
                    path: path.to_owned(),
                    // SAFETY: the caller vouches for the signature.
                    $($name: *unsafe { library.get(stringify!($name)) }
                        .map_err(missing(stringify!($name)))?,)*
                    // SAFETY: as above.
                    $($oname: unsafe { library.get(stringify!($oname)) }.ok().map(|symbol| *symbol),)*
                };
                std::mem::forget(library);
                Ok(api)
            }

            /// The file, or the name that the loader found it by.
            #[must_use]
            pub fn path(&self) -> &Path {
                &self.path
            }
        }
    };
}

functions! {
    required {
        /// Starts AscendCL in this process, once. A configuration file (JSON) can switch on profiling and dumps; null
        /// for none. A second call gives 100002, which does no harm.
        aclInit(config: *const c_char) -> aclError;
        /// Ends it. To be called before the process exits, after everything is released, never from a destructor that runs
        /// at exit. May wait up to two seconds for logs of the devices.
        aclFinalize() -> aclError;
        /// The version of the interface: 1.13.0 in CANN 8.1.
        aclrtGetVersion(major: *mut c_int, minor: *mut c_int, patch: *mut c_int) -> aclError;
        /// What went wrong last in this thread; null for nothing. Reading it clears it. Valid until the next call.
        aclGetRecentErrMsg() -> *const c_char;
        /// Name of the chip, as ATC's `--soc_version` takes it; null if there is none. It stays the library's.
        aclrtGetSocName() -> *const c_char;

        /// How many devices this process may use.
        aclrtGetDeviceCount(count: *mut u32) -> aclError;
        /// Opens a device and makes its default context this thread's. Counted: as many resets close it.
        aclrtSetDevice(device: c_int) -> aclError;
        /// Undoes one [`aclrtSetDevice`](Api::aclrtSetDevice).
        aclrtResetDevice(device: c_int) -> aclError;
        /// Whether the program runs on the host or on the device.
        aclrtGetRunMode(mode: *mut aclrtRunMode) -> aclError;
        /// Free and total memory of this thread's device.
        aclrtGetMemInfo(kind: aclrtMemAttr, free: *mut usize, total: *mut usize) -> aclError;

        /// Makes a context on a device, and makes it this thread's.
        aclrtCreateContext(context: *mut aclrtContext, device: c_int) -> aclError;
        /// Destroys a context. Its streams must be destroyed before.
        aclrtDestroyContext(context: aclrtContext) -> aclError;
        /// Makes a context this thread's.
        aclrtSetCurrentContext(context: aclrtContext) -> aclError;
        /// This thread's context.
        aclrtGetCurrentContext(context: *mut aclrtContext) -> aclError;

        /// Makes a stream in this thread's context. A 310P has 1024.
        aclrtCreateStream(stream: *mut aclrtStream) -> aclError;
        /// Destroys a stream, after it has done all that it was given.
        aclrtDestroyStream(stream: aclrtStream) -> aclError;
        /// Waits until a stream has done all that it was given, and reports what failed in it.
        aclrtSynchronizeStream(stream: aclrtStream) -> aclError;
        /// Lets a stream wait, without blocking the caller, until an event is reached in another.
        aclrtStreamWaitEvent(stream: aclrtStream, event: aclrtEvent) -> aclError;

        /// Makes an event with a flag ([`ACL_EVENT_TIME_LINE`](crate::ACL_EVENT_TIME_LINE), ..). A 310P has 1023.
        aclrtCreateEventWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError;
        /// Destroys an event.
        aclrtDestroyEvent(event: aclrtEvent) -> aclError;
        /// Puts an event behind what a stream was given so far.
        aclrtRecordEvent(event: aclrtEvent, stream: aclrtStream) -> aclError;
        /// Waits until an event is reached.
        aclrtSynchronizeEvent(event: aclrtEvent) -> aclError;
        /// Milliseconds between two events that note times and have both been reached.
        aclrtEventElapsedTime(ms: *mut f32, start: aclrtEvent, end: aclrtEvent) -> aclError;

        /// Memory of this thread's device, aligned to 64 bytes; it is not cleared. A size of 0 is refused.
        aclrtMalloc(memory: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) -> aclError;
        /// Frees memory of a device, at once, whatever still uses it.
        aclrtFree(memory: *mut c_void) -> aclError;
        /// Pinned memory of the host, which devices reach by themselves.
        aclrtMallocHost(memory: *mut *mut c_void, size: usize) -> aclError;
        /// Frees pinned memory.
        aclrtFreeHost(memory: *mut c_void) -> aclError;
        /// Copies `count` bytes and waits for it. `room` is what fits behind `to`.
        aclrtMemcpy(
            to: *mut c_void, room: usize, from: *const c_void, count: usize, kind: aclrtMemcpyKind,
        ) -> aclError;
        /// Copies in a stream. Asynchronous only where the host's side is pinned; it must stay as it is meanwhile.
        aclrtMemcpyAsync(
            to: *mut c_void, room: usize, from: *const c_void, count: usize, kind: aclrtMemcpyKind,
            stream: aclrtStream,
        ) -> aclError;
        /// Sets `count` bytes to the low byte of a number.
        aclrtMemset(to: *mut c_void, room: usize, value: c_int, count: usize) -> aclError;

        /// Memory that a file's model needs, for work and for weights. Fails for models with ranges of shapes.
        aclmdlQuerySize(path: *const c_char, work: *mut usize, weights: *mut usize) -> aclError;
        /// Loads a model into this thread's context; it runs and is unloaded there.
        aclmdlLoadFromFile(path: *const c_char, model: *mut u32) -> aclError;
        /// Loads a model that is in memory of the host.
        aclmdlLoadFromMem(bytes: *const c_void, size: usize, model: *mut u32) -> aclError;
        /// Loads a model into memory that the caller has; null for the library's own. Weights are only read, so several
        /// models of one file can share them.
        aclmdlLoadFromFileWithMem(
            path: *const c_char, model: *mut u32, work: *mut c_void, work_size: usize, weights: *mut c_void,
            weights_size: usize,
        ) -> aclError;
        /// Unloads a model.
        aclmdlUnload(model: u32) -> aclError;

        /// An empty description; null if there is no memory.
        aclmdlCreateDesc() -> *mut aclmdlDesc;
        /// Fills a description.
        aclmdlGetDesc(desc: *mut aclmdlDesc, model: u32) -> aclError;
        /// Destroys a description, with the names that it gave.
        aclmdlDestroyDesc(desc: *mut aclmdlDesc) -> aclError;
        /// How many inputs there are, that of the gears counted.
        aclmdlGetNumInputs(desc: *mut aclmdlDesc) -> usize;
        /// How many outputs there are.
        aclmdlGetNumOutputs(desc: *mut aclmdlDesc) -> usize;
        /// Bytes of an input at the largest gear; 0 if nobody knows.
        aclmdlGetInputSizeByIndex(desc: *mut aclmdlDesc, index: usize) -> usize;
        /// Bytes of an output at the largest gear; 0 if nobody knows.
        aclmdlGetOutputSizeByIndex(desc: *mut aclmdlDesc, index: usize) -> usize;
        /// Dimensions of an input; -1 where a gear decides.
        aclmdlGetInputDims(desc: *const aclmdlDesc, index: usize, dims: *mut aclmdlIODims) -> aclError;
        /// Dimensions of an output at the largest gear.
        aclmdlGetOutputDims(desc: *const aclmdlDesc, index: usize, dims: *mut aclmdlIODims) -> aclError;
        /// Dimensions of an output at the gear that is set.
        aclmdlGetCurOutputDims(desc: *const aclmdlDesc, index: usize, dims: *mut aclmdlIODims) -> aclError;
        /// Name of an input; null if there is none. The description's.
        aclmdlGetInputNameByIndex(desc: *const aclmdlDesc, index: usize) -> *const c_char;
        /// Name of an output; null if there is none. The description's.
        aclmdlGetOutputNameByIndex(desc: *const aclmdlDesc, index: usize) -> *const c_char;
        /// Type of an input.
        aclmdlGetInputDataType(desc: *const aclmdlDesc, index: usize) -> aclDataType;
        /// Type of an output.
        aclmdlGetOutputDataType(desc: *const aclmdlDesc, index: usize) -> aclDataType;
        /// Layout of an input.
        aclmdlGetInputFormat(desc: *const aclmdlDesc, index: usize) -> aclFormat;
        /// Layout of an output.
        aclmdlGetOutputFormat(desc: *const aclmdlDesc, index: usize) -> aclFormat;
        /// Position of the input of a name.
        aclmdlGetInputIndexByName(desc: *const aclmdlDesc, name: *const c_char, index: *mut usize) -> aclError;
        /// The batch sizes of a model; none where it has no such gears.
        aclmdlGetDynamicBatch(desc: *const aclmdlDesc, batch: *mut aclmdlBatch) -> aclError;
        /// How many gears of dimensions there are. The index has to be all ones.
        aclmdlGetInputDynamicGearCount(desc: *const aclmdlDesc, index: usize, count: *mut usize) -> aclError;
        /// The gears, each with the dimensions of all inputs one behind the other. The index has to be all ones.
        aclmdlGetInputDynamicDims(
            desc: *const aclmdlDesc, index: usize, gears: *mut aclmdlIODims, count: usize,
        ) -> aclError;
        /// Chooses a batch size for the next runs with these inputs. The index is that of the gears' input.
        aclmdlSetDynamicBatchSize(model: u32, inputs: *mut aclmdlDataset, index: usize, batch: u64) -> aclError;
        /// Chooses dimensions for the next runs; those of all inputs one behind the other, equal to a gear.
        aclmdlSetInputDynamicDims(
            model: u32, inputs: *mut aclmdlDataset, index: usize, dims: *const aclmdlIODims,
        ) -> aclError;

        /// An empty data set; null if there is no memory.
        aclmdlCreateDataset() -> *mut aclmdlDataset;
        /// Destroys a data set, but neither buffers nor memory.
        aclmdlDestroyDataset(dataset: *const aclmdlDataset) -> aclError;
        /// Adds a buffer behind those that are there.
        aclmdlAddDatasetBuffer(dataset: *mut aclmdlDataset, buffer: *mut aclDataBuffer) -> aclError;
        /// How many buffers there are.
        aclmdlGetDatasetNumBuffers(dataset: *const aclmdlDataset) -> usize;
        /// A buffer; null if there is none.
        aclmdlGetDatasetBuffer(dataset: *const aclmdlDataset, index: usize) -> *mut aclDataBuffer;
        /// Describes memory of a device; null if there is none left for the description.
        aclCreateDataBuffer(memory: *mut c_void, size: usize) -> *mut aclDataBuffer;
        /// Destroys the description, not the memory.
        aclDestroyDataBuffer(buffer: *const aclDataBuffer) -> aclError;
        /// The memory.
        aclGetDataBufferAddr(buffer: *const aclDataBuffer) -> *mut c_void;
        /// Its size.
        aclGetDataBufferSizeV2(buffer: *const aclDataBuffer) -> usize;
        /// Lets the description speak of other memory.
        aclUpdateDataBuffer(buffer: *mut aclDataBuffer, memory: *mut c_void, size: usize) -> aclError;

        /// Runs a model and waits for it.
        aclmdlExecute(model: u32, inputs: *const aclmdlDataset, outputs: *mut aclmdlDataset) -> aclError;
        /// Runs a model in a stream. One model must not run in two streams at a time.
        aclmdlExecuteAsync(
            model: u32, inputs: *const aclmdlDataset, outputs: *mut aclmdlDataset, stream: aclrtStream,
        ) -> aclError;
    }
    optional {
        /// As [`aclrtSynchronizeStream`](Api::aclrtSynchronizeStream), for some milliseconds at most; then 507046.
        aclrtSynchronizeStreamWithTimeout(stream: aclrtStream, ms: c_int) -> aclError;
        /// Describes a file's model without loading it.
        aclmdlGetDescFromFile(desc: *mut aclmdlDesc, path: *const c_char) -> aclError;
        /// The name behind one that the library made up.
        aclmdlGetTensorRealName(desc: *const aclmdlDesc, name: *const c_char) -> *const c_char;
        /// Type and shape of an output after a run; null if there is none.
        aclmdlGetDatasetTensorDesc(dataset: *const aclmdlDataset, index: usize) -> *mut aclTensorDesc;
        /// Ends AscendCL unless others in this process still use it, and says how many do. Since 2025.
        aclFinalizeReference(users: *mut u64) -> aclError;
    }
}
