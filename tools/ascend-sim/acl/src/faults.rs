//! What the environment asks the stand-in to do wrong, and how it is to behave.
//!
//! | variable | meaning |
//! |---|---|
//! | `ASCEND_SIM_FAULT` | `CALL:CODE` or `CALL:CODE@N`, comma between several: the call returns the code, the `N`-th time or every time. `N+` means from the `N`-th time on. `copy` and `execute` are the tasks of streams. A function that returns a pointer returns null |
//! | `ASCEND_SIM_DELAY` | `CALL:MILLISECONDS`, comma between several: the call takes that much longer |
//! | `ASCEND_SIM_MEMORY` | bytes of each device; 1 GiB unless told |
//! | `ASCEND_SIM_DEVICES` | number of devices; 1 unless told |
//! | `ASCEND_SIM_EXECUTE` | `none`: models are not computed, and their outputs are zeros |
//! | `ASCEND_SIM_REPORT` | a file for what was called, what was left behind and what was against the rules |

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Once(u64),
    From(u64),
}

/// What the environment says.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    faults: Vec<(String, i32, When)>,
    delays: HashMap<String, Duration>,
    pub(crate) memory: usize,
    pub(crate) devices: u32,
    pub(crate) compute: bool,
    pub(crate) report: Option<PathBuf>,
}

pub(crate) static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    let number = |name: &str, default: usize| text(name).parse().unwrap_or(default);
    let entries = |name: &str| -> Vec<(String, String)> {
        let split = |entry: &str| {
            entry.split_once(':').map(|(call, rest)| (call.trim().to_owned(), rest.to_owned()))
        };
        text(name).split(',').filter_map(split).collect()
    };
    let fault = |(call, rest): (String, String)| {
        let (code, when) = rest.split_once('@').unwrap_or((&rest, ""));
        let when = match when.strip_suffix('+') {
            _ if when.is_empty() => When::Always,
            Some(from) => When::From(from.parse().ok()?),
            None => When::Once(when.parse().ok()?),
        };
        Some((call, code.parse().ok()?, when))
    };
    let delay = |(call, ms): (String, String)| {
        Some((call, Duration::from_secs_f64(ms.parse::<f64>().ok()? / 1e3)))
    };
    Settings {
        faults: entries("ASCEND_SIM_FAULT").into_iter().filter_map(fault).collect(),
        delays: entries("ASCEND_SIM_DELAY").into_iter().filter_map(delay).collect(),
        memory: number("ASCEND_SIM_MEMORY", 1 << 30),
        devices: u32::try_from(number("ASCEND_SIM_DEVICES", 1)).unwrap_or(1),
        compute: text("ASCEND_SIM_EXECUTE") != "none",
        report: Some(PathBuf::from(text("ASCEND_SIM_REPORT"))).filter(|p| p.as_os_str() != ""),
    }
});

impl Settings {
    /// The code with which a call fails the `n`-th time, from 1.
    pub(crate) fn fault(&self, call: &str, n: u64) -> Option<i32> {
        let hit = |when| match when {
            When::Always => true,
            When::Once(at) => n == at,
            When::From(at) => n >= at,
        };
        self.faults.iter().find(|(name, _, when)| name == call && hit(*when)).map(|f| f.1)
    }

    /// Waits as long as a call is to take.
    pub(crate) fn wait(&self, call: &str) {
        if let Some(delay) = self.delays.get(call) {
            std::thread::sleep(*delay);
        }
    }
}
