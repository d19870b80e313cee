"""The course of a program: everything is set up, then devices make requests while tables change under them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from typing import ClassVar

from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.program import Program
from harness.conform.targets.address_spaces import AddressSpace, Mapped, PageChanges, Spoil
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter

__all__ = ["Course"]

_LOOKS = 0.35


class Course(ABC):
    """A program whose devices have address spaces, of one stage or two. What each part of it is an architecture says.

    Args:
        writer: of the program.
        random: to choose by.
        traffic: of its devices.

    Attributes:
        BEFORE: how often there is DMA before translation is on, 0 to 1.
        CHANGES: how often something is changed between two rounds of DMA.
        RARELY: how often something happens that does not happen often.
        ROUNDS: how many rounds of DMA there are.
    """

    BEFORE: ClassVar[float]
    CHANGES: ClassVar[float]
    RARELY: ClassVar[float] = 0.12
    ROUNDS: ClassVar[range] = range(9, 16)

    def __init__(self, writer: ProgramWriter, random: Random, traffic: Traffic) -> None:
        self.writer = writer
        self.random = random
        self.traffic = traffic
        self._changes = PageChanges(random)

    def program(self) -> Program:
        """All of it."""
        random = self.random
        self.make_tables()
        for entry in DEVICES:
            self.attach(entry)
        self.set_up()
        if random.random() < self.BEFORE:
            self.while_off()
        self.turn_on()
        for _ in range(random.choice(self.ROUNDS)):
            self.burst()
            if random.random() < _LOOKS:
                self.look()
            if random.random() < self.CHANGES:
                self.change()
            if random.random() < self.RARELY:
                self.rarely()
        self.at_last()
        self.look()
        return self.writer.program()

    @abstractmethod
    def at_last(self) -> None:
        """What a program may end with."""

    @abstractmethod
    def make_tables(self) -> None:
        """Address spaces, with pages in them."""

    @abstractmethod
    def attach(self, entry: DmaDevice) -> None:
        """Give a device what leads to an address space: good ones for the most part."""

    @abstractmethod
    def space_of(self, entry: DmaDevice) -> AddressSpace | None:
        """Where the addresses of a device are looked up first; None where they are not."""

    @abstractmethod
    def set_up(self) -> None:
        """Registers and queues, as after a reset."""

    @abstractmethod
    def turn_on(self) -> None:
        """Translate from now on."""

    @abstractmethod
    def while_off(self) -> None:
        """DMA before translation is on."""

    @abstractmethod
    def burst(self) -> None:
        """One DMA of each of many devices."""

    @abstractmethod
    def look(self) -> None:
        """Read what there is to see of faults and commands."""

    @abstractmethod
    def change(self) -> None:
        """Change a table, and tell the IOMMU of it, or not."""

    @abstractmethod
    def rarely(self) -> None:
        """What does not happen often."""

    def find_places(self, entry: DmaDevice) -> None:
        """Tell the traffic where a device has pages."""
        space = self.space_of(entry)
        self.traffic.places[entry.id] = [] if space is None else [each.inside for each in space.mapped]

    def change_page(self, space: AddressSpace, map_one: Callable[[], None], spoil: Spoil) -> Mapped | None:
        """Map, unmap, spoil or mend a page, and tell the traffic; see `PageChanges`."""
        page = self._changes.change(space, map_one=map_one, spoil=spoil)
        for entry in DEVICES:
            self.find_places(entry)
        return page
