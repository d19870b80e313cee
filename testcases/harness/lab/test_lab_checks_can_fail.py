"""The checks of the cases, on machines that are broken on purpose: each finds what is wrong."""

from __future__ import annotations

import pytest

from harness.checks.dma import check_memory, check_outcome, check_reported
from harness.checks.inventory import check_functions, check_group_types, check_groups
from harness.guest.lspci import lspci
from harness.lab import Lab
from harness.live.user_space import give_to_vfio
from harness.model.access import AccessKind
from harness.model.topology import topology
from harness.spec import Device, DmaMode, Iommu, IommuKind, Machine

_IOVA = 0x40000000
_ENTRY_ADDRESS = ((1 << 52) - 1) & ~0xFFF


def _machine(*devices: str, iommu: IommuKind = IommuKind.INTEL, dma_mode: DmaMode = DmaMode.STRICT) -> Machine:
    return Machine(iommu=Iommu(kind=iommu), devices=tuple(map(Device.parse, devices)), dma_mode=dma_mode)


@pytest.mark.parametrize("iommu", [IommuKind.INTEL, IommuKind.VIRTIO], ids=str)
def test_an_unprotected_guest_fails_the_checks_of_a_protected_one(lab: Lab, iommu: IommuKind) -> None:
    """The machine is passed through; the checks are told that it is strict, and that it has a device more."""
    claimed = topology(_machine("edu,iommu=on,id=rogue", "edu,iommu=on,id=missing", iommu=iommu))
    with lab.boot(_machine("edu,iommu=on,id=rogue", iommu=iommu, dma_mode=DmaMode.PASSTHROUGH)) as live:
        groups = live.agent.iommu_groups()
        assert any("missing" in finding.subject for finding in check_groups(claimed, groups))
        assert any(finding.seen == "identity" for finding in check_group_types(claimed, groups))
        assert any("missing" in finding.subject for finding in check_functions(claimed, lspci(live.guest.ssh)))

        page = live.allocate(1, b"\xa5\x5a")
        access, outcome, walk = live.expect("rogue", page.frames[0], AccessKind.WRITE, 64)
        mark = live.log_mark()
        seen = live.store("rogue", page.frames[0], 64, aim=page.frames[0], watch=page.frames)
        assert list(check_outcome(access, None, outcome, walk, "claimed to be strict"))
        assert list(check_memory(access, seen, walk, arrives=range(0)))
        assert list(check_reported(access, live.faults(access.requester, since=mark, wait=False)))


def test_a_page_table_entry_that_is_changed_behind_the_kernel_is_found(lab: Lab) -> None:
    """The leaf entry of a VFIO mapping is turned to another page: the walk says no more what was asked for."""
    with lab.boot(_machine("edu,iommu=on")) as live:
        mine, other = live.allocate(1, b"\xa5"), live.allocate(1, b"\x5a")
        give_to_vfio(live, "edu0")
        live.agent.vfio_map(live.address("edu0"), mine, _IOVA)
        access, outcome, walk = live.expect("edu0", _IOVA, AccessKind.WRITE, 64)
        assert not list(check_outcome(access, mine.frames[0], outcome, walk, "mapped"))

        values = {step.value: step.address for step in live.engine.explain(access).steps if step.value is not None}
        leaf = next(value for value in values if value & _ENTRY_ADDRESS == mine.frames[0])
        address = values[leaf]
        assert address is not None
        turned = leaf & ~_ENTRY_ADDRESS | other.frames[0]
        live.vmm.memory.write(address, turned.to_bytes(8, "little"))

        access, outcome, walk = live.expect("edu0", _IOVA, AccessKind.WRITE, 64)
        assert list(check_outcome(access, mine.frames[0], outcome, walk, "mapped"))
        # Nothing was cached yet, so that the device goes where the entry leads now.
        seen = live.store("edu0", _IOVA, 64, aim=mine.frames[0], watch=(*mine.frames, *other.frames))
        assert len(list(check_memory(access, seen, walk, arrives=range(64)))) == 2
