#!/usr/bin/env python3
"""Runs one command and measures its time and memory.

The command is started by this file as a small program of its own: Linux counts what a process held before it
started another program as that program's peak too, and the benchmark itself holds much more than `cp` does.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SAMPLE_SECONDS = 0.005


def settle(files: list[Path], folder: Path) -> None:
    """Makes every run begin alike: nothing is left to be written, the files are in the page cache, and so much memory
    as a run needs is free and really there. Virtual machines give free memory back to their host after a second or
    two, and whoever needs it next pays for getting it again, up to ten times what writing a file takes otherwise.
    """
    os.sync()
    copies = [folder / f".{number}.{file.name}.settle" for file in files for number in range(2)]
    try:
        for copy, file in zip(copies, [file for file in files for _ in range(2)], strict=True):
            shutil.copyfile(file, copy)
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)


def measure(command: list[str], limit_seconds: float = 900) -> dict:
    """Wall time and CPU time in seconds, peak memory in bytes, exit code, and the last line of a failure.

    A command that takes longer than the limit is stopped, which counts as a failure.
    """
    launcher = [sys.executable, "-I", "-S", __file__, str(limit_seconds), *command]
    done = subprocess.run(launcher, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _launch(limit_seconds: float, command: list[str]) -> dict:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors: list[bytes] = []
    # A full pipe would stop the command.
    drain = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    sampler = _AnonymousMemory(process.pid)
    # By the process id and not by Popen, which knows nothing of an end that was waited for elsewhere.
    watchdog = threading.Timer(limit_seconds, os.kill, (process.pid, signal.SIGKILL))
    drain.start()
    sampler.start()
    watchdog.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    watchdog.cancel()
    sampler.is_over.set()
    drain.join()
    lines = errors[0].decode(errors="replace").strip().splitlines()
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code == -signal.SIGKILL:
        lines.append(f"stopped after {wall:.0f} s" if wall >= limit_seconds else "killed, maybe for want of memory")
    return {
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "peak_anonymous_bytes": sampler.peak,
        "exit": exit_code,
        "says": lines[-1][:300] if exit_code and lines else "",
    }


class _AnonymousMemory(threading.Thread):
    """The peak of the memory that is a process's own. Pages of a mapped file are the page cache's."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.path = f"/proc/{pid}/status"
        self.peak = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(SAMPLE_SECONDS):
            try:
                with open(self.path) as status:
                    found = [line.split()[1] for line in status if line.startswith("RssAnon")]
            except OSError:
                return
            if found:
                self.peak = max(self.peak, int(found[0]) * 1024)


if __name__ == "__main__":
    print(json.dumps(_launch(float(sys.argv[1]), sys.argv[2:])))
