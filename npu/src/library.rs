//! Finding `libascendcl.so`, and the environment that it needs.
//!
//! The loader reads `LD_LIBRARY_PATH` when a program starts. Where nobody has sourced `set_env.sh`, a program has to start
//! itself once more with the folders of the toolkit and of the driver in it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ascendcl_sys::search::{LIBRARY, Machine, candidates, missing_folders};

/// Set in a program that was started again, so that it does not start itself for ever.
const STARTED_AGAIN: &str = "ONNXFIX_STARTED_AGAIN";

/// Why there is no library to load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// It is nowhere.
    #[error(
        "{LIBRARY} was not found; looked at {}. Install CANN (toolkit or nnrt), source its set_env.sh, or name the file with --acl-lib or ASCENDCL_LIB",
        looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Absent {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The program could not start itself again.
    #[error("start {} again with LD_LIBRARY_PATH set", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Finds the library: the file or folder that the user names, `ASCENDCL_LIB`, the toolkit of the environment, the loader's
/// folders, the usual places.
///
/// # Errors
/// When it is nowhere.
pub fn find(named: Option<&Path>) -> Result<PathBuf, LibraryError> {
    let machine = Machine { root: Path::new("/"), variable: &|name| std::env::var_os(name) };
    let looked = candidates(named, &machine);
    match looked.iter().find(|file| file.is_file()) {
        // Its folder may be reached by a link of a release that is taken away while the program runs.
        Some(file) => Ok(file.clone()),
        None => Err(LibraryError::Absent { looked }),
    }
}

/// Starts this program again, with the same arguments, if folders that the library needs are not on `LD_LIBRARY_PATH`.
/// Returns where nothing is missing, or the program was started again already.
///
/// # Errors
/// When the program cannot be started.
pub fn prepare(library: &Path) -> Result<(), LibraryError> {
    if std::env::var_os(STARTED_AGAIN).is_some() {
        return Ok(());
    }
    let machine = Machine { root: Path::new("/"), variable: &|name| std::env::var_os(name) };
    let missing = missing_folders(library, &machine);
    if missing.is_empty() {
        return Ok(());
    }
    let known = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let known = std::env::split_paths(&known).filter(|folder| *folder != Path::new(""));
    // A folder whose name has a colon cannot be in the list at all; the loader then says what it lacks.
    let fits = |folder: &PathBuf| std::env::join_paths([folder]).is_ok();
    let all = missing.into_iter().filter(fits).chain(known.collect::<Vec<_>>());
    let all = std::env::join_paths(all).unwrap_or_default();
    tracing::debug!("start again with LD_LIBRARY_PATH={}", all.display());
    let mut arguments = std::env::args_os();
    let first = arguments.next().unwrap_or_else(|| OsString::from("onnxfix"));
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(&first));
    let mut command = Command::new(&program);
    command.arg0(first).args(arguments).env("LD_LIBRARY_PATH", all).env(STARTED_AGAIN, "1");
    // Only comes back when it failed.
    let source = command.exec();
    Err(LibraryError::Start { program, source })
}
