"""The tables that QEMU hands to the firmware of its Arm and RISC-V machines (`virt`), against what these really do.

The harness boots no such guests yet; the tables it can read already, from a machine whose processor never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from vmm_acpi import acpi_tables, by_mmio
from vmm_bare import ARM, RISCV, Virt, bare_machine

from harness.checks.firmware import check_tables
from harness.defaults import defaults
from harness.model.firmware.iort import Iort
from harness.model.firmware.iort_nodes import ItsGroup
from harness.model.firmware.rimt import Rimt, RimtPcieRootComplex
from harness.model.pci.functions import Function, PortType
from harness.model.pci.platform import Platform, Unit, UnitPlace
from harness.model.pci.tree import PciTree, RootBus
from harness.pci import Address
from harness.vmm.qemu.qtest import Width

Tables = Callable[..., dict[str, bytes]]


@pytest.fixture
def tables(parent: Path) -> Iterator[Tables]:
    """Starts a machine, numbers the buses of a tree, and reads the tables."""
    with ExitStack() as stack:

        def read(virt: Virt, suite: str, machine: str, tree: PciTree, *devices: str) -> dict[str, bytes]:
            words = ["-machine", machine, "-cpu", virt.processor, "-S"]
            for device in devices:
                words += ["-device", device]
            qtest = stack.enter_context(bare_machine(parent, suite, virt.arch, bytes(4096), *words))
            for function in tree:
                if function.secondary is not None and function.subordinate is not None:
                    numbers = function.subordinate << 16 | function.secondary << 8 | function.address.bus
                    place = virt.ecam + (function.address.requester << 12) + 0x18
                    qtest.write_value(place, numbers, Width.LONG)
                    assert qtest.read_value(place, Width.LONG) == numbers, f"{function.address} is no bridge"
            return acpi_tables(qtest, by_mmio(virt.fw_cfg), virt.ram + 0x20_0000)

        yield read


_EXPANDER = ("pxb-pcie,id=x,bus=pcie.0,addr=2,bus_nr=128", "pcie-root-port,id=q,bus=x,addr=0,chassis=2")
_PORT = "pcie-root-port,id=p,bus=pcie.0,addr=3,chassis=1"


def tree() -> PciTree:
    """A host bridge, an expander at 00:02.0 with a root port on bus 80, a root port at 00:03.0, endpoints below."""
    return PciTree(
        [RootBus(0, last=0x7F), RootBus(0x80)],
        [
            Function(address=Address(0, 0)),
            Function(address=Address(0, 2)),
            Function(address=Address(0, 3), port_type=PortType.ROOT_PORT, secondary=1),
            Function(address=Address(1, 0)),
            Function(address=Address(0x80, 0), port_type=PortType.ROOT_PORT, secondary=0x81),
            Function(address=Address(0x81, 0)),
        ],
    )


SMMU = Unit(place=UnitPlace(registers=0x0905_0000), table="IORT", root_buses=frozenset({0, 0x80}))


@pytest.mark.parametrize("bypass", [False, True])
def test_iort_of_qemu_tells_the_truth(tables: Tables, bypass: bool) -> None:
    expander = f"{_EXPANDER[0]},bypass_iommu={'on' if bypass else 'off'}"
    found = tables(ARM, defaults().qemu, "virt,iommu=smmuv3,gic-version=3", tree(), expander, _EXPANDER[1], _PORT)
    roots = frozenset({0}) if bypass else frozenset({0, 0x80})
    platform = Platform(tree=tree(), units=(replace(SMMU, root_buses=roots),))
    assert list(check_tables(platform, found)) == []
    table = Iort.parse(found["IORT"])
    assert table.encode() == found["IORT"]
    # With an ITS every requester's interrupts lead to it, through the SMMU or past it.
    assert any(isinstance(node, ItsGroup) for node in table.nodes)
    for function in tree():
        assert table.interrupts_of(0, function.address.requester) is not None, function.address


def test_a_machine_without_an_smmu_has_an_iort_that_names_none(tables: Tables) -> None:
    found = tables(ARM, defaults().qemu, "virt,gic-version=3", tree(), *_EXPANDER, _PORT)
    table = Iort.parse(found["IORT"])
    assert table.units == ()
    assert not any(table.behind(tree(), function) for function in tree())


# QEMU 10.0 has no RIMT.
_RISCV_SUITE = "sid"
_RISCV_FUNCTIONS = (
    Function(address=Address(0, 0)),
    Function(address=Address(0, 3), port_type=PortType.ROOT_PORT, secondary=1),
    Function(address=Address(1, 0)),
)


def test_rimt_of_qemu_tells_the_truth_of_a_platform_iommu(tables: Tables) -> None:
    found_tree = PciTree([RootBus()], _RISCV_FUNCTIONS)
    found = tables(RISCV, _RISCV_SUITE, "virt,aia=aplic-imsic,iommu-sys=on", found_tree, _PORT)
    unit = Unit(place=UnitPlace(registers=0x0301_0000), table="RIMT", root_buses=frozenset({0}))
    assert list(check_tables(Platform(tree=found_tree, units=(unit,)), found)) == []
    assert Rimt.parse(found["RIMT"]).encode() == found["RIMT"]


def test_rimt_of_qemu_that_leaves_out_what_comes_before_the_iommu_s_function_is_found_out(tables: Tables) -> None:
    """QEMU, hw/riscv/virt-acpi-build.c, `build_rimt`: ids from the one behind the IOMMU's own on, though it stands
    before all (hw/riscv/riscv-iommu.c, `riscv_iommu_find_as`).
    """
    own = Function(address=Address(0, 5))
    found_tree = PciTree([RootBus()], [*_RISCV_FUNCTIONS, own])
    found = tables(RISCV, _RISCV_SUITE, "virt,aia=aplic-imsic", found_tree, "riscv-iommu-pci,addr=5", _PORT)
    table = Rimt.parse(found["RIMT"])
    assert table.encode() == found["RIMT"]
    root_complex = table.nodes[1]
    assert isinstance(root_complex, RimtPcieRootComplex)
    if root_complex.id_mappings[0].source_id_base == 0:
        pytest.skip("this QEMU is mended: its RIMT starts at id 0")
    unit = Unit(place=UnitPlace(function=own.address), table="RIMT", root_buses=frozenset({0}))
    findings = check_tables(Platform(tree=found_tree, units=(unit,)), found)
    assert [finding.subject for finding in findings] == [
        "RIMT: what stands before 0000:00:00.0",
        "RIMT: what stands before 0000:00:03.0",
    ]
