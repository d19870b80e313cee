"""Messages as QEMU's APIC tells of them when it takes them, in a trace event: what reaches the processors of a PC.

Those that devices send and the IOMMU lets through are told of, and the IOMMU's own, whatever the processor makes of
them then. The redirection hint and the level are not told: QEMU's APIC does not look at them. Under KVM the APIC is not
QEMU's, and nothing is told.

Source: QEMU, hw/intc/apic.c and hw/intc/trace-events.
"""

from __future__ import annotations

import re

from harness.errors import SpecError
from harness.observations import Message

__all__ = ["DELIVERY_EVENT", "read_message"]

DELIVERY_EVENT = "apic_deliver_irq"
"""The trace event."""

_EVENT = re.compile(r"dest (\d+) dest_mode (\d+) delivery_mode (\d+) vector (\d+) trigger_mode (\d+)")


def read_message(text: str) -> Message:
    """What QEMU tells of one, as in "dest 3 dest_mode 0 delivery_mode 0 vector 65 trigger_mode 0".

    Raises:
        SpecError: this build words it in a way that is not known.
    """
    found = _EVENT.fullmatch(text)
    if found is None:
        raise SpecError(f"trace event {DELIVERY_EVENT} is worded in a way that is not known: {text!r}")
    return Message(*map(int, found.groups()))
