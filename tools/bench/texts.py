#!/usr/bin/env python3
"""How long the commands on texts take, beside Python.

Prepares MNLI and compares with the `encode_batch` of Python's `tokenizers` on the same lines, alone and with the same files
written by NumPy; runs the trained ConvBERT of `fixtures/` on SST-2 in `onnxfix eval` and in ONNX Runtime with `tokenizers`;
and runs MODEL, a DeBERTa, on the first samples of MNLI at one length and with several, on the CPU as measured and on a
310P as predicted for the whole data set. Rounds interleave, medians count. Prints Markdown tables and writes the raw figures
to tools/bench/results/texts.json. Exit: 0 done, 1 answers differ, 2 could not run.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers  # noqa: F401  First, since it makes the oracle's modules known.
import numpy
import onnxruntime
import tokens
from errors import OracleError
from optimize import RESULTS, machine
from tokenizers import BertWordPieceTokenizer
from tool import Onnxfix

LENGTHS = [64, 128, 256]
SST2_LENGTH = 128
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PART = {"match": "dev_matched.tsv", "mismatch": "dev_mismatched.tsv"}


def timed(work):
    """Seconds, and what the work gave."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def call(tool: Onnxfix, *arguments) -> str:
    """Runs a command of onnxfix that may take long; what it printed."""
    command = [str(tool.binary), "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise OracleError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def prepare(tool: Onnxfix, shared: Path, scratch: Path, rounds: int) -> dict:
    """Seconds of `prepare mnli` and of Python, round by round."""
    folder, data = shared / "tokenizers" / "deberta-v3", shared / "data" / "mnli" / PART["match"]
    lines = tokens.texts(data, "mnli")
    found = {"pairs": len(lines), "prepare": [], "encode_batch": [], "encode_batch_and_files": []}
    for _ in range(rounds):
        out = scratch / "pre"
        shutil.rmtree(out, ignore_errors=True)
        seconds, _ = timed(lambda: call(
            tool, "prepare", "mnli", "--data", data, "--tokenizer", folder, "--output", out))
        found["prepare"].append(seconds)
        shutil.rmtree(out, ignore_errors=True)
        tokenizer = tokens.reference(folder, 256)
        seconds, encodings = timed(lambda: tokenizer.encode_batch(lines))
        found["encode_batch"].append(seconds)
        more, _ = timed(lambda: write(encodings, out))
        found["encode_batch_and_files"].append(seconds + more)
        shutil.rmtree(out, ignore_errors=True)
    return found


def write(encodings, out: Path) -> None:
    """The files of a prepared data set, as a script writes them."""
    for name in ("input_ids", "input_mask"):
        (out / name).mkdir(parents=True)
    for at, encoding in enumerate(encodings):
        numpy.array(encoding.ids, dtype=numpy.int32).tofile(out / "input_ids" / f"input_{at}.bin")
        numpy.array(encoding.attention_mask, dtype=numpy.int32).tofile(out / "input_mask" / f"input_{at}.bin")


def evaluate(tool: Onnxfix, shared: Path, rounds: int) -> dict:
    """Milliseconds for a sentence of SST-2 in `eval` and in ONNX Runtime, by batch, everything but loading included."""
    fixture = tokens.ROOT / "fixtures" / "trained" / "convbert_sst2"
    data = shared / "data" / "sst2" / "dev.tsv"
    sentences = tokens.texts(data, "sst2")
    session = onnxruntime.InferenceSession(str(fixture / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = BertWordPieceTokenizer(str(fixture / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(SST2_LENGTH)
    tokenizer.enable_padding(length=SST2_LENGTH, pad_id=0)

    def python(batch: int) -> list[int]:
        answers = []
        for at in range(0, len(sentences), batch):
            rows = tokenizer.encode_batch(sentences[at:at + batch])
            feed = [[r.ids for r in rows], [r.attention_mask for r in rows], [r.type_ids for r in rows]]
            arrays = {n: numpy.array(f, dtype=numpy.int64) for n, f in zip(INPUTS, feed, strict=True)}
            answers.extend(session.run(None, arrays)[0].argmax(axis=1).tolist())
        return answers

    found = {"samples": len(sentences), "length": SST2_LENGTH, "runs": [], "differ": 0}
    for batch in (1, 8):
        mine, theirs, whole = [], [], []
        for _ in range(rounds):
            seconds, said = timed(lambda: call(
                tool, "eval", fixture / "model.onnx", "--task", "sst2", "--data", data, "--max-length", SST2_LENGTH,
                "--batch", batch, "--json"))
            split = json.loads(said)["splits"][0]
            whole.append(seconds)
            mine.append(split["time"]["run_seconds"])
            seconds, answers = timed(lambda: python(batch))
            theirs.append(seconds)
            found["differ"] += sum(a != b for a, b in zip(split["answers"], answers, strict=True))
        found["runs"].append({"batch": batch, "onnxfix": mine, "onnxfix_whole": whole, "python": theirs})
    return found


def lengths(tool: Onnxfix, shared: Path, model: Path, scratch: Path, limit: int) -> dict:
    """The first samples of MNLI at one length and with several, and what is predicted for all of them on a 310P."""
    data, folder = shared / "data" / "mnli" / PART["match"], shared / "tokenizers" / "deberta-v3"
    common = ["eval", model, "--task", "mnli", "--data", data, "--tokenizer", folder, "--batch", 8, "--limit", limit,
              "--max-length", LENGTHS[-1], "--json"]
    one_length = scratch / "one"
    one = json.loads(call(tool, *common, "--output", one_length))
    several = json.loads(call(tool, *common, "--buckets", ",".join(map(str, LENGTHS)),
                              "--against", one_length / "result.json"))
    speeds = [run["splits"][0]["time"]["samples_per_second"] for run in (one, several)]
    out = scratch / "sorted"
    shutil.rmtree(out, ignore_errors=True)
    manifest = json.loads(call(tool, "prepare", "mnli", "--data", data, "--tokenizer", folder, "--batch", 8,
                               "--buckets", ",".join(map(str, LENGTHS)), "--output", out, "--json"))
    split = manifest["splits"][0]
    counts = {part["length"]: len(part["order"]) or split["samples"] for part in split["parts"]}
    shutil.rmtree(out)
    predicted = {length: predict(tool, model, scratch, length) for length in counts}
    batches = {length: math.ceil(count / 8) for length, count in counts.items()}
    sorted_seconds = sum(n * 8 / predicted[length] for length, n in batches.items())
    whole_seconds = math.ceil(split["samples"] / 8) * 8 / predicted[LENGTHS[-1]]
    return {
        "model": model.name, "limit": limit, "differ": len(several["differences"]),
        "cpu": {"one": speeds[0], "several": speeds[1]},
        "samples": split["samples"], "counts": counts, "predicted_fps": predicted,
        "npu_predicted": {"one": split["samples"] / whole_seconds, "several": split["samples"] / sorted_seconds},
    }


def predict(tool: Onnxfix, model: Path, scratch: Path, length: int) -> float:
    """Samples per second that are predicted for a 310P at batch 8."""
    out = scratch / f"bs8_seq{length}.onnx"
    names = [i.split()[0] for i in json.loads(call(tool, "inspect", model, "--json"))["inputs"]]
    shapes = ";".join(f"{name}:8,{length}" for name in names)
    call(tool, "optimize", model, "-o", out, "--input-shape", shapes)
    found = json.loads(call(tool, "inspect", out, "--soc", "Ascend310P3", "--json"))["prediction"]["fps"]["likely"]
    out.unlink()
    return found


def report(found: dict) -> str:
    """The tables."""
    median = statistics.median
    prepared, evaluated, sorted_ = found["prepare"], found["eval"], found["lengths"]
    lines = [f"{prepared['pairs']:,} pairs of MNLI, 256 tokens", "", "| | s | to encode_batch |", "| --- | ---: | ---: |"]
    for name, key in (("onnxfix prepare", "prepare"), ("encode_batch", "encode_batch"),
                      ("encode_batch, files by NumPy", "encode_batch_and_files")):
        ratios = (a / b for a, b in zip(prepared[key], prepared["encode_batch"], strict=True))
        lines.append(f"| {name} | {median(prepared[key]):.2f} | {median(ratios):.2f} |")
    lines += ["", f"{evaluated['samples']} sentences of SST-2, {evaluated['length']} tokens, the trained ConvBERT",
              "", "| batch | onnxfix eval, ms a sample | ONNX Runtime, ms a sample | ratio | onnxfix, all, s |",
              "| ---: | ---: | ---: | ---: | ---: |"]
    for run in evaluated["runs"]:
        each = [1000 * median(run[who]) / evaluated["samples"] for who in ("onnxfix", "python")]
        ratio = median(a / b for a, b in zip(run["onnxfix"], run["python"], strict=True))
        lines.append(f"| {run['batch']} | {each[0]:.2f} | {each[1]:.2f} | {ratio:.2f} | {median(run['onnxfix_whole']):.2f} |")
    if sorted_:
        lines += ["", f"MNLI in {sorted_['model']}, batch 8; on the CPU the first {sorted_['limit']} samples",
                  "", "| | one length, samples/s | " + ", ".join(map(str, LENGTHS)) + ", samples/s | gain |",
                  "| --- | ---: | ---: | ---: |"]
        for name, key in (("CPU, tract", "cpu"), ("310P, predicted", "npu_predicted")):
            one, several = sorted_[key]["one"], sorted_[key]["several"]
            lines.append(f"| {name} | {one:.2f} | {several:.2f} | {several / one:.2f} |")
        lines.append(f"\n{sorted_['differ']} samples answered otherwise")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a DeBERTa-v3 with open shapes; without it lengths are left out")
    parser.add_argument("--limit", type=int, default=160, help="samples that it runs on the CPU (default: 160)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="folder for files (default: a temporary one)")
    parser.add_argument("--onnxfix", help="the program [default: that of the target folder, or on the path]")
    parser.add_argument("--results", type=Path, default=RESULTS / "texts.json")
    arguments = parser.parse_args()
    shared = tokens.shared()
    if shared is None:
        print("texts: no data (neither $ONNXFIX_DATA nor ../shared has data and tokenizers)", file=sys.stderr)
        return 2
    try:
        tool = Onnxfix(arguments.onnxfix)
        if arguments.scratch:
            arguments.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            scratch = Path(folder)
            found = {"machine": machine(), "prepare": prepare(tool, shared, scratch, arguments.rounds),
                     "eval": evaluate(tool, shared, arguments.rounds), "lengths": None}
            if arguments.model:
                found["lengths"] = lengths(tool, shared, arguments.model, scratch, arguments.limit)
    except OracleError as error:
        print(f"texts: {error}", file=sys.stderr)
        return 2
    print(report(found))
    arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    differ = found["eval"]["differ"] + (found["lengths"] or {}).get("differ", 0)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
