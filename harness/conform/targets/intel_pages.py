"""The domains of programs for intel-iommu, and the pages that are mapped in them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from random import Random

from harness.conform.memory import DATA, HOT_DATA
from harness.conform.targets.intel_plan import Oddity
from harness.conform.targets.intel_tables import Setup
from harness.errors import SpecError
from harness.model.access import PERMISSIONS
from harness.model.radix import RadixTable
from harness.model.vtd.registers import VtdRegisters

__all__ = ["Domain", "Pages"]

_MOST_PLACES = 12  # of a domain that devices go to: the latest
_PAGE = 4096
_LEVELS = {1 << 12: 1, 1 << 21: 2, 1 << 30: 3}
_SIZES = tuple(_LEVELS)


@dataclass
class Domain:
    """Devices that share a page table.

    Attributes:
        number: domain id.
        table: theirs.
        pages: input address and size of each page that is mapped.
        places: where devices are to go: pages that are, or once were, and the interesting parts of large ones.
    """

    number: int
    table: RadixTable
    pages: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)


class Pages:
    """Maps pages, and changes them.

    Args:
        random: to choose by.
        registers: of the unit, right after a reset.
        setup: the mode.
        oddities: of the program.
    """

    def __init__(self, random: Random, registers: VtdRegisters, setup: Setup, oddities: Set[Oddity]) -> None:
        self._random = random
        self._large_page_levels = registers.large_page_levels
        self._setup = setup
        self._varies_rights = Oddity.RIGHTS in oddities
        self._spoils_leaves = Oddity.LEAVES in oddities

    def map(self, domain: Domain) -> None:
        """Map a page somewhere."""
        random = self._random
        size = random.choice((_SIZES[0], _SIZES[0], _SIZES[1], _SIZES[2]))
        if size.bit_length() - 1 > 21 and 3 not in self._large_page_levels:
            size = _SIZES[0]
        if size == _SIZES[0]:
            address = DATA.start + random.randrange(64) * _PAGE
        elif size == _SIZES[1]:
            address = DATA.start + random.randrange(2) * size
        else:
            address = 0
        width = self._setup.width
        iova = random.choice((0, random.getrandbits(width), random.getrandbits(31), (1 << width) - 1)) & -size
        if iova >> 20 == 0xFEE or (size == _SIZES[2] and iova == 0xC000_0000):
            return  # interrupts are there
        # A page of 1 GiB has tables in it, so devices go to some parts of it only: it must be where they never went.
        taken = domain.pages if size < _SIZES[2] else [*domain.pages, *domain.places]
        if any(iova < other + length and other < iova + size for other, length in taken):
            return
        rights = random.choice((1, 2, 3, 3)) if self._varies_rights else 3
        if self._setup.first_stage:
            rights |= 1
        overrides = {}
        if self._spoils_leaves and random.random() < 0.3:
            bad = random.choice(self._setup.bad_leaves)
            layout = domain.table.format.layout(_LEVELS[size], is_leaf=True)
            overrides = {name: value for name, value in bad.items() if name in layout}
        try:
            domain.table.map(iova, address, size, PERMISSIONS[rights], largest_page=size, overrides=overrides)
        except SpecError:
            return  # it is taken
        domain.pages.append((iova, size))
        if size == _SIZES[2]:
            pages = (HOT_DATA.start + random.randrange(len(HOT_DATA) // _PAGE) * _PAGE for _ in range(4))
            domain.places += [(iova + page, _PAGE) for page in pages]
        else:
            domain.places.append((iova, size))
        del domain.places[:-_MOST_PLACES]

    def change(self, domain: Domain, iova: int, size: int) -> None:
        """Unmap a page, or give it other rights."""
        random = self._random
        if random.random() < 0.4 or not self._varies_rights:
            level = _LEVELS[size]
            domain.table.set_fields(iova, level, {"P": 0} if self._setup.first_stage else {"R": 0, "W": 0})
            domain.pages.remove((iova, size))
        elif self._setup.first_stage:
            domain.table.set_fields(iova, _LEVELS[size], {"RW": random.getrandbits(1)})
        else:
            rights = {"R": random.getrandbits(1), "W": random.getrandbits(1)}
            domain.table.set_fields(iova, _LEVELS[size], rights)
