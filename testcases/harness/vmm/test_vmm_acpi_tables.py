"""The tables that QEMU hands to its firmware, against what it does with devices: no guest runs.

QEMU makes the tables when firmware first asks for them, with the bus numbers that firmware has given to bridges by then
(hw/i386/acpi-build.c, `acpi_build_update`). So the test numbers the buses, as the topology has them, and then asks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from vmm_acpi import acpi_tables, by_ports
from vmm_rig import Start, spec
from vmm_rig import function as function_of

from harness.checks.firmware import check_tables
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import ScopeType
from harness.model.firmware.ivhd_entries import DeviceEntry, EntryType, Variety
from harness.model.firmware.ivrs import Ivrs
from harness.model.firmware.viot import Viot
from harness.model.pci.config_space import read_tree
from harness.model.pci.functions import Function, PortType
from harness.model.pci.platform import Platform, Unit, UnitPlace
from harness.model.pci.tree import PciTree, RootBus
from harness.model.topology import VTD_REGISTERS, topology
from harness.pci import Address
from harness.spec import Iommu, IommuKind, Machine
from harness.vmm.qemu.capabilities import Capabilities
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.qtest import Qtest, Width

_DEVICES = ("virtio-blk,iommu=on", "edu,iommu=on,hotplug=on,id=later", "edu,iommu=off", "virtio-net,iommu=off")

_BUFFER = 0x20_0000


def number_buses(qtest: Qtest, tree: PciTree) -> None:
    """Give every bridge the numbers of the buses below it, by the ports that PCs have for it (PCI 3.0, 3.2.2.3.2)."""
    for function in tree:
        if function.secondary is not None:
            assert function.subordinate is not None
            numbers = function.subordinate << 16 | function.secondary << 8 | function.address.bus
            qtest.write_port(0xCF8, 1 << 31 | function.address.requester << 8 | 0x18, Width.LONG)
            qtest.write_port(0xCFC, numbers, Width.LONG)
            assert qtest.read_port(0xCFC, Width.LONG) & 0xFF_FFFF == numbers, f"{function.address} is no bridge"


def configuration_spaces(qtest: Qtest, tree: PciTree) -> dict[Address, bytes]:
    """Of every function that answers on the buses of the tree, by memory accesses (PCIe 5.0, 7.2.2)."""
    ecam = function_of(qtest, 0).ecam
    buses = sorted({function.address.bus for function in tree})
    places = [Address.of_requester(bus << 8 | devfn) for bus in buses for devfn in range(256)]
    heads = qtest.batch([f"readl {ecam + (place.requester << 12):#x}" for place in places])
    present = [place for place, head in zip(places, heads, strict=True) if int(head, 0) & 0xFFFF != 0xFFFF]
    return {place: qtest.read(ecam + (place.requester << 12), 4096) for place in present}


def tables_of(machine: QemuMachine, tree: PciTree) -> dict[str, bytes]:
    number_buses(machine.qtest, tree)
    return acpi_tables(machine.qtest, by_ports, _BUFFER)


@pytest.mark.parametrize("kind", [IommuKind.INTEL, IommuKind.VIRTIO, IommuKind.NONE])
def test_tables_of_a_machine_tell_the_truth(start: Start, kind: IommuKind) -> None:
    devices = _DEVICES if kind is not IommuKind.NONE else ("edu,iommu=off",)
    machine = spec(*devices, iommu=kind)
    platform = topology(machine).platform
    tables = tables_of(start(machine), platform.tree)
    assert list(check_tables(platform, tables)) == []
    assert "FACP" in tables


@pytest.mark.parametrize("remapping", [True, False])
def test_dmar_says_whether_interrupts_are_remapped(start: Start, remapping: bool) -> None:
    iommu = Iommu(kind=IommuKind.INTEL, interrupt_remapping=remapping, aw_bits=48)
    machine = Machine(iommu=iommu, devices=spec("edu,iommu=on", iommu=IommuKind.INTEL).devices, memory_mib=128)
    platform = topology(machine).platform
    tables = tables_of(start(machine), platform.tree)
    assert list(check_tables(platform, tables)) == []
    other = replace(platform, interrupt_remapping=not remapping)
    assert [finding.subject for finding in check_tables(other, tables)] == ["DMAR: interrupt remapping"]


@pytest.mark.parametrize("kind", [IommuKind.INTEL, IommuKind.VIRTIO, IommuKind.NONE])
def test_the_functions_of_a_machine_are_as_the_topology_has_them(start: Start, kind: IommuKind) -> None:
    """Port types, multifunction, bridges and ACS decide the groups: read from QEMU, once its buses have numbers."""
    machine = spec(*(_DEVICES if kind is not IommuKind.NONE else ("edu,iommu=off",)), iommu=kind)
    tree = topology(machine).platform.tree
    qtest = start(machine).qtest
    number_buses(qtest, tree)
    shown = read_tree(configuration_spaces(qtest, tree))
    assert [_after_linux(function) for function in shown] == list(tree)
    assert {function.address for function in tree if function.port_type is PortType.ROOT_PORT}.isdisjoint(
        function.address for function in shown if function.acs is None
    )


def _after_linux(function: Function) -> Function:
    """With ACS as Linux will set it; nobody has yet."""
    return function if function.acs is None else replace(function, acs=function.acs.as_linux_sets_it())


def test_dmar_of_qemu_is_read_and_written_back_as_it_was(start: Start) -> None:
    machine = spec(*_DEVICES, iommu=IommuKind.INTEL)
    data = tables_of(start(machine), topology(machine).platform.tree)["DMAR"]
    table = Dmar.parse(data)
    assert table.encode() == data
    assert table.sources(ScopeType.IOAPIC)[0][1] == 0xFF00  # QEMU, hw/pci-host/q35.h, Q35_PSEUDO_BUS_PLATFORM


def test_viot_of_qemu_is_read_and_written_back_as_it_was(start: Start) -> None:
    machine = spec(*_DEVICES, iommu=IommuKind.VIRTIO)
    data = tables_of(start(machine), topology(machine).platform.tree)["VIOT"]
    assert Viot.parse(data).encode() == data


@pytest.mark.parametrize("kind", [IommuKind.INTEL, IommuKind.VIRTIO])
def test_a_table_that_hides_or_invents_a_device_is_found(start: Start, kind: IommuKind) -> None:
    """The same tables, against a machine in which the sides are swapped: every function of both is a lie."""
    machine = spec(*_DEVICES, iommu=kind)
    platform = topology(machine).platform
    tables = tables_of(start(machine), platform.tree)
    swapped = replace(platform, units=tuple(replace(unit, root_buses=frozenset({0x80})) for unit in platform.units))
    wrong = {finding.subject.rpartition(" ")[2] for finding in check_tables(swapped, tables)}
    own = {unit.place.function for unit in platform.units}
    assert wrong == {str(function.address) for function in platform.tree if function.address not in own}


# Its function takes the first device number that is free (QEMU, hw/i386/amd_iommu.c, AMDVI_BASE_ADDR).
_AMD = UnitPlace(registers=0xFED8_0000, function=Address(0, 1))


def amd_tree() -> PciTree:
    """What a machine without an IOMMU has, an amd-iommu at 00:01.0, and conventional PCI behind a root port."""
    return PciTree(
        [RootBus()],
        [
            *(topology(spec()).platform.tree),
            Function(address=Address(0, 1)),
            Function(address=Address(0, 6), port_type=PortType.ROOT_PORT, secondary=1, subordinate=3),
            Function(address=Address(1, 0), port_type=PortType.PCIE_TO_PCI_BRIDGE, secondary=2, subordinate=3),
            Function(address=Address(2, 1), secondary=3),
            Function(address=Address(2, 2)),
            Function(address=Address(3, 1)),
            Function(address=Address(0, 7), port_type=PortType.ROOT_PORT, secondary=4),
        ],
    )


_AMD_ARGUMENTS = tuple(
    ("-device", text)
    for text in (
        "amd-iommu,intremap=on",
        "pcie-root-port,id=a,bus=pcie.0,addr=6,chassis=1",
        "pcie-pci-bridge,id=b,bus=a,addr=0",
        "pci-bridge,id=c,bus=b,addr=1,chassis_nr=2",
        "edu,bus=b,addr=2",
        "edu,bus=c,addr=1",
        "pcie-root-port,id=d,bus=pcie.0,addr=7,chassis=3",
    )
)


@pytest.fixture
def amd(start: Start, capabilities: Capabilities) -> tuple[Platform, dict[str, bytes]]:
    platform = Platform(
        tree=amd_tree(),
        units=(Unit(place=_AMD, table="IVRS", root_buses=frozenset({0})),),
        interrupt_remapping=True,
        ioapics=frozenset({0}),
    )
    machine = start(spec(), Options(extra=_AMD_ARGUMENTS))
    return platform, tables_of(machine, platform.tree)


def test_ivrs_of_qemu_tells_the_truth_also_of_conventional_pci(amd: tuple[Platform, dict[str, bytes]]) -> None:
    platform, tables = amd
    assert list(check_tables(platform, tables)) == []


def test_ivrs_of_qemu_is_read_and_written_back_as_it_was(amd: tuple[Platform, dict[str, bytes]]) -> None:
    _, tables = amd
    table = Ivrs.parse(tables["IVRS"])
    assert table.encode() == tables["IVRS"]
    assert table.special_devices(Variety.IOAPIC)[0] == (_AMD, 0x00A0)


@pytest.mark.parametrize(
    ("front_end", "bypass"),
    [
        (front_end, bypass)
        for front_end in ("intel-iommu,intremap=off", "virtio-iommu-pci,addr=1", "amd-iommu")
        for bypass in product((False, True), repeat=2)
        if (front_end, bypass) != ("amd-iommu", (True, True))  # the next test
    ],
    ids=str,
)
def test_tables_know_which_root_buses_bypass_the_iommu(start: Start, front_end: str, bypass: tuple[bool, bool]) -> None:
    platform, tables = with_expander(start, front_end, bypass)
    assert list(check_tables(platform, tables)) == []


def test_ivrs_of_qemu_that_names_all_devices_where_all_bypass_is_found_out(start: Start) -> None:
    """QEMU, hw/i386/acpi-build.c, `build_amd_iommu`: with no device to list it lists all of them."""
    platform, tables = with_expander(start, "amd-iommu", (True, True))
    entries = Ivrs.parse(tables["IVRS"]).ivhds[0].entries
    if not any(entry == DeviceEntry(type=EntryType.ALL) for entry in entries):
        pytest.skip("this QEMU is mended: its IVRS lists no device where every root bus bypasses the IOMMU")
    subjects = [finding.subject for finding in check_tables(platform, tables)]
    functions = [function.address for function in platform.tree if function.address != _AMD.function]
    assert subjects == [f"IVRS: what stands before {address}" for address in functions]


def with_expander(start: Start, front_end: str, bypass: tuple[bool, bool]) -> tuple[Platform, dict[str, bytes]]:
    """`bypass_iommu` of the main root bus and of an expander's, with an endpoint below each."""
    main, expander = ("on" if off else "off" for off in bypass)
    arguments = (
        ("-machine", f"default_bus_bypass_iommu={main}"),
        ("-device", front_end),
        ("-device", f"pxb-pcie,id=x,bus=pcie.0,addr=8,bus_nr=128,bypass_iommu={expander}"),
        ("-device", "pcie-root-port,id=p,bus=pcie.0,addr=9,chassis=1"),
        ("-device", "pcie-root-port,id=q,bus=x,addr=0,chassis=2"),
        ("-device", "edu,bus=p"),
        ("-device", "edu,bus=q"),
    )
    own = [] if front_end.startswith("intel") else [Function(address=Address(0, 1))]
    tree = PciTree(
        [RootBus(0, last=0x7F), RootBus(0x80)],
        [
            *topology(spec()).platform.tree,
            *own,
            Function(address=Address(0, 8)),
            Function(address=Address(0, 9), port_type=PortType.ROOT_PORT, secondary=1),
            Function(address=Address(1, 0)),
            Function(address=Address(0x80, 0), port_type=PortType.ROOT_PORT, secondary=0x81),
            Function(address=Address(0x81, 0)),
        ],
    )
    place, table = {
        "intel-iommu": (UnitPlace(registers=VTD_REGISTERS), "DMAR"),
        "virtio-iommu-pci": (UnitPlace(function=Address(0, 1)), "VIOT"),
        "amd-iommu": (_AMD, "IVRS"),
    }[front_end.partition(",")[0]]
    roots = frozenset(number for number, off in zip((0, 0x80), bypass, strict=True) if not off)
    platform = Platform(tree=tree, units=(Unit(place=place, table=table, root_buses=roots),), ioapics=frozenset({0}))
    return platform, tables_of(start(spec(), Options(extra=arguments)), tree)
