"""How many machines templates give in a minute, and whether the last of thousands costs what the first did."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from harness.artifacts.progress import Progress, silent
from harness.errors import SpecError
from harness.soak.leaks import Traces, own_directory
from harness.spec import Iommu, IommuKind, Machine
from harness.warm.lease import Leases

__all__ = ["LeaseFigures", "Part", "leases_a_minute", "measure"]

_PARTS = 10
_WARM_UP = 5


@dataclass(frozen=True, slots=True)
class _Lease:
    """One lease: when it was given back (monotonic), and what it took until then, seconds."""

    ended: float
    answered: float
    vmm_processor: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenth of the leases took.

    Attributes:
        answered_milliseconds: median, from asking for a machine to the answer to its first SSH command.
        vmm_milliseconds: median, processor time of QEMU until then.
        harness_milliseconds: mean, processor time of this process, for the whole of a lease.
        harness_kib: memory that this process has to itself after the last of them, KiB (proc(5), status, RssAnon).
    """

    answered_milliseconds: float
    vmm_milliseconds: float
    harness_milliseconds: float
    harness_kib: int


class LeaseFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        leases: how many machines were started, asked and given back.
        at_a_time: of these.
        seconds: for all.
        a_minute: the same as a rate.
        parts: what each tenth took, in their order.
        left: processes, files, descriptors, threads, locks and sockets that there were after all and not before.
        iommu: kind of the IOMMU.
    """

    leases: int
    at_a_time: int
    seconds: float
    a_minute: float
    parts: tuple[Part, ...]
    left: tuple[str, ...]
    iommu: str


def measure(
    leases: Leases, *, kind: IommuKind, count: int, at_a_time: int, progress: Progress = silent
) -> LeaseFigures:
    """Start so many machines without devices, ask each one thing over SSH, and give it back.

    Args:
        leases: gives the machines.
        kind: of IOMMU.
        count: how many; ten at least.
        at_a_time: of these.
        progress: told of each tenth.

    Raises:
        SpecError: too few to be divided in ten, or none at a time.
        VmmError, GuestError: as `Leases.start`.
    """
    if count < _PARTS or at_a_time < 1:
        raise SpecError(f"{count} leases, {at_a_time} at a time, show no growth", hint=f"ask for {_PARTS} or more")
    machine = Machine(iommu=Iommu(kind=kind))
    bounds = [count * number // _PARTS for number in range(_PARTS + 1)]
    parts: list[Part] = []
    with own_directory() as directory:
        _take(leases, machine, at_a_time, lambda done: done < _WARM_UP)
        before = Traces.before(directory)
        start = time.monotonic()
        for first, end in pairwise(bounds):
            progress(f"lease {first} of {count}", first, count)
            parts.append(_part(leases, machine, at_a_time, end - first))
        seconds = time.monotonic() - start
        left = before.gone_back(directory)
    return LeaseFigures(
        leases=count,
        at_a_time=at_a_time,
        seconds=round(seconds, 1),
        a_minute=round(count / seconds * 60, 1),
        parts=tuple(parts),
        left=tuple(left),
        iommu=kind.value,
    )


def leases_a_minute(leases: Leases, machine: Machine, at_a_time: int, seconds: float) -> float:
    """Leases whose first SSH command was answered and that were given back, so many at a time, counted to a minute."""
    start = time.monotonic()
    taken = _take(leases, machine, at_a_time, lambda _: time.monotonic() < start + seconds)
    return len(taken) / (max(lease.ended for lease in taken) - start) * 60


def _part(leases: Leases, machine: Machine, at_a_time: int, count: int) -> Part:
    own = time.process_time()
    taken = _take(leases, machine, at_a_time, lambda done: done < count)
    own = time.process_time() - own
    gc.collect()
    return Part(
        answered_milliseconds=_ms(statistics.median(lease.answered for lease in taken)),
        vmm_milliseconds=_ms(statistics.median(lease.vmm_processor for lease in taken)),
        harness_milliseconds=_ms(own / count),
        harness_kib=_own_kib(),
    )


def _take(leases: Leases, machine: Machine, at_a_time: int, more: Callable[[int], bool]) -> list[_Lease]:
    """Take leases while there are to be more, which is asked before each with how many have been begun."""
    taken: list[_Lease] = []
    begun = 0
    ends = False
    turn = threading.Lock()

    def begin() -> bool:
        nonlocal begun
        with turn:
            if ends or not more(begun):
                return False
            begun += 1
            return True

    def work() -> None:
        while begin():
            start = time.monotonic()
            with leases.start(machine) as live:
                live.guest.run("true")
                answered = time.monotonic() - start
                processor = _processor_seconds(live.vmm.process.pid)
            taken.append(_Lease(time.monotonic(), answered, processor))

    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            for worker in as_completed([pool.submit(work) for _ in range(at_a_time)]):
                worker.result()
        except BaseException:  # an interrupt too: leases that are under way are finished, and no other is begun
            ends = True
            raise
    return taken


def _processor_seconds(pid: int) -> float:
    """Processor time of a process so far: Linux, include/linux/posix-timers_types.h, CPUCLOCK_SCHED of a process."""
    return time.clock_gettime(~pid << 3 | 2)


def _own_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
