"""What a process has open and running, to be compared before and after."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from harness.vmm.keeper_main import MARK, PREFIX

__all__ = ["Held", "held"]


@dataclass(frozen=True, slots=True)
class Held:
    """What there is of this process at one moment.

    Attributes:
        descriptors: what its file descriptors lead to, the number of each.
        threads: names of its threads.
        directories: run directories that this process has made.
        processes: ids of processes that were started for one of them.
    """

    descriptors: dict[str, int]
    threads: tuple[str, ...]
    directories: frozenset[str]
    processes: frozenset[int]

    def more_than(self, before: Held) -> tuple[str, ...]:
        """What there is that there was not, a line each."""
        lines = [
            f"{count - before.descriptors.get(what, 0)} more descriptors of {what}"
            for what, count in self.descriptors.items()
            if count > before.descriptors.get(what, 0)
        ]
        if len(self.threads) > len(before.threads):
            lines.append(f"threads {', '.join(self.threads)} where there were {', '.join(before.threads)}")
        lines += [f"directory {path}" for path in sorted(self.directories - before.directories)]
        lines += [f"process {pid}" for pid in sorted(self.processes - before.processes)]
        return tuple(lines)


def held(mine: set[str]) -> Held:
    """Look.

    Args:
        mine: paths of the run directories that this process has made, whether they are still there or not.
    """
    return Held(
        descriptors=_descriptors(),
        threads=tuple(sorted(thread.name for thread in threading.enumerate())),
        directories=frozenset(path for path in mine if Path(path).exists()),
        processes=_marked(mine),
    )


def _descriptors() -> dict[str, int]:
    """By kind: sockets and pipes have numbers of their own, which say nothing."""
    found: dict[str, int] = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the descriptor by which the directory was read
        kind = target.partition(":[")[0] if ":[" in target else target
        kind = f"files in {tempfile.gettempdir()}" if PREFIX in kind else kind
        found[kind] = found.get(kind, 0) + 1
    return found


def _marked(mine: set[str]) -> frozenset[int]:
    marks = {f"{MARK}={path}".encode() for path in mine}
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or is another user's
            if marks.intersection(environ.split(b"\0")):
                found.add(int(entry.name))
    return frozenset(found)
