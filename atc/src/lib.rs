//! Runs ATC, the compiler of Ascend's NPUs: finds it, gives it its environment, builds its command line for the release
//! that is there, reads what it prints, and explains it. Looks over an installation of CANN, driver included.
//!
//! [`Machine`] is where everything is asked: the files, variables and programs of this machine, or of a made-up root in
//! tests. [`toolkit::find`] finds the compiler, [`Flags`] says what this release of it takes, [`Job`] says what to compile,
//! [`run`](run::run) compiles. [`doctor`] does not compile at all.
//!
//! Facts are from the published documentation and sources of CANN, named where they are used; data files say in `confirmed`
//! whether their source says so or it was inferred.

pub mod codes;
mod command;
pub mod doctor;
mod flags;
mod fusion;
mod machine;
mod manifest;
mod messages;
pub mod npu_smi;
mod om;
mod plog;
pub mod run;
pub mod toolkit;

pub use command::{Command, Job, Precision, Shape, default_jobs, file_name, shell_word};
pub use flags::Flags;
pub use fusion::{Fusion, FusionKind, FusionPass};
pub use machine::Machine;
pub use manifest::{Compiler, FileRecord, Manifest, Port, Said, record_file};
pub use messages::{Message, Severity, parse_messages};
pub use om::{OmHeader, OmHeaderError};

use std::path::PathBuf;

/// Why ATC could not be run at all. That it refused a model is no error: [`run::Outcome`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AtcError {
    /// No ATC anywhere.
    #[error(
        "no ATC found: looked at {looked_at}; install the CANN toolkit, or say where it is with --atc FILE \
         (`onnxfix doctor` looks at the whole installation)"
    )]
    NotFound {
        /// The places, comma-separated.
        looked_at: String,
    },
    /// What was named is no program.
    #[error("{path} is not an executable file", path = path.display())]
    NotExecutable {
        /// The path.
        path: PathBuf,
    },
    /// ATC is there and does not work.
    #[error("{path} --help {what}", path = path.display())]
    NoHelp {
        /// ATC.
        path: PathBuf,
        /// What happened instead, with its likely cause.
        what: String,
    },
    /// A name that ATC's flags cannot carry.
    #[error(
        "input {name:?}: ATC's --input_shape takes no name with {character:?}; rename the input"
    )]
    Name {
        /// The input.
        name: String,
        /// The character.
        character: char,
    },
    /// This release lacks a flag that there is no other way around.
    #[error("this ATC has no --{flag}, which {needed_for} needs")]
    NoFlag {
        /// The flag, without dashes.
        flag: String,
        /// What needs it.
        needed_for: String,
    },
    /// Files of a run could not be read or written.
    #[error("{what} {path}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl AtcError {
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> AtcError {
        let path = path.into();
        move |source| AtcError::Io { what, path, source }
    }
}
