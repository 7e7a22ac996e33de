//! The model that everything is made from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onnxfix_ir::{LoadOptions, Model, Source};
use onnxfix_passes::Options;

use super::super::output::Output;
use super::super::progress::Progress;
use super::Args;
use super::variants::like;
use crate::record::Record;
use crate::source::{Input, read};

/// The model that everything is made from.
pub(super) struct Subject {
    pub(super) path: PathBuf,
    pub(super) model: Model,
    pub(super) files: Vec<Source>,
    /// Shapes that the user gave, and those of an optimized model that led here.
    pub(super) options: Options,
    /// The name for results.
    pub(super) stem: String,
}

impl Subject {
    pub(super) fn read(path: &Path, args: &Args, out: &Output) -> Result<Subject> {
        let progress = Progress::start(out, format!("read {}", path.display()));
        let load = LoadOptions { drop_unknown: true, ..LoadOptions::default() };
        let mut options = Options::default();
        args.shapes.apply(&mut options)?;
        let given = read(path, &load)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".opt").unwrap_or(&stem).to_owned();
        let record = Record::of(&given.model);
        let (path, input, optimized) = match record {
            None => (path.to_path_buf(), given, None),
            Some(record) => {
                let source = recorded(&record, path)?;
                let input = read(&source, &load)
                    .with_context(|| format!("the source of {}", path.display()))?;
                (source, input, Some(given.model))
            }
        };
        drop(progress);
        let Input { model, files, warnings } = input;
        for warning in &warnings {
            out.warn(warning);
        }
        if let Some(optimized) = &optimized {
            let asked = [
                !args.batch.is_empty() || !args.dynamic_batch.is_empty(),
                !args.buckets.is_empty(),
            ];
            let gears = !args.dynamic_batch.is_empty();
            like(&model, optimized, asked, gears, &mut options)?;
        }
        Ok(Subject { path, model, files, options, stem })
    }

    /// Bytes of the model's files.
    pub(super) fn bytes(&self) -> u64 {
        let size = |file: &Source| fs::metadata(&file.path).map_or(0, |data| data.len());
        self.files.iter().map(size).sum()
    }
}

/// The source of an optimized model, if it is still the one that was recorded.
fn recorded(record: &Record, optimized: &Path) -> Result<PathBuf> {
    let shown = optimized.display();
    if record.replaced {
        bail!(
            "{shown} took its source's place, so that no other batch can be made from it; name the source"
        );
    }
    let source = record.source(optimized);
    if !source.is_file() {
        bail!(
            "the source of {shown} is gone: {}; name the model to compile from",
            source.display()
        );
    }
    let now = Record::new(&source, optimized).with_context(|| format!("the source of {shown}"))?;
    if now.hash != record.hash {
        bail!(
            "the source of {shown} is another file now: {}; optimize it anew, or name it to compile from it",
            source.display()
        );
    }
    Ok(source)
}
