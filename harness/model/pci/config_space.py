"""The tree of functions as a running machine shows it: read from the bytes of their configuration spaces.

Virtual functions and quirks do not show there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.errors import SpecError
from harness.model.pci.functions import Acs, AcsCapability, Function, PortType
from harness.model.pci.tree import PciTree, RootBus
from harness.pci import Address

__all__ = ["read_function", "read_tree"]

# Type 0/1 common registers (PCIe 5.0, 7.5.1.1 to 7.5.1.3).
_STATUS = 0x06
_STATUS_CAPABILITIES = 1 << 4
_HEADER_TYPE = 0x0E
_MULTIFUNCTION = 0x80
_SECONDARY = 0x19
_SUBORDINATE = 0x1A
_CAPABILITIES_POINTER = 0x34

_PCI_EXPRESS = 0x10  # capability id (PCIe 5.0, 7.5.3.1)
_EXTENDED = 0x100  # where the extended capabilities start (7.6)
_ACS = 0x0D  # extended capability id (7.7.8.1)


def read_function(address: Address, space: bytes) -> Function:
    """One function from its configuration space.

    Args:
        address: where it is.
        space: 64 bytes at least; 4096 for what has extended capabilities.

    Raises:
        SpecError: too few bytes, or what no function can have.
    """
    if len(space) < 0x40:
        raise SpecError(f"{address}: {len(space)} bytes of configuration space", hint="the header alone has 64")
    header = space[_HEADER_TYPE]
    is_bridge = header & ~_MULTIFUNCTION != 0  # type 1, and type 2 of CardBus, which has the same two registers
    port_type = None
    acs = None
    for id, at in _capabilities(space):
        if id == _PCI_EXPRESS:
            number = _word(space, at + 2) >> 4 & 0xF
            if number not in PortType.__members__.values():
                raise SpecError(f"{address} has device/port type {number:#x}, which is reserved")
            port_type = PortType(number)
    if port_type is not None:
        for id, at in _extended_capabilities(space):
            if id == _ACS:
                acs = AcsCapability(Acs(_word(space, at + 4) & _ACS_BITS), Acs(_word(space, at + 6) & _ACS_BITS))
    return Function(
        address=address,
        port_type=port_type,
        multifunction=bool(header & _MULTIFUNCTION),
        secondary=space[_SECONDARY] if is_bridge else None,
        subordinate=space[_SUBORDINATE] if is_bridge else None,
        acs=acs,
    )


def read_tree(spaces: Mapping[Address, bytes]) -> PciTree:
    """All functions from their configuration spaces. A bus that no bridge leads to is a root bus.

    Raises:
        SpecError: they cannot stand together.
    """
    functions = [read_function(address, space) for address, space in spaces.items()]
    led_to = {(function.address.segment, function.secondary) for function in functions}
    found = sorted({(address.segment, address.bus) for address in spaces} - led_to)
    roots = []
    for number, (segment, bus) in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        last = after[1] - 1 if after is not None and after[0] == segment else 0xFF
        roots.append(RootBus(bus, last=last, segment=segment))
    return PciTree(roots, functions)


_ACS_BITS = 0x7F


def _capabilities(space: bytes) -> Iterator[tuple[int, int]]:
    """Id and offset of each capability (PCIe 5.0, 7.5.1.1.11); a list that goes in a circle ends."""
    if not _word(space, _STATUS) & _STATUS_CAPABILITIES:
        return
    at = space[_CAPABILITIES_POINTER] & ~3
    seen: set[int] = set()
    while 0x40 <= at <= min(len(space), 0x100) - 4 and at not in seen:
        seen.add(at)
        yield space[at], at
        at = space[at + 1] & ~3


def _extended_capabilities(space: bytes) -> Iterator[tuple[int, int]]:
    """Id and offset of each extended capability (PCIe 5.0, 7.6.3); a list that goes in a circle ends."""
    at = _EXTENDED
    seen: set[int] = set()
    while _EXTENDED <= at <= len(space) - 8 and at not in seen:
        seen.add(at)
        head = _word(space, at) | _word(space, at + 2) << 16
        if head in (0, 0xFFFF_FFFF):
            return
        yield head & 0xFFFF, at
        at = head >> 20 & ~3


def _word(space: bytes, at: int) -> int:
    return int.from_bytes(space[at : at + 2], "little")
