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

/// Files that go in together, and where their results go.
#[derive(Debug, Clone)]
pub struct Batches {
    /// Files or folders.
    pub inputs: Vec<PathBuf>,
    /// Type of the elements of `.bin` files; none for that of the input.
    pub bin_dtype: Option<DataType>,
    /// Where results go; none to drop them.
    pub target: Option<Target>,
    /// What tells its samples from those of other parts of the run: nothing, or a name such as `match/64`.
    pub part: String,
    /// Samples, where a file has several and the last one is filled up; none to count files.
    pub samples: Option<usize>,
}

/// Where batches come from.
#[derive(Debug)]
enum From {
    Files(Vec<Part>),
    /// As many batches as there are to be, and the packed inputs of all of them.
    Made(usize, Vec<Vec<u8>>, Option<Outputs>),
}

/// A part of a run on files.
#[derive(Debug)]
struct Part {
    inputs: Inputs,
    /// Number of its first batch in the run.
    first: usize,
    target: Option<Outputs>,
    name: String,
    samples: Option<usize>,
}

impl Part {
    /// What a sample is called in the summary.
    fn name(&self, sample: usize) -> String {
        let name = self.inputs.name(sample);
        if self.name.is_empty() { name } else { format!("{}/{name}", self.name) }
    }
}

/// The batches of a run and where their results go.
#[derive(Debug)]
pub struct Feed {
    from: From,
    slots: Vec<Slot>,
    /// The files that were read and written, by the name of the sample.
    files: Mutex<BTreeMap<String, SampleFiles>>,
}

impl Feed {
    /// Batches of files, part after part; see [`Inputs::open`].
    ///
    /// # Errors
    /// When files do not go with the model, or a folder for results cannot be made.
    pub fn of_files(interface: &Interface, batches: &[Batches]) -> Result<Feed> {
        let mut parts = Vec::with_capacity(batches.len());
        let mut first = 0;
        for part in batches {
            let inputs = Inputs::open(&interface.inputs, &part.inputs, part.bin_dtype)?;
            if inputs.is_empty() {
                bail!("there is no sample in {}", part.inputs[0].display());
            }
            let mut names = HashSet::new();
            for sample in 0..inputs.len() {
                let name = inputs.name(sample);
                if part.target.is_some() && !names.insert(name.clone()) {
                    bail!(
                        "two samples would both write results called {name:?}_0, the second {}: names count up to the first dot",
                        inputs.files(sample)[0].display()
                    );
                }
            }
            let (name, samples) = (part.part.clone(), part.samples);
            let target = part.target.as_ref().map(outputs).transpose()?;
            let next = first + inputs.batches();
            parts.push(Part { inputs, first, target, name, samples });
            first = next;
        }
        Ok(Feed::new(From::Files(parts), interface))
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
        let target = target.map(outputs).transpose()?;
        Ok(Feed::new(From::Made(batches, inputs, target), interface))
    }

    fn new(from: From, interface: &Interface) -> Feed {
        Feed { from, slots: interface.outputs.clone(), files: Mutex::default() }
    }

    /// How many samples a batch has, as its files say.
    #[must_use]
    pub fn per_batch(&self) -> Option<usize> {
        match &self.from {
            From::Files(parts) => parts.first().map(|part| part.inputs.per_batch()),
            From::Made(..) => None,
        }
    }

    /// How many samples the first so many batches have, those that only fill up the last one of a part left out. `rows` is
    /// how many a run takes.
    #[must_use]
    pub fn samples(&self, batches: usize, rows: u64) -> Option<u64> {
        let of_part = |part: &Part| {
            let done = batches.saturating_sub(part.first).min(part.inputs.batches()) as u64;
            let all = match part.samples {
                Some(samples) => samples as u64,
                // A file that has a whole batch in it has as many samples.
                None if part.inputs.per_batch() == 1 => part.inputs.len() as u64 * rows,
                None => part.inputs.len() as u64,
            };
            (done * rows).min(all)
        };
        match &self.from {
            From::Files(parts) => Some(parts.iter().map(of_part).sum()),
            From::Made(..) => None,
        }
    }

    /// The part that a batch belongs to, and the batch's number in it.
    fn part(parts: &[Part], batch: usize) -> Option<(&Part, usize)> {
        let after = parts.partition_point(|part| part.first <= batch);
        let part = parts.get(after.checked_sub(1)?)?;
        Some((part, batch - part.first))
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
            From::Files(parts) => parts.iter().map(|part| part.inputs.batches()).sum(),
            From::Made(batches, ..) => *batches,
        }
    }

    fn fill(&self, batch: usize, inputs: &mut [&mut [u8]]) -> Result<(), WorkError> {
        match &self.from {
            From::Files(parts) => {
                let (part, batch) = Feed::part(parts, batch).ok_or("no such batch")?;
                let read = part.inputs.batch(batch)?;
                for (to, tensor) in inputs.iter_mut().zip(&read.tensors) {
                    copy(to, &tensor.raw()?)?;
                }
            }
            From::Made(_, made, _) => {
                for (to, bytes) in inputs.iter_mut().zip(made) {
                    copy(to, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn take(&self, batch: usize, outputs: &[&[u8]]) -> Result<(), WorkError> {
        let target = match &self.from {
            From::Files(parts) => Feed::part(parts, batch).and_then(|(p, _)| p.target.as_ref()),
            From::Made(_, _, target) => target.as_ref(),
        };
        let Some(target) = target else { return Ok(()) };
        let tensor = |(slot, bytes): (&Slot, &&[u8])| {
            Tensor::from_raw(slot.dtype, &slot.dims, bytes.to_vec().into())
        };
        let tensors = self.slots.iter().zip(outputs).map(tensor).collect::<Result<Vec<_>, _>>()?;
        match &self.from {
            From::Files(parts) => {
                let (part, batch) = Feed::part(parts, batch).ok_or("no such batch")?;
                let inputs = &part.inputs;
                let first = batch * inputs.per_batch();
                let samples = first..(first + inputs.per_batch()).min(inputs.len());
                let names: Vec<String> = samples.clone().map(|at| inputs.name(at)).collect();
                let written = target.write(&names, inputs.per_batch(), &self.slots, &tensors)?;
                for (sample, written) in samples.zip(written) {
                    self.note(&part.name(sample), &inputs.files(sample), &written);
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

fn outputs(target: &Target) -> Result<Outputs> {
    Outputs::create(&target.folder, target.format, target.axis)
        .context("make the folder for results")
}

/// Copies what must be as long as its place.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) -> Result<(), WorkError> {
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
