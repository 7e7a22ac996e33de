"""Paddle's ConvBERT weights: a `.pdparams` file as PaddleNLP's ConvBertForSequenceClassification saves it.

The file is a pickle of name → NumPy array, or → (parameter name, array). A pickle may name any Python function to call,
so it is read with an unpickler that knows arrays and containers and nothing else.

PaddleNLP has had two such classifiers. Up to 2.4, the head is the one of `transformers`, always with GELU. From 2.5 on a
pooling layer stands in front of it, the head's activation is the encoder's, and a padding id has a zero embedding
whatever its stored row says. The pooling layer's weights tell which of the two a file holds.
"""

import copy
import pickle
import re

import numpy
import torch
from torch import nn
from transformers.models.convbert.modeling_convbert import ConvBertClassificationHead

from errors import ExportError
from state import build_from, label_count, load_exactly, read_json

# The table from structured names to Paddle's parameter names; not a weight.
NAME_TABLE = "StructuredToParameterName@@"
# Protocol 2 and 3 files store arrays above one gigabyte in pieces, described under this name. No ConvBERT is so large.
SLICE_TABLE = "UnpackBigParamInfor@@"

ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in [
        (f"{core}.multiarray", "_reconstruct"), (f"{core}.numeric", "_frombuffer"),
    ]
} | {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    ("builtins", "tuple"), ("__builtin__", "tuple"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and containers; any other object in the file is an error before anything of it runs."""

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise ExportError(f"refusing to load {module}.{name}: only NumPy arrays and containers are read")
        # NumPy renamed its core package in 2.0; the old name still works there but warns.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pdparams(path):
    """Name → float32 tensor."""
    try:
        with open(path, "rb") as file:
            content = ArrayUnpickler(file).load()
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from None
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise ExportError(f"{path}: not a .pdparams file: {error}") from None
    if not isinstance(content, dict) or SLICE_TABLE in content:
        raise ExportError(f"{path}: not a state dict of whole arrays")
    return {name: to_tensor(name, value, path) for name, value in content.items() if name != NAME_TABLE}


def to_tensor(name, value, path):
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if not isinstance(value, numpy.ndarray) or value.dtype.kind != "f":
        raise ExportError(f"{path}: {name} is not an array of floats")
    return torch.from_numpy(value.astype(numpy.float32))


# Paddle's name → the name in `transformers`. `{}` stands for `weight` or `bias`, N for the layer's number.
TOP_KEYS = {
    "convbert.embeddings.layer_norm.{}": "convbert.embeddings.LayerNorm.{}",
    "convbert.pooler.dense.{}": "classifier.pooler.{}",
    **{name: name for name in (
        "convbert.embeddings.word_embeddings.{}", "convbert.embeddings.position_embeddings.{}",
        "convbert.embeddings.token_type_embeddings.{}", "convbert.embeddings_project.{}",
        "classifier.dense.{}", "classifier.out_proj.{}",
    )},
}
LAYER_KEYS = {
    "self_attn.q_proj.{}": "attention.self.query.{}",
    "self_attn.k_proj.{}": "attention.self.key.{}",
    "self_attn.v_proj.{}": "attention.self.value.{}",
    "self_attn.key_conv_attn_layer.depthwise.{}": "attention.self.key_conv_attn_layer.depthwise.{}",
    "self_attn.key_conv_attn_layer.pointwise.{}": "attention.self.key_conv_attn_layer.pointwise.{}",
    "self_attn.key_conv_attn_layer.{}": "attention.self.key_conv_attn_layer.{}",
    "self_attn.conv_kernel_layer.{}": "attention.self.conv_kernel_layer.{}",
    "self_attn.conv_out_layer.{}": "attention.self.conv_out_layer.{}",
    "self_attn.out_proj.{}": "attention.output.dense.{}",
    "norm1.{}": "attention.output.LayerNorm.{}",
    "linear1.{}": "intermediate.dense.{}",
    "linear2.{}": "output.dense.{}",
    "norm2.{}": "output.LayerNorm.{}",
}


def map_key(name):
    """The name in `transformers`, or the name itself if Paddle's ConvBERT has no such weight."""
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return name
    if f"{stem}.{{}}" in TOP_KEYS:
        return TOP_KEYS[f"{stem}.{{}}"].format(kind)
    layer = re.fullmatch(r"convbert\.encoder\.layers\.(\d+)\.(.+)", stem)
    if layer and f"{layer[2]}.{{}}" in LAYER_KEYS:
        return f"convbert.encoder.layer.{layer[1]}." + LAYER_KEYS[f"{layer[2]}.{{}}"].format(kind)
    return name


def map_state(state):
    """Renames the weights and brings them into PyTorch's shapes."""
    result = {}
    for name, value in state.items():
        if value.dim() == 2 and "embeddings." not in name:
            value = value.T  # Paddle stores linear layers as [in, out]; its grouped ones, 3-D, agree with ours.
        if name.endswith(".key_conv_attn_layer.bias"):
            value = value.unsqueeze(-1)  # added to [batch, channels, seq] here, to [batch, seq, channels] there
        result[map_key(name)] = value.contiguous()
    return result


def map_config(state, path):
    """The sizes, all of which the weights show."""
    layer = "convbert.encoder.layer.0."
    try:
        vocabulary, embedding = state["convbert.embeddings.word_embeddings.weight"].shape
        all_heads, hidden = state[f"{layer}attention.self.query.weight"].shape
        kernel = state[f"{layer}attention.self.key_conv_attn_layer.depthwise.weight"].shape[-1]
        kernels = state[f"{layer}attention.self.conv_kernel_layer.bias"].shape[0]
        first = state[f"{layer}intermediate.dense.weight"]
        fields = dict(
            vocab_size=vocabulary,
            embedding_size=embedding,
            hidden_size=hidden,
            num_hidden_layers=1 + max(int(name.split(".")[3]) for name in state if ".encoder.layer." in name),
            # Only one head in `head_ratio` attends, and each attending head has one convolution kernel.
            head_ratio=hidden // all_heads,
            num_attention_heads=kernels // kernel * (hidden // all_heads),
            intermediate_size=state[f"{layer}intermediate.dense.bias"].shape[0],
            max_position_embeddings=state["convbert.embeddings.position_embeddings.weight"].shape[0],
            type_vocab_size=state["convbert.embeddings.token_type_embeddings.weight"].shape[0],
            conv_kernel_size=kernel,
            num_groups=first.shape[0] if first.dim() == 3 else 1,
        )
    except KeyError as error:
        raise ExportError(f"{path}: not a ConvBERT classifier: missing {error.args[0]}") from None
    except ValueError:
        raise ExportError(f"{path}: not a ConvBERT classifier: a weight has too many or too few dimensions") from None
    return fields | {"num_labels": label_count(state, "classifier.out_proj.bias", path)}


def read_config(path):
    """The model's fields from PaddleNLP's model_config.json, which nests them, or from its newer config.json."""
    content = read_json(path)
    while isinstance(content.get("init_args"), (list, tuple)) and content["init_args"]:
        content = content["init_args"][0]
        if not isinstance(content, dict):
            raise ExportError(f"{path}: init_args holds no model configuration")
    return content


class PooledHead(ConvBertClassificationHead):
    """The newer classification head: a pooling layer on the first token, then the head of `transformers`."""

    def __init__(self, config, activation):
        super().__init__(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation

    def forward(self, hidden_states):
        return super().forward(self.activation(self.pooler(hidden_states[:, :1])))


def load(weights, config=None):
    """A classifier from a `.pdparams` file. A configuration adds what no weight shows: activations and padding id."""
    state = map_state(read_pdparams(weights))
    fields = map_config(state, weights)
    given = read_config(config) if config else {}
    wrong = [f"{name} is {given[name]}, the weights have {value}"
             for name, value in fields.items() if given.get(name, value) != value]
    if wrong:
        raise ExportError(f"{config}: {'; '.join(wrong)}")
    fields |= {"model_type": "convbert", "hidden_act": given.get("hidden_act", "gelu"),
               "pad_token_id": given.get("pad_token_id", 0)}
    model = build_from(fields, config or weights)
    if "classifier.pooler.weight" in state:
        tanh = given.get("pool_act", "tanh") == "tanh"
        model.classifier = PooledHead(model.config, torch.tanh if tanh else nn.Identity()).eval()
        state["convbert.embeddings.word_embeddings.weight"][fields["pad_token_id"]] = 0
    else:
        model.classifier.config = copy.deepcopy(model.config)
        model.classifier.config.hidden_act = "gelu"
    return load_exactly(model, state, weights)
