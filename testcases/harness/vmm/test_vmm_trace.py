from __future__ import annotations

from pathlib import Path

import pytest
from vmm_rig import Start

from harness.errors import SpecError
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.trace import TraceEvent, TraceReader, set_state


@pytest.mark.parametrize(
    ("line", "time"),
    [
        ("13912@1795256972.372938:runstate_set current_run_state 6 (prelaunch)", 1795256972.372938),  # 5.2, 7.2
        ("2026-11-21T10:29:32.703537Z runstate_set current_run_state 6 (prelaunch)", 1795256972.703537),  # 11.1
        ("runstate_set current_run_state 6 (prelaunch)", None),
    ],
)
def test_the_line_of_every_build_is_read(parent: Path, line: str, time: float | None) -> None:
    (parent / "log").write_text(line + "\n")
    (event,) = TraceReader(parent / "log").new()
    assert event == TraceEvent("runstate_set", "current_run_state 6 (prelaunch)", event.time)
    assert event.time == pytest.approx(time, abs=1e-5)


def test_a_line_that_is_not_complete_waits_for_the_next_look(parent: Path) -> None:
    log = parent / "log"
    reader = TraceReader(log)
    assert reader.new() == ()
    log.write_text("one 1\ntwo ")
    assert [event.name for event in reader.new()] == ["one"]
    with log.open("a") as file:
        file.write("2\n")
    assert [(event.name, event.text) for event in reader.new()] == [("two", "2")]


def test_events_of_the_machine_that_it_goes_on_from_come_first_and_once(parent: Path) -> None:
    (parent / "earlier").write_text("zero 0\nhalf")
    reader = TraceReader(parent / "log", parent / "earlier")
    assert [event.name for event in reader.new()] == ["zero"]
    (parent / "log").write_text("one 1\n")
    assert [event.name for event in reader.new()] == ["one"]
    assert reader.new() == ()


def test_arguments_that_are_numbers_are_read_whatever_their_base() -> None:
    event = TraceEvent("x", "mr=pci.0 domain=1 virt_end=0xffffffff offset=-3", None)
    assert event.fields == {"domain": 1, "virt_end": 0xFFFFFFFF, "offset": -3}


def test_events_enabled_at_the_start_are_traced(start: Start, parent: Path) -> None:
    machine = start(None, Options(parent=parent, trace=("runstate_*",)))
    assert "runstate_set" in [event.name for event in machine.trace.new()]


def test_events_enabled_later_are_traced_from_then_on_with_their_time(start: Start) -> None:
    machine = start()
    machine.qmp.execute("stop")
    assert machine.trace.new() == ()
    set_state(machine.qmp, "runstate_set", enable=True)
    machine.qmp.execute("cont")
    set_state(machine.qmp, "runstate_set", enable=False)
    machine.qmp.execute("stop")
    (event,) = machine.trace.new()
    assert event.name == "runstate_set"
    assert event.time is not None


def test_an_event_that_the_build_does_not_have_is_refused(start: Start) -> None:
    with pytest.raises(SpecError, match="no trace event 'nosuch_\\*'"):
        set_state(start().qmp, "nosuch_*", enable=True)
