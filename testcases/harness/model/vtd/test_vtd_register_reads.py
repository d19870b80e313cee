"""Registers of the queue, of faults and of interrupts: read from a live unit, and what capabilities say of them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import SpecError
from harness.model.bits import Layout
from harness.model.vtd.faults import FRCD_REG
from harness.model.vtd.interrupts.entries import (
    IRTA_REG,
    POSTED_DESCRIPTOR,
    POSTED_ENTRY,
    REMAPPABLE_ADDRESS,
    REMAPPABLE_DATA,
    REMAPPED_ENTRY,
)
from harness.model.vtd.invalidation.by_register import CCMD_REG, IOTLB_REG, IVA_REG
from harness.model.vtd.invalidation.commands import IQA_REG
from harness.model.vtd.invalidation.queue import IQERCD_REG, IQH_REG, IQT_REG
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG
from harness.model.vtd.registers import VtdRegisters, capabilities
from harness.model.vtd.reporting.events import EVENT_CONTROL, FSTS_REG, ICS_REG, PRS_REG

FRO, IRO = 0x22, 0x0F


def unit(records: int) -> dict[int, int]:
    """Every doubleword of the register page holds its own offset, but for CAP_REG and ECAP_REG."""
    words = {offset: offset for offset in range(0, 0x1000, 4)}
    cap = CAP_REG.encode({"NFR": records - 1, "FRO": FRO})
    ecap = ECAP_REG.encode({"IRO": IRO})
    for offset, value in ((0x08, cap), (0x10, ecap)):
        words[offset], words[offset + 4] = value & 0xFFFF_FFFF, value >> 32
    return words


def quad(offset: int) -> int:
    return (offset + 4) << 32 | offset


def test_each_register_is_read_at_its_offset_and_in_its_size_11_4() -> None:
    words = unit(2)

    def read(offset: int, size: int) -> int:
        assert size in (4, 8)
        assert offset % size == 0
        return words[offset] if size == 4 else words[offset + 4] << 32 | words[offset]

    registers = VtdRegisters.read(read, host_address_width=46)
    assert registers.host_address_width == 46
    # No register tells it: the widest that there is, unless the caller knows better.
    assert VtdRegisters.read(read).host_address_width == 52
    assert (registers.ver, registers.gsts, registers.rtaddr, registers.ccmd) == (0, 0x1C, quad(0x20), quad(0x28))
    assert (registers.fsts, registers.fectl, registers.fedata) == (0x34, 0x38, 0x3C)
    assert (registers.feaddr, registers.feuaddr) == (0x40, 0x44)
    assert (registers.iqh, registers.iqt, registers.iqa) == (quad(0x80), quad(0x88), quad(0x90))
    assert (registers.ics, registers.iectl, registers.iedata) == (0x9C, 0xA0, 0xA4)
    assert (registers.ieaddr, registers.ieuaddr, registers.iqercd) == (0xA8, 0xAC, quad(0xB0))
    assert registers.irta == quad(0xB8)
    assert (registers.iva, registers.iotlb) == (quad(0xF0), quad(0xF8))
    assert registers.frcd == tuple(quad(at + 8) << 64 | quad(at) for at in (0x220, 0x230))


@pytest.mark.parametrize("mask", [None, 0, 18, 63])
def test_capabilities_say_what_page_selective_invalidation_takes(mask: int | None) -> None:
    registers = VtdRegisters(rtaddr=0, cap=capabilities(max_address_mask=mask), ecap=0, gsts=0)
    assert registers.max_address_mask == mask


@pytest.mark.parametrize("count", [1, 8, 256])
def test_capabilities_say_how_many_fault_recording_registers_there_are(count: int) -> None:
    registers = VtdRegisters(rtaddr=0, cap=capabilities(fault_recording_registers=count), ecap=0, gsts=0)
    assert registers.fault_recording_registers == count


def test_capabilities_say_whether_interrupts_can_be_posted() -> None:
    for posted in (False, True):
        registers = VtdRegisters(rtaddr=0, cap=capabilities(posted_interrupts=posted), ecap=0, gsts=0)
        assert registers.posted_interrupts is posted


@pytest.mark.parametrize(
    ("name", "width"), [("fsts", 32), ("ics", 32), ("ieuaddr", 32), ("ver", 32), ("iqa", 64), ("irta", 64), ("iva", 64)]
)
def test_values_wider_than_their_register_are_refused(name: str, width: int) -> None:
    for value in (-1, 1 << width):
        values: dict[str, Any] = {"rtaddr": 0, "cap": 0, "ecap": 0, "gsts": 0, name: value}
        with pytest.raises(SpecError, match=f"{name}=.*{width}-bit"):
            VtdRegisters(**values)


def test_fault_record_wider_than_its_register_is_refused() -> None:
    with pytest.raises(SpecError, match=r"frcd\[0\]"):
        VtdRegisters(rtaddr=0, cap=0, ecap=0, gsts=0, frcd=(1 << 128,))


@pytest.mark.parametrize(
    ("layout", "values", "bits"),
    [
        (IQH_REG, {"QH": 0x7FFF0}, 0x7FFF0),
        (IQT_REG, {"QT": 0x7FFF0}, 0x7FFF0),
        (IQA_REG, {"IQA": 0x1234_5000, "DW": 1, "QS": 7}, 0x1234_5807),
        (IQERCD_REG, {"IQEI": 0xF, "ITESID": 0x5A5B, "ICESID": 0xC0C1}, 0xC0C1_5A5B_0000_000F),
        (FSTS_REG, {"PFO": 1, "IQE": 1, "ITE": 1, "FRI": 0xAB}, 0xAB51),
        (FSTS_REG, {"PPF": 1, "ICE": 1}, 0x22),
        (ICS_REG, {"IWC": 1}, 1),
        (EVENT_CONTROL, {"IM": 1}, 1 << 31),
        (EVENT_CONTROL, {"IP": 1}, 1 << 30),
        (
            CCMD_REG,
            {"ICC": 1, "CIRG": 2, "CAIG": 1, "FM": 3, "SID": 0x5A5B, "DID": 0xD1D0},
            0xC800_0003_5A5B_D1D0,
        ),
        (IOTLB_REG, {"IVT": 1, "IIRG": 3, "IAIG": 2, "DR": 1, "DID": 0xD1D0}, 0xB402_D1D0_0000_0000),
        (IOTLB_REG, {"DW": 1}, 1 << 48),
        (IVA_REG, {"ADDR": 0x1234_5000, "IH": 1, "AM": 0x3F}, 0x1234_507F),
        (IRTA_REG, {"IRTA": 0x1234_5000, "EIME": 1, "S": 0xF}, 0x1234_580F),
    ],
)
def test_register_has_its_fields_where_chapter_11_has_them(layout: Layout, values: dict[str, int], bits: int) -> None:
    assert layout.encode(values) == bits


@pytest.mark.parametrize(
    ("layout", "width"),
    [
        (IQH_REG, 64),
        (IQT_REG, 64),
        (IQA_REG, 64),
        (IQERCD_REG, 64),
        (CCMD_REG, 64),
        (IOTLB_REG, 64),
        (IVA_REG, 64),
        (IRTA_REG, 64),
        (FSTS_REG, 32),
        (ICS_REG, 32),
        (EVENT_CONTROL, 32),
        (REMAPPABLE_ADDRESS, 32),
        (REMAPPABLE_DATA, 32),
        (REMAPPED_ENTRY, 128),
        (POSTED_ENTRY, 128),
        (POSTED_DESCRIPTOR, 512),
        (FRCD_REG, 128),
        (PRS_REG, 32),
    ],
)
def test_layout_names_each_of_its_bits_once(layout: Layout, width: int) -> None:
    masks = [entry.mask for entry in layout.fields]
    assert sum(masks) == (1 << width) - 1
    assert sum(mask.bit_count() for mask in masks) == width
