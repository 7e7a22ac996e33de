#!/usr/bin/env python3
"""Compares the token ids that `onnxfix prepare` writes with those of Hugging Face's fast tokenizers, line by line.

Every line of MNLI and SST-2 that is there, with each tokenizer in each of its formats. The texts are read by code of this
file, which shares nothing with `onnxfix`. Exits with 0 when all ids are equal, 1 when some differ, 2 when it could not run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from errors import OracleError
from tool import Onnxfix

ROOT = Path(__file__).resolve().parents[2]
# Folder of the tokenizer, its files, the task, its files, and where longer samples are cut.
CASES = [
    ("deberta-v3", ["tokenizer.json", "spm.model"], "mnli", [256, 64]),
    ("bert-uncased", ["tokenizer.json", "vocab.txt"], "mnli", [256, 64]),
    ("bert-uncased", ["tokenizer.json", "vocab.txt"], "sst2", [128, 16]),
    ("deberta-v3", ["tokenizer.json", "spm.model"], "sst2", [128, 16]),
]
# The training set, as if it were the one to evaluate on.
TRAIN = [("bert-uncased", ["vocab.txt"], "sst2", [128]), ("deberta-v3", ["spm.model"], "sst2", [128])]
# What goes into one file; a file for each of many samples would take longer than everything else.
BATCH = 512
PARTS = {"mnli": {"match": "dev_matched.tsv", "mismatch": "dev_mismatched.tsv"},
         "sst2": {"dev": "dev.tsv"}}


def shared():
    """The folder with data and tokenizers, or None."""
    for path in (os.environ.get("ONNXFIX_DATA"), ROOT.parent / "shared"):
        if path and (Path(path) / "tokenizers").is_dir() and (Path(path) / "data").is_dir():
            return Path(path)
    return None


def texts(path, task):
    """The texts of a file: strings, or pairs of them."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    header = lines[0].split("\t")
    names = ["sentence1", "sentence2"] if task == "mnli" else ["sentence"]
    columns = [header.index(name) for name in names]
    rows = [tuple(line.split("\t")[at] for at in columns) for line in lines[1:] if line]
    return rows if task == "mnli" else [row[0] for row in rows]


def reference(path, length):
    """Hugging Face's tokenizer of a folder, which pads and cuts as asked."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=0)
    return tokenizer


def prepare(tool, task, data, tokenizer, length, output):
    """Runs `onnxfix prepare`; gives its wall time in seconds and the manifest."""
    command = [tool, "--quiet", "prepare", task, "--data", str(data), "--tokenizer", str(tokenizer), "--max-length",
               str(length), "--inputs", "input_ids,input_mask,token_type_ids", "--element", "int32",
               "--batch", str(BATCH), "--output", str(output)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise OracleError(f"{' '.join(command)}: {done.stderr}")
    return seconds, json.loads((output / "manifest.json").read_text(encoding="utf-8"))


def rows(folder, name, count, length):
    """One array [count, length] of an input's files; the last one is filled up."""
    files = (np.fromfile(folder / name / f"input_{at}.bin", dtype="<i4") for at in range(-(-count // BATCH)))
    return np.concatenate([numbers.reshape(BATCH, length) for numbers in files])[:count]


def compare(tool, data, folder, file, task, length, output):
    """(lines, different lines, longest sample, seconds of `prepare`, seconds of encode_batch)"""
    seconds, manifest = prepare(tool, task, data, folder / file, length, output)
    tokenizer = reference(folder, length)
    compared = different = longest = 0
    encoding = 0.0
    for split in manifest["splits"]:
        lines = texts(data / PARTS[task][split["split"]], task)
        start = time.perf_counter()
        encodings = tokenizer.encode_batch(lines)
        encoding += time.perf_counter() - start
        if len(lines) != split["samples"]:
            raise OracleError(f"{split['source']}: {split['samples']} samples, and the file has {len(lines)}")
        wanted = {"input_ids": [e.ids for e in encodings], "input_mask": [e.attention_mask for e in encodings],
                  "token_type_ids": [e.type_ids for e in encodings]}
        equal = np.ones(len(lines), dtype=bool)
        for name, values in wanted.items():
            equal &= (rows(output / split["split"], name, len(lines), length) == np.array(values)).all(axis=1)
        compared += len(lines)
        different += int((~equal).sum())
        longest = max(longest, int(np.array(wanted["input_mask"]).sum(axis=1).max()))
    return compared, different, longest, seconds, encoding


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--onnxfix", metavar="BIN", help="default: the newest build of this clone")
    args = parser.parse_args()
    try:
        return run(str(Onnxfix(args.onnxfix).binary))
    except OracleError as error:
        print(f"tokens.py: {error}", file=sys.stderr)
        return 2


def run(tool):
    """Compares everything there is; the exit code."""
    folder = shared()
    if folder is None:
        print("skipped: no data (neither $ONNXFIX_DATA nor ../shared has data and tokenizers)")
        return 0
    failed = False
    print("tokenizer                     data  length  lines  different  longest  prepare  encode_batch")
    with tempfile.TemporaryDirectory() as train:
        cases = [(case, folder / "data" / case[2], case[2]) for case in CASES]
        whole = folder / "data" / "sst2" / "train.tsv"
        if whole.exists():
            Path(train, "dev.tsv").symlink_to(whole)
            cases += [(case, Path(train), "train") for case in TRAIN]
        for (name, files, task, lengths), data, called in cases:
            for file in files:
                for length in lengths:
                    with tempfile.TemporaryDirectory() as output:
                        compared, different, longest, seconds, encoding = compare(
                            tool, data, folder / "tokenizers" / name, file, task, length, Path(output, "pre"))
                    failed |= different > 0
                    print(f"{name + '/' + file:28}  {called:5} {length:6} {compared:6} {different:10} {longest:8}"
                          f" {seconds:7.2f}s {encoding:12.2f}s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
