"""What a process has open and running, and what lies in its run directories: compared before and after."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.vmm import background
from harness.vmm.keeper_main import MARK, PREFIX
from harness.vmm.rundir import RunDirectory

__all__ = ["Traces", "left_behind", "marked_processes", "own_directory", "shared_memory"]

_SECONDS = 5.0


@dataclass(frozen=True)
class Traces:
    """What there is of this process, its descendants and its run directories at one moment."""

    everything: frozenset[str]

    @classmethod
    def before(cls, parent: Path) -> Traces:
        """Those of now, once there is what stays for as long as the process does: the keeper and the loop."""
        RunDirectory.create(parent).close()
        background.loop()
        return cls.now(parent)

    @classmethod
    def now(cls, parent: Path) -> Traces:
        """Look.

        Args:
            parent: where run directories are made.
        """
        family = _descendants(os.getpid())
        found = {f"process {pid} ({name})" for pid, name in family.items()}
        found |= {f"{MARK} {text}" for text in left_behind(parent)}
        found |= {f"/dev/shm/{name}" for name in shared_memory()}
        found |= {f"descriptor {number}: {target}" for number, target in _descriptors()}
        found |= {f"thread {thread.name}" for thread in threading.enumerate()}
        found |= {f"lock {lock}" for lock in _locks({os.getpid(), *family})}
        found |= {f"socket {path}" for path in _unix_sockets() if path.startswith(f"{parent}/")}
        return cls(frozenset(found))

    def gone_back(self, parent: Path, seconds: float = _SECONDS) -> list[str]:
        """What there is now and was not then, once nothing is or the time is up."""
        end = time.monotonic() + seconds
        while left := Traces.now(parent).everything - self.everything:
            gc.collect()  # what only a caught error holds on to is not kept by the harness
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        return sorted(left)


@contextmanager
def own_directory() -> Iterator[Path]:
    """Have run directories made where no other process makes any; the path is short, as a socket's must be."""
    outer = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="vs-") as directory:
        tempfile.tempdir = directory
        try:
            yield Path(directory)
        finally:
            tempfile.tempdir = outer


def left_behind(parent: Path) -> list[str]:
    """Processes and files of run directories under `parent`."""
    try:
        files = [str(path) for path in parent.rglob("*")]
    except FileNotFoundError:  # being removed while it is looked at
        return left_behind(parent)
    return [f"process {pid}" for pid in marked_processes(parent)] + files


def marked_processes(parent: Path) -> list[int]:
    """Processes that were started for a run directory under `parent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={parent}/".encode() in environ:
                found.append(int(entry.name))
    return found


def shared_memory() -> set[str]:
    """What of the harness is in /dev/shm."""
    return {entry.name for entry in Path("/dev/shm").iterdir() if entry.name.startswith(PREFIX)}


def _descendants(root: int) -> dict[int, str]:
    """Processes below this one, with the names of their programs."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            start, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue
        pid = int(entry.parent.name)
        names[pid] = start.partition("(")[2]
        parents[pid] = int(rest.split()[1])
    found: dict[int, str] = {}
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, above in parents.items() if above == parent]
        found |= {pid: names[pid] for pid in children}
        waiting += children
    return found


def _descriptors() -> set[tuple[int, str]]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((int(entry.name), str(entry.readlink())))
        except OSError:
            continue  # the one that the directory is read by
    return found


def _locks(pids: set[int]) -> set[str]:
    """File locks that one of these processes has taken: proc(5), /proc/locks."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {" ".join(words[1:6]) for words in lines if words[1] != "->" and int(words[4]) in pids}


def _unix_sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {words[7] for line in lines if len(words := line.split()) > 7}
