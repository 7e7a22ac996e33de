"""Builds the classifiers to export: their sizes, their random weights, and the interface that ONNX gets."""

import math

import torch
from torch import nn
from transformers import ConvBertConfig, ConvBertForSequenceClassification
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

CLASSES = {
    "deberta-v2": DebertaV2ForSequenceClassification,
    "convbert": ConvBertForSequenceClassification,
}

# DeBERTa-v3 is the DeBERTa-v2 architecture with these switches set; `base` is microsoft/deberta-v3-base.
DEBERTA_V3 = dict(
    relative_attention=True,
    max_relative_positions=-1,
    max_position_embeddings=512,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
    type_vocab_size=0,
    layer_norm_eps=1e-7,
    pad_token_id=0,
)
# `base` is YituTech/conv-bert-base.
CONVBERT = dict(
    max_position_embeddings=512,
    type_vocab_size=2,
    head_ratio=2,
    conv_kernel_size=9,
    num_groups=1,
    layer_norm_eps=1e-12,
    pad_token_id=0,
)
# The tiny sizes keep what rewrites depend on: distances above 16 of 32 buckets are logarithmic, ConvBERT halves its
# heads, and no two of vocabulary, hidden, intermediate, head and table sizes are equal, so that a mixed-up axis shows.
SIZES = {
    ("deberta-v3", "tiny"): dict(vocab_size=1000, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                                 intermediate_size=192, position_buckets=32),
    ("deberta-v3", "base"): dict(vocab_size=128100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                 intermediate_size=3072, position_buckets=256),
    ("convbert", "tiny"): dict(vocab_size=1000, hidden_size=48, embedding_size=48, num_hidden_layers=2,
                               num_attention_heads=4, intermediate_size=192),
    ("convbert", "base"): dict(vocab_size=30522, hidden_size=768, embedding_size=768, num_hidden_layers=12,
                               num_attention_heads=12, intermediate_size=3072),
}


def config_of(model, size):
    """The configuration of a named model: three labels for MNLI, two for SST-2."""
    if model == "deberta-v3":
        return DebertaV2Config(**DEBERTA_V3, **SIZES[model, size], num_labels=3)
    return ConvBertConfig(**CONVBERT, **SIZES[model, size], num_labels=2)


def build(config):
    """An evaluation-mode classifier whose weights are still to be set."""
    # Neither class has a fused attention, but this setting makes the library build ConvBERT's mask as one to add.
    config._attn_implementation = "eager"
    return CLASSES[config.model_type](config).eval()


@torch.no_grad()
def randomize(model, seed):
    """Fills every parameter so that the signal keeps its size through all layers and logits are of order 1.

    The libraries start from a standard deviation of 0.02, which makes the logits of an untrained classifier about 0.001
    wherever one looks, and a relative comparison of such logits meaningless. Dividing by the square root of the number
    of inputs keeps each layer's output near its input's size instead. Norms and biases get their own values, so that a
    lost or a swapped one changes the result.
    """
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    center_logits(model, generator)


@torch.no_grad()
def fill(model, generator):
    """The weights of `randomize`, for a model of any head."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "LayerNorm.weight" in name:
            parameter.copy_(1 + 0.1 * noise)
        elif "embeddings.weight" in name:
            parameter.copy_(noise)
        elif name.endswith("bias"):
            parameter.copy_(0.1 * noise)
        else:
            parameter.copy_(noise * GAIN / math.sqrt(fan_in(parameter, model.config)))


# Attention scores get a standard deviation near 2: sharp enough that positions matter, far from one-hot.
GAIN = 1.4


def center_logits(model, generator):
    """Makes every label win on some inputs: a comparison of labels means little where one label always wins."""
    ids = torch.randint(1, model.config.vocab_size, (32, 32), generator=generator)
    mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.mean(0)
    bias = [parameter for name, parameter in model.named_parameters() if name.startswith("classifier.")][-1]
    # Sixteenths keep the bias, and so the file, the same where sums round differently.
    bias.sub_((mean * 16).round() / 16)


def fan_in(parameter, config):
    """How many inputs one output of this weight sums over."""
    if parameter.dim() == 3 and parameter.shape[0] == getattr(config, "num_groups", 1) > 1:
        return parameter.shape[1]  # grouped linear layers are stored [groups, in, out]
    return math.prod(parameter.shape[1:])


class LogitsOnly(nn.Module):
    """The graph's interface: named integer inputs in, `logits` out, nothing else."""

    def __init__(self, model, mask_from_ids):
        super().__init__()
        self.model = model
        self.mask_from_ids = mask_from_ids
        self.pad_token_id = model.config.pad_token_id
        self.has_segments = model.config.model_type == "convbert"
        # A wrapper left in training mode would switch dropout on in the model it wraps when the exporter restores modes.
        self.eval()

    def argument_names(self):
        """What `forward` takes, in order, under the library's names."""
        names = ["input_ids"]
        if not self.mask_from_ids:
            names.append("attention_mask")
        if self.has_segments:
            names.append("token_type_ids")
        return names

    def forward(self, *tensors):
        arguments = dict(zip(self.argument_names(), tensors, strict=True))
        if self.mask_from_ids:
            arguments["attention_mask"] = (arguments["input_ids"] != self.pad_token_id).long()
        return self.model(**arguments, return_dict=True).logits
