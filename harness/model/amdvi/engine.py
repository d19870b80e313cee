"""What an AMD IOMMU makes of a request (AMD-Vi 2.1 and 2.2).

The order of the checks, where the specification leaves it open: interrupt address range, device table entry, reserved
bits and levels of the entry, translated and translation requests, HyperTransport ranges, exclusion range, TV, and then
the page tables. Guest tables are there with GTEn only; without it GV is ignored, and every PASID refused.

A fault is written down unless SA is set; SE, which spares the log all but a device's first fault, is taken to meet the
first. The U bit of a page, which tells a device not to keep its translation, changes no answer here.

PPR messages, performance counters, SMI filters, memory access routing (MARC), virtual IOMMUs and the reverse map table
of SNP are not part of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    AddressType,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.amdvi.commands import AmdviCommands
from harness.model.amdvi.device_table import DeviceEntry, DeviceTable, non_zero
from harness.model.amdvi.faults import AmdviFaultReason, Blocked, interrupt_fault, memory_fault
from harness.model.amdvi.guest_tables import GuestLeaf, GuestMapping, GuestRoot, GuestTables, HostStage, both
from harness.model.amdvi.host_tables import HostTables, host_level_shift
from harness.model.amdvi.interrupts import InterruptTables
from harness.model.amdvi.register_fields import CONTROL
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.amdvi.special_ranges import (
    FIRST_HYPERTRANSPORT,
    LAST_HYPERTRANSPORT,
    ExclusionRange,
    hypertransport_range,
    interrupt_range,
)
from harness.model.engine import CommandResult, Interrupt, MsiOutcome, MsiWrite, RawCommand, check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory
from harness.model.x86_message import INTERRUPT_RANGE, is_interrupt_address

__all__ = ["AmdviEngine"]

_GRANULE = 4096
_V, _TV = 1, 2
_GV = 1 << 55
_GIOV = 1 << 54
_GUEST = _GV | _GIOV
_I = 1 << 32  # of the second word
_SA = 1 << 34
_ADDRESS = ((1 << 52) - 1) & ~0xFFF
_READ_BIT, _WRITE_BIT, _EXECUTE_BIT = 1, 2, 4
# Members of an enum are slow to look up through their class; `_translate` runs for each access.
_WRITE, _EXECUTE = AccessKind.WRITE, AccessKind.EXECUTE
_UNTRANSLATED = AddressType.UNTRANSLATED
_NO_ATTRIBUTES = Attributes.NONE
_FORCE_COHERENT = 1 << 60
_SNOOP = Attributes.SNOOP


class AmdviEngine:
    """One IOMMU, with its tables in memory and with no cache.

    It serves one PCI segment: of a requester, the lower 16 bits are the DeviceID.

    Args:
        registers: as they are now; make a new engine when they change.
        memory: physical memory, read again for each access.
    """

    def __init__(self, registers: AmdviRegisters, memory: Memory) -> None:
        self.registers = registers
        self.memory = memory
        control = registers.control
        self._first_step = Step("control register", CONTROL.section, None, control, non_zero(CONTROL, control))
        self._enabled = registers.enabled
        self._guest_translation = registers.guest_translation
        self._hypertransport = not registers.ignores_hypertransport_range
        self._devices = DeviceTable(registers)
        self._exclusion = ExclusionRange(registers)
        self._host = HostTables(memory, caches_not_present=registers.caches_not_present)
        self._guest = GuestTables(registers, memory, self._host)
        self._interrupts = InterruptTables(registers)
        self._commands = AmdviCommands(registers, memory)

    @property
    def granule(self) -> int:
        """See `Engine`: 4 KiB."""
        return _GRANULE

    def translate(self, access: Access) -> Outcome:
        """See `Engine`."""
        return self._translate(access, None)

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        steps: list[Step] = []
        outcome = self._translate(access, steps)
        return Explanation(access, tuple(steps), outcome)

    def submit(self, command: RawCommand) -> CommandResult:
        """See `Engine`: one command of 128 bits."""
        return self._commands.submit(command)

    def remap_msi(self, write: MsiWrite) -> MsiOutcome:
        """See `InterruptRemapper`. A write outside of 0xFEEx_xxxx is no interrupt, and stays as it is."""
        return self._remap(write, None)

    def explain_msi(self, write: MsiWrite) -> tuple[tuple[Step, ...], MsiOutcome]:
        """What `remap_msi` gives, with what was looked at."""
        steps: list[Step] = []
        outcome = self._remap(write, steps)
        return tuple(steps), outcome

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every page that the requester's tables map now, in ascending order, both stages taken together.

        Translation that is off, V=0 and Mode 0 give one mapping of everything to itself. Nothing is taken out for the
        interrupt range, the HyperTransport ranges or the exclusion range. A requester without a legal device table
        entry maps nothing.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        identity = Mapping(0, 0, 1 << 64, Permissions.READ | Permissions.WRITE)
        if not self._enabled:
            yield identity
            return
        entry = self._devices.find(self.memory, requester, None)
        if isinstance(entry, Blocked):
            return
        if not entry.word0 & _V:
            yield identity
            return
        if self._devices.check_translation(entry) is not None or not entry.word0 & _TV:
            return
        stage = _host_stage(entry)
        root = self._guest_root(entry, pasid)
        if root is not None:
            for page in self._guest.iter_leaves(stage, root):
                yield from self._compose(stage, page, entry.domain)
        elif pasid is not None:
            return
        elif stage.mode:
            yield from self._host.iter_leaves(stage.root, stage.mode, stage.rights)
        elif stage.rights:
            yield Mapping(0, 0, 1 << 64, PERMISSIONS[stage.rights])

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if (iova & 0xFFF) + access.length > _GRANULE:
            check_within_page(access, _GRANULE)
        if trace is not None:
            trace.append(self._first_step)
        # AMD-Vi 3.4, IommuEn: nothing is looked at before it is set.
        if not self._enabled:
            return Bypassed(iova, BypassReason.TRANSLATION_OFF)
        if iova >> 20 == INTERRUPT_RANGE:
            if trace is not None:
                trace.append(Step("interrupt address range", "AMD-Vi 2.1.2", note="0xFEEx_xxxx is never memory"))
            return self._answer(access, interrupt_range(access))

        entry = self._devices.find(self.memory, access.requester, trace)
        if isinstance(entry, Blocked):
            if entry.reason is AmdviFaultReason.DEVICE_BEYOND_TABLE and _is_translation_request(access):
                entry = Blocked(AmdviFaultReason.TRANSLATION_REQUEST_DEVICE)
            return self._answer(access, entry)
        word0, word1 = entry[0], entry[1]
        plain = access.address_type is _UNTRANSLATED
        # AMD-Vi 2.2.2.2: V=0 lets everything through; but a device that its entry says nothing of has no IOTLB.
        if not word0 & _V:
            if not plain:
                return self._answer(access, Blocked(_ats_reason(access)))
            return Bypassed(iova, BypassReason.ENTRY_NOT_VALID)
        illegal = self._devices.check_translation(entry)
        if illegal is not None:
            return self._answer(access, Blocked(illegal), entry)
        if not plain:
            # AMD-Vi 2.5.9: only I=1 allows requests of an IOTLB, and translating takes TV=1.
            if not word1 & _I or (_is_translation_request(access) and not word0 & _TV):
                return self._answer(access, Blocked(_ats_reason(access)), entry)
            if not _is_translation_request(access):
                return Bypassed(iova, BypassReason.TRANSLATED_REQUEST)
        pasid = access.pasid
        if pasid is None:
            if self._hypertransport and FIRST_HYPERTRANSPORT <= iova <= LAST_HYPERTRANSPORT:
                special = hypertransport_range(access, entry)
                if trace is not None:
                    trace.append(Step("HyperTransport address range", "AMD-Vi 2.1.2, table 3"))
                if special is not None:
                    return self._answer(access, special, entry)
            if self._exclusion.enabled and self._exclusion.holds(iova, entry):
                if trace is not None:
                    trace.append(Step("exclusion range", "AMD-Vi 3.4"))
                return Bypassed(iova, BypassReason.EXCLUSION_RANGE)
        # AMD-Vi 2.2.2.2: V=1 and TV=0 ends every walk.
        if not word0 & _TV:
            return self._answer(access, Blocked(AmdviFaultReason.TRANSLATION_NOT_VALID), entry)

        kind = access.kind
        if pasid is not None or (word0 & _GUEST == _GUEST and self._guest_translation):
            return self._translate_guest(access, entry, trace)
        needed = _WRITE_BIT if kind is _WRITE else _READ_BIT
        mode = word0 >> 9 & 7
        found = self._host.walk(
            word0 & _ADDRESS, mode, word0 >> 61 & 3, word0 >> 7 & 3, iova, needed, word1 & 0xFFFF, trace
        )
        if isinstance(found, Blocked):
            return self._answer(access, found, entry)
        if not mode:
            return Bypassed(iova, BypassReason.PASS_THROUGH)
        address, shift, rights, leaf, writes = found
        attributes = _SNOOP if leaf & _FORCE_COHERENT else _NO_ATTRIBUTES
        return Translated(address, 1 << shift, PERMISSIONS[rights], attributes, writes)

    def _translate_guest(self, access: Access, entry: DeviceEntry, trace: list[Step] | None) -> Outcome:
        root = self._guest_root(entry, access.pasid)
        if root is None:
            return self._answer(access, Blocked(AmdviFaultReason.PASID_NOT_ENABLED), entry)
        needed = _READ_BIT
        if access.kind is _WRITE:
            needed = _WRITE_BIT
        elif access.kind is _EXECUTE and access.pasid is not None:
            needed = _EXECUTE_BIT
        user = access.pasid is None or not access.privileged
        found = self._guest.walk(_host_stage(entry), root, access.iova, needed, user, trace)
        if isinstance(found, GuestLeaf):
            return Translated(
                found.address, 1 << found.shift, PERMISSIONS[found.rights], found.attributes, found.writes
            )
        return self._answer(access, found, entry, root.pasid)

    def _guest_root(self, entry: DeviceEntry, pasid: int | None) -> GuestRoot | None:
        """The guest tables of a request, where it goes through any (AMD-Vi 2.2.2.1: GV, GIoV)."""
        word0 = entry.word0
        if not self._guest_translation or not word0 & _GV or (pasid is None and not word0 & _GIOV):
            return None
        glx, levels = word0 >> 56 & 3, 4 + (entry.word2 >> 54 & 3)
        return GuestRoot(entry.guest_cr3_table, glx, levels, pasid or 0, pasid is not None, entry.domain)

    def _compose(self, stage: HostStage, page: GuestMapping, domain: int) -> Iterator[Mapping]:
        """A guest page, cut into the host pages that it lies on."""
        if not stage.mode:
            rights = both(page.rights, stage.rights)
            if rights:
                yield Mapping(page.address, page.guest_physical, page.size, PERMISSIONS[rights])
            return
        offset = 0
        while offset < page.size:
            at = page.guest_physical + offset
            found = self._host.walk(*stage, at, 0, domain, None)
            if isinstance(found, Blocked):
                shift = host_level_shift(found.level) if found.level else 64
                length = min((1 << shift) - at % (1 << shift), page.size - offset)
            else:
                length = min((1 << found.shift) - at % (1 << found.shift), page.size - offset)
                rights = both(page.rights, found.rights)
                if rights:
                    yield Mapping(page.address + offset, found.address, length, PERMISSIONS[rights])
            offset += length

    def _answer(
        self,
        access: Access,
        what: Bypassed | Blocked,
        entry: DeviceEntry | None = None,
        pasid: int | None = None,
    ) -> Bypassed | Fault:
        if isinstance(what, Bypassed):
            return what
        if pasid is None:
            pasid = access.pasid
        if entry is None:
            return memory_fault(access, what, pasid=pasid)
        # AMD-Vi 2.2.2.1: SA keeps page faults of the device out of the log.
        return memory_fault(access, what, domain=entry.domain, pasid=pasid, suppressed=bool(entry.word1 & _SA))

    def _remap(self, write: MsiWrite, trace: list[Step] | None) -> MsiOutcome:
        as_it_is = Interrupt(write.address, write.data, remapped=False)
        if not self._enabled or not is_interrupt_address(write.address):
            return as_it_is
        entry = self._devices.find(self.memory, write.requester, trace)
        if isinstance(entry, Blocked):
            return interrupt_fault(write, entry)
        # AMD-Vi 2.2.2.2: IV=0 lets every interrupt through, V=0 or not.
        if not entry.field("IV"):
            return as_it_is
        illegal = self._devices.check_interrupts(entry)
        if illegal is not None:
            return interrupt_fault(write, Blocked(illegal), domain=entry.domain)
        return self._interrupts.remap(self.memory, entry, write, trace)


def _host_stage(entry: DeviceEntry) -> HostStage:
    word0 = entry.word0
    return HostStage(word0 & _ADDRESS, word0 >> 9 & 7, word0 >> 61 & 3, word0 >> 7 & 3)


def _is_translation_request(access: Access) -> bool:
    return access.address_type is AddressType.TRANSLATION_REQUEST


def _ats_reason(access: Access) -> AmdviFaultReason:
    if _is_translation_request(access):
        return AmdviFaultReason.TRANSLATION_REQUEST
    return AmdviFaultReason.TRANSLATED_REQUEST
