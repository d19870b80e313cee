"""Interrupts in programs for intel-iommu: the interrupt remapping table, and messages that devices send (VT-d 5.1)."""

from __future__ import annotations

from random import Random

from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import QUEUES
from harness.conform.targets.intel_driver import Driver
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.vtd.registers import VtdRegisters
from harness.model.x86_message import DeliveryMode

__all__ = ["Messages"]

_TABLE = QUEUES.start + 0x1_0000
_ENTRIES = 128
_MESSAGES = 64  # that devices have in their buffers: the numbers below
_NOBODY = 0xFE  # an APIC id that no processor has


class Messages:
    """The table, and what is sent to it.

    Args:
        writer: of the program.
        random: to choose by.
        registers: of the unit.
    """

    def __init__(self, writer: ProgramWriter, random: Random, registers: VtdRegisters) -> None:
        self._random = random
        extended = registers.extended.extended_interrupts and random.random() < 0.5
        self._table = InterruptTable(writer.memory, _TABLE, entries=_ENTRIES, extended=extended)
        self._destination_bits = (8, 32) if extended else (8,)
        for index in range(_ENTRIES):
            self._fill(index)

    @property
    def irta(self) -> int:
        """IRTA_REG."""
        return self._table.irta

    def send(self, traffic: Traffic, entry: DmaDevice) -> None:
        """A device sends a message."""
        random = self._random
        draw = random.random()
        number = random.randrange(_MESSAGES)
        if draw < 0.45:
            address, _ = remappable_message(random.randrange(_ENTRIES))
            number = 0
        elif draw < 0.9:
            address, _ = remappable_message(random.randrange(_ENTRIES), number)
        elif draw < 0.93:
            address, _ = remappable_message(random.getrandbits(16), number)
        elif draw < 0.96:
            address, _ = remappable_message(random.randrange(_ENTRIES))  # with reserved bits in its data
        else:
            address = 0xFEE0_0000 | _NOBODY << 12  # compatibility format
        traffic.message(entry, address, number)

    def change(self, driver: Driver) -> None:
        """Change an entry, and drop what is cached of it; or leave that, and what was cached may go on to count."""
        random = self._random
        index = random.randrange(_ENTRIES)
        self._fill(index)
        draw = random.random()
        if draw < 0.1:
            return
        if draw < 0.5:
            driver.invalidate_interrupts(index & ~1, 1)
        else:
            driver.invalidate_interrupts()

    def _fill(self, index: int) -> None:
        """Give an index an entry, or none."""
        random = self._random
        draw = random.random()
        overrides: dict[str, int] = {}
        requester = random.choice(DEVICES).requester if draw < 0.5 else None
        if draw > 0.97:
            overrides = {"P": 0}
        elif draw > 0.94:
            overrides = {"P": 0, "FPD": 1}
        elif draw > 0.92:
            overrides = {"RSVD_12": 1 << random.randrange(3)}
        elif draw > 0.90:
            overrides = {"RSVD_84": 1 << random.randrange(44)}
        elif draw > 0.88:
            overrides = {"SVT": 3}
        elif draw > 0.86:
            overrides = {"IM": 1}
        elif draw > 0.80:
            overrides = {"SVT": 2, "SID": random.randrange(5) << 8 | random.randrange(5)}
        elif draw > 0.7:
            fields = {"SVT": 1, "SID": random.choice(DEVICES).requester, "SQ": random.randrange(4)}
            overrides = fields
        elif draw > 0.67:
            overrides = {"FPD": 1, "RSVD_24": 1}
        self._table.remap(
            index,
            vector=random.randrange(0x20, 0xFF),
            destination=random.getrandbits(random.choice(self._destination_bits)),
            requester=requester,
            delivery_mode=random.choice((DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)),
            logical=random.random() < 0.5,
            level_triggered=random.random() < 0.3,
            overrides=overrides,
        )
