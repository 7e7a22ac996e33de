//! The figures of a run, as `ais_bench` counts and prints them, and end to end.
//!
//! `ais_bench` calls 1000 · batch / mean(NPU compute time) the throughput: it leaves out copies and files. Percentiles lie
//! between two numbers where they fall between them, as `numpy` has it.

use serde::Serialize;

use crate::run::Times;

/// Figures of a list of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// As many are shorter as are longer.
    pub median: f64,
    /// 99 of a hundred are not longer.
    #[serde(rename = "percentile(99%)")]
    pub p99: f64,
    /// How many there are.
    pub count: usize,
}

impl Stats {
    /// Figures of some times; none of no time.
    #[must_use]
    pub fn of(times: impl Iterator<Item = f32>) -> Option<Stats> {
        let mut sorted: Vec<f64> = times.map(f64::from).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        let (median, p99) = (percentile(&sorted, 50.0), percentile(&sorted, 99.0));
        Some(Stats { min, max, mean, median, p99, count: sorted.len() })
    }
}

/// A percentile of sorted numbers, of which there is one at least: between two of them on a straight line.
#[must_use]
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len() - 1;
    let at = percent / 100.0 * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = (at.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Running the model: as seen by the device where copies overlap with it, else by the host.
    #[serde(rename = "NPU_compute_time")]
    pub compute: Option<Stats>,
    /// Copying all inputs of a batch to the device.
    #[serde(rename = "H2D_latency")]
    pub upload: Option<Stats>,
    /// Copying all outputs of a batch to the host.
    #[serde(rename = "D2H_latency")]
    pub download: Option<Stats>,
    /// Samples per second as `ais_bench` defines it: 1000 · batch / mean compute time, of one device. None where no time was
    /// taken, and on a simulated device.
    pub throughput: Option<f64>,
    /// Samples per second from the first file to the last, on all devices. None as above.
    pub end_to_end: Option<f64>,
}

impl Figures {
    /// Figures of runs with `batch` samples each that took some seconds together, `samples` samples in all.
    #[must_use]
    pub fn new(
        times: &[Times],
        batch: u64,
        samples: u64,
        seconds: f64,
        simulated: bool,
    ) -> Figures {
        let compute = Stats::of(times.iter().map(|t| t.compute));
        let fps = |fps: f64| (!simulated && fps.is_finite()).then_some(fps);
        Figures {
            compute,
            upload: Stats::of(times.iter().map(|t| t.upload)),
            download: Stats::of(times.iter().map(|t| t.download)),
            throughput: compute.and_then(|stats| fps(1e3 * batch as f64 / stats.mean)),
            end_to_end: compute.and_then(|_| fps(samples as f64 / seconds)),
        }
    }

    /// The lines that `ais_bench` prints. `batch` is the number of samples of a run. Where `all`, copies are among them.
    #[must_use]
    pub fn lines(&self, batch: u64, all: bool) -> Vec<String> {
        let stats = |name: &str, stats: &Option<Stats>| {
            stats.map(|s| {
                format!(
                    "[INFO] {name} (ms): min = {}, max = {}, mean = {}, median = {}, percentile(99%) = {}",
                    ms(s.min), ms(s.max), ms(s.mean), ms(s.median), ms(s.p99)
                )
            })
        };
        let mut lines =
            vec!["[INFO] -----------------Performance Summary------------------".to_owned()];
        if all {
            lines.extend(stats("H2D_latency", &self.upload));
        }
        lines.extend(stats("NPU_compute_time", &self.compute));
        if all {
            lines.extend(stats("D2H_latency", &self.download));
        }
        if let Some(compute) = &self.compute {
            let fps = self.throughput.map_or("–".to_owned(), |fps| fps.to_string());
            lines.push(format!(
                "[INFO] throughput 1000*batchsize.mean({batch})/NPU_compute_time.mean({}): {fps}",
                ms(compute.mean)
            ));
        }
        let fps = self.end_to_end.map_or("–".to_owned(), |fps| format!("{fps:.2}"));
        lines.push(format!("[INFO] end to end, files and copies included: {fps} samples/s"));
        lines.push("[INFO] ------------------------------------------------------".to_owned());
        lines
    }
}

/// Milliseconds with as many digits as a clock has.
fn ms(ms: f64) -> String {
    let text = format!("{ms:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([1, 2, 4, 8], [0, 50, 99, 100])
        let numbers = [1.0, 2.0, 4.0, 8.0];
        for (percent, want) in [(0.0, 1.0), (50.0, 3.0), (99.0, 7.88), (100.0, 8.0)] {
            assert!((percentile(&numbers, percent) - want).abs() < 1e-12, "{percent}");
        }
        assert!((percentile(&[5.0], 99.0) - 5.0).abs() < 1e-12);
    }

    fn figures(simulated: bool) -> Figures {
        let times = [1.0, 3.0].map(|compute| Times { upload: 0.5, compute, download: 0.25 });
        Figures::new(&times, 8, 15, 0.5, simulated)
    }

    #[test]
    fn throughput_leaves_out_copies_and_end_to_end_does_not() {
        let figures = figures(false);
        assert_eq!((figures.throughput, figures.end_to_end), (Some(4000.0), Some(30.0)));
        assert_eq!(
            figures.lines(8, true).join("\n"),
            "[INFO] -----------------Performance Summary------------------\n\
             [INFO] H2D_latency (ms): min = 0.5, max = 0.5, mean = 0.5, median = 0.5, percentile(99%) = 0.5\n\
             [INFO] NPU_compute_time (ms): min = 1, max = 3, mean = 2, median = 2, percentile(99%) = 2.98\n\
             [INFO] D2H_latency (ms): min = 0.25, max = 0.25, mean = 0.25, median = 0.25, percentile(99%) = 0.25\n\
             [INFO] throughput 1000*batchsize.mean(8)/NPU_compute_time.mean(2): 4000\n\
             [INFO] end to end, files and copies included: 30.00 samples/s\n\
             [INFO] ------------------------------------------------------"
        );
    }

    #[test]
    fn a_simulated_device_has_no_throughput() {
        let figures = figures(true);
        assert_eq!((figures.throughput, figures.end_to_end), (None, None));
        let lines = figures.lines(8, false);
        assert_eq!(
            lines[2],
            "[INFO] throughput 1000*batchsize.mean(8)/NPU_compute_time.mean(2): –"
        );
    }

    #[test]
    fn the_json_has_the_keys_of_ais_bench() {
        let json = serde_json::to_value(figures(false)).unwrap();
        for list in ["NPU_compute_time", "H2D_latency", "D2H_latency"] {
            let mut keys: Vec<_> = json[list].as_object().unwrap().keys().collect();
            keys.sort();
            assert_eq!(keys, ["count", "max", "mean", "median", "min", "percentile(99%)"]);
        }
        assert_eq!(json["throughput"], 4000.0);
    }
}
