"""The one vocabulary of every IOMMU model: an access goes in, an outcome comes out, a walk explains it.

>>> access = Access(requester=0x0028, iova=0x1000, length=4, kind=AccessKind.WRITE)
>>> print(access)
00:05.0 write of 4 bytes at 0x1000

What an engine does with them is in `harness.model.engine`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Protocol, TypeAlias

from harness.errors import SpecError
from harness.model.memory import WritableMemory

__all__ = [
    "PERMISSIONS",
    "Access",
    "AccessKind",
    "AddressType",
    "Attributes",
    "BypassReason",
    "Bypassed",
    "Completion",
    "Fault",
    "FaultRecord",
    "Mapping",
    "MemoryWrite",
    "Outcome",
    "Permissions",
    "Translated",
    "format_requester",
    "format_size",
    "without_writes",
]

_ADDRESS_SPACE = 1 << 64


class AccessKind(StrEnum):
    """What a request does. A zero-length read, a flush on PCIe, is a `READ` of length 0."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


class AddressType(IntEnum):
    """The AT field of a PCIe request (PCI Express Base, address translation services)."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2


class Permissions(Flag):
    """What a mapping allows."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4

    def __str__(self) -> str:
        letters = "".join(
            letter if flag in self else "-"
            for flag, letter in ((Permissions.READ, "r"), (Permissions.WRITE, "w"), (Permissions.EXECUTE, "x"))
        )
        return letters.removesuffix("-")


PERMISSIONS = tuple(Permissions(bits) for bits in range(8))
"""Every combination, indexed by its bits: far cheaper than building a flag in a walk."""


class Attributes(Flag):
    """What a mapping says of its memory beside permissions."""

    NONE = 0
    SNOOP = 1
    """Accesses are snooped whatever the request says: VT-d SNP, AMD-Vi FC."""
    MMIO = 2
    """virtio-iommu VIRTIO_IOMMU_MAP_F_MMIO: device registers."""
    TRANSIENT = 4
    """VT-d TM: a device TLB should not keep the translation for long."""
    GLOBAL = 8
    """The same in every address space of its domain: the G bit of x86 and RISC-V tables, nG=0 of Arm's."""
    PRIVILEGED = 16
    """Only privileged requests may use it: U/S=0 of x86 tables, U=0 of RISC-V ones, AP[1]=0 of Arm's."""
    MRIF = 32
    """RISC-V: the address is that of a memory-resident interrupt file, in which the write sets a bit."""


class Completion(StrEnum):
    """How the IOMMU answers a translation request of a device TLB that gets no translation (PCIe, ATS)."""

    NO_PERMISSION = "success, no permission"
    """Success with R=W=0: nothing is wrong but that the page is not there or does not allow it."""
    UNSUPPORTED_REQUEST = "unsupported request"
    COMPLETER_ABORT = "completer abort"


@dataclass(frozen=True, slots=True)
class MemoryWrite:
    """A write of the IOMMU itself: an accessed or dirty flag, the status of a command, a record.

    Engines do not write: they say what the hardware would, so that the same engine reads a dump. `apply` does it.

    Attributes:
        address: physical address.
        data: the bytes.
    """

    address: int
    data: bytes

    def apply(self, memory: WritableMemory) -> None:
        """Do it."""
        memory.write(self.address, self.data)

    def __str__(self) -> str:
        return f"{self.data[::-1].hex()} written to {self.address:#x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One request of a device.

    Attributes:
        requester: segment << 16 | requester id (bus << 8 | device << 3 | function), after aliasing: up to 32 bits. It
            is what the architectures call source id, DeviceID, StreamID, device_id or endpoint id.
        iova: address in the request, bytes, 64 bits.
        length: bytes; 0 is a zero-length read.
        kind: read, write or execute.
        pasid: 20-bit PASID, or None for a request without PASID.
        privileged: the request asks for privileged mode (meaningful with a PASID only).
        address_type: untranslated, or one of the two kinds that ATS adds.

    Raises:
        SpecError: a field does not fit its width, or the access runs over the end of the address space.
    """

    requester: int
    iova: int
    length: int
    kind: AccessKind
    pasid: int | None = None
    privileged: bool = False
    address_type: AddressType = AddressType.UNTRANSLATED

    def __post_init__(self) -> None:
        if not 0 <= self.requester < 1 << 32:
            raise SpecError(f"requester {self.requester:#x} is not a segment of 16 bits and a requester id of 16")
        if self.iova < 0 or self.length < 0 or self.iova + max(self.length, 1) > _ADDRESS_SPACE:
            raise SpecError(f"{self.length} bytes at {self.iova:#x} do not lie in a 64-bit address space")
        if self.pasid is not None and not 0 <= self.pasid < 1 << 20:
            raise SpecError(f"pasid {self.pasid:#x} is not a 20-bit PASID")

    def __str__(self) -> str:
        pasid = "" if self.pasid is None else f" with pasid {self.pasid:#x}"
        privileged = " privileged" if self.privileged else ""
        at = "" if self.address_type is AddressType.UNTRANSLATED else f" ({self.address_type.name.lower()})"
        what = f"{self.kind} of {self.length} bytes at {self.iova:#x}"
        return f"{format_requester(self.requester)}{privileged} {what}{pasid}{at}"


@dataclass(frozen=True, slots=True)
class Translated:
    """The access goes to `address`.

    Attributes:
        address: physical address of the first byte of the access.
        size: bytes of the page or mapping that it came from; the smaller one where two stages are in it.
        permissions: what that page or mapping allows, all levels taken together.
        attributes: what else the leaf says of the memory.
        writes: accessed and dirty flags that the walk sets, in the order in which it does.
    """

    address: int
    size: int
    permissions: Permissions
    attributes: Attributes = Attributes.NONE
    writes: tuple[MemoryWrite, ...] = ()

    def __str__(self) -> str:
        extra = "" if self.attributes is Attributes.NONE else f", {self.attributes.name}".lower()
        return f"translated to {self.address:#x} ({self.permissions}, {format_size(self.size)} mapping{extra})"


class BypassReason(StrEnum):
    """Why an access keeps its address."""

    TRANSLATION_OFF = "translation is off"
    PASS_THROUGH = "the device's table entry lets it pass"
    ENTRY_NOT_VALID = "the device's table entry says nothing"
    EXCLUSION_RANGE = "exclusion range"
    INTERRUPT_RANGE = "interrupt request, not DMA"
    TRANSLATED_REQUEST = "already translated by the device"
    UNATTACHED = "endpoint without a domain in bypass mode"
    BYPASS_DOMAIN = "bypass domain"
    NOT_BEHIND = "no IOMMU stands before the device"


@dataclass(frozen=True, slots=True)
class Bypassed:
    """The access goes to the address that it carries, unchecked."""

    address: int
    reason: BypassReason

    def __str__(self) -> str:
        return f"bypassed to {self.address:#x} ({self.reason})"


class FaultRecord(Protocol):
    """What the hardware would write down of a fault; each engine has its own, with the fields of its specification."""

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """The access is blocked.

    Attributes:
        code: the engine's own fault code, a member of its enum.
        requester: of the access.
        iova: page address (4 KiB) of the access, as fault records carry it.
        is_write: whether it was a write.
        stage: 1 or 2, the translation stage that failed; None before any stage.
        level: level of the table whose entry failed, 1 for the last; None outside of a page-table walk.
        record: what would be recorded; None when the access is blocked without a report.
        completion: for a translation request, how it is answered.
        writes: flags that the walk set before it failed.
        is_global: the last entry of stage 1 on the way was marked global; false where the engine does not tell. Faults
            that differ in nothing else are equal.
    """

    code: Enum
    requester: int
    iova: int
    is_write: bool
    stage: int | None = None
    level: int | None = None
    record: FaultRecord | None = None
    completion: Completion | None = None
    writes: tuple[MemoryWrite, ...] = ()
    is_global: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        number = f" {self.code.value:#x}" if isinstance(self.code.value, int) else ""
        where = "" if self.stage is None else f", stage {self.stage}"
        where += "" if self.level is None else f", level {self.level}"
        report = "" if self.record is not None else ", not reported"
        answer = "" if self.completion is None else f", answered with {self.completion}"
        return f"fault{number} {self.code.name}{where}{report}{answer}"


Outcome: TypeAlias = Translated | Bypassed | Fault


def without_writes(outcome: Outcome) -> Outcome:
    """The outcome without the flags that the walk sets."""
    if isinstance(outcome, Bypassed) or not outcome.writes:
        return outcome
    bare: Outcome = replace(outcome, writes=())
    return bare


@dataclass(frozen=True, slots=True)
class Mapping:
    """A range that tables map: `size` bytes from `iova` on go to `address` on."""

    iova: int
    address: int
    size: int
    permissions: Permissions

    def __str__(self) -> str:
        last = self.iova + self.size - 1
        return f"{self.iova:#x}..{last:#x} -> {self.address:#x} {self.permissions} ({format_size(self.size)})"


def format_requester(requester: int) -> str:
    """A requester id as [segment:]bus:device.function, as lspci writes it; segment 0 is left out."""
    segment = f"{requester >> 16:04x}:" if requester >> 16 else ""
    return f"{segment}{requester >> 8 & 0xFF:02x}:{requester >> 3 & 0x1F:02x}.{requester & 7}"


def format_size(size: int) -> str:
    """A number of bytes in the largest binary unit that divides it."""
    for shift, unit in ((60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
