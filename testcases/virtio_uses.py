"""A small use of each kind of virtio device, and whether its DMA takes the path that it must."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from traffic import check_disk, check_network, check_path

from harness.checks.work import check_driver, check_unused
from harness.errors import Unsupported
from harness.live.machine import LiveMachine
from harness.report.record import Finding
from harness.spec import DeviceKind

__all__ = ["check_refused_by_device", "check_use"]

_T = TypeVar("_T")
_SECONDS = 20.0
_RANDOM_BYTES = 64
_BALLOON_BYTES = 4 << 20
_KEYS = {"a": 30, "b": 48, "c": 46, "d": 32, "e": 18, "f": 33}  # QEMU's qcodes, Linux's KEY_*
_ROWS = 16
_CIPHER = "virtio_crypto_aes_cbc"


def check_use(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Use a virtio device that must work; what was wrong with that, or with the path of its DMA."""
    kind = live.spec.device(id).kind
    if kind is DeviceKind.VIRTIO_CRYPTO:
        _require_true_services(live)
    live.load_modules(*_MODULES.get(kind, ()))
    yield from _USES[kind](live, id)


def check_refused_by_device(live: LiveMachine, id: str) -> Iterator[Finding]:
    """See that the driver of a virtio device and the device do not come to terms."""
    live.load_modules(*_MODULES.get(live.spec.device(id).kind, ()))
    yield from check_driver(live.function(id), live.agent.pci_functions(), "virtio-pci")
    yield from check_unused(id, live.agent.virtio_device(live.address(id)))


def _require_true_services(live: LiveMachine) -> None:
    """A virtio-crypto that offers what its back end has not got makes each Linux warn (docs/findings.md, F-19)."""
    if "query-cryptodev" not in {command["name"] for command in live.vmm.qmp.execute("query-commands")}:
        raise Unsupported(
            "this QEMU has no query-cryptodev: its virtio-crypto offers all services, whatever its back end has",
            hint="use QEMU 8.0 or later",
        )


def _random(live: LiveMachine, id: str) -> Iterator[Finding]:
    """Two reads give random bytes, and not the same."""
    first, second = (live.agent.random_read(_RANDOM_BYTES) for _ in range(2))
    yield from check_path(live, id)
    if first == second or not any(first) or not any(second):
        seen = f"{first.hex()}, {second.hex()}"
        yield Finding(subject=f"two reads from {id}", expected="random bytes", seen=seen)


def _port(live: LiveMachine, id: str) -> Iterator[Finding]:
    """What is sent to the port comes back the other way round."""
    data = bytes(random.choices(range(0x20, 0x7F), k=500))
    port = live.vmm.port(id)
    port.send(data, _SECONDS, live.guest.check)
    live.agent.port_echo(live.address(id), len(data))
    back = port.read_line(_SECONDS, live.guest.check)
    yield from check_path(live, id)
    if back != data[::-1]:
        yield Finding(subject=f"bytes from the port of {id}", expected=str(data[::-1]), seen=str(back))


def _balloon(live: LiveMachine, id: str) -> Iterator[Finding]:
    """It inflates and deflates to the byte."""
    ram = live.spec.memory_mib << 20
    for size in (ram - _BALLOON_BYTES, ram):
        live.vmm.qmp.execute("balloon", {"value": size})
        seen = _until(lambda: int(live.vmm.qmp.execute("query-balloon")["actual"]), size)
        if seen != size:
            yield Finding(subject=f"RAM that {id} leaves, bytes", expected=str(size), seen=str(seen))
    yield from check_path(live, id)


def _keyboard(live: LiveMachine, id: str) -> Iterator[Finding]:
    """The guest sees the keys that are pressed, in their order."""
    keys = random.choices(tuple(_KEYS), k=8)
    live.agent.keyboard_open(live.address(id))
    for key in keys:
        events = [
            {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": key}}} for down in (True, False)
        ]
        live.vmm.qmp.execute("input-send-event", {"events": events})
    seen = live.agent.keyboard_read(live.address(id), len(keys))
    yield from check_path(live, id)
    expected = tuple(_KEYS[key] for key in keys)
    if seen != expected:
        yield Finding(subject=f"keys that {id} reports", expected=str(expected), seen=str(seen))


def _screen(live: LiveMachine, id: str) -> Iterator[Finding]:
    """QEMU shows what the guest has painted.

    The driver maps its pictures whether or not the device is translated (docs/findings.md, F-18).
    """
    seed = random.getrandbits(48)
    screen = live.agent.screen_paint(live.address(id), seed, _ROWS)
    painted = hashlib.shake_128(seed.to_bytes(8, "little")).digest(_ROWS * screen.stride)
    expected = b"".join(
        bytes((painted[at + 2], painted[at + 1], painted[at]))  # of blue, green, red, unused
        for row in range(_ROWS)
        for at in range(row * screen.stride, row * screen.stride + 4 * screen.width, 4)
    )
    picture = live.vmm.directory / f"{id}.ppm"

    def look() -> bytes:
        live.vmm.qmp.execute("screendump", {"filename": str(picture), "device": id})
        _, _, _, pixels = picture.read_bytes().split(b"\n", 3)
        return pixels[-len(expected) :]

    seen = _until(look, expected)
    yield from check_path(live, id, maps_anyway=True)
    if seen != expected:
        wrong = sum(a != b for a, b in zip(seen, expected, strict=True))
        yield Finding(
            subject=f"the last rows of {id}'s screen", expected="what was painted", seen=f"{wrong} bytes differ"
        )


def _cipher(live: LiveMachine, id: str) -> Iterator[Finding]:
    """The kernel, which tests each cipher with known answers before it uses it, has tested the device's with success.

    User space has no way to it: AF_ALG no longer gives what works asynchronously (Linux 7.2).
    """
    result = _until(lambda: live.agent.cipher_test(live.address(id), _CIPHER).result, "passed")
    yield from check_path(live, id)
    if result != "passed":
        yield Finding(subject=f"the kernel's test of {_CIPHER} by {id}", expected="passed", seen=result)
    if not live.agent.cipher_test(live.address(id), _CIPHER).interrupts:
        yield Finding(subject=f"interrupts of {id}'s queues during that test", expected="some", seen="none")


_MODULES: Mapping[DeviceKind, tuple[str, ...]] = {
    DeviceKind.VIRTIO_SCSI: ("virtio_scsi", "sd_mod"),
    DeviceKind.VIRTIO_RNG: ("virtio_rng",),
    DeviceKind.VIRTIO_BALLOON: ("virtio_balloon",),
    DeviceKind.VIRTIO_GPU: ("virtio_gpu",),
    DeviceKind.VIRTIO_KEYBOARD: ("virtio_input", "evdev"),
    DeviceKind.VIRTIO_CRYPTO: ("virtio_crypto",),
}
"""What a guest has not loaded already."""

_USES: Mapping[DeviceKind, Callable[[LiveMachine, str], Iterator[Finding]]] = {
    DeviceKind.VIRTIO_BLK: check_disk,
    DeviceKind.VIRTIO_NET: check_network,
    DeviceKind.VIRTIO_SCSI: check_disk,
    DeviceKind.VIRTIO_RNG: _random,
    DeviceKind.VIRTIO_SERIAL: _port,
    DeviceKind.VIRTIO_BALLOON: _balloon,
    DeviceKind.VIRTIO_GPU: _screen,
    DeviceKind.VIRTIO_KEYBOARD: _keyboard,
    DeviceKind.VIRTIO_CRYPTO: _cipher,
}


def _until(look: Callable[[], _T], wanted: _T) -> _T:
    """What is seen as soon as it is what is wanted, or in the end."""
    end = time.monotonic() + _SECONDS
    while (seen := look()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return seen
