//! Results in files.

use std::path::{Path, PathBuf};

use onnxfix_ir::Tensor;

use crate::{Format, SampleError, Slot, write};

/// Writes results into a folder, one file for each output of each sample: `NAME_INDEX.bin`, where `NAME` is that of the
/// sample and `INDEX` the position of the output, from 0.
#[derive(Debug, Clone)]
pub struct Outputs {
    folder: PathBuf,
    format: Format,
    axis: usize,
}

impl Outputs {
    /// Makes the folder where it is not there. `axis` is the dimension of the outputs that counts samples.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn create(folder: &Path, format: Format, axis: usize) -> Result<Outputs, SampleError> {
        std::fs::create_dir_all(folder).map_err(SampleError::io(folder))?;
        Ok(Outputs { folder: folder.to_path_buf(), format, axis })
    }

    /// Writes what a run gave: the outputs are divided among `per_batch` samples, of which the first are those of these
    /// names and the others only filled up the batch. The files come back, by sample.
    ///
    /// # Errors
    /// When an output cannot be divided, or a file cannot be written.
    pub fn write(
        &self,
        names: &[String],
        per_batch: usize,
        slots: &[Slot],
        tensors: &[Tensor],
    ) -> Result<Vec<Vec<PathBuf>>, SampleError> {
        let mut written = vec![Vec::with_capacity(tensors.len()); names.len()];
        for (index, tensor) in tensors.iter().enumerate() {
            let name = slots.get(index).map_or("", |s| &s.name);
            let parts = split(name, tensor, self.axis, per_batch)?;
            for ((sample, part), files) in names.iter().zip(&parts).zip(&mut written) {
                let path = self.folder.join(format!("{sample}_{index}.{}", self.format.ending()));
                write(&path, part, self.format)?;
                files.push(path);
            }
        }
        Ok(written)
    }
}

/// Divides an output along an axis into equal parts.
///
/// # Errors
/// When that cannot be done; the name is for the message.
pub fn split(
    name: &str,
    tensor: &Tensor,
    axis: usize,
    parts: usize,
) -> Result<Vec<Tensor>, SampleError> {
    if parts == 1 {
        return Ok(vec![tensor.clone()]);
    }
    let refused =
        || SampleError::Split { name: name.to_owned(), dims: tensor.dims.clone(), axis, parts };
    let size = tensor.dims.get(axis).and_then(|&d| usize::try_from(d).ok()).ok_or_else(refused)?;
    let raw = tensor.to_bytes().map_err(|_| refused())?;
    if parts == 0 || !size.is_multiple_of(parts) {
        return Err(refused());
    }
    let mut dims = tensor.dims.clone();
    dims[axis] = (size / parts) as i64;
    let outer =
        tensor.dims[..axis].iter().map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>();
    // Bytes that lie together in one part.
    let run = raw.len().checked_div(outer * parts).unwrap_or(0);
    let part = |at: usize| {
        let bytes = if outer == 1 {
            raw.slice(at * run..(at + 1) * run)
        } else {
            let runs = (0..outer).map(|o| &raw[(o * parts + at) * run..][..run]);
            runs.collect::<Vec<_>>().concat().into()
        };
        Tensor::from_raw(tensor.dtype, &dims, bytes).map_err(|_| refused())
    };
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_divided_along_any_axis() {
        let tensor = Tensor::new(&[2, 4], (0..8).collect::<Vec<i32>>());
        let along = |axis| split("y", &tensor, axis, 2).expect("divided");
        assert_eq!(along(0)[1], Tensor::new(&[1, 4], vec![4, 5, 6, 7]));
        assert_eq!(along(1)[1], Tensor::new(&[2, 2], vec![2, 3, 6, 7]));
        let refused = split("y", &tensor, 1, 3).expect_err("refused").to_string();
        assert_eq!(
            refused,
            "output \"y\" has dimensions [2, 4]: axis 1 cannot be divided among 3 samples"
        );
    }

    #[test]
    fn files_have_the_names_of_samples_and_the_rest_of_a_batch_is_left_out() {
        let root = tempfile::tempdir().expect("a folder");
        let outputs = Outputs::create(&root.path().join("out"), Format::Text, 0).expect("folder");
        let tensor = Tensor::new(&[2, 2], vec![0.5_f32, -1.0, 9.0, 9.0]);
        let written = outputs.write(&["input_7".to_owned()], 2, &[], &[tensor]).expect("written");
        assert_eq!(written, [[root.path().join("out/input_7_0.txt")]]);
        let text = std::fs::read_to_string(&written[0][0]).expect("the file");
        assert_eq!(text, "0.500000 -1.000000\n");
        assert_eq!(std::fs::read_dir(root.path().join("out")).expect("the folder").count(), 1);
    }
}
