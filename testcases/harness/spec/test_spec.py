"""Specs: what is asked for, checked and carried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_strategies import devices, machines

from harness.errors import SpecError, Unsupported
from harness.spec import Device, DeviceKind, DmaMode, Firmware, Iommu, IommuKind, Machine, Room, Start

INTEL = Iommu(kind=IommuKind.INTEL)
VIRTIO = Iommu(kind=IommuKind.VIRTIO)
NONE = Iommu(kind=IommuKind.NONE)


@given(machines())
def test_machine_is_the_same_after_json(machine: Machine) -> None:
    assert Machine.from_json(machine.to_json()) == machine


@given(machines())
def test_machine_is_the_same_after_toml(machine: Machine) -> None:
    assert Machine.from_toml(machine.to_toml()) == machine


@given(devices())
def test_device_is_the_same_after_its_text(device: Device) -> None:
    assert Device.parse(str(device)) == device


def test_iommu_is_off_unless_it_is_asked_for() -> None:
    assert Device.parse("edu") == Device(kind=DeviceKind.EDU, iommu=False, hotplug=False)
    assert Device.parse("virtio-blk,iommu=on").iommu


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "device ''"),
        ("e1000", "device 'e1000' is not known"),
        ("edu,iommu=yes", "iommu='yes'"),
        ("edu,iommu", "iommu=''"),
        ("edu,hotplug=1", "hotplug='1'"),
        ("virtio-blk,virtio=1.0", "virtio='1.0'"),
        ("virtio-blk,platform=1", "platform='1'"),
        ("edu,iomu=on", "'iomu=on' is not known"),
        ("edu,id=", "'id=' is not known"),
        ("edu,", "'' is not known"),
    ],
)
def test_text_that_is_no_device_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Device.parse(text)
    assert message in caught.value.message
    assert caught.value.hint


@given(st.text())
def test_no_text_makes_parse_raise_anything_but_a_spec_error(text: str) -> None:
    try:
        Device.parse(text)
    except SpecError:
        return


MACHINE = '[iommu]\nkind = "intel"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iomu = true\n" + MACHINE, "Unknown field `iomu` - at `$`"),
        (MACHINE + "aw_bit = 48\n", "Unknown field `aw_bit` - at `$.iommu`"),
        (MACHINE + '[[devices]]\nkind = "edu"\niomu = true\n', "Unknown field `iomu` - at `$.devices[...]`"),
        ('[iommu]\nkind = "smmu"\n', "Invalid enum value 'smmu' - at `$.iommu.kind`"),
        ("memory_mib = true\n" + MACHINE, "Expected `int`, got `bool` - at `$.memory_mib`"),
        ('memory_mib = "512"\n' + MACHINE, "Expected `int`, got `str` - at `$.memory_mib`"),
        ("", "missing required field `iommu`"),
        ("iommu", "this is not a machine spec"),
        ("a = " + "[" * 100_000, "this is not a machine spec"),
    ],
)
def test_toml_that_is_no_machine_is_refused_with_the_field(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Machine.from_toml(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"iommu":{"kind":"intel"},"iomu":true}', "Unknown field `iomu`"),
        ('{"iommu":{"kind":"intel"},"devices":[{"kind":"edu","iomu":true}]}', "Unknown field `iomu`"),
        ("[]", "Expected `object`, got `array`"),
        ("{", "this is not a machine spec"),
        ("[" * 100_000, "this is not a machine spec"),
        (b"\xff", "this is not a machine spec"),
        (b'"\xff"', "this is not a machine spec"),
    ],
)
def test_json_that_is_no_machine_is_refused_with_the_field(text: str | bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Machine.from_json(text)
    assert message in caught.value.message


def test_refusal_of_a_value_in_a_file_is_the_same_as_in_code() -> None:
    with pytest.raises(SpecError, match="memory_mib=64"):
        Machine.from_toml("memory_mib = 64\n" + MACHINE)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        *(
            (IommuKind.NONE, name)
            for name in (
                "interrupt_remapping",
                "caching_mode",
                "aw_bits",
                "boot_bypass",
                "extended_interrupts",
                "scalable",
            )
        ),
        (IommuKind.INTEL, "boot_bypass"),
        (IommuKind.VIRTIO, "interrupt_remapping"),
        (IommuKind.AMD, "caching_mode"),
        (IommuKind.AMD, "aw_bits"),
        (IommuKind.AMD, "extended_interrupts"),
        (IommuKind.AMD, "scalable"),
        (IommuKind.AMD, "boot_bypass"),
        (IommuKind.VIRTIO, "caching_mode"),
        (IommuKind.VIRTIO, "extended_interrupts"),
        (IommuKind.VIRTIO, "scalable"),
    ],
)
def test_iommu_without_a_property_refuses_it(kind: IommuKind, field: str) -> None:
    values: dict[str, bool | int] = {field: 48 if field == "aw_bits" else False}
    with pytest.raises(SpecError, match=f"{kind} was asked for with {field}="):
        Iommu(kind=kind, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "bits"), [(IommuKind.INTEL, 0), (IommuKind.INTEL, 40), (IommuKind.INTEL, 64), (IommuKind.VIRTIO, 31)]
)
def test_address_width_that_qemu_refuses_is_refused(kind: IommuKind, bits: int) -> None:
    with pytest.raises(SpecError, match=f"aw_bits={bits}"):
        Iommu(kind=kind, aw_bits=bits)


@pytest.mark.parametrize(
    ("kind", "bits"), [(IommuKind.INTEL, 39), (IommuKind.INTEL, 48), (IommuKind.VIRTIO, 32), (IommuKind.VIRTIO, 64)]
)
def test_address_width_that_qemu_takes_is_taken(kind: IommuKind, bits: int) -> None:
    assert Iommu(kind=kind, aw_bits=bits).aw_bits == bits


def test_virtio_iommu_that_is_left_unused_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="dma_mode=off"):
        Machine(iommu=VIRTIO, dma_mode=DmaMode.OFF)
    assert Machine(iommu=INTEL, dma_mode=DmaMode.OFF).dma_mode is DmaMode.OFF


def test_memory_below_128_mib_is_refused() -> None:
    assert Machine(iommu=INTEL, memory_mib=128).memory_mib == 128
    with pytest.raises(SpecError, match="memory_mib=127"):
        Machine(iommu=INTEL, memory_mib=127)


def test_machine_without_a_processor_is_refused() -> None:
    with pytest.raises(SpecError, match="cpus=0"):
        Machine(iommu=INTEL, cpus=0)


@pytest.mark.parametrize("room", [{"cpus": -1}, {"memory_mib": -128}, {"memory_mib": 100}])
def test_room_that_no_machine_has_is_refused(room: dict[str, int]) -> None:
    with pytest.raises(SpecError, match="room: "):
        Room(**room)


@pytest.mark.parametrize("word", ["", "a\nb", "a\0b", "\x1b[2J"])
def test_kernel_argument_that_breaks_a_command_line_is_refused(word: str) -> None:
    with pytest.raises(SpecError, match="kernel argument"):
        Machine(iommu=INTEL, kernel_args=("quiet", word))


@pytest.mark.parametrize(
    "id",
    ["a,b", "a b", "a=b", "1a", "-a", "_a", "a.b", "é", "a\n", "/a", "..", "a" * 65, "a:b", "virtio-iommu", "SMBus"],
)
def test_id_that_breaks_a_command_line_or_is_taken_is_refused(id: str) -> None:
    with pytest.raises(SpecError, match="device id"):
        Machine(iommu=INTEL, devices=(Device(kind=DeviceKind.EDU, id=id),))


@pytest.mark.parametrize("id", ["a", "rogue", "Disk_1", "virtio-blk0", "a--b", "a" * 64])
def test_plain_id_is_taken(id: str) -> None:
    assert Machine(iommu=INTEL, devices=(Device(kind=DeviceKind.EDU, id=id),)).devices[0].id == id


def test_devices_without_an_id_are_numbered_by_kind() -> None:
    kinds = ("edu", "virtio-blk", "edu", "edu,id=x", "edu")
    machine = Machine(iommu=INTEL, devices=tuple(Device.parse(kind) for kind in kinds))
    assert [device.id for device in machine.devices] == ["edu0", "virtio-blk0", "edu1", "x", "edu3"]


def test_id_used_twice_is_refused() -> None:
    pair = (Device.parse("edu,id=edu1"), Device.parse("edu"))
    with pytest.raises(SpecError, match="used twice: edu1"):
        Machine(iommu=INTEL, devices=pair)


def test_device_behind_an_iommu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="edu0: iommu=on was asked for on a machine without an IOMMU"):
        Machine(iommu=NONE, devices=(Device.parse("edu,iommu=on"),))
    assert Machine(iommu=NONE, devices=(Device.parse("edu"),)).devices


def test_device_is_found_by_its_id() -> None:
    machine = Machine(iommu=VIRTIO, devices=(Device.parse("edu"), Device.parse("virtio-net")))
    assert machine.device("virtio-net0").kind is DeviceKind.VIRTIO_NET
    with pytest.raises(SpecError, match="no device 'edu1'") as caught:
        machine.device("edu1")
    assert "edu0, virtio-net0" in caught.value.hint


@pytest.mark.parametrize("place", ["bridge=b", "slot=s"])
def test_a_device_with_a_bus_to_itself_shares_no_place(place: str) -> None:
    with pytest.raises(SpecError, match="nic: igb has a bus to itself"):
        Device.parse(f"igb,iommu=on,id=nic,{place}")


@pytest.mark.parametrize("kind", DeviceKind)
def test_virtio_devices_are_those_by_name(kind: DeviceKind) -> None:
    assert kind.is_virtio == kind.value.startswith("virtio-")


@pytest.mark.parametrize(
    ("text", "offers"),
    [
        ("virtio-blk,iommu=on", True),
        ("virtio-blk,iommu=off", False),
        ("virtio-blk,iommu=on,platform=off", False),
        ("virtio-blk,iommu=off,platform=on", True),
        ("virtio-blk,iommu=on,virtio=legacy,platform=off", False),
        ("edu,iommu=on", False),
    ],
)
def test_access_platform_is_offered_where_the_device_stands_behind_the_iommu_unless_it_is_told(
    text: str, offers: bool
) -> None:
    assert Device.parse(text).access_platform == offers


@pytest.mark.parametrize("kind", [kind for kind in DeviceKind if kind.has_legacy])
@pytest.mark.parametrize("interface", ["transitional", "legacy"])
@pytest.mark.parametrize(("options", "asked"), [("iommu=on", "iommu=on"), ("platform=on", "platform=on")])
def test_access_platform_of_a_legacy_interface_is_refused(
    kind: DeviceKind, interface: str, options: str, asked: str
) -> None:
    with pytest.raises(SpecError, match=f"disk: {asked} was asked for with virtio={interface}"):
        Device.parse(f"{kind},{options},virtio={interface},id=disk")
    assert Device.parse(f"{kind},virtio={interface},iommu=on,platform=off").interface == interface


@pytest.mark.parametrize("kind", [kind for kind in DeviceKind if kind.is_virtio and not kind.has_legacy])
@pytest.mark.parametrize("interface", ["transitional", "legacy"])
def test_a_device_that_came_with_virtio_1_has_no_legacy_interface(kind: DeviceKind, interface: str) -> None:
    with pytest.raises(SpecError, match=f"virtio={interface} was asked for, and {kind} came with virtio 1.0"):
        Device.parse(f"{kind},virtio={interface}")


@pytest.mark.parametrize("option", ["virtio=legacy", "platform=on", "platform=off"])
def test_options_of_virtio_are_refused_of_another_device(option: str) -> None:
    with pytest.raises(SpecError, match="edu is no virtio device"):
        Device.parse(f"edu,{option}")


@pytest.mark.parametrize("name", ["virtio-vsock", "vhost-vsock"])
def test_a_vsock_is_unsupported_and_the_message_says_what_it_would_take(name: str) -> None:
    with pytest.raises(Unsupported, match="/dev/vhost-vsock"):
        Device.parse(f"{name},iommu=on")


def test_a_display_is_not_plugged_into_a_running_machine() -> None:
    assert Device.parse("virtio-gpu,iommu=on").iommu
    with pytest.raises(SpecError, match="does not plug a virtio-gpu"):
        Device.parse("virtio-gpu,hotplug=on")


def test_a_second_balloon_is_refused() -> None:
    with pytest.raises(SpecError, match="virtio-balloon0, second: QEMU takes one balloon"):
        Machine(iommu=INTEL, devices=(Device.parse("virtio-balloon"), Device.parse("virtio-balloon,id=second")))


@pytest.mark.parametrize(
    "text", ["edu,iommu=on,bridge=b,id=x", "edu,iommu=on,hotplug=on,bridge=b,id=x", "virtio-blk,iommu=on,slot=s2,id=x"]
)
def test_a_shared_place_is_read_and_written_back(text: str) -> None:
    assert str(Device.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "edu,iommu=off,bridge=b",
        "edu,iommu=on,hotplug=on,slot=s",
        "edu,iommu=on,bridge=b,slot=s",
    ],
)
def test_a_shared_place_is_for_devices_behind_the_iommu_and_a_slot_for_those_from_the_start(text: str) -> None:
    with pytest.raises(SpecError, match="a bridge is for devices behind the IOMMU, and a slot for such"):
        Device.parse(text)


def test_a_device_of_a_second_root_complex_is_read_and_written_back() -> None:
    assert str(Device.parse("edu,iommu=on,expander=on,id=x")) == "edu,iommu=on,expander=on,id=x"


@pytest.mark.parametrize(
    "text", ["edu,expander=on", "edu,iommu=on,expander=on,bridge=b", "edu,iommu=on,expander=on,slot=s"]
)
def test_a_second_root_complex_is_for_devices_behind_the_iommu_with_ports_of_their_own(text: str) -> None:
    with pytest.raises(SpecError, match="expander=on is for a device behind the IOMMU"):
        Device.parse(text)


@pytest.mark.parametrize("name", ["a.b", "a b", "x" * 33])
def test_the_name_of_a_shared_place_is_plain(name: str) -> None:
    with pytest.raises(SpecError, match="is no name"):
        Device.parse(f"edu,iommu=on,bridge={name}")


def test_the_width_of_an_edu_s_addresses_is_read_and_written_back() -> None:
    assert Device.parse("edu,iommu=on,dma-bits=28").dma_bits == 28
    assert str(Device.parse("edu,iommu=on,dma-bits=28,id=x")) == "edu,iommu=on,dma-bits=28,id=x"


@pytest.mark.parametrize("text", ["virtio-blk,dma-bits=28", "edu,dma-bits=19", "edu,dma-bits=65", "edu,dma-bits=x"])
def test_a_width_that_no_device_has_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="dma-bits"):
        Device.parse(text)


@pytest.mark.parametrize(
    ("devices", "disk", "message"),
    [
        (("virtio-blk",), "disk", "the machine has no device 'disk'"),
        (("edu",), "edu0", "edu0 cannot be started from: edu is no disk"),
        (("virtio-blk,hotplug=on",), "virtio-blk0", "virtio-blk0 cannot be started from: it is plugged later"),
    ],
)
def test_what_no_firmware_can_start_from_is_refused(devices: tuple[str, ...], disk: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Machine(iommu=NONE, devices=tuple(map(Device.parse, devices)), start=Start(firmware=Firmware.OVMF, disk=disk))


def test_an_unknown_firmware_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"coreboot.*start.*firmware"):
        Machine.from_toml('iommu = {kind = "intel"}\nstart = {firmware = "coreboot"}')


def test_a_machine_may_stay_in_its_firmware() -> None:
    machine = Machine.from_toml('iommu = {kind = "intel"}\nstart = {firmware = "seabios"}')
    assert machine.start == Start(firmware=Firmware.SEABIOS, disk=None)
