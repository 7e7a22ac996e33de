//! A stand-in for `libascendcl.so`: a device that does not exist, for tests.
//!
//! It has the functions that `ascendcl-sys` declares, with the same C interface, and keeps a close eye on its caller: who
//! initializes before and finalizes after everything else, contexts of threads, models in the context that loaded them,
//! sizes, kinds and ends of memory, frees that come twice or too early, numbers of streams and events, and what is left
//! behind. Models are those of the simulated ATC (`ascend-sim-om`) and run on the CPU, with tract. The chip says that its
//! name is `Ascend310P3-sim`, so that nobody takes its times for those of an NPU.
//!
//! What it does wrong on purpose, the environment says: [`faults`]. Errors have the codes of AscendCL where its
//! documentation names one for the case; which code the real library gives otherwise is not known.
#![expect(unsafe_code, reason = "an interface for C, documented in ascendcl-sys")]

mod faults;
mod model;
mod state;
mod stream;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, LazyLock, Mutex, Once, PoisonError};

use ascendcl_sys::{
    ACL_DYNAMIC_TENSOR_NAME, ACL_EVENT_TIME_LINE, ACL_MAX_TENSOR_NAME_LEN, ACL_SUCCESS,
    aclDataBuffer, aclDataType, aclError, aclFormat, aclmdlBatch, aclmdlDataset, aclmdlDesc,
    aclmdlIODims, aclrtContext, aclrtEvent, aclrtMemAttr, aclrtMemMallocPolicy, aclrtMemcpyKind,
    aclrtRunMode, aclrtStream,
};

use crate::faults::SETTINGS;
use crate::model::Model;
use crate::state::{
    Buffer, Context, Dataset, Desc, Failure, Outcome, Resident, State, failure, find, recent, say,
    state,
};
use crate::stream::{Event, Run, Stream, Task};

/// The chip that models must be compiled for.
const CHIP: &str = "Ascend310P3";
/// What the stand-in calls itself.
const NAME: &CStr = c"Ascend310P3-sim";
const STREAMS: usize = 1024;
const EVENTS: usize = 1023;
/// Bytes of the input that holds the gear.
const GEAR_BYTES: usize = 8;

/// Every function begins with it: counts the call, waits and fails if it is made to.
fn enter(call: &'static str) -> Outcome {
    let fault = {
        let mut state = state();
        let n = state.calls.entry(call).or_default();
        *n += 1;
        let n = *n;
        if !state.running && !matches!(call, "aclInit" | "aclFinalize" | "aclrtGetVersion") {
            return state.refuse(100_001, format!("{call}: aclInit was not called"));
        }
        SETTINGS.fault(call, n)
    };
    SETTINGS.wait(call);
    fault.map_or(Ok(()), |code| failure(code, format!("EE9999: {call}: made to fail")))
}

fn code(outcome: Outcome) -> aclError {
    match outcome {
        Ok(()) => ACL_SUCCESS,
        Err(Failure { code, message }) => {
            say(&message);
            code
        }
    }
}

/// A function that does not give anything up.
fn call(name: &'static str, work: impl FnOnce() -> Outcome) -> aclError {
    code(enter(name).and_then(|()| work()))
}

/// A function that releases something. Where it is made to fail, it releases all the same: its caller tried.
fn release(name: &'static str, work: impl FnOnce() -> Outcome) -> aclError {
    code(match enter(name) {
        Ok(()) => work(),
        Err(made) => {
            if work().is_ok() {
                state().given_up += 1;
            }
            Err(made)
        }
    })
}

/// Writes what a function gives to where its caller wants it.
fn give<T>(call: &str, to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return state().refuse(100_000, format!("{call}: a pointer is null"));
    }
    // SAFETY: not null, and by the function's contract a place for one value.
    unsafe { to.write(value) };
    Ok(())
}

fn text(call: &str, text: *const c_char) -> Outcome<String> {
    if text.is_null() {
        return state().refuse(100_000, format!("{call}: a text is null"));
    }
    // SAFETY: not null, and by the function's contract a text that ends with a zero.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

static ONCE: Once = Once::new();

/// Noise on stdout, in the buffer of C's library and past it.
fn noise(line: &CStr) {
    // SAFETY: texts that end with a zero; the format takes no arguments beyond its text.
    unsafe {
        libc::printf(c"[sim] %s\n".as_ptr(), line.as_ptr());
        libc::write(1, c"[sim] ".as_ptr().cast(), 6);
        libc::write(1, line.as_ptr().cast(), line.to_bytes().len());
        libc::write(1, c"\n".as_ptr().cast(), 1);
    }
}

extern "C" fn at_exit() {
    state().report();
}

#[unsafe(no_mangle)]
extern "C" fn aclInit(config: *const c_char) -> aclError {
    call("aclInit", || {
        if !config.is_null() && !Path::new(&text("aclInit", config)?).is_file() {
            return failure(100_003, "EH0002: the configuration file is not there");
        }
        let mut state = state();
        if state.running {
            return failure(100_002, "EH0003: initialized already");
        }
        state.running = true;
        drop(state);
        // SAFETY: the function takes nothing and does not unwind.
        ONCE.call_once(|| unsafe {
            libc::atexit(at_exit);
        });
        noise(c"a simulated device: its times say nothing about an NPU");
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclFinalize() -> aclError {
    release("aclFinalize", || {
        let mut state = state();
        if !state.running {
            return state.refuse(100_037, "aclFinalize: not initialized".to_owned());
        }
        state.running = false;
        let leaks = state.leaks();
        if !leaks.is_empty() {
            let _noted: Outcome = state.refuse(0, format!("aclFinalize: still there: {leaks:?}"));
        }
        state.report();
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetVersion(major: *mut c_int, minor: *mut c_int, patch: *mut c_int) -> aclError {
    call("aclrtGetVersion", || {
        give("aclrtGetVersion", major, 1)?;
        give("aclrtGetVersion", minor, 13)?;
        give("aclrtGetVersion", patch, 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    recent()
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetSocName() -> *const c_char {
    match enter("aclrtGetSocName") {
        Ok(()) => NAME.as_ptr(),
        Err(made) => {
            say(&made.message);
            std::ptr::null()
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetDeviceCount(count: *mut u32) -> aclError {
    call("aclrtGetDeviceCount", || {
        if SETTINGS.devices == 0 {
            return failure(207_004, "EL0001: no device");
        }
        give("aclrtGetDeviceCount", count, SETTINGS.devices)
    })
}

fn check_device(call: &str, device: c_int) -> Outcome {
    if u32::try_from(device).is_ok_and(|d| d < SETTINGS.devices) {
        return Ok(());
    }
    failure(107_001, format!("EE1001: {call}: device {device} of {}", SETTINGS.devices))
}

#[unsafe(no_mangle)]
extern "C" fn aclrtSetDevice(device: c_int) -> aclError {
    call("aclrtSetDevice", || {
        check_device("aclrtSetDevice", device)?;
        let mut state = state();
        let handle = if let Some((times, handle)) = state.opened.get_mut(&device) {
            *times += 1;
            *handle
        } else {
            let handle = state.handle();
            state.contexts.insert(handle, Context { device, default: true });
            state.opened.insert(device, (1, handle));
            handle
        };
        State::set_context(handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtResetDevice(device: c_int) -> aclError {
    release("aclrtResetDevice", || {
        let mut state = state();
        let Some(&(times, handle)) = state.opened.get(&device) else {
            return state.refuse(107_001, format!("aclrtResetDevice: device {device} is not open"));
        };
        if times > 1 {
            state.opened.insert(device, (times - 1, handle));
            return Ok(());
        }
        state.opened.remove(&device);
        state.contexts.remove(&handle);
        let on = |d: &i32| *d == device;
        let left = state.contexts.values().filter(|c| on(&c.device)).count()
            + state.streams.values().filter(|s| on(&s.device)).count()
            + state.events.values().filter(|e| on(&e.0)).count()
            + state.blocks.values().filter(|b| b.device == Some(device)).count()
            + state.models.values().filter(|m| on(&m.device)).count();
        if left > 0 {
            let what =
                format!("aclrtResetDevice: {left} objects of device {device} are still there");
            let _noted: Outcome = state.refuse(0, what);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetRunMode(mode: *mut aclrtRunMode) -> aclError {
    call("aclrtGetRunMode", || give("aclrtGetRunMode", mode, aclrtRunMode::ACL_HOST))
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetMemInfo(
    _kind: aclrtMemAttr,
    free: *mut usize,
    total: *mut usize,
) -> aclError {
    call("aclrtGetMemInfo", || {
        let device = state().context("aclrtGetMemInfo")?.1.device;
        let used = state().used(device);
        give("aclrtGetMemInfo", free, SETTINGS.memory.saturating_sub(used))?;
        give("aclrtGetMemInfo", total, SETTINGS.memory)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtCreateContext(context: *mut aclrtContext, device: c_int) -> aclError {
    call("aclrtCreateContext", || {
        check_device("aclrtCreateContext", device)?;
        let handle = {
            let mut state = state();
            let handle = state.handle();
            state.contexts.insert(handle, Context { device, default: false });
            handle
        };
        State::set_context(handle);
        give("aclrtCreateContext", context, handle as aclrtContext)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtDestroyContext(context: aclrtContext) -> aclError {
    release("aclrtDestroyContext", || {
        let mut state = state();
        let handle = context as usize;
        match state.contexts.get(&handle) {
            Some(Context { default: false, .. }) => {
                let left = state.streams.values().filter(|s| s.context == handle).count()
                    + state.models.values().filter(|m| m.context == handle).count();
                if left > 0 {
                    let what =
                        format!("aclrtDestroyContext: {left} streams and models are still in it");
                    let _noted: Outcome = state.refuse(0, what);
                }
                state.contexts.remove(&handle);
                Ok(())
            }
            Some(_) => state.refuse(107_000, "aclrtDestroyContext: the default context".to_owned()),
            None => state.refuse(107_000, "aclrtDestroyContext: no such context".to_owned()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtSetCurrentContext(context: aclrtContext) -> aclError {
    call("aclrtSetCurrentContext", || {
        let mut state = state();
        if !state.contexts.contains_key(&(context as usize)) {
            return state.refuse(107_000, "aclrtSetCurrentContext: no such context".to_owned());
        }
        State::set_context(context as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtGetCurrentContext(context: *mut aclrtContext) -> aclError {
    call("aclrtGetCurrentContext", || {
        let (handle, _) = state().context("aclrtGetCurrentContext")?;
        give("aclrtGetCurrentContext", context, handle as aclrtContext)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtCreateStream(stream: *mut aclrtStream) -> aclError {
    call("aclrtCreateStream", || {
        let handle = {
            let mut state = state();
            let (context, Context { device, .. }) = state.context("aclrtCreateStream")?;
            if state.streams.values().filter(|s| s.device == device).count() >= STREAMS {
                return failure(207_008, format!("EE1003: more than {STREAMS} streams"));
            }
            let handle = state.handle();
            state.streams.insert(handle, Stream::start(context, device));
            handle
        };
        give("aclrtCreateStream", stream, handle as aclrtStream)
    })
}

fn stream_of(call: &str, stream: aclrtStream) -> Outcome<Arc<Stream>> {
    let mut state = state();
    let Some(found) = find(&state.streams, stream as usize) else {
        return state.refuse(107_017, format!("{call}: no such stream"));
    };
    let (context, _) = state.context(call)?;
    if found.context != context {
        return state.refuse(107_003, format!("{call}: the stream is of another context"));
    }
    Ok(found)
}

#[unsafe(no_mangle)]
extern "C" fn aclrtDestroyStream(stream: aclrtStream) -> aclError {
    release("aclrtDestroyStream", || {
        let found = stream_of("aclrtDestroyStream", stream)?;
        found.close();
        state().streams.remove(&(stream as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtSynchronizeStream(stream: aclrtStream) -> aclError {
    call("aclrtSynchronizeStream", || stream_of("aclrtSynchronizeStream", stream)?.synchronize())
}

fn event_of(call: &str, event: aclrtEvent) -> Outcome<Arc<Event>> {
    let mut state = state();
    match find(&state.events, event as usize) {
        Some((_, event)) => Ok(event),
        None => state.refuse(107_017, format!("{call}: no such event")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn aclrtStreamWaitEvent(stream: aclrtStream, event: aclrtEvent) -> aclError {
    call("aclrtStreamWaitEvent", || {
        let event = event_of("aclrtStreamWaitEvent", event)?;
        let turn = event.given();
        event.wake();
        stream_of("aclrtStreamWaitEvent", stream)?.push(Task::Wait(event, turn));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtCreateEventWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError {
    call("aclrtCreateEventWithFlag", || {
        let handle = {
            let mut state = state();
            let (_, Context { device, .. }) = state.context("aclrtCreateEventWithFlag")?;
            if state.events.values().filter(|e| e.0 == device).count() >= EVENTS {
                return failure(207_007, format!("EE1003: more than {EVENTS} events"));
            }
            let handle = state.handle();
            let made = Arc::new(Event::new(flag & ACL_EVENT_TIME_LINE != 0));
            state.events.insert(handle, (device, made));
            handle
        };
        give("aclrtCreateEventWithFlag", event, handle as aclrtEvent)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtDestroyEvent(event: aclrtEvent) -> aclError {
    release("aclrtDestroyEvent", || {
        event_of("aclrtDestroyEvent", event)?;
        state().events.remove(&(event as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtRecordEvent(event: aclrtEvent, stream: aclrtStream) -> aclError {
    call("aclrtRecordEvent", || {
        let event = event_of("aclrtRecordEvent", event)?;
        let stream = stream_of("aclrtRecordEvent", stream)?;
        let turn = event.give(&stream);
        stream.push(Task::Record(event, turn));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtSynchronizeEvent(event: aclrtEvent) -> aclError {
    call("aclrtSynchronizeEvent", || {
        let event = event_of("aclrtSynchronizeEvent", event)?;
        event.wake();
        event.wait(event.given());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtEventElapsedTime(ms: *mut f32, start: aclrtEvent, end: aclrtEvent) -> aclError {
    call("aclrtEventElapsedTime", || {
        let name = "aclrtEventElapsedTime";
        let (start, end) = (event_of(name, start)?, event_of(name, end)?);
        if !start.timed || !end.timed {
            return state().refuse(107_006, format!("{name}: an event does not note times"));
        }
        let (Some(from), Some(to)) = (start.time(), end.time()) else {
            return state().refuse(507_006, format!("{name}: an event was not reached"));
        };
        give(name, ms, to.duration_since(from).as_secs_f32() * 1e3)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtMalloc(
    memory: *mut *mut c_void,
    size: usize,
    _policy: aclrtMemMallocPolicy,
) -> aclError {
    call("aclrtMalloc", || {
        let address = {
            let mut state = state();
            let (_, Context { device, .. }) = state.context("aclrtMalloc")?;
            if size == 0 {
                return state.refuse(100_000, "aclrtMalloc: no bytes".to_owned());
            }
            state.reserve("aclrtMalloc", device, size)?;
            state.allocate(size, Some(device))?
        };
        give("aclrtMalloc", memory, address as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtFree(memory: *mut c_void) -> aclError {
    release("aclrtFree", || free("aclrtFree", memory, false))
}

fn free(call: &str, memory: *mut c_void, host: bool) -> Outcome {
    let mut state = state();
    let address = memory as usize;
    let size = state.blocks.get(&address).map_or(0, |block| block.size);
    if state.streams.values().any(|stream| stream.uses(address, size)) {
        return state.refuse(107_000, format!("{call}: a stream still uses the memory"));
    }
    state.release(call, address, host)
}

#[unsafe(no_mangle)]
extern "C" fn aclrtMallocHost(memory: *mut *mut c_void, size: usize) -> aclError {
    call("aclrtMallocHost", || {
        let address = {
            let mut state = state();
            state.context("aclrtMallocHost")?;
            if size == 0 {
                return state.refuse(100_000, "aclrtMallocHost: no bytes".to_owned());
            }
            state.allocate(size, None)?
        };
        give("aclrtMallocHost", memory, address as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtFreeHost(memory: *mut c_void) -> aclError {
    release("aclrtFreeHost", || free("aclrtFreeHost", memory, true))
}

/// Refuses copies beyond the end of memory or of the wrong kind. Says whether the host's side is pinned.
fn check_copy(
    call: &str,
    (to, room): (usize, usize),
    (from, count): (usize, usize),
    kind: aclrtMemcpyKind,
) -> Outcome<bool> {
    let mut state = state();
    let (_, context) = state.context(call)?;
    if count > room {
        return state.refuse(107_000, format!("{call}: {count} bytes into {room}"));
    }
    let of = |state: &State, at: usize| {
        let inside = state.block_of(at, count);
        inside.map(|block| block.device)
    };
    let (source, target) = (of(&state, from), of(&state, to));
    let (from_device, to_device) = match kind {
        aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_HOST => (false, false),
        aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE => (false, true),
        aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_HOST => (true, false),
        aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_DEVICE => (true, true),
        _ => return failure(107_000, format!("{call}: kind {}", kind.0)),
    };
    for (end, found, is_device) in [("source", source, from_device), ("target", target, to_device)]
    {
        let fits = match found {
            Some(Some(device)) => is_device && device == context.device,
            // Memory of the host that was not handed out here is the caller's own.
            Some(None) | None => !is_device,
        };
        if !fits {
            return state.refuse(107_000, format!("{call}: the {end} is no such memory"));
        }
    }
    let host = if from_device { target } else { source };
    Ok(host == Some(None))
}

#[unsafe(no_mangle)]
extern "C" fn aclrtMemcpy(
    to: *mut c_void,
    room: usize,
    from: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
) -> aclError {
    call("aclrtMemcpy", || {
        check_copy("aclrtMemcpy", (to as usize, room), (from as usize, count), kind)?;
        stream::copy(from as usize, to as usize, count)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtMemcpyAsync(
    to: *mut c_void,
    room: usize,
    from: *const c_void,
    count: usize,
    kind: aclrtMemcpyKind,
    stream: aclrtStream,
) -> aclError {
    call("aclrtMemcpyAsync", || {
        let (from, to) = (from as usize, to as usize);
        let pinned = check_copy("aclrtMemcpyAsync", (to, room), (from, count), kind)?;
        let stream = stream_of("aclrtMemcpyAsync", stream)?;
        stream.push(Task::Copy { from, to, count });
        if !pinned {
            state().pageable += 1;
            return stream.synchronize();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclrtMemset(to: *mut c_void, room: usize, value: c_int, count: usize) -> aclError {
    call("aclrtMemset", || {
        let mut state = state();
        state.context("aclrtMemset")?;
        if count > room || state.block_of(to as usize, count).is_none() {
            return state.refuse(107_000, format!("aclrtMemset: {count} bytes into {room}"));
        }
        // SAFETY: the bytes lie in a block. The low byte is what C's memset takes.
        unsafe { to.cast::<u8>().write_bytes(value.to_le_bytes()[0], count) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlQuerySize(
    path: *const c_char,
    work: *mut usize,
    weights: *mut usize,
) -> aclError {
    call("aclmdlQuerySize", || {
        let model = Model::load(Path::new(&text("aclmdlQuerySize", path)?))?;
        give("aclmdlQuerySize", work, 1 << 20)?;
        give("aclmdlQuerySize", weights, model.bytes.max(1))
    })
}

/// Puts a model into this thread's context.
fn install(call: &str, model: Model, has_memory: bool, id: *mut u32) -> Outcome {
    if model.soc != CHIP && !model.soc.is_empty() {
        let what = format!("EE1001: the model is for {}, the device is {CHIP}", model.soc);
        return failure(507_008, what);
    }
    let bytes = if has_memory { 0 } else { model.bytes };
    let (context, device) = {
        let mut state = state();
        let (context, Context { device, .. }) = state.context(call)?;
        state.reserve(call, device, bytes)?;
        (context, device)
    };
    if SETTINGS.compute {
        model.prepare(model.largest())?;
    }
    noise(c"a model is loaded");
    let key = {
        let mut state = state();
        let key = u32::try_from(state.handle() / 8).unwrap_or(u32::MAX);
        state.models.insert(key, Resident { model: Arc::new(model), context, device, bytes });
        key
    };
    give(call, id, key)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlLoadFromFile(path: *const c_char, id: *mut u32) -> aclError {
    call("aclmdlLoadFromFile", || {
        let model = Model::load(Path::new(&text("aclmdlLoadFromFile", path)?))?;
        install("aclmdlLoadFromFile", model, false, id)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aclmdlLoadFromMem(
    bytes: *const c_void,
    size: usize,
    id: *mut u32,
) -> aclError {
    call("aclmdlLoadFromMem", || {
        if bytes.is_null() {
            return state().refuse(100_000, "aclmdlLoadFromMem: no memory".to_owned());
        }
        // SAFETY: by the function's contract there are that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), size) };
        install("aclmdlLoadFromMem", Model::parse(bytes)?, false, id)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlLoadFromFileWithMem(
    path: *const c_char,
    id: *mut u32,
    work: *mut c_void,
    work_size: usize,
    weights: *mut c_void,
    weights_size: usize,
) -> aclError {
    call("aclmdlLoadFromFileWithMem", || {
        let name = "aclmdlLoadFromFileWithMem";
        let model = Model::load(Path::new(&text(name, path)?))?;
        for (what, memory, size, need) in
            [("work", work, work_size, 1 << 20), ("weights", weights, weights_size, model.bytes)]
        {
            let mut state = state();
            let inside = state.block_of(memory as usize, size).is_some_and(|b| b.device.is_some());
            if !memory.is_null() && (!inside || size < need) {
                return state.refuse(145_000, format!("{name}: memory for {what}"));
            }
        }
        install(name, model, !weights.is_null(), id)
    })
}

fn model_of(call: &str, id: u32, here: bool) -> Outcome<Resident> {
    let mut state = state();
    let Some(found) = state.models.get(&id).cloned() else {
        return state.refuse(145_003, format!("{call}: no model {id}"));
    };
    if here && state.context(call)?.0 != found.context {
        return state.refuse(107_004, format!("{call}: the model is of another context"));
    }
    Ok(found)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlUnload(id: u32) -> aclError {
    release("aclmdlUnload", || {
        model_of("aclmdlUnload", id, true)?;
        state().models.remove(&id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlCreateDesc() -> *mut aclmdlDesc {
    if let Err(made) = enter("aclmdlCreateDesc") {
        say(&made.message);
        return std::ptr::null_mut();
    }
    let mut state = state();
    let handle = state.handle();
    state.descs.insert(handle, Desc::default());
    handle as *mut aclmdlDesc
}

fn describe(desc: *mut aclmdlDesc, model: Arc<Model>) -> Outcome {
    let mut state = state();
    let Some(slot) = state.descs.get_mut(&(desc as usize)) else {
        return state.refuse(100_000, "aclmdlGetDesc: no such description".to_owned());
    };
    let name = |name: &str| CString::new(name.replace('\0', " ")).unwrap_or_default();
    slot.inputs = model.inputs.iter().map(|io| name(&io.name)).collect();
    if !model.gears.is_empty() {
        slot.inputs.push(name(ACL_DYNAMIC_TENSOR_NAME));
    }
    slot.outputs = model.outputs.iter().map(|io| name(&io.name)).collect();
    slot.model = Some(model);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetDesc(desc: *mut aclmdlDesc, id: u32) -> aclError {
    call("aclmdlGetDesc", || describe(desc, model_of("aclmdlGetDesc", id, false)?.model))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetDescFromFile(desc: *mut aclmdlDesc, path: *const c_char) -> aclError {
    call("aclmdlGetDescFromFile", || {
        let model = Model::load(Path::new(&text("aclmdlGetDescFromFile", path)?))?;
        describe(desc, Arc::new(model))
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlDestroyDesc(desc: *mut aclmdlDesc) -> aclError {
    release("aclmdlDestroyDesc", || {
        let mut state = state();
        match state.descs.remove(&(desc as usize)) {
            Some(_) => Ok(()),
            None => state.refuse(100_000, "aclmdlDestroyDesc: no such description".to_owned()),
        }
    })
}

/// The model that a description is of.
fn described(call: &'static str, desc: *const aclmdlDesc) -> Outcome<Arc<Model>> {
    enter(call)?;
    let mut state = state();
    match state.descs.get(&(desc as usize)).and_then(|desc| desc.model.clone()) {
        Some(model) => Ok(model),
        None => state.refuse(100_000, format!("{call}: an empty description")),
    }
}

/// What a function gives that cannot tell of errors.
fn or<T>(outcome: Outcome<T>, nothing: T) -> T {
    outcome.unwrap_or_else(|Failure { message, .. }| {
        say(&message);
        nothing
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetNumInputs(desc: *mut aclmdlDesc) -> usize {
    let count = |model: Arc<Model>| model.inputs.len() + usize::from(!model.gears.is_empty());
    or(described("aclmdlGetNumInputs", desc).map(count), 0)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetNumOutputs(desc: *mut aclmdlDesc) -> usize {
    or(described("aclmdlGetNumOutputs", desc).map(|model| model.outputs.len()), 0)
}

/// Whether an input is the one of the gears.
fn is_gear(model: &Model, index: usize) -> bool {
    !model.gears.is_empty() && index == model.inputs.len()
}

fn io<'a>(call: &str, list: &'a [model::Io], index: usize) -> Outcome<&'a model::Io> {
    match list.get(index) {
        Some(io) => Ok(io),
        None => state().refuse(100_000, format!("{call}: no index {index}")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputSizeByIndex(desc: *mut aclmdlDesc, index: usize) -> usize {
    let name = "aclmdlGetInputSizeByIndex";
    let size = |model: Arc<Model>| {
        if is_gear(&model, index) {
            return Ok(GEAR_BYTES);
        }
        io(name, &model.inputs, index).map(model::Io::bytes)
    };
    or(described(name, desc).and_then(size), 0)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetOutputSizeByIndex(desc: *mut aclmdlDesc, index: usize) -> usize {
    let name = "aclmdlGetOutputSizeByIndex";
    let size = |model: Arc<Model>| io(name, &model.outputs, index).map(model::Io::bytes);
    or(described(name, desc).and_then(size), 0)
}

fn dims_of(model: &Model, name: &str, dims: &[i64]) -> aclmdlIODims {
    let mut out = aclmdlIODims { dimCount: dims.len(), ..aclmdlIODims::default() };
    out.dims[..dims.len()].copy_from_slice(dims);
    let made_up = format!("acl_modelId_{:p}_long_name", std::ptr::from_ref(model));
    let name = if name.len() < ACL_MAX_TENSOR_NAME_LEN { name } else { &made_up };
    for (to, from) in out.name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    out
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputDims(
    desc: *const aclmdlDesc,
    index: usize,
    dims: *mut aclmdlIODims,
) -> aclError {
    let name = "aclmdlGetInputDims";
    code(described(name, desc).and_then(|model| {
        if is_gear(&model, index) {
            return give(name, dims, dims_of(&model, ACL_DYNAMIC_TENSOR_NAME, &[1]));
        }
        let io = io(name, &model.inputs, index)?;
        give(name, dims, dims_of(&model, &io.name, &model.open_dims(index)))
    }))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetOutputDims(
    desc: *const aclmdlDesc,
    index: usize,
    dims: *mut aclmdlIODims,
) -> aclError {
    let name = "aclmdlGetOutputDims";
    code(described(name, desc).and_then(|model| {
        let io = io(name, &model.outputs, index)?;
        give(name, dims, dims_of(&model, &io.name, &io.dims))
    }))
}

/// The gear that each model was given last.
static GEARS: LazyLock<Mutex<HashMap<usize, usize>>> = LazyLock::new(Mutex::default);

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetCurOutputDims(
    desc: *const aclmdlDesc,
    index: usize,
    dims: *mut aclmdlIODims,
) -> aclError {
    let name = "aclmdlGetCurOutputDims";
    code(described(name, desc).and_then(|model| {
        let io = io(name, &model.outputs, index)?;
        let gears = GEARS.lock().unwrap_or_else(PoisonError::into_inner);
        let gear = gears.get(&(Arc::as_ptr(&model) as usize)).copied();
        give(name, dims, dims_of(&model, &io.name, model.output_dims(index, gear)))
    }))
}

/// A name that the description lends.
fn lend(
    call: &'static str,
    desc: *const aclmdlDesc,
    pick: impl FnOnce(&Desc) -> Option<&CString>,
) -> *const c_char {
    if let Err(made) = enter(call) {
        say(&made.message);
        return std::ptr::null();
    }
    let mut state = state();
    let name = state.descs.get(&(desc as usize)).and_then(pick).map(|name| name.as_ptr());
    name.unwrap_or_else(|| {
        let _noted: Outcome = state.refuse(100_000, format!("{call}: no such name"));
        std::ptr::null()
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputNameByIndex(desc: *const aclmdlDesc, index: usize) -> *const c_char {
    lend("aclmdlGetInputNameByIndex", desc, |desc| desc.inputs.get(index))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetOutputNameByIndex(desc: *const aclmdlDesc, index: usize) -> *const c_char {
    lend("aclmdlGetOutputNameByIndex", desc, |desc| desc.outputs.get(index))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputDataType(desc: *const aclmdlDesc, index: usize) -> aclDataType {
    let name = "aclmdlGetInputDataType";
    let of = |model: Arc<Model>| {
        if is_gear(&model, index) {
            return Ok(aclDataType::ACL_INT64);
        }
        io(name, &model.inputs, index).map(model::Io::acl_type)
    };
    or(described(name, desc).and_then(of), aclDataType::ACL_DT_UNDEFINED)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetOutputDataType(desc: *const aclmdlDesc, index: usize) -> aclDataType {
    let name = "aclmdlGetOutputDataType";
    let of = |model: Arc<Model>| io(name, &model.outputs, index).map(model::Io::acl_type);
    or(described(name, desc).and_then(of), aclDataType::ACL_DT_UNDEFINED)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputFormat(desc: *const aclmdlDesc, _index: usize) -> aclFormat {
    let plain = described("aclmdlGetInputFormat", desc).map(|_| aclFormat::ACL_FORMAT_ND);
    or(plain, aclFormat::ACL_FORMAT_UNDEFINED)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetOutputFormat(desc: *const aclmdlDesc, _index: usize) -> aclFormat {
    let plain = described("aclmdlGetOutputFormat", desc).map(|_| aclFormat::ACL_FORMAT_ND);
    or(plain, aclFormat::ACL_FORMAT_UNDEFINED)
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputIndexByName(
    desc: *const aclmdlDesc,
    name: *const c_char,
    index: *mut usize,
) -> aclError {
    let function = "aclmdlGetInputIndexByName";
    code(described(function, desc).and_then(|model| {
        let name = text(function, name)?;
        let gear = (!model.gears.is_empty()).then_some(ACL_DYNAMIC_TENSOR_NAME);
        let names = model.inputs.iter().map(|io| io.name.as_str()).chain(gear);
        match names.into_iter().position(|have| have == name) {
            Some(at) => give(function, index, at),
            None => failure(100_000, format!("EH0001: no input {name:?}")),
        }
    }))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetDynamicBatch(desc: *const aclmdlDesc, batch: *mut aclmdlBatch) -> aclError {
    code(described("aclmdlGetDynamicBatch", desc).and_then(|model| {
        let batches: Vec<u64> = model.gears.iter().filter_map(|gear| gear.batch).collect();
        let mut out = aclmdlBatch { batchCount: batches.len(), ..aclmdlBatch::default() };
        out.batch[..batches.len()].copy_from_slice(&batches);
        give("aclmdlGetDynamicBatch", batch, out)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputDynamicGearCount(
    desc: *const aclmdlDesc,
    index: usize,
    count: *mut usize,
) -> aclError {
    code(described("aclmdlGetInputDynamicGearCount", desc).and_then(|model| {
        if index != usize::MAX {
            return failure(100_000, "EH0001: the index has to be -1");
        }
        let gears = model.gears.iter().filter(|gear| gear.batch.is_none()).count();
        give("aclmdlGetInputDynamicGearCount", count, gears)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetInputDynamicDims(
    desc: *const aclmdlDesc,
    index: usize,
    gears: *mut aclmdlIODims,
    count: usize,
) -> aclError {
    let name = "aclmdlGetInputDynamicDims";
    code(described(name, desc).and_then(|model| {
        let all: Vec<&model::Gear> = model.gears.iter().filter(|g| g.batch.is_none()).collect();
        if all.is_empty() {
            return failure(100_019, "EH0001: the model has no gears of dimensions");
        }
        if index != usize::MAX || count < all.len() || gears.is_null() {
            return failure(
                100_000,
                "EH0001: the index has to be -1, and there to be room for all gears",
            );
        }
        for (at, gear) in all.iter().enumerate() {
            let dims = dims_of(&model, "", &gear.inputs.concat());
            // SAFETY: the caller vouches for room for `count` gears, and there are no more.
            give(name, unsafe { gears.add(at) }, dims)?;
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlSetDynamicBatchSize(
    id: u32,
    inputs: *mut aclmdlDataset,
    index: usize,
    batch: u64,
) -> aclError {
    let name = "aclmdlSetDynamicBatchSize";
    call(name, || {
        let model = model_of(name, id, false)?.model;
        let gear = model.gears.iter().position(|gear| gear.batch == Some(batch));
        let missing = || format!("E19999: {batch} is none of the gears");
        choose(name, &model, (inputs as usize, index), gear, missing)
    })
}

/// Chooses a gear for a data set.
fn choose(
    name: &str,
    model: &Arc<Model>,
    (inputs, index): (usize, usize),
    gear: Option<usize>,
    missing: impl FnOnce() -> String,
) -> Outcome {
    if !is_gear(model, index) {
        return failure(100_000, format!("EH0001: input {index} is not that of the gears"));
    }
    let Some(gear) = gear else { return failure(145_013, missing()) };
    let mut state = state();
    let Some(dataset) = state.datasets.get_mut(&inputs) else {
        return state.refuse(100_000, format!("{name}: no such data set"));
    };
    if dataset.buffers.len() <= index {
        return state.refuse(145_011, format!("{name}: the gear has no buffer"));
    }
    dataset.gear = Some(gear);
    let mut gears = GEARS.lock().unwrap_or_else(PoisonError::into_inner);
    gears.insert(Arc::as_ptr(model) as usize, gear);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlSetInputDynamicDims(
    id: u32,
    inputs: *mut aclmdlDataset,
    index: usize,
    dims: *const aclmdlIODims,
) -> aclError {
    let name = "aclmdlSetInputDynamicDims";
    call(name, || {
        let model = model_of(name, id, false)?.model;
        // SAFETY: the caller vouches for the address, if there is one.
        let Some(dims) = (unsafe { dims.as_ref() }) else {
            return failure(100_000, format!("EH0001: {name}: no dimensions"));
        };
        let asked = &dims.dims[..dims.dimCount.min(dims.dims.len())];
        let is_asked = |gear: &model::Gear| gear.batch.is_none() && gear.inputs.concat() == asked;
        let gear = model.gears.iter().position(is_asked);
        let missing = || format!("E19999: {asked:?} is none of the gears");
        choose(name, &model, (inputs as usize, index), gear, missing)
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlCreateDataset() -> *mut aclmdlDataset {
    if let Err(made) = enter("aclmdlCreateDataset") {
        say(&made.message);
        return std::ptr::null_mut();
    }
    let mut state = state();
    let handle = state.handle();
    state.datasets.insert(handle, Dataset::default());
    handle as *mut aclmdlDataset
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlDestroyDataset(dataset: *const aclmdlDataset) -> aclError {
    release("aclmdlDestroyDataset", || {
        let mut state = state();
        match state.datasets.remove(&(dataset as usize)) {
            Some(_) => Ok(()),
            None => state.refuse(100_000, "aclmdlDestroyDataset: no such data set".to_owned()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlAddDatasetBuffer(
    dataset: *mut aclmdlDataset,
    buffer: *mut aclDataBuffer,
) -> aclError {
    call("aclmdlAddDatasetBuffer", || {
        let mut state = state();
        let known = state.buffers.contains_key(&(buffer as usize));
        match state.datasets.get_mut(&(dataset as usize)) {
            Some(dataset) if known => {
                dataset.buffers.push(buffer as usize);
                Ok(())
            }
            _ => state.refuse(100_000, "aclmdlAddDatasetBuffer: no such object".to_owned()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetDatasetNumBuffers(dataset: *const aclmdlDataset) -> usize {
    state().datasets.get(&(dataset as usize)).map_or(0, |dataset| dataset.buffers.len())
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlGetDatasetBuffer(
    dataset: *const aclmdlDataset,
    index: usize,
) -> *mut aclDataBuffer {
    let state = state();
    let dataset = state.datasets.get(&(dataset as usize));
    let buffer = dataset.and_then(|dataset| dataset.buffers.get(index));
    buffer.map_or(std::ptr::null_mut(), |&handle| handle as *mut aclDataBuffer)
}

#[unsafe(no_mangle)]
extern "C" fn aclCreateDataBuffer(memory: *mut c_void, size: usize) -> *mut aclDataBuffer {
    if let Err(made) = enter("aclCreateDataBuffer") {
        say(&made.message);
        return std::ptr::null_mut();
    }
    let mut state = state();
    let handle = state.handle();
    state.buffers.insert(handle, Buffer { address: memory as usize, size });
    handle as *mut aclDataBuffer
}

#[unsafe(no_mangle)]
extern "C" fn aclDestroyDataBuffer(buffer: *const aclDataBuffer) -> aclError {
    release("aclDestroyDataBuffer", || {
        let mut state = state();
        match state.buffers.remove(&(buffer as usize)) {
            Some(_) => Ok(()),
            None => state.refuse(100_000, "aclDestroyDataBuffer: no such buffer".to_owned()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn aclGetDataBufferAddr(buffer: *const aclDataBuffer) -> *mut c_void {
    state().buffers.get(&(buffer as usize)).map_or(0, |buffer| buffer.address) as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn aclGetDataBufferSizeV2(buffer: *const aclDataBuffer) -> usize {
    state().buffers.get(&(buffer as usize)).map_or(0, |buffer| buffer.size)
}

#[unsafe(no_mangle)]
extern "C" fn aclUpdateDataBuffer(
    buffer: *mut aclDataBuffer,
    memory: *mut c_void,
    size: usize,
) -> aclError {
    call("aclUpdateDataBuffer", || {
        let mut state = state();
        match state.buffers.get_mut(&(buffer as usize)) {
            Some(buffer) => {
                *buffer = Buffer { address: memory as usize, size };
                Ok(())
            }
            None => state.refuse(100_000, "aclUpdateDataBuffer: no such buffer".to_owned()),
        }
    })
}

/// How many runs of each model are going on.
static GOING_ON: LazyLock<Mutex<HashMap<u32, Arc<AtomicUsize>>>> = LazyLock::new(Mutex::default);

/// A run, if its buffers are what the model takes and gives.
fn prepare(
    call: &str,
    id: u32,
    inputs: *const aclmdlDataset,
    outputs: *mut aclmdlDataset,
) -> Outcome<Run> {
    let resident = model_of(call, id, true)?;
    let model = resident.model;
    let mut state = state();
    let mut sides = Vec::new();
    let mut gear = None;
    for (side, dataset, list, code) in [
        ("input", inputs as usize, &model.inputs, 100_017),
        ("output", outputs as usize, &model.outputs, 100_018),
    ] {
        let Some(dataset) = state.datasets.get(&dataset) else {
            return state.refuse(100_000, format!("{call}: no data set of {side}s"));
        };
        let mut sizes: Vec<usize> = Vec::with_capacity(list.len() + 1);
        if side == "input" {
            gear = dataset.gear.or_else(|| model.largest());
        }
        sizes.extend(list.iter().map(model::Io::bytes));
        if side == "input" && !model.gears.is_empty() {
            sizes.push(GEAR_BYTES);
        }
        let (have, want) = (dataset.buffers.len(), sizes.len());
        if have != want {
            return state.refuse(code, format!("{call}: {have} {side}s instead of {want}"));
        }
        let handles = dataset.buffers.clone();
        let mut buffers = Vec::with_capacity(want);
        for (at, (handle, size)) in handles.into_iter().zip(sizes).enumerate() {
            let Some(&buffer) = state.buffers.get(&handle) else {
                return state.refuse(100_000, format!("{call}: {side} {at} is destroyed"));
            };
            if buffer.size != size {
                let what = format!("{call}: {side} {at} has {} bytes, not {size}", buffer.size);
                return state.refuse(145_000, what);
            }
            let block = state.block_of(buffer.address, buffer.size);
            if block.is_none_or(|block| block.device != Some(resident.device)) {
                return state.refuse(145_000, format!("{call}: {side} {at} is not on the device"));
            }
            if buffer.address % 64 != 0 {
                return state.refuse(345_104, format!("{call}: {side} {at} is not aligned to 64"));
            }
            buffers.push((buffer.address, size));
        }
        sides.push(buffers);
    }
    drop(state);
    let (Some(outputs), Some(inputs)) = (sides.pop(), sides.pop()) else {
        return failure(500_000, "no sides");
    };
    let mut going_on = GOING_ON.lock().unwrap_or_else(PoisonError::into_inner);
    let going_on = Arc::clone(going_on.entry(id).or_default());
    Ok(Run { id, model, gear, inputs, outputs, going_on })
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlExecute(
    id: u32,
    inputs: *const aclmdlDataset,
    outputs: *mut aclmdlDataset,
) -> aclError {
    call("aclmdlExecute", || prepare("aclmdlExecute", id, inputs, outputs)?.execute())
}

#[unsafe(no_mangle)]
extern "C" fn aclmdlExecuteAsync(
    id: u32,
    inputs: *const aclmdlDataset,
    outputs: *mut aclmdlDataset,
    stream: aclrtStream,
) -> aclError {
    call("aclmdlExecuteAsync", || {
        let run = prepare("aclmdlExecuteAsync", id, inputs, outputs)?;
        stream_of("aclmdlExecuteAsync", stream)?.push(Task::Run(run));
        Ok(())
    })
}
