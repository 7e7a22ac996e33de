#!/usr/bin/env python3
"""Runs `onnxfix optimize` on ONNX's own backend cases and judges what it wrote.

Each case is taken as it is, with all its inputs turned into initializers, and with each single one, so that inference,
evaluation and folding of every operator are met. What a model computes is asked of ONNX Runtime, or of ONNX's reference
evaluator where ONNX Runtime lacks it, provided that it gives what the case itself expects. Prints a table and every
failure. Exit: 0 nothing is wrong, 1 something is, 2 could not run.
"""

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import onnx

import cases as backend
import engines
import graph as graphs
import inputs as meaningful
from errors import OracleError
from tool import Onnxfix

TARGETS = ("portable", "ascend310p3")
ENGINES = (engines.OnnxRuntime(), engines.Reference())

# Two evaluations of one formula may round differently a few times. What is not listed has to be equal.
RTOL = {"float64": 2.0**-44, "complex128": 2.0**-44, "float32": 2.0**-18, "complex64": 2.0**-18, "float16": 2.0**-9,
        "bfloat16": 2.0**-6}

# The pass of an NPU target that computes doubles in float32.
NARROWS = "narrow-doubles"
# Their inputs an NPU target makes int32.
NARROWED = {onnx.TensorProto.INT64, onnx.TensorProto.UINT64}

# Values decide what shape comes out of them, so that no inference from types can know it.
SHAPED_BY_VALUES = {
    "BlackmanWindow", "Compress", "ConstantOfShape", "HammingWindow", "HannWindow", "ImageDecoder", "NonMaxSuppression",
    "NonZero", "Range", "StringNormalizer", "StringSplit", "Unique",
}

# Inputs whose values, not only their shapes, are in an output's shape. Where they are known only when the model runs, no
# inference can know it either.
SHAPE_OPERANDS = {
    "AffineGrid": [1], "CenterCropPad": [1], "Col2Im": [1, 2], "DFT": [1], "Expand": [1], "If": [0], "Loop": [0, 1],
    "MaxUnpool": [2], "MelWeightMatrix": [0, 1], "OneHot": [1], "Pad": [1, 3], "ReduceL1": [1], "ReduceL2": [1],
    "ReduceLogSum": [1], "ReduceLogSumExp": [1], "ReduceMax": [1], "ReduceMean": [1], "ReduceMin": [1],
    "ReduceProd": [1], "ReduceSum": [1], "ReduceSumSquare": [1], "Reshape": [1], "Resize": [1, 2, 3], "STFT": [1, 3],
    "SequenceAt": [1], "Slice": [1, 2, 3, 4], "Split": [1], "SplitToSequence": [1], "Squeeze": [1], "Tile": [1],
    "TopK": [1], "Unsqueeze": [1], "Upsample": [1],
}

# More values than this are not shown one by one.
MOST_INNER_VALUES = 200


@dataclass
class Judge:
    """What the model of a case gives, and who says so. Without an engine, only the case itself does."""

    engine: object | None
    outputs: list[dict]
    why_not: str = ""
    is_random: bool = False


@dataclass
class Verdict:
    """What came out of one variant of a case for one target."""

    set: str
    case: str
    target: str
    variant: str
    judge: str = ""
    changed: bool = False
    folded: bool = False
    refused: str | None = None
    unjudged: str | None = None
    failure: str | None = None
    reproduce: str | None = None
    shapes: list["Shapes"] = field(default_factory=list)


@dataclass
class Shapes:
    """How many outputs are tensors, and of how many each dimension is inferred: by onnxfix, by ONNX's own inference."""

    constant: str
    outputs: int = 0
    inferred: int = 0
    by_onnx: int = 0
    # Inferred by neither, in a model with an operator whose output's shape is in the values of its inputs.
    by_values: int = 0
    open: list[str] = field(default_factory=list)


def own_rtol(dtype: numpy.dtype) -> float:
    """The share of a tensor's largest number by which two evaluations of it may differ."""
    return RTOL.get(dtype.name, 0.0)


def ask(case: backend.Case) -> Judge:
    """The first engine that gives what the case expects."""
    if _random_nodes(case.model):
        return Judge(None, [], "its numbers are random", is_random=True)
    if case.problem or not case.samples:
        return Judge(None, [], case.problem or "the case has no data")
    reasons = []
    for engine in ENGINES:
        try:
            outputs = [engine.run(case.model, sample.inputs) for sample in case.samples]
        except Exception as error:  # Engines raise types that share no base class.
            reasons.append(f"{engine.name}: {graphs.first_line(error)[:160]}")
            continue
        wrong = [found for sample, given in zip(case.samples, outputs) if (found := _unexpected(case, sample, given))]
        if not wrong:
            return Judge(engine, outputs, "; ".join(reasons))
        reasons.append(f"{engine.name}: {wrong[0]}")
    return Judge(None, [], "; ".join(reasons))


def _unexpected(case: backend.Case, sample: backend.Sample, given: dict) -> str | None:
    def rtol(dtype: numpy.dtype) -> float:
        return max(case.rtol, own_rtol(dtype))

    for name, expected in sample.outputs.items():
        found = engines.difference(given.get(name), expected, rtol, case.atol)
        if found:
            return f"output {name} {found}"
    return None


def _random_nodes(model: onnx.ModelProto) -> int:
    functions = (node for function in model.functions for node in function.node)
    return sum(node.op_type in graphs.RANDOM for node in [*graphs.all_nodes(model.graph), *functions])


class Trial:
    """Judges cases. Its files are made in `folder`; models that fail are kept in `keep`."""

    def __init__(self, onnxfix: Onnxfix, targets: tuple[str, ...], folder: Path, keep: Path):
        self.onnxfix, self.targets, self.folder, self.keep = onnxfix, targets, folder, keep

    def judge_case(self, case: backend.Case) -> list[Verdict]:
        """One verdict for each variant and target."""
        judge = ask(case)
        verdicts = []
        for variant in backend.variants(case):
            is_valid = _is_valid(variant.model)
            for target in self.targets:
                verdicts.append(self._judge(case, variant, target, judge, is_valid))
        return verdicts

    def _judge(self, case, variant, target: str, judge: Judge, is_valid: bool) -> Verdict:
        verdict = Verdict(case.set, case.name, target, variant.name)
        verdict.judge = judge.engine.name if judge.engine else ""
        stem = f"{case.name}.{variant.name.replace(': ', '-').replace(' ', '-').replace('/', '_')}"
        source, out = (self.folder / f"{os.getpid()}.{end}.onnx" for end in ("source", "opt"))
        onnx.save(variant.model, str(source))
        shapes = _open_shapes(case, variant) if target != "portable" else {}
        argument = meaningful.shape_argument(shapes) if shapes else None
        try:
            self._fill(verdict, case, variant, target, judge, is_valid, source, out, argument)
        except Exception as error:  # A file that cannot even be judged has failed; any library may say so.
            verdict.failure = f"{type(error).__name__}: {graphs.first_line(error)}"
        if verdict.failure:
            self.keep.mkdir(parents=True, exist_ok=True)
            kept = self.keep / f"{stem}.onnx"
            shutil.copyfile(source, kept)
            command = ["onnxfix", "optimize", str(kept), "-o", "/tmp/out.onnx", "--target", target]
            verdict.reproduce = shlex.join(command + (["--input-shape", argument] if argument else []))
        return verdict

    def _fill(self, verdict, case, variant, target, judge, is_valid, source, out, argument) -> None:
        outcome = self.onnxfix.optimize(source, out, target, argument, "--json")
        if outcome.exit == 2:
            verdict.refused = outcome.says.replace(str(source), case.name).replace(str(out), "OUT")
            verdict.failure = _wrong_refusal(verdict, variant.model, target, judge)
            return
        if outcome.exit != 0:
            verdict.failure = f"exit {outcome.exit}: {outcome.says}"
            return
        after = onnx.load(str(out))
        rewrites = {entry["pass"]: entry["rewrites"] for entry in json.loads(outcome.output)["passes"]}
        verdict.folded = rewrites.get("fold-constants", 0) > 0
        verdict.changed = _nodes(variant.model) != _nodes(after)
        rounds = rewrites.get(NARROWS, 0) > 0
        verdict.failure = (
            (_invalid(out) if is_valid else None)
            or interface_difference(variant.model, after, target)
            or _lost_random(variant.model, after)
            or self._wrong_numbers(verdict, case, variant, after, judge, argument is not None, rounds)
        )
        if not verdict.failure and variant.name == "as it is" and target == "portable" and case.samples:
            verdict.failure = self._wrong_inference(verdict, case, source, out)

    def _wrong_numbers(self, verdict, case, variant, after, judge, first_only: bool, rounds: bool) -> str | None:
        samples = case.samples[:1] if variant.constant or first_only else case.samples
        if judge.engine is None:
            verdict.unjudged = judge.why_not
            # What is constant altogether can be read without an engine.
            if after.graph.node or judge.is_random or not case.samples:
                return None
            verdict.unjudged = None
            stored = {tensor.name: graphs.array(tensor) for tensor in after.graph.initializer}
            return _unexpected(case, case.samples[0], stored)
        for sample, expected in zip(samples, judge.outputs):
            given = sample.inputs
            if rounds:
                # The pass says that doubles are rounded to float32, and infinite where that has no such number.
                given = {name: _rounded(tensor) for name, tensor in given.items()}
                expected = judge.engine.run(variant.model, given)
            feeds = _cast_feeds(after, given)
            if feeds is None:
                verdict.unjudged = "its values do not fit int32"
                return None
            rtol = _rtol_of_rounded if rounds else own_rtol
            found = self._run_differs(verdict, variant, after, judge.engine, feeds, given, expected, rtol)
            found = found or false_shapes(after.graph.output, expected)
            if found or verdict.unjudged:
                return found
            if judge.engine is ENGINES[0]:
                found = _false_inner_shapes(after, judge.engine, feeds)
                if found:
                    return found
        return None

    def _run_differs(
        self, verdict, variant, after, engine, feeds: dict, given: dict, expected: dict, rtol
    ) -> str | None:
        """Why the optimized model does not give the expected outputs. The engine may be at fault: it is asked twice."""
        try:
            outputs = engine.run(after, feeds)
            found = _differs(outputs, expected, rtol)
            if not found:
                return None
        except Exception as error:  # Engines raise types that share no base class.
            outputs, found = None, f"{engine.name} does not run the result: {graphs.first_line(error)}"
        try:
            unchanged = engine.run(variant.model, given)
        except Exception as error:  # As above.
            verdict.unjudged = f"{engine.name} does not run the variant either: {graphs.first_line(error)[:160]}"
            return None if outputs is None else found
        return found if outputs is None else _differs(outputs, unchanged, rtol)

    def _wrong_inference(self, verdict: Verdict, case, source: Path, out: Path) -> str | None:
        """Counts the output shapes that are inferred when the file states none of them; says which one is wrong.

        Many operators read their output's shape from a second input, so the count is made again with constants there.
        """
        for constant, model in (("no", case.model), ("all but the first", backend.with_constant_operands(case))):
            bare = backend.without_declared_shapes(model)
            onnx.save(bare, str(source))
            outcome = self.onnxfix.optimize(source, out, "portable", None, "--json")
            if outcome.exit != 0:
                return f"without declared shapes: exit {outcome.exit}: {outcome.says}"
            counted, found = _count_shapes(onnx.load(str(out)), bare, case.samples[0].outputs)
            counted.constant = constant
            verdict.shapes.append(counted)
            if found:
                return f"without declared shapes: {found}"
        return None


def _count_shapes(after: onnx.ModelProto, bare: onnx.ModelProto, real: dict) -> tuple[Shapes, str | None]:
    counted = Shapes("")
    by_onnx = _inferred_by_onnx(bare)
    has_values_for_shapes = _is_shaped_by_values(bare.graph)
    for value in after.graph.output:
        if not value.type.HasField("tensor_type") or not isinstance(real.get(value.name), numpy.ndarray):
            continue
        shape = graphs.dims(value)
        counted.outputs += 1
        ours, theirs = graphs.is_static(shape), graphs.is_static(by_onnx.get(value.name))
        counted.inferred += ours
        counted.by_onnx += theirs
        counted.by_values += has_values_for_shapes and not ours and not theirs
        if not graphs.is_static(shape):
            counted.open.append(f"{value.name}{shape if shape is not None else ''}")
    return counted, false_shapes(after.graph.output, real)


def _is_shaped_by_values(graph: onnx.GraphProto) -> bool:
    """Whether values that are not known before the model runs decide a shape."""
    given = {value.name for value in graphs.real_inputs(graph)}
    for node in graphs.all_nodes(graph):
        operands = (node.input[slot] for slot in SHAPE_OPERANDS.get(node.op_type, []) if slot < len(node.input))
        if node.op_type in SHAPED_BY_VALUES or any(name in given for name in operands):
            return True
    return False


def _wrong_refusal(verdict: Verdict, model: onnx.ModelProto, target: str, judge: Judge) -> str | None:
    """Under `portable` nothing that runs may be refused; elsewhere a refusal has to name what is in the way."""
    says = verdict.refused or ""
    if "internal error" in says:
        return f"refused by an internal error: {says}"
    if target == "portable" and judge.engine is ENGINES[0]:
        return f"refused: {says}"
    named = {node.op_type for node in graphs.all_nodes(model.graph)} | {value.name for value in model.graph.input}
    return None if any(name and name in says for name in named) else f"the refusal names no operator or input: {says}"


def interface_difference(before: onnx.ModelProto, after: onnx.ModelProto, target: str) -> str | None:
    """Names, order and types are kept; an NPU target makes 64-bit integer inputs int32."""
    old, new = graphs.real_inputs(before.graph), graphs.real_inputs(after.graph)
    for what, ours, theirs in (("inputs", old, new), ("outputs", before.graph.output, after.graph.output)):
        names = [[value.name for value in values] for values in (ours, theirs)]
        if names[0] != names[1]:
            return f"{what} are {names[1]} instead of {names[0]}"
        for source, result in zip(ours, theirs):
            want, have = source.type.WhichOneof("value"), result.type.WhichOneof("value")
            if want is not None and want != have:
                return f"{source.name} is a {have} instead of a {want}"
            if want != "tensor_type":
                continue
            allowed = {graphs.element_type(source)}
            if what == "inputs" and target != "portable" and allowed & NARROWED:
                allowed = allowed | {onnx.TensorProto.INT32}
            if graphs.element_type(result) not in allowed:
                return f"{source.name} changed its element type"
    return None


def _lost_random(before: onnx.ModelProto, after: onnx.ModelProto) -> str | None:
    old, new = _random_nodes(before), _random_nodes(after)
    return f"{old} random nodes became {new}" if old != new else None


def _rtol_of_rounded(dtype: numpy.dtype) -> float:
    """As `own_rtol`, where doubles were computed in float32."""
    return own_rtol(numpy.dtype("float32") if dtype == numpy.float64 else dtype)


def _rounded(tensor):
    """Doubles with the digits of float32."""
    if not isinstance(tensor, numpy.ndarray) or tensor.dtype != numpy.float64:
        return tensor
    with numpy.errstate(over="ignore"):
        return tensor.astype(numpy.float32).astype(numpy.float64)


def _differs(outputs: dict, expected: dict, rtol) -> str | None:
    for name, value in expected.items():
        found = engines.difference(outputs.get(name), value, rtol)
        if found:
            return f"output {name} {found}"
    return None


def false_shapes(stated, real: dict) -> str | None:
    """The first value whose stated type or shape is not what really came out."""
    for value in stated:
        actual = real.get(value.name)
        if not value.type.HasField("tensor_type") or not isinstance(actual, numpy.ndarray):
            continue
        shape = graphs.dims(value)
        if shape is None:
            continue
        fits = len(shape) == actual.ndim and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(shape, actual.shape)
        )
        if not fits:
            return f"{value.name} states {shape}, and is {list(actual.shape)}"
    return None


def _false_inner_shapes(after: onnx.ModelProto, engine, feeds: dict) -> str | None:
    written = {name for node in after.graph.node for name in node.output}
    public = {value.name for value in after.graph.output}
    stated = [value for value in after.graph.value_info if value.name in written - public]
    stated = [value for value in stated if value.type.HasField("tensor_type")]
    if not stated or len(stated) > MOST_INNER_VALUES:
        return None
    shown = copy.deepcopy(after)
    for value in stated:
        shown.graph.output.add().CopyFrom(value)
    try:
        real = engine.run(shown, feeds)
    except Exception:  # An element type that an engine cannot show says nothing about the model.
        return None
    return false_shapes(stated, real)


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
        return True
    except Exception:  # The checker raises several types.
        return False


def _invalid(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
        return None
    except Exception as error:  # As above.
        return f"onnx.checker: {graphs.first_line(error)}"


def _inferred_by_onnx(model: onnx.ModelProto) -> dict:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # An operator that it does not know ends its inference.
        return {}
    return {value.name: graphs.dims(value) for value in inferred.graph.output}


def _open_shapes(case: backend.Case, variant: backend.Variant) -> dict[str, list[int]]:
    """What `--input-shape` has to say for a target of static shapes: inputs whose declared shape is open."""
    if not case.samples:
        return {}
    found = {}
    for value in graphs.real_inputs(variant.model.graph):
        given = case.samples[0].inputs.get(value.name)
        is_open = value.type.HasField("tensor_type") and not graphs.is_static(graphs.dims(value))
        if is_open and isinstance(given, numpy.ndarray) and given.ndim:
            found[value.name] = list(given.shape)
    return found


def _cast_feeds(model: onnx.ModelProto, given: dict) -> dict | None:
    """The inputs as the model takes them, or None where an integer does not fit."""
    feeds = {}
    for value in graphs.real_inputs(model.graph):
        tensor = given.get(value.name)
        if not isinstance(tensor, numpy.ndarray) or graphs.element_type(value) != onnx.TensorProto.INT32:
            feeds[value.name] = tensor
            continue
        feeds[value.name] = tensor.astype(numpy.int32)
        if not numpy.array_equal(feeds[value.name], tensor):
            return None
    return {name: tensor for name, tensor in feeds.items() if name in given}


def _nodes(model: onnx.ModelProto) -> list[bytes]:
    """The nodes without what passes note in them."""
    found = []
    for node in model.graph.node:
        plain = copy.deepcopy(node)
        del plain.metadata_props[:]
        found.append(plain.SerializeToString(deterministic=True))
    return found


def table(verdicts: list[Verdict]) -> str:
    """The figures by set and target, as a Markdown table."""
    figures = ("changed", "folded", "refused", "not run by ONNX Runtime", "not judged", "failed")
    head = ("set", "target", "cases", "variants", *figures)
    rows = [head, ("---", "---", *("---:" for _ in head[2:]))]
    sets = list(dict.fromkeys(verdict.set for verdict in verdicts))
    for name in [*sets, *(["all"] if len(sets) > 1 else [])]:
        for target in dict.fromkeys(verdict.target for verdict in verdicts):
            some = [v for v in verdicts if v.target == target and name in (v.set, "all")]
            rows.append((
                name, target, len({(v.set, v.case) for v in some}), len(some), *(f"{sum(map(of, some)):,}" for of in (
                    lambda v: v.changed, lambda v: v.folded, lambda v: v.refused is not None,
                    lambda v: v.judge != ENGINES[0].name, lambda v: v.unjudged is not None,
                    lambda v: v.failure is not None)),
            ))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def shape_share(verdicts: list[Verdict]) -> str:
    """How many output shapes inference finds in the cases as they are, their declared shapes removed."""
    head = ("constant inputs", "outputs", "shaped by values", "inferred, of the rest", "by ONNX's own inference")
    rows = [head, ("---", *["---:"] * 4)]
    counts = [shapes for verdict in verdicts for shapes in verdict.shapes]
    for constant in dict.fromkeys(shapes.constant for shapes in counts):
        some = [shapes for shapes in counts if shapes.constant == constant]
        outputs, by_values, ours, theirs = (
            sum(getattr(shapes, what) for shapes in some) for what in ("outputs", "by_values", "inferred", "by_onnx")
        )
        rest = max(outputs - by_values, 1)
        shares = (f"{count:,} ({count / rest:.1%})" for count in (ours, theirs))
        rows.append((constant, f"{outputs:,}", str(by_values), *shares))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def print_report(verdicts: list[Verdict], verbose: bool) -> None:
    print(table(verdicts))
    print()
    print("Graph outputs of the cases as they are whose every dimension is inferred, declared shapes removed:\n")
    print(shape_share(verdicts))
    failures = [verdict for verdict in verdicts if verdict.failure]
    for verdict in failures:
        print(f"\nFAIL  {verdict.case} ({verdict.variant}, {verdict.target}): {verdict.failure}")
        print(f"      {verdict.reproduce}")
    if verbose:
        lines = Counter()
        for v in verdicts:
            notes = [("refused", v.refused), ("not judged", v.unjudged)]
            notes += [(f"open shape, {some.constant} inputs constant:", ", ".join(some.open)) for some in v.shapes]
            for what, text in notes:
                if text:
                    lines[f"{what}  {v.case} ({v.target}): {text}"] += 1
        print()
        for line, count in lines.items():
            print(f"{count:>3}×  {line}")
    print(f"\n{len(verdicts) - len(failures)} passed, {len(failures)} failed")


def chosen(found: list[backend.Case], names: list[str] | None, sample: int | None) -> list[backend.Case]:
    """The cases that are asked for. A sample is the same in each run, whatever the order of the cases."""
    if names:
        known = {case.name for case in found}
        missing = [name for name in names if name not in known]
        if missing:
            raise OracleError(f"no case is called {', '.join(missing)}")
        found = [case for case in found if case.name in names]
    if sample is not None:
        order = sorted(found, key=lambda case: hashlib.sha256(case.name.encode()).digest())
        kept = {id(case) for case in order[:sample]}
        found = [case for case in found if id(case) in kept]
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; repeatable (default: both)")
    parser.add_argument("--case", metavar="NAME", action="append", help="only this one; repeatable")
    parser.add_argument("--sample", type=int, metavar="N", help="only N cases, the same in each run (default: all)")
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="DIR",
        help="cases from a folder laid out as onnx/backend/test/data (default: those of the installed onnx package)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        default=Path(tempfile.gettempdir()) / "onnxfix-conformance",
        help="where models that fail are kept (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also list what was refused, not judged or not inferred"
    )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    found = backend.in_folders(arguments.cases) if arguments.cases else backend.installed()
    found = chosen(found, arguments.case, arguments.sample)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="onnxfix-conformance-") as scratch:
        trial = Trial(onnxfix, tuple(arguments.target or TARGETS), Path(scratch).resolve(), arguments.keep.resolve())
        # Forked workers share the cases, which take half a minute to make.
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork"), _adopt, (trial, found)) as pool:
            for done in pool.map(_judge_at, range(len(found)), chunksize=4):
                verdicts.extend(done)
    print_report(verdicts, arguments.verbose)
    return 1 if any(verdict.failure for verdict in verdicts) else 0


_WORK: tuple[Trial, list[backend.Case]] | None = None


def _adopt(trial: Trial, found: list[backend.Case]) -> None:
    global _WORK
    _WORK = (trial, found)


def _judge_at(index: int) -> list[Verdict]:
    trial, found = _WORK
    return trial.judge_case(found[index])


def main() -> int:
    try:
        return run(parse())
    except BrokenProcessPool:
        print("conformance.py: error: a process died, so ONNX Runtime crashed on a model; run with --jobs 1 and --case "
              "to find which", file=sys.stderr)
        return 2
    except (OracleError, OSError) as error:
        print(f"conformance.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
