//! Runs compiled models on NPUs, fed with tensors.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ir::Tensor;
use onnxfix_npu::acl::Runtime;
use onnxfix_npu::{Flow, Interface, NpuError, Plan, Work, WorkError, is_simulated};
use onnxfix_samples::Slot;

use crate::run::copy;

/// The devices that compiled models run on.
#[derive(Debug)]
pub struct Npus {
    /// AscendCL, started.
    pub runtime: Arc<Runtime>,
    /// Numbers of the devices; one queue feeds them.
    pub devices: Vec<i32>,
    /// Ends a run early.
    pub stop: Arc<AtomicBool>,
}

impl Npus {
    /// What a compiled model takes and gives.
    ///
    /// # Errors
    /// When the device refuses it.
    pub(super) fn interface(&self, model: &Path) -> Result<Interface> {
        let device = self.devices.first().copied().context("there is no device")?;
        Ok(onnxfix_npu::interface(&self.runtime, device, model, None)?)
    }

    /// The chip's name, and whether it is made up.
    ///
    /// # Errors
    /// When the library does not tell.
    pub(super) fn chip(&self) -> Result<(String, bool)> {
        let name = self.runtime.soc()?;
        let simulated = is_simulated(&name);
        Ok((name, simulated))
    }

    /// Runs `count` batches; gives the first output of each, and the seconds without loading.
    pub(super) fn run(
        &self,
        model: &Path,
        count: usize,
        feed: &(dyn Fn(usize) -> Result<Vec<Tensor>> + Sync),
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<(Vec<Tensor>, f64)> {
        let results: Vec<OnceLock<Tensor>> = (0..count).map(|_| OnceLock::new()).collect();
        let plan = Plan {
            model,
            devices: self.devices.clone(),
            threads: 1,
            gear: None,
            warmups: 1,
            repeats: 1,
            flow: Flow::Overlapped,
        };
        let prepare = |interface: &Interface| -> Result<Queue<'_>, NpuError> {
            Ok(Queue { feed, results: &results, output: interface.outputs.first().cloned() })
        };
        let ran = onnxfix_npu::run(&self.runtime, &plan, prepare, &self.stop, progress)?;
        if let Some(failure) = ran.failure {
            let done = format!("{} of {count} batches are finished", ran.finished);
            return Err(anyhow::Error::new(failure).context(done));
        }
        let tensors: Option<Vec<Tensor>> = results.into_iter().map(OnceLock::into_inner).collect();
        match tensors {
            Some(tensors) => Ok((tensors, ran.seconds)),
            None => bail!("interrupted: {} of {count} batches are finished", ran.finished),
        }
    }
}

/// Batches of tensors, and what came of them.
struct Queue<'a> {
    feed: &'a (dyn Fn(usize) -> Result<Vec<Tensor>> + Sync),
    results: &'a [OnceLock<Tensor>],
    output: Option<Slot>,
}

impl Work for Queue<'_> {
    fn batches(&self) -> usize {
        self.results.len()
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError> {
        let tensors = (self.feed)(batch)?;
        for (to, tensor) in inputs.iter_mut().zip(&tensors) {
            copy(to, &tensor.raw()?)?;
        }
        Ok(())
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError> {
        let first = self.output.as_ref().zip(outputs.first());
        let (slot, bytes) = first.ok_or_else(|| anyhow!("the model has no outputs"))?;
        let tensor = Tensor::from_raw(slot.dtype, &slot.dims, bytes.to_vec().into())?;
        // A batch is taken once.
        let _first = self.results[batch].set(tensor);
        Ok(())
    }
}
