//! Runs the commands of a chain, those that have something to do.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use onnxfix_atc::shell_word;
use serde::{Deserialize, Serialize};

use super::config::{Config, Mode, Stage};
use super::report::Report;
use super::stages::{Places, Step};
use crate::whole::write_whole;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It ran and is content.
    Done,
    /// Nothing that it reads has changed since it ran.
    UpToDate,
    /// It ran and is not content, or could not run.
    Failed,
}

/// A command of a chain and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chain {
    /// Its stage.
    pub stage: Stage,
    /// Its name, which is also that of its log.
    pub name: String,
    /// The command.
    pub command: String,
    /// How it ended.
    pub ended: Ended,
    /// Wall time in seconds.
    pub seconds: f64,
    /// What it printed.
    pub log: PathBuf,
}

/// Why a chain could not run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Two of them would write the same files.
    #[error("{} is in use by another chain; where none is running, remove {}", work.display(), lock.display())]
    InUse {
        /// The folder.
        work: PathBuf,
        /// The file that says so.
        lock: PathBuf,
    },
}

/// What was done in earlier runs: for each command, what it read.
type Done = BTreeMap<String, String>;

/// A file that is there while a chain runs.
struct Lock(PathBuf);

impl Lock {
    fn take(work: &Path) -> Result<Lock> {
        let path = work.join(".running");
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                // Who it is helps a person who finds it.
                writeln!(file, "{}", std::process::id())?;
                Ok(Lock(path))
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_stale(&path) => {
                fs::remove_file(&path)?;
                Lock::take(work)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(PipelineError::InUse { work: work.to_path_buf(), lock: path }.into())
            }
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }
}

/// Whether the process that left the file is gone, where the system tells.
fn is_stale(path: &Path) -> bool {
    let pid = fs::read_to_string(path).unwrap_or_default();
    let proc = Path::new("/proc");
    pid.trim().parse::<u32>().is_ok_and(|pid| proc.is_dir() && !proc.join(pid.to_string()).exists())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that stays is found stale by the next run.
        let _removed = fs::remove_file(&self.0);
    }
}

/// Runs a chain up to its end or the first command that fails, and writes the report of what there is.
///
/// # Errors
/// When nothing can be written, or another chain is at work in the same folder. A command that fails is no error: it is
/// the last of the report.
pub(super) fn run(
    config: &Config,
    mode: Mode,
    program: &Path,
    again: bool,
    progress: &dyn Fn(&str),
) -> Result<Report> {
    let work = &config.work;
    fs::create_dir_all(work.join("logs")).with_context(|| format!("write {}", work.display()))?;
    let _lock = Lock::take(work)?;
    let state = work.join("state.json");
    let mut done: Done = match fs::read(&state) {
        // A state that cannot be read only means that everything runs again.
        Ok(bytes) if !again => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => Done::new(),
    };
    let stages = config.chosen(mode);
    let places = Places::new(config, mode, stages.clone(), program);
    let mut chain: Vec<Chain> = Vec::new();
    'stages: for stage in stages {
        let steps = places.steps(stage).with_context(|| stage.to_string())?;
        for step in steps {
            progress(&step.name);
            let one = run_step(stage, &step, work, &mut done)?;
            write_whole(&state, serde_json::to_string_pretty(&done)?.as_bytes())?;
            let failed = one.ended == Ended::Failed;
            chain.push(one);
            if failed {
                break 'stages;
            }
        }
    }
    let report = Report::new(config, mode, &places, chain);
    report.write(&work.join("report"))?;
    Ok(report)
}

fn run_step(stage: Stage, step: &Step, work: &Path, done: &mut Done) -> Result<Chain> {
    let command = step.command.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ");
    let log = work.join("logs").join(format!("{}.log", step.name));
    let start = Instant::now();
    let read = content(step)?;
    let written = step.writes.iter().chain(&step.result).all(|path| path.exists());
    let ended = if written && done.get(&step.name) == Some(&read) {
        Ended::UpToDate
    } else {
        // Whoever stops the chain now must not find it done.
        done.remove(&step.name);
        if execute(step, &command, &log)? { Ended::Done } else { Ended::Failed }
    };
    if ended != Ended::UpToDate {
        let mut results = OpenOptions::new()
            .create(true)
            .append(true)
            .open(work.join("results.log"))
            .with_context(|| work.join("results.log").display().to_string())?;
        // The wording of the published test chain, for those who look for it.
        let said = if ended == Ended::Done { "Run successfully" } else { "Run failed" };
        writeln!(results, " {said} with command - {command} !  ")?;
    }
    if ended == Ended::Done {
        done.insert(step.name.clone(), read);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Chain { stage, name: step.name.clone(), command, ended, seconds, log })
}

/// Runs a command with its log; whether it is content and wrote what it should.
fn execute(step: &Step, command: &str, log: &Path) -> Result<bool> {
    let Some((program, words)) = step.command.split_first() else { return Ok(false) };
    let at = || log.display().to_string();
    let mut file = File::create(log).with_context(at)?;
    writeln!(file, "$ {command}").with_context(at)?;
    let errors = file.try_clone().with_context(at)?;
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(if step.result.is_some() { Stdio::piped() } else { file.try_clone()?.into() })
        .stderr(errors)
        .spawn();
    let output = match child {
        Ok(child) => child.wait_with_output().with_context(|| program.clone())?,
        Err(error) => {
            writeln!(file, "{program}: {error}").with_context(at)?;
            return Ok(false);
        }
    };
    file.write_all(&output.stdout).with_context(at)?;
    if let Some(path) = &step.result
        && output.status.success()
    {
        write_whole(path, String::from_utf8_lossy(&output.stdout).as_bytes())?;
    }
    if let Some(missing) = step.writes.iter().find(|path| !path.exists())
        && output.status.success()
    {
        writeln!(file, "{} is not there", missing.display()).with_context(at)?;
        return Ok(false);
    }
    Ok(output.status.success())
}

/// A fingerprint of the command and of all that it reads.
fn content(step: &Step) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    for word in &step.command {
        hasher.update(word.as_bytes());
        hasher.update(&[0]);
    }
    for path in &step.reads {
        add(&mut hasher, path).with_context(|| path.display().to_string())?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Adds a file's content, or that of a folder's files; what is missing is so for everybody.
fn add(hasher: &mut blake3::Hasher, path: &Path) -> io::Result<()> {
    hasher.update(path.as_os_str().as_encoded_bytes());
    if path.is_dir() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        entries.sort();
        for entry in entries {
            add(hasher, &entry)?;
        }
    } else if path.is_file() {
        hasher.update_mmap_rayon(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(folder: &Path, script: &str) -> Step {
        Step {
            name: "prepare".to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            reads: vec![folder.join("in")],
            writes: vec![folder.join("out")],
            result: Some(folder.join("said")),
        }
    }

    fn ended(folder: &Path, step: &Step, done: &mut Done) -> Ended {
        run_step(Stage::Prepare, step, folder, done).unwrap().ended
    }

    #[test]
    fn what_is_up_to_date_does_not_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("logs")).unwrap();
        fs::write(folder.join("in"), "1").unwrap();
        let mut done = Done::new();
        let script = format!("cat {0}/in > {0}/out; echo said; echo more >&2", folder.display());
        let step = step(folder, &script);
        assert_eq!(ended(folder, &step, &mut done), Ended::Done);
        assert_eq!(ended(folder, &step, &mut done), Ended::UpToDate);
        assert_eq!(fs::read_to_string(folder.join("said")).unwrap(), "said\n");
        let log = fs::read_to_string(folder.join("logs/prepare.log")).unwrap();
        assert!(log.starts_with("$ sh -c ") && log.contains("more\n") && log.contains("said\n"));
        fs::write(folder.join("in"), "2").unwrap();
        assert_eq!(ended(folder, &step, &mut done), Ended::Done);
        fs::remove_file(folder.join("out")).unwrap();
        assert_eq!(ended(folder, &step, &mut done), Ended::Done);
        let results = fs::read_to_string(folder.join("results.log")).unwrap();
        assert_eq!(results.matches(" Run successfully with command - sh -c ").count(), 3);
    }

    #[test]
    fn a_command_that_fails_or_writes_nothing_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("logs")).unwrap();
        let mut done = Done::new();
        for script in ["exit 3", "true"] {
            assert_eq!(ended(folder, &step(folder, script), &mut done), Ended::Failed, "{script}");
        }
        let mut missing = step(folder, "true");
        missing.command = vec!["./no such program".to_owned()];
        assert_eq!(ended(folder, &missing, &mut done), Ended::Failed);
        assert!(done.is_empty());
        let results = fs::read_to_string(folder.join("results.log")).unwrap();
        assert!(results.ends_with(" Run failed with command - \"./no such program\" !  \n"));
    }

    #[test]
    fn two_chains_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        assert!(Lock::take(folder.path()).is_err());
        drop(lock);
        // What a killed chain left is no obstacle.
        fs::write(folder.path().join(".running"), "4294967294").unwrap();
        assert!(Lock::take(folder.path()).is_ok());
    }
}
