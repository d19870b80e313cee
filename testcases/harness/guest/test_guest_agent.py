"""The agent of guest_images/agent, run on the host behind the host's side of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import AgentError, GuestUnreachable
from harness.guest.agent import Agent
from harness.guest.answers import Pages
from harness.resources import GUEST_IMAGES


class Process:
    """The agent as a child of this process, with the two ends of its port."""

    def __init__(self) -> None:
        argv = [sys.executable, "-S", "-E", "-s", "-B", str(GUEST_IMAGES / "agent")]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")

    def send(self, data: bytes, deadline_seconds: float, check: Callable[[], None]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read_line(self, deadline_seconds: float, check: Callable[[], None]) -> bytes:
        assert self._process.stdout is not None
        killer = threading.Timer(deadline_seconds, self._process.kill)
        killer.start()
        try:
            return self._process.stdout.readline().rstrip(b"\n")
        finally:
            killer.cancel()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Script:
    """A port whose answers the test makes of the requests."""

    def __init__(self, answer: Callable[[dict[str, object]], bytes]) -> None:
        self._answer = answer
        self.requests: list[dict[str, object]] = []
        self.deadlines: list[float] = []

    def send(self, data: bytes, deadline_seconds: float, check: Callable[[], None]) -> None:
        assert data.endswith(b"\n")
        assert data.count(b"\n") == 1
        if data != b"\n":  # what the agent is started at
            self.requests.append(json.loads(data))

    def read_line(self, deadline_seconds: float, check: Callable[[], None]) -> bytes:
        self.deadlines.append(deadline_seconds)
        return self._answer(self.requests[-1])


def agent_of(port: Process | Script) -> Agent:
    return Agent(port, lambda: None)


def answering(ok: object) -> Agent:
    return agent_of(Script(lambda request: json.dumps({"id": request["id"], "ok": ok}).encode()))


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    process = Process()
    yield agent_of(process)
    process.close()


def test_agent_answers_a_ping(agent: Agent) -> None:
    agent.ping()


def test_agent_that_runs_already_takes_no_harm_from_being_started() -> None:
    process = Process()
    agent_of(process).ping()
    agent_of(process).ping()
    process.close()


def test_file_is_read_as_text(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one\ntwo \xff\n")
    assert agent.read_file(str(tmp_path / "f")) == "one\ntwo \ufffd\n"


def test_bytes_of_a_file_are_read_at_an_offset(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(256)))
    assert agent.read_bytes(str(tmp_path / "f"), 250, 4) == bytes(range(250, 254))


def test_text_is_written_in_one_write(agent: Agent, tmp_path: Path) -> None:
    agent.write_file(str(tmp_path / "f"), "vfio-pci\n")
    assert (tmp_path / "f").read_text() == "vfio-pci\n"


def test_file_that_is_not_there_is_an_error_with_operation_and_path(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"read_file.*absent.*FileNotFoundError"):
        agent.read_file(str(tmp_path / "absent"))
    agent.ping()


def test_path_that_is_there_is_waited_for_in_no_time(agent: Agent, tmp_path: Path) -> None:
    assert agent.wait_path(str(tmp_path), 5) < 1
    assert agent.wait_path(str(tmp_path / "gone"), 5, present=False) < 1


def test_path_that_does_not_come_is_an_error(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="TimeoutError"):
        agent.wait_path(str(tmp_path / "absent"), 0.05)


def test_module_that_is_not_there_is_an_error(agent: Agent) -> None:
    with pytest.raises(AgentError, match="modprobe"):
        agent.modprobe("viommu_no_such_module")


def test_pages_hold_their_pattern_to_the_end(agent: Agent) -> None:
    pages = agent.page_allocate(2, b"\xa5\x5a\x01")
    assert len(pages.frames) == 2
    assert agent.page_read(pages, 0, 8192) == (b"\xa5\x5a\x01" * 3000)[:8192]


def test_pages_change_where_they_are_written_alone(agent: Agent) -> None:
    pages, other = agent.page_allocate(1, b"\x11"), agent.page_allocate(1, b"\x22")
    agent.page_write(pages, 100, b"abc")
    assert agent.page_read(pages, 99, 5) == b"\x11abc\x11"
    assert agent.page_read(other, 0, 4096) == b"\x22" * 4096
    assert pages.handle != other.handle


def test_frames_are_whole_pages_and_stay(agent: Agent) -> None:
    pages = agent.page_allocate(3, b"\x11")
    assert all(frame % 4096 == 0 for frame in pages.frames)
    assert agent.page_frames(pages) == pages.frames


def test_handle_that_was_never_given_is_an_error(agent: Agent) -> None:
    with pytest.raises(AgentError, match="KeyError"):
        agent.page_read(Pages(999, ()), 0, 1)


def test_child_does_what_its_parent_does_and_shares_its_pages(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("for the child")
    pages, child = agent.page_allocate(2, b"\x11"), agent.child()
    assert child.read_file(str(tmp_path / "f")) == "for the child"
    shared = child.adopt(pages)
    child.page_write(shared, 5000, b"abc")
    child.kill()
    assert agent.page_read(pages, 4999, 5) == b"\x11abc\x11"


def test_error_of_a_child_comes_with_its_kind(agent: Agent) -> None:
    child = agent.child()
    with pytest.raises(AgentError, match=r"read_file.*absent.*FileNotFoundError"):
        child.read_file("/absent")
    child.kill()


def test_child_that_hangs_does_not_take_its_parent_with_it(agent: Agent) -> None:
    child = agent.child()
    os.kill(child.pid, signal.SIGSTOP)
    asked = {"pid": child.pid, "op": "ping", "args": {}, "seconds": 0.1}
    with pytest.raises(AgentError, match=r"TimeoutError: ping: process \d+ gives no answer"):
        agent._call("child_call", asked, dict[str, object])
    agent.ping()
    child.kill()


def test_child_that_was_killed_cannot_be_asked(agent: Agent) -> None:
    child = agent.child()
    child.kill()
    assert not Path(f"/proc/{child.pid}").exists()
    with pytest.raises(AgentError, match="KeyError"):
        child.ping()


@pytest.mark.skipif(not Path("/sys/bus/pci/devices").is_dir(), reason="this host has no PCI bus")
def test_pci_functions_are_those_of_sysfs(agent: Agent) -> None:
    assert [function.address for function in agent.pci_functions()] == sorted(
        path.name for path in Path("/sys/bus/pci/devices").iterdir()
    )


def test_groups_are_those_of_sysfs(agent: Agent) -> None:
    base = Path("/sys/kernel/iommu_groups")
    numbers = sorted(int(path.name) for path in base.iterdir()) if base.is_dir() else []
    assert [group.number for group in agent.iommu_groups()] == numbers


def test_answer_to_a_request_that_was_never_made_is_an_error() -> None:
    with pytest.raises(AgentError, match="answered request 3 and not 1"):
        agent_of(Script(lambda request: b'{"id":3,"ok":{}}')).ping()


def test_late_answer_to_an_earlier_request_goes_by() -> None:
    answers = iter((b'{"id":1,"error":"no such file"}', b'{"id":1,"ok":"late"}', b'{"id":2,"ok":"mine"}'))
    agent = agent_of(Script(lambda request: next(answers)))
    with pytest.raises(AgentError, match="no such file"):
        agent.read_file("/x")
    assert agent.read_file("/x") == "mine"


def test_the_first_answer_may_take_as_long_as_the_agent_takes_to_start() -> None:
    port = Script(lambda request: json.dumps({"id": request["id"], "ok": {}}).encode())
    agent = agent_of(port)
    agent.ping()
    agent.ping()
    assert port.deadlines == [40.0, 10.0]


def test_error_of_the_guest_comes_with_its_kind() -> None:
    channel = Script(lambda request: b'{"id":1,"error":"no such device","kind":"OSError"}')
    with pytest.raises(AgentError, match=r"vfio_open.*0000:00:04.0.*OSError: no such device"):
        agent_of(channel).vfio_open("0000:00:04.0")


def test_request_names_operation_and_arguments() -> None:
    channel = Script(lambda request: b'{"id":1,"ok":4096}')
    assert agent_of(channel).vfio_unmap("0000:00:04.0", 0x1000, 4096) == 4096
    arguments = {"address": "0000:00:04.0", "iova": 0x1000, "size": 4096}
    assert channel.requests[-1] == {"id": 1, "op": "vfio_unmap", "args": arguments}


@pytest.mark.parametrize(
    "call",
    [
        lambda agent: agent.read_bytes("f", 0, 1),
        lambda agent: agent.page_read(Pages(1, ()), 0, 1),
        lambda agent: agent.net_receive("0000:00:04.0", 1)[0],
    ],
)
@pytest.mark.parametrize("ok", ["zz", "abc", ["x"]])
def test_bytes_that_are_no_hexadecimal_are_nonsense(call: Callable[[Agent], bytes], ok: object) -> None:
    with pytest.raises(AgentError, match="nonsense"):
        call(answering(ok))


@pytest.mark.parametrize(
    "ok", [None, 3, [3], [{"number": "x", "type": "DMA", "devices": []}], [{"number": 1, "devices": []}], {"a": 1}]
)
def test_groups_of_another_form_are_nonsense(ok: object) -> None:
    with pytest.raises(AgentError, match="nonsense"):
        answering(ok).iommu_groups()


@pytest.mark.parametrize(
    "line", [b"[" * 200_000, b'{"id":1,"ok":' + b"[" * 200_000, b"\xff", b'{"id":1,"ok":"\xff"}', b""]
)
def test_answer_that_is_no_json_is_nonsense(line: bytes) -> None:
    with pytest.raises(AgentError, match="nonsense") as caught:
        agent_of(Script(lambda request: line)).read_file("f")
    assert len(caught.value.evidence) < 2000


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=50).map(lambda tail: b'{"id":1,"ok":' + tail + b"}")))
def test_no_answer_raises_anything_but_an_agent_error(line: bytes) -> None:
    for call in (Agent.ping, Agent.iommu_groups, Agent.pci_functions, Agent.kernel_log):
        try:
            call(agent_of(Script(lambda request: line)))
        except AgentError:
            continue


def test_agent_that_has_ended_is_told() -> None:
    ended = b'{"id":0,"error":"exit status 137"}'
    with pytest.raises(AgentError, match="ping: the agent in the guest ended: exit status 137"):
        agent_of(Script(lambda request: ended)).ping()


def test_agent_that_does_not_answer_is_unreachable() -> None:
    def silent(request: dict[str, object]) -> bytes:
        raise GuestUnreachable("no answer")

    with pytest.raises(GuestUnreachable, match="ping: no answer"):
        agent_of(Script(silent)).ping()
