#!/usr/bin/env python3
"""Compares the reference evaluator with ONNX Runtime on random models.

`cargo run --release -p onnxfix-generate --example write -- DIR FIRST COUNT` writes models, inputs and what the
evaluator computes; this runs the same models in ONNX Runtime without optimization. Of each model the first value that
differs is told: those before it agree, so the node that makes it is what to look at. Exit: 0 all agree, 1 some differ,
2 could not run.
"""

import argparse
import collections
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper

from runtime import NO_OPTIMIZATION

ROOT = Path(__file__).resolve().parents[2]

# The largest difference from a value, relative to the largest number in it, by element type: accumulation and
# transcendental functions round differently.
TOLERANCE = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-6}

# Where ONNX Runtime does not do what the specification says, by operator: what both values look like then, and why.
DEVIATIONS = {
    "Cast": (lambda ours, theirs: ours.dtype.kind in "iu", "a float outside of an integer type's range is undefined"),
    "Clip": (lambda ours, theirs: numpy.isinf(ours).any(), "an infinity without a bound becomes the largest number"),
    "Gemm": (lambda ours, theirs: True, "beta is ignored where the inner dimension is 0"),
    "GroupNormalization": (lambda ours, theirs: numpy.isnan(theirs).any(), "equal elements get a negative variance"),
    "LogSoftmax": (lambda ours, theirs: numpy.isnan(ours).any(), "infinities do not all become NaN"),
    "ReduceLogSumExp": (lambda ours, theirs: numpy.isinf(ours).all(), "nothing is reduced over no elements"),
    "ReduceMax": (lambda ours, theirs: numpy.isnan(ours).any(), "a NaN is passed over"),
    "Tan": (lambda ours, theirs: numpy.abs(ours).max() > 10, "near a pole the last bit of the operand decides"),
    "ReduceMin": (lambda ours, theirs: numpy.isnan(ours).any(), "a NaN is passed over"),
}


def agree(ours: numpy.ndarray, theirs: numpy.ndarray) -> bool:
    """Whether both are the same value: integers exactly, floats within the tolerance, a NaN like a NaN."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    tolerance = TOLERANCE.get(ours.dtype.name)
    if tolerance is None:
        return bool(numpy.array_equal(ours, theirs))
    a, b = ours.astype(numpy.float64), theirs.astype(numpy.float64)
    finite = numpy.isfinite(a) & numpy.isfinite(b)
    if not numpy.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    largest = max(float(numpy.abs(a[finite]).max(initial=0.0)), 1e-3)
    return bool((numpy.abs(a[finite] - b[finite]) <= tolerance * largest).all())


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value of the main graph, in order."""
    return {output: node for node in graph.node for output in node.output if output}


def first_difference(path: Path) -> str | None:
    """The first value that differs and no deviation explains. Raises what ONNX Runtime raises."""
    model = onnx.load(path)
    data = {t.name: numpy_helper.to_array(t) for t in onnx.load(path.with_suffix(".data.onnx")).graph.initializer}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = NO_OPTIMIZATION
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    named = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    results = dict(zip(outputs, session.run(outputs, {name: data[f"feed {name}"] for name in named})))
    for name, node in producers(model.graph).items():
        if name in results and not agree(data[f"want {name}"], results[name]):
            ours, theirs = data[f"want {name}"], results[name]
            is_known, _reason = DEVIATIONS.get(node.op_type, (lambda ours, theirs: False, ""))
            if is_known(ours, theirs):
                return None
            return (
                f"{path}: {name} = {node.op_type}({', '.join(node.input)}): "
                f"ours {ours.dtype}{list(ours.shape)} {ours.ravel()[:12]}, theirs {theirs.dtype}{list(theirs.shape)} "
                f"{theirs.ravel()[:12]}"
            )
    return None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models go")
    parser.add_argument("--first", type=int, default=0, help="seed of the first model (default: 0)")
    parser.add_argument("--count", type=int, default=1000, help="number of models (default: 1000)")
    return parser.parse_args()


def main() -> int:
    args = parse()
    args.folder.mkdir(parents=True, exist_ok=True)
    command = ["cargo", "run", "--quiet", "--release", "-p", "onnxfix-generate", "--example", "write", "--"]
    written = subprocess.run([*command, str(args.folder), str(args.first), str(args.count)], cwd=ROOT, check=False)
    if written.returncode != 0:
        print("evaluator.py: no models were written", file=sys.stderr)
        return 2
    # An integer division by 0 ends the process that ONNX Runtime is in.
    pool = ProcessPoolExecutor(max_workers=1)
    counts: collections.Counter[str] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    for seed in range(args.first, args.first + args.count):
        path = args.folder / f"{seed}.onnx"
        if not path.is_file():
            continue
        try:
            difference = pool.submit(first_difference, path).result()
        except BrokenProcessPool:
            counts["ONNX Runtime crashed"] += 1
            pool = ProcessPoolExecutor(max_workers=1)
            continue
        except Exception as error:  # ONNX Runtime has a class for each status.
            counts["refused by ONNX Runtime"] += 1
            refusals[str(error).splitlines()[0][:160]] += 1
            continue
        if difference is None:
            counts["agree up to a known deviation"] += 1
        else:
            counts["differ"] += 1
            print(difference)
    for what, n in counts.most_common():
        print(f"{n:6} {what}")
    for what, n in refusals.most_common(15):
        print(f"{n:6} refused: {what}", file=sys.stderr)
    return 1 if counts["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
