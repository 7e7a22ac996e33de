"""Exports a classifier with one of PyTorch's two exporters, and leaves only the model in the file."""

import contextlib
import logging
import os
import sys
import warnings

import onnx
import torch

from errors import ExportError

# Traces and dynamic shapes must not be specialised to sizes 0 or 1, and two equal sizes could be taken for one symbol.
TRACED_BATCH, TRACED_SEQ = 2, 24


def example_inputs(names, config, batch, seq, dtype, padding=0):
    """Ids from the whole vocabulary; row r ends in r + `padding` padding tokens; the second half is segment 1."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, config.vocab_size, (batch, seq), generator=generator)
    position = torch.arange(seq).expand(batch, seq)
    mask = (position < seq - (torch.arange(batch).unsqueeze(1) + padding).clamp(max=seq // 2)).long()
    ids = torch.where(mask == 1, ids, config.pad_token_id)
    tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (position >= seq // 2).long()}
    return tuple(tensors[name].to(dtype) for name in names)


def export(model, inputs, input_names, exporter, opset, batch, seq, path):
    """Writes `model` to `path`; a `batch` or `seq` of None stays symbolic."""
    axes = {axis: name for axis, name, size in ((0, "batch", batch), (1, "seq", seq)) if size is None}
    export_with = export_torchscript if exporter == "torchscript" else export_dynamo
    try:
        with quiet():
            export_with(model, inputs, input_names, opset, axes, path)
    except Exception as error:  # The exporters fail with whatever their inner layers raise.
        raise ExportError(f"the {exporter} exporter failed at opset {opset}: {root_cause(error)}") from error
    proto = onnx.load(path)
    require_opset(proto, opset)
    strip_provenance(proto)
    with open(path, "wb") as file:
        file.write(proto.SerializeToString(deterministic=True))


def root_cause(error):
    """The first line of the innermost error, without the traced value's history."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0].split("[Caused by")[0].strip()


def export_torchscript(model, inputs, input_names, opset, axes, path):
    torch.onnx.export(
        model, inputs, path, dynamo=False, opset_version=opset, input_names=input_names, output_names=["logits"],
        dynamic_axes={name: axes for name in input_names} | {"logits": {k: v for k, v in axes.items() if k == 0}},
    )


def export_dynamo(model, inputs, input_names, opset, axes, path):
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    shapes = (tuple(dims for _ in inputs),) if dims else None
    torch.onnx.export(
        model, inputs, path, dynamo=True, external_data=False, opset_version=opset, input_names=input_names,
        output_names=["logits"], dynamic_shapes=shapes,
    )


def require_opset(proto, opset):
    """The dynamo exporter keeps a higher opset than asked for, with only a warning, where it cannot convert down."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("") != opset:
        raise ExportError(f"the exporter produced opset {versions.get('')} instead of {opset}; "
                          "below 18 the torchscript exporter is the one to use")


@contextlib.contextmanager
def quiet():
    """Silences an exporter: pages of progress, advice and whole graphs would bury a one-line error.

    Part of it is written by C++ code, so the file descriptors themselves have to point elsewhere for a while.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)
        logging.disable(logging.NOTSET)


def strip_provenance(proto):
    """Removes stack traces and source paths, which name the exporting machine's folders and differ between machines."""
    proto.doc_string = ""
    # The build of PyTorch, such as +cpu, says nothing about the model.
    proto.producer_version = proto.producer_version.split("+")[0]
    del proto.metadata_props[:]
    for graph in [proto.graph, *proto.functions]:
        strip_graph(graph)


def strip_graph(graph):
    """The same for a graph or a function, and for the bodies inside it."""
    graph.doc_string = ""
    del graph.metadata_props[:]
    values = [*graph.value_info] if isinstance(graph, onnx.FunctionProto) else [
        *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for item in [*values, *graph.node]:
        item.doc_string = ""
        del item.metadata_props[:]
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            strip_graph(inner)
