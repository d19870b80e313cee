"""What a process that does not answer is doing: a backtrace of each of its threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["stacks"]

_SECONDS = 20.0
_MOST = 16 * 1024  # characters


def stacks(pid: int) -> str:
    """Backtraces of all threads, by gdb or eu-stack; without either, where each waits in the kernel."""
    if gdb := shutil.which("gdb"):
        line = [
            gdb,
            "-p",
            str(pid),
            "-batch",
            "-nx",
            "-ex",
            "set print frame-arguments none",
            "-ex",
            "thread apply all bt",
        ]
    elif eu_stack := shutil.which("eu-stack"):
        line = [eu_stack, "-p", str(pid)]
    else:
        return _waiting(pid)
    try:
        told = subprocess.run(line, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _waiting(pid)
    return told.stdout[-_MOST:].strip() or _waiting(pid)


def _waiting(pid: int) -> str:
    """Name, state and wait channel of each thread (proc(5)); install gdb to see more."""
    lines = []
    for thread in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            name = (thread / "comm").read_text().strip()
            state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            where = (thread / "wchan").read_text().strip()
        except OSError:
            continue  # it has just ended
        lines.append(
            f"thread {thread.name} {name}: state {state}, waits in {where if where not in ('', '0') else 'nothing'}"
        )
    return "\n".join([*lines, "(install gdb for backtraces)"])
