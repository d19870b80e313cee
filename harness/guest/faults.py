"""DMA faults as guest kernels report them in their log, one record type for every IOMMU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.pci import Address

__all__ = ["ReportedFault", "is_fault_line", "parse_faults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedFault:
    """A DMA that the guest says was refused.

    Attributes:
        requester: requester id; None where the line does not say.
        address: IOVA in bytes; None where the line does not say.
        is_write: None where the line does not say (QEMU's virtio-iommu sets neither flag for an unmapped address).
        reason: as the driver puts it: a number of VT-d's (specification 4.1, table 27), a word of virtio-iommu's driver,
            the name of an event.
        line: the line itself.
    """

    requester: int | None
    address: int | None
    is_write: bool | None
    reason: str
    line: str


_PCI = r"(?P<pci>(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
_ADDRESS = r"(?:0x)?(?P<address>[0-9a-f]{1,16})"
_LINE_CHARACTERS = 1000  # what a guest prints has no bound

_PATTERNS = (
    # drivers/iommu/intel/dmar.c, dmar_fault_do_one. Before 5.18 the PASID stood behind the device, before 7.0 or so the
    # device had no segment.
    re.compile(
        rf"DMAR: \[DMA (?P<kind>Read|Write)(?: NO_PASID| PASID \S+)?\] Request device \[{_PCI}\](?: PASID \S+)? "
        rf"fault addr {_ADDRESS} \[fault reason (?P<reason>(?:0x)?[0-9a-f]{{1,4}})\]"
    ),
    # drivers/iommu/virtio-iommu.c, viommu_fault_handler.
    re.compile(
        r"virtio_iommu \S+ (?P<reason>page|domain|unknown) fault from EP (?P<endpoint>\d{1,10})"
        rf"(?: at {_ADDRESS} \[(?P<flags>[RWX]*)\])?"
    ),
    # drivers/iommu/amd/iommu.c, amd_iommu_report_page_fault and iommu_print_event: the device stands in or before the event.
    re.compile(
        rf"(?:{_PCI}: )?AMD-Vi: Event logged \[(?P<reason>[A-Z_]+)(?: device={_PCI.replace('pci', 'device')})?"
        rf"(?: (?:domain|pasid)=\S+)* address={_ADDRESS} flags=0x(?P<amd>[0-9a-f]{{1,4}})\]"
    ),
    # drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c, arm_smmu_dump_event: decoded since 6.15.
    re.compile(rf"arm-smmu-v3 \S+ event: (?P<reason>[A-Z_]+) client: {_PCI} sid: \S+ ssid: \S+ iova: {_ADDRESS}"),
)
_ANNOUNCEMENTS = re.compile(
    r"DMAR: DRHD: handling fault status reg|AMD-Vi: Event logged \[|arm-smmu-v3 \S+ event (?:0x[0-9a-f]+ received|: [A-Z_]+)"
)
_AMD_WRITE = 1 << 5  # RW, AMD I/O virtualization technology 48882, 2.5.3


def parse_faults(lines: Iterable[str]) -> tuple[ReportedFault, ...]:
    """The faults that log lines report, in their order; other lines are passed over."""
    return tuple(fault for line in lines if (fault := _parse(line[:_LINE_CHARACTERS])) is not None)


def is_fault_line(line: str) -> bool:
    """Whether a line speaks of a DMA fault, also one that says too little to be a `ReportedFault`."""
    line = line[:_LINE_CHARACTERS]
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
    pci = said.get("pci") or said.get("device")
    return Address.parse(pci).requester if pci else None


def _is_write(said: dict[str, str | None]) -> bool | None:
    if kind := said.get("kind"):
        return kind == "Write"
    if flags := said.get("flags"):
        return "W" in flags
    if amd := said.get("amd"):
        return bool(int(amd, 16) & _AMD_WRITE)
    return None
