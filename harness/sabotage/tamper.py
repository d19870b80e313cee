"""Tampering with a running guest behind its kernel's back: VT-d's tables, which are in memory, and what devices do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.live.machine import LiveMachine
from harness.live.virtqueue import LiveQueue
from harness.model.access import Access, AccessKind, Fault, Outcome
from harness.model.topology import VTD_REGISTERS
from harness.model.vtd.interrupts.entries import IRTA_REG, REMAPPED_ENTRY
from harness.vmm.qemu.qtest import Width

__all__ = [
    "RogueWrite",
    "forget_write_permission",
    "keep_translations",
    "land_untranslated",
    "lose",
    "lose_mapping",
    "lose_mapping_in_use",
    "mask_fault_event",
    "mistake_requester",
    "open_interrupt_entries",
    "pass_through",
    "plug_back",
    "turn_leaf",
    "write_astray",
]

_ENTRY_ADDRESS = 0x000F_FFFF_FFFF_F000
_CONTEXT_ENTRY, _CONTEXT_BYTES = "context-entry", 16
_PRESENT = 0b11  # VT-d 9.8: what may be read or written is present; 9.10: bit 0
_PAGE_BYTES = {"PTE": 1 << 12, "PDE": 1 << 21, "PDPE": 1 << 30}
_PS = 1 << 7  # VT-d 9.8 and 9.10: of a PDE and a PDPE, that it leads to a page
_TT, _PASS_THROUGH = 0xC, 0x8  # VT-d 9.3, bits 3:2: 10b
_IRTA = VTD_REGISTERS + 0xB8  # VT-d 11.4.10
_FECTL, _FECTL_IM = VTD_REGISTERS + 0x38, 1 << 31  # VT-d 11.4.7.2
_UNMAPPED = 0x5555_5000
_TRANSMIT_QUEUE = 1  # of a virtio-net: virtio 1.3, 5.1.2
_ENTRIES = 256
_PLUG_SECONDS = 15.0
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class RogueWrite:
    """One DMA write of a rogue device.

    Attributes:
        do: has the device do it, to any IOVA.
        id: of the device.
        iova: address that it puts on the bus.
        count: bytes.
    """

    do: Callable[[int], None]
    id: str
    iova: int
    count: int


def land_untranslated(live: LiveMachine, write: RogueWrite) -> None:
    """Have zeroes stand afterwards in memory at the address that is on the bus, where that is memory that it has."""
    write.do(write.iova)
    if write.iova + write.count <= live.spec.memory_mib << 20:
        live.vmm.memory.write(write.iova, bytes(write.count))


def lose(live: LiveMachine, write: RogueWrite) -> None:
    """Have nothing written."""


def mask_fault_event(live: LiveMachine, write: RogueWrite) -> None:
    """Have the VT-d unit send no interrupt for the fault of a write."""
    live.vmm.qtest.write_value(_FECTL, _FECTL_IM, Width.LONG)
    write.do(write.iova)


def write_astray(live: LiveMachine, write: RogueWrite) -> None:
    """Have the device write where nothing is mapped as well."""
    write.do(write.iova)
    write.do(_UNMAPPED)


def plug_back(live: LiveMachine, id: str, address: str) -> None:
    """Have the device that was at that address plugged again, and taken in by the guest."""
    live.vmm.plug(id)
    live.agent.wait_path(f"/sys/bus/pci/devices/{address}", _PLUG_SECONDS)
    live.agent.write_file("/sys/bus/pci/rescan", "1")  # ends when it has been taken in: LiveMachine.take_in


def lose_mapping(live: LiveMachine) -> None:
    """Have the first page that is mapped for the machine's first device mapped no more."""
    _lose_first(live, live.spec.devices[0].id)


def lose_mapping_in_use(live: LiveMachine, id: str) -> None:
    """Have the first page that is mapped for a virtio-net mapped no more, when VFIO has it and it has sent frames."""
    driver = {function.address: function.driver for function in live.agent.pci_functions()}[live.address(id)]
    if driver == "vfio-pci" and LiveQueue.of(live, id, _TRANSMIT_QUEUE).used:
        _lose_first(live, id)


def _lose_first(live: LiveMachine, id: str) -> None:
    first = next(live.engine.iter_mappings(live.function(id).requester))
    leaf = _leaf(live, id, first.iova)
    if leaf is not None:
        live.vmm.memory.write(leaf.address, bytes(8))


def turn_leaf(live: LiveMachine, id: str, iova: int) -> None:
    """Have the last entry of a walk lead to another page."""
    leaf = _leaf(live, id, iova)
    if leaf is not None:
        turned = leaf.value & ~_ENTRY_ADDRESS | leaf.page_bytes
        live.vmm.memory.write(leaf.address, turned.to_bytes(8, "little"))


def pass_through(live: LiveMachine, id: str, iova: int) -> None:
    """Have the context entry of a device say that it is not translated, when it is to go where nothing is mapped."""
    if not live.function(id).translated or _leaf(live, id, iova) is not None:
        return
    address, value = _context(live, id)
    live.vmm.memory.write(address, (value & ~_TT | _PASS_THROUGH).to_bytes(8, "little"))


def mistake_requester(live: LiveMachine, id: str, iova: int) -> None:
    """Have the second device of the machine taken for the first."""
    (first, _), (second, _) = (_context(live, device.id) for device in live.spec.devices[:2])
    live.vmm.memory.write(second, live.vmm.memory.read(first, _CONTEXT_BYTES))


def keep_translations(live: LiveMachine, id: str, iova: int) -> None:
    """Have the next unmap take the mapping out of the tables, and not out of the caches."""

    def unmap(address: str, at: int, size: int) -> int:
        for page in range(at, at + size, _PAGE):
            leaf = _leaf(live, id, page)
            if leaf is not None:
                live.vmm.memory.write(leaf.address, bytes(8))
        return size

    setattr(live.agent, "vfio_unmap", unmap)  # noqa: B010 - mypy takes no method to be replaced


def open_interrupt_entries(live: LiveMachine) -> None:
    """Have entries of the interrupt remapping table verify no source (VT-d 9.9, SVT=00b)."""
    table = IRTA_REG["IRTA"].get(live.vmm.qtest.read_value(_IRTA, Width.QUAD))
    for address in range(table, table + 16 * _ENTRIES, 16):
        entry = int.from_bytes(live.vmm.memory.read(address, 16), "little")
        if REMAPPED_ENTRY["P"].get(entry):
            opened = entry & ~REMAPPED_ENTRY["SVT"].mask
            live.vmm.memory.write(address, opened.to_bytes(16, "little"))


def forget_write_permission(live: LiveMachine, said: tuple[Access, Outcome, str]) -> tuple[Access, Outcome, str]:
    """Have the model allow a write wherever it allows a read."""
    access, outcome, walk = said
    if isinstance(outcome, Fault) and access.kind is AccessKind.WRITE:
        read = Access(requester=access.requester, iova=access.iova, length=access.length, kind=AccessKind.READ)
        return access, live.engine.explain(read).outcome, walk
    return said


def _entries(live: LiveMachine, id: str, iova: int) -> list[tuple[str, int, int]]:
    """What is read for a DMA: the name of each entry, where it stands, and what stands there."""
    access = Access(requester=live.function(id).requester, iova=iova, length=4, kind=AccessKind.READ)
    steps = live.engine.explain(access).steps
    return [(s.what, s.address, s.value) for s in steps if s.address is not None and s.value is not None]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """An entry that leads to a page: where it stands, what stands there, and bytes of the page."""

    address: int
    value: int
    page_bytes: int


def _leaf(live: LiveMachine, id: str, iova: int) -> _Leaf | None:
    """The entry of the page that a DMA goes to; None where there is none."""
    what, address, value = _entries(live, id, iova)[-1]
    page_bytes = _PAGE_BYTES.get(what.rpartition("-")[2], 0)
    leads_on = page_bytes > _PAGE and not value & _PS
    return _Leaf(address, value, page_bytes) if page_bytes and value & _PRESENT and not leads_on else None


def _context(live: LiveMachine, id: str) -> tuple[int, int]:
    """The context entry of a device, its lower half."""
    for what, address, value in _entries(live, id, 0):
        if what.startswith(_CONTEXT_ENTRY):
            return address, value & (1 << 64) - 1
    raise HarnessError(f"the model finds no context entry of {id} to tamper with")
