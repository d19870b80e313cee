"""Functions and IOMMU groups of a machine."""

from __future__ import annotations

import pytest

from harness.model.pci.functions import PortType
from harness.model.pci.platform import UnitPlace
from harness.model.topology import PciFunction, Topology, topology
from harness.model.virtio.dma_path import DmaPath
from harness.pci import Address
from harness.spec import Device, DeviceKind, DmaMode, Interface, Iommu, IommuKind, Machine

INTEL = Iommu(kind=IommuKind.INTEL)
VIRTIO = Iommu(kind=IommuKind.VIRTIO)
AMD = Iommu(kind=IommuKind.AMD)
NONE = Iommu(kind=IommuKind.NONE)
DEVICES = (
    "edu,iommu=on",
    "virtio-blk,iommu=on",
    "virtio-net,iommu=on",
    "edu,iommu=on,hotplug=on,id=late",
    "edu,iommu=off,id=out",
    "virtio-blk,iommu=off,hotplug=on,id=late-out",
)


def machine(iommu: Iommu, *texts: str, mode: DmaMode = DmaMode.STRICT) -> Machine:
    return Machine(iommu=iommu, devices=tuple(Device.parse(text) for text in texts), dma_mode=mode)


def full(iommu: Iommu = INTEL, *plugged: str) -> Topology:
    return topology(machine(iommu, *DEVICES), plugged)


@pytest.mark.parametrize("iommu", [INTEL, VIRTIO, AMD])
@pytest.mark.parametrize("plugged", [(), ("late",), ("late", "late-out")])
def test_groups_hold_exactly_the_covered_functions_each_once(iommu: Iommu, plugged: tuple[str, ...]) -> None:
    found = full(iommu, *plugged)
    members = [member for group in found.groups for member in group.members]
    assert len(members) == len(set(members))
    assert set(members) == {function.address for function in found.functions if function.covered}


def test_functions_are_in_the_order_of_their_addresses_and_none_is_there_twice() -> None:
    addresses = [function.address for function in full(VIRTIO, "late", "late-out").functions]
    assert addresses == sorted(set(addresses))


def test_chipset_functions_of_1f_share_a_group() -> None:
    shared = frozenset(Address(0, 0x1F, function) for function in (0, 2, 3))
    assert shared in {group.members for group in full().groups}


def test_a_device_below_a_root_port_is_alone() -> None:
    """The port has ACS, and Linux switches it on."""
    found = full(INTEL, "late")
    assert frozenset({found.function("late").address}) in {group.members for group in found.groups}


def test_every_other_group_has_one_member() -> None:
    assert sorted(len(group.members) for group in full().groups)[:-1] == [1] * (len(full().groups) - 1)


def test_groups_are_in_the_order_of_their_lowest_member() -> None:
    lowest = [min(group.members) for group in full().groups]
    assert lowest == sorted(lowest)


@pytest.mark.parametrize("iommu", [INTEL, VIRTIO, AMD])
@pytest.mark.parametrize("id", ["out", "late-out"])
def test_device_outside_is_neither_covered_nor_translated(iommu: Iommu, id: str) -> None:
    function = full(iommu, "late-out").function(id)
    assert not function.covered
    assert not function.translated
    assert function.address.bus > 0x80


@pytest.mark.parametrize("id", ["edu0", "virtio-blk0", "virtio-net0", "late"])
def test_device_behind_the_iommu_is_covered_and_translated(id: str) -> None:
    function = full(VIRTIO, "late").function(id)
    assert function.covered
    assert function.translated


@pytest.mark.parametrize("id", ["management NIC", "agent port"])
def test_the_harness_s_own_devices_are_covered_and_not_translated(id: str) -> None:
    function = full().function(id)
    assert (function.covered, function.translated) == (True, False)


@pytest.mark.parametrize(("kind", "ids"), [(VIRTIO, (0x1AF4, 0x1057, 0x00FF)), (AMD, (0x1022, 0x1419, 0x0806))])
def test_an_iommu_that_is_a_function_is_not_behind_itself(kind: Iommu, ids: tuple[int, int, int]) -> None:
    iommu = full(kind).iommu
    assert iommu is not None
    assert (iommu.covered, iommu.translated) == (False, False)
    assert (iommu.vendor, iommu.device, iommu.class_code) == ids


def test_intel_iommu_is_no_function() -> None:
    assert full(INTEL).iommu is None


def test_hotplug_device_is_there_only_when_it_is_plugged() -> None:
    assert full(INTEL, "late").function("late").address == Address(1, 0)
    with pytest.raises(KeyError):
        full(INTEL).function("late")


def test_device_below_a_port_has_the_bus_that_firmware_counts_to() -> None:
    found = topology(machine(INTEL, "edu,iommu=off,id=a", "edu,iommu=on,hotplug=on,id=b", "edu,iommu=off,id=c"), ("b",))
    assert [found.function(id).address for id in "abc"] == [Address(0x81, 0), Address(1, 0), Address(0x82, 0)]


def test_expander_bridge_is_there_only_with_a_device_outside() -> None:
    assert full().function("host bridge of outside.0").address == Address(0, 3)
    with pytest.raises(KeyError):
        topology(machine(INTEL, "edu,iommu=on")).function("host bridge of outside.0")


def test_root_ports_are_covered_on_the_main_root_alone() -> None:
    ports = [function for function in full().functions if function.class_code == 0x0604]
    assert {(port.address.bus, port.covered) for port in ports} == {(0, True), (0x80, False)}


@pytest.mark.parametrize(
    ("id", "ids"),
    [
        ("edu0", (0x1234, 0x11E8, 0x00FF)),
        ("virtio-blk0", (0x1AF4, 0x1042, 0x0100)),
        ("virtio-net0", (0x1AF4, 0x1041, 0x0200)),
        ("host bridge", (0x8086, 0x29C0, 0x0600)),
        ("host bridge of outside.0", (0x1B36, 0x000B, 0x0600)),
        ("management NIC", (0x1AF4, 0x1041, 0x0200)),
        ("agent port", (0x1AF4, 0x1043, 0x0780)),
    ],
)
def test_function_has_the_ids_of_what_it_is(id: str, ids: tuple[int, int, int]) -> None:
    function: PciFunction = full().function(id)
    assert (function.vendor, function.device, function.class_code) == ids


@pytest.mark.parametrize(
    "without",
    [machine(NONE, "edu"), machine(INTEL, "edu,iommu=on", mode=DmaMode.OFF)],
)
def test_machine_that_uses_no_iommu_has_no_group(without: Machine) -> None:
    assert topology(without).groups == ()


def test_nothing_is_covered_without_an_iommu() -> None:
    assert not any(function.covered or function.translated for function in topology(machine(NONE, "edu")).functions)


@pytest.mark.parametrize(
    ("iommu", "mode", "types"),
    [
        (INTEL, DmaMode.STRICT, {"DMA"}),
        (VIRTIO, DmaMode.STRICT, {"DMA"}),
        (AMD, DmaMode.STRICT, {"DMA"}),
        (AMD, DmaMode.LAZY, {"DMA"}),
        (AMD, DmaMode.PASSTHROUGH, {"identity"}),
        (INTEL, DmaMode.LAZY, {"DMA-FQ"}),
        (Iommu(kind=IommuKind.INTEL, caching_mode=True), DmaMode.LAZY, {"DMA"}),
        (VIRTIO, DmaMode.LAZY, {"DMA", "DMA-FQ"}),
        (INTEL, DmaMode.PASSTHROUGH, {"identity"}),
        (VIRTIO, DmaMode.PASSTHROUGH, {"identity"}),
    ],
)
def test_group_type_follows_the_dma_mode(iommu: Iommu, mode: DmaMode, types: set[str]) -> None:
    assert {group.types for group in topology(machine(iommu, mode=mode)).groups} == {frozenset(types)}


@pytest.mark.parametrize(
    ("iommu", "table", "place"),
    [
        (INTEL, "DMAR", UnitPlace(registers=0xFED9_0000)),
        (VIRTIO, "VIOT", UnitPlace(function=Address(0, 1))),
        (AMD, "IVRS", UnitPlace(registers=0xFED8_0000, function=Address(0, 1))),
    ],
)
def test_the_platform_has_the_iommu_and_exactly_the_covered_functions_behind_it(
    iommu: Iommu, table: str, place: UnitPlace
) -> None:
    found = full(iommu, "late", "late-out")
    (unit,) = found.platform.units
    assert (unit.table, unit.place) == (table, place)
    assert found.platform.behind() == {function.address for function in found.functions if function.covered}
    assert {function.address for function in found.platform.tree} == {function.address for function in found.functions}


def test_a_machine_without_an_iommu_has_a_platform_without_one() -> None:
    assert topology(machine(NONE, "edu")).platform.units == ()


def test_interrupts_are_remapped_as_the_placement_says() -> None:
    assert full(INTEL).platform.interrupt_remapping is False
    assert topology(machine(INTEL, "edu,iommu=on")).platform.interrupt_remapping is True
    assert full(VIRTIO).platform.interrupt_remapping is None
    assert full(AMD).platform.interrupt_remapping is True


@pytest.mark.parametrize(
    ("memory_mib", "bits"), [(512, 32), (2815, 32), (2816, 33), (6 * 1024, 33), (6 * 1024 + 1, 34), (1 << 20, 41)]
)
def test_addresses_reach_all_memory(memory_mib: int, bits: int) -> None:
    """From 2816 MiB on there are 2 GiB of RAM below 4 GiB and the rest above."""
    spec = Machine(iommu=INTEL, memory_mib=memory_mib)
    assert topology(spec).platform.address_width == bits


@pytest.mark.parametrize(
    ("kind", "modern", "transitional"),
    [
        ("virtio-net", 0x1041, 0x1000),
        ("virtio-blk", 0x1042, 0x1001),
        ("virtio-balloon", 0x1045, 0x1002),
        ("virtio-serial", 0x1043, 0x1003),
        ("virtio-scsi", 0x1048, 0x1004),
        ("virtio-rng", 0x1044, 0x1005),
    ],
)
def test_a_device_with_a_legacy_interface_has_the_id_of_a_legacy_device(
    kind: str, modern: int, transitional: int
) -> None:
    for interface, id in (("modern", modern), ("transitional", transitional), ("legacy", transitional)):
        function = topology(machine(INTEL, f"{kind},iommu=on,platform=off,virtio={interface},id=it")).function("it")
        assert (function.vendor, function.device) == (0x1AF4, id)


@pytest.mark.parametrize(
    ("text", "covered", "translated", "path"),
    [
        ("virtio-rng,iommu=on", True, True, DmaPath.TRANSLATED),
        ("virtio-rng,iommu=on,platform=off", True, False, DmaPath.BYPASSES),
        ("virtio-rng,iommu=on,platform=off,virtio=legacy", True, False, DmaPath.BYPASSES),
        ("virtio-rng,iommu=off", False, False, DmaPath.BYPASSES),
        ("virtio-rng,iommu=off,platform=on", False, False, DmaPath.BYPASSES),
        ("virtio-balloon,iommu=on", True, True, DmaPath.REFUSED_BY_DEVICE),
        ("virtio-balloon,iommu=on,platform=off", True, False, DmaPath.BYPASSES),
    ],
)
def test_a_virtio_device_is_translated_where_it_offers_access_platform_behind_the_iommu(
    text: str, covered: bool, translated: bool, path: DmaPath
) -> None:
    found = topology(machine(INTEL, f"{text},id=it"))
    function = found.function("it")
    assert (function.covered, function.translated) == (covered, translated)
    assert found.dma_path("it") is path


def test_a_virtio_device_of_a_guest_in_passthrough_mode_reaches_memory_as_it_is() -> None:
    found = topology(machine(VIRTIO, "virtio-rng,iommu=on,id=it", mode=DmaMode.PASSTHROUGH))
    assert found.dma_path("it") is DmaPath.IDENTITY


@pytest.mark.parametrize(("interface", "express"), [("modern", True), ("transitional", True), ("legacy", False)])
def test_a_legacy_device_below_a_port_is_a_conventional_one(interface: str, express: bool) -> None:
    text = f"virtio-rng,iommu=on,platform=off,virtio={interface},hotplug=on,id=it"
    found = topology(machine(INTEL, text), ("it",))
    address = found.function("it").address
    (function,) = [function for function in found.platform.tree if function.address == address]
    assert (function.port_type is PortType.ENDPOINT) == express


def test_devices_behind_a_bridge_are_one_group_and_have_one_requester_id() -> None:
    found = topology(machine(INTEL, "virtio-blk,iommu=on,bridge=b,id=disk", "edu,iommu=on,bridge=b,id=rogue"))
    bridge, disk, rogue = (found.function(what) for what in ("bridge.b", "disk", "rogue"))
    assert [str(one.address) for one in (bridge, disk, rogue)] == ["0000:00:04.0", "0000:01:01.0", "0000:01:02.0"]
    assert {disk.requester, rogue.requester} == {0x0100}
    assert frozenset({bridge.address, disk.address, rogue.address}) in {group.members for group in found.groups}


def test_functions_of_a_slot_are_one_group_and_have_ids_of_their_own() -> None:
    found = topology(machine(INTEL, "edu,iommu=on,slot=s,id=first", "edu,iommu=on,slot=s,id=second"))
    first, second = found.function("first"), found.function("second")
    assert (first.requester, second.requester) == (0x20, 0x21)
    assert frozenset({first.address, second.address}) in {group.members for group in found.groups}


def test_buses_below_ports_and_bridges_are_numbered_in_the_order_of_their_devices() -> None:
    devices = "edu,iommu=on,bridge=b,id=a", "edu,iommu=on,hotplug=on,id=late", "edu,iommu=on,bridge=c,id=z"
    found = topology(machine(INTEL, *devices), ["late"])
    assert [found.function(what).address.bus for what in ("a", "late", "z")] == [1, 2, 3]


def test_a_bridge_below_a_port_moves_the_buses_after_it_on() -> None:
    devices = [f"edu,iommu=on,hotplug=on,id={id}" for id in ("first", "place", "last")]
    spec = machine(INTEL, *devices)
    before, after = topology(spec, ["first", "last"]), topology(spec, ["first", "last"], ["place"])
    assert [before.function(what).address.bus for what in ("first", "last")] == [1, 3]
    assert [after.function(what).address.bus for what in ("first", "last")] == [1, 4]
    bridge = after.function("bridge below port.2")
    assert (str(bridge.address), bridge.covered) == ("0000:02:00.0", True)
    tree = after.platform.tree
    port, function = tree.function(after.function("port.2").address), tree.function(bridge.address)
    assert (port.secondary, port.subordinate, function.secondary) == (2, 3, 3)


def test_a_bridge_that_comes_with_a_device_has_a_bus_that_firmware_kept_for_it() -> None:
    spec = machine(INTEL, "edu,iommu=on,hotplug=on,bridge=b,id=late", "edu,iommu=on,hotplug=on,id=behind")
    before, after = topology(spec, ["behind"]), topology(spec, ["behind", "late"])
    assert {before.function("behind").address, after.function("behind").address} == {Address(3, 0)}
    bridge, late = after.function("bridge.b"), after.function("late")
    assert (bridge.address, late.address, late.requester) == (Address(1, 0), Address(2, 1), 0x0200)
    assert frozenset({bridge.address, late.address}) in {group.members for group in after.groups}
    for found in (before, after):
        port = found.platform.tree.function(found.function("port.1").address)
        assert (port.secondary, port.subordinate) == (1, 2)
    assert "bridge.b" not in {function.what for function in before.functions}


@pytest.mark.parametrize(
    ("text", "port_type"),
    [
        ("e1000e,iommu=on", PortType.RC_INTEGRATED_ENDPOINT),
        ("e1000e,iommu=on,hotplug=on", PortType.ENDPOINT),
        ("e1000e,iommu=on,bridge=b", PortType.ENDPOINT),
        ("e1000e,iommu=off", PortType.ENDPOINT),
        ("igb,iommu=on", PortType.ENDPOINT),
        ("igb,iommu=on,hotplug=on", PortType.ENDPOINT),
    ],
)
def test_a_card_of_intels_is_pci_express_wherever_it_stands(text: str, port_type: PortType) -> None:
    found = topology(machine(INTEL, f"{text},id=x"), ["x"])
    address = found.function("x").address
    assert found.platform.tree.function(address).port_type is port_type


@pytest.mark.parametrize("kind", [kind for kind in DeviceKind if kind.is_virtio], ids=str)
def test_every_kind_has_the_ids_of_the_interfaces_that_it_can_have(kind: DeviceKind) -> None:
    for interface in Interface if kind.has_legacy else (Interface.MODERN,):
        found = topology(machine(INTEL, f"{kind},iommu=on,platform=off,virtio={interface},id=x")).function("x")
        assert (found.device >= 0x1040) is (interface is Interface.MODERN)
