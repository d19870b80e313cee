"""The soak: lease, work, perhaps break, look at what was told and at what is left, and again."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import msgspec

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress, silent
from harness.errors import HarnessError
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.report.record import Finding
from harness.soak.faults import FAULTS, InjectedFault
from harness.soak.leaks import Traces, own_directory
from harness.soak.work import WORKS, random_spec
from harness.warm.lease import Leases
from harness.warm.store import Store

__all__ = ["SoakFigures", "merge", "soak"]

_FAULTY = 0.35
"""Share of the leases that are broken."""


class SoakFigures(msgspec.Struct, kw_only=True):
    """What a soak has seen.

    Attributes:
        leases: machines that were started from a template.
        booted: machines that had to be booted instead, and why.
        faults: faults that were injected, by name.
        wrong: what was told wrongly, or not told: a line each.
        leaked: what was left: a line each.
        seconds: how long it took.
        lease_milliseconds: of the first hundred leases and of the last hundred, the medians.
        seed: of the random choices.
    """

    leases: int = 0
    booted: dict[str, int] = msgspec.field(default_factory=dict)
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    wrong: list[str] = msgspec.field(default_factory=list)
    leaked: list[str] = msgspec.field(default_factory=list)
    seconds: float = 0.0
    lease_milliseconds: tuple[float, float] = (0.0, 0.0)
    seed: int = 0

    @property
    def is_clean(self) -> bool:
        """Nothing was told wrong, nothing was left, and something was done."""
        return self.leases > 0 and not self.wrong and not self.leaked


def soak(lab: Lab, *, seconds: float, seed: int, progress: Progress = silent) -> SoakFigures:
    """Soak in this process.

    Args:
        lab: QEMU, kernel and image.
        seconds: for so long; the lease that is under way then is finished.
        seed: of the random choices.
        progress: told of each lease.
    """
    random = Random(seed)
    leases = Leases(lab, Store(Cache()), progress)
    figures = SoakFigures(seed=seed)
    faults: Counter[str] = Counter()
    booted: Counter[str] = Counter()
    times: list[float] = []
    with own_directory() as directory:
        _settle(leases)
        before = Traces.before(directory)
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            spec = random_spec(random)
            fault = random.choice(FAULTS) if random.random() < _FAULTY else None
            label = (
                f"lease {figures.leases + 1} of seed {seed}, {spec.to_json()}, {fault.name if fault else 'no fault'}"
            )
            asked = time.monotonic()
            try:
                with leases.start(spec) as machine:
                    times.append(time.monotonic() - asked)
                    figures.leases += 1
                    if not machine.origin.startswith("started from"):
                        booted[machine.origin] += 1
                    figures.wrong += [f"{label}: {finding}" for finding in _work(machine, random)]
                    if fault is not None:
                        faults[fault.name] += 1
                        if said := _wrong_about(fault, machine):
                            figures.wrong.append(f"{label}: {said}")
            except HarnessError as error:
                figures.wrong.append(f"{label}: {type(error).__name__}: {error.message}")
            figures.leaked += [f"{label}: {line}" for line in before.gone_back(directory)]
            progress(f"{figures.leases} leases, {len(figures.wrong)} wrong, {len(figures.leaked)} leaks", 0, 0)
    figures.faults = dict(faults)
    figures.booted = dict(booted)
    figures.seconds = round(time.monotonic() - start, 1)
    figures.lease_milliseconds = (_median_ms(times[:100]), _median_ms(times[-100:]))
    return figures


def merge(parts: list[SoakFigures]) -> SoakFigures:
    """What several processes have seen, as one: figures added, and of the times the longest."""

    def total(counts: list[dict[str, int]]) -> dict[str, int]:
        return dict(sum(map(Counter, counts), Counter[str]()))

    firsts, lasts = zip(*(part.lease_milliseconds for part in parts), strict=True)
    return SoakFigures(
        leases=sum(part.leases for part in parts),
        booted=total([part.booted for part in parts]),
        faults=total([part.faults for part in parts]),
        wrong=[line for part in parts for line in part.wrong],
        leaked=[line for part in parts for line in part.leaked],
        seconds=max(part.seconds for part in parts),
        lease_milliseconds=(max(firsts), max(lasts)),
        seed=parts[0].seed,
    )


def _settle(leases: Leases) -> None:
    """Have all made that is made once: the templates, and what libraries keep."""
    random = Random(0)
    for _ in range(12):
        with leases.start(random_spec(random)) as machine:
            machine.guest.run("true")


def _work(machine: LiveMachine, random: Random) -> list[Finding]:
    return list(random.choice(WORKS)(machine, random))


def _wrong_about(fault: InjectedFault, machine: LiveMachine) -> str:
    """Break a machine and use it; what was wrong with what was told of that, empty where nothing was.

    On a busy host a fault can be noticed while it is still being injected.
    """
    try:
        fault.does(machine)
        fault.uses(machine)
    except HarnessError as error:
        told = f"{type(error).__name__} ({error.verdict}): {error.message}"
        return "" if error.verdict is fault.verdict else f"expected {fault.verdict}, was told {told}"
    return f"expected {fault.verdict}, was told nothing"


def _median_ms(times: list[float]) -> float:
    return round(sorted(times)[len(times) // 2] * 1e3, 1) if times else 0.0
