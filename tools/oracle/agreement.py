#!/usr/bin/env python3
"""Whether tract, which `onnxfix verify` runs models on, and ONNX Runtime give the same numbers.

Each model, and what `onnxfix optimize` makes of it for both targets, runs in ONNX Runtime without its optimizations on
meaningful inputs. Inputs and outputs go into folders as ais_bench would have them, and `onnxfix verify --input
--expect` compares them with what tract computes. Prints a row for each model with the largest difference relative to the
spread of an output, and writes all rows to tools/oracle/results. Exit: 0 all agree, 1 one does not, 2 could not run.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy
import onnx
import onnxruntime

import graph as graphs
import inputs as meaningful
import runtime
from errors import OracleError
from tool import FIXTURES, Onnxfix, further_models, models_in

RESULTS = Path(__file__).resolve().parent / "results" / "agreement.json"
TARGETS = ("ascend310p3", "portable")
BATCH = 2
SEED = 3

# Both engines compute in float32 and add in another order.
TOLERANCE = 1e-5

ROW = "{:<40} {:<12} {:>8} {:>10}  {}"


def compare(model: Path, batches: list[dict], onnxfix: Onnxfix, folder: Path, shapes: dict) -> dict:
    """One model: its samples and ONNX Runtime's outputs into folders, and what `onnxfix verify` says of them."""
    session = runtime.Runner(graphs.load(model))
    samples, results = folder / "samples", folder / "results"
    for name in session.dtypes:
        (samples / name).mkdir(parents=True)
    results.mkdir()
    for at, batch in enumerate(batches):
        outputs = session.run(batch)
        for row in range(BATCH):
            sample = f"{at * BATCH + row:04}"
            for name, dtype in session.dtypes.items():
                numpy.save(samples / name / f"{sample}.npy", batch[name][row : row + 1].astype(dtype))
            for index, output in enumerate(outputs.values()):
                numpy.save(results / f"{sample}_{index}.npy", output[row : row + 1])
    folders = [str(samples / name) for name in session.dtypes]
    one_by_one = {name: [1, *shape[1:]] for name, shape in shapes.items()}
    shapes = meaningful.shape_argument(one_by_one if session.one_row_at_a_time else shapes)
    outcome = onnxfix.run(
        "verify", model, "--input-shape", shapes, "--rtol", TOLERANCE, "--json",
        "--input", *folders, "--expect", results,
    )  # fmt: skip
    if outcome.exit not in (0, 1):
        raise OracleError(outcome.says)
    report = json.loads(outcome.output)
    return {
        "samples": report["runs"]["sequences"],
        "relative": max(output["relative"] for output in report["outputs"]),
        "argmax": [output["argmax"] for output in report["outputs"] if output["argmax"]],
        "agree": report["equal"],
    }


def judge(path: Path, onnxfix: Onnxfix, folder: Path) -> list[dict]:
    """The rows of one file: as it is, and optimized for each target."""
    model = graphs.load(path)
    shapes = meaningful.input_shapes(model, BATCH)
    argument = meaningful.shape_argument(shapes)
    inputs = meaningful.describe(model, BATCH)
    batches = meaningful.batches(inputs, SEED)
    rows = []
    for target in ("as exported", *TARGETS):
        row = {"model": path.stem, "target": target}
        place = folder / f"{path.stem}.{target.replace(' ', '-')}"
        place.mkdir()
        candidate = path
        if target in TARGETS:
            candidate = place / "model.onnx"
            outcome = onnxfix.optimize(path, candidate, target, argument)
            if outcome.exit != 0:
                rows.append({**row, "skipped": outcome.says})
                continue
        try:
            rows.append({**row, **compare(candidate, batches, onnxfix, place, shapes)})
        except (OracleError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument) as error:
            rows.append({**row, "skipped": graphs.first_line(error)})
        except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException as error:
            rows.append({**row, "skipped": graphs.first_line(error)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="files or folders [default: fixtures/models and further models]")
    parser.add_argument("--onnxfix", help="the program [default: that of the target folder, or on the path]")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write the rows")
    arguments = parser.parse_args()
    try:
        onnxfix = Onnxfix(arguments.onnxfix)
        further = further_models()
        places = arguments.models or [str(FIXTURES), *([str(further)] if further else [])]
        models = models_in(places)
    except OracleError as error:
        print(f"agreement: {error}", file=sys.stderr)
        return 2
    print(ROW.format("model", "target", "samples", "relative", ""))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for at, path in enumerate(models):
            folder = Path(scratch) / str(at)
            folder.mkdir()
            for row in judge(path, onnxfix, folder):
                rows.append(row)
                verdict = "agree" if row.get("agree") else row.get("skipped", "DIFFER")
                relative = f"{row['relative']:.1e}" if "relative" in row else "-"
                print(ROW.format(row["model"], row["target"], row.get("samples", "-"), relative, verdict), flush=True)
    compared = [row for row in rows if "agree" in row]
    wrong = [row for row in compared if not row["agree"]]
    worst = max((row["relative"] for row in compared), default=0.0)
    print(f"{len(compared)} compared, {len(rows) - len(compared)} skipped, {len(wrong)} differ; at most {worst:.1e}")
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    arguments.results.parent.mkdir(exist_ok=True)
    summary = {"tolerance": TOLERANCE, "seed": SEED, "batch": BATCH, "versions": versions, "rows": rows}
    arguments.results.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
