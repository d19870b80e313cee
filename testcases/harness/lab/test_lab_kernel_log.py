"""The kernel's log, read by the agent in a guest: from a mark on, each record once, and none that is still to come."""

from __future__ import annotations

import pytest

from harness.artifacts.cache import Cache
from harness.lab import Lab
from harness.model.access import AccessKind
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.warm.lease import Leases
from harness.warm.store import Store

_ROUNDS = 3  # then Linux is silent for five seconds: include/linux/ratelimit_types.h


def test_records_are_those_above_the_mark_however_often_the_log_is_read(lab: Lab) -> None:
    with Leases(lab, Store(Cache())).start(Machine(iommu=Iommu(kind=IommuKind.INTEL))) as live:
        mark = live.log_mark()
        assert live.agent.kernel_log(mark) == ()
        live.guest.run("echo first > /dev/kmsg; echo second > /dev/kmsg")
        for _ in range(2):
            assert [record.text for record in live.agent.kernel_log(mark)] == ["first", "second"]
        assert [record.text for record in live.agent.kernel_log(mark + 1)] == ["second"]
        assert live.log_mark() == mark + 2
        whole = live.agent.kernel_log()
        assert [record.sequence for record in whole] == list(range(whole[0].sequence, mark + 3))
        assert any("Linux version" in record.text for record in whole)


@pytest.mark.parametrize(("kind", "name"), [(IommuKind.INTEL, "dmar0"), (IommuKind.VIRTIO, "virtio0")])
def test_a_fault_is_in_the_log_at_once_whichever_processor_takes_its_interrupt(
    lab: Lab, kind: IommuKind, name: str
) -> None:
    spec = Machine(iommu=Iommu(kind=kind), devices=(Device.parse("edu,iommu=on"),), cpus=2)
    with Leases(lab, Store(Cache())).start(spec) as live:
        interrupt = live.guest.run(f"grep -w {name} /proc/interrupts").stdout.split(":")[0].strip()
        page = live.allocate(1, b"\xa5")
        access, _, _ = live.expect("edu0", page.frames[0], AccessKind.WRITE, 4)
        device = live.rogue("edu0")
        for number in range(_ROUNDS):
            live.agent.write_file(f"/proc/irq/{interrupt}/smp_affinity", f"{1 << number % 2:x}")
            mark = live.log_mark()
            device.dma_from_device(0, page.frames[0], 4)
            faults = live.faults(access.requester, since=mark, wait=False)
            assert [fault.address for fault in faults] == [page.frames[0]]
        live.faults(access.requester, since=-1, wait=True)
