"""What an optimized file must look like, judged on the file alone. Each check returns its complaints, one line each."""

from collections import Counter
from pathlib import Path

import numpy
import onnx

import graph as graphs
from runtime import real_types

# Nothing of these is left once every shape is a number and constants are folded.
LEFTOVERS = {"Shape", "Range", "ConstantOfShape", "If", "NonZero", "Sign", "Log", "Ceil", "Abs"}

# Every release of the compiler registers all operators under it.
NPU_OPSET = 13

# Operators whose inputs broadcast against each other along every axis.
BROADCASTING = {
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "PRelu", "Where",
    "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor",
}  # fmt: skip

# Passes that write span convolutions anew.
SPANS = {"decompose-span-convolution", "narrow-bands"}


def check_is_valid(path: Path) -> list[str]:
    """ONNX's own checker accepts the file."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # The checker raises types that share no base class.
        return [graphs.first_line(error)]
    return []


def check_one_opset(model: onnx.ModelProto, target: str = "portable") -> list[str]:
    """The compiler refuses a file that imports more than one domain, and knows every operator under one version."""
    imports = [f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import]
    if len(imports) != 1 or (target != "portable" and imports != [f"ai.onnx {NPU_OPSET}"]):
        return [f"imports {', '.join(imports) or 'nothing'}"]
    return []


def check_fusable(model: onnx.ModelProto, target: str) -> list[str]:
    """Each normalization and each GELU is what the target fuses: steps in one order for the NPU, else an operator."""
    producers, users = graphs.producers(model.graph), graphs.users(model.graph)
    constant = graphs.constant_values(model.graph)

    def behind(node: onnx.NodeProto, *operators: str) -> onnx.NodeProto | None:
        """The node that is reached over first inputs and these operators, each with a constant if it has a second."""
        for operator in operators:
            node = producers.get(node.input[0]) if node else None
            last = node.input[-1] if node else ""
            fits = node and node.op_type == operator and (len(node.input) == 1 or last in constant or operator == "Sub")
            node = node if fits else None
        return node

    def readers(node: onnx.NodeProto) -> list[tuple[str, int]]:
        return sorted((user.op_type, slot) for user, slot in users.get(node.output[0], []))

    complaints = []
    for node in model.graph.node:
        if target == "portable":
            fused = node.op_type != "Sqrt" or not behind(node, "Add", "ReduceMean")
        elif node.op_type == "Sqrt":
            centered = behind(node, "Add", "ReduceMean", "Pow", "Sub")
            fused = centered and readers(centered) == [("Div", 0), ("Pow", 0)] and readers(node) == [("Div", 1)]
        elif node.op_type == "Erf":
            fused = behind(node, "Div") and readers(node) == [("Add", 0)]
            for expected in [("Mul", 1), ("Mul", 0)]:
                node = users[node.output[0]][0][0] if fused else node
                fused = fused and readers(node) == [expected]
        else:
            fused = node.op_type not in {"LayerNormalization", "Gelu"}
        if not fused:
            complaints.append(f"{node.op_type} writing {node.output[0]} is not of the form that is fused")
    return complaints


def check_no_leftovers(model: onnx.ModelProto) -> list[str]:
    """No shape arithmetic is left, and nothing that the bucket positions were computed with."""
    return [
        f"{node.op_type} is left, writing {node.output[0]}"
        for node in graphs.all_nodes(model.graph)
        if node.op_type in LEFTOVERS
    ]


def check_no_idle_expand(model: onnx.ModelProto) -> list[str]:
    """No Expand is left whose users would all broadcast to the same result without it."""
    graph = model.graph
    shapes = _stated_shapes(model)
    users = graphs.users(graph)
    kept = {value.name for value in graph.output}
    for node in graph.node:
        for body in graphs.subgraphs(node):
            kept.update(name for inner in graphs.all_nodes(body) for name in inner.input)
    complaints = []
    for node in graph.node:
        if node.op_type != "Expand" or node.output[0] in kept:
            continue
        reading = users.get(node.output[0], [])
        if all(_same_result_without(node, user, slot, shapes) for user, slot in reading):
            names = ", ".join(sorted({user.op_type for user, _ in reading}))
            complaints.append(f"Expand writing {node.output[0]} is idle: {names or 'nothing'} reads it")
    return complaints


def _same_result_without(expand: onnx.NodeProto, user: onnx.NodeProto, slot: int, shapes: dict) -> bool:
    """Whether a user's output keeps its shape when it reads the Expand's input instead."""
    read = [shapes.get(name) for name in user.input if name]
    before = shapes.get(expand.input[0])
    if not all(graphs.is_static(shape) for shape in [before, *read]):
        return False
    read[slot] = before
    try:
        if user.op_type in BROADCASTING:
            return list(numpy.broadcast_shapes(*read)) == shapes.get(user.output[0])
        if user.op_type == "MatMul" and len(before) >= 2:
            # Only the axes in front of the two matrix axes broadcast.
            same_matrix = before[-2:] == shapes[expand.output[0]][-2:]
            batch = list(numpy.broadcast_shapes(read[0][:-2], read[1][:-2]))
            return same_matrix and batch == shapes[user.output[0]][:-2]
    except (ValueError, KeyError):
        return False
    return False


def _stated_shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """The shapes that the file itself states. `check_shapes_are_true` compares them with what really comes out."""
    shapes = {name: list(tensor.dims) for name, tensor in graphs.stored_tensors(model.graph).items()}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        shape = graphs.dims(value)
        if shape is not None:
            shapes[value.name] = shape
    return shapes


def check_shapes_are_static(model: onnx.ModelProto) -> list[str]:
    """Every value has its shape in the file, in numbers."""
    graph = model.graph
    complaints = []
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if not graphs.is_static(graphs.dims(value)):
            complaints.append(f"{value.name} has shape {graphs.dims(value)}")
    listed = {value.name for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        complaints.extend(f"{name} has no value_info" for name in node.output if name and name not in listed)
    return complaints


def check_shapes_are_true(model: onnx.ModelProto, tensors: dict[str, numpy.ndarray]) -> list[str]:
    """The type and shape that the file states for a value are what ONNX Runtime really computes."""
    actual = real_types(model, tensors)
    complaints = []
    for value in [*model.graph.value_info, *model.graph.output]:
        if value.name not in actual:
            # Left behind by a value that is gone, or the type of an initializer.
            continue
        found = actual[value.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graphs.element_type(value))
        if list(found.shape) != graphs.dims(value) or found.dtype != dtype:
            complaints.append(
                f"{value.name} states {dtype}{graphs.dims(value)}, and is {found.dtype}{list(found.shape)}"
            )
    return complaints


def check_interface(before: onnx.ModelProto, after: onnx.ModelProto, shapes: dict, target: str) -> list[str]:
    """Names, order and types as the target promises them, shapes as they were asked for."""
    complaints = []
    old_inputs, new_inputs = graphs.real_inputs(before.graph), graphs.real_inputs(after.graph)
    for kind, old, new in (("inputs", old_inputs, new_inputs), ("outputs", before.graph.output, after.graph.output)):
        old_names, new_names = [value.name for value in old], [value.name for value in new]
        if old_names != new_names:
            return [f"{kind} were {', '.join(old_names)} and are {', '.join(new_names)}"]
    for old, new in zip(old_inputs, new_inputs):
        expected = graphs.element_type(old)
        if target != "portable" and expected in graphs.INTEGERS:
            expected = onnx.TensorProto.INT32
        complaints.extend(_wrong_type("input", new, expected))
        if graphs.dims(new) != shapes[new.name]:
            complaints.append(f"input {new.name} has shape {graphs.dims(new)} instead of {shapes[new.name]}")
    for old, new in zip(before.graph.output, after.graph.output):
        complaints.extend(_wrong_type("output", new, graphs.element_type(old)))
    return complaints


def _wrong_type(kind: str, value: onnx.ValueInfoProto, expected: int) -> list[str]:
    found = graphs.element_type(value)
    if found == expected:
        return []
    names = onnx.TensorProto.DataType.Name
    return [f"{kind} {value.name} is {names(found).lower()} instead of {names(expected).lower()}"]


def count_spans(model: onnx.ModelProto) -> int:
    """The span convolutions of a model: each has one convolution along the sequence, one group for each channel."""
    return sum(node.op_type == "Conv" and graphs.attribute(node, "group", 1) > 1 for node in model.graph.node)


def check_unfold(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """No window is gathered by a constant index matrix, or multiplied as a matrix of one column."""
    stored = graphs.stored_tensors(after.graph)
    initializers = {tensor.name for tensor in after.graph.initializer}
    shapes = {value.name: graphs.dims(value) or [] for value in after.graph.value_info}
    complaints = []
    for node in after.graph.node:
        if node.op_type == "MatMul" and len(shapes.get(node.output[0], [])) > 2 and shapes[node.output[0]][-1] == 1:
            complaints.append(f"MatMul writing {node.output[0]} has one column")
        if node.op_type != "Gather" or node.input[0] in initializers or node.input[1] not in stored:
            continue
        index = graphs.array(stored[node.input[1]])
        if index.size > 1 and index.ndim >= 2:
            complaints.append(f"Gather writing {node.output[0]} has a constant index of shape {list(index.shape)}")
    spans = count_spans(before)
    bands = sum(any(prop.value in SPANS for prop in node.metadata_props) for node in after.graph.node)
    # One or two tokens have so few windows that nothing needs stacking.
    if spans and not bands and graphs.dims(after.graph.input[0])[-1] > 2:
        complaints.append(f"nothing is left of {spans} span convolutions")
    return complaints


def check_npu_forms(after: onnx.ModelProto) -> list[str]:
    """What an NPU runs element by element or on its CPU is gone from an encoder."""
    counts = Counter(node.op_type for node in after.graph.node)
    complaints = [
        f"{counts[operator]} {operator} nodes"
        for operator, most in (("GatherElements", 0), ("Where", 1), ("Cast", 3))
        if counts[operator] > most
    ]
    initializers = {tensor.name for tensor in after.graph.initializer}
    for node in after.graph.node:
        if node.op_type == "Gather" and node.input[0] not in initializers:
            complaints.append(f"Gather writing {node.output[0]} is no embedding")
    for value in after.graph.value_info:
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64 and value.name not in initializers:
            complaints.append(f"{value.name} is int64")
    return complaints
