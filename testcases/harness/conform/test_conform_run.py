"""The runner on a real QEMU: what it notices, and that it notices."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from plain_sessions import plain_session

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import find_qemu
from harness.conform.campaign import capabilities_of
from harness.conform.divergence import Kind
from harness.conform.edu import LANDING, PAYLOADS, first_buffer
from harness.conform.layout import DEVICES
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.program import Dma, Plug, Program, Read, Reset, Step, Store, Unplug, Write
from harness.conform.replay import replay_program
from harness.conform.session import Session
from harness.conform.targets.registry import find_target
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Outcome
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0
from harness.model.unit import Coverage, Readout
from harness.model.vtd.context import context_entry_address
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.resources import ROOT
from harness.vmm.qemu.stacks import stacks

_TARGET = "intel-iommu/legacy"
_GCMD, _RTADDR = 0x18, 0x20
_PAGE = DATA.start
_ENABLE = (Write(_RTADDR, 8, 0x14_0000), Write(_GCMD, 4, 1 << 30), Write(_GCMD, 4, 1 << 31))


@pytest.fixture
def session() -> Iterator[Session]:
    """Machines with a VT-d unit in legacy mode, and nothing that is known of them."""
    with plain_session(_TARGET) as opened:
        yield opened


def _program(*steps: Step) -> Program:
    return Program(_TARGET, -1, steps)


def _write(iova: int, device: str = "edu0", length: int = 4) -> Dma:
    return Dma(device, AccessKind.WRITE, iova, length, PAYLOADS.start)


def test_a_dma_through_an_iommu_that_is_off_lands_where_it_is_told(session: Session) -> None:
    result = session.run(_program(_write(_PAGE)))
    assert (result.divergences, result.dmas) == ([], 1)
    memory = session.runner.machine.ram
    assert memory[_PAGE : _PAGE + 4] == first_buffer(0)[PAYLOADS.start : PAYLOADS.start + 4]


def test_what_a_device_read_shows_in_what_it_writes(session: Session) -> None:
    read = Dma("edu1", AccessKind.READ, _PAGE + 8, 8, 0x900)
    write = Dma("edu1", AccessKind.WRITE, _PAGE + 64, 8, 0x900)
    result = session.run(_program(read, write))
    assert result.divergences == []
    memory = session.runner.machine.ram
    assert memory[_PAGE + 64 : _PAGE + 72] == memory[_PAGE + 8 : _PAGE + 16] != bytes(8)


def test_a_blocked_dma_is_seen_to_be_blocked_and_its_record_is_compared(session: Session) -> None:
    result = session.run(_program(*_ENABLE, _write(_PAGE), Read(0x34, 4)))
    assert (result.divergences, result.dmas) == ([], 1)
    assert session.runner.bound.unit.read(0x34, 4) == Readout(0x2, 0xFF73)


def test_data_that_go_to_another_page_are_found_out(session: Session) -> None:
    unit = session.runner.bound.unit
    outcomes = unit.outcomes

    def changed(access: Access) -> Sequence[Outcome]:
        return [Bypassed(each.address ^ 0x1000, each.reason) for each in outcomes(access) if isinstance(each, Bypassed)]

    unit.outcomes = changed  # type: ignore[method-assign]
    (found,) = session.run(_program(_write(_PAGE))).divergences
    assert found.kind is Kind.DMA
    assert "did not arrive" in found.signature


def test_a_write_that_may_pass_and_is_found_elsewhere_is_held_to_where_it_may_go(session: Session) -> None:
    unit = session.runner.bound.unit

    def doubtful(access: Access) -> Sequence[Outcome]:
        blocked = Fault(VtdFaultReason.CONTEXT_NOT_PRESENT, access.requester, access.iova, is_write=True)
        return [blocked, Bypassed(access.iova ^ 0x1000, BypassReason.PASS_THROUGH)]

    unit.outcomes = doubtful  # type: ignore[method-assign]
    (found,) = session.run(_program(_write(_PAGE))).divergences
    assert found.signature == f"{_TARGET}: dma: write with bypass ({BypassReason.PASS_THROUGH}) did not arrive"
    assert f"it did not arrive, but is at {_PAGE:#x}" in found.detail


@pytest.mark.parametrize(("apart", "culprit"), [(False, "CONTEXT_NOT_PRESENT"), (True, "ROOT_NOT_PRESENT")])
def test_of_two_devices_with_the_same_data_rounds_of_their_own_tell_which_one_it_was(
    session: Session, apart: bool, culprit: str
) -> None:
    unit = session.runner.bound.unit
    nowhere = Dma("edu0", AccessKind.WRITE, 0x7FFF_0000, 4, LANDING.start)
    somewhere = Dma("edu1", AccessKind.WRITE, _PAGE + 0x3000, 4, LANDING.start)

    def blocked(access: Access) -> Sequence[Outcome]:
        is_nowhere = access.iova == nowhere.iova
        reason = VtdFaultReason.CONTEXT_NOT_PRESENT if is_nowhere else VtdFaultReason.ROOT_NOT_PRESENT
        return [Fault(reason, access.requester, access.iova, is_write=True)]

    unit.outcomes = blocked  # type: ignore[method-assign]
    (found,) = session.run(_program(nowhere, somewhere), apart=apart).divergences
    assert f"write with fault {culprit} arrived" in found.signature


def test_two_bytes_on_each_side_of_a_page_that_arrive_though_they_are_blocked_are_named(session: Session) -> None:
    unit = session.runner.bound.unit

    def blocked(access: Access) -> Sequence[Outcome]:
        return [Fault(VtdFaultReason.CONTEXT_NOT_PRESENT, access.requester, access.iova, is_write=True)]

    unit.outcomes = blocked  # type: ignore[method-assign]
    found = session.run(_program(_write(_PAGE + 0x1000 - 2))).divergences[0]
    assert found.signature == f"{_TARGET}: dma: write with fault CONTEXT_NOT_PRESENT arrived untranslated"


def test_what_a_device_has_read_and_written_though_neither_is_allowed_is_named_by_the_write(session: Session) -> None:
    unit = session.runner.bound.unit

    def blocked(access: Access) -> Sequence[Outcome]:
        is_write = access.kind is AccessKind.WRITE
        return [Fault(VtdFaultReason.CONTEXT_NOT_PRESENT, access.requester, access.iova, is_write=is_write)]

    unit.outcomes = blocked  # type: ignore[method-assign]
    read = Dma("edu0", AccessKind.READ, _PAGE + 0x40, 4, LANDING.start)
    write = Dma("edu0", AccessKind.WRITE, _PAGE + 0x80, 4, LANDING.start)
    found = session.run(_program(read, write)).divergences[0]
    assert found.signature == f"{_TARGET}: dma: write with fault CONTEXT_NOT_PRESENT arrived untranslated"


def test_a_write_to_a_page_that_is_seldom_looked_at_explains_why_its_fault_is_not_recorded(session: Session) -> None:
    unit = session.runner.bound.unit
    target = HOT_DATA.stop + 0x2000

    def blocked(access: Access) -> Sequence[Outcome]:
        reason = VtdFaultReason.CONTEXT_NOT_PRESENT
        record = VtdFaultRecord(address=access.iova, source_id=access.requester, reason=reason, is_read=False)
        return [Fault(reason, access.requester, access.iova, is_write=True, record=record)]

    unit.outcomes = blocked  # type: ignore[method-assign]
    found = session.run(_program(_write(target))).divergences[0]
    assert found.signature == f"{_TARGET}: dma: write with fault CONTEXT_NOT_PRESENT arrived untranslated"


def test_reads_that_may_pass_are_not_taken_for_faults_without_a_record(session: Session) -> None:
    unit = session.runner.bound.unit
    outcomes = unit.outcomes

    def doubtful(access: Access) -> Sequence[Outcome]:
        reason = VtdFaultReason.CONTEXT_NOT_PRESENT
        record = VtdFaultRecord(address=access.iova, source_id=access.requester, reason=reason, is_read=True)
        return [Fault(reason, access.requester, access.iova, is_write=False, record=record), *outcomes(access)]

    unit.outcomes = doubtful  # type: ignore[method-assign]
    reads = [Dma(entry.id, AccessKind.READ, _PAGE, 4, LANDING.start) for entry in DEVICES[:12]]
    assert session.run(_program(*reads, Read(0x34, 4))).divergences == []


def test_a_fault_that_may_go_without_a_record_is_not_taken_for_one_that_lacks_it(session: Session) -> None:
    unit = session.runner.bound.unit
    outcomes = unit.outcomes

    def doubtful(access: Access) -> Sequence[Outcome]:
        (blocked,) = outcomes(access)
        assert isinstance(blocked, Fault)
        assert blocked.record is None
        reason = VtdFaultReason.CONTEXT_NOT_PRESENT
        record = VtdFaultRecord(address=access.iova, source_id=access.requester, reason=reason, is_read=False)
        return [blocked, replace(blocked, record=record)]

    unit.outcomes = doubtful  # type: ignore[method-assign]
    requester, context_table = DEVICES[0].requester, 0x14_1000
    tables = (
        Store(0x14_0000, (context_table | 1).to_bytes(8, "little")),
        Store(context_entry_address(context_table, requester), (2).to_bytes(8, "little")),  # P=0, FPD=1
    )
    assert session.run(_program(*tables, *_ENABLE, _write(_PAGE), Read(0x34, 4))).divergences == []


def test_a_change_of_memory_that_nobody_made_is_found_out(session: Session) -> None:
    machine = session.runner.machine
    post = machine.qtest.post

    def meddling(lines: Sequence[str], *, deadline: float = 10.0) -> None:
        if any("writeq" in line for line in lines) and len(lines) < 10:
            machine.ram[_PAGE + 0x800] ^= 1
        post(lines, deadline=deadline)

    machine.qtest.post = meddling  # type: ignore[method-assign]
    (found,) = session.run(_program(_write(_PAGE))).divergences
    assert found.signature == f"{_TARGET}: memory: memory changed in data"
    assert found.probe is not None
    assert found.probe.wanted ^ found.probe.seen == 1


def test_a_change_far_from_where_anything_happens_is_found_out_at_the_end(session: Session) -> None:
    machine = session.runner.machine
    post = machine.qtest.post

    def meddling(lines: Sequence[str], *, deadline: float = 10.0) -> None:
        if any("writeq" in line for line in lines) and len(lines) < 10:
            machine.ram[DATA.stop - 16] ^= 1
        post(lines, deadline=deadline)

    machine.qtest.post = meddling  # type: ignore[method-assign]
    (found,) = session.run(_program(_write(_PAGE))).divergences
    assert found.signature == f"{_TARGET}: memory: memory changed in data"


def test_a_register_that_reads_as_it_must_not_is_found_out_by_its_field(session: Session) -> None:
    unit = session.runner.bound.unit
    unit.read = lambda offset, size: Readout(0x80, 0x80)  # type: ignore[method-assign]
    (found,) = session.run(_program(Read(0x08, 8))).divergences
    assert found.signature.startswith(f"{_TARGET}: register: CAP_REG: ")
    assert found.section == "VT-d 11.4.2"


def test_a_qemu_that_ends_is_a_divergence_and_the_next_program_has_another(session: Session) -> None:
    pid = session.runner.machine.process.pid
    os.kill(pid, signal.SIGABRT)
    result = session.run(_program(_write(_PAGE)))
    assert result.broken
    assert [found.kind for found in result.divergences] == [Kind.CRASH]
    assert session.run(_program(_write(_PAGE))).divergences == []
    assert session.runner.machine.process.pid != pid


def test_a_qemu_that_does_not_answer_is_told_with_what_its_threads_do(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = session.runner.machine
    collect = machine.qtest.collect
    monkeypatch.setattr(machine.qtest, "collect", lambda **_: collect(deadline=1.0))
    os.kill(machine.process.pid, signal.SIGSTOP)
    result = session.run(_program(_write(_PAGE)))
    assert [found.kind for found in result.divergences] == [Kind.HANG]
    assert result.divergences[0].signature == f"{_TARGET}: hang: outb"
    assert "thread" in result.divergences[0].detail.lower()


def test_the_threads_of_a_process_are_told_without_a_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    told = stacks(os.getpid())
    assert f"thread {os.getpid()} " in told
    assert "install gdb" in told


def test_a_reset_in_the_middle_turns_translation_off(session: Session) -> None:
    result = session.run(_program(*_ENABLE, _write(_PAGE), Reset(), _write(_PAGE + 16), Read(0x1C, 4)))
    assert (result.divergences, result.dmas) == ([], 2)


@pytest.mark.parametrize(("qemu", "is_reset"), [("sid", True), ("bullseye", False)])
def test_programs_begin_after_a_reset_also_where_a_reset_does_not_reach_the_iommu(qemu: str, is_reset: bool) -> None:
    target = find_target("arm-smmuv3/stage1")
    build = find_qemu(qemu, target.arch, Cache())
    cr0, queues = REGISTERS["SMMU_CR0"].start, CR0["EVENTQEN"].mask | CR0["CMDQEN"].mask
    with Session(target, build, capabilities_of(build, target), (), Coverage()) as session:
        assert session.runner.bound.is_reset is is_reset
        session.run(Program(target.name, 0, (Write(cr0, 4, queues),)))
        assert session.run(Program(target.name, 1, (Read(cr0, 4),))).divergences == []


def test_a_device_that_was_plugged_again_has_an_empty_buffer(session: Session) -> None:
    device = "edu30"
    result = session.run(_program(_write(_PAGE, device), Unplug(device), Plug(device), _write(_PAGE + 16, device)))
    assert (result.divergences, result.dmas) == ([], 2)
    assert session.runner.machine.ram[_PAGE + 16 : _PAGE + 20] == bytes(4)


def test_a_store_over_what_a_dma_wrote_counts(session: Session) -> None:
    result = session.run(_program(_write(_PAGE), Store(_PAGE, b"\x11" * 8), _write(_PAGE + 4)))
    assert (result.divergences, result.dmas) == ([], 2)


def test_a_script_alone_shows_on_qemu_what_was_seen() -> None:
    """The script of a known divergence, piped into QEMU as its head says, ends with what was seen there."""
    target = find_target("amd-iommu/dma")
    build = find_qemu("sid", target.arch, Cache())
    program = Program.load(ROOT / "ci/divergences/amd-iommu-upper-rights.json")
    replayed = replay_program(program, "sid")
    probe = replayed.divergences[-1].probe
    assert probe is not None
    lines = replayed.script.splitlines()
    line = next(line for line in lines if "| qemu-system-x86_64" in line).rpartition("| ")[2]
    commands = [line for line in lines if not line.startswith("#")]
    argv = [*build.argv_prefix, *shlex.split(line)[1:]]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **build.env}
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        stop = threading.Timer(20, qemu.kill)
        stop.start()
        qemu.stdin.write("".join(f"{command}\n" for command in commands))
        qemu.stdin.flush()
        answers = [qemu.stdout.readline() for _ in commands]
        qemu.kill()
        stop.cancel()
    assert int(answers[-1].split()[1], 16) == probe.seen != probe.wanted


def test_a_script_has_the_first_function_of_each_slot_in_which_a_device_stands() -> None:
    """A root port powers no slot without it, and nothing that the script orders would happen."""
    program = _program(_write(_PAGE, "edu25"))
    script = replay_program(program, "sid").script
    assert "id=edu24,bus=bus-port,addr=0.0" in script
    assert "id=edu25,bus=bus-port,addr=0.1" in script
    assert "id=edu26" not in script


def test_a_fault_that_is_not_recorded_is_shown_by_the_register_that_would_tell_of_it() -> None:
    """VT-d keeps the first record: FSTS_REG.PPF would be set (VT-d 11.4.7.1), and nothing in memory shows it."""
    program = Program.load(ROOT / "ci/divergences/vtd-pass-through-width.json")
    (found,) = replay_program(program, "sid").divergences
    assert found.signature.endswith("is not recorded")
    assert found.probe is not None
    assert (found.probe.command, found.probe.wanted & 2, found.probe.seen & 2) == ("readl 0xfed90034", 2, 0)


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("amd-iommu-no-event-log", "crash: was killed by signal 8 (SIGFPE) at writeq of CommandBufferTail"),
        (
            "amd-iommu-event-without-request",
            "memory: event log entry: Operand1 differs, EventCode is 0x1 for 0x0 where no request was made",
        ),
        (
            "amd-iommu-suppression",
            "memory: event log entry: Operand1 differs, EventCode is 0x2 for 0x0 where a fault must have no record",
        ),
    ],
)
def test_what_breaks_qemu_and_what_calls_for_no_record_is_told(name: str, signature: str) -> None:
    program = Program.load(ROOT / f"ci/divergences/{name}.json")
    assert replay_program(program, "sid").divergences[-1].signature == f"{program.target}: {signature}"


def test_qemu_has_to_live_through_what_the_model_cannot_judge() -> None:
    """A tail pointer beyond the ring is undefined (AMD-Vi 3.4); QEMU 7.2 never comes out of it."""
    replayed = replay_program(Program.load(ROOT / "ci/divergences/amd-iommu-tail-beyond.json"), "bookworm")
    assert "undefined" in replayed.unjudged
    assert [found.signature for found in replayed.divergences] == [
        "amd-iommu/root-bus: hang: writeq of CommandBufferTail"
    ]
