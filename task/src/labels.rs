//! Which output of a model stands for which label.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::dataset::Task;

/// For every output of a model, the number of its label in the order of [`Task::labels`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelOrder {
    numbers: Vec<u8>,
}

/// Why an order cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// A file that cannot be read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Other labels than the task's.
    #[error("{task} has the labels {}, each once, in the order of the model's outputs; not {}", task.labels().join(", "), given.join(", "))]
    Names {
        /// The task.
        task: Task,
        /// What was given.
        given: Vec<String>,
    },
}

impl LabelOrder {
    /// The order of the published models.
    #[must_use]
    pub fn of(task: Task) -> LabelOrder {
        LabelOrder { numbers: (0..).take(task.labels().len()).collect() }
    }

    /// An order by names, in the order of the model's outputs. Upper and lower case are the same.
    ///
    /// # Errors
    /// When a label of the task is missing, twice there, or unknown.
    pub fn parse(task: Task, names: &[String]) -> Result<LabelOrder, LabelError> {
        let labels = task.labels();
        let number = |name: &String| {
            let found = labels.iter().position(|l| l.eq_ignore_ascii_case(name.trim()));
            found.and_then(|at| u8::try_from(at).ok())
        };
        let numbers: Option<Vec<u8>> = names.iter().map(number).collect();
        let numbers = numbers.filter(|numbers| {
            let all = (0..labels.len()).all(|l| numbers.iter().any(|&n| usize::from(n) == l));
            all && numbers.len() == labels.len()
        });
        numbers
            .map(|numbers| LabelOrder { numbers })
            .ok_or_else(|| LabelError::Names { task, given: names.to_vec() })
    }

    /// The order that a model's `config.json` states; none where it only numbers its labels (`LABEL_0`) or is silent.
    ///
    /// # Errors
    /// When the file cannot be read, or has other labels than the task.
    pub fn from_config(task: Task, path: &Path) -> Result<Option<LabelOrder>, LabelError> {
        #[derive(Deserialize)]
        struct Config {
            id2label: Option<std::collections::BTreeMap<String, String>>,
        }
        let bytes = std::fs::read(path)
            .map_err(|source| LabelError::Io { path: path.to_path_buf(), source })?;
        let config: Config = serde_json::from_slice(&bytes).map_err(|e| LabelError::Config {
            path: path.to_path_buf(),
            why: format!("not a model's configuration: {e}"),
        })?;
        let Some(id2label) = config.id2label else { return Ok(None) };
        let mut names: Vec<(usize, String)> = Vec::new();
        for (id, name) in id2label {
            let id = id.parse().map_err(|_| LabelError::Config {
                path: path.to_path_buf(),
                why: format!("id2label has {id:?} where a number should be"),
            })?;
            names.push((id, name));
        }
        names.sort();
        if names.iter().all(|(id, name)| *name == format!("LABEL_{id}")) {
            return Ok(None);
        }
        let names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
        LabelOrder::parse(task, &names).map(Some)
    }

    /// How many outputs the model has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none, which no task allows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The number of the label that an output stands for.
    #[must_use]
    pub fn label(&self, output: usize) -> Option<u8> {
        self.numbers.get(output).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn an_order_is_a_permutation_of_the_labels() {
        let order =
            LabelOrder::parse(Task::Mnli, &names("Entailment,neutral,contradiction")).unwrap();
        assert_eq!([0, 1, 2].map(|o| order.label(o)), [Some(2), Some(1), Some(0)]);
        for wrong in ["entailment,neutral", "entailment,neutral,neutral", "a,b,c"] {
            assert!(LabelOrder::parse(Task::Mnli, &names(wrong)).is_err(), "{wrong}");
        }
        let error = LabelOrder::parse(Task::Sst2, &names("good,bad")).unwrap_err();
        insta::assert_snapshot!(error, @"sst2 has the labels negative, positive, each once, in the order of the model's outputs; not good, bad");
    }

    #[test]
    fn a_configuration_tells_the_order_unless_it_only_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            LabelOrder::from_config(Task::Sst2, &path)
        };
        let order = read(r#"{"id2label": {"1": "NEGATIVE", "0": "POSITIVE"}}"#).unwrap().unwrap();
        assert_eq!(order.label(0), Some(1));
        assert_eq!(read(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#).unwrap(), None);
        assert_eq!(read("{}").unwrap(), None);
        assert!(read(r#"{"id2label": {"x": "positive"}}"#).is_err());
        assert!(read("[]").is_err());
    }
}
