"""DPDK at work in the guest on a virtio-net whose cable the harness holds, and the same device gone astray.

It is led astray from the host, which writes into its rings in guest memory: whoever owns the driver's process could.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress

from rogue import canary

from harness.checks.dma import check_bytes, check_memory, check_outcome, check_reported, check_unreported
from harness.checks.work import check_count
from harness.errors import GuestError
from harness.guest.answers import PAGE
from harness.guest.testpmd import PortStats
from harness.live.machine import LiveMachine
from harness.live.virtqueue import LiveQueue
from harness.model.access import AccessKind
from harness.model.virtio.virtqueue import Buffer
from harness.observations import DmaSeen
from harness.report.record import Finding

__all__ = [
    "check_counters",
    "check_frames",
    "check_physical_rings",
    "check_stray_read",
    "check_stray_write",
    "check_virtual_addresses",
]

RECEIVE_QUEUE, TRANSMIT_QUEUE = 0, 1  # virtio 1.3, 5.1.2
_ETHERTYPE = bytes.fromhex("88b5")  # IEEE 802, local experimental: QEMU and the kernel send frames of their own
_SIZES = (60, 61, 64, 128, 333, 576, 1024, 1513, 1514)
_BURST = 32
_SECONDS = 10.0
_QUIET_SECONDS = 1.0
_AT = 1024
_COUNT = 64
_WORD = 8
# struct virtio_net_hdr_v1 of a frame in one buffer: num_buffers is its last field (virtio 1.3, 5.1.6)
_HEADER = bytes(10) + b"\1\0"


def check_frames(live: LiveMachine, id: str, count: int) -> Iterator[Finding]:
    """Send frames of many sizes to a testpmd that forwards, and look at what comes back; what is wrong.

    Args:
        live: the machine.
        id: of the NIC.
        count: frames, a multiple of 32.
    """
    cable, number = live.vmm.network(id), 0
    for _ in range(count // _BURST):
        burst = [_frame(_SIZES[(number + each) % len(_SIZES)]) for each in range(_BURST)]
        for frame in burst:
            cable.send(frame)
        for frame in burst:
            number += 1
            changed = frame[6:12] + frame[:6] + frame[12:]
            yield from check_bytes(f"frame {number} of {count} from {id}", changed, _receive(live, id))


def check_counters(before: PortStats, after: PortStats, count: int) -> Iterator[Finding]:
    """testpmd has counted just the frames that the harness has sent and seen come back, and none that was lost."""
    yield from check_count("frames that testpmd says it has received", count, after.received - before.received)
    yield from check_count("frames that testpmd says it has sent", count, after.sent - before.sent)
    sizes = sum(_SIZES[number % len(_SIZES)] for number in range(count))
    yield from check_count(
        "bytes that testpmd says it has received", sizes, after.received_bytes - before.received_bytes
    )
    lost = after.missed + after.receive_errors + after.no_buffer + after.send_errors
    yield from check_count("frames that testpmd says were lost", 0, lost)


def check_virtual_addresses(live: LiveMachine, id: str, pid: int) -> Iterator[Finding]:
    """All that a device reaches, its rings first, is memory of one process, at the virtual addresses that it has there.

    The guest's /proc/PID/pagemap says where these are, and the model's walk of the tables must come to the same.
    """
    for queue in (RECEIVE_QUEUE, TRANSMIT_QUEUE):
        for part, iova, kind in LiveQueue.of(live, id, queue).iter_places():
            access, outcome, walk = live.expect(id, iova, kind, 1)
            why = f"{part} of queue {queue}: /proc/{pid}/pagemap"
            yield from check_outcome(access, _physical(live, pid, iova), outcome, walk, why)
    mappings = live.mappings(id)
    if not mappings:
        yield Finding(subject=f"what the model finds mapped for {id}", expected="testpmd's memory", seen="nothing")
    for mapping in mappings:
        for at in (0, mapping.size - PAGE):
            physical = _physical(live, pid, mapping.iova + at)
            if physical != mapping.address + at:
                where = "in no memory of the process" if physical is None else f"at {physical:#x}"
                yield Finding(subject=f"{mapping.iova + at:#x} of {mapping}", expected="the process's own", seen=where)


def check_physical_rings(live: LiveMachine, id: str) -> Iterator[Finding]:
    """The addresses that a device has of its rings lead to themselves."""
    for queue in (RECEIVE_QUEUE, TRANSMIT_QUEUE):
        for part, address, kind in LiveQueue.of(live, id, queue).iter_places():
            access, outcome, walk = live.expect(id, address, kind, 1)
            yield from check_outcome(access, address, outcome, walk, f"{part} of queue {queue}: group type identity")


def check_stray_write(live: LiveMachine, id: str, *, blocked: bool, why: str) -> Iterator[Finding]:
    """Have the NIC receive a frame into memory that its driver never gave to it; what is wrong with the outcome.

    testpmd has been told to halt. The page that is aimed at is one of another process, by its guest physical address.

    Args:
        live: the machine.
        id: of the NIC.
        blocked: whether it must be stopped and reported; else it must get through, and nothing be reported.
        why: where that comes from.
    """
    page, queue, payload = live.allocate(1, canary()), LiveQueue.of(live, id, RECEIVE_QUEUE), _HEADER + _frame(_COUNT)
    aim = page.frames[0] + _AT
    access, outcome, walk = live.expect(id, aim, AccessKind.WRITE, len(payload))
    yield from check_outcome(access, None if blocked else aim, outcome, walk, why)
    mark, used = live.log_mark(), queue.used
    before = {aim & -PAGE: live.vmm.memory.read(aim & -PAGE, PAGE)}
    queue.redirect(aim)
    live.vmm.network(id).send(payload[len(_HEADER) :])
    if not queue.wait_used(used, _SECONDS):
        yield Finding(subject=f"the buffer that {id} was led astray with", expected="it is used", seen="it is not")
    reports = live.faults(access.requester, since=mark, wait=blocked)
    after = {aim & -PAGE: live.vmm.memory.read(aim & -PAGE, PAGE)}
    live.check_unmoved(page)
    seen = DmaSeen(before=before, after=after, payload=payload, aim=aim)
    yield from check_memory(access, seen, walk, arrives=() if blocked else range(len(payload)))
    yield from check_reported(access, reports) if blocked else check_unreported(access, reports)


def check_stray_read(live: LiveMachine, id: str, *, blocked: bool, why: str) -> Iterator[Finding]:
    """Have the NIC send memory that its driver never gave to it; what is wrong with what comes out of the cable.

    testpmd has been told to halt, and cannot go on afterwards. Arguments as of `check_stray_write`.
    """
    secret = _frame(_COUNT)
    page = live.allocate(1, canary()[:_AT] + secret + canary()[_AT + _COUNT :])
    aim = page.frames[0] + _AT
    access, outcome, walk = live.expect(id, aim, AccessKind.READ, _COUNT)
    yield from check_outcome(access, None if blocked else aim, outcome, walk, why)
    mark, queue = live.log_mark(), LiveQueue.of(live, id, TRANSMIT_QUEUE)
    used = queue.used
    header = Buffer(LiveQueue.of(live, id, RECEIVE_QUEUE).next_buffer().address, len(_HEADER))
    queue.write(header.address, bytes(len(_HEADER)))
    queue.offer(header, Buffer(aim, _COUNT))
    if not queue.wait_used(used, _SECONDS):
        yield Finding(subject=f"the buffer that {id} was led astray with", expected="it is used", seen="it is not")
    reports = live.faults(access.requester, since=mark, wait=blocked)
    live.check_unmoved(page)
    sent = _sent(live, id)
    if blocked:
        words = [secret[at : at + _WORD] for at in range(0, _COUNT, _WORD)]
        for shown in {word for word in words for frame in sent if word in frame}:
            yield Finding(subject=f"what {access} gave", expected="not what stands there", seen=shown.hex(" "))
        yield from check_reported(access, reports)
    else:
        yield from check_bytes(f"what {access} gave", secret, b"".join(frame for frame in sent if _is_ours(frame)))
        yield from check_unreported(access, reports)


def _frame(size: int) -> bytes:
    """A frame from one station to another, both locally administered."""
    return b"\2" + random.randbytes(5) + b"\2" + random.randbytes(5) + _ETHERTYPE + random.randbytes(size - 14)


def _receive(live: LiveMachine, id: str) -> bytes:
    """The next frame of the kind that the harness sends."""
    end = time.monotonic() + _SECONDS
    while True:
        frame = live.vmm.network(id).receive(deadline=max(0.0, end - time.monotonic()))
        if _is_ours(frame):
            return frame


def _sent(live: LiveMachine, id: str) -> list[bytes]:
    """Frames that have come, up to a moment after."""
    frames = []
    with suppress(GuestError):
        while True:
            frames.append(live.vmm.network(id).receive(deadline=_QUIET_SECONDS))
    return frames


def _is_ours(frame: bytes) -> bool:
    return frame[12:14] == _ETHERTYPE


def _physical(live: LiveMachine, pid: int, virtual: int) -> int | None:
    """Guest physical address of memory of a process; None where it has none there.

    Linux, Documentation/admin-guide/mm/pagemap.rst.
    """
    entry = int.from_bytes(live.agent.read_bytes(f"/proc/{pid}/pagemap", virtual // PAGE * 8, 8), "little")
    return (entry & ((1 << 55) - 1)) * PAGE + virtual % PAGE if entry >> 63 else None
