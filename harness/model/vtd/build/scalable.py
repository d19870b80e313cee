"""Builds scalable-mode tables, the mirror image of what the VT-d engine walks: any field overridable."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass, field

from harness.errors import SpecError
from harness.model.memory import WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.vtd.build.legacy import change_entry, write_entry
from harness.model.vtd.pasid import (
    DIRECTORY_ENTRY,
    PASID_ENTRY,
    PasidTranslation,
    directory_entry_address,
    pasid_entry_address,
)
from harness.model.vtd.root import SCALABLE_ROOT_ENTRY, root_entry_address
from harness.model.vtd.scalable_context import SCALABLE_CONTEXT_ENTRY, scalable_context_address

__all__ = ["VtdScalableTables"]

_ROOT_SIZE = 16
_CONTEXT_SIZE = 32
_DIRECTORY_ENTRY_SIZE = 8
_PASID_ENTRY_SIZE = 64
_UPPER_DEVICE = 0x80


@dataclass(slots=True)
class VtdScalableTables:
    """A scalable-mode root table, and what hangs below it (VT-d 9.2, 9.4 to 9.6).

    Attributes:
        memory: what the tables are in.
        base: physical address from which on pages are taken.
    """

    memory: WritableMemory
    base: int
    pages: PageAllocator = field(init=False)
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.pages = PageAllocator(self.memory, self.base)
        self.root = self.pages.take()

    def attach(
        self,
        requester: int,
        *,
        directory_size: int = 0,
        pasid: bool = False,
        device_tlb: bool = False,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a requester a context-entry with an empty PASID directory.

        Args:
            requester: 16-bit requester id.
            directory_size: PDTS; the directory has room for 2^(PDTS + 13) PASIDs.
            pasid: PASIDE, to let requests with PASID in.
            device_tlb: DTE.
            overrides: fields of `SCALABLE_CONTEXT_ENTRY` to set otherwise, such as RID_PASID.
        """
        directory = self.pages.take(max(_DIRECTORY_ENTRY_SIZE << directory_size + 7, 4096))
        fields = {
            "P": 1,
            "DTE": int(device_tlb),
            "PASIDE": int(pasid),
            "PDTS": directory_size,
            "PASIDDIRPTR": directory,
        }
        root = root_entry_address(self.root, requester)
        present, pointer = ("UP", "UCTP") if requester & _UPPER_DEVICE else ("LP", "LCTP")
        if not SCALABLE_ROOT_ENTRY[present].get(self._read(root, _ROOT_SIZE)):
            # A pointer field that keeps its place holds an address in the upper half as well: bits 127:76.
            shift = 64 if requester & _UPPER_DEVICE else 0
            self.set_root_fields(requester >> 8, {present: 1, pointer: self.pages.take() << shift})
        value = SCALABLE_CONTEXT_ENTRY.encode({**fields, **overrides})
        write_entry(self.memory, self.context_address(requester), value, _CONTEXT_SIZE)

    def attach_pasid(
        self,
        requester: int,
        domain_id: int,
        *,
        pasid: int | None = None,
        first_stage: RadixTable | None = None,
        second_stage: RadixTable | None = None,
        overrides: NamedValues[str, int] = NO_OVERRIDES,
    ) -> None:
        """Give a PASID of an attached requester an entry; which stages there are makes its PGTT.

        Args:
            requester: 16-bit requester id.
            domain_id: DID.
            pasid: the one of RID_PASID when left out: for requests without PASID.
            first_stage: its table; with a second stage its root is a guest-physical address.
            second_stage: its table; with neither, requests pass through.
            overrides: fields of `PASID_ENTRY` to set otherwise, for other options and illegal ones.
        """
        number = self._rid_pasid(requester) if pasid is None else pasid
        address = directory_entry_address(self._directory(requester), number)
        if not DIRECTORY_ENTRY["P"].get(self.memory.read_u64(address)):
            self.memory.write_u64(address, DIRECTORY_ENTRY.encode({"P": 1, "SMPTBLPTR": self.pages.take()}))
        fields: dict[str, int] = {"P": 1, "DID": domain_id, "PGTT": _translation(first_stage, second_stage)}
        if first_stage is not None:
            fields |= {"FSPTPTR": first_stage.root << 128, "FSPM": first_stage.levels - 4}
        if second_stage is not None:
            fields |= {"SSPTPTR": second_stage.root, "AW": second_stage.levels - 2}
        value = PASID_ENTRY.encode({**fields, **overrides})
        write_entry(self.memory, self.pasid_address(requester, number), value, _PASID_ENTRY_SIZE)

    def set_root_fields(self, bus: int, values: NamedValues[str, int]) -> None:
        """Set fields of a bus's root-entry, by their names in `SCALABLE_ROOT_ENTRY`."""
        change_entry(self.memory, root_entry_address(self.root, bus << 8), SCALABLE_ROOT_ENTRY, _ROOT_SIZE, values)

    def set_context_fields(self, requester: int, values: NamedValues[str, int]) -> None:
        """Set fields of a requester's context-entry, by their names in `SCALABLE_CONTEXT_ENTRY`."""
        change_entry(self.memory, self.context_address(requester), SCALABLE_CONTEXT_ENTRY, _CONTEXT_SIZE, values)

    def set_directory_fields(self, requester: int, values: NamedValues[str, int], pasid: int | None = None) -> None:
        """Set fields of the directory entry of a PASID, or of RID_PASID, by their names in `DIRECTORY_ENTRY`."""
        number = self._rid_pasid(requester) if pasid is None else pasid
        address = directory_entry_address(self._directory(requester), number)
        change_entry(self.memory, address, DIRECTORY_ENTRY, _DIRECTORY_ENTRY_SIZE, values)

    def set_pasid_fields(self, requester: int, values: NamedValues[str, int], pasid: int | None = None) -> None:
        """Set fields of the table entry of a PASID, or of RID_PASID, by their names in `PASID_ENTRY`."""
        number = self._rid_pasid(requester) if pasid is None else pasid
        change_entry(self.memory, self.pasid_address(requester, number), PASID_ENTRY, _PASID_ENTRY_SIZE, values)

    def context_address(self, requester: int) -> int:
        """Physical address of a requester's context-entry.

        Raises:
            SpecError: no context-table for it.
        """
        value = self._read(root_entry_address(self.root, requester), _ROOT_SIZE)
        half = value >> 64 if requester & _UPPER_DEVICE else value & (1 << 64) - 1
        if not half & 1:
            raise SpecError(f"requester {requester:#06x} is not attached", hint="call attach first")
        return scalable_context_address(half & ~0xFFF, requester)

    def pasid_address(self, requester: int, pasid: int) -> int:
        """Physical address of a PASID's table entry, through a directory entry that need not be good."""
        entry = self.memory.read_u64(directory_entry_address(self._directory(requester), pasid))
        return pasid_entry_address(DIRECTORY_ENTRY["SMPTBLPTR"].get(entry), pasid)

    def _directory(self, requester: int) -> int:
        return SCALABLE_CONTEXT_ENTRY["PASIDDIRPTR"].get(self._read(self.context_address(requester), _CONTEXT_SIZE))

    def _rid_pasid(self, requester: int) -> int:
        return SCALABLE_CONTEXT_ENTRY["RID_PASID"].get(self._read(self.context_address(requester), _CONTEXT_SIZE))

    def _read(self, address: int, size: int) -> int:
        return int.from_bytes(self.memory.read(address, size), "little")


def _translation(first_stage: RadixTable | None, second_stage: RadixTable | None) -> PasidTranslation:
    if first_stage is None:
        return PasidTranslation.PASS_THROUGH if second_stage is None else PasidTranslation.SECOND_STAGE
    return PasidTranslation.FIRST_STAGE if second_stage is None else PasidTranslation.NESTED
