//! SentencePiece models, as far as the unigram tokenizer of DeBERTa-v2 and -v3 needs them.
//!
//! The file is a protobuf message (`sentencepiece_model.proto` of google/sentencepiece): pieces with scores, the settings
//! of the trainer, and the table of its normalizer. It becomes the tokenizer that the converter of `transformers` makes
//! of it, so that the ids are those of the fast tokenizer.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Lowercase, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::{AddedToken, NormalizerWrapper};

use crate::tokenizer::{Settings, add_special, pair_template};

/// What of a model is used.
#[derive(Debug, Default)]
struct Model {
    pieces: Vec<(String, f64)>,
    unknown: Option<usize>,
    is_unigram: bool,
    normalizer: Vec<u8>,
}

/// The tokenizer of a SentencePiece file.
pub(crate) fn tokenizer(
    bytes: &[u8],
    settings: &Settings,
) -> Result<tokenizers::Tokenizer, String> {
    let found =
        parse(bytes).ok_or("not a SentencePiece model: the file is cut off or of another kind")?;
    if !found.is_unigram {
        return Err("not a unigram model; convert it to a tokenizer.json".to_owned());
    }
    let id = |token: &str| {
        let at = found.pieces.iter().position(|(piece, _)| piece == token);
        at.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| {
            format!("has no piece {token}: not of DeBERTa-v2 or -v3; use a tokenizer.json")
        })
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    let said = |error: tokenizers::Error| error.to_string();

    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if settings.do_lower_case == Some(true) {
        normalizers.push(Lowercase.into());
    }
    normalizers.push(Strip::new(true, true).into());
    if !found.normalizer.is_empty() {
        let table = Precompiled::from(&found.normalizer)
            .map_err(|e| format!("the table of its normalizer cannot be read: {e}"))?;
        normalizers.push(table.into());
    }
    let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".to_owned());
    normalizers.push(Replace::new(spaces, " ").map_err(said)?.into());

    let mut splits: Vec<PreTokenizerWrapper> = Vec::new();
    if settings.split_by_punct == Some(true) {
        splits.push(Punctuation::default().into());
    }
    splits.push(Metaspace::new('▁', PrependScheme::Always, true).into());

    // The fast tokenizer takes bytes without a piece for unknown, whatever the trainer was told.
    let model = Unigram::from(found.pieces, found.unknown, false).map_err(|e| e.to_string())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(said)?;
    tokenizer.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::sequence::Sequence::new(splits)));
    tokenizer.with_post_processor(Some(pair_template(cls, sep)?));
    add_special(&mut tokenizer, &["[PAD]", "[CLS]", "[SEP]"], &[])?;
    if tokenizer.token_to_id("[UNK]").is_some() {
        let unknown = AddedToken::from("[UNK]", true).normalized(true);
        tokenizer.add_special_tokens([unknown]).map_err(said)?;
    }
    // DeBERTa's mask token is not among the pieces; it gets the first number behind them.
    add_special(&mut tokenizer, &[], &["[MASK]"])?;
    Ok(tokenizer)
}

/// Reads what is used; none when the bytes are no such message.
fn parse(bytes: &[u8]) -> Option<Model> {
    let mut found = Model { is_unigram: true, ..Model::default() };
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => found.pieces.push(parse_piece(piece)?),
            (2, Field::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field? {
                        // 1 is unigram, which is also the default.
                        (3, Field::Number(kind)) => found.is_unigram = kind == 1,
                        (40, Field::Number(id)) => found.unknown = usize::try_from(id).ok(),
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    if let (2, Field::Bytes(table)) = field? {
                        found.normalizer = table.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    // The trainer's default, which a file need not spell out.
    found.unknown = found.unknown.or(Some(0)).filter(|&id| id < found.pieces.len());
    (!found.pieces.is_empty()).then_some(found)
}

fn parse_piece(bytes: &[u8]) -> Option<(String, f64)> {
    let (mut piece, mut score) = (String::new(), 0.0);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(text)) => piece = String::from_utf8(text.to_vec()).ok()?,
            (2, Field::Float(value)) => score = f64::from(value),
            _ => {}
        }
    }
    Some((piece, score))
}

enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message: number and content. One that cannot be read ends the walk with `None`.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let count = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(count)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, content))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message field with bytes.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        field.extend(content);
        field
    }

    fn piece(text: &str, score: f32) -> Vec<u8> {
        let mut message = bytes(1, text.as_bytes());
        message.push(2 << 3 | 5);
        message.extend(score.to_le_bytes());
        bytes(1, &message)
    }

    fn model() -> Vec<u8> {
        let pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)];
        let words = [("▁a", -1.0), ("▁film", -2.0), ("s", -3.0), ("▁", -4.0)];
        let mut file: Vec<u8> =
            pieces.iter().chain(&words).flat_map(|(text, score)| piece(text, *score)).collect();
        // Unigram, and 3 for unknown words.
        file.extend(bytes(2, &[3 << 3, 1, 0xc0, 0x02, 3]));
        file
    }

    #[test]
    fn pieces_become_the_unigram_tokenizer() {
        let tokenizer = tokenizer(&model(), &Settings::default()).unwrap();
        let ids = tokenizer.encode_fast(("  a  films [MASK]", "?"), true).unwrap();
        // The mask is behind the pieces, a question mark is unknown.
        assert_eq!(ids.get_ids(), [1, 4, 5, 6, 8, 2, 7, 3, 2]);
        assert_eq!(ids.get_type_ids(), [0, 0, 0, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |file: &[u8]| tokenizer(file, &Settings::default()).unwrap_err();
        let whole = model();
        assert!(refused(&whole[..whole.len() - 1]).contains("cut off"));
        assert!(refused(b"").contains("of another kind"));
        let byte_pairs = [whole.clone(), bytes(2, &[3 << 3, 2])].concat();
        assert!(refused(&byte_pairs).contains("not a unigram model"));
        assert!(refused(&piece("x", 0.0)).contains("no piece [CLS]"));
    }
}
