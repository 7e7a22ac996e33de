#!/usr/bin/env python3
"""Time and memory of `onnxfix optimize` on generated models: growing depth, more than 2 GB, unusual layouts of weights.

    layers     DeBERTa-v3 of hidden size 16 with 12, 24 and 48 layers: what the graph costs without its weights
    external   DeBERTa-v3-base with a larger vocabulary, over 2 GB, weights in a second file; the result is checked
    many       100,000 initializers of 16 elements, each read once
    shared     100,000 nodes that all read one initializer
    huge       one initializer of 1.5 GB
    constants  1 GB of weights in Constant nodes
    typed      300 MB of weights in `float_data`

`cp` of the same files is the floor. Prints a Markdown table of medians and writes the raw figures to
tools/bench/results. `layers` needs what tools/export needs; `external` the base-size graphs of a folder of further
models. Exit: 0 done, 1 a run failed, 2 could not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import peers  # First, since it makes the oracle's modules known.
from errors import OracleError
from measure import measure, settle
from tool import Onnxfix, further_models

RESULTS = Path(__file__).resolve().parent / "results"
MB = 1_000_000


@dataclass
class Case:
    """A model to be measured."""

    name: str
    model: Path
    options: list[str] = field(default_factory=list)
    data: list[Path] = field(default_factory=list)
    is_checked: bool = False

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in [self.model, *self.data])


def layers(folder: Path) -> Iterator[Case]:
    for count in (12, 24, 48):
        path = folder / f"layers{count}.onnx"
        export = Path(__file__).with_name("deep.py")
        subprocess.run([sys.executable, str(export), str(count), str(path)], check=True, stdout=sys.stderr)
        yield Case(f"{count} layers", path, ["--input-shape", "input_ids:1,32;attention_mask:1,32"])


def external(folder: Path) -> Iterator[Case]:
    further = further_models()
    if further is None:
        raise OracleError("no folder of further models (../shared/models or $ONNXFIX_DATA/models)")
    model = onnx.load(further / "base" / "deberta_base_ts13.graph.onnx", load_external_data=False)
    weights = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    embedding = max(weights, key=lambda tensor: np.prod(tensor.dims))
    embedding.dims[0] = 720_000
    path = folder / "external.onnx"
    data = path.with_name("external.onnx.data")
    generator = np.random.default_rng(0)
    with data.open("wb") as out:
        for tensor in weights:
            del tensor.external_data[:]
            left, offset = int(np.prod(tensor.dims)), out.tell()
            entries = {"location": data.name, "offset": offset, "length": 4 * left}
            tensor.external_data.extend(
                onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in entries.items()
            )
            while left > 0:
                step = min(left, 1 << 22)
                (generator.standard_normal(step, dtype=np.float32) * np.float32(0.05)).tofile(out)
                left -= step
    path.write_bytes(model.SerializeToString())
    yield Case("over 2 GB", path, ["--input-shape", "input_ids:1,256;attention_mask:1,256"], [data], is_checked=True)


def save(path: Path, nodes: list, initializers: list, width: int) -> None:
    """Writes a model from `x` to `y`, both of `width` floats."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [width]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 13)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def chain(operands: list[str]) -> list:
    """x plus each operand in turn, down to y."""
    values = ["x", *(f"t{i}" for i in range(len(operands) - 1)), "y"]
    return [helper.make_node("Add", [values[i], operand], [values[i + 1]]) for i, operand in enumerate(operands)]


def random(generator: np.random.Generator, size: int, name: str) -> TensorProto:
    return numpy_helper.from_array(generator.standard_normal(size, dtype=np.float32), name)


def many(folder: Path) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    initializers = [random(generator, 16, f"w{i}") for i in range(100_000)]
    save(folder / "many.onnx", chain([tensor.name for tensor in initializers]), initializers, 16)
    yield Case("100,000 initializers", folder / "many.onnx")


def shared(folder: Path) -> Iterator[Case]:
    weight = random(np.random.default_rng(0), 16, "w")
    nodes = []
    # The Identities go one by one, each of them a use of `w` and of its own input.
    for i in range(50_000):
        before, after = ("x" if i == 0 else f"t{i - 1}"), ("y" if i == 49_999 else f"t{i}")
        nodes += [helper.make_node("Identity", ["w"], [f"w{i}"]), helper.make_node("Add", [before, f"w{i}"], [after])]
    save(folder / "shared.onnx", nodes, [weight], 16)
    yield Case("100,000 nodes, one constant", folder / "shared.onnx")


def huge(folder: Path) -> Iterator[Case]:
    weight = random(np.random.default_rng(0), 375_000_000, "w")
    save(folder / "huge.onnx", chain(["w"]), [weight], 375_000_000)
    yield Case("one initializer of 1.5 GB", folder / "huge.onnx")


def constants(folder: Path) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    names = [f"w{i}" for i in range(250)]
    nodes = [helper.make_node("Constant", [], [n], value=random(generator, 1_000_000, n)) for n in names]
    save(folder / "constants.onnx", nodes + chain(names), [], 1_000_000)
    yield Case("weights in Constant nodes", folder / "constants.onnx")


def typed(folder: Path) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    weights = []
    for i in range(75):
        values = generator.standard_normal(1_000_000, dtype=np.float32)
        weights.append(TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[len(values)], float_data=values))
    save(folder / "typed.onnx", chain([tensor.name for tensor in weights]), weights, 1_000_000)
    yield Case("weights in float_data", folder / "typed.onnx")


CASES = {case.__name__: case for case in (layers, external, many, shared, huge, constants, typed)}


def measure_case(case: Case, onnxfix: Onnxfix, runs: int) -> dict[str, list[dict]]:
    """All runs on one model, `cp` and onnxfix in turn."""
    figures: dict[str, list[dict]] = {"cp": [], "onnxfix": []}
    for _ in range(runs):
        for tool, entries in figures.items():
            # The disk may be another one elsewhere, so the result goes beside the model.
            with tempfile.TemporaryDirectory(dir=case.model.parent) as folder:
                out = Path(folder) / case.model.name
                command = ["cp", str(case.model), *map(str, case.data), folder]
                if tool == "onnxfix":
                    command = [str(onnxfix.binary), "optimize", str(case.model), "-o", str(out), "-q", *case.options]
                settle([case.model, *case.data], Path(folder))
                entries.append(measure(command))
                if tool == "onnxfix" and case.is_checked and entries[-1]["exit"] == 0:
                    onnx.checker.check_model(str(out))
    return figures


def row(case: Case, figures: dict[str, list[dict]]) -> str:
    ours = figures["onnxfix"]
    failed = next((entry for entry in ours if entry["exit"]), None)
    if failed:
        return f"| {case.name} | {case.size / MB:.0f} MB | failed: {failed['says']} | | | | |"
    wall, cpu = (statistics.median(entry[key] for entry in ours) for key in ("wall_seconds", "cpu_seconds"))
    peak, own = (statistics.median(e[key] for e in ours) for key in ("peak_bytes", "peak_anonymous_bytes"))
    floor = statistics.median(entry["wall_seconds"] for entry in figures["cp"])
    return (
        f"| {case.name} | {case.size / MB:.1f} MB | {wall:.2f} s | {wall / floor:.2f}× | {cpu:.2f} s"
        f" | {peak / MB:.0f} MB | {own / MB:.0f} MB |"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--scratch", metavar="DIR", help="where models are generated (default: a temporary folder)")
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--results", metavar="FILE", default=str(RESULTS / "generated.json"), help="raw figures as JSON")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        raise OracleError(f"no case is called {unknown[0]!r}; there are {', '.join(CASES)}")
    raw: dict[str, dict] = {}
    failed = False
    if arguments.scratch:
        Path(arguments.scratch).mkdir(parents=True, exist_ok=True)
    print("| model | size | time | to cp | CPU time | peak memory | of its own |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in arguments.cases or CASES:
        with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="onnxfix-bench-") as folder:
            for case in CASES[name](Path(folder)):
                figures = measure_case(case, onnxfix, arguments.runs)
                raw[case.name] = {"bytes": case.size, "runs": figures}
                failed |= any(entry["exit"] for entry in figures["onnxfix"])
                print(row(case, figures), flush=True)
    Path(arguments.results).write_text(json.dumps(raw, indent=1) + "\n")
    return 1 if failed else 0


def main() -> int:
    try:
        return run(parse())
    except (OracleError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"generated.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
