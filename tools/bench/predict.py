#!/usr/bin/env python3
"""Holds the cost model of Ascend chips against published throughputs, and fits its few numbers.

Fits what operators reach of a chip's figures (`ascend/data/calibration.toml`) to `ascend/validation/published.toml`,
once with all models and once without each architecture, which gives the errors for models that the fit has not seen. Prints
Markdown tables and writes all figures to tools/bench/results/cost.json.

    python tools/bench/predict.py                 # fit, compare with the numbers in the repository
    python tools/bench/predict.py --write         # and store them
    python tools/bench/predict.py --models DIR    # and predict base-size models, as they are and optimized

Exit: 0 done, 1 the numbers in the repository are not those that the fit gives, 2 could not run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ROOT / "ascend" / "data" / "calibration.toml"
RESULTS = Path(__file__).resolve().parent / "results" / "cost.json"
# What is fitted, where the search begins, and what is possible.
FITTED = {
    "cube_efficiency": (0.6, 0.1, 1.0),
    # Of what the AI Cores get together; the memory itself has 1.42 times that.
    "memory_efficiency": (1.0, 0.2, 1.42),
    "cache_efficiency": (0.5, 0.05, 1.0),
    "vector_efficiency": (0.3, 0.02, 2.0),
    "overhead_us": (5.0, 0.5, 30.0),
}
# The only model with gathers, and the only one of its batches that is used: it says what one gathered element takes.
GATHERS, GATHERS_BATCH = "DeBERTa-v3-base", 8
# Errors beyond this (in logarithms) count linearly and not as squares, so that one odd figure does not bend the fit.
HUBER = 0.25
AIM = 0.30
# Lengths that are no multiple of this are slower for reasons that the model does not have: shown, but not fitted.
TILE = 16
# A fit in the repository may differ from a new one by this.
TOLERANCE = 0.02
MODELS = {"deberta_base_ts13": [256, 64], "msdeberta_base_ts12": [256, 64], "convbert_base_ts13": [128, 64]}
# An interval as wide as that says nothing about how much faster something else is.
UNKNOWN = 10
BATCHES = [1, 4, 8, 16, 32, 64]


def build() -> Path:
    """The program that predicts."""
    command = ["cargo", "build", "--quiet", "--release", "--locked", "-p", "onnxfix-ascend", "--example", "throughput"]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(2)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "throughput"


class Server:
    """Predicted microseconds of every point for any calibration."""

    def __init__(self, program: Path, base: dict):
        self.process = subprocess.Popen([program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(2)
        self.points, self.base = json.loads(line), base

    def times(self, numbers: dict) -> numpy.ndarray:
        self.process.stdin.write(json.dumps(self.base | numbers) + "\n")
        self.process.stdin.flush()
        return numpy.array(json.loads(self.process.stdout.readline()))


def fit(server: Server, chosen: numpy.ndarray) -> dict:
    """The numbers with the least squared errors of logarithms (Huber's loss, every model of equal weight), by
    Levenberg's and Marquardt's method."""
    published = numpy.log([point["published_us"] for point in server.points])
    models = numpy.array([point["model"] for point in server.points])
    weight = numpy.array([1 / numpy.sum(chosen & (models == model)) if use else 0.0
                          for model, use in zip(models, chosen, strict=True)])
    lower, upper = (numpy.log([limits[i] for limits in FITTED.values()]) for i in (1, 2))
    at = numpy.log([limits[0] for limits in FITTED.values()])

    def errors(x):
        numbers = dict(zip(FITTED, numpy.exp(x).tolist(), strict=True))
        return numpy.log(server.times(numbers)) - published

    def loss(error):
        size = numpy.abs(error)
        return float(numpy.sum(weight * numpy.where(size < HUBER, size**2, HUBER * (2 * size - HUBER))))

    error, damping = errors(at), 1e-2
    for _ in range(60):
        step = 1e-3
        jacobian = numpy.stack([(errors(at + step * one) - error) / step for one in numpy.eye(len(at))], axis=1)
        robust = weight * numpy.minimum(1, HUBER / numpy.maximum(numpy.abs(error), 1e-9))
        normal, slope = (jacobian.T * robust) @ jacobian, jacobian.T @ (robust * error)
        while damping < 1e6:
            moved = at - numpy.linalg.solve(normal + damping * numpy.diag(numpy.diag(normal) + 1e-6), slope)
            moved = numpy.clip(moved, lower, upper)
            tried = errors(moved)
            if loss(tried) < loss(error):
                break
            damping *= 4
        else:
            break
        gain, at, error, damping = loss(error) - loss(tried), moved, tried, damping / 4
        if gain < 1e-9:
            break
    return dict(zip(FITTED, numpy.exp(at).tolist(), strict=True))


def with_gathers(server: Server, numbers: dict) -> dict:
    """The same with the cycles of a gathered element that make the one batch right."""
    index = next(i for i, point in enumerate(server.points)
                 if point["model"] == GATHERS and point["batch"] == GATHERS_BATCH)
    low, high = 1.0, 10_000.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        if server.times(numbers | {"scalar_cycles": middle})[index] < server.points[index]["published_us"]:
            low = middle
        else:
            high = middle
    return numbers | {"scalar_cycles": low}


def validate(server: Server) -> dict:
    """The fit, and the errors of each model by a fit without it."""
    models = numpy.array([point["model"] for point in server.points])
    usable = (models != GATHERS) & numpy.array([point["seq"] % TILE == 0 for point in server.points])
    numbers = with_gathers(server, fit(server, usable))
    fitted = server.times(numbers)
    held_out = numpy.array(fitted)
    # Two samples of one architecture are left out together: either would tell of the other.
    graphs = numpy.array([point["graph"] for point in server.points])
    for graph in sorted(set(graphs[usable])):
        print(f"without {graph}", file=sys.stderr)
        without = fit(server, usable & (graphs != graph))
        held_out = numpy.where(graphs == graph, server.times(without), held_out)
    rows = []
    for point, ours, without in zip(server.points, fitted.tolist(), held_out.tolist(), strict=True):
        rows.append(point | {"fitted_us": ours, "held_out_us": without,
                             "is_fitted": point["model"] == GATHERS and point["batch"] == GATHERS_BATCH})
    ratios = [row["published_us"] / row["held_out_us"] for row in rows if _counts(row)]
    low, high = numpy.quantile(ratios, [0.05, 0.95])
    return {"numbers": numbers | {"low": float(low), "high": float(high)}, "points": rows}


def _counts(row: dict) -> bool:
    """Whether the prediction of a point is one, of a length that the model is meant for."""
    return not row["is_fitted"] and row["seq"] % TILE == 0


def error(row: dict) -> float:
    """Of the predicted samples per second, relative to the published ones."""
    return row["published_us"] / row["held_out_us"] - 1


def summary(rows: list[dict]) -> list[str]:
    """One row per model: errors of predictions that have not seen it."""
    lines = ["| model | points | median error | worst | within ±30 % |", "|---|---:|---:|---:|---:|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        lines.append(_errors(model, [error(row) for row in own if _counts(row)]))
        for seq in sorted({row["seq"] for row in own if row["seq"] % TILE}):
            lines.append(_errors(f"{model}, {seq} tokens", [error(row) for row in own if row["seq"] == seq]))
    lines.append(_errors(f"all of multiples of {TILE}", [error(row) for row in rows if _counts(row)]))
    return lines


def _errors(name: str, errors: list[float]) -> str:
    inside = sum(abs(value) <= AIM for value in errors)
    return (f"| {name} | {len(errors)} | {statistics.median(errors):+.0%} | {max(errors, key=abs):+.0%} "
            f"| {inside} of {len(errors)} |")


def table(rows: list[dict]) -> list[str]:
    """Every point."""
    lines = ["| model | sequence | batch | published fps | predicted fps | error |", "|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        published, predicted = (row["batch"] * 1e6 / row[key] for key in ("published_us", "held_out_us"))
        note = "fitted" if row["is_fitted"] else f"{error(row):+.0%}"
        lines.append(f"| {row['model']} | {row['seq']} | {row['batch']} | {published:.4g} | {predicted:.4g} | {note} |")
    return lines


def predictions(program: Path, folder: Path) -> dict:
    """Base-size models as they are and optimized."""
    found = {}
    for name, lengths in MODELS.items():
        file = folder / f"{name}.onnx"
        if not file.is_file():
            print(f"{file} is not there", file=sys.stderr)
            sys.exit(2)
        for seq in lengths:
            print(f"{name}, {seq}", file=sys.stderr)
            command = [program, "model", file, str(seq), ",".join(map(str, BATCHES))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                sys.exit(2)
            found[f"{name} seq {seq}"] = json.loads(done.stdout)
    return found


def prediction_table(found: dict) -> list[str]:
    lines = ["| model | batch | as exported, fps | optimized, fps | faster |", "|---|---:|---:|---:|---:|"]
    for name, rows in found.items():
        for batch in BATCHES:
            raw, ours = (next(row["is"]["fps"] for row in rows if row["batch"] == batch and row["optimized"] == wanted)
                         for wanted in (False, True))
            faster = f"{ours['likely'] / raw['likely']:.3g}×" if raw["high"] < UNKNOWN * raw["low"] else "not known"
            lines.append(f"| {name} | {batch} | {_interval(raw)} | {_interval(ours)} | {faster} |")
    return lines


def _interval(fps: dict) -> str:
    return f"{fps['likely']:.3g} ({fps['low']:.3g}–{fps['high']:.3g})"


def forms_table(rows: list[dict]) -> list[str]:
    """A layer of DeBERTa in several forms, relative to the first."""
    batches = sorted({row["batch"] for row in rows})
    lines = [f"| form | {' | '.join(f'batch {batch}' for batch in batches)} |", f"|---|{'---:|' * len(batches)}"]
    for form in dict.fromkeys(row["form"] for row in rows):
        cells = []
        for batch in batches:
            base = next(row["us"] for row in rows if row["batch"] == batch)
            own = next((row["us"] for row in rows if row["batch"] == batch and row["form"] == form), None)
            cells.append("–" if own is None else f"{own:.0f} µs ({own / base:.2f})")
        lines.append(f"| {form} | {' | '.join(cells)} |")
    return lines


def store(numbers: dict, stored: dict) -> None:
    """Writes the numbers, four digits each, with where they come from."""
    lines = [
        "# What operators reach of the figures of a chip, fitted by tools/bench/predict.py to the published throughputs",
        "# on Ascend310P3 of ascend/validation/published.toml: least squares of logarithms, each model of equal weight.",
        f"# Lengths that are no multiple of {TILE} are left out.",
        f"# `scalar_cycles` makes {GATHERS} at batch {GATHERS_BATCH} right. `low` and `high` are the 5 % and 95 % quantiles of",
        "# published to predicted time, over models that were left out of the fit. Nothing is published that would tell",
        "# `ai_cpu_us` and `ai_cpu_ns`: they are guesses. Half of that model's gathers run there, as the rules of the operator",
        "# say, so `scalar_cycles` depends on them.",
    ]
    for key, value in (stored | numbers).items():
        if key != "source":
            lines.append(f"{key} = {float(f'{value:.4g}')}")
    lines.append('source = "fitted to ascend/validation/published.toml by tools/bench/predict.py"')
    CALIBRATION.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store the fitted numbers in ascend/data")
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of base-size models with weights")
    arguments = parser.parse_args()
    stored = tomllib.loads(CALIBRATION.read_text())
    program = build()
    result = validate(Server(program, stored))
    numbers = result["numbers"]
    off = [key for key, value in numbers.items() if abs(stored[key] / value - 1) > TOLERANCE]
    if arguments.write:
        store(numbers, stored)
        program = build()
    print("\n".join([*summary(result["points"]), "", *table(result["points"])]))
    forms = json.loads(subprocess.run([program, "forms"], check=True, stdout=subprocess.PIPE).stdout)
    print("\n".join(["", *forms_table(forms)]))
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    result |= {"forms": forms, "models": before.get("models", {})}
    if arguments.models:
        result["models"] = predictions(program, arguments.models)
        print("\n".join(["", *prediction_table(result["models"])]))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(numbers, indent=1), file=sys.stderr)
    if off and not arguments.write:
        print(f"ascend/data/calibration.toml has other numbers for {', '.join(off)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
