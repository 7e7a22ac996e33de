//! A queue of batches for all devices.
//!
//! Every worker is a thread with a context, a model and memory of its own. Several batches are in hand at a time, each at
//! another stage: its files are read, its inputs copied to the device, it runs, its outputs are copied back, its results are
//! written. One step moves all of them on by one stage, so that a step takes as long as its longest stage. Each stage of the
//! device has a stream, which is waited for at the end of every step: what fails is known to belong to one batch, because
//! waiting for an event alone would not tell of failures (`Event::Synchronize` of hicann/runtime, 2026).

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use ascendcl_sys::Error;
use onnxfix_samples::Slot as Tensor;

use crate::NpuError;
use crate::acl::{Context, Gear, Lane, Model, Runtime, Slot};

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its inputs, in order.
    pub inputs: Vec<Tensor>,
    /// Its outputs, in order.
    pub outputs: Vec<Tensor>,
}

/// Why a batch could not be read or its results not be written.
pub type WorkError = Box<dyn std::error::Error + Send + Sync>;

/// Batches to run. Several threads ask at the same time.
pub trait Work: Sync {
    /// How many there are.
    fn batches(&self) -> usize;

    /// Writes the inputs of a batch, packed, to where the device takes them from.
    ///
    /// # Errors
    /// When they cannot be had.
    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError>;

    /// Takes what a batch gave: packed outputs.
    ///
    /// # Errors
    /// When they cannot be kept.
    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError>;
}

/// How a device is kept busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// Copies go on while the model runs.
    #[default]
    Overlapped,
    /// One thing after the other, each timed by the host, as `ais_bench` does.
    Blocking,
}

/// What to run, where and how.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The compiled model.
    pub model: &'a Path,
    /// The devices, by number.
    pub devices: Vec<i32>,
    /// Workers of each device.
    pub threads: usize,
    /// The gear; none for the largest.
    pub gear: Option<Gear>,
    /// Runs of each worker before those that count, on zeros.
    pub warmups: usize,
    /// How often each batch runs.
    pub repeats: usize,
    /// Whether stages overlap.
    pub flow: Flow,
}

/// Milliseconds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    /// Copying its inputs to the device.
    pub upload: f32,
    /// Running the model.
    pub compute: f32,
    /// Copying its outputs to the host.
    pub download: f32,
}

/// What became of a run.
#[derive(Debug)]
pub struct Ran {
    /// Times of the runs, in the order in which they ended.
    pub times: Vec<Times>,
    /// Seconds from the first input to the last output, loading and warming up left out.
    pub seconds: f64,
    /// Batches whose results were taken.
    pub finished: usize,
    /// Why not all are finished. None where the run was stopped.
    pub failure: Option<NpuError>,
}

/// What workers share.
struct Shared<'a, W> {
    plan: &'a Plan<'a>,
    runtime: &'a Arc<Runtime>,
    work: &'a OnceLock<W>,
    next: AtomicUsize,
    finished: AtomicUsize,
    stop: &'a AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<NpuError>>,
    times: Mutex<Vec<Times>>,
    ended: Mutex<Option<Instant>>,
    progress: &'a (dyn Fn(usize) + Sync),
}

impl<W: Work> Shared<'_, W> {
    /// The next batch, unless the run is to end.
    fn claim(&self, work: &W) -> Option<usize> {
        if self.stop.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let batch = self.next.fetch_add(1, Ordering::Relaxed);
        (batch < work.batches()).then_some(batch)
    }

    /// Keeps the first failure; the others follow from it or tell the same.
    fn fail(&self, error: NpuError) {
        self.failed.store(true, Ordering::Relaxed);
        let mut slot = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(error);
    }
}

/// What a compiled model takes and gives, at a gear or the largest. Loads it on a device for that, and unloads it.
///
/// # Errors
/// When the device refuses the model.
pub fn interface(
    runtime: &Arc<Runtime>,
    device: i32,
    path: &Path,
    gear: Option<Gear>,
) -> Result<Interface, NpuError> {
    let cx = Context::open(runtime, device)?;
    let model = Model::load(&cx, path, gear)?;
    Ok(Interface { inputs: model.inputs().to_vec(), outputs: model.outputs().to_vec() })
}

/// Loads the model on every device, asks `prepare` for the work once its interface is known, and does it. `stop` ends it
/// early: what is in hand is finished. `progress` gets the number of batches finished.
///
/// # Errors
/// When a model cannot be loaded or `prepare` refuses. What fails later is in [`Ran::failure`], with what was finished before.
pub fn run<W: Work + Send, E: From<NpuError>>(
    runtime: &Arc<Runtime>,
    plan: &Plan<'_>,
    prepare: impl FnOnce(&Interface) -> Result<W, E>,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Ran, E> {
    let count = runtime.devices()?;
    let exists = |device: &i32| u32::try_from(*device).is_ok_and(|d| d < count);
    if let Some(&asked) = plan.devices.iter().find(|device| !exists(device)) {
        return Err(NpuError::Device { asked, count }.into());
    }
    let work = OnceLock::new();
    let shared = Shared {
        plan,
        runtime,
        work: &work,
        next: AtomicUsize::new(0),
        finished: AtomicUsize::new(0),
        stop,
        failed: AtomicBool::new(false),
        failure: Mutex::new(None),
        times: Mutex::new(Vec::new()),
        ended: Mutex::new(None),
        progress,
    };
    let began = std::thread::scope(|scope| -> Result<Option<Instant>, E> {
        let (ready, readies) = channel();
        let mut starts = Vec::new();
        for &device in &plan.devices {
            for _ in 0..plan.threads.max(1) {
                let (start, started) = channel();
                starts.push(start);
                let (shared, ready) = (&shared, ready.clone());
                scope.spawn(move || {
                    if let Err(error) = worker(shared, device, &ready, &started) {
                        shared.fail(error);
                    }
                });
            }
        }
        drop(ready);
        // A message of each worker that is ready; those that are not have gone.
        let interfaces: Vec<Interface> = readies.iter().take(starts.len()).collect();
        let Some(interface) = interfaces.first().filter(|_| interfaces.len() == starts.len())
        else {
            return Ok(None);
        };
        // Nobody else sets it.
        let _set = work.set(prepare(interface)?);
        let began = Instant::now();
        for start in starts {
            // A worker that has gone has said why.
            let _there = start.send(());
        }
        Ok(Some(began))
    })?;
    let failure = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(began) = began else {
        return Err(failure.unwrap_or(NpuError::Thread).into());
    };
    let ended: Option<Instant> = shared.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Ran {
        times: shared.times.into_inner().unwrap_or_else(PoisonError::into_inner),
        seconds: ended.map_or(0.0, |ended| ended.duration_since(began).as_secs_f64()),
        finished: shared.finished.into_inner(),
        failure,
    })
}

/// Opens a device, loads the model, waits for the work and does it.
fn worker<W: Work>(
    shared: &Shared<'_, W>,
    device: i32,
    ready: &Sender<Interface>,
    started: &Receiver<()>,
) -> Result<(), NpuError> {
    let plan = shared.plan;
    let cx = Context::open(shared.runtime, device)?;
    let model = Model::load(&cx, plan.model, plan.gear.clone())?;
    let in_hand = match plan.flow {
        Flow::Overlapped => STAGES,
        Flow::Blocking => 1,
    };
    let mut slots = (0..in_hand).map(|_| Slot::new(&model)).collect::<Result<Vec<_>, _>>()?;
    let during = |error| NpuError::during(format!("warm up on device {device}"))(error);
    for _ in 0..plan.warmups {
        slots[0].upload().map_err(during)?;
        slots[0].execute().map_err(during)?;
        slots[0].download().map_err(during)?;
    }
    let lanes = match plan.flow {
        Flow::Overlapped => Some([Lane::new(&cx)?, Lane::new(&cx)?, Lane::new(&cx)?]),
        Flow::Blocking => None,
    };
    let outputs = slots[0].outputs().to_vec();
    let interface = Interface { inputs: model.inputs().to_vec(), outputs };
    // Whoever listens no longer has found that another worker failed.
    let _listening = ready.send(interface);
    let (Ok(()), Some(work)) = (started.recv(), shared.work.get()) else { return Ok(()) };
    let mut line = Line { shared, work, device, free: slots, times: Vec::new() };
    let outcome = match &lanes {
        Some(lanes) => line.overlapped(lanes),
        None => line.blocking(),
    };
    let mut ended = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
    *ended = (*ended).max(Some(Instant::now()));
    let mut times = shared.times.lock().unwrap_or_else(PoisonError::into_inner);
    times.append(&mut line.times);
    outcome
}

/// Batches in hand where stages overlap: being read, copied in, run, copied out, written.
const STAGES: usize = 5;

/// A batch in hand.
struct Job {
    batch: usize,
    slot: Slot,
    times: Times,
}

/// What a worker does its batches with.
struct Line<'a, W> {
    shared: &'a Shared<'a, W>,
    work: &'a W,
    device: i32,
    free: Vec<Slot>,
    times: Vec<Times>,
}

impl<W: Work> Line<'_, W> {
    fn repeats(&self) -> usize {
        self.shared.plan.repeats.max(1)
    }

    fn failed(&self, batch: usize) -> impl Fn(Error) -> NpuError + use<W> {
        let device = self.device;
        move |error| NpuError::during(format!("run batch {batch} on device {device}"))(error)
    }

    /// The next batch with its inputs; none if there is none, or no memory is free for it.
    fn fill(&mut self) -> Result<Option<Job>, NpuError> {
        if self.free.is_empty() {
            return Ok(None);
        }
        let Some(batch) = self.shared.claim(self.work) else { return Ok(None) };
        let Some(mut slot) = self.free.pop() else { return Ok(None) };
        let filled = self.work.fill(batch, &mut slot.inputs_mut());
        filled.map_err(|source| NpuError::Work {
            what: format!("read the inputs of batch {batch}"),
            source,
        })?;
        Ok(Some(Job { batch, slot, times: Times::default() }))
    }

    /// Hands over what a batch gave, and frees its memory.
    fn take(&mut self, job: Job) -> Result<(), NpuError> {
        let taken = self.work.take(job.batch, &job.slot.outputs_data());
        self.free.push(job.slot);
        taken.map_err(|source| NpuError::Work {
            what: format!("keep the outputs of batch {}", job.batch),
            source,
        })?;
        self.times.push(job.times);
        let finished = self.shared.finished.fetch_add(1, Ordering::Relaxed) + 1;
        (self.shared.progress)(finished);
        Ok(())
    }

    /// One batch after the other.
    fn blocking(&mut self) -> Result<(), NpuError> {
        while let Some(mut job) = self.fill()? {
            let failed = self.failed(job.batch);
            for repeat in 0..self.repeats() {
                if repeat > 0 {
                    self.times.push(job.times);
                }
                job.times = Times {
                    upload: job.slot.upload().map_err(&failed)?,
                    compute: job.slot.execute().map_err(&failed)?,
                    download: job.slot.download().map_err(&failed)?,
                };
            }
            self.take(job)?;
        }
        Ok(())
    }

    /// Batches one stage behind the other.
    fn overlapped(&mut self, [upload, compute, download]: &[Rc<Lane>; 3]) -> Result<(), NpuError> {
        let mut uploading = self.fill()?;
        let mut computing: Option<Job> = None;
        let mut downloading: Option<Job> = None;
        let mut done: Option<Job> = None;
        loop {
            // The device first: it is what should not wait.
            let begun = begin(&mut computing, |slot| slot.begin_execute(compute))
                .and_then(|()| begin(&mut downloading, |slot| slot.begin_download(download)))
                .and_then(|()| begin(&mut uploading, |slot| slot.begin_upload(upload)));
            // What is finished stays so, whatever became of the others.
            let taken = done.take().map_or(Ok(()), |job| self.take(job));
            begun.map_err(|(batch, error)| self.failed(batch)(error))?;
            taken?;
            let next = self.fill()?;

            let downloaded = wait(&mut downloading);
            if let (Ok(ms), Some(job)) = (&downloaded, &mut downloading) {
                job.times.download = *ms;
            }
            let computed = self.wait_for_model(&mut computing, compute);
            let uploaded = wait(&mut uploading);
            if let (Ok(ms), Some(job)) = (&uploaded, &mut uploading) {
                job.times.upload = *ms;
            }
            if downloaded.is_ok() {
                done = downloading.take();
            }
            let outcome = downloaded.map(drop).and(computed).and(uploaded.map(drop));
            if let Err((batch, error)) = outcome {
                if let Some(job) = done.take() {
                    self.take(job)?;
                }
                return Err(self.failed(batch)(error));
            }
            downloading = computing.take();
            computing = uploading.take();
            uploading = next;
            if uploading.is_none() && computing.is_none() && downloading.is_none() && done.is_none()
            {
                return Ok(());
            }
        }
    }

    /// Waits for a run, and runs the same again as often as is asked for.
    fn wait_for_model(
        &mut self,
        computing: &mut Option<Job>,
        lane: &Rc<Lane>,
    ) -> Result<(), (usize, Error)> {
        let ms = wait(computing)?;
        let Some(job) = computing else { return Ok(()) };
        job.times.compute = ms;
        for _ in 1..self.repeats() {
            self.times.push(job.times);
            let failed = |error| (job.batch, error);
            job.slot.begin_execute(lane).map_err(failed)?;
            job.times.compute = job.slot.wait().map_err(failed)?;
        }
        Ok(())
    }
}

/// Begins a stage of a batch, if there is one at it.
fn begin(
    job: &mut Option<Job>,
    stage: impl FnOnce(&mut Slot) -> Result<(), Error>,
) -> Result<(), (usize, Error)> {
    let Some(job) = job else { return Ok(()) };
    stage(&mut job.slot).map_err(|error| (job.batch, error))
}

/// Waits for the stage of a batch, if there is one at it.
fn wait(job: &mut Option<Job>) -> Result<f32, (usize, Error)> {
    let Some(job) = job else { return Ok(0.0) };
    job.slot.wait().map_err(|error| (job.batch, error))
}
