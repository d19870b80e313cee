"""A driver of riscv-iommu-pci for programs: registers, commands, and looks at what there is to see."""

from __future__ import annotations

from random import Random

from harness.conform.board import RISCV
from harness.conform.memory import QUEUES
from harness.conform.writer import ProgramWriter
from harness.model.riscv.commands import encode_command
from harness.model.riscv.registers import RiscvIommuRegisters

__all__ = ["MODES", "Driver"]

MODES = {1: 2, 2: 3, 3: 4}
"""ddtp.iommu_mode by levels of the directory."""

_COMMANDS, _FAULTS = RISCV.ram + QUEUES.start, RISCV.ram + QUEUES.start + 0x1_0000
_REQUESTS, _STATUS, _MESSAGES = (RISCV.ram + QUEUES.start + at for at in (0x2_0000, 0x3_0000, 0x3_1000))
_OUTSIDE = 1 << 36
_FCTL, _DDTP, _CQB, _CQH, _CQT, _FQB, _FQH, _FQT = 8, 16, 24, 32, 36, 40, 48, 52
_PQB, _PQH, _PQT, _CQCSR, _FQCSR, _PQCSR, _IPSR = 56, 64, 68, 72, 76, 80, 84
_TR_REQ_IOVA, _TR_REQ_CTL, _TR_RESPONSE, _ICVEC, _MSI_CFG_TBL = 600, 608, 616, 760, 768
_ENABLE, _INTERRUPT = 1, 2
_ERRORS = 0x700
_VECTORS = 4
_PAGE = 4096
_READ_ONLY_REQUEST = 8  # NW
_READABLE = (
    *((at, 4) for at in (_FCTL, _CQH, _CQT, _FQH, _FQT, _CQCSR, _FQCSR, _IPSR, _PQH, _PQT, _PQCSR)),
    *((at, 8) for at in (0, _DDTP, _CQB, _FQB, _PQB, _ICVEC, _TR_REQ_IOVA, _TR_REQ_CTL, _TR_RESPONSE)),
)
_READ_ONLY = ((0, 8), (_CQH, 4), (_FQT, 4), (_PQT, 4), (_TR_RESPONSE, 8))


class Driver:
    """Writes the registers of one IOMMU, and keeps what it has written in mind.

    Args:
        writer: of the program.
        random: to choose by.
        registers: capabilities of them.
        is_thorough: try what QEMU gets wrong as well.
        is_lazy: forget invalidations, or name something else in them.
    """

    def __init__(
        self, writer: ProgramWriter, random: Random, registers: RiscvIommuRegisters, *, is_thorough: bool, is_lazy: bool
    ) -> None:
        self._writer = writer
        self._random = random
        self._registers = registers
        self._is_thorough = is_thorough
        self._is_lazy = is_lazy
        self._waiting: list[bytes] = []
        self._command_bits = 3
        self._tail = 0
        self._interrupts = 0
        self._device_id_bits = 24
        self._has_room = True
        # An index of software's own that is set before its queue is on: QEMU loses it, which ends a program.
        self._is_ahead = random.random() < 0.05

    # Setting up.

    def set_up(self) -> None:
        """After a reset: everything that has to be written before something is enabled."""
        random = self._random
        self._waiting.clear()
        self.write(_FCTL, 0)
        vectors = [random.randrange(_VECTORS) for _ in range(4)]
        self.write(_ICVEC, sum(vector << 4 * number for number, vector in enumerate(vectors)), 8)
        for vector in range(_VECTORS):
            at = _MSI_CFG_TBL + 16 * vector
            self.write_wide(at, _MESSAGES + 16 * vector)
            self.write(at + 8, random.getrandbits(32))
            self.write(at + 12, int(random.random() < 0.1))
        self._interrupts = _INTERRUPT if random.random() < 0.5 else 0
        self._command_bits = random.choice((1, 2, 3, 5, 8))
        self.start_commands()
        self.start_faults()
        if self._registers.has("ATS") and random.random() < 0.2:
            self.write_wide(_PQB, _REQUESTS >> 2 | random.randrange(8))
            self.write(_PQH, 0)
            self.write(_PQCSR, _ENABLE | self._interrupts)

    def start_commands(self, *, is_ahead: bool = False) -> None:
        """A command queue, off before: empty, or with a fence that waits for it."""
        self._tail = int(is_ahead)
        self.write_wide(_CQB, _COMMANDS >> 2 | self._command_bits - 1)
        if is_ahead:
            self._store(0, encode_command("IOFENCE.C"))
        self.write(_CQT, self._tail)
        self.write(_CQCSR, _ENABLE | self._interrupts)
        if is_ahead:
            self.read(_CQT)

    def start_faults(self, *, is_ahead: bool = False) -> None:
        """A fault queue, off before: with room for many, for the most part; empty, or full of what was there."""
        self._has_room = self._random.random() < 0.95
        bits = self._random.choice((9, 10, 11) if self._has_room else (1, 2, 3))
        self.write_wide(_FQB, _FAULTS >> 2 | bits - 1)
        self.write(_FQH, int(is_ahead))
        self.write(_FQCSR, _ENABLE | self._interrupts)
        if is_ahead:
            self.read(_FQH)

    def restart_faults(self, *, is_ahead: bool = False) -> None:
        """Begin the fault queue from the start again."""
        self.write(_FQCSR, 0)
        self.start_faults(is_ahead=is_ahead)

    def restart(self) -> None:
        """Turn a queue off and on again."""
        random = self._random
        if random.random() < 0.5:
            self._ring()
            self.write(_CQCSR, 0)
            self.read(_CQCSR)
            if random.random() < 0.5:
                self._command_bits = random.choice((1, 2, 3, 5, 8))
            self.start_commands(is_ahead=self._is_ahead)
        else:
            self.restart_faults(is_ahead=self._is_ahead)
        self.read(random.choice((_CQH, _FQT, _FQCSR, _CQCSR)))

    def set_mode(self, levels: int, ddtp: int) -> None:
        """Translate by a directory."""
        self._device_id_bits = self._registers_with(ddtp).device_id_bits
        self.write_wide(_DDTP, ddtp)
        if self._random.random() < 0.5:
            self._writer.read(_DDTP, 8)

    def turn_off(self) -> None:
        """No translation, and no DMA."""
        self.write(_DDTP, 0, self._random.choice((4, 8)))
        self._device_id_bits = 24

    def pass_through(self) -> None:
        """Bare."""
        self.write(_DDTP, 1, self._random.choice((4, 8)))
        self._device_id_bits = 24

    def _registers_with(self, ddtp: int) -> RiscvIommuRegisters:
        return RiscvIommuRegisters(capabilities=self._registers.capabilities, ddtp=ddtp)

    # Commands.

    def queue(self, name: str, **fields: int) -> None:
        """Put a command into the queue, to be told of later."""
        self._waiting.append(encode_command(name, big_endian=False, **fields))

    def submit(self) -> None:
        """Tell of the commands that wait, with a fence behind them, or without."""
        random = self._random
        if random.random() < 0.6:
            order = random.choice(({}, {}, {"PR": 1, "PW": 1}))
            if random.random() < 0.7:
                where = _STATUS + random.randrange(64) * 4
                self.queue("IOFENCE.C", AV=1, ADDR=where >> 2, DATA=random.getrandbits(32), **order)
            else:
                self.queue("IOFENCE.C", **order)
        self._ring()

    def invalidate_all(self) -> None:
        """Directories, then pages; what guests have of a first stage goes with their second."""
        self.queue("IODIR.INVAL_DDT")
        self.queue("IOTINVAL.GVMA")
        self.queue("IOTINVAL.VMA")
        self._ring()

    def invalidate_device(self, device_id: int, *, has_processes: bool) -> None:
        """After a change of a device or process context; or not all of what that takes."""
        random = self._random
        draw = random.random() if self._is_lazy else 1.0
        if draw < 0.1:
            return
        if draw < 0.2:
            device_id ^= 1 << random.randrange(6)
        names_device = not device_id >> self._device_id_bits
        if has_processes and names_device and self._is_lazy and random.random() < 0.3:
            self.queue("IODIR.INVAL_PDT", DV=1, DID=device_id, PID=0)
        elif names_device and random.random() < 0.7:
            self.queue("IODIR.INVAL_DDT", DV=1, DID=device_id)
        else:
            self.queue("IODIR.INVAL_DDT")
        if not self._is_lazy or random.random() < 0.8:
            self.queue("IOTINVAL.GVMA")
            self.queue("IOTINVAL.VMA")
        self.submit()

    def invalidate_first_stage(self, gscid: int | None, pscid: int, address: int, size: int) -> None:
        """After a change of a page: of it alone, of more, of another one, or of nothing.

        Only one of 4 KiB is named by its address: of a larger one QEMU drops the first 4 KiB and keeps the rest.
        """
        random = self._random
        draw = random.random() if self._is_lazy else 1.0
        if draw < 0.2:
            return
        if draw < 0.3:
            pscid, address = random.choice(((pscid ^ 1, address), (pscid, address ^ 1 << 21)))
        fields = {} if gscid is None else {"GV": 1, "GSCID": gscid}
        if size == _PAGE and random.random() < 0.6:
            fields |= {"AV": 1, "ADDR": address >> 12 & (1 << 52) - 1}
        if random.random() < 0.6:
            fields |= {"PSCV": 1, "PSCID": pscid}
        self.queue("IOTINVAL.VMA", **fields)
        self.submit()

    def invalidate_second_stage(self, gscid: int, address: int, size: int) -> None:
        """The same for the second stage; by address only where it is alone: QEMU keeps what both stages have given."""
        random = self._random
        draw = random.random() if self._is_lazy else 1.0
        if draw < 0.2:
            return
        if draw < 0.3:
            gscid, address = random.choice(((gscid ^ 1, address), (gscid, address ^ 1 << 21)))
        fields = {"GV": 1, "GSCID": gscid} if random.random() < 0.85 else {}
        if size == _PAGE and not self._registers.has("Sv39") and random.random() < 0.5:
            fields |= {"AV": 1, "ADDR": address >> 12}
        self.queue("IOTINVAL.GVMA", **fields)
        self.submit()

    def invalidate_page(self, gscid: int | None, pscid: int | None, address: int) -> None:
        """What a page of a first stage was translated to, or without a PSCID one of a second, by its address alone."""
        fields = {"AV": 1, "ADDR": address >> 12 & (1 << 52) - 1}
        if gscid is not None:
            fields |= {"GV": 1, "GSCID": gscid}
        if pscid is not None:
            fields |= {"PSCV": 1, "PSCID": pscid}
        self.queue("IOTINVAL.GVMA" if pscid is None else "IOTINVAL.VMA", **fields)
        self._ring()

    def device_tlb_command(self) -> None:
        """A command for devices with a TLB, of which there are none."""
        random = self._random
        if not self._registers.has("ATS"):
            return
        if random.random() < 0.7:
            flags = random.choice(({}, {"PV": 1, "PID": 3}, {"DSV": 1, "DSEG": 0}))
            self.queue("ATS.INVAL", RID=random.getrandbits(8), PAYLOAD=random.getrandbits(52) << 12, **flags)
        else:
            self.queue("ATS.PRGR", RID=random.getrandbits(8))
        self.submit()

    def illegal_command(self) -> None:
        """A command that stops the queue; it is replaced, and the error cleared."""
        random = self._random
        choices = [
            bytes(16),
            random.randrange(5, 128).to_bytes(16, "little"),
            encode_command("IOTINVAL.GVMA", PSCV=1),
            encode_command("IODIR.INVAL_PDT"),
            (1 | 2 << 7).to_bytes(16, "little"),
            (2 | random.randrange(1, 8) << 7).to_bytes(16, "little"),
            (3 | 2 << 7).to_bytes(16, "little"),
            (4 | 2 << 7).to_bytes(16, "little"),
            encode_command("IOFENCE.C", AV=1, ADDR=_OUTSIDE >> 2),
        ]
        if self._is_thorough:
            choices = [
                encode_command("IOTINVAL.VMA", RSVD_11=1),
                encode_command("IOTINVAL.VMA", NL=1, AV=1),
                encode_command("IOTINVAL.VMA", S=1, AV=1),
                encode_command("IOFENCE.C", WSI=1),
                encode_command("IOFENCE.C", RSVD_14=1),
                encode_command("IODIR.INVAL_DDT", PID=1),
                encode_command("IODIR.INVAL_PDT", DV=1, PID=1 << 19),
                encode_command("IODIR.INVAL_DDT", RSVD_64=1),
            ]
            if self._device_id_bits < 24:
                choices.append(encode_command("IODIR.INVAL_DDT", DV=1, DID=1 << 23))
        self._ring()
        index = self._tail
        self._waiting.append(random.choice(choices))
        self.queue("IOFENCE.C", AV=1, ADDR=_STATUS >> 2, DATA=random.getrandbits(32))
        self._ring()
        self.read(_CQCSR)
        self.read(_CQH)
        self._store(index, encode_command("IOFENCE.C"))
        self.write(_CQCSR, _ERRORS | _ENABLE | self._interrupts)
        if random.random() < 0.9:
            # Builds go on with the queue only now, which would end every program here.
            self.write(_CQT, self._tail)
        self.read(_CQH)
        if random.random() < 0.5 and self._has_room:
            self.write(_IPSR, 0xF)
            self.read(_IPSR)

    def _ring(self) -> None:
        """Tell of the commands that wait, no more at once than the queue holds."""
        size = 1 << self._command_bits
        while self._waiting:
            some, self._waiting = self._waiting[: size - 1], self._waiting[size - 1 :]
            for command in some:
                self._store(self._tail, command)
                self._tail = (self._tail + 1) % size
            self.write(_CQT, self._tail)

    def _store(self, index: int, command: bytes) -> None:
        self._writer.memory.write(_COMMANDS + index * 16, command)

    # Looks.

    def look(self) -> None:
        """Read what there is to see of faults and commands; sometimes acknowledge it."""
        random = self._random
        for at in (_FQT, _FQCSR, _CQH, _CQCSR, _IPSR):
            if random.random() < 0.5:
                self.read(at)
        if random.random() < 0.4 and (self._is_thorough or self._has_room):
            self.write(_IPSR, random.choice((0, 1, 2)) if self._is_thorough else 0xF)
            self.read(_IPSR)
            # The next message is told from the last one by its data.
            self.write(_MSI_CFG_TBL + 16 * random.randrange(_VECTORS) + 8, random.getrandbits(32))
        if random.random() < 0.2:
            self.write(_FQCSR, 0x300 | _ENABLE | self._interrupts)
            self.read(_FQCSR)

    def ask(self, device_id: int, iova: int) -> None:
        """A translation request of software's own (chapter 7)."""
        if not self._registers.has("DBG"):
            return
        self.write_wide(_TR_REQ_IOVA, iova & (1 << 64) - 1 & ~0xFFF)
        self.write(_TR_REQ_CTL + 4, device_id << 8)
        self.write(_TR_REQ_CTL, _READ_ONLY_REQUEST | 1)
        self._writer.read(_TR_REQ_CTL, 8)
        self._writer.read(_TR_RESPONSE, 8)

    def poke(self) -> None:
        """Registers that cannot be written, in other sizes, that are not there."""
        random = self._random
        draw = random.random()
        if draw < 0.3:
            at, size = random.choice(_READ_ONLY)
            self.write(at, random.getrandbits(8 * size), size)
        elif draw < 0.5:
            self.write(random.randrange(1024, 4096, 4) & ~0x100, random.getrandbits(32))
        elif draw < 0.7:
            vector = random.randrange(_VECTORS)
            self.write(_MSI_CFG_TBL + 16 * vector + 12, int(random.random() < 0.3))
            self._writer.read(_MSI_CFG_TBL + 16 * vector, 8)
            self.read(_MSI_CFG_TBL + 16 * vector + 12)
        for _ in range(random.randint(1, 4)):
            kind = random.random()
            if kind < 0.6:
                self._writer.read(*random.choice(_READABLE))
            elif kind < 0.8:
                self._writer.read(random.randrange(0, 1024), random.choice((1, 2, 4, 8)))
            else:
                self._writer.read(random.choice((628, 684, 1024 + random.randrange(0, 768) * 4)), 4)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register."""
        self._writer.write(offset, size, value)

    def write_wide(self, offset: int, value: int) -> None:
        """Write a register of 64 bits, at once or in halves, the upper one first."""
        if self._random.random() < 0.6:
            self._writer.write(offset, 8, value)
        else:
            self._writer.write(offset + 4, 4, value >> 32)
            self._writer.write(offset, 4, value & (1 << 32) - 1)

    def read(self, offset: int) -> None:
        """Read a register of 32 bits."""
        self._writer.read(offset, 4)
