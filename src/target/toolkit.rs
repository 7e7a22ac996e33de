//! The CANN toolkit of this machine.

use onnxfix_atc::{Machine, toolkit};

/// The release that is taken where no toolkit is found and none is named.
pub const USUAL: &str = "7.0";

/// The version to work for: the one that the user names, that of this machine's toolkit, or the usual one.
#[must_use]
pub fn version(named: Option<&str>) -> String {
    named.map(str::to_owned).or_else(installed).unwrap_or_else(|| USUAL.to_owned())
}

/// Version of the toolkit that this machine has: the one whose environment is set, or the one in the usual place. It need not
/// have a compiler.
#[must_use]
pub fn installed() -> Option<String> {
    let machine = Machine::this();
    toolkit::homes(&machine).find_map(|home| toolkit::version(&machine, &home))
}
