"""Tables for programs of amd-iommu: domains with host page tables, device table entries, interrupt tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from harness.conform.command import RAM_BYTES
from harness.conform.layout import DmaDevice
from harness.conform.memory import DATA, HOT_DATA, TABLES
from harness.conform.targets.amd_oddities import Oddity
from harness.errors import SpecError
from harness.model.access import PERMISSIONS
from harness.model.amdvi.formats import HostFormat
from harness.model.amdvi.tables import AmdviTables, InterruptTable
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.radix import PageSize, RadixTable

__all__ = ["Domain", "Mapped", "Tables"]

_PAGE = 4096
_DEVICE_TABLE_PAGES = 16
_SOUTH_BRIDGE = 0xA0  # requester of the I/O APIC's interrupts, for whose QEMU takes those that devices send by DMA
_OUTSIDE = (RAM_BYTES, 1 << 40, 1 << 51)  # where no memory is

_DEVICE_FIELDS = (
    {"V": 0},
    {"V": 0, "TV": 0},
    {"TV": 0},
    {"Mode": 0},
    {"Mode": 7},
    {"SA": 1},
    {"SE": 1},
    {"EX": 1},
    {"Cache": 1, "SD": 1},
    {"I": 1},
    {"SysMgt": 1, "IoCtl": 1},
    {"SysMgt": 3, "IoCtl": 2},
)
_INTERRUPT_FIELDS = (
    {"RemapEn": 0},
    {"SupIOPF": 1},
    {"SupIOPF": 1, "RemapEn": 0},
    {"IntType": 3},
    {"DM": 1},
    {"RqEoi": 1},
    {"RSVD_7": 1},
    {"RSVD_24": 1},
)
_DEVICE_INTERRUPT_FIELDS = (
    {"IntCtl": 0},
    {"IntCtl": 1},
    {"IntCtl": 3},
    {"IV": 0},
    {"IntTabLen": 0},
    {"IntTabLen": 12},
    {"IntTabLen": 15},
    {"IntTableRoot_51_6": RAM_BYTES >> 6},
    {"IG": 1},
    {"NMIPass": 1, "InitPass": 1, "EIntPass": 1, "Lint0Pass": 1},
)
_WIDE_INTERRUPT_FIELDS = (
    {"RemapEn": 0},
    {"SupIOPF": 1},
    {"IntType": 3},
    {"DM": 1},
    {"RqEoi": 1},
    {"RSVD_32": 1},
    {"RSVD_72": 1},
)
_DEVICE_RESERVED = ("RSVD_2", "RSVD_63", "HAD", "GIoV", "PPR")
_BAD_LEAVES = (
    {"PR": 0},
    {"NextLevel": 1},
    {"NextLevel": 2},
    {"FC": 1},
    {"U": 1},
    {"IR": 0},
    {"IW": 0},
)
_BAD_TABLES = (
    {"PR": 0},
    {"NextLevel": 0, "Address": DATA.start},
    {"NextLevel": 7, "Address": 1 << 40},
    {"NextLevel": 6},
)
_DEVICE_RIGHTS = ({"IR": 0}, {"IW": 0}, {"IR": 0, "IW": 0}, {"Mode": 0, "IW": 0})
_UPPER_RIGHTS = ({"IR": 0}, {"IW": 0}, {"IR": 0, "IW": 0})


@dataclass(slots=True)
class Mapped:
    """A page: its first input address, its size, and the part of it that is worth going to."""

    iova: int
    page: PageSize
    inside: tuple[int, int]

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.iova + (1 << self.page.shift)


@dataclass(slots=True)
class Domain:
    """Page tables.

    Attributes:
        id: the DomainID that devices have with them.
        table: the tables.
        skipped: the level below which a level is left out.
        mapped: pages.
        spoilt: entries on the way to them that were changed: address, and what was there.
    """

    id: int
    table: RadixTable
    skipped: int = 0
    mapped: list[Mapped] = field(default_factory=list)
    spoilt: list[tuple[int, int]] = field(default_factory=list)


class Tables:
    """Makes and changes tables.

    Args:
        memory: what they are in.
        random: to choose by.
        oddities: of the program.
        interrupts: interrupts are remapped.
        careful: host page tables have four levels at most, and bits are not set that some builds take for reserved
            ones: bit 8 of DomainIDs, and PPR.

    Attributes:
        tables: the device table, and what hangs below it.
        domains: address spaces.
        places: for each device's id, what is mapped for it: first address and size.
        untold: requesters whose entries have changed since the IOMMU was told.
        passing: ids of devices whose entries let everything pass untranslated.
        wide: interrupt tables have entries of 128 bits.
    """

    def __init__(
        self,
        memory: WritableMemory,
        random: Random,
        oddities: frozenset[Oddity],
        *,
        interrupts: bool,
        careful: bool,
    ) -> None:
        self.tables = AmdviTables(memory, TABLES.start, _DEVICE_TABLE_PAGES)
        self.domains: list[Domain] = []
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.untold: set[int] = set()
        self.passing: set[str] = set()
        self.wide = interrupts and random.random() < 0.4
        self._random = random
        self._oddities = oddities
        self._interrupts = interrupts
        self._most_levels = 4 if careful else 6
        self._domain_bits = 0xFEFF if careful else 0xFFFF
        # One for all: devices whose entries differ would make each other's translations a question.
        self._interrupt_table: InterruptTable | None = None
        self._interrupt_fields = random.choice(_DEVICE_INTERRUPT_FIELDS)
        self._as_south_bridge = interrupts and random.random() < 0.8
        # What SE keeps out of the log is no difference that could be told from one in how events look.
        fields = [each for each in _DEVICE_FIELDS if "SE" not in each or not self._has(Oddity.LOG)]
        self._fields = random.sample(fields, 2)
        self._reserved = random.choice([each for each in _DEVICE_RESERVED if not careful or each != "PPR"])
        self._rights = random.choice(_DEVICE_RIGHTS)
        self._outside = random.choice(_OUTSIDE)

    def make_domain(self) -> None:
        """One more, with pages."""
        random = self._random
        levels = min(random.choice((1, 2, 3, 3, 4, 4, 4, 5, 6)), self._most_levels)
        skips = {}
        skipped = 0
        if self._has(Oddity.SKIPPED_LEVELS) and levels > 2:
            level = random.randint(3, levels)
            skipped = random.randint(1, level - 2)
            skips = {level: skipped}
        entries = HostFormat(every_size=random.random() < 0.5, skips=skips)
        table = RadixTable(self.tables.pages, entries, levels)
        taken = {domain.id for domain in self.domains}
        ids = [id & self._domain_bits for id in (0, 1, 0xFFFF, random.randrange(2, 0xFFFF))]
        ids = [id for id in ids if id not in taken]
        if taken and random.random() < 0.03:
            ids = sorted(taken)
        domain = Domain(random.choice(ids), table, skipped)
        self.domains.append(domain)
        for _ in range(random.randint(4, 12)):
            self.map(domain)

    def map(self, domain: Domain) -> None:
        """Map a page somewhere."""
        random, table = self._random, domain.table
        sizes = [page for page in table.format.page_sizes if page.level <= table.levels and page.shift <= table.width]
        page = sizes[0] if random.random() < 0.5 else random.choice(sizes)
        size = 1 << page.shift
        if size <= len(HOT_DATA):
            address, inside = HOT_DATA.start + random.randrange(len(HOT_DATA) // size) * size, (0, size)
        elif size <= len(DATA):
            address, inside = DATA.start, (0, random.choice((_PAGE, len(HOT_DATA))))
        else:
            address, inside = 0, (DATA.start, random.choice((_PAGE, len(HOT_DATA))))
        width = min(table.width, 64)
        draw = random.random()
        if draw < 0.15:
            iova = 0
        elif draw < 0.3:
            iova = (1 << width) - size
        else:
            iova = random.getrandbits(random.choice((width, min(width, 32), min(width, 24))))
        if size > len(DATA):
            # It has the tables in it as well, which no device is to change by chance.
            iova |= 1 << width - 1
        iova = min(iova, (1 << width) - size) & -size
        if any(iova < other.end and other.iova < iova + size for other in domain.mapped):
            return  # it is taken
        try:
            table.map(iova, address, size, PERMISSIONS[random.choice((1, 2, 3, 3, 3, 3))], largest_page=size)
        except (SpecError, OutsideMemory):
            return  # a spoilt entry leads elsewhere
        first = iova + inside[0]
        if domain.skipped and page.level <= domain.skipped:
            # Translations by way of it are another matter: the address has a bit set that must be zero.
            first |= 1 << 12 + 9 * domain.skipped
        domain.mapped.append(Mapped(iova, page, (first, inside[1])))

    def attach(self, entry: DmaDevice) -> None:
        """Give a device a device table entry."""
        random = self._random
        domain = random.choice(self.domains)
        overrides: dict[str, int] = {}
        draw = random.random()
        # Few kinds in one program: those with the same DomainID may bring something into caches for each other.
        if draw < 0.15 and self._has(Oddity.DEVICE_FIELDS):
            overrides = random.choice(self._fields)
        elif draw < 0.25 and self._has(Oddity.DEVICE_RESERVED):
            overrides = {self._reserved: 1}
        elif draw < 0.28 and self._has(Oddity.UPPER_RIGHTS):
            overrides = self._rights
        elif draw < 0.3 and self._has(Oddity.ENTRIES):
            overrides = {"HostPageTableRoot": self._outside}
        if self._has(Oddity.EXCLUSION):
            overrides = {**overrides, "EX": 1}
        if self._has(Oddity.ALL_ONLY):
            overrides = {"TV": 0}
        self.tables.attach(entry.requester, domain.id, table=domain.table, overrides=overrides)
        self.untold.add(entry.requester)
        self.places[entry.id] = [page.inside for page in domain.mapped]
        # What passes untranslated must not come upon other devices.
        self.passing.discard(entry.id)
        if overrides.get("V") == 0 or overrides.get("Mode") == 0:
            self.passing.add(entry.id)
        if self._interrupts:
            self.attach_interrupts(entry)

    def attach_interrupts(self, entry: DmaDevice) -> None:
        """Give a device the interrupt table, and that a few entries more."""
        random = self._random
        if self._interrupt_table is None:
            self._interrupt_table = self.tables.attach_interrupts(entry.requester, wide=self.wide)
        table = self._interrupt_table
        fields = {"IV": 1, "IntTabLen": 5, "IntTableRoot_51_6": table.root >> 6, "IntCtl": 0b10}
        if self._as_south_bridge:
            self.tables.set_fields(_SOUTH_BRIDGE, fields)
        if random.random() < 0.15 and not self._as_south_bridge:
            fields |= self._interrupt_fields
        self.tables.set_fields(entry.requester, fields)
        for _ in range(random.randint(0, 2)):
            values = {"Vector": random.randrange(16, 256), "Destination": random.randrange(256)}
            if random.random() < 0.3:
                values |= random.choice(_WIDE_INTERRUPT_FIELDS if self.wide else _INTERRUPT_FIELDS)
            table.set(random.randrange(32), values)

    def spoil(self, domain: Domain) -> Mapped:
        """Change the entry of a page, or one above it, or take the page away, if it is still there; tell which page."""
        random, table = self._random, domain.table
        page = random.choice(domain.mapped)
        level = page.page.level
        above = random.randint(level + 1, table.levels) if level < table.levels else 0
        draw = random.random()
        try:
            if draw < 0.15 and self._has(Oddity.ENTRIES):
                self._change_entry(domain, page, level, random.choice(_BAD_LEAVES))
            elif draw < 0.3 and self._has(Oddity.ENTRIES) and above:
                self._change_entry(domain, page, above, random.choice(_BAD_TABLES))
            elif draw < 0.45 and self._has(Oddity.UPPER_RIGHTS) and above:
                self._change_entry(domain, page, above, random.choice(_UPPER_RIGHTS))
            elif draw < 0.55 and self._has(Oddity.ENTRY_BITS):
                values = random.choice(({"RSVD_52": 1 << random.randrange(7)}, {"NextLevel": 7}))
                self._change_entry(domain, page, level, values)
            elif draw < 0.6:
                rights = random.choice((0, 1, 2, 3, 3, 3, 3))
                self._change_entry(domain, page, level, {"IR": rights & 1, "IW": rights >> 1})
            else:
                table.unmap(page.iova, 1 << page.page.shift)
                domain.mapped.remove(page)
        except (SpecError, OutsideMemory):
            pass
        return page

    def mend(self, domain: Domain) -> None:
        """Put back what stood in an entry before it was changed."""
        address, bits = domain.spoilt.pop(self._random.randrange(len(domain.spoilt)))
        domain.table.pages.memory.write_u64(address, bits)

    def _change_entry(self, domain: Domain, page: Mapped, level: int, values: dict[str, int]) -> None:
        address = domain.table.entry_address(page.iova, level)
        domain.spoilt.append((address, domain.table.pages.memory.read_u64(address)))
        domain.table.set_fields(page.iova, level, values)

    def _has(self, oddity: Oddity) -> bool:
        return oddity in self._oddities
