"""Tables for programs of arm-smmuv3: address spaces of either stage, with weight on the corners of descriptors."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues
from dataclasses import dataclass
from random import Random

from harness.conform.command import RAM_BYTES
from harness.conform.memory import DATA, HOT_DATA, TABLES
from harness.conform.targets.address_spaces import AddressSpace, Before, Mapped, set_fields
from harness.conform.targets.arm_flaws import Oddity
from harness.errors import HarnessError
from harness.model.access import PERMISSIONS
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.formats import Stage1Format, Stage2Format
from harness.model.smmuv3.tables import Smmuv3ContextTable

__all__ = ["Space", "Tables", "Vm"]

_PAGE = 4096
_BLOCK = 1 << 21
_MOST_ROOT_BITS = 14
_FOR_THE_PRIVILEGED = 0.2
_LEAVES = 0.45 / 0.65  # of what is spoiled
_ROOM = 0x6_0000  # a few tables of the largest granule
# What a Block or Page descriptor of either stage is made wrong with.
_BAD_LEAVES = (
    {"VALID": 0},
    {"AF": 0},
    {"PAGE": 0},
    {"CONTIGUOUS": 1},
    {"DBM": 1},
    {"PBHA": 5},
    {"IGN_55": 0xF},
)
_BAD_STAGE1_LEAVES = ({"AP": 0b11}, {"AP": 0b11}, {"NG": 0}, {"UXN": 1, "PXN": 0}, {"NS": 1}, {"SH": 1})
_BAD_STAGE2_LEAVES = ({"XN": 1}, {"XN": 2}, {"MEMATTR": 0}, {"SH": 1})
_BAD_STAGE1_TABLES = ({"UXNTABLE": 1}, {"PXNTABLE": 1}, {"NSTABLE": 1})


@dataclass(eq=False, slots=True, kw_only=True)
class Vm(AddressSpace):
    """A stage 2 address space.

    Attributes:
        vmid: VMID.
    """

    vmid: int


@dataclass(eq=False, slots=True, kw_only=True)
class Space(AddressSpace):
    """A stage 1 address space, whose lower half `table` is for, with TTB0.

    Attributes:
        asid: ASID.
        contexts: its CD.
        upper: for TTB1.
        vm: behind which it is; None without stage 2.
        records: its CD has faults recorded, where nothing else is said.
    """

    asid: int
    contexts: Smmuv3ContextTable
    upper: RadixTable | None
    vm: Vm | None
    records: bool

    def describe(self, overrides: NamedValues[str, int] = NO_OVERRIDES) -> None:
        """Write its CD, with some fields otherwise."""
        overrides = {"R": int(self.records), **overrides}
        self.contexts.describe(0, self.table, upper=self.upper, asid=self.asid, overrides=overrides)

    def table_of(self, page: Mapped) -> RadixTable:
        """See `AddressSpace`: those of the half that the page is in."""
        return self.upper if self.upper is not None and page.input >> 63 else self.table


@dataclass(slots=True)
class Tables:
    """Makes address spaces.

    Attributes:
        pages: where tables come from.
        random: to choose by.
        capabilities: of the SMMU.
        ram: physical address where memory begins.
        oddities: of the program.
        records: CDs have faults recorded.
    """

    pages: PageAllocator
    random: Random
    capabilities: Smmuv3Capabilities
    ram: int
    oddities: frozenset[Oddity] = frozenset()
    records: bool = True

    @property
    def has_room(self) -> bool:
        """Whether there is memory for more tables."""
        return self.pages.next_page + _ROOM < self.ram + TABLES.stop

    def make_vm(self, vmid: int, *, holds_tables: bool) -> Vm:
        """A stage 2 address space.

        Args:
            vmid: VMID.
            holds_tables: stage 1 tables are behind it; they have the same addresses there.
        """
        random = self.random
        granule = self._granule()
        input_bits = random.choice([40, 40, 39, 36, 32, min(44, self.capabilities.address_bits)])
        entries = Stage2Format(granule, input_bits=input_bits, contiguous=random.random() < 0.2)
        # Up to 16 tables side by side spare a level; S2SL0 can say it for these.
        levels = entries.levels
        roots = input_bits - entries.level_shift(levels)
        if (
            Oddity.CONCATENATED in self.oddities
            and levels > 1
            and roots <= 4
            and roots + granule - 3 <= _MOST_ROOT_BITS
        ):
            levels -= 1
        table = RadixTable(self.pages, entries, levels)
        vm = Vm(vmid=vmid, table=table)
        if holds_tables:
            size = TABLES.stop + (0 if granule == 12 else -TABLES.stop % (1 << granule))
            table.map(self.ram, self.ram, size, largest_page=_BLOCK if random.random() < 0.8 else 1 << granule)
        return vm

    def make_space(self, asid: int, vm: Vm | None) -> Space:
        """A stage 1 address space with its CD."""
        random = self.random
        granule = self._granule()
        input_bits = random.choice([48, 48, 39, 42, 36, 32, 25])
        entries = Stage1Format(granule, input_bits=input_bits, contiguous=random.random() < 0.2)
        table = RadixTable(self.pages, entries, entries.levels)
        upper = None
        if Oddity.UPPER_HALF in self.oddities and random.random() < 0.6:
            upper_entries = Stage1Format(self._granule(), input_bits=random.choice([48, 39, 32]))
            upper = RadixTable(self.pages, upper_entries, upper_entries.levels)
        contexts = Smmuv3ContextTable(self.pages)
        space = Space(asid=asid, contexts=contexts, table=table, upper=upper, vm=vm, records=self.records)
        space.describe()
        return space

    def map_stage1(self, space: Space) -> None:
        """Map a page of stage 1 somewhere."""
        is_upper = space.upper is not None and self.random.random() < 0.4
        table = space.upper if is_upper and space.upper is not None else space.table
        vm = space.vm
        targets = None if vm is None else [(each.inside[0], each.inside[1]) for each in vm.mapped]
        base = (1 << 64) - (1 << table.width) if is_upper else 0
        self._map(table, space.mapped, base, targets, (1, 3, 3, 3, 5, 7))

    def map_stage2(self, vm: Vm) -> None:
        """Map a page of stage 2 somewhere."""
        self._map(
            vm.table,
            vm.mapped,
            0,
            None,
            (0, 1, 1, 2, 3, 3) if Oddity.STAGE2_RIGHTS in self.oddities else (3, 3, 3, 3, 7),
        )

    def spoil_stage1(self, table: RadixTable, page: Mapped, draw: float) -> Before | None:
        """Make a descriptor on the way to a page of stage 1 wrong: see `PageChanges`."""
        return (self._spoil_leaf if draw < _LEAVES else self._spoil_table)(table, page, stage=1)

    def spoil_stage2(self, table: RadixTable, page: Mapped, draw: float) -> Before | None:
        """The same of stage 2."""
        return (self._spoil_leaf if draw < _LEAVES else self._spoil_table)(table, page, stage=2)

    def _spoil_leaf(self, table: RadixTable, page: Mapped, *, stage: int) -> Before | None:
        """Set fields of a page's descriptor as they should not be; what it was before, None where it is not there."""
        random = self.random
        values = random.choice([*_BAD_LEAVES, *(_BAD_STAGE1_LEAVES if stage == 1 else _BAD_STAGE2_LEAVES)])
        if stage == 2 and Oddity.STAGE2_RIGHTS in self.oddities and random.random() < 0.3:
            values = {"S2AP": random.getrandbits(2)}
        # Builds that do not look at the size of an address cache what they make of it, and no record would be missing.
        if self.records and random.random() < 0.2:
            values = {"ADDR": random.choice((1 << 43, 1 << 44, 1 << 46, self.ram + RAM_BYTES))}
        elif stage == 1 and Oddity.PRIVILEGED_PAGES in self.oddities and random.random() < _FOR_THE_PRIVILEGED:
            values = {"AP": random.choice((0b00, 0b10))}
        return set_fields(table, page.input, page.level, values)

    def _spoil_table(self, table: RadixTable, page: Mapped, *, stage: int) -> Before | None:
        """The same of a descriptor that leads to a table."""
        random = self.random
        if page.level >= table.levels:
            return None
        level = random.randint(page.level + 1, table.levels)
        draw = random.random()
        values: dict[str, int]
        if draw < 0.3:
            values = {"VALID": 0}
        elif draw < 0.5 and self._may_be_block(table, level):
            values = {"TABLE": 0}
        elif draw < 0.6 and stage == 1:
            values = random.choice(_BAD_STAGE1_TABLES)
        elif draw < 0.7 and stage == 1 and Oddity.TABLE_RIGHTS in self.oddities:
            values = {"APTABLE": random.choice((1, 2, 2, 3))}
        else:
            values = {"ADDR": random.choice((1 << 43, 1 << 45, self.ram + RAM_BYTES, table.root & ~0xFFF))}
        return set_fields(table, page.input, level, values)

    def _may_be_block(self, table: RadixTable, level: int) -> bool:
        """Whether a descriptor of a level may become one of a block: where there are none, in few programs.

        Not where no fault is recorded: of a build that lets devices write over the table, no record would be missing.
        """
        is_known = any(size.level == level for size in table.format.page_sizes)
        return self.records and (is_known or Oddity.BLOCK_LEVELS in self.oddities)

    def _granule(self) -> int:
        others = sorted(self.capabilities.granules - {12})
        return self.random.choice(others) if others and self.random.random() < 0.3 else 12

    def _map(
        self,
        table: RadixTable,
        mapped: list[Mapped],
        base: int,
        targets: list[tuple[int, int]] | None,
        permissions: tuple[int, ...],
    ) -> None:
        if not self.has_room:
            return
        random = self.random
        sizes = table.format.page_sizes
        page = sizes[0] if random.random() < 0.6 else random.choice(sizes)
        size = 1 << page.shift
        width = table.width
        if targets is None:
            output, offset, length = self._place_in_data(size)
        elif targets:
            first, length = random.choice(targets)
            output = first & -size
            offset = first - output
            length = min(length, size - offset)
        else:
            return
        draw = random.random()
        if draw < 0.15:
            address = 0
        elif draw < 0.3:
            address = (1 << width) - size
        else:
            address = random.getrandbits(random.choice((width, width, 32, 24)))
        address = min(address, (1 << width) - size) & -size
        try:
            allowed = PERMISSIONS[random.choice(permissions)]
            table.map(address, output, size, allowed, largest_page=size, smallest_page=size)
        except HarnessError:
            return  # it is taken, or a table that leads there is not as it should be
        mapped.append(Mapped(base + address, size, page.level, (base + address + offset, length)))

    def _place_in_data(self, size: int) -> tuple[int, int, int]:
        """Where a page of a size goes, and which part of it is data: offset and size."""
        random = self.random
        if size <= len(HOT_DATA):
            return self.ram + HOT_DATA.start + random.randrange(len(HOT_DATA) // size) * size, 0, size
        if size <= _BLOCK:
            return self.ram + DATA.start + random.randrange(len(DATA) // size) * size, 0, min(size, len(HOT_DATA))
        address = self.ram & -size
        offset = self.ram + DATA.start - address
        return address, offset, random.choice((_PAGE, len(HOT_DATA)))
