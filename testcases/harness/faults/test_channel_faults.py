"""The harness's channels into QEMU: closed under a QEMU that lives on, or flooded."""

from __future__ import annotations

import os
import socket

import pytest
from faults_rig import LONG, told

from harness.errors import VmmError
from harness.live.machine import LiveMachine
from harness.verdict import Verdict
from harness.vmm.qemu.qmp import Qmp

_STORM = 1000


@pytest.mark.parametrize("wait", ["command", "event"])
def test_closed_qmp_is_told_at_once(live: LiveMachine, wait: str) -> None:
    _hang_up(live.vmm.qmp)
    with told(VmmError, Verdict.MISS, "QEMU is running, and has closed the connection needed for"):
        if wait == "command":
            live.vmm.qmp.execute("query-status", deadline=LONG)
        else:
            live.vmm.qmp.wait_event("NEVER", deadline=LONG)


def test_guest_goes_on_without_qmp_and_is_not_blamed(live: LiveMachine) -> None:
    _hang_up(live.vmm.qmp)
    assert live.guest.run("echo up").stdout == "up\n"
    with told(VmmError, Verdict.MISS, "QMP query-status"):
        live.guest.run("sleep 100", deadline_seconds=1)


def test_closed_qtest_is_told_at_once_and_the_guest_goes_on(live: LiveMachine) -> None:
    _shut(live.vmm.qtest._socket)
    with told(VmmError, Verdict.MISS, "QEMU is running, and has closed the connection needed for qtest"):
        live.vmm.qtest.read(0, 16, deadline=LONG)
    assert live.guest.run("echo up").stdout == "up\n"


def test_closed_port_is_told_at_once(live: LiveMachine) -> None:
    _shut(live.vmm.agent_port._socket)
    with told(VmmError, Verdict.MISS, "QEMU is running, and has closed the connection needed for a port"):
        live.agent.wait_path("/nowhere", LONG)


def test_closed_console_is_told_at_once(live: LiveMachine) -> None:
    _shut(live.vmm.console._socket)
    with told(VmmError, Verdict.MISS, "QEMU is running, and has closed the connection needed for 'never said'"):
        live.vmm.console.wait_for("never said", deadline=LONG)


def _shut(connection: socket.socket) -> None:
    """End a connection for both of its ends."""
    connection.shutdown(socket.SHUT_RDWR)


def _hang_up(qmp: Qmp) -> None:
    client = qmp._client
    assert client is not None
    assert client._writer is not None
    # asyncio shows a stand-in for the socket, which cannot be shut down.
    with socket.socket(fileno=os.dup(client._writer.get_extra_info("socket").fileno())) as connection:
        _shut(connection)


def test_storm_of_events_is_kept_whole_and_holds_up_nothing(live: LiveMachine) -> None:
    mark = live.vmm.qmp.event_count
    for _ in range(_STORM):
        live.vmm.qmp.execute("stop")
        live.vmm.qmp.execute("cont")
    assert [event.name for event in live.vmm.qmp.events_since(mark)].count("RESUME") == _STORM
    assert live.guest.run("echo up").stdout == "up\n"
