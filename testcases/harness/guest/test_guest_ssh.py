"""SSH to a guest, against a server in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import paramiko
import pytest
from guest_ssh_server import Command, LocalServer

from harness.errors import GuestCrashed, GuestUnreachable
from harness.guest import ssh
from harness.guest.ssh import SshSession
from harness.images.keys import Keys

KEYS = Keys.generate()


def fine() -> None:
    """The machine is well."""


@contextmanager
def session(commands: dict[str, Command], deadline: float = 10.0) -> Iterator[SshSession]:
    with LocalServer(KEYS, commands) as server, SshSession(server.port, KEYS.login, fine, deadline) as opened:
        yield opened


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def says(out: bytes, err: bytes = b"", status: int = 0) -> Command:
    def action(channel: paramiko.Channel) -> None:
        channel.sendall(out)
        channel.sendall_stderr(err)
        channel.send_exit_status(status)
        channel.close()

    return action


def echo(channel: paramiko.Channel) -> None:
    while data := channel.recv(4096):
        channel.sendall(data)
    channel.send_exit_status(7)
    channel.close()


def never(channel: paramiko.Channel) -> None:
    channel.sendall(b"started\n")
    while channel.recv(1):
        pass
    threading.Event().wait(10)


def test_command_gives_status_and_both_outputs() -> None:
    with session({"lspci -n": says(b"00:00.0\n", b"oh\xff\n", 3)}) as guest:
        done = guest.run(["lspci", "-n"])
    assert (done.command, done.status, done.stdout, done.stderr) == ("lspci -n", 3, "00:00.0\n", "oh\ufffd\n")


def test_command_sees_the_end_of_its_input() -> None:
    with session({"cat": echo}) as guest:
        assert guest.run("cat").status == 7


def test_one_connection_runs_many_commands() -> None:
    with session({str(n): says(b"%d" % n) for n in range(5)}) as guest:
        assert [guest.run(str(n)).stdout for n in range(5)] == list("01234")


def test_large_output_arrives_whole() -> None:
    with session({"dump": says(b"x" * (1 << 20), b"y" * 3000)}) as guest:
        done = guest.run("dump")
    assert (len(done.stdout), len(done.stderr)) == (1 << 20, 3000)


def test_command_that_gives_no_status_has_minus_one() -> None:
    with session({"x": lambda channel: channel.close()}) as guest:
        assert guest.run("x").status == -1


def test_another_host_key_is_refused_before_anything_is_sent() -> None:
    other = Keys(host=Keys.generate().host, client=KEYS.client)
    with LocalServer(other) as server:
        with pytest.raises(GuestUnreachable, match="host key that is not this guest's"), within(5):
            SshSession(server.port, KEYS.login, fine)
        assert server.asked == []


def test_client_key_that_the_guest_does_not_know_is_refused() -> None:
    other = Keys(host=KEYS.host, client=Keys.generate().client)
    with LocalServer(other) as server:
        with pytest.raises(GuestUnreachable, match="refused"), within(5):
            SshSession(server.port, KEYS.login, fine)
        assert server.asked[-1] == "root"


def test_output_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(channel: paramiko.Channel) -> None:
        while True:
            channel.sendall(b"x" * 32768)

    monkeypatch.setattr(ssh, "_MAX_OUTPUT", 1 << 18)
    with session({"yes": flood}) as guest, within(5), pytest.raises(GuestUnreachable, match="more than 262144 bytes"):
        guest.run("yes")


def test_error_output_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(channel: paramiko.Channel) -> None:
        while True:
            channel.sendall_stderr(b"x" * 32768)

    monkeypatch.setattr(ssh, "_MAX_OUTPUT", 1 << 18)
    with session({"yes": flood}) as guest, within(5), pytest.raises(GuestUnreachable, match="more than 262144 bytes"):
        guest.run("yes")


def test_command_that_never_ends_is_given_up_at_its_deadline_with_its_output() -> None:
    with session({"sleep": never}) as guest, within(3), pytest.raises(GuestUnreachable) as caught:
        guest.run("sleep", deadline_seconds=0.3)
    assert "did not end in 0.3 s" in caught.value.message
    assert caught.value.evidence == "started\n"


def test_request_that_is_never_answered_is_given_up_at_its_deadline() -> None:
    stuck = threading.Event()

    class Deaf(dict[str, Command]):
        def __getitem__(self, key: str) -> Command:
            stuck.wait(10)
            raise OSError

    with session(Deaf()) as guest, within(5):
        with pytest.raises(GuestUnreachable, match="opened no SSH channel"):
            guest.run("x", deadline_seconds=0.3)
        stuck.set()


def test_wait_ends_at_once_when_the_guest_has_crashed() -> None:
    crashed = threading.Event()

    def check() -> None:
        if crashed.is_set():
            raise GuestCrashed("panic")

    with LocalServer(KEYS, {"sleep": never}) as server, SshSession(server.port, KEYS.login, check) as guest:
        threading.Timer(0.2, crashed.set).start()
        with within(3), pytest.raises(GuestCrashed):
            guest.run("sleep", deadline_seconds=30)


def test_connection_dropped_in_mid_command_is_no_result() -> None:
    with LocalServer(KEYS) as server:

        def drop(channel: paramiko.Channel) -> None:
            channel.sendall(b"half\nan an")
            time.sleep(0.2)
            assert server.transport is not None
            server.transport.close()

        server.commands["drop"] = drop
        unreachable = pytest.raises(GuestUnreachable, match="ended before it did")
        with SshSession(server.port, KEYS.login, fine) as guest, within(3), unreachable:
            guest.run("drop", deadline_seconds=30)


def test_command_on_a_closed_connection_is_unreachable() -> None:
    with session({"x": says(b"")}) as guest:
        guest.close()
        with pytest.raises(GuestUnreachable):
            guest.run("x")


def test_port_that_nobody_listens_on_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with within(3), pytest.raises(GuestUnreachable, match="nothing answers"):
        SshSession(port, KEYS.login, fine)


def test_crash_is_told_rather_than_an_unreachable_port() -> None:
    def check() -> None:
        raise GuestCrashed("panic")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(GuestCrashed):
        SshSession(port, KEYS.login, check)


def test_banner_that_never_comes_is_given_up_at_the_deadline() -> None:
    unreachable = pytest.raises(GuestUnreachable, match=r"handshake in 0\.3 s")
    with socket.create_server(("127.0.0.1", 0)) as sock, within(3), unreachable:
        SshSession(sock.getsockname()[1], KEYS.login, fine, 0.3)


def test_crash_before_the_banner_ends_the_wait_at_once() -> None:
    def check() -> None:
        raise GuestCrashed("panic")

    with socket.create_server(("127.0.0.1", 0)) as sock, within(3), pytest.raises(GuestCrashed):
        SshSession(sock.getsockname()[1], KEYS.login, check, 30)


@pytest.mark.parametrize("first", [b"", b"SSH-2.0-dropbear\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100])
def test_server_that_hangs_up_in_the_handshake_is_unreachable(first: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.sendall(first)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(4096)
        sock.close()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with within(8), pytest.raises(GuestUnreachable, match="SSH to "):
            SshSession(listener.getsockname()[1], KEYS.login, fine, 10)
