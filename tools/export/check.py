"""Checks an exported file: well formed, and the same logits in ONNX Runtime as in PyTorch."""

import numpy
import onnx
import onnxruntime
import torch

from errors import ExportError

# Float32 rounding in another order of operations stays well below this share of the logits' spread.
TOLERANCE = 1e-5


def worst_difference(path, model, names, batches):
    """The largest difference of a logit over all batches, relative to the spread of all logits."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # Both libraries raise types of their own that share no base class.
        raise ExportError(f"the exporter wrote an invalid model: {str(error).splitlines()[0]}") from error
    expected, actual = [], []
    for tensors in batches:
        with torch.no_grad():
            expected.append(model(*tensors).numpy())
        actual.append(session.run(["logits"], {name: t.numpy() for name, t in zip(names, tensors)})[0])
    expected, actual = numpy.concatenate(expected), numpy.concatenate(actual)
    worst = float(numpy.abs(actual - expected).max() / numpy.ptp(expected))
    if not worst <= TOLERANCE:
        raise ExportError(f"the exported model differs from PyTorch by {worst:.1e} of the spread of the logits")
    return worst
