"""What a machine is connected to: the harness that runs it, or the terminal of a person who runs the same one again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.vmm.protocol import Flash

__all__ = [
    "AGENT_CHANNEL",
    "CHANNELS",
    "DISK_BYTES",
    "HandWiring",
    "HarnessWiring",
    "Wiring",
    "disk_node",
    "netdev_name",
    "port_channel",
]

DISK_BYTES = 16 * 1024 * 1024
"""Size of each disk, bytes."""

AGENT_CHANNEL = "agent"
"""Id of the character device behind the port of the in-guest agent."""

CHANNELS = ("console", "qmp", "qtest", AGENT_CHANNEL)
"""The character devices that lead to the harness, by id."""

_FORWARD = "restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
"""User networking that reaches nothing, with SSH on a port that the host's kernel picks: `info usernet` tells it."""


def disk_node(device_id: str) -> str:
    """Name of the block node that a disk's front end takes as its `drive`."""
    return f"{device_id}-disk"


def netdev_name(device_id: str) -> str:
    """Name of the network back end that a NIC's front end takes as its `netdev`."""
    return f"{device_id}-net"


def port_channel(device_id: str) -> str:
    """Id of the character device behind the port of a virtio-serial."""
    return f"{device_id}-port"


class Wiring(Protocol):
    """The back ends of a machine."""

    def channels(self) -> list[tuple[str, ...]]:
        """Console, QMP, the character device `AGENT_CHANNEL`, and whatever else QEMU is driven by."""

    def disk(self, device_id: str) -> list[tuple[str, ...]]:
        """The block node `disk_node(device_id)`, with 512-byte sectors."""

    def cable(self, device_id: str) -> list[tuple[str, ...]]:
        """The network back end `netdev_name(device_id)` of a NIC of the spec."""

    def port(self, device_id: str) -> list[tuple[str, ...]]:
        """The character device `port_channel(device_id)`."""

    def management(self, netdev: str) -> list[tuple[str, ...]]:
        """The network back end of the NIC that SSH goes through."""

    def flash(self, firmware: Flash) -> list[tuple[str, ...]]:
        """Both flash chips; what is written to the second is the machine's own."""


@dataclass(frozen=True, slots=True)
class HarnessWiring:
    """Everything leads to the harness.

    Attributes:
        directory: the run directory, with a socket for each of `CHANNELS` and of the ports, and the disks.
        cables: for each NIC of the spec, the file descriptor of QEMU's end of its cable.
    """

    directory: Path
    cables: Mapping[str, int]

    def socket(self, channel: str) -> Path:
        """Where QEMU connects for a character device."""
        return self.directory / f"{channel}.sock"

    def image(self, device_id: str) -> Path:
        """The raw image behind a disk."""
        return self.directory / f"{disk_node(device_id)}.raw"

    def channels(self) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [
            *map(self._channel, CHANNELS),
            ("-serial", "chardev:console"),
            ("-qmp", "chardev:qmp"),
            ("-qtest", "chardev:qtest"),
            ("-qtest-log", "none"),
        ]

    def disk(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        node = disk_node(device_id)
        return [
            ("-blockdev", f"driver=file,node-name={node}-file,filename={_text(self.image(device_id))}"),
            ("-blockdev", f"driver=raw,node-name={node},file={node}-file"),
        ]

    def cable(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-netdev", f"socket,id={netdev_name(device_id)},fd={self.cables[device_id]}")]

    def port(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [self._channel(port_channel(device_id))]

    def management(self, netdev: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-netdev", f"user,id={netdev},{_FORWARD}")]

    @property
    def variables(self) -> Path:
        """The file of the variables that firmware keeps."""
        return self.directory / "variables.fd"

    def flash(self, firmware: Flash) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [_chip(0, firmware.code, "readonly=on"), _chip(1, self.variables, "readonly=off")]

    def _channel(self, channel: str) -> tuple[str, str]:
        return ("-chardev", f"socket,id={channel},path={_text(self.socket(channel))}")


@dataclass(frozen=True, slots=True)
class HandWiring:
    """The console and QEMU's monitor on the terminal (Ctrl-A C switches), disks and networks that lead nowhere."""

    def channels(self) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-serial", "mon:stdio"), ("-chardev", f"null,id={AGENT_CHANNEL}")]

    def disk(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-blockdev", f"driver=null-co,node-name={disk_node(device_id)},size={DISK_BYTES},read-zeroes=on")]

    def cable(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-netdev", f"user,id={netdev_name(device_id)},restrict=on")]

    def port(self, device_id: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-chardev", f"null,id={port_channel(device_id)}")]

    def management(self, netdev: str) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [("-netdev", f"user,id={netdev},{_FORWARD}")]

    def flash(self, firmware: Flash) -> list[tuple[str, ...]]:
        """See `Wiring`."""
        return [_chip(0, firmware.code, "readonly=on"), _chip(1, firmware.variables, "snapshot=on")]


def _chip(number: int, file: Path, mode: str) -> tuple[str, str]:
    """A flash chip: the file is to be there, and of its size."""
    return ("-drive", f"if=pflash,unit={number},format=raw,{mode},file={_text(file)}")


def _text(path: Path) -> str:
    return str(path).replace(",", ",,")
