//! What exists, and the rules that calls have to keep.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::faults::SETTINGS;
use crate::model::Model;
use crate::stream::Stream;

/// Why a call fails.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// A failure by a code and what the library says about it.
pub(crate) fn failure<T>(code: i32, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { code, message: message.into() })
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Memory that was handed out.
#[derive(Debug)]
pub(crate) struct Block {
    /// Bytes that were asked for.
    pub(crate) size: usize,
    /// The device; none for memory of the host.
    pub(crate) device: Option<i32>,
    layout: Layout,
}

/// Address and length of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) address: usize,
    pub(crate) size: usize,
}

/// The buffers of a run, with the gear that was chosen for them.
#[derive(Debug, Default)]
pub(crate) struct Dataset {
    pub(crate) buffers: Vec<usize>,
    pub(crate) gear: Option<usize>,
}

/// A description, with the names that it lends.
#[derive(Debug, Default)]
pub(crate) struct Desc {
    pub(crate) model: Option<Arc<Model>>,
    pub(crate) inputs: Vec<CString>,
    pub(crate) outputs: Vec<CString>,
}

/// A model in memory of a device.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    pub(crate) model: Arc<Model>,
    pub(crate) context: usize,
    pub(crate) device: i32,
    /// Bytes that it takes on the device.
    pub(crate) bytes: usize,
}

/// A context; the default ones are of [`State::opened`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) device: i32,
    pub(crate) default: bool,
}

/// All that the library knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) running: bool,
    next: usize,
    /// Devices that are open: how often, and their default context.
    pub(crate) opened: BTreeMap<i32, (u32, usize)>,
    pub(crate) contexts: BTreeMap<usize, Context>,
    pub(crate) streams: BTreeMap<usize, Arc<Stream>>,
    /// Events, with the device of each.
    pub(crate) events: BTreeMap<usize, (i32, Arc<crate::stream::Event>)>,
    pub(crate) blocks: BTreeMap<usize, Block>,
    pub(crate) models: BTreeMap<u32, Resident>,
    pub(crate) descs: BTreeMap<usize, Desc>,
    pub(crate) datasets: BTreeMap<usize, Dataset>,
    pub(crate) buffers: BTreeMap<usize, Buffer>,
    /// How often each function was called.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// What was against the rules, once each.
    pub(crate) violations: Vec<String>,
    /// Objects whose release was made to fail: their owner tried, so they are no leak.
    pub(crate) given_up: u64,
    pub(crate) pageable: u64,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

thread_local! {
    static CONTEXT: Cell<usize> = const { Cell::new(0) };
    static MESSAGE: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// What was read last stays until the next call.
    static READ: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// The state. A panic while it was locked does not make it useless.
pub(crate) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Notes what a call failed with, for `aclGetRecentErrMsg`.
pub(crate) fn say(message: &str) {
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    MESSAGE.with(|slot| *slot.borrow_mut() = Some(text));
}

/// What was said last in this thread, once.
pub(crate) fn recent() -> *const std::ffi::c_char {
    let text = MESSAGE.with(|slot| slot.borrow_mut().take());
    READ.with(|slot| {
        *slot.borrow_mut() = text;
        slot.borrow().as_ref().map_or(std::ptr::null(), |text| text.as_ptr())
    })
}

impl State {
    /// Refuses what breaks a rule, and notes it for the report.
    pub(crate) fn refuse<T>(&mut self, code: i32, message: String) -> Outcome<T> {
        if !self.violations.contains(&message) {
            self.violations.push(message.clone());
        }
        failure(code, message)
    }

    /// A handle that no other object had.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 1;
        // Never a valid address: whoever looks behind a handle is caught.
        0x100 + self.next * 8
    }

    /// This thread's context.
    pub(crate) fn context(&mut self, call: &str) -> Outcome<(usize, Context)> {
        let handle = CONTEXT.get();
        match self.contexts.get(&handle) {
            Some(context) => Ok((handle, *context)),
            None => self.refuse(107_002, format!("{call}: this thread has no context")),
        }
    }

    pub(crate) fn set_context(handle: usize) {
        CONTEXT.set(handle);
    }

    /// Bytes in use on a device: memory and models.
    pub(crate) fn used(&self, device: i32) -> usize {
        let blocks = self.blocks.values().filter(|b| b.device == Some(device)).map(|b| b.size);
        let models = self.models.values().filter(|m| m.device == device).map(|m| m.bytes);
        blocks.chain(models).sum()
    }

    /// Makes room for bytes on a device.
    pub(crate) fn reserve(&self, call: &str, device: i32, bytes: usize) -> Outcome {
        let free = SETTINGS.memory.saturating_sub(self.used(device));
        if bytes > free {
            return failure(
                207_001,
                format!(
                    "EL0004: {call}: {bytes} bytes do not fit, {free} are free on device {device}"
                ),
            );
        }
        Ok(())
    }

    /// Memory that is filled with what nobody should read.
    pub(crate) fn allocate(&mut self, size: usize, device: Option<i32>) -> Outcome<usize> {
        let padded = size.checked_next_multiple_of(32).and_then(|s| s.checked_add(32));
        let Some(layout) = padded.and_then(|s| Layout::from_size_align(s, 64).ok()) else {
            return failure(207_001, format!("EL0004: {size} bytes do not fit"));
        };
        // SAFETY: the layout has at least 32 bytes.
        let memory = unsafe { std::alloc::alloc(layout) };
        if memory.is_null() {
            return failure(207_001, format!("EL0004: {size} bytes do not fit"));
        }
        // SAFETY: the memory has as many bytes.
        unsafe { memory.write_bytes(0xA5, layout.size()) };
        self.blocks.insert(memory as usize, Block { size, device, layout });
        Ok(memory as usize)
    }

    /// Frees memory of a device or of the host.
    pub(crate) fn release(&mut self, call: &str, address: usize, host: bool) -> Outcome {
        match self.blocks.get(&address) {
            Some(block) if block.device.is_none() == host => {
                if let Some(block) = self.blocks.remove(&address) {
                    // SAFETY: it was allocated with this layout, and is freed once.
                    unsafe { std::alloc::dealloc(address as *mut u8, block.layout) };
                }
                Ok(())
            }
            Some(_) => self.refuse(107_000, format!("{call}: the memory is of the other kind")),
            None => self.refuse(107_000, format!("{call}: no such memory, or freed already")),
        }
    }

    /// The block that bytes lie in.
    pub(crate) fn block_of(&self, address: usize, size: usize) -> Option<&Block> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        (address - start + size <= block.size).then_some(block)
    }

    /// What exists still, by kind.
    pub(crate) fn leaks(&self) -> BTreeMap<&'static str, usize> {
        let of =
            |device: bool| self.blocks.values().filter(|b| b.device.is_some() == device).count();
        let counts = [
            ("device memory", of(true)),
            ("host memory", of(false)),
            ("contexts", self.contexts.values().filter(|c| !c.default).count()),
            ("streams", self.streams.len()),
            ("events", self.events.len()),
            ("models", self.models.len()),
            ("descriptions", self.descs.len()),
            ("data sets", self.datasets.len()),
            ("buffers", self.buffers.len()),
            ("devices", self.opened.len()),
            ("initialized", usize::from(self.running)),
        ];
        counts.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Writes the report, if one is asked for.
    pub(crate) fn report(&self) {
        let Some(path) = &SETTINGS.report else { return };
        let report = serde_json::json!({
            "calls": self.calls,
            "leaks": self.leaks(),
            "violations": self.violations,
            "given_up": self.given_up,
            "pageable_copies": self.pageable,
        });
        // Nobody is there to tell when a process ends.
        let _written = std::fs::write(path, report.to_string());
    }
}

/// Streams and events by number, to name them in messages.
pub(crate) fn find<T: Clone>(map: &BTreeMap<usize, T>, handle: usize) -> Option<T> {
    map.get(&handle).cloned()
}

/// Engines that were made, by the position of the gear.
pub(crate) type Engines = Mutex<HashMap<usize, Arc<onnxfix_engine::Engine>>>;
