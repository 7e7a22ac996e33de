//! Runs text classifiers: tokens in, one number for each label out.
//!
//! On the CPU batches run side by side, each on one core, as the [engine](crate::engine) works; compiled models run on NPUs.
//! Several models go together where each is for another length.

mod npu;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ir::{DataType, LoadOptions, Tensor};
use onnxfix_samples::Slot;
use onnxfix_task::features::{Bucket, Element, Holds, Input, fill};
use onnxfix_task::prepare::{FileFormat, Manifest, SplitRecord};
use onnxfix_task::tokenizer::Tokens;
use rayon::prelude::*;

use crate::engine::{InputSpec, Lowering};
use crate::run::Sizes;
use crate::source::{is_text, read};
use crate::verify::{Plan, Subject, Takes, TokenInput, load, token_inputs};

pub use self::npu::Npus;

/// Gives the inputs of a batch for a model: its samples, and the positions of its part and of itself in it.
type Feed<'a> = dyn Fn(&Member, usize, &[u32], (usize, usize)) -> Result<Vec<Tensor>> + Sync + 'a;

/// Models that take tokens and tell the same labels apart: one, or one for each length.
#[derive(Debug)]
pub struct Classifier {
    members: Vec<Member>,
    runs: Runs,
}

/// What runs the models.
#[derive(Debug)]
enum Runs {
    /// tract, on all cores.
    Cpu(Lowering),
    Npu(Npus),
}

/// One of the models.
#[derive(Debug)]
struct Member {
    /// Batch and length that are written into the model.
    sizes: Sizes,
    inputs: Vec<(Input, DataType)>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Graph(Box<Subject>),
    Compiled(PathBuf),
}

/// What a model said, in the order of the samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Labels that the model tells apart.
    pub labels: usize,
    /// A number for each label, sample after sample.
    pub numbers: Vec<f32>,
    /// Seconds that loading the model took, for all lengths.
    pub load_seconds: f64,
    /// Seconds that running it took.
    pub run_seconds: f64,
}

impl Logits {
    /// The label of each sample that has the largest number.
    pub fn answers(&self) -> impl Iterator<Item = usize> {
        self.numbers.chunks(self.labels).map(best)
    }
}

/// The position of the largest number; of equal ones the first.
#[must_use]
pub fn best(row: &[f32]) -> usize {
    let larger = |best, (at, x): (usize, &f32)| if *x > row[best] { at } else { best };
    row.iter().enumerate().fold(0, larger)
}

/// The probability of the largest number among all of a row (softmax).
#[must_use]
pub fn probability(row: &[f32]) -> f32 {
    let largest = row.get(best(row)).copied().unwrap_or(0.0);
    let sum: f32 = row.iter().map(|x| (x - largest).exp()).sum();
    1.0 / sum
}

/// What is known of a model's inputs before it runs.
///
/// # Errors
/// When the model takes something that tokens do not say.
pub fn inputs(found: &[TokenInput]) -> Result<Vec<Input>> {
    let rows = |input: &TokenInput| match input.takes {
        Takes::Row(rows) => Some(rows),
        _ => None,
    };
    let vocabulary = found.iter().filter_map(rows).max();
    let has_mask = found.iter().any(|input| input.takes == Takes::Mask);
    let mut inputs: Vec<Input> = Vec::with_capacity(found.len());
    for input in found {
        let holds = match input.takes {
            Takes::Row(rows) if Some(rows) == vocabulary => Holds::Ids,
            // Segment tables have a row for each text of a pair; BERT has two, XLNet-like models a few more.
            Takes::Row(rows) if rows <= 4 => Holds::Segments,
            Takes::Integer if has_mask => Holds::Segments,
            Takes::Integer | Takes::Mask => Holds::Mask,
            Takes::Row(rows) => bail!(
                "input {:?} is an index of a table with {rows} rows: neither a vocabulary nor segments, \
                 and tokens do not say what goes there",
                input.name
            ),
            Takes::Other => bail!("input {:?} takes {}: no text model", input.name, input.dtype),
        };
        if holds == Holds::Ids && inputs.iter().any(|i| i.holds == Holds::Ids) {
            bail!("input {:?} is a second vocabulary's index", input.name);
        }
        let element = if input.dtype == DataType::Int32 { Element::Int32 } else { Element::Int64 };
        inputs.push(Input { name: input.name.clone(), holds, element });
    }
    if !inputs.iter().any(|i| i.holds == Holds::Ids) {
        bail!("no input is an index of a table of words: no text model");
    }
    Ok(inputs)
}

impl Member {
    /// Reads a model and finds out what its inputs are.
    fn open(path: &Path) -> Result<Member> {
        let input = read(path, &LoadOptions { drop_unknown: true, external_data: true })?;
        let at = || path.display().to_string();
        let found = token_inputs(&input.model);
        let named = inputs(&found).with_context(at)?;
        let size = |axis: usize| {
            let dim = |input: &TokenInput| *input.dims.as_ref()?.get(axis)?;
            found.iter().find_map(dim).and_then(|d| usize::try_from(d).ok())
        };
        Ok(Member {
            sizes: Sizes { name: at(), batch: size(0), length: size(1) },
            inputs: named.into_iter().zip(found.iter().map(|i| i.dtype)).collect(),
            form: Form::Graph(Box::new(Subject {
                name: at(),
                model: input.model,
                file: (!is_text(path)).then(|| path.to_path_buf()),
            })),
        })
    }

    /// Asks a device what a compiled model takes. Names have to tell what inputs hold: the file does not.
    fn compiled(path: &Path, npus: &Npus, holds: &dyn Fn(&str) -> Option<Holds>) -> Result<Member> {
        let at = || path.display().to_string();
        let interface = npus.interface(path).with_context(at)?;
        let mut inputs = Vec::with_capacity(interface.inputs.len());
        for slot in &interface.inputs {
            let element = match slot.dtype {
                DataType::Int32 => Element::Int32,
                DataType::Int64 => Element::Int64,
                other => bail!("{}: input {:?} takes {other}: no text model", at(), slot.name),
            };
            let Some(holds) = holds(&slot.name) else {
                bail!(
                    "{}: the name of input {:?} does not tell what it holds; prepare the data set with the .onnx that this \
                     was compiled from (onnxfix prepare --model) and give that folder as --data",
                    at(),
                    slot.name
                )
            };
            inputs.push((Input { name: slot.name.clone(), holds, element }, slot.dtype));
        }
        let dims = interface.inputs.first().map(|slot| slot.dims.clone()).unwrap_or_default();
        let form = Form::Compiled(path.to_path_buf());
        if dims.len() != 2 || dims.iter().any(|&d| d < 0) {
            bail!("{}: its first input has dimensions {dims:?}: no text model", at());
        }
        Ok(Member { sizes: Sizes::of(at(), &dims), inputs, form })
    }

    fn tensor(
        &self,
        input: &Input,
        dtype: DataType,
        (batch, length): (usize, usize),
        bytes: Vec<u8>,
    ) -> Result<Tensor> {
        let dims = vec![batch as i64, length as i64];
        let tensor = Tensor::from_raw(input.element.dtype(), &dims, bytes.into())?;
        let slot = Slot { name: input.name.clone(), dtype, dims };
        Ok(onnxfix_samples::convert(Path::new(&self.sizes.name), tensor, &slot)?)
    }

    /// The inputs as they are run: names, types, dimensions.
    fn specs(&self, batch: usize, length: usize) -> Vec<InputSpec> {
        let spec = |(input, dtype): &(Input, DataType)| InputSpec {
            name: input.name.clone(),
            dtype: *dtype,
            dims: vec![batch as i64, length as i64],
        };
        self.inputs.iter().map(spec).collect()
    }
}

impl Classifier {
    /// Reads models for the CPU and finds out what their inputs are.
    ///
    /// # Errors
    /// When one cannot be read or takes something else than tokens, or two are for the same length.
    pub fn open(paths: &[PathBuf], lowering: Lowering) -> Result<Classifier> {
        let members = paths.iter().map(|path| Member::open(path)).collect::<Result<_>>()?;
        Classifier::of(members, Runs::Cpu(lowering))
    }

    /// Asks a device what compiled models take. `holds` tells what an input of a name holds.
    ///
    /// # Errors
    /// As [`Classifier::open`].
    pub fn open_compiled(
        paths: &[PathBuf],
        npus: Npus,
        holds: &dyn Fn(&str) -> Option<Holds>,
    ) -> Result<Classifier> {
        let one = |path: &PathBuf| Member::compiled(path, &npus, holds);
        let members = paths.iter().map(one).collect::<Result<_>>()?;
        Classifier::of(members, Runs::Npu(npus))
    }

    fn of(members: Vec<Member>, runs: Runs) -> Result<Classifier> {
        for (at, member) in members.iter().enumerate() {
            for other in &members[..at] {
                if other.sizes.length == member.sizes.length {
                    bail!(
                        "{} and {} are for the same length; several models go together where each is for another",
                        other.sizes.name,
                        member.sizes.name
                    );
                }
                if other.sizes.batch != member.sizes.batch {
                    bail!(
                        "{} and {} take batches of different sizes",
                        other.sizes.name,
                        member.sizes.name
                    );
                }
            }
        }
        Ok(Classifier { members, runs })
    }

    /// The batch that is written into the models.
    #[must_use]
    pub fn batch(&self) -> Option<usize> {
        self.members.first().and_then(|member| member.sizes.batch)
    }

    /// The lengths that are written into the models, ascending; none where one leaves it open.
    #[must_use]
    pub fn lengths(&self) -> Option<Vec<usize>> {
        let lengths = self.members.iter().map(|member| member.sizes.length);
        let mut lengths = lengths.collect::<Option<Vec<usize>>>()?;
        lengths.sort_unstable();
        Some(lengths)
    }

    /// Whether the CPU runs the models.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        matches!(self.runs, Runs::Cpu(_))
    }

    /// What runs the models, and whether that is made up.
    ///
    /// # Errors
    /// When the library of the devices does not tell.
    pub fn device(&self) -> Result<(String, bool)> {
        match &self.runs {
            Runs::Cpu(_) => Ok(("tract on the CPU".to_owned(), false)),
            Runs::Npu(npus) => npus.chip(),
        }
    }

    /// The model for a length and a batch.
    fn member(&self, batch: usize, length: usize) -> Result<&Member> {
        let sizes = self.members.iter().map(|member| &member.sizes);
        Ok(&self.members[Sizes::choose(sizes, batch, length)?])
    }

    /// Runs the models on tokens, those of each bucket with its length.
    ///
    /// # Errors
    /// When there is no model for a length, one cannot be run, or it gives something else than a number for each label.
    pub fn run(
        &self,
        tokens: &[Tokens],
        pad: u32,
        buckets: &[Bucket],
        batch: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Logits> {
        let parts: Vec<(usize, Vec<&[u32]>)> =
            buckets.iter().map(|b| (b.length, b.samples.chunks(batch).collect())).collect();
        let feed = |member: &Member, length: usize, rows: &[u32], _: (usize, usize)| {
            let tensor = |(input, dtype): &(Input, DataType)| {
                let bytes = fill(tokens, rows, (batch, length), input, pad);
                member.tensor(input, *dtype, (batch, length), bytes)
            };
            member.inputs.iter().map(tensor).collect()
        };
        self.run_batches(tokens.len(), &parts, batch, &feed, progress)
    }

    /// Runs the models on the files of a prepared split.
    ///
    /// # Errors
    /// As [`Classifier::run`], and when a file is missing or of another size.
    pub fn run_files(
        &self,
        folder: &Path,
        manifest: &Manifest,
        split: &SplitRecord,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Logits> {
        let batch = manifest.batch;
        let rows: Vec<Vec<u32>> = split.parts.iter().map(|part| split.rows(part)).collect();
        let parts: Vec<(usize, Vec<&[u32]>)> = split
            .parts
            .iter()
            .zip(&rows)
            .map(|(p, r)| (p.length, r.chunks(batch).collect()))
            .collect();
        let feed = |member: &Member, length: usize, _: &[u32], (part, at): (usize, usize)| {
            let tensor = |(input, dtype): &(Input, DataType)| {
                let stored = manifest.inputs.iter().find(|i| i.holds == input.holds);
                let stored = stored.ok_or_else(|| {
                    anyhow!("the data set was prepared without what {:?} takes; prepare it with --model", input.name)
                })?;
                let ending = match manifest.files {
                    FileFormat::Bin => "bin",
                    FileFormat::Npy => "npy",
                };
                let path = folder
                    .join(&split.parts[part].folder)
                    .join(&stored.name)
                    .join(format!("input_{at}.{ending}"));
                let dims = vec![batch as i64, length as i64];
                let slot = |dtype| Slot { name: stored.name.clone(), dtype, dims: dims.clone() };
                let mut tensor = onnxfix_samples::read(&path, &slot(stored.element.dtype()))?;
                // Raw numbers come without a shape.
                tensor.dims.clone_from(&dims);
                Ok(onnxfix_samples::convert(&path, tensor, &slot(*dtype))?)
            };
            member.inputs.iter().map(tensor).collect()
        };
        self.run_batches(split.samples, &parts, batch, &feed, progress)
    }

    /// Runs batches, those of each part with its length, and puts what comes out in the order of the samples.
    fn run_batches(
        &self,
        samples: usize,
        parts: &[(usize, Vec<&[u32]>)],
        batch: usize,
        feed: &Feed<'_>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Logits> {
        let mut logits =
            Logits { labels: 0, numbers: Vec::new(), load_seconds: 0.0, run_seconds: 0.0 };
        // Whether each has a model is known before the first one runs.
        for (length, _) in parts {
            self.member(batch, *length)?;
        }
        let done = AtomicUsize::new(0);
        for (part, (length, batches)) in parts.iter().enumerate() {
            let member = self.member(batch, *length)?;
            let at = || member.sizes.name.clone();
            let count = |rows: &[u32]| {
                progress(done.fetch_add(rows.len(), Ordering::Relaxed) + rows.len(), samples);
            };
            let start = Instant::now();
            let (outputs, seconds) = match (&member.form, &self.runs) {
                (Form::Graph(subject), Runs::Cpu(lowering)) => {
                    let specs = member.specs(batch, *length);
                    let engine = load(subject, &specs, Plan::of(*lowering)).with_context(at)?;
                    let loaded = Instant::now();
                    let one = |(i, rows): (usize, &&[u32])| -> Result<Tensor> {
                        let feeds = feed(member, *length, rows, (part, i))?;
                        let mut outputs = engine.run(&feeds).with_context(at)?.into_iter();
                        count(rows);
                        outputs.next().with_context(|| format!("{} has no outputs", at()))
                    };
                    let found = batches.par_iter().enumerate().map(one).collect::<Result<_>>()?;
                    (found, loaded.elapsed().as_secs_f64())
                }
                (Form::Compiled(path), Runs::Npu(npus)) => {
                    let one = |i: usize| feed(member, *length, batches[i], (part, i));
                    let step = |n: usize| count(batches[n - 1]);
                    npus.run(path, batches.len(), &one, &step).with_context(at)?
                }
                _ => bail!("{}: compiled models run on NPUs, others on the CPU", at()),
            };
            logits.run_seconds += seconds;
            logits.load_seconds += (start.elapsed().as_secs_f64() - seconds).max(0.0);
            for (rows, output) in batches.iter().zip(&outputs) {
                let numbers = first_output(output, batch).with_context(at)?;
                if logits.labels == 0 {
                    logits.labels = numbers.len() / batch;
                    logits.numbers = vec![f32::NAN; samples * logits.labels];
                }
                let labels = logits.labels;
                if numbers.len() != batch * labels {
                    bail!("{} tells other labels apart than the model before it", at());
                }
                for (&sample, row) in rows.iter().zip(numbers.chunks(labels)) {
                    let to = sample as usize * labels;
                    logits.numbers[to..to + labels].copy_from_slice(row);
                }
            }
        }
        Ok(logits)
    }
}

/// The first output as one row of numbers for each sample.
fn first_output(logits: &Tensor, batch: usize) -> Result<Vec<f32>> {
    let is_rows = logits.dims.len() == 2 && logits.dims[0] == batch as i64 && logits.dims[1] > 0;
    let numbers = logits.to_floats().filter(|_| is_rows).ok_or_else(|| {
        anyhow!(
            "gives {}{:?} for {batch} samples, and a classifier gives a row of numbers for each",
            logits.dtype,
            logits.dims
        )
    })?;
    #[expect(clippy::cast_possible_truncation, reason = "logits are float32 or less")]
    Ok(numbers.into_iter().map(|x| x as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, takes: Takes) -> TokenInput {
        let dims = Some(vec![None, Some(8)]);
        TokenInput { name: name.to_owned(), dtype: DataType::Int64, dims, takes }
    }

    #[test]
    fn inputs_are_told_by_what_the_model_does_with_them() {
        let bert = [input("c", Takes::Row(2)), input("a", Takes::Row(30)), input("b", Takes::Mask)];
        let holds: Vec<Holds> = inputs(&bert).unwrap().iter().map(|i| i.holds).collect();
        assert_eq!(holds, [Holds::Segments, Holds::Ids, Holds::Mask]);
        let positions = [input("a", Takes::Row(30)), input("p", Takes::Row(16))];
        let error = inputs(&positions).unwrap_err().to_string();
        assert!(error.starts_with("input \"p\" is an index of a table with 16 rows"), "{error}");
        assert!(inputs(&[input("x", Takes::Other)]).is_err());
        assert!(inputs(&[input("x", Takes::Mask)]).is_err());
    }

    #[test]
    fn the_probability_is_the_softmax_of_the_best() {
        assert_eq!(best(&[0.0, 2.0, 2.0]), 1);
        assert!((probability(&[0.0, f32::ln(3.0)]) - 0.75).abs() < 1e-6);
        assert!(probability(&[1000.0, -1000.0]) > 0.999);
    }
}
