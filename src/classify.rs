//! Runs text classifiers on the CPU: tokens in, one number for each label out.
//!
//! Batches run side by side, each on one core, as the [engine](crate::engine) works.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use onnxfix_ir::{DataType, LoadOptions, Tensor};
use onnxfix_samples::Slot;
use onnxfix_task::features::{Bucket, Element, Holds, Input, fill};
use onnxfix_task::prepare::{FileFormat, Manifest, SplitRecord};
use onnxfix_task::tokenizer::Tokens;
use rayon::prelude::*;

use crate::engine::{Engine, InputSpec, Lowering};
use crate::source::{is_text, read};
use crate::verify::{Plan, Subject, Takes, TokenInput, load, token_inputs};

/// Gives the inputs of a batch: its length, its samples, and the positions of its part and of itself in it.
type Feed<'a> = dyn Fn(usize, &[u32], (usize, usize)) -> Result<Vec<Tensor>> + Sync + 'a;

/// A model that takes tokens.
#[derive(Debug)]
pub struct Classifier {
    subject: Subject,
    inputs: Vec<(Input, DataType)>,
    /// Batch and length that are written into the model.
    fixed: (Option<usize>, Option<usize>),
    lowering: Lowering,
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

impl Classifier {
    /// Reads a model and finds out what its inputs are.
    ///
    /// # Errors
    /// When it cannot be read, or takes something else than tokens.
    pub fn open(path: &Path, lowering: Lowering) -> Result<Classifier> {
        let input = read(path, &LoadOptions { drop_unknown: true, external_data: true })?;
        let at = || path.display().to_string();
        let found = token_inputs(&input.model);
        let named = inputs(&found).with_context(at)?;
        let size = |axis: usize| {
            let dim = |input: &TokenInput| *input.dims.as_ref()?.get(axis)?;
            found.iter().find_map(dim).and_then(|d| usize::try_from(d).ok())
        };
        Ok(Classifier {
            inputs: named.into_iter().zip(found.iter().map(|i| i.dtype)).collect(),
            fixed: (size(0), size(1)),
            subject: Subject {
                name: at(),
                model: input.model,
                file: (!is_text(path)).then(|| path.to_path_buf()),
            },
            lowering,
        })
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter().map(|(input, _)| input)
    }

    /// The batch that is written into the model.
    #[must_use]
    pub fn batch(&self) -> Option<usize> {
        self.fixed.0
    }

    /// The length that is written into the model.
    #[must_use]
    pub fn length(&self) -> Option<usize> {
        self.fixed.1
    }

    /// Runs the model on tokens, those of each bucket with its length.
    ///
    /// # Errors
    /// When the engine cannot run the model, or it gives something else than a number for each label.
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
        let feed = |length: usize, rows: &[u32], _: (usize, usize)| {
            let tensor = |(input, dtype): &(Input, DataType)| {
                let bytes = fill(tokens, rows, (batch, length), input, pad);
                self.tensor(input, *dtype, (batch, length), bytes)
            };
            self.inputs.iter().map(tensor).collect()
        };
        self.run_batches(tokens.len(), &parts, batch, &feed, progress)
    }

    /// Runs the model on the files of a prepared split.
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
        let feed = |length: usize, _: &[u32], (part, at): (usize, usize)| {
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
                let of = match stored.element {
                    Element::Int32 => DataType::Int32,
                    Element::Int64 => DataType::Int64,
                };
                let dims = vec![batch as i64, length as i64];
                let slot = |dtype| Slot { name: stored.name.clone(), dtype, dims: dims.clone() };
                let mut tensor = onnxfix_samples::read(&path, &slot(of))?;
                // Raw numbers come without a shape.
                tensor.dims.clone_from(&dims);
                Ok(onnxfix_samples::convert(&path, tensor, &slot(*dtype))?)
            };
            self.inputs.iter().map(tensor).collect()
        };
        self.run_batches(split.samples, &parts, batch, &feed, progress)
    }

    fn tensor(
        &self,
        input: &Input,
        dtype: DataType,
        (batch, length): (usize, usize),
        bytes: Vec<u8>,
    ) -> Result<Tensor> {
        let of = match input.element {
            Element::Int32 => DataType::Int32,
            Element::Int64 => DataType::Int64,
        };
        let dims = vec![batch as i64, length as i64];
        let tensor = Tensor::from_raw(of, &dims, bytes.into())?;
        let slot = Slot { name: input.name.clone(), dtype, dims };
        Ok(onnxfix_samples::convert(Path::new(&self.subject.name), tensor, &slot)?)
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
        let at = || self.subject.name.clone();
        let mut logits =
            Logits { labels: 0, numbers: Vec::new(), load_seconds: 0.0, run_seconds: 0.0 };
        let done = AtomicUsize::new(0);
        for (part, (length, batches)) in parts.iter().enumerate() {
            let start = Instant::now();
            let engine = self.engine(batch, *length).with_context(at)?;
            logits.load_seconds += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let one = |(i, rows): (usize, &&[u32])| -> Result<Vec<f32>> {
                let feeds = feed(*length, rows, (part, i))?;
                let outputs = engine.run(&feeds).with_context(at)?;
                let numbers = first_output(&outputs, batch).with_context(at)?;
                progress(done.fetch_add(rows.len(), Ordering::Relaxed) + rows.len(), samples);
                Ok(numbers)
            };
            let found: Vec<Vec<f32>> =
                batches.par_iter().enumerate().map(one).collect::<Result<_>>()?;
            logits.run_seconds += start.elapsed().as_secs_f64();
            for (rows, numbers) in batches.iter().zip(found) {
                if logits.labels == 0 {
                    logits.labels = numbers.len() / batch;
                    logits.numbers = vec![f32::NAN; samples * logits.labels];
                }
                let labels = logits.labels;
                for (&sample, row) in rows.iter().zip(numbers.chunks(labels)) {
                    let to = sample as usize * labels;
                    logits.numbers[to..to + labels].copy_from_slice(row);
                }
            }
        }
        Ok(logits)
    }

    fn engine(&self, batch: usize, length: usize) -> Result<Engine> {
        let wrong = |what: &str, have: Option<usize>, want: usize| match have {
            Some(have) if have != want => Err(anyhow!("takes a {what} of {have}, not {want}")),
            _ => Ok(()),
        };
        wrong("batch", self.batch(), batch)?;
        wrong("length", self.length(), length)?;
        let spec = |(input, dtype): &(Input, DataType)| InputSpec {
            name: input.name.clone(),
            dtype: *dtype,
            dims: vec![batch as i64, length as i64],
        };
        let specs: Vec<InputSpec> = self.inputs.iter().map(spec).collect();
        Ok(load(&self.subject, &specs, Plan::of(self.lowering))?)
    }
}

/// The first output as one row of numbers for each sample.
fn first_output(outputs: &[Tensor], batch: usize) -> Result<Vec<f32>> {
    let logits = outputs.first().ok_or_else(|| anyhow!("has no outputs"))?;
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
