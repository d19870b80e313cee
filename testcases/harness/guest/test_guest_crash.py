"""A guest that crashes is told of with all that its kernel says of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import GuestCrashed
from harness.guest.guest import Guest
from harness.images.keys import Keys

_OOPS = "[    1.2] BUG: kernel NULL pointer dereference, address: 000000000000001a"
_WHERE = "[    1.2] RIP: 0010:amd_iommu_probe_device+0x58/0x310"


class _Console:
    """A console that says what a test has it say."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda line: None

    def listen(self, listener: Callable[[str], None]) -> None:
        self.say = listener


@pytest.fixture
def console() -> _Console:
    return _Console()


@pytest.fixture
def guest(console: _Console) -> Guest:
    machine: Any = SimpleNamespace(console=console, alive=True)
    return Guest(machine, Keys.generate().login)


def test_a_guest_that_says_nothing_of_the_kind_is_waited_for(console: _Console, guest: Guest) -> None:
    console.say("[    1.2] pci 0000:00:1f.3: Adding to iommu group 8")
    guest.check()


def test_what_comes_after_the_line_that_tells_of_a_crash_is_its_evidence(console: _Console, guest: Guest) -> None:
    console.say(_OOPS)
    rest = threading.Timer(0.05, console.say, (_WHERE,))
    rest.start()
    with pytest.raises(GuestCrashed, match="oops") as raised:
        guest.check()
    rest.join()
    assert raised.value.evidence.splitlines() == [_OOPS, _WHERE]


def test_a_guest_that_never_stops_talking_is_not_waited_for(console: _Console, guest: Guest) -> None:
    console.say(_OOPS)
    done = threading.Event()

    def talk() -> None:
        while not done.wait(0.15):
            console.say("[    1.2] more")

    talking = threading.Thread(target=talk)
    talking.start()
    began = time.monotonic()
    with pytest.raises(GuestCrashed):
        guest.check()
    done.set()
    talking.join()
    assert time.monotonic() - began < 10
