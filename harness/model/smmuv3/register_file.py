"""What the registers of an SMMU read as, bit by bit, and which of the bits are settled (IHI 0070 6.2, 6.3).

A bit is known from when it is written, or from a reset to a value that is said, until something may have changed it.
RES0 bits read as zero, but what was written to one that should have been zero may be read back (6.2, DDI 0487: RES0).

Which writes are taken, and what they lead to, is not decided here.
"""

from __future__ import annotations

from harness.model.bits import Layout
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.id_registers import IDR1
from harness.model.smmuv3.register_map import PAGE_1, REGISTERS, implemented, is_unspecified, register_of
from harness.model.smmuv3.registers import GBPA, QUEUE_BASE, QUEUE_CONS, QUEUE_PROD, Smmuv3Registers
from harness.model.unit import Readout

__all__ = ["RegisterFile"]

_WORD = (1 << 32) - 1
_NOTHING = Readout(0, 0)
_INDEX = QUEUE_PROD["WR"].mask
_UPDATE = GBPA["UPDATE"].mask
_ERROR = QUEUE_CONS["ERR"].mask
_CMDQ_CONS = REGISTERS["SMMU_CMDQ_CONS"].start
_GBPA = REGISTERS["SMMU_GBPA"].start
# 6.3.14: fields that read as zero or as what was written, where the SMMU or its interconnect does not use them.
_ATTRIBUTES = sum(GBPA[name].mask for name in ("MEMATTR", "MTCFG", "ALLOCCFG", "SHCFG", "PRIVCFG", "INSTCFG"))
# Registers that a reset clears; the others come out of it with UNKNOWN or IMPLEMENTATION DEFINED fields.
_CLEARED = ("CR0", "CR0ACK", "IRQ_CTRL", "IRQ_CTRLACK", "GERROR", "GERRORN", "GBPA")
# Registers whose contents are for the implementation to define, whatever is written.
_OPAQUE = frozenset(REGISTERS[f"SMMU_{name}"].start for name in ("IDR4", "IIDR", "AGBPA"))
_READ_ONLY = frozenset(
    REGISTERS[f"SMMU_{name}"].start
    for name in (*(f"IDR{n}" for n in range(6)), "IIDR", "AIDR", "CR0ACK", "STATUSR", "IRQ_CTRLACK", "GERROR")
)
# 6.2.1: words of page 0 that may be aliases of registers of page 1, or else read as zero.
_ALIASES = frozenset(place.start - PAGE_1 for place in REGISTERS.values() if place.start >= PAGE_1)


class RegisterFile:
    """The 32-bit words of both pages, by their offsets.

    Args:
        registers: as they are after a reset: ID registers, and what is preset or resets as the implementation has it.
    """

    def __init__(self, registers: Smmuv3Registers) -> None:
        self._capabilities = capabilities = registers.capabilities
        self._have = {
            place.start + half: bits >> 8 * half & _WORD
            for place, bits in ((REGISTERS[name], bits) for name, bits in implemented(capabilities).items())
            for half in range(0, place.size, 4)
        }
        # Of each index: the queue's base register, the size that it is capped at, and whether software moves it.
        self._indexes = {
            REGISTERS[f"SMMU_{queue}_{index}"].start: (REGISTERS[f"SMMU_{queue}_BASE"].start, most, index == own)
            for queue, most, own in (
                ("CMDQ", capabilities.command_queue_bits, "PROD"),
                ("EVENTQ", capabilities.event_queue_bits, "CONS"),
                ("PRIQ", min(IDR1["PRIQS"].get(capabilities.idr1), 19), "CONS"),
            )
            for index in ("PROD", "CONS")
        }
        self._read_only = _READ_ONLY | _preset(capabilities)
        self._first, self._first_known = self._after_reset(registers)
        self.reset()

    def reset(self) -> None:
        """As after a reset."""
        self._value = dict(self._first)
        self._known = dict(self._first_known)

    def is_read_only(self, word: int) -> bool:
        """Whether software's writes are ignored, in any state."""
        return word in self._read_only

    def fields(self, word: int) -> int:
        """The bits of a word that are fields; all others are RES0."""
        return self._have.get(word, 0)

    def fields64(self, word: int) -> int:
        """As `fields`, of a register of 64 bits."""
        return self.fields(word) | self.fields(word + 4) << 32

    def value(self, word: int) -> int:
        """What was stored in a word; of bits that are not known, one of the values that they may have."""
        return self._value.get(word, 0)

    def known(self, word: int) -> int:
        """Which bits of it are known."""
        return self._known.get(word, _WORD)

    def value64(self, word: int) -> int:
        """As `value`, of a register of 64 bits."""
        return self._value.get(word, 0) | self._value.get(word + 4, 0) << 32

    def known64(self, word: int) -> int:
        """As `known`, likewise."""
        return self._known.get(word, _WORD) | self._known.get(word + 4, _WORD) << 32

    def read(self, word: int) -> Readout:
        """What software reads."""
        if word in self._indexes:
            return self._read_index(word)
        if word in self._have:
            return Readout(self._value[word], self._known[word])
        if is_unspecified(word, self._capabilities):
            return _NOTHING
        other = word - PAGE_1 if word >= PAGE_1 else word + PAGE_1 if word in _ALIASES else None
        if other is None:
            return Readout(0, self.known(word))
        # 6.2, 6.2.1: the other page's register, or zero.
        aliased = self.read(other)
        return Readout(0, aliased.known & ~aliased.value & self.known(word))

    def write(self, word: int, value: int, among: int = _WORD) -> None:
        """Software's write is taken, in all bits or `among` some."""
        have = self._have.get(word, 0)
        old, known = self.value(word), self.known(word)
        # 6.3.28: ERR takes the written value or ignores it.
        kept = _ERROR if word == _CMDQ_CONS else 0
        new = value & have
        size_before = self._size_bits(word)
        self._value[word] = old & ~among | (old & kept | new & ~kept) & among
        taken = (have & ~kept) | (kept & known & ~(old ^ new)) | (~have & ~value & _WORD)
        known = known & ~among | taken & among
        if word == _GBPA:
            known &= ~(new & _ATTRIBUTES) & ~self._unknown_attributes()
        self._known[word] = 0 if word in _OPAQUE else known
        self._resized(word, size_before)

    def doubt(self, word: int, value: int, among: int = _WORD) -> None:
        """Software's write may have been taken or not.

        Args:
            word: that was written.
            value: what was written.
            among: the bits of which that is so.
        """
        self._known[word] = self.known(word) & ~((self.value(word) ^ value) & among)

    def spoil(self, word: int) -> None:
        """The word may hold anything that its fields can."""
        self._known[word] = self.known(word) & ~self._have.get(word, 0)

    def put(self, word: int, value: int, among: int = _WORD) -> None:
        """The SMMU itself gives a word a value, or some bits of it."""
        self._value[word] = self._value[word] & ~among | value & among
        self._known[word] |= among

    def save(self, word: int) -> tuple[int, int]:
        """What is known of a word, for `restore`."""
        return self._value[word], self._known[word]

    def restore(self, word: int, state: tuple[int, int]) -> None:
        """As it was at `save`."""
        self._value[word], self._known[word] = state

    def forget(self, word: int, bits: int) -> None:
        """Bits of a word have become UNKNOWN."""
        self._known[word] = self.known(word) & ~bits

    def _read_index(self, word: int) -> Readout:
        base, most, is_softwares = self._indexes[word]
        value, known = self._value[word], self._known[word]
        bits = self._queue_bits(base, most)
        if bits is None:
            return Readout(value & ~_INDEX, known & ~_INDEX)
        index = (2 << bits) - 1
        above = _INDEX & ~index
        if is_softwares:
            # 6.3.27, 6.3.96: RES0, and UNKNOWN from the largest queue's wrap flag on.
            known &= ~(value & above) & ~(_INDEX & ~((2 << most) - 1))
        else:
            # 6.3.28, 6.3.95: read as zero.
            known |= above
        return Readout(value & ~above, known)

    def _queue_bits(self, base: int, most: int) -> int | None:
        """log2 of a queue's size; None where it is not known."""
        field = QUEUE_BASE["LOG2SIZE"]
        return min(field.get(self._value[base]), most) if not field.mask & ~self._known[base] else None

    def _size_bits(self, word: int) -> int | None:
        return next((self._queue_bits(word, most) for base, most, _ in self._indexes.values() if base == word), None)

    def _resized(self, word: int, before: int | None) -> None:
        """6.3.27: index bits above the old wrap flag are UNKNOWN once the queue is larger."""
        for index, (base, most, _) in self._indexes.items():
            if base == word:
                bits = self._queue_bits(base, most)
                if before is None or bits is None or bits > before:
                    known_still = 0 if before is None else (2 << before) - 1
                    self._known[index] &= ~(_INDEX & ~known_still)

    def _unknown_attributes(self) -> int:
        return 0 if IDR1["ATTR_TYPES_OVR"].get(self._capabilities.idr1) else GBPA["MEMATTR"].mask

    def _after_reset(self, registers: Smmuv3Registers) -> tuple[dict[int, int], dict[int, int]]:
        """Values, and which bits of them are known."""
        capabilities = registers.capabilities
        value = dict.fromkeys(self._have, 0)
        known = {word: ~have & _WORD for word, have in self._have.items()} | dict.fromkeys(_OPAQUE, 0)
        for name in _CLEARED:
            known[REGISTERS[f"SMMU_{name}"].start] = _WORD
        for number in (0, 1, 3, 5):
            word = REGISTERS[f"SMMU_IDR{number}"].start
            value[word], known[word] = getattr(capabilities, f"idr{number}"), _WORD
        # 6.3.8: SMMUv3.x is all that there is.
        known[REGISTERS["SMMU_AIDR"].start] |= _layout("SMMU_AIDR")["ARCHMAJORREV"].mask
        value[_GBPA] = registers.gbpa & self._have[_GBPA] & ~_UPDATE
        known[_GBPA] &= ~self._unknown_attributes()
        for word in _preset(capabilities):
            place = register_of(word)
            assert place is not None
            whole: int = getattr(registers, place.name.removeprefix("SMMU_").lower(), 0)
            # PRIQ_BASE is not among the registers that are given.
            if not place.name.startswith("SMMU_PRIQ"):
                value[word], known[word] = whole >> 8 * (word - place.start) & _WORD, _WORD
        return value, known


def _preset(capabilities: Smmuv3Capabilities) -> frozenset[int]:
    """Words that are read-only, since their contents are fixed (6.3.24, 6.3.26)."""
    names: list[str] = []
    if IDR1["TABLES_PRESET"].get(capabilities.idr1):
        names += ["STRTAB_BASE", "STRTAB_BASE_CFG"]
    if IDR1["QUEUES_PRESET"].get(capabilities.idr1):
        names += ["CMDQ_BASE", "EVENTQ_BASE", "PRIQ_BASE"]
    places = [REGISTERS[f"SMMU_{name}"] for name in names]
    return frozenset(word for place in places for word in range(place.start, place.start + place.size, 4))


def _layout(name: str) -> Layout:
    layout = REGISTERS[name].layout
    assert layout is not None
    return layout
