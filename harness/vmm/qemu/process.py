"""A QEMU process: started so that it dies with the harness, watched so that its death is known at once."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import (
    GuestCrashed,
    GuestError,
    HarnessError,
    HostError,
    VmmCrashed,
    VmmDied,
    VmmError,
    VmmStartError,
    VmmTimeout,
)
from harness.vmm import background
from harness.vmm.qemu.output import Output
from harness.vmm.rundir import RunDirectory

__all__ = ["QemuProcess"]

_DEATH_SECONDS = 10.0
_LAST_WORDS_SECONDS = 1.0

_RUNS = "running"
# SIGBUS is not among them: it comes of mapped memory that the host does not back, a file cut short or a full disk.
_CRASHES = frozenset((signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE))

# QEMU, qapi/run-state.json, ShutdownCause; those that begin with "host-" are somebody else's doing.
_GUEST_ENDED = {
    "guest-reset": "the guest reset itself",
    "guest-panic": "the guest reported that it panicked",
    "guest-shutdown": "the guest shut itself down",
}


class QemuProcess:
    """One QEMU process.

    It is tied to the harness three times over: the kernel kills it when the harness's thread that started it ends
    (`PR_SET_PDEATHSIG`, where setpriv(1) is installed), the keeper kills it when the harness is gone, and closing its
    run directory kills it too.

    Attributes:
        pid: its process id.
        pidfd: a handle on it that polls readable when it has ended (pidfd_open(2)).
    """

    def __init__(self, popen: subprocess.Popen[bytes], pidfd: int, output: Output, command: str) -> None:
        self.pid = popen.pid
        self.pidfd = pidfd
        self._popen = popen
        self._output = output
        self._command = command
        self._listeners: list[Callable[[], None]] = []
        self._closed = False
        self._shutdown = threading.Event()
        self._shutdown_reason = ""
        self._ask_state: Callable[[], str] | None = None

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        directory: RunDirectory,
        env: Mapping[str, str],
        command: str,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start it.

        Args:
            argv: the whole command line.
            directory: the run directory that it belongs to; `stderr.log` there is its stdout and stderr, as `Output`.
            env: environment variables on top of the harness's own.
            command: the command line as text, for messages.
            pass_fds: file descriptors that it inherits under the same numbers.

        Raises:
            HostError: the binary cannot be run, or the run directory cannot be written.
        """
        setpriv = shutil.which("setpriv")
        tie = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []

        def spawn(output: Output) -> tuple[subprocess.Popen[bytes], int]:
            try:
                popen = subprocess.Popen(
                    [*tie, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output.writer,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **env, **directory.mark()},
                    pass_fds=pass_fds,
                    start_new_session=True,  # Ctrl-C is for the harness, which then ends it in its own order
                )
            finally:
                output.listen()
            return popen, os.pidfd_open(popen.pid)

        if shutil.which(argv[0]) is None:
            raise HostError(
                f"{argv[0]} cannot be run: there is no such program, or it is not executable",
                hint="name another QEMU, or let the harness fetch one",
            )
        try:
            with ExitStack() as stack:
                output = Output(directory.path / "stderr.log")
                stack.callback(background.call, output.close)
                popen, pidfd = background.call(lambda: spawn(output))
                stack.pop_all()
        except OSError as error:
            raise HostError(
                f"QEMU could not be started: {error}",
                hint=f"check that {argv[0]} can be run, and that {directory.path} has space",
                evidence=command,
            ) from error
        process = cls(popen, pidfd, output, command)
        background.call(lambda: background.loop().add_reader(pidfd, process._ended))
        return process

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    @property
    def status(self) -> str:
        """What became of it, to be read after "QEMU": "is running", "exited with status 1"..."""
        match self._popen.poll():
            case None:
                return "is running"
            case code if code < 0:
                return f"was killed by signal {-code} ({signal.Signals(-code).name})"
            case code:
                return f"exited with status {code}"

    @property
    def exit_status(self) -> int | None:
        """Its exit status, minus the signal's number where a signal killed it; None while it runs."""
        return self._popen.poll()

    @property
    def stderr(self) -> str:
        """The last 16 KiB of what it wrote to stdout and stderr."""
        return self._output.tail

    def on_end(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in the loop's thread, when it ends; at once if it has."""
        self._listeners.append(listener)
        if not self.alive:
            listener()

    def wait(self, deadline: float) -> int:
        """Wait until it ends; returns its exit status, minus the signal's number where a signal killed it.

        Args:
            deadline: seconds.

        Raises:
            VmmTimeout: it still runs.
        """
        if not self._ends_within(deadline):
            raise self.timeout("to end", deadline)
        return self._popen.wait()

    def check(self, asked: str) -> None:
        """Raise what `died` makes of it if it has ended.

        Args:
            asked: what it was needed for, to be read after "while it was needed".
        """
        if not self.alive:
            raise self.died(asked)

    def start_error(self) -> VmmStartError:
        """The error of a QEMU that ended before the machine was up: its stderr and command line are the evidence."""
        return VmmStartError(
            f"QEMU {self.status} at start: {_last_line(self.stderr)}",
            hint="the command line below can be run by hand",
            evidence=f"{self.stderr.rstrip()}\n{self._command}",
        )

    def told_shutdown(self, reason: str) -> None:
        """QEMU has said, by its event SHUTDOWN, why it is about to end (QAPI `ShutdownCause`)."""
        self._shutdown_reason = reason
        self._shutdown.set()

    def ask_state_by(self, ask: Callable[[], str]) -> None:
        """Have the machine's run state (QAPI `RunState`) asked for by that; it raises where QEMU does not answer."""
        self._ask_state = ask

    def blame(self, late: GuestError) -> HarnessError:
        """Whose doing it is that a guest is late: its own only where QEMU answers, and runs it.

        Args:
            late: the error where it is the guest's.

        Returns:
            GuestError: that one.
            VmmTimeout: QEMU itself does not answer.
            VmmError: it has stopped the guest, or closed a connection.
            GuestCrashed, VmmCrashed, VmmDied: it has ended.
        """
        if self._ask_state is None:
            return late
        try:
            state = self._ask_state()
        except VmmTimeout as error:
            return VmmTimeout(f"{late.message}: {error.message}", evidence=late.evidence)
        except HarnessError as error:
            return error
        if state == _RUNS:
            return late
        return VmmError(f"{late.message}: QEMU does not run it, its state is {state!r}", evidence=late.evidence)

    def died(self, asked: str) -> GuestCrashed | VmmCrashed | VmmDied | VmmError:
        """The error of a QEMU that went away while it was needed, by whose doing it was; stderr is the evidence.

        Args:
            asked: what it was needed for, to be read after "while it was needed".

        Returns:
            GuestCrashed: the guest reset, shut down or panicked, and QEMU ended in good order.
            VmmCrashed: QEMU ended by a signal that only a fault of its own raises.
            VmmDied: it was killed, told to end, or gave up.
            VmmError: it lives on, and has closed a connection.
        """
        self._ends_within(_LAST_WORDS_SECONDS)  # its sockets close a moment before it can be waited for
        code = self._popen.poll()
        if code is None:
            return VmmError(f"QEMU is running, and has closed the connection needed {asked}", evidence=self.stderr)
        if code == 0:
            self._shutdown.wait(_LAST_WORDS_SECONDS)  # the event may still be on its way
            if self._shutdown_reason in _GUEST_ENDED:
                text = f"{_GUEST_ENDED[self._shutdown_reason]} while it was needed {asked}"
                return GuestCrashed(text, evidence=self.stderr)
        kind = VmmCrashed if -code in _CRASHES else VmmDied
        told = f" ({self._shutdown_reason})" if self._shutdown_reason else ""
        return kind(f"QEMU {self.status}{told} while it was needed {asked}", evidence=self.stderr)

    def timeout(self, asked: str, seconds: float, evidence: str = "") -> VmmTimeout:
        """The error of a QEMU that was asked for something and did not do it in time.

        Args:
            asked: to be read after "QEMU was asked".
            seconds: how long it was given.
            evidence: what was seen last.
        """
        state = f"QEMU {self.status}{_kernel_state(self.pid) if self.alive else ''}"
        return VmmTimeout(f"QEMU was asked {asked} and had not after {seconds:g} s; {state}", evidence=evidence)

    def kill(self) -> None:
        """Kill it and wait until it is gone.

        Raises:
            VmmError: SIGKILL did not end it within 10 s.
        """
        self._popen.kill()
        if not self._ends_within(_DEATH_SECONDS):
            raise VmmError(
                f"QEMU (pid {self.pid}) did not end within {_DEATH_SECONDS:g} s of SIGKILL{_kernel_state(self.pid)}",
                hint="look at what the kernel says of it: dmesg, /proc/PID/stack",
            )

    def close(self) -> None:
        """Kill it if it runs, and give back its handle; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.kill()
        finally:
            background.call(self._unwatch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ends_within(self, seconds: float) -> bool:
        """Wait until it has ended, at most that long; `Popen.wait` with a time-out looks every 50 ms."""
        if self._popen.returncode is None:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return False
            self._popen.wait()
        return True

    def _ended(self) -> None:
        """In the loop's thread: the pidfd is readable."""
        background.loop().remove_reader(self.pidfd)
        self._popen.wait()
        for listener in self._listeners:
            listener()

    def _unwatch(self) -> None:
        if background.loop().remove_reader(self.pidfd):
            for listener in self._listeners:
                listener()
        os.close(self.pidfd)
        self._output.close()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it wrote nothing to stderr"


def _kernel_state(pid: int) -> str:
    """What the kernel says the process is doing, to be read after "is running"."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    for line in status.splitlines():
        if line.startswith("State:"):
            return f", in state {line.split(maxsplit=1)[1]}"
    return ""
