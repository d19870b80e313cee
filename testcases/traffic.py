"""Devices at work: writing and reading a disk, sending and receiving frames, and the path that their DMA takes."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator

from harness.checks.work import (
    check_driver,
    check_identity,
    check_platform_access,
    check_translated,
    check_untranslated,
)
from harness.errors import GuestUnreachable
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.model.virtio.dma_path import DmaPath
from harness.report.record import Finding
from harness.spec import DmaMode

__all__ = ["DiskWriter", "check_disk", "check_frames", "check_network", "check_path"]

_BLOCK = 256 * 1024
_PIECE, _PIECES = 64 * 1024, 32  # of a disk, for writes without end
_PROGRESS = 8
_WRITER_SECONDS = 20.0
_ETHERTYPE = bytes.fromhex("88b5")
_PEER = bytes.fromhex("525400aa0001")
_SIZES = (46, 500, 1500)
_NETWORK_SECONDS = 20.0


def check_disk(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Write to a virtio disk, look at it from the host, read it back; what was wrong."""
    yield from check_path(live, id)
    node = live.agent.block_device(live.address(id))
    offset, seed = 4096 * random.randrange(64), random.getrandbits(48)
    try:
        written = live.agent.block_write(node, offset, seed, _BLOCK)
    except GuestUnreachable as error:
        yield Finding(subject=f"a write of {_BLOCK} bytes to {id}", expected="it ends", seen=error.message)
        return
    with live.vmm.disk(id).open("rb") as file:
        file.seek(offset)
        on_host = hashlib.sha256(file.read(_BLOCK)).hexdigest()
    read = live.agent.block_read(node, offset, _BLOCK)
    for where, seen in (("on the host's side of the disk", on_host), ("read back by the guest", read)):
        if seen != written:
            subject = f"SHA-256 of {_BLOCK} bytes at {offset:#x} of {id}, {where}"
            yield Finding(subject=subject, expected=written, seen=seen)


class DiskWriter:
    """Writes to a virtio disk that go on in the guest while something is done to its machine.

    Args:
        live: the machine.
        id: of the disk.
    """

    def __init__(self, live: LiveMachine, id: str) -> None:
        self._id = id
        self._node = live.agent.block_device(live.address(id))
        live.agent.block_writer_start(self._node, _PIECE, _PIECES)

    def check_progress(self, live: LiveMachine, when: str) -> Iterator[Finding]:
        """Some more writes end, within a time."""
        start, end = live.agent.block_writer_done(self._node), time.monotonic() + _WRITER_SECONDS
        while (done := live.agent.block_writer_done(self._node)) < start + _PROGRESS:
            if time.monotonic() > end:
                subject = f"writes to {self._id} that ended {when}"
                yield Finding(subject=subject, expected=f"{_PROGRESS} or more", seen=str(done - start))
                return
            time.sleep(0.01)

    def check_all(self, live: LiveMachine) -> Iterator[Finding]:
        """End the writes; each that ended is on the host's side of the disk, but for those that others went over."""
        done = live.agent.block_writer_stop(self._node)
        with live.vmm.disk(self._id).open("rb") as file:
            for number in range(max(0, done - _PIECES), done):
                file.seek(number % _PIECES * _PIECE)
                seen = file.read(_PIECE)
                if seen != hashlib.shake_128(number.to_bytes(8, "little")).digest(_PIECE):
                    subject = f"what write {number} of {done} left on the host's side of {self._id}"
                    seen_as = hashlib.sha256(seen).hexdigest()
                    yield Finding(subject=subject, expected="its bytes", seen=f"others, of SHA-256 {seen_as}")


def check_network(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Send frames through a virtio-net in both directions; what was wrong."""
    yield from check_path(live, id)
    yield from check_frames(live, id)


def check_frames(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Have the guest send frames through a network card, and send it some; what was wrong."""
    address, cable = live.address(id), live.vmm.network(id)
    mac = bytes.fromhex(live.agent.net_open(address).replace(":", ""))
    out = [_PEER + mac + _ETHERTYPE + random.randbytes(size) for size in _SIZES]
    live.agent.net_send(address, out)
    seen: list[bytes] = []
    end = time.monotonic() + _NETWORK_SECONDS
    while len(seen) < len(out):
        frame = cable.receive(deadline=max(0.0, end - time.monotonic()))
        if frame[12:14] == _ETHERTYPE:  # the guest's kernel sends frames of its own
            seen.append(frame)
    yield from _different(f"frames from {id}", out, seen)
    back = [mac + _PEER + _ETHERTYPE + random.randbytes(size) for size in _SIZES]
    for frame in back:
        cable.send(frame)
    yield from _different(f"frames to {id}", back, live.agent.net_receive(address, len(back)))


def check_path(live: LiveMachine, id: str, *, maps_anyway: bool = False) -> Iterator[Finding]:
    """Look at a virtio device at work: its driver, what was negotiated, and the path that its DMA takes.

    Args:
        live: the machine.
        id: of the device.
        maps_anyway: whether its driver maps memory for it also where it goes around the IOMMU.
    """
    device, path = live.spec.device(id), live.topology.dma_path(id)
    yield from check_driver(live.function(id), live.agent.pci_functions(), "virtio-pci")
    yield from check_platform_access(id, live.virtio_features(id), expected=device.access_platform)
    match path:
        case DmaPath.TRANSLATED:
            yield from check_translated(id, live.mappings(id))
        case DmaPath.IDENTITY:
            page = live.allocate(1, b"identity")
            yield from check_identity(id, *live.expect(id, page.frames[0], AccessKind.WRITE, 64))
        case _ if not maps_anyway:
            # Its group is of type identity all the same where the guest was told so.
            passes = live.spec.dma_mode is DmaMode.PASSTHROUGH
            mapped = [each for each in live.mappings(id) if not (passes and each.iova == each.address)]
            yield from check_untranslated(id, mapped)


def _different(subject: str, wanted: list[bytes], seen: list[bytes]) -> Iterator[Finding]:
    for number, (a, b) in enumerate(zip(wanted, seen, strict=True), start=1):
        if a != b:
            yield Finding(subject=f"{subject}, number {number}", expected=a.hex(), seen=b.hex())
