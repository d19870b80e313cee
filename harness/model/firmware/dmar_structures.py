"""The structures of a DMAR table and their bytes (VT-d 8.2 to 8.9). `harness.model.firmware.dmar` has their meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self, TypeAlias

from harness.model.firmware.acpi import Span, path_name
from harness.model.firmware.structures import Structure, fits, raw, u8, u16, u32, u64
from harness.model.pci.platform import UnitPlace

__all__ = [
    "Andd",
    "Atsr",
    "DeviceScope",
    "DmarStructure",
    "Drhd",
    "Rhsa",
    "Rmrr",
    "Satc",
    "ScopeType",
    "Scoped",
    "Sidp",
    "UnknownStructure",
    "read_structure",
    "structure_bytes",
]


class ScopeType(IntEnum):
    """Type of a device scope (VT-d 8.3.1)."""

    PCI_ENDPOINT_DEVICE = 1
    PCI_SUB_HIERARCHY = 2
    IOAPIC = 3
    MSI_CAPABLE_HPET = 4
    ACPI_NAMESPACE_DEVICE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceScope(Structure):
    """Device scope structure (VT-d 8.3.1), without its length.

    Attributes:
        type: a `ScopeType`; others are kept by number and name nothing.
        flags: for SIDP alone (8.9), reserved elsewhere.
        enumeration_id: I/O APIC id, HPET number, or the ACPI device number of an ANDD.
        start_bus_number: bus of a host bridge.
        path: device and function number of each step from there.
    """

    type: int = u8()
    flags: int = u8()
    reserved: int = u8()
    enumeration_id: int = u8()
    start_bus_number: int = u8()
    path: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, type: ScopeType, bus: int, *path: tuple[int, int], enumeration_id: int = 0) -> Self:
        """A scope in short."""
        return cls(type=type, start_bus_number=bus, path=path, enumeration_id=enumeration_id)


# The length stands behind the type.
_SCOPE_BYTES = 1 + DeviceScope.fixed_size()

_Scopes: TypeAlias = tuple[DeviceScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drhd(Structure):
    """DMA remapping hardware unit definition (VT-d 8.3): one IOMMU and what it stands before."""

    TYPE: ClassVar[int] = 0
    flags: int = u8()
    size: int = u8()
    segment_number: int = u16()
    register_base_address: int = u64()
    device_scopes: _Scopes = ()

    @property
    def include_pci_all(self) -> bool:
        """Whether it stands before everything in its segment that no other unit names."""
        return bool(self.flags & 1)

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        return UnitPlace(registers=self.register_base_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rmrr(Structure):
    """Reserved memory region reporting (VT-d 8.4); the limit is the last byte."""

    TYPE: ClassVar[int] = 1
    reserved: int = u16()
    segment_number: int = u16()
    reserved_memory_region_base_address: int = u64()
    reserved_memory_region_limit_address: int = u64()
    device_scopes: _Scopes = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Atsr(Structure):
    """Root port ATS capability reporting (VT-d 8.5)."""

    TYPE: ClassVar[int] = 2
    flags: int = u8()
    reserved: int = u8()
    segment_number: int = u16()
    device_scopes: _Scopes = ()

    @property
    def all_ports(self) -> bool:
        """Whether every root port of the segment takes part in ATS, and none is listed."""
        return bool(self.flags & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhsa(Structure):
    """Remapping hardware static affinity (VT-d 8.6)."""

    TYPE: ClassVar[int] = 3
    reserved: int = u32()
    register_base_address: int = u64()
    proximity_domain: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True)
class Andd(Structure):
    """ACPI name-space device declaration (VT-d 8.7)."""

    TYPE: ClassVar[int] = 4
    reserved: bytes = raw(3)
    acpi_device_number: int = u8()
    acpi_object_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Satc(Structure):
    """SoC integrated address translation cache reporting (VT-d 8.8)."""

    TYPE: ClassVar[int] = 5
    flags: int = u8()
    reserved: int = u8()
    segment_number: int = u16()
    device_scopes: _Scopes = ()

    @property
    def atc_required(self) -> bool:
        """Whether its devices need their address translation cache to work."""
        return bool(self.flags & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidp(Structure):
    """SoC integrated device property reporting (VT-d 8.9); the properties are in the flags of the scopes."""

    TYPE: ClassVar[int] = 6
    reserved: int = u16()
    segment_number: int = u16()
    device_scopes: _Scopes = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownStructure:
    """A remapping structure of another type, which software passes over (VT-d 8.2)."""

    type: int
    data: bytes


DmarStructure: TypeAlias = Drhd | Rmrr | Atsr | Rhsa | Andd | Satc | Sidp | UnknownStructure

Scoped: TypeAlias = Drhd | Rmrr | Atsr | Satc | Sidp
"""Those with device scopes, in a segment."""
_SCOPED: Mapping[int, type[Scoped]] = {cls.TYPE: cls for cls in (Drhd, Rmrr, Atsr, Satc, Sidp)}


def read_structure(type: int, span: Span) -> DmarStructure:
    """One remapping structure; the span is exactly as long as it says that it is.

    Raises:
        BadTable: it is broken.
    """
    if (scoped := _SCOPED.get(type)) is not None:
        span.bytes_at(4, scoped.fixed_size(), scoped.__name__)
        return span.structure(scoped, 4, device_scopes=tuple(_scopes(span, 4 + scoped.fixed_size())))
    match type:
        case Rhsa.TYPE:
            if len(span) != 4 + Rhsa.fixed_size():
                raise span.bad(f"an RHSA structure of {len(span)} bytes: it has {4 + Rhsa.fixed_size()}")
            return span.structure(Rhsa, 4)
        case Andd.TYPE:
            span.bytes_at(4, Andd.fixed_size(), "ANDD structure")
            return span.structure(Andd, 4, acpi_object_name=path_name(span, 4 + Andd.fixed_size()))
        case _:
            return UnknownStructure(type=type, data=span.bytes_at(4, len(span) - 4, "remapping structure"))


def _scopes(span: Span, at: int) -> Iterator[DeviceScope]:
    while at < len(span):
        length = span.number(at + 1, 1, "device scope length")
        if length < _SCOPE_BYTES or length % 2:
            raise span.bad(
                f"a device scope of {length} bytes: it has {_SCOPE_BYTES}, and 2 for each step of a path", at
            )
        scope = span.bytes_at(at, length, "device scope")
        steps = scope[_SCOPE_BYTES:]
        path = tuple(zip(steps[::2], steps[1::2], strict=True))
        yield DeviceScope.decode(scope[:1] + scope[2:_SCOPE_BYTES], path=path)
        at += length


def structure_bytes(structure: DmarStructure) -> bytes:
    """One remapping structure, with its type and length.

    Raises:
        SpecError: a value does not fit its field.
    """
    match structure:
        case UnknownStructure(type=type, data=body):
            pass
        case Andd(TYPE=type, acpi_object_name=name):
            body = structure.encode() + name.encode("ascii") + b"\0"
        case Rhsa(TYPE=type):
            body = structure.encode()
        case _:
            type = structure.TYPE
            body = structure.encode() + b"".join(map(_scope_bytes, structure.device_scopes))
    return fits(type, 2, "type") + fits(4 + len(body), 2, "length") + body


def _scope_bytes(scope: DeviceScope) -> bytes:
    fixed = scope.encode()
    path = b"".join(fits(number, 1, "path") for step in scope.path for number in step)
    return fixed[:1] + fits(_SCOPE_BYTES + len(path), 1, "device scope length") + fixed[1:] + path
