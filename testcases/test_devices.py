"""Devices at work: with a driver bound, through the IOMMU and outside of it."""

from __future__ import annotations

import hashlib
import random

import pytest
from machines import machine

from harness.checks.judge import judge
from harness.checks.work import check_driver, check_platform_access
from harness.live import LiveMachine
from harness.plugin import Boot
from harness.report.record import Finding
from harness.spec import IommuKind

_BLOCK = 256 * 1024
_ETHERTYPE = bytes.fromhex("88b5")


@pytest.mark.claim("CH-1", "VQ-2", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_virtio_blk_reads_back_what_was_written(boot: Boot, iommu: IommuKind, tag: str) -> None:
    """virtio-blk works: what the guest writes stands on the host's side of the disk, and reads back the same."""
    live = boot(machine(iommu, f"virtio-blk,iommu={tag}"))
    check_disk(live, "virtio-blk0")


@pytest.mark.claim("CH-1", "VQ-2", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_virtio_net_carries_traffic_both_ways(boot: Boot, iommu: IommuKind, tag: str) -> None:
    """virtio-net works: frames of random content arrive unchanged, from the guest and to it."""
    live = boot(machine(iommu, f"virtio-net,iommu={tag}"))
    check_network(live, "virtio-net0")


def check_disk(live: LiveMachine, id: str) -> None:
    """Write, look at it from the host, read back."""
    function = live.function(id)
    functions = live.agent.pci_functions()
    judge(check_driver(function, functions, "virtio-pci"))
    judge(check_platform_access(live.spec.device(id), live.virtio_features(id)))
    node = live.agent.block_device(live.address(id))
    offset, seed = 4096 * random.randrange(64), random.getrandbits(48)
    written = live.agent.block_write(node, offset, seed, _BLOCK)
    with live.vmm.disk(id).open("rb") as file:
        file.seek(offset)
        on_host = hashlib.sha256(file.read(_BLOCK)).hexdigest()
    read = live.agent.block_read(node, offset, _BLOCK)
    for where, seen in (("on the host's side of the disk", on_host), ("read back by the guest", read)):
        subject = f"SHA-256 of {_BLOCK} bytes at {offset:#x} of {id}, {where}"
        judge([] if seen == written else [Finding(subject=subject, expected=written, seen=seen)])


def check_network(live: LiveMachine, id: str) -> None:
    """Send frames through the cable in both directions."""
    judge(check_driver(live.function(id), live.agent.pci_functions(), "virtio-pci"))
    judge(check_platform_access(live.spec.device(id), live.virtio_features(id)))
    address, cable = live.address(id), live.vmm.network(id)
    mac = bytes.fromhex(live.agent.net_open(address).replace(":", ""))
    peer = bytes.fromhex("525400aa0001")
    out = [peer + mac + _ETHERTYPE + random.randbytes(size) for size in (46, 500, 1500)]
    live.agent.net_send(address, out)
    seen: list[bytes] = []
    while len(seen) < len(out):
        frame = cable.receive(deadline=10.0)
        if frame[12:14] == _ETHERTYPE:  # the guest's kernel sends frames of its own
            seen.append(frame)
    judge(_different(f"frames from {id}", out, seen))
    back = [mac + peer + _ETHERTYPE + random.randbytes(size) for size in (46, 500, 1500)]
    for frame in back:
        cable.send(frame)
    judge(_different(f"frames to {id}", back, live.agent.net_receive(address, len(back))))


def _different(subject: str, wanted: list[bytes], seen: list[bytes]) -> list[Finding]:
    return [
        Finding(subject=f"{subject}, number {n}", expected=a.hex(), seen=b.hex())
        for n, (a, b) in enumerate(zip(wanted, seen, strict=True), start=1)
        if a != b
    ]
