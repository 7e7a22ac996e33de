"""SST-2 and NLI sets in GLUE's layout, tokenized, and the batches of each epoch."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from errors import TrainError

LABELS = {"sst2": ["negative", "positive"], "mnli": ["contradiction", "neutral", "entailment"]}
TEXTS = {"sst2": ["sentence"], "mnli": ["sentence1", "sentence2"]}
DEV_FILES = {"sst2": ["dev.tsv"], "mnli": ["dev_matched.tsv", "dev_mismatched.tsv"]}


@dataclass
class Sample:
    """One tokenized line: ids with their special tokens, the segment of each, and the number of the label."""

    ids: list
    segments: list
    label: int


def read_rows(path, task):
    """(texts, label) of each line. Quotes are text; a line with another number of cells than the header is an error."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"{path}: {error}") from None
    header, rows = lines[0].rstrip("\r").split("\t"), []
    label_column = "label" if task == "sst2" else "gold_label"
    for name in [*TEXTS[task], label_column]:
        if name not in header:
            raise TrainError(f"{path}: no column {name}; the first line has: {', '.join(header)}")
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        cells = dict(zip(header, line.rstrip("\r").split("\t")))
        if len(cells) != len(header):
            raise TrainError(f"{path}: line {number} has {len(cells)} cells, the header {len(header)}")
        if cells[label_column] == "-":
            continue  # MNLI's mark where the annotators found no majority.
        label = cells[label_column]
        if task == "mnli":
            if label not in LABELS[task]:
                raise TrainError(f"{path}: line {number}: {label!r} is no label of {task}")
            label = LABELS[task].index(label)
        elif label not in ("0", "1"):
            raise TrainError(f"{path}: line {number}: {label!r} is no label of {task}")
        rows.append(([cells[name] for name in TEXTS[task]], int(label)))
    if not rows:
        raise TrainError(f"{path}: no samples")
    return rows


def tokenize(rows, tokenizer):
    """Samples of `rows`, truncated as the tokenizer is set up."""
    texts = [tuple(texts) if len(texts) == 2 else texts[0] for texts, _ in rows]
    encodings = tokenizer.encode_batch(texts)
    return [Sample(encoding.ids, encoding.type_ids, label)
            for encoding, (_, label) in zip(encodings, rows, strict=True)]


def epoch_batches(samples, batch_size, seed, epoch, rank=0, ranks=1):
    """Batches of one epoch for one process, the same whenever they are asked for again, so that a run can resume.

    Samples are shuffled and sorted by length within pieces of fifty batches, which spares most of the padding. Every
    process gets the same number of batches; what does not fill the last round is left out of this epoch.
    """
    order = random.Random(f"{seed} {epoch}")
    indices = list(range(len(samples)))
    order.shuffle(indices)
    piece = 50 * batch_size
    batches = []
    for start in range(0, len(indices), piece):
        by_length = sorted(indices[start:start + piece], key=lambda index: len(samples[index].ids))
        batches += [by_length[at:at + batch_size] for at in range(0, len(by_length), batch_size)]
    order.shuffle(batches)
    return batches[rank:len(batches) - len(batches) % ranks:ranks]


def collate(samples, pad_id, extra=0):
    """`input_ids`, `attention_mask`, `token_type_ids`, each [batch, longest + `extra`], and `labels` [batch]."""
    length = max(len(sample.ids) for sample in samples) + extra

    def padded(cells, filler):
        return torch.tensor([row + [filler] * (length - len(row)) for row in cells])

    return {
        "input_ids": padded([sample.ids for sample in samples], pad_id),
        "attention_mask": padded([[1] * len(sample.ids) for sample in samples], 0),
        "token_type_ids": padded([sample.segments for sample in samples], 0),
    }, torch.tensor([sample.label for sample in samples])
