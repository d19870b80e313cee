"""Programs for arm-smmuv3: software that sets it up, changes tables, invalidates or forgets to, and looks at events."""

from __future__ import annotations

from functools import partial
from random import Random

from harness.conform.board import ARM
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.targets.address_spaces import AddressSpace
from harness.conform.targets.arm_commands import COMMAND_ERRORS, refused_for_features
from harness.conform.targets.arm_driver import Driver
from harness.conform.targets.arm_flaws import (
    BAD_CDS,
    BAD_STAGE2_STES,
    BAD_STES,
    FAR_CONTEXTS,
    ODD_STES,
    WEIGHTS,
    Oddity,
)
from harness.conform.targets.arm_streams import make_streams
from harness.conform.targets.arm_tables import Space, Tables, Vm
from harness.conform.targets.course import Course
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.commands import Smmuv3Opcode
from harness.model.smmuv3.stream import Config

__all__ = ["Generation"]

_OP = Smmuv3Opcode
_FIRST_BEYOND, _BEYOND = 43, (44, 45, 48, 52, 63)  # address bits above those of the board
_INPUT_BITS = 48
_NARROW = 0.95
_STREAMS, _CONTEXTS, _MENDS = 0.08, 0.08, 0.25  # of the changes
_WORD = 4
_RECORDED = 0.1
_LAST_COMMAND = 0.4
_EVENTS = 2  # of a DMA, of which longer ones have more, and most have none
_WHILE_STALE = 8  # devices of a round: what may come from caches has more than one outcome


class Generation(Course):
    """One program in the making.

    Args:
        name: of the target.
        seed: that the program says it comes from.
        random: to choose by.
        capabilities: of the SMMU.
        resets: a reset of the machine resets the SMMU; else none is in the program, DMAs are short, few CDs have
            faults recorded, and some invalidations are left out.
    """

    BEFORE = 0.1
    CHANGES = 0.5
    RARELY = 0.06
    ROUNDS = range(60, 121)

    def __init__(
        self, name: str, seed: int, random: Random, capabilities: Smmuv3Capabilities, *, resets: bool = True
    ) -> None:
        self.capabilities = capabilities
        self.oddities = {each for each, weight in WEIGHTS.items() if random.random() < weight}
        if not resets:
            self.oddities.discard(Oddity.RESET)
        writer = ProgramWriter(name, seed, ARM.ram)
        self.driver = Driver(writer, random, capabilities, overflows=self.has(Oddity.OVERFLOW), early=not resets)
        traffic = Traffic(writer, random, _INPUT_BITS, widest=64 if self.has(Oddity.UPPER_HALF) else _INPUT_BITS)
        # What skips stage 1 must lie within the OAS.
        self.is_narrow = capabilities.stage2 and random.random() < _NARROW
        if not resets:
            # Builds before 6.0 have one event for all of a DMA that is blocked, and not one for each access.
            traffic.alignment = traffic.longest = _WORD
        super().__init__(writer, random, traffic)
        loses_some = self.has(Oddity.LOST_STREAMS)
        self.streams = make_streams(random, writer.memory, capabilities, loses_some=loses_some)
        # Builds before 7.1 record the faults of the request that fetches a CD, and none of those that follow.
        records = resets or random.random() < _RECORDED
        self.tables = Tables(
            self.streams.table.pages, random, capabilities, ARM.ram, frozenset(self.oddities), records=records
        )
        self.vms: list[Vm] = []
        self.spaces: list[Space] = []
        # By requester, which the devices behind a bridge share.
        self.behind: dict[int, tuple[Space | None, Vm | None]] = {}
        # Those whose requests keep their address: they are to stay where there is memory, or nothing at all.
        self.passing: set[int] = set()
        self.bad_context: Space | None = None
        self.is_on = False
        self.unplugged = False
        # Caches may hold what is in no table any more: it costs much to judge, and does not last.
        self.is_stale = False

    def has(self, oddity: Oddity) -> bool:
        """Whether this is a program with that."""
        return oddity in self.oddities

    # Tables.

    def at_last(self) -> None:
        """See `Course`: a command that is to be refused, of those that some builds take."""
        if self.random.random() < _LAST_COMMAND:
            self.driver.refused(self.random.choice(refused_for_features(self.capabilities)))

    def make_tables(self) -> None:
        """Address spaces, with pages in them."""
        random = self.random
        has = self.capabilities
        if has.stage2:
            for vmid in random.sample(range(1, 0x1_0000 if has.wide_vmids else 0x100), random.choice((1, 1, 2))):
                vm = self.tables.make_vm(vmid, holds_tables=has.stage1)
                self.vms.append(vm)
                for _ in range(random.randint(8, 14)):
                    self.tables.map_stage2(vm)
        if has.stage1:
            for asid in random.sample(range(0x1_0000 if has.wide_asids else 0x100), random.choice((1, 2, 2, 3))):
                behind = random.choice(self.vms) if self.vms and random.random() < 0.75 else None
                space = self.tables.make_space(asid, behind)
                self.spaces.append(space)
                for _ in range(random.randint(4, 12)):
                    self.tables.map_stage1(space)

    def attach(self, entry: DmaDevice) -> None:
        """Give a device an STE: good ones for the most part."""
        random = self.random
        draw = random.random()
        space = random.choice(self.spaces) if self.spaces and random.random() < 0.85 else None
        vm = space.vm if space is not None else random.choice(self.vms) if self.vms else None
        overrides: dict[str, int] = {}
        if draw < 0.04:
            space = vm = None
        elif draw < 0.06:
            overrides = {"CONFIG": random.choice((Config.ABORT, 1, 2, 3))}
        elif draw < 0.12:
            overrides = dict(random.choice((*BAD_STES, *(BAD_STAGE2_STES if vm is not None else ()))))
        elif draw < 0.15 and self.has(Oddity.FAR_CONTEXTS):
            overrides = dict(FAR_CONTEXTS)
        elif draw < 0.18 and self.has(Oddity.ODD_STREAMS):
            overrides = {"S2AA64": 0} if vm is not None and random.random() < 0.02 else dict(random.choice(ODD_STES))
        contexts = space.contexts if space is not None else None
        table = vm.table if vm is not None else None
        if vm is not None and any(name.startswith("S2") for name in overrides):
            overrides.setdefault("S2VMID", random.getrandbits(8))  # what is cached for others does not apply
        # Devices of one address space mostly have equal STEs, as they would of one driver.
        vmid = vm.vmid if vm is not None else random.getrandbits(8) if random.random() < 0.05 else 0
        has_entry = self.streams.attach(entry.requester, contexts, table, vmid=vmid, overrides=overrides)
        self.behind[entry.requester] = space, vm
        config = overrides.get("CONFIG", 0)
        is_passing = has_entry and ((space is None and vm is None) or config == Config.BYPASS)
        (self.passing.add if is_passing else self.passing.discard)(entry.requester)
        for other in DEVICES:
            if other.requester == entry.requester:
                self.find_places(other)
                self.traffic.limits.pop(other.id, None)
                if space is None and self.is_narrow:
                    self.traffic.limits[other.id] = self.capabilities.address_bits - 1

    def space_of(self, entry: DmaDevice) -> AddressSpace | None:
        """See `Course`."""
        space, vm = self.behind[entry.requester]
        return space if space is not None else vm

    # The SMMU.

    def set_up(self) -> None:
        """See `Course`."""
        self.driver.set_up(self.streams.table, records_unknown=0.98 if self.has(Oddity.LOST_STREAMS) else 0.7)

    def look(self) -> None:
        """See `Course`."""
        self.driver.look()

    def turn_on(self) -> None:
        """Enable it; sometimes queues first."""
        self.driver.enable()
        self.is_stale = True
        if self.random.random() < 0.9:
            self.invalidate_all()
        self.is_on = True

    def while_off(self) -> None:
        """DMA before translation is on, with or without GBPA.ABORT."""
        if self.random.random() < 0.5:
            self.driver.global_abort(on=True, with_update=self.random.random() < 0.9)
        self.burst()
        self.driver.global_abort(on=False, with_update=True)

    def rarely(self) -> None:
        """What does not happen often."""
        random = self.random
        draw = random.random()
        if draw < 0.1:
            self.switch()
        elif draw < 0.15:
            self.lose_events()
        elif draw < 0.25:
            self.driver.restart_events()
        elif draw < 0.5:
            self.driver.refused(random.choice(COMMAND_ERRORS))
        elif draw < 0.95:
            self.driver.poke()
        elif self.has(Oddity.HOTPLUG):
            device = next(entry for entry in DEVICES if entry.can_unplug)
            (self.writer.plug if self.unplugged else self.writer.unplug)(device.id)
            self.unplugged = not self.unplugged

    def switch(self) -> None:
        """Stop translating, by a reset or not, and start again."""
        random = self.random
        if self.has(Oddity.RESET):
            self.writer.reset()
        elif self.has(Oddity.SWITCHING):
            self.driver.disable()
        else:
            return
        self.is_on = False
        if random.random() < 0.6:
            self.burst()
        if self.has(Oddity.RESET):
            self.set_up()
        self.turn_on()

    def lose_events(self) -> None:
        """Record events where there is no memory, acknowledge the error, and go on as before."""
        if self.has(Oddity.OVERFLOW):
            return
        # Of one device there is an event for certain.
        entry = self.random.choice([each for each in DEVICES if not each.bus])
        self.streams.attach(entry.requester, None, None, vmid=0, overrides={"V": 0})
        self.invalidate_all()
        self.driver.move_events_away()
        self.traffic.one(entry)
        self.burst()
        self.driver.acknowledge_lost_events()
        self.driver.restart_events()
        self.attach(entry)
        self.invalidate_all()

    # Traffic.

    def burst(self) -> None:
        """One DMA of each of many devices."""
        random = self.random
        most = _WHILE_STALE if self.is_stale else len(DEVICES)
        devices = random.sample(DEVICES, random.randint(most * 2 // 3, most))
        self.driver.make_room(_EVENTS * len(devices))
        for entry in devices:
            if entry.can_unplug and self.unplugged:
                continue
            if self.is_on and entry.requester not in self.passing:
                self.traffic.one(entry)
            else:
                self.pass_through(entry)

    def pass_through(self, entry: DmaDevice) -> None:
        """DMA to memory, or to where there is nothing."""
        near = self.is_on and not (self.has(Oddity.FAR_BYPASS) and self.random.random() < 0.05)
        self.traffic.untranslated(entry, lambda: _FIRST_BEYOND if near else self.random.choice(_BEYOND))

    # Changes.

    def change(self) -> None:
        """Change a table, and tell the SMMU of it, or not."""
        random = self.random
        if self.is_stale and random.random() < 0.85:
            self.invalidate_all()
            return
        self.is_stale = True
        draw = random.random()
        if draw < _STREAMS:
            self.change_stream()
        elif draw < _STREAMS + (_CONTEXTS if self.bad_context is None else _MENDS) and self.spaces:
            self.change_context()
        elif self.spaces and (not self.vms or random.random() < 0.6):
            self.change_stage1()
        elif self.vms:
            self.change_stage2()
        # What is stale of streams and contexts concerns every page: seldom for long.
        if random.random() < (0.85 if draw < _STREAMS + _CONTEXTS else 0.6):
            self.invalidate_all()

    def invalidate_all(self) -> None:
        """Whatever caches hold goes."""
        self.driver.invalidate_all()
        self.is_stale = False

    def change_stream(self) -> None:
        """Another STE for a device."""
        entry = self.random.choice(DEVICES)
        was_passing = entry.requester in self.passing
        self.attach(entry)
        if was_passing == (entry.requester in self.passing):
            self.driver.invalidate_stream(entry.requester)
        else:
            # Of what does not translate addresses have to stay where there is memory.
            self.invalidate_all()

    def change_context(self) -> None:
        """A CD that is not as it should be, or as it was: one at a time, since it concerns every page."""
        random = self.random
        space, self.bad_context = self.bad_context, None
        overrides: dict[str, int] = {}
        if space is None:
            space = self.bad_context = random.choice(self.spaces)
            is_unsized = self.has(Oddity.NO_OUTPUT_SIZE) and random.random() < 0.2
            overrides = {"IPS": 7} if is_unsized else random.choice(BAD_CDS)
        space.describe(overrides)
        for entry in DEVICES:
            if self.behind[entry.requester][0] is space and random.random() < 0.9:
                self.driver.queue(*self.driver.of_context(entry.requester))
        self.driver.sync()
        if random.random() < 0.8:
            self.driver.submit_with_sync(_OP.CMD_TLBI_NSNH_ALL)
        if self.has(Oddity.BLOCK_LEVELS):
            # What builds take for a Block is told by the walk, and not by one that caches know the CD of.
            self.invalidate_all()

    def change_stage1(self) -> None:
        """Map, unmap, spoil or mend a page of stage 1."""
        space = self.random.choice(self.spaces)
        vmid = space.vm.vmid if space.vm is not None else 0
        page = self.change_page(space, partial(self.tables.map_stage1, space), self.tables.spoil_stage1)
        if page is not None:
            is_split = space.vm is not None and page.size.bit_length() - 1 > space.vm.table.format.page_sizes[0].shift
            granule = space.table_of(page).format.page_sizes[0].shift
            self.driver.invalidate_stage1(vmid, space.asid, page.input, page.size, granule, is_split=is_split)

    def change_stage2(self) -> None:
        """The same of stage 2."""
        vm = self.random.choice(self.vms)
        page = self.change_page(vm, partial(self.tables.map_stage2, vm), self.tables.spoil_stage2)
        if page is not None:
            self.driver.invalidate_stage2(vm.vmid, page.input, page.size, vm.table.format.page_sizes[0].shift)
