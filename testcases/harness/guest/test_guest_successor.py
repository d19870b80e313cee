"""A kernel that takes the place of another in a running machine: what the harness waits for, and lets go of."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import GuestCrashed, GuestUnreachable
from harness.guest.guest import READY, Guest
from harness.images.keys import Keys

_PANIC = "[    9.1] Kernel panic - not syncing: sysrq triggered crash"
_WARN = "[    5.1] WARNING: CPU: 0 PID: 1 at kernel/irq/manage.c:1"
_KERNEL = "[    0.000000] Linux version 7.2.13"


class _Console:
    """A console that says what a test has it say."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda line: None

    def listen(self, listener: Callable[[str], None]) -> None:
        self.say = listener

    def tail(self) -> str:
        return ""


@pytest.fixture
def console() -> _Console:
    return _Console()


@pytest.fixture
def guest(console: _Console) -> Guest:
    """A guest that is up."""
    machine: Any = SimpleNamespace(console=console, alive=True, blame=lambda error: error)
    guest = Guest(machine, Keys.generate().login)
    console.say(_KERNEL)
    console.say(READY)
    guest.wait_ready(0)
    return guest


def test_that_the_first_kernel_is_up_does_not_say_that_the_next_one_is(guest: Guest) -> None:
    with pytest.raises(GuestUnreachable, match="did not come up"), guest.successor(0.05):
        pass


def test_a_successor_is_there_from_its_first_words_on(console: _Console, guest: Guest) -> None:
    assert guest.since == 0
    begin = time.time()
    with guest.successor(0.05):
        console.say(_KERNEL)
        told = time.time()
        console.say(READY)
    assert begin <= guest.since <= told


def test_a_panic_that_is_to_be_is_no_problem_and_one_of_the_successor_is(console: _Console, guest: Guest) -> None:
    console.say(_WARN)
    with guest.successor(0.05, panics=True):
        console.say(_PANIC)
        guest.check()
        console.say(_KERNEL)
        console.say(READY)
    assert [problem.line for problem in guest.problems] == [_WARN]
    console.say(_PANIC)
    with pytest.raises(GuestCrashed, match="panic"):
        guest.check()


def test_a_successor_that_was_not_even_started_leaves_the_guest_watched(console: _Console, guest: Guest) -> None:
    with pytest.raises(KeyError), guest.successor(0.05, panics=True):
        raise KeyError
    console.say(_PANIC)
    with pytest.raises(GuestCrashed, match="panic"):
        guest.check()


def test_ssh_and_agent_of_the_kernel_before_are_let_go_of(console: _Console, guest: Guest) -> None:
    guest.__dict__.update(ssh="of the first", agent="of the first")
    with guest.successor(0.05):
        assert guest.__dict__["ssh"] == "of the first"
        console.say(READY)
    assert not {"ssh", "agent"} & guest.__dict__.keys()
