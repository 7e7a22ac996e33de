#!/usr/bin/env python3
"""Time and memory of `onnxfix optimize` against its peers on base-size models.

The graphs of a folder of further models (base/*.graph.onnx) are filled with seeded random weights first. Then every
tool runs on every model, one after the other, round after round, so that a busy minute of the machine hits all of them.
`cp` is there as the floor: a tool has to read the file and write one of the same size. Prints a Markdown table of
medians, then the short one of the README, and writes the raw figures to tools/bench/results. A tool that fails or takes
longer than --limit on a model is not run on it again. Exit: 0 done, 1 a tool failed, 2 could not run.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers  # First, since it makes the oracle's modules known.
import graph as graphs
import inputs as meaningful
from errors import OracleError
from measure import measure, settle
from tool import Onnxfix, further_models

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 1
MB = 1_000_000


def fill(scratch: Path, wanted: list[str]) -> list[Path]:
    """The base-size models with weights. Files of an earlier run in the same folder are used again."""
    further = further_models()
    if further is None:
        raise OracleError("no folder of further models (../shared/models or $ONNXFIX_DATA/models)")
    filler = further.parent / "tools" / "fill_weights.py"
    filled = []
    for source in sorted((further / "base").glob("*.graph.onnx")):
        name = source.name.removesuffix(".graph.onnx")
        if wanted and name not in wanted:
            continue
        out = scratch / f"{name}.onnx"
        if not out.is_file():
            partial = scratch / f"{name}.part"
            subprocess.run([sys.executable, str(filler), str(source), str(partial)], check=True, stdout=sys.stderr)
            partial.rename(out)
        filled.append(out)
    if not filled:
        raise OracleError(f"no base-size graph is called {' or '.join(wanted) or '*.graph.onnx'}")
    return filled


def commands(source: Path, out: Path, shapes: dict, onnxfix: Onnxfix) -> dict[str, list[str]]:
    """Every tool's command line for one model."""
    options = ["-q", "--input-shape", meaningful.shape_argument(shapes)]
    found = {
        "cp": ["cp", str(source), str(out)],
        "onnxfix": [str(onnxfix.binary), "optimize", str(source), "-o", str(out), *options],
    }
    for name, command in peers.COMMANDS.items():
        found[name] = command(source, out, shapes)
    return found


def run_once(command: list[str], source: Path, out: Path, limit: float) -> dict:
    """One measured run; what it wrote is weighed and deleted."""
    settle([source], out.parent)
    figures = measure(command, limit)
    written = list(out.parent.glob(f"{out.name}*"))
    figures["written_bytes"] = sum(path.stat().st_size for path in written)
    for path in written:
        path.unlink()
    if figures["exit"] == 0 and not written:
        figures.update(exit=1, says="wrote nothing")
    # The message may name files of this machine, which mean nothing in a published result.
    figures["says"] = figures["says"].replace(str(out.parent), "").replace(str(Path.home()), "~")
    return figures


def measure_model(source: Path, arguments: argparse.Namespace, onnxfix: Onnxfix) -> dict[str, list[dict]]:
    """All runs of all tools on one model, interleaved."""
    model = graphs.load(source)
    shapes = meaningful.input_shapes(model, BATCH, arguments.seq)
    del model
    out = source.with_name(f"{source.stem}.out.onnx")
    tools = commands(source, out, shapes, onnxfix)
    unknown = [name for name in arguments.tools or [] if name not in tools]
    if unknown:
        raise OracleError(f"no tool is called {unknown[0]!r}; there are {', '.join(tools)}")
    runs: dict[str, list[dict]] = {name: [] for name in tools if not arguments.tools or name in arguments.tools}
    for number in range(arguments.runs):
        for name in runs:
            if any(entry["exit"] for entry in runs[name]):
                continue
            print(f"{source.stem}: run {number + 1} of {arguments.runs}: {name}", file=sys.stderr)
            runs[name].append(run_once(tools[name], source, out, arguments.limit))
    return runs


def table(name: str, size: int, runs: dict[str, list[dict]]) -> list[str]:
    """The medians of one model as rows of a Markdown table."""
    walls = {tool: _median(entries, "wall_seconds") for tool, entries in runs.items()}
    rows = []
    for tool, entries in runs.items():
        if walls[tool] is None:
            rows.append(f"| {name} | {tool} | {entries[0]['says'] or 'failed'} | | | | | |")
            continue
        peak, anonymous = _median(entries, "peak_bytes"), _median(entries, "peak_anonymous_bytes")
        cells = [
            f"{walls[tool]:.2f} s",
            _ratio(walls[tool], walls.get("cp")),
            _ratio(walls[tool], walls.get("onnxfix")),
            f"{_median(entries, 'cpu_seconds'):.2f} s",
            f"{peak / MB:.0f} MB ({peak / size:.2f}×)",
            f"{anonymous / MB:.0f} MB ({anonymous / size:.2f}×)",
        ]
        rows.append(f"| {name} | {tool} | {' | '.join(cells)} |")
    return rows


def summary(models: dict) -> list[str]:
    """One row per model: time and peak memory of each tool, and how onnxfix stands to `cp`, onnxsim and the file."""
    tools = list(next(iter(models.values()))["runs"])
    lines = [f"| model | size | {' | '.join(tools)} | onnxfix to cp | onnxsim to onnxfix | peak to size |"]
    lines.append(f"|---|{'---:|' * (len(tools) + 4)}")
    for name, figures in models.items():
        runs, size = figures["runs"], figures["bytes"]
        walls = {tool: _median(entries, "wall_seconds") for tool, entries in runs.items()}
        cells = []
        for tool, entries in runs.items():
            peak = _median(entries, "peak_bytes")
            cells.append(f"{walls[tool]:.2f} s, {peak / MB:,.0f} MB" if walls[tool] else entries[0]["says"] or "failed")
        ours, peak = walls.get("onnxfix"), _median(runs.get("onnxfix", []), "peak_bytes")
        theirs = walls.get("onnxsim")
        cells += [
            _ratio(ours, walls.get("cp")) if ours else "–",
            _ratio(theirs, ours) if theirs else "–",
            _ratio(peak, size) if peak else "–",
        ]
        lines.append(f"| {name} | {size / MB:.0f} MB | {' | '.join(cells)} |")
    return lines


def _median(entries: list[dict], key: str) -> float | None:
    good = [entry[key] for entry in entries if entry["exit"] == 0]
    return statistics.median(good) if good else None


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}×" if base else "–"


def machine() -> dict:
    """What the figures depend on besides the tools."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="NAME", help="base-size graphs, such as deberta_base_ts13 (default: all)"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each tool (default: %(default)s)")
    parser.add_argument("--seq", type=int, default=256, help="tokens where the length is open (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=900, help="seconds a run may take (default: %(default)s)")
    parser.add_argument("--tools", type=lambda text: text.split(","), help="only these, separated by commas")
    parser.add_argument("--scratch", metavar="DIR", help="keep the filled models here (default: a temporary folder)")
    parser.add_argument("--onnxfix", metavar="BIN", help="the binary (default: the release build, or the one on PATH)")
    parser.add_argument("--results", metavar="FILE", default=str(RESULTS / "optimize.json"), help="raw figures as JSON")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    onnxfix = Onnxfix(arguments.onnxfix)
    raw = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"onnxfix": _version_of(onnxfix), **peers.versions()},
        "seq": arguments.seq,
        "batch": BATCH,
        "models": {},
    }
    rows = []
    with tempfile.TemporaryDirectory(prefix="onnxfix-bench-") as temporary:
        scratch = Path(arguments.scratch or temporary).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        for source in fill(scratch, arguments.models):
            size = source.stat().st_size
            runs = measure_model(source, arguments, onnxfix)
            raw["models"][source.stem] = {"bytes": size, "runs": runs}
            rows += table(source.stem, size, runs)
            # After each model, so that a long run that is stopped has not been for nothing.
            results = Path(arguments.results)
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(raw, indent=1) + "\n")
    print("| model | tool | time | to cp | to onnxfix | CPU time | peak memory | of its own |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows), end="\n\n")
    print("\n".join(summary(raw["models"])))
    failed = False
    for model, figures in raw["models"].items():
        for tool, entries in figures["runs"].items():
            for entry in entries:
                if entry["exit"]:
                    failed = True
                    print(f"{model}: {tool}: exit {entry['exit']}: {entry['says']}", file=sys.stderr)
    return 1 if failed else 0


def _version_of(onnxfix: Onnxfix) -> str:
    done = subprocess.run([str(onnxfix.binary), "--version"], capture_output=True, text=True)
    return done.stdout.strip().removeprefix("onnxfix ")


def main() -> int:
    try:
        return run(parse())
    except (OracleError, OSError, subprocess.CalledProcessError, RuntimeError) as error:
        print(f"optimize.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
