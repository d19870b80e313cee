"""Programs for intel-iommu: tables, DMA, invalidations, and a few oddities in each, so that none hides the others."""

from __future__ import annotations

from random import Random

from harness.conform.edu import PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.program import Program
from harness.conform.targets.intel_descriptors import illegal_descriptor, illegal_device_tlb_descriptor
from harness.conform.targets.intel_driver import Driver
from harness.conform.targets.intel_messages import Messages
from harness.conform.targets.intel_pages import Domain, Pages
from harness.conform.targets.intel_plan import Oddity, Plan, draw_oddities
from harness.conform.targets.intel_tables import WIDTHS, Setup
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.model.access import AccessKind
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = ["Generation"]

_READS = 0.1  # of programs for flags: those in which devices read as well
_WHILE_DIRTY = 10
_RANGES = (12, 12, 13, 14, 16, 21, 30, 47, 64)  # log2 of bytes that a device drops of its TLB
_FEW_PAGES = 6  # of a domain: others are mapped before one is taken away


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
        self._oddities = draw_oddities(random, messages=plan.messages)
        self._writer = ProgramWriter(name, seed, 0)
        self._levels = random.choice(sorted(registers.supported_levels & WIDTHS.keys()))
        self._setup: Setup = plan.setup(self._writer.memory, registers, random, self._levels)
        self._pages = Pages(random, registers, self._setup, self._oddities)
        # A record that holds an address above the guest address width would hide that another is missing.
        widest = self._setup.width if self._setup.first_stage else registers.guest_address_width
        self._traffic = Traffic(self._writer, random, self._setup.width, widest=widest)
        # Builds set no dirty flag in an entry that a read has marked as accessed: that hides all other flags.
        if plan.sets_flags and random.random() >= _READS:
            self._traffic.reads = 0.0
        legacy = plan.mode is TranslationTableMode.LEGACY
        queued = plan.messages or plan.device_tlbs or not legacy or random.random() < 0.6
        self._driver = Driver(self._writer, registers, self._setup.mode, queued=queued)
        self._messages = Messages(self._writer, random, registers) if plan.messages else None
        self._domains: list[Domain] = []
        self._domain_of: dict[int, int] = {}
        self._used: set[int] = set()
        self._dirty = False

    def program(self) -> Program:
        """All of it."""
        random = self._random
        for _ in range(random.randint(1, 3)):
            self._domains.append(Domain(self._new_number(), self._setup.new_table()))
            for _ in range(random.randint(4, 12)):
                self._pages.map(self._domains[-1])
        for entry in DEVICES:
            self._attach(entry)
        if self._has(Oddity.ROOT_MODE):
            self._use_no_mode()
            return self._writer.program()
        if self._has(Oddity.SILENCE):
            self._fail_silently()
            return self._writer.program()
        self._turn_on()
        for _ in range(random.randint(320, 560)):
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
        iova = self._setup.beyond(self._random)
        self._writer.dma(entry.id, AccessKind.WRITE, iova, 4, PAYLOADS.start)

    # --- tables ---

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
            self._pages.map(domain)
            self._invalidate_all()
            return
        iova, size = random.choice(domain.pages)
        self._pages.change(domain, iova, size)
        self._invalidate_device_tlbs(iova)
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

    def _reattach(self, entry: DmaDevice) -> None:
        """Give a device other entries, and drop what was cached of the last ones."""
        before = self._domain_of[entry.requester]
        self._attach(entry)
        if self._random.random() < 0.6:
            self._driver.invalidate_device(self._random, entry.requester, before)
            self._dirty = True
        else:
            self._invalidate_all()

    def _invalidate_device_tlbs(self, iova: int) -> None:
        """Have some devices drop what is around an address; they complete, though they have nothing to drop."""
        if self._plan.device_tlbs:
            for entry in self._random.sample(DEVICES, self._random.randint(1, 4)):
                shift = self._random.choice(_RANGES)
                self._driver.invalidate_device_tlb(self._random, entry.requester, iova, shift)
            self._driver.ring()

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
            driver.submit_illegal(random, self._illegal_descriptor())
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
        """DMA that goes where it says, to data; and interrupts, which are remapped or not as the unit is now."""
        random = self._random
        if self._messages is not None:
            for entry in random.sample(DEVICES, 12):
                self._messages.send(self._traffic, entry)
            self._driver.look_at_faults()
            self._driver.clear_faults(random)
        for entry in random.sample(DEVICES, 12):
            address = DATA.start + random.randrange(0x4_0000) & -4
            self._writer.dma(entry.id, AccessKind.WRITE, address, 4, PAYLOADS.start + random.randrange(64) * 4)

    def _illegal_descriptor(self) -> int:
        random = self._random
        has_device_tlbs = self._plan.device_tlbs
        if random.random() < (0.5 if has_device_tlbs else 0.1):
            requester = random.choice(DEVICES).requester
            return illegal_device_tlb_descriptor(random, requester, has_device_tlbs=has_device_tlbs)
        return illegal_descriptor(random)
