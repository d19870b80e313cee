"""Registers: where they are, what their fields say (AMD-Vi 3.2 and 3.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.amdvi import AmdviRegisters
from harness.model.amdvi.register_fields import CAPABILITY_HEADER, CONTROL, EXTENDED_FEATURE
from harness.model.amdvi.registers import extended_features

OFFSETS = {
    0x0000: "device_table_base",
    0x0008: "command_buffer_base",
    0x0010: "event_log_base",
    0x0018: "control",
    0x0020: "exclusion_base",
    0x0028: "exclusion_limit",
    0x0030: "extended_feature",
    0x0158: "msi_header",
    0x015C: "msi_address_low",
    0x0160: "msi_address_high",
    0x0164: "msi_data",
    0x0170: "xt_interrupt",
    0x01A0: "extended_feature_2",
    0x2000: "command_buffer_head",
    0x2008: "command_buffer_tail",
    0x2010: "event_log_head",
    0x2018: "event_log_tail",
    0x2020: "status",
}


def registers(**values: Any) -> AmdviRegisters:
    return AmdviRegisters(**{"device_table_base": 0, "extended_feature": 0, "control": 0, **values})


def test_every_register_is_read_where_it_is() -> None:
    asked: dict[int, int] = {}

    def read(offset: int, size: int) -> int:
        asked[offset] = size
        return offset + 1

    found = AmdviRegisters.read(read, capability_header=0xF, device_id=3)
    for offset, name in OFFSETS.items():
        assert getattr(found, name) == offset + 1
        assert asked[offset] == (4 if name.startswith("msi") else 8)
    assert found.device_table_segments == tuple(0x101 + 8 * number for number in range(7))
    assert (found.capability_header, found.device_id) == (0xF, 3)
    assert len(asked) == len(OFFSETS) + 7


def test_values_that_do_not_fit_are_refused() -> None:
    narrow = {"capability_header": 32, "device_id": 16}
    narrow |= {name: 32 for name in OFFSETS.values() if name.startswith("msi")}
    for name in (*OFFSETS.values(), "capability_header", "device_id"):
        widest = (1 << narrow.get(name, 64)) - 1
        assert getattr(registers(**{name: widest}), name) == widest
        with pytest.raises(SpecError, match=name):
            registers(**{name: widest + 1})
        with pytest.raises(SpecError, match=name):
            registers(**{name: -1})
    with pytest.raises(SpecError, match="segment"):
        registers(device_table_segments=(0,))
    with pytest.raises(SpecError, match="segment 7"):
        registers(device_table_segments=(0,) * 6 + (1 << 64,))


@settings(deadline=None)
@given(st.sampled_from([0, 4, 5, 6]), st.sampled_from([4, 5]), st.integers(1, 3), st.integers(1, 20))
def test_features_are_the_mirror_image(host: int, guest: int, gcr3: int, pasid: int) -> None:
    made = registers(
        extended_feature=extended_features(
            host_levels=host, guest_levels=guest, guest_cr3_levels=gcr3, pasid_bits=pasid
        )
    )
    assert (made.host_levels, made.guest_levels, made.pasid_bits) == (host, guest, pasid)
    assert made.feature("GLXSup") == gcr3 - 1


def test_feature_bits_by_hand() -> None:
    # What Linux knows them by: PPR 1, X2APIC 2, NX 3, GT 4, IA 6, GA 7, HATS 11:10, GATS 13:12, GLX 15:14, GAM 21,
    # PASMAX 36:32, GIOSUP 48, HASUP 49, EPHSUP 50, HDSUP 52.
    bits = {"PPRSup": 1, "XTSup": 2, "NXSup": 3, "GTSup": 4, "IASup": 6, "GASup": 7, "HATS": 10, "GATS": 12}
    bits |= {"GLXSup": 14, "GAMSup": 21, "PASMax": 32, "GIoSup": 48, "HASup": 49, "EPHSup": 50, "HDSup": 52}
    assert {name: EXTENDED_FEATURE[name].low for name in bits} == bits
    controls = {"IommuEn": 0, "HTTunEn": 1, "EventLogEn": 2, "EventIntEn": 3, "ComWaitIntEn": 4, "PassPW": 8}
    controls |= {"Coherent": 10, "CmdBufEn": 12, "GTEn": 16, "GAEn": 17, "GAMEn": 25, "XTEn": 50, "IntCapXTEn": 51}
    controls["HtTunEn"] = controls.pop("HTTunEn")
    assert {name: CONTROL[name].low for name in controls} == controls
    assert (CAPABILITY_HEADER["IotlbSup"].low, CAPABILITY_HEADER["NpCache"].low) == (24, 26)


@pytest.mark.parametrize(
    ("name", "feature", "control"),
    [
        ("guest_translation", {"GTSup": 1}, {"GTEn": 1}),
        ("wide_interrupt_entries", {"GASup": 1}, {"GAEn": 1}),
        ("wide_destinations", {"XTSup": 1}, {"XTEn": 1}),
        ("virtual_apic", {"GASup": 1, "GAMSup": 1}, {"GAEn": 1, "GAMEn": 1}),
    ],
)
def test_what_is_enabled_takes_its_feature(name: str, feature: dict[str, int], control: dict[str, int]) -> None:
    enabled, supported = CONTROL.encode(control), EXTENDED_FEATURE.encode(feature)
    assert getattr(registers(control=enabled, extended_feature=supported), name) is True
    assert getattr(registers(control=enabled), name) is False
    assert getattr(registers(extended_feature=supported), name) is False


def test_pointers_are_bits_18_to_4() -> None:
    made = registers(command_buffer_head=(1 << 64) - 1, event_log_tail=0x8_0010)
    assert made.command_buffer_offsets == (0x7FFF0, 0)
    assert made.event_log_offsets == (0, 0x10)
