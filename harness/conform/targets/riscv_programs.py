"""Programs for riscv-iommu-pci: software that sets it up, changes tables, invalidates or not, and looks at faults."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from random import Random

from harness.conform.board import RISCV
from harness.conform.command import RAM_BYTES
from harness.conform.edu import PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import DATA, TABLES
from harness.conform.targets.address_spaces import AddressSpace
from harness.conform.targets.course import Course
from harness.conform.targets.riscv_driver import Driver
from harness.conform.targets.riscv_tables import Space, Tables, Vm
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.errors import HarnessError
from harness.model.access import AccessKind
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tables import RiscvIommuTables

__all__ = ["Generation"]

_OUTSIDE = RISCV.ram + RAM_BYTES  # nothing answers there
_BEYOND = (43, 44, 48, 52, 55)  # address bits above those of the board
_PD8 = 1
# Of an address space whose tables are not there, which no other has.
_OWN_PSCID, _OWN_GSCID = 0xFFFFE, 0xFFFE
_BAD_CONTEXTS: tuple[dict[str, int], ...] = (
    {"tc.V": 0},
    {"tc.DTF": 1},
    {"tc.DTF": 1, "tc.V": 0},
    {"tc.EN_ATS": 1},
    {"tc.EN_PRI": 1},
    {"tc.EN_ATS": 1, "tc.EN_PRI": 1, "tc.PRPR": 1},
    {"tc.PRPR": 1},
    {"tc.T2GPA": 1},
    {"tc.DPE": 1},
    {"tc.SBE": 1},
    {"IGN_tc_custom": 0x55},
)
_BAD_FIRST_STAGES: tuple[dict[str, int], ...] = (
    {"fsc.PPN": _OUTSIDE >> 12, "ta.PSCID": _OWN_PSCID},
    {"fsc.PPN": 1 << 43, "ta.PSCID": _OWN_PSCID},
)
_BAD_SECOND_STAGES: tuple[dict[str, int], ...] = ({"iohgatp.PPN": _OUTSIDE >> 12, "iohgatp.GSCID": _OWN_GSCID},)
_BAD_PROCESSES: tuple[dict[str, int], ...] = (
    {"ta.V": 0},
    {"ta.ENS": 1},
    {"ta.SUM": 1},
    {"RSVD_ta_32": 1},
    {"fsc.MODE": 0},
    {"fsc.MODE": 3},
    {"fsc.MODE": 14},
    {"fsc.PPN": _OUTSIDE >> 12, "ta.PSCID": _OWN_PSCID},
)
# Of these QEMU overlooks some, so that a program that has one does not get far.
_OVERLOOKED: tuple[dict[str, int], ...] = (
    {"tc.GADE": 1},
    {"tc.SADE": 1},
    {"tc.SXL": 1},
    {"RSVD_tc_12": 1},
    {"RSVD_tc_32": 1},
    {"RSVD_ta_0": 1},
    {"ta.RCID": 1},
    {"RSVD_fsc_44": 1},
)
_OVERLOOKED_FIRST_STAGES: tuple[dict[str, int], ...] = (
    {"fsc.MODE": 1},
    {"fsc.MODE": 7},
    {"fsc.MODE": 11},
    {"fsc.MODE": 15},
)
_OVERLOOKED_SECOND_STAGES: tuple[dict[str, int], ...] = (
    {"iohgatp.MODE": 1},
    {"iohgatp.MODE": 7},
    {"iohgatp.MODE": 11},
    {"iohgatp.PPN": (RISCV.ram + DATA.start >> 12) + 1},
)
_OVERLOOKED_MESSAGES: tuple[dict[str, int], ...] = (
    {"msiptp.MODE": 2},
    {"RSVD_msiptp_44": 1},
    {"RSVD_msi_addr_mask_52": 1},
    {"RSVD_448": 1},
)
_OVERLOOKED_PROCESSES: tuple[dict[str, int], ...] = ({"RSVD_ta_3": 1}, {"RSVD_fsc_44": 1})


class Generation(Course):
    """One program in the making.

    Args:
        name: of the target.
        seed: that the program says it comes from.
        random: to choose by.
        registers: with the capabilities of the IOMMU.
    """

    BEFORE = 0.15
    CHANGES = 0.65

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
        self.behind: dict[int, tuple[Space | None, Vm | None]] = {}
        self.has_processes: set[int] = set()
        # Requester ids whose requests keep their address: they are to stay where there is memory, or nothing at all.
        self.passing: set[int] = set()
        self.is_on = False
        self.is_bare = True
        self.unplugged = False

    def at_last(self) -> None:
        """See `Course`: what QEMU keeps that it should not ends a program, so it is seldom."""
        if self.random.random() < 0.05:
            self.unmap_by_address()

    # Tables.

    def make_tables(self) -> None:
        """Address spaces, with pages in them."""
        random = self.random
        if self.registers.has("Sv39x4"):
            for gscid in random.sample(range(_OWN_GSCID), random.choice((1, 2, 2))):
                vm = self.tables.make_vm(gscid)
                self.vms.append(vm)
                for _ in range(random.randint(4, 10)):
                    self.tables.map_second_stage(vm)
            # Devices without a first stage have one that no device with one has: their translations would be the same.
            self.plain = self.vms.pop() if len(self.vms) > 1 or not self.registers.has("Sv39") else None
        if self.registers.has("Sv39"):
            for pscid in random.sample(range(_OWN_PSCID), random.choice((1, 2, 2, 3))):
                behind = random.choice(self.vms) if self.vms and random.random() < 0.75 else None
                space = self.tables.make_space(pscid, behind)
                self.spaces.append(space)
                for _ in range(random.randint(4, 12)):
                    self.tables.map_first_stage(space)

    def attach(self, entry: DmaDevice) -> None:
        """Give a device a context: good ones for the most part."""
        random = self.random
        if entry.requester >> self.devices_bits:
            self.behind[entry.requester] = None, None
            return
        draw = random.random()
        space = random.choice(self.spaces) if self.spaces and random.random() < 0.85 else None
        vm = space.vm if space is not None else self.plain
        overrides: dict[str, int] = {}
        if draw < 0.04:
            space = vm = None
        elif draw < 0.1:
            overrides = self.bad_context(has_first=space is not None, has_second=vm is not None)
        self.has_processes.discard(entry.requester)
        self.passing.discard(entry.requester)
        if self.with_processes and space is not None and not overrides and random.random() < 0.5:
            self.attach_process(entry, space, vm)
        else:
            self.devices.attach(
                entry.requester,
                first=space.table if space is not None else None,
                second=vm.table if vm is not None else None,
                pscid=space.pscid if space is not None else random.getrandbits(20),
                gscid=vm.gscid if vm is not None else 0,
                overrides=overrides,
            )
        self.behind[entry.requester] = space, vm
        if space is None and vm is None:
            self.passing.add(entry.requester)
        for other in DEVICES:
            if other.requester == entry.requester:
                self.find_places(other)

    def bad_context(self, *, has_first: bool, has_second: bool) -> dict[str, int]:
        """Something wrong with a device context, or out of the ordinary."""
        if self.is_thorough:
            bad = [*_OVERLOOKED]
            bad += _OVERLOOKED_FIRST_STAGES if has_first else ()
            bad += _OVERLOOKED_SECOND_STAGES if has_second else ()
            bad += _OVERLOOKED_MESSAGES if self.registers.extended_contexts else ()
        else:
            bad = [*_BAD_CONTEXTS]
            bad += _BAD_FIRST_STAGES if has_first else ()
            bad += _BAD_SECOND_STAGES if has_second else ()
        if not self.has_good_records:
            bad = [each for each in bad if "tc.DTF" not in each]
        return dict(self.random.choice(bad))

    def attach_process(self, entry: DmaDevice, space: Space, vm: Vm | None) -> None:
        """A process directory; process 0 is that of requests without one, or none is (DPE)."""
        random = self.random
        has_default = vm is not None or random.random() < 0.85
        pages = self.devices.pages if vm is None else vm.pages
        if vm is not None and vm.pages.next_page + 0x4000 > vm.end:
            return
        self.has_processes.add(entry.requester)
        self.devices.attach_processes(
            entry.requester,
            _PD8,
            second=vm.table if vm is not None else None,
            gscid=vm.gscid if vm is not None else 0,
            guest_pages=pages,
            overrides={"tc.DPE": int(has_default)},
        )
        overrides: dict[str, int] = {}
        # Behind a second stage it leaves too many outcomes to tell which one it was.
        if vm is None and random.random() < 0.1:
            overrides = random.choice(_OVERLOOKED_PROCESSES if self.is_thorough else _BAD_PROCESSES)
        self.devices.set_process(entry.requester, 0, first=space.table, pscid=space.pscid, overrides=overrides)
        if vm is None and (not has_default or overrides.get("fsc.MODE") == 0):
            self.passing.add(entry.requester)

    @property
    def devices_bits(self) -> int:
        """Bits of a device_id that the directory takes."""
        return (6 if self.registers.extended_contexts else 7) + 9 * (self.levels - 1)

    def space_of(self, entry: DmaDevice) -> AddressSpace | None:
        """See `Course`."""
        space, vm = self.behind[entry.requester]
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
        if not self.is_lazy or self.random.random() < 0.8:
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
        """What does not happen often."""
        random = self.random
        draw = random.random()
        if draw < 0.15:
            self.writer.reset()
            self.is_on, self.is_bare = False, True
            if random.random() < 0.5:
                self.burst()
            self.driver.turn_off()
            self.set_up()
            self.turn_on()
        elif draw < 0.3:
            self.turn_off()
            if random.random() < 0.7:
                self.burst()
            self.turn_on()
        elif draw < 0.45:
            self.driver.restart()
        elif draw < 0.65:
            self.driver.illegal_command()
        elif draw < 0.8:
            self.driver.poke()
        elif draw < 0.85:
            self.driver.device_tlb_command()
        elif draw < 0.95:
            self.ask()
        else:
            device = next(entry for entry in DEVICES if entry.can_unplug)
            self.writer.unplug(device.id)
            self.unplugged = True
            self.burst()
            self.writer.plug(device.id)
            self.unplugged = False

    def ask(self) -> None:
        """A translation request for a device's page."""
        random = self.random
        entry = random.choice(DEVICES)
        places = self.traffic.places.get(entry.id)
        iova = random.choice(places)[0] if places else random.getrandbits(39)
        self.driver.ask(entry.requester, iova)

    # Traffic.

    def burst(self) -> None:
        """One DMA of each of many devices."""
        random = self.random
        # Where caches leave a choice, not so many devices at once: it has to be seen which it was.
        most = len(DEVICES) // 2 if self.is_lazy else len(DEVICES)
        for entry in random.sample(DEVICES, random.randint(most // 2, most)):
            if entry.can_unplug and self.unplugged:
                continue
            if not self.is_on or entry.requester in self.passing:
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
        draw = random.random()
        if draw < 0.15:
            self.change_device()
        elif self.spaces and (not self.vms or random.random() < 0.6):
            self.change_first_stage()
        elif self.vms or self.plain is not None:
            self.change_second_stage()
        if self.with_processes or random.random() < 0.7:
            self.driver.invalidate_all()

    def change_device(self) -> None:
        """Another context for a device."""
        entry = self.random.choice(DEVICES)
        had_processes = entry.requester in self.has_processes
        self.attach(entry)
        self.driver.invalidate_device(
            entry.requester, has_processes=had_processes or entry.requester in self.has_processes
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
        self.driver.invalidate_all()
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
        return [entry for entry in DEVICES if self.traffic.places.get(entry.id) and entry.requester not in self.passing]

    def _write_words(self, places: list[tuple[DmaDevice, int]]) -> None:
        for entry, iova in places:
            offset = PAYLOADS.start + self.random.randrange(len(PAYLOADS) // 4) * 4
            self.writer.dma(entry.id, AccessKind.WRITE, iova, 4, offset)
