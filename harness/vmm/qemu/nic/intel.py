"""Intel's 82574L (QEMU's e1000e) and 82576 (igb), driven by their registers: one queue each way, no interrupts.

Sections are those of the 82574 GbE Controller Family Datasheet, with those of the 82576 Datasheet behind a slash. What
the cards do of it is in QEMU, hw/net/e1000e_core.c and igb_core.c: a descriptor is fetched, and its frame sent, while
the tail register is written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import SpecError
from harness.vmm.protocol import GuestMemory
from harness.vmm.qemu.nic.protocol import QUEUE_BYTES, QueuePage, wait_until
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, PciFunction
from harness.vmm.qemu.qtest import Width

__all__ = ["I82574", "I82576", "IntelModel", "IntelNic"]

_CTRL, _STATUS, _MDIC, _RCTL, _TCTL = 0x0000, 0x0008, 0x0020, 0x0100, 0x0400
_SET_LINK_UP, _RESET = 1 << 6, 1 << 26  # CTRL: 10.2.2.1 / 8.2.1
_LINK_UP = 1 << 1  # STATUS: 10.2.2.2 / 8.2.2
# MDIC (10.2.2.7 / 8.2.4): write to register 0 of PHY 1, its control (IEEE 802.3, 22.2.4.1).
_MDIC_WRITE, _PHY = 1 << 26, 1 << 21
_AUTONEGOTIATE, _RESTART_AUTONEGOTIATION = 1 << 12, 1 << 9
# RCTL (10.2.5.1 / 8.10.1): every frame is taken, its checksum is not stored, buffers have 2048 bytes.
_RECEIVE, _ALL_UNICAST, _ALL_MULTICAST, _BROADCAST, _STRIP_CRC = 1 << 1, 1 << 3, 1 << 4, 1 << 15, 1 << 26
_BUFFER_BYTES = 2048
_SEND, _PAD_SHORT = 1 << 1, 1 << 3  # TCTL: 10.2.6.1 / 8.12.1
# From where the registers of a queue begin: 10.2.5.5 to 9 / 8.10.5 to 9.
_BASE_LOW, _BASE_HIGH, _LENGTH, _SPLIT, _HEAD, _TAIL = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x18
_ONE_BUFFER = 1 << 25  # SRRCTL.DESCTYPE: advanced descriptors (8.10.2)

_DESCRIPTOR = struct.Struct("<QII")
_DESCRIPTORS = 8  # in a queue of `start`, whose length is in units of 128 bytes
# A data descriptor's command (7.2.10.2.2 / 7.2.2.3): last of its frame, add the checksum, not a legacy one.
_END, _ADD_CRC, _EXTENDED = 1 << 24, 1 << 25, 1 << 29
_LENGTH_MASK = 0xFFFF  # also of a legacy one (7.2.10.1): more than a frame has
_LINK_SECONDS = 5.0  # of the guest's time it takes half a second


@dataclass(frozen=True, slots=True)
class IntelModel:
    """In what the two differ.

    Attributes:
        name: of QEMU's device.
        device: its device id.
        sending: where the registers of the first queue to send from begin.
        receiving: those of the first queue to receive into.
        data: DTYP of a descriptor of data.
        advanced: whether a descriptor says how long the whole frame is, and a register of what form those of buffers
            are (SRRCTL).
    """

    name: str
    device: int
    sending: int
    receiving: int
    data: int
    advanced: bool


I82574 = IntelModel("e1000e", 0x10D3, sending=0x3800, receiving=0x2800, data=1, advanced=False)
"""QEMU's e1000e."""
I82576 = IntelModel("igb", 0x10C9, sending=0xE000, receiving=0xC000, data=3, advanced=True)
"""QEMU's igb."""


class IntelNic:
    """One card; see `Nic`.

    Args:
        model: which of them it is.
        function: where it is.
        memory: of its guest.
    """

    def __init__(self, model: IntelModel, function: PciFunction, memory: GuestMemory) -> None:
        self._model = model
        self._function = function
        self._memory = memory
        self._registers = 0
        self._sending = self._receiving = QueuePage(0, 0)
        self._descriptors = _DESCRIPTORS

    def start(self, sending: QueuePage, receiving: QueuePage) -> None:
        """See `Nic`."""
        found = self._function.vendor_and_device
        if found != (0x8086, self._model.device):
            raise SpecError(f"at {self._function} is {found[0]:04x}:{found[1]:04x}, not an {self._model.name}")
        self._function.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
        self._registers = self._function.bar(0)
        self._sending, self._receiving, self._descriptors = sending, receiving, _DESCRIPTORS
        self._write(_CTRL, _SET_LINK_UP | _RESET)
        self._write(_CTRL, _SET_LINK_UP)
        if not self._has_link():
            self._write(_MDIC, _MDIC_WRITE | _PHY | _AUTONEGOTIATE | _RESTART_AUTONEGOTIATION)
            wait_until(self._has_link, f"{self} has no link", _LINK_SECONDS)
        self._set_up(self._model.sending, sending)
        self._set_up(self._model.receiving, receiving)
        if self._model.advanced:
            self._write(self._model.receiving + _SPLIT, _ONE_BUFFER)
        self._write(_TCTL, _SEND | _PAD_SHORT)
        self._write(_RCTL, _RECEIVE | _ALL_UNICAST | _ALL_MULTICAST | _BROADCAST | _STRIP_CRC)

    def take_over(self, translate: Callable[[int], int]) -> None:
        """Go on with the queue to send from that its driver has set up, in place of `start`; nothing is received.

        The driver must not go on with it afterwards: it knows nothing of that.

        Args:
            translate: guest physical address where an address of the card leads. The queue stands in one piece there.
        """
        self._registers = self._function.bar(0)
        queue = self._model.sending
        iova = self._read(queue + _BASE_HIGH) << 32 | self._read(queue + _BASE_LOW)
        self._sending = QueuePage(iova, translate(iova))
        self._descriptors = self._read(queue + _LENGTH) // _DESCRIPTOR.size

    @property
    def last_sent(self) -> tuple[int, int]:
        """IOVA and bytes of the last piece that was put into the queue to send from."""
        last = (self._read(self._model.sending + _TAIL) - 1) % self._descriptors
        data = self._memory.read(self._sending.address + last * _DESCRIPTOR.size, _DESCRIPTOR.size)
        iova, command, _ = _DESCRIPTOR.unpack(data)
        return iova, command & _LENGTH_MASK

    def send(self, *pieces: tuple[int, int]) -> None:
        """See `Nic`."""
        command, last = self._model.data << 20 | _ADD_CRC | _EXTENDED, len(pieces) - 1
        total = sum(count for _, count in pieces) << 14 if self._model.advanced else 0
        chain = [(iova, count | command | (_END if n == last else 0), total) for n, (iova, count) in enumerate(pieces)]
        self._put(self._model.sending, self._sending, *chain)

    def offer(self, iova: int, count: int) -> None:
        """See `Nic`."""
        if count > _BUFFER_BYTES:
            raise SpecError(f"a buffer of {count} bytes for {self}", hint=f"it has {_BUFFER_BYTES} at most")
        self._put(self._model.receiving, self._receiving, (iova, 0, 0))

    def wait_sent(self, *, deadline: float = 5.0) -> None:
        """See `Nic`."""
        wait_until(lambda: self._is_done(self._model.sending), f"{self} has not sent all frames", deadline)

    def wait_received(self, *, deadline: float = 5.0) -> None:
        """See `Nic`."""
        wait_until(lambda: self._is_done(self._model.receiving), f"{self} has not filled all buffers", deadline)

    def __str__(self) -> str:
        return f"the {self._model.name} at {self._function}"

    def _has_link(self) -> bool:
        return bool(self._read(_STATUS) & _LINK_UP)

    def _set_up(self, queue: int, page: QueuePage) -> None:
        self._memory.write(page.address, bytes(QUEUE_BYTES))
        self._write(queue + _BASE_LOW, page.iova & 0xFFFF_FFFF)
        self._write(queue + _BASE_HIGH, page.iova >> 32)
        self._write(queue + _LENGTH, _DESCRIPTORS * _DESCRIPTOR.size)
        self._write(queue + _HEAD, 0)
        self._write(queue + _TAIL, 0)

    def _put(self, queue: int, page: QueuePage, *chain: tuple[int, int, int]) -> None:
        tail = self._read(queue + _TAIL)
        for descriptor in chain:
            self._memory.write(page.address + tail * _DESCRIPTOR.size, _DESCRIPTOR.pack(*descriptor))
            tail = (tail + 1) % self._descriptors
        self._write(queue + _TAIL, tail)

    def _is_done(self, queue: int) -> bool:
        return self._read(queue + _HEAD) == self._read(queue + _TAIL)

    def _read(self, register: int) -> int:
        return self._function.qtest.read_value(self._registers + register, Width.LONG)

    def _write(self, register: int, value: int) -> None:
        self._function.qtest.write_value(self._registers + register, value, Width.LONG)
