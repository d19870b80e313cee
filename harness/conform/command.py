"""The command line of a machine that runs programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.conform.board import Board
from harness.conform.layout import BRIDGES, DEVICES, MIB, DmaDevice
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.command import ACPI_HOTPLUG

__all__ = ["RAM_BYTES", "Clock", "MachineWords", "behind_memory", "edu_words", "machine_words", "with_native_hotplug"]

RAM_BYTES = 8 * MIB
"""How much memory a machine has."""


def behind_memory(board: Board) -> int:
    """The first physical address behind a machine's memory: nothing answers there."""
    return board.ram + RAM_BYTES


class Clock(StrEnum):
    """What makes the machine's time pass."""

    QTEST = "qtest"
    """The qtest accelerator: `clock_step` does."""
    TCG = "tcg"
    """TCG with a halted processor and `-icount sleep=off`: time jumps to whatever comes next."""


@dataclass(frozen=True, slots=True)
class MachineWords:
    """What a target adds to the command line.

    Attributes:
        board: that it stands on.
        iommu: words for the IOMMU, before all devices.
        more: words after them.
        machine: words in the place of the board's own for machine and processor; empty for those.
        names_devices: whether programs name devices by segment and requester id, in 32-bit words that they store, and
            the IOMMU's answers depend on whether there are such devices.
    """

    board: Board
    iommu: tuple[str, ...]
    more: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    names_devices: bool = False


def with_native_hotplug(words: MachineWords, capabilities: Capabilities) -> MachineWords:
    """The same where a slot whose power goes off loses its device, which ACPI's own hot-plug prevents on a PC."""
    driver, name = ACPI_HOTPLUG
    if not capabilities.has_property(driver, name):
        return words
    return replace(words, more=(*words.more, "-global", f"{driver}.{name}=off"))


def machine_words(words: MachineWords, clock: Clock, devices: Iterable[DmaDevice] = DEVICES) -> list[str]:
    """Everything but firmware, memory and channels.

    Args:
        words: of the target.
        clock: which accelerator.
        devices: that are there, and the bridges that lead to them.
    """
    devices = tuple(devices)
    line = [*(words.machine or words.board.words), "-m", f"{RAM_BYTES // MIB}M"]
    line += ["-accel", "qtest"] if clock is Clock.QTEST else ["-accel", "tcg", "-icount", "shift=0,sleep=off"]
    line += ["-nodefaults", "-no-user-config", "-display", "none", *words.iommu]
    for number, bridge in enumerate(BRIDGES):
        if any(bridge.secondary <= entry.address.bus <= bridge.subordinate for entry in devices):
            chassis = f",chassis={number + 1}" if bridge.driver == "pcie-root-port" else ""
            place = f"bus={bridge.bus or 'pcie.0'},addr={bridge.address.device:x}"
            line += ["-device", f"{bridge.driver},id={bridge.id},{place}{chassis}"]
    for entry in devices:
        line += ["-device", edu_words(entry)]
    return [*line, *words.more]


def edu_words(entry: DmaDevice) -> str:
    """An edu as `-device` takes it."""
    place = f"bus={entry.bus or 'pcie.0'},addr={entry.address.device:x}.{entry.address.function}"
    return f"edu,id={entry.id},{place},multifunction=on,dma_mask=0xffffffffffffffff"
