//! Where ATC is, and what it needs around it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{AtcError, Machine};

/// A toolkit of CANN with its compiler.
#[derive(Debug, Clone)]
pub struct Toolkit {
    /// The program `atc`.
    pub atc: PathBuf,
    /// The toolkit's folder, where it is known: the one that has `bin`, `opp` and `lib64`.
    pub home: Option<PathBuf>,
    /// Its release: `8.1.RC1`.
    pub version: Option<String>,
    /// How it was found: "--atc", a variable, "PATH" or "usual place".
    pub found_by: &'static str,
    /// Variables that a process of ATC needs beyond those of this one.
    pub environment: Vec<(String, String)>,
    /// The script that sets them; none where they are set already or the toolkit has no script.
    pub set_env: Option<PathBuf>,
}

/// Variables by which `set_env.sh` names the toolkit's folder.
const HOMES: [&str; 2] = ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"];

/// Where installers put a toolkit: from 8.5 on, before, and without root's rights.
pub(crate) fn usual_homes(machine: &Machine) -> Vec<PathBuf> {
    let mut homes = Vec::new();
    let user = machine.variable("HOME").map(|home| Path::new(home).join("Ascend"));
    for ascend in [Some(PathBuf::from("/usr/local/Ascend")), user].into_iter().flatten() {
        homes.push(ascend.join("cann"));
        homes.push(ascend.join("ascend-toolkit/latest"));
        homes.push(ascend.join("latest"));
    }
    homes
}

/// The folders of toolkits that the environment names, then those where installers put one, whether they are there or not.
pub fn homes(machine: &Machine) -> impl Iterator<Item = PathBuf> {
    let set = HOMES.into_iter().filter_map(|variable| machine.variable(variable));
    set.map(PathBuf::from).chain(usual_homes(machine))
}

/// Finds ATC: the one that is named, that of the environment, the one on `PATH`, or one in a usual place.
///
/// # Errors
/// When there is none, or what is named is no program.
pub fn find(machine: &Machine, named: Option<&Path>) -> Result<Toolkit, AtcError> {
    let (atc, found_by) = locate(machine, named)?;
    let home = home_of(machine, &atc);
    let version = home.as_deref().and_then(|home| version(machine, home));
    let (environment, set_env) = match &home {
        Some(home) => environment(machine, home),
        None => (Vec::new(), None),
    };
    Ok(Toolkit { atc: machine.path(&atc), home, version, found_by, environment, set_env })
}

fn locate(machine: &Machine, named: Option<&Path>) -> Result<(PathBuf, &'static str), AtcError> {
    if let Some(path) = named {
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        // A folder is as clear as the program in it.
        let inside = [path.join("bin/atc"), path.join("atc")];
        let path = inside.iter().find(|path| machine.is_program(path)).unwrap_or(path);
        if !machine.is_program(path) {
            return Err(AtcError::NotExecutable { path: path.clone() });
        }
        return Ok((path.clone(), "--atc"));
    }
    let mut looked_at = Vec::new();
    for variable in HOMES {
        if let Some(home) = machine.variable(variable) {
            let atc = Path::new(home).join("bin/atc");
            if machine.is_program(&atc) {
                return Ok((atc, variable));
            }
            looked_at.push(format!("{variable} ({home})"));
        }
    }
    if let Some(atc) = machine.program("atc") {
        return Ok((atc, "PATH"));
    }
    looked_at.push("PATH".into());
    for home in usual_homes(machine) {
        for below in ["bin/atc", "atc/bin/atc"] {
            let atc = home.join(below);
            if machine.is_program(&atc) {
                return Ok((atc, "usual place"));
            }
        }
        looked_at.push(home.display().to_string());
    }
    Err(AtcError::NotFound { looked_at: looked_at.join(", ") })
}

/// The folder of the toolkit that a compiler belongs to. A program that only leads there is followed.
fn home_of(machine: &Machine, atc: &Path) -> Option<PathBuf> {
    let is_home = |folder: &Path| {
        ["opp", "compiler", "lib64", "set_env.sh"]
            .iter()
            .any(|part| machine.exists(folder.join(part)))
    };
    let homes = [atc.to_path_buf(), machine.real(atc)];
    let beside =
        homes.iter().flat_map(|atc| atc.ancestors().skip(2).take(2).map(Path::to_path_buf));
    let found = beside.into_iter().find(|folder| is_home(folder));
    found.or_else(|| HOMES.iter().find_map(|v| machine.variable(v)).map(PathBuf::from))
}

/// Files in which an installed toolkit says its release, below its folder.
const INFO: [&str; 6] = [
    "ascend_toolkit_install.info",
    "x86_64-linux/ascend_toolkit_install.info",
    "aarch64-linux/ascend_toolkit_install.info",
    "compiler/version.info",
    "runtime/version.info",
    "version.info",
];

/// The release of a toolkit: `8.1.RC1`.
#[must_use]
pub fn version(machine: &Machine, home: &Path) -> Option<String> {
    INFO.iter().find_map(|file| {
        let text = machine.read(home.join(file))?;
        value(&text, "version").or_else(|| value(&text, "version_dir")).map(str::to_owned)
    })
}

/// The value of a key in a file of `key=value` lines, without quotes.
pub(crate) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// What `set_env.sh` of the toolkit would set, where it is not set; and the script. A toolkit without the script gets what
/// the script of 8.1.RC1 exports.
fn environment(machine: &Machine, home: &Path) -> (Vec<(String, String)>, Option<PathBuf>) {
    let sourced = machine
        .variable("ASCEND_OPP_PATH")
        .is_some_and(|opp| machine.real(Path::new(opp)) == machine.real(&home.join("opp")));
    let (mut variables, script) = if sourced {
        (BTreeMap::new(), None)
    } else {
        let script = [home.join("set_env.sh"), home.join("../set_env.sh")]
            .into_iter()
            .find(|script| machine.exists(script));
        let told = script.as_deref().and_then(|script| ask_script(machine, script));
        (told.unwrap_or_else(|| usual_environment(machine, home)), script)
    };
    // Without a driver its libraries are missing; the toolkit has stand-ins that are enough to compile.
    let driver = "/usr/local/Ascend/driver/lib64";
    let stand_ins = ["x86_64-linux/devlib", "aarch64-linux/devlib", "devlib", "runtime/lib64/stub"];
    if !machine.exists(driver)
        && let Some(folder) = stand_ins.iter().map(|f| home.join(f)).find(|f| machine.exists(f))
    {
        let set = variables.get("LD_LIBRARY_PATH").cloned();
        let libraries = set.or_else(|| machine.variable("LD_LIBRARY_PATH").map(str::to_owned));
        let libraries = libraries.unwrap_or_default();
        let folder = folder.display().to_string();
        if !libraries.split(':').any(|part| part == folder) {
            variables.insert("LD_LIBRARY_PATH".into(), join(&libraries, &folder));
        }
    }
    (variables.into_iter().collect(), script)
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { format!("{first}:{second}") }
}

/// The variables that differ after a shell has read the script.
fn ask_script(machine: &Machine, script: &Path) -> Option<BTreeMap<String, String>> {
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", r#"source "$1" >/dev/null 2>&1; env -0"#, "bash"])
        .arg(machine.path(script))
        .env_clear()
        .envs(machine.variables())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.split('\0').filter_map(|line| line.split_once('='));
    // What every shell sets for itself is not the script's.
    let own = ["_", "SHLVL", "PWD", "OLDPWD"];
    let changed: BTreeMap<String, String> = said
        .filter(|(key, value)| {
            !own.contains(key) && machine.variables().get(*key).is_none_or(|old| old != value)
        })
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    changed.contains_key("ASCEND_OPP_PATH").then_some(changed)
}

fn usual_environment(machine: &Machine, home: &Path) -> BTreeMap<String, String> {
    let below = |parts: &[&str]| {
        parts.iter().map(|part| home.join(part).display().to_string()).collect::<Vec<_>>().join(":")
    };
    let before = |folders: String, variable: &str| {
        join(&folders, machine.variable(variable).unwrap_or_default())
            .trim_end_matches(':')
            .to_owned()
    };
    let here = home.display().to_string();
    let libraries =
        below(&["lib64", "lib64/plugin/opskernel", "lib64/plugin/nnengine", "tools/aml/lib64"]);
    let modules = below(&["python/site-packages", "opp/built-in/op_impl/ai_core/tbe"]);
    let programs = below(&["bin", "compiler/ccec_compiler/bin", "tools/ccec_compiler/bin"]);
    [
        ("ASCEND_TOOLKIT_HOME", here.clone()),
        ("ASCEND_HOME_PATH", here.clone()),
        ("ASCEND_AICPU_PATH", here),
        ("ASCEND_OPP_PATH", below(&["opp"])),
        ("TOOLCHAIN_HOME", below(&["toolkit"])),
        ("LD_LIBRARY_PATH", before(libraries, "LD_LIBRARY_PATH")),
        ("PYTHONPATH", before(modules, "PYTHONPATH")),
        ("PATH", before(programs, "PATH")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A root with files; those with a first line `#!` may be executed.
    pub(crate) fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if text.starts_with("#!") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        root
    }

    const ATC: (&str, &str) = ("/opt/cann/bin/atc", "#!/bin/sh\n");

    fn machine(root: &tempfile::TempDir, variables: &[(&str, &str)]) -> Machine {
        Machine::below(root.path(), variables.iter().map(|(k, v)| ((*k).into(), (*v).into())))
    }

    #[test]
    fn what_is_named_wins_then_the_environment_then_the_path() {
        let files = [
            ATC,
            ("/a/bin/atc", "#!/bin/sh\n"),
            ("/usr/bin/atc", "#!/bin/sh\n"),
            ("/usr/local/Ascend/cann/bin/atc", "#!/bin/sh\n"),
        ];
        let root = root(&files);
        let by = |variables: &[(&str, &str)], named: Option<&str>| {
            let found = find(&machine(&root, variables), named.map(Path::new)).unwrap();
            (found.found_by, found.atc.strip_prefix(root.path()).unwrap().display().to_string())
        };
        let all = [("ASCEND_TOOLKIT_HOME", "/a"), ("PATH", "/bin:/usr/bin")];
        assert_eq!(by(&all, Some("/opt/cann")), ("--atc", "opt/cann/bin/atc".into()));
        assert_eq!(by(&all, None), ("ASCEND_TOOLKIT_HOME", "a/bin/atc".into()));
        assert_eq!(by(&all[1..], None), ("PATH", "usr/bin/atc".into()));
        assert_eq!(by(&[], None), ("usual place", "usr/local/Ascend/cann/bin/atc".into()));
    }

    #[test]
    fn a_toolkit_says_its_version() {
        let info = "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\narch=aarch64\n";
        let root = root(&[("/a/aarch64-linux/ascend_toolkit_install.info", info), ("/b/x", "")]);
        let machine = machine(&root, &[("ASCEND_HOME_PATH", "/a")]);
        assert_eq!(version(&machine, Path::new("/b")), None);
        let homes: Vec<PathBuf> = homes(&machine).collect();
        assert_eq!(version(&machine, &homes[0]).as_deref(), Some("8.1.RC1"));
    }

    #[test]
    fn says_where_it_looked() {
        let root = root(&[("/x/atc", "not a program")]);
        let machine = machine(&root, &[("ASCEND_HOME_PATH", "/gone"), ("HOME", "/home/me")]);
        let error = find(&machine, None).unwrap_err().to_string();
        for place in ["ASCEND_HOME_PATH (/gone)", "PATH", "/home/me/Ascend/ascend-toolkit/latest"] {
            assert!(error.contains(place), "{error}");
        }
        let error = find(&machine, Some(Path::new("/x/atc"))).unwrap_err().to_string();
        assert_eq!(error, "/x/atc is not an executable file");
    }

    #[test]
    fn the_script_sets_what_is_not_set() {
        let script = "export ASCEND_OPP_PATH=/opt/cann/opp\nexport LD_LIBRARY_PATH=/opt/cann/lib64:$LD_LIBRARY_PATH\n";
        let root =
            root(&[ATC, ("/opt/cann/set_env.sh", script), ("/opt/cann/opp/version.info", "")]);
        let path = ("PATH", std::env::var("PATH").unwrap());
        let mut variables = vec![("LD_LIBRARY_PATH", "/mine"), (path.0, path.1.as_str())];
        let found = find(&machine(&root, &variables), Some(Path::new("/opt/cann"))).unwrap();
        let libraries = found.environment.iter().find(|(key, _)| key == "LD_LIBRARY_PATH");
        assert_eq!(libraries.unwrap().1, "/opt/cann/lib64:/mine");
        variables.push(("ASCEND_OPP_PATH", "/opt/cann/opp"));
        let found = find(&machine(&root, &variables), Some(Path::new("/opt/cann"))).unwrap();
        assert!(found.environment.is_empty(), "{:?}", found.environment);
    }

    #[test]
    fn a_toolkit_without_a_script_or_driver_gets_the_usual_variables_and_stand_ins() {
        let info = ("/opt/cann/x86_64-linux/ascend_toolkit_install.info", "version=8.1.RC1\n");
        let root = root(&[ATC, info, ("/opt/cann/opp/a", ""), ("/opt/cann/devlib/libdrv.so", "")]);
        let found = find(&machine(&root, &[]), Some(Path::new("/opt/cann"))).unwrap();
        assert_eq!(found.version.as_deref(), Some("8.1.RC1"));
        let get = |key: &str| &found.environment.iter().find(|(k, _)| k == key).unwrap().1;
        assert_eq!(get("ASCEND_OPP_PATH"), "/opt/cann/opp");
        assert!(
            get("LD_LIBRARY_PATH").ends_with(":/opt/cann/devlib"),
            "{}",
            get("LD_LIBRARY_PATH")
        );
    }
}
