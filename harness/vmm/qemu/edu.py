"""The rogue device: QEMU's `edu`, told by the host to do any DMA, with no help from the guest.

Source: QEMU, hw/misc/edu.c and docs/specs/edu.rst. It has a buffer of 4 KiB at its own address 0x40000 and moves data
between that and memory. It never tells whether the IOMMU let it: a blocked read leaves zeroes in the buffer, a blocked
write nothing anywhere. So a test writes a pattern that is not zero, and looks at memory.

A transfer starts 100 ms of the guest's time after it was ordered. While one is pending the device ignores what is
written to its registers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.errors import SpecError, VmmError, VmmTimeout
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["BUFFER_BYTES", "Edu"]

BUFFER_BYTES = 4095
"""How much of the buffer can be used: the last of its 4096 bytes is one that QEMU up to 8 aborts on."""

_PCI_ID = (0x1234, 0x11E8)
_IDENTIFICATION = 0x00
_DMA_SOURCE = 0x80
_DMA_DESTINATION = 0x88
_DMA_COUNT = 0x90
_DMA_COMMAND = 0x98
_RUN = 1 << 0
_TO_MEMORY = 1 << 1
_BUFFER = 0x40000
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Edu:
    """One edu device.

    Attributes:
        function: where it is.
    """

    function: PciFunction

    def enable(self) -> None:
        """Let it answer accesses and make its own, whatever the guest thinks of it.

        Raises:
            SpecError: another device, or none, is there.
        """
        found = self.function.vendor_and_device
        if found != _PCI_ID:
            raise SpecError(
                f"at {self.function} is {found[0]:04x}:{found[1]:04x}, not an edu device ({_PCI_ID[0]:04x}:11e8)",
                hint="ask the guest where it stands: lspci",
            )
        self.function.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
        identification = self.function.qtest.read_value(self.function.bar(0) + _IDENTIFICATION, Width.LONG)
        if identification & 0xFFFF != 0x00ED:
            raise VmmError(f"edu at {self.function} identifies itself as {identification:#x}, not 0x...00ed")

    def dma_to_device(self, iova: int, offset: int, count: int, *, deadline: float = 5.0) -> None:
        """Read memory: `count` bytes from `iova` into the buffer at `offset`.

        Args:
            iova: address that the device puts on the bus.
            offset: into the buffer, bytes.
            count: bytes.
            deadline: seconds until the device is done; how it went it does not say.

        Raises:
            SpecError: outside the buffer, or nothing at all: some builds of QEMU abort on that.
            VmmTimeout: the transfer is still pending.
        """
        _check(iova, offset, count)
        self._transfer(iova, _BUFFER + offset, count, _RUN, deadline)

    def dma_from_device(self, offset: int, iova: int, count: int, *, deadline: float = 5.0) -> None:
        """Write memory: `count` bytes from the buffer at `offset` to `iova`.

        Args and errors: see `dma_to_device`.
        """
        _check(iova, offset, count)
        self._transfer(_BUFFER + offset, iova, count, _RUN | _TO_MEMORY, deadline)

    def wait_idle(self, *, deadline: float = 5.0) -> None:
        """Wait until no transfer is pending.

        Raises:
            VmmTimeout: one is, after so many seconds.
        """
        self._wait(self.function.bar(0), "a transfer", time.monotonic() + deadline, deadline)

    def _transfer(self, source: int, destination: int, count: int, command: int, deadline: float) -> None:
        end = time.monotonic() + deadline
        base = self.function.bar(0)
        self._wait(base, "the transfer before this one", end, deadline)
        orders = ((_DMA_SOURCE, source), (_DMA_DESTINATION, destination), (_DMA_COUNT, count), (_DMA_COMMAND, command))
        self.function.qtest.batch([f"writeq {base + register:#x} {value:#x}" for register, value in orders])
        self._wait(base, f"a transfer of {count} bytes from {source:#x} to {destination:#x}", end, deadline)

    def _wait(self, base: int, what: str, end: float, deadline: float) -> None:
        while self.function.qtest.read_value(base + _DMA_COMMAND, Width.QUAD) & _RUN:
            if time.monotonic() > end:
                raise VmmTimeout(
                    f"edu at {self.function} has not finished {what} within {deadline:g} s",
                    hint="it runs in the guest's time: is the guest stopped?",
                )
            time.sleep(_POLL_SECONDS)


def _check(iova: int, offset: int, count: int) -> None:
    if count < 1 or offset < 0 or offset + count > BUFFER_BYTES:
        raise SpecError(
            f"edu: {count} bytes at {offset:#x} of its buffer",
            hint=f"one byte or more, within the first {BUFFER_BYTES} bytes of the buffer",
        )
    if not 0 <= iova < 1 << 64:
        raise SpecError(f"edu: {iova:#x} is not a 64-bit address")
