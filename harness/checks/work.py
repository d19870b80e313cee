"""Devices at work: bound to the driver they must have, and using the DMA path that their tag says."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator

from harness.errors import AgentError
from harness.guest.answers import Function, VirtioDevice
from harness.model.access import Access, Fault, Mapping, Outcome
from harness.model.topology import PciFunction
from harness.report.record import Finding

__all__ = [
    "check_count",
    "check_driver",
    "check_identity",
    "check_platform_access",
    "check_refused",
    "check_same_mappings",
    "check_translated",
    "check_untranslated",
    "check_unused",
]

_FAILED = 0x80
_ACCESS_PLATFORM = 33  # VIRTIO_F_ACCESS_PLATFORM, virtio 1.3, 6 (reserved feature bits)


def check_driver(function: PciFunction, seen: Collection[Function], driver: str) -> Iterator[Finding]:
    """The function is held by that driver."""
    address = str(function.address)
    held = next((found.driver or "none" for found in seen if found.address == address), "not there at all")
    if held != driver:
        yield Finding(subject=f"driver of {address} ({function.what})", expected=driver, seen=held)


def check_platform_access(what: str, features: frozenset[int], *, expected: bool) -> Iterator[Finding]:
    """The driver of a virtio device negotiated VIRTIO_F_ACCESS_PLATFORM exactly where it must.

    Args:
        what: name of the device.
        features: numbers of the feature bits that were negotiated.
        expected: whether it must have.
    """
    negotiated = _ACCESS_PLATFORM in features
    if negotiated != expected:
        yield Finding(
            subject=f"VIRTIO_F_ACCESS_PLATFORM of {what}",
            expected="negotiated" if expected else "not negotiated",
            seen="negotiated" if negotiated else "not negotiated",
            citation="virtio 1.3, section 6",
        )


def check_translated(what: str, mappings: Collection[Mapping]) -> Iterator[Finding]:
    """The driver of a device that works has mappings, and not of everything to itself: its DMA is translated."""
    subject = f"what the model finds mapped for {what}"
    if not mappings:
        yield Finding(subject=subject, expected="the driver's mappings", seen="nothing")
    for mapping in mappings:
        if mapping.iova == mapping.address:
            yield Finding(subject=subject, expected="an IOVA that is not the address", seen=str(mapping))


def check_untranslated(what: str, mappings: Collection[Mapping]) -> Iterator[Finding]:
    """The driver of a device that works has no mapping: its DMA goes around the IOMMU."""
    for mapping in mappings:
        yield Finding(subject=f"what the model finds mapped for {what}", expected="nothing", seen=str(mapping))


def check_identity(what: str, access: Access, outcome: Outcome, walk: str) -> Iterator[Finding]:
    """A device whose guest lets it pass reaches each address as itself."""
    if isinstance(outcome, Fault) or outcome.address != access.iova:
        subject = f"{what}, whose group is of type identity: {access}"
        yield Finding(subject=subject, expected=f"it goes to {access.iova:#x}", seen=str(outcome), detail=walk)


def check_unused(what: str, device: VirtioDevice) -> Iterator[Finding]:
    """No driver has a virtio device, and one has tried: it gave it up, since features were declined."""
    if device.driver:
        yield Finding(subject=f"driver of {what}", expected="none: features were declined", seen=device.driver)
    if not device.status & _FAILED:
        yield Finding(
            subject=f"status of {what}",
            expected="FAILED: a driver has given it up",
            seen=f"{device.status:#x}",
            citation="virtio 1.3, section 2.1",
        )


def check_count(what: str, wanted: int, seen: int) -> Iterator[Finding]:
    """There is just that many of something."""
    if seen != wanted:
        yield Finding(subject=what, expected=str(wanted), seen=str(seen))


def check_refused(what: str, why: str, attempt: Callable[..., object], *arguments: object) -> Iterator[Finding]:
    """The guest's kernel refuses something, for that reason.

    Args:
        what: is attempted, for people.
        why: name of the error number ("EEXIST").
        attempt: does it, by the agent.
        arguments: of that.
    """
    try:
        attempt(*arguments)
        seen = "it was done"
    except AgentError as error:
        seen = error.message
    if f"[Errno {getattr(errno, why)}]" not in seen:
        yield Finding(subject=what, expected=f"a refusal: {why}", seen=seen)


def check_same_mappings(what: str, before: Collection[Mapping], after: Collection[Mapping]) -> Iterator[Finding]:
    """Nothing of what was mapped for a device has gone, and nothing has come."""
    subject = f"what the model finds mapped for {what} afterwards"
    for mapping in sorted(set(before) - set(after), key=str):
        yield Finding(subject=subject, expected=str(mapping), seen="no such mapping")
    for mapping in sorted(set(after) - set(before), key=str):
        yield Finding(subject=subject, expected="no other mapping than before", seen=str(mapping))
