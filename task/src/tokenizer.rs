//! Tokenizers as the published models have them, from disk.
//!
//! The ids are those of Hugging Face's fast tokenizers, whose crate does the work. What a file says about truncation and
//! padding is how somebody once used it, and is not kept: the length is the caller's, and batches pad.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model as _, TruncationParams};

use crate::dataset::{DataSet, OddLine, Oddity};
use crate::spm;

/// What a tokenizer was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `tokenizer.json` of the `tokenizers` library.
    Json,
    /// A SentencePiece model, read as the unigram tokenizer of DeBERTa-v2 and -v3.
    Spm,
    /// A list of word pieces, read as BERT's tokenizer.
    Vocab,
}

/// The names that tokenizer files go by, the preferred first: what `tokenizer.json` says needs no conversion.
const NAMES: [(&str, Format); 4] = [
    ("tokenizer.json", Format::Json),
    ("spm.model", Format::Spm),
    ("spiece.model", Format::Spm),
    ("vocab.txt", Format::Vocab),
];

/// Why a tokenizer could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file system said no.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A folder without a tokenizer.
    #[error(
        "{} holds no tokenizer: looked for {} and for a Hugging Face cache (models--*/snapshots)",
        path.display(),
        NAMES.map(|(name, _)| name).join(", ")
    )]
    NoFile {
        /// The folder.
        path: PathBuf,
    },
    /// A cache with several models.
    #[error("{} has tokenizers of several models; name one of: {}", path.display(), list(found))]
    Several {
        /// The folder.
        path: PathBuf,
        /// The folders to choose from.
        found: Vec<PathBuf>,
    },
    /// A file that holds something else.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A length without room for tokens.
    #[error("a length of {length} leaves no room for tokens: {special} of them are special")]
    Length {
        /// What was asked for.
        length: usize,
        /// Tokens that every sample has.
        special: usize,
    },
    /// A text that could not be tokenized.
    #[error("{text:?} could not be tokenized: {why}")]
    Encode {
        /// The text.
        text: String,
        /// What the library said.
        why: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The tokens of one sample, special ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Rows of the model's word table.
    pub ids: Vec<u32>,
    /// Segment of each token: 1 in the second text of a pair, else 0.
    pub segments: Vec<u32>,
    /// Whether tokens were cut off.
    pub cut: bool,
}

/// Turns texts into ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    format: Format,
    digest: String,
    pad: u32,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Opens a tokenizer: a file, a folder that holds one, or a folder of Hugging Face's cache. Nothing is downloaded.
    ///
    /// # Errors
    /// When there is none, several, or one that cannot be read.
    pub fn open(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let (path, format) = find(path)?;
        let bytes = std::fs::read(&path)
            .map_err(|source| TokenizerError::Io { path: path.clone(), source })?;
        let malformed = |why: String| TokenizerError::Malformed { path: path.clone(), why };
        let mut inner = match format {
            Format::Json => tokenizers::Tokenizer::from_bytes(&bytes)
                .map_err(|e| malformed(format!("not a tokenizer of this format: {e}"))),
            Format::Spm => spm::tokenizer(&bytes, &Settings::beside(&path)?).map_err(malformed),
            Format::Vocab => word_pieces(&bytes, &Settings::beside(&path)?).map_err(malformed),
        }?;
        let named = ["[PAD]", "<pad>"].iter().find_map(|token| inner.token_to_id(token));
        let pad = named.or(inner.get_padding().map(|p| p.pad_id)).unwrap_or(0);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        Ok(Tokenizer { inner, path, format, digest, pad })
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file is.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// BLAKE3 of the file, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The id that fills rows up.
    #[must_use]
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// How many rows of a word table the ids can name.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Sets the tokens that a sample may have, special ones included. Of a pair, the longer text is cut first.
    ///
    /// # Errors
    /// When only special tokens would be left.
    pub fn set_max_length(&mut self, length: usize, pairs: bool) -> Result<(), TokenizerError> {
        let special = self.inner.get_post_processor();
        let special = special.map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, pairs));
        if length <= special + 1 {
            return Err(TokenizerError::Length { length, special });
        }
        let params = TruncationParams { max_length: length, ..TruncationParams::default() };
        match self.inner.with_truncation(Some(params)) {
            Ok(_) => Ok(()),
            Err(_) => Err(TokenizerError::Length { length, special }),
        }
    }

    /// The tokens of a text or a pair.
    ///
    /// # Errors
    /// When the tokenizer cannot say anything about a text, such as one whose unknown words have no id.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens, TokenizerError> {
        // Offsets into the text are of no use here and take a third of the time.
        let encoded = match pair {
            Some(pair) => self.inner.encode_fast((text, pair), true),
            None => self.inner.encode_fast(text, true),
        };
        let encoded = encoded
            .map_err(|e| TokenizerError::Encode { text: text.to_owned(), why: e.to_string() })?;
        Ok(Tokens {
            ids: encoded.get_ids().to_vec(),
            segments: encoded.get_type_ids().to_vec(),
            cut: !encoded.get_overflowing().is_empty(),
        })
    }

    /// The tokens of all samples, on all cores; notes the lines that were cut.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all(&self, set: &mut DataSet) -> Result<Vec<Tokens>, TokenizerError> {
        let tokens: Vec<Tokens> = set
            .samples
            .par_iter()
            .with_min_len(16)
            .map(|sample| self.encode(&sample.text, sample.pair.as_deref()))
            .collect::<Result<_, _>>()?;
        let cut = set.samples.iter().zip(&tokens).filter(|(_, tokens)| tokens.cut);
        set.odd.extend(cut.map(|(s, _)| OddLine { line: s.line, oddity: Oddity::Cut }));
        set.odd.sort_by_key(|odd| odd.line);
        Ok(tokens)
    }
}

/// The file that [`Tokenizer::open`] reads.
///
/// # Errors
/// When there is none, or several to choose from.
pub fn file(path: &Path) -> Result<PathBuf, TokenizerError> {
    find(path).map(|(file, _)| file)
}

/// The tokenizer file that a path means.
fn find(path: &Path) -> Result<(PathBuf, Format), TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_path_buf(), source };
    if !path.metadata().map_err(io)?.is_dir() {
        let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format);
        let by_end = || match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Some(Format::Json),
            Some("model") => Some(Format::Spm),
            Some("txt") => Some(Format::Vocab),
            _ => None,
        };
        return match known.or_else(by_end) {
            Some(format) => Ok((path.to_path_buf(), format)),
            None => Err(TokenizerError::Malformed {
                path: path.to_path_buf(),
                why: "a tokenizer is a .json, .model or .txt file".to_owned(),
            }),
        };
    }
    if let Some(found) = in_folder(path) {
        return Ok(found);
    }
    // A cache has a folder for each model; hf_home has the cache in `hub`.
    let models = folders(path).into_iter().chain(folders(&path.join("hub")));
    let mut models: Vec<PathBuf> = models
        .filter(|folder| {
            let name = folder.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
            name.starts_with("models--") && in_snapshots(folder).is_some()
        })
        .collect();
    match (in_snapshots(path), models.len()) {
        (Some(found), _) => Ok(found),
        (None, 0) => Err(TokenizerError::NoFile { path: path.to_path_buf() }),
        (None, 1) => in_snapshots(&models.remove(0))
            .ok_or_else(|| TokenizerError::NoFile { path: path.to_path_buf() }),
        (None, _) => Err(TokenizerError::Several { path: path.to_path_buf(), found: models }),
    }
}

fn in_folder(path: &Path) -> Option<(PathBuf, Format)> {
    let candidates = NAMES.iter().map(|(name, format)| (path.join(name), *format));
    candidates.into_iter().find(|(file, _)| file.is_file())
}

/// The tokenizer of a cached model: of the revision that `refs/main` names, else of the first one that has it.
fn in_snapshots(model: &Path) -> Option<(PathBuf, Format)> {
    let snapshots = model.join("snapshots");
    let main = std::fs::read_to_string(model.join("refs").join("main")).ok();
    let main = main.and_then(|revision| in_folder(&snapshots.join(revision.trim())));
    main.or_else(|| folders(&snapshots).iter().find_map(|folder| in_folder(folder)))
}

/// The folders in a folder, sorted; none where it cannot be read.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

/// What `tokenizer_config.json` says beside a vocabulary; everything may be missing.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Settings {
    #[serde(default)]
    pub(crate) do_lower_case: Option<bool>,
    #[serde(default)]
    pub(crate) split_by_punct: Option<bool>,
    #[serde(default)]
    pub(crate) strip_accents: Option<bool>,
    #[serde(default)]
    pub(crate) tokenize_chinese_chars: Option<bool>,
}

impl Settings {
    fn beside(path: &Path) -> Result<Settings, TokenizerError> {
        let path = path.with_file_name("tokenizer_config.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| TokenizerError::Malformed {
                path,
                why: format!("not settings of a tokenizer: {e}"),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(source) => Err(TokenizerError::Io { path, source }),
        }
    }
}

/// BERT's tokenizer with the word pieces of a `vocab.txt`.
fn word_pieces(bytes: &[u8], settings: &Settings) -> Result<tokenizers::Tokenizer, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not a list of words: {e}"))?;
    let words = WordPiece::read_bytes(bytes).map_err(|e| e.to_string())?;
    let model = WordPiece::builder().vocab(words).build().map_err(|e| e.to_string())?;
    let id = |token: &str| {
        model.token_to_id(token).ok_or_else(|| format!("no line is {token}: not BERT's vocabulary"))
    };
    let (cls, sep, _unk) = (id("[CLS]")?, id("[SEP]")?, id("[UNK]")?);
    // A vocabulary of lower-case text has no word that begins with a capital, but for the tokens in brackets.
    let cased = || text.lines().any(|w| w.starts_with(char::is_uppercase));
    let lower = settings.do_lower_case.unwrap_or_else(|| !cased());
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let normalizer = BertNormalizer::new(
        true,
        settings.tokenize_chinese_chars.unwrap_or(true),
        settings.strip_accents,
        lower,
    );
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(pair_template(cls, sep)?));
    add_special(&mut tokenizer, &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], &[])?;
    Ok(tokenizer)
}

/// `[CLS] A [SEP]`, and `[CLS] A [SEP] B [SEP]` with the second text in segment 1.
pub(crate) fn pair_template(cls: u32, sep: u32) -> Result<TemplateProcessing, String> {
    TemplateProcessing::builder()
        .try_single("[CLS]:0 $A:0 [SEP]:0")?
        .try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")?
        .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
        .build()
        .map_err(|e| e.to_string())
}

/// Makes those of the tokens that the vocabulary has, and all of `always`, tokens that are found in a text as they are.
pub(crate) fn add_special(
    tokenizer: &mut tokenizers::Tokenizer,
    known: &[&str],
    always: &[&str],
) -> Result<(), String> {
    let known = known.iter().filter(|token| tokenizer.token_to_id(token).is_some());
    let tokens: Vec<AddedToken> =
        known.chain(always).map(|token| AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(tokens).map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nfilm\n##s\n,\nnot\n";

    fn vocab(folder: &Path) -> PathBuf {
        let path = folder.join("vocab.txt");
        std::fs::write(&path, WORDS).unwrap();
        path
    }

    #[test]
    fn a_list_of_words_is_berts_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::open(&vocab(folder.path())).unwrap();
        let tokens = tokenizer.encode("A FILMS, nót [MASK] x", Some("films")).unwrap();
        assert_eq!(tokens.ids, [2, 5, 6, 7, 8, 9, 4, 1, 3, 6, 7, 3]);
        assert_eq!(tokens.segments, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!((tokenizer.pad(), tokenizer.format()), (0, Format::Vocab));
    }

    #[test]
    fn the_longer_text_of_a_pair_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokenizer = Tokenizer::open(&vocab(folder.path())).unwrap();
        tokenizer.set_max_length(7, true).unwrap();
        let tokens = tokenizer.encode("a film a film a film", Some("not")).unwrap();
        assert_eq!(tokens.ids, [2, 5, 6, 5, 3, 9, 3]);
        assert!(tokens.cut);
        assert!(!tokenizer.encode("a film a", Some("not")).unwrap().cut);
        let error = tokenizer.set_max_length(4, true).unwrap_err();
        insta::assert_snapshot!(error, @"a length of 4 leaves no room for tokens: 3 of them are special");
    }

    #[test]
    fn settings_beside_the_words_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = vocab(folder.path());
        std::fs::write(path.with_file_name("tokenizer_config.json"), r#"{"do_lower_case": false}"#)
            .unwrap();
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.encode("A film", None).unwrap().ids, [2, 1, 6, 3]);
    }

    #[test]
    fn a_cache_is_followed_to_the_revision_in_use() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("hub").join("models--someone--bert");
        for (revision, words) in [("aaa", "[UNK]\n"), ("bbb", WORDS)] {
            let folder = model.join("snapshots").join(revision);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("vocab.txt"), words).unwrap();
        }
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("refs").join("main"), "bbb").unwrap();
        let (found, format) = find(cache.path()).unwrap();
        assert_eq!(found, model.join("snapshots").join("bbb").join("vocab.txt"));
        assert_eq!(format, Format::Vocab);
        assert_eq!(find(&model).unwrap().0, found);

        let other = cache.path().join("hub").join("models--other--bert").join("snapshots");
        std::fs::create_dir_all(other.join("1")).unwrap();
        std::fs::write(other.join("1").join("vocab.txt"), WORDS).unwrap();
        let error = find(cache.path()).unwrap_err();
        assert!(matches!(error, TokenizerError::Several { found, .. } if found.len() == 2));
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"version": "1.0",
            "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 7,
                        "pad_type_id": 0, "pad_token": "x"},
            "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
            "decoder": null, "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}"#;
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("a b b", None).unwrap().ids, [0, 1, 1]);
        assert_eq!(tokenizer.pad(), 7);
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "[1]").unwrap();
        let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: not a tokenizer of this format"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Tokenizer::open(folder.path()), Err(TokenizerError::NoFile { .. })));
    }
}
