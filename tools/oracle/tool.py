"""Where the models are and how `onnxfix` is called."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from errors import OracleError

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures" / "models"

# A tiny model takes seconds. Nothing here should ever take minutes.
TIMEOUT_SECONDS = 300


@dataclass
class Outcome:
    """How a command ended, the last lines it said about it, and all that it printed."""

    exit: int
    says: str
    output: str = ""


class Onnxfix:
    """The binary under test."""

    def __init__(self, binary: str | None):
        self.binary = _find_binary(binary)

    def run(self, *arguments: str) -> Outcome:
        """Runs one command; its output is only looked at where it fails."""
        command = [str(self.binary), *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=ROOT)
        except subprocess.TimeoutExpired:
            return Outcome(-1, f"no answer within {TIMEOUT_SECONDS} s")
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return Outcome(done.returncode, " / ".join(lines[-3:])[:400], done.stdout)

    def optimize(self, model: Path, out: Path, target: str, shapes: str | None = None, *more: str) -> Outcome:
        """`onnxfix optimize` with the options that every check uses, and more."""
        options = ["--input-shape", shapes] if shapes else []
        return self.run("optimize", model, "-o", out, "--target", target, "-q", *options, *more)


def _find_binary(given: str | None) -> Path:
    if given:
        candidates = [Path(given)]
    else:
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        candidates = [target / "release" / "onnxfix"]
        on_path = shutil.which("onnxfix")
        candidates.extend([Path(on_path)] if on_path else [])
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    tried = " or ".join(map(str, candidates))
    raise OracleError(f"no onnxfix at {tried}; build it with `cargo build --release` or give --onnxfix")


def further_models() -> Path | None:
    """The folder of further models, where this machine has one."""
    data = Path(os.environ.get("ONNXFIX_DATA") or ROOT.parent / "shared")
    folder = data / "models"
    return folder if folder.is_dir() else None


def models_in(places: list[str]) -> list[Path]:
    """The model files that the arguments name, folders opened one level deep."""
    found = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(place.glob("*.onnx"))
            if not inside:
                raise OracleError(f"{place}: no .onnx file in this folder")
            found.extend(inside)
        elif place.is_file():
            found.append(place)
        else:
            raise OracleError(f"{place}: no such file or folder")
    return found
