from __future__ import annotations

import threading

import pytest
from vmm_rig import Start, stopped

from harness.errors import VmmTimeout
from harness.vmm.qemu.qmp import Event, QmpError


def test_a_refused_command_tells_qemus_class_and_text(start: Start) -> None:
    with pytest.raises(QmpError, match="nosuch has not been found") as caught:
        start().qmp.execute("nosuch")
    assert caught.value.error_class == "CommandNotFound"


def test_hundreds_of_events_arrive_in_order_and_none_is_lost(start: Start) -> None:
    qmp = start().qmp
    mark = qmp.event_count
    for _ in range(150):
        qmp.execute("stop")
        qmp.execute("cont")
    names = [event.name for event in qmp.events_since(mark)]
    assert names == ["STOP", "RESUME"] * 150


def test_an_event_that_came_before_the_wait_is_found(start: Start) -> None:
    qmp = start().qmp
    mark = qmp.event_count
    qmp.execute("stop")
    assert qmp.wait_event("STOP", deadline=5, since=mark).name == "STOP"


def test_an_event_before_the_mark_does_not_count(start: Start) -> None:
    qmp = start().qmp
    qmp.execute("stop")
    with pytest.raises(VmmTimeout, match="for its event STOP"):
        qmp.wait_event("STOP", deadline=0.2, since=qmp.event_count)


def test_an_event_that_does_not_match_does_not_end_the_wait(start: Start) -> None:
    qmp = start().qmp
    qmp.execute("stop")
    with pytest.raises(VmmTimeout):
        qmp.wait_event("STOP", lambda event: "colour" in event.data, deadline=0.2)


def test_two_waiters_are_both_told_of_one_event(start: Start) -> None:
    qmp = start().qmp
    seen: list[Event] = []
    waiters = [threading.Thread(target=lambda: seen.append(qmp.wait_event("STOP", deadline=10))) for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    qmp.execute("stop")
    for waiter in waiters:
        waiter.join()
    assert [event.name for event in seen] == ["STOP", "STOP"]


def test_the_connection_is_usable_after_a_command_that_timed_out(start: Start) -> None:
    machine = start()
    with stopped(machine.process.pid), pytest.raises(VmmTimeout):
        machine.qmp.execute("query-name", deadline=0.1)
    assert machine.qmp.execute("query-status")["running"] is True


def test_every_message_is_in_the_log_with_its_direction(start: Start) -> None:
    machine = start()
    machine.qmp.execute("query-uuid")
    log = (machine.directory / "qmp.log").read_text().splitlines()
    assert any(' -> {"execute": "query-uuid"' in line for line in log)
    assert any(' <- {"return": {"UUID":' in line for line in log)
