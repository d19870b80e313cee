"""One guest, from the first line of its console to its last SSH command."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

from harness.errors import GuestCrashed, GuestUnreachable
from harness.guest.agent import Agent
from harness.guest.problems import Problem, ProblemKind, ProblemWatch
from harness.guest.ssh import Completed, SshSession
from harness.images.keys import Login
from harness.vmm.protocol import RunningMachine

__all__ = ["READY", "Guest"]

READY = "viommu-init: ready"
"""What `guest_images/init` says when SSH answers."""

_COMPLAINT = "viommu-init: "
_KERNEL = "Linux version "  # the first that a kernel says: init/main.c, start_kernel
_COMPLAINTS = 20
_POLL_SECONDS = 0.02
_ON_ITS_WAY_SECONDS = 0.2  # what a console has been sent is read by then
_REPORT_SECONDS = 2.0  # for all that a kernel says of its end: a stack, registers


class Guest:
    """The inside of a running machine.

    Its console is watched from the start: whatever waits for the guest is told of a panic at once.

    Attributes:
        login: what it takes to get in over SSH.
        since: `time.time()` at the first words of its kernel, where that is the `successor` of another; else 0.

    Args:
        machine: the running machine.
        login: what it takes to get in over SSH.
    """

    def __init__(self, machine: RunningMachine, login: Login) -> None:
        self._machine = machine
        self.login = login
        self.since = 0.0
        self._successor_due = self._panics = False
        self._earlier: tuple[Problem, ...] = ()
        self._watch = ProblemWatch()
        self._ready = threading.Event()
        self._complaints: deque[str] = deque(maxlen=_COMPLAINTS)
        self._stack = ExitStack()
        machine.console.listen(self._hear)

    def _hear(self, line: str) -> None:
        self._watch.feed(line)
        if READY in line:
            self._ready.set()
        elif self._successor_due and _KERNEL in line:
            self.since, self._successor_due = time.time(), False
            if self._panics:
                self._earlier = tuple(p for p in self._watch.problems if p.kind is not ProblemKind.PANIC)
                self._watch, self._panics = ProblemWatch(), False
        elif _COMPLAINT in line:
            self._complaints.append(line.strip())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the guest kernel has complained of so far: panics, oopses, WARNs..."""
        return (*self._earlier, *self._watch.problems)

    def check(self) -> None:
        """See whether there is still somebody to wait for.

        Raises:
            GuestCrashed: the console tells of a problem from which the guest does not come back, or it reset itself.
            VmmCrashed: QEMU crashed.
            VmmDied: QEMU has ended otherwise.
        """
        fatal = None if self._panics else self._watch.fatal
        if fatal is None and not self._machine.alive:
            time.sleep(_ON_ITS_WAY_SECONDS)  # what it said last
            fatal = self._watch.fatal
            if fatal is None:
                raise self._machine.death("by the harness's work in its guest")
        if fatal is not None:
            raise GuestCrashed(f"the guest kernel: {fatal.kind}: {fatal.line}", evidence=self._whole(fatal).text)

    def _whole(self, fatal: Problem) -> Problem:
        """The problem with all that the kernel says of it, where that does not take too long."""
        end = time.monotonic() + _REPORT_SECONDS
        seen = ""
        while fatal.text != seen and time.monotonic() < end:
            seen = fatal.text
            time.sleep(_ON_ITS_WAY_SECONDS)
            fatal = self._watch.fatal or fatal
        return fatal

    def wait_ready(self, deadline_seconds: float) -> None:
        """Wait until init says that SSH answers.

        Raises:
            GuestUnreachable: it does not in time; the console's tail is the evidence.
            GuestCrashed, VmmCrashed, VmmDied: as `check`.
        """
        end = time.monotonic() + deadline_seconds
        while not self._ready.wait(_POLL_SECONDS):
            self.check()
            if time.monotonic() > end:
                said = f" Its init says: {'; '.join(self._complaints)}." if self._complaints else ""
                late = GuestUnreachable(
                    f"the guest's init did not come up within {deadline_seconds:g} s.{said}",
                    hint="the console's last lines show how far it got; `viommu boot --console` shows all of them",
                    evidence=self._machine.console.tail(),
                )
                raise self._machine.blame(late)

    @contextmanager
    def successor(self, deadline_seconds: float, *, panics: bool = False) -> Iterator[None]:
        """The block ends the kernel that runs; then wait until the next one's init says that SSH answers.

        From there on SSH and agent are the next one's. Errors as of `wait_ready`.

        Args:
            deadline_seconds: until it is up.
            panics: whether the one that runs ends by a panic, as it is to: that is no problem then.
        """
        self._ready.clear()
        self._successor_due, self._panics = True, panics
        try:
            yield
        except BaseException:
            self._successor_due = self._panics = False
            raise
        self._stack.close()
        for made in ("ssh", "agent"):
            self.__dict__.pop(made, None)
        self.wait_ready(deadline_seconds)

    @cached_property
    def ssh(self) -> SshSession:
        """The SSH connection, made when it is first used."""
        return self.connect()

    def connect(self, deadline_seconds: float = 20.0) -> SshSession:
        """A new SSH connection; it ends with the guest's others.

        Raises:
            GuestUnreachable: the guest does not answer, or not as itself; the console's tail is in the evidence.
            GuestCrashed, VmmCrashed, VmmDied: as `check`.
        """
        try:
            session = SshSession(self._machine.ssh_port, self.login, self.check, deadline_seconds, self._machine.blame)
            return self._stack.enter_context(session)
        except GuestUnreachable as error:
            said = "; ".join(self._complaints)
            error.evidence = "\n".join(filter(None, (error.evidence, said, self._machine.console.tail())))
            raise

    @cached_property
    def agent(self) -> Agent:
        """The agent, started when it is first used."""
        return Agent(self._machine.agent_port, self.check)

    def run(self, command: str, *, deadline_seconds: float = 20.0) -> Completed:
        """Run a shell command over SSH."""
        return self.ssh.run(command, deadline_seconds=deadline_seconds)

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()
