#!/usr/bin/env python3
"""Exports DeBERTa-v3 and ConvBERT classifiers to ONNX. See README.md beside this file."""

import argparse
import contextlib
import os
import sys

import torch

import check
import microsoft_layout
import models
import paddle_layout
import state
import to_onnx
from errors import ExportError

# The guide's name for the mask, which its ATC command line and its data preparation use.
MICROSOFT_NAMES = {"attention_mask": "input_mask"}


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")
    parser.add_argument("--model", choices=["deberta-v3", "convbert"], help="default: what the weights are")
    parser.add_argument("--exporter", choices=["torchscript", "dynamo"], default="torchscript")
    parser.add_argument("--opset", type=int, default=None, help="default: 13 for torchscript, 18 for dynamo")
    parser.add_argument("--batch", type=size, default=None, metavar="N|dynamic", help="default: dynamic")
    parser.add_argument("--seq", type=size, default=None, metavar="N|dynamic", help="default: dynamic")
    parser.add_argument("--input-type", choices=["int32", "int64"],
                        help="default: int64, and int32 with --init_model, as in the guide")
    parser.add_argument("--mask-from-ids", action="store_true",
                        help="no mask input: the graph compares ids with the padding id, as Paddle's ConvBERT does")
    parser.add_argument("--size", choices=["tiny", "base"], help="of a model with random weights; default: tiny")
    parser.add_argument("--seed", type=int, help="of random weights; default: 0")
    parser.add_argument("--config", metavar="FILE", help="model_config.json of --init_model or --pdparams")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="DIR|FILE", help="local transformers checkpoint of a classifier")
    weights.add_argument("--init_model", "--init-model", metavar="FILE", help="weights of Microsoft's DeBERTa code")
    weights.add_argument("--pdparams", metavar="FILE", help="weights of PaddleNLP's ConvBERT")
    args = parser.parse_args(argv)
    refuse_contradictions(parser, args)
    return args


def size(text):
    """A size, or None for a symbolic one."""
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is neither a positive number nor 'dynamic'")
    return int(text)


def refuse_contradictions(parser, args):
    """Options that would have no effect are errors, so that nobody believes they had one."""
    layout_model = "deberta-v3" if args.init_model else "convbert" if args.pdparams else None
    if layout_model and args.model not in (None, layout_model):
        parser.error(f"these weights are of {layout_model}, not of {args.model}")
    args.model = args.model or layout_model
    if args.model is None:
        parser.error("--model is needed")
    if args.init_model and not args.config:
        parser.error("--init_model needs --config model_config.json")
    if args.config and not (args.init_model or args.pdparams):
        parser.error("--config goes with --init_model or --pdparams")
    if (args.checkpoint or layout_model) and (args.size is not None or args.seed is not None):
        parser.error("--size and --seed are for random weights")


def load_model(args):
    """The classifier, with its weights."""
    if args.checkpoint:
        return state.load_checkpoint(args.checkpoint, "deberta-v2" if args.model == "deberta-v3" else "convbert")
    if args.init_model:
        return microsoft_layout.load(args.init_model, args.config)
    if args.pdparams:
        return paddle_layout.load(args.pdparams, args.config)
    model = models.build(models.config_of(args.model, args.size or "tiny"))
    models.randomize(model, args.seed or 0)
    return model


def run(args):
    model = models.LogitsOnly(load_model(args), args.mask_from_ids)
    arguments = model.argument_names()
    names = [MICROSOFT_NAMES.get(name, name) for name in arguments] if args.init_model else arguments
    int_type = args.input_type or ("int32" if args.init_model else "int64")

    def inputs(batch, seq, padding):
        return to_onnx.example_inputs(arguments, model.model.config, batch, seq, getattr(torch, int_type), padding)

    opset = args.opset or (13 if args.exporter == "torchscript" else 18)
    traced = inputs(args.batch or to_onnx.TRACED_BATCH, args.seq or to_onnx.TRACED_SEQ, padding=0)
    shapes = [(args.batch or batch, args.seq or seq) for batch, seq in ((1, 32), (3, 20))]
    batches = [inputs(*shape, padding) for padding, shape in enumerate(shapes)]
    # A file under the asked name is always one that has passed the check.
    part = f"{args.output}.part"
    try:
        to_onnx.export(model, traced, names, args.exporter, opset, args.batch, args.seq, part)
        worst = check.worst_difference(part, model, names, batches)
        os.replace(part, args.output)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
    print(f"{args.output}: opset {opset}, differs from PyTorch by at most {worst:.1e} of the spread of the logits")


def main(argv=None):
    args = parse_args(argv)
    try:
        if not os.path.isdir(os.path.dirname(args.output) or "."):
            raise ExportError(f"{args.output}: no such folder")
        run(args)
    except ExportError as error:
        print(f"export.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
