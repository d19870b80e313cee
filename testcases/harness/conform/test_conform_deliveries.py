"""Interrupts that arrive: which messages are found wrong, and whose they are; on a real QEMU, that they are seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from plain_sessions import plain_session

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import find_qemu
from harness.conform.board import ARM, PC, Board
from harness.conform.campaign import capabilities_of
from harness.conform.deliveries import Deliveries
from harness.conform.divergence import Divergence, Kind
from harness.conform.edu import MESSAGES
from harness.conform.program import Dma, Program, Step, Store, Write
from harness.conform.reproducer import Answers, run_script
from harness.conform.request import Request
from harness.conform.session import Session
from harness.conform.targets.registry import find_target
from harness.model.access import Access, AccessKind, Fault
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, Sending
from harness.model.explanation import Step as Look
from harness.model.unit import Coverage
from harness.model.vtd.faults import VtdFaultReason
from harness.model.x86_message import X86Message
from harness.observations import Message
from harness.vmm.qemu.apic import read_message

_TARGET = "intel-iommu/interrupts"
_RANGE = 0xFEE0_0000
_SENT = 5  # data of each message as a device sends it
_NOT_PRESENT = VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT
_REFUSED = VtdFaultReason.INTERRUPT_SOURCE_REFUSED

# --- without a QEMU ---


@dataclass
class _Machine:
    """All that is asked of one: what arrived."""

    told: list[str]
    board: Board = PC

    def take_interrupts(self) -> list[str]:
        return self.told


@dataclass
class _Unit:
    """All that is asked of one: the vector of the entry that a message leads to, by its address; its own message."""

    vectors: dict[int, int] = field(default_factory=dict)
    own_messages: Sequence[MsiWrite] = (MsiWrite(requester=0, address=_RANGE | 3 << 12, data=0x66),)

    def explain_interrupt(self, write: MsiWrite) -> list[Look]:
        vector = self.vectors.get(write.address)
        return [] if vector is None else [Look("IRTE", "VT-d 9.9", fields=(("V", vector),))]


@dataclass
class _Predictor:
    """All that is asked of one: what devices wrote, and the IOMMU's own messages."""

    requests: Sequence[Request]
    own: Sequence[MsiWrite]

    @property
    def contents(self) -> _Predictor:
        return self

    def data(self, request: Request) -> bytes:
        return _SENT.to_bytes(4, "little")


def _message(vector: int, destination: int = 3) -> Interrupt:
    return Interrupt(*X86Message(destination=destination, vector=vector).encode(), remapped=True)


def _request(outcome: MsiOutcome | VtdFaultReason, address: int = _RANGE) -> Request:
    access = Access(requester=0x80, iova=address, length=4, kind=AccessKind.WRITE)
    if isinstance(outcome, VtdFaultReason):
        outcome = Fault(outcome, 0x80, address, is_write=True)
    return Request(Dma("edu0", AccessKind.WRITE, address, 4, 0), access, outcome, None)


def _told(*vectors: int) -> list[str]:
    return [f"dest 3 dest_mode 0 delivery_mode 0 vector {vector} trigger_mode 0" for vector in vectors]


def _deliveries(
    requests: Sequence[Request],
    told: list[str],
    found: list[Divergence],
    *,
    own: Sequence[MsiWrite] = (),
    vectors: dict[int, int] | None = None,
    known: str = "",
    board: Board = PC,
) -> Deliveries:
    machine: Any = _Machine(told, board)
    unit: Any = _Unit(vectors or {})
    predictor: Any = _Predictor(requests, own)
    deliveries = Deliveries("t", machine, unit, predictor, lambda signature: signature == known, found.append)
    deliveries.take(())
    return deliveries


def _found(requests: Sequence[Request], told: list[str], **more: Any) -> list[str]:
    found: list[Divergence] = []
    deliveries = _deliveries(requests, told, found, **more)
    deliveries.compare(0, requests)
    deliveries.compare_own(0)
    assert all(each.kind is Kind.INTERRUPT for each in found)
    return [each.signature.removeprefix("t: interrupt: ") for each in found]


@pytest.mark.parametrize("told", [_told(0x41, 0x42, 0x41), _told(0x41, 0x41, 0x42)])
def test_the_messages_that_must_arrive_may_do_so_in_any_order(told: list[str]) -> None:
    requests = [_request(_message(vector)) for vector in (0x41, 0x42, 0x41)]
    assert _found([*requests, _request(_NOT_PRESENT)], told) == []


@pytest.mark.parametrize(
    ("outcomes", "vectors", "signatures"),
    [
        ([0x41, _NOT_PRESENT], [0x41, 0x42], ["message with fault INTERRUPT_ENTRY_NOT_PRESENT arrived"]),
        ([_NOT_PRESENT], [_SENT], ["message with fault INTERRUPT_ENTRY_NOT_PRESENT arrived"]),
        ([0x41, 0x42], [0x42], ["remapped message did not arrive"]),
        ([0x41, 0x42], [0x41, 0x43], ["remapped message: VECTOR differs"]),
        ([0x41], [0x41, 0x41], ["message of nobody arrived"]),
        ([0x41, _NOT_PRESENT, 0x42], [0x41], ["remapped message did not arrive"]),
    ],
)
def test_what_arrives_though_it_must_not_and_does_not_though_it_must_is_named(
    outcomes: list[int | VtdFaultReason], vectors: list[int], signatures: list[str]
) -> None:
    requests = [_request(each if isinstance(each, VtdFaultReason) else _message(each)) for each in outcomes]
    assert _found(requests, _told(*vectors)) == signatures


def test_every_field_that_a_processor_would_see_is_compared() -> None:
    seen = "dest 4 dest_mode 1 delivery_mode 1 vector 65 trigger_mode 1"
    fields = "DESTINATION differs, DM is 0x1 for 0x0, DELIVERY_MODE is 0x1 for 0x0, TRIGGER_MODE is 0x1 for 0x0"
    assert _found([_request(_message(0x41))], [seen]) == [f"remapped message: {fields}"]


def test_a_message_that_arrives_as_the_device_sent_it_is_told_from_one_that_was_remapped() -> None:
    as_it_was = f"dest 0 dest_mode 0 delivery_mode 0 vector {_SENT} trigger_mode 0"
    assert _found([_request(_NOT_PRESENT)], [as_it_was]) == [
        "message with fault INTERRUPT_ENTRY_NOT_PRESENT arrived unremapped"
    ]
    assert _found([_request(_message(0x41))], [as_it_was]) == ["remapped message arrived unremapped"]


def test_a_blocked_message_that_arrives_as_it_was_is_not_taken_for_the_next_one_with_other_fields() -> None:
    as_it_was = f"dest 0 dest_mode 0 delivery_mode 0 vector {_SENT} trigger_mode 0"
    requests = [_request(_NOT_PRESENT), _request(_message(0x41), _RANGE | 1 << 12)]
    assert _found(requests, [as_it_was]) == [
        "message with fault INTERRUPT_ENTRY_NOT_PRESENT arrived unremapped",
        "remapped message did not arrive",
    ]


@pytest.mark.parametrize("reasons", [(_NOT_PRESENT, _REFUSED), (_REFUSED, _NOT_PRESENT)])
def test_of_two_blocked_messages_the_one_arrived_whose_entry_has_the_vector(
    reasons: tuple[VtdFaultReason, VtdFaultReason],
) -> None:
    requests = [_request(reason, _RANGE + 16 * number) for number, reason in enumerate(reasons)]
    vectors = {request.access.iova: 0x50 + number for number, request in enumerate(requests)}
    for number, reason in enumerate(reasons):
        assert _found(requests, _told(0x50 + number), vectors=vectors) == [f"message with fault {reason.name} arrived"]


def test_a_blocked_message_whose_entry_says_otherwise_did_not_arrive_where_one_without_an_entry_may_have() -> None:
    requests = [_request(_NOT_PRESENT, _RANGE), _request(_REFUSED, _RANGE + 16)]
    assert _found(requests, _told(0x50), vectors={_RANGE: 0x51}) == [
        "message with fault INTERRUPT_SOURCE_REFUSED arrived"
    ]


def test_messages_of_the_iommu_itself_are_compared() -> None:
    requests = [_request(_message(0x41))]
    own = [MsiWrite(requester=0, address=_RANGE | 3 << 12, data=0x60)]
    assert _found(requests, _told(0x41, 0x60), own=own) == []
    assert _found(requests, _told(0x41), own=own) == ["message of the IOMMU's own did not arrive"]
    assert _found(requests, _told(0x41, 0x61), own=own) == ["message of the IOMMU's own: VECTOR differs"]


def test_a_message_of_the_iommu_that_is_missing_is_named_after_its_occasion() -> None:
    own = [MsiWrite(requester=0, address=_RANGE, data=0x60, occasion="the queue goes on")]
    missing = "message of the IOMMU's own (the queue goes on) did not arrive"
    assert _found([_request(_message(0x41))], _told(0x41), own=own) == [missing]


def test_a_message_of_the_iommu_that_nothing_calls_for_is_told_from_others() -> None:
    requests = [_request(_NOT_PRESENT)]
    assert _found(requests, _told(0x66)) == ["message of the IOMMU's own arrived"]
    assert _found([_request(_message(0x66))], _told(0x66)) == []


def test_a_message_of_the_iommu_may_arrive_once_where_it_is_optional_and_must_not_where_it_is_disabled() -> None:
    requests = [_request(_message(0x41))]
    message = MsiWrite(requester=0, address=_RANGE | 3 << 12, data=0x66)
    own = [replace(message, sending=each) for each in (Sending.DISABLED, Sending.OPTIONAL)]
    assert _found(requests, _told(0x41), own=own) == []
    assert _found(requests, _told(0x41, 0x66), own=own) == []
    disabled, uncalled = "disabled message of the IOMMU's own arrived", "message of the IOMMU's own arrived"
    assert _found(requests, _told(0x41, 0x66, 0x66), own=own) == [disabled]
    assert _found(requests, _told(0x41, 0x66, 0x66, 0x66), own=own) == [disabled, uncalled]


def test_an_optional_message_of_the_iommu_takes_no_message_of_a_device_that_is_alike() -> None:
    own = [MsiWrite(requester=0, address=_RANGE | 3 << 12, data=0x41, sending=Sending.OPTIONAL)]
    assert _found([_request(_message(0x41))], _told(0x41), own=own) == []
    assert _found([_request(_message(0x41))], _told(0x41, 0x41), own=own) == []


def test_what_is_wrong_with_messages_of_the_iommu_is_said_behind_what_is_wrong_with_others() -> None:
    requests = [_request(_message(0x41))]
    own = [MsiWrite(requester=0, address=_RANGE | 3 << 12, data=0x60)]
    found: list[Divergence] = []
    deliveries = _deliveries(requests, [], found, own=own)
    deliveries.compare(0, requests)
    assert [each.signature for each in found] == ["t: interrupt: remapped message did not arrive"]
    deliveries.compare_own(0)
    assert [each.signature for each in found[1:]] == ["t: interrupt: message of the IOMMU's own did not arrive"]


def test_nothing_is_said_of_a_message_of_the_iommu_that_goes_elsewhere() -> None:
    requests = [_request(_message(0x41))]
    own = [MsiWrite(requester=0, address=0, data=0x60)]
    arrived = "dest 0 dest_mode 0 delivery_mode 0 vector 96 trigger_mode 0"
    assert _found(requests, _told(0x41), own=own) == []
    assert _found(requests, [*_told(0x41), arrived], own=own) == []


def test_what_is_known_to_arrive_speaks_against_no_choice() -> None:
    requests = [_request(_NOT_PRESENT)]
    known = "t: interrupt: message with fault INTERRUPT_ENTRY_NOT_PRESENT arrived"
    assert _deliveries(requests, _told(0x41), [], known=known).agree()
    assert not _deliveries(requests, _told(0x41), []).agree()
    assert not _deliveries(requests, _told(0x41, 0x42), [], known=known).agree()


def test_a_board_of_whose_interrupts_nothing_is_told_has_none_missing() -> None:
    assert _found([_request(_message(0x41))], [], board=ARM) == []


@pytest.mark.parametrize(
    ("stderr", "shows"),
    [
        ("apic_deliver_irq {seen}\n", True),
        ("123@17.25:apic_deliver_irq {seen}\n", True),
        ("apic_deliver_irq {seen}\napic_deliver_irq {wanted}\n", False),
        ("apic_deliver_irq {wanted}\n", False),
        ("", False),
    ],
)
def test_a_script_shows_it_by_what_qemu_tells_on_standard_error(stderr: str, shows: bool) -> None:
    found: list[Divergence] = []
    requests = [_request(_message(0x41))]
    _deliveries(requests, _told(0x42), found).compare(0, requests)
    wanted, seen = *_told(0x41), *_told(0x42)
    answers = Answers(("OK",), None, hung=False, stderr=stderr.format(wanted=wanted, seen=seen))
    assert answers.show(found[0]) is shows


# --- on QEMU ---


@pytest.fixture
def session() -> Iterator[Session]:
    """Machines with a VT-d unit that can remap interrupts, and nothing that is known of them."""
    with plain_session(_TARGET) as opened:
        yield opened


def _send(vector: int, destination: int = 0, device: str = "edu0") -> Dma:
    """A message in compatibility format, which passes while nothing remaps."""
    return Dma(device, AccessKind.WRITE, _RANGE | destination << 12, 4, MESSAGES.start + 4 * vector)


def _program(*steps: Step) -> Program:
    return Program(_TARGET, -1, steps)


@pytest.mark.parametrize("qemu", ["bullseye", "bookworm", "trixie", "sid"])
def test_what_is_told_to_arrive_is_pending_in_the_processors_apic(qemu: str) -> None:
    target = find_target(_TARGET)
    build = find_qemu(qemu, target.arch, Cache())
    with Session(target, build, capabilities_of(build, target), (), Coverage()) as session:
        result = session.run(_program(_send(0x31), _send(0x32, 1, "edu1")))
        assert (result.divergences, result.dmas) == ([], 2)
        shown = session.runner.machine.qmp.execute("human-monitor-command", {"command-line": "info lapic"})
        (pending,) = (line.split()[1:] for line in shown.splitlines() if line.startswith("IRR"))
        assert pending == [str(0x31)]


@pytest.mark.parametrize(
    ("outcome", "signature"),
    [
        (Fault(_NOT_PRESENT, 0x80, _RANGE, is_write=True), "message with fault {} arrived unremapped"),
        (Interrupt(_RANGE, 0x32, remapped=False), "message of mode FIXED that is not remapped arrived unremapped"),
        (Interrupt(_RANGE | 1 << 12, 0x31, remapped=True), "remapped message arrived unremapped"),
    ],
)
def test_an_interrupt_that_must_not_arrive_or_not_so_is_found_out(
    session: Session, outcome: MsiOutcome, signature: str
) -> None:
    unit: Any = session.runner.bound.unit
    unit.interrupts = lambda write: (outcome,)
    (found,) = session.run(_program(_send(0x31))).divergences
    assert found.signature == f"{_TARGET}: interrupt: {signature.format(_NOT_PRESENT.name)}"


def test_an_interrupt_that_does_not_arrive_is_found_out(session: Session) -> None:
    machine: Any = session.runner.machine
    take = machine.take_interrupts
    machine.take_interrupts = lambda: take()[1:]
    (found,) = session.run(_program(_send(0x31), _send(0x32, device="edu1"))).divergences
    assert found.signature == f"{_TARGET}: interrupt: message of mode FIXED that is not remapped did not arrive"


def test_what_arrives_decides_which_of_several_outcomes_it_was(session: Session) -> None:
    unit: Any = session.runner.bound.unit
    blocked = Fault(_NOT_PRESENT, 0x80, _RANGE, is_write=True)
    unit.interrupts = lambda write: (blocked, Interrupt(write.address, write.data, remapped=False))
    assert session.run(_program(_send(0x31), _send(0x32, 1, "edu1"))).divergences == []
    unit.interrupts = lambda write: (blocked, Interrupt(write.address, 0x11, remapped=False))
    assert session.run(_program(_send(0x31))).divergences


@pytest.mark.parametrize("is_sent", [True, False])
def test_the_message_of_a_fault_event_is_compared(session: Session, is_sent: bool) -> None:
    unit: Any = session.runner.bound.unit
    if not is_sent:
        unit.take_interrupts = tuple
    event = (Write(0x3C, 4, 0x77), Write(0x40, 4, _RANGE | 5 << 12), Write(0x38, 4, 0))
    enable = (Write(0x20, 8, 0x14_0000), Write(0x18, 4, 1 << 30), Write(0x18, 4, 1 << 31))
    blocked = Dma("edu0", AccessKind.WRITE, 0x40_0000, 4, 0x100)
    result = session.run(_program(*event, *enable, blocked))
    expected = [] if is_sent else [f"{_TARGET}: interrupt: message of the IOMMU's own arrived"]
    assert [each.signature for each in result.divergences] == expected


def test_a_script_alone_shows_an_interrupt_that_must_not_arrive() -> None:
    target = find_target("amd-iommu/interrupts")
    build = find_qemu("sid", target.arch, Cache())
    # The I/O APIC's device table entry is empty: as its interrupt that of a device passes, which has no entry for it.
    remapped = Store(0x14_1010, bytes.fromhex("0b00150000000020"))
    steps = (remapped, Write(0x0, 8, 0x14_000F), Write(0x18, 8, 0x1019), _send(2))
    with Session(target, build, capabilities_of(build, target), (), Coverage()) as session:
        program = Program(target.name, -1, steps)
        (found,) = session.run(program).divergences
        script, text = session.qtest_script(program, found), session.script(program, found)
    assert found.told is not None
    assert found.told.wanted == ""
    assert f"  is there: {found.told.seen}" in text
    assert run_script(build, script).show(found)


def test_messages_are_read_as_the_processor_takes_them() -> None:
    address, data = X86Message(destination=0x1_23, vector=0x41, logical=True, level_triggered=True).encode()
    told = read_message("dest 291 dest_mode 1 delivery_mode 0 vector 65 trigger_mode 1")
    assert Message.sent(address, data) == told
    assert str(told) == "dest 291 dest_mode 1 delivery_mode 0 vector 65 trigger_mode 1"
