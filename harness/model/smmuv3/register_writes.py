"""Software's writes of an SMMU's registers: which are taken, and what the others leave open (IHI 0070 6.2, 6.3).

Some registers must not be written in some states. What the SMMU makes of it is CONSTRAINED UNPREDICTABLE up to
SMMUv3.1: the register may then hold anything, and where that is a table or a queue in use the SMMU may do anything.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.id_registers import IDR1
from harness.model.smmuv3.register_file import RegisterFile
from harness.model.smmuv3.register_map import CR1, PAGE_1, REGISTERS, SPACE, register_of
from harness.model.smmuv3.registers import CR0, GBPA, GERROR, IRQ_CTRL, QUEUE_CONS

__all__ = ["RegisterWrites"]

_WORD = (1 << 32) - 1


def _start(name: str) -> int:
    return REGISTERS[f"SMMU_{name}"].start


_CR0, _CR0ACK, _CR1 = _start("CR0"), _start("CR0ACK"), _start("CR1")
_IRQ_CTRL, _IRQ_CTRLACK = _start("IRQ_CTRL"), _start("IRQ_CTRLACK")
_GBPA, _GERROR, _GERRORN = _start("GBPA"), _start("GERROR"), _start("GERRORN")
_CMDQ_PROD, _CMDQ_CONS = _start("CMDQ_PROD"), _start("CMDQ_CONS")
_UPDATE = GBPA["UPDATE"].mask
_TABLE_ATTRIBUTES = CR1["TABLE_SH"].mask | CR1["TABLE_OC"].mask | CR1["TABLE_IC"].mask
_QUEUE_ATTRIBUTES = CR1["QUEUE_SH"].mask | CR1["QUEUE_OC"].mask | CR1["QUEUE_IC"].mask
_QUEUES_ENABLED = CR0["CMDQEN"].mask | CR0["EVENTQEN"].mask | CR0["PRIQEN"].mask


class _Consequence(Enum):
    """Of a write while a register is guarded."""

    IGNORED = auto()
    SPOILS = auto()
    """The register may hold anything."""
    LOSES = auto()
    """The SMMU uses it, whatever it holds: it may do anything."""


class _Guard(NamedTuple):
    """What keeps a register from being written.

    Attributes:
        word: of the register whose bit does.
        mask: the bit.
        name: its name.
        consequence: of a write.
    """

    word: int
    mask: int
    name: str
    consequence: _Consequence


def _guards() -> dict[int, _Guard]:
    in_cr0 = (
        ("SMMUEN", _Consequence.LOSES, ("STRTAB_BASE", "STRTAB_BASE_CFG")),
        ("SMMUEN", _Consequence.IGNORED, ("CR2",)),
        ("CMDQEN", _Consequence.LOSES, ("CMDQ_BASE", "CMDQ_CONS")),
        ("EVENTQEN", _Consequence.SPOILS, ("EVENTQ_BASE", "EVENTQ_PROD")),
        ("PRIQEN", _Consequence.SPOILS, ("PRIQ_BASE", "PRIQ_PROD")),
    )
    found = {}
    for field, consequence, names in in_cr0:
        for name in names:
            place = REGISTERS[f"SMMU_{name}"]
            for word in range(place.start, place.start + place.size, 4):
                found[word] = _Guard(_CR0, CR0[field].mask, f"CR0.{field}", consequence)
    for source in ("GERROR", "EVENTQ", "PRIQ"):
        field = f"{source}_IRQEN"
        for number in range(3):
            place = REGISTERS[f"SMMU_{source}_IRQ_CFG{number}"]
            for word in range(place.start, place.start + place.size, 4):
                found[word] = _Guard(_IRQ_CTRL, IRQ_CTRL[field].mask, f"IRQ_CTRL.{field}", _Consequence.SPOILS)
    return found


_GUARDS = _guards()


class RegisterWrites:
    """Takes software's writes into a register file.

    Args:
        registers: that are written.
        capabilities: of the SMMU.

    Attributes:
        lost: why nothing is known of the SMMU any more, until a reset; None while it is.
        unsure: errors of GERROR of which it is not known whether they are active: software toggled GERRORN while they
            were not (6.3.20).
    """

    def __init__(self, registers: RegisterFile, capabilities: Smmuv3Capabilities) -> None:
        self._file = registers
        fixed = 0
        # 6.3.11: what is preset may or may not take another value, without an effect.
        if IDR1["TABLES_PRESET"].get(capabilities.idr1):
            fixed |= _TABLE_ATTRIBUTES
        if IDR1["QUEUES_PRESET"].get(capabilities.idr1):
            fixed |= _QUEUE_ATTRIBUTES
        self._fixed_attributes = fixed
        self.reset()

    def reset(self) -> None:
        """As after a reset."""
        self.lost: str | None = None
        self.unsure = 0

    def write(self, offset: int, size: int, value: int) -> list[tuple[int, int]]:
        """Take a write of any size and alignment.

        Returns:
            The words that were written as they should be, with what was written.
        """
        if offset + size > SPACE:
            return []
        first = offset & ~3
        words = range(first, offset + size, 4)
        if offset % size or size not in (4, 8):
            # 6.2: an illegal access may write anything to the registers that it spans.
            for word in words:
                self._spoil(word)
            return []
        parts = [(word, value >> 8 * (word - offset) & _WORD) for word in words]
        if size == 8 and register_of(offset) is not register_of(offset + 4):
            # 6.2: of two registers of 32 bits both, one or none is written.
            for word, part in parts:
                self._doubt(word, part)
            return []
        return [(word, part) for word, part in parts if self._take(word, part)]

    def is_active(self, error: str) -> bool | None:
        """Whether an error of GERROR is active (7.5); None where that is not known."""
        mask = GERROR[error].mask
        if self.unsure & mask:
            return None
        return bool((self._file.value(_GERROR) ^ self._file.value(_GERRORN)) & mask)

    def lose(self, why: str) -> None:
        """Nothing is known any more."""
        self.lost = self.lost or why

    def _take(self, word: int, value: int) -> bool:
        """A word is written as it should be; false where it is not taken."""
        file = self._file
        if file.is_read_only(word):
            return False
        if register_of(word) is None:
            # 6.2, 6.2.1: where the pages are aliases of each other, the other one's register is written.
            self._doubt(word ^ PAGE_1, value)
            file.write(word, value)
            return False
        guard = self._guard(word)
        if guard is not None:
            self._guarded(word, guard)
            return False
        match word:
            case _ if word == _CR0:
                file.write(word, value)
                file.put(_CR0ACK, value & file.fields(word))
            case _ if word == _IRQ_CTRL:
                file.write(word, value)
                file.put(_IRQ_CTRLACK, value & file.fields(word))
            case _ if word == _CR1:
                self._write_attributes(value)
            case _ if word == _GBPA:
                if not value & _UPDATE:
                    # 6.3.14.1: ignored, or stored, with or without an effect.
                    file.doubt(word, value)
                    return False
                file.write(word, value & ~_UPDATE)
            case _ if word == _GERRORN:
                self._acknowledge(value)
            case _ if word == _CMDQ_CONS:
                file.write(word, value)
                self._forget_command_error()
            case _:
                file.write(word, value)
        return True

    def _doubt(self, word: int, value: int) -> None:
        """A word may be written or not."""
        file = self._file
        have = file.fields(word)
        if file.is_read_only(word):
            return
        guard = self._guard(word)
        if guard is not None:
            self._guarded(word, guard)
        elif file.known(word) & have == have and not (file.value(word) ^ value) & have:
            file.doubt(word, value)
        elif self._decides(word):
            self.lose(f"it is open whether {_name(word)} was written (IHI 0070 6.2)")
        else:
            file.doubt(word, value)

    def _spoil(self, word: int) -> None:
        """A word may hold anything that its register can."""
        if self._file.is_read_only(word) or not self._file.fields(word):
            return
        guard = self._guard(word)
        if guard is not None and guard.consequence is not _Consequence.IGNORED:
            self._guarded(word, guard)
        elif self._decides(word):
            self.lose(f"{_name(word)} may hold anything after an illegal access (IHI 0070 6.2)")
        else:
            self._file.spoil(word)

    def _guard(self, word: int) -> _Guard | None:
        """What keeps a register from being written now."""
        guard = _GUARDS.get(word)
        if guard is None or not self._file.fields(word) or not self._file.value(guard.word) & guard.mask:
            return None
        return guard

    def _guarded(self, word: int, guard: _Guard) -> None:
        if guard.consequence is _Consequence.LOSES:
            self.lose(f"{_name(word)} was written while {guard.name} was 1 (IHI 0070 6.3)")
        elif guard.consequence is _Consequence.SPOILS:
            self._file.spoil(word)

    def _decides(self, word: int) -> bool:
        """Whether all that the SMMU does hangs on a register now."""
        if word == _CMDQ_PROD:
            return bool(self._file.value(_CR0) & CR0["CMDQEN"].mask)
        return word in (_CR0, _IRQ_CTRL, _GERRORN)

    def _write_attributes(self, value: int) -> None:
        """CR1 (6.3.11): fields of what is in use, or preset, may or may not take a value."""
        enabled = self._file.value(_CR0)
        open_bits = self._fixed_attributes
        if enabled & CR0["SMMUEN"].mask:
            open_bits |= _TABLE_ATTRIBUTES
        if enabled & _QUEUES_ENABLED:
            open_bits |= _QUEUE_ATTRIBUTES
        self._file.write(_CR1, value, ~open_bits & _WORD)
        self._file.doubt(_CR1, value, open_bits)

    def _acknowledge(self, value: int) -> None:
        """GERRORN (6.3.20, 7.5)."""
        file = self._file
        errors = file.value(_GERROR)
        toggled = (file.value(_GERRORN) ^ value) & file.fields(_GERRORN)
        inactive = ~(errors ^ file.value(_GERRORN))
        file.write(_GERRORN, value)
        self.unsure = (self.unsure | toggled & inactive) & (errors ^ file.value(_GERRORN) | ~file.known(_GERROR))
        self._forget_command_error()

    def _forget_command_error(self) -> None:
        """CMDQ_CONS.ERR is UNKNOWN while the error is not active (6.3.28)."""
        if not self.is_active("CMDQ_ERR"):
            self._file.forget(_CMDQ_CONS, QUEUE_CONS["ERR"].mask)


def _name(word: int) -> str:
    place = register_of(word)
    return place.name if place is not None else f"the register at {word:#x}"
