"""Structures of the RISC-V IOMMU bit by bit, beside numbers written by hand: what the builders write (3, 4, 6)."""

from __future__ import annotations

import pytest
from riscv_unit import DEVICE, GSCID, IOVA, PSCID, message_unit

from harness.model.bits import Layout
from harness.model.memory import Region, SparseMemory
from harness.model.radix import PageAllocator
from harness.model.riscv import RiscvIommuTables
from harness.model.riscv.commands import ATS, IODIR, IOFENCE, IOTINVAL
from harness.model.riscv.device_layouts import BASE_CONTEXT, DIRECTORY_ENTRY, EXTENDED_CONTEXT
from harness.model.riscv.faults import FAULT_RECORD
from harness.model.riscv.msi import MSI_PTE_BASIC, MSI_PTE_MRIF
from harness.model.riscv.page_requests import PAGE_REQUEST
from harness.model.riscv.pages import PTE, PTE_SV32
from harness.model.riscv.process import PROCESS_CONTEXT
from harness.model.riscv.register_fields import (
    CAPABILITIES,
    CQCSR,
    DDTP,
    FCTL,
    FQCSR,
    ICVEC,
    IPSR,
    PQCSR,
    QUEUE_BASE,
)
from harness.model.riscv.tables import new_page_table


def written(memory: SparseMemory) -> dict[int, int]:
    return {address: value for address, value in memory.words() if value}


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        (DIRECTORY_ENTRY, 64),
        (BASE_CONTEXT, 256),
        (EXTENDED_CONTEXT, 512),
        (PROCESS_CONTEXT, 128),
        (PTE, 64),
        (PTE_SV32, 32),
        (MSI_PTE_BASIC, 128),
        (MSI_PTE_MRIF, 128),
        (FAULT_RECORD, 256),
        (PAGE_REQUEST, 128),
        (IOTINVAL, 128),
        (IOFENCE, 128),
        (IODIR, 128),
        (ATS, 128),
        (CAPABILITIES, 64),
        (FCTL, 32),
        (DDTP, 64),
        (QUEUE_BASE, 64),
        (CQCSR, 32),
        (FQCSR, 32),
        (PQCSR, 32),
        (IPSR, 32),
        (ICVEC, 64),
    ],
    ids=lambda value: value.name if isinstance(value, Layout) else "",
)
def test_a_layout_has_every_bit_once_in_ascending_order(layout: Layout, bits: int) -> None:
    at = 0
    for entry in layout.fields:
        assert entry.low == at, entry.name
        at += entry.width
    assert at == bits


# The device context (3.1.3): each field alone, all ones, and the doubleword that it makes.
CONTEXT_FIELDS = [
    *((f"tc.{name}", 1, 0, 1 << bit) for bit, name in enumerate(("V", "EN_ATS", "EN_PRI", "T2GPA", "DTF", "PDTV"))),
    *((f"tc.{name}", 1, 0, 64 << bit) for bit, name in enumerate(("PRPR", "GADE", "SADE", "DPE", "SBE", "SXL"))),
    ("IGN_tc_custom", 0xFF, 0, 0xFF00_0000),
    ("iohgatp.PPN", 0xFFF_FFFF_FFFF, 1, 0x0000_0FFF_FFFF_FFFF),
    ("iohgatp.GSCID", 0xFFFF, 1, 0x0FFF_F000_0000_0000),
    ("iohgatp.MODE", 0xF, 1, 0xF000_0000_0000_0000),
    ("ta.PSCID", 0xF_FFFF, 2, 0xFFFF_F000),
    ("ta.RCID", 0xFFF, 2, 0x000F_FF00_0000_0000),
    ("ta.MCID", 0xFFF, 2, 0xFFF0_0000_0000_0000),
    ("fsc.PPN", 0xFFF_FFFF_FFFF, 3, 0x0000_0FFF_FFFF_FFFF),
    ("fsc.MODE", 0xF, 3, 0xF000_0000_0000_0000),
    ("msiptp.PPN", 0xFFF_FFFF_FFFF, 4, 0x0000_0FFF_FFFF_FFFF),
    ("msiptp.MODE", 0xF, 4, 0xF000_0000_0000_0000),
    ("msi_addr_mask.mask", 0xF_FFFF_FFFF_FFFF, 5, 0x000F_FFFF_FFFF_FFFF),
    ("msi_addr_pattern.pattern", 0xF_FFFF_FFFF_FFFF, 6, 0x000F_FFFF_FFFF_FFFF),
]


@pytest.mark.parametrize(("name", "value", "word", "bits"), CONTEXT_FIELDS)
def test_a_field_of_the_device_context_stands_where_3_1_3_has_it(name: str, value: int, word: int, bits: int) -> None:
    memory = SparseMemory((Region(0, 0x1_0000),))
    RiscvIommuTables(memory, 0x1000, 1).set_context_fields(DEVICE, {name: value})
    assert written(memory) == {0x1000 + 64 * DEVICE + 8 * word: bits}


def test_every_field_of_the_device_context_is_among_them() -> None:
    told = {name for name, *_ in CONTEXT_FIELDS}
    assert {entry.name for entry in EXTENDED_CONTEXT.fields if not entry.name.startswith("RSVD")} == told


@pytest.mark.parametrize(
    ("name", "value", "word", "bits"),
    [
        ("ta.V", 0x1, 0, 0x1),
        ("ta.ENS", 0x1, 0, 0x2),
        ("ta.SUM", 0x1, 0, 0x4),
        ("ta.PSCID", 0xF_FFFF, 0, 0xFFFF_F000),
        ("fsc.PPN", 0xFFF_FFFF_FFFF, 1, 0x0000_0FFF_FFFF_FFFF),
        ("fsc.MODE", 0xF, 1, 0xF000_0000_0000_0000),
    ],
)
def test_a_field_of_the_process_context_stands_where_3_2_3_has_it(name: str, value: int, word: int, bits: int) -> None:
    memory = SparseMemory((Region(0, 0x1_0000),))
    tables = RiscvIommuTables(memory, 0x1000, 1)
    tables.attach_processes(DEVICE, 1)
    directory = tables.pages.next_page - 0x1000
    tables.set_process_fields(DEVICE, 5, {name: value})
    found = {address: value for address, value in written(memory).items() if address >= directory}
    assert found == {directory + 16 * 5 + 8 * word: bits}


def test_tables_of_two_stages_are_built_as_3_1_and_the_privileged_architecture_have_them() -> None:
    memory = SparseMemory((Region(0, 0x10_0000),))
    tables = RiscvIommuTables(memory, 0x1000, 2)
    second = tables.new_page_table("Sv39x4")
    second.map(0, 0, 1 << 30)
    first = new_page_table(PageAllocator(memory, 0x2_0000), "Sv48")
    first.map(IOVA, 0x8000_0000, 0x1000)
    tables.attach(DEVICE, first=first, second=second, pscid=PSCID, gscid=GSCID)
    assert written(memory) == {
        0x1000: 0x2001,  # DDI[1] is 0; the table of level 1 is at 0x8000
        0x4000: 0xD7,  # 1 GiB at 0: D A U W R V
        0x8A00: 0x1,
        0x8A08: 0x80AB_C000_0000_0004,  # iohgatp: Sv39x4, GSCID 0xABC, PPN 4
        0x8A10: 0x1234_5000,
        0x8A18: 0x9000_0000_0000_0020,  # fsc: Sv48, PPN 0x20
        0x2_0000: 0x8401,
        0x2_1000: 0x8801,
        0x2_2010: 0x8C01,
        0x2_3000: 0x2000_00D7,
    }


def test_napot_pages_and_sv32_entries_are_built_as_the_privileged_architecture_has_them() -> None:
    memory = SparseMemory((Region(0, 0x10_0000),))
    napot = new_page_table(PageAllocator(memory, 0x1000), "Sv39")
    napot.map(0, 0x12_0000, 0x1_0000)
    assert {memory.read_u64(0x3000 + 8 * part) for part in range(16)} == {0x8000_0000_0004_A0D7}
    narrow = new_page_table(PageAllocator(memory, 0x1_0000), "Sv32")
    narrow.map(0x40_1000, 0x3_FFFF_F000, 0x1000)
    assert memory.read(0x1_0004, 4) == (0x4401).to_bytes(4, "little")
    assert memory.read(0x1_1004, 4) == (0xFFFF_FCD7).to_bytes(4, "little")


def test_msi_entries_are_built_as_the_aia_has_them() -> None:
    unit = message_unit()
    context = unit.engine().find_device(DEVICE)
    table = context.msi_table  # type: ignore[union-attr]
    assert table is not None
    unit.tables.set_interrupt_file(DEVICE, 0, 0xAB_CDEF_0123_4000)
    assert unit.memory.read_u64(table) == 0x002A_F37B_C048_D007
    unit.tables.set_resident_interrupt_file(DEVICE, 1, 0xAB_CDEF_0123_4200, 0x12_3456_789A_B000, 0x755)
    assert unit.memory.read_u64(table + 16) == 0x002A_F37B_C048_D083
    assert unit.memory.read_u64(table + 24) == 0x1004_8D15_9E26_AF55


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        (FCTL, {"BE": 0, "WSI": 1, "GXL": 2}),
        (DDTP, {"iommu_mode": 0, "busy": 4, "PPN": 10}),
        (QUEUE_BASE, {"LOG2SZ-1": 0, "PPN": 10}),
        (
            CQCSR,
            {"cqen": 0, "cie": 1, "cqmf": 8, "cmd_to": 9, "cmd_ill": 10, "fence_w_ip": 11, "cqon": 16, "busy": 17},
        ),
        (FQCSR, {"fqen": 0, "fie": 1, "fqmf": 8, "fqof": 9, "fqon": 16, "busy": 17}),
        (PQCSR, {"pqen": 0, "pie": 1, "pqmf": 8, "pqof": 9, "pqon": 16, "busy": 17}),
        (IPSR, {"cip": 0, "fip": 1, "pmip": 2, "pip": 3}),
        (ICVEC, {"civ": 0, "fiv": 4, "pmiv": 8, "piv": 12}),
    ],
    ids=lambda value: value.name if isinstance(value, Layout) else "",
)
def test_the_fields_of_a_register_start_where_chapter_6_has_them(layout: Layout, fields: dict[str, int]) -> None:
    told = [entry for entry in layout.fields if not entry.name.startswith(("RSVD", "custom"))]
    assert {entry.name: entry.low for entry in told} == fields
