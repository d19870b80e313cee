"""IVRS, the table of AMD IOMMUs (AMD 48882, chapter 5, I/O virtualization ACPI table).

What the specification leaves open, and what is taken here:

- One IOMMU may have an IVHD block of each type; the block of the highest type known counts, 40h before 11h before 10h,
  for each IOMMU by itself. Linux takes one type for the whole table (drivers/iommu/amd/init.c,
  `get_highest_supported_ivhd_type`).
- A device id must be in the entries of one IOMMU only. Where more claim it, one that names it counts before one that
  has all of them; where two are left the table contradicts itself.
- Within a block a later entry replaces what an earlier one says of a device id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

from harness.model.firmware.acpi import HARNESS_HEADER, HEADER_BYTES, Span, TableHeader, close_table, open_table
from harness.model.firmware.ivhd_entries import (
    AliasEntry,
    DeviceEntry,
    EntryType,
    ExtendedEntry,
    IvhdEntry,
    SpecialEntry,
    Variety,
    entry_bytes,
    read_entries,
)
from harness.model.firmware.structures import Structure, fits, raw, u8, u16, u32, u64
from harness.model.firmware.table import Behind, collect
from harness.model.pci.aliases import requester_ids
from harness.model.pci.functions import Function
from harness.model.pci.platform import ReservedRegion, UnitPlace
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["Ivhd", "Ivmd", "Ivrs", "IvrsBlock", "UnknownBlock"]

_OLDEST_IVHD = 0x10  # the one type without images of the extended feature registers


@dataclass(frozen=True, slots=True, kw_only=True)
class Ivhd(Structure):
    """I/O virtualization hardware definition (AMD 48882, 5.2): one IOMMU and what it stands before.

    Attributes:
        type: 10h, 11h or 40h.
        flags: HtTunEn, PassPW, ResPassPW, Isoc, IotlbSup, Coherent; in type 10h also PrefSup, PPRSup.
        device_id: requester id of the IOMMU's own function.
        capability_offset: of its capability block in configuration space.
        iommu_base_address: of its registers.
        pci_segment_group: of the IOMMU and all that it stands before.
        iommu_info: MSI number and unit id.
        iommu_feature_info: IOMMU Feature Info in type 10h, IOMMU Attributes in the others.
        efr_register_image: of the extended feature register; not in type 10h.
        efr_register_image_2: of the second one; not in type 10h.
        entries: device entries.
    """

    type: int
    flags: int = u8()
    device_id: int = u16()
    capability_offset: int = u16()
    iommu_base_address: int = u64()
    pci_segment_group: int = u16()
    iommu_info: int = u16()
    iommu_feature_info: int = u32()
    efr_register_image: int = 0
    efr_register_image_2: int = 0
    entries: tuple[IvhdEntry, ...] = ()

    @property
    def place(self) -> UnitPlace:
        """Which IOMMU it is."""
        function = Address.of_requester(self.device_id, self.pci_segment_group)
        return UnitPlace(registers=self.iommu_base_address, function=function)

    def source_id(self, device_id: int) -> tuple[int, bool] | None:
        """The id that the requests of a device carry, and whether an entry names the device.

        None where the block does not have it.
        """
        found = None
        start: DeviceEntry | AliasEntry | ExtendedEntry | None = None
        for entry in self.entries:
            match entry:
                case DeviceEntry(type=EntryType.ALL):
                    found = device_id, False
                case DeviceEntry(type=EntryType.SELECT) | ExtendedEntry(type=EntryType.EXTENDED_SELECT):
                    if entry.device_id == device_id:
                        found = device_id, True
                case AliasEntry(type=EntryType.ALIAS_SELECT):
                    # The other's own requests go through the IOMMU too.
                    if device_id in (entry.device_id, entry.source_device_id):
                        found = entry.source_device_id, True
                case AliasEntry() | ExtendedEntry() | DeviceEntry(type=EntryType.START_OF_RANGE):
                    start = entry
                case DeviceEntry(type=EntryType.END_OF_RANGE) if start is not None:
                    source = start.source_device_id if isinstance(start, AliasEntry) else None
                    if start.device_id <= device_id <= entry.device_id or device_id == source:
                        found = device_id if source is None else source, True
                    start = None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ivmd(Structure):
    """I/O virtualization memory definition (AMD 48882, 5.2): memory that devices use from the start.

    Attributes:
        type: 20h for all devices, 21h for one, 22h for a range.
        flags: Unity, IR, IW, exclusion range.
        device_id: the device, or the first of a range.
        auxiliary_data: the last of a range.
        pci_segment_group: of the devices.
        reserved: zeroes.
        start_address: physical address.
        memory_block_length: bytes.
    """

    type: int
    flags: int = u8()
    device_id: int = u16()
    auxiliary_data: int = u16()
    pci_segment_group: int = u16()
    reserved: bytes = raw(6)
    start_address: int = u64()
    memory_block_length: int = u64()

    def concerns(self, segment: int, device_id: int) -> bool:
        """Whether it is for that device."""
        if segment != self.pci_segment_group:
            return False
        match self.type:
            case 0x20:
                return True
            case 0x21:
                return device_id == self.device_id
            case _:
                return self.device_id <= device_id <= self.auxiliary_data


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownBlock:
    """A block of another type, which software passes over."""

    type: int
    flags: int
    data: bytes


IvrsBlock: TypeAlias = Ivhd | Ivmd | UnknownBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head(Structure):
    """What stands between the ACPI header and the blocks (AMD 48882, 5.2)."""

    iv_info: int = u32()
    reserved: bytes = raw(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ivrs:
    """I/O virtualization reporting structure (AMD 48882, 5.2).

    Attributes:
        iv_info: IVinfo: EFRSup, DmaGuardOptIn, GVASize, PASize, VASize, HtAtsResv.
        blocks: IVHD and IVMD blocks, in their order.
        header: of the table.
    """

    SIGNATURE: ClassVar[str] = "IVRS"

    iv_info: int = 0
    blocks: tuple[IvrsBlock, ...] = ()
    header: TableHeader = HARNESS_HEADER

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the table.

        Raises:
            BadTable: it is broken; the message says where.
        """
        header, whole = open_table(data, cls.SIGNATURE)
        head = whole.structure(_Head, HEADER_BYTES)
        blocks = []
        at = HEADER_BYTES + _Head.fixed_size()
        while at < len(whole):
            length = whole.number(at + 2, 2, "block length")
            if length < 4:
                raise whole.bad(f"a block of {length} bytes: type, flags and length alone take 4", at)
            blocks.append(_read(whole.part(at, length, "block")))
            at += length
        return cls(iv_info=head.iv_info, blocks=tuple(blocks), header=header)

    def encode(self) -> bytes:
        """The whole table.

        Raises:
            SpecError: a value does not fit its field.
        """
        blocks = b"".join(map(_bytes, self.blocks))
        return close_table(self.SIGNATURE, self.header, _Head(iv_info=self.iv_info).encode() + blocks)

    @property
    def ivhds(self) -> tuple[Ivhd, ...]:
        """For each IOMMU the block that counts."""
        best: dict[tuple[int, int], Ivhd] = {}
        for block in self.blocks:
            if isinstance(block, Ivhd):
                key = (block.pci_segment_group, block.device_id)
                if key not in best or best[key].type < block.type:
                    best[key] = block
        return tuple(best.values())

    @property
    def units(self) -> tuple[UnitPlace, ...]:
        """The IOMMUs that it describes."""
        return tuple(block.place for block in self.ivhds)

    @property
    def efr_supported(self) -> bool:
        """EFRSup: the images of the extended feature registers are valid."""
        return bool(self.iv_info & 1)

    @property
    def interrupt_remapping(self) -> None:
        """Every AMD IOMMU can, and no field says that it does not."""
        return None

    @property
    def physical_address_bits(self) -> int:
        """PASize: bits of a physical address."""
        return self.iv_info >> 8 & 0x7F

    @property
    def virtual_address_bits(self) -> int:
        """VASize: bits of a device's address."""
        return self.iv_info >> 15 & 0x7F

    @property
    def ioapics(self) -> frozenset[int]:
        """Handles of the I/O APICs among the special devices: their ids in the MADT."""
        return frozenset(self.special_devices(Variety.IOAPIC))

    def special_devices(self, variety: Variety) -> Mapping[int, tuple[UnitPlace, int]]:
        """I/O APICs or HPETs by handle: the unit, and the id that their requests carry."""
        return {
            entry.handle: (block.place, entry.source_device_id)
            for block in self.ivhds
            for entry in block.entries
            if isinstance(entry, SpecialEntry) and entry.variety == variety
        }

    def behind(self, tree: PciTree, function: Function) -> tuple[Behind, ...]:
        """The IOMMUs that it puts the function behind: none or one, more where it contradicts itself."""
        return collect(function, self._source_ids(function.address.segment, requester_ids(tree, function)))

    def reserved(self, tree: PciTree) -> frozenset[ReservedRegion]:
        """The memory of IVMD blocks, for each function that they are for."""
        return frozenset(
            ReservedRegion(
                function=function.address,
                base=block.start_address,
                last=block.start_address + block.memory_block_length - 1,
            )
            for block in self.blocks
            if isinstance(block, Ivmd)
            for function in tree
            if block.concerns(function.address.segment, function.address.requester)
        )

    def _source_ids(self, segment: int, requesters: tuple[int, ...]) -> Iterator[tuple[UnitPlace, int]]:
        for requester in requesters:
            claims = [
                (block.place, claim)
                for block in self.ivhds
                if block.pci_segment_group == segment and (claim := block.source_id(requester)) is not None
            ]
            named = [(place, source) for place, (source, by_name) in claims if by_name]
            yield from named or [(place, source) for place, (source, _) in claims]


def _read(span: Span) -> IvrsBlock:
    """One block; the span is exactly as long as it says that it is."""
    type = span.number(0, 1, "block type")
    flags = span.bytes_at(1, 1, "block flags")
    match type:
        case 0x10 | 0x11 | 0x40:
            fixed = flags + span.bytes_at(4, Ivhd.fixed_size() - 1, "IVHD block")
            at = 3 + Ivhd.fixed_size()
            images = (0, 0)
            if type != _OLDEST_IVHD:
                images = (span.number(at, 8, "EFR register image"), span.number(at + 8, 8, "EFR register image 2"))
                at += 16
            return Ivhd.decode(
                fixed,
                type=type,
                efr_register_image=images[0],
                efr_register_image_2=images[1],
                entries=tuple(read_entries(span, at)),
            )
        case 0x20 | 0x21 | 0x22:
            if len(span) != 3 + Ivmd.fixed_size():
                raise span.bad(f"an IVMD block of {len(span)} bytes: it has {3 + Ivmd.fixed_size()}")
            return Ivmd.decode(flags + span.bytes_at(4, Ivmd.fixed_size() - 1, "IVMD block"), type=type)
        case _:
            return UnknownBlock(type=type, flags=flags[0], data=span.bytes_at(4, len(span) - 4, "block"))


def _bytes(block: IvrsBlock) -> bytes:
    match block:
        case UnknownBlock(flags=flags, data=body):
            first = fits(flags, 1, "flags")
        case Ivmd():
            fixed = block.encode()
            first, body = fixed[:1], fixed[1:]
        case Ivhd():
            fixed = block.encode()
            first, body = fixed[:1], fixed[1:]
            if block.type != _OLDEST_IVHD:
                body += fits(block.efr_register_image, 8, "efr_register_image")
                body += fits(block.efr_register_image_2, 8, "efr_register_image_2")
            body += b"".join(map(entry_bytes, block.entries))
    return fits(block.type, 1, "type") + first + fits(4 + len(body), 2, "block length") + body
