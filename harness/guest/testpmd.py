"""DPDK's testpmd in the guest: a user-space driver at work on one device, which says what it has counted.

Source: DPDK, app/test-pmd, and its documentation, testpmd_app_ug. A guest needs the image `dpdk` for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from harness.errors import AgentError, GuestError
from harness.guest.agent import Agent
from harness.guest.shortened import shortened

__all__ = ["IovaMode", "PortStats", "Testpmd", "parse_stats"]

_PROMPT = "testpmd> "
_HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
_HUGE_PAGES_COUNT = 16
_BUFFERS = 2048  # testpmd takes no fewer than 1025
_START_SECONDS = 60.0
_SECONDS = 20.0
_MODE = re.compile(r"^EAL: Selected IOVA mode '(\w+)'", re.MULTILINE)
_COUNTERS = {
    "received": "RX-packets",
    "received_bytes": "RX-bytes",
    "missed": "RX-missed",
    "receive_errors": "RX-errors",
    "no_buffer": "RX-nombuf",
    "sent": "TX-packets",
    "sent_bytes": "TX-bytes",
    "send_errors": "TX-errors",
}


class IovaMode(StrEnum):
    """What DPDK gives to a device as addresses (DPDK, lib/eal/include/rte_eal.h, enum rte_iova_mode)."""

    VA = "VA"
    """Virtual addresses of its own process."""
    PA = "PA"
    """Physical addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortStats:
    """What a port has counted since testpmd was started: frames, bytes, and frames that were lost."""

    received: int
    received_bytes: int
    missed: int
    receive_errors: int
    no_buffer: int
    sent: int
    sent_bytes: int
    send_errors: int


class Testpmd:
    """testpmd on one device, sending back each frame with its two addresses changed about (`macswap`).

    It runs on one processor with whoever else does, and uses memory of huge pages in its own hands alone.

    Args:
        agent: of the guest.
        address: of the device, which is bound to a driver that DPDK can use.

    Attributes:
        pid: its process id in the guest.
        iova_mode: what it has decided to give to the device.

    Raises:
        AgentError: it is not in the guest's image, does not take the device, or does not come up in time.
        GuestError: the guest has not the memory for it.
    """

    __test__ = False  # that is pytest's idea of a class whose name begins so

    def __init__(self, agent: Agent, address: str) -> None:
        self._agent = agent
        agent.write_file(_HUGE_PAGES, str(_HUGE_PAGES_COUNT))
        had = agent.read_file(_HUGE_PAGES).strip()
        if had != str(_HUGE_PAGES_COUNT):
            raise GuestError(f"the guest found {shortened(had)} of {_HUGE_PAGES_COUNT} huge pages for testpmd")
        words = ["dpdk-testpmd", "--lcores=0@0,1@0", "--in-memory", "--no-telemetry", f"--allow={address}", "--"]
        words += ["--interactive", f"--total-num-mbufs={_BUFFERS}", "--forward-mode=macswap"]
        started = agent.program_start(words, _PROMPT, _START_SECONDS)
        self.pid = started.pid
        found = _MODE.search(started.said.replace("\r", ""))
        if found is None or found[1] not in tuple(IovaMode):
            raise AgentError("testpmd does not say which IOVA mode it has selected", evidence=started.said)
        self.iova_mode = IovaMode(found[1])

    def forward(self) -> None:
        """Begin to send frames back."""
        self.tell("start")

    def halt(self) -> None:
        """Leave frames where the device puts them."""
        self.tell("stop")

    def stats(self) -> PortStats:
        """What it has counted.

        Raises:
            AgentError: it says something else.
        """
        return parse_stats(self.tell("show port stats 0"))

    def tell(self, line: str) -> str:
        """Give it a command; its answer."""
        return self._agent.program_tell(self.pid, line, _SECONDS)

    def quit(self) -> None:
        """Have it give its device back and end.

        Raises:
            AgentError: it does not, or fails.
        """
        end = self._agent.program_end(self.pid, "quit", _SECONDS)
        if end.status:
            raise AgentError(f"testpmd ended with exit status {end.status}", evidence=end.said)

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self._agent.program_kill(self.pid)


def parse_stats(text: str) -> PortStats:
    """Read the answer to `show port stats` (DPDK, app/test-pmd/config.c, nic_stats_display).

    Raises:
        AgentError: a counter is missing.
    """
    values = {}
    for name, word in _COUNTERS.items():
        found = re.search(rf"\b{word}:\s*(\d{{1,20}})\b", text)
        if found is None:
            raise AgentError(f"testpmd's counters have no {word}", evidence=text)
        values[name] = int(found[1])
    return PortStats(**values)
