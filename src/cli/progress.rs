//! A spinner for steps that take over a second, on a terminal only.

use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;

/// Shows what is going on until it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts with a first step. Nothing is shown within the first second.
    pub(crate) fn start(out: &Output, step: impl Into<String>) -> Progress {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(step.into());
        if out.is_quiet() || !std::io::stderr().is_terminal() {
            return Progress { bar, stop: None, thread: None };
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let shown = bar.clone();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(120));
            }
        });
        Progress { bar, stop: Some(stop), thread: Some(thread) }
    }

    /// Says what comes next.
    pub(crate) fn step(&self, step: impl Into<String>) {
        self.bar.set_message(step.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A spinner that failed is no reason to fail.
            let _ended = thread.join();
        }
        self.bar.finish_and_clear();
    }
}
