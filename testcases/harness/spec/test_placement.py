"""Where devices go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from spec_strategies import machines

from harness.errors import SpecError
from harness.placement import AGENT_NUMBER, Root, place
from harness.spec import Device, DeviceKind, Iommu, IommuKind, Machine, Ports

INTEL = Iommu(kind=IommuKind.INTEL)
VIRTIO = Iommu(kind=IommuKind.VIRTIO)
AMD = Iommu(kind=IommuKind.AMD)


def machine(iommu: Iommu, *texts: str) -> Machine:
    return Machine(iommu=iommu, devices=tuple(Device.parse(text) for text in texts))


@given(machines())
def test_no_two_functions_stand_at_one_place(machine: Machine) -> None:
    plan = place(machine)
    numbers = [(slot.root, slot.number) for slot in plan.slots if slot.port is None]
    numbers += [(port.root, port.number) for port in plan.ports]
    main = (plan.iommu_number, plan.management_number, plan.expander_number, plan.outside_number, AGENT_NUMBER, 0, 0x1F)
    numbers += [(Root.MAIN, number) for number in main if number is not None]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number <= 0x1F for _, number in numbers)


@given(machines())
def test_every_device_stands_where_its_tag_says(machine: Machine) -> None:
    has_iommu = machine.iommu.kind is not IommuKind.NONE
    plan = place(machine)
    assert [slot.device for slot in plan.slots] == list(machine.devices)
    for slot in plan.slots:
        inside = Root.EXPANDER if slot.device.expander else Root.MAIN
        assert slot.root is (Root.OUTSIDE if has_iommu and not slot.device.iommu else inside)
        assert (slot.port is not None) == (
            slot.root is not Root.MAIN or slot.device.hotplug or slot.device.kind.needs_port
        )
        assert slot.bus == (slot.port.id if slot.port else Root.MAIN.value)
        if slot.port is not None:
            assert (slot.port.root, slot.number) == (slot.root, 0)


@given(machines())
def test_every_port_has_one_device_at_most_and_a_number_of_its_own(machine: Machine) -> None:
    plan = place(machine)
    taken = [slot.port for slot in plan.slots if slot.port is not None]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(plan.ports)
    assert [port.index for port in plan.ports] == list(range(1, len(plan.ports) + 1))
    assert len({port.id for port in plan.ports}) == len(plan.ports)
    assert not {port.id for port in plan.ports} & {device.id for device in machine.devices}


@given(machines())
def test_each_root_has_the_ports_that_its_devices_need_and_those_asked_for(machine: Machine) -> None:
    plan = place(machine)
    for root, asked in ((Root.MAIN, machine.ports.inside), (Root.EXPANDER, 0), (Root.OUTSIDE, machine.ports.outside)):
        needed = sum(slot.root is root and slot.port is not None for slot in plan.slots)
        assert sum(port.root is root for port in plan.ports) == max(needed, asked)


@given(machines(pluggable=True))
def test_devices_to_be_plugged_change_nothing_where_there_are_ports_for_them(machine: Machine) -> None:
    later = replace(machine, devices=tuple(replace(device, hotplug=True) for device in machine.devices))
    ports = [port.root for port in place(later).ports]
    empty = replace(machine, devices=(), ports=Ports(inside=ports.count(Root.MAIN), outside=ports.count(Root.OUTSIDE)))
    assert replace(place(later), slots=()) == place(empty)


@given(machines())
def test_a_root_complex_is_made_only_where_something_stands_there(machine: Machine) -> None:
    plan = place(machine)
    for root, number in ((Root.EXPANDER, plan.expander_number), (Root.OUTSIDE, plan.outside_number)):
        assert (number is not None) == any(port.root is root for port in plan.ports)


@pytest.mark.parametrize(
    ("iommu", "number"), [(INTEL, None), (VIRTIO, 1), (AMD, 1), (Iommu(kind=IommuKind.NONE), None)]
)
def test_iommus_that_are_functions_have_a_place(iommu: Iommu, number: int | None) -> None:
    assert place(Machine(iommu=iommu)).iommu_number == number


@pytest.mark.parametrize(
    ("asked", "text", "wanted"),
    [
        (None, "edu,iommu=on", True),
        (None, "edu,iommu=off", False),
        (True, "edu,iommu=off", True),
        (False, "edu,iommu=on", False),
    ],
)
def test_vtd_remaps_interrupts_unless_a_device_stands_outside(asked: bool | None, text: str, wanted: bool) -> None:
    iommu = Iommu(kind=IommuKind.INTEL, interrupt_remapping=asked)
    assert place(machine(iommu, text)).interrupt_remapping is wanted


@pytest.mark.parametrize("text", ["edu,iommu=on", "edu,iommu=off"])
@pytest.mark.parametrize(("asked", "wanted"), [(None, True), (True, True), (False, False)])
def test_amd_vi_remaps_interrupts_wherever_devices_stand(asked: bool | None, wanted: bool, text: str) -> None:
    assert place(machine(Iommu(kind=IommuKind.AMD, interrupt_remapping=asked), text)).interrupt_remapping is wanted


def test_virtio_iommu_remaps_no_interrupts() -> None:
    assert place(machine(VIRTIO, "edu,iommu=on")).interrupt_remapping is None


@pytest.mark.parametrize(("tag", "room", "root"), [("on", 26, Root.MAIN), ("off", 31, Root.OUTSIDE)])
def test_device_too_many_is_refused_and_the_room_told(tag: str, room: int, root: Root) -> None:
    many = tuple(Device(kind=DeviceKind.EDU, iommu=tag == "on") for _ in range(room + 1))
    assert len(place(Machine(iommu=INTEL, devices=many[:room])).slots) == room
    with pytest.raises(SpecError, match=f"edu{room}: no free device number is left on {root}") as caught:
        place(Machine(iommu=INTEL, devices=many))
    assert f"{room} devices" in caught.value.hint


def test_slot_is_found_by_id() -> None:
    plan = place(machine(INTEL, "edu,iommu=on", "edu,iommu=on,id=x"))
    assert plan.slot("x") is plan.slots[1]
    with pytest.raises(SpecError, match="no device 'y'"):
        plan.slot("y")


def test_a_legacy_device_outside_has_a_port_with_room_for_its_registers() -> None:
    legacy = Device.parse("virtio-blk,virtio=legacy")
    plan = place(Machine(iommu=INTEL, devices=(legacy,) * 4))
    assert all(port.has_io for port in plan.ports)
    with pytest.raises(SpecError, match="virtio-blk4: virtio=legacy needs I/O ports"):
        place(Machine(iommu=INTEL, devices=(legacy,) * 5))
    inside = Device.parse("virtio-blk,virtio=legacy,iommu=on,platform=off,hotplug=on")
    assert not any(port.has_io for port in place(Machine(iommu=INTEL, devices=(inside,))).ports)


def test_devices_that_name_a_bridge_stand_behind_one_bridge() -> None:
    devices = "edu,iommu=on,bridge=b", "edu,iommu=on", "edu,iommu=on,bridge=b", "edu,iommu=on,bridge=c"
    plan = place(machine(INTEL, *devices))
    assert [(bridge.id, bridge.number) for bridge in plan.bridges] == [("bridge.b", 4), ("bridge.c", 6)]
    assert [(slot.bus, slot.number) for slot in plan.slots] == [
        ("bridge.b", 1),
        ("pcie.0", 5),
        ("bridge.b", 2),
        ("bridge.c", 1),
    ]


def test_a_device_that_is_plugged_with_a_bridge_has_a_port_that_takes_one() -> None:
    plan = place(machine(INTEL, "edu,iommu=on,hotplug=on", "edu,iommu=on,hotplug=on,bridge=b,id=late"))
    (bridge,) = plan.bridges
    assert (bridge.id, bridge.number, bridge.port) == ("bridge.b", 0, plan.ports[1])
    assert [port.takes_bridge for port in plan.ports] == [False, True]
    late = plan.slot("late")
    assert (late.bus, late.number, late.port) == ("bridge.b", 1, None)


@pytest.mark.parametrize("words", [("on", "on"), ("on", "off"), ("off", "on")])
def test_a_bridge_that_is_plugged_brings_one_device(words: tuple[str, str]) -> None:
    first, second = (f"edu,iommu=on,bridge=b,hotplug={word}" for word in words)
    with pytest.raises(SpecError, match="edu1: bridge 'b' is plugged with one device"):
        place(machine(INTEL, first, second))


def test_devices_that_name_a_slot_are_its_functions() -> None:
    plan = place(machine(INTEL, "edu,iommu=on,slot=s", "edu,iommu=on", "virtio-blk,iommu=on,slot=s"))
    assert [(slot.bus, slot.number, slot.function) for slot in plan.slots] == [
        ("pcie.0", 4, 0),
        ("pcie.0", 5, 0),
        ("pcie.0", 4, 1),
    ]


@pytest.mark.parametrize(("place_of_all", "most"), [("slot=s", 8), ("bridge=b", 31)])
def test_more_devices_than_share_a_place_are_refused_by_name(place_of_all: str, most: int) -> None:
    text = f"edu,iommu=on,{place_of_all}"
    assert len(place(machine(INTEL, *[text] * most)).slots) == most
    with pytest.raises(SpecError, match=f"edu{most}: there is no room left"):
        place(machine(INTEL, *[text] * (most + 1)))
