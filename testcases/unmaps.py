"""What a guest's drivers have unmapped, and when its IOMMU is told of that.

Sources: Linux, drivers/iommu/dma-iommu.c; QEMU, trace-events of hw/i386 and hw/virtio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from nic_scene import frames_from, fresh_frame

from harness.checks.dma import check_outcome, check_reported, check_sent, check_unreported
from harness.errors import HarnessError, Unsupported
from harness.guest.answers import Group
from harness.live.machine import LiveMachine
from harness.live.virtqueue import LiveQueue
from harness.model.access import AccessKind, Fault
from harness.model.virtio_iommu.requests import Unmap
from harness.model.virtio_iommu.wire import decode_request
from harness.report.record import Finding
from harness.spec import IommuKind
from harness.vmm.qemu.nic.intel import I82574, IntelNic
from harness.vmm.qemu.trace import set_state
from harness.vmm.qemu.virtio import VirtioFunction

__all__ = ["check_window", "count_unmaps", "open_card", "require_lazy"]

# What QEMU traces of a driver that takes mappings away: invalidations, or requests of a virtio-iommu.
_UNMAPS = {
    IommuKind.INTEL: "vtd_inv_desc_iotlb_",
    IommuKind.AMD: "amdvi_pages_inval",
    IommuKind.VIRTIO: "virtio_iommu_unmap",
}
_DRIVER = "e1000e"
_NO_IPV6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # so that nobody else sends frames
_FRAMES, _LOOKS = 50, 20
_FLUSH_SECONDS = 10.0  # Linux, drivers/iommu/dma-iommu.c: a flush queue waits for ten milliseconds
_POLL_SECONDS = 0.01


def count_unmaps(live: LiveMachine) -> Callable[[], int]:
    """Count from now on how often the guest has its IOMMU forget something; the count since it was asked for last."""
    prefix, events = _UNMAPS[live.spec.iommu.kind], live.vmm.trace.another()
    set_state(live.vmm.qmp, f"{prefix}*", enable=True)
    return lambda: sum(event.name.startswith(prefix) for event in events.new())


def open_card(live: LiveMachine, id: str) -> None:
    """Have the guest load the driver of an e1000e, and nobody but the harness send by it."""
    live.agent.write_file(_NO_IPV6, "1")
    live.load_modules(_DRIVER)
    live.agent.net_open(live.address(id))


def require_lazy(live: LiveMachine, id: str, groups: Collection[Group]) -> None:
    """Refuse a guest that puts a device into strict mode, whatever it was told; that it may is the model's to say.

    Raises:
        HarnessError: the device is in no group.
        Unsupported: it is in a group of another type than lazy mode has.
    """
    types = [group.type for group in groups if live.address(id) in group.devices]
    if not types:
        raise HarnessError(f"{id} is in no group", evidence=str(groups))
    if types != ["DMA-FQ"]:
        raise Unsupported(f"the guest's kernel is in strict mode all the same: the group of {id} has type {types[0]}")


def check_window(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Have a card send a frame again that its driver has unmapped, before the flush and after it; what is wrong.

    The guest is stopped for the first, and its time with it. The card is an e1000e: what its registers say it does
    all the same.

    Args:
        live: the machine, in lazy mode.
        id: of the card, which `open_card` has opened.

    Raises:
        HarnessError: whenever the guest stood still its frame was still mapped, or flushed.
    """
    nic = IntelNic(I82574, live.config_space(live.function(id).address), live.vmm.memory)
    nic.take_over(lambda iova: live.leads_to(id, iova))
    flushes, mark = count_unmaps(live), live.log_mark()
    frame = _stop_before_flush(live, id, nic, flushes)
    try:
        piece = nic.last_sent
        access, _, _ = live.expect(id, piece[0], AccessKind.READ, piece[1])
        nic.send(piece)
        nic.wait_sent()
    finally:
        live.vmm.qmp.execute("cont")
    seen = frames_from(live, id, comes=True)
    if seen[:1] != [frame]:
        raise HarnessError(
            f"{id} has sent something else last: {seen}, not {frame.hex(' ')}", hint="run the case again"
        )
    yield from check_sent(access, frame, seen[1:], secret=())
    end = time.monotonic() + _FLUSH_SECONDS
    while not flushes():
        if time.monotonic() > end:
            yield Finding(subject=f"the flush of {access}", expected=f"within {_FLUSH_SECONDS:g} s", seen="none")
            return
        time.sleep(_POLL_SECONDS)
    yield from check_unreported(access, live.faults(access.requester, since=mark, wait=False))
    _, outcome, walk = live.expect(id, piece[0], AccessKind.READ, piece[1])
    yield from check_outcome(access, None, outcome, walk, "its driver has unmapped it")
    nic.send(piece)
    nic.wait_sent()
    yield from check_reported(access, live.faults(access.requester, since=mark, wait=True))
    yield from check_sent(access, frame, frames_from(live, id, comes=False), secret=range(len(frame)))


def _stop_before_flush(live: LiveMachine, id: str, nic: IntelNic, flushes: Callable[[], int]) -> bytes:
    """Stop the guest when its driver has unmapped the frame that it sent last, and nothing was flushed; that frame."""
    for _ in range(_FRAMES):
        frame = fresh_frame()
        frames_from(live, id, comes=False)
        flushes()
        live.agent.net_send(live.address(id), [frame])
        for _ in range(_LOOKS):
            live.vmm.qmp.execute("stop")
            unmapped, flushed = _is_unmapped(live, id, nic.last_sent[0]), flushes()
            if unmapped and not flushed:
                return frame
            live.vmm.qmp.execute("cont")
            if flushed:
                break
    raise HarnessError(
        f"of {_FRAMES} frames none was seen between its unmap and the flush", hint="is the group in lazy mode?"
    )


def _is_unmapped(live: LiveMachine, id: str, iova: int) -> bool:
    """Whether the driver of a device has unmapped an address, of which a virtio-iommu need not know yet."""
    if live.spec.iommu.kind is not IommuKind.VIRTIO:
        _, outcome, _ = live.expect(id, iova, AccessKind.READ, 1)
        return isinstance(outcome, Fault)
    iommu = live.topology.iommu
    assert iommu is not None
    queue = LiveQueue(VirtioFunction.find(live.config_space(iommu.address)), 0, lambda address: address)
    requests = [decode_request(live.vmm.memory.read(*element)) for element in queue.iter_waiting()]
    return any(isinstance(each, Unmap) and each.virt_start <= iova <= each.virt_end for each in requests)
