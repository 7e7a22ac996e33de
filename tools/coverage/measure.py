#!/usr/bin/env python3
"""How many lines of a crate its tests run: of `ir` and `passes` by default, test code not counted.

Builds the tests without optimisation and with coverage counters, in a target directory of their own, runs them, and
prints one row per crate and per file below the limit. What is after `#[cfg(test)]` in a file, `tests.rs`, `testing.rs`
and the folders `tests` are test code. Exit: 0 every crate is at the limit or above, 1 one is below, 2 could not run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What the crates' tests are, besides their own.
PACKAGES = ("onnxfix-ir", "onnxfix-passes", "onnxfix-generate")

# A module of tests ends the file that it is in.
TESTS_BEGIN = re.compile(r"^#\[cfg\(test\)\]\nmod tests? \{", re.MULTILINE)


class CoverageError(Exception):
    """Why nothing was measured."""


def tool(name: str) -> str:
    """An LLVM tool: named by the environment (`LLVM_COV`), beside this Python (the wheel's), or on the path."""
    given = os.environ.get(name.upper().replace("-", "_"))
    if given:
        return given
    for folder in sys.path:
        inside = Path(folder) / "llvm" / "bin" / name
        if inside.is_file():
            return str(inside)
    found = shutil.which(name)
    if not found:
        raise CoverageError(f"{name} is not there; `pip install -r tools/coverage/requirements.txt` brings it")
    return found


def llvm_of(*command: str) -> int:
    """The LLVM that a program is of, by its major version."""
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"LLVM version:? (\d+)", said)
    # Old ones do not tell.
    return int(found[1]) if found else 0


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    """Runs a command from the root of the repository."""
    done = subprocess.run(command, cwd=ROOT, text=True, check=False, **options)
    if done.returncode != 0:
        raise CoverageError(f"{' '.join(command[:6])} … failed with exit code {done.returncode}")
    return done


def test_binaries(environment: dict[str, str]) -> list[str]:
    """Builds the tests; their programs."""
    command = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics"]
    for package in PACKAGES:
        command += ["-p", package]
    done = run(command, env=environment, stdout=subprocess.PIPE)
    return sorted(set(re.findall(r'"executable":"([^"]+)"', done.stdout)))


def measure(target: Path) -> str:
    """Runs the tests; the lines they ran in lcov's form."""
    profiles = target / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(target),
        # The wheel's tools read no compressed names.
        "RUSTFLAGS": "-C instrument-coverage -C llvm-args=-enable-name-compression=false",
        # Random models find every line they will find soon, and take long without optimisation.
        "ONNXFIX_CASES": os.environ.get("ONNXFIX_CASES", "400"),
        "LLVM_PROFILE_FILE": str(profiles / "%p-%m.profraw"),
    }
    profdata, cov = tool("llvm-profdata"), tool("llvm-cov")
    reads, writes = llvm_of(profdata, "--version"), llvm_of("rustc", "-vV")
    if reads < writes:
        raise CoverageError(f"{profdata} is older than LLVM {writes}, whose profiles rustc writes; "
                            "`pip install -r tools/coverage/requirements.txt` brings one that reads them")
    binaries = test_binaries(environment)
    command = ["cargo", "test", "--quiet"]
    for package in PACKAGES:
        command += ["-p", package]
    run(command, env=environment, stdout=subprocess.DEVNULL)
    merged = target / "merged.profdata"
    raw = [str(path) for path in sorted(profiles.glob("*.profraw"))]
    run([profdata, "merge", "-sparse", "-o", str(merged), *raw])
    objects = [part for binary in binaries for part in ("-object", binary)]
    return run(
        [cov, "export", "-format=lcov", f"-instr-profile={merged}", *objects], stdout=subprocess.PIPE
    ).stdout


def last_line(path: Path) -> int:
    """The last line that is not test code."""
    text = path.read_text(encoding="utf-8")
    begin = TESTS_BEGIN.search(text)
    return text.count("\n", 0, begin.start()) if begin else sys.maxsize


def count(lcov: str, crate: str) -> dict[Path, tuple[list[int], int]]:
    """The lines of each file that no test ran, and the number of lines that a test could run."""
    files: dict[Path, tuple[list[int], int]] = {}
    source = (ROOT / crate / "src").resolve()
    for record in lcov.split("end_of_record"):
        name = re.search(r"^SF:(.+)$", record, re.MULTILINE)
        path = Path(name[1]) if name else None
        if path is None or not path.is_relative_to(source) or path.name in ("tests.rs", "testing.rs"):
            continue
        last = last_line(path)
        lines = [(int(n), int(hits)) for n, hits in re.findall(r"^DA:(\d+),(\d+)", record, re.MULTILINE)]
        lines = [(n, hits) for n, hits in lines if n <= last]
        files[path.relative_to(ROOT)] = ([n for n, hits in lines if hits == 0], len(lines))
    if not files:
        raise CoverageError(f"no line of {crate} was counted")
    return files


def ranges(lines: list[int]) -> str:
    """Numbers as `3-5 9`."""
    parts: list[list[int]] = []
    for n in lines:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crates", nargs="*", default=["ir", "passes"], help="folders of crates (default: ir passes)")
    parser.add_argument("--limit", type=float, default=90.0, help="percent of lines that a crate needs (default: 90)")
    parser.add_argument("--missed", action="store_true", help="print the lines that no test ran, too")
    parser.add_argument(
        "--target-dir",
        type=Path,
        default=Path.home() / ".cache/onnxfix/target-coverage",
        help="where the instrumented build goes (default: ~/.cache/onnxfix/target-coverage)",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    try:
        lcov = measure(args.target_dir.resolve())
        below = False
        for crate in args.crates:
            files = count(lcov, crate)
            total = sum(n for _, n in files.values())
            missed = sum(len(lines) for lines, _ in files.values())
            share = 100 * (total - missed) / total
            below |= share < args.limit
            print(f"{share:6.2f} %  {total - missed:5} of {total:5}  {crate}")
            for path, (lines, n) in sorted(files.items()):
                if n and (part := 100 * (n - len(lines)) / n) < args.limit:
                    print(f"{part:6.2f} %  {n - len(lines):5} of {n:5}    {path}")
                if args.missed and lines:
                    print(f"{'':27}{path}: {ranges(lines)}")
    except (CoverageError, OSError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 2
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
