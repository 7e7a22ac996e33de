//! Running ATC and judging what it did.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    AtcError, Command, Fusion, Machine, Message, Severity, messages, parse_messages, plog,
};

/// What ATC prints where it succeeds. It returns 0 then, but a return of 0 alone proves nothing: wrappers lose codes.
const SUCCESS: &str = "ATC run success";

/// What can be seen while ATC runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A line that it printed.
    Line(String),
    /// Dots that it printed without ending the line: it compiles operators. How many there are by now.
    Dots(usize),
}

/// What a run of ATC came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The compiled model in the work folder, where there is one to be trusted.
    pub om: Option<PathBuf>,
    /// Whether the file's name says that it runs on this kind of host only: `_linux_x86_64`.
    pub bound_to_host: bool,
    /// Why there is none; empty where there is.
    pub failures: Vec<Failure>,
    /// How ATC ended: its exit code, none where a signal ended it.
    pub exit_code: Option<i32>,
    /// Errors and warnings.
    pub messages: Vec<Message>,
    /// Fusions that were made; none where ATC wrote no such file.
    pub fusion: Option<Fusion>,
    /// All that it printed, its errors behind its output.
    pub output: String,
    /// The last errors in its own log; empty after a success.
    pub log: Vec<String>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// A reason not to trust a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// It returned this code.
    ExitCode(i32),
    /// A signal ended it; 9 is what the kernel sends when memory runs out.
    Signal(i32),
    /// It did not end in time and was stopped.
    TimedOut,
    /// It did not print that it succeeded.
    NoSuccessLine,
    /// It wrote no file.
    NoFile,
    /// The file is no model.
    BadFile(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::ExitCode(code) => write!(f, "ATC ended with exit code {code}"),
            Failure::Signal(9) => {
                f.write_str("ATC was killed (signal 9), as the system does when memory runs out")
            }
            Failure::Signal(11) => f.write_str("ATC crashed (signal 11, segmentation fault)"),
            Failure::Signal(signal) => write!(f, "ATC was ended by signal {signal}"),
            Failure::TimedOut => f.write_str("ATC did not end in time and was stopped"),
            Failure::NoSuccessLine => write!(f, "ATC did not say \"{SUCCESS}\""),
            Failure::NoFile => f.write_str("ATC wrote no .om file"),
            Failure::BadFile(why) => write!(f, "what ATC wrote is no model: {why}"),
        }
    }
}

/// Runs a command in its work folder, which holds the model already, and says what it prints.
///
/// # Errors
/// When the folder cannot be written or ATC does not start. That ATC fails is in the outcome.
pub fn run(
    command: &Command,
    folder: &Path,
    machine: &Machine,
    timeout: Option<Duration>,
    observer: &mut dyn FnMut(Event),
) -> Result<Outcome, AtcError> {
    for (name, content) in &command.files {
        let path = folder.join(name);
        fs::write(&path, content).map_err(AtcError::io("write", path))?;
    }
    let log = folder.join("log");
    let start = Instant::now();
    let mut child = std::process::Command::new(&command.program)
        .args(&command.arguments)
        .current_dir(folder)
        .envs(command.environment.iter().map(|(key, value)| (key, value)))
        // Its files go where they can be told from those of others: both variables are for all releases from 5.x on.
        .env("ASCEND_PROCESS_LOG_PATH", &log)
        .env_remove("ASCEND_WORK_PATH")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(AtcError::io("start", &command.program))?;
    let pid = child.id();
    let (output, timed_out) = listen(&mut child, timeout, observer);
    let status = child.wait().map_err(AtcError::io("wait for", &command.program))?;

    let om = find_om(folder, &command.output);
    let failures = judge(&status, timed_out, &output, om.as_deref());
    let fusion = fs::read_to_string(folder.join("fusion_result.json"));
    let mut processes = messages::processes(&output);
    processes.push(pid);
    let bound_to_host = om.as_ref().is_some_and(|path| path.to_string_lossy().contains("_linux_"));
    Ok(Outcome {
        log: if failures.is_empty() {
            Vec::new()
        } else {
            plog::last_errors(machine, &log, &processes)
        },
        om: om.filter(|_| failures.is_empty()),
        bound_to_host,
        failures,
        exit_code: status.code(),
        messages: parse_messages(&output),
        fusion: fusion.ok().and_then(|text| Fusion::parse(&text)),
        output,
        seconds: start.elapsed().as_secs_f64(),
    })
}

impl Outcome {
    /// Messages of one severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |message| message.severity == severity)
    }
}

/// Reads all that a child prints until it ends. Gives its output with its errors behind, and whether it was stopped.
fn listen(
    child: &mut Child,
    timeout: Option<Duration>,
    observer: &mut dyn FnMut(Event),
) -> (String, bool) {
    let (sender, chunks) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|pipe| read_on(pipe, false, sender.clone())),
        child.stderr.take().map(|pipe| read_on(pipe, true, sender.clone())),
    ];
    drop(sender);
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut texts = [Vec::new(), Vec::new()];
    let mut shown = [0, 0];
    let mut timed_out = false;
    loop {
        let left = deadline.map_or(Duration::from_hours(1), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        match chunks.recv_timeout(left) {
            Ok((is_error, chunk)) => {
                let which = usize::from(is_error);
                let chunk: Vec<u8> = chunk;
                texts[which].extend(chunk);
                shown[which] += say(&texts[which][shown[which]..], observer);
            }
            Err(RecvTimeoutError::Timeout) if deadline.is_some_and(|d| Instant::now() >= d) => {
                timed_out = true;
                stop(child);
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if !timed_out {
        for reader in readers.into_iter().flatten() {
            // A reader that panicked has read nothing more; what it sent is here.
            let _ended = reader.join();
        }
    }
    let [out, errors] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    let apart = out.is_empty() || out.ends_with('\n') || errors.is_empty();
    let between = if apart { "" } else { "\n" };
    (format!("{out}{between}{errors}"), timed_out)
}

fn read_on(
    mut pipe: impl Read + Send + 'static,
    is_error: bool,
    sender: Sender<(bool, Vec<u8>)>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    // Nobody listens any more once the child was stopped.
                    if sender.send((is_error, buffer[..n].to_vec())).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    })
}

/// Says the complete lines, and the dots of a line that goes on. Gives how many bytes are done with.
fn say(text: &[u8], observer: &mut dyn FnMut(Event)) -> usize {
    let end = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        if !line.trim_matches('.').is_empty() {
            observer(Event::Line(line.to_owned()));
        }
    }
    let rest = &text[end..];
    if !rest.is_empty() && rest.iter().all(|&b| b == b'.') {
        observer(Event::Dots(rest.len()));
    }
    end
}

/// Stops a child and what it started: `atc` is a script around the compiler.
fn stop(child: &mut Child) {
    let mut all = vec![child.id()];
    let mut at = 0;
    while let Some(&process) = all.get(at) {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
        for task in tasks.filter_map(Result::ok) {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        at += 1;
    }
    let ids = all.iter().skip(1).map(ToString::to_string);
    // Processes that ended meanwhile are no failure.
    let _ended_already =
        std::process::Command::new("kill").arg("-KILL").args(ids).stderr(Stdio::null()).status();
    let _ended_already = child.kill();
}

/// The file that ATC wrote: `X.om`, or `X_linux_<arch>.om` where parts of the model run on the host.
fn find_om(folder: &Path, output: &str) -> Option<PathBuf> {
    let plain = folder.join(format!("{output}.om"));
    if plain.is_file() {
        return Some(plain);
    }
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let bound = |name: &str| {
        name.strip_prefix(output)
            .and_then(|rest| rest.strip_prefix("_linux_"))
            .is_some_and(|arch| arch.strip_suffix(".om").is_some())
    };
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| bound(&name.to_string_lossy())) && path.is_file()
    })
}

fn judge(status: &ExitStatus, timed_out: bool, output: &str, om: Option<&Path>) -> Vec<Failure> {
    use std::os::unix::process::ExitStatusExt as _;
    let mut failures = Vec::new();
    if timed_out {
        return vec![Failure::TimedOut];
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => {}
        (Some(code), _) => {
            // A shell tells by 128 and the signal that its program was ended by one.
            failures.push(match code - 128 {
                signal @ (6 | 9 | 11 | 15) => Failure::Signal(signal),
                _ => Failure::ExitCode(code),
            });
        }
        (None, signal) => failures.push(Failure::Signal(signal.unwrap_or(0))),
    }
    if !output.lines().any(|line| line.trim_start_matches('.').starts_with(SUCCESS)) {
        failures.push(Failure::NoSuccessLine);
    }
    match om {
        None => failures.push(Failure::NoFile),
        Some(path) => {
            if let Err(error) = crate::OmHeader::read(path) {
                failures.push(Failure::BadFile(error.to_string()));
            }
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An ATC that is a script: what it prints, what it writes, how it ends.
    fn atc(script: &str, timeout: Option<Duration>) -> (Outcome, Vec<Event>) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("atc");
        fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let command = Command {
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            set_env: None,
            files: vec![("keep.cfg".into(), "n\n".into())],
            output: "m".into(),
        };
        let mut events = Vec::new();
        let machine = Machine::below("/", []);
        let outcome = run(&command, folder.path(), &machine, timeout, &mut |e| events.push(e));
        (outcome.unwrap(), events)
    }

    /// Writes the least that is an `.om`.
    const OM: &str = r"{ printf 'IMOD\0\1\0\0'; head -c 176 /dev/zero; printf '\x40\0\0\0\0\0\0\0'; head -c 128 /dev/zero; }";

    #[test]
    fn a_success_needs_code_line_and_file() {
        let run = |script: &str| atc(script, None).0.failures;
        let said = "echo; echo 'ATC run success, welcome to the next use.'";
        assert_eq!(run(&format!("{OM} > m.om; {said}")), []);
        assert_eq!(run(&format!("{OM} > m.om; {said}; exit 3")), [Failure::ExitCode(3)]);
        assert_eq!(run(&format!("{OM} > m.om")), [Failure::NoSuccessLine]);
        assert_eq!(run(said), [Failure::NoFile]);
        let bad = run(&format!("echo no > m.om; {said}"));
        assert!(matches!(bad.as_slice(), [Failure::BadFile(_)]), "{bad:?}");
        let killed = run("kill -9 $$");
        assert_eq!(killed, [Failure::Signal(9), Failure::NoSuccessLine, Failure::NoFile]);
    }

    #[test]
    fn a_file_for_this_host_is_found_too() {
        let script = format!("{OM} > m_linux_x86_64.om; {OM} > m2.om; echo ATC run success");
        let (outcome, _) = atc(&script, None);
        assert!(outcome.om.unwrap().ends_with("m_linux_x86_64.om"));
        assert!(outcome.bound_to_host);
    }

    #[test]
    fn dots_and_lines_are_seen_while_it_runs() {
        let script = "echo start; printf ..; sleep 0.2; printf .; sleep 0.2; echo; echo -n last";
        let (outcome, events) = atc(script, None);
        let expected = [Event::Line("start".into()), Event::Dots(2), Event::Dots(3)];
        assert_eq!(events, expected);
        assert_eq!(outcome.output, "start\n...\nlast");
    }

    #[test]
    fn what_does_not_end_is_stopped_with_all_that_it_started() {
        let start = Instant::now();
        let (outcome, _) = atc("sleep 60; echo never", Some(Duration::from_millis(300)));
        assert_eq!(outcome.failures, [Failure::TimedOut]);
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn errors_come_with_the_last_lines_of_the_log() {
        let script = "mkdir -p $ASCEND_PROCESS_LOG_PATH/debug/plog
            echo '[ERROR] GE(1,atc.bin):now [x.cc:1]1 Parse failed' > $ASCEND_PROCESS_LOG_PATH/debug/plog/plog-1_2.log
            echo 'E16005: The model has [2] [--domain_version] fields, but only one is allowed.'; cat keep.cfg; exit 255";
        let (outcome, _) = atc(script, None);
        assert_eq!(outcome.messages[0].code, "E16005");
        assert_eq!(outcome.log, ["[ERROR] GE(1,atc.bin):now [x.cc:1]1 Parse failed"]);
        assert!(
            outcome.output.ends_with("n\n"),
            "files of the command are there: {}",
            outcome.output
        );
    }
}
