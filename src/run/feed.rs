//! Batches from files or made up, and results into files.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::{DataType, Tensor};
use onnxfix_npu::{Interface, Work, WorkError};
use onnxfix_samples::{Format, Inputs, Outputs, Slot};
use serde::Serialize;

/// What a run without files computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PureData {
    /// Zeros.
    Zero,
    /// Integers that are 0 or 1, which any model takes as ids and masks, and numbers from 0 to 1.
    Random,
}

/// Where results go.
#[derive(Debug, Clone)]
pub struct Target {
    /// The folder of the files.
    pub folder: PathBuf,
    /// Their format.
    pub format: Format,
    /// The dimension of the outputs that counts samples.
    pub axis: usize,
}

/// The files of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SampleFiles {
    /// What was read.
    pub infiles: Vec<String>,
    /// What was written.
    pub outfiles: Vec<String>,
}

/// Where batches come from.
#[derive(Debug)]
enum From {
    Files(Inputs),
    /// As many batches as there are to be, and the packed inputs of all of them.
    Made(usize, Vec<Vec<u8>>),
}

/// The batches of a run and where their results go.
#[derive(Debug)]
pub struct Feed {
    from: From,
    slots: Vec<Slot>,
    target: Option<Outputs>,
    /// The files that were read and written, by the name of the sample.
    files: Mutex<BTreeMap<String, SampleFiles>>,
}

impl Feed {
    /// Batches of files, see [`Inputs::open`]. `bin_dtype` is the type of the elements of `.bin` files, where it is not that of
    /// the input.
    ///
    /// # Errors
    /// When the files do not go with the model, or the folder for results cannot be made.
    pub fn of_files(
        interface: &Interface,
        paths: &[PathBuf],
        bin_dtype: Option<DataType>,
        target: Option<&Target>,
    ) -> Result<Feed> {
        let inputs = Inputs::open(&interface.inputs, paths, bin_dtype)?;
        if inputs.is_empty() {
            bail!("there is no sample in {}", paths[0].display());
        }
        let mut names = HashSet::new();
        for sample in 0..inputs.len() {
            let name = inputs.name(sample);
            if target.is_some() && !names.insert(name.clone()) {
                bail!(
                    "two samples would both write results called {name:?}_0, the second {}: names count up to the first dot",
                    inputs.files(sample)[0].display()
                );
            }
        }
        Feed::new(From::Files(inputs), interface, target)
    }

    /// Batches that are all alike.
    ///
    /// # Errors
    /// When the folder for results cannot be made.
    pub fn made_up(
        interface: &Interface,
        data: PureData,
        batches: usize,
        target: Option<&Target>,
    ) -> Result<Feed> {
        let inputs = interface.inputs.iter().map(|slot| made_up(slot, data)).collect();
        Feed::new(From::Made(batches, inputs), interface, target)
    }

    fn new(from: From, interface: &Interface, target: Option<&Target>) -> Result<Feed> {
        let outputs = |t: &Target| {
            Outputs::create(&t.folder, t.format, t.axis).context("make the folder for results")
        };
        let target = target.map(outputs).transpose()?;
        Ok(Feed { from, slots: interface.outputs.clone(), target, files: Mutex::default() })
    }

    /// How many samples a batch has, as its files say.
    #[must_use]
    pub fn per_batch(&self) -> Option<usize> {
        match &self.from {
            From::Files(inputs) => Some(inputs.per_batch()),
            From::Made(..) => None,
        }
    }

    /// How many samples so many batches have, those that only fill up the last one left out.
    #[must_use]
    pub fn samples(&self, batches: usize) -> Option<usize> {
        match &self.from {
            From::Files(inputs) => Some((batches * inputs.per_batch()).min(inputs.len())),
            From::Made(..) => None,
        }
    }

    /// The files that were read and written, by the name of the sample.
    #[must_use]
    pub fn into_files(self) -> BTreeMap<String, SampleFiles> {
        self.files.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: &str, read: &[&Path], written: &[PathBuf]) {
        let sample = SampleFiles {
            infiles: read.iter().map(|path| path.display().to_string()).collect(),
            outfiles: written.iter().map(|path| path.display().to_string()).collect(),
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(name.to_owned(), sample);
    }
}

impl Work for Feed {
    fn batches(&self) -> usize {
        match &self.from {
            From::Files(inputs) => inputs.batches(),
            From::Made(batches, _) => *batches,
        }
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError> {
        match &self.from {
            From::Files(files) => {
                let read = files.batch(batch)?;
                for (to, tensor) in inputs.iter_mut().zip(&read.tensors) {
                    copy(to, &tensor.raw()?)?;
                }
            }
            From::Made(_, made) => {
                for (to, bytes) in inputs.iter_mut().zip(made) {
                    copy(to, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError> {
        let Some(target) = &self.target else { return Ok(()) };
        let tensor = |(slot, bytes): (&Slot, &&[u8])| {
            Tensor::from_raw(slot.dtype, &slot.dims, bytes.to_vec().into())
        };
        let tensors = self.slots.iter().zip(outputs).map(tensor).collect::<Result<Vec<_>, _>>()?;
        match &self.from {
            From::Files(inputs) => {
                let first = batch * inputs.per_batch();
                let samples = first..(first + inputs.per_batch()).min(inputs.len());
                let names: Vec<String> = samples.clone().map(|at| inputs.name(at)).collect();
                let written = target.write(&names, inputs.per_batch(), &self.slots, &tensors)?;
                for ((sample, name), written) in samples.zip(&names).zip(written) {
                    self.note(name, &inputs.files(sample), &written);
                }
            }
            // All batches are alike, and so are their results: one is enough.
            From::Made(..) if batch > 0 => {}
            From::Made(..) => {
                let name = "pure_infer_data".to_owned();
                let written =
                    target.write(std::slice::from_ref(&name), 1, &self.slots, &tensors)?;
                self.note(&name, &[], &written.concat());
            }
        }
        Ok(())
    }
}

/// Copies what must be as long as its place.
fn copy(to: &mut [u8], from: &[u8]) -> Result<(), WorkError> {
    if to.len() != from.len() {
        return Err(format!("{} bytes for an input of {}", from.len(), to.len()).into());
    }
    to.copy_from_slice(from);
    Ok(())
}

/// The packed elements of an input.
fn made_up(slot: &Slot, data: PureData) -> Vec<u8> {
    let count = slot.len().unwrap_or(0);
    let size = usize::try_from(slot.dtype.bits() / 8).unwrap_or(0);
    if data == PureData::Zero {
        return vec![0; count * size];
    }
    // Any generator will do: a linear congruential one (Knuth, The Art of Computer Programming, volume 2).
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut bytes = Vec::with_capacity(count * size);
    for _ in 0..count {
        let bits = next();
        let fraction = bits as f32 / (1_u64 << 24) as f32;
        match slot.dtype {
            DataType::Float => bytes.extend(fraction.to_le_bytes()),
            DataType::Float16 => bytes.extend(half::f16::from_f32(fraction).to_le_bytes()),
            DataType::Double => bytes.extend(f64::from(fraction).to_le_bytes()),
            _ => {
                let start = bytes.len();
                bytes.resize(start + size, 0);
                bytes[start..].iter_mut().take(1).for_each(|byte| *byte = u8::from(bits & 1 == 1));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_elements_fit_their_type() {
        let slot = |dtype| Slot { name: "x".into(), dtype, dims: vec![2, 50] };
        let ints = made_up(&slot(DataType::Int32), PureData::Random);
        let ints: Vec<i32> =
            ints.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(ints.len() == 100 && ints.iter().all(|i| (0..=1).contains(i)));
        assert!(ints.contains(&0) && ints.contains(&1));
        let floats = made_up(&slot(DataType::Float), PureData::Random);
        let floats = floats.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(floats.into_iter().all(|f| (0.0..=1.0).contains(&f)));
        assert_eq!(made_up(&slot(DataType::Float16), PureData::Zero), vec![0; 200]);
    }
}
