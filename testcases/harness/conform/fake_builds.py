"""Builds of QEMU that are not there: what they say of themselves."""

from __future__ import annotations

from harness.vmm.qemu.capabilities import Capabilities


class _FakeCapabilities:
    def __init__(self, version: str, properties: frozenset[str]) -> None:
        self.version = version
        self._properties = properties

    def has_device(self, name: str) -> bool:
        return True

    def has_property(self, device: str, name: str) -> bool:
        return name in self._properties


def build(version: str, *properties: str) -> Capabilities:
    """One that has every device, with these properties of any."""
    return _FakeCapabilities(version, frozenset(properties))  # type: ignore[return-value]
