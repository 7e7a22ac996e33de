//! MNLI and SST-2 in the layouts that GLUE and the MultiNLI corpus distribute.
//!
//! A line is a sample or it is reported, with its number: nothing is left out in silence. Quotes are text, since these
//! files were never written with a quoting convention, and a reader that knows one joins lines at an odd quote.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is asked about a text or a pair of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// MultiNLI: does the first text entail the second, contradict it, or neither?
    Mnli,
    /// SST-2: is what a film review says positive?
    Sst2,
}

impl Task {
    /// Both.
    pub const ALL: [Task; 2] = [Task::Mnli, Task::Sst2];

    /// The name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Task::Mnli => "mnli",
            Task::Sst2 => "sst2",
        }
    }

    /// The labels in the order of the published models: number 0 first.
    ///
    /// The order of MNLI is that of the DeBERTa sample (ModelZoo-PyTorch, `ACL_PyTorch/contrib/nlp/deberta`).
    #[must_use]
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Task::Mnli => &["contradiction", "neutral", "entailment"],
            Task::Sst2 => &["negative", "positive"],
        }
    }

    /// Tokens of a sample, special ones included, where nothing else is said: what the published guides use.
    #[must_use]
    pub fn max_length(self) -> usize {
        match self {
            Task::Mnli => 256,
            Task::Sst2 => 128,
        }
    }

    /// The accuracy that the guide of the published model states for a split.
    #[must_use]
    pub fn published_accuracy(self, split: Split) -> Option<f64> {
        match (self, split) {
            (Task::Mnli, Split::Match) => Some(0.9046),
            (Task::Mnli, Split::Mismatch) => Some(0.9071),
            (Task::Sst2, Split::Dev) => Some(0.9461),
            _ => None,
        }
    }

    /// The splits of the task, each with the file names that it goes by, the preferred first.
    #[must_use]
    pub fn splits(self) -> &'static [(Split, &'static [&'static str])] {
        match self {
            Task::Mnli => &[
                (Split::Match, &["dev_matched.tsv", "multinli_1.0_dev_matched.jsonl"]),
                (Split::Mismatch, &["dev_mismatched.tsv", "multinli_1.0_dev_mismatched.jsonl"]),
                (Split::TestMatch, &["test_matched.tsv"]),
                (Split::TestMismatch, &["test_mismatched.tsv"]),
            ],
            Task::Sst2 => &[(Split::Dev, &["dev.tsv"]), (Split::Test, &["test.tsv"])],
        }
    }

    fn columns(self) -> Columns {
        match self {
            Task::Mnli => Columns {
                text: "sentence1",
                pair: Some("sentence2"),
                label: "gold_label",
                genre: Some("genre"),
            },
            Task::Sst2 => Columns { text: "sentence", pair: None, label: "label", genre: None },
        }
    }

    /// The number of a label as a file spells it: by name, or as a number where the task's files do.
    fn label(self, cell: &str) -> Option<u8> {
        let named = self.labels().iter().position(|name| *name == cell);
        let found = match self {
            Task::Mnli => named,
            Task::Sst2 => named.or_else(|| ["0", "1"].iter().position(|n| *n == cell)),
        };
        found.and_then(|at| u8::try_from(at).ok())
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

struct Columns {
    text: &'static str,
    pair: Option<&'static str>,
    label: &'static str,
    genre: Option<&'static str>,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// MNLI's development set of the genres that were trained on.
    Match,
    /// MNLI's development set of other genres.
    Mismatch,
    /// MNLI's test set of the genres that were trained on, without labels.
    TestMatch,
    /// MNLI's test set of other genres, without labels.
    TestMismatch,
    /// SST-2's development set.
    Dev,
    /// SST-2's test set, without labels.
    Test,
}

impl Split {
    /// The name in folders and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Split::Match => "match",
            Split::Mismatch => "mismatch",
            Split::TestMatch => "test_match",
            Split::TestMismatch => "test_mismatch",
            Split::Dev => "dev",
            Split::Test => "test",
        }
    }

    /// Whether the published files of this split have no labels.
    #[must_use]
    pub fn is_test(self) -> bool {
        matches!(self, Split::TestMatch | Split::TestMismatch | Split::Test)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One line of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Line of the file, from 1.
    pub line: u32,
    /// The text, or the first of a pair.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// Number of the label in the order of [`Task::labels`]; none in test sets, and where annotators did not agree.
    pub label: Option<u8>,
    /// Where the text is from, where the file says it.
    pub genre: Option<String>,
}

/// A line that is not as the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OddLine {
    /// Line of the file, from 1.
    pub line: u32,
    /// What is odd about it.
    #[serde(flatten)]
    pub oddity: Oddity,
}

/// What can be odd about a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Oddity {
    /// Nothing on it: no sample.
    Blank,
    /// A cell begins with a quote, which is text here and would be syntax to a CSV reader.
    Quoted,
    /// A text without a word.
    EmptyText,
    /// Bytes that are no UTF-8; each became U+FFFD.
    NotUtf8,
    /// The annotators did not agree on a label (`-`): a sample that does not count.
    NoMajority,
    /// More tokens than `--max-length`; the rest was cut off.
    Cut,
    /// Another number of cells than the header: no sample.
    Cells {
        /// Cells of the header.
        want: usize,
        /// Cells of the line.
        have: usize,
    },
    /// No label of the task: no sample.
    Label {
        /// What stands there.
        label: String,
    },
    /// Not a JSON object with the fields of the task: no sample.
    Json {
        /// What is wrong.
        why: String,
    },
}

impl Oddity {
    /// Whether the line should be a sample and could not become one.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Oddity::Cells { .. } | Oddity::Label { .. } | Oddity::Json { .. })
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::Blank => f.write_str("blank, no sample"),
            Oddity::Quoted => f.write_str("a quote begins a cell and is taken as text"),
            Oddity::EmptyText => f.write_str("a text is empty"),
            Oddity::NotUtf8 => f.write_str("bytes that are no UTF-8 became U+FFFD"),
            Oddity::NoMajority => f.write_str("no label (-), does not count"),
            Oddity::Cut => f.write_str("too many tokens, cut to --max-length"),
            Oddity::Cells { want, have } => {
                write!(f, "{have} cells, and the header has {want}")
            }
            Oddity::Label { label } => write!(f, "{label:?} is no label of the task"),
            Oddity::Json { why } => write!(f, "not a sample: {why}"),
        }
    }
}

/// The samples of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// What is asked.
    pub task: Task,
    /// Which part it is.
    pub split: Split,
    /// The file.
    pub path: PathBuf,
    /// The samples in the file's order.
    pub samples: Vec<Sample>,
    /// What else there is to say about lines, in their order.
    pub odd: Vec<OddLine>,
}

/// Why a data set could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// No file of the task in a folder.
    #[error("{} has no file of {task}: looked for {}", path.display(), wanted.join(", "))]
    NoFile {
        /// The folder.
        path: PathBuf,
        /// The task.
        task: Task,
        /// The names.
        wanted: Vec<&'static str>,
    },
    /// A file whose name is none of the task's.
    #[error("{}: which part of {task} it is shows in its name, which would be one of {}", path.display(), wanted.join(", "))]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// The task.
        task: Task,
        /// The names.
        wanted: Vec<&'static str>,
    },
    /// A header without a column.
    #[error("{}: line 1 names no column {column:?}; it has: {}", path.display(), header.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// What is missing.
        column: &'static str,
        /// The columns that are there.
        header: Vec<String>,
    },
    /// Nothing in it.
    #[error("{} has no samples", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The files of a task in a folder, in the order of [`Task::splits`]; or the one file that was named.
///
/// # Errors
/// When the path is not there, or nothing in it has a name of the task.
pub fn find(task: Task, path: &Path) -> Result<Vec<(Split, PathBuf)>, DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let wanted = || task.splits().iter().flat_map(|(_, names)| names.iter().copied()).collect();
    if !path.metadata().map_err(io)?.is_dir() {
        let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        let found = task.splits().iter().find(|(_, names)| names.contains(&name.as_ref()));
        return match found {
            Some((split, _)) => Ok(vec![(*split, path.to_path_buf())]),
            None => {
                Err(DataError::UnknownName { path: path.to_path_buf(), task, wanted: wanted() })
            }
        };
    }
    let first = |names: &[&str]| names.iter().map(|n| path.join(n)).find(|file| file.is_file());
    let found: Vec<_> = task
        .splits()
        .iter()
        .filter_map(|(split, names)| first(names).map(|file| (*split, file)))
        .collect();
    if found.is_empty() {
        return Err(DataError::NoFile { path: path.to_path_buf(), task, wanted: wanted() });
    }
    Ok(found)
}

/// Reads a file of a task: `.jsonl` is MultiNLI's own format, anything else GLUE's.
///
/// # Errors
/// When the file cannot be read, has another header, or no samples. Odd lines are no error here: see [`DataSet::odd`].
pub fn read(task: Task, split: Split, path: &Path) -> Result<DataSet, DataError> {
    let bytes =
        std::fs::read(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let mut set =
        DataSet { task, split, path: path.to_path_buf(), samples: Vec::new(), odd: Vec::new() };
    if path.extension().is_some_and(|e| e == "jsonl") {
        read_jsonl(&mut set, bytes);
    } else {
        read_tsv(&mut set, bytes)?;
    }
    if set.samples.is_empty() && !set.odd.iter().any(|odd| odd.oddity.is_lost()) {
        return Err(DataError::Empty { path: path.to_path_buf() });
    }
    Ok(set)
}

/// The lines with their numbers, without the empty one behind the last line break.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = bytes.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    (1..).zip(lines)
}

impl DataSet {
    fn note(&mut self, line: u32, oddity: Oddity) {
        self.odd.push(OddLine { line, oddity });
    }

    /// The text of a line; notes it when it is blank or no UTF-8.
    fn decode<'a>(&mut self, line: u32, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
        if bytes.trim_ascii().is_empty() {
            self.note(line, Oddity::Blank);
            return None;
        }
        let text = String::from_utf8_lossy(bytes);
        if matches!(text, Cow::Owned(_)) {
            self.note(line, Oddity::NotUtf8);
        }
        Some(text)
    }

    /// Adds a sample, unless its label is none of the task's.
    fn push(&mut self, mut sample: Sample, label: Option<&str>) {
        let line = sample.line;
        match label {
            // Test sets have no label, or one that means nothing.
            None => {}
            Some(_) if self.split.is_test() => {}
            Some("-") if self.task == Task::Mnli => self.note(line, Oddity::NoMajority),
            Some(cell) => match self.task.label(cell) {
                Some(number) => sample.label = Some(number),
                None => return self.note(line, Oddity::Label { label: cell.to_owned() }),
            },
        }
        let texts = || std::iter::once(&sample.text).chain(&sample.pair);
        if texts().any(|text| text.trim().is_empty()) {
            self.note(line, Oddity::EmptyText);
        }
        self.samples.push(sample);
    }
}

fn read_tsv(set: &mut DataSet, bytes: &[u8]) -> Result<(), DataError> {
    let columns = set.task.columns();
    let mut lines = lines(bytes);
    let header = lines.next().map(|(_, line)| String::from_utf8_lossy(line)).unwrap_or_default();
    let header: Vec<&str> = header.split('\t').collect();
    let at = |column: &'static str| {
        header.iter().position(|name| *name == column).ok_or_else(|| DataError::Column {
            path: set.path.clone(),
            column,
            header: header.iter().map(|&name| name.to_owned()).collect(),
        })
    };
    let text = at(columns.text)?;
    let pair = columns.pair.map(at).transpose()?;
    let label = if set.split.is_test() { None } else { Some(at(columns.label)?) };
    let genre = columns.genre.and_then(|genre| header.iter().position(|name| *name == genre));
    for (number, bytes) in lines {
        let Some(line) = set.decode(number, bytes) else { continue };
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != header.len() {
            set.note(number, Oddity::Cells { want: header.len(), have: cells.len() });
            continue;
        }
        if [Some(text), pair].iter().flatten().any(|&at| cells[at].starts_with('"')) {
            set.note(number, Oddity::Quoted);
        }
        let sample = Sample {
            line: number,
            text: cells[text].to_owned(),
            pair: pair.map(|at| cells[at].to_owned()),
            label: None,
            genre: genre.map(|at| cells[at]).filter(|g| !g.is_empty()).map(str::to_owned),
        };
        set.push(sample, label.map(|at| cells[at]));
    }
    Ok(())
}

/// The fields of a line of `multinli_1.0_*.jsonl` that matter here.
#[derive(Deserialize)]
struct NliLine {
    sentence1: String,
    sentence2: String,
    gold_label: Option<String>,
    genre: Option<String>,
}

fn read_jsonl(set: &mut DataSet, bytes: &[u8]) {
    for (number, bytes) in lines(bytes) {
        let Some(line) = set.decode(number, bytes) else { continue };
        match serde_json::from_str::<NliLine>(&line) {
            Ok(found) => {
                let sample = Sample {
                    line: number,
                    text: found.sentence1,
                    pair: Some(found.sentence2),
                    label: None,
                    genre: found.genre.filter(|g| !g.is_empty()),
                };
                set.push(sample, found.gold_label.as_deref());
            }
            Err(error) => set.note(number, Oddity::Json { why: error.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(task: Task, name: &str, bytes: &[u8]) -> Result<DataSet, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (split, path) = find(task, &path).unwrap().remove(0);
        read(task, split, &path)
    }

    fn odd(set: &DataSet) -> Vec<String> {
        set.odd.iter().map(|o| format!("{}: {}", o.line, o.oddity)).collect()
    }

    #[test]
    fn every_line_is_a_sample_or_reported() {
        let file = b"sentence\tlabel\r\nfine \t1\r\n\"odd\t0\n\n \t0\nbad \xff byte\t1\na\tb\t1\nx\t2\nlast\t0\n";
        let set = read_text(Task::Sst2, "dev.tsv", file).unwrap();
        insta::assert_debug_snapshot!(odd(&set), @r#"
        [
            "3: a quote begins a cell and is taken as text",
            "4: blank, no sample",
            "5: a text is empty",
            "6: bytes that are no UTF-8 became U+FFFD",
            "7: 3 cells, and the header has 2",
            "8: \"2\" is no label of the task",
        ]
        "#);
        let samples: Vec<_> = set.samples.iter().map(|s| (s.line, &s.text[..], s.label)).collect();
        let want = [
            (2, "fine ", Some(1)),
            (3, "\"odd", Some(0)),
            (5, " ", Some(0)),
            (6, "bad \u{fffd} byte", Some(1)),
            (9, "last", Some(0)),
        ];
        assert_eq!(samples, want);
    }

    #[test]
    fn columns_go_by_name_and_genres_are_kept() {
        let file =
            "genre\tgold_label\tsentence2\tsentence1\nfiction\tentailment\tB\tA\n\t-\tD\tC\n";
        let set = read_text(Task::Mnli, "dev_mismatched.tsv", file.as_bytes()).unwrap();
        assert_eq!(set.split, Split::Mismatch);
        let first = &set.samples[0];
        assert_eq!((&first.text[..], first.pair.as_deref()), ("A", Some("B")));
        assert_eq!((first.label, first.genre.as_deref()), (Some(2), Some("fiction")));
        assert_eq!((set.samples[1].label, &set.samples[1].genre), (None, &None));
        assert_eq!(odd(&set), ["3: no label (-), does not count"]);
    }

    #[test]
    fn the_corpus_format_gives_what_glues_gives() {
        let line = r#"{"gold_label": "neutral", "genre": "travel", "sentence1": "A\tb", "sentence2": "C", "pairID": "7n"}"#;
        let file = format!("{line}\n{{\"sentence1\": 3}}\n");
        let set = read_text(Task::Mnli, "multinli_1.0_dev_matched.jsonl", file.as_bytes()).unwrap();
        let sample = &set.samples[0];
        assert_eq!((sample.text.as_str(), sample.label), ("A\tb", Some(1)));
        assert!(set.odd[0].oddity.is_lost() && set.odd[0].line == 2);
    }

    #[test]
    fn a_header_of_another_file_names_what_is_missing() {
        let error = read_text(Task::Sst2, "dev.tsv", b"text\tlabel\na\t1\n").unwrap_err();
        assert!(error.to_string().ends_with("no column \"sentence\"; it has: text, label"));
    }

    #[test]
    fn test_sets_need_no_label() {
        let set = read_text(Task::Sst2, "test.tsv", b"index\tsentence\n0\ta film\n").unwrap();
        assert_eq!((set.samples.len(), set.samples[0].label), (1, None));
    }
}
