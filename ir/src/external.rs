//! External data: tensors whose elements are in files beside the model.

use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use hashbrown::HashMap;

use crate::map::{self, Source};

/// Why the external data of a tensor cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// The model came from memory, so there is no folder to look in.
    #[error("the model was not read from a file, so {location:?} is nowhere")]
    NoFolder {
        /// Location as in the model.
        location: String,
    },
    /// The entry is not there, or empty.
    #[error("no `location` is given")]
    NoLocation,
    /// An entry is no number.
    #[error("`{key}` is {value:?}, not a number of bytes")]
    Number {
        /// `offset` or `length`.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// The location leaves the folder of the model: following it could read any file of the user.
    #[error("location {location:?} is outside of the model's folder")]
    Outside {
        /// Location as in the model.
        location: String,
    },
    /// The file cannot be opened.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading a pipe would wait for somebody who writes, and a device may never end.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// The file is shorter than the tensor says.
    #[error("{} has {size} bytes, the tensor needs {length} from byte {offset}", .path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// The data files of one model, each mapped once.
#[derive(Default)]
pub(crate) struct DataFiles {
    /// Folder that locations are relative to; none for a model from memory.
    dir: Option<PathBuf>,
    /// Folders, links resolved, that data may be in.
    allowed: Vec<PathBuf>,
    /// Bytes of each location opened so far, and where it is.
    open: HashMap<String, (Bytes, PathBuf)>,
    /// The files opened so far, in the order of their first use.
    pub(crate) sources: Vec<Source>,
}

impl DataFiles {
    /// The files beside the model at `path`.
    pub(crate) fn beside(path: &Path) -> DataFiles {
        let mut files = DataFiles::within(parent(path));
        // A download cache links both model and data to one other folder; then the data is beside the real model.
        if let Ok(real) = path.canonicalize() {
            files.allowed.push(parent(&real).to_path_buf());
        }
        files
    }

    /// The files of this folder.
    pub(crate) fn within(dir: &Path) -> DataFiles {
        let allowed = dir.canonicalize().into_iter().collect();
        DataFiles { dir: Some(dir.to_path_buf()), allowed, ..DataFiles::default() }
    }

    /// The bytes that these entries point to; `need` is how many the tensor has if the entries do not say.
    pub(crate) fn bytes(
        &mut self,
        entries: &[(String, String)],
        need: u64,
    ) -> Result<Bytes, ExternalError> {
        let entry = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number = |key: &'static str| match entry(key) {
            None => Ok(None),
            Some(v) => {
                v.parse().map(Some).map_err(|_| ExternalError::Number { key, value: v.to_owned() })
            }
        };
        let location =
            entry("location").filter(|l| !l.is_empty()).ok_or(ExternalError::NoLocation)?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(need));
        let (bytes, path) = self.file(location)?;
        let size = bytes.len() as u64;
        let out_of_range = || ExternalError::Range { path: path.clone(), size, offset, length };
        let end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(out_of_range)?;
        let at = |n: u64| usize::try_from(n).map_err(|_| out_of_range());
        Ok(bytes.slice(at(offset)?..at(end)?))
    }

    /// Size of the file at a location.
    pub(crate) fn size(&self, location: &str) -> Result<u64, ExternalError> {
        let path = self.resolve(location)?;
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(ExternalError::Io { path, source }),
        }
    }

    fn file(&mut self, location: &str) -> Result<&(Bytes, PathBuf), ExternalError> {
        if !self.open.contains_key(location) {
            let path = self.resolve(location)?;
            if std::fs::metadata(&path).is_ok_and(|m| !m.is_file()) {
                return Err(ExternalError::NotAFile(path));
            }
            let (bytes, source) = map::map(&path)
                .map_err(|source| ExternalError::Io { path: path.clone(), source })?;
            self.sources.push(source);
            self.open.insert(location.to_owned(), (bytes, path));
        }
        Ok(&self.open[location])
    }

    /// The file of a location, which must be in the model's folder, by its path and after links are followed.
    fn resolve(&self, location: &str) -> Result<PathBuf, ExternalError> {
        let Some(dir) = &self.dir else {
            return Err(ExternalError::NoFolder { location: location.to_owned() });
        };
        let outside = || ExternalError::Outside { location: location.to_owned() };
        let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
        if !Path::new(location).components().all(inside) {
            return Err(outside());
        }
        let path = dir.join(location);
        let real = path
            .canonicalize()
            .map_err(|source| ExternalError::Io { path: path.clone(), source })?;
        if self.allowed.iter().any(|dir| real.starts_with(dir)) { Ok(path) } else { Err(outside()) }
    }
}

/// The folder that a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
