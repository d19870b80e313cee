"""What programs for amd-iommu have beside what is ordinary: each a few of these, so that none hides the others."""

from __future__ import annotations

from enum import Enum, auto
from random import Random

__all__ = ["LEAKS", "Oddity", "choose_oddities", "rounds_of"]


class Oddity(Enum):
    """Something that a program may have beside what is ordinary."""

    DEVICE_FIELDS = auto()
    DEVICE_RESERVED = auto()
    UPPER_RIGHTS = auto()
    ENTRIES = auto()
    ENTRY_BITS = auto()
    SKIPPED_LEVELS = auto()
    SHORT_TABLE = auto()
    EXCLUSION = auto()
    ILLEGAL_COMMANDS = auto()
    LOG = auto()
    SMALL_ACCESSES = auto()
    SWITCHING = auto()
    HOTPLUG = auto()
    RESET = auto()
    MESSAGES = auto()
    ALL_ONLY = auto()
    """Entries of devices are invalidated together with everything, and not one by one."""


_WEIGHTS = {
    Oddity.DEVICE_FIELDS: 0.25,
    Oddity.DEVICE_RESERVED: 0.1,
    Oddity.UPPER_RIGHTS: 0.1,
    Oddity.ENTRIES: 0.25,
    Oddity.ENTRY_BITS: 0.05,
    Oddity.SKIPPED_LEVELS: 0.1,
    Oddity.SHORT_TABLE: 0.05,
    Oddity.EXCLUSION: 0.1,
    Oddity.ILLEGAL_COMMANDS: 0.1,
    Oddity.LOG: 0.12,
    Oddity.SMALL_ACCESSES: 0.1,
    Oddity.SWITCHING: 0.15,
    Oddity.HOTPLUG: 0.01,
    Oddity.RESET: 0.1,
    Oddity.MESSAGES: 0.1,
    Oddity.ALL_ONLY: 0.03,
}

LEAKS = frozenset(
    {
        Oddity.ENTRY_BITS,
        Oddity.DEVICE_RESERVED,
        Oddity.UPPER_RIGHTS,
        Oddity.SHORT_TABLE,
        Oddity.ALL_ONLY,
        Oddity.SKIPPED_LEVELS,
        Oddity.EXCLUSION,
    }
)
"""What may have a device write where it must not, or not write where it must."""


# Rounds of DMA. What costs QEMU most is to turn translation on, so programs that no mistake of its is likely to end are
# longer.
_ROUNDS, _MORE_ROUNDS = range(40, 71), range(160, 241)
_ENDINGS = LEAKS | {Oddity.ENTRIES, Oddity.ILLEGAL_COMMANDS, Oddity.LOG}


def rounds_of(oddities: frozenset[Oddity]) -> range:
    """How many rounds of DMA a program with these may have."""
    return _ROUNDS if oddities & _ENDINGS else _MORE_ROUNDS


def choose_oddities(random: Random) -> frozenset[Oddity]:
    """Some, each with its weight."""
    chosen = {oddity for oddity, weight in _WEIGHTS.items() if random.random() < weight}
    if Oddity.EXCLUSION in chosen:
        # What the range leads to would be seen as events that must not be.
        chosen.discard(Oddity.LOG)
    return frozenset(chosen)
