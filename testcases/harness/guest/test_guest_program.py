"""Programs that the agent speaks with, run on the host."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_guest_agent import Process, agent_of

from harness.errors import AgentError
from harness.guest.agent import Agent

# Says a prompt, and to each line what Python makes of it.
_TALKER = """
import sys
while True:
    print("ready> ", end="", flush=True)
    exec(sys.stdin.readline())
"""
_PROMPT = "ready> "


@pytest.fixture
def agent() -> Iterator[Agent]:
    process = Process()
    yield agent_of(process)
    process.close()


def start(agent: Agent, program: str = _TALKER) -> int:
    return agent.program_start([sys.executable, "-c", program], _PROMPT, 20).pid


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_line_is_answered_up_to_the_next_prompt(agent: Agent) -> None:
    pid = start(agent)
    assert agent.program_tell(pid, "print(6 * 7)", 20) == "42\r\n"
    assert agent.program_tell(pid, "print('a' * 5000)", 20) == "a" * 5000 + "\r\n"
    agent.program_kill(pid)


def test_it_has_a_terminal(agent: Agent) -> None:
    pid = start(agent)
    assert agent.program_tell(pid, "print(*map(__import__('os').isatty, range(3)))", 20) == "True True True\r\n"
    agent.program_kill(pid)


def test_the_line_that_ends_it_gives_its_status_and_last_words(agent: Agent) -> None:
    pid = start(agent)
    end = agent.program_end(pid, "print('bye'); sys.exit(3)", 20)
    assert (end.status, end.said) == (3, "bye\r\n")
    assert is_gone(pid)


def test_one_that_ends_too_soon_is_told_with_what_it_said(agent: Agent) -> None:
    with pytest.raises(AgentError, match="it ended: no such luck"):
        start(agent, "print('no such luck')")
    pid = start(agent)
    with pytest.raises(AgentError, match="it ended: last words"):
        agent.program_tell(pid, "print('last words'); sys.exit()", 20)
    agent.program_kill(pid)


def test_one_that_does_not_come_to_a_prompt_is_killed(agent: Agent) -> None:
    with pytest.raises(AgentError, match=r"it said nothing more in time: \d+"):
        agent.program_start([sys.executable, "-c", "import os, time; print(os.getpid()); time.sleep(60)"], _PROMPT, 2)
    assert agent.program_tell(start(agent), "print('another')", 20) == "another\r\n"


@pytest.mark.parametrize("hang", ["import time; time.sleep(60)", "while True: pass"])
def test_one_that_hangs_is_late_and_killed_at_its_end(agent: Agent, hang: str) -> None:
    pid = start(agent)
    before = time.monotonic()
    with pytest.raises(AgentError, match="TimeoutError"):
        agent.program_tell(pid, hang, 0.5)
    with pytest.raises(AgentError, match="TimeoutError"):
        agent.program_end(pid, "sys.exit()", 0.5)
    assert time.monotonic() - before < 5
    assert is_gone(pid)


def test_its_children_end_with_it(agent: Agent) -> None:
    pid = start(agent)
    child = int(agent.program_tell(pid, "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)", 20))
    agent.program_kill(pid)
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_that_says_too_much_is_told(agent: Agent) -> None:
    pid = start(agent)
    with pytest.raises(AgentError, match="more than 65536 bytes and no prompt"):
        agent.program_tell(pid, "print('x' * 100_000)", 20)
    agent.program_kill(pid)


def test_a_program_that_is_not_there_is_told_and_nothing_is_left(agent: Agent) -> None:
    with pytest.raises(AgentError, match="FileNotFoundError"):
        agent.program_start(["/no/such/program"], _PROMPT, 5)
    with pytest.raises(AgentError, match="KeyError"):
        agent.program_kill(os.getpid())
