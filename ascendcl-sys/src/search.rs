//! Where `libascendcl.so` is, and which folders the loader has to know to load it.
//!
//! `set_env.sh` of a toolkit sets `ASCEND_HOME_PATH` and `LD_LIBRARY_PATH`. Where nobody has sourced it, the usual places
//! are looked at (CANN's installation guides, `set_env.sh` of 8.1).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the library's file.
pub const LIBRARY: &str = "libascendcl.so";

/// What of the machine decides where the library is.
pub struct Machine<'a> {
    /// The root of the file system.
    pub root: &'a Path,
    /// The variables of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Machine<'_> {
    fn folder(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn loader_folders(&self) -> Vec<PathBuf> {
        let path = (self.variable)("LD_LIBRARY_PATH").unwrap_or_default();
        std::env::split_paths(&path).filter(|folder| *folder != Path::new("")).collect()
    }
}

/// Every place where the library may be, the most likely first: the file or folder that the user names, `ASCENDCL_LIB`, the
/// toolkit that the environment names, `LD_LIBRARY_PATH`, the usual places of toolkits and runtimes.
#[must_use]
pub fn candidates(named: Option<&Path>, machine: &Machine<'_>) -> Vec<PathBuf> {
    let named = named.map(Path::to_owned).or_else(|| machine.folder("ASCENDCL_LIB"));
    if let Some(named) = named {
        // Whoever names a library wants no other.
        return vec![if named.is_dir() { named.join(LIBRARY) } else { named }];
    }
    let homes = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
    let mut folders: Vec<PathBuf> = homes
        .iter()
        .filter_map(|name| machine.folder(name))
        .map(|home| home.join("lib64"))
        .collect();
    folders.extend(machine.loader_folders());
    let mut roots = vec![machine.root.join("usr/local/Ascend")];
    roots.extend(machine.folder("HOME").map(|home| home.join("Ascend")));
    for root in roots {
        let homes = ["cann", "ascend-toolkit/latest", "nnrt/latest", "nnae/latest"];
        folders.extend(homes.map(|home| root.join(home).join("lib64")));
    }
    let mut files: Vec<PathBuf> = Vec::with_capacity(folders.len());
    for folder in folders {
        let file = folder.join(LIBRARY);
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// Folders that have to be on `LD_LIBRARY_PATH` for a library and are not, of those that exist: its own, those of its plugins,
/// and the driver's.
#[must_use]
pub fn missing_folders(library: &Path, machine: &Machine<'_>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(own) = library.parent() {
        folders.extend(["", "plugin/opskernel", "plugin/nnengine"].map(|f| own.join(f)));
    }
    let driver = machine.root.join("usr/local/Ascend/driver/lib64");
    folders.extend(["", "common", "driver"].map(|f| driver.join(f)));
    let known = machine.loader_folders();
    let same = |a: &Path, b: &Path| a.components().eq(b.components());
    folders.retain(|folder| folder.is_dir() && !known.iter().any(|known| same(known, folder)));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(root: &'a Path, variable: &'a dyn Fn(&str) -> Option<OsString>) -> Machine<'a> {
        Machine { root, variable }
    }

    #[test]
    fn the_environment_comes_before_usual_places() {
        let variable = |name: &str| match name {
            "ASCEND_HOME_PATH" => Some("/opt/cann".into()),
            "LD_LIBRARY_PATH" => Some("/opt/cann/lib64::/x".into()),
            _ => None,
        };
        let found = candidates(None, &machine(Path::new("/"), &variable));
        let shown: Vec<String> = found.iter().map(|file| file.display().to_string()).collect();
        assert_eq!(
            shown,
            [
                "/opt/cann/lib64/libascendcl.so",
                "/x/libascendcl.so",
                "/usr/local/Ascend/cann/lib64/libascendcl.so",
                "/usr/local/Ascend/ascend-toolkit/latest/lib64/libascendcl.so",
                "/usr/local/Ascend/nnrt/latest/lib64/libascendcl.so",
                "/usr/local/Ascend/nnae/latest/lib64/libascendcl.so",
            ]
        );
    }

    #[test]
    fn a_named_library_is_the_only_one() {
        let folder = tempfile::tempdir().unwrap();
        let variable = |name: &str| (name == "ASCENDCL_LIB").then(|| "/y/libascendcl.so".into());
        let machine = machine(Path::new("/"), &variable);
        assert_eq!(candidates(None, &machine), [PathBuf::from("/y/libascendcl.so")]);
        assert_eq!(
            candidates(Some(folder.path()), &machine),
            [folder.path().join("libascendcl.so")]
        );
    }

    #[test]
    fn only_folders_that_exist_and_are_unknown_are_missing() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["cann/lib64/plugin/opskernel", "usr/local/Ascend/driver/lib64/driver"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let lib = root.path().join("cann/lib64");
        let known = format!("{}/", lib.display());
        let variable = |name: &str| (name == "LD_LIBRARY_PATH").then(|| known.clone().into());
        let missing = missing_folders(&lib.join(LIBRARY), &machine(root.path(), &variable));
        let missing: Vec<_> =
            missing.iter().map(|folder| folder.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(
            missing,
            [
                "cann/lib64/plugin/opskernel",
                "usr/local/Ascend/driver/lib64/",
                "usr/local/Ascend/driver/lib64/driver"
            ]
            .map(Path::new)
        );
    }
}
