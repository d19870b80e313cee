"""PCI functions as their configuration spaces show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pci_trees import at, trees

from harness.errors import SpecError
from harness.model.pci.config_space import read_function, read_tree
from harness.model.pci.functions import ISOLATION, Acs, AcsCapability, Function, PortType
from harness.model.pci.tree import PciTree, RootBus


def space(function: Function) -> bytes:
    """What a function like that has in its configuration space."""
    data = bytearray(4096)
    data[0x0E] = (0x80 if function.multifunction else 0) | (1 if function.is_bridge else 0)
    if function.secondary is not None and function.subordinate is not None:
        data[0x18:0x1B] = bytes((function.address.bus, function.secondary, function.subordinate))
    if function.port_type is not None:
        data[0x06] = 0x10  # there is a list of capabilities
        data[0x34] = 0x50
        data[0x50:0x52] = bytes((0x05, 0x60))  # MSI, and then
        data[0x60:0x62] = bytes((0x10, 0x00))  # PCI Express
        data[0x62:0x64] = (function.port_type << 4 | 2).to_bytes(2, "little")
    if function.acs is not None:
        data[0x100:0x104] = (0x148 << 20 | 1 << 16 | 0x0001).to_bytes(4, "little")  # error reporting, and then
        data[0x148:0x14C] = (0x000 << 20 | 1 << 16 | 0x000D).to_bytes(4, "little")  # ACS
        data[0x14C:0x14E] = function.acs.capability.value.to_bytes(2, "little")
        data[0x14E:0x150] = function.acs.control.value.to_bytes(2, "little")
    return bytes(data)


@given(trees(quirky=False))
def test_a_tree_is_read_from_the_configuration_spaces_of_its_functions(tree: PciTree) -> None:
    read = read_tree({function.address: space(function) for function in tree})
    for function in tree:
        expected = function
        if function.port_type is None:  # a conventional function has no extended capabilities
            expected = Function(
                address=function.address,
                multifunction=function.multifunction,
                secondary=function.secondary,
                subordinate=function.subordinate,
            )
        assert read.function(function.address) == expected


def test_buses_that_no_bridge_leads_to_are_root_buses() -> None:
    functions = [
        Function(address=at("00:01.0"), port_type=PortType.ROOT_PORT, secondary=1),
        Function(address=at("01:00.0")),
        Function(address=at("80:00.0")),
        Function(address=at("0001:00:00.0")),
    ]
    read = read_tree({function.address: space(function) for function in functions})
    assert read.roots == (RootBus(0, last=0x7F), RootBus(0x80), RootBus(0, segment=1))


def test_an_acs_capability_has_its_two_registers() -> None:
    acs = AcsCapability(ISOLATION | Acs.DIRECT_TRANSLATED, Acs.SOURCE_VALIDATION)
    port = Function(address=at("00:01.0"), port_type=PortType.ROOT_PORT, secondary=1, acs=acs)
    data = space(port)
    assert data[0x14C:0x150].hex() == "5d000100"  # SV, RR, CR, UF, DT can be, SV is
    assert read_function(port.address, data) == port


def test_acs_services_have_the_bits_of_pcie_7_7_8_2() -> None:
    services = (
        Acs.SOURCE_VALIDATION,
        Acs.TRANSLATION_BLOCKING,
        Acs.REQUEST_REDIRECT,
        Acs.COMPLETION_REDIRECT,
        Acs.UPSTREAM_FORWARDING,
        Acs.EGRESS_CONTROL,
        Acs.DIRECT_TRANSLATED,
    )
    data = bytearray(space(Function(address=at("00:01.0"), port_type=PortType.ENDPOINT, acs=AcsCapability(Acs.NONE))))
    for bit, service in enumerate(services):
        data[0x14C], data[0x14E] = 1 << bit, 1 << bit | 0x80
        assert read_function(at("00:01.0"), bytes(data)).acs == AcsCapability(service, service)


def test_a_header_alone_is_enough_for_what_it_has() -> None:
    port = Function(address=at("00:01.0"), port_type=PortType.ROOT_PORT, secondary=1)
    assert read_function(at("00:01.0"), space(port)[:64]) == Function(address=at("00:01.0"), secondary=1)
    with pytest.raises(SpecError, match="63 bytes"):
        read_function(at("00:01.0"), space(port)[:63])


def test_port_types_have_the_numbers_of_pcie_7_5_3_2() -> None:
    numbers = {
        0x0: PortType.ENDPOINT,
        0x1: PortType.LEGACY_ENDPOINT,
        0x4: PortType.ROOT_PORT,
        0x5: PortType.UPSTREAM_PORT,
        0x6: PortType.DOWNSTREAM_PORT,
        0x7: PortType.PCIE_TO_PCI_BRIDGE,
        0x8: PortType.PCI_TO_PCIE_BRIDGE,
        0x9: PortType.RC_INTEGRATED_ENDPOINT,
        0xA: PortType.RC_EVENT_COLLECTOR,
    }
    for number, expected in numbers.items():
        is_bridge = 0x4 <= number <= 0x8
        data = bytearray(space(Function(address=at("00:01.0"), port_type=PortType.ENDPOINT)))
        data[0x0E], data[0x18:0x1B] = int(is_bridge), bytes((0, 1, 1))
        data[0x62] = number << 4 | 2
        assert read_function(at("00:01.0"), bytes(data)).port_type is expected


def test_a_reserved_port_type_is_told() -> None:
    data = bytearray(space(Function(address=at("00:01.0"), port_type=PortType.ENDPOINT)))
    data[0x62] = 0x32
    with pytest.raises(SpecError, match="device/port type 0x3"):
        read_function(at("00:01.0"), bytes(data))


def test_lists_of_capabilities_that_go_in_a_circle_end() -> None:
    data = bytearray(space(Function(address=at("00:01.0"), port_type=PortType.ENDPOINT)))
    data[0x61] = 0x50
    data[0x100:0x104] = (0x100 << 20 | 1 << 16 | 0x0001).to_bytes(4, "little")
    assert read_function(at("00:01.0"), bytes(data)).acs is None


@given(st.binary(max_size=0x140), st.integers(0, 0xFF))
def test_random_bytes_are_a_function_or_are_refused_and_nothing_else(data: bytes, header: int) -> None:
    some = bytearray(data)
    if len(some) > 0x34:
        some[0x06] |= 0x10
        some[0x0E] = header
    try:
        read_function(at("00:01.0"), bytes(some))
    except SpecError as refused:
        refusal = refused
    else:
        return
    assert "00:01.0" in str(refusal)
