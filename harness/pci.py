"""PCI addresses: the one type for a function's segment, bus, device and function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from harness.errors import SpecError

__all__ = ["Address"]

_TEXT = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a PCI function is. Raises SpecError for numbers that no function has.

    >>> Address.parse("0000:00:1f.2").requester == 0x00FA
    True
    >>> str(Address.of_requester(0x8008))
    '0000:80:01.0'
    """

    bus: int
    device: int
    function: int = 0
    segment: int = 0

    def __post_init__(self) -> None:
        for name, size in (("bus", 256), ("device", 32), ("function", 8), ("segment", 65536)):
            if not 0 <= getattr(self, name) < size:
                raise SpecError(
                    f"a PCI address with {name} {getattr(self, name):#x}", hint=f"it is less than {size:#x}"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "00:04.0" or "0000:00:04.0".

        Raises:
            SpecError: it is neither, or no function can have it.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SpecError(f"{text!r} is not a PCI address", hint="write it as lspci does: 0000:00:04.0")
        segment, bus, device, function = match.groups(default="0")
        return cls(bus=int(bus, 16), device=int(device, 16), function=int(function, 16), segment=int(segment, 16))

    @classmethod
    def of_requester(cls, requester: int, segment: int = 0) -> Self:
        """The function whose requester id that is."""
        return cls(bus=requester >> 8, device=requester >> 3 & 0x1F, function=requester & 7, segment=segment)

    @property
    def requester(self) -> int:
        """Requester id: bus << 8 | device << 3 | function (PCI Express base specification, 2.2.6.2)."""
        return self.bus << 8 | self.device << 3 | self.function

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"
