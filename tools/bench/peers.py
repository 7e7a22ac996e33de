#!/usr/bin/env python3
"""The tools that onnxfix is compared with, each as a command line of its own process.

Run as a program, this is the command line of the two peers that have none: it rewrites one model with them.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

# The oracle knows how to read shapes from a model and how to find the binary; the benchmarks use the same code.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

Shapes = dict[str, list[int]]


def _name_and_shape(shapes: Shapes) -> list[str]:
    """`name:1,32` for each input, as onnxsim and OnnxSlim take it."""
    return [f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items()]


def _onnxsim(source: Path, out: Path, shapes: Shapes) -> list[str]:
    return [sys.executable, "-m", "onnxsim", str(source), str(out), "--overwrite-input-shape", *_name_and_shape(shapes)]


def _onnxslim(source: Path, out: Path, shapes: Shapes) -> list[str]:
    return [sys.executable, "-m", "onnxslim", str(source), str(out), "--input-shapes", *_name_and_shape(shapes)]


def _by_this_file(peer: str) -> Callable[[Path, Path, Shapes], list[str]]:
    def command(source: Path, out: Path, shapes: Shapes) -> list[str]:
        return [sys.executable, __file__, peer, str(source), str(out), *_name_and_shape(shapes)]

    return command


COMMANDS: dict[str, Callable[[Path, Path, Shapes], list[str]]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxscript": _by_this_file("onnxscript"),
    "ORT extended": _by_this_file("onnxruntime"),
}


def versions() -> dict[str, str]:
    """What was compared."""
    packages = ("onnx", "onnxruntime", "onnxscript", "onnxsim", "onnxslim")
    return {package: version(package) for package in packages}


def optimize_with_onnxscript(source: str, out: str, shapes: Shapes) -> None:
    """onnxscript's optimizer on a model whose input shapes are set first, since it takes none."""
    import onnx
    import onnxscript.optimizer

    model = onnx.load(source)
    for value in model.graph.input:
        if value.name in shapes:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name]):
                dim.dim_value = size
    # What the exporter noted about symbolic shapes would keep the new ones from spreading.
    del model.graph.value_info[:]
    onnx.save(onnxscript.optimizer.optimize(model), out)


def optimize_with_onnxruntime(source: str, out: str, shapes: Shapes) -> None:
    """ONNX Runtime's offline optimization at the last level that still writes a file for any machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = out
    options.log_severity_level = 3
    for symbol, size in _symbols(source, shapes).items():
        options.add_free_dimension_override_by_name(symbol, size)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _symbols(source: str, shapes: Shapes) -> dict[str, int]:
    """The size of each symbolic dim of the inputs."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    return {
        dim.dim_param: size
        for value in model.graph.input
        if value.name in shapes
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name])
        if dim.dim_param
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("onnxscript", "onnxruntime"))
    parser.add_argument("source", help="the model to rewrite")
    parser.add_argument("out", help="where to write the result")
    parser.add_argument("shapes", nargs="*", metavar="NAME:1,32", help="the shape of an input")
    arguments = parser.parse_args()
    pairs = [entry.rsplit(":", 1) for entry in arguments.shapes]
    shapes = {name: [int(size) for size in sizes.split(",")] for name, sizes in pairs}
    rewrite = {"onnxscript": optimize_with_onnxscript, "onnxruntime": optimize_with_onnxruntime}[arguments.peer]
    rewrite(arguments.source, arguments.out, shapes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
