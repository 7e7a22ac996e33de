#!/usr/bin/env python3
"""Exports small DeBERTa and ConvBERT models of every build that the configurations allow, through both exporters.

What `onnxfix` recognises must not depend on one configuration: compare the files with

    python tools/oracle/compare.py DIR

Exit: 0 all were written, 1 an exporter failed, 2 could not run.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import ConvBertConfig, ConvBertForSequenceClassification, ConvBertForTokenClassification
from transformers import DebertaConfig, DebertaForSequenceClassification
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2ForTokenClassification

import models
import to_onnx
from errors import ExportError

V3 = dict(models.DEBERTA_V3, **models.SIZES["deberta-v3", "tiny"], num_labels=3)
V1 = dict(vocab_size=1000, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
          relative_attention=True, max_relative_positions=-1, max_position_embeddings=64, pos_att_type=["c2p", "p2c"],
          position_biased_input=False, type_vocab_size=0, pad_token_id=0, num_labels=3)
CONVBERT = dict(models.CONVBERT, **models.SIZES["convbert", "tiny"], num_labels=2)

# What differs from the usual configuration, by name.
V3_VARIANTS = {
    "v3": {},
    "v3-no-buckets": dict(position_buckets=-1, max_position_embeddings=64),
    "v3-no-buckets-short": dict(position_buckets=-1, max_relative_positions=16),
    "v3-many-buckets": dict(position_buckets=128),
    "v3-c2p": dict(pos_att_type=["c2p"]),
    "v3-p2c": dict(pos_att_type=["p2c"]),
    "v3-own-projections": dict(share_att_key=False),
    "v3-own-projection-c2p": dict(share_att_key=False, pos_att_type=["c2p"]),
    "v3-positions-unnormalised": dict(norm_rel_ebd="none"),
    "v3-positions-in-input": dict(position_biased_input=True),
    "v3-no-relative-positions": dict(relative_attention=False, position_biased_input=True),
    "v3-segments": dict(type_vocab_size=2),
    "v3-narrow-embedding": dict(embedding_size=32),
    "v3-one-layer": dict(num_hidden_layers=1),
    "v2-convolution": dict(conv_kernel_size=3, conv_act="gelu"),
    "v2-convolution-groups": dict(conv_kernel_size=3, conv_act="tanh", conv_groups=2),
}
V1_VARIANTS = {
    "v1": {},
    "v1-c2p": dict(pos_att_type=["c2p"]),
    "v1-p2c": dict(pos_att_type=["p2c"]),
    "v1-short": dict(max_relative_positions=16),
    "v1-talking-heads": dict(talking_head=True),
}
CONVBERT_VARIANTS = {
    "convbert": {},
    "convbert-groups": dict(num_groups=2),
    "convbert-groups-kernel-5": dict(num_groups=4, conv_kernel_size=5),
    "convbert-kernel-3": dict(conv_kernel_size=3),
    "convbert-ratio-1": dict(head_ratio=1),
    "convbert-ratio-4": dict(head_ratio=4),
    "convbert-narrow-embedding": dict(embedding_size=32),
}
BUILDS = [
    *((name, DebertaV2ForSequenceClassification, DebertaV2Config(**V3 | own)) for name, own in V3_VARIANTS.items()),
    *((name, DebertaForSequenceClassification, DebertaConfig(**V1 | own)) for name, own in V1_VARIANTS.items()),
    *((name, ConvBertForSequenceClassification, ConvBertConfig(**CONVBERT | own)) for name, own in CONVBERT_VARIANTS.items()),
    ("v3-tokens", DebertaV2ForTokenClassification, DebertaV2Config(**V3)),
    ("convbert-tokens", ConvBertForTokenClassification, ConvBertConfig(**CONVBERT)),
]
EXPORTERS = [("torchscript", 13), ("torchscript", 17), ("dynamo", 18)]


class Classifier(torch.nn.Module):
    """Named integer inputs in, `logits` out; segments where the model knows any."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.names = ["input_ids", "attention_mask"]
        if model.config.type_vocab_size > 0:
            self.names.append("token_type_ids")
        self.eval()

    def forward(self, *tensors):
        return self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the files go")
    parser.add_argument("--only", metavar="NAME", action="append", help="this build; repeatable (default: all)")
    args = parser.parse_args()
    unknown = set(args.only or []) - {name for name, _, _ in BUILDS}
    if unknown:
        print(f"variants.py: no build is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, build, config in BUILDS:
        if args.only and name not in args.only:
            continue
        config._attn_implementation = "eager"
        model = build(config).eval()
        models.fill(model, torch.Generator().manual_seed(7))
        classifier = Classifier(model)
        inputs = to_onnx.example_inputs(classifier.names, config, to_onnx.TRACED_BATCH, to_onnx.TRACED_SEQ, torch.int64)
        for exporter, opset in EXPORTERS:
            path = args.folder / f"{name}-{exporter}-{opset}.onnx"
            try:
                to_onnx.export(classifier, inputs, classifier.names, exporter, opset, None, None, path)
            except ExportError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
