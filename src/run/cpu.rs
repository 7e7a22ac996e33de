//! The same work on the CPU, in tract: for a model that is not compiled yet.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use onnxfix_ir::Tensor;
use onnxfix_npu::{NpuError, Ran, Times, Work};
use onnxfix_samples::Slot;

use crate::engine::Engine;

/// Runs all batches on some threads. Times are those of the computation alone; nothing is copied to a device.
pub(super) fn run<W: Work>(
    engine: &Engine,
    outputs: &[Slot],
    work: &W,
    (threads, warmups, repeats): (usize, usize, usize),
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Ran {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicBool::new(false);
    let (times, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
    let began = Mutex::new(None);
    let one_worker = || -> Result<(), NpuError> {
        let mut own = Vec::new();
        let mut inputs: Vec<Vec<u8>> = engine.inputs().iter().map(zeros).collect();
        for _ in 0..warmups {
            compute(engine, &inputs).map_err(|e| during("warm up", e))?;
        }
        began.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        loop {
            if stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) {
                break;
            }
            let batch = next.fetch_add(1, Ordering::Relaxed);
            if batch >= work.batches() {
                break;
            }
            let mut places: Vec<&mut [u8]> = inputs.iter_mut().map(Vec::as_mut_slice).collect();
            let what = |what: &str| format!("{what} batch {batch}");
            work.fill(batch, &mut places).map_err(|e| during(&what("read the inputs of"), e))?;
            let mut results = Vec::new();
            for _ in 0..repeats.max(1) {
                let start = Instant::now();
                results = compute(engine, &inputs).map_err(|e| during(&what("run"), e))?;
                let compute = start.elapsed().as_secs_f32() * 1e3;
                own.push(Times { compute, ..Times::default() });
            }
            let raw = results.iter().map(Tensor::raw).collect::<Result<Vec<_>, _>>();
            let raw = raw.map_err(|e| during(&what("run"), e.into()))?;
            debug_assert_eq!(raw.len(), outputs.len());
            let raw: Vec<&[u8]> = raw.iter().map(AsRef::as_ref).collect();
            work.take(batch, &raw).map_err(|e| during(&what("keep the outputs of"), e))?;
            progress(finished.fetch_add(1, Ordering::Relaxed) + 1);
        }
        times.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                if let Err(error) = one_worker() {
                    failed.store(true, Ordering::Relaxed);
                    let mut slot = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    slot.get_or_insert(error);
                }
            });
        }
    });
    let began = began.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ran {
        times: times.into_inner().unwrap_or_else(PoisonError::into_inner),
        seconds: began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
        finished: finished.into_inner(),
        failure: failure.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

fn during(what: &str, source: onnxfix_npu::WorkError) -> NpuError {
    NpuError::Work { what: what.to_owned(), source }
}

pub(super) fn zeros(spec: &crate::engine::InputSpec) -> Vec<u8> {
    let slot = Slot { name: String::new(), dtype: spec.dtype, dims: spec.dims.clone() };
    let bytes = slot.len().and_then(|n| spec.dtype.byte_len(u64::try_from(n).ok()?));
    vec![0; bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)]
}

pub(super) fn compute(
    engine: &Engine,
    inputs: &[Vec<u8>],
) -> Result<Vec<Tensor>, onnxfix_npu::WorkError> {
    let tensor = |(spec, bytes): (&crate::engine::InputSpec, &Vec<u8>)| {
        Tensor::from_raw(spec.dtype, &spec.dims, bytes.clone().into())
    };
    let tensors = engine.inputs().iter().zip(inputs).map(tensor).collect::<Result<Vec<_>, _>>()?;
    Ok(engine.run(&tensors)?)
}
