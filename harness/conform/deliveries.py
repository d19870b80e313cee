"""Compares the interrupts that reach the processors with those that must.

How they are told of: `harness.vmm.qemu.apic`.

Messages come in the order of the requests, but nothing makes that of different requesters an order that must be: what
is compared is which messages there were. Only where they are not the right ones does their order tell whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import ne
from types import MappingProxyType
from typing import NamedTuple, cast

from harness.conform.divergence import Divergence, Kind, Told
from harness.conform.machine import ConformMachine
from harness.conform.prediction import Predictor
from harness.conform.request import Request
from harness.model.access import Fault, Outcome
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt, Sending
from harness.model.explanation import Step, step_lines
from harness.model.invalidation import EntryKind
from harness.model.unit import InterruptUnit, Unit
from harness.model.x86_message import DeliveryMode, is_interrupt_address
from harness.observations import Message
from harness.vmm.qemu.apic import read_message

__all__ = ["Deliveries"]

_LENGTH = 4  # bytes of a message

# What table entries call what they say of a message: VT-d 9.9, 9.10; AMD-Vi 2.2.5.
_ENTRY_FIELDS = {
    "DST": "DESTINATION",
    "Destination": "DESTINATION",
    "DM": "DM",
    "DLM": "DELIVERY_MODE",
    "IntType": "DELIVERY_MODE",
    "V": "VECTOR",
    "VV": "VECTOR",
    "Vector": "VECTOR",
    "TM": "TRIGGER_MODE",
}

# Where these have a destination of 8 bits: VT-d in xAPIC mode (9.9), AMD-Vi without XTEn (2.2.5.2).
_SHORT_DESTINATIONS = {"DST": 8, "Destination": 0}

# How unlikely it is that a blocked message arrives as if it were not, or otherwise, or otherwise than its table entry
# says; that one arrives with a wrong field, and more so with another destination and vector; that one does not arrive;
# that one is nobody's.
_PASSED, _TURNED, _STRAYED, _CHANGED, _ANOTHER, _LOST, _FOREIGN = 2, 5, 6, 2, 4, 5, 6


class _Sender(NamedTuple):
    """Who sent a message.

    Attributes:
        wanted: what must arrive; None where nothing must.
        request: of a device; None for the IOMMU itself, or nobody.
        as_it_was: the device's message before anything remaps it.
        steps: what is looked at for a message that is blocked,
        entry: and what the table entry that it leads to says of a message, each field with its values; empty where it
            leads to none.
        own: of a message of the IOMMU itself, whether it sends it,
        occasion: and on what occasion.
    """

    wanted: Message | None
    request: Request | None = None
    as_it_was: Message | None = None
    steps: Sequence[Step] = ()
    entry: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    own: Sending | None = None
    occasion: str = ""

    def cost(self, seen: Message) -> int:
        """How unlikely it is that this is what came of it."""
        if self.wanted is not None:
            if self.wanted == seen:
                return 0
            changed: int = _CHANGED * sum(map(ne, self.wanted, seen))
            same = self.wanted.DESTINATION == seen.DESTINATION or self.wanted.VECTOR == seen.VECTOR
            return changed if same or self.as_it_was in (seen, self.wanted) else changed + _ANOTHER
        fits = bool(self.entry) and all(getattr(seen, name) in values for name, values in self.entry.items())
        if fits or seen == self.as_it_was:
            return _PASSED
        return _STRAYED if self.entry else _TURNED


class _Difference(NamedTuple):
    """Something that must have arrived, or did; at least one of both."""

    sender: _Sender
    seen: Message | None


_NOBODY = _Sender(None)
_UNCALLED = _Sender(None, own=Sending.SENT)
_DISABLED = _Sender(None, own=Sending.DISABLED)


class Deliveries:
    """Compares those of one machine.

    Args:
        target: name of it, for signatures.
        machine: where they arrive.
        unit: of the model; of a board whose interrupts QEMU does not tell, any.
        predictor: who knows what devices wrote, and what the IOMMU sent of its own.
        is_known: whether the program goes on behind a divergence with that signature.
        report: takes each divergence; may raise to end the program.
    """

    def __init__(
        self,
        target: str,
        machine: ConformMachine,
        unit: Unit,
        predictor: Predictor,
        is_known: Callable[[str], bool],
        report: Callable[[Divergence], None],
    ) -> None:
        self._target = target
        self._machine = machine
        self._unit = cast(InterruptUnit, unit)
        self._predictor = predictor
        self._is_known = is_known
        self._report = report
        self._seen: list[Message] = []
        self._own: Sequence[MsiWrite] = ()
        self._own_differences: Sequence[_Difference] = ()
        # Of this round: for which requests, and messages of the IOMMU's own, and what was found.
        self._found: tuple[Sequence[Request], Sequence[MsiWrite], Sequence[_Difference]] | None = None
        self._looked_up: dict[MsiWrite, tuple[Sequence[Step], Mapping[str, tuple[int, ...]]]] = {}  # in this round

    def take(self, own: Sequence[MsiWrite]) -> None:
        """A round is over: take what arrived in it.

        Args:
            own: messages that the IOMMU itself sent before there was DMA.
        """
        self._seen = [read_message(text) for text in self._machine.take_interrupts()]
        self._own = own
        self._found = None
        self._looked_up.clear()

    def agree(self) -> bool:
        """Whether those arrived that must, as DMA was predicted last, but for what is known to be otherwise."""
        differences = self._differences(self._predictor.requests)
        return all(self._is_known(self._signature(each)) for each in differences)

    def compare(self, step: int, requests: Sequence[Request]) -> None:
        """Report what did not arrive, what arrived though it must not, and what is not as it must be.

        Differences of the IOMMU's own messages are for `compare_own`, since a record that is missing explains a message
        that is.

        Args:
            step: number of the program's step.
            requests: of the round.
        """
        differences = self._differences(requests)
        self._own_differences = [each for each in differences if each.sender.own is not None]
        self._tell(step, [each for each in differences if each.sender.own is None])

    def compare_own(self, step: int) -> None:
        """Report the same of the IOMMU's own messages, as `compare` found them."""
        self._tell(step, self._own_differences)

    def _tell(self, step: int, differences: Sequence[_Difference]) -> None:
        event = self._machine.board.interrupts
        for each in differences:
            wanted, seen = each.sender.wanted, each.seen
            self._report(
                Divergence(
                    kind=Kind.INTERRUPT,
                    signature=self._signature(each),
                    step=step,
                    detail="\n".join(_details(each)),
                    told=Told(f"{event} {wanted}" if wanted else "", f"{event} {seen}" if seen else ""),
                )
            )

    def _differences(self, requests: Sequence[Request]) -> Sequence[_Difference]:
        """What is wrong with a round; what was asked of the same requests last is not looked for again."""
        if not self._machine.board.interrupts:
            return []
        own = [*self._own, *self._predictor.own] if requests else self._own
        if self._found is None or self._found[:2] != (requests, own):
            self._found = requests, own, self._find_differences(requests, own)
        return self._found[2]

    def _find_differences(self, requests: Sequence[Request], own: Sequence[MsiWrite]) -> list[_Difference]:
        messages = [request for request in requests if _is_message(request)]
        wanted = [arrives for request in messages if (arrives := _wanted(request.outcome)) is not None]
        left = list(self._seen)
        lost = []
        for each in own:
            message = Message.sent(each.address, each.data)
            if each.sending is not Sending.SENT:
                continue  # these come behind those that must be there
            if message in left:
                left.remove(message)
            elif is_interrupt_address(each.address & 0xFFFF_FFFF):  # above are bits of the destination
                lost.append(_Sender(message, own=Sending.SENT, occasion=each.occasion))
        uncalled = _take_unneeded(own, left, wanted)
        if not lost and not uncalled and sorted(wanted) == sorted(left):
            return []
        for message in {Message.sent(each.address, each.data) for each in self._unit.own_messages}:
            while left.count(message) > wanted.count(message):
                left.remove(message)
                uncalled.append(_Difference(_UNCALLED, message))
        found = list(_assign([self._sender(request) for request in messages], left))
        # What is nobody's may be a message of the IOMMU's own, with a wrong field.
        for number, difference in enumerate(found):
            if difference.sender is _NOBODY and lost:
                found[number] = difference._replace(sender=lost.pop(0))
        return [*found, *uncalled, *(_Difference(sender, None) for sender in lost)]

    def _signature(self, difference: _Difference) -> str:
        return f"{self._target}: {Kind.INTERRUPT}: {self._text(difference)}"

    def _text(self, difference: _Difference) -> str:
        sender, seen = difference
        what = _name(sender)
        if seen is None:
            return f"{what} did not arrive"
        if seen == sender.as_it_was:
            return f"{what} arrived unremapped"
        return f"{what} arrived" if sender.wanted is None else f"{what}: {sender.wanted.differing(seen)}"

    def _sender(self, request: Request) -> _Sender:
        access = request.access
        data = int.from_bytes(self._predictor.contents.data(request), "little")
        outcome = request.outcome
        sender = _Sender(_wanted(outcome), request, Message.sent(access.iova, data))
        if not isinstance(outcome, Fault) or access.length != _LENGTH:
            return sender
        write = MsiWrite(requester=access.requester, address=access.iova, data=data)
        if write not in self._looked_up:
            steps = self._unit.explain_interrupt(write)
            self._looked_up[write] = steps, _entry(steps)
        steps, entry = self._looked_up[write]
        return sender._replace(steps=steps, entry=entry)


def _take_unneeded(own: Sequence[MsiWrite], left: list[Message], wanted: Sequence[Message]) -> list[_Difference]:
    """Take messages of the IOMMU's own that need not be there from what is left; give those that must not."""
    unneeded = [each for each in own if each.sending is not Sending.SENT]
    differences = []
    for each in sorted(unneeded, key=lambda each: each.sending is Sending.DISABLED):
        message = Message.sent(each.address, each.data)
        if left.count(message) > wanted.count(message):
            left.remove(message)
            if each.sending is Sending.DISABLED:
                differences.append(_Difference(_DISABLED, message))
    return differences


def _entry(steps: Sequence[Step]) -> Mapping[str, tuple[int, ...]]:
    """What a table entry says of a message, where it was looked at last; see `_Sender`."""
    last = steps[-1] if steps else None
    # AMD-Vi's device table entry has a V that is no vector.
    is_of_device = last is not None and last.cached is not None and last.cached.kind is EntryKind.DEVICE
    fields = () if last is None or is_of_device else last.fields
    entry = {
        _ENTRY_FIELDS[name]: (value >> _SHORT_DESTINATIONS[name] & 0xFF, value)
        if name in _SHORT_DESTINATIONS
        else (value,)
        for name, value in fields
        if name in _ENTRY_FIELDS
    }
    # First what differs most often.
    return {"VECTOR": entry.pop("VECTOR"), **entry} if "VECTOR" in entry else {}


def _is_message(request: Request) -> bool:
    """Whether a request is one for an interrupt."""
    return isinstance(request.outcome, Interrupt | PostedInterrupt) or (
        isinstance(request.outcome, Fault) and request.outcome.is_write and is_interrupt_address(request.access.iova)
    )


def _wanted(outcome: Outcome | MsiOutcome) -> Message | None:
    """What must arrive of a message with that outcome."""
    match outcome:
        case Interrupt(address=address, data=data) | PostedInterrupt(notify=Interrupt(address=address, data=data)):
            return Message.sent(address, data)
        case _:
            return None


def _name(sender: _Sender) -> str:
    """Whose message it is, and what must become of it."""
    if sender.request is None:
        if sender.own is None:
            return "message of nobody"
        occasion = f" ({sender.occasion})" if sender.occasion else ""
        return f"{'disabled ' if sender.own is Sending.DISABLED else ''}message of the IOMMU's own{occasion}"
    match sender.request.outcome:
        case Fault(code=code):
            return f"message with fault {code.name}"
        case Interrupt(remapped=True):
            return "remapped message"
        case Interrupt():
            mode = DeliveryMode(sender.wanted.DELIVERY_MODE) if sender.wanted else DeliveryMode.FIXED
            return f"message of mode {mode.name} that is not remapped"
        case _:
            return "notification of a posted message"


def _details(difference: _Difference) -> Iterator[str]:
    sender, seen = difference
    if sender.request is not None:
        yield f"{sender.request.access}: must be {sender.request.outcome}"
        yield from step_lines(sender.steps)
    if sender.wanted is not None:
        yield f"must arrive: {sender.wanted}"
    if seen is not None:
        yield f"arrived: {seen}"


def _assign(senders: Sequence[_Sender], seen: Sequence[Message]) -> Iterator[_Difference]:
    """Find out whose messages those are that arrived, in their order, so that as little as possible is wrong.

    Gives what is wrong then. `costs[i][j]` is how unlikely it is at least that of the senders from number i on the
    messages from number j on have come.
    """
    costs = [[0] * (len(seen) + 1) for _ in range(len(senders) + 1)]
    for j in range(len(seen)):
        costs[-1][j] = _FOREIGN * (len(seen) - j)
    for i in reversed(range(len(senders))):
        wanted, row, below = senders[i].wanted, costs[i], costs[i + 1]
        lost = 0 if wanted is None else _LOST
        row[-1] = below[-1] + lost
        for j in reversed(range(len(seen))):
            row[j] = min(below[j] + lost, below[j + 1] + senders[i].cost(seen[j]), row[j + 1] + _FOREIGN)
    i = j = 0
    while i < len(senders) or j < len(seen):
        cost = costs[i][j]
        if i < len(senders) and j < len(seen) and cost == costs[i + 1][j + 1] + senders[i].cost(seen[j]):
            if senders[i].wanted != seen[j]:
                yield _Difference(senders[i], seen[j])
            i, j = i + 1, j + 1
        elif j < len(seen) and cost == costs[i][j + 1] + _FOREIGN:
            yield _Difference(_NOBODY, seen[j])
            j += 1
        else:
            if senders[i].wanted is not None:
                yield _Difference(senders[i], None)
            i += 1
