//! Files mapped into memory: the only place of the crate with unsafe code.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use memmap2::Mmap;

/// A file that a model was read from, as it was when it was opened.
///
/// Tensors are views into the mapped file, so somebody who writes into it changes them. That cannot be prevented, only
/// noticed: whoever depends on it asks [`Source::is_unchanged`] afterwards. Replacing the file by another one of the
/// same name, as [`store`](crate::store) does, leaves the mapping as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path as it was given.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change, where the file system knows it.
    pub modified: Option<SystemTime>,
}

impl Source {
    fn new(path: &Path, metadata: &Metadata) -> Source {
        Source { path: path.to_path_buf(), size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Whether size and time of the last change are still the same.
    ///
    /// # Errors
    /// When the file cannot be looked at any more.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        let now = std::fs::metadata(&self.path)?;
        Ok(*self == Source::new(&self.path, &now))
    }
}

/// Maps a file, so that reading it costs nothing before its bytes are used.
pub(crate) fn map(path: &Path) -> io::Result<(Bytes, Source)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut source = Source::new(path, &metadata);
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Pipes and devices have no size and cannot be mapped.
    if !metadata.is_file() {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        source.size = bytes.len() as u64;
        return Ok((bytes.into(), source));
    }
    // An empty mapping is an error of the system.
    if metadata.len() == 0 {
        return Ok((Bytes::new(), source));
    }
    #[expect(unsafe_code, reason = "mapping a file is unsafe, see the comment")]
    // SAFETY: the bytes are only ever read, as plain bytes of any value. Another process that writes into the file
    // changes values we compute with, and one that truncates it makes the system stop us with SIGBUS; neither is
    // worse than what it could do to a file we read. `Source::is_unchanged` tells about the former.
    let map = unsafe { Mmap::map(&file) }?;
    Ok((Bytes::from_owner(map), source))
}
