"""What a guest can make QEMU write: nothing of it fills the disk, and what is not written is not taken for nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from faults_rig import told

from harness.errors import VmmError
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.verdict import Verdict
from harness.warm.lease import Leases

_DISK = Machine(iommu=Iommu(kind=IommuKind.VIRTIO), devices=(Device.parse("virtio-blk,iommu=on,id=disk"),))
_LIMIT = 64 << 10
_SECONDS = 10.0
_READS = "dd if=/dev/vda of=/dev/null bs=4k count=1000 iflag=direct"


def test_guest_that_has_its_iommu_trace_without_end_is_traced_no_more_and_that_is_told(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.vmm.qemu.trace._LOG_BYTES", _LIMIT)
    monkeypatch.setattr("harness.vmm.qemu.trace._LOOK_SECONDS", 0.05)
    with leases.start(_DISK) as live:
        log = live.vmm.directory / "trace.log"
        live.mappings("disk")
        live.guest.run(_READS)
        _wait_until_still(log)
        size = log.stat().st_size
        assert size > _LIMIT
        live.guest.run(_READS)
        assert log.stat().st_size == size
        with told(VmmError, Verdict.MISS, "trace.log has grown beyond", "tracing was turned off"):
            live.mappings("disk")
        with told(VmmError, Verdict.MISS, "trace.log has grown beyond"):
            live.vmm.trace_so_far()  # which a machine that goes on from this one would build on


def _wait_until_still(log: Path) -> None:
    end, before = time.monotonic() + _SECONDS, -1
    while (size := log.stat().st_size) != before:
        assert time.monotonic() < end
        before = size
        time.sleep(0.3)
