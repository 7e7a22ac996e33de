#!/usr/bin/env python3
"""How many nodes each tool leaves of real exports, as a Markdown table.

Every tool gets the same input shapes: batch 1 and, where the length is open, 32 tokens. onnxfix runs for the portable
target. Constant nodes and initializers are not counted. Exit: 0 onnxfix never leaves more nodes than onnxsim or OnnxSlim, 1 it does,
2 could not run.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import peers  # First, since it makes the oracle's modules known.
import graph as graphs
import inputs as meaningful
from errors import OracleError
from tool import Onnxfix, further_models, models_in

BATCH = 1

# Where onnxfix has more nodes than one of these, the row is marked.
RIVALS = ("onnxsim", "onnxslim")


def count_after(command: list[str], out: Path) -> int | None:
    """The nodes of what a tool wrote, or None where it wrote nothing that loads."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not out.is_file():
        says = (done.stderr or done.stdout).strip().splitlines()
        print(f"{' '.join(command[:4])} …: exit {done.returncode}: {says[-1] if says else ''}", file=sys.stderr)
        return None
    return graphs.count_nodes(graphs.load(out))


def count_row(path: Path, onnxfix: Onnxfix, folder: Path) -> dict[str, int | None]:
    """One model through every tool."""
    model = graphs.load(path)
    shapes = meaningful.input_shapes(model, BATCH)
    counts: dict[str, int | None] = {"original": graphs.count_nodes(model)}
    for name, command in peers.COMMANDS.items():
        out = folder / f"{path.stem}.{name.split()[0]}.onnx"
        counts[name] = count_after(command(path, out, shapes), out)
    out = folder / f"{path.stem}.onnxfix.onnx"
    options = ["--target", "portable"]
    options += ["--input-shape", meaningful.shape_argument(shapes)]
    counts["onnxfix"] = count_after([str(onnxfix.binary), "optimize", str(path), "-o", str(out), "-q", *options], out)
    return counts


def is_behind(counts: dict[str, int | None]) -> bool:
    """Whether onnxfix leaves more nodes than a rival, or nothing at all."""
    ours = counts["onnxfix"]
    return ours is None or any(counts[rival] is not None and counts[rival] < ours for rival in RIVALS)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL_OR_DIR",
        help="what to count (default: a folder of further models, ../shared/models or $ONNXFIX_DATA/models)",
    )
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    further = further_models()
    if not arguments.models and further is None:
        raise OracleError("no folder of further models (../shared/models or $ONNXFIX_DATA/models); name some files")
    columns = ["original", *peers.COMMANDS, "onnxfix"]
    print(f"| file | {' | '.join(columns)} | |")
    print(f"|---|{'---:|' * len(columns)}---|")
    behind = 0
    with tempfile.TemporaryDirectory(prefix="onnxfix-bench-") as scratch:
        for path in models_in(arguments.models or [str(further)]):
            counts = count_row(path.resolve(), onnxfix, Path(scratch))
            cells = ["failed" if counts[column] is None else str(counts[column]) for column in columns]
            mark = "**behind**" if is_behind(counts) else ""
            behind += bool(mark)
            print(f"| {path.name} | {' | '.join(cells)} | {mark} |", flush=True)
    return 1 if behind else 0


def main() -> int:
    try:
        return run(parse())
    except (OracleError, OSError) as error:
        print(f"nodes.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
