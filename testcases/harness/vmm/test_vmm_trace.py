from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Start

from harness.errors import SpecError
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.trace import (
    Attach,
    Detach,
    FaultReport,
    Map,
    TraceEvent,
    TraceReader,
    Unmap,
    VirtioIommuEvent,
    set_state,
    virtio_iommu_event,
)


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


@pytest.mark.parametrize(
    ("name", "text", "meaning"),
    [
        ("virtio_iommu_attach", "domain=2 endpoint=32", Attach(2, 32)),
        ("virtio_iommu_detach", "domain=2 endpoint=32", Detach(2, 32)),
        (
            "virtio_iommu_map",
            "domain=1 virt_start=0xfffff000 virt_end=0xffffffff phys_start=0x3000 flags=3",
            Map(1, 0xFFFFF000, 0xFFFFFFFF, 0x3000, 3),
        ),
        ("virtio_iommu_unmap", "domain=1 virt_start=0x1000 virt_end=0x1fff", Unmap(1, 0x1000, 0x1FFF)),
        (
            "virtio_iommu_report_fault",
            "FAULT reason=2 flags=256 endpoint=32 address =0x1000000",
            FaultReport(2, 256, 32, 0x1000000),
        ),
    ],
)
def test_a_virtio_iommu_event_is_understood(name: str, text: str, meaning: VirtioIommuEvent) -> None:
    assert virtio_iommu_event(TraceEvent(name, text, None)) == meaning


def test_another_event_is_none_of_virtio_iommus() -> None:
    assert virtio_iommu_event(TraceEvent("virtio_iommu_translate", "mr=x rid=1 addr=0x0 flag=1", None)) is None


def test_a_wording_that_is_not_known_is_an_error_not_a_guess() -> None:
    with pytest.raises(SpecError, match="has no endpoint"):
        virtio_iommu_event(TraceEvent("virtio_iommu_attach", "domain=2 ep=32", None))


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
