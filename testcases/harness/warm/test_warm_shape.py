"""Which template a spec is started from."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from spec_strategies import machines

from harness.placement import Root, place
from harness.spec import Device, DeviceKind, Firmware, Iommu, IommuKind, Machine, Ports, Start
from harness.warm.shape import leased, no_template, template_of

INTEL = Iommu(kind=IommuKind.INTEL)


def machine(*texts: str) -> Machine:
    return Machine(iommu=INTEL, devices=tuple(map(Device.parse, texts)))


@given(machines(pluggable=True))
def test_template_stands_as_the_leased_machine_does_before_its_devices_are_plugged(spec: Machine) -> None:
    assert replace(place(leased(spec)), slots=()) == place(template_of(spec))


@given(machines(pluggable=True))
def test_lease_has_the_devices_that_were_asked_for_each_on_its_side(spec: Machine) -> None:
    asked, got = place(spec), place(leased(spec))
    assert [(slot.device.id, slot.device.kind, slot.root) for slot in asked.slots] == [
        (slot.device.id, slot.device.kind, slot.root) for slot in got.slots
    ]
    assert all(slot.device.hotplug for slot in got.slots)


def test_specs_that_differ_in_devices_alone_share_a_template() -> None:
    one, other = machine("edu,iommu=on"), machine("virtio-blk,iommu=on,id=disk", "virtio-net,iommu=on,hotplug=on")
    assert template_of(one) == template_of(other) == template_of(machine())


def test_device_outside_needs_a_template_with_an_outside() -> None:
    outside = template_of(machine("edu,iommu=off"))
    assert outside != template_of(machine("edu,iommu=on"))
    assert outside.ports.outside > 0
    assert not place(outside).interrupt_remapping


def test_more_devices_than_a_template_usually_has_ports_for_get_a_larger_one() -> None:
    many = Machine(iommu=INTEL, devices=tuple(Device(kind=DeviceKind.EDU, iommu=True) for _ in range(9)))
    assert sum(port.root is Root.MAIN for port in place(template_of(many)).ports) == 9
    assert template_of(many).devices == ()


def test_ports_that_were_asked_for_are_there() -> None:
    asked = Machine(iommu=INTEL, ports=Ports(inside=7))
    assert template_of(asked).ports == Ports(inside=7)


def test_device_that_no_template_takes_is_named() -> None:
    assert no_template(machine("edu,iommu=on", "virtio-gpu,iommu=on,id=screen")) == "screen cannot be plugged"
    assert no_template(machine("virtio-balloon,hotplug=on")).startswith("virtio-balloon0 would change the memory")
    assert no_template(machine("edu,iommu=on", "virtio-rng")) == ""


def test_machine_that_firmware_starts_has_no_template() -> None:
    started = replace(machine("virtio-blk"), start=Start(firmware=Firmware.OVMF, disk="virtio-blk0"))
    assert no_template(started) == "ovmf starts it"
