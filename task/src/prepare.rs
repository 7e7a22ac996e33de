//! A data set as the files that an NPU runner takes, and the manifest that tells what they are.
//!
//! The layout is that of the DeBERTa sample: `{match|mismatch}/{input_ids|input_mask}/input_{batch}.bin`. With several
//! lengths there is a folder for each between the split and the input: `match/64/input_ids/input_0.bin`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use onnxfix_ir::Tensor;
use onnxfix_samples::SampleError;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::{DataSet, OddLine, Split, Task};
use crate::features::{Input, buckets, fill};
use crate::tokenizer::{Format, Tokenizer, TokenizerError, Tokens};

/// Name of the manifest in a prepared folder.
pub const MANIFEST: &str = "manifest.json";

/// What the manifest's `format` says. A reader of another number would misread the files.
const VERSION: u32 = 1;

/// The format of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Numbers alone.
    Bin,
    /// NumPy's format, with type and shape.
    Npy,
}

impl FileFormat {
    fn extension(self) -> &'static str {
        match self {
            FileFormat::Bin => "bin",
            FileFormat::Npy => "npy",
        }
    }
}

/// How to prepare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Rows of a file.
    pub batch: usize,
    /// Lengths of rows, ascending; the last is where longer samples are cut.
    pub lengths: Vec<usize>,
    /// Whether each length has a folder. With one length there need not be any.
    pub by_length: bool,
    /// What to write of each sample.
    pub inputs: Vec<Input>,
    /// In which format.
    pub files: FileFormat,
}

/// What a prepared folder holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this description.
    pub format: u32,
    /// What is asked about the samples.
    pub task: Task,
    /// Rows of a file.
    pub batch: usize,
    /// Where longer samples were cut.
    pub max_length: usize,
    /// The format of the files.
    pub files: FileFormat,
    /// What made the ids.
    pub tokenizer: TokenizerRecord,
    /// The inputs; each has a folder of its name.
    pub inputs: Vec<Input>,
    /// The parts of the data set.
    pub splits: Vec<SplitRecord>,
}

/// Which tokenizer made the ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerRecord {
    /// The file.
    pub path: PathBuf,
    /// What it was read as.
    pub format: Format,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// The id that fills rows up.
    pub pad: u32,
}

/// A part of the data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Its name.
    pub split: Split,
    /// The file that it was read from.
    pub source: PathBuf,
    /// Samples.
    pub samples: usize,
    /// Tokens of a sample, special ones included, on the average.
    pub mean_tokens: f64,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Where the files are.
    pub parts: Vec<Part>,
    /// The label of each sample in the order of [`Task::labels`]; null where there is none.
    pub labels: Vec<Option<u8>>,
    /// The genre of each sample; empty where the file tells none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub genres: Vec<Option<String>>,
    /// Line of each sample in the source.
    pub lines: Vec<u32>,
    /// Lines that are not as the others.
    pub odd: Vec<OddLine>,
}

/// Files of one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Tokens of a row.
    pub length: usize,
    /// The folder, relative to the manifest, with `/` between names.
    pub folder: String,
    /// Files of each input: `input_0` and so on.
    pub batches: usize,
    /// Position in the split of each row, padding rows left out; empty where rows are in the split's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<u32>,
}

impl SplitRecord {
    /// The positions in the split of a part's rows.
    #[must_use]
    pub fn rows(&self, part: &Part) -> Vec<u32> {
        if part.order.is_empty() { (0..).take(self.samples).collect() } else { part.order.clone() }
    }
}

/// Why nothing was prepared, or a prepared folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A text that has no ids.
    #[error("{}", path.display())]
    Tokenizer {
        /// The data set.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// A folder with other things in it.
    #[error(
        "{} is not empty and was not made by `onnxfix prepare`; name another folder",
        path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// An array that could not be written.
    #[error(transparent)]
    Write(#[from] SampleError),
    /// An array that cannot be made.
    #[error("{}: {why}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A manifest that cannot be read.
    #[error("{}: {why}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Manifest {
    /// Whether a folder was made by [`prepare`].
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(MANIFEST).is_file()
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When it is not there, or of another version.
    pub fn open(folder: &Path) -> Result<Manifest, PrepareError> {
        let path = folder.join(MANIFEST);
        let bytes =
            fs::read(&path).map_err(|source| PrepareError::Io { path: path.clone(), source })?;
        let wrong = |why: String| PrepareError::Manifest { path: path.clone(), why };
        let found: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| wrong(format!("not the manifest of a prepared data set: {e}")))?;
        if found.format != VERSION {
            return Err(wrong(format!(
                "of version {}, and this program reads {VERSION}; prepare the data set again",
                found.format
            )));
        }
        let consistent = |s: &SplitRecord| {
            let rows: usize = s.parts.iter().map(|p| s.rows(p).len()).sum();
            let listed = s.labels.len() == s.samples && s.lines.len() == s.samples;
            let orders = s.parts.iter().flat_map(|p| &p.order);
            let inside = orders.copied().all(|row| (row as usize) < s.samples);
            listed
                && inside
                && rows == s.samples
                && (s.genres.is_empty() || s.genres.len() == s.samples)
        };
        if !found.splits.iter().all(consistent) {
            return Err(wrong(
                "its lists do not fit each other; prepare the data set again".into(),
            ));
        }
        Ok(found)
    }
}

/// A data set with its ids.
#[derive(Debug)]
pub struct Tokenized {
    /// The samples.
    pub set: DataSet,
    /// The tokens of each.
    pub tokens: Vec<Tokens>,
}

impl Tokenized {
    /// Tokenizes a data set, on all cores.
    ///
    /// # Errors
    /// When a text has no ids.
    pub fn new(mut set: DataSet, tokenizer: &Tokenizer) -> Result<Tokenized, PrepareError> {
        let tokens = tokenizer
            .encode_all(&mut set)
            .map_err(|source| PrepareError::Tokenizer { path: set.path.clone(), source })?;
        Ok(Tokenized { set, tokens })
    }
}

/// Writes data sets to a folder, which appears when it is complete; one made before is replaced.
///
/// # Errors
/// When the folder has other things in it, or cannot be written.
pub fn prepare(
    sets: &[Tokenized],
    tokenizer: &Tokenizer,
    options: &Options,
    output: &Path,
) -> Result<Manifest, PrepareError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PrepareError::Io { path, source }
    };
    let occupied = output.exists() && !Manifest::is_in(output);
    if occupied && fs::read_dir(output).map_err(at(output))?.next().is_some() {
        return Err(PrepareError::Occupied { path: output.to_path_buf() });
    }
    let name = output.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let pid = std::process::id();
    let draft = output.with_file_name(format!(".{name}.tmp-{pid}"));
    let written = write_all(sets, tokenizer, options, &draft);
    let manifest = written.inspect_err(|_| drop(fs::remove_dir_all(&draft)))?;
    if output.exists() {
        let old = output.with_file_name(format!(".{name}.old-{pid}"));
        fs::rename(output, &old).map_err(at(output))?;
        fs::rename(&draft, output).map_err(at(output))?;
        // The new folder is in place; what cannot be removed is in nobody's way.
        drop(fs::remove_dir_all(&old));
    } else {
        fs::rename(&draft, output).map_err(at(output))?;
    }
    Ok(manifest)
}

fn write_all(
    sets: &[Tokenized],
    tokenizer: &Tokenizer,
    options: &Options,
    folder: &Path,
) -> Result<Manifest, PrepareError> {
    fs::create_dir_all(folder)
        .map_err(|source| PrepareError::Io { path: folder.to_path_buf(), source })?;
    let splits = sets
        .iter()
        .map(|set| write_split(set, tokenizer.pad(), options, folder))
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = Manifest {
        format: VERSION,
        task: sets.first().map_or(Task::Mnli, |s| s.set.task),
        batch: options.batch,
        max_length: options.lengths.last().copied().unwrap_or_default(),
        files: options.files,
        tokenizer: TokenizerRecord {
            path: tokenizer.path().to_path_buf(),
            format: tokenizer.format(),
            blake3: tokenizer.digest().to_owned(),
            pad: tokenizer.pad(),
        },
        inputs: options.inputs.clone(),
        splits,
    };
    let path = folder.join(MANIFEST);
    let text = serde_json::to_vec(&manifest)
        .map_err(|e| PrepareError::Manifest { path: path.clone(), why: e.to_string() })?;
    fs::write(&path, text).map_err(|source| PrepareError::Io { path, source })?;
    Ok(manifest)
}

fn write_split(
    Tokenized { set, tokens }: &Tokenized,
    pad: u32,
    options: &Options,
    folder: &Path,
) -> Result<SplitRecord, PrepareError> {
    let mut parts = Vec::new();
    for bucket in buckets(tokens, &options.lengths) {
        let name = if options.by_length {
            format!("{}/{}", set.split, bucket.length)
        } else {
            set.split.name().to_owned()
        };
        let batches: Vec<&[u32]> = bucket.samples.chunks(options.batch).collect();
        for input in &options.inputs {
            let folder = folder.join(&name).join(&input.name);
            fs::create_dir_all(&folder)
                .map_err(|source| PrepareError::Io { path: folder.clone(), source })?;
            let dims = (options.batch, bucket.length);
            batches.par_iter().with_min_len(16).enumerate().try_for_each(|(i, samples)| {
                let path = folder.join(format!("input_{i}.{}", options.files.extension()));
                let bytes = fill(tokens, samples, dims, input, pad);
                match options.files {
                    FileFormat::Bin => {
                        fs::write(&path, bytes).map_err(|source| PrepareError::Io { path, source })
                    }
                    FileFormat::Npy => write_array(&path, input, dims, bytes),
                }
            })?;
        }
        let order = if options.by_length { bucket.samples.clone() } else { Vec::new() };
        parts.push(Part { length: bucket.length, folder: name, batches: batches.len(), order });
    }
    let lengths = || tokens.iter().map(|t| t.ids.len());
    let has_genres = set.samples.iter().any(|s| s.genre.is_some());
    let genres = set.samples.iter().filter(|_| has_genres).map(|s| s.genre.clone()).collect();
    Ok(SplitRecord {
        split: set.split,
        source: set.path.clone(),
        samples: set.samples.len(),
        mean_tokens: lengths().sum::<usize>() as f64 / (tokens.len().max(1)) as f64,
        longest: lengths().max().unwrap_or(0),
        parts,
        labels: set.samples.iter().map(|s| s.label).collect(),
        genres,
        lines: set.samples.iter().map(|s| s.line).collect(),
        odd: set.odd.clone(),
    })
}

fn write_array(
    path: &Path,
    input: &Input,
    (batch, length): (usize, usize),
    bytes: Vec<u8>,
) -> Result<(), PrepareError> {
    let tensor =
        Tensor::from_raw(input.element.dtype(), &[batch as i64, length as i64], bytes.into());
    let tensor =
        tensor.map_err(|e| PrepareError::Array { path: path.to_path_buf(), why: e.to_string() })?;
    Ok(onnxfix_samples::write(path, &tensor, onnxfix_samples::Format::Npy)?)
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::DataType;
    use onnxfix_samples::Slot;

    use super::*;
    use crate::dataset;
    use crate::features::{Element, Holds};

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n";

    struct Prepared {
        _root: tempfile::TempDir,
        output: PathBuf,
        manifest: Manifest,
    }

    fn prepared(lines: &str, lengths: &[usize], by_length: bool, files: FileFormat) -> Prepared {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("vocab.txt"), WORDS).unwrap();
        fs::write(root.path().join("dev.tsv"), format!("sentence\tlabel\n{lines}")).unwrap();
        let mut tokenizer = Tokenizer::open(root.path()).unwrap();
        tokenizer.set_max_length(*lengths.last().unwrap(), false).unwrap();
        let (split, path) = dataset::find(Task::Sst2, root.path()).unwrap().remove(0);
        let set = dataset::read(Task::Sst2, split, &path).unwrap();
        let set = Tokenized::new(set, &tokenizer).unwrap();
        let input =
            |name: &str, holds| Input { name: name.to_owned(), holds, element: Element::Int32 };
        let options = Options {
            batch: 2,
            lengths: lengths.to_vec(),
            by_length,
            inputs: vec![input("input_ids", Holds::Ids), input("input_mask", Holds::Mask)],
            files,
        };
        let output = root.path().join("pre");
        let manifest = prepare(&[set], &tokenizer, &options, &output).unwrap();
        Prepared { _root: root, output, manifest }
    }

    fn numbers(path: &Path) -> Vec<i32> {
        let bytes = fs::read(path).unwrap();
        bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn files_are_named_as_the_sample_names_them_and_the_tail_is_padded() {
        let pre = prepared("a b\t1\nc\t0\na b c a\t1\n", &[5], false, FileFormat::Bin);
        let dev = pre.output.join("dev");
        assert_eq!(numbers(&dev.join("input_ids/input_0.bin")), [2, 5, 6, 3, 0, 2, 7, 3, 0, 0]);
        assert_eq!(numbers(&dev.join("input_ids/input_1.bin")), [2, 5, 6, 7, 3, 0, 0, 0, 0, 0]);
        assert_eq!(numbers(&dev.join("input_mask/input_1.bin")), [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert!(!dev.join("input_ids/input_2.bin").exists());
        assert_eq!(Manifest::open(&pre.output).unwrap(), pre.manifest);
        let split = &pre.manifest.splits[0];
        assert_eq!(split.labels, [Some(1), Some(0), Some(1)]);
        assert_eq!(split.odd, [OddLine { line: 4, oddity: dataset::Oddity::Cut }]);
        assert_eq!((split.longest, split.rows(&split.parts[0])), (5, vec![0, 1, 2]));
    }

    #[test]
    fn each_length_has_a_folder_and_knows_whose_rows_it_has() {
        let pre = prepared("a b\t1\na b c\t0\nc\t1\n", &[4, 5, 9], true, FileFormat::Bin);
        let parts = &pre.manifest.splits[0].parts;
        let found: Vec<_> =
            parts.iter().map(|p| (&p.folder[..], p.batches, &p.order[..])).collect();
        assert_eq!(found, [("dev/4", 1, &[0, 2][..]), ("dev/5", 1, &[1][..])]);
        let ids = numbers(&pre.output.join("dev/4/input_ids/input_0.bin"));
        assert_eq!(ids, [2, 5, 6, 3, 2, 7, 3, 0]);
    }

    #[test]
    fn arrays_say_their_type_and_shape() {
        let pre = prepared("a\t1\n", &[4], false, FileFormat::Npy);
        let slot = Slot { name: String::new(), dtype: DataType::Int32, dims: Vec::new() };
        let path = pre.output.join("dev/input_ids/input_0.npy");
        let array = onnxfix_samples::read(&path, &slot).unwrap();
        assert_eq!((array.dtype, &array.dims[..]), (DataType::Int32, &[2, 4][..]));
        assert_eq!(array.to_ints().unwrap(), [2, 5, 3, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_folder_with_other_things_stays() {
        let pre = prepared("a\t1\n", &[4], false, FileFormat::Bin);
        let root = pre.output.parent().unwrap();
        let set = Tokenized {
            set: dataset::read(Task::Sst2, Split::Dev, &root.join("dev.tsv")).unwrap(),
            tokens: vec![Tokens { ids: vec![2], segments: vec![0], cut: false }],
        };
        let tokenizer = Tokenizer::open(root).unwrap();
        let options = Options {
            batch: 1,
            lengths: vec![2],
            by_length: false,
            inputs: Vec::new(),
            files: FileFormat::Bin,
        };
        let error = prepare(&[set], &tokenizer, &options, root).unwrap_err();
        assert!(matches!(error, PrepareError::Occupied { .. }));
        // What was prepared before is replaced as a whole.
        let set = Tokenized {
            set: dataset::read(Task::Sst2, Split::Dev, &root.join("dev.tsv")).unwrap(),
            tokens: vec![Tokens { ids: vec![2], segments: vec![0], cut: false }],
        };
        prepare(&[set], &tokenizer, &options, &pre.output).unwrap();
        assert!(!pre.output.join("dev/input_ids").exists());
        assert_eq!(fs::read_dir(root).unwrap().count(), 3);
    }

    #[test]
    fn a_manifest_whose_lists_do_not_fit_is_refused() {
        let pre = prepared("a\t1\nb\t0\n", &[4], false, FileFormat::Bin);
        let path = pre.output.join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"labels\":[1,0]", "\"labels\":[1]")).unwrap();
        let error = Manifest::open(&pre.output).unwrap_err().to_string();
        assert!(error.ends_with("do not fit each other; prepare the data set again"), "{error}");
    }
}
