"""What a RISC-V IOMMU makes of a request: the process to translate an IOVA (3.3), ATS requests (3.6), messages.

The steps have the numbers of 3.3. Where the specification leaves something open, this is what is taken:

* A translation request of kind READ has No Write set, WRITE has it clear and so asks for both rights, and EXECUTE asks
  for execution with No Write set. It needs R at each stage: a page without it gives neither R nor W. W is granted where
  D is set or gets set, X where it was asked for. A page of user mode that a privileged request may not execute keeps
  its R and W.
* The translation range of a Bare stage is that of the other one; of two Bare stages, 2 MiB.
* iotval and iotval2 keep the page offset.
* A memory-resident interrupt file comes out as `Attributes.MRIF` with its address. In the answer to a translation
  request this is the U bit (untranslated access only), and the device is given no address.
* Memory types (Svpbmt) do not change where an access goes: they are shown by `explain`, not in the outcome.
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
    Translated,
)
from harness.model.engine import (
    CommandResult,
    Interrupt,
    MsiOutcome,
    MsiWrite,
    PostedInterrupt,
    RawCommand,
    check_within_page,
)
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory
from harness.model.riscv.blocked import Blocked, fault, stopped_by_walk
from harness.model.riscv.commands import execute
from harness.model.riscv.device import BARE_STAGE, DeviceContext, DeviceDirectory, FirstStage, FirstStages
from harness.model.riscv.faults import RiscvIommuBlocked, RiscvIommuCause
from harness.model.riscv.listing import iter_mappings
from harness.model.riscv.msi import InterruptFile, MsiTables
from harness.model.riscv.page_walk import EXECUTE, READ, USER, WRITE, ImplicitAccess
from harness.model.riscv.process import ProcessDirectory
from harness.model.riscv.register_fields import DDTP
from harness.model.riscv.registers import IommuMode, RiscvIommuRegisters
from harness.model.riscv.tags import StageTags
from harness.model.riscv.walk_results import FlagUpdates, PageLeaf, WalkBlocked

__all__ = ["RiscvIommuEngine"]

_GRANULE = 4096
_D = 1 << 7
_NO_TAGS = StageTags(0, 0, None)
_BARE_SHIFT = 21  # two Bare stages: 2 MiB
_CAUSE = RiscvIommuCause
# Members of an enum are slow to look up through their class; `_translate` runs for each access.
_UNTRANSLATED = AddressType.UNTRANSLATED
_TRANSLATED = AddressType.TRANSLATED
_TRANSLATION_REQUEST = AddressType.TRANSLATION_REQUEST
_WRITE_KIND = AccessKind.WRITE
_EXECUTE_KIND = AccessKind.EXECUTE
_NEEDED = {AccessKind.READ: READ, AccessKind.WRITE: WRITE, AccessKind.EXECUTE: EXECUTE}
_GLOBAL = Attributes.GLOBAL
_PRIVILEGED = Attributes.PRIVILEGED
_ATTRIBUTES = {
    (is_global, is_user): (_GLOBAL if is_global else Attributes.NONE) | (Attributes.NONE if is_user else _PRIVILEGED)
    for is_global in (False, True)
    for is_user in (False, True)
}
_PLAIN = Attributes.NONE


class RiscvIommuEngine:
    """One IOMMU, with its tables in memory and with no cache.

    Args:
        registers: as they are now; make a new engine when they change.
        memory: physical memory, read again for each access.
    """

    def __init__(self, registers: RiscvIommuRegisters, memory: Memory) -> None:
        self.registers = registers
        self.memory = memory
        self._mode = registers.iommu_mode
        self._device_id_bits = registers.device_id_bits
        self._limit = 1 << registers.physical_address_size
        first_stages = FirstStages(registers, memory)
        self._devices = DeviceDirectory(registers, memory, first_stages)
        self._processes = ProcessDirectory(registers, memory, first_stages)
        self._messages = MsiTables(registers, memory)

    @property
    def granule(self) -> int:
        """See `Engine`: 4 KiB."""
        return _GRANULE

    def translate(self, access: Access) -> Outcome:
        """See `Engine`."""
        return self._translate(access, None)[0]

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        steps: list[Step] = []
        outcome, _ = self._translate(access, steps)
        return Explanation(access, tuple(steps), outcome)

    def submit(self, command: RawCommand) -> CommandResult:
        """See `Engine`: one command of 128 bits (4.1); `harness.model.riscv.queues` runs a whole queue."""
        return execute(self.registers, self.memory, command)

    def find_device(self, requester: int) -> DeviceContext | RiscvIommuCause:
        """The device context of a requester, or the cause that keeps it from being found (3.3 steps 1 to 6)."""
        found = self._find_device(requester, None)
        if found is None:
            return _CAUSE.TRANSACTION_TYPE_DISALLOWED
        return found

    def remap_msi(self, write: MsiWrite) -> MsiOutcome:
        """See `InterruptRemapper`: an untranslated write of 4 bytes without process_id.

        A message to a virtual interrupt file comes out at the page of the real one, or as a `PostedInterrupt` in a
        memory-resident interrupt file, after which the notice message is always sent (AIA, recording of incoming
        MSIs). Any other is DMA, and comes out where DMA does.

        Raises:
            SpecError: the four bytes do not lie within a page of the 64-bit address space.
        """
        access = Access(requester=write.requester, iova=write.address, length=4, kind=_WRITE_KIND)
        outcome, file = self._translate(access, None)
        if isinstance(outcome, Fault):
            return outcome
        if file is None or not file.is_resident:
            return Interrupt(outcome.address, write.data, remapped=isinstance(outcome, Translated))
        stored = self._messages.store(file, access.iova & 0xFFF, write.data)
        if isinstance(stored, PostedInterrupt):
            return stored
        device = self._find_device(write.requester, None)
        return fault(access, Blocked(stored), isinstance(device, DeviceContext) and device.dtf)

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every page that user-privilege requests of a device reach through its page tables, in ascending order.

        With two stages, each piece that both map. Pages that always fault are left out: without A, or without W and D
        for writing, where hardware does not set them. Off and a device without a good context map nothing; Bare
        stages give one mapping of everything to itself. The pages of virtual interrupt files are not taken out.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        device = self._find_device(requester, None)
        if device is None:
            yield Mapping(0, 0, 1 << 64, PERMISSIONS[7])
            return
        if not isinstance(device, DeviceContext):
            return
        access = Access(requester=requester, iova=0, length=1, kind=AccessKind.READ, pasid=pasid)
        if pasid is not None and (not device.pdtv or pasid >> device.process_id_bits):
            return
        implicit = self._implicit(device, FlagUpdates())
        first = self._first_stage(access, device, implicit, None)
        if isinstance(first, Blocked):
            return
        yield from iter_mappings(self.memory, self._limit, device, first, implicit)

    # The process to translate an IOVA (3.3).

    def _translate(self, access: Access, trace: list[Step] | None) -> tuple[Outcome, InterruptFile | None]:
        """The outcome, and the interrupt file that it goes to, if any."""
        iova = access.iova
        if (iova & 0xFFF) + access.length > _GRANULE:
            check_within_page(access, _GRANULE)
        address_type = access.address_type
        # 1. to 6. Find the device context.
        device = self._find_device(access.requester, trace)
        if device is None:
            # 2. Bare mode lets untranslated requests through as they are.
            if address_type is not _UNTRANSLATED:
                return fault(access, Blocked(_CAUSE.TRANSACTION_TYPE_DISALLOWED), False), None
            return Bypassed(iova, BypassReason.TRANSLATION_OFF), None
        if not isinstance(device, DeviceContext):
            return fault(access, Blocked(device), False), None
        # 7. Transactions that the device context does not allow: ATS without EN_ATS, and a process_id without PDTV or
        #    wider than pdtp.MODE lets through.
        if address_type is not _UNTRANSLATED and not device.en_ats:
            return fault(access, Blocked(_CAUSE.TRANSACTION_TYPE_DISALLOWED), device.dtf), None
        if access.pasid is not None and (not device.pdtv or access.pasid >> device.process_id_bits):
            return fault(access, Blocked(_CAUSE.TRANSACTION_TYPE_DISALLOWED), device.dtf), None
        # 8. A translated request without T2GPA carries a physical address already.
        if address_type is _TRANSLATED and not device.t2gpa:
            return Bypassed(iova, BypassReason.TRANSLATED_REQUEST), None
        # 9. to 16. Which first stage.
        updates = FlagUpdates()
        implicit = self._implicit(device, updates)
        first = self._first_stage(access, device, implicit, trace)
        if isinstance(first, Blocked):
            return fault(access, first, device.dtf, updates), None
        # 17. to 20. Translate.
        return self._walk(access, device, first, implicit, updates, trace)

    def _find_device(self, requester: int, trace: list[Step] | None) -> DeviceContext | RiscvIommuCause | None:
        """Steps 1 to 6; None in Bare mode."""
        if trace is not None:
            ddtp = self.registers.ddtp
            trace.append(Step("ddtp", DDTP.section, None, ddtp, DDTP.describe(ddtp)))
        # 1. Off: cause 256.
        if self._mode is IommuMode.OFF:
            return _CAUSE.ALL_INBOUND_TRANSACTIONS_DISALLOWED
        # 2. Bare.
        if self._mode is IommuMode.BARE:
            return None
        # 3. to 5. A device_id wider than the mode supports: cause 260.
        if requester >> self._device_id_bits:
            return _CAUSE.TRANSACTION_TYPE_DISALLOWED
        # 6. Locate the device context.
        return self._devices.find(requester, trace)

    def _implicit(self, device: DeviceContext, updates: FlagUpdates) -> ImplicitAccess | None:
        """What reads the process directory and the first-stage tables through the second stage, if one is there."""
        if device.second is None or not (device.pdtv or device.first.walk is not None):
            return None
        tags = StageTags(2, device.gscid, None)
        return ImplicitAccess(device.second, device.second_root, device.gade, updates, tags)

    def _first_stage(
        self, access: Access, device: DeviceContext, implicit: ImplicitAccess | None, trace: list[Step] | None
    ) -> FirstStage | Blocked:
        """Steps 9 to 16."""
        # 9. The address of a translated request with T2GPA is a guest physical one: no first stage.
        if access.address_type is _TRANSLATED:
            return BARE_STAGE
        # 10. Without a process directory the device context holds the first stage; such a request has user privilege.
        if not device.pdtv:
            return device.first
        # 11. DPE: process 0 stands in for none. 12. Otherwise there is no first stage.
        process_id = access.pasid
        if process_id is None:
            if not device.dpe:
                return BARE_STAGE
            process_id = 0
        # 13. pdtp.MODE is Bare: no first stage.
        if not device.pdt_levels:
            return BARE_STAGE
        # 14. Locate the process context.
        found = self._processes.find(access.requester, device, process_id, implicit, trace)
        if isinstance(found, RiscvIommuCause):
            return Blocked(found)
        if isinstance(found, WalkBlocked):
            return stopped_by_walk(access, found)
        # 15. Supervisor privilege without ENS.
        if _is_supervisor(access) and not found.ens:
            return Blocked(_CAUSE.TRANSACTION_TYPE_DISALLOWED)
        # 16. The process context holds the first stage.
        return found.first

    def _walk(
        self,
        access: Access,
        device: DeviceContext,
        first: FirstStage,
        implicit: ImplicitAccess | None,
        updates: FlagUpdates,
        trace: list[Step] | None,
    ) -> tuple[Outcome, InterruptFile | None]:
        """Steps 17 to 20."""
        iova, kind = access.iova, access.kind
        is_request = access.address_type is _TRANSLATION_REQUEST
        needed = READ if is_request else _NEEDED[kind]
        is_store = kind is _WRITE_KIND
        executes = kind is _EXECUTE_KIND
        # 17. The first stage gives the guest physical address.
        guest, shift, rights, attributes, is_global = iova, 64, 7, _PLAIN, False
        if first.walk is not None:
            supervisor = _is_supervisor(access)
            # 3.2.3.1: user privilege does not reach supervisor pages; supervisor privilege reaches user pages with SUM,
            # and never to execute.
            barred = 0
            if supervisor:
                barred = -1 if first.reaches_user and not (executes and not is_request) else USER
            tags = StageTags(1, device.gscid, first.pscid) if trace is not None else _NO_TAGS
            leaf = first.walk.walk(
                first.root, iova, needed, is_store, barred, device.sade, updates, implicit, trace, tags
            )
            if not isinstance(leaf, PageLeaf):
                return fault(access, stopped_by_walk(access, leaf), device.dtf, updates), None
            guest, shift, entry, is_global = leaf
            rights = _granted(entry, is_request)
            if supervisor and entry & USER:
                rights &= ~EXECUTE
            attributes = _ATTRIBUTES[is_global, bool(entry & USER)]
        # 18. Is it the page of a virtual interrupt file?
        file = None
        if device.msi_table is not None:
            found = self._messages.find(device, guest, trace)
            if isinstance(found, RiscvIommuCause):
                return fault(access, Blocked(found, is_global=is_global), device.dtf, updates), None
            file = found
        if file is not None:
            # 3.3.3 step 15: its rights are R and W, so a read for execute ends with cause 1.
            if executes and not is_request:
                blocked = Blocked(_CAUSE.INSTRUCTION_ACCESS_FAULT, is_global=is_global)
                return fault(access, blocked, device.dtf, updates), None
            if file.is_resident and not is_request and (access.length != 4 or iova & 3):
                # AIA, MRIF mode: what is not 32 bits wide and aligned is aborted, without a cause of the IOMMU.
                blocked = Blocked(RiscvIommuBlocked.MRIF_ACCESS_UNSUPPORTED, is_global=is_global)
                return fault(access, blocked, device.dtf, updates), None
            address, shift, rights = file.page | iova & 0xFFF, 12, rights & (READ | WRITE)
            if file.is_resident:
                address, attributes = file.page, attributes | Attributes.MRIF
            # 3.6: in the answer to a translation request Global is 0.
            if is_request:
                attributes &= ~_GLOBAL
        elif device.second is not None:
            # 19. The second stage gives the supervisor physical address.
            leaf = device.second.walk(
                device.second_root,
                guest,
                needed,
                is_store,
                0,
                device.gade,
                updates,
                None,
                trace,
                StageTags(2, device.gscid, None) if trace is not None else _NO_TAGS,
            )
            if not isinstance(leaf, PageLeaf):
                blocked = stopped_by_walk(access, leaf)._replace(is_global=is_global)
                return fault(access, blocked, device.dtf, updates), None
            address = leaf.address
            shift = min(shift, leaf.shift)
            rights &= _granted(leaf.entry, is_request)
        elif first.walk is None:
            if not is_request:
                return Bypassed(iova, BypassReason.PASS_THROUGH), None
            address, shift = iova, _BARE_SHIFT
        else:
            address = guest
        # 20. The translation is complete.
        if is_request:
            # 3.6: X is granted where it was asked for; Global only with a process_id; with T2GPA the device is given
            # the guest physical address.
            rights = rights if executes else rights & (READ | WRITE)
            if access.pasid is None:
                attributes &= ~_GLOBAL
            if device.t2gpa:
                address = guest
        writes = updates.writes() if updates else ()
        return Translated(address, 1 << shift, PERMISSIONS[rights], attributes, writes), file


def _is_supervisor(access: Access) -> bool:
    """Supervisor privilege is asked for with a process_id only (2.3)."""
    return access.privileged and access.pasid is not None


def _granted(entry: int, is_request: bool) -> int:
    """Rights of a leaf; a translation request is granted W only where D is set."""
    rights = entry >> 1 & 7
    return rights & ~WRITE if is_request and not entry & _D else rights
