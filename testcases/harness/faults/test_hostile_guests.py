"""Whatever a guest sends: an error of the harness at most, bounded, escaped in reports, never a path on the host."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faults_rig import LONG, told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_strategies import texts
from rich.console import Console as Terminal

from harness.checks.inventory import check_functions, check_group_types, check_groups
from harness.checks.judge import Mismatch, judge
from harness.checks.work import check_driver
from harness.errors import AgentError, GuestError, GuestUnreachable
from harness.guest.agent import Agent
from harness.guest.answers import Pages
from harness.guest.faults import is_fault_line, parse_faults, parse_interrupt_faults
from harness.guest.lspci import parse_lspci
from harness.guest.problems import ProblemWatch
from harness.guest.ssh import SshSession
from harness.images.keys import Keys
from harness.live.machine import LiveMachine
from harness.model.topology import topology
from harness.report.console import print_run
from harness.report.html import to_html
from harness.report.junit import to_junit
from harness.report.notable import is_notable
from harness.report.record import Case, Evidence, Finding, Run
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.verdict import Verdict
from harness.vmm.qemu.console import SerialConsole
from harness.vmm.qemu.port import SerialPort

_MOST_SAID = 4096  # characters of an error, whatever it is that a guest has sent
_MOST_REPORTED = 2_000_000
_SPEC = Machine(iommu=Iommu(kind=IommuKind.VIRTIO), devices=(Device.parse("virtio-blk,iommu=on,id=disk"),))
_TOPOLOGY = topology(_SPEC)
_DISK = _TOPOLOGY.function("disk")
_MARK = "viommu-hostile"
_KEYS = Keys.generate()

# The machine is there for what a machine is asked when its guest is late; no example changes it.
fuzzed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

_names = st.one_of(
    texts,
    st.sampled_from([f"../../{_MARK}/passwd", f"/{_MARK}", f"$({_MARK})", f"`{_MARK}`", "0000:00:04.0", "a" * 100_000]),
)
_numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([-1, 0, 1, 2, 3, 4096, 10**400, 0.5, float("nan"), float("inf")])
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _names),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_names, inner, max_size=3)),
    max_leaves=8,
)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_groups = st.lists(
    st.fixed_dictionaries({"number": _numbers, "type": _names, "devices": st.lists(_names, max_size=4)}), max_size=4
)
_functions = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("address", "driver"), _names),
            **dict.fromkeys(("vendor", "device", "class_code"), _numbers),
            "group": st.one_of(st.none(), _numbers),
        }
    ),
    max_size=4,
)
_records = st.lists(st.tuples(_numbers, _numbers, _numbers, _names), max_size=4)
_pages = st.fixed_dictionaries({"handle": _numbers, "frames": st.lists(_numbers, max_size=3)})
_junk = st.one_of(
    st.fixed_dictionaries({"id": st.one_of(_numbers, _names), "error": _values, "kind": _values}).map(_json),
    st.fixed_dictionaries({"id": st.integers(0, 5), "ok": _values}).map(_json),
    _values.map(_json),
    st.binary(max_size=60),
    st.builds(
        lambda opened, depth: opened * depth, st.sampled_from([b"[", b'{"id":', b'{"ok":[']), st.integers(1, 999)
    ),
)

# What is asked of an agent, with what is then done with the answer; and answers that are almost as they should be.
_CALLS: dict[str, tuple[Callable[[Agent], object], st.SearchStrategy[object]]] = {
    "ping": (Agent.ping, _values),
    "groups": (lambda agent: _inspect(check_groups(_TOPOLOGY, agent.iommu_groups())), _groups),
    "types": (lambda agent: _inspect(check_group_types(_TOPOLOGY, agent.iommu_groups())), _groups),
    "driver": (lambda agent: _inspect(check_driver(_DISK, agent.pci_functions(), "virtio-pci")), _functions),
    "log": (lambda agent: parse_faults(record.text for record in agent.kernel_log()), _records),
    "address": (lambda agent: bytes.fromhex(agent.net_open("0000:00:04.0").replace(":", "")), _names),
    "frames": (lambda agent: agent.net_receive("0000:00:04.0", 1), st.lists(_names)),
    "pages": (lambda agent: _check_frames(agent.page_allocate(1, b"x")), _pages),
    "bytes": (lambda agent: agent.page_read(Pages(1, ()), 0, 1), _names),
    "seconds": (lambda agent: agent.wait_path("/", 1), _numbers),
}


@settings(fuzzed, max_examples=200)
@given(st.sampled_from(list(_CALLS)), st.data())
def test_no_answer_of_an_agent_is_more_than_an_error_of_the_guests(
    live: LiveMachine, call: str, data: st.DataObject
) -> None:
    use, almost = _CALLS[call]
    right = st.fixed_dictionaries({"id": st.just(2), "ok": almost}).map(_json)
    lines = data.draw(st.one_of(right.map(lambda line: [line]), st.lists(st.one_of(right, _junk), max_size=5)))
    sent = iter([b"\n".join([*lines, b"nonsense", b""])])
    with _agent(live) as (agent, guest), _sending(guest, sent.__next__), _no_path_of_the_guests():
        _bounded(lambda: use(agent))


def test_line_of_an_agent_that_never_ends_is_given_up(live: LiveMachine) -> None:
    with (
        _agent(live) as (agent, guest),
        _sending(guest, lambda: b"x" * 65536),
        told(GuestUnreachable, Verdict.FAIL, "ping: the guest sent a line of over"),
    ):
        agent.ping()


def test_agent_that_only_answers_what_is_long_past_is_late(live: LiveMachine) -> None:
    with (
        _agent(live) as (agent, guest),
        _sending(guest, lambda: b'{"id":1,"ok":{}}\n' * 4096),
        told(GuestUnreachable, Verdict.FAIL, "ping: the guest sent no answer within 0"),
    ):
        agent._call("ping", {}, dict[str, object], 0.5)


def test_error_as_long_as_a_line_may_be_is_shown_by_its_start(live: LiveMachine) -> None:
    answer = json.dumps({"id": 2, "kind": "OSError", "error": "x" * 1_000_000}).encode()
    with _agent(live) as (agent, guest), _sending(guest, iter([answer, b"\n"]).__next__):
        with told(AgentError, Verdict.FAIL, "OSError: xxx", "(1000009 characters)") as error:
            agent.write_file("/proc/x", "y" * 100_000)
        assert len(str(error.error)) < _MOST_SAID


_listed = st.one_of(
    texts,
    _names,
    st.builds(
        '{} "{}" "{}" "{}" {}'.format, st.sampled_from(["0000:00:04.0", "ffff:ff:1f.7", "00:99.9"]), *[_names] * 4
    ),
    st.just('0000:00:04.0 "0600" "8086" "29c0"'),
)


@fuzzed
@given(st.lists(_listed, max_size=5).map("\n".join))
def test_no_text_of_lspci_is_more_than_an_error_of_the_guests(text: str) -> None:
    with _no_path_of_the_guests():
        _bounded(lambda: _inspect(check_functions(_TOPOLOGY, parse_lspci(text))))


def _packet(kind: int, body: bytes) -> bytes:
    """As nobody has agreed on keys yet: RFC 4253, 6."""
    padding = 4 + -(10 + len(body)) % 8
    return (2 + len(body) + padding).to_bytes(4, "big") + bytes([padding, kind]) + body + bytes(padding)


def _key_exchange(lists: list[bytes]) -> bytes:
    """RFC 4253, 7.1."""
    return _packet(20, bytes(16) + b"".join(len(names).to_bytes(4, "big") + names for names in lists) + bytes(5))


_packets = st.one_of(
    st.builds(_key_exchange, st.lists(st.one_of(st.binary(max_size=20), st.just(b"curve25519-sha256")), max_size=10)),
    st.builds(_packet, st.one_of(st.sampled_from([1, 2, 4, 20, 21, 30, 31]), st.integers(0, 255)), st.binary()),
)
_banners = st.one_of(
    st.just(b"SSH-2.0-x\r\n"),
    st.sampled_from([b"SSH-1.0-x\r\n", b"x" * 100_000 + b"\r\n", b"\xff\r\n" * 200, b""]),
    st.binary(max_size=60),
)


@fuzzed
@given(_banners, st.lists(_packets, max_size=3).map(b"".join))
def test_nothing_that_answers_as_sshd_is_more_than_unreachable(banner: bytes, packets: bytes) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(banner + packets)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with pytest.raises(GuestUnreachable) as caught:
            SshSession(listener.getsockname()[1], _KEYS.login, lambda: None, 5.0)
        server.join(5)
    assert len(str(caught.value)) < _MOST_SAID


_said = st.one_of(
    texts.map(lambda text: text.encode(errors="surrogatepass")),
    st.binary(max_size=80),
    st.sampled_from(
        [
            b"\n[    1.0] Kernel panic - not syncing: \xff\x1b[2J\n",
            b"[    1.0] BUG: unable to handle page fault for address: " + b"f" * 10_000,
            b"DMAR: [DMA Write NO_PASID] Request device [ff:1f.7] fault addr 0x" + b"9" * 5000,
            b"virtio_iommu virtio0: page fault from EP " + b"9" * 5000 + b" at 0x1 []\n",
            b"INFO: task " + b"x" * 5000 + b":77 blocked for more than 1 seconds.\n",
            b"\r" * 5000,
            b"\0" * 5000,
        ]
    ),
)


@fuzzed
@given(st.lists(_said, max_size=8).map(b"".join))
def test_nothing_on_a_console_ends_its_reader_or_comes_raw_into_a_report(
    live: LiveMachine, temporary: Path, said: bytes
) -> None:
    here, there = socket.socketpair()
    watch = ProblemWatch()
    console = SerialConsole(here, live.vmm.process, temporary / "hostile.log")
    try:
        console.listen(watch.feed)
        console.listen(lambda line: _look(line))
        there.sendall(said + b"\nthe end\n")
        console.wait_for("the end", deadline=LONG)
        assert all(len(problem.text) < 50_000 for problem in watch.problems)
        message = "\n".join(problem.line for problem in watch.problems)
        _check_reports((), message=message, console=console.tail())
    finally:
        there.close()
        console.close()
        (temporary / "hostile.log").unlink()


def test_more_findings_than_anybody_reads_are_counted() -> None:
    with pytest.raises(Mismatch) as caught:
        judge(Finding(subject="s", expected="e", seen="x" * 10_000) for _ in range(100_000))
    assert caught.value.findings[-1].seen == "99800 findings more"
    _check_reports(caught.value.findings)


@contextmanager
def _agent(live: LiveMachine) -> Iterator[tuple[Agent, socket.socket]]:
    """The harness's side of an agent, and the guest's end of its port: the first answer, to a ping, is right."""
    here, guest = socket.socketpair()
    port = SerialPort(here, live.vmm.process)
    try:
        guest.sendall(b'{"id":1,"ok":{}}\n')
        agent = Agent(port, lambda: None)
        agent.ping()
        yield agent, guest
    finally:
        port.close()
        guest.close()


@contextmanager
def _sending(guest: socket.socket, block: Callable[[], bytes]) -> Iterator[None]:
    """Send blocks until there are no more, or nobody takes them; the other end must be closed in the block."""

    def send() -> None:
        try:
            while True:
                guest.sendall(block())
        except (OSError, StopIteration):
            return

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield
    guest.shutdown(socket.SHUT_RDWR)
    sender.join(LONG)


def _bounded(use: Callable[[], object]) -> None:
    """Use what a guest has sent; only errors of guests may come of it, and none without an end."""
    said = ""
    try:
        use()
    except GuestError as error:
        said = str(error)
    assert len(said) < _MOST_SAID


def _inspect(findings: Iterator[Finding]) -> None:
    """Judge what a guest shows, and report it."""
    try:
        judge(findings)
    except Mismatch as mismatch:
        _check_reports(mismatch.findings)


def _check_frames(pages: Pages) -> None:
    """QEMU ends where it is asked for an address that is none."""
    assert all(0 <= frame < 1 << 52 for frame in pages.frames)


def _look(line: str) -> None:
    parse_faults([line])
    parse_interrupt_faults([line])
    is_fault_line(line)
    is_notable(line)


def _check_reports(findings: tuple[Finding, ...], message: str = "", console: str = "") -> None:
    """Nothing in any report is acted upon by what shows it, and none is without an end."""
    case = Case(
        id="test_x.py::test_y[virtio]",
        claim="it works",
        verdict=Verdict.FAIL,
        seconds=1.0,
        message=message,
        findings=findings,
        machines=(Evidence(spec=_SPEC.to_json(), command="qemu", console=console),),
    )
    run = Run(harness_version="0", started="", seconds=1.0, cases=(case,))
    page, junit, terminal = to_html(run), to_junit(run), io.StringIO()
    print_run(run, Terminal(file=terminal, width=100))
    ET.fromstring(junit)
    assert not any(tag in page.lower() for tag in ("<script", "<img", "<iframe", "<svg", "<link", "<!--"))
    assert "\x1b" not in page + junit.decode() + terminal.getvalue()
    assert max(len(page), len(junit), len(terminal.getvalue())) < _MOST_REPORTED


_watched: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is not None and event.partition(".")[0] in ("open", "os", "shutil", "subprocess", "exec", "compile"):
        _watched.append(f"{event} {arguments!r:.500}")


sys.addaudithook(_note)


@contextmanager
def _no_path_of_the_guests() -> Iterator[None]:
    """Fail where a file is opened, or a program or code run, that has a name which the guest has sent."""
    global _watched
    events: list[str] = []
    _watched = events
    try:
        yield
    finally:
        _watched = None
    assert [event for event in events if _MARK in event] == []
