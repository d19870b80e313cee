"""What an edu device does with a DMA: its buffer, and how QEMU cuts a transfer into requests.

Source: QEMU, hw/misc/edu.c and system/physmem.c (`address_space_rw`). A transfer is cut at the end of what one
translation covers. What is blocked is no memory, and goes in accesses as large as the address is aligned, of 4 bytes at
most, so that each of them is a request of its own with a fault of its own. A blocked read gives zeroes.

The buffer is divided: numbers that serve as data of interrupts, then words that occur nowhere else, which devices write
to memory, and behind them room for what they read.
"""

from __future__ import annotations

from random import Random

from harness.model.access import AccessKind

__all__ = [
    "BUFFER_BYTES",
    "CLOCK_STEP",
    "COMMAND",
    "LANDING",
    "MESSAGES",
    "PAYLOADS",
    "blocked_length",
    "first_buffer",
    "order",
]

BUFFER_BYTES = 4095
"""How much of the buffer is used: builds up to 8 abort on its last byte."""

MESSAGES = range(256)
"""Offsets of 64 words with their own number in them, little-endian."""
PAYLOADS = range(256, 2048)
"""Offsets of words that stand nowhere else."""
LANDING = range(2048, BUFFER_BYTES)
"""Where reads land."""

COMMAND = 0x98
"""Offset of the register that orders a DMA, bytes."""
CLOCK_STEP = "clock_step 100000001"
"""The qtest command that lets the time pass that a DMA takes, 100 ms, where only the harness makes time pass."""

_WORD = 4
_BUFFER = 0x4_0000  # where the device itself has its buffer
_SOURCE, _DESTINATION, _COUNT = 0x80, 0x88, 0x90
_TO_BUFFER, _TO_MEMORY = 1, 3


def first_buffer(number: int) -> bytes:
    """What device number `number` has in its buffer at first."""
    random = Random(f"edu{number}")
    messages = b"".join(word.to_bytes(_WORD, "little") for word in range(len(MESSAGES) // _WORD))
    # The device's number in the top byte and a count below make each word the only one of its kind; none is zero.
    words = [
        (number + 1) << 24 | count << 12 | random.getrandbits(12) for count in range(1, len(PAYLOADS) // _WORD + 1)
    ]
    payloads = b"".join(word.to_bytes(_WORD, "little") for word in words)
    return messages + payloads + bytes(BUFFER_BYTES - len(messages) - len(payloads))


def blocked_length(iova: int, left: int) -> int:
    """How many bytes from `iova` on, of `left`, go in one access where nothing answers."""
    length = min(left, _WORD, iova & -iova or _WORD)
    return 1 << length.bit_length() - 1


def order(bar: int, kind: AccessKind, iova: int, length: int, offset: int, *, same_length: bool = False) -> list[str]:
    """The qtest commands that have an edu do a DMA, a moment of the machine's time later.

    Args:
        bar: physical address of its registers.
        kind: READ into its buffer, or WRITE from it.
        iova: address on the bus.
        length: bytes.
        offset: into the buffer.
        same_length: its last DMA had that length too.
    """
    buffer = _BUFFER + offset
    source, destination, command = (iova, buffer, _TO_BUFFER) if kind is AccessKind.READ else (buffer, iova, _TO_MEMORY)
    lines = [f"writeq {bar + _SOURCE:#x} {source:#x}", f"writeq {bar + _DESTINATION:#x} {destination:#x}"]
    if not same_length:
        lines.append(f"writeq {bar + _COUNT:#x} {length:#x}")
    lines.append(f"writeq {bar + COMMAND:#x} {command:#x}")
    return lines
