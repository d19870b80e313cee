"""The keeper: a small process that outlives the harness just long enough to clean up after it.

It reads `+PATH NUL` and `-PATH NUL` on its standard input: directories that exist, or no longer do. At end of file,
which comes when the harness closes the pipe or ends by whatever cause, SIGKILL included, it kills every process that
was started for one of these directories and removes them.

A process says which directory it was started for by `VIOMMU_RUN_DIRECTORY` in its environment. So no process id is ever
remembered, none can be mistaken for another that got the same number, and there is no moment between a fork and its
registration: until the child is in exec it holds the pipe open itself.

Standard library only, and imported before anything else of the harness: it runs as a script, with `python -I -S`.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

__all__ = ["MARK", "PREFIX", "clean", "kill_marked"]

MARK = "VIOMMU_RUN_DIRECTORY"
"""Environment variable that names the run directory a process belongs to."""

PREFIX = "viommu-"
"""What the name of every run directory starts with; nothing else is ever removed."""

_DEATH_MS = 5000
_ROUNDS = 20
_ROUND_SECONDS = 0.002


def kill_marked(directory: str) -> None:
    """Kill every process that was started for the directory, and wait (5 s at most, each) until it is gone.

    Rounds are repeated until one finds nothing, since a process that is killed may just have forked.
    """
    mark = f"{MARK}={directory}".encode()
    for _ in range(_ROUNDS):
        found = {_kill_if(int(entry.name), mark) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        if found == {False}:
            return
        if True not in found:
            # In the middle of exec a process has no environment to read yet; some never have one.
            time.sleep(_ROUND_SECONDS)


def _kill_if(pid: int, mark: bytes) -> bool | None:
    """Kill the process if it has the mark: whether it had, None if that cannot be told yet."""
    if pid == os.getpid():
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False  # gone already, or a thread
    try:
        # Read after the handle was taken: what is read and what is killed are then the same process.
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        if not environ:
            # A kernel thread and a zombie have no program, and reading its name fails.
            Path(f"/proc/{pid}/exe").readlink()
            return None
        if mark not in environ.split(b"\0"):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(_DEATH_MS)
        return True
    except OSError:
        return False  # gone meanwhile, or another user's
    finally:
        os.close(handle)


def clean(directory: str) -> None:
    """Kill what was started for the directory and remove it."""
    if not Path(directory).name.startswith(PREFIX):
        return
    kill_marked(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the harness, and not before
    directories: dict[str, None] = {}
    pending = b""
    while chunk := os.read(0, 65536):
        *records, pending = (pending + chunk).split(b"\0")
        for record in records:
            path = os.fsdecode(record[1:])
            if record[:1] == b"+":
                directories[path] = None
            else:
                directories.pop(path, None)
    for path in directories:
        clean(path)


if __name__ == "__main__":
    _main()
    sys.exit(0)
