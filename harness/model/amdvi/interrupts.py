"""Interrupt remapping: the interrupt table entry in its two formats (AMD-Vi 2.2.5).

The entry has 32 bits, or 128 with GAEn. Reserved bits of an entry are looked at once RemapEn says that it is in use.
SMI messages are forwarded: the SMI filter registers are not modelled. No MSI carries LINT0 or LINT1, which are
HyperTransport messages; so Lint0Pass and Lint1Pass have nothing to decide here. An interrupt of a reserved delivery
mode, and one whose pass bit is 0, is aborted, and an IO_PAGE_FAULT with I=1 says so.

The index of an entry is bits 10:0 of the data, of which 10:8 are the delivery mode too: a fixed interrupt reaches the
first 256 entries, an arbitrated one the next. With NumIntRemapMode=01b a message with DM set in its address has no
delivery mode: it is a fixed interrupt, whose index may be any. Else DM is for fixed and arbitrated interrupts, and
others that have it set are aborted.

RqEoi asks for an EOI (2.2.5.1), which level-triggered interrupts have. That the message is level-triggered then is how
HyperTransport has it; VirtualBox and openvmm do not look at the bit, and Linux and Xen leave it 0 for level-triggered
interrupts of the I/O APIC as well. So with RqEoi either trigger mode is allowed (`trigger_modes`).

IG keeps interrupts that no entry maps from being written down; SupIOPF every page fault of its entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.model.access import MemoryWrite
from harness.model.amdvi.device_table import DeviceEntry
from harness.model.amdvi.faults import AmdviFaultReason, Blocked, interrupt_fault
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.bits import Field, Layout
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.x86_message import MESSAGE_ADDRESS, MESSAGE_DATA, DeliveryMode, X86Message

__all__ = ["IRTE_32", "IRTE_128", "IRTE_128_GUEST", "InterruptTables", "trigger_modes"]

IRTE_32 = Layout(
    "interrupt table entry",
    "AMD-Vi 2.2.5.1",
    (
        Field("RemapEn", 0, 1),
        Field("SupIOPF", 1, 1),
        Field("IntType", 2, 3),
        Field("RqEoi", 5, 1),
        Field("DM", 6, 1),
        Field("RSVD_7", 7, 1),
        Field("Destination", 8, 8),
        Field("Vector", 16, 8),
        Field("RSVD_24", 24, 8),
    ),
)

# GuestMode=0. Without XTEn the destination has 8 bits, and the others are reserved.
IRTE_128 = Layout(
    "interrupt table entry",
    "AMD-Vi 2.2.5.2",
    (
        Field("RemapEn", 0, 1),
        Field("SupIOPF", 1, 1),
        Field("IntType", 2, 3),
        Field("RqEoi", 5, 1),
        Field("DM", 6, 1),
        Field("GuestMode", 7, 1),
        Field("Destination", 8, 24),
        Field("RSVD_32", 32, 32),
        Field("Vector", 64, 8),
        Field("RSVD_72", 72, 48),
        Field("DestinationHi", 120, 8),
    ),
)

# GuestMode=1: the interrupt goes into a guest's virtual APIC.
IRTE_128_GUEST = Layout(
    "interrupt table entry, guest mode",
    "AMD-Vi 2.2.5.2",
    (
        Field("RemapEn", 0, 1),
        Field("SupIOPF", 1, 1),
        Field("GALogIntr", 2, 1),
        Field("RSVD_3", 3, 3),
        Field("IsRun", 6, 1),
        Field("GuestMode", 7, 1),
        Field("Destination", 8, 24),
        Field("GATag", 32, 32),
        Field("Vector", 64, 8),
        Field("RSVD_72", 72, 4),
        Field("GuestVirtualAPICTableRoot", 76, 40),
        Field("RSVD_116", 116, 4),
        Field("DestinationHi", 120, 8),
    ),
)

_ABORT, _FORWARD, _REMAP = 0b00, 0b01, 0b10
_LONGEST_TABLE = 0b1011
_INDEX = 0x7FF
_LEVEL_TRIGGERED = MESSAGE_DATA["TRIGGER_MODE"].mask
_LAST_TYPE = 0b001
_REMAP_ENABLE = 1
_SUPPRESS = 1 << 1
_GUEST_MODE = 1 << 7
_NARROW_DESTINATION = 0xFF
_IRR = 0x200
# Which bit of the device table entry lets a message of a delivery mode pass.
_PASS_BITS = {DeliveryMode.NMI: "NMIPass", DeliveryMode.INIT: "InitPass", DeliveryMode.EXT_INT: "EIntPass"}


class InterruptTables:
    """Remaps messages as an IOMMU with these registers does."""

    def __init__(self, registers: AmdviRegisters) -> None:
        self._wide = registers.wide_interrupt_entries
        self._virtual_apic = registers.virtual_apic
        self._long_tables = registers.long_interrupt_tables
        self._size = 16 if self._wide else 4
        self._layout = IRTE_128 if self._wide else IRTE_32
        self._reserved = self._layout.reserved
        self._reserved_guest = IRTE_128_GUEST.reserved
        self._wide_destinations = registers.wide_destinations
        if self._wide and not self._wide_destinations:
            high = ~_NARROW_DESTINATION << IRTE_128["Destination"].low
            narrow = IRTE_128["Destination"].mask & high | IRTE_128["DestinationHi"].mask
            self._reserved |= narrow

    def remap(self, memory: Memory, entry: DeviceEntry, write: MsiWrite, trace: list[Step] | None) -> MsiOutcome:
        """What becomes of a message of a device whose table entry has IV=1 and no reserved bit set."""
        logical = bool(MESSAGE_ADDRESS["DM"].get(write.address))
        mode = DeliveryMode(MESSAGE_DATA["DELIVERY_MODE"].get(write.data))
        if self._long_tables and logical:
            mode = DeliveryMode.FIXED
        as_it_is = Interrupt(write.address, write.data, remapped=False)
        if mode not in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
            # AMD-Vi 2.2.2.1: NMIPass, INITPass, EIntPass.
            passes = mode is DeliveryMode.SMI or (mode in _PASS_BITS and entry.field(_PASS_BITS[mode]))
            if passes and not logical:
                return as_it_is
            return self._fault(entry, write, Blocked(AmdviFaultReason.INTERRUPT_ABORTED))
        # AMD-Vi 2.2.2.1: IntCtl is for fixed and arbitrated interrupts.
        control = entry.field("IntCtl")
        if control == _FORWARD:
            return as_it_is
        if control == _ABORT:
            return self._fault(entry, write, Blocked(AmdviFaultReason.INTERRUPT_CONTROL))
        if control != _REMAP:
            return self._fault(entry, write, Blocked(AmdviFaultReason.DTE_INTERRUPT_CONTROL))
        length = entry.field("IntTabLen")
        if length > _LONGEST_TABLE:
            return self._fault(entry, write, Blocked(AmdviFaultReason.DTE_INTERRUPT_TABLE_LENGTH))
        # AMD-Vi 2.2.5: bits 10:0 of the data are the number of the entry.
        index = write.data & _INDEX
        ignored = bool(entry.field("IG"))
        if index >> length:
            if trace is not None:
                trace.append(self._entry_beyond(memory, entry, index))
            beyond = Blocked(AmdviFaultReason.INTERRUPT_BEYOND_TABLE)
            return self._fault(entry, write, beyond, suppressed=ignored)
        return self._look_up(memory, entry, index, write, ignored, trace)

    def _look_up(
        self, memory: Memory, entry: DeviceEntry, index: int, write: MsiWrite, ignored: bool, trace: list[Step] | None
    ) -> MsiOutcome:
        address = entry.interrupt_table + index * self._size
        name = f"interrupt table entry [{index:#x}]"
        try:
            bits = int.from_bytes(memory.read(address, self._size), "little")
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(name, self._layout.section, address, note="no memory there", size=self._size))
            return self._fault(entry, write, Blocked(AmdviFaultReason.INTERRUPT_TABLE_ACCESS, entry=address))
        is_guest = self._wide and bool(bits & _GUEST_MODE)
        if trace is not None:
            layout = IRTE_128_GUEST if is_guest else self._layout
            cached = CachedEntry(kind=EntryKind.INTERRUPT, requester=write.requester, index=index)
            fields = layout.describe(bits)
            trace.append(Step(name, layout.section, address, bits, fields, size=self._size, cached=cached))
        suppressed = bool(bits & _SUPPRESS)
        if not bits & _REMAP_ENABLE:
            absent = Blocked(AmdviFaultReason.INTERRUPT_NOT_ENABLED)
            return self._fault(entry, write, absent, suppressed=suppressed or ignored)
        # GuestMode is a reserved bit where there is no virtual APIC.
        illegal = bits & self._reserved_guest or not self._virtual_apic if is_guest else bits & self._reserved
        if illegal:
            return self._fault(entry, write, Blocked(AmdviFaultReason.INTERRUPT_ENTRY_RESERVED), suppressed=suppressed)
        if is_guest:
            return self._post(memory, bits)
        fields_of = dict(self._layout.decode(bits))
        if fields_of["IntType"] > _LAST_TYPE:
            return self._fault(entry, write, Blocked(AmdviFaultReason.INTERRUPT_TYPE), suppressed=suppressed)
        message = X86Message(
            destination=fields_of.get("DestinationHi", 0) << 24 | fields_of["Destination"],
            vector=fields_of["Vector"],
            delivery_mode=DeliveryMode(fields_of["IntType"]),
            logical=bool(fields_of["DM"]),
            level_triggered=bool(fields_of["RqEoi"]),
        )
        return Interrupt(*message.encode(), remapped=True)

    def _entry_beyond(self, memory: Memory, entry: DeviceEntry, index: int) -> Step:
        """What stands where an entry beyond the end of the table would be."""
        address, note = entry.interrupt_table + index * self._size, "beyond the end of the table"
        name, section = f"interrupt table entry [{index:#x}]", self._layout.section
        try:
            bits = int.from_bytes(memory.read(address, self._size), "little")
        except OutsideMemory:
            return Step(name, section, address, note=note, size=self._size)
        return Step(name, section, address, bits, self._layout.describe(bits), note=note, size=self._size)

    def _post(self, memory: Memory, bits: int) -> PostedInterrupt:
        """A guest's interrupt: a bit of IRR in its backing page, and a doorbell to the core that it runs on.

        A doorbell has no vector: the message that stands for it here only names the core.
        """
        fields = dict(IRTE_128_GUEST.decode(bits))
        page, vector = fields["GuestVirtualAPICTableRoot"] << 12, fields["Vector"]
        notify = None
        if fields["IsRun"]:
            core = fields["Destination"] & _NARROW_DESTINATION
            if self._wide_destinations:
                core = fields["DestinationHi"] << 24 | fields["Destination"]
            notify = Interrupt(*X86Message(destination=core, vector=0).encode(), remapped=True)
        # IRR stands in the page as in an APIC: 32 vectors in each 16 bytes.
        register = page + _IRR + (vector >> 5) * 16
        try:
            pending = int.from_bytes(memory.read(register, 4), "little") | 1 << (vector & 31)
        except OutsideMemory:
            return PostedInterrupt(page, vector, notify)
        return PostedInterrupt(page, vector, notify, (MemoryWrite(register, pending.to_bytes(4, "little")),))

    def _fault(self, entry: DeviceEntry, write: MsiWrite, blocked: Blocked, *, suppressed: bool = False) -> MsiOutcome:
        return interrupt_fault(write, blocked, domain=entry.domain, suppressed=suppressed)


def trigger_modes(outcomes: Sequence[MsiOutcome]) -> list[MsiOutcome]:
    """Outcomes of a message, and those that differ from them in nothing but a trigger mode that RqEoi leaves open."""
    found: list[MsiOutcome] = []
    for outcome in outcomes:
        if isinstance(outcome, Interrupt) and outcome.remapped and outcome.data & _LEVEL_TRIGGERED:
            found.append(replace(outcome, data=outcome.data & ~_LEVEL_TRIGGERED))
        found.append(outcome)
    return found
