"""Interrupts of a running machine: the messages that its devices are told to send, and those that arrive."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

from harness.errors import GuestError, Unsupported
from harness.observations import Message
from harness.vmm.qemu.apic import DELIVERY_EVENT, read_message
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qtest import Width
from harness.vmm.qemu.trace import set_state

__all__ = ["Arrivals", "Sent", "messages"]

_MSI, _MSIX = 0x05, 0x11
_MSI_64, _MSI_ENABLED = 1 << 7, 1 << 0
_MSIX_ENABLED, _MSIX_MASKED = 1 << 15, 1 << 0
_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as a function's driver has programmed it: what is written where."""

    address: int
    data: int


def messages(function: PciFunction) -> tuple[Sent, ...]:
    """The messages that a function sends: of MSI-X those that are not masked, of MSI its first (PCI 3.0, 6.8).

    Raises:
        GuestError: its driver uses neither, or has masked all.
    """
    for kind, at in function.capabilities():
        control = function.read(at + 2, Width.WORD)
        if kind == _MSIX and control & _MSIX_ENABLED:
            return _msix(function, at, (control & 0x7FF) + 1)
        if kind == _MSI and control & _MSI_ENABLED:
            high = function.read(at + 8, Width.LONG) if control & _MSI_64 else 0
            data = function.read(at + (12 if control & _MSI_64 else 8), Width.WORD)
            return (Sent(high << 32 | function.read(at + 4, Width.LONG), data),)
    raise GuestError(f"the driver of {function} has switched neither MSI nor MSI-X on")


def _msix(function: PciFunction, at: int, size: int) -> tuple[Sent, ...]:
    where = function.read(at + 4, Width.LONG)
    table = function.bar(where & 7) + (where & ~7)
    found = []
    for entry in range(table, table + 16 * size, 16):
        low, high, data, control = (function.qtest.read_value(entry + 4 * n, Width.LONG) for n in range(4))
        if not control & _MSIX_MASKED:
            found.append(Sent(high << 32 | low, data))
    if not found:
        raise GuestError(f"the driver of {function} has masked all of its messages")
    return tuple(found)


class Arrivals:
    """The messages that reach the processors of a machine while its block lasts.

    Args:
        vmm: the running machine.

    Raises:
        Unsupported: it runs under KVM, which tells nobody of them.
    """

    def __init__(self, vmm: QemuMachine) -> None:
        if vmm.qmp.execute("query-kvm")["enabled"]:
            raise Unsupported(
                "under KVM the APIC is the host kernel's, and QEMU does not tell what arrives (QMP query-kvm)",
                hint="run these cases under TCG",
            )
        self._vmm = vmm

    def __enter__(self) -> Self:
        self._events = self._vmm.trace.another()
        set_state(self._vmm.qmp, DELIVERY_EVENT, enable=True)
        return self

    def __exit__(self, *_: object) -> None:
        set_state(self._vmm.qmp, DELIVERY_EVENT, enable=False)

    def seen(self) -> tuple[Message, ...]:
        """Those since the last call, after a moment."""
        time.sleep(_SECONDS)
        return tuple(read_message(event.text) for event in self._events.new() if event.name == DELIVERY_EVENT)
