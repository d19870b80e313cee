"""Processors, memory and buses that a running machine gets, within the room that its spec gives it."""

from __future__ import annotations

from typing import Any

from harness.errors import SpecError
from harness.model.memory import Region
from harness.vmm.qemu.qmp import Qmp

__all__ = ["memory_modules", "plug_bridge", "plug_memory", "plug_processor"]


def plug_processor(qmp: Qmp) -> None:
    """Plug the first processor that is not there yet.

    Raises:
        QmpError: QEMU refuses it.
        SpecError: there is no room for one.
    """
    places: list[dict[str, Any]] = qmp.execute("query-hotpluggable-cpus")
    free = [place for place in places if "qom-path" not in place]
    if not free:
        raise SpecError("no processor can be plugged into this machine", hint="give it room: Machine.room.cpus")
    place = min(free, key=lambda place: sorted(place["props"].items()))
    qmp.execute("device_add", {"driver": place["type"], "id": f"processor.{len(places) - len(free)}", **place["props"]})


def plug_memory(qmp: Qmp, mib: int) -> Region:
    """Plug a memory module; where the guest has it.

    Args:
        qmp: of the machine.
        mib: its size, MiB.

    Raises:
        QmpError: QEMU refuses it: there is no room, for one.
    """
    before = memory_modules(qmp)
    id = f"module.{len(before)}"
    backend = {"qom-type": "memory-backend-ram", "id": f"{id}-ram", "size": mib << 20}
    qmp.execute("object-add", backend)
    qmp.execute("device_add", {"driver": "pc-dimm", "id": id, "memdev": backend["id"]})
    (new,) = set(memory_modules(qmp)) - set(before)
    return new


def plug_bridge(qmp: Qmp, port: str) -> None:
    """Plug a PCIe-to-PCI bridge with nothing behind it.

    Args:
        qmp: of the machine.
        port: QEMU id of the root port, with nothing below it.

    Raises:
        QmpError: QEMU refuses it: something is there, for one.
    """
    qmp.execute("device_add", {"driver": "pcie-pci-bridge", "id": f"bridge.below.{port}", "bus": port})


def memory_modules(qmp: Qmp) -> tuple[Region, ...]:
    """Where the guest has the memory that was plugged."""
    modules = qmp.execute("query-memory-devices")
    return tuple(Region(module["data"]["addr"], module["data"]["size"]) for module in modules)
