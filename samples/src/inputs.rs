//! Files that become the inputs of a model.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnxfix_ir::{DataType, Tensor};

use crate::array::{self, Kind, kind};
use crate::{SampleError, Slot, convert, read};

/// The samples that a user names, paired with the inputs of a model.
///
/// A *sample* is what one file of the first input holds; the files that have the same position in their sorted folders
/// belong together. Where a model takes several samples at once they are put behind one another, and the last batch is
/// filled up with its first sample.
#[derive(Debug, Clone)]
pub struct Inputs {
    slots: Vec<Slot>,
    /// For every input its part of each sample.
    pieces: Vec<Vec<Piece>>,
    /// Type of the elements of `.bin` files, by input.
    stored: Vec<DataType>,
    per_batch: usize,
}

/// One input of one sample.
#[derive(Debug, Clone)]
enum Piece {
    File(PathBuf),
    /// An array of an archive.
    Member(PathBuf, String),
    /// Some elements of an array that holds many samples.
    Row {
        path: PathBuf,
        all: Arc<Tensor>,
        at: usize,
    },
}

impl Piece {
    fn path(&self) -> &Path {
        match self {
            Piece::File(path) | Piece::Member(path, _) | Piece::Row { path, .. } => path,
        }
    }
}

/// What one run of the model takes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One tensor for every input, of its type and dimensions.
    pub tensors: Vec<Tensor>,
    /// The samples that it holds. Where these are fewer than [`Inputs::per_batch`], the rest repeats the first one.
    pub samples: Range<usize>,
}

impl Inputs {
    /// Pairs what is at `paths` with the inputs of a model. These go:
    ///
    /// - a folder for every input, in the model's order, or named after the inputs in any order;
    /// - one folder that has a folder for every input, named after it;
    /// - files, first all of the first input, then all of the second and so on;
    /// - `.npz` files, or one folder of them: a sample each, arrays named after the inputs;
    /// - a test set of the ONNX project (`input_0.pb`, `input_1.pb` …), or a folder of such sets;
    /// - for every input one `.npy` (or one `.npz` for all) whose first dimension counts samples.
    ///
    /// Files are sorted by name, numbers in names by value. `stored` is the type of `.bin` elements where it is not that of
    /// the input; int64 for an int32 input is noticed when a file is twice as large as the input, and refused where it cannot be told from
    /// twice as many int32.
    ///
    /// # Errors
    /// When the paths do not go with the inputs, or the first files do not fit them.
    pub fn open(
        slots: &[Slot],
        paths: &[PathBuf],
        stored: Option<DataType>,
    ) -> Result<Inputs, SampleError> {
        let pieces = pair(slots, paths)?;
        for (slot, of_slot) in slots.iter().zip(&pieces).skip(1) {
            if of_slot.len() != pieces[0].len() {
                return Err(SampleError::Counts {
                    first: slots[0].name.clone(),
                    second: slot.name.clone(),
                    counts: (pieces[0].len(), of_slot.len()),
                });
            }
        }
        let types = slots.iter().map(|slot| stored.unwrap_or(slot.dtype)).collect();
        let mut inputs = Inputs { slots: slots.to_vec(), pieces, stored: types, per_batch: 1 };
        if stored.is_none() && !inputs.is_empty() {
            inputs.notice_wide()?;
        }
        inputs.measure()?;
        Ok(inputs)
    }

    /// Looks at the `.bin` files of the first sample for 64-bit integers where the input takes 32-bit ones, and the other way
    /// round.
    fn notice_wide(&mut self) -> Result<(), SampleError> {
        for at in 0..self.slots.len() {
            let (slot, path) = (&self.slots[at], self.pieces[at][0].path());
            if kind(path) != Some(Kind::Bin)
                || !matches!(slot.dtype, DataType::Int32 | DataType::Int64)
            {
                continue;
            }
            let ints = self.load(at, 0)?.to_ints().unwrap_or_default();
            if slot.dtype == DataType::Int64 {
                // Whole batches are as long as they should be, and no model's indices are that large.
                let is_part = slot.len().is_some_and(|len| ints.len() < len);
                if is_part && ints.iter().any(|int| i32::try_from(*int).is_err()) {
                    return Err(SampleError::Narrow {
                        path: path.to_path_buf(),
                        slot: slot.name.clone(),
                    });
                }
                continue;
            }
            if slot.len().is_some_and(|len| len > 0 && ints.len() == 2 * len) {
                self.stored[at] = DataType::Int64;
                continue;
            }
            // Half a batch of the ones is a whole batch of the others.
            let (wide, rest) = ints.as_chunks::<2>();
            let is_wide = wide.iter().all(|int| int[1] == 0) && wide.iter().any(|int| int[0] != 0);
            if rest.is_empty() && wide.len() > 1 && is_wide {
                return Err(SampleError::Wide {
                    path: path.to_path_buf(),
                    slot: slot.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Looks at the first sample: how many of them the model takes at once.
    fn measure(&mut self) -> Result<(), SampleError> {
        if self.slots.is_empty() || self.is_empty() {
            return Ok(());
        }
        let tensors: Vec<Tensor> =
            (0..self.slots.len()).map(|at| self.load(at, 0)).collect::<Result<_, _>>()?;
        if self.len() == 1 && self.slots.iter().zip(&tensors).all(|(s, t)| is_stacked(s, t)) {
            self.unstack(tensors)?;
            return Ok(());
        }
        let (have, want) = (elements(&tensors[0]), self.slots[0].len().unwrap_or(0));
        // An input without elements has files without bytes.
        if have == 0 && want == 0 {
            return Ok(());
        }
        if have == 0 || !want.is_multiple_of(have) {
            return Err(self.size(0, 0, have, &format!("{want} or an equal part of them")));
        }
        self.per_batch = want / have;
        Ok(())
    }

    /// Takes arrays of many samples apart.
    fn unstack(&mut self, tensors: Vec<Tensor>) -> Result<(), SampleError> {
        let counts: Vec<usize> = tensors
            .iter()
            .map(|t| t.dims.first().map_or(1, |&d| usize::try_from(d).unwrap_or(0)))
            .collect();
        if let Some(at) = counts.iter().position(|&count| count != counts[0]) {
            return Err(SampleError::Counts {
                first: self.slots[0].name.clone(),
                second: self.slots[at].name.clone(),
                counts: (counts[0], counts[at]),
            });
        }
        for (of_slot, tensor) in self.pieces.iter_mut().zip(tensors) {
            let (path, all) = (of_slot[0].path().to_path_buf(), Arc::new(tensor));
            *of_slot = (0..counts[0])
                .map(|at| Piece::Row { path: path.clone(), all: Arc::clone(&all), at })
                .collect();
        }
        self.per_batch = self.slots[0].dims.first().map_or(1, |&d| usize::try_from(d).unwrap_or(1));
        Ok(())
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.first().map_or(0, Vec::len)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples that one run takes.
    #[must_use]
    pub fn per_batch(&self) -> usize {
        self.per_batch
    }

    /// Runs that all samples take.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.len().div_ceil(self.per_batch)
    }

    /// What results of a sample are called after: the name of its first file up to the first dot; of a test set the folder.
    #[must_use]
    pub fn name(&self, sample: usize) -> String {
        let piece = &self.pieces[0][sample];
        let path = match (kind(piece.path()), piece.path().parent()) {
            (Some(Kind::Proto), Some(folder)) if folder.file_name().is_some() => folder,
            _ => piece.path(),
        };
        let file = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = file.split('.').next().unwrap_or_default().to_owned();
        match piece {
            Piece::Row { at, .. } => format!("{stem}_{at}"),
            _ => stem,
        }
    }

    /// The files of a sample, one for every input.
    #[must_use]
    pub fn files(&self, sample: usize) -> Vec<&Path> {
        self.pieces.iter().map(|of_slot| of_slot[sample].path()).collect()
    }

    /// Reads what a run takes. Several threads may read at once.
    ///
    /// # Errors
    /// When a file cannot be read, or its elements do not fit the input.
    pub fn batch(&self, at: usize) -> Result<Batch, SampleError> {
        let samples = at * self.per_batch..((at + 1) * self.per_batch).min(self.len());
        let tensors = (0..self.slots.len()).map(|slot| self.put_together(slot, &samples));
        Ok(Batch { tensors: tensors.collect::<Result<_, _>>()?, samples: samples.clone() })
    }

    fn put_together(&self, at: usize, samples: &Range<usize>) -> Result<Tensor, SampleError> {
        let slot = &self.slots[at];
        let want = slot.len().unwrap_or(0) / self.per_batch;
        let mut bytes = Vec::new();
        for position in 0..self.per_batch {
            let sample = samples.start + position;
            let sample = if sample < samples.end { sample } else { samples.start };
            let path = self.pieces[at][sample].path();
            let loaded = self.load(at, sample)?;
            let have = elements(&loaded);
            if have != want {
                return Err(self.size(at, sample, have, &want.to_string()));
            }
            let tensor = convert(path, loaded, slot)?;
            if self.per_batch == 1 {
                return Ok(tensor.reshaped(&slot.dims));
            }
            let raw = tensor.raw().map_err(|e| SampleError::Damaged {
                path: path.to_path_buf(),
                why: e.to_string(),
            })?;
            bytes.extend_from_slice(&raw);
        }
        Tensor::from_raw(slot.dtype, &slot.dims, bytes.into()).map_err(|e| SampleError::Damaged {
            path: self.pieces[at][samples.start].path().to_path_buf(),
            why: e.to_string(),
        })
    }

    /// A sample's part for an input, in the type and the dimensions of its file.
    fn load(&self, at: usize, sample: usize) -> Result<Tensor, SampleError> {
        match &self.pieces[at][sample] {
            Piece::File(path) => {
                let slot = &self.slots[at];
                read(path, &Slot { dtype: self.stored[at], ..slot.clone() })
            }
            Piece::Member(path, name) => array::read_member(path, name),
            Piece::Row { path, all, at } => row(path, all, *at),
        }
    }

    fn size(&self, at: usize, sample: usize, have: usize, want: &str) -> SampleError {
        let slot = &self.slots[at];
        SampleError::Size {
            path: self.pieces[at][sample].path().to_path_buf(),
            slot: slot.name.clone(),
            have: format!("{have} elements of {}", self.stored[at]),
            want: format!("{want} of {} (dimensions {:?})", slot.dtype, slot.dims),
        }
    }
}

fn elements(tensor: &Tensor) -> usize {
    tensor.len().ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// Whether an array has more samples than a model takes at once: as many dimensions as the input, all equal but the first.
fn is_stacked(slot: &Slot, tensor: &Tensor) -> bool {
    let (have, want) = (&tensor.dims, &slot.dims);
    have.len() == want.len() && !want.is_empty() && have[1..] == want[1..] && have[0] > want[0]
}

/// An element of the first dimension.
pub(crate) fn row(path: &Path, all: &Tensor, at: usize) -> Result<Tensor, SampleError> {
    let damaged = |why: String| SampleError::Damaged { path: path.to_path_buf(), why };
    let raw = all.to_bytes().map_err(|e| damaged(e.to_string()))?;
    let rows = all.dims.first().and_then(|&d| usize::try_from(d).ok()).unwrap_or(1).max(1);
    if at >= rows {
        return Err(damaged(format!("has {rows} samples, and number {at}, from 0, is asked for")));
    }
    let size = raw.len() / rows;
    let mut dims = all.dims.clone();
    if let Some(first) = dims.first_mut() {
        *first = 1;
    }
    Tensor::from_raw(all.dtype, &dims, raw.slice(at * size..(at + 1) * size))
        .map_err(|e| damaged(e.to_string()))
}

fn pair(slots: &[Slot], paths: &[PathBuf]) -> Result<Vec<Vec<Piece>>, SampleError> {
    for path in paths {
        // A name that is wrong is the first thing to say.
        std::fs::metadata(path).map_err(SampleError::io(path))?;
    }
    let folders = paths.iter().filter(|p| p.is_dir()).count();
    let mismatch = |given: String| {
        SampleError::Pairing {
        given,
        inputs: slots.iter().map(|s| s.name.clone()).collect(),
        hint: "give one folder for each input in this order, one folder that has a folder for each input, or as \
               many files for each input"
            .to_owned(),
    }
    };
    if folders == paths.len() {
        return of_folders(slots, paths, &mismatch);
    }
    if folders > 0 {
        return Err(mismatch(format!("{folders} folders and {} files", paths.len() - folders)));
    }
    if let Some(other) = paths.iter().find(|p| kind(p).is_none()) {
        return Err(SampleError::Kind(other.clone()));
    }
    if paths.iter().all(|p| kind(p) == Some(Kind::Npz)) {
        return of_archives(slots, paths);
    }
    if slots.is_empty() || !paths.len().is_multiple_of(slots.len()) {
        return Err(mismatch(format!("{} files", paths.len())));
    }
    let each = (paths.len() / slots.len()).max(1);
    Ok(paths.chunks(each).map(|files| files.iter().cloned().map(Piece::File).collect()).collect())
}

fn of_folders(
    slots: &[Slot],
    folders: &[PathBuf],
    mismatch: &dyn Fn(String) -> SampleError,
) -> Result<Vec<Vec<Piece>>, SampleError> {
    if let Some(sets) = test_sets(folders)? {
        let of_slot = |at: usize| {
            let file = |set: &PathBuf| set.join(format!("input_{at}.pb"));
            sets.iter().map(|set| Piece::File(file(set))).collect()
        };
        return Ok((0..slots.len()).map(of_slot).collect());
    }
    let folders: Vec<PathBuf> = match folders {
        [one] if slots.iter().all(|s| one.join(&s.name).is_dir()) => {
            slots.iter().map(|s| one.join(&s.name)).collect()
        }
        [one] if slots.len() > 1 => {
            let archives = files(one)?;
            if !archives.is_empty() && archives.iter().all(|f| kind(f) == Some(Kind::Npz)) {
                return of_archives(slots, &archives);
            }
            return Err(mismatch(format!("the one folder {}", one.display())));
        }
        _ if folders.len() != slots.len() => {
            return Err(mismatch(format!("{} folders", folders.len())));
        }
        _ => by_name(slots, folders).unwrap_or_else(|| folders.to_vec()),
    };
    let pieces = |folder: &PathBuf| {
        let files = files(folder)?;
        if files.is_empty() {
            return Err(SampleError::Empty(folder.clone()));
        }
        Ok(files.into_iter().map(Piece::File).collect())
    };
    if let [one] = &folders[..] {
        let archives = files(one)?;
        if !archives.is_empty() && archives.iter().all(|f| kind(f) == Some(Kind::Npz)) {
            return of_archives(slots, &archives);
        }
    }
    folders.iter().map(pieces).collect()
}

fn of_archives(slots: &[Slot], archives: &[PathBuf]) -> Result<Vec<Vec<Piece>>, SampleError> {
    if let Some(first) = archives.first() {
        let has = array::member_names(first)?;
        if let Some(slot) = slots.iter().find(|s| !has.contains(&s.name)) {
            return Err(SampleError::Absent { path: first.clone(), name: slot.name.clone(), has });
        }
    }
    let member = |slot: &Slot| {
        archives.iter().map(|path| Piece::Member(path.clone(), slot.name.clone())).collect()
    };
    Ok(slots.iter().map(member).collect())
}

/// The folders in the order of the inputs, where they are called after them.
fn by_name(slots: &[Slot], folders: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let of = |slot: &Slot| folders.iter().find(|f| f.file_name().is_some_and(|n| *n == *slot.name));
    slots.iter().map(|slot| of(slot).cloned()).collect()
}

/// The folders that have an `input_0.pb`: these themselves, or those within the only one.
fn test_sets(folders: &[PathBuf]) -> Result<Option<Vec<PathBuf>>, SampleError> {
    let is_set = |folder: &PathBuf| folder.join("input_0.pb").is_file();
    if !folders.is_empty() && folders.iter().all(is_set) {
        return Ok(Some(folders.to_vec()));
    }
    let [one] = folders else { return Ok(None) };
    let mut within: Vec<PathBuf> = entries(one)?.into_iter().filter(is_set).collect();
    sort(&mut within);
    Ok(Some(within).filter(|sets| !sets.is_empty()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SampleError> {
    let read = std::fs::read_dir(folder).map_err(SampleError::io(folder))?;
    let paths = read.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    paths.map_err(SampleError::io(folder))
}

/// The tensor files of a folder in natural order.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, SampleError> {
    let mut files = entries(folder)?;
    files.retain(|path| kind(path).is_some() && path.is_file());
    sort(&mut files);
    Ok(files)
}

/// By name, numbers in names by value: `input_2` before `input_10`.
fn sort(paths: &mut [PathBuf]) {
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
    paths.sort_by(|a, b| {
        let (a, b) = (name(a).unwrap_or_default(), name(b).unwrap_or_default());
        natord::compare(&a, &b).then_with(|| a.cmp(&b))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, write};

    fn slot(name: &str, dtype: DataType, dims: &[i64]) -> Slot {
        Slot { name: name.to_owned(), dtype, dims: dims.to_vec() }
    }

    fn put(path: &Path, tensor: &Tensor, format: Format) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
        write(path, tensor, format).expect("written");
    }

    fn ids(of: std::ops::Range<i32>) -> Tensor {
        Tensor::new(&[of.len() as i64], of.collect())
    }

    fn text(result: Result<Inputs, SampleError>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn folders_are_sorted_by_numbers_and_the_last_batch_repeats_its_first_sample() {
        let root = tempfile::tempdir().expect("a folder");
        for i in 0..11 {
            put(&root.path().join(format!("ids/input_{i}.bin")), &ids(i..i + 2), Format::Bin);
        }
        let slots = [slot("ids", DataType::Int32, &[4, 2])];
        let inputs = Inputs::open(&slots, &[root.path().join("ids")], None).expect("inputs");
        assert_eq!((inputs.len(), inputs.per_batch(), inputs.batches()), (11, 4, 3));
        assert_eq!(
            (inputs.name(2), inputs.name(10)),
            ("input_2".to_owned(), "input_10".to_owned())
        );
        let last = inputs.batch(2).expect("a batch");
        assert_eq!(last.samples, 8..11);
        assert_eq!(last.tensors[0], Tensor::new(&[4, 2], vec![8, 9, 9, 10, 10, 11, 8, 9]));
    }

    #[test]
    fn folders_named_after_the_inputs_go_in_any_order_and_within_one_folder() {
        let root = tempfile::tempdir().expect("a folder");
        put(&root.path().join("mask/0.bin"), &ids(1..3), Format::Bin);
        put(&root.path().join("ids/0.bin"), &ids(7..9), Format::Bin);
        let slots = ["ids", "mask"].map(|name| slot(name, DataType::Int32, &[1, 2]));
        let swapped = [root.path().join("mask"), root.path().join("ids")];
        for paths in [&swapped[..], &[root.path().to_path_buf()]] {
            let batch = Inputs::open(&slots, paths, None).and_then(|i| i.batch(0)).expect("batch");
            assert_eq!(batch.tensors[0], Tensor::new(&[1, 2], vec![7, 8]));
        }
    }

    #[test]
    fn int64_becomes_int32_where_it_fits_and_is_refused_where_not() {
        let root = tempfile::tempdir().expect("a folder");
        let slots = [slot("ids", DataType::Int32, &[1, 2])];
        put(&root.path().join("d.bin"), &Tensor::new(&[1, 2], vec![5_i64, 6]), Format::Bin);
        for (name, format) in [("a.bin", Format::Bin), ("b.npy", Format::Npy)] {
            let path = root.path().join(name);
            put(&path, &Tensor::new(&[1, 2], vec![5_i64, -1]), format);
            let batch = Inputs::open(&slots, &[path], None).and_then(|i| i.batch(0));
            assert_eq!(batch.expect("a batch").tensors[0], Tensor::new(&[1, 2], vec![5, -1]));
        }
        let halves = [slot("ids", DataType::Int32, &[2, 2])];
        let refused = text(Inputs::open(&halves, &[root.path().join("d.bin")], None));
        assert!(refused.contains("say --bin-dtype int64"), "{refused}");
        // The other way round: two of 32 bits are one of 64, and half a batch.
        let wide = [slot("ids", DataType::Int64, &[1, 2])];
        put(&root.path().join("e.bin"), &Tensor::new(&[1, 2], vec![5_i32, 6]), Format::Bin);
        let refused = text(Inputs::open(&wide, &[root.path().join("e.bin")], None));
        assert!(refused.contains("say --bin-dtype int32"), "{refused}");
        let said = Inputs::open(&wide, &[root.path().join("e.bin")], Some(DataType::Int32));
        let batch = said.and_then(|i| i.batch(0)).expect("a batch");
        assert_eq!(batch.tensors[0], Tensor::new(&[1, 2], vec![5_i64, 6]));
        let path = root.path().join("c.npy");
        put(&path, &Tensor::new(&[1, 2], vec![5_i64, 1 << 40]), Format::Npy);
        let refused = Inputs::open(&slots, &[path], None).and_then(|i| i.batch(0));
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains("element 1 is 1099511627776"), "{refused}");
    }

    #[test]
    fn one_array_holds_many_samples() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("all.npy");
        put(&path, &Tensor::new(&[3, 2], (0..6).collect::<Vec<i32>>()), Format::Npy);
        let slots = [slot("ids", DataType::Int32, &[2, 2])];
        let inputs = Inputs::open(&slots, &[path], None).expect("inputs");
        assert_eq!((inputs.len(), inputs.batches()), (3, 2));
        assert_eq!(inputs.name(2), "all_2");
        let last = inputs.batch(1).expect("a batch");
        assert_eq!(last.tensors[0], Tensor::new(&[2, 2], vec![4, 5, 4, 5]));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        put(&at("a/0.bin"), &ids(0..2), Format::Bin);
        put(&at("b/0.bin"), &ids(0..2), Format::Bin);
        put(&at("b/1.bin"), &ids(0..2), Format::Bin);
        put(&at("c/0.bin"), &ids(0..3), Format::Bin);
        let two = ["x", "y"].map(|name| slot(name, DataType::Int32, &[1, 2]));
        let one = &two[..1];
        let refused = text(Inputs::open(&two, &[at("a"), at("b")], None));
        assert_eq!(refused, "\"x\" has 1 files and \"y\" has 2: every sample needs one of each");
        let refused = text(Inputs::open(&two, &[at("a")], None));
        assert!(refused.contains("do not go with the 2 inputs x, y"), "{refused}");
        let refused = text(Inputs::open(one, &[at("c")], None));
        assert!(refused.ends_with("has 3 elements of int32, \"x\" takes 2 or an equal part of them of int32 (dimensions [1, 2])"), "{refused}");
        let refused = text(Inputs::open(one, &[at("none")], None));
        assert!(refused.ends_with("none"), "{refused}");
        std::fs::write(at("a.jpeg"), "").expect("written");
        let refused = text(Inputs::open(one, &[at("a.jpeg")], None));
        assert!(refused.contains("unknown kind of file"), "{refused}");
    }
}
