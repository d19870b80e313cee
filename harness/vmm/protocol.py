"""What a VMM offers to the rest of the harness: machines that can be started, looked at from outside, and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import GuestError, HarnessError
from harness.report.record import Evidence
from harness.spec import Machine

__all__ = [
    "Boot",
    "BootDisk",
    "Cable",
    "Console",
    "FirmwareBoot",
    "Flash",
    "GuestMemory",
    "LinuxBoot",
    "MovedMachine",
    "Port",
    "RunningMachine",
    "SavedMachine",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flash:
    """Firmware for a pair of flash chips.

    Attributes:
        code: that is never written.
        variables: what those that it keeps are at first; each machine has a copy of its own.
    """

    code: Path
    variables: Path


class BootDisk(Protocol):
    """A disk of the machine that firmware starts Linux from."""

    @property
    def id(self) -> str:
        """Id of the device in the spec."""

    def write(self, image: Path, boot: LinuxBoot) -> None:
        """Put boot loader, kernel, initrd and overlay on its image, which grows with them.

        Raises:
            ArtifactError, SpecError: a program failed, or the command line is none that the boot loader takes.
            OSError: the image cannot be written.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxBoot:
    """Boot a Linux kernel: the VMM hands it to the guest, or firmware reads it from a disk.

    Attributes:
        kernel: bzImage.
        initrd: cpio archive.
        overlay: a further archive, which the kernel unpacks over the first; of this one run, and only in memory, since
            it holds the run's keys.
        args: the whole kernel command line, word by word.
        ram: file that guest RAM is to be, made of the size of RAM; anonymous memory when None.
        firmware: what runs first; what the VMM brings along when None.
        disk: that firmware reads all that from; when None, the VMM hands it to the guest.
    """

    kernel: Path
    initrd: Path | None = None
    overlay: bytes = b""
    args: tuple[str, ...] = ()
    ram: Path | None = None
    firmware: Flash | None = None
    disk: BootDisk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareBoot:
    """Run firmware and nothing else.

    Attributes:
        firmware: flash chips; or an image, mapped so that it ends at 4 GiB and its size a multiple of 64 KiB; what the
            VMM brings along when None.
    """

    firmware: Path | Flash | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMachine:
    """Go on where a machine was saved; nothing that is written from then on changes what was saved.

    Attributes:
        ram: file that was its RAM.
        state: file with the state of its devices.
        option_roms: names of the option ROMs that its kernel was started by.
        console: what its console had said, as a file.
        trace: its trace events, as a file.
        booted: what it was booted from.
    """

    ram: Path
    state: Path
    option_roms: tuple[str, ...]
    console: Path
    trace: Path
    booted: LinuxBoot


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedMachine:
    """Take over a machine that another process runs, while its guest goes on: a live migration.

    Attributes:
        source: that machine; it is stopped afterwards, and its disks are the new one's as well.
        plugged: ids of the devices of its spec that have been plugged.
        booted: what it was booted from.
    """

    source: RunningMachine
    plugged: frozenset[str]
    booted: LinuxBoot


Boot = LinuxBoot | FirmwareBoot | SavedMachine | MovedMachine


class GuestMemory(Protocol):
    """Guest physical memory of a live guest, seen from the host: no IOMMU is on this path."""

    def read(self, address: int, count: int, *, deadline: float = ...) -> bytes:
        """Read `count` bytes; `deadline` in seconds."""

    def write(self, address: int, data: bytes, *, deadline: float = ...) -> None:
        """Write `data`; `deadline` in seconds."""


class Console(Protocol):
    """The guest's serial console, captured from its first byte."""

    @property
    def text(self) -> str:
        """What was kept of it: all, unless the guest was very talkative."""

    def tail(self, count: int = ...) -> str:
        """The last lines."""

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with every line, those already there first."""

    def write(self, data: bytes) -> None:
        """Type into it."""

    def wait_for(self, text: str, *, deadline: float, since: int = ...) -> str:
        """Wait for a line with `text` in it; returns the line."""


class Cable(Protocol):
    """The harness's end of the cable in a guest's NIC."""

    def send(self, frame: bytes, *, deadline: float = ...) -> None:
        """Send one Ethernet frame, without its checksum."""

    def receive(self, *, deadline: float) -> bytes:
        """The next Ethernet frame, without its checksum; a guest that sends none in time is a `GuestError`."""


class Port(Protocol):
    """The harness's end of a byte channel into the guest, used by lines. `check` is called while it waits."""

    def send(self, data: bytes, deadline_seconds: float, check: Callable[[], None]) -> None:
        """Send bytes; a guest that does not take them in time is `GuestUnreachable`."""

    def read_line(self, deadline_seconds: float, check: Callable[[], None]) -> bytes:
        """The next line, without its newline; a guest that sends none in time is `GuestUnreachable`."""


class RunningMachine(Protocol):
    """A machine that was started. Every wait ends at once when the VMM dies."""

    spec: Machine
    directory: Path
    ssh_port: int

    @property
    def console(self) -> Console:
        """Its serial console."""

    @property
    def option_roms(self) -> tuple[str, ...]:
        """Names of the option ROMs that its kernel was started by; a machine that goes on from it has them too."""

    @property
    def agent_port(self) -> Port:
        """The port of the agent in its guest."""

    @property
    def memory(self) -> GuestMemory:
        """Its RAM."""

    @property
    def alive(self) -> bool:
        """Whether the VMM still runs."""

    def death(self, asked: str) -> HarnessError:
        """The error of a VMM that has ended, by whose doing it was, with the console's tail in its evidence.

        Args:
            asked: what it was needed for, to be read after "while it was needed".
        """

    def blame(self, late: GuestError) -> HarnessError:
        """Whose doing it is that the guest is late: that error, or another where the VMM does not run the guest."""

    def plug(self, device_id: str, *, deadline: float = ...) -> None:
        """Plug a device of the spec that is tagged `hotplug`."""

    def unplug(self, device_id: str, *, deadline: float = ...) -> None:
        """Ask the guest to let go of a device, and wait until it has."""

    def network(self, device_id: str) -> Cable:
        """The other end of the cable of a NIC of the spec."""

    def port(self, device_id: str) -> Port:
        """The other end of the port on a virtio-serial of the spec."""

    def disk(self, device_id: str) -> Path:
        """The raw image behind a disk of the spec."""

    def evidence(self) -> Evidence:
        """What there is to show of it, also after it was closed."""

    def close(self) -> None:
        """End it and give everything back."""
