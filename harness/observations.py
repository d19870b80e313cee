"""What was seen of a machine, as data: written by whoever drives it, read by `harness.checks`.

What the guest's agent and lspci report has its types where it is read, in `harness.guest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from harness.model.x86_message import X86Message

__all__ = ["DmaSeen", "Leftovers", "Message"]

_CODES = ("DM", "DELIVERY_MODE", "TRIGGER_MODE")


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaSeen:
    """What a DMA write left behind.

    Attributes:
        before: guest memory, by guest physical address, as it was before: the target and its surroundings.
        after: the same addresses, afterwards.
        payload: what stood in the device's buffer.
        aim: guest physical address where the payload stands afterwards if nothing stops the write.
    """

    before: dict[int, bytes]
    after: dict[int, bytes]
    payload: bytes
    aim: int


class Message(NamedTuple):
    """An interrupt message as an APIC takes it: fields of its address and data (`harness.model.x86_message`)."""

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

    def __str__(self) -> str:
        """In QEMU's words for it."""
        destination, logical, mode, vector, trigger = self
        return f"dest {destination} dest_mode {logical} delivery_mode {mode} vector {vector} trigger_mode {trigger}"

    def differing(self, seen: Message) -> str:
        """The fields in which another differs."""
        texts = []
        for name, wanted, value in zip(self._fields, self, seen, strict=True):
            if wanted != value:
                texts.append(f"{name} is {value:#x} for {wanted:#x}" if name in _CODES else f"{name} differs")
        return ", ".join(texts)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What there is of a machine at one moment.

    Attributes:
        groups: IOMMU groups in the guest.
        functions: PCI functions in the guest.
        guest_kib: memory of the guest that is in use and cannot be had back, KiB.
        descriptors: file descriptors of QEMU.
        threads: threads of QEMU.
        vmm_kib: memory that QEMU has to itself besides guest RAM and translated code, KiB.
    """

    groups: int
    functions: int
    guest_kib: int
    descriptors: int
    threads: int
    vmm_kib: int
