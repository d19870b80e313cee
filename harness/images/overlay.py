"""The part of a guest image that is made anew for each machine: keys and configuration."""

from __future__ import annotations

from harness.images.cpio import Archive
from harness.images.keys import Keys
from harness.images.recipe import Recipe
from harness.placement import place
from harness.spec import Machine

__all__ = ["GUEST_ADDRESS", "pack_overlay"]

GUEST_ADDRESS = "10.0.2.15"
"""Address of the guest in QEMU's user network (QEMU, docs/system/devices/net.rst)."""


def pack_overlay(machine: Machine, recipe: Recipe, keys: Keys) -> bytes:
    """The archive of `/etc/viommu/config`, which init reads, and of the SSH keys."""
    modules = (*recipe.modules.iommu.get(machine.iommu.kind, ()), *recipe.modules.always)
    config = {
        "management": f"0000:00:{place(machine).management_number:02x}.0",
        "address": GUEST_ADDRESS,
        "modules": " ".join(modules),
    }
    archive = Archive()
    archive.file("etc/viommu/config", "".join(f"{key}='{value}'\n" for key, value in config.items()).encode())
    archive.directory("root", 0o700)
    archive.directory("root/.ssh", 0o700)
    archive.file("root/.ssh/authorized_keys", keys.login.authorized_keys(), 0o600)
    archive.file("etc/dropbear/hostkey", keys.dropbear_host_key(), 0o600)
    return archive.pack()
