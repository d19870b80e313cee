"""Why AMD-Vi blocks a request, and which event it writes down for it (AMD-Vi 2.1.3.2 and 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from harness.model.access import Access, AccessKind, AddressType, Completion, Fault
from harness.model.amdvi.events import AmdviEvent, AmdviEventCode, HardwareErrorType
from harness.model.engine import MsiWrite

__all__ = ["AmdviFaultReason", "Blocked", "interrupt_fault", "memory_fault"]


class AmdviFaultReason(Enum):
    """Each cause that the specification knows. The event, with its flags, follows from it: see `event_code`."""

    # ILLEGAL_DEV_TABLE_ENTRY
    DTE_RESERVED = "a reserved bit of the device table entry is set"
    DTE_INVALID_LEVEL = "Mode, GLX or GuestPagingMode is no number of levels that the hardware has"
    DTE_IO_CONTROL = "IoCtl is 11b"
    DTE_INTERRUPT_CONTROL = "IntCtl is 11b"
    DTE_INTERRUPT_TABLE_LENGTH = "IntTabLen is above 1011b"
    # IO_PAGE_FAULT of a memory request
    DEVICE_BEYOND_TABLE = "the DeviceID is beyond the end of the device table"
    TRANSLATION_NOT_VALID = "V is 1 and TV is 0"
    ADDRESS_BEYOND_TABLE = "the address has bits above those that the topmost table decodes"
    SKIPPED_BITS = "a bit of the address is set in a level that an entry skips"
    NOT_CANONICAL = "a guest virtual address that is not canonical"
    NOT_PRESENT = "an entry on the way is not present"
    ENTRY_RESERVED = "a reserved bit of an entry on the way is set"
    INVALID_LEVEL = "the next level of an entry is not below its own, or a page in level 6"
    INVALID_PAGE_SIZE = "the size that an entry encodes does not belong to its level"
    NO_PERMISSION = "the entry of a page, or one of guest tables, does not allow the request"
    NO_PERMISSION_OF_DEVICE = "the device table entry does not allow the request"
    NO_PERMISSION_OF_TABLE = "a host entry that leads to another table does not allow the request"
    SUPERVISOR_PAGE = "a user request to a supervisor page"
    PASID_NOT_ENABLED = "a request with PASID, and there are no guest tables"
    PASID_BEYOND_TABLE = "the PASID is beyond what the GCR3 table or the hardware can hold"
    GCR3_NOT_PRESENT = "the GCR3 table has no entry for the PASID"
    GCR3_RESERVED = "a reserved bit of a GCR3 table entry is set"
    # IO_PAGE_FAULT of an interrupt
    INTERRUPT_WITH_PASID = "a request with PASID in the interrupt address range"
    INTERRUPT_BEYOND_TABLE = "the index of the interrupt is beyond the end of its table"
    INTERRUPT_NOT_ENABLED = "RemapEn is 0"
    INTERRUPT_ENTRY_RESERVED = "a reserved bit of the interrupt table entry is set"
    INTERRUPT_TYPE = "IntType is neither fixed nor arbitrated"
    INTERRUPT_ABORTED = "the delivery mode is reserved, its pass bit is 0, or it has DM set where it must not"
    # DEV_TAB_HARDWARE_ERROR and PAGE_TAB_HARDWARE_ERROR
    DEVICE_TABLE_ACCESS = "no memory where the device table entry should be"
    PAGE_TABLE_ACCESS = "no memory where an entry of a page table or GCR3 table should be"
    INTERRUPT_TABLE_ACCESS = "no memory where the interrupt table entry should be"
    # INVALID_DEVICE_REQUEST, in the order of its Type
    INTERRUPT_RANGE_READ = "a read, or a write that is no message, in the interrupt address range"
    TRANSLATED_REQUEST = "a translated request of a device with I=0 or V=0"
    PORT_IO = "an access to the I/O space range of a device with IoCtl=00b"
    SYSTEM_MANAGEMENT_WRITE = "a write to the system management range that SysMgt does not allow"
    SYSTEM_MANAGEMENT_READ = "a read of the system management range, and SysMgt is not 11b"
    INTERRUPT_CONTROL = "a fixed or arbitrated interrupt of a device with IntCtl=00b"
    RESERVED_INTERRUPT_RANGE = "a write to the reserved interrupt address range"
    SYSTEM_MANAGEMENT_UNTRANSLATED = "an access to the system management range with SysMgt=11b and TV=0"
    TRANSLATION_REQUEST = "a translation request of a device with I=0, V=0 or TV=0"
    TRANSLATION_REQUEST_ADDRESS = "a translation request for an address that is not memory"
    TRANSLATION_REQUEST_DEVICE = "a translation request of a device beyond the end of the device table"

    @property
    def event_code(self) -> AmdviEventCode:
        """Of the event that reports it."""
        return _REPORTS[self].code


class _Report(NamedTuple):
    """The fields of an event that follow from the cause alone."""

    code: AmdviEventCode
    fields: Mapping[str, int] = {}


_ILLEGAL = AmdviEventCode.ILLEGAL_DEV_TABLE_ENTRY
_PAGE_FAULT = AmdviEventCode.IO_PAGE_FAULT
_INVALID = AmdviEventCode.INVALID_DEVICE_REQUEST
# AMD-Vi 2.5.3: PR says that the page is present or the interrupt enabled; with PR, PE says that a permission is
# lacking; with PR and not PE, RZ tells reserved bits from invalid levels.
_ABSENT = _Report(_PAGE_FAULT)
_DENIED = _Report(_PAGE_FAULT, {"PR": 1, "PE": 1})
_RESERVED = _Report(_PAGE_FAULT, {"PR": 1, "RZ": 1})
_ENCODING = _Report(_PAGE_FAULT, {"PR": 1})
_R = AmdviFaultReason

_REPORTS: Mapping[AmdviFaultReason, _Report] = {
    _R.DTE_RESERVED: _Report(_ILLEGAL, {"RZ": 1}),
    _R.DTE_INVALID_LEVEL: _Report(_ILLEGAL),
    _R.DTE_IO_CONTROL: _Report(_ILLEGAL, {"RZ": 1}),
    _R.DTE_INTERRUPT_CONTROL: _Report(_ILLEGAL, {"RZ": 1}),
    _R.DTE_INTERRUPT_TABLE_LENGTH: _Report(_ILLEGAL),
    _R.DEVICE_BEYOND_TABLE: _ABSENT,
    _R.TRANSLATION_NOT_VALID: _ABSENT,
    _R.ADDRESS_BEYOND_TABLE: _ABSENT,
    _R.SKIPPED_BITS: _ABSENT,
    _R.NOT_CANONICAL: _ABSENT,
    _R.NOT_PRESENT: _ABSENT,
    _R.ENTRY_RESERVED: _RESERVED,
    _R.INVALID_LEVEL: _ENCODING,
    _R.INVALID_PAGE_SIZE: _ENCODING,
    _R.NO_PERMISSION: _DENIED,
    _R.NO_PERMISSION_OF_DEVICE: _DENIED,
    _R.NO_PERMISSION_OF_TABLE: _DENIED,
    _R.SUPERVISOR_PAGE: _DENIED,
    _R.PASID_NOT_ENABLED: _ABSENT,
    _R.PASID_BEYOND_TABLE: _ABSENT,
    _R.GCR3_NOT_PRESENT: _ABSENT,
    _R.GCR3_RESERVED: _RESERVED,
    _R.INTERRUPT_WITH_PASID: _Report(_PAGE_FAULT, {"I": 1}),
    _R.INTERRUPT_BEYOND_TABLE: _ABSENT,
    _R.INTERRUPT_NOT_ENABLED: _ABSENT,
    _R.INTERRUPT_ENTRY_RESERVED: _RESERVED,
    _R.INTERRUPT_TYPE: _RESERVED,
    _R.INTERRUPT_ABORTED: _ABSENT,
    _R.DEVICE_TABLE_ACCESS: _Report(AmdviEventCode.DEV_TAB_HARDWARE_ERROR),
    _R.PAGE_TABLE_ACCESS: _Report(AmdviEventCode.PAGE_TAB_HARDWARE_ERROR),
    _R.INTERRUPT_TABLE_ACCESS: _Report(AmdviEventCode.PAGE_TAB_HARDWARE_ERROR),
    _R.INTERRUPT_RANGE_READ: _Report(_INVALID, {"Type": 0b000}),
    _R.TRANSLATED_REQUEST: _Report(_INVALID, {"Type": 0b001}),
    _R.PORT_IO: _Report(_INVALID, {"Type": 0b010}),
    _R.SYSTEM_MANAGEMENT_WRITE: _Report(_INVALID, {"Type": 0b011}),
    _R.SYSTEM_MANAGEMENT_READ: _Report(_INVALID, {"Type": 0b100}),
    _R.INTERRUPT_CONTROL: _Report(_INVALID, {"Type": 0b101}),
    _R.RESERVED_INTERRUPT_RANGE: _Report(_INVALID, {"Type": 0b110}),
    _R.SYSTEM_MANAGEMENT_UNTRANSLATED: _Report(_INVALID, {"Type": 0b111}),
    _R.TRANSLATION_REQUEST: _Report(_INVALID, {"Type": 0b000}),
    _R.TRANSLATION_REQUEST_ADDRESS: _Report(_INVALID, {"Type": 0b001}),
    _R.TRANSLATION_REQUEST_DEVICE: _Report(_INVALID, {"Type": 0b010}),
}


class Blocked(NamedTuple):
    """A request that goes no further.

    Attributes:
        reason: why.
        stage: 1 for guest tables, 2 for host tables; None before them.
        level: of the entry that stopped a walk.
        entry: physical address of what could not be read, for hardware errors.
    """

    reason: AmdviFaultReason
    stage: int | None = None
    level: int | None = None
    entry: int = 0


def memory_fault(
    access: Access,
    blocked: Blocked,
    *,
    domain: int = 0,
    pasid: int | None = None,
    suppressed: bool = False,
) -> Fault:
    """The fault of a memory or translation request.

    Args:
        access: the request.
        blocked: what stopped it.
        domain: DomainID, 0 where no device table entry was read.
        pasid: under which it was translated: that of the request, or 0 for one without where GIoV says so.
        suppressed: page faults are not written down (SA).
    """
    reason, stage, level, entry = blocked
    code, fixed = _REPORTS[reason]
    is_write = access.kind is AccessKind.WRITE
    is_translation = access.address_type is AddressType.TRANSLATION_REQUEST
    values = {"DeviceID": access.requester & 0xFFFF, "TR": int(is_translation), "RW": int(is_write), **fixed}
    values["Address"] = access.iova
    if pasid is not None:
        values |= {"GN": 1, "PASID_19_16": pasid >> 16}
    # NX and US tell what the request asked for, which only one with PASID can.
    if access.pasid is not None:
        values |= {"NX": int(access.kind is AccessKind.EXECUTE), "US": int(not access.privileged)}
    completion = None
    if is_translation:
        # AMD-Vi 2.1.3.2: a page fault of a translation request is the answer to it, and no event.
        suppressed = code is _PAGE_FAULT
        completion = _COMPLETIONS.get(code, Completion.COMPLETER_ABORT)
    record = None
    if not (suppressed and code is _PAGE_FAULT):
        record = _event(code, values, domain if pasid is None else pasid & 0xFFFF, entry)
    return Fault(reason, access.requester, access.iova & ~0xFFF, is_write, stage, level, record, completion)


def interrupt_fault(write: MsiWrite, blocked: Blocked, *, domain: int = 0, suppressed: bool = False) -> Fault:
    """The fault of an interrupt.

    Args:
        write: the message.
        blocked: what stopped it.
        domain: DomainID, 0 where no device table entry was read.
        suppressed: page faults are not written down (IG, SupIOPF).
    """
    code, fixed = _REPORTS[blocked.reason]
    record = None
    if not (suppressed and code is _PAGE_FAULT):
        values = {"DeviceID": write.requester & 0xFFFF, "I": 1, **fixed, "Address": write.address}
        record = _event(code, values, domain, blocked.entry)
    return Fault(blocked.reason, write.requester, write.address & ~0xFFF, True, record=record)


_COMPLETIONS = {
    _PAGE_FAULT: Completion.NO_PERMISSION,
    _INVALID: Completion.UNSUPPORTED_REQUEST,
}
_HARDWARE_ERRORS = (AmdviEventCode.DEV_TAB_HARDWARE_ERROR, AmdviEventCode.PAGE_TAB_HARDWARE_ERROR)


def _event(code: AmdviEventCode, values: Mapping[str, int], space: int, entry: int) -> AmdviEvent:
    """An event, of the values those that it has fields for."""
    every = {**values, "DomainID_PASID_15_0": space, "PASID_15_0": space if values.get("GN") else 0}
    if code in _HARDWARE_ERRORS:
        # Nothing answers where the entry should be, which is a master abort.
        every |= {"Address": entry, "Type": HardwareErrorType.MASTER_ABORT}
    return AmdviEvent.make_known(code, every)
