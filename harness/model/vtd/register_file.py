"""What the registers of a VT-d unit hold, and what an access to them gives (VT-d 11.2, 11.4; revision 5.10).

A register of 32 bits is accessed by 4 bytes, one of 64 bits by 8 or by 4, aligned (11.2). What any other access does is
undefined: of a register that software only stores to, all that it would have written is not known afterwards.

The fault registers change with each fault, so they are kept apart from those that translation depends on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.model.engine import MsiWrite, NotModelled
from harness.model.unit import Readout
from harness.model.vtd.faults import meaningful_bits
from harness.model.vtd.register_layouts import GSTS_REG
from harness.model.vtd.register_map import VtdRegister, register_map
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import FSTS_REG
from harness.model.vtd.reporting.fault_log import FaultLog

__all__ = ["RegisterFile", "is_defined"]

_WORD = 4
_SIZES = (4, 8)
_PPF, _FRI = FSTS_REG["PPF"].mask, FSTS_REG["FRI"].mask
_QIES = GSTS_REG["QIES"].mask
# Registers of `EventRegisters` that software stores to.
_MESSAGE = {"fedata": "data", "feaddr": "address", "feuaddr": "upper"}
# What a command takes over, and translation depends on only then.
_TAKEN_OVER = ("rtaddr", "irta")
_NOTHING = Readout(0, 0)


class RegisterFile:
    """The registers of one unit.

    Args:
        registers: as read right after a reset.
        compresses: see `FaultLog`.

    Attributes:
        map: every register that there is.
        now: all but the fault registers; RTADDR_REG and IRTA_REG as they are in use.
        log: the fault registers.
        written: RTADDR_REG and IRTA_REG as software has written them.
    """

    def __init__(self, registers: VtdRegisters, *, compresses: bool) -> None:
        self._at_reset = registers
        self._first_log = FaultLog.of(registers, compresses=compresses)
        self.map = register_map(registers)
        self._by_word = {entry.offset + at: entry for entry in self.map for at in range(0, entry.size, _WORD)}
        self.reset()

    def reset(self) -> None:
        """All are as at first."""
        self.now = self._at_reset
        self.log = self._first_log
        self.written = {key: getattr(self._at_reset, key) for key in _TAKEN_OVER}
        self._unknown: dict[str, int] = {}

    def find(self, offset: int) -> VtdRegister | None:
        """The register that a byte belongs to."""
        return self._by_word.get(offset & -_WORD)

    def has(self, key: str) -> bool:
        """Whether this unit has a register."""
        return any(entry.key == key for entry in self.map)

    def read(self, offset: int, size: int) -> Readout:
        """What `size` bytes read as; nothing is settled where that is not defined, or nothing is there."""
        register = self._by_word.get(offset)
        if register is None or not is_defined(register, offset, size):
            return _NOTHING
        value, known = self._value(register)
        if self._unknown:
            known &= ~self._unknown.get(register.key, 0)
        shift = 8 * (offset - register.offset)
        known = known >> shift & (1 << 8 * size) - 1
        return Readout(value >> shift & known, known)

    def _value(self, register: VtdRegister) -> tuple[int, int]:
        """What a register holds, and which bits of that are settled."""
        key = register.key
        match key:
            case "fsts":
                value = self.log.event.status
                # FRI has a meaning with PPF only (VT-d 11.4.7.1).
                return value, register.settled if value & _PPF else register.settled & ~_FRI
            case "frcd":
                record = self.log.records[register.index]
                return record, register.settled & meaningful_bits(record)
            case "fectl":
                return self.log.event.control, register.settled
            case "gcmd":
                return 0, 0
            case _ if key in _MESSAGE:
                return int(getattr(self.log.event, _MESSAGE[key])), register.settled
            case _ if key in _TAKEN_OVER:
                return self.written[key], register.settled
            case _:
                return int(getattr(self.now, key)), register.settled

    def merged(self, register: VtdRegister, bits: int, mask: int) -> int:
        """What a register holds with the bits of `mask` written."""
        value: int = getattr(self.now, register.key)
        return value & ~mask | bits

    def store(self, register: VtdRegister, bits: int, mask: int) -> None:
        """Software stores to a register of its own: the bits of `mask`, of which those that are there stay."""
        key = register.key
        if self._unknown.get(key):
            self._unknown[key] &= ~mask
        if key in _TAKEN_OVER:
            self.written[key] = (self.written[key] & ~mask | bits) & register.writable
        elif key in _MESSAGE:
            self.log = self.log._replace(event=self.log.event._replace(**{_MESSAGE[key]: bits & register.writable}))
        else:
            self.set(key, self.merged(register, bits, mask) & register.writable)

    def set(self, key: str, value: int) -> None:
        """A register of `now` becomes this."""
        values: dict[str, Any] = {key: value}
        self.now = replace(self.now, **values)

    def forget(self, register: VtdRegister, mask: int) -> None:
        """What the bits of `mask` hold is not known any more."""
        self._unknown[register.key] = self._unknown.get(register.key, 0) | mask

    def remember(self, register: VtdRegister) -> None:
        """All that a register holds is known again."""
        self._unknown.pop(register.key, None)

    def check_known(self, *keys: str) -> None:
        """Something depends on all of these registers.

        Raises:
            NotModelled: one has been written in a way that is not defined.
        """
        for key in keys:
            if self._unknown.get(key):
                raise NotModelled(f"something depends on register {key}, and its last write was undefined (VT-d 11.2)")

    def set_gsts(self, gsts: int) -> None:
        """GSTS_REG becomes this; the head of the queue and the next fault record follow it (VT-d 11.4.9.1, 7.2.1)."""
        stopped = self.now.gsts & ~gsts & _QIES
        self.now = replace(self.now, gsts=gsts, iqh=0) if stopped else replace(self.now, gsts=gsts)
        self.log = self.log.with_gsts(gsts)

    def write_fectl(self, value: int) -> MsiWrite | None:
        """Software writes FECTL_REG; the message that is sent."""
        self.log, message = self.log.write_fectl(value)
        return message

    def snapshot(self) -> VtdRegisters:
        """All of them but the fault records."""
        event = self.log.event
        return replace(
            self.now,
            fsts=event.status,
            fectl=event.control,
            fedata=event.data,
            feaddr=event.address,
            feuaddr=event.upper,
        )

    def take(self, after: VtdRegisters) -> None:
        """What a `snapshot` has become."""
        self.log = self.log._replace(event=self.log.event._replace(status=after.fsts, control=after.fectl))
        self.now = after


def is_defined(register: VtdRegister, offset: int, size: int) -> bool:
    """Whether the specification says what an access does: aligned, of 4 or 8 bytes, and within one register."""
    return size in _SIZES and not offset % size and offset + size <= register.offset + register.size
