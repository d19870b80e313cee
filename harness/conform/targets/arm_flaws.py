"""What programs for arm-smmuv3 make wrong in STEs, CDs and descriptors, and what few programs have besides."""

from __future__ import annotations

from enum import Enum, auto

from harness.conform.board import ARM
from harness.conform.command import behind_memory

__all__ = ["BAD_CDS", "BAD_STAGE2_STES", "BAD_STES", "FAR_CONTEXTS", "ODD_STES", "WEIGHTS", "Oddity"]

_OUTSIDE = behind_memory(ARM)


class Oddity(Enum):
    """What a program may have beside what is ordinary. Builds get it wrong in ways that end a program."""

    ODD_STREAMS = auto()
    FAR_CONTEXTS = auto()
    LOST_STREAMS = auto()
    UPPER_HALF = auto()
    FAR_BYPASS = auto()
    PRIVILEGED_PAGES = auto()
    TABLE_RIGHTS = auto()
    STAGE2_RIGHTS = auto()
    BLOCK_LEVELS = auto()
    CONCATENATED = auto()
    NO_OUTPUT_SIZE = auto()
    RESET = auto()
    SWITCHING = auto()
    OVERFLOW = auto()
    HOTPLUG = auto()


WEIGHTS = {
    Oddity.ODD_STREAMS: 0.04,
    Oddity.FAR_CONTEXTS: 0.1,
    Oddity.LOST_STREAMS: 0.1,
    Oddity.UPPER_HALF: 0.4,
    Oddity.FAR_BYPASS: 0.06,
    Oddity.PRIVILEGED_PAGES: 0.08,
    Oddity.TABLE_RIGHTS: 0.08,
    Oddity.STAGE2_RIGHTS: 0.12,
    Oddity.BLOCK_LEVELS: 0.12,
    Oddity.CONCATENATED: 0.05,
    Oddity.NO_OUTPUT_SIZE: 0.01,
    Oddity.RESET: 0.15,
    Oddity.SWITCHING: 0.2,
    Oddity.OVERFLOW: 0.1,
    Oddity.HOTPLUG: 0.1,
}
"""How many of the programs have each."""

BAD_STES: tuple[dict[str, int], ...] = (
    {"V": 0},
    {"CONFIG": 0},
    {"CONFIG": 3},
    {"S1FMT": 3},
    {"S1DSS": 0},
    {"S1STALLD": 1},
    {"EATS": 1},
    {"STRW": 2},
    {"CONT": 15},
    {"MEV": 1},
    {"PRIVCFG": 2},
    {"PRIVCFG": 3},
    {"INSTCFG": 3},
    {"S1CONTEXTPTR": _OUTSIDE},
    {"SHCFG": 3, "MTCFG": 1, "MEMATTR": 5, "ALLOCCFG": 9},
    {"RSVD_UPPER": 1},
)
FAR_CONTEXTS: dict[str, int] = {"S1CONTEXTPTR": 1 << 45}
# That QEMU is known to take in another way, which ends a program.
ODD_STES: tuple[dict[str, int], ...] = ({"S1CDMAX": 1}, {"S2HA": 1}, {"S2HD": 1}, {"S2PS": 0}, {"S2PS": 1})
BAD_STAGE2_STES: tuple[dict[str, int], ...] = (
    {"S2T0SZ": 15},
    {"S2T0SZ": 19},
    {"S2T0SZ": 20},
    {"S2T0SZ": 40},
    {"S2SL0": 0},
    {"S2SL0": 1},
    {"S2SL0": 3},
    {"S2TG": 1},
    {"S2TG": 3},
    {"S2PS": 7},
    {"S2ENDI": 1},
    {"S2AFFD": 1},
    {"S2PTW": 1},
    {"S2S": 1},
    {"S2R": 0},
    {"S2TTB": _OUTSIDE >> 4},
    {"S2TTB": 1 << 41},
    {"S2VMID": 0xFFFF},
)
BAD_CDS: tuple[dict[str, int], ...] = (
    {"V": 0},
    {"AA64": 0},
    {"T0SZ": 15},
    {"T0SZ": 16},
    {"T0SZ": 24},
    {"T0SZ": 39},
    {"T0SZ": 40},
    {"T1SZ": 41},
    {"TG0": 1},
    {"TG0": 3},
    {"EPD0": 1},
    {"EPD1": 1},
    {"EPD1": 0},
    {"IPS": 0},
    {"IPS": 1},
    {"ENDI": 1},
    {"S": 1},
    {"A": 0},
    {"R": 0},
    {"AFFD": 1},
    {"WXN": 1},
    {"UWXN": 1},
    {"PAN": 1},
    {"TBI0": 1},
    {"TBI1": 1},
    {"HAD0": 1},
    {"HA": 1},
    {"HD": 1},
    {"ASET": 1},
    {"E0PD0": 1},
    {"ASID": 0xFFFF},
    {"TTB0": _OUTSIDE >> 4},
    {"TTB0": 1 << 41},
    {"MAIR": (1 << 64) - 1},
)
