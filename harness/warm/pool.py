"""Keeps the next machine starting while the one before is used."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.live.machine import LiveMachine
from harness.spec import Machine
from harness.warm.lease import Leases

__all__ = ["Pool", "spare_processors"]

_KEPT_FREE_MIB = 1024


class Pool:
    """Machines of one process, with the next one started ahead where the host has processors and memory for it.

    Args:
        leases: starts them.
        ahead: how many may be starting beside those in use: 0 or 1.
    """

    def __init__(self, leases: Leases, ahead: int) -> None:
        self._leases = leases
        self._ahead = ahead
        self._next: _Coming | None = None

    @contextmanager
    def start(self, spec: Machine) -> Iterator[LiveMachine]:
        """A machine: the one that was started ahead if it is that, else a new one. Raises what `Leases.start` does."""
        coming, self._next = self._next, None
        if coming is not None and coming.spec != spec:
            coming.close()
            coming = None
        if coming is None:
            with self._leases.start(spec) as machine:
                yield machine
            return
        try:
            yield coming.wait()
        finally:
            coming.close()

    def expect(self, spec: Machine) -> None:
        """That machine will be asked for next."""
        if self._ahead and self._next is None and _available_mib() > spec.memory_mib + _KEPT_FREE_MIB:
            self._next = _Coming(self._leases, spec)

    def close(self) -> None:
        """End what was started and never asked for."""
        coming, self._next = self._next, None
        if coming is not None:
            coming.close()


class _Coming:
    """A machine that is being started in a thread of its own."""

    def __init__(self, leases: Leases, spec: Machine) -> None:
        self.spec = spec
        self._leases = leases
        self._stack = ExitStack()
        self._machine: LiveMachine | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start, name="viommu-pool", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            self._machine = self._stack.enter_context(self._leases.start(self.spec))
        except BaseException as error:
            self._error = error

    def wait(self) -> LiveMachine:
        """The machine, once it is up; raises what starting it raised."""
        self._thread.join()  # every wait in it has a deadline
        if self._error is not None:
            raise self._error
        assert self._machine is not None
        return self._machine

    def close(self) -> None:
        """End it, also in the middle of its start."""
        self._thread.join()
        self._stack.close()


def spare_processors(workers: int) -> int:
    """How many processors are left where each of so many workers has one machine running."""
    return max(0, len(os.sched_getaffinity(0)) - workers)


def _available_mib() -> int:
    """What the kernel thinks can be had without swapping (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0
