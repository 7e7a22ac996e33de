//! What a runner left behind: folders of logits, back in the order of the data set.

use std::io;
use std::path::{Path, PathBuf};

use onnxfix_ir::DataType;
use onnxfix_samples::{SampleError, Slot};

use crate::prepare::{Part, SplitRecord};

/// Why results cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No results.
    #[error("{} has no results: neither files such as input_0_0.bin nor one folder of a run with them", path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// Results of several runs.
    #[error("{} has the results of several runs; name one of: {}", path.display(), runs.join(", "))]
    Several {
        /// The folder.
        path: PathBuf,
        /// The folders of the runs.
        runs: Vec<String>,
    },
    /// A file that should be there.
    #[error("{}: no result of batch {batch}; the data set has {batches} batches", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The batch.
        batch: usize,
        /// Batches of the data set.
        batches: usize,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Read(#[from] SampleError),
    /// A file that holds something else.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The folder of one run in a result folder: itself where it has results, else its only folder that has.
///
/// # Errors
/// When there is none, or several to choose from.
pub fn run_folder(path: &Path) -> Result<PathBuf, OutputError> {
    let first = ["input_0_0.bin", "input_0_0.npy", "input_0_0.txt"];
    let has_results = |folder: &Path| first.iter().any(|name| folder.join(name).is_file());
    only(path, &has_results)?.ok_or_else(|| OutputError::Nothing { path: path.to_path_buf() })
}

/// The folder of one run that has a folder for a part of a data set: itself, else its only folder that has; none if there is
/// none.
///
/// # Errors
/// When there are several to choose from.
pub fn root(path: &Path, part: &str) -> Result<Option<PathBuf>, OutputError> {
    only(path, &|folder| folder.join(part).is_dir())
}

/// The folder itself where it is `wanted`, else its only folder that is.
fn only(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Option<PathBuf>, OutputError> {
    let io = |source| OutputError::Io { path: path.to_path_buf(), source };
    if wanted(path) {
        return Ok(Some(path.to_path_buf()));
    }
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?.path();
        if entry.is_dir() && wanted(&entry) {
            runs.push(entry);
        }
    }
    runs.sort();
    match runs.len() {
        0 | 1 => Ok(runs.pop()),
        _ => {
            let name = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().into_owned());
            let runs = runs.iter().filter_map(name).collect();
            Err(OutputError::Several { path: path.to_path_buf(), runs })
        }
    }
}

/// The logits of every sample of a split, in its order: `labels` numbers each.
///
/// `results` has a folder for each of the split's folders, itself or in the only folder of a run that it has; or it is the
/// one that is needed itself.
///
/// # Errors
/// When a result is missing or of another size than the data set's batches.
pub fn logits(
    results: &Path,
    split: &SplitRecord,
    batch: usize,
    labels: usize,
) -> Result<Vec<f32>, OutputError> {
    let mut all = vec![f32::NAN; split.samples * labels];
    for part in &split.parts {
        let folder = match root(results, &part.folder)? {
            Some(root) => run_folder(&root.join(&part.folder))?,
            None if split.parts.len() == 1 => run_folder(results)?,
            None => return Err(OutputError::Nothing { path: results.join(&part.folder) }),
        };
        let found = part_logits(&folder, part, batch, labels)?;
        for (row, sample) in split.rows(part).into_iter().enumerate() {
            let to = sample as usize * labels;
            all[to..to + labels].copy_from_slice(&found[row * labels..][..labels]);
        }
    }
    Ok(all)
}

fn part_logits(
    folder: &Path,
    part: &Part,
    batch: usize,
    labels: usize,
) -> Result<Vec<f32>, OutputError> {
    let mut all = Vec::with_capacity(part.batches * batch * labels);
    for i in 0..part.batches {
        let named = ["bin", "npy", "txt"].map(|e| folder.join(format!("input_{i}_0.{e}")));
        let path = named.into_iter().find(|path| path.is_file()).ok_or_else(|| {
            OutputError::Missing { path: folder.to_path_buf(), batch: i, batches: part.batches }
        })?;
        let numbers = numbers(&path, batch * labels)?;
        if numbers.len() != batch * labels {
            let why = format!(
                "{} numbers, and {batch} samples with {labels} labels have {}",
                numbers.len(),
                batch * labels
            );
            return Err(OutputError::Malformed { path, why });
        }
        all.extend(numbers);
    }
    Ok(all)
}

/// The numbers of a file. Raw ones are float32, or float16 where the file has half the size.
fn numbers(path: &Path, want: usize) -> Result<Vec<f32>, OutputError> {
    let io = |source| OutputError::Io { path: path.to_path_buf(), source };
    let malformed = |why| OutputError::Malformed { path: path.to_path_buf(), why };
    if path.extension().is_some_and(|e| e == "txt") {
        let text = std::fs::read_to_string(path).map_err(io)?;
        let number =
            |word: &str| word.parse().map_err(|_| malformed(format!("{word:?} is no number")));
        return text.split_whitespace().map(number).collect();
    }
    let size = path.metadata().map_err(io)?.len();
    let halves = path.extension().is_some_and(|e| e == "bin") && size == 2 * want as u64;
    let dtype = if halves { DataType::Float16 } else { DataType::Float };
    // The number of elements is compared by the caller, which can say more about it.
    let count = size / if halves { 2 } else { 4 };
    let dims = vec![i64::try_from(count).unwrap_or(i64::MAX)];
    let slot = Slot { name: "logits".to_owned(), dtype, dims };
    let tensor = onnxfix_samples::read(path, &slot)?;
    let numbers = tensor
        .to_floats()
        .ok_or_else(|| malformed(format!("elements of type {}", tensor.dtype)))?;
    // Logits were float32 or less when they were written.
    #[expect(clippy::cast_possible_truncation, reason = "they come back as they were")]
    Ok(numbers.into_iter().map(|x| x as f32).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use onnxfix_ir::Tensor;
    use onnxfix_samples::Format;

    use super::*;
    use crate::dataset::Split;

    fn split(parts: Vec<Part>) -> SplitRecord {
        SplitRecord {
            split: Split::Dev,
            source: PathBuf::new(),
            samples: 3,
            mean_tokens: 0.0,
            longest: 0,
            parts,
            labels: vec![None; 3],
            genres: Vec::new(),
            lines: vec![2, 3, 4],
            odd: Vec::new(),
        }
    }

    fn part(folder: &str, batches: usize, order: &[u32]) -> Part {
        Part { length: 8, folder: folder.to_owned(), batches, order: order.to_vec() }
    }

    fn write(path: &Path, numbers: &[f32]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn rows_of_padding_go_and_lengths_come_back_in_order() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("dev/64/2026_01_02-03_04_05");
        write(&run.join("input_0_0.bin"), &[1.0, 2.0, 3.0, 4.0]);
        write(&root.path().join("dev/128/input_0_0.bin"), &[5.0, 6.0, 0.0, 0.0]);
        let split = split(vec![part("dev/64", 1, &[2, 0]), part("dev/128", 1, &[1])]);
        let found = logits(root.path(), &split, 2, 2).unwrap();
        assert_eq!(found, [3.0, 4.0, 5.0, 6.0, 1.0, 2.0]);
    }

    #[test]
    fn the_only_run_of_all_parts_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("2026_01_02-03_04_05");
        write(&run.join("dev/input_0_0.bin"), &[1.0, 2.0, 3.0, 4.0]);
        write(&run.join("dev/input_1_0.bin"), &[5.0, 6.0, 0.0, 0.0]);
        let split = split(vec![part("dev", 2, &[])]);
        assert_eq!(logits(folder.path(), &split, 2, 2).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        fs::create_dir_all(folder.path().join("other/dev")).unwrap();
        let error = logits(folder.path(), &split, 2, 2).unwrap_err().to_string();
        assert!(error.ends_with("name one of: 2026_01_02-03_04_05, other"), "{error}");
    }

    #[test]
    fn results_are_read_in_each_format() {
        let root = tempfile::tempdir().unwrap();
        // 0.5 and 1.5 in float16.
        fs::write(root.path().join("input_0_0.bin"), [0x00, 0x38, 0x00, 0x3e]).unwrap();
        fs::write(root.path().join("input_1_0.txt"), "2.5 -3\n").unwrap();
        let raw: Vec<u8> = [4.0_f32, 5.0].iter().flat_map(|n| n.to_le_bytes()).collect();
        let array = Tensor::from_raw(DataType::Float, &[1, 2], Bytes::from(raw)).unwrap();
        onnxfix_samples::write(&root.path().join("input_2_0.npy"), &array, Format::Npy).unwrap();
        let found = logits(root.path(), &split(vec![part("dev", 3, &[])]), 1, 2).unwrap();
        assert_eq!(found, [0.5, 1.5, 2.5, -3.0, 4.0, 5.0]);
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_said() {
        let root = tempfile::tempdir().unwrap();
        let one = split(vec![part("dev", 3, &[])]);
        let said = |root: &Path| {
            let text = logits(root, &one, 1, 2).unwrap_err().to_string();
            text.replace(&root.display().to_string(), "ROOT")
        };
        insta::assert_snapshot!(said(root.path()), @"ROOT has no results: neither files such as input_0_0.bin nor one folder of a run with them");
        write(&root.path().join("a/input_0_0.bin"), &[1.0, 2.0]);
        insta::assert_snapshot!(said(root.path()), @"ROOT/a: no result of batch 1; the data set has 3 batches");
        write(&root.path().join("a/input_1_0.bin"), &[1.0, 2.0, 3.0]);
        insta::assert_snapshot!(said(root.path()), @"ROOT/a/input_1_0.bin: 3 numbers, and 1 samples with 2 labels have 2");
        write(&root.path().join("b/input_0_0.bin"), &[1.0, 2.0]);
        insta::assert_snapshot!(said(root.path()), @"ROOT has the results of several runs; name one of: a, b");
    }
}
