//! The errors in ATC's own log.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Machine;

/// How many lines of the log are shown.
const LINES: usize = 12;

/// The last lines of level ERROR that a process wrote, oldest first. `own` is the folder that `ASCEND_PROCESS_LOG_PATH`
/// named, where all is that process's; releases that do not know the variable write below `$HOME/ascend/log`, where files
/// have the process in their names.
pub(crate) fn last_errors(machine: &Machine, own: &Path, processes: &[u32]) -> Vec<String> {
    let mut files = Vec::new();
    collect(own, &mut files);
    if files.is_empty()
        && let Some(home) = machine.variable("HOME")
    {
        for kind in ["debug", "run"] {
            let folder = machine.path(Path::new(home).join("ascend/log").join(kind).join("plog"));
            collect(&folder, &mut files);
        }
        files.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            processes.iter().any(|process| name.starts_with(&format!("plog-{process}_")))
        });
    }
    files.sort();
    let text: Vec<String> = files
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect();
    let errors: Vec<&str> = text
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.starts_with("[ERROR]"))
        .collect();
    errors[errors.len().saturating_sub(LINES)..].iter().map(|&line| line.to_owned()).collect()
}

/// Files named as the log's are, below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        // Links are not followed: a log has none.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, files),
            Ok(kind) if kind.is_file() => {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name.starts_with("plog-") && name.ends_with(".log") {
                    files.push(path);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_meant() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("ascend/log/debug/plog");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("plog-7_1.log"), "[INFO] GE(7) a\n[ERROR] GE(7) b\n").unwrap();
        fs::write(folder.join("plog-70_1.log"), "[ERROR] GE(70) c\n").unwrap();
        let variables = [("HOME".to_owned(), home.path().display().to_string())];
        let machine = Machine::below("/", variables);
        let own = home.path().join("own");
        assert_eq!(last_errors(&machine, &own, &[7]), ["[ERROR] GE(7) b"]);
        fs::create_dir_all(own.join("debug/plog")).unwrap();
        fs::write(own.join("debug/plog/plog-9_1.log"), "[ERROR] FE(9) d\n").unwrap();
        assert_eq!(last_errors(&machine, &own, &[7]), ["[ERROR] FE(9) d"]);
    }
}
