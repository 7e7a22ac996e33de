#!/usr/bin/env python3
"""Plants faults into optimized models and asks whether `onnxfix verify` notices.

Each fault is one that a wrong rewrite, or a damaged file, could really leave behind: a changed weight or embedding
row, swapped outputs, a mask of 0, a dropped tap of a window, a missing scale, swapped tables, positions off by one.
`verify` must exit with 1 on every one of them. The effect of a fault is measured in ONNX Runtime as well: a change to
a tensor that a rewrite computed anew, and that moves no output by more than the tolerance of `verify`, is not a fault.
Exit: 0 every fault is noticed and every kind occurs, 1 not so, 2 could not run.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import onnx

import graph as graphs
import inputs as meaningful
import runtime
import structure
from errors import OracleError
from tool import FIXTURES, Onnxfix, models_in

BATCH = 2

# What `onnxfix verify` allows, relative to the spread of an output.
VERIFY_TOLERANCE = 1e-4

KINDS = (
    "changed weight",
    "flipped bit",
    "changed embedding row",
    "swapped outputs",
    "mask of 0",
    "dropped tap",
    "missing scale",
    "swapped tables",
    "position off by one",
)

# Smaller tensors are shape vectors, scalars and the like.
LARGE = 64

# How far the node with the bias of a window's taps may be from their Softmax.
MOST_STEPS_TO_SOFTMAX = 12
# Softmaxes over more than this are not over the taps of a window.
MOST_TAPS = 15
# Nodes that read by position whose position is shifted, in one file.
MOST_SHIFTED = 8

ROW = "{:<36} {:<22} {:<44} {:>9}  {}"


@dataclass
class Mutant:
    """A model with one fault."""

    kind: str
    place: str
    model: onnx.ModelProto
    # Whether the damaged tensor came from the source untouched, where any change at all is a fault.
    is_source_tensor: bool = False


@dataclass
class Pair:
    """A source and its optimized file."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    source_tensors: set[bytes]

    def copy(self) -> onnx.ModelProto:
        """The optimized model, to damage."""
        model = onnx.ModelProto()
        model.CopyFrom(self.after)
        return model

    def is_from_source(self, values: numpy.ndarray) -> bool:
        """Whether the source holds the very same numbers."""
        return _content(values) in self.source_tensors


def _content(values: numpy.ndarray) -> bytes:
    return f"{values.dtype}{values.shape}".encode() + values.tobytes()


def changed_weights(pair: Pair) -> Iterator[Mutant]:
    """One element of each of several large tensors: off by a hundredth, and with its lowest or highest bit flipped."""
    rng = numpy.random.default_rng(0)
    for name, values in _spread_out(_large_floats(pair.after), 6):
        place = _nonzero_place(values, rng)
        untouched = pair.is_from_source(values)
        # Where a rewrite made the tensor, the lowest bit is rounding; the highest bit of the exponent is not.
        bit = numpy.int32(1) if untouched else numpy.int32(1 << 30)
        for kind, change in (
            ("changed weight", lambda x: numpy.float32(x * 1.01)),
            ("flipped bit", lambda x: (x.view(numpy.int32) ^ bit).view(numpy.float32)),
        ):
            changed = values.copy()
            changed[place] = change(changed[place])
            yield Mutant(kind, f"{name}{list(map(int, place))}", _with_array(pair, name, changed), untouched)


def changed_embedding_rows(pair: Pair) -> Iterator[Mutant]:
    """The last row of each table that an input is looked up in."""
    stored = graphs.stored_tensors(pair.after.graph)
    for node in pair.after.graph.node:
        is_lookup = node.op_type == "Gather" and graphs.attribute(node, "axis", 0) == 0
        if not is_lookup or node.input[0] not in stored or node.input[1] in stored:
            continue
        values = graphs.array(stored[node.input[0]])
        if values.ndim == 2 and values.dtype == numpy.float32:
            changed = values.copy()
            # Backwards, since a layer normalisation would take out an offset.
            changed[-1] = changed[-1][::-1]
            yield Mutant(
                "changed embedding row",
                f"{node.input[0]}[{len(values) - 1}]",
                _with_array(pair, node.input[0], changed),
                pair.is_from_source(values),
            )


def masks_of_zero(pair: Pair) -> Iterator[Mutant]:
    """Each constant that pushes masked scores down becomes 0."""
    for name, tensor in graphs.stored_tensors(pair.after.graph).items():
        values = graphs.array(tensor)
        if values.dtype in (numpy.float32, numpy.float16) and values.size and values.min() <= -1e3:
            yield Mutant("mask of 0", name, _with_array(pair, name, numpy.where(values <= -1e3, 0, values)))


def dropped_taps(pair: Pair) -> Iterator[Mutant]:
    """A window loses one tap: the bias of its weight is so low that the Softmax over the taps leaves nothing of it."""
    stored = graphs.stored_tensors(pair.after.graph)
    made_by = graphs.producers(pair.after.graph)
    shapes = {value.name: graphs.dims(value) for value in pair.after.graph.value_info}
    for softmax in pair.after.graph.node:
        taps = (shapes.get(softmax.output[0]) or [0])[-1]
        if softmax.op_type != "Softmax" or not isinstance(taps, int) or taps % 2 == 0 or not 3 <= taps <= MOST_TAPS:
            continue
        for node in _behind(softmax, made_by):
            bias = next((name for name in node.input[1:] if name in stored and len(stored[name].dims) == 1), None)
            if node.op_type not in ("Add", "Gemm") or bias is None or stored[bias].dims[0] % taps:
                continue
            values = graphs.array(stored[bias]).copy()
            # A tap that matters for the first token, which classifiers read: what comes before the middle is padding.
            values[taps // 2 + 1 :: taps] -= 1e4
            yield Mutant("dropped tap", bias, _with_array(pair, bias, values))
            break


def missing_scales(pair: Pair) -> Iterator[Mutant]:
    """Weights that took a scale of one layer lose it again."""
    for tensor in pair.after.graph.initializer:
        if _made_by(tensor) == "fold-scale-into-weights" and len(tensor.dims) >= 2:
            values = graphs.array(tensor)
            yield Mutant("missing scale", tensor.name, _with_array(pair, tensor.name, values * 4))


def _made_by(entry: onnx.NodeProto | onnx.TensorProto) -> str | None:
    """The pass that made a node or tensor."""
    return next((prop.value for prop in entry.metadata_props if prop.key == "onnxfix.pass"), None)


def swapped_tables(pair: Pair) -> Iterator[Mutant]:
    """Two tensors of the same shape change places: first tables that a rewrite computed, then weights."""
    by_shape: dict[tuple, list] = {}
    for name, values in _large_floats(pair.after):
        if values.ndim >= 2:
            by_shape.setdefault((pair.is_from_source(values), values.shape), []).append((name, values))
    for (untouched, _), group in sorted(by_shape.items(), key=lambda entry: entry[0][0]):
        (first, one), (second, other) = group[0], group[-1]
        if first == second or numpy.array_equal(one, other):
            continue
        model = pair.copy()
        tensors = graphs.stored_tensors(model.graph)
        graphs.set_array(tensors[first], other)
        graphs.set_array(tensors[second], one)
        yield Mutant("swapped tables", f"{first} ↔ {second}", model, untouched)


def shifted_positions(pair: Pair) -> Iterator[Mutant]:
    """Positions that are constants are off by one: in the index of a gather, or in the start of a slice."""
    stored = graphs.stored_tensors(pair.after.graph)
    seen = set()
    for node in pair.after.graph.node:
        if node.op_type in ("GatherElements", "Gather") and node.input[1] in stored:
            index = graphs.array(stored[node.input[1]])
            if index.ndim >= 2 and index.size >= LARGE and node.input[1] not in seen:
                seen.add(node.input[1])
                shifted = _with_array(pair, node.input[1], numpy.roll(index, 1, axis=-1))
                yield Mutant("position off by one", f"index of {node.output[0]}", shifted)
    by_distance = ("decompose-gather-elements", "decompose-span-convolution")
    for node in [node for node in pair.after.graph.node if _made_by(node) in by_distance][:MOST_SHIFTED]:
        yield from _shifted_slice(pair, node, stored)


def _shifted_slice(pair: Pair, node: onnx.NodeProto, stored: dict) -> Iterator[Mutant]:
    if node.op_type != "Slice" or not all(name in stored for name in node.input[1:3]):
        return
    starts, ends = (graphs.array(stored[name]) for name in node.input[1:3])
    by_one = (starts > 0).astype(starts.dtype)
    if not by_one.any():
        return
    model = pair.copy()
    for name, values in (("mutant_starts", starts - by_one), ("mutant_ends", ends - by_one)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    slice_node = _node_writing(model, node.output[0])
    slice_node.input[1], slice_node.input[2] = "mutant_starts", "mutant_ends"
    yield Mutant("position off by one", f"window of {node.output[0]}", model)


SINGLE_FILE_FAULTS = (
    changed_weights,
    changed_embedding_rows,
    masks_of_zero,
    dropped_taps,
    missing_scales,
    swapped_tables,
    shifted_positions,
)


def _large_floats(model: onnx.ModelProto) -> list[tuple[str, numpy.ndarray]]:
    found = [(name, graphs.array(tensor)) for name, tensor in graphs.stored_tensors(model.graph).items()]
    return [(name, values) for name, values in found if values.dtype == numpy.float32 and values.size >= LARGE]


def _spread_out(entries: list, count: int) -> list:
    """A few entries from the whole list, the first and the last among them."""
    places = numpy.unique(numpy.linspace(0, len(entries) - 1, num=min(count, len(entries))).round().astype(int))
    return [entries[place] for place in places]


def _nonzero_place(values: numpy.ndarray, rng: numpy.random.Generator) -> tuple:
    places = numpy.argwhere(values != 0)
    return tuple(places[rng.integers(len(places))]) if len(places) else (0,) * values.ndim


def _with_array(pair: Pair, name: str, values: numpy.ndarray) -> onnx.ModelProto:
    model = pair.copy()
    tensor = graphs.stored_tensors(model.graph)[name]
    graphs.set_array(tensor, values.astype(graphs.array(tensor).dtype))
    return model


def _node_writing(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return graphs.producers(model.graph)[name]


def _behind(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes a value comes from, nearest first, through at most one MatMul on each way."""
    found, waiting, seen = [], [(node, 0, 0)], set()
    while waiting:
        current, steps, products = waiting.pop(0)
        for name in current.input:
            producer = made_by.get(name)
            if producer is None or producer.output[0] in seen or steps == MOST_STEPS_TO_SOFTMAX:
                continue
            products_behind = products + (producer.op_type in ("MatMul", "Gemm"))
            if products_behind > 1 or producer.op_type in ("Softmax", "LayerNormalization", "ReduceMean", "Conv"):
                continue
            seen.add(producer.output[0])
            found.append(producer)
            waiting.append((producer, steps + 1, products_behind))
    return found


def two_output_source(before: onnx.ModelProto, inputs: list) -> onnx.ModelProto | None:
    """The source with two hidden states of equal shape as further outputs."""
    batch = meaningful.batches(inputs, seed=0)[0]
    # Its own batch may be fixed at 1, and values inside a graph cannot be put together row by row.
    values = runtime.real_types(graphs.with_input_shapes(before, {entry.name: entry.shape for entry in inputs}), batch)
    public = {value.name for value in before.graph.output}
    named = [
        name
        for node in before.graph.node
        if node.op_type in ("Add", "LayerNormalization")
        for name in node.output[:1]
        if name not in public and values[name].dtype == numpy.float32 and values[name].ndim == 3
    ]
    # A value without the batch in front is not a hidden state.
    named = [name for name in named if len(values[name]) == len(next(iter(batch.values())))]
    by_shape: dict[tuple, list[str]] = {}
    for name in named:
        by_shape.setdefault(values[name].shape, []).append(name)
    most = max(by_shape.values(), key=len, default=[])
    if len(most) < 2 or numpy.array_equal(values[most[0]], values[most[-1]]):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(before)
    del model.graph.value_info[:]
    for name in (most[0], most[-1]):
        # Unnamed dims: the graph knows better than this script what they are called.
        shown = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * values[name].ndim)
        model.graph.output.append(shown)
    return model


def with_outputs_swapped(after: onnx.ModelProto) -> onnx.ModelProto:
    """The last two outputs exchanged, names and order as before."""
    model = onnx.ModelProto()
    model.CopyFrom(after)
    first, second = (value.name for value in list(model.graph.output)[-2:])
    inner = {first: f"{first}_mutant", second: f"{second}_mutant"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                names[slot] = inner.get(name, name)
    # tract names a node without a name after its output, and another node may have that name.
    model.graph.node.append(onnx.helper.make_node("Identity", [inner[first]], [second], name="mutant_second"))
    model.graph.node.append(onnx.helper.make_node("Identity", [inner[second]], [first], name="mutant_first"))
    return model


class Trial:
    """Runs `verify` on faults, prints a row for each and counts."""

    def __init__(self, onnxfix: Onnxfix, folder: Path):
        self.onnxfix = onnxfix
        self.folder = folder
        self.passed = self.failed = self.skipped = 0
        self.kinds: set[str] = set()

    def record(self, file: str, kind: str, place: str, effect: float | None, failure: str | None) -> None:
        """Counts one result and prints its row."""
        self.passed += failure is None
        self.failed += failure is not None
        shown = "–" if effect is None else f"{effect:.1e}"
        print(ROW.format(file, kind, _shortened(place), shown, "ok" if failure is None else f"FAIL  {failure}"))
        sys.stdout.flush()

    def skip(self, file: str, kind: str, place: str, effect: float, why: str) -> None:
        """Prints a fault that is none."""
        self.skipped += 1
        print(ROW.format(file, kind, _shortened(place), f"{effect:.1e}", f"skip  {why}"))

    def try_file(self, path: Path, target: str) -> None:
        """All faults that this file has a place for."""
        before = graphs.load(path)
        shapes = meaningful.input_shapes(before, BATCH)
        inputs = meaningful.describe(before, BATCH)
        batches = meaningful.batches(inputs, seed=0)
        after = self._optimize(path, path.stem, target, shapes, path.name)
        if after is not None:
            stored = [graphs.array(tensor) for tensor in graphs.stored_tensors(before.graph).values()]
            pair = Pair(before, after, {_content(values) for values in stored})
            expected = runtime.run_all(runtime.Runner(after), batches)
            for plant in SINGLE_FILE_FAULTS:
                for mutant in plant(pair):
                    self._try_mutant(path.name, mutant, batches, expected, [])
        shown = two_output_source(before, inputs)
        if shown is not None:
            source = self.folder / f"{path.stem}.outputs.onnx"
            onnx.save(shown, str(source))
            after = self._optimize(source, f"{path.stem}.outputs", target, shapes, path.name)
            if after is not None:
                mutant = Mutant("swapped outputs", " ↔ ".join(v.name for v in after.graph.output[-2:]), None)
                mutant.model = with_outputs_swapped(after)
                expected = runtime.run_all(runtime.Runner(after), batches)
                self._try_mutant(path.name, mutant, batches, expected, ["--against", source])

    def _optimize(self, path: Path, stem: str, target: str, shapes: dict, file: str) -> onnx.ModelProto | None:
        """The optimized model, once `verify` has found it equal: otherwise its answers to faults mean nothing."""
        out = self.folder / f"{stem}.opt.onnx"
        outcome = self.onnxfix.optimize(path, out, target, meaningful.shape_argument(shapes))
        if outcome.exit != 0:
            self.record(file, "no fault", stem, None, f"optimize: exit {outcome.exit}: {outcome.says}")
            return None
        outcome = self.onnxfix.run("verify", out)
        failure = None if outcome.exit == 0 else f"verify: exit {outcome.exit}: {outcome.says}"
        self.record(file, "no fault", stem, None, failure)
        return None if failure else graphs.load(out)

    def _try_mutant(self, file: str, mutant: Mutant, batches: list, expected: dict, options: list) -> None:
        effect = runtime.worst_difference(runtime.run_all(runtime.Runner(mutant.model), batches), expected)
        damaged = self.folder / "mutant.onnx"
        onnx.save(mutant.model, str(damaged))
        outcome = self.onnxfix.run("verify", damaged, *options)
        if outcome.exit == 0 and not mutant.is_source_tensor and effect <= VERIFY_TOLERANCE:
            self.skip(file, mutant.kind, mutant.place, effect, "within the tolerance of verify")
            return
        self.kinds.add(mutant.kind)
        failure = None if outcome.exit == 1 else f"verify: exit {outcome.exit}: {outcome.says}"
        self.record(file, mutant.kind, mutant.place, effect, failure)


def _shortened(place: str) -> str:
    return place if len(place) <= 44 else f"…{place[-43:]}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL_OR_DIR", help="sources (default: fixtures/models)")
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--target", default="ascend310p3", help="the target to optimize for (default: %(default)s)")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    paths = models_in(arguments.models or [str(FIXTURES)])
    with tempfile.TemporaryDirectory(prefix="onnxfix-mutants-") as scratch:
        trial = Trial(onnxfix, Path(scratch).resolve())
        print(ROW.format("file", "fault", "place", "effect", "verdict"))
        for path in paths:
            trial.try_file(path.resolve(), arguments.target)
    # A kind that found no place anywhere was not tested at all.
    for kind in KINDS:
        if kind not in trial.kinds:
            trial.record("all files", kind, "", None, "found no place in any file")
    skipped = f", {trial.skipped} skipped" if trial.skipped else ""
    print(f"{trial.passed} passed, {trial.failed} failed{skipped}")
    return 1 if trial.failed else 0


def main() -> int:
    try:
        return run(parse())
    except (OracleError, OSError) as error:
        print(f"mutants.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
