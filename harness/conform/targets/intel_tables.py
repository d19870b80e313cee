"""Tables of programs for intel-iommu: entries of devices in either mode, page tables, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Protocol

from harness.conform.command import RAM_BYTES
from harness.conform.memory import TABLES
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.radix import RadixTable
from harness.model.vtd.build.legacy import VtdTables
from harness.model.vtd.build.page_formats import FirstStageFormat, SecondStageFormat
from harness.model.vtd.build.scalable import VtdScalableTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.pasid import PasidTranslation
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = ["WIDTHS", "DeviceTlbs", "FirstStage", "FirstStageFlags", "Legacy", "SecondStage", "Setup"]

_OUTSIDE = (RAM_BYTES, 1 << 40)  # where no memory is
_FIRST_STAGE_LEVELS = 4
_FIRST_STAGE_WIDTH = 29  # builds take AW, which is reserved there, for the width: what is mapped is narrower
_OVERLOOKED = 0.1  # of programs: flaws that builds overlook, and that so hide what follows
WIDTHS = {3: 39, 4: 48}
"""Bits of an input address, by the levels of the tables."""


class Setup(Protocol):
    """How a mode has devices and page tables described."""

    @property
    def mode(self) -> TranslationTableMode:
        """RTADDR_REG.TTM."""
        ...

    @property
    def root(self) -> int:
        """Physical address of the root table."""
        ...

    @property
    def first_stage(self) -> bool:
        """Whether page tables are those of the first stage."""
        ...

    @property
    def device_tlbs(self) -> bool:
        """Whether devices are described as ones that may have a TLB."""
        ...

    @property
    def sets_flags(self) -> bool:
        """Whether the hardware has accessed and dirty flags to set."""
        ...

    @property
    def width(self) -> int:
        """Bits of the input addresses that are mapped."""
        ...

    @property
    def bad_leaves(self) -> tuple[Mapping[str, int], ...]:
        """Fields that make an entry for a page illegal, or point it outside of memory."""
        ...

    def new_table(self) -> RadixTable:
        """An empty page table."""
        ...

    def beyond(self, random: Random) -> int:
        """An address that is wider than any input address, or that some builds take for one."""
        ...

    def attach(self, requester: int, domain: int, table: RadixTable) -> None:
        """Have a device translated by a table."""
        ...

    def pass_through(self, requester: int, domain: int) -> None:
        """Have requests of a device pass untranslated."""
        ...

    def spoil(self, random: Random, requester: int) -> None:
        """Make something wrong or unusual in the entries of a device that is attached."""
        ...

    def silence(self, random: Random, requester: int) -> None:
        """Take an entry of a device away, and have what is left of it say that faults are not recorded."""
        ...


class Legacy:
    """Legacy mode (VT-d 3.4.1)."""

    mode = TranslationTableMode.LEGACY
    first_stage = False
    device_tlbs = False
    sets_flags = False

    def __init__(self, memory: WritableMemory, registers: VtdRegisters, random: Random, levels: int) -> None:
        self._tables = VtdTables(memory, TABLES.start)
        self._levels = levels
        self.width = WIDTHS[levels]
        self._guest_address_width = registers.guest_address_width
        self._widest = max(registers.supported_levels)
        self.bad_leaves = _bad_second_stage_leaves(registers)

    @property
    def root(self) -> int:
        """See `Setup`."""
        return self._tables.root

    def new_table(self) -> RadixTable:
        """See `Setup`."""
        return RadixTable(self._tables.pages, SecondStageFormat(), self._levels)

    def beyond(self, random: Random) -> int:
        """See `Setup`."""
        return _beyond(random, self._guest_address_width)

    def attach(self, requester: int, domain: int, table: RadixTable) -> None:
        """See `Setup`."""
        kind = self._translation_type(domain)
        self._tables.attach(requester, domain, table.levels, table=table, translation_type=kind)

    def pass_through(self, requester: int, domain: int) -> None:
        """See `Setup`. AW must be the widest that there is (VT-d 9.3)."""
        self._tables.attach(
            requester, domain, self._widest, table=self.new_table(), translation_type=TranslationType.PASS_THROUGH
        )

    def spoil(self, random: Random, requester: int) -> None:
        """See `Setup`."""
        choices: tuple[Mapping[str, int], ...] = (
            {"P": 0},
            {"P": 0, "FPD": 1},
            {"FPD": 1},
            {"RSVD": 1 << random.randrange(8)},
            {"RSVD_HIGH": 1 << random.randrange(40)},
            {"AW": _wrong_width(random, self._levels)},
            {"TT": TranslationType.RESERVED},
            {"TT": TranslationType.RESERVED, "FPD": 1},
            {"TT": TranslationType.SECOND_STAGE_DEVICE_TLB},
            {"SSPTPTR": random.choice(_OUTSIDE)},
        )
        self._tables.set_context_fields(requester, random.choice(choices))

    def silence(self, random: Random, requester: int) -> None:
        """See `Setup`."""
        self._tables.set_context_fields(requester, {"P": 0, "FPD": 1})

    def _translation_type(self, domain: int) -> TranslationType:
        """Of devices that are translated."""
        return TranslationType.SECOND_STAGE


class DeviceTlbs(Legacy):
    """Legacy mode, where devices may have a TLB: untranslated requests are translated as without (VT-d 9.3, TT=01b)."""

    device_tlbs = True

    def _translation_type(self, domain: int) -> TranslationType:
        """The same for all of a domain: devices with unlike entries may get what caches keep of each other."""
        return TranslationType.SECOND_STAGE_DEVICE_TLB if domain & 1 else TranslationType.SECOND_STAGE


class _Scalable:
    """Scalable mode (VT-d 3.4.2): each device has a PASID directory, and an entry for requests without PASID."""

    mode = TranslationTableMode.SCALABLE
    device_tlbs = False
    sets_flags = False

    def __init__(self, memory: WritableMemory, registers: VtdRegisters, random: Random) -> None:
        self._tables = VtdScalableTables(memory, TABLES.start)
        self._attached: set[int] = set()
        self._levels = registers.largest_level
        self._has_second_stage = registers.extended.second_stage

    @property
    def root(self) -> int:
        """See `Setup`."""
        return self._tables.root

    def pass_through(self, requester: int, domain: int) -> None:
        """See `Setup`."""
        self._enter(requester)
        # As in legacy mode; without second stages AW is reserved.
        width = {"AW": self._levels - 2} if self._has_second_stage else {}
        self._tables.attach_pasid(requester, domain, overrides=width)

    def spoil(self, random: Random, requester: int) -> None:
        """See `Setup`. Reserved fields that no build looks at stay 0: what follows from that hides all else."""
        self._attached.discard(requester)
        draw = random.random()
        if draw < 0.25:
            context: tuple[Mapping[str, int], ...] = (
                {"P": 0},
                {"P": 0, "FPD": 1},
                {"FPD": 1},
                {"RSVD_7": 1},
                {"RID_PASID": random.randrange(1, 64)},
                {"PASIDDIRPTR": random.choice(_OUTSIDE)},
            )
            self._tables.set_context_fields(requester, random.choice(context))
        elif draw < 0.5:
            directory: tuple[Mapping[str, int], ...] = (
                {"P": 0},
                {"FPD": 1},
                {"SMPTBLPTR": random.choice(_OUTSIDE)},
            )
            self._tables.set_directory_fields(requester, random.choice(directory))
        else:
            entry: tuple[Mapping[str, int], ...] = (
                {"P": 0},
                {"P": 0, "PGTT": 0},
                {"FPD": 1},
                {"PGTT": random.choice((0, PasidTranslation.NESTED, 5, 6, 7))},
                {"AW": _wrong_width(random, self._levels)} if self._has_second_stage else {"FPD": 1},
                {"SSPTPTR": random.choice(_OUTSIDE)},
                {"FSPTPTR": random.choice(_OUTSIDE) << 128},
                *self._bad_stages(random),
            )
            self._tables.set_pasid_fields(requester, random.choice(entry))

    def _bad_stages(self, random: Random) -> tuple[Mapping[str, int], ...]:
        """Fields that make a PASID table entry illegal, of what only some setups have."""
        return ()

    def silence(self, random: Random, requester: int) -> None:
        """See `Setup`."""
        change = random.choice(
            (self._tables.set_context_fields, self._tables.set_directory_fields, self._tables.set_pasid_fields)
        )
        try:
            change(requester, {"P": 0, "FPD": 1})
        except OutsideMemory:  # an entry above was spoilt, and leads elsewhere
            self._tables.set_context_fields(requester, {"P": 0, "FPD": 1})

    def _enter(self, requester: int) -> None:
        """Give a requester a context-entry, unless it has a good one."""
        if requester not in self._attached:
            self._tables.attach(requester)
            self._attached.add(requester)


class SecondStage(_Scalable):
    """Scalable mode with second-stage tables."""

    first_stage = False

    def __init__(self, memory: WritableMemory, registers: VtdRegisters, random: Random, levels: int) -> None:
        super().__init__(memory, registers, random)
        self._table_levels = levels
        self.width = WIDTHS[levels]
        self._guest_address_width = registers.guest_address_width
        self.bad_leaves = _bad_second_stage_leaves(registers)
        if random.random() >= _OVERLOOKED:
            self.bad_leaves = tuple(bad for bad in self.bad_leaves if "SNP" not in bad)

    def new_table(self) -> RadixTable:
        """See `Setup`."""
        return RadixTable(self._tables.pages, SecondStageFormat(), self._table_levels)

    def beyond(self, random: Random) -> int:
        """See `Setup`."""
        return _beyond(random, self._guest_address_width)

    def attach(self, requester: int, domain: int, table: RadixTable) -> None:
        """See `Setup`."""
        self._enter(requester)
        self._tables.attach_pasid(requester, domain, second_stage=table)


class FirstStage(_Scalable):
    """Scalable mode with first-stage tables."""

    first_stage = True
    width = _FIRST_STAGE_WIDTH

    def __init__(self, memory: WritableMemory, registers: VtdRegisters, random: Random, levels: int) -> None:
        super().__init__(memory, registers, random)
        self._has_five_levels = registers.first_stage_5_levels
        beyond = 1 << registers.host_address_width
        bad: tuple[Mapping[str, int], ...] = ({"ADDR": beyond}, {"ADDR": RAM_BYTES}, {"US": 0}, {"PS": 1}, {"P": 0})
        self.bad_leaves = (*bad, {"A": 0}, {"D": 0}) if random.random() < _OVERLOOKED else bad

    def new_table(self) -> RadixTable:
        """See `Setup`."""
        return RadixTable(self._tables.pages, FirstStageFormat(), _FIRST_STAGE_LEVELS, sign_extended=True)

    def beyond(self, random: Random) -> int:
        """See `Setup`."""
        return random.getrandbits(WIDTHS[_FIRST_STAGE_LEVELS] - 1) & -4 | 1 << self.width

    def attach(self, requester: int, domain: int, table: RadixTable) -> None:
        """See `Setup`."""
        self._enter(requester)
        self._tables.attach_pasid(requester, domain, first_stage=table)

    def _bad_stages(self, random: Random) -> tuple[Mapping[str, int], ...]:
        """Numbers of levels: five, which are legal with CAP_REG.FS5LP, and reserved ones (VT-d 9.6, FSPM)."""
        return tuple({"FSPM": modes} for modes in ((2, 3) if self._has_five_levels else (1, 2, 3)))


class FirstStageFlags(FirstStage):
    """The same, with accessed and dirty flags that are clear at first, for the hardware to set (VT-d 3.6.2)."""

    sets_flags = True

    def __init__(self, memory: WritableMemory, registers: VtdRegisters, random: Random, levels: int) -> None:
        super().__init__(memory, registers, random, levels)
        self.bad_leaves = tuple(bad for bad in self.bad_leaves if not bad.keys() & {"A", "D"})

    def new_table(self) -> RadixTable:
        """See `Setup`."""
        format = FirstStageFormat(preset_flags=False)
        return RadixTable(self._tables.pages, format, _FIRST_STAGE_LEVELS, sign_extended=True)

    def attach(self, requester: int, domain: int, table: RadixTable) -> None:
        """See `Setup`."""
        self._enter(requester)
        self._tables.attach_pasid(requester, domain, first_stage=table, overrides={"PWSNP": 1})


def _beyond(random: Random, width: int) -> int:
    return random.getrandbits(63) & -4 | 1 << width


def _bad_second_stage_leaves(registers: VtdRegisters) -> tuple[Mapping[str, int], ...]:
    beyond = 1 << registers.host_address_width
    return ({"ADDR": beyond}, {"ADDR": RAM_BYTES}, {"SNP": 1}, {"PS": 1}, {"IGN_52": 1}, {"R": 0, "W": 0})


def _wrong_width(random: Random, levels: int) -> int:
    """An AW field of no width, or of more levels than the tables have: with fewer, devices would write over tables."""
    widths: list[int] = [0, *range(levels - 1, 8)]
    return random.choice(widths)
