//! Compiled models (`.om`) on Ascend NPUs: what `ais_bench` does, with everything released and every error said once.
//!
//! [`acl`] wraps AscendCL into types that cannot be used wrongly; it is the only place with `unsafe`. [`run`] lets a queue of
//! work feed all devices: on each, inputs are copied in, models run and outputs are copied out at the same time, each for
//! another batch. [`summary`] has the figures, as `ais_bench` counts and prints them. [`library`] finds `libascendcl.so` and
//! what the loader needs for it.

pub mod acl;
mod error;
pub mod library;
mod run;
pub mod summary;

pub use error::NpuError;
pub use run::{Flow, Interface, Plan, Ran, Times, Work, WorkError, interface, run};

/// Whether a chip is the one that `tools/ascend-sim` makes up. Its times say nothing about an NPU.
#[must_use]
pub fn is_simulated(soc: &str) -> bool {
    soc.ends_with("-sim")
}

/// A chip as reports call it: one that is made up is named so.
#[must_use]
pub fn device_name(soc: &str) -> String {
    if is_simulated(soc) { format!("simulated device ({soc})") } else { soc.to_owned() }
}
