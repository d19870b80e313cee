"""PCI functions as sysfs shows them, and which driver holds each."""

from __future__ import annotations

import os
from collections.abc import Callable

DEVICES = "/sys/bus/pci/devices"


def _link(path: str) -> str:
    """Last part of what a link points to; empty where there is no link."""
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def pci_functions() -> list[dict[str, object]]:
    """Every function: address, vendor and device id, class, driver, IOMMU group, in the order of the addresses."""
    functions: list[dict[str, object]] = []
    for address in sorted(os.listdir(DEVICES)):
        path = f"{DEVICES}/{address}"
        words = {}
        for name, key in (("vendor", "vendor"), ("device", "device"), ("class", "class_code")):
            with open(f"{path}/{name}") as file:
                words[key] = int(file.read(), 16)
        group = _link(f"{path}/iommu_group")
        functions.append(
            {"address": address, **words, "driver": _link(f"{path}/driver"), "group": int(group) if group else None}
        )
    return functions


def pci_bind(address: str, driver: str) -> None:
    """Give a function to a driver, or to none (""), through `driver_override`.

    Linux, Documentation/ABI/testing/sysfs-bus-pci.
    """
    path = f"{DEVICES}/{address}"
    held = _link(f"{path}/driver")
    if held == driver:
        return
    if held:
        _write(f"{path}/driver/unbind", address)
    _write(f"{path}/driver_override", driver or "\n")
    if driver:
        _write("/sys/bus/pci/drivers_probe", address)
        bound = _link(f"{path}/driver")
        if bound != driver:
            raise RuntimeError(f"{address} was offered to {driver}, and is held by {bound or 'none'}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (pci_functions, pci_bind)}
