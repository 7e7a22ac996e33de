//! What is asked of a machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The files, variables and programs of a machine. All paths that methods take and give are the machine's own; where its
/// root is a folder of another machine, they are looked up below that folder.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    variables: BTreeMap<String, String>,
}

/// How long a program that only tells something may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Machine {
    /// The machine that this program runs on. Variables that are not UTF-8 are taken with their odd bytes replaced.
    #[must_use]
    pub fn this() -> Machine {
        let lossy = |text: &OsStr| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(key, value)| (lossy(&key), lossy(&value)));
        Machine { root: PathBuf::from("/"), variables: variables.collect() }
    }

    /// A machine whose files are below a folder.
    #[must_use]
    pub fn below(
        root: impl Into<PathBuf>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Machine {
        Machine { root: root.into(), variables: variables.into_iter().collect() }
    }

    /// A variable of the environment, unless it is empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The folders of a variable such as `PATH`.
    pub fn folders(&self, variable: &str) -> impl Iterator<Item = PathBuf> {
        let value = self.variable(variable).unwrap_or_default();
        value.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from)
    }

    /// Where a file of the machine is for this program. Links to absolute paths stay below the root.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let below = |path: &Path| self.root.join(path.strip_prefix("/").unwrap_or(path));
        if self.root == Path::new("/") {
            return below(path.as_ref());
        }
        // A made-up root has few links, and none that lead in circles; a bound costs nothing.
        let mut path = path.as_ref().to_path_buf();
        for _ in 0..16 {
            let Some((linked, target)) = path.ancestors().find_map(|part| {
                let target = fs::read_link(below(part)).ok()?;
                Some((part.to_path_buf(), target))
            }) else {
                break;
            };
            let rest = path.strip_prefix(&linked).unwrap_or(Path::new("")).to_path_buf();
            let target = linked.parent().unwrap_or(Path::new("/")).join(target);
            path = normal(&target).join(rest);
        }
        below(&path)
    }

    /// Whether there is such a file or folder.
    #[must_use]
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The text of a file, if it is there and can be read.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read(self.path(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a folder, in order; none where it cannot be read.
    #[must_use]
    pub fn list(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The path without links, as the machine sees it.
    #[must_use]
    pub fn real(&self, path: &Path) -> PathBuf {
        let real = self.path(path).canonicalize();
        let root = self.root.canonicalize();
        match (real, root) {
            (Ok(real), Ok(root)) => {
                real.strip_prefix(&root).map_or(real.clone(), |rest| Path::new("/").join(rest))
            }
            _ => path.to_path_buf(),
        }
    }

    /// Whether there is a file that may be executed.
    #[must_use]
    pub fn is_program(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        let data = fs::metadata(self.path(path));
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    }

    /// The first program of a name in `PATH`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.folders("PATH").map(|folder| folder.join(name)).find(|path| self.is_program(path))
    }

    /// Runs a program that only tells something, with the machine's variables. None where it is not there, fails, or does
    /// not end soon.
    #[must_use]
    pub fn ask(&self, program: &Path, arguments: &[&str]) -> Option<String> {
        let mut child = Command::new(self.path(program))
            .args(arguments)
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut stdout = child.stdout.take()?;
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.read_to_end(&mut text).map(|_| text)
        });
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => {
                    let _gone_already = child.kill();
                    let _its_status = child.wait();
                    return None;
                }
            }
        };
        let text = reader.join().ok()?.ok()?;
        status.success().then(|| String::from_utf8_lossy(&text).into_owned())
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        let toolkit = root.path().join("usr/local/Ascend/8.1.RC1");
        fs::create_dir_all(&toolkit).unwrap();
        fs::write(toolkit.join("v"), "8.1").unwrap();
        let latest = root.path().join("usr/local/Ascend/latest");
        std::os::unix::fs::symlink("/usr/local/Ascend/8.1.RC1", latest).unwrap();
        let machine = Machine::below(root.path(), []);
        assert_eq!(machine.read("/usr/local/Ascend/latest/v").as_deref(), Some("8.1"));
    }
}
