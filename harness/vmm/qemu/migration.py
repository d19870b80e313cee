"""Saves the devices of a stopped machine as a stream of bytes, starts another from it, and moves a running machine.

Of a machine that is saved guest RAM is not in the stream: it is a file that both map, the second privately (migration
capability `x-ignore-shared`). The stream goes through a pipe, since QEMU takes no file by descriptor from 9.1 on, and
none by name before 8.2.

Source: QEMU, docs/devel/migration/main.rst; migration/ram.c, `migrate_ram_is_ignored`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from pathlib import Path

from harness.errors import HostError, NotSaved, VmmDied, VmmStartError, VmmTimeout
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qmp import Qmp, QmpError

__all__ = ["INCOMING", "load", "move", "save"]

INCOMING = ("-incoming", "defer")
"""What the machine that is to be loaded is started with."""

_MAGIC = b"QEVM"  # QEMU, migration/qemu-file.h, QEMU_VM_FILE_MAGIC
_NAME = "viommu-state"  # of the descriptor, in QEMU's list
_BLOCK = 1 << 16
_POLL_SECONDS = 0.002
_BYTES_PER_SECOND = 4 << 30  # QEMU before 6 limits itself to 32 MiB
_LAST_WORDS_SECONDS = 2.0


def save(qmp: Qmp, process: QemuProcess, state: Path, deadline: float = 30.0) -> None:
    """Write the state of all devices to a file; the machine is stopped and stays so.

    Args:
        qmp: of the machine. Its RAM is a file that is mapped shared.
        process: of the machine.
        state: file to write; it is made, for its owner alone.
        deadline: seconds.

    Raises:
        NotSaved: the machine has a device that cannot be saved, or this QEMU saves none; the message is QEMU's.
        HostError: the file cannot be written.
        VmmTimeout: it takes too long.
    """
    end = time.monotonic() + deadline
    qmp.execute("stop")
    reader, writer = os.pipe()
    try:
        with os.fdopen(reader, "rb", buffering=0) as stream:
            try:
                qmp.execute("migrate-set-capabilities", _ram_stays(True))
                qmp.pass_descriptor(_NAME, writer)
                qmp.execute("migrate", {"uri": f"fd:{_NAME}"})
            except QmpError as error:
                raise NotSaved(error.description) from error
            finally:
                os.close(writer)
            with state.open("xb") as file:
                state.chmod(0o600)
                poll = select.poll()
                poll.register(stream, select.POLLIN)
                while True:
                    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                        raise process.timeout("to write its state", deadline, qmp.tail(20))
                    data = stream.read(_BLOCK)
                    if not data:
                        break
                    file.write(data)
    except OSError as error:
        raise HostError(f"{state} cannot be written: {error.strerror}", hint="free space there") from error
    if failure := _outcome(qmp, process, deadline, end):
        raise NotSaved(failure)


def load(qmp: Qmp, process: QemuProcess, state: Path, deadline: float = 30.0) -> None:
    """Load what `save` wrote into a machine that was started with `INCOMING`; it is stopped then.

    Raises:
        VmmStartError: QEMU does not take it: it is of another machine, of another build, or damaged.
        HostError: the file cannot be read.
        VmmTimeout: it takes too long.
    """
    end = time.monotonic() + deadline
    try:
        data = state.read_bytes()
    except OSError as error:
        raise HostError(f"{state} cannot be read: {error.strerror}") from error
    if not data.startswith(_MAGIC):  # QEMU waits for ever where nothing comes at all
        raise VmmStartError(f"{state}, of {len(data)} bytes, is not the state of a machine: it begins {data[:8]!r}")
    try:
        qmp.execute("migrate-set-capabilities", _ram_stays(True))
        # No network has to learn that the machine is here now (QEMU, net/announce.c): a cable is to carry nothing but
        # what the guest sends. The one round is over before a card is plugged; none at all has a virtio-net crash QEMU
        # when the guest resets it (docs/findings.md, F-29).
        qmp.execute("migrate-set-parameters", {"announce-rounds": 1})
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb", buffering=0) as stream:
            try:
                qmp.pass_descriptor(_NAME, reader)
            finally:
                os.close(reader)
            feeder = threading.Thread(target=_feed, args=(stream.fileno(), data), name="viommu-state", daemon=True)
            feeder.start()
            qmp.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
            feeder.join(max(0.0, end - time.monotonic()))
            if feeder.is_alive():
                raise process.timeout("to read its state", deadline, qmp.tail(20))
        failure = _outcome(qmp, process, deadline, end)
    except VmmDied:
        raise process.start_error() from None
    if failure:
        raise VmmStartError(f"QEMU did not take the state {state}: {failure}", evidence=process.stderr)


def move(source: tuple[Qmp, QemuProcess], target: tuple[Qmp, QemuProcess], deadline: float = 60.0) -> None:
    """Move a running machine, memory and all, into a process that was started with `INCOMING`.

    The guest runs until almost all is there; then the source stops, and the target goes on.

    Args:
        source: QMP and process of the machine.
        target: of the one that it becomes.
        deadline: seconds.

    Raises:
        NotSaved: the source has a device that cannot be moved.
        VmmStartError: the target does not take it.
        VmmTimeout: it takes too long.
    """
    end = time.monotonic() + deadline
    here, there = socket.socketpair()
    with here, there:
        target[0].pass_descriptor(_NAME, there.fileno())
        target[0].execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
        try:
            source[0].pass_descriptor(_NAME, here.fileno())
            source[0].execute("migrate-set-capabilities", _ram_stays(False))
            source[0].execute("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_SECOND})
            source[0].execute("migrate", {"uri": f"fd:{_NAME}"})
        except QmpError as error:
            raise NotSaved(error.description) from error
    try:
        failure = _outcome(*source, deadline, end) or _outcome(*target, deadline, end)
    except VmmDied:
        if target[1].alive:
            raise
        raise target[1].start_error() from None
    if failure:
        with contextlib.suppress(VmmTimeout):
            target[1].wait(_LAST_WORDS_SECONDS)
            raise target[1].start_error()
        raise VmmStartError(f"QEMU did not take over the machine: {failure}", evidence=target[1].stderr)


def _ram_stays(state: bool) -> dict[str, object]:
    """Whether RAM that is a file stays out of the stream, for `migrate-set-capabilities`."""
    return {"capabilities": [{"capability": "x-ignore-shared", "state": state}]}


def _feed(descriptor: int, data: bytes) -> None:
    """Write everything; a reader that is gone has its reasons, which are told elsewhere."""
    rest = memoryview(data)
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _outcome(qmp: Qmp, process: QemuProcess, deadline: float, end: float) -> str:
    """Wait for the end of it; why it failed, empty where it did not."""
    while True:
        answer = qmp.execute("query-migrate")
        match answer.get("status"):
            case "completed":
                return ""
            case "failed" | "cancelled":
                return str(answer.get("error-desc") or process.stderr.strip() or "QEMU does not say why")
        if time.monotonic() > end:
            raise process.timeout("to save or load its state", deadline, qmp.tail(20))
        time.sleep(_POLL_SECONDS)
