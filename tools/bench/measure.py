#!/usr/bin/env python3
"""Runs one command and measures its time and memory.

The command is started by this file as a small program of its own: Linux counts what a process held before it
started another program as that program's peak too, and the benchmark itself holds much more than `cp` does.
"""

import json
import os
import subprocess
import sys
import threading
import time

SAMPLE_SECONDS = 0.005


def measure(command: list[str]) -> dict:
    """Wall time and CPU time in seconds, peak memory in bytes, exit code, and the last line of a failure."""
    launcher = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(launcher, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _launch(command: list[str]) -> dict:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors: list[bytes] = []
    # A full pipe would stop the command.
    drain = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    sampler = _AnonymousMemory(process.pid)
    drain.start()
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    sampler.is_over.set()
    drain.join()
    lines = errors[0].decode(errors="replace").strip().splitlines()
    exit_code = os.waitstatus_to_exitcode(status)
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
    print(json.dumps(_launch(sys.argv[1:])))
