"""What is put to an engine to be measured, and the memory and page tables for it.

Every table maps 1,024 pages one after the other; the accesses go to them in random order, half of them writes. What is
measured is the walk and nothing else: accesses are made before, and no result is kept.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from harness.model.access import Access, AccessKind, Outcome, Permissions
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policy import CachePolicy
from harness.model.engine import InterruptRemapper, MsiWrite
from harness.model.memory import MappedMemory, WritableMemory
from harness.model.radix import RadixTable

__all__ = [
    "INTERRUPTS",
    "PAGES",
    "REQUESTER",
    "TABLES",
    "Interrupts",
    "Judging",
    "Translating",
    "Walks",
    "make_stale",
    "map_dense",
    "map_guest",
    "map_pages",
    "ram",
    "spread",
]

REQUESTER = 0x0028
"""Whose accesses all of them are."""
TABLES = 0x10_0000
"""Physical address from which on tables are built."""
INTERRUPTS = 256
"""Entries of an interrupt table."""
PAGES = 1024
"""Pages of a page table."""

_ACCESSES = 4096
_TABLES_SIZE = 0x20_0000  # of memory for tables, which a second stage maps to itself
_OUTPUT = 1 << 32
_GUEST = 1 << 30  # where the pages are for a guest, which are at _OUTPUT
_CHUNK = 1 << 18  # entries that are made at a time
_4K = 4096


class Translating(Protocol):
    """What every engine has of what is measured here."""

    def translate(self, access: Access) -> Outcome:
        """One walk."""
        ...


@dataclass(frozen=True, slots=True)
class Walks:
    """Walks of one format.

    Attributes:
        name: "vtd_legacy_4_level_4k".
        make: builds its tables, and gives the engine.
        page: bytes of the pages that they map.
        pasid: that the accesses carry.
    """

    name: str
    make: Callable[[], Translating]
    page: int = _4K
    pasid: int | None = None

    @property
    def accesses(self) -> list[Access]:
        """To put to the engine."""
        return spread(page=self.page, pasid=self.pasid)


@dataclass(frozen=True, slots=True)
class Judging:
    """Walks of one format, judged by a model of caches.

    Attributes:
        walks: they.
        policy: of the architecture.
    """

    walks: Walks
    policy: CachePolicy[Any]

    @property
    def name(self) -> str:
        """That of the walks."""
        return self.walks.name

    def make(self) -> CacheModel[Any]:
        """Builds the tables, and gives the model over them."""
        engine: Any = self.walks.make()
        return CacheModel(type(engine), engine.registers, engine.memory, self.policy)


def make_stale(model: CacheModel[Any], access: Access) -> None:
    """Write over the entry that the translation of an access ends with: a cache may still have it."""
    address, size = max(
        (number, step.address, step.size)
        for number, step in enumerate(model.engine.explain(access).steps)
        if step.address is not None
    )[1:]
    model.memory.write(address, bytes(size))


@dataclass(frozen=True, slots=True)
class Interrupts:
    """Interrupts through one format of entries.

    Attributes:
        name: "vtd_remapped".
        make: builds its tables, and gives the engine.
        messages: address and data of an interrupt for each entry.
    """

    name: str
    make: Callable[[], InterruptRemapper]
    messages: Sequence[tuple[int, int]]

    @property
    def writes(self) -> list[MsiWrite]:
        """To put to the engine."""
        return [MsiWrite(requester=REQUESTER, address=address, data=data) for address, data in self.messages]


def ram(size: int = 64 << 20) -> MappedMemory:
    """Memory mapped from the host, as that of a guest or of a dump is; only what is touched takes room."""
    return MappedMemory(mmap.mmap(-1, size))


def spread(pages: int = PAGES, page: int = _4K, count: int = _ACCESSES, pasid: int | None = None) -> list[Access]:
    """Accesses to pages in random order, the same order each time.

    Args:
        pages: how many there are, from address 0 on.
        page: bytes of each.
        count: of accesses.
        pasid: that they carry.
    """
    random = Random(pages)
    kinds = (AccessKind.READ, AccessKind.WRITE)
    return [
        Access(
            requester=REQUESTER,
            iova=random.randrange(pages) * page + random.randrange(0, _4K, 64),
            length=8,
            kind=kinds[index & 1],
            pasid=pasid,
        )
        for index in range(count)
    ]


def map_pages(table: RadixTable, page: int = _4K, *, to: int = _OUTPUT) -> None:
    """Map pages of one size from 0 on."""
    table.map(0, to, PAGES * page, largest_page=page)


def map_guest(first: RadixTable, second: RadixTable, page: int = _4K) -> None:
    """Map pages from 0 on in two stages. The second maps the tables of the first to where they are, page by page."""
    map_pages(first, page, to=_GUEST)
    second.map(_GUEST, _OUTPUT, PAGES * page, largest_page=page)
    second.map(TABLES, TABLES, _TABLES_SIZE, largest_page=page)


def map_dense(table: RadixTable, count: int) -> None:
    """Map `count` pages of 4 KiB from 0 on, whole tables at a time: ten million of them in a second.

    For formats of 512 entries of 8 bytes that hold addresses in place, in tables that are still empty.
    """
    format, pages = table.format, table.pages
    first = format.leaf_entry(_OUTPUT, format.page_sizes[0], 0, Permissions.READ | Permissions.WRITE)
    for level in range(1, table.levels):
        tables = -(-count // 512)
        base = pages.take()
        for _ in range(1, tables):
            pages.take()
        _write_entries(pages.memory, base, first, count)
        first, count = format.table_entry(base, level + 1), tables
    _write_entries(pages.memory, table.root, first, count)


def _write_entries(memory: WritableMemory, address: int, first: int, count: int) -> None:
    """Entries one behind the other, for pages or tables that lie one behind the other."""
    for done in range(0, count, _CHUNK):
        start = first + done * _4K
        entries = array("Q", range(start, start + min(_CHUNK, count - done) * _4K, _4K))
        memory.write(address + done * 8, entries.tobytes())
