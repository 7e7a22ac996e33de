"""Tokenizers: one read from disk, or a small WordPiece vocabulary made from the training sentences."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from errors import TrainError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def load(path, max_length):
    """The tokenizer of a `tokenizer.json`, a `vocab.txt` of lower-case BERT, or a folder that holds one of them."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).exists()]
        if not found:
            raise TrainError(f"{path}: neither a tokenizer.json nor a vocab.txt")
        path = found[0]
    try:
        if path.suffix == ".txt":
            tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)
        else:
            tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises plain Exceptions.
        raise TrainError(f"{path}: {error}") from None
    # Files carry settings of whoever wrote them; here only --max_seq_length counts, and batches pad.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def train(sentences, size, folder):
    """Makes a lower-case WordPiece vocabulary of `size` entries and writes `vocab.txt` and `tokenizer.json`.

    `[PAD]` is entry 0, as in BERT's vocabularies: models that derive the mask from ids take 0 for padding.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(sentences, vocab_size=size, min_frequency=2, special_tokens=SPECIAL,
                                  show_progress=False)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.get_vocab()
    entries = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
    return folder
