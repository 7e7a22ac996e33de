"""Meaningful inputs for a text model, found from the graph alone.

What an input is comes from what the graph does with it, never from its name:

- token ids reach the indices of a `Gather` on axis 0 of a constant table, whose rows are the vocabulary;
- segment ids do the same on a table of a handful of rows;
- a mask is any other input of shape [batch, seq], integer, bool or float;
- where ids are compared with a constant, that constant is the padding id, and the graph makes its own mask.

`tools/bench` uses the first half of this module to know what shapes to ask for.
"""

from dataclasses import dataclass

import numpy
import onnx
from onnx import helper

import graph as graphs
from errors import OracleError

DEFAULT_SEQ = 32

# A table with this few rows tells sentence A from sentence B; a vocabulary is never that small.
MOST_SEGMENTS = 4

# They hand the same numbers on, so that an input is still itself behind them.
SAME_NUMBERS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Transpose"}

# Each pattern keeps some of a row's positions; padding has to be tried on both sides.
PATTERNS = ("full", "right", "left", "one", "right", "left", "one-left")


@dataclass
class Input:
    """One input of a model, its shape for a run, and what the graph uses it for."""

    name: str
    dtype: numpy.dtype
    shape: list[int]
    role: str  # "ids", "segments" or "mask"
    rows: int = 0  # of the table that ids or segments look up
    padding: int | None = None  # the id that the graph itself takes for padding


def input_shapes(model: onnx.ModelProto, batch: int, seq: int = DEFAULT_SEQ) -> dict[str, list[int]]:
    """A static shape for each input: the first axis is the batch, a fixed length stays, an open one becomes `seq`."""
    shapes = {}
    for value in graphs.real_inputs(model.graph):
        shape = graphs.dims(value)
        if not shape:
            raise OracleError(f"input {value.name}: its rank is not known, or it has no batch axis")
        shapes[value.name] = [batch] + [dim if isinstance(dim, int) else seq for dim in shape[1:]]
    return shapes


def shape_argument(shapes: dict[str, list[int]]) -> str:
    """The shapes as `--input-shape` takes them."""
    return ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())


def describe(model: onnx.ModelProto, batch: int, seq: int = DEFAULT_SEQ) -> list[Input]:
    """Every input of a model with its role."""
    shapes = input_shapes(model, batch, seq)
    inferred = graphs.inferred_shapes(model, shapes)
    constant = graphs.constant_values(model.graph)
    users = graphs.users(model.graph)
    stored = graphs.stored_tensors(model.graph)
    found = []
    for value in graphs.real_inputs(model.graph):
        reached = _reached(value.name, users)
        tables = [_rows(node, inferred) for node, slot in reached if _looks_up(node, slot, constant)]
        entry = Input(
            name=value.name,
            dtype=helper.tensor_dtype_to_np_dtype(graphs.element_type(value)),
            shape=shapes[value.name],
            role="mask",
        )
        if len(entry.shape) != 2:
            raise OracleError(f"input {value.name}: no meaningful numbers are known for shape {entry.shape}")
        if tables:
            entry.rows = min(tables)
            entry.role = "segments" if entry.rows <= MOST_SEGMENTS else "ids"
            entry.padding = _padding_id(reached, stored)
        found.append(entry)
    if not any(entry.role == "ids" for entry in found):
        raise OracleError("no input is looked up in a vocabulary, so there are no meaningful inputs")
    return found


def _reached(name: str, users: dict) -> list[tuple[onnx.NodeProto, int]]:
    """Every use of an input, behind nodes that hand its numbers on as well."""
    found, waiting, seen = [], [name], {name}
    while waiting:
        for node, slot in users.get(waiting.pop(), []):
            found.append((node, slot))
            if node.op_type in SAME_NUMBERS and slot == 0 and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append(node.output[0])
    return found


def _looks_up(node: onnx.NodeProto, slot: int, constant: set[str]) -> bool:
    is_row_lookup = node.op_type == "Gather" and slot == 1 and graphs.attribute(node, "axis", 0) == 0
    return is_row_lookup and node.input[0] in constant


def _rows(node: onnx.NodeProto, inferred: dict) -> int:
    shape = inferred.get(node.input[0])
    if not shape or not isinstance(shape[0], int):
        raise OracleError(f"the number of rows of table {node.input[0]} is not known")
    return shape[0]


def _padding_id(reached: list, stored: dict[str, onnx.TensorProto]) -> int | None:
    for node, slot in reached:
        if node.op_type != "Equal":
            continue
        other = stored.get(node.input[1 - slot])
        if other is not None and graphs.array(other).size == 1:
            return int(graphs.array(other).item())
    return None


def batches(inputs: list[Input], seed: int, least_rows: int = 24, most_rows: int = 120) -> list[dict]:
    """Seeded batches with every padding pattern, and with every id where that takes no more than `most_rows`.

    Every row has at least one real token.
    """
    batch, seq = inputs[0].shape
    rng = numpy.random.default_rng(seed)
    decks = {entry.name: _Deck(entry, rng) for entry in inputs if entry.role == "ids"}
    # With padding, a row uses about half of its tokens. A vocabulary that is out of reach is sampled instead.
    within_reach = [deck for deck in decks.values() if len(deck.ids) <= most_rows * seq // 2]
    found, rows = [], 0
    while rows < least_rows or (rows < most_rows and not all(deck.is_used_up() for deck in within_reach)):
        # A batch of one would otherwise meet only the first pattern.
        keep = [_kept(PATTERNS[(rows + row) % len(PATTERNS)], seq, rng) for row in range(batch)]
        found.append(_batch(inputs, numpy.array(keep), decks, rng))
        rows += batch
    return found


def all_padding(inputs: list[Input], seed: int) -> dict:
    """One batch without a single real token in its last row. The other rows are ordinary."""
    batch, seq = inputs[0].shape
    rng = numpy.random.default_rng(seed)
    decks = {entry.name: _Deck(entry, rng) for entry in inputs if entry.role == "ids"}
    keep = [_kept("right", seq, rng) for _ in range(batch - 1)] + [numpy.zeros(seq, dtype=bool)]
    return _batch(inputs, numpy.array(keep), decks, rng)


def has_padding(inputs: list[Input]) -> bool:
    """Whether the model can be told which tokens are padding."""
    return any(entry.role == "mask" or entry.padding is not None for entry in inputs)


class _Deck:
    """Deals the vocabulary in random order, and starts over when it is used up: no row is left out by chance."""

    def __init__(self, entry: Input, rng: numpy.random.Generator):
        self.ids = numpy.array([row for row in range(entry.rows) if row != entry.padding])
        self.rng = rng
        self.dealt = 0
        rng.shuffle(self.ids)

    def deal(self, count: int) -> numpy.ndarray:
        places = numpy.arange(self.dealt, self.dealt + count) % len(self.ids)
        self.dealt += count
        return self.ids[places]

    def is_used_up(self) -> bool:
        return self.dealt >= len(self.ids)


def _kept(pattern: str, seq: int, rng: numpy.random.Generator) -> numpy.ndarray:
    length = {"full": seq, "one": 1, "one-left": 1}.get(pattern)
    if length is None:
        length = int(rng.integers(2, seq)) if seq > 2 else seq
    places = numpy.arange(seq)
    return places >= seq - length if pattern.endswith("left") else places < length


def _batch(inputs: list[Input], keep: numpy.ndarray, decks: dict, rng: numpy.random.Generator) -> dict:
    tensors = {}
    for entry in inputs:
        if entry.role == "mask":
            values = keep
        elif entry.role == "segments":
            values = numpy.where(keep, _segments(entry, keep, rng), 0)
        else:
            values = numpy.full(keep.shape, entry.padding or 0)
            values[keep] = decks[entry.name].deal(int(keep.sum()))
        tensors[entry.name] = values.astype(entry.dtype)
    return tensors


def _segments(entry: Input, keep: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
    """Sentences side by side: the number rises from left to right, each row breaking at its own places."""
    batch, seq = keep.shape
    breaks = rng.integers(1, seq + 1, size=(batch, entry.rows - 1, 1))
    return (numpy.arange(seq) >= breaks).sum(axis=1)
