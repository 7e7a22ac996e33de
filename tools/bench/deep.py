#!/usr/bin/env python3
"""Exports a DeBERTa-v3 of any depth whose weights take next to nothing, so that a run on it costs what the graph costs.

A program of its own, since the exporters' modules and the oracle's have names in common.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))

SIZES = dict(vocab_size=100, hidden_size=16, num_attention_heads=2, intermediate_size=32, position_buckets=32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=int, help="number of layers")
    parser.add_argument("out", help="the model to write")
    arguments = parser.parse_args()

    import models
    import to_onnx
    import torch
    from transformers import DebertaV2Config

    config = DebertaV2Config(**models.DEBERTA_V3, **SIZES, num_hidden_layers=arguments.layers, num_labels=3)
    model = models.LogitsOnly(models.build(config), mask_from_ids=False)
    names = model.argument_names()
    inputs = to_onnx.example_inputs(names, config, to_onnx.TRACED_BATCH, to_onnx.TRACED_SEQ, torch.int64)
    to_onnx.export(model, inputs, names, "torchscript", 13, None, None, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
