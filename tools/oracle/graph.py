"""Questions about an ONNX graph that several checks ask. Nothing here knows how onnxfix works."""

import copy
from pathlib import Path

import numpy
import onnx
from onnx import numpy_helper

from errors import OracleError

INTEGERS = {
    onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64,
}
FLOATS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}

# Their result is not decided by their inputs.
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}


def load(path: Path) -> onnx.ModelProto:
    """The model of a file, or one line saying why not."""
    try:
        return onnx.load(str(path))
    except Exception as error:  # Protobuf and onnx raise types that share no base class.
        raise OracleError(f"{path}: {first_line(error)}") from error


def first_line(error: object) -> str:
    """The first line of a message that may be long."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a user feeds. Before IR version 4 every initializer was an input as well."""
    initializers = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initializers]


def dims(value: onnx.ValueInfoProto) -> list[int | str] | None:
    """One entry for each axis: a number, or the symbol ("" without a name). None where the shape is not known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]


def is_static(shape: list[int | str] | None) -> bool:
    """Whether every dim is a number."""
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def element_type(value: onnx.ValueInfoProto) -> int:
    """The element type of a tensor value."""
    return value.type.tensor_type.elem_type


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The bodies a node holds (If, Loop, Scan)."""
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def all_nodes(graph: onnx.GraphProto):
    """Every node of a graph and of the bodies inside it."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from all_nodes(body)


def count_nodes(model: onnx.ModelProto) -> int:
    """The nodes that compute something: `Constant` is a way to store a tensor, so it does not count."""
    return sum(node.op_type != "Constant" for node in all_nodes(model.graph))


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that writes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def users(graph: onnx.GraphProto) -> dict[str, list[tuple[onnx.NodeProto, int]]]:
    """The nodes that read each value, with the input slot."""
    found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            found.setdefault(name, []).append((node, slot))
    return found


def attribute(node: onnx.NodeProto, name: str, default):
    """The value of an attribute, or the default the operator gives it."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def stored_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The tensors a graph holds, by value name: initializers and `Constant` nodes with a tensor.

    The tensors are those of the graph itself, so that writing to one changes the model.
    """
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for entry in node.attribute:
                if entry.name == "value":
                    found[node.output[0]] = entry.t
    return found


def constant_values(graph: onnx.GraphProto) -> set[str]:
    """Every value that does not depend on an input of the model."""
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in RANDOM or subgraphs(node):
            continue
        if all(not name or name in constant for name in node.input):
            constant.update(node.output)
    return constant


def array(tensor: onnx.TensorProto) -> numpy.ndarray:
    """The numbers of a tensor, as a copy."""
    return numpy.array(numpy_helper.to_array(tensor))


def set_array(tensor: onnx.TensorProto, values: numpy.ndarray) -> None:
    """Writes other numbers into a tensor of a model."""
    tensor.CopyFrom(numpy_helper.from_array(numpy.ascontiguousarray(values), tensor.name))


def with_input_shapes(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """A copy with these input shapes. What the file says about all other shapes is dropped, since it may not fit."""
    changed = copy.deepcopy(model)
    for value in changed.graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            for dim in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = dim
    for value in changed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del changed.graph.value_info[:]
    return changed


def inferred_shapes(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> dict[str, list[int | str]]:
    """What ONNX's own shape inference says of every value, for these input shapes."""
    inferred = onnx.shape_inference.infer_shapes(with_input_shapes(model, shapes), data_prop=True)
    known = {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        shape = dims(value)
        if shape is not None:
            known[value.name] = shape
    return known
