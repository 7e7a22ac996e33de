//! Which models are compiled: one for each batch and length, or one with gears.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use onnxfix_ir::{Dim, Model, ValueId};
use onnxfix_passes::{DimBinding, InputShape, Options};

/// A model to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variant {
    /// What tells it from the others: `_bs8_seq128`; none where the model itself has to say it.
    pub(super) batch: Option<u64>,
    /// Length of the sequences, where one was asked for.
    pub(super) length: Option<u64>,
    /// Batches to choose from when it runs.
    pub(super) gears: Vec<u64>,
}

impl Variant {
    /// All that are asked for.
    pub(super) fn all(batches: &[u64], lengths: &[u64], gears: &[u64]) -> Result<Vec<Variant>> {
        for (flag, numbers) in
            [("--batch", batches), ("--buckets", lengths), ("--dynamic-batch", gears)]
        {
            let distinct: BTreeSet<_> = numbers.iter().collect();
            if distinct.len() != numbers.len() {
                bail!("{flag}: a number is there twice");
            }
        }
        if gears.len() == 1 {
            bail!("--dynamic-batch {}: gears are two or more; take --batch for one size", gears[0]);
        }
        if gears.len() > 100 {
            bail!("--dynamic-batch: {} gears, and ATC takes up to 100", gears.len());
        }
        let choices = |numbers: &[u64]| match numbers {
            [] => vec![None],
            numbers => numbers.iter().map(|&n| Some(n)).collect(),
        };
        let mut all = Vec::new();
        for length in choices(lengths) {
            for batch in choices(batches) {
                all.push(Variant { batch, length, gears: gears.to_vec() });
            }
        }
        Ok(all)
    }

    /// The name of the result without its ending: the model's, and what tells the variants apart. `first` is the first
    /// input of the optimized model.
    pub(super) fn name(&self, stem: &str, first: &[Option<i64>]) -> String {
        let batch = match first.first() {
            _ if !self.gears.is_empty() => "_dyn".to_owned(),
            Some(Some(batch)) => format!("_bs{batch}"),
            _ => String::new(),
        };
        let length = self.length.map(|length| format!("_seq{length}")).unwrap_or_default();
        format!("{stem}{batch}{length}")
    }

    /// Adds what this variant says of the inputs of `model` to the options of a pipeline, where the user's own flags are.
    pub(super) fn apply(&self, model: &Model, options: &mut Options) -> Result<()> {
        let root = &model[model.root()];
        let weights: BTreeSet<ValueId> = root.initializers().iter().copied().collect();
        let inputs = root.inputs().iter().copied().filter(|input| !weights.contains(input));
        let mut used = [false, false];
        for input in inputs {
            let name = model[input].name().as_str();
            let Some(shape) = model[input].shape() else { continue };
            let mut set: Vec<(usize, i64)> = Vec::new();
            for (axis, (dim, wanted)) in shape.0.iter().zip([self.batch, self.length]).enumerate() {
                if axis == 0 && !self.gears.is_empty() {
                    keep_open(dim, name, options)?;
                }
                let Some(wanted) = wanted else { continue };
                used[axis] = true;
                set.push((axis, i64::try_from(wanted)?));
            }
            fix(name, &shape.0, &set, &[], options)?;
        }
        if self.batch.is_some() && !used[0] {
            bail!("--batch: no input of the model has a first axis");
        }
        if self.length.is_some() && !used[1] {
            bail!(
                "--buckets: no input of the model has a second axis, which is that of the sequence"
            );
        }
        Ok(())
    }
}

/// Takes the shapes of an optimized model for its source, but for the first axes that are `asked` for otherwise, as numbers or as
/// `gears`, and for what the user gave.
pub(super) fn like(
    model: &Model,
    optimized: &Model,
    asked: [bool; 2],
    gears: bool,
    options: &mut Options,
) -> Result<()> {
    for &input in model[model.root()].inputs() {
        let name = model[input].name().as_str();
        let same = optimized.value_named(optimized.root(), name);
        let Some(dims) = same.and_then(|value| optimized[value].dims()) else { continue };
        let Some(shape) = model[input].shape().filter(|shape| shape.rank() == dims.len()) else {
            continue;
        };
        if options.shapes.iter().any(|shape| shape.name == name) {
            continue;
        }
        let given = |dim: &Dim| match dim {
            Dim::Symbol(symbol) => options.dims.iter().any(|d| d.symbol == symbol.as_str()),
            _ => false,
        };
        let set: Vec<(usize, i64)> = dims
            .iter()
            .copied()
            .enumerate()
            .filter(|(axis, _)| !asked.get(*axis).is_some_and(|asked| *asked))
            .filter(|(axis, _)| !given(&shape.0[*axis]))
            .collect();
        // An axis that is asked for gets its number later, unless gears leave it open.
        let until_then = if gears { &[][..] } else { &dims };
        fix(name, &shape.0, &set, until_then, options)?;
    }
    Ok(())
}

/// Sets axes of an input: in the shape that the user gave it, by the name of a dimension, or in a shape of its own, where other
/// open axes are those of `rest`.
fn fix(
    input: &str,
    shape: &[Dim],
    set: &[(usize, i64)],
    rest: &[i64],
    options: &mut Options,
) -> Result<()> {
    if let Some(given) = options.shapes.iter_mut().find(|shape| shape.name == input) {
        for &(axis, n) in set {
            if let Some(dim) = given.dims.get_mut(axis) {
                *dim = n;
            }
        }
        return Ok(());
    }
    let mut own = false;
    for &(axis, n) in set {
        match &shape[axis] {
            Dim::Symbol(symbol) => {
                let symbol = symbol.as_str();
                match options.dims.iter().find(|dim| dim.symbol == symbol) {
                    Some(bound) if bound.value != n => bail!(
                        "input {input:?}: dimension {symbol:?} would be {} and {n}; give it one number",
                        bound.value
                    ),
                    Some(_) => {}
                    None => options.dims.push(DimBinding { symbol: symbol.to_owned(), value: n }),
                }
            }
            Dim::Fixed(old) => own |= *old != n,
            _ => own = true,
        }
    }
    if !own {
        return Ok(());
    }
    let number = |(axis, dim): (usize, &Dim)| {
        if let Some((_, n)) = set.iter().find(|(set, _)| *set == axis) {
            return Ok(*n);
        }
        match dim {
            Dim::Fixed(n) => Ok(*n),
            Dim::Symbol(symbol) => {
                let symbol = symbol.as_str();
                let bound = options.dims.iter().find(|dim| dim.symbol == symbol);
                let rest = rest.get(axis).copied();
                bound.map(|dim| dim.value).or(rest).ok_or_else(|| {
                    anyhow!("axis {axis} of input {input:?} is not fixed; add --dim {symbol}=N")
                })
            }
            _ => bail!(
                "axis {axis} of input {input:?} is not known; add --input-shape \"{input}:…\""
            ),
        }
    };
    let dims = shape.iter().enumerate().map(number).collect::<Result<_>>()?;
    options.shapes.push(InputShape { name: input.to_owned(), dims });
    Ok(())
}

/// Leaves a first axis open for gears.
fn keep_open(dim: &Dim, input: &str, options: &mut Options) -> Result<()> {
    let Dim::Symbol(symbol) = dim else {
        bail!(
            "--dynamic-batch: the first axis of input {input:?} is {dim} in the model; gears need an open batch with a \
             name: export it so, or compile one .om per size with --batch"
        );
    };
    let symbol = symbol.as_str();
    if !options.keep_dims.iter().any(|kept| kept == symbol) {
        options.keep_dims.push(symbol.to_owned());
    }
    Ok(())
}
