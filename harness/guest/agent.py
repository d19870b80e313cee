"""The host's side of the agent in the guest: typed calls, one JSON line each way over a virtio-serial port.

The port owes nothing to the guest's network or SSH, so that the agent can be asked when those are gone. The guest's
side is `guest_images/agent/`. What comes back is data from a machine under test: its size is bounded and its types are
checked before anybody uses it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from harness.errors import AgentError, GuestUnreachable
from harness.guest.address_space import AddressSpace, map_arguments
from harness.guest.answers import (
    CipherTest,
    Frame,
    Function,
    Group,
    LogRecord,
    MacAddress,
    Pages,
    ProgramEnd,
    ProgramStart,
    Screen,
    Talk,
    VfioLimits,
    VirtioDevice,
)
from harness.guest.shortened import SHOWN, shortened
from harness.vmm.protocol import Port

__all__ = ["Agent", "ChildAgent"]

_T = TypeVar("_T")
_START_SECONDS = 30.0
_CHILD_SECONDS = 5.0  # more than its parent waits for it
_KILL_SECONDS = 15.0  # more than the agent waits for what it has killed
_ENDED = 0  # id of the message by which init says that the agent is no more


class Agent:
    """A running agent.

    Every call raises AgentError when the guest could not do what was asked, and GuestUnreachable when no answer came.

    Args:
        port: of the running machine. The guest's init starts the agent at the first line that comes.
        check: called while an answer is awaited; raises when there is no more point in waiting.
    """

    def __init__(self, port: Port, check: Callable[[], None]) -> None:
        self._port = port
        self._check = check
        self._ids = itertools.count(1)
        self._patience = _START_SECONDS  # more than an answer takes, until there has been one
        self._port.send(b"\n", _START_SECONDS, check)

    def ping(self, deadline_seconds: float = 10.0) -> None:
        """Ask whether it is there."""
        self._call("ping", {}, dict[str, object], deadline_seconds)

    def wake(self, seconds: float, entropy: bytes, authorized_keys: bytes) -> None:
        """Tell a guest that goes on from where it was saved what it cannot know.

        Args:
            seconds: the time, since 1970.
            entropy: for the kernel's random number generator, which is reseeded with it.
            authorized_keys: who may log in, and nobody else.
        """
        told = {"seconds": seconds, "entropy": entropy.hex(), "authorized_keys": authorized_keys.decode()}
        self._call("wake", told, type(None))

    def read_file(self, path: str) -> str:
        """Text of one file."""
        return self._call("read_file", {"path": path}, str)

    def read_bytes(self, path: str, offset: int, size: int) -> bytes:
        """Bytes of one file."""
        return _bytes(self._call("read_bytes", {"path": path, "offset": offset, "size": size}, str))

    def write_file(self, path: str, text: str) -> None:
        """Write text to a file, in one write."""
        self._call("write_file", {"path": path, "text": text}, int)

    def iommu_groups(self) -> tuple[Group, ...]:
        """All IOMMU groups, in the order of their numbers."""
        return self._call("iommu_groups", {}, tuple[Group, ...])

    def kernel_log(self, after: int = -1) -> tuple[LogRecord, ...]:
        """Kernel log records above that sequence number.

        Those are among them that an interrupt has led to which was raised before this was asked.
        """
        records = self._call("kernel_log", {"after": after}, list[tuple[int, int, float, str]])
        return tuple(LogRecord(*record) for record in records)

    def kernel_log_mark(self) -> int:
        """Sequence number of the last record in the kernel log, -1 for none; as of `kernel_log`."""
        return self._call("kernel_log_mark", {}, int)

    def modprobe(self, *names: str) -> None:
        """Load modules, those that are not there yet."""
        self._call("modprobe", {"names": list(names)}, type(None), 40.0)

    def wait_path(self, path: str, seconds: float, *, present: bool = True) -> float:
        """Wait until a path is there, or gone; the seconds that it took."""
        return self._call("wait_path", {"path": path, "seconds": seconds, "present": present}, float, seconds + 10)

    def kexec_load(self, disk: str, kernel: tuple[int, int], initrd: tuple[int, int], line: str, crash: bool) -> None:
        """Load a bzImage and its initrd from a disk, each as offset and bytes: for a crash, else for `kexec_start`."""
        told = {"kernel": kernel, "initrd": initrd, "crash": crash}
        self._call("kexec_load", {"device": disk, "arguments": line, **told}, type(None), 60.0)

    def kexec_start(self, seconds: float) -> None:
        """End this kernel after that time, and start the one that was loaded."""
        self._call("kexec_start", {"seconds": seconds}, type(None))

    def pci_functions(self) -> tuple[Function, ...]:
        """Every PCI function, in the order of the addresses."""
        return self._call("pci_functions", {}, tuple[Function, ...])

    def pci_bind(self, address: str, driver: str) -> None:
        """Give a function to a driver, or to none ("")."""
        self._call("pci_bind", {"address": address, "driver": driver}, type(None))

    def page_allocate(self, count: int, fill: bytes) -> Pages:
        """Allocate pages of 4096 bytes, filled with a repeated pattern."""
        return self._call("page_allocate", {"count": count, "fill": fill.hex()}, Pages)

    def page_allocate_huge(self, shift: int) -> Pages:
        """Allocate one huge page of 2**shift bytes, all zeroes."""
        return self._call("page_allocate_huge", {"shift": shift}, Pages, 30.0)

    def page_read(self, pages: Pages, offset: int, size: int) -> bytes:
        """Bytes of the pages, as the guest's CPU sees them."""
        return _bytes(self._call("page_read", {"handle": pages.handle, "offset": offset, "size": size}, str))

    def page_write(self, pages: Pages, offset: int, data: bytes) -> None:
        """Write bytes into the pages."""
        self._call("page_write", {"handle": pages.handle, "offset": offset, "data": data.hex()}, type(None))

    def page_frames(self, pages: Pages) -> tuple[int, ...]:
        """Where the pages are now; the kernel may have moved them."""
        return self._call("page_frames", {"handle": pages.handle}, tuple[Frame, ...])

    def vfio_open(self, address: str, beside: str | None = None) -> None:
        """Put a function bound to vfio-pci into a VFIO container: of its own, or that of another function."""
        self._call("vfio_open", {"address": address, "beside": beside}, type(None))

    def vfio_open_without_iommu(self, address: str) -> None:
        """Open a function bound to vfio-pci that has no IOMMU, in VFIO's no-IOMMU mode."""
        self._call("vfio_open_without_iommu", {"address": address}, type(None))

    def vfio_map(
        self, address: str, pages: Pages, iova: int, permission: str = "rw", *, offset: int = 0, size: int | None = None
    ) -> None:
        """Map pages for the device at an IOVA: "r", "w" or "rw".

        Args:
            address: of the function.
            pages: what is mapped,
            iova: where, in bytes.
            permission: what the device may do.
            offset: into the pages, bytes.
            size: bytes; up to the end of the pages when None.
        """
        arguments = map_arguments(pages, iova, permission, offset, size)
        self._call("vfio_map", {"address": address, **arguments}, type(None), 30.0)

    def vfio_map_bar(self, address: str, owner: str, bar: int, iova: int, size: int) -> None:
        """Map the start of a BAR of another function in VFIO's hands for the device: DMA from peer to peer."""
        arguments = {"address": address, "owner": owner, "bar": bar, "iova": iova, "size": size}
        self._call("vfio_map_bar", arguments, type(None))

    def vfio_unmap(self, address: str, iova: int, size: int) -> int:
        """Unmap a range (bytes); the bytes that were mapped."""
        return self._call("vfio_unmap", {"address": address, "iova": iova, "size": size}, int, 30.0)

    def vfio_reset(self, address: str) -> None:
        """Reset a device."""
        self._call("vfio_reset", {"address": address}, type(None))

    def vfio_msi(self, address: str) -> None:
        """Have the MSI interrupts of a device that was opened counted."""
        self._call("vfio_msi", {"address": address}, type(None))

    def vfio_msi_count(self, address: str, seconds: float) -> int:
        """MSI interrupts of a device since the last call; waits up to that long for the first."""
        return self._call("vfio_msi_count", {"address": address, "seconds": seconds}, int, seconds + 10)

    def vfio_limits(self, address: str) -> VfioLimits:
        """What the container of a function can map."""
        return self._call("vfio_limits", {"address": address}, VfioLimits)

    def vfio_dirty_log(self, address: str, *, on: bool) -> None:
        """Have the container of a function take note of pages that may have been written, or stop it."""
        self._call("vfio_dirty_log", {"address": address, "on": on}, type(None))

    def vfio_dirty_pages(self, address: str, iova: int, size: int) -> frozenset[int]:
        """Numbers of the pages of a range (bytes, whole mappings) that may have been written since the last call."""
        arguments = {"address": address, "iova": iova, "size": size}
        return frozenset(self._call("vfio_dirty_pages", arguments, list[int]))

    def vfio_close(self, address: str) -> None:
        """Close a device; with the last one in its container all mappings of that go."""
        self._call("vfio_close", {"address": address}, type(None))

    def address_space(self) -> AddressSpace:
        """A new address space of iommufd, in which nothing is mapped."""
        return AddressSpace(self._call)

    def child(self) -> ChildAgent:
        """Another agent, in a process of its own, which can be killed with all that it holds."""
        return ChildAgent(self, self._call("child_start", {}, int))

    def program_start(self, argv: list[str], prompt: str, seconds: float) -> ProgramStart:
        """Start a program at a terminal, and wait for its first prompt; one that is late is killed."""
        told = {"argv": argv, "prompt": prompt, "seconds": seconds}
        return self._call("program_start", told, ProgramStart, seconds + _CHILD_SECONDS)

    def program_tell(self, pid: int, line: str, seconds: float) -> str:
        """Tell a program a line; what it says up to its next prompt, the echo of the line first where it has one."""
        return self._call(
            "program_tell", {"pid": pid, "line": line, "seconds": seconds}, Talk, seconds + _CHILD_SECONDS
        )

    def program_end(self, pid: int, line: str, seconds: float) -> ProgramEnd:
        """Tell a program the line that ends it, and wait until it has ended; one that is late is killed."""
        told = {"pid": pid, "line": line, "seconds": seconds}
        return self._call("program_end", told, ProgramEnd, seconds + _KILL_SECONDS)

    def program_kill(self, pid: int) -> None:
        """End a program with SIGKILL, and wait until it is gone."""
        self._call("program_kill", {"pid": pid}, type(None), _KILL_SECONDS)

    def block_device(self, address: str) -> str:
        """Device node of the disk of a virtio-blk or virtio-scsi."""
        return self._call("block_device", {"address": address}, str, 15.0)

    def block_write(self, device: str, offset: int, seed: int, size: int) -> str:
        """Write data that follows from a seed, past the page cache; its SHA-256."""
        arguments = {"device": device, "offset": offset, "seed": seed, "size": size}
        return self._call("block_write", arguments, str, 30.0)

    def block_read(self, device: str, offset: int, size: int) -> str:
        """SHA-256 of what stands on a disk, read past the page cache."""
        return self._call("block_read", {"device": device, "offset": offset, "size": size}, str, 30.0)

    def block_writer_start(self, device: str, size: int, slots: int) -> None:
        """Begin to write to a disk without end, past the page cache.

        Args:
            device: its node.
            size: bytes of each write.
            slots: write number n goes to slot n % slots of that size, and holds what follows from n as a seed.
        """
        self._call("block_writer_start", {"device": device, "size": size, "slots": slots}, type(None))

    def block_writer_done(self, device: str) -> int:
        """Number of those writes that have ended."""
        return self._call("block_writer_done", {"device": device}, int)

    def block_writer_stop(self, device: str) -> int:
        """End them, and their number."""
        return self._call("block_writer_stop", {"device": device}, int, 30.0)

    def virtio_device(self, address: str) -> VirtioDevice:
        """Driver and negotiated features of a virtio device."""
        return self._call("virtio_device", {"address": address}, VirtioDevice)

    def random_read(self, size: int) -> bytes:
        """Bytes of the machine's only virtio-rng."""
        return _bytes(self._call("random_read", {"size": size}, str))

    def port_echo(self, address: str, size: int) -> None:
        """Have the guest take bytes from the port of a virtio-serial and send them back in reverse, with a newline."""
        self._call("port_echo", {"address": address, "size": size}, type(None), 15.0)

    def keyboard_open(self, address: str) -> None:
        """Listen to a keyboard."""
        self._call("keyboard_open", {"address": address}, type(None), 15.0)

    def keyboard_read(self, address: str, count: int) -> tuple[int, ...]:
        """Linux's codes of that many keys, in the order in which they were pressed."""
        return self._call("keyboard_read", {"address": address, "count": count}, tuple[int, ...], 15.0)

    def screen_paint(self, address: str, seed: int, rows: int) -> Screen:
        """Paint the last rows of a display with bytes that follow from a seed (SHAKE-128 of its 8 bytes)."""
        return self._call("screen_paint", {"address": address, "seed": seed, "rows": rows}, Screen, 15.0)

    def cipher_test(self, address: str, algorithm: str) -> CipherTest:
        """How a cipher on a virtio device did when the guest's kernel tested it, by its driver's name."""
        return self._call("cipher_test", {"address": address, "algorithm": algorithm}, CipherTest)

    def net_open(self, address: str) -> str:
        """Bring up a network device; its MAC address."""
        return self._call("net_open", {"address": address}, MacAddress)

    def net_send(self, address: str, frames: list[bytes]) -> None:
        """Send Ethernet frames."""
        self._call("net_send", {"address": address, "frames": [frame.hex() for frame in frames]}, type(None))

    def net_receive(self, address: str, count: int) -> list[bytes]:
        """Receive that many frames of the test's EtherType, within 10 s each."""
        frames = self._call("net_receive", {"address": address, "count": count}, list[str], 15.0)
        return [_bytes(frame) for frame in frames]

    def _call(self, op: str, args: dict[str, object], type: type[_T], deadline_seconds: float = 10.0) -> _T:
        number = next(self._ids)
        deadline_seconds += self._patience
        end = time.monotonic() + deadline_seconds
        request = msgspec.json.encode({"id": number, "op": op, "args": args}) + b"\n"
        self._port.send(request, deadline_seconds, self._check)
        answer = self._answer(op, deadline_seconds)
        while answer.id < number:  # the late answer to a request that was given up
            answer = self._answer(op, max(0.0, end - time.monotonic()))
        self._patience = 0.0
        if answer.id != number:
            raise AgentError(f"{op}: the guest's agent answered request {answer.id} and not {number}")
        if answer.error is not None:
            asked = shortened(f"{op}{tuple(args.values())}")
            raise AgentError(f"{asked} failed in the guest: {shortened(f'{answer.kind}: {answer.error}')}")
        try:
            return msgspec.convert(answer.ok, type=type)
        except msgspec.ValidationError as error:
            raise AgentError(f"{op}: the guest's agent answered nonsense: {shortened(str(error))}") from error

    def _answer(self, op: str, deadline_seconds: float) -> _Answer:
        try:
            line = self._port.read_line(deadline_seconds, self._check)
        except GuestUnreachable as error:
            raise GuestUnreachable(f"{op}: {error.message}", hint=error.hint, evidence=error.evidence) from error
        try:
            answer = msgspec.json.decode(line, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AgentError(
                f"{op}: the guest's agent answered nonsense: {error}", evidence=repr(line[:SHOWN])
            ) from error
        if answer.id == _ENDED:
            raise AgentError(f"{op}: the agent in the guest ended: {shortened(str(answer.error))}")
        return answer


class ChildAgent(Agent):
    """An agent that another one has started, and through which it is asked.

    Args:
        parent: that one.
        pid: its process id in the guest.
    """

    def __init__(self, parent: Agent, pid: int) -> None:
        self._parent = parent
        self.pid = pid

    def adopt(self, pages: Pages) -> Pages:
        """Share pages that its parent holds; they outlive it."""
        holder = self._parent._call("page_holder", {"handle": pages.handle}, dict[str, object])
        return self._call("page_adopt", holder, Pages)

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        self._parent._call("child_kill", {"pid": self.pid}, type(None), _KILL_SECONDS)

    def _call(self, op: str, args: dict[str, object], type: type[_T], deadline_seconds: float = 10.0) -> _T:
        seconds = deadline_seconds + _START_SECONDS
        told = {"pid": self.pid, "op": op, "args": args, "seconds": seconds}
        return self._parent._call("child_call", told, type, seconds + _CHILD_SECONDS)


class _Answer(msgspec.Struct):
    id: int
    ok: object = None
    error: str | None = None
    kind: str = ""


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise AgentError(f"the guest's agent answered nonsense: {error}", evidence=repr(text[:SHOWN])) from error
