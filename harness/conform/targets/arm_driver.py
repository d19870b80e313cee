"""A driver of arm-smmuv3 for programs: registers, commands, and looks at what there is to see."""

from __future__ import annotations

from random import Random

from harness.conform.board import ARM
from harness.conform.command import behind_memory
from harness.conform.memory import QUEUES
from harness.conform.targets.arm_commands import answers
from harness.conform.writer import ProgramWriter
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.commands import Smmuv3Opcode, command_bits
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0, CR2, GBPA, GERROR
from harness.model.smmuv3.tables import Smmuv3Tables

__all__ = ["Driver"]

_OP = Smmuv3Opcode
_OUTSIDE = behind_memory(ARM)
_COMMANDS, _EVENTS = ARM.ram + QUEUES.start, ARM.ram + QUEUES.start + 0x1_0000
_SMMUEN, _EVENTQEN, _CMDQEN = (CR0[name].mask for name in ("SMMUEN", "EVENTQEN", "CMDQEN"))
_OVERFLOW = 1 << 31
_ALLOCATE = 1 << 62
_ATTRIBUTES = sum(GBPA[name].mask for name in ("MEMATTR", "MTCFG", "ALLOCCFG", "SHCFG", "PRIVCFG", "INSTCFG"))
_EVERY_STREAM = 31  # RANGE of CMD_CFGI_ALL
_UNDEFINED = (0x30, 0x38, 0x4C, 0x58, 0x7C, 0x8C, 0x300, 0x8020)
_EVENT_BITS = (10, 10, 11)
_TG = {12: 1, 14: 2, 16: 3}
_READABLE = ("CR0", "CR0ACK", "CR1", "CR2", "GBPA", "GERROR", "GERRORN", "IRQ_CTRL", "IRQ_CTRLACK", "IDR0", "IDR5")


class Driver:
    """Writes the registers of one SMMU, and keeps what it has written in mind.

    Args:
        writer: of the program.
        random: to choose by.
        capabilities: of the SMMU.
        overflows: the Event queue may be too small for all events.
        early: of a build before 6.0, which takes CMD_CFGI_ALL for one stream, goes through the streams of RANGE 30 for
            many seconds, and keeps what is to go by address and level for every ASID: that is not asked of it.
    """

    def __init__(
        self,
        writer: ProgramWriter,
        random: Random,
        capabilities: Smmuv3Capabilities,
        *,
        overflows: bool = False,
        early: bool = False,
    ) -> None:
        self._writer = writer
        self._random = random
        self._capabilities = capabilities
        self._overflows = overflows
        self._early = early
        self._every_stream = capabilities.stream_id_bits - 1 if early else _EVERY_STREAM
        self._answers = answers(capabilities)
        self._waiting: list[int] = []
        self._command_bits = 3
        self._event_bits = 8
        self._events = 0  # that may be in the queue
        self._producer = 0
        self._acknowledged = 0
        self._enables = 0

    # Setting up.

    def set_up(self, streams: Smmuv3Tables, *, records_unknown: float) -> None:
        """After a reset: everything that has to be written before something is enabled.

        Args:
            streams: the stream table.
            records_unknown: how often streams without an STE are to be recorded, 0 to 1.
        """
        random = self._random
        self._waiting.clear()
        self._acknowledged = self._enables = 0
        self._command_bits = random.choice((1, 2, 3, 5, 8))
        self._event_bits = random.choice((0, 1, 2, 3, 9) if self._overflows else _EVENT_BITS)
        self.write("CR1", random.choice((0, 0xD75, random.getrandbits(12))))
        cr2 = (CR2["RECINVSID"].mask if random.random() < records_unknown else 0) | (
            CR2["PTM"].mask if random.random() < 0.3 else 0
        )
        self.write("CR2", cr2)
        self.write_wide("STRTAB_BASE", streams.strtab_base | random.choice((0, _ALLOCATE)))
        self.write("STRTAB_BASE_CFG", streams.strtab_base_cfg)
        self._start_commands()
        self._start_events()
        if random.random() < 0.2:
            self.write("IRQ_CTRL", random.choice((0b101, 0b001, 0b100)))

    def enable(self) -> None:
        """Queues and translation, at once or one after the other."""
        if self._random.random() < 0.5:
            self._set_enables(self._enables | _CMDQEN | _EVENTQEN)
        self._set_enables(_SMMUEN | _CMDQEN | (_EVENTQEN if self._random.random() < 0.95 else 0))

    def disable(self) -> None:
        """Translation alone."""
        self._set_enables(self._enables & ~_SMMUEN)

    def global_abort(self, *, on: bool, with_update: bool) -> None:
        """GBPA.ABORT, with attributes of what is let through or without."""
        attributes = self._random.getrandbits(32) & _ATTRIBUTES if self._random.random() < 0.5 else 0
        flags = (GBPA["ABORT"].mask if on else 0) | (GBPA["UPDATE"].mask if with_update else 0)
        self.write("GBPA", flags | attributes)
        self.read("GBPA")

    def restart_events(self, base: int = _EVENTS) -> None:
        """Empty the Event queue, which may be elsewhere, with its indexes anywhere, or near the end."""
        self._events = 0
        self._set_enables(self._enables & ~_EVENTQEN)
        self._event_bits = self._random.choice(_EVENT_BITS)
        self._start_events(base)
        self._set_enables(self._enables | _EVENTQEN)

    def move_events_away(self) -> None:
        """Start the Event queue where there is no memory: the first event makes an error active."""
        self.restart_events(_OUTSIDE)

    def acknowledge_lost_events(self) -> None:
        """Acknowledge that error."""
        self.read("GERROR")
        self._acknowledge("EVENTQ_ABT_ERR")

    def make_room(self, events: int) -> None:
        """Empty the Event queue where it may not have room for that many more."""
        self._events += events
        if not self._overflows and self._events > 1 << self._event_bits:
            self.restart_events()
            self._events = events

    def _start_commands(self) -> None:
        random = self._random
        # Bits of the base below the size of the queue are ignored.
        low = random.choice((0, 0, 0x20 if self._command_bits > 2 else 0))
        self.write_wide("CMDQ_BASE", _COMMANDS | low | self._command_bits | random.choice((0, _ALLOCATE)))
        self._producer = random.randrange(2 << self._command_bits)
        self.write("CMDQ_PROD", self._producer)
        self.write("CMDQ_CONS", self._producer)

    def _start_events(self, base: int = _EVENTS) -> None:
        random = self._random
        self.write_wide("EVENTQ_BASE", base | self._event_bits | random.choice((0, _ALLOCATE)))
        index = random.choice((0, random.randrange(2 << self._event_bits), (1 << self._event_bits) - 1))
        flag = _OVERFLOW if self._overflows and random.random() < 0.3 else 0
        self.write("EVENTQ_PROD", index | flag)
        self.write("EVENTQ_CONS", index | flag)

    def _set_enables(self, enables: int) -> None:
        self._enables = enables
        self.write("CR0", enables)
        if self._random.random() < 0.5:
            self.read("CR0ACK")

    # Commands.

    def queue(self, *commands: int) -> None:
        """Put commands into the queue, to be told of later."""
        self._waiting += commands

    def sync(self) -> None:
        """Tell of the commands that wait, with a CMD_SYNC behind them, or without."""
        random = self._random
        if random.random() < 0.93:
            self.queue(command_bits(_OP.CMD_SYNC, CS=random.choice((0, 0, 1, 2))))
        self._ring()

    def submit_with_sync(self, opcode: Smmuv3Opcode, **fields: int) -> None:
        """One command, and a CMD_SYNC."""
        self.queue(command_bits(opcode, **fields))
        self.sync()

    def invalidate_all(self) -> None:
        """Configuration, then translations."""
        self.queue(command_bits(_OP.CMD_CFGI_STE_RANGE, RANGE=self._every_stream), command_bits(_OP.CMD_SYNC))
        self.queue(command_bits(_OP.CMD_TLBI_NSNH_ALL), command_bits(_OP.CMD_SYNC))
        self._ring()

    def invalidate_stream(self, stream_id: int) -> None:
        """After a change of an STE: its configuration, and what was translated with it; or not all of that."""
        random = self._random
        if random.random() < 0.1:
            return
        if random.random() < 0.1:
            stream_id ^= 1 << random.randrange(8)
        draw = random.random()
        if draw < 0.6:
            self.queue(command_bits(_OP.CMD_CFGI_STE, STREAMID=stream_id, LEAF=random.getrandbits(1)))
        else:
            size = min(random.choice((0, 0, 2, 5, 30, 31)), self._every_stream)
            self.queue(command_bits(_OP.CMD_CFGI_STE_RANGE, STREAMID=stream_id, RANGE=size))
        if random.random() < 0.8:
            self.sync()
        if random.random() < 0.8:
            self.submit_with_sync(_OP.CMD_TLBI_NSNH_ALL)

    def of_context(self, stream_id: int) -> list[int]:
        """What a change of a CD needs, of one of these kinds."""
        random = self._random
        draw = random.random()
        if draw < 0.5:
            return [command_bits(_OP.CMD_CFGI_CD, STREAMID=stream_id, LEAF=random.getrandbits(1))]
        if draw < 0.75:
            return [command_bits(_OP.CMD_CFGI_CD_ALL, STREAMID=stream_id)]
        return [command_bits(_OP.CMD_CFGI_STE, STREAMID=stream_id, LEAF=1)]

    def invalidate_stage1(
        self, vmid: int, asid: int, address: int, size: int, granule: int, *, is_split: bool = False
    ) -> None:
        """After a change of a page of tables with a granule: of it alone, of more, of another one, or of nothing.

        Of a page that stage 2 splits QEMU is known to keep parts when it is invalidated by its address.
        """
        random = self._random
        draw = random.random()
        if draw < 0.25:
            return
        if draw < 0.35:
            asid, vmid, address = random.choice(
                ((asid ^ 1, vmid, address), (asid, vmid ^ 1, address), (asid, vmid, address ^ 1 << 21))
            )
        space = {"VMID": vmid, "ASID": asid}
        kind = random.uniform(0.6, 1) if is_split else random.random()
        if kind < 0.4:
            self.queue(command_bits(_OP.CMD_TLBI_NH_VA, **space, **self._range(address, size, granule)))
        elif kind < 0.6:
            fields = self._range(address, size, granule)
            if self._early:
                fields = {"ADDRESS": fields["ADDRESS"], "LEAF": fields["LEAF"]}
            self.queue(command_bits(_OP.CMD_TLBI_NH_VAA, VMID=vmid, **fields))
        elif kind < 0.8:
            self.queue(command_bits(_OP.CMD_TLBI_NH_ASID, **space))
        elif kind < 0.9:
            self.queue(command_bits(_OP.CMD_TLBI_NH_ALL, VMID=vmid))
        elif self._capabilities.stage2:
            self.queue(command_bits(_OP.CMD_TLBI_S12_VMALL, VMID=vmid))
        self._hint()
        self.sync()

    def invalidate_stage2(self, vmid: int, address: int, size: int, granule: int) -> None:
        """The same for stage 2; what both stages gave has to go as well."""
        random = self._random
        draw = random.random()
        if draw < 0.25:
            return
        if draw < 0.35:
            vmid, address = random.choice(((vmid ^ 1, address), (vmid, address ^ 1 << 21)))
        if random.random() < 0.6:
            self.queue(command_bits(_OP.CMD_TLBI_S2_IPA, VMID=vmid, **self._range(address, size, granule)))
            if self._capabilities.stage1 and random.random() < 0.8:
                self.sync()
                self.queue(command_bits(_OP.CMD_TLBI_NH_ALL, VMID=vmid))
        else:
            self.queue(command_bits(_OP.CMD_TLBI_S12_VMALL, VMID=vmid))
        self.sync()

    def refused(self, command: int) -> None:
        """A command that stops the queue; it is replaced, and the error acknowledged."""
        self._ring()
        index = self._producer
        self.queue(command, command_bits(_OP.CMD_SYNC))
        self._ring()
        for name in ("CMDQ_CONS", "GERROR"):
            self.read(name)
        self._store(index, command_bits(_OP.CMD_SYNC))
        self._acknowledge("CMDQ_ERR")
        self.read("CMDQ_CONS")

    def _acknowledge(self, error: str) -> None:
        self._acknowledged ^= GERROR[error].mask
        self.write("GERRORN", self._acknowledged)

    def _hint(self) -> None:
        random = self._random
        if random.random() < 0.05:
            self.queue(command_bits(_OP.CMD_PREFETCH_CONFIG, STREAMID=random.getrandbits(8)))
        if random.random() < 0.05:
            self.queue(command_bits(_OP.CMD_PREFETCH_ADDR, STREAMID=random.getrandbits(8), ADDRESS=1))
        if self._answers and random.random() < 0.1:
            self.queue(random.choice(self._answers))

    def _range(self, address: int, size: int, granule: int) -> dict[str, int]:
        """ADDRESS, LEAF, and sometimes a range of a granule, seldom of another one (4.4.1.1)."""
        random = self._random
        fields = {"ADDRESS": address >> 12, "LEAF": int(random.random() < 0.6)}
        if not self._capabilities.range_invalidation or random.random() < 0.5:
            return fields
        if random.random() < 0.15:
            granule = random.choice(tuple(_TG))
        pages = max(size >> granule, 1)
        scale = min(max(pages.bit_length() - 5, 0), 31)
        number = min(max((pages >> scale) - 1, 0), 31)
        # NUM 0, SCALE 0 and TTL 0 are ILLEGAL together.
        level = 3 if not number and not scale else 0
        first = address >> granule << granule
        return {**fields, "ADDRESS": first >> 12, "TG": _TG[granule], "SCALE": scale, "NUM": number, "TTL": level}

    def _ring(self) -> None:
        """Tell of the commands that wait, no more at once than the queue holds."""
        size = 1 << self._command_bits
        while self._waiting:
            some, self._waiting = self._waiting[:size], self._waiting[size:]
            for command in some:
                self._store(self._producer, command)
                self._producer = (self._producer + 1) % (2 * size)
            self.write("CMDQ_PROD", self._producer)

    def _store(self, index: int, command: int) -> None:
        at = _COMMANDS + index % (1 << self._command_bits) * 16
        self._writer.memory.write(at, command.to_bytes(16, "little"))

    # Looks.

    def look(self) -> None:
        """Read what there is to see of faults and commands."""
        for name in ("EVENTQ_PROD", "GERROR", "CMDQ_CONS", "CMDQ_PROD"):
            if self._random.random() < 0.6:
                self.read(name)

    def poke(self) -> None:
        """Registers that are not written while translation is on, or in other sizes, or are not there."""
        random = self._random
        draw = random.random()
        if draw < 0.2:
            self.write("CR2", random.getrandbits(4))
            self.read("CR2")
        elif draw < 0.3:
            self.write("CR1", random.getrandbits(12))
        elif draw < 0.4:
            self.write(random.choice(("IDR0", "CR0ACK", "GERROR", "IRQ_CTRLACK", "AIDR")), random.getrandbits(32))
        elif draw < 0.5:
            self._writer.write(random.choice(_UNDEFINED), 4, random.getrandbits(32))
        for _ in range(random.randint(1, 4)):
            kind = random.random()
            if kind < 0.5:
                self.read(random.choice(_READABLE))
            elif kind < 0.7:
                place = random.choice([each for each in REGISTERS.values() if each.size == 8])
                self._writer.read(place.start, 8)
            elif kind < 0.85:
                self._writer.read(random.choice((0x0, 0x20, 0x21, 0x44, 0x62, 0x84, 0x98)), random.choice((1, 2, 4, 8)))
            else:
                self._writer.read(random.randrange(0, 0x2_0000, 4), 4)

    def write(self, name: str, value: int) -> None:
        """Write a register of 32 bits."""
        self._writer.write(REGISTERS[f"SMMU_{name}"].start, 4, value)

    def write_wide(self, name: str, value: int) -> None:
        """Write a register of 64 bits, at once or in halves."""
        at = REGISTERS[f"SMMU_{name}"].start
        draw = self._random.random()
        if draw < 0.6:
            self._writer.write(at, 8, value)
            return
        halves = [(at, value & (1 << 32) - 1), (at + 4, value >> 32)]
        for where, half in halves if draw < 0.8 else reversed(halves):
            self._writer.write(where, 4, half)

    def read(self, name: str) -> None:
        """Read a register."""
        place = REGISTERS[f"SMMU_{name}"]
        self._writer.read(place.start, place.size)
