from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmm_rig import stand_in

from harness.errors import GuestUnreachable, VmmDied
from harness.vmm.qemu.console import SerialConsole
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.rundir import RunDirectory

Rig = tuple[SerialConsole, socket.socket, QemuProcess]


@pytest.fixture
def rig(parent: Path) -> Iterator[Rig]:
    here, there = socket.socketpair()
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process:
        console = SerialConsole(here, process, parent / "console.log")
        yield console, there, process
        there.close()
        console.close()


def test_lines_come_out_without_their_line_ends(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"one\r\ntwo\r\n")
    console.wait_for("two", deadline=5)
    assert console.lines_since() == ("one", "two")


def test_a_listener_hears_every_line_also_those_before_it_came(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"early\n")
    console.wait_for("early", deadline=5)
    heard: list[str] = []
    console.listen(heard.append)
    guest.sendall(b"late\n")
    console.wait_for("late", deadline=5)
    assert heard == ["early", "late"]


def test_what_the_machine_that_it_goes_on_from_had_said_comes_first(parent: Path) -> None:
    here, there = socket.socketpair()
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process, there:
        console = SerialConsole(here, process, parent / "console.log", b"booted\r\nhalf a ")
        assert console.lines_since() == ("booted",)
        there.sendall(b"line\n")
        console.wait_for("half a line", deadline=5)
        heard: list[str] = []
        console.listen(heard.append)
        console.close()
    assert heard == ["booted", "half a line"]
    assert (parent / "console.log").read_bytes() == b"booted\r\nhalf a line\n"


def test_bytes_that_are_not_text_are_replaced_and_kept_in_the_file(rig: Rig, parent: Path) -> None:
    console, guest, _ = rig
    guest.sendall(b"a\xff\xfeb\nend\n")
    console.wait_for("end", deadline=5)
    assert console.lines_since()[0] == "a��b"
    assert (parent / "console.log").read_bytes() == b"a\xff\xfeb\nend\n"


def test_a_line_that_never_ends_is_cut(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"x" * 10_000 + b"\nend\n")
    console.wait_for("end", deadline=5)
    assert [len(line) for line in console.lines_since()] == [4096, 4096, 10_000 - 2 * 4096, 3]


def test_a_line_of_exactly_the_limit_is_one_line(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"x" * 4096 + b"\nend\n")
    console.wait_for("end", deadline=5)
    assert [len(line) for line in console.lines_since()] == [4096, 3]


def test_the_unfinished_last_line_is_part_of_the_text(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"done\nlogin: ")
    end = time.monotonic() + 5
    while console.text != "done\nlogin: " and time.monotonic() < end:
        time.sleep(0.01)
    assert console.text == "done\nlogin: "


def test_a_line_that_does_not_come_is_unreachable_with_the_tail_as_evidence(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"Kernel panic\n")
    console.wait_for("panic", deadline=5)
    with pytest.raises(GuestUnreachable, match="did not say 'login:'") as caught:
        console.wait_for("login:", deadline=0.2)
    assert "Kernel panic" in caught.value.evidence


def test_a_line_before_the_mark_does_not_count(rig: Rig) -> None:
    console, guest, _ = rig
    guest.sendall(b"ready\n")
    console.wait_for("ready", deadline=5)
    with pytest.raises(GuestUnreachable):
        console.wait_for("ready", deadline=0.2, since=console.line_count)


def test_what_a_dying_guest_said_last_is_there(rig: Rig) -> None:
    console, guest, process = rig
    process.kill()
    guest.sendall(b"last words\nno line end")
    guest.close()
    with pytest.raises(VmmDied):
        console.wait_for("never", deadline=5)
    assert console.lines_since() == ("last words", "no line end")


def test_a_full_disk_costs_the_file_and_not_the_console(parent: Path) -> None:
    here, guest = socket.socketpair()
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process, guest:
        console = SerialConsole(here, process, Path("/dev/full"))
        guest.sendall(b"one\ntwo\n")
        assert console.wait_for("two", deadline=5) == "two"
        console.close()


def test_what_is_typed_reaches_the_guest(rig: Rig) -> None:
    console, guest, _ = rig
    console.write(b"root\n")
    assert guest.recv(100) == b"root\n"


def test_a_talkative_guest_loses_its_oldest_lines_and_keeps_their_numbers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.vmm.qemu.console._KEPT_CHARACTERS", 11 * (9 + 64))
    console, guest, _ = rig
    guest.sendall(b"".join(b"line %04d\n" % n for n in range(50)))
    console.wait_for("line 0049", deadline=5)
    assert console.line_count == 50
    assert console.lines_since() == tuple(f"line {n:04d}" for n in range(39, 50))
    assert console.lines_since(48) == ("line 0048", "line 0049")
