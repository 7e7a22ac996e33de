#!/usr/bin/env python3
"""Runs `onnxfix optimize` on real exports and judges what it wrote, with ONNX Runtime as second opinion.

Each model is optimized for batch 1 and batch 3, for the default target and the portable one. Of every result this
checks the file itself (well formed, one opset, no shape arithmetic, every shape a number and true, the interface as
promised), its numbers against the original's on meaningful inputs, that optimizing again changes nothing, and that
`onnxfix verify` agrees. Exit: 0 all checks pass, 1 a check fails, 2 could not run.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import onnx

import graph as graphs
import inputs as meaningful
import runtime
import structure
from errors import OracleError
from tool import FIXTURES, Onnxfix, further_models, models_in

TARGETS = ("ascend310p3", "portable")
BATCHES = (1, 3)
SEEDS = (0, 1)

# The largest difference allowed, relative to the spread of the output over all samples.
TOLERANCE = 1e-5

# Paddle computed its own outputs with other kernels, so even the untouched graph differs a little more.
PADDLE_TOLERANCE = 1e-4

ROW = "{:<40} {:>5}  {:<12} {:>10} {:>14}  {}"


@dataclass
class Result:
    """What came out of all checks on one optimized file."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nodes_before: int = 0
    nodes_after: int | None = None
    worst: float | None = None

    def check(self, name: str, judge, *arguments) -> None:
        """Runs one check. It passes when it has nothing to complain about."""
        try:
            complaints = judge(*arguments)
        except Exception as error:  # A file that cannot even be judged has failed; any library may say so.
            complaints = [f"{type(error).__name__}: {graphs.first_line(error)}"]
        if complaints:
            more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
            self.failures.append(f"{name}: {complaints[0]}{more}")
        else:
            self.passed += 1


@dataclass
class Case:
    """One file, optimized for one batch and one target."""

    path: Path
    batch: int
    target: str
    seq: int = meaningful.DEFAULT_SEQ


def judge_case(case: Case, onnxfix: Onnxfix, folder: Path) -> Result:
    """All checks on one case. The files it makes are left in `folder`."""
    before = graphs.load(case.path)
    shapes = meaningful.input_shapes(before, case.batch, case.seq)
    result = Result(nodes_before=graphs.count_nodes(before))
    out = folder / f"{case.path.stem}.b{case.batch}.{case.target}.onnx"
    outcome = onnxfix.optimize(case.path, out, case.target, meaningful.shape_argument(shapes))
    if outcome.exit != 0:
        contradiction = _fixed_batch(before, shapes, case)
        if outcome.exit == 2 and contradiction:
            result.skipped.append(f"the file itself only works for another batch: {contradiction}")
        else:
            result.failures.append(f"optimize: exit {outcome.exit}: {outcome.says}")
        return result
    after = graphs.load(out)
    result.nodes_after = graphs.count_nodes(after)

    inputs = meaningful.describe(before, case.batch, case.seq)
    batches = [batch for seed in SEEDS for batch in meaningful.batches(inputs, seed)]
    result.check("valid", structure.check_is_valid, out)
    result.check("opset", structure.check_one_opset, after, case.target)
    result.check("fusable", structure.check_fusable, after, case.target)
    result.check("leftovers", structure.check_no_leftovers, after)
    result.check("expand", structure.check_no_idle_expand, after)
    result.check("static shapes", structure.check_shapes_are_static, after)
    result.check("true shapes", structure.check_shapes_are_true, after, batches[0])
    result.check("interface", structure.check_interface, before, after, shapes, case.target)
    if case.target != "portable":
        result.check("unfold", structure.check_unfold, before, after)
        result.check("NPU forms", structure.check_npu_forms, after)
    original = runtime.Runner(before)
    for name, level in (("numbers", runtime.NO_OPTIMIZATION), ("numbers in default ORT", runtime.DEFAULT_OPTIMIZATION)):
        result.check(name, check_numbers, original, after, level, batches, result)
    if meaningful.has_padding(inputs):
        result.check("all padding", check_all_padding, original, after, inputs, case.target)
    recorded = case.path.with_suffix(".npz")
    if recorded.is_file() and case.seq == meaningful.DEFAULT_SEQ:
        result.check("recorded outputs", check_recorded_outputs, original, after, recorded, result)
    result.check("same bytes twice", check_same_bytes, onnxfix, case, shapes, out)
    result.check("nothing left to do", check_idempotent, onnxfix, case, out)
    result.check("verify", check_verify, onnxfix, out)
    return result


def _fixed_batch(before: onnx.ModelProto, shapes: dict, case: Case) -> str | None:
    """Why the original cannot work for this batch, when all that is changed are its declared input shapes."""
    try:
        inputs = meaningful.describe(before, case.batch, case.seq)
        batch = meaningful.batches(inputs, seed=0)[0]
        rebatched = runtime.Runner(graphs.with_input_shapes(before, shapes)).run(batch)
        row_by_row = runtime.Runner(before).run(batch)
        differs = runtime.worst_difference(rebatched, row_by_row) > TOLERANCE
        return "its rows depend on each other" if differs else None
    except Exception as error:  # ONNX Runtime raises types that share no base class.
        return graphs.first_line(error)


def check_numbers(original: runtime.Runner, after: onnx.ModelProto, level, batches: list, result: Result) -> list[str]:
    """The optimized model gives the original's outputs, and the same label in every row."""
    expected = runtime.run_all(original, batches)
    actual = runtime.run_all(runtime.Runner(after, level), batches)
    complaints = []
    for name, numbers in expected.items():
        if name not in actual:
            return [f"output {name} is gone"]
        if numbers.dtype != actual[name].dtype:
            complaints.append(f"output {name} is {actual[name].dtype} instead of {numbers.dtype}")
        worst = runtime.relative_difference(actual[name], numbers)
        result.worst = max(worst, result.worst or 0.0)
        if not worst <= TOLERANCE:
            complaints.append(f"output {name} differs by {worst:.1e} of its spread{_where(actual[name], numbers)}")
        elif numbers.ndim > 1:
            changed = int((actual[name].argmax(axis=-1) != numbers.argmax(axis=-1)).sum())
            complaints.extend([f"output {name}: {changed} labels changed"] if changed else [])
    return complaints


def _where(actual: numpy.ndarray, expected: numpy.ndarray) -> str:
    """How many rows are off: one row points at its padding, all of them at the weights."""
    if actual.shape != expected.shape:
        return f": shape {list(actual.shape)} instead of {list(expected.shape)}"
    limit = TOLERANCE * numpy.ptp(expected)
    off = ~(numpy.abs(actual - expected) <= limit)
    rows = off.reshape(len(off), -1).any(axis=1)
    return f" in {int(rows.sum())} of {len(rows)} rows (first: row {int(rows.argmax())})"


def check_all_padding(original: runtime.Runner, after: onnx.ModelProto, inputs: list, target: str) -> list[str]:
    """A row without a real token stays finite, and equal where the mask's value is not the target's to choose."""
    batches = [meaningful.all_padding(inputs, seed) for seed in range(4)]
    actual = runtime.run_all(runtime.Runner(after), batches)
    complaints = [f"output {name} is not finite" for name in actual if not numpy.isfinite(actual[name]).all()]
    if target == "portable" and not complaints:
        expected = runtime.run_all(original, batches)
        # One row may be too few for a spread, so ordinary rows lend it theirs.
        ordinary = runtime.run_all(original, meaningful.batches(inputs, seed=0))
        for name, numbers in expected.items():
            spread = numpy.ptp(numpy.concatenate([numbers, ordinary[name]]))
            worst = float(numpy.abs(actual[name] - numbers).max() / spread)
            if not worst <= PADDLE_TOLERANCE:
                complaints.append(f"output {name} differs by {worst:.1e} of its spread")
    return complaints


def check_recorded_outputs(original: runtime.Runner, after: onnx.ModelProto, path: Path, result: Result) -> list[str]:
    """The outputs that the training framework itself gave for these inputs."""
    recorded = dict(numpy.load(path))
    names = [value.name for value in graphs.real_inputs(after.graph)]
    batch = graphs.dims(after.graph.input[0])[0]
    tensors = {name: numpy.repeat(recorded[name][:1], batch, axis=0) for name in names}
    wanted = [values for name, values in recorded.items() if name not in names]
    if len(wanted) != 1:
        return [f"{path.name} should hold one output, and holds {len(wanted)}"]
    expected = numpy.repeat(wanted[0][:1], batch, axis=0)
    output = original.outputs[0]
    ours = runtime.relative_difference(runtime.Runner(after).run(tensors)[output], expected)
    theirs = runtime.relative_difference(original.run(tensors)[output], expected)
    result.notes.append(f"against the recorded outputs: optimized {ours:.1e}, original {theirs:.1e} of the spread")
    # An export may itself be a little off; the optimized file must not be further off by more than rounding.
    allowed = max(PADDLE_TOLERANCE, theirs + TOLERANCE)
    return [] if ours <= allowed else [f"differs by {ours:.1e} of the spread, the original by {theirs:.1e}"]


def check_same_bytes(onnxfix: Onnxfix, case: Case, shapes: dict, out: Path) -> list[str]:
    """Nothing in the output depends on chance."""
    again = out.with_name(f"twice-{out.name}")
    outcome = onnxfix.optimize(case.path, again, case.target, meaningful.shape_argument(shapes))
    return _same_file(outcome, out, again)


def check_idempotent(onnxfix: Onnxfix, case: Case, out: Path) -> list[str]:
    """Optimizing the optimized file changes nothing."""
    again = out.with_name(f"again-{out.name}")
    return _same_file(onnxfix.optimize(out, again, case.target), out, again)


def _same_file(outcome, first: Path, second: Path) -> list[str]:
    if outcome.exit != 0:
        return [f"exit {outcome.exit}: {outcome.says}"]
    if first.read_bytes() == second.read_bytes():
        return []
    old, new = graphs.load(first), graphs.load(second)
    return [_first_difference(old, new)]


def _first_difference(old: onnx.ModelProto, new: onnx.ModelProto) -> str:
    """What to look at in two files that should be the same."""
    if len(old.graph.node) != len(new.graph.node):
        return f"{len(old.graph.node)} nodes became {len(new.graph.node)}"
    for first, second in zip(old.graph.node, new.graph.node):
        if first != second:
            return f"node {first.name or first.output[0]} ({first.op_type}) differs"
    parts = ("initializer", "value_info", "input", "output", "metadata_props")
    changed = [part for part in parts if list(getattr(old.graph, part)) != list(getattr(new.graph, part))]
    changed += ["the model's metadata_props"] if list(old.metadata_props) != list(new.metadata_props) else []
    return f"differs in {', '.join(changed) or 'encoding only'}"


def check_verify(onnxfix: Onnxfix, out: Path) -> list[str]:
    """`onnxfix verify` finds the file equal to its source."""
    outcome = onnxfix.run("verify", out)
    return [] if outcome.exit == 0 else [f"exit {outcome.exit}: {outcome.says}"]


def print_row(case: Case, result: Result) -> None:
    """One line for a case, and one more for each thing to know about it."""
    nodes = f"{result.nodes_before} → {'–' if result.nodes_after is None else result.nodes_after}"
    worst = "–" if result.worst is None else f"{result.worst:.1e}"
    verdict = f"{len(result.failures)} failed" if result.failures else "skipped" if result.skipped else "ok"
    print(ROW.format(case.path.name, case.batch, case.target, nodes, worst, verdict))
    for kind, lines in (("FAIL", result.failures), ("skip", result.skipped), ("note", result.notes)):
        for line in lines:
            print(f"    {kind}  {line}")
    sys.stdout.flush()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL_OR_DIR",
        help="what to optimize (default: fixtures/models, and a folder of further models: "
        "../shared/models or $ONNXFIX_DATA/models)",
    )
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--keep", metavar="DIR", help="leave the optimized files here (default: delete them)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; repeatable (default: both)")
    parser.add_argument("--batch", type=int, action="append", help="only this batch; repeatable (default: 1 and 3)")
    parser.add_argument(
        "--seq", type=int, default=meaningful.DEFAULT_SEQ, help="tokens where the length is open (default: %(default)s)"
    )
    return parser.parse_args()


def default_models() -> list[str]:
    """The fixtures, and further models where there are some."""
    places = [str(FIXTURES)]
    further = further_models()
    if further:
        places.append(str(further))
    else:
        print("no folder of further models (../shared/models or $ONNXFIX_DATA/models): fixtures only", file=sys.stderr)
    return places


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    paths = models_in(arguments.models or default_models())
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory(prefix="onnxfix-oracle-") as scratch:
        folder = Path(arguments.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(ROW.format("file", "batch", "target", "nodes", "max|Δ|/spread", "verdict"))
        for path in paths:
            for batch in arguments.batch or BATCHES:
                for target in arguments.target or TARGETS:
                    case = Case(path.resolve(), batch, target, arguments.seq)
                    result = judge_case(case, onnxfix, folder)
                    print_row(case, result)
                    passed += result.passed
                    failed += len(result.failures)
                    skipped += len(result.skipped)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


def main() -> int:
    try:
        return run(parse())
    except (OracleError, OSError) as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
