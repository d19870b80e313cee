"""What an IOMMU costs a NIC at work: frames a second that are answered, translated and passed through.

In one guest, with the same virtio-net: the kernel's driver, which has every frame mapped and unmapped, answers ARP
requests; DPDK's, whose memory is mapped once, sends frames back.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import msgspec

from harness.artifacts.progress import Progress, silent
from harness.errors import SpecError
from harness.guest.testpmd import Testpmd
from harness.live.machine import LiveMachine
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.warm.lease import Leases

__all__ = ["NetworkFigures", "measure"]

_NIC = "nic"
_FRAMES, _BURST = 2048, 32
_SECONDS = 10.0
_GUEST, _PEER = bytes((10, 77, 0, 1)), bytes((10, 77, 0, 2))
_PEER_MAC = bytes.fromhex("020000000002")
_ARP, _EXPERIMENTAL = bytes.fromhex("0806"), bytes.fromhex("88b5")
_REQUEST = bytes.fromhex("0001080006040001")  # RFC 826: Ethernet, IPv4, lengths of their addresses, request


class NetworkFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Of rates the median is given, in frames a second; of ratios, that of each round's.

    Attributes:
        rounds: how many there were.
        frames: of each kind in each round, 60 bytes each, 32 at a time.
        kernel_translated: the kernel's driver, in a group of type DMA with strict invalidation.
        kernel_passed: the same in a group of type identity.
        kernel_ratio: of the first to the second.
        dpdk_translated: DPDK through VFIO.
        dpdk_passed: DPDK through UIO, in a group of type identity.
        dpdk_ratio: of the first to the second.
        iommu: kind of the IOMMU.
    """

    rounds: int
    frames: int
    kernel_translated: float
    kernel_passed: float
    kernel_ratio: float
    dpdk_translated: float
    dpdk_passed: float
    dpdk_ratio: float
    iommu: str


def measure(leases: Leases, *, kind: IommuKind, rounds: int, progress: Progress = silent) -> NetworkFigures:
    """Measure, on one machine.

    Args:
        leases: gives the machine.
        kind: of IOMMU.
        rounds: at least one.
        progress: told of each round.

    Raises:
        SpecError: no rounds, or no IOMMU.
        Unsupported: the guest's kernel lacks VFIO or UIO.
        GuestError: a frame is not answered.
    """
    if rounds < 1 or kind is IommuKind.NONE:
        raise SpecError(f"{rounds} rounds with IOMMU {kind} measure nothing", hint="ask for one or more, with an IOMMU")
    nic = Device.parse(f"virtio-net,iommu=on,id={_NIC}")
    done: list[tuple[float, float, float, float]] = []
    with leases.start(Machine(iommu=Iommu(kind=kind), devices=(nic,), image="dpdk")) as live:
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}", number, rounds)
            _free(live, "DMA")
            translated = _kernel(live), _dpdk(live, live.bind_to_vfio)
            _free(live, "identity")
            passed = _kernel(live), _dpdk(live, live.give_to_uio)
            done.append((*translated, *passed))
    kernel, dpdk, kernel_passed, dpdk_passed = (statistics.median(rates) for rates in zip(*done, strict=True))
    return NetworkFigures(
        rounds=rounds,
        frames=_FRAMES,
        kernel_translated=round(kernel),
        kernel_passed=round(kernel_passed),
        kernel_ratio=round(statistics.median(row[0] / row[2] for row in done), 2),
        dpdk_translated=round(dpdk),
        dpdk_passed=round(dpdk_passed),
        dpdk_ratio=round(statistics.median(row[1] / row[3] for row in done), 2),
        iommu=kind.value,
    )


def _free(live: LiveMachine, type: str) -> None:
    """Take the NIC from its driver, and put its group into a domain of that type."""
    live.agent.pci_bind(live.address(_NIC), "")
    live.set_group_type(_NIC, type)


def _kernel(live: LiveMachine) -> float:
    """Frames a second that the kernel's driver answers."""
    address = live.address(_NIC)
    live.agent.pci_bind(address, "virtio-pci")
    mac = bytes.fromhex(live.agent.net_open(address).replace(":", ""))
    guest = ".".join(map(str, _GUEST))
    live.guest.run(f"ifconfig $(ls /sys/bus/pci/devices/{address}/virtio*/net) {guest} netmask 255.255.255.0")
    request = mac + _PEER_MAC + _ARP + _REQUEST + _PEER_MAC + _PEER + bytes(6) + _GUEST
    return _rate(live, request.ljust(60, b"\0"), lambda frame: frame[:6] == _PEER_MAC and frame[12:14] == _ARP)


def _dpdk(live: LiveMachine, bind: Callable[[str], None]) -> float:
    """Frames a second that DPDK sends back through one of its drivers."""
    bind(_NIC)
    testpmd = Testpmd(live.agent, live.address(_NIC))
    testpmd.forward()
    frame = (_PEER_MAC + _PEER_MAC + _EXPERIMENTAL).ljust(60, b"\0")
    rate = _rate(live, frame, lambda frame: frame[12:14] == _EXPERIMENTAL)
    testpmd.quit()
    return rate


def _rate(live: LiveMachine, frame: bytes, is_answer: Callable[[bytes], bool]) -> float:
    """Frames a second, of as many as are counted behind a first burst."""
    _exchange(live, frame, is_answer, _BURST)
    start = time.monotonic()
    _exchange(live, frame, is_answer, _FRAMES)
    return _FRAMES / (time.monotonic() - start)


def _exchange(live: LiveMachine, frame: bytes, is_answer: Callable[[bytes], bool], count: int) -> None:
    cable = live.vmm.network(_NIC)
    for _ in range(count // _BURST):
        for _ in range(_BURST):
            cable.send(frame)
        answered = 0
        while answered < _BURST:
            answered += is_answer(cable.receive(deadline=_SECONDS))
