"""Programs for amd-iommu (AMD-Vi 2 and 3): host page tables, device table entries, interrupts, commands, events.

Each program has a few oddities of its own beside ordinary set-ups, so that what they lead to does not hide the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.conform.edu import LANDING, PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import HOT_DATA, QUEUES
from harness.conform.program import Program
from harness.conform.targets.amd_oddities import LEAKS, Oddity, choose_oddities, rounds_of
from harness.conform.targets.amd_tables import Domain, Mapped, Tables
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.model.access import AccessKind
from harness.model.amdvi.commands import AmdviOpcode, make_command
from harness.model.amdvi.register_fields import CONTROL, STATUS

__all__ = ["Generation"]

_DEVICE_TABLE, _COMMAND_BASE, _EVENT_BASE, _CONTROL, _EXCLUSION_BASE, _EXCLUSION_LIMIT = 0, 8, 0x10, 0x18, 0x20, 0x28
_COMMAND_HEAD, _COMMAND_TAIL, _EVENT_HEAD, _EVENT_TAIL, _STATUS = 0x2000, 0x2008, 0x2010, 0x2018, 0x2020
_READABLE = (
    *(_DEVICE_TABLE, _COMMAND_BASE, _EVENT_BASE, _CONTROL, _EXCLUSION_BASE, _EXCLUSION_LIMIT, 0x30, 0x38, 0x100, 0x158),
    *(0x1A0, _COMMAND_HEAD, _COMMAND_TAIL, _EVENT_HEAD, _EVENT_TAIL, _STATUS, 0x2030, 0x2038),
)
_COMMANDS, _EVENTS, _SEMAPHORE = QUEUES.start, QUEUES.start + 0x2_0000, QUEUES.start + 0x3_F000
_PAGE = 4096
_ENTRY = 16
_FEW_PAGES = 6  # of a domain: more are mapped then
_EVERY_PAGE = 0x7FFF_FFFF_FFFF_F000
_MESSAGES = 0xFEE0_0000
_IDLE_CONTROL = ("HtTunEn", "GTEn", "PassPW", "ResPassPW", "Coherent", "Isoc", "PPREn", "PPRIntEn")


class Generation:
    """One program in the making.

    Args:
        name: of the target.
        seed: that the program says it comes from.
        random: to choose by.
        interrupts: interrupts are remapped.
        devices: that make requests.
        careful: for builds that let much through. Devices only write, and only what tells itself apart, to 48 bits of
            addresses; no bits are set that some take for reserved ones; and nothing is sent that may be an
            interrupt of any kind: a processor that takes an NMI runs away, and where its instructions are the clock so
            does the time.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        random: Random,
        *,
        interrupts: bool,
        devices: Sequence[DmaDevice] = DEVICES,
        careful: bool = False,
    ) -> None:
        self._random = random
        self._devices = devices
        self._interrupts = interrupts
        self._careful = careful
        self._writer = ProgramWriter(name, seed, 0)
        self._oddities = choose_oddities(random)
        self._tables = Tables(
            self._writer.memory,
            random,
            self._oddities,
            interrupts=interrupts,
            careful=careful,
        )
        special: tuple[int, ...] = (_MESSAGES - 4, 0xFD_0000_0000, 0xFE_0000_0000)
        if not careful:
            special = (*special, _MESSAGES, _MESSAGES + 0xF_FFFC)
        self._traffic = Traffic(self._writer, random, 48, special=special if self._has(Oddity.MESSAGES) else ())
        self._command_length = random.choice((8, 8, 8, 9, 12))
        self._event_length = random.choice((8, 8, 9, 11))
        self._control = {"IommuEn": 1, "CmdBufEn": 1, "EventLogEn": 1, "EventIntEn": 1, "ComWaitIntEn": 1}
        self._tail = 0
        self._waits = 0
        self._traffic.places = self._tables.places
        if self._tables.wide:
            self._control["GAEn"] = 1

    def program(self) -> Program:
        """All of it."""
        random, writer = self._random, self._writer
        for _ in range(random.randint(1, 3)):
            self._tables.make_domain()
        for entry in self._devices:
            self._tables.attach(entry)
        self._turn_on()
        unplugged = None
        for number in range(random.choice(rounds_of(self._oddities))):
            self._burst(unplugged)
            self._look()
            if random.random() < 0.6:
                self._change()
            if self._has(Oddity.HOTPLUG) and number in (3, 5) and any(entry.can_unplug for entry in self._devices):
                unplugged = self._swap(unplugged)
            if self._has(Oddity.RESET) and random.random() < 0.03:
                writer.reset()
                self._tail = 0
                self._turn_on()
        return writer.program()

    def _has(self, oddity: Oddity) -> bool:
        return oddity in self._oddities

    def _burst(self, unplugged: DmaDevice | None) -> None:
        """DMA of many devices at once, or one after the other where events are written down: so each is seen alone."""
        devices = [entry for entry in self._some_devices() if entry is not unplugged]
        for entry in devices:
            share = 0.02 if self._has(Oddity.LOG) else 0.2
            if self._interrupts and not self._is_off and self._random.random() < share:
                address = _MESSAGES + self._random.choice((0, 0, 0, 4, 0x1000, 0x1004))
                self._traffic.message(entry, address, self._random.randrange(64))
            elif self._careful or self._oddities & LEAKS or entry.id in self._tables.passing or self._is_off:
                self._write(entry)
            elif self._has(Oddity.LOG):
                self._one_request(entry)
            else:
                self._traffic.one(entry)
            if self._has(Oddity.LOG):
                self._writer.read(_STATUS, 8)

    def _one_request(self, entry: DmaDevice) -> None:
        """A DMA that is one request, and so one event at most: at a page or behind it, or anywhere."""
        random = self._random
        places = self._traffic.places[entry.id]
        draw = random.random()
        if draw < 0.1 and self._traffic.special:
            iova = random.choice(self._traffic.special)
        elif draw < 0.85 and places:
            first, size = random.choice(places)
            iova = first + random.randrange(2 * size)
        else:
            iova = random.getrandbits(random.choice((21, 32, 48, 64)))
        kind, area = random.choice(((AccessKind.READ, LANDING), (AccessKind.WRITE, PAYLOADS)))
        offset = area.start + random.randrange(len(area) // 4) * 4
        self._writer.dma(entry.id, kind, iova & (1 << 64) - 4, 4, offset)

    def _write(self, entry: DmaDevice) -> None:
        """A write that shows where it goes, whatever becomes of it."""
        random = self._random
        places = self._traffic.places[entry.id] or [(HOT_DATA.start, _PAGE)]
        passes = self._has(Oddity.ALL_ONLY) or entry.id in self._tables.passing or self._is_off
        if passes:
            first, size = HOT_DATA.start, len(HOT_DATA)
        elif self._has(Oddity.EXCLUSION) and random.random() < 0.15:
            first, size = random.choice(self._traffic.special), 4
        elif self._careful and random.random() < 0.1:
            first, size = random.getrandbits(random.choice((32, 40, 48))), 4
        else:
            first, size = random.choice(places)
        offset = PAYLOADS.start + random.randrange(len(PAYLOADS) // 4) * 4
        self._writer.dma(entry.id, AccessKind.WRITE, first + random.randrange(size) & ~3, 4, offset)

    @property
    def _is_off(self) -> bool:
        return not self._control["IommuEn"]

    def _some_devices(self) -> list[DmaDevice]:
        return self._random.sample(self._devices, self._random.randint(16, len(self._devices)))

    # --- the IOMMU ---

    def _turn_on(self) -> None:
        writer, random = self._writer, self._random
        size = self._tables.tables.size if not self._has(Oddity.SHORT_TABLE) else random.choice((1, 2, 4, 8))
        halves = random.random() < 0.3
        for offset, value in (
            (_DEVICE_TABLE, self._tables.tables.device_table_base & ~0x1FF | size - 1),
            (_COMMAND_BASE, _COMMANDS | self._command_length << 56),
            (_EVENT_BASE, _EVENTS | self._event_length << 56),
        ):
            if halves:
                writer.write(offset, 4, value & 0xFFFF_FFFF)
                writer.write(offset + 4, 4, value >> 32)
            else:
                writer.write(offset, 8, value)
        if self._has(Oddity.EXCLUSION):
            self._exclude()
        if not self._has(Oddity.LOG):
            self._control["EventLogEn"] = 0
        if random.random() < 0.2:
            self._control["EventIntEn"] = self._control["ComWaitIntEn"] = 0
        if random.random() < 0.2:
            # What has no effect that a device could see.
            self._control |= {"InvTimeOut": random.randrange(8), random.choice(_IDLE_CONTROL): 1}
        self._write_control()
        self._invalidate_all()
        # Once more, since QEMU translates for nobody before that, and a changed program may have lost one.
        self._invalidate_all()
        self._wait()

    def _invalidate_all(self, *, told: bool = False) -> None:
        """Everything; and the entries of devices one by one, as drivers do.

        Args:
            told: leave those out that have not changed.
        """
        requesters = sorted(self._tables.untold if told else {entry.requester for entry in self._devices})
        if self._has(Oddity.ALL_ONLY):
            requesters = []
        devices = (make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": device}) for device in requesters)
        self._submit(*devices, make_command(AmdviOpcode.INVALIDATE_IOMMU_ALL))
        self._tables.untold.clear()
        self._look_at_log()

    def _look_at_log(self) -> None:
        """Tell what is logged of entries that are illegal when they are invalidated from what is logged of requests."""
        if self._has(Oddity.DEVICE_RESERVED):
            self._writer.read(_EVENT_TAIL, 8)

    def _write_control(self) -> None:
        self._writer.write(_CONTROL, 8, CONTROL.encode(self._control))

    def _exclude(self) -> None:
        """Give the exclusion range a place in data, which devices may reach untranslated."""
        random = self._random
        first = HOT_DATA.start + random.randrange(16) * _PAGE
        self._writer.write(_EXCLUSION_LIMIT, 8, first + random.randrange(4) * _PAGE)
        self._writer.write(_EXCLUSION_BASE, 8, first | random.choice((0b01, 0b11, 0b00)))
        for entry in self._devices:
            self._traffic.places.setdefault(entry.id, [])
        self._traffic.special = (*self._traffic.special, first, first + _PAGE - 4, first - 4)

    def _submit(self, *commands: int) -> None:
        """Put commands into the ring, and move the tail."""
        size = _ENTRY << self._command_length
        for command in commands:
            self._writer.memory.write(_COMMANDS + self._tail, command.to_bytes(_ENTRY, "little"))
            self._tail = (self._tail + _ENTRY) % size
        self._writer.write(_COMMAND_TAIL, self._random.choice((4, 8)), self._tail)

    def _wait(self) -> None:
        """Wait for the commands before, in one of the ways that there are."""
        self._waits += 1
        flags = self._random.choice(({"s": 1}, {"s": 1}, {"s": 1, "i": 1}, {"i": 1}, {"s": 1, "f": 1}))
        values = {"StoreData": self._waits, **flags}
        if "s" in flags:
            values["StoreAddress"] = _SEMAPHORE + self._waits % 8 * 8
        self._submit(make_command(AmdviOpcode.COMPLETION_WAIT, values))

    def _look(self) -> None:
        """What a driver reads, and what it acknowledges."""
        writer, random = self._writer, self._random
        writer.read(_STATUS, random.choice((4, 8)))
        if self._has(Oddity.LOG) and random.random() < 0.5:
            writer.read(_EVENT_TAIL, 8)
            draw = random.random()
            if draw < 0.4:
                self._restart_log()
            elif draw < 0.6:
                # The driver has read some of it.
                writer.write(_EVENT_HEAD, 8, random.randrange(1 << self._event_length) * _ENTRY)
        for _ in range(random.randrange(3)):
            size = random.choice((4, 8) if not self._has(Oddity.SMALL_ACCESSES) else (1, 2, 4, 8))
            writer.read(random.choice(_READABLE) + random.randrange(8 // size) * size, size)

    def _restart_log(self) -> None:
        """The event log from its start again, as after an overflow (AMD-Vi 2.5)."""
        writer = self._writer
        self._control["EventLogEn"] = 0
        self._write_control()
        writer.write(_STATUS, 8, STATUS.encode({"EventOverflow": 1, "EventLogInt": 1, "ComWaitInt": 1}))
        writer.write(_EVENT_BASE, 8, _EVENTS | self._event_length << 56)
        self._control["EventLogEn"] = 1
        self._write_control()

    # --- changes ---

    def _change(self) -> None:
        """Change something, and tell the IOMMU of it, or not."""
        random = self._random
        if random.random() < 0.8:
            # What has been changed before is settled: else ever more is allowed, and there is ever less to see.
            self._invalidate_all(told=True)
        draw = random.random()
        if draw < 0.15:
            self._reattach()
        elif draw < 0.25 and self._has(Oddity.ILLEGAL_COMMANDS):
            self._submit_illegal()
        elif draw < 0.35 and self._has(Oddity.SWITCHING):
            self._switch()
        elif draw < 0.4 and self._interrupts:
            entry = random.choice(self._devices)
            self._tables.attach_interrupts(entry)
            self._submit(make_command(AmdviOpcode.INVALIDATE_INTERRUPT_TABLE, {"DeviceID": entry.requester}))
            self._invalidate_all()
        else:
            self._remap()

    def _reattach(self) -> None:
        random = self._random
        entry = random.choice(self._devices)
        self._tables.attach(entry)
        if self._has(Oddity.LOG):
            self._invalidate_all(told=True)
            return
        draw = random.random()
        if draw < 0.8:
            commands = [make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": entry.requester})]
            if draw < 0.6:
                commands += [self._every_page(domain.id) for domain in self._tables.domains]
            self._submit(*commands)
            self._look_at_log()
        elif draw < 0.95:
            self._invalidate_all(told=True)

    def _remap(self) -> None:
        random = self._random
        domain, page = random.choice(self._tables.domains), None
        if len(domain.mapped) < _FEW_PAGES or random.random() < 0.4:
            self._tables.map(domain)
        elif domain.spoilt and random.random() < 0.4:
            self._tables.mend(domain)
        else:
            page = self._tables.spoil(domain)
        self._tell(domain, page)

    def _tell(self, domain: Domain, page: Mapped | None) -> None:
        """Invalidate what was changed, or something else, or nothing; where events are seen, all."""
        random = self._random
        if self._has(Oddity.LOG):
            self._invalidate_all(told=True)
            return
        if page is None:
            self._submit(self._every_page(domain.id))
            return
        draw = random.random()
        if draw < 0.15:
            return
        if draw < 0.4:
            self._submit(self._every_page(domain.id))
        elif draw < 0.55:
            self._invalidate_all(told=True)
        elif draw < 0.6:
            other = random.choice((domain.id ^ 1, random.choice(self._tables.domains).id))
            self._submit(self._every_page(other))
        else:
            size = random.choice((page.page.shift, page.page.shift, 12))
            values = {"DomainID": domain.id, "PDE": int(random.random() < 0.8), "Address": page.iova & -_PAGE}
            if size > 12:
                values |= {"S": 1, "Address": page.iova & -(1 << size) | (1 << size - 1) - 1 & -_PAGE}
            self._submit(make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, values))
        if random.random() < 0.5:
            self._wait()

    def _every_page(self, domain: int) -> int:
        values = {"DomainID": domain, "S": 1, "PDE": 1, "Address": _EVERY_PAGE}
        return make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, values)

    def _submit_illegal(self) -> None:
        """A command that is not one, or has a reserved bit set; then the buffer from its start again (AMD-Vi 2.4)."""
        random = self._random
        kind = random.choice((AmdviOpcode.INVALIDATE_IOMMU_ALL, AmdviOpcode.INVALIDATE_DEVTAB_ENTRY))
        draw = random.random()
        if draw < 0.3:
            command = random.choice((0, 0xF << 60, 9 << 60))
        elif draw < 0.6:
            command = make_command(kind) | 1 << random.choice((20, 40, 64, 100))
        else:
            command = make_command(AmdviOpcode.PREFETCH_IOMMU_PAGES, {"PFCount": 1})
        self._submit(command)
        self._writer.read(_STATUS, 8)
        self._control["CmdBufEn"] = 0
        self._write_control()
        self._writer.write(_COMMAND_BASE, 8, _COMMANDS | self._command_length << 56)
        self._tail = 0
        self._control["CmdBufEn"] = 1
        self._write_control()

    def _switch(self) -> None:
        """Translation off for a while, or the device table somewhere else."""
        self._control["IommuEn"] = 0
        self._write_control()
        self._burst(None)
        self._control["IommuEn"] = 1
        self._write_control()
        self._invalidate_all()

    def _swap(self, unplugged: DmaDevice | None) -> DmaDevice | None:
        """Take the device away that can be, or put it back."""
        if unplugged is not None:
            self._writer.plug(unplugged.id)
            self._tables.untold.add(unplugged.requester)
            self._invalidate_all(told=True)
            return None
        entry = next(entry for entry in self._devices if entry.can_unplug)
        self._writer.unplug(entry.id)
        return entry
