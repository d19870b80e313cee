"""What the agent in the guest answers: types, each with the bounds that data of a machine under test is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

__all__ = [
    "PAGE",
    "CipherTest",
    "Frame",
    "Function",
    "Group",
    "LogRecord",
    "MacAddress",
    "Pages",
    "ProgramEnd",
    "ProgramStart",
    "Ranges",
    "Screen",
    "Talk",
    "VfioLimits",
    "VirtioDevice",
]

PAGE = 4096
"""Bytes of a page."""

_Name = Annotated[str, msgspec.Meta(max_length=255)]  # of a file: NAME_MAX, Linux, include/uapi/linux/limits.h
_Line = Annotated[str, msgspec.Meta(max_length=4096)]  # of a file in sysfs, which has one page at most
Frame = Annotated[int, msgspec.Meta(ge=0, lt=1 << 52)]  # x86 has addresses of 52 bits at most
_PageSize = Annotated[int, msgspec.Meta(ge=PAGE, le=1 << 30)]  # x86 has no larger pages
_Pixels = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]  # of a line of a display, or its bytes
_Count = Annotated[int, msgspec.Meta(ge=0)]
Talk = Annotated[str, msgspec.Meta(max_length=1 << 17)]  # twice what the agent keeps
Ranges = tuple[tuple[_Count, _Count], ...]
MacAddress = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]


@dataclass(frozen=True, slots=True)
class Group:
    """One directory of /sys/kernel/iommu_groups: its number, `type`, and device names ("0000:00:04.0")."""

    number: int
    type: _Line
    devices: tuple[_Name, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function as sysfs shows it: address, ids, 24-bit class, driver ("" for none), IOMMU group or None."""

    address: _Name
    vendor: int
    device: int
    class_code: int
    driver: _Name
    group: int | None


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of /dev/kmsg: sequence number, level 0 to 7, seconds since boot, text."""

    sequence: int
    level: int
    seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of guest RAM held by the agent: its handle for them, the guest physical address of each, its bytes."""

    handle: int
    frames: tuple[Frame, ...]
    size: _PageSize = PAGE


@dataclass(frozen=True, slots=True)
class VfioLimits:
    """What a VFIO container can map: page sizes (a mask of bytes), ranges of IOVAs, mappings still allowed (or 0)."""

    page_sizes: _Count
    ranges: Ranges
    mappings: _Count


@dataclass(frozen=True, slots=True)
class VirtioDevice:
    """A virtio device: its driver ("" for none), numbers of the negotiated features, status (virtio 1.3, 2.1)."""

    driver: _Name
    features: frozenset[_Count]
    status: _Count


@dataclass(frozen=True, slots=True)
class Screen:
    """Pixels in a line of a display, and bytes from one line to the next."""

    width: _Pixels
    stride: _Pixels


@dataclass(frozen=True, slots=True)
class CipherTest:
    """What the kernel says of its test of a cipher ("passed"), and interrupts that the device's queues have sent."""

    result: _Name
    interrupts: _Count


@dataclass(frozen=True, slots=True)
class ProgramStart:
    """A program that has come to its first prompt: its process id, and what it said up to there."""

    pid: _Count
    said: Talk


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """A program that has ended by itself: its exit status, and the last that it said."""

    status: int
    said: Talk
