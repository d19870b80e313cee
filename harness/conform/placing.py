"""What firmware would do to PCI, as qtest commands: bus numbers, windows, BARs, command registers."""

from __future__ import annotations

from collections.abc import Iterable

from harness.conform.board import Board
from harness.conform.layout import BRIDGES, DEVICES, Bridge, DmaDevice
from harness.pci import Address

__all__ = ["configuration", "place", "place_device", "registers_of"]

_ENABLE = 0x0006  # command register: memory space and bus master


def configuration(board: Board, address: Address, offset: int) -> int:
    """Physical address of a byte of a function's configuration space."""
    return board.ecam + (address.requester << 12) + offset


def registers_of(board: Board, entry: DmaDevice) -> int:
    """Physical address of a device's registers, once it is placed."""
    return board.window + entry.bar


def place(board: Board, devices: Iterable[DmaDevice] = DEVICES) -> list[str]:
    """Place devices, and the bridges that lead to them."""
    devices = tuple(devices)
    lines = [*board.set_up]
    for bridge in BRIDGES:
        below = [entry for entry in devices if bridge.secondary <= entry.address.bus <= bridge.subordinate]
        if below:
            lines += _place_bridge(board, bridge, below)
    for entry in devices:
        lines += place_device(board, entry)
    return lines


def place_device(board: Board, entry: DmaDevice) -> list[str]:
    """Give one device its BAR, and let it answer and make requests."""
    at = configuration(board, entry.address, 0)
    return [f"writel {at + 0x10:#x} {registers_of(board, entry):#x}", f"writew {at + 0x04:#x} {_ENABLE:#x}"]


def _place_bridge(board: Board, bridge: Bridge, below: list[DmaDevice]) -> list[str]:
    """Bus numbers, memory base and limit, command (PCI-to-PCI Bridge Architecture 1.2, 3.2.5)."""
    numbers = bridge.address.bus | bridge.secondary << 8 | bridge.subordinate << 16
    first, last = registers_of(board, below[0]), registers_of(board, below[-1])
    at = configuration(board, bridge.address, 0)
    return [
        f"writel {at + 0x18:#x} {numbers:#x}",
        f"writel {at + 0x20:#x} {last & 0xFFF0_0000 | first >> 16 & 0xFFF0:#x}",
        f"writew {at + 0x04:#x} {_ENABLE:#x}",
    ]
