"""DMA and interrupt faults in the words of the drivers of kernels 5.10 to 7.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.faults import is_fault_line, parse_faults, parse_interrupt_faults
from harness.pci import Address
from harness.report.notable import is_notable

TEXT = "PTE Write access is not set"


@pytest.mark.parametrize(
    ("line", "requester", "address", "is_write", "reason"),
    [
        # VT-d: 5.10, 5.14, 5.15 to 6.x, 7.2
        (
            f"DMAR: [DMA Write] Request device [00:04.0] PASID ffffffff fault addr fee01000 [fault reason 05] {TEXT}",
            0x20, 0xFEE01000, True, "05",
        ),
        (
            f"DMAR: [DMA Read] Request device [81:00.1] PASID 1f fault addr 1000 [fault reason 06] {TEXT}",
            0x8101, 0x1000, False, "06",
        ),
        (
            f"DMAR: [DMA Write NO_PASID] Request device [0x00:0x06.0] fault addr 0x1000 [fault reason 0x05] {TEXT}",
            0x30, 0x1000, True, "0x05",
        ),
        (
            f"DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0xfffff000 [fault reason 0x06] {TEXT}",
            0x100, 0xFFFFF000, False, "0x06",
        ),
        (
            f"DMAR: [DMA Write PASID 0x3] Request device [00:1f.7] fault addr 0x0 [fault reason 0x71] {TEXT}",
            0xFF, 0, True, "0x71",
        ),
        (
            "DMAR: [DMA Write NO_PASID] Request device [0000:00:04.0] fault addr 0x123456789000 [fault reason 0x05] x",
            0x20, 0x123456789000, True, "0x05",
        ),
        # virtio-iommu
        ("virtio_iommu virtio0: page fault from EP 32 at 0x1000 [W]", 0x20, 0x1000, True, "page"),
        ("virtio_iommu virtio0: page fault from EP 32 at 0x1000 [R]", 0x20, 0x1000, False, "page"),
        ("virtio_iommu virtio0: page fault from EP 32 at 0x1000 []", 0x20, 0x1000, None, "page"),
        ("virtio_iommu virtio0: domain fault from EP 32", 0x20, None, None, "domain"),
        ("virtio_iommu virtio12: unknown fault from EP 65535", 0xFFFF, None, None, "unknown"),
        # AMD-Vi as QEMU 11.1 reports a write and a read, which have no direction
        (
            "[    5.7] pci 0000:00:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0x0 flags=0x000a]",
            0x00, 0x0, False, "IO_PAGE_FAULT",
        ),
        (
            "vfio-pci 0000:00:04.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0x0 flags=0x0009]",
            0x20, 0x0, False, "IO_PAGE_FAULT",
        ),
        # AMD-Vi: with the device known to the kernel, and without
        (
            "edu 0000:00:04.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 address=0x1000 flags=0x0020]",
            0x20, 0x1000, True, "IO_PAGE_FAULT",
        ),
        (
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:01:00.0 domain=0x0001 address=0xabc000 flags=0x0000]",
            0x100, 0xABC000, False, "IO_PAGE_FAULT",
        ),
        (
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0 domain=0x0001 address=0xabc000 flags=0x0010]",
            0x100, 0xABC000, False, "IO_PAGE_FAULT",
        ),
        (
            "pci 0000:00:00.2: AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:00:04.0 pasid=0x00000 "
            "address=0xfffffffdf8000000 flags=0x0a00]",
            0x20, 0xFFFFFFFDF8000000, False, "ILLEGAL_DEV_TABLE_ENTRY",
        ),
        (
            "AMD-Vi: Event logged [INVALID_PPR_REQUEST device=0000:00:04.0 pasid=0x00001 address=0x2000 flags=0x0020 "
            "tag=0x001]",
            0x20, 0x2000, True, "INVALID_PPR_REQUEST",
        ),
        # SMMUv3 since 6.15
        (
            "arm-smmu-v3 smmu.0: event: F_TRANSLATION client: 0000:00:04.0 sid: 0x20 ssid: 0 iova: 0x1000 ipa: 0",
            0x20, 0x1000, None, "F_TRANSLATION",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["", "[    7.654321] ", "[    7.654321][   C0] "])
def test_fault_is_parsed(
    start: str, line: str, requester: int, address: int | None, is_write: bool | None, reason: str
) -> None:
    (fault,) = parse_faults([start + line])
    assert (fault.requester, fault.address, fault.is_write, fault.reason) == (requester, address, is_write, reason)
    assert fault.line == start + line
    assert is_fault_line(start + line)


ANNOUNCEMENTS = (
    "DMAR: DRHD: handling fault status reg 2",
    "arm-smmu-v3 9050000.smmuv3: event 0x10 received:",
    "arm-smmu-v3 9050000.smmuv3: event: C_BAD_STREAMID client: (unassigned sid) sid: 0x20 ssid: 0",
    "AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x1000]",
    "AMD-Vi: Event logged [RMP_PAGE_FAULT device=0000:00:04.0, vmg_tag=0x0000, gpa=0x1000, flags_rmp=0x0, flags=0x0]",
    "DMAR: [DMA Write NO_PASID] Request device in words to come",
)


@pytest.mark.parametrize("line", ANNOUNCEMENTS)
def test_line_that_says_too_little_is_a_fault_line_and_no_fault(line: str) -> None:
    assert is_fault_line(line)
    assert is_notable(line)
    assert parse_faults([line]) == ()


@pytest.mark.parametrize(
    "line",
    [
        "DMAR: IOMMU enabled",
        "DMAR: DRHD base: 0x000000fed90000 flags: 0x0",
        "DMAR-IR: Enabled IRQ remapping in xapic mode",
        "virtio_iommu virtio0: input address: 64 bits",
        "AMD-Vi: Interrupt remapping enabled",
        "arm-smmu-v3 9050000.smmuv3: allocated 65536 entries for evtq",
        "iommu: Default domain type: Translated",
        "x86/fault: page fault handler is ready",
    ],
)
def test_line_of_a_healthy_iommu_is_no_fault_line(line: str) -> None:
    assert not is_fault_line(line)
    assert parse_faults([line]) == ()


@pytest.mark.parametrize(
    ("line", "index", "reason"),
    [
        ("DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 8 [fault reason 38] x", 8, "38"),
        ("DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0xffff [fault reason 0x22] x", 0xFFFF, "0x22"),
        ("DMAR: [INTR-REMAP] Request device [0000:f0:1f.0] fault index 0x1a [fault reason 0x25] x", 0x1A, "0x25"),
    ],
)
def test_interrupt_remapping_fault_is_one_of_an_interrupt_and_not_of_dma(line: str, index: int, reason: str) -> None:
    assert parse_faults([line]) == ()
    (fault,) = parse_interrupt_faults(["other", line])
    assert (fault.requester, fault.index, fault.reason, fault.line) == (0xF0F8, index, reason, line)
    assert is_fault_line(line)
    assert is_notable(line)


def test_dma_fault_is_no_interrupt_fault() -> None:
    line = f"DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0x1000 [fault reason 0x05] {TEXT}"
    assert parse_interrupt_faults([line]) == ()
    assert is_notable(line)


def test_faults_come_in_the_order_of_their_lines() -> None:
    lines = [f"virtio_iommu virtio0: page fault from EP {n} at 0x1000 []" for n in (5, 3, 9)]
    assert [fault.requester for fault in parse_faults([lines[0], "x", *lines[1:]])] == [5, 3, 9]


def test_fault_is_looked_for_in_a_thousand_characters() -> None:
    line = "virtio_iommu virtio0: domain fault from EP 32"
    assert len(parse_faults([" " * (1000 - len(line)) + line])) == 1
    assert parse_faults([" " * 1000 + line]) == ()
    assert not is_fault_line(" " * 1000 + line)


def test_device_number_that_no_function_has_is_no_fault() -> None:
    assert parse_faults(["DMAR: [DMA Write] Request device [00:ff.0] fault addr 0 [fault reason 05] x"]) == ()


_PIECES = st.sampled_from(
    [
        *(
            "DMAR: [DMA Write",
            "NO_PASID] ",
            "Request device [",
            "00:04.0",
            "ff:ff.9",
            "] ",
            "fault addr ",
            "0x",
            "f" * 20,
        ),
        *(" [fault reason ", "virtio_iommu virtio0: ", "page", " fault from EP ", "9" * 14, " at ", "[RW]"),
        *("AMD-Vi: Event logged [", "IO_PAGE_FAULT", " device=", " address=", " flags=0x", "[INTR-REMAP] "),
        *(" fault index ", "arm-smmu-v3 x: event", ": F_X client: ", " sid: 0 ssid: 0 iova: "),
    ]
)


@given(st.lists(st.one_of(_PIECES, st.text(max_size=5)), max_size=30).map("".join))
def test_no_text_makes_the_parsers_raise(line: str) -> None:
    assert all(fault.requester is None or fault.requester >= 0 for fault in parse_faults([line]))
    assert all(0 <= fault.requester <= 0xFFFF for fault in parse_interrupt_faults([line]))
    is_fault_line(line)


@given(requester=st.integers(0, 0xFFFF), address=st.integers(0, 2**64 - 1), write=st.booleans())
def test_every_requester_and_address_comes_back(requester: int, address: int, write: bool) -> None:
    who = Address.of_requester(requester)
    kind = "Write" if write else "Read"
    line = f"DMAR: [DMA {kind} NO_PASID] Request device [{who}] fault addr {address:#x} [fault reason 0x05] {TEXT}"
    (fault,) = parse_faults([line])
    assert (fault.requester, fault.address, fault.is_write) == (requester, address, write)
