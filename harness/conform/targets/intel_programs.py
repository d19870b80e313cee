"""Programs for intel-iommu: tables, DMA, invalidations, and a few oddities in each, so that none hides the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

from harness.conform.edu import PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.program import Program
from harness.conform.targets.intel_driver import Driver
from harness.conform.targets.intel_messages import Messages
from harness.conform.targets.intel_tables import FirstStage, Legacy, SecondStage, Setup
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.errors import SpecError
from harness.model.access import PERMISSIONS, AccessKind
from harness.model.radix import RadixTable
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity, build_descriptor
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = ["Generation", "Oddity", "Plan"]

_WIDTHS = {3: 39, 4: 48}
_FIRST_STAGE_WIDTH = 29
_WHILE_DIRTY = 10
_FEW_PAGES = 6  # of a domain: others are mapped before one is taken away
_MOST_PLACES = 12  # of a domain that devices go to: the latest
_PAGE = 4096
_LEVELS = {1 << 12: 1, 1 << 21: 2, 1 << 30: 3}
_SIZES = tuple(_LEVELS)


class Oddity(Enum):
    """Something that a program may have beside what is ordinary."""

    DEVICE_ENTRIES = auto()
    PASS_THROUGH = auto()
    RIGHTS = auto()
    LEAVES = auto()
    STALE = auto()
    REATTACH = auto()
    EVENTS = auto()
    OVERFLOW = auto()
    ILLEGAL_COMMANDS = auto()
    WAITS = auto()
    SWITCHING = auto()
    RESET = auto()
    HOTPLUG = auto()
    BEYOND = auto()
    ROOT_MODE = auto()
    SILENCE = auto()
    ANY_ACCESS = auto()


_WEIGHTS = {
    Oddity.DEVICE_ENTRIES: 0.35,
    Oddity.PASS_THROUGH: 0.3,
    Oddity.RIGHTS: 0.6,
    Oddity.LEAVES: 0.25,
    Oddity.STALE: 0.5,
    Oddity.REATTACH: 0.3,
    Oddity.EVENTS: 0.2,
    Oddity.OVERFLOW: 0.15,
    Oddity.ILLEGAL_COMMANDS: 0.1,
    Oddity.WAITS: 0.3,
    Oddity.SWITCHING: 0.1,
    Oddity.RESET: 0.08,
    Oddity.HOTPLUG: 0.01,
    Oddity.BEYOND: 0.1,
    Oddity.ROOT_MODE: 0.01,
    Oddity.SILENCE: 0.02,
    Oddity.ANY_ACCESS: 0.1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What programs of a target are like.

    Attributes:
        setup: the mode.
        pass_through: how many of the devices pass through, in programs that have such.
        messages: interrupts are remapped, and devices send some.
    """

    setup: type[Legacy | SecondStage | FirstStage] = Legacy
    pass_through: float = 0.1
    messages: bool = False

    @property
    def mode(self) -> TranslationTableMode:
        """RTADDR_REG.TTM."""
        return self.setup.mode

    @property
    def first_stage(self) -> bool:
        """Whether page tables are those of the first stage."""
        return self.setup.first_stage


@dataclass
class _Domain:
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


class Generation:
    """One program in the making.

    Args:
        name: of the target.
        seed: that it comes from.
        random: to choose by.
        registers: of the unit, right after a reset.
        plan: what it is to be like.
    """

    def __init__(self, name: str, seed: int, random: Random, registers: VtdRegisters, plan: Plan) -> None:
        self._random = random
        self._registers = registers
        self._plan = plan
        self._oddities = {each for each, weight in _WEIGHTS.items() if random.random() < weight}
        self._writer = ProgramWriter(name, seed, 0)
        self._levels = random.choice(sorted(registers.supported_levels & _WIDTHS.keys()))
        self._setup: Setup = plan.setup(self._writer.memory, registers, random, self._levels)
        # Builds take AW, which is reserved there, for the width of the first stage: what is mapped is narrower.
        self._width = _FIRST_STAGE_WIDTH if self._setup.first_stage else _WIDTHS[self._levels]
        # A record that holds an address above the guest address width would hide that another is missing.
        widest = self._width if self._setup.first_stage else registers.guest_address_width
        self._traffic = Traffic(self._writer, random, self._width, widest=widest)
        legacy = plan.setup is Legacy
        queued = plan.messages or not legacy or random.random() < 0.6
        self._driver = Driver(self._writer, registers, self._setup.mode, queued=queued)
        self._messages = Messages(self._writer, random, registers) if plan.messages else None
        self._domains: list[_Domain] = []
        self._domain_of: dict[int, int] = {}
        self._used: set[int] = set()
        self._dirty = False

    def program(self) -> Program:
        """All of it."""
        random = self._random
        for _ in range(random.randint(1, 3)):
            self._domains.append(_Domain(self._new_number(), self._setup.new_table()))
            for _ in range(random.randint(4, 12)):
                self._map(self._domains[-1])
        for entry in DEVICES:
            self._attach(entry)
        if self._has(Oddity.ROOT_MODE):
            self._use_no_mode()
            return self._writer.program()
        if self._has(Oddity.SILENCE):
            self._fail_silently()
            return self._writer.program()
        self._turn_on()
        for _ in range(random.randint(160, 280)):
            self._burst()
            self._driver.look_at_faults()
            if not self._has(Oddity.OVERFLOW) or random.random() < 0.4:
                self._driver.clear_faults(random)
            if random.random() < 0.4:
                self._change()
            if random.random() < 0.2:
                self._do_something_odd()
        if self._has(Oddity.ANY_ACCESS):
            self._driver.write_anything(random)
            self._burst()
        return self._writer.program()

    def _has(self, oddity: Oddity) -> bool:
        return oddity in self._oddities

    def _new_number(self) -> int:
        """A domain id that nobody has; 0 is for hardware (VT-d 6.2.2.1, caching mode)."""
        while True:
            number = self._random.randrange(1, 1 << min(16, self._registers.domain_id_width))
            if number not in self._used:
                self._used.add(number)
                return number

    def _turn_on(self) -> None:
        self._driver.turn_on(self._setup.root, self._messages.irta if self._messages is not None else None)

    def _use_no_mode(self) -> None:
        """Translate by a root table whose mode the unit lacks: everything is blocked (VT-d 7.1.3, RTA.1)."""
        lacking = [TranslationTableMode.RESERVED]
        if not self._registers.extended.abort_mode:
            lacking.append(TranslationTableMode.ABORT_DMA)
        self._driver.mode = self._random.choice(lacking)
        self._turn_on()
        for entry in self._random.sample(DEVICES, 8):
            self._traffic.one(entry)
        self._driver.look_at_faults()

    def _fail_silently(self) -> None:
        """One DMA whose fault is not recorded; a record of it would hide which others there are."""
        entry = self._random.choice(DEVICES)
        self._setup.silence(self._random, entry.requester)
        self._turn_on()
        self._traffic.one(entry)
        self._driver.look_at_faults()

    # --- traffic ---

    def _burst(self) -> None:
        random = self._random
        # What may come from caches has more than one outcome: few at once, or nobody finds out which they were.
        most = _WHILE_DIRTY if self._dirty else len(DEVICES)
        devices = random.sample(DEVICES, random.randint(most - 7, most))
        if self._has(Oddity.BEYOND) and random.random() < 0.3:
            self._beyond(random.choice(devices))
            return
        if self._messages is not None and random.random() < 0.5:
            for entry in devices:
                self._messages.send(self._traffic, entry)
            return
        for entry in devices:
            self._traffic.one(entry)

    def _beyond(self, entry: DmaDevice) -> None:
        """One DMA to an address that is wider than any guest address, or that some builds take for one."""
        iova = self._random.getrandbits(63) & -4 | 1 << self._registers.guest_address_width
        if self._setup.first_stage:
            iova = self._random.getrandbits(_WIDTHS[4] - 1) & -4 | 1 << _FIRST_STAGE_WIDTH
        self._writer.dma(entry.id, AccessKind.WRITE, iova, 4, PAYLOADS.start)

    # --- tables ---

    def _map(self, domain: _Domain) -> None:
        """Map a page somewhere."""
        random = self._random
        size = random.choice((_SIZES[0], _SIZES[0], _SIZES[1], _SIZES[2]))
        if size.bit_length() - 1 > 21 and 3 not in self._registers.large_page_levels:
            size = _SIZES[0]
        if size == _SIZES[0]:
            address = DATA.start + random.randrange(64) * _PAGE
        elif size == _SIZES[1]:
            address = DATA.start + random.randrange(2) * size
        else:
            address = 0
        width = self._width
        iova = random.choice((0, random.getrandbits(width), random.getrandbits(31), (1 << width) - 1)) & -size
        if iova >> 20 == 0xFEE or (size == _SIZES[2] and iova == 0xC000_0000):
            return  # interrupts are there
        # A page of 1 GiB has tables in it, so devices go to some parts of it only: it must be where they never went.
        taken = domain.pages if size < _SIZES[2] else [*domain.pages, *domain.places]
        if any(iova < other + length and other < iova + size for other, length in taken):
            return
        rights = random.choice((1, 2, 3, 3)) if self._has(Oddity.RIGHTS) else 3
        if self._setup.first_stage:
            rights |= 1
        overrides = {}
        if self._has(Oddity.LEAVES) and random.random() < 0.3:
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

    def _attach(self, entry: DmaDevice) -> None:
        """Give a device entries."""
        random = self._random
        domain = random.choice(self._domains)
        places = domain.places
        if self._has(Oddity.PASS_THROUGH) and random.random() < self._plan.pass_through:
            # Devices with one domain id and unlike entries may get what caches keep of each other.
            number = self._new_number()
            self._setup.pass_through(entry.requester, number)
            places = [(HOT_DATA.start, len(HOT_DATA))]
        elif self._has(Oddity.DEVICE_ENTRIES) and random.random() < 0.15:
            number = self._new_number()
            self._setup.attach(entry.requester, number, domain.table)
            self._setup.spoil(random, entry.requester)
        else:
            number = domain.number
            self._setup.attach(entry.requester, number, domain.table)
        self._domain_of[entry.requester] = number
        for other in DEVICES:
            if other.requester == entry.requester:
                self._traffic.places[other.id] = places

    def _change(self) -> None:
        """Change a table, and tell the IOMMU of it, or not.

        What is not told globally leaves much to be remembered, by caches and by whoever judges them: it does not last.
        """
        random = self._random
        if self._dirty and random.random() < 0.7:
            self._invalidate_all()
            return
        if self._has(Oddity.REATTACH) and random.random() < 0.3:
            self._reattach(random.choice(DEVICES))
            return
        domain = random.choice(self._domains)
        if len(domain.pages) < _FEW_PAGES or random.random() < 0.6:
            self._map(domain)
            self._invalidate_all()
            return
        iova, size = random.choice(domain.pages)
        self._change_page(domain, iova, size)
        draw = random.random() if self._has(Oddity.STALE) else 1.0
        if draw >= 0.5:
            self._invalidate_all()
            return
        self._dirty = True
        if draw < 0.2:
            return  # not told
        if draw < 0.25:
            self._driver.invalidate_domain(domain.number)
            return
        self._driver.invalidate_pages(
            domain.number,
            iova,
            size.bit_length() - 1,
            first_stage=self._setup.first_stage,
            keep_tables=random.random() < 0.3,
        )

    def _change_page(self, domain: _Domain, iova: int, size: int) -> None:
        """Unmap a page, or give it other rights."""
        random = self._random
        if random.random() < 0.4 or not self._has(Oddity.RIGHTS):
            level = _LEVELS[size]
            domain.table.set_fields(iova, level, {"P": 0} if self._setup.first_stage else {"R": 0, "W": 0})
            domain.pages.remove((iova, size))
        elif self._setup.first_stage:
            domain.table.set_fields(iova, _LEVELS[size], {"RW": random.getrandbits(1)})
        else:
            rights = {"R": random.getrandbits(1), "W": random.getrandbits(1)}
            domain.table.set_fields(iova, _LEVELS[size], rights)

    def _reattach(self, entry: DmaDevice) -> None:
        """Give a device other entries, and drop what was cached of the last ones."""
        before = self._domain_of[entry.requester]
        self._attach(entry)
        if self._random.random() < 0.6:
            self._driver.invalidate_device(self._random, entry.requester, before)
            self._dirty = True
        else:
            self._invalidate_all()

    def _invalidate_all(self) -> None:
        self._driver.invalidate_all()
        self._dirty = False

    # --- what is rare ---

    def _do_something_odd(self) -> None:
        random, driver = self._random, self._driver
        driver.look_around(random)
        if self._messages is not None:
            self._messages.change(driver)
        if self._has(Oddity.EVENTS):
            driver.set_events(random)
        if driver.queued and self._has(Oddity.WAITS):
            for _ in range(random.choice((1, 2, 5, 60))):
                driver.wait(random)
            driver.ring()
        if driver.queued and self._has(Oddity.WAITS) and random.random() < 0.2:
            driver.restart_queue(random)
        if self._has(Oddity.ANY_ACCESS):
            driver.read_anything(random)
        if driver.queued and self._has(Oddity.ILLEGAL_COMMANDS) and random.random() < 0.5:
            driver.submit_illegal(random, self._illegal())
            self._dirty = False
        if self._has(Oddity.SWITCHING) and random.random() < 0.05:
            driver.switch(on=False)
            self._burst_untranslated()
            if random.random() < 0.5:
                driver.set_root(self._setup.root)
            driver.switch(on=True)
        if self._has(Oddity.RESET) and random.random() < 0.03:
            self._writer.reset()
            self._burst_untranslated()
            self._turn_on()
            self._dirty = False
        if self._has(Oddity.HOTPLUG) and random.random() < 0.3:
            entry = next(each for each in DEVICES if each.can_unplug)
            self._writer.unplug(entry.id)
            self._burst()
            self._writer.plug(entry.id)

    def _burst_untranslated(self) -> None:
        """DMA that goes where it says: to data."""
        random = self._random
        for entry in random.sample(DEVICES, 12):
            address = DATA.start + random.randrange(0x4_0000) & -4
            self._writer.dma(entry.id, AccessKind.WRITE, address, 4, PAYLOADS.start + random.randrange(64) * 4)

    def _illegal(self) -> int:
        """A descriptor that stops the queue."""
        random = self._random
        good = build_descriptor(DescriptorType.IOTLB, {"G": Granularity.GLOBAL})
        return random.choice(
            (
                0,
                0xF,
                build_descriptor(DescriptorType.IOTLB, {"G": Granularity.RESERVED}),
                build_descriptor(DescriptorType.CONTEXT_CACHE, {"G": Granularity.RESERVED}),
                build_descriptor(DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "AM": 63}),
                good | 1 << random.choice((8, 40, 63)),
                good | 1 << random.choice((71, 75)),
                build_descriptor(DescriptorType.WAIT, {"SW": 1, "ADDR": DATA.start >> 2}) | 1 << 20,
            )
        )
