#!/usr/bin/env python3
"""What `onnxfix verify` takes on a base-size model: seconds until the engine is ready, seconds for a sample beside ONNX
Runtime on one thread, and the most memory.

Optimizes MODEL for one sequence of `--seq` tokens, then in each round runs it in tract (`onnxfix bench`) and in ONNX
Runtime, one after the other, so that a busy moment of the machine hits both. At the end `onnxfix verify` compares the
result with MODEL, with and without layers, and its peak is measured. Writes the raw figures to
tools/bench/results/verify.json. Exit: 0 within the limits, 1 beyond one, 2 could not run.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import peers  # noqa: F401  First, since it makes the oracle's modules known.
import graph as graphs
import inputs as meaningful
import onnxruntime
from errors import OracleError
from measure import measure, settle
from optimize import RESULTS, machine
from tool import Onnxfix

# What is asked of it: seconds to load, time relative to ONNX Runtime, memory relative to the larger file.
LOAD, RATIO, MEMORY = 3.0, 2.0, 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the optimized model")
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--onnxfix", help="the program [default: that of the target folder, or on the path]")
    parser.add_argument("--results", type=Path, default=RESULTS / "verify.json")
    arguments = parser.parse_args()
    try:
        onnxfix = Onnxfix(arguments.onnxfix)
        model = graphs.load(arguments.model)
        shapes = meaningful.input_shapes(model, 1, arguments.seq)
        fed = meaningful.batches(meaningful.describe(model, 1, arguments.seq), 0, least_rows=1, most_rows=1)[0]
        del model
        out = arguments.scratch / f"{arguments.model.stem}.opt.onnx"
        outcome = onnxfix.optimize(arguments.model, out, "ascend310p3", meaningful.shape_argument(shapes))
        if outcome.exit != 0:
            raise OracleError(outcome.says)
    except OracleError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    start = time.monotonic()
    session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    ort_load = time.monotonic() - start
    tensors = {name: values.astype("int32") for name, values in fed.items()}
    session.run(None, tensors)
    rounds = []
    for _ in range(arguments.rounds):
        settle([out], arguments.scratch)
        bench = onnxfix.run("bench", out, "--loop", "3", "--json")
        if bench.exit != 0:
            print(f"verify: {bench.says}", file=sys.stderr)
            return 2
        tract = json.loads(bench.output)["models"][0]
        times = []
        for _ in range(3):
            start = time.monotonic()
            session.run(None, tensors)
            times.append(time.monotonic() - start)
        rounds.append({"load": tract["load"], "tract": tract["seconds"], "ort": times})
    del session
    ratio = statistics.median(min(r["tract"]) / min(r["ort"]) for r in rounds)
    load = statistics.median(r["load"] for r in rounds)
    largest = max(arguments.model.stat().st_size, out.stat().st_size)
    runs = []
    for what, more in (("outputs", []), ("layers", ["--layers"]), ("float16", ["--fp16"])):
        command = [str(onnxfix.binary), "verify", str(out), "--against", str(arguments.model), "-q", *more]
        settle([out, arguments.model], arguments.scratch)
        runs.append({"what": what, **measure(command)})
        runs[-1]["of_file"] = runs[-1]["peak_bytes"] / largest
    median = statistics.median
    print(f"load      {load:.2f} s (fastest {min(r['load'] for r in rounds):.2f} s; ONNX Runtime {ort_load:.2f} s)")
    tract, ort = ([s for r in rounds for s in r[engine]] for engine in ("tract", "ort"))
    print(f"sample    {median(tract):.3f} s, ONNX Runtime on one thread {median(ort):.3f} s: {ratio:.2f} of it")
    for run in runs:
        print(f"verify    {run['what']:<8} {run['wall_seconds']:.1f} s, {run['of_file']:.2f} of the larger file, exit {run['exit']}")
    figures = {
        "machine": machine(),
        "command": f"tools/bench/verify.py {arguments.model.name} --seq {arguments.seq} --rounds {arguments.rounds}",
        "onnxruntime": onnxruntime.__version__,
        "file_bytes": largest,
        "ort_load": ort_load,
        "rounds": rounds,
        "load": load,
        "ratio": ratio,
        "runs": runs,
    }
    arguments.results.write_text(json.dumps(figures, indent=1) + "\n")
    good = load <= LOAD and ratio <= RATIO and all(r["of_file"] <= MEMORY and r["exit"] == 0 for r in runs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
