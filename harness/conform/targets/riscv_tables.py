"""Tables for programs of riscv-iommu-pci: address spaces of either stage, with weight on the corners of entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from harness.conform.board import RISCV
from harness.conform.command import RAM_BYTES
from harness.conform.memory import DATA, HOT_DATA, TABLES
from harness.conform.targets.address_spaces import AddressSpace, Before, Mapped, set_fields
from harness.errors import HarnessError
from harness.model.access import PERMISSIONS
from harness.model.memory import OffsetMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tables import new_page_table

__all__ = ["Space", "Tables", "Vm"]

_PAGE, _NAPOT = 4096, 1 << 16
_TOLD_APART = 56
_HIGHEST_GLOBAL = 2  # level of an entry: of higher ones every address space would have most of its pages
_RIGHTS = (3, 3, 3, 3, 3, 4, 7, 7)
_ALL_RIGHTS = (1, 1, 3, 3, 4, 5, 7)
_GUEST_PAGES = 0x4_0000  # for the tables of one guest
_SPACE_ROOM, _VM_ROOM = 0x6_0000, 0x8_0000
_OTHER_PAGES = (RISCV.ram + RAM_BYTES >> 12, RISCV.ram + HOT_DATA.start >> 12, 1 << 31)
_FAR_PAGE = 1 << 43  # QEMU's IOTLB gives another one for it
_BAD_LEAVES: tuple[dict[str, int], ...] = (
    {"V": 0},
    {"R": 0},
    {"R": 0, "W": 1},
    {"R": 0, "W": 1, "X": 1},
    {"A": 0, "D": 0},
    {"G": 1},
    {"RSW": 3},
)
_BAD_TABLES: tuple[dict[str, int], ...] = (
    {"V": 0},
    {"G": 1},
    {"RSW": 1},
    {"PPN": RISCV.ram + RAM_BYTES >> 12},
    {"PPN": 1 << 43},
)
# Of these QEMU overlooks some, so that a program that has one does not get far.
_OVERLOOKED_LEAVES: tuple[dict[str, int], ...] = (
    {"R": 0, "W": 0, "X": 0},
    {"W": 0},
    {"A": 0},
    {"D": 0},
    {"U": 0},
    {"RSVD_54": 1},
    {"RSVD_54": 0x10},
    {"RSW_59": 1},
    {"PBMT": 1},
    {"PBMT": 3},
    {"N": 1},
)
_OVERLOOKED_TABLES: tuple[dict[str, int], ...] = (
    {"A": 1},
    {"D": 1},
    {"U": 1},
    {"RSVD_54": 2},
    {"PBMT": 2},
    {"N": 1},
)


@dataclass(eq=False, slots=True, kw_only=True)
class Vm(AddressSpace):
    """A second-stage address space; tables of the guest are no pages of it to devices.

    Attributes:
        gscid: GSCID.
        pages: where first-stage tables and process directories of the guest come from, by their guest addresses.
        end: first guest address behind these.
    """

    gscid: int
    pages: PageAllocator
    end: int


@dataclass(eq=False, slots=True, kw_only=True)
class Space(AddressSpace):
    """A first-stage address space.

    Attributes:
        pscid: PSCID.
        vm: behind which it is; None where the second stage is Bare.
    """

    pscid: int
    vm: Vm | None


@dataclass(slots=True)
class Tables:
    """Makes address spaces.

    Attributes:
        pages: where tables come from.
        random: to choose by.
        registers: capabilities of them.
        is_one_way: the program's devices only read, or only write.
        is_thorough: what QEMU overlooks is made wrong as well.
    """

    pages: PageAllocator
    random: Random
    registers: RiscvIommuRegisters
    is_one_way: bool
    is_thorough: bool

    def _scheme(self, suffix: str) -> str:
        there = [name for name in ("Sv39", "Sv48", "Sv57") if self.registers.has(name + suffix)]
        return self.random.choice(there) + suffix

    def has_room(self, size: int = _SPACE_ROOM) -> bool:
        """Whether there is memory for more tables."""
        return self.pages.next_page + size < RISCV.ram + TABLES.stop

    def make_vm(self, gscid: int) -> Vm:
        """A second-stage address space, with room for the tables of a guest."""
        random = self.random
        table = new_page_table(self.pages, self._scheme("x4"))
        chunk = self.pages.take(_GUEST_PAGES)
        first = random.choice((chunk, 0x1000_0000, 0x20_0000_0000 - _GUEST_PAGES))
        table.map(first, chunk, _GUEST_PAGES, largest_page=_PAGE)
        pages = PageAllocator(OffsetMemory(self.pages.memory, chunk - first), first)
        return Vm(gscid=gscid, table=table, pages=pages, end=first + _GUEST_PAGES)

    def make_space(self, pscid: int, vm: Vm | None) -> Space:
        """A first-stage address space."""
        pages = self.pages if vm is None else vm.pages
        return Space(pscid=pscid, table=new_page_table(pages, self._scheme("")), vm=vm)

    def map_second_stage(self, vm: Vm) -> None:
        """Map a page of a guest somewhere."""
        if self.has_room():
            self._map(vm.table, vm.mapped, self._output)

    def map_first_stage(self, space: Space) -> None:
        """Map a page somewhere: with a second stage to a page of that, for the most part."""
        vm = space.vm
        if vm is None:
            if self.has_room():
                self._map(space.table, space.mapped, self._output)
        elif vm.pages.next_page + 0x8000 < vm.end:
            self._map(space.table, space.mapped, lambda size: self._guest_output(vm, size))

    def _output(self, size: int) -> tuple[int, int]:
        """Where a page leads, and from which offset of it on that is worth going to."""
        random = self.random
        ram = RISCV.ram
        if size <= 1 << 16:
            where = HOT_DATA if random.random() < 0.9 else DATA
            return ram + where.start + random.randrange(len(where) // size) * size, 0
        if size == 1 << 21:
            return ram + DATA.start + random.randrange(len(DATA) // size) * size, 0
        return ram & -size, (ram & size - 1) + HOT_DATA.start

    def _guest_output(self, vm: Vm, size: int) -> tuple[int, int]:
        random = self.random
        if not vm.mapped or random.random() < 0.05:
            return random.getrandbits(38) & -size, 0
        first, room = random.choice(vm.mapped).inside
        address = first + random.randrange(room) & -_PAGE
        return address & -size, address & size - 1

    def _map(self, table: RadixTable, mapped: list[Mapped], output: Callable[[int], tuple[int, int]]) -> None:
        random = self.random
        sizes = [1 << each.shift for each in table.format.page_sizes if each.shift < 42]
        if not self.is_thorough:
            sizes.remove(_NAPOT)
        size = random.choice((_PAGE, _PAGE, random.choice(sizes)))
        address, offset = output(size)
        width = table.width
        # The lowest addresses stay free, so that no page of a terabyte leads to the board's devices from there.
        # QEMU's IOTLB does not tell addresses apart that differ above bit 55.
        middle = 1 << min(width, _TOLD_APART) - 1
        iova = random.choice((random.getrandbits(width), random.getrandbits(32), (1 << width) - 1, middle))
        iova &= -size
        if size > 1 << 30 and not iova >> 40:
            return
        rights = _ALL_RIGHTS if self.is_one_way else _RIGHTS
        try:
            table.map(iova, address, size, PERMISSIONS[random.choice(rights)], largest_page=size)
        except HarnessError:
            return  # it is taken, or a table on the way is not there
        level = next(each.level for each in table.format.page_sizes if 1 << each.shift == size)
        if table.sign_extended and iova >> width - 1:
            iova |= (1 << 64) - (1 << width)
        room = min(size - offset, 1 << 16)
        mapped.append(Mapped(iova, size, level, (iova + offset, room)))

    def spoil(self, table: RadixTable, page: Mapped, draw: float) -> Before | None:
        """Make an entry on the way to a page wrong, or another one: see `PageChanges`."""
        random = self.random
        level = page.level if random.random() < 0.75 else random.randint(page.level, table.levels)
        if level > page.level:
            values = random.choice(_OVERLOOKED_TABLES if self.is_thorough else _BAD_TABLES)
        elif random.random() < 0.7:
            values = random.choice(_OVERLOOKED_LEAVES if self.is_thorough else _BAD_LEAVES)
        else:
            values = {"PPN": _FAR_PAGE if self.is_thorough else random.choice(_OTHER_PAGES)}
        if "G" in values and level > _HIGHEST_GLOBAL:
            values = {"V": 0}
        return set_fields(table, page.input, level, values)
