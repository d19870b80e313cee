"""Which template a machine is started from, and what it is then.

A template has none of the devices of a spec, and free root ports for them: so a few templates serve all specs. Every
device is plugged into one of these ports, also one that the spec does not call hot-plugged: that it then stands behind
a port, and not on the root bus, is the one difference between a leased machine and one that is booted. A spec with a
device for which that cannot be is not leased.
"""

from __future__ import annotations

from dataclasses import replace

from harness.placement import Root, place
from harness.spec import DeviceKind, Machine, Ports

__all__ = ["leased", "no_template", "template_of"]

_PORTS = 4
"""Root ports that a template has at least on each root complex that it has at all: what the most specs do with."""


def no_template(spec: Machine) -> str:
    """Why a machine of that spec has to be booted, for people; empty where it can be leased."""
    if spec.start is not None:
        return f"{spec.start.firmware} starts it"
    for device in spec.devices:
        if not device.kind.can_be_plugged:
            return f"{device.id} cannot be plugged"
        if device.bridge or device.slot:
            return f"{device.id} shares its place with others from the start"
        if device.expander:
            return f"{device.id} stands behind a root complex that no template has"
        if device.kind is DeviceKind.VIRTIO_BALLOON:
            # What a balloon takes QEMU punches out of the file that RAM is, also where the mapping is private
            # (system/physmem.c, ram_block_discard_range): from the template, under all who run from it.
            return f"{device.id} would change the memory of the template"
    return ""


def leased(spec: Machine) -> Machine:
    """The machine that stands for a spec: all of its devices are plugged into a template's ports.

    Raises:
        SpecError: it has more devices than there is room for, or one that cannot be plugged.
    """
    devices = tuple(replace(device, hotplug=True) for device in spec.devices)
    needed = [port.root for port in place(replace(spec, devices=devices)).ports]
    inside, outside = needed.count(Root.MAIN), needed.count(Root.OUTSIDE)
    ports = Ports(inside=max(_PORTS, inside), outside=max(_PORTS, outside) if outside else 0)
    return replace(spec, devices=devices, ports=ports)


def template_of(spec: Machine) -> Machine:
    """The machine that is booted and saved for all specs that differ in nothing but devices."""
    return replace(leased(spec), devices=())
