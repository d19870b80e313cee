"""ACPI tables as QEMU hands them to its firmware: read over qtest from fw_cfg (QEMU, docs/specs/fw_cfg.rst)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.vmm.qemu.qtest import Qtest, Width

__all__ = ["acpi_tables", "by_mmio", "by_ports"]

_FILE_DIRECTORY = 0x19
_SELECT, _READ = 8, 2

Start = Callable[[Qtest, int], None]
"""Gives fw_cfg the guest physical address of a request, which starts it."""


def by_ports(qtest: Qtest, address: int) -> None:
    """On a PC: the register is big-endian, and writing its lower half starts."""
    qtest.write_port(0x514, _swapped(address >> 32, 4), Width.LONG)
    qtest.write_port(0x518, _swapped(address & 0xFFFF_FFFF, 4), Width.LONG)


def by_mmio(base: int) -> Start:
    """On a machine whose fw_cfg has its registers at that address."""

    def start(qtest: Qtest, address: int) -> None:
        qtest.write_value(base + 16, _swapped(address, 8), Width.QUAD)

    return start


def acpi_tables(qtest: Qtest, start: Start, buffer: int) -> dict[str, bytes]:
    """Every table by signature, with the checksum that firmware would write into it (`etc/table-loader`).

    Args:
        qtest: the machine, on which no guest runs.
        start: how a request is started.
        buffer: guest RAM that nobody uses, 1 MiB.
    """

    def item(key: int, count: int) -> bytes:
        qtest.write(buffer, struct.pack(">IIQ", key << 16 | _SELECT | _READ, count, buffer + 0x100))
        start(qtest, buffer)
        assert qtest.read(buffer, 4) == bytes(4), "fw_cfg reports an error"
        return qtest.read(buffer + 0x100, count)

    files = int.from_bytes(item(_FILE_DIRECTORY, 4), "big")
    directory = item(_FILE_DIRECTORY, 4 + 64 * files)
    named = {name.rstrip(b"\0"): (key, size) for size, key, _, name in struct.iter_unpack(">IHH56s", directory[4:])}
    blob = item(*named[b"etc/acpi/tables"])
    tables = {}
    at = 0
    while (signature := blob[at : at + 4].decode("ascii", "replace")).isalnum():
        length = int.from_bytes(blob[at + 4 : at + 8], "little")
        table = bytearray(blob[at : at + length])
        table[9] = 0
        table[9] = -sum(table) & 0xFF
        tables[signature] = bytes(table)
        at += length
    return tables


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")
