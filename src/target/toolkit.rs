//! The CANN toolkit of this machine.

use std::path::{Path, PathBuf};

/// The release that is taken where no toolkit is found and none is named.
pub const USUAL: &str = "7.0";

/// Variables that `set_env.sh` of a toolkit sets, and where installers put one.
const VARIABLES: &[&str] = &["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"];
const FOLDERS: &[&str] = &["/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest"];
/// What an installed toolkit says of itself, below its folder; one line is `version=8.1.RC1`.
const INFO: &[&str] = &[
    "ascend_toolkit_install.info",
    "x86_64-linux/ascend_toolkit_install.info",
    "aarch64-linux/ascend_toolkit_install.info",
];

/// The version to work for: the one that the user names, that of this machine's toolkit, or the usual one.
#[must_use]
pub fn version(named: Option<&str>) -> String {
    named.map(str::to_owned).or_else(installed).unwrap_or_else(|| USUAL.to_owned())
}

/// Version of the toolkit that this machine has: the one whose environment is set, or the one in the usual place.
#[must_use]
pub fn installed() -> Option<String> {
    let set = VARIABLES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let home =
        std::env::var_os("HOME").map(|home| Path::new(&home).join("Ascend/ascend-toolkit/latest"));
    set.chain(FOLDERS.iter().map(PathBuf::from)).chain(home).find_map(|folder| said_in(&folder))
}

fn said_in(folder: &Path) -> Option<String> {
    INFO.iter().find_map(|file| {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        let version = text.lines().find_map(|line| line.trim().strip_prefix("version="))?;
        Some(version.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_says_its_version() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(said_in(folder.path()), None);
        let inner = folder.path().join("aarch64-linux");
        std::fs::create_dir(&inner).expect("a folder");
        let text = "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\narch=aarch64\n";
        std::fs::write(inner.join("ascend_toolkit_install.info"), text).expect("a file");
        assert_eq!(said_in(folder.path()).as_deref(), Some("8.1.RC1"));
    }
}
