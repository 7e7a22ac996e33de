#!/usr/bin/env python3
"""Exports the encoders whose throughput on an Ascend 310P3 is published, without their weights.

What a model costs depends on its shapes and not on its weights, so these are random and left out of the files: what
has more than 16 floats becomes external data of a file that does not exist. Names say nothing either and are short.

    python tools/export/encoders.py ascend/validation/graphs [NAME ...] [--microsoft msdeberta.onnx]

`--microsoft` takes an export of Microsoft's DeBERTa-v3-base, as `export.py --init_model` writes it, in place of one
that is made here. Exit: 0 done, 2 could not.
"""

import argparse
import io
import sys
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from transformers import AlbertConfig, AlbertForSequenceClassification, BertConfig, BertForQuestionAnswering
from transformers import ErnieConfig, ErnieForSequenceClassification, GPT2Config, GPT2LMHeadModel
from transformers import RobertaConfig, RobertaForSequenceClassification

from to_onnx import quiet, strip_provenance

OPSET = 13
# Traced with sizes that occur nowhere else, so that none is taken for a constant.
BATCH, SEQ = 2, 24
MOST_FLOATS = 16

BERT_LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
ALBERT_BASE = dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072, hidden_act="gelu_new")
ERNIE_BASE = dict(vocab_size=40000, max_position_embeddings=2048, type_vocab_size=4, task_type_vocab_size=16,
                  use_task_id=True)
# The sizes as their authors publish them.
MODELS = {
    "bert-base": (BertForQuestionAnswering, BertConfig(), ["input_ids", "attention_mask", "token_type_ids"]),
    "bert-large": (BertForQuestionAnswering, BertConfig(**BERT_LARGE),
                   ["input_ids", "attention_mask", "token_type_ids"]),
    "roberta-base": (RobertaForSequenceClassification,
                     RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1),
                     ["input_ids", "attention_mask"]),
    "albert-base": (AlbertForSequenceClassification, AlbertConfig(**ALBERT_BASE),
                    ["input_ids", "attention_mask", "token_type_ids"]),
    "ernie-base": (ErnieForSequenceClassification, ErnieConfig(**ERNIE_BASE), ["input_ids", "token_type_ids"]),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=21128, bos_token_id=0, eos_token_id=0),
             ["input_ids", "attention_mask"]),
}


class Interface(torch.nn.Module):
    """The model with tensors alone as outputs, and its inputs in the order given."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        keywords = dict(zip(self.names, inputs, strict=True))
        if isinstance(self.model, GPT2LMHeadModel):
            keywords["use_cache"] = False
        output = self.model(**keywords, return_dict=True)
        return tuple(output[key] for key in ("logits", "start_logits", "end_logits") if key in output)


def export(kind, config, names):
    """The model with open batch and sequence, as TorchScript's exporter writes it."""
    config._attn_implementation = "eager"
    model = Interface(kind(config).eval(), names)
    inputs = tuple(torch.ones(BATCH, SEQ, dtype=torch.int64) for _ in names)
    file = io.BytesIO()
    axes = {name: {0: "batch", 1: "seq"} for name in names}
    with torch.no_grad(), quiet():
        torch.onnx.export(model, inputs, file, dynamo=False, opset_version=OPSET, input_names=names,
                          dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


def leave_out_weights(model):
    """Makes weights external data of a file that is not there, and every name but those of the inputs a number."""
    strip_provenance(model)
    graph = model.graph
    del graph.value_info[:]
    weights = [tensor for tensor in graph.initializer]
    weights += [a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in weights:
        count = 1
        for dim in tensor.dims:
            count *= dim
        if tensor.data_type == TensorProto.FLOAT and count > MOST_FLOATS:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="none")
    short = {"": ""} | {value.name: value.name for value in graph.input}
    rename(graph, short)


def rename(graph, short):
    """Gives the values of a graph and of its bodies numbers as names, and its nodes none."""
    def name(old):
        return short.setdefault(old, str(len(short)))
    for tensor in graph.initializer:
        tensor.name = name(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [name(value) for value in node.input]
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                rename(inner, short)
        node.output[:] = [name(value) for value in node.output]
    for value in graph.output:
        value.name = name(value.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; default: all")
    parser.add_argument("--microsoft", type=Path, metavar="FILE", help="an export of Microsoft's DeBERTa-v3-base")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        parser.error(f"no model is called {unknown[0]!r}; there are {', '.join(MODELS)}")
    if arguments.microsoft and not arguments.microsoft.is_file():
        parser.error(f"{arguments.microsoft} is not there")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = arguments.names or ([] if arguments.microsoft else list(MODELS))
    for name in wanted:
        write(export(*MODELS[name]), arguments.folder / f"{name}.onnx")
    if arguments.microsoft:
        model = onnx.load(arguments.microsoft, load_external_data=False)
        write(model, arguments.folder / "deberta-v3-base.onnx")


def write(model, path):
    leave_out_weights(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path}: {len(model.graph.node)} nodes, {path.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
