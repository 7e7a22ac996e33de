//! Files mapped into memory: the only place of the crate with unsafe code.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
        Source {
            path: path.to_path_buf(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
        }
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

/// A file that is mapped, as long as anything of it is in use.
struct Mapped {
    map: Mmap,
    file: File,
    /// The file as it was when it was mapped.
    source: Source,
}

impl Mapped {
    /// Where in the file these bytes are, if they are a part of it.
    fn offset(&self, bytes: &[u8]) -> Option<usize> {
        let offset = bytes.as_ptr().addr().checked_sub(self.map.as_ptr().addr())?;
        (offset + bytes.len() <= self.map.len()).then_some(offset)
    }
}

/// The most that is read from what cannot be mapped: the largest message that protobuf libraries read.
const MAX_STREAM: u64 = (1 << 31) - 1;

/// Lets `Bytes` own a mapping.
struct Owner(Arc<Mapped>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// The mapped files in use.
static MAPPED: Mutex<Vec<Weak<Mapped>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind the locks is whole at any time, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maps a file, so that reading it costs nothing before its bytes are used.
pub(crate) fn map(path: &Path) -> io::Result<(Bytes, Source)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut source = Source::new(path, &metadata);
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Pipes and devices have no size and cannot be mapped, and some never end.
    if !metadata.is_file() {
        let mut bytes = Vec::new();
        if (&mut file).take(MAX_STREAM + 1).read_to_end(&mut bytes)? as u64 > MAX_STREAM {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "gives more than 2 GiB"));
        }
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
    // worse than what it could do to a file we read. `Source::is_unchanged` tells about the former, `exit_on_truncation`
    // about the latter.
    let map = unsafe { Mmap::map(&file) }?;
    let mapped = Arc::new(Mapped { map, file, source: source.clone() });
    let mut all = lock(&MAPPED);
    all.retain(|old| old.strong_count() > 0);
    all.push(Arc::downgrade(&mapped));
    Ok((Bytes::from_owner(Owner(mapped)), source))
}

/// Where bytes that are a view of a mapped file stand in that file.
pub(crate) struct Origin {
    mapped: Arc<Mapped>,
    offset: usize,
}

impl Origin {
    /// The origin of these bytes; none when they are no view of a mapped file.
    pub(crate) fn of(bytes: &[u8]) -> Option<Origin> {
        lock(&MAPPED).iter().find_map(|mapped| {
            let mapped = mapped.upgrade()?;
            let offset = mapped.offset(bytes)?;
            Some(Origin { mapped, offset })
        })
    }

    /// Reads from the file what stands `at` bytes behind the origin. Unlike the mapping this leaves no pages in memory,
    /// and a file that was truncated is an error.
    pub(crate) fn read_at(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.mapped.file, into, (self.offset + at) as u64)
    }

    /// Stops when the file changed since it was mapped.
    pub(crate) fn ensure_unchanged(&self) -> io::Result<()> {
        let source = &self.mapped.source;
        if *source == Source::new(&source.path, &self.mapped.file.metadata()?) {
            return Ok(());
        }
        let path = source.path.display();
        Err(io::Error::other(format!("{path} changed while it was being read")))
    }

    /// Gives the memory back that the pages of the whole mapped file take; using one reads it again. A hint: whether
    /// the system takes it shows in nothing but the memory in use.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        #[expect(unsafe_code, reason = "the call is unsafe for other mappings, see the comment")]
        // SAFETY: the mapping is shared and read only, so what a page holds after it was dropped comes from the file
        // again, as it did the first time.
        unsafe {
            let _ok = self.mapped.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed);
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    // A file has one position.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = lock(&ONE);
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}

/// From now on the process ends with a message and exit code 2 when it touches a part of a mapped file that is not there
/// any more, because somebody truncated the file or its disk failed. Otherwise the system ends it without a word.
///
/// Files being written keep their temporary names.
#[cfg(target_os = "linux")]
pub fn exit_on_truncation() {
    extern "C" fn say_and_exit(_signal: libc::c_int) {
        const MESSAGE: &str = "onnxfix: a part of a model file is not there any more: it was truncated while it was \
                               being read; run again once it is complete\n";
        #[expect(unsafe_code, reason = "ends the process, see the comment")]
        // SAFETY: both functions are async-signal-safe, the bytes are static, and nothing runs after `_exit`.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(2);
        }
    }
    let handler: extern "C" fn(libc::c_int) = say_and_exit;
    #[expect(unsafe_code, reason = "sets a signal handler, see the comment")]
    // SAFETY: the handler calls async-signal-safe functions only. The one it replaces is Rust's, which tells about
    // overflows of the stack, and those are another signal here.
    unsafe {
        libc::signal(libc::SIGBUS, handler as libc::sighandler_t);
    }
}

/// Elsewhere the system's own message has to do.
#[cfg(not(target_os = "linux"))]
pub fn exit_on_truncation() {}
