"""Raw Ethernet frames on a network device: traffic without a network stack in the way."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable

from files import wait_for

ETHERTYPE = 0x88B5  # IEEE 802, local experimental: nothing else in the guest sends or takes it
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_UP_SECONDS = 8

_open: dict[str, socket.socket] = {}


def net_open(address: str) -> str:
    """Bring up the network device at a PCI address and listen on it; its MAC address."""
    base = f"/sys/bus/pci/devices/{address}"
    (path,) = wait_for(f"{base}/net/*", f"{base}/virtio*/net/*")
    name = os.path.basename(path)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    sock.settimeout(10)
    request = struct.pack("16sh14x", name.encode(), 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), flags | _IFF_UP))
    sock.bind((name, ETHERTYPE))
    # Until the kernel has noticed that there is a carrier it drops what is sent, and says nothing of it.
    end = time.monotonic() + _UP_SECONDS
    while _read(f"/sys/class/net/{name}/operstate") != "up":
        if time.monotonic() > end:
            raise TimeoutError(f"{name} has no carrier after {_UP_SECONDS} s")
        time.sleep(0.01)
    _open[address] = sock
    return _read(f"/sys/class/net/{name}/address")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def net_send(address: str, frames: list[str]) -> None:
    """Send whole frames, given in hex."""
    for frame in frames:
        _open[address].send(bytes.fromhex(frame))


def net_receive(address: str, count: int) -> list[str]:
    """Wait for `count` frames of our EtherType; each in hex."""
    return [_open[address].recv(65536).hex() for _ in range(count)]


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (net_open, net_send, net_receive)}
