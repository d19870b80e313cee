"""Capabilities and registers of SMMUv3 (IHI 0070, chapter 6)."""

from __future__ import annotations

import pytest

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.smmuv3 import Smmuv3Registers
from harness.model.smmuv3.capabilities import Smmuv3Capabilities, capabilities

# The registers of a model in QEMU with both stages, as a guest reads them: hand-written against 6.3.1 to 6.3.6.
QEMU_IDR = {0x0: 0x0D44101B, 0x4: 0x02730010, 0xC: 0x00001414, 0x14: 0x00000074}


def test_capabilities_are_read_field_by_field_6_3_1_to_6_3_6() -> None:
    has = Smmuv3Capabilities(idr0=QEMU_IDR[0], idr1=QEMU_IDR[4], idr3=QEMU_IDR[0xC], idr5=QEMU_IDR[0x14])
    assert has.stage1
    assert has.stage2
    assert has.aarch64_tables
    assert has.wide_asids
    assert has.wide_vmids
    assert has.two_level_streams
    assert not has.two_level_contexts
    assert has.aborts_only
    assert has.stall_model == 0b01
    assert has.table_endianness == 0b10
    assert (has.stream_id_bits, has.substream_id_bits, has.command_queue_bits, has.event_queue_bits) == (16, 0, 19, 19)
    assert has.hierarchical_disable
    assert has.execute_never_by_privilege
    assert has.range_invalidation
    assert not (has.ats)
    assert not (has.hardware_access_flag)
    assert not (has.small_tables)
    assert not (has.msi)
    assert not (has.permission_overrides)
    assert has.address_bits == 44
    assert has.granules == {12, 14, 16}
    assert not has.wide_input
    assert has.unmodelled == ()


def test_builder_of_capabilities_is_the_mirror_image() -> None:
    built = capabilities(
        stages=frozenset({2}),
        address_bits=40,
        granules=frozenset({16}),
        stream_id_bits=9,
        substream_id_bits=5,
        HTTU=1,
        STALL_MODEL=0b10,
        TTENDIAN=0b11,
        VAX=1,
        DS=1,
        STT=1,
        NS1ATS=1,
        CMDQS=3,
    )
    assert not built.stage1
    assert built.stage2
    assert built.address_bits == 40
    assert built.granules == {16}
    assert (built.stream_id_bits, built.substream_id_bits, built.command_queue_bits) == (9, 5, 3)
    assert built.hardware_access_flag
    assert not built.hardware_dirty_state
    assert built.stall_model == 0b10
    assert built.wide_input
    assert built.wide_descriptors
    assert built.small_tables
    assert not built.split_stage_ats


def test_features_that_the_model_lacks_are_named() -> None:
    has = capabilities(TTF=0b11, HTTU=3, DPT=1, D128=1, S1PI=1)
    assert [name.split()[0] for name in has.unmodelled] == [
        "IDR3.DPT",
        "IDR3.S1PI",
        "IDR5.D128",
        "IDR0.TTF[0]",
        "IDR0.HTTU=0b11",
    ]


def test_unknown_capability_field_is_refused() -> None:
    with pytest.raises(SpecError, match="SMMUEN"):
        capabilities(SMMUEN=1)


@pytest.mark.parametrize("name", ["cr0", "strtab_base", "eventq_prod"])
def test_value_wider_than_its_register_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=name):
        Smmuv3Registers(capabilities=capabilities(), **{name: 1 << 64})


def test_capability_wider_than_its_register_is_refused() -> None:
    with pytest.raises(SpecError, match="idr5"):
        Smmuv3Capabilities(idr0=0, idr1=0, idr3=0, idr5=1 << 32)


def test_every_register_is_read_at_its_offset_6_2() -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> int:
        asked.append((offset, size))
        return QEMU_IDR.get(offset, offset)

    registers = Smmuv3Registers.read(read)
    assert registers.capabilities.address_bits == 44
    assert (registers.cr0, registers.irq_ctrl, registers.gerrorn) == (0x24, 0x54, 0x64)
    assert (registers.strtab_base, registers.cmdq_base, registers.eventq_base) == (
        0x84_0000_0080,
        0x94_0000_0090,
        0xA4_0000_00A0,
    )
    assert (registers.strtab_base_cfg, registers.eventq_prod, registers.eventq_cons) == (0x88, 0x100A8, 0x100AC)
    assert {size for _, size in asked} == {4}
    assert len(asked) == len(set(asked))


def test_stream_table_is_aligned_to_its_size_6_3_24() -> None:
    linear = Smmuv3Registers(capabilities=capabilities(), strtab_base=0x12_3456_7FC0, strtab_base_cfg=8)
    assert linear.stream_table == 0x12_3456_4000
    two_levels = Smmuv3Registers(
        capabilities=capabilities(), strtab_base=0x12_3456_7FC0, strtab_base_cfg=1 << 16 | 8 << 6 | 16
    )
    assert two_levels.stream_table == 0x12_3456_7800


@pytest.mark.parametrize(("config", "split"), [(0x1_0000, 6), (0x1_0200, 8), (0x1_0280, 10), (0x1_01C0, 6)])
def test_reserved_split_behaves_as_6(config: int, split: int) -> None:
    assert Smmuv3Registers(capabilities=capabilities(), strtab_base_cfg=config).split_bits == split


@pytest.mark.parametrize("config", [0x0_0200, 0x2_0200, 0x3_0200])
def test_reserved_format_behaves_as_linear_6_3_25(config: int) -> None:
    assert Smmuv3Registers(capabilities=capabilities(), strtab_base_cfg=config).split_bits is None


def test_smmu_without_two_levels_has_a_linear_table_6_3_25() -> None:
    assert Smmuv3Registers(capabilities=capabilities(ST_LEVEL=0), strtab_base_cfg=0x1_0200).split_bits is None


def test_log2size_is_capped_at_sidsize_6_3_25() -> None:
    assert Smmuv3Registers(capabilities=capabilities(stream_id_bits=9), strtab_base_cfg=20).stream_table_bits == 9


def test_queue_is_capped_and_aligned_6_3_26() -> None:
    queue = Smmuv3Registers(
        capabilities=capabilities(CMDQS=4), cmdq_base=0x12_3456_7FE0 | 31, cmdq_prod=0x35, cmdq_cons=0x1F
    ).command_queue
    assert queue.base == 0x12_3456_7F00
    assert (queue.bits, queue.size, queue.producer, queue.consumer, queue.used) == (4, 16, 0x15, 0x1F, 22)


def test_queue_address_is_truncated_to_the_oas_3_4_3() -> None:
    base = 1 << 45 | 1 << 40 | 0x5000
    registers = Smmuv3Registers(capabilities=capabilities(address_bits=40), cmdq_base=base, eventq_base=base)
    assert (registers.command_queue.base, registers.event_queue.base) == (0x5000, 0x5000)


def test_one_entry_command_queue_is_aligned_to_32_bytes_6_3_26() -> None:
    assert Smmuv3Registers(capabilities=capabilities(), cmdq_base=0x1020).command_queue.base == 0x1020


@pytest.mark.parametrize(("vmw", "bits"), [(0, 0), (3, 3), (4, 4), (5, 0), (7, 0)])
def test_reserved_vmid_wildcards_compare_all_bits_6_3_9(vmw: int, bits: int) -> None:
    registers = Smmuv3Registers(capabilities=capabilities(VMW=1), cr0=vmw << 6)
    assert registers.wildcard_bits == bits
    assert Smmuv3Registers(capabilities=capabilities(), cr0=vmw << 6).wildcard_bits == 0


def test_message_is_a_write_of_32_bits_3_18() -> None:
    values = {"irq_ctrl": 0b101, "eventq_irq_cfg0": 0xFFFF_0000_0808_0043, "eventq_irq_cfg1": 0x1234}
    registers = Smmuv3Registers(capabilities=capabilities(MSI=1), **values)
    assert registers.message("eventq") == MemoryWrite(0x0808_0040, b"\x34\x12\0\0")
    assert registers.message("gerror") is None
    assert Smmuv3Registers(capabilities=capabilities(), **values).message("eventq") is None
    values["irq_ctrl"] = 0b001
    assert Smmuv3Registers(capabilities=capabilities(MSI=1), **values).message("eventq") is None
