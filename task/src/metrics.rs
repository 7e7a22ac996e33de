//! How many answers are right.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What a model said to the samples of a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Samples of the split.
    pub samples: usize,
    /// Samples with a label, which are those that count.
    pub eval_samples: usize,
    /// Right answers.
    pub correct: usize,
    /// Right answers of those that count, from 0 to 1.
    pub accuracy: f64,
    /// Between which accuracies the model's own lies, on 95 of 100 such data sets: Wilson's interval.
    pub interval_95: (f64, f64),
    /// Names of the labels, the order of `confusion`.
    pub labels: Vec<String>,
    /// For each true label, how often each label was the answer.
    pub confusion: Vec<Vec<usize>>,
    /// The same by genre; empty where the data set tells none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub genres: BTreeMap<String, GenreScore>,
}

/// Right answers of a genre.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GenreScore {
    /// Samples that count.
    pub eval_samples: usize,
    /// Right answers.
    pub correct: usize,
    /// Right answers of those that count.
    pub accuracy: f64,
}

/// Counts right answers. `predicted` and `gold` are numbers of labels; `genres` may be empty.
#[must_use]
pub fn score(
    labels: &[&str],
    predicted: &[u8],
    gold: &[Option<u8>],
    genres: &[Option<String>],
) -> Score {
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    let mut by_genre: BTreeMap<String, GenreScore> = BTreeMap::new();
    for (at, (&said, gold)) in predicted.iter().zip(gold).enumerate() {
        let Some(gold) = *gold else { continue };
        let cell = confusion.get_mut(usize::from(gold)).and_then(|r| r.get_mut(usize::from(said)));
        if let Some(cell) = cell {
            *cell += 1;
        }
        if let Some(Some(genre)) = genres.get(at) {
            let none = GenreScore { eval_samples: 0, correct: 0, accuracy: 0.0 };
            let genre = by_genre.entry(genre.clone()).or_insert(none);
            genre.eval_samples += 1;
            genre.correct += usize::from(said == gold);
        }
    }
    for genre in by_genre.values_mut() {
        genre.accuracy = share(genre.correct, genre.eval_samples);
    }
    let correct = (0..labels.len()).map(|at| confusion[at][at]).sum();
    let eval_samples = confusion.iter().flatten().sum();
    Score {
        samples: predicted.len(),
        eval_samples,
        correct,
        accuracy: share(correct, eval_samples),
        interval_95: wilson(correct, eval_samples),
        labels: labels.iter().map(|&l| l.to_owned()).collect(),
        confusion,
        genres: by_genre,
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Wilson's score interval at 95 % (E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
/// 1927): unlike the textbook interval it stays within 0 and 1, and means something where nearly all answers are right.
fn wilson(correct: usize, all: usize) -> (f64, f64) {
    /// The normal distribution's quantile at 0.975.
    const Z: f64 = 1.959_963_984_540_054;
    if all == 0 {
        return (0.0, 1.0);
    }
    let n = all as f64;
    let p = correct as f64 / n;
    let center = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    // Rounding must not put what was observed outside.
    (((center - half) / scale).clamp(0.0, p), ((center + half) / scale).clamp(p, 1.0))
}

impl Score {
    /// Lines of `key = value` in the order of their keys, as the DeBERTa sample writes its result.
    #[must_use]
    pub fn key_values(&self) -> String {
        let mut lines = vec![
            ("accuracy".to_owned(), format!("{:?}", self.accuracy)),
            ("eval_samples".to_owned(), self.eval_samples.to_string()),
        ];
        for (genre, score) in &self.genres {
            lines.push((format!("accuracy_{genre}"), format!("{:?}", score.accuracy)));
        }
        lines.sort();
        lines.iter().fold(String::new(), |mut text, (key, value)| {
            let _infallible = writeln!(text, "{key} = {value}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_label_and_genre() {
        let genres = ["fiction", "travel", "fiction", "fiction"].map(|g| Some(g.to_owned()));
        let gold = [Some(0), Some(1), None, Some(1)];
        let score = score(&["negative", "positive"], &[0, 0, 1, 1], &gold, &genres);
        assert_eq!((score.samples, score.eval_samples, score.correct), (4, 3, 2));
        assert_eq!(score.confusion, [[1, 0], [1, 1]]);
        insta::assert_snapshot!(score.key_values(), @r"
        accuracy = 0.6666666666666666
        accuracy_fiction = 1.0
        accuracy_travel = 0.0
        eval_samples = 3
        ");
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Its ends are the accuracies that lie 1.96 of their own standard deviations from what was observed.
        for (correct, all) in [(8, 10), (872, 872), (0, 5), (713, 872)] {
            let observed = correct as f64 / all as f64;
            let (low, high) = wilson(correct, all);
            assert!(0.0 <= low && low <= observed && observed <= high && high <= 1.0);
            for end in [low, high] {
                let deviations =
                    (observed - end).powi(2) - 1.96_f64.powi(2) * end * (1.0 - end) / all as f64;
                assert!(deviations.abs() < 1e-5, "{correct} of {all}: {end}");
            }
        }
        assert!((wilson(8, 10).0 - 0.4902).abs() < 1e-4);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}
