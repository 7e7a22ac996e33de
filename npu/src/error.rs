//! Why a model does not run on a device.

use std::path::PathBuf;

use ascendcl_sys::{Error, LoadError};

use crate::acl::{Gear, Gears};

/// Why a model does not run on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpuError {
    /// AscendCL refuses or fails.
    #[error("{what}")]
    Acl {
        /// What was tried.
        what: String,
        /// The call, its code and what the code means.
        source: Error,
    },
    /// The library cannot be used.
    #[error(transparent)]
    Library(#[from] LoadError),
    /// A path that C cannot have.
    #[error("{}: a path with a zero byte", .0.display())]
    Path(PathBuf),
    /// Something that models may need and that is not done here.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A gear is asked of a model that has none.
    #[error(
        "the model was compiled for one size and has no gears; leave out the flag that chooses one"
    )]
    NoGears,
    /// A gear is asked for that the model does not have.
    #[error("{} is none of the model's gears {}", gear(asked), gears(all))]
    Gear {
        /// What was asked for.
        asked: Gear,
        /// What there is.
        all: Gears,
    },
    /// There is no such device.
    #[error("there is no device {asked}; there are {count}, from 0")]
    Device {
        /// What was asked for.
        asked: i32,
        /// How many there are.
        count: u32,
    },
    /// What feeds the device or takes its results failed.
    #[error("{what}")]
    Work {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread came to an unexpected end.
    #[error("a thread of this program ended early; please report that")]
    Thread,
}

impl NpuError {
    /// Says what was tried when a call failed.
    pub(crate) fn during(what: impl Into<String>) -> impl FnOnce(Error) -> NpuError {
        let what = what.into();
        move |source| NpuError::Acl { what, source }
    }

    /// The call of AscendCL that failed.
    #[must_use]
    pub fn call(&self) -> Option<&Error> {
        match self {
            NpuError::Acl { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn gear(gear: &Gear) -> String {
    match gear {
        Gear::Batch(n) => format!("batch size {n}"),
        Gear::Dims(dims) => format!("{dims:?}"),
    }
}

fn gears(gears: &Gears) -> String {
    match gears {
        Gears::None => String::new(),
        Gears::Batch(all) => format!("{all:?}"),
        Gears::Dims(all) => format!("{all:?}"),
    }
}
