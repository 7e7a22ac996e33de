//! Streams: each has a thread that does its tasks in order, as a device would beside the host.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::faults::SETTINGS;
use crate::model::Model;
use crate::state::{Failure, Outcome, failure, state};

/// A run of a model: what to compute, from and to which memory.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) model: Arc<Model>,
    pub(crate) gear: Option<usize>,
    pub(crate) inputs: Vec<(usize, usize)>,
    pub(crate) outputs: Vec<(usize, usize)>,
    /// How many runs of this model are going on.
    pub(crate) going_on: Arc<AtomicUsize>,
}

impl Run {
    /// Computes it, and notes whether the model ran somewhere else at that time.
    pub(crate) fn execute(&self) -> Outcome {
        if self.going_on.fetch_add(1, Ordering::SeqCst) > 0 {
            let what = format!("model {} runs in two places at a time", self.id);
            self.going_on.fetch_sub(1, Ordering::SeqCst);
            return state().refuse(507_011, what);
        }
        let outcome = task("execute").and_then(|()| {
            // SAFETY: the buffers were found in blocks of the device when the task was given, and memory that a stream
            // uses is not freed.
            unsafe { self.model.execute(self.gear, &self.inputs, &self.outputs) }
        });
        self.going_on.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

/// What a stream does.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    Copy { from: usize, to: usize, count: usize },
    Run(Run),
    Record(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
}

impl Task {
    fn perform(&self) -> Outcome {
        match self {
            &Task::Copy { from, to, count } => copy(from, to, count),
            Task::Run(run) => run.execute(),
            Task::Record(event, turn) => {
                event.reach(*turn);
                Ok(())
            }
            Task::Wait(event, turn) => {
                event.wait(*turn);
                Ok(())
            }
        }
    }

    fn uses(&self, start: usize, end: usize) -> bool {
        let meets = |(at, length): (usize, usize)| at < end && at + length > start;
        match self {
            &Task::Copy { from, to, count } => meets((from, count)) || meets((to, count)),
            Task::Run(run) => run.inputs.iter().chain(&run.outputs).copied().any(meets),
            _ => false,
        }
    }
}

/// Whether a task is to fail.
fn task(name: &'static str) -> Outcome {
    let fault = {
        let mut state = state();
        let n = state.calls.entry(name).or_default();
        *n += 1;
        SETTINGS.fault(name, *n)
    };
    SETTINGS.wait(name);
    fault.map_or(Ok(()), |code| failure(code, format!("EE9999: {name}: made to fail")))
}

/// Copies memory that was checked.
pub(crate) fn copy(from: usize, to: usize, count: usize) -> Outcome {
    task("copy")?;
    // SAFETY: both ends were checked when the copy was asked for: they are as long, and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, count) };
    Ok(())
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    current: Option<Task>,
    closing: bool,
    error: Option<Failure>,
}

/// A queue of tasks.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: usize,
    pub(crate) device: i32,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Stream {
    /// A stream and its thread.
    pub(crate) fn start(context: usize, device: i32) -> Arc<Stream> {
        let (queue, changed) = (Mutex::default(), Condvar::new());
        let stream = Arc::new(Stream { context, device, queue, changed });
        let own = Arc::clone(&stream);
        std::thread::spawn(move || {
            let mut queue = own.lock();
            loop {
                queue = own.step(queue);
                if queue.closing && queue.tasks.is_empty() && queue.current.is_none() {
                    return;
                }
                if queue.current.is_some() || queue.tasks.is_empty() {
                    queue = own.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            }
        });
        stream
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the next task, if there is one and none is being done.
    fn step<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        if queue.current.is_some() {
            return queue;
        }
        let Some(task) = queue.tasks.pop_front() else { return queue };
        queue.current = Some(task.clone());
        drop(queue);
        let outcome = task.perform();
        let mut queue = self.lock();
        queue.current = None;
        if let Err(failure) = outcome {
            queue.error.get_or_insert(failure);
        }
        self.changed.notify_all();
        queue
    }

    /// Gives the stream something to do. Events alone do not wake its thread: whoever waits for one does, with [`wake`], or
    /// comes by them while it waits for the stream.
    ///
    /// [`wake`]: Stream::wake
    pub(crate) fn push(&self, task: Task) {
        let wakes = !matches!(task, Task::Record(..));
        self.lock().tasks.push_back(task);
        if wakes {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits until everything is done, helping along, and tells what failed.
    pub(crate) fn synchronize(&self) -> Outcome {
        let mut queue = self.lock();
        loop {
            if queue.current.is_some() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else if queue.tasks.is_empty() {
                return queue.error.take().map_or(Ok(()), Err);
            } else {
                queue = self.step(queue);
            }
        }
    }

    /// Lets the thread end after what there is to do.
    pub(crate) fn close(&self) {
        let _reported_before = self.synchronize();
        self.lock().closing = true;
        self.changed.notify_all();
    }

    /// Whether a task that is not done yet uses memory.
    pub(crate) fn uses(&self, address: usize, size: usize) -> bool {
        let queue = self.lock();
        queue.tasks.iter().chain(&queue.current).any(|task| task.uses(address, address + size))
    }
}

#[derive(Debug, Default)]
struct Turns {
    given: u64,
    reached: u64,
    at: Option<Instant>,
    stream: Weak<Stream>,
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) timed: bool,
    turns: Mutex<Turns>,
    changed: Condvar,
}

impl Event {
    pub(crate) fn new(timed: bool) -> Event {
        Event { timed, turns: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event is put into a stream once more.
    pub(crate) fn give(&self, stream: &Arc<Stream>) -> u64 {
        let mut turns = self.lock();
        turns.given += 1;
        turns.stream = Arc::downgrade(stream);
        turns.given
    }

    /// Wakes the stream that the event is in.
    pub(crate) fn wake(&self) {
        let stream = self.lock().stream.upgrade();
        if let Some(stream) = stream {
            stream.wake();
        }
    }

    /// How often it was put into streams.
    pub(crate) fn given(&self) -> u64 {
        self.lock().given
    }

    fn reach(&self, turn: u64) {
        let mut turns = self.lock();
        turns.reached = turns.reached.max(turn);
        turns.at = Some(Instant::now());
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, turn: u64) {
        let mut turns = self.lock();
        while turns.reached < turn {
            turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// When it was reached; none if it was not, after it was put into a stream last.
    pub(crate) fn time(&self) -> Option<Instant> {
        let turns = self.lock();
        turns.at.filter(|_| turns.reached == turns.given)
    }
}
