#!/usr/bin/env python3
"""Latency on the CPU of what `onnxfix optimize --target portable` leaves, beside its peers' files.

Fills the base-size graphs as optimize.py does, lets every tool rewrite each, and runs all results in one process, one
after the other, round after round, so that a busy moment of the machine hits all of them. The engines are ONNX Runtime
and tract: as `onnxfix bench` runs it, and with tract's own optimizer as programs that use tract run it. Prints the median over the
rounds of the time relative to the first peer's (onnxsim's), which noise changes little, and the median time itself;
writes the raw figures to tools/bench/results. Outputs are compared on the way. Exit: 0 done, 1 an output differs,
2 could not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers  # First, since it makes the oracle's modules known.
import graph as graphs
import inputs as meaningful
import numpy
import onnxruntime
from errors import OracleError
from optimize import RESULTS, fill, machine
from tool import Onnxfix

# Largest difference, as a share of the spread of an output.
TOLERANCE = 1e-4


def rewrite(source: Path, folder: Path, shapes: dict, onnxfix: Onnxfix, wanted: list[str]) -> dict[str, Path]:
    """What each tool makes of one model."""
    commands = dict(peers.COMMANDS)
    made = {}
    for name in [*wanted, "onnxfix"]:
        out = folder / f"{name.replace(' ', '-')}.onnx"
        if name == "onnxfix":
            command = [str(onnxfix.binary), "optimize", str(source), "-o", str(out), "-q", "--target", "portable"]
            command += ["--input-shape", meaningful.shape_argument(shapes)]
        else:
            command = commands[name](source, out, shapes)
        print(f"{source.stem}: {name}", file=sys.stderr)
        outcome = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if outcome.returncode == 0 and out.is_file():
            made[name] = out
        else:
            print(f"{source.stem}: {name} failed: {graphs.first_line(outcome.stderr)}", file=sys.stderr)
    return made


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def measure(models: dict[str, Path], feeds: dict, threads: int, rounds: int) -> tuple[dict[str, list[float]], list[str]]:
    """Seconds of each round by tool, and which tools' outputs differ from the first one's."""
    sessions = {name: session(path, threads) for name, path in models.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    first, wrong = None, []
    for name, run in sessions.items():
        outputs = run.run(None, feeds)
        first = first or outputs
        spread = max(float(numpy.ptp(first[0])), 1e-9)
        if float(numpy.abs(first[0] - outputs[0]).max()) > TOLERANCE * spread:
            wrong.append(name)
    for _ in range(rounds):
        for name, run in sessions.items():
            start = time.perf_counter()
            run.run(None, feeds)
            times[name].append(time.perf_counter() - start)
    return times, wrong


def measure_tract(models: dict[str, Path], onnxfix: Onnxfix, flags: list[str], rounds: int) -> tuple[dict, list]:
    """As `measure`, in tract on one core; a file that tract does not run is left out."""
    def bench(paths: list[Path], count: int) -> dict | None:
        command = [str(onnxfix.binary), "bench", *map(str, paths), "--json", "-q", "--loop", str(count), *flags]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode == 0:
            return json.loads(outcome.stdout)
        print(f"{paths[0].stem}: tract: {graphs.first_line(outcome.stderr)}", file=sys.stderr)
        return None

    able = {name: path for name, path in models.items() if bench([path], 1)}
    report = bench(list(able.values()), rounds)
    if report is None:
        raise OracleError("tract ran each model, but not all of them in turn")
    timings = dict(zip(able, report["models"]))
    wrong = [name for name, t in timings.items() if t["difference"] is None or t["difference"] > TOLERANCE]
    return {name: t["seconds"] for name, t in timings.items()}, wrong


ENGINES = {"ort": None, "tract": [], "tract-optimizer": ["--tract-optimizer"]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME", help="base-size graphs (default: all)")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(ENGINES),
                        help="of ort, tract, tract-optimizer (default: all; tract on one thread)")
    parser.add_argument("--seq", type=int, default=256, help="tokens (default: %(default)s; 128 for ConvBERT)")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each (default: %(default)s)")
    parser.add_argument("--tools", type=lambda text: text.split(","), default=list(peers.COMMANDS), help="peers")
    parser.add_argument("--scratch", metavar="DIR", help="keep the filled models here (default: a temporary folder)")
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--results", metavar="FILE", default=str(RESULTS / "latency.json"), help="raw figures as JSON")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    raw = {"machine": machine(), "versions": peers.versions(), "runs": []}
    rows, differ = [], False
    with tempfile.TemporaryDirectory(prefix="onnxfix-latency-") as temporary:
        scratch = Path(arguments.scratch or temporary).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        for source in fill(scratch, arguments.models):
            seq = 128 if "convbert" in source.stem else arguments.seq
            model = graphs.load(source)
            for batch in arguments.batches:
                shapes = meaningful.input_shapes(model, batch, seq)
                feeds = meaningful.batches(meaningful.describe(model, batch, seq), 0)[0]
                made = rewrite(source, Path(temporary), shapes, onnxfix, arguments.tools)
                for engine, threads in runs(arguments):
                    if engine == "ort":
                        times, wrong = measure(made, feeds, threads, arguments.rounds)
                    else:
                        times, wrong = measure_tract(made, onnxfix, ENGINES[engine], arguments.rounds)
                    raw["runs"].append(
                        {"model": source.stem, "batch": batch, "seq": seq, "engine": engine, "threads": threads,
                         "seconds": times, "wrong": wrong}
                    )
                    rows.append(row(source.stem, batch, engine, threads, times, wrong))
                    print(rows[-1], file=sys.stderr)
                    differ = differ or bool(wrong)
                    results = Path(arguments.results)
                    results.parent.mkdir(parents=True, exist_ok=True)
                    results.write_text(json.dumps(raw, indent=1) + "\n")
                for path in made.values():
                    path.unlink()
    print("| model | batch | engine | threads | times, to that of the first tool | onnxfix to the best peer |")
    print("|---|---:|---|---:|---|---:|")
    print("\n".join(rows))
    return 1 if differ else 0


def runs(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Engines and threads: tract runs a model on one."""
    return [
        (engine, threads)
        for engine in arguments.engines
        for threads in (arguments.threads if engine == "ort" else [1])
    ]


def row(name: str, batch: int, engine: str, threads: int, times: dict[str, list[float]], wrong: list[str]) -> str:
    base = next(iter(times.values()))
    to_base = {tool: statistics.median(t / b for t, b in zip(own, base)) for tool, own in times.items()}
    cells = [
        f"{tool} {ratio:.2f} ({statistics.median(times[tool]) * 1000:.0f} ms){' WRONG' if tool in wrong else ''}"
        for tool, ratio in to_base.items()
    ]
    others = [tool for tool in times if tool != "onnxfix"]
    best = "–"
    if others and "onnxfix" in times:
        peer = min(others, key=lambda tool: to_base[tool])
        best = f"{statistics.median(t / b for t, b in zip(times['onnxfix'], times[peer])):.2f}"
    return f"| {name} | {batch} | {engine} | {threads} | {', '.join(cells)} | {best} |"


def main() -> int:
    try:
        return run(parse())
    except OracleError as error:
        print(f"latency.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
