//! A spinner or a bar for steps that take over a second, on a terminal only.

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
        bar.set_style(style(SPINNER));
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
        self.bar.set_style(style(SPINNER));
        self.bar.set_message(step.into());
    }

    /// Says how much of a step is done, with an estimate of the rest.
    pub(crate) fn count(&self, step: impl Into<String>, done: usize, all: usize) {
        if done == 0 {
            self.bar.reset_eta();
            self.bar.set_length(all as u64);
            self.bar.set_style(style(BAR));
            self.bar.set_message(step.into());
        }
        self.bar.set_position(done as u64);
    }
}

const SPINNER: &str = "{spinner} {elapsed:>3} {msg}";
const BAR: &str = "{spinner} {elapsed:>3} {msg} {bar:24} {pos}/{len}, {eta} to go";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
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
