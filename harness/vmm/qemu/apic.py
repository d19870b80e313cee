"""Messages as QEMU's APIC tells of them when it takes them, in a trace event: what reaches the processors of a PC.

Those that devices send and the IOMMU lets through are told of, and the IOMMU's own, whatever the processor makes of
them then. The redirection hint and the level are not told: QEMU's APIC does not look at them.

Source: QEMU, hw/intc/apic.c and hw/intc/trace-events.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from harness.model.x86_message import X86Message

__all__ = ["DELIVERY_EVENT", "Message"]

DELIVERY_EVENT = "apic_deliver_irq"
"""The trace event."""

_EVENT = re.compile(r"dest (\d+) dest_mode (\d+) delivery_mode (\d+) vector (\d+) trigger_mode (\d+)")
_CODES = ("DM", "DELIVERY_MODE", "TRIGGER_MODE")


class Message(NamedTuple):
    """A message as the APIC takes it: fields of its address and data (`x86_message`)."""

    DESTINATION: int
    DM: int
    DELIVERY_MODE: int
    VECTOR: int
    TRIGGER_MODE: int

    @classmethod
    def sent(cls, address: int, data: int) -> Self:
        """What a write of those says."""
        sent = X86Message.decode(address, data)
        return cls(sent.destination, int(sent.logical), sent.delivery_mode, sent.vector, int(sent.level_triggered))

    @classmethod
    def told(cls, text: str) -> Self:
        """What QEMU tells of one, as in "dest 3 dest_mode 0 delivery_mode 0 vector 65 trigger_mode 0"."""
        found = _EVENT.fullmatch(text)
        assert found is not None, text
        return cls(*map(int, found.groups()))

    def line(self, event: str) -> str:
        """What QEMU tells of it, in a trace event of that name."""
        destination, logical, mode, vector, trigger = self
        return (
            f"{event} dest {destination} dest_mode {logical} delivery_mode {mode} vector {vector}"
            f" trigger_mode {trigger}"
        )

    def differing(self, seen: Message) -> str:
        """The fields in which another differs."""
        texts = []
        for name, wanted, value in zip(self._fields, self, seen, strict=True):
            if wanted != value:
                texts.append(f"{name} is {value:#x} for {wanted:#x}" if name in _CODES else f"{name} differs")
        return ", ".join(texts)
