"""How long a machine that is started from a template takes, and what memory it has to itself."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import GuestError
from harness.live.machine import LiveMachine
from harness.spec import IommuKind, Machine
from harness.warm.lease import Leases

__all__ = ["Warm", "measure_warm"]

_OWN = re.compile(r"^Private_Dirty: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Warm:
    """One lease of each kind.

    Attributes:
        answered: seconds from asking for a machine without devices to the answer to its first SSH command.
        grouped: the same with the devices of the spec hot-plugged and seen in their IOMMU groups over SSH.
        private_mib: memory that the first of these has to itself then, MiB (proc(5), smaps_rollup, Private_Dirty): what
            it maps of files is in the page cache, for all that map it.
    """

    answered: float
    grouped: float
    private_mib: float


def measure_warm(leases: Leases, machine: Machine) -> Warm:
    """Take one lease without devices and one with them.

    Raises:
        GuestError: a device is in no group that must be in one.
    """
    start = time.monotonic()
    with leases.start(replace(machine, devices=())) as live:
        live.guest.run("true")
        answered = time.monotonic() - start
        private = _private_mib(live.vmm.process.pid)
    start = time.monotonic()
    with leases.start(machine) as live:
        _see_groups(live)
        grouped = time.monotonic() - start
    return Warm(answered, grouped, private)


def _see_groups(live: LiveMachine) -> None:
    """See over SSH that each device of the machine is in a group, if it has an IOMMU."""
    if live.spec.iommu.kind is IommuKind.NONE:
        live.guest.run("true")
        return
    shown = live.guest.run("ls -d /sys/kernel/iommu_groups/*/devices/*").stdout
    for device in live.spec.devices:
        if device.iommu and live.address(device.id) not in shown:
            raise GuestError(f"{device.id} is in no IOMMU group", evidence=shown)


def _private_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, _OWN.findall(text))) / 1024
