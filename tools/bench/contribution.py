#!/usr/bin/env python3
"""What each pass contributes: nodes, and time in ONNX Runtime, of a model that is optimized without it.

Optimizes one model with all passes and then with each pass left out that fired, and runs both results in turn, round
after round, on one thread. A pass that others build on takes their work with it, so the columns do not add up to the
whole. Exit: 0 done, 1 an output differs, 2 could not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers  # First, since it makes the oracle's modules known.
import graph as graphs
import inputs as meaningful
from errors import OracleError
from latency import measure
from optimize import RESULTS, fill, machine
from tool import Onnxfix


def optimize(onnxfix: Onnxfix, source: Path, out: Path, shape: str, without: str | None) -> tuple[list[str], int]:
    """The passes that fired, and how many nodes there are afterwards."""
    command = [str(onnxfix.binary), "optimize", str(source), "-o", str(out), "--target", "portable", "-q", "--json"]
    command += ["--input-shape", shape, *(["--skip-passes", without] if without else [])]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode != 0:
        raise OracleError(f"without {without}: {graphs.first_line(outcome.stderr)}")
    report = json.loads(outcome.stdout)
    return [p["pass"] for p in report["passes"] if p["rewrites"]], report["after"]["nodes"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="NAME", help="a base-size graph")
    parser.add_argument("--seq", type=int, default=256, help="tokens (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples in a run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each (default: %(default)s)")
    parser.add_argument("--scratch", metavar="DIR", help="keep the filled model here (default: a temporary folder)")
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--results", metavar="FILE", help="raw figures as JSON (default: results/contribution-NAME.json)")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    results = Path(arguments.results or RESULTS / f"contribution-{arguments.model}.json")
    raw = {"machine": machine(), "versions": peers.versions(), "model": arguments.model, "batch": arguments.batch,
           "seq": arguments.seq, "passes": []}
    with tempfile.TemporaryDirectory(prefix="onnxfix-contribution-") as temporary:
        scratch = Path(arguments.scratch or temporary).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        (source,) = fill(scratch, [arguments.model])
        model = graphs.load(source)
        shape = meaningful.shape_argument(meaningful.input_shapes(model, arguments.batch, arguments.seq))
        feeds = meaningful.batches(meaningful.describe(model, arguments.batch, arguments.seq), 0)[0]
        whole, part = Path(temporary) / "whole.onnx", Path(temporary) / "part.onnx"
        fired, nodes = optimize(onnxfix, source, whole, shape, None)
        raw["nodes"] = nodes
        for name in fired:
            print(f"without {name}", file=sys.stderr)
            try:
                _, left = optimize(onnxfix, source, part, shape, name)
                times, wrong = measure({"whole": whole, "part": part}, feeds, 1, arguments.rounds)
            # A model that cannot be made, or loaded, without a pass needs it.
            except (OracleError, RuntimeError) as error:
                raw["passes"].append({"pass": name, "error": graphs.first_line(str(error))})
                continue
            finally:
                part.unlink(missing_ok=True)
            ratio = statistics.median(p / w for p, w in zip(times["part"], times["whole"]))
            raw["passes"].append({"pass": name, "nodes": left, "time": ratio, "wrong": bool(wrong)})
    raw["passes"].sort(key=lambda p: -p.get("time", 0))
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"| without | nodes ({nodes} with all) | time, to that with all |")
    print("|---|---:|---:|")
    for entry in raw["passes"]:
        print(f"| {entry['pass']} | {entry.get('nodes', '–')} | {entry.get('error') or format(entry['time'], '.3f')} |")
    return 1 if any(entry.get("wrong") for entry in raw["passes"]) else 0


def main() -> int:
    try:
        return run(parse())
    except OracleError as error:
        print(f"contribution.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
