//! Results that somebody else produced.

use std::path::{Path, PathBuf};

use onnxfix_ir::Tensor;

use crate::array::{self, Kind, kind};
use crate::inputs::{files, row};
use crate::{SampleError, Slot, read};

/// A folder (or one file) of results, by sample and output.
#[derive(Debug, Clone)]
pub struct Expected {
    root: PathBuf,
}

impl Expected {
    /// Takes a folder of results, or one `.npy` or `.npz` whose first dimension counts samples. A folder that holds nothing
    /// but one folder, as `ais_bench` makes one for every run, stands for that.
    ///
    /// # Errors
    /// When there is nothing at that path.
    pub fn open(path: &Path) -> Result<Expected, SampleError> {
        let at = std::fs::metadata(path).map_err(SampleError::io(path))?;
        let mut root = path.to_path_buf();
        if at.is_dir() && files(path)?.is_empty() {
            let within = std::fs::read_dir(path).map_err(SampleError::io(path))?;
            let within: Vec<PathBuf> =
                within.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
            if let [one] = &within[..] {
                root.clone_from(one);
            }
        }
        Ok(Expected { root })
    }

    /// The result of an output, whose position is `index`, for a sample, whose position is `at`. Looked for are, in this
    /// order: `SAMPLE_INDEX.npy` and `.bin`, `OUTPUT/SAMPLE.npy` and `.bin`, the array `OUTPUT` of `SAMPLE.npz`,
    /// `SAMPLE/output_INDEX.pb`, and row `at` of `OUTPUT.npy` or of the one file.
    ///
    /// # Errors
    /// When there is none, or it has another number of elements than `slot`, which is the output of one sample.
    pub fn read(
        &self,
        sample: &str,
        at: usize,
        index: usize,
        slot: &Slot,
    ) -> Result<Tensor, SampleError> {
        let (path, tensor) = self.find(sample, at, index, slot)?;
        let have = tensor.len().unwrap_or(0);
        if Some(have) != slot.len().map(|n| n as u64) {
            return Err(SampleError::Size {
                path,
                slot: slot.name.clone(),
                have: format!("{have} elements"),
                want: format!("{} (dimensions {:?})", slot.len().unwrap_or(0), slot.dims),
            });
        }
        Ok(tensor.reshaped(&slot.dims))
    }

    fn find(
        &self,
        sample: &str,
        at: usize,
        index: usize,
        slot: &Slot,
    ) -> Result<(PathBuf, Tensor), SampleError> {
        let root = &self.root;
        match kind(root).filter(|_| root.is_file()) {
            Some(Kind::Npz) => {
                let all = array::read_member(root, &slot.name)?;
                return Ok((root.clone(), row(root, &all, at)?));
            }
            Some(_) => return Ok((root.clone(), row(root, &read(root, slot)?, at)?)),
            None => {}
        }
        let named = [
            root.join(format!("{sample}_{index}.npy")),
            root.join(format!("{sample}_{index}.bin")),
            root.join(&slot.name).join(format!("{sample}.npy")),
            root.join(&slot.name).join(format!("{sample}.bin")),
            root.join(sample).join(format!("output_{index}.pb")),
        ];
        if let Some(path) = named.iter().find(|p| p.is_file()) {
            return Ok((path.clone(), read(path, slot)?));
        }
        let archive = root.join(format!("{sample}.npz"));
        if archive.is_file() {
            let tensor = array::read_member(&archive, &slot.name)?;
            return Ok((archive, tensor));
        }
        let all = root.join(format!("{}.npy", slot.name));
        if all.is_file() {
            let tensor = row(&all, &read(&all, slot)?, at)?;
            return Ok((all, tensor));
        }
        let has = files(root)?.iter().take(3).map(|p| p.display().to_string()).collect();
        Err(SampleError::Absent { path: root.clone(), name: format!("{sample}_{index}.npy"), has })
    }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::DataType;

    use super::*;
    use crate::{Format, write};

    #[test]
    fn results_are_found_in_the_folder_of_a_run_and_in_one_array() {
        let root = tempfile::tempdir().expect("a folder");
        let run = root.path().join("run/2026_01_01-00_00_00");
        std::fs::create_dir_all(&run).expect("a folder");
        let slot = Slot { name: "logits".to_owned(), dtype: DataType::Float, dims: vec![1, 2] };
        let one = Tensor::new(&[1, 2], vec![3.0_f32, 4.0]);
        write(&run.join("input_1_0.bin"), &one, Format::Bin).expect("written");
        let all = Tensor::new(&[2, 2], vec![1.0_f32, 2.0, 3.0, 4.0]);
        let array = root.path().join("all.npy");
        write(&array, &all, Format::Npy).expect("written");
        for path in [root.path().join("run"), array] {
            let expected = Expected::open(&path).expect("results");
            assert_eq!(expected.read("input_1", 1, 0, &slot).expect("a result"), one);
        }
        let expected = Expected::open(&run).expect("results");
        let refused = expected.read("input_2", 2, 0, &slot).expect_err("refused").to_string();
        assert!(refused.contains("has no \"input_2_0.npy\""), "{refused}");
    }
}
