"""Plugs and unplugs devices again and again, and counts what is there of what could leak."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.live.machine import LiveMachine
from harness.observations import Leftovers

__all__ = ["Rounds", "leftovers", "plug_rounds"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds that each plug and each unplug took, from the QMP command until the guest had done its part."""

    plug: tuple[float, ...]
    unplug: tuple[float, ...]


def plug_rounds(machine: LiveMachine, ids: Sequence[str], rounds: int) -> Rounds:
    """Plug and unplug each device in turn, so many times.

    Raises:
        GuestError: the guest does not take a device in, or does not let go of it.
    """
    plugs, unplugs = [], []
    for _ in range(rounds):
        for id in ids:
            start = time.monotonic()
            machine.plug(id)
            plugged = time.monotonic()
            machine.unplug(id)
            plugs.append(plugged - start)
            unplugs.append(time.monotonic() - plugged)
    return Rounds(tuple(plugs), tuple(unplugs))


def leftovers(machine: LiveMachine) -> Leftovers:
    """Count."""
    process = Path(f"/proc/{machine.vmm.process.pid}")
    # Caches and freed objects are let go of first: what is left then is in use.
    machine.agent.write_file("/proc/sys/vm/drop_caches", "3")
    meminfo = dict(re.findall(r"^(\w+): +(\d+)", machine.agent.read_file("/proc/meminfo"), re.MULTILINE))
    return Leftovers(
        groups=len(machine.agent.iommu_groups()),
        functions=len(machine.agent.pci_functions()),
        guest_kib=int(meminfo["Slab"]) + int(meminfo["VmallocUsed"]) + int(meminfo["Percpu"]),
        descriptors=len(list((process / "fd").iterdir())),
        threads=len(list((process / "task").iterdir())),
        vmm_kib=_heap_kib(process),
    )


def _heap_kib(process: Path) -> int:
    """Of QEMU's private memory what is neither a file's, guest RAM included, nor executable, as translated code is."""
    total = counted = 0
    for line in (process / "smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and len(fields) >= 5:
            name = fields[5] if len(fields) > 5 else ""
            counted = int("x" not in fields[1] and name in ("", "[heap]"))
        elif fields[0] == "Private_Dirty:":
            total += counted * int(fields[1])
    return total
