"""DMA faults as guest kernels report them in their log, one record type for every IOMMU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.guest.kernel_line import LINE_LIMIT
from harness.pci import Address

__all__ = ["InterruptFault", "ReportedFault", "is_fault_line", "parse_faults", "parse_interrupt_faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFault:
    """A DMA that the guest says was refused.

    Attributes:
        requester: requester id; None where the line does not say.
        address: IOVA in bytes; None where the line does not say.
        is_write: None where the line does not say (QEMU's virtio-iommu sets neither flag for an unmapped address).
        reason: as the driver puts it: a number of VT-d's (specification 4.1, table 27; decimal up to Linux 5.13, hex
            with `0x` since), a word of virtio-iommu's driver, the name of an event.
        line: the line itself.
    """

    requester: int | None
    address: int | None
    is_write: bool | None
    reason: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptFault:
    """An interrupt that the guest says was refused by VT-d's interrupt remapping.

    Attributes:
        requester: requester id.
        index: of the entry of the interrupt remapping table.
        reason: number of the fault reason, as for `ReportedFault`.
        line: the line itself.
    """

    requester: int
    index: int
    reason: str
    line: str


_PCI = r"(?P<pci>(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
_ADDRESS = r"(?:0x)?(?P<address>[0-9a-f]{1,16})"
# drivers/iommu/intel/dmar.c, dmar_fault_do_one: without a segment before 7.0 or so; 5.14 alone wrote 0x00:0x04.0.
_DMAR_DEVICE = r"Request device \[(?P<dmar>(?:[0-9a-f]{4}:)?(?:0x)?[0-9a-f]{2}:(?:0x)?[01][0-9a-f]\.[0-7])\]"
_DMAR_REASON = r"\[fault reason (?P<reason>(?:0x)?[0-9a-f]{1,4})\]"

_PATTERNS = (
    # The same function. Before 5.14 the PASID stood behind the device.
    re.compile(
        r"DMAR: \[DMA (?P<kind>Read|Write)(?: NO_PASID| PASID \S+)?\] "
        rf"{_DMAR_DEVICE}(?: PASID \S+)? fault addr {_ADDRESS} {_DMAR_REASON}"
    ),
    # drivers/iommu/virtio-iommu.c, viommu_fault_handler.
    re.compile(
        r"virtio_iommu \S+ (?P<reason>page|domain|unknown) fault from EP (?P<endpoint>\d{1,10})"
        rf"(?: at {_ADDRESS} \[(?P<flags>[RWX]*)\])?"
    ),
    # drivers/iommu/amd/iommu.c, amd_iommu_report_page_fault and iommu_print_event: the device stands in the event, and
    # the IOMMU may stand before it; without one in the event it stands before it.
    re.compile(
        rf"(?:{_PCI}: )?AMD-Vi: Event logged \[(?P<reason>[A-Z_]+)(?: device={_PCI.replace('pci', 'device')})?"
        rf"(?: (?:domain|pasid)=\S+)* address={_ADDRESS} flags=0x(?P<amd>[0-9a-f]{{1,4}})[] ]"
    ),
    # drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c, arm_smmu_dump_event: decoded since 6.15.
    re.compile(rf"arm-smmu-v3 \S+ event: (?P<reason>[A-Z_]+) client: {_PCI} sid: \S+ ssid: \S+ iova: {_ADDRESS}"),
)
_INTERRUPT = re.compile(
    rf"DMAR: \[INTR-REMAP\] {_DMAR_DEVICE} fault index (?:0x)?(?P<index>[0-9a-f]{{1,4}}) {_DMAR_REASON}"
)
_ANNOUNCEMENTS = re.compile(
    r"DMAR: DRHD: handling fault status reg|DMAR: \[(?:DMA|INTR-REMAP)\b|AMD-Vi: Event logged \["
    r"|arm-smmu-v3 \S+ event(?: 0x[0-9a-f]+ received|: [A-Z_]+)"
)
_AMD_WRITE = 1 << 5  # RW, AMD I/O virtualization technology 48882, 2.5.3


def parse_faults(lines: Iterable[str]) -> tuple[ReportedFault, ...]:
    """The DMA faults that log lines report, in their order; other lines are passed over."""
    return tuple(fault for line in lines if (fault := _parse(line[:LINE_LIMIT])) is not None)


def parse_interrupt_faults(lines: Iterable[str]) -> tuple[InterruptFault, ...]:
    """The interrupt remapping faults that log lines report, in their order; other lines are passed over."""
    matches = ((line, _INTERRUPT.search(line)) for line in (line[:LINE_LIMIT] for line in lines))
    return tuple(
        InterruptFault(
            requester=_address(match["dmar"]).requester,
            index=int(match["index"], 16),
            reason=match["reason"],
            line=line,
        )
        for line, match in matches
        if match is not None
    )


def is_fault_line(line: str) -> bool:
    """Whether a line speaks of a fault of DMA or of an interrupt, also one that says too little to be a record."""
    line = line[:LINE_LIMIT]
    return _ANNOUNCEMENTS.search(line) is not None or _parse(line) is not None


def _parse(line: str) -> ReportedFault | None:
    if "fault" not in line and "vent" not in line:
        return None
    for pattern in _PATTERNS:
        match = pattern.search(line)
        if match is not None:
            said = match.groupdict()
            address = said["address"]
            return ReportedFault(
                requester=_requester(said),
                address=int(address, 16) if address else None,
                is_write=_is_write(said),
                reason=said["reason"],
                line=line,
            )
    return None


def _requester(said: dict[str, str | None]) -> int | None:
    if endpoint := said.get("endpoint"):
        return int(endpoint)
    pci = said.get("dmar") or said.get("device") or said.get("pci")
    return _address(pci).requester if pci else None


def _address(text: str) -> Address:
    return Address.parse(text.replace("0x", ""))


def _is_write(said: dict[str, str | None]) -> bool | None:
    if kind := said.get("kind"):
        return kind == "Write"
    if flags := said.get("flags"):
        return "W" in flags
    if amd := said.get("amd"):
        return bool(int(amd, 16) & _AMD_WRITE)
    return None
