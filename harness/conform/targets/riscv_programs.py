"""Programs for riscv-iommu-pci: software that sets it up, changes tables, invalidates or not, and looks at faults."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random

from harness.conform.board import RISCV
from harness.conform.edu import PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import TABLES
from harness.conform.targets.address_spaces import AddressSpace
from harness.conform.targets.course import Course
from harness.conform.targets.riscv_contexts import PRIVATE_GSCID, PRIVATE_PSCID, Contexts
from harness.conform.targets.riscv_driver import Driver
from harness.conform.targets.riscv_tables import Space, Tables, Vm
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.errors import HarnessError
from harness.model.access import AccessKind
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tables import RiscvIommuTables

__all__ = ["Generation"]

_BEYOND = (43, 44, 48, 52, 55)  # address bits above those of the board
_WHILE_DIRTY = 10  # devices in a round while caches may know what tables no longer say
_KEEPS_CLEAN = 0.85  # how often everything is invalidated behind a change
_RECORDED = 12  # rounds whose faults the fault queue has room for


class Generation(Course):
    """One program in the making.

    Args:
        name: of the target.
        seed: that the program says it comes from.
        random: to choose by.
        registers: with the capabilities of the IOMMU.
    """

    BEFORE = 0.15
    CHANGES = 0.4
    RARELY = 0.06
    ROUNDS = range(100, 180)

    def __init__(self, name: str, seed: int, random: Random, registers: RiscvIommuRegisters) -> None:
        writer = ProgramWriter(name, seed, RISCV.ram)
        super().__init__(writer, random, Traffic(writer, random, 48))
        self.registers = registers
        draw = random.random()
        self.only_writes, self.only_reads = draw < 0.1, 0.1 <= draw < 0.15
        self.is_thorough = draw < 0.05
        # QEMU's records of devices with processes are wrong: then nothing else is to be in doubt.
        self.with_processes = 0.15 <= draw < 0.25
        # Where records may be wrong it cannot be seen what came of a request that caches leave a choice.
        self.has_good_records = not self.with_processes and not registers.has("Sv39x4")
        self.is_lazy = draw > 0.8 and self.has_good_records
        self.driver = Driver(writer, random, registers, is_thorough=self.is_thorough, is_lazy=self.is_lazy)
        self.levels = 1 if random.random() < 0.05 else random.choice((2, 3))
        self.devices = RiscvIommuTables(
            writer.memory, RISCV.ram + TABLES.start, self.levels, registers.extended_contexts
        )
        self.contexts = Contexts(
            self.devices,
            self.levels,
            random,
            registers,
            is_thorough=self.is_thorough,
            with_processes=self.with_processes,
            has_good_records=self.has_good_records,
        )
        self.tables = Tables(
            self.devices.pages,
            random,
            registers,
            is_one_way=self.only_writes or self.only_reads,
            is_thorough=self.is_thorough,
        )
        self.vms: list[Vm] = []
        self.plain: Vm | None = None
        self.spaces: list[Space] = []
        self.is_on = False
        self.is_bare = True
        # Caches may know what tables no longer say.
        self.is_dirty = False
        self.bursts = 0
        self.rare = self.rarities()

    def rarities(self) -> list[Callable[[], None]]:
        """What does not happen often, in this program."""
        random, driver = self.random, self.driver
        # What takes the machine long, or ends the program on some builds, is in some programs only.
        return [
            self.switch,
            driver.restart,
            driver.poke,
            driver.device_tlb_command,
            self.ask,
            *([driver.illegal_command] if random.random() < 0.3 else ()),
            *([self.begin_again] if random.random() < 0.1 else ()),
            *([self.replug] if random.random() < 0.1 else ()),
        ]

    def at_last(self) -> None:
        """See `Course`: what QEMU keeps that it should not ends a program, so it is seldom."""
        if self.random.random() < 0.05:
            self.unmap_by_address()

    # Tables.

    def make_tables(self) -> None:
        """Address spaces, with pages in them."""
        random = self.random
        if self.registers.has("Sv39x4"):
            for gscid in random.sample(range(PRIVATE_GSCID), random.choice((1, 2, 2))):
                vm = self.tables.make_vm(gscid)
                self.vms.append(vm)
                for _ in range(random.randint(4, 10)):
                    self.tables.map_second_stage(vm)
            # Devices without a first stage have one that no device with one has: their translations would be the same.
            self.plain = self.vms.pop() if len(self.vms) > 1 or not self.registers.has("Sv39") else None
        if self.registers.has("Sv39"):
            for pscid in random.sample(range(PRIVATE_PSCID), random.choice((1, 2, 2, 3))):
                behind = random.choice(self.vms) if self.vms and random.random() < 0.75 else None
                space = self.tables.make_space(pscid, behind)
                self.spaces.append(space)
                for _ in range(random.randint(8, 14)):
                    self.tables.map_first_stage(space)

    def attach(self, entry: DmaDevice) -> None:
        """See `Course`."""
        self.contexts.attach(entry, self.spaces, self.plain)
        for other in DEVICES:
            if other.requester == entry.requester:
                self.find_places(other)

    def space_of(self, entry: DmaDevice) -> AddressSpace | None:
        """See `Course`."""
        space, vm = self.contexts.behind[entry.requester]
        return space if space is not None else vm

    # The IOMMU.

    def set_up(self) -> None:
        """See `Course`."""
        self.driver.set_up()

    def look(self) -> None:
        """See `Course`."""
        self.driver.look()

    def turn_on(self) -> None:
        """Translate."""
        self.is_dirty = self.is_lazy and self.random.random() < 0.2
        if not self.is_dirty:
            self.driver.invalidate_all()
        self.driver.set_mode(self.levels, self.devices.ddtp)
        self.is_on, self.is_bare = True, False

    def turn_off(self) -> None:
        """Translate no more: nothing goes through then, or everything does."""
        self.driver.turn_off()
        self.is_on = self.is_bare = False
        if self.random.random() < 0.4:
            self.driver.pass_through()
            self.is_bare = True

    def while_off(self) -> None:
        """DMA before translation is on."""
        self.turn_off()
        self.burst()

    def rarely(self) -> None:
        """See `Course`."""
        self.random.choice(self.rare)()

    def switch(self) -> None:
        """No translation for a while."""
        self.turn_off()
        if self.random.random() < 0.7:
            self.burst()
        self.turn_on()

    def begin_again(self) -> None:
        """A reset of the machine."""
        self.writer.reset()
        self.is_on, self.is_bare = False, True
        if self.random.random() < 0.5:
            self.burst()
        self.driver.turn_off()
        self.set_up()
        self.turn_on()

    def replug(self) -> None:
        """A device is taken away for a round."""
        device = next(entry for entry in DEVICES if entry.can_unplug)
        self.writer.unplug(device.id)
        self.burst(without=device)
        self.writer.plug(device.id)

    def ask(self) -> None:
        """A translation request for a device's page, of which nothing is to be in doubt."""
        random = self.random
        self.clean()
        entry = random.choice(DEVICES)
        places = self.traffic.places.get(entry.id)
        iova = random.choice(places)[0] if places else random.getrandbits(39)
        self.driver.ask(entry.requester, iova)

    # Traffic.

    def burst(self, without: DmaDevice | None = None) -> None:
        """One DMA of each of many devices."""
        random = self.random
        self.bursts += 1
        if not self.bursts % _RECORDED:
            self.driver.restart_faults()
        # Where caches leave a choice, not so many devices at once: it has to be seen which it was.
        most = _WHILE_DIRTY if self.is_dirty else len(DEVICES)
        for entry in random.sample(DEVICES, random.randint(most - 7, most)):
            if entry is without:
                continue
            if not self.is_on or entry.requester in self.contexts.passing:
                self.pass_through(entry)
            elif self.only_writes or self.only_reads:
                self.traffic.word(entry, AccessKind.WRITE if self.only_writes else AccessKind.READ)
            else:
                self.traffic.one(entry)

    def pass_through(self, entry: DmaDevice) -> None:
        """DMA to memory, or to where there is nothing."""
        self.traffic.untranslated(entry, lambda: self.random.choice(_BEYOND))

    # Changes.

    def change(self) -> None:
        """Change a table, and tell the IOMMU of it, or not."""
        random = self.random
        # What is not told of all leaves much to be remembered, by caches and by whoever judges them: it does not last.
        if self.is_dirty and random.random() < 0.7:
            self.clean()
            return
        draw = random.random()
        if draw < 0.15:
            self.change_device()
        elif self.spaces and (not self.vms or random.random() < 0.6):
            self.change_first_stage()
        elif self.vms or self.plain is not None:
            self.change_second_stage()
        self.is_dirty = True
        if self.with_processes or random.random() < _KEEPS_CLEAN:
            self.clean()

    def clean(self) -> None:
        """Invalidate everything."""
        if self.is_on:
            self.driver.invalidate_all()
            self.is_dirty = False

    def change_device(self) -> None:
        """Another context for a device."""
        entry = self.random.choice(DEVICES)
        had_processes = entry.requester in self.contexts.has_processes
        self.attach(entry)
        self.driver.invalidate_device(
            entry.requester, has_processes=had_processes or entry.requester in self.contexts.has_processes
        )

    def change_first_stage(self) -> None:
        """Map, unmap, spoil or mend a page of a first stage."""
        space = self.random.choice(self.spaces)
        page = self.change_page(space, partial(self.tables.map_first_stage, space), self.tables.spoil)
        if page is not None:
            gscid = space.vm.gscid if space.vm is not None else None
            self.driver.invalidate_first_stage(gscid, space.pscid, page.input, page.size)

    def change_second_stage(self) -> None:
        """The same of a second stage."""
        vm = self.random.choice([*self.vms, *([] if self.plain is None else [self.plain])])
        page = self.change_page(vm, partial(self.tables.map_second_stage, vm), self.tables.spoil)
        if page is not None:
            self.driver.invalidate_second_stage(vm.gscid, page.input, page.size)

    def unmap_by_address(self) -> None:
        """Unmap the pages of a stage that devices use, and name each by its address alone.

        QEMU drops what was given for that 4 KiB of IOVA: not the rest of a larger page, nor what both stages gave for
        a guest physical address. Last of all, as what it keeps ends the program.
        """
        random = self.random
        self.clean()
        places = [(entry, random.choice(self.traffic.places[entry.id])) for entry in self._with_pages()]
        used = [(entry, first + random.randrange(size) & -4) for entry, (first, size) in places]
        self._write_words(used)
        owners: list[Space | Vm] = [*self.spaces, *self.vms]
        owner = random.choice(owners if self.plain is None else [*owners, self.plain])
        for page in owner.mapped:
            with suppress(HarnessError):
                owner.table.unmap(page.input & (1 << owner.table.width) - 1, page.size)
            if isinstance(owner, Vm):
                self.driver.invalidate_page(owner.gscid, None, page.input)
            else:
                gscid = None if owner.vm is None else owner.vm.gscid
                self.driver.invalidate_page(gscid, owner.pscid, page.input)
        self._write_words(used)

    def _with_pages(self) -> list[DmaDevice]:
        return [
            entry
            for entry in DEVICES
            if self.traffic.places.get(entry.id) and entry.requester not in self.contexts.passing
        ]

    def _write_words(self, places: list[tuple[DmaDevice, int]]) -> None:
        for entry, iova in places:
            offset = PAYLOADS.start + self.random.randrange(len(PAYLOADS) // 4) * 4
            self.writer.dma(entry.id, AccessKind.WRITE, iova, 4, offset)
