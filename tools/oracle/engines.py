"""Who says what a backend case's model computes: ONNX Runtime, or ONNX's reference evaluator where that lacks it."""

import contextlib
import copy
import io
import os
import warnings

import numpy
import onnx
from onnx import helper

import graph as graphs

# The newest opset of `onnx` is still under development for ONNX Runtime, which refuses it otherwise. The variable has
# to be there before the library is loaded.
os.environ.setdefault("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")

import onnxruntime  # noqa: E402

# Kernels warn on a logger that no session's options reach.
onnxruntime.set_default_logger_severity(4)

# What Python can exchange with ONNX Runtime. Other element types go in as initializers and come out behind a Cast.
EXCHANGED = graphs.INTEGERS | graphs.FLOATS | {onnx.TensorProto.BOOL, onnx.TensorProto.STRING}


class OnnxRuntime:
    """Runs models in ONNX Runtime as they are, without its own optimizations."""

    name = "ONNX Runtime"

    def run(self, model: onnx.ModelProto, feeds: dict) -> dict:
        """Every output by name. Raises what ONNX Runtime raises."""
        model, feeds, hidden = _exchangeable(model, feeds)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        results = session.run(names, {name: value for name, value in feeds.items() if name in wanted})
        return {name: _hidden_type(value, hidden.get(name)) for name, value in zip(names, results)}


class Reference:
    """Runs models in the evaluator that comes with `onnx`: slow, complete, and written by other people."""

    name = "the reference evaluator"

    def run(self, model: onnx.ModelProto, feeds: dict) -> dict:
        """Every output by name. Raises what the evaluator raises."""
        from onnx.reference import ReferenceEvaluator

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), numpy.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            evaluator = ReferenceEvaluator(model)
            wanted = {value.name for value in graphs.real_inputs(model.graph)}
            results = evaluator.run(None, {name: value for name, value in feeds.items() if name in wanted})
        return dict(zip(evaluator.output_names, results))


def _exchangeable(model: onnx.ModelProto, feeds: dict) -> tuple[onnx.ModelProto, dict, dict]:
    """The model with what Python cannot exchange put into it, what is left to feed, and the types of such outputs."""
    values = [*graphs.real_inputs(model.graph), *model.graph.output]
    if all(not value.type.HasField("tensor_type") or graphs.element_type(value) in EXCHANGED for value in values):
        return model, feeds, {}
    model, feeds, hidden = copy.deepcopy(model), dict(feeds), {}
    for value in graphs.real_inputs(model.graph):
        if value.type.HasField("tensor_type") and graphs.element_type(value) not in EXCHANGED and value.name in feeds:
            model.graph.initializer.append(onnx.numpy_helper.from_array(feeds.pop(value.name), value.name))
            model.graph.input.remove(value)
    for value in model.graph.output:
        if value.type.HasField("tensor_type") and graphs.element_type(value) not in EXCHANGED:
            hidden[value.name] = helper.tensor_dtype_to_np_dtype(graphs.element_type(value))
            _show_as_float(model.graph, value)
    return model, feeds, hidden


def _show_as_float(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    """Every number of the short types is a float32 as well, so the output can be shown as one."""
    inner = f"{value.name}/short"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner if name == value.name else name for name in names]
    for tensor in graph.initializer:
        tensor.name = inner if tensor.name == value.name else tensor.name
    graph.node.append(helper.make_node("Cast", [inner], [value.name], to=onnx.TensorProto.FLOAT))
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _hidden_type(value, dtype):
    return value if dtype is None else value.astype(dtype)


def difference(actual, expected, rtol, atol: float = 0.0) -> str | None:
    """What is wrong with a value that has to be `expected`, or None. `rtol` gives the tolerance of an element type.

    Floating-point numbers may differ by `atol` plus their type's share of the largest number of the tensor;
    not-a-number and infinity have to stand at the same places. Everything else is equal or different.
    """
    if expected is None or actual is None:
        return None if expected is actual else f"is {_kind(actual)} instead of {_kind(expected)}"
    if isinstance(expected, (list, tuple)):
        return _list_difference(actual, expected, rtol, atol)
    if isinstance(expected, dict):
        return None if actual == expected else "is another map"
    actual, expected = numpy.asarray(actual), numpy.asarray(expected)
    if actual.dtype != expected.dtype and not (_is_text(actual) and _is_text(expected)):
        return f"is {actual.dtype} instead of {expected.dtype}"
    if actual.shape != expected.shape:
        return f"has shape {list(actual.shape)} instead of {list(expected.shape)}"
    if _is_text(expected):
        off = actual.astype(str) != expected.astype(str)
    else:
        off = _off(actual, expected, rtol(expected.dtype), atol)
    if not off.any():
        return None
    at = tuple(int(place[0]) for place in numpy.nonzero(numpy.atleast_1d(off)))
    first = numpy.atleast_1d(actual)[at], numpy.atleast_1d(expected)[at]
    return f"{int(off.sum())} of {off.size} elements differ, first at {list(at)}: {first[0]} instead of {first[1]}"


def _list_difference(actual, expected, rtol, atol: float) -> str | None:
    if not isinstance(actual, (list, tuple)):
        return f"is {_kind(actual)} instead of a sequence"
    if len(actual) != len(expected):
        return f"holds {len(actual)} elements instead of {len(expected)}"
    for at, (one, other) in enumerate(zip(actual, expected)):
        found = difference(one, other, rtol, atol)
        if found:
            return f"element {at} {found}"
    return None


def _off(actual: numpy.ndarray, expected: numpy.ndarray, rtol: float, atol: float) -> numpy.ndarray:
    if expected.dtype.kind in "biu":
        return actual != expected
    kind = numpy.complex128 if expected.dtype.kind == "c" else numpy.float64
    with numpy.errstate(all="ignore"):
        one, other = actual.astype(kind), expected.astype(kind)
        finite = numpy.isfinite(one) & numpy.isfinite(other)
        largest = float(numpy.abs(other[finite]).max(initial=0.0))
        near = finite & (numpy.abs(one - other) <= atol + rtol * largest)
        both_nan = numpy.isnan(one) & numpy.isnan(other)
        return ~(near | both_nan | (one == other))


def _is_text(values: numpy.ndarray) -> bool:
    return values.dtype.kind in "OSU"


def _kind(value) -> str:
    return "nothing" if value is None else "a sequence" if isinstance(value, (list, tuple)) else "a tensor"
