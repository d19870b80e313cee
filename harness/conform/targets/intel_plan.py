"""What programs for intel-iommu are like: the mode, and what a program may have beside what is ordinary."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from harness.conform.targets.intel_tables import FirstStage, Legacy, SecondStage
from harness.model.vtd.register_layouts import TranslationTableMode

__all__ = ["Oddity", "Plan", "draw_oddities"]


class Oddity(Enum):
    """Something that a program may have beside what is ordinary."""

    DEVICE_ENTRIES = auto()
    PASS_THROUGH = auto()
    RIGHTS = auto()
    LEAVES = auto()
    STALE = auto()
    REATTACH = auto()
    EVENTS = auto()
    OVERFLOW = auto()
    ILLEGAL_COMMANDS = auto()
    WAITS = auto()
    SWITCHING = auto()
    RESET = auto()
    HOTPLUG = auto()
    BEYOND = auto()
    ROOT_MODE = auto()
    SILENCE = auto()
    ANY_ACCESS = auto()


_WEIGHTS = {
    Oddity.DEVICE_ENTRIES: 0.35,
    Oddity.PASS_THROUGH: 0.3,
    Oddity.RIGHTS: 0.6,
    Oddity.LEAVES: 0.25,
    Oddity.STALE: 0.5,
    Oddity.REATTACH: 0.3,
    Oddity.EVENTS: 0.2,
    Oddity.OVERFLOW: 0.15,
    Oddity.ILLEGAL_COMMANDS: 0.1,
    Oddity.WAITS: 0.3,
    Oddity.SWITCHING: 0.1,
    Oddity.RESET: 0.08,
    Oddity.HOTPLUG: 0.01,
    Oddity.BEYOND: 0.1,
    Oddity.ROOT_MODE: 0.01,
    Oddity.SILENCE: 0.02,
    Oddity.ANY_ACCESS: 0.1,
}


def draw_oddities(random: Random, *, messages: bool = False) -> frozenset[Oddity]:
    """Those of one program: few, so that none hides the others.

    Args:
        random: to choose by.
        messages: devices send interrupts. Builds record them with another requester, by which they tell what one record
            stands for: so none is left standing.
    """
    found = frozenset(each for each, weight in _WEIGHTS.items() if random.random() < weight)
    return found - {Oddity.OVERFLOW} if messages else found


@dataclass(frozen=True, slots=True)
class Plan:
    """What programs of a target are like.

    Attributes:
        setup: the mode.
        pass_through: how many of the devices pass through, in programs that have such.
        messages: interrupts are remapped, and devices send some.
    """

    setup: type[Legacy | SecondStage | FirstStage] = Legacy
    pass_through: float = 0.1
    messages: bool = False

    @property
    def mode(self) -> TranslationTableMode:
        """RTADDR_REG.TTM."""
        return self.setup.mode

    @property
    def device_tlbs(self) -> bool:
        """Whether devices are described as ones that may have a TLB."""
        return self.setup.device_tlbs

    @property
    def sets_flags(self) -> bool:
        """Whether the hardware has accessed and dirty flags to set."""
        return self.setup.sets_flags

    @property
    def first_stage(self) -> bool:
        """Whether page tables are those of the first stage."""
        return self.setup.first_stage
