//! Which model runs which files of a prepared data set: those of its length.

use std::path::Path;

use anyhow::{Result, bail};
use onnxfix_ir::DataType;
use onnxfix_task::features::Element;
use onnxfix_task::prepare::{Manifest, Part, SplitRecord};

use super::feed::{Batches, Target};

/// How many samples and tokens a model takes.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// The model.
    pub name: String,
    /// Samples of a run; none where it is open.
    pub batch: Option<usize>,
    /// Tokens of a sample; none where it is open.
    pub length: Option<usize>,
}

impl Sizes {
    /// What the dimensions of a model's first input tell; negative ones are open.
    #[must_use]
    pub fn of(name: String, dims: &[i64]) -> Sizes {
        let size = |axis: usize| dims.get(axis).and_then(|&d| usize::try_from(d).ok());
        Sizes { name, batch: size(0), length: size(1) }
    }

    /// The position of the model for samples of a length: the one with this length, else one that leaves it open.
    ///
    /// # Errors
    /// When there is none, or it takes another batch.
    pub fn choose<'a>(
        models: impl IntoIterator<Item = &'a Sizes>,
        batch: usize,
        length: usize,
    ) -> Result<usize> {
        let models: Vec<&Sizes> = models.into_iter().collect();
        let of = |wanted: Option<usize>| models.iter().position(|model| model.length == wanted);
        let Some(found) = of(Some(length)).or_else(|| of(None)) else {
            let each = models.iter().map(|model| {
                let length = model.length.map_or("any".to_owned(), |length| length.to_string());
                format!("{} takes {length}", model.name)
            });
            bail!(
                "no model takes samples of {length} tokens: {}; compile one for each length of the data set: onnxfix atc --buckets",
                each.collect::<Vec<_>>().join(", ")
            )
        };
        match models[found].batch {
            Some(own) if own != batch => bail!(
                "{} takes {own} samples at once, and the data set comes in batches of {batch}: onnxfix prepare --batch {own}",
                models[found].name
            ),
            _ => Ok(found),
        }
    }
}

/// The files of one length, and the model that runs them.
#[derive(Debug, Clone)]
pub struct Route {
    /// Position among the models.
    pub model: usize,
    /// Tokens of a sample.
    pub length: u64,
    /// The files, a part for each split of the data set.
    pub batches: Vec<Batches>,
}

/// Finds a model for every length of a prepared data set. Results go to `target`, in folders like those of the data set.
///
/// # Errors
/// When there is no model for a length, or it takes another batch.
pub fn routes(
    folder: &Path,
    manifest: &Manifest,
    models: &[Sizes],
    target: Option<&Target>,
) -> Result<Vec<Route>> {
    let mut routes: Vec<Route> = Vec::new();
    for split in &manifest.splits {
        for part in &split.parts {
            let length = part.length as u64;
            let files = batches(folder, manifest, split, part, target);
            match routes.iter_mut().find(|route| route.length == length) {
                Some(route) => route.batches.push(files),
                None => routes.push(Route {
                    model: Sizes::choose(models, manifest.batch, part.length)?,
                    length,
                    batches: vec![files],
                }),
            }
        }
    }
    Ok(routes)
}

fn batches(
    folder: &Path,
    manifest: &Manifest,
    split: &SplitRecord,
    part: &Part,
    target: Option<&Target>,
) -> Batches {
    let own = folder.join(&part.folder);
    let has = |element| manifest.inputs.iter().any(|input| input.element == element);
    Batches {
        inputs: vec![own],
        // Where types differ the files are those of one model, and have its types.
        bin_dtype: match (has(Element::Int32), has(Element::Int64)) {
            (true, false) => Some(DataType::Int32),
            (false, true) => Some(DataType::Int64),
            _ => None,
        },
        target: target.map(|t| Target { folder: t.folder.join(&part.folder), ..t.clone() }),
        part: part.folder.clone(),
        samples: Some(split.rows(part).len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(name: &str, batch: Option<usize>, length: Option<usize>) -> Sizes {
        Sizes { name: name.to_owned(), batch, length }
    }

    #[test]
    fn the_model_of_the_length_goes_before_one_that_takes_any() {
        let models = [sizes("any", None, None), sizes("a", Some(2), Some(8))];
        let chosen = |length| Sizes::choose(&models, 2, length).unwrap();
        assert_eq!((chosen(8), chosen(16)), (1, 0));
        let said =
            |models: &[Sizes], length| Sizes::choose(models, 3, length).unwrap_err().to_string();
        insta::assert_snapshot!(said(&models[1..], 16), @"no model takes samples of 16 tokens: a takes 8; compile one for each length of the data set: onnxfix atc --buckets");
        insta::assert_snapshot!(said(&models, 8), @"a takes 2 samples at once, and the data set comes in batches of 3: onnxfix prepare --batch 2");
    }
}
