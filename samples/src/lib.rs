//! Inputs and outputs of models in files.
//!
//! Three kinds of files hold a tensor: `.bin` (packed little-endian elements and nothing else), `.npy` (`NumPy`'s format)
//! and `.pb` (a `TensorProto`, as the ONNX project's test sets have it); `.npz` holds several by name. [`Inputs`] pairs such
//! files with the inputs of a model and puts them together into batches, by the rules of Huawei's `ais_bench`, so that
//! folders made for it work here. [`Outputs`] writes results under the names that it gives them, and [`Expected`] finds
//! results that somebody else produced.

mod array;
mod expected;
mod inputs;
mod outputs;

use std::path::PathBuf;

use onnxfix_ir::{DataType, LoadError};

pub use array::{Format, convert, read, write};
pub use expected::Expected;
pub use inputs::{Batch, Inputs};
pub use outputs::{Outputs, split};

/// An input or output of a model as one run takes or gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Type of the elements.
    pub dtype: DataType,
    /// Dimensions, the batch first.
    pub dims: Vec<i64>,
}

impl Slot {
    /// Number of elements; none where the dimensions are no size.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        let len = self.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        usize::try_from(len?).ok()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// Why files cannot be used as inputs, or outputs cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The system refuses.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file's name has none of the endings.
    #[error("{}: unknown kind of file; a tensor is in a .bin, .npy, .npz or .pb", .0.display())]
    Kind(PathBuf),
    /// The file is damaged, or of a kind that is not read.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A `.pb` file is not a tensor.
    #[error("{}: is no TensorProto", path.display())]
    Proto {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// The file has too many or too few elements, or bytes that are no whole elements.
    #[error("{}: has {have}, {slot:?} takes {want}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The input.
        slot: String,
        /// What the file has.
        have: String,
        /// What the input takes.
        want: String,
    },
    /// A number does not fit into the type that the model takes.
    #[error("{}: element {at} is {value}, which {slot:?} cannot take as {want}", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The input.
        slot: String,
        /// Position of the first such element.
        at: usize,
        /// The element.
        value: String,
        /// Type of the input.
        want: DataType,
    },
    /// The element type cannot become that of the model.
    #[error("{}: has elements of {have}, {slot:?} takes {want}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The input.
        slot: String,
        /// Type in the file.
        have: DataType,
        /// Type of the input.
        want: DataType,
    },
    /// A file looks like 64-bit integers, and its size does not tell.
    #[error(
        "{}: every other 32-bit number is 0, as in 64-bit integers, and {slot:?} takes int32: say --bin-dtype int64, or \
         int32 if that is what they are", path.display()
    )]
    Wide {
        /// The file.
        path: PathBuf,
        /// The input.
        slot: String,
    },
    /// Integers of 32 bits, taken for half as many of 64.
    #[error(
        "{}: its 64-bit integers are beyond 32 bits, as two 32-bit ones side by side, and {slot:?} takes int64: say --bin-dtype \
         int32, or int64 if that is what they are", path.display()
    )]
    Narrow {
        /// The file.
        path: PathBuf,
        /// The input.
        slot: String,
    },
    /// The number of paths does not go with the number of inputs.
    #[error("{given} do not go with the {} inputs {}; {hint}", inputs.len(), inputs.join(", "))]
    Pairing {
        /// What was given.
        given: String,
        /// The inputs.
        inputs: Vec<String>,
        /// What would go.
        hint: String,
    },
    /// Inputs have different numbers of files.
    #[error("{first:?} has {} files and {second:?} has {}: every sample needs one of each", counts.0, counts.1)]
    Counts {
        /// An input.
        first: String,
        /// Another one.
        second: String,
        /// Their files.
        counts: (usize, usize),
    },
    /// A folder has nothing to read.
    #[error("{}: no .npy, .bin, .npz or .pb file in this folder", .0.display())]
    Empty(PathBuf),
    /// An archive or test set lacks an input.
    #[error("{}: has no {name:?}; it has {}", path.display(), has.join(", "))]
    Absent {
        /// The archive or folder.
        path: PathBuf,
        /// The input.
        name: String,
        /// What it has.
        has: Vec<String>,
    },
    /// The elements of a result cannot be divided among the samples of a batch.
    #[error(
        "output {name:?} has dimensions {dims:?}: axis {axis} cannot be divided among {parts} samples"
    )]
    Split {
        /// The output.
        name: String,
        /// Its dimensions.
        dims: Vec<i64>,
        /// The axis.
        axis: usize,
        /// Samples of the batch.
        parts: usize,
    },
    /// The type cannot be written in this format.
    #[error("{}: elements of {dtype} cannot be written in this format", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Type of the elements.
        dtype: DataType,
    },
}

impl SampleError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> SampleError + '_ {
        move |source| SampleError::Io { path: path.to_path_buf(), source }
    }
}
