#!/usr/bin/env python3
"""Accuracy of the trained ConvBERT on SST-2's dev set, in ONNX Runtime and in `onnxfix`, original and optimized.

ONNX Runtime runs the original model on ids of Hugging Face's tokenizer; `onnxfix eval` does everything itself: the original,
the model optimized for the NPU, both with 32-bit floats, and the optimized one with 16-bit floats; and with `--sim`, the
folder of `tools/ascend-sim`'s programs, the compiled one on the simulated device. Exits with 0 when all
give the same answer to every sentence, 1 when one with 32-bit floats does not or 16 bits differ in more than 1 %, 2 when it
could not run. Sentences that are answered otherwise are named by line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import BertWordPieceTokenizer

import tokens
from errors import OracleError
from tool import Onnxfix

MODEL = tokens.ROOT / "fixtures" / "trained" / "convbert_sst2"
LENGTH = 128
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def in_onnx_runtime(path, sentences):
    """The answer to each sentence."""
    tokenizer = BertWordPieceTokenizer(str(MODEL / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers = []
    for encoding in tokenizer.encode_batch(sentences):
        rows = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        feed = {name: np.array([row], dtype=np.int64) for name, row in zip(INPUTS, rows, strict=True)}
        answers.append(int(session.run(None, feed)[0][0].argmax()))
    return answers


def in_onnxfix(tool, model, data, *more, sim=None):
    """(answers, lines, labels' accuracy) of `onnxfix eval`."""
    command = [tool, "--quiet", "eval", str(model), "--task", "sst2", "--data", str(data), "--max-length", str(LENGTH),
               "--tokenizer", str(MODEL / "vocab.txt"), "--config", str(MODEL / "config.json"), "--json", *more]
    environment = os.environ | ({"ASCENDCL_LIB": str(sim)} if sim else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise OracleError(f"{' '.join(command)}: {done.stderr}")
    split = json.loads(done.stdout)["splits"][0]
    return split["answers"], split["lines"], split["accuracy"], split.get("time")


def compiled(tool, sim, work):
    """The model, compiled by the simulated ATC."""
    command = [tool, "--quiet", "atc", str(MODEL / "model.onnx"), "--soc", "Ascend310P3", "--batch", "1", "--buckets",
               str(LENGTH), "--atc", str(Path(sim, "atc")), "--output", work]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OracleError(f"{' '.join(command)}: {done.stderr}")
    return next(Path(work).glob("*.om"))


def run(tool, sim):
    """Compares; the exit code."""
    folder = tokens.shared()
    if folder is None:
        print("skipped: no data (neither $ONNXFIX_DATA nor ../shared has data and tokenizers)")
        return 0
    data = folder / "data" / "sst2" / "dev.tsv"
    sentences = tokens.texts(data, "sst2")
    labels = [int(line.rsplit("\t", 1)[1]) for line in data.read_text(encoding="utf-8").split("\n")[1:] if line]
    wanted = in_onnx_runtime(MODEL / "model.onnx", sentences)
    right = sum(a == b for a, b in zip(wanted, labels, strict=True))
    print(f"{'ONNX Runtime, original':34} {right} of {len(labels)} ({right / len(labels):.4f})")
    failed = False
    with tempfile.TemporaryDirectory() as work:
        optimized = Path(work, "optimized.onnx")
        shapes = ";".join(f"{name}:1,{LENGTH}" for name in INPUTS)
        outcome = Onnxfix(tool).optimize(MODEL / "model.onnx", optimized, "ascend310p3", shapes)
        if outcome.exit != 0:
            raise OracleError(f"optimize: {outcome.says}")
        cases = [
            ("onnxfix eval, original", MODEL / "model.onnx", (), 0, None),
            ("onnxfix eval, optimized", optimized, (), 0, None),
            ("onnxfix eval, optimized, 16 bits", optimized, ("--half",), len(labels) // 100, None),
        ]
        if sim:
            cases.append(("onnxfix eval, simulated device", compiled(tool, sim, work), (), 0, sim))
        for name, model, more, allowed, device in cases:
            answers, lines, accuracy, speed = in_onnxfix(tool, model, data, *more, sim=device)
            other = [line for line, a, b in zip(lines, answers, wanted, strict=True) if a != b]
            failed |= len(other) > allowed
            rate = f"; {speed['samples_per_second']:.0f} samples per second" if speed else ""
            said = f"; lines {', '.join(map(str, other))}" if other else ""
            print(f"{name:34} {sum(a == b for a, b in zip(answers, labels))} of {len(labels)} ({accuracy:.4f}), "
                  f"{len(other)} answered otherwise{said}{rate}", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--onnxfix", metavar="BIN", help="default: the newest build of this clone")
    parser.add_argument("--sim", metavar="DIR", help="folder with atc and libascendcl.so of tools/ascend-sim")
    args = parser.parse_args()
    try:
        return run(str(Onnxfix(args.onnxfix).binary), args.sim)
    except OracleError as error:
        print(f"accuracy.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
