"""Virtio devices: what was negotiated, and a small use of those that are neither disk nor network card."""

from __future__ import annotations

import errno
import glob
import hashlib
import itertools
import os
import re
import select
import struct
from collections.abc import Callable

from files import wait_for

_WAIT_SECONDS = 10.0
_HW_RANDOM = "/sys/class/misc/hw_random"
_EVENT = struct.Struct("llHHi")  # struct input_event: time, type, code, value
_EV_KEY = 1
_FIELD = re.compile(r"^(\w+) *: (.*)$", re.MULTILINE)
_keyboards: dict[str, int] = {}


def virtio_device(address: str) -> dict[str, object]:
    """The driver of the virtio device at a PCI address ("" for none), negotiated feature bits, and device status."""
    (path,) = glob.glob(f"/sys/bus/pci/devices/{address}/virtio*")
    driver = f"{path}/driver"
    with open(f"{path}/features") as file:
        bits = file.read().strip()
    with open(f"{path}/status") as file:
        status = int(file.read(), 16)
    return {
        "driver": os.path.basename(os.readlink(driver)) if os.path.islink(driver) else "",
        "features": [number for number, bit in enumerate(bits) if bit == "1"],
        "status": status,
    }


def random_read(size: int) -> str:
    """Bytes of the only virtio-rng, in hex."""
    with open(f"{_HW_RANDOM}/rng_available") as file:
        (name,) = (name for name in file.read().split() if name.startswith("virtio_rng"))
    with open(f"{_HW_RANDOM}/rng_current", "w") as file:
        file.write(name)
    data = b""
    with open("/dev/hwrng", "rb", buffering=0) as source:
        while len(data) < size:
            data += source.read(size - len(data))
    return data.hex()


def port_echo(address: str, size: int) -> None:
    """Take `size` bytes from the port of a virtio-serial, and send them back the other way round, with a newline."""
    (path,) = wait_for(f"/sys/bus/pci/devices/{address}/virtio*/virtio-ports/*")
    fd = os.open(f"/dev/{os.path.basename(path)}", os.O_RDWR | os.O_NONBLOCK)
    try:
        data = b""
        while len(data) < size:
            _wait_readable(fd, path)
            data += os.read(fd, size - len(data))
        os.write(fd, data[::-1] + b"\n")
    finally:
        os.close(fd)


def keyboard_open(address: str) -> None:
    """Listen to a virtio keyboard from now on."""
    (path,) = wait_for(f"/sys/bus/pci/devices/{address}/virtio*/input/input*/event*")
    _keyboards[address] = os.open(f"/dev/input/{os.path.basename(path)}", os.O_RDONLY | os.O_NONBLOCK)


def keyboard_read(address: str, count: int) -> list[int]:
    """Codes of the next `count` keys that are pressed (include/uapi/linux/input-event-codes.h)."""
    fd = _keyboards[address]
    codes: list[int] = []
    while len(codes) < count:
        _wait_readable(fd, address)
        data = os.read(fd, 64 * _EVENT.size)
        codes += [code for _, _, kind, code, value in _EVENT.iter_unpack(data) if (kind, value) == (_EV_KEY, 1)]
    return codes


def screen_paint(address: str, seed: int, rows: int) -> dict[str, int]:
    """Paint the last rows of a virtio-gpu's framebuffer with bytes that follow from `seed`; its width and stride.

    The console, which may have the framebuffer too, writes from the top.
    """
    base = f"/sys/bus/pci/devices/{address}"
    (path,) = wait_for(f"{base}/virtio*/graphics/fb*", f"{base}/graphics/fb*")
    with open(f"{path}/stride") as file:
        stride = int(file.read())
    with open(f"{path}/virtual_size") as file:
        width, height = map(int, file.read().split(","))
    with open(f"{path}/pan", "w") as file:
        file.write("0,0")  # has the driver light the display, also where no console is on it
    with open(f"/dev/{os.path.basename(path)}", "wb", buffering=0) as screen:
        screen.seek((height - rows) * stride)
        screen.write(hashlib.shake_128(seed.to_bytes(8, "little")).digest(rows * stride))
    return {"width": width, "stride": stride}


def cipher_test(address: str, algorithm: str) -> dict[str, object]:
    """What the kernel's test of a cipher came to, and how often the queues of its virtio device have interrupted since.

    The cipher is named as /proc/crypto has it under `driver`.
    """
    (path,) = glob.glob(f"/sys/bus/pci/devices/{address}/virtio*")
    name = os.path.basename(path)
    with open("/proc/crypto") as file:
        entries = [dict(_FIELD.findall(entry)) for entry in file.read().split("\n\n")]
    (result,) = (
        entry["selftest"] for entry in entries if entry.get("driver") == algorithm and entry["type"] != "larval"
    )
    with open("/proc/interrupts") as file:
        lines = [line.split() for line in file if f" {name}-" in line and f" {name}-config" not in line]
    counts = [int(word) for line in lines for word in itertools.takewhile(str.isdigit, line[1:])]
    return {"result": result, "interrupts": sum(counts)}


def _wait_readable(fd: int, what: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(_WAIT_SECONDS * 1000):
        raise TimeoutError(errno.ETIMEDOUT, f"{what}: nothing came within {_WAIT_SECONDS} s")


OPERATIONS: dict[str, Callable[..., object]] = {
    f.__name__: f
    for f in (virtio_device, random_read, port_echo, keyboard_open, keyboard_read, screen_paint, cipher_test)
}
