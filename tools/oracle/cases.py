"""ONNX's own backend cases: a model, what to feed it and what has to come out, and variants with constant inputs."""

import contextlib
import copy
import io
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import onnx
from onnx import numpy_helper

import graph as graphs
from errors import OracleError

# Where the installed package keeps the sets that are files.
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
ON_DISK = ("simple", "pytorch-operator", "pytorch-converted", "light")

# What `onnx.backend.test` allows where a case says nothing else.
RTOL, ATOL = 1e-3, 1e-7


@dataclass
class Sample:
    """Values for the inputs of a model and what its outputs must be, by name."""

    inputs: dict
    outputs: dict


@dataclass
class Case:
    """One backend case. `problem` says why it could not be read."""

    set: str
    name: str
    model: onnx.ModelProto
    samples: list[Sample]
    rtol: float = RTOL
    atol: float = ATOL
    problem: str | None = None


@dataclass
class Variant:
    """The model of a case with some of its inputs turned into initializers."""

    name: str
    model: onnx.ModelProto
    constant: set[str] = field(default_factory=set)


def installed() -> list[Case]:
    """Every case of the installed `onnx` package: the generated node cases and the sets that are files."""
    from onnx.backend.test.loader import load_node_model_tests

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        generated = load_node_model_tests()
    found = [_from_package(case) for case in generated]
    for name in ON_DISK:
        found.extend(in_folder(DATA / name, name))
    return found


def in_folders(root: Path) -> list[Case]:
    """The cases of a folder laid out as `onnx/backend/test/data`: one folder for each set, one in it for each case."""
    found = [case for folder in sorted(root.iterdir()) if folder.is_dir() for case in in_folder(folder, folder.name)]
    if not found:
        raise OracleError(f"{root}: no SET/CASE/model.onnx in this folder")
    return found


def in_folder(folder: Path, set_name: str) -> list[Case]:
    """The cases of one set: folders with `model.onnx`, and bare `NAME.onnx` with `NAME_output_0.pb`."""
    found = [_from_files(set_name, path.parent) for path in sorted(folder.glob("*/model.onnx"))]
    return found + [_without_samples(set_name, path) for path in sorted(folder.glob("*.onnx"))]


def _from_package(case) -> Case:
    model = case.model
    samples = [Sample(_named(model.graph.input, given), _named(model.graph.output, wanted))
               for given, wanted in case.data_sets]
    return Case("node", case.name, model, samples, case.rtol, case.atol)


def _from_files(set_name: str, folder: Path) -> Case:
    model = onnx.load(str(folder / "model.onnx"))
    case = Case(set_name, folder.name, model, [])
    limits = folder / "data.json"
    if limits.is_file():
        given = json.loads(limits.read_text())
        case.rtol, case.atol = given.get("rtol", RTOL), given.get("atol", ATOL)
    for data in sorted(folder.glob("test_data_set_*")):
        try:
            inputs = _read_values(data, "input", model.graph.input)
            outputs = _read_values(data, "output", model.graph.output)
            case.samples.append(Sample(inputs, outputs))
        except Exception as error:  # Protobuf and onnx raise types that share no base class.
            case.problem = f"{data.name}: {graphs.first_line(error)}"
    return case


def _without_samples(set_name: str, path: Path) -> Case:
    """A model that comes with its outputs only: the inputs are the ramp that ONNX's own runner feeds."""
    model = onnx.load(str(path))
    inputs = {}
    for value in graphs.real_inputs(model.graph):
        shape = [dim if isinstance(dim, int) else 1 for dim in graphs.dims(value)]
        count = int(numpy.prod(shape))
        inputs[value.name] = (numpy.arange(count).reshape(shape) / count).astype(numpy.float32)
    outputs = {}
    for at, value in enumerate(model.graph.output):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(path.with_name(f"{path.stem}_output_{at}.pb").read_bytes())
        outputs[value.name] = numpy_helper.to_array(tensor)
    return Case(set_name, path.stem, model, [Sample(inputs, outputs)])


def _read_values(data: Path, prefix: str, values) -> dict:
    found = {}
    for at, value in enumerate(values):
        path = data / f"{prefix}_{at}.pb"
        if not path.is_file():
            continue
        kind = value.type.WhichOneof("value")
        proto, convert = {
            "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
            "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
            "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
        }[kind]
        message = proto()
        message.ParseFromString(path.read_bytes())
        found[value.name] = _as_declared(convert(message), value)
    return found


def _as_declared(values, value: onnx.ValueInfoProto):
    """Older releases of `onnx` wrote the bits of bfloat16 and float8 as unsigned integers."""
    if not value.type.HasField("tensor_type") or not isinstance(values, numpy.ndarray):
        return values
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graphs.element_type(value))
    are_bits = values.dtype.kind == "u" and dtype.kind not in "biuOSU" and dtype.itemsize == values.dtype.itemsize
    return values.view(dtype) if are_bits else values


def _named(values, given) -> dict:
    return {value.name: _plain(tensor) for value, tensor in zip(values, given)}


def _plain(value):
    """A case of the package may hold numpy's scalars and ONNX's own messages."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None else numpy.asarray(value)


def variants(case: Case) -> list[Variant]:
    """The model as it is, with all tensor inputs as initializers, and with each single one of several."""
    found = [Variant("as it is", case.model)]
    if not case.samples:
        return found
    given = case.samples[0].inputs
    names = [value.name for value in graphs.real_inputs(case.model.graph) if _can_be_initializer(value, given)]
    if names:
        found.append(_with_constants("constant: all", case, names))
    if len(names) > 1:
        found.extend(_with_constants(f"constant: {name}", case, [name]) for name in names)
    return found


def with_constant_operands(case: Case) -> onnx.ModelProto:
    """The model with all inputs but the first as initializers, as exporters write operands that give shapes."""
    given = case.samples[0].inputs
    names = [value.name for value in graphs.real_inputs(case.model.graph)[1:] if _can_be_initializer(value, given)]
    return _with_constants("", case, names).model


def _can_be_initializer(value: onnx.ValueInfoProto, given: dict) -> bool:
    tensor = given.get(value.name)
    if not value.type.HasField("tensor_type") or not isinstance(tensor, numpy.ndarray):
        return False
    return _tensor_type(tensor) == graphs.element_type(value)


def _tensor_type(values: numpy.ndarray) -> int:
    """The element type that ONNX stores these values as."""
    return numpy_helper.from_array(values[:0] if values.ndim else values).data_type


def _with_constants(label: str, case: Case, names: list[str]) -> Variant:
    model = copy.deepcopy(case.model)
    for name in names:
        value = next(value for value in model.graph.input if value.name == name)
        model.graph.initializer.append(numpy_helper.from_array(case.samples[0].inputs[name], name))
        # Before IR version 4 an initializer had to be an input as well.
        if model.ir_version >= 4:
            model.graph.input.remove(value)
    return Variant(label, model, set(names))


def without_declared_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that says nothing of the shapes of what it computes, so that they have to be inferred."""
    bare = copy.deepcopy(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return bare
