//! Messages and the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Problem, Release};

/// A message as the release spells it.
pub(crate) fn said(problem: &Problem, release: &Release) -> String {
    let Problem { code, text } = problem;
    if release.names_process() {
        format!("{code}: [PID: {}] {} {text}", std::process::id(), date('-'))
    } else {
        format!("{code}: {text}")
    }
}

/// Writes errors to the log, where that can be done.
pub(crate) fn write(problems: &[Problem]) {
    let folder = std::env::var_os("ASCEND_PROCESS_LOG_PATH")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join("ascend/log")));
    let Some(folder) = folder.map(|folder| folder.join("debug/plog")) else { return };
    let process = std::process::id();
    let text: String = std::iter::once("[INFO] GE: simulated ATC\n".to_owned())
        .chain(problems.iter().map(|problem| {
            format!(
                "[ERROR] GE({process},atc.bin):{} [simulated.cc:1]{process} {}: {}\n",
                date('-'),
                problem.code,
                problem.text
            )
        }))
        .collect();
    let file = folder.join(format!("plog-{process}_{}.log", since_epoch().0));
    // A log that cannot be written stops nothing, as with the real one.
    let _written = fs::create_dir_all(&folder).and_then(|()| fs::write(file, text));
}

/// Seconds and microseconds.
fn since_epoch() -> (u64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs(), now.subsec_micros())
}

/// The time as the log writes it: `2025-06-16-13:02:36.801.136`, in UTC.
fn date(between: char) -> String {
    let (seconds, micros) = since_epoch();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date, by counting in eras of 400 years that begin in March.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}{between}{:02}:{:02}:{:02}.{:03}.{:03}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        micros / 1000,
        micros % 1000
    )
}
