"""Runs a program on QEMU and on the unit of the model, and compares them as it goes.

Steps are put together into rounds: stores first, then accesses to registers, then one DMA for each of many devices, all
sent to QEMU at once. While QEMU works, the unit says what must come of it. Then everything is compared: what registers
read as, where data went and where not, and the memory in which most happens; the rest of memory at the end of the
program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from harness.conform.buffers import check_buffers, fill_buffers
from harness.conform.command import RAM_BYTES
from harness.conform.comparison import LETTERS, Comparison
from harness.conform.deliveries import Deliveries
from harness.conform.divergence import Divergence, Kind
from harness.conform.edu import BUFFER_BYTES, CLOCK_STEP, order
from harness.conform.ending import ending
from harness.conform.evidence import Evidence
from harness.conform.layout import DEVICES, DmaDevice, device
from harness.conform.machine import ConformMachine
from harness.conform.memory import TwinMemory, WatchedMemory
from harness.conform.play import Play
from harness.conform.prediction import Predictor
from harness.conform.program import Dma, Plug, Program, Read, Reset, Step, Store, Unplug, Write
from harness.conform.request import Request
from harness.conform.round import Round
from harness.conform.target import Bound, Target
from harness.errors import SpecError, VmmCrashed, VmmDied, VmmError, VmmTimeout
from harness.model.access import Bypassed, Fault, Outcome, Translated
from harness.model.caches.staleness import TooManyWalks
from harness.model.engine import Interrupt, MsiOutcome, NotModelled
from harness.model.memory import MappedMemory, OutsideMemory, Region
from harness.model.unit import Coverage, Readout

__all__ = ["Result", "Runner"]


@dataclass
class Result:
    """What came of a program.

    Attributes:
        divergences: in the order in which they were seen; the last one ended the program, unless it is one that was
            said to be known and to change nothing that follows.
        dmas: how many were compared.
        unjudged: why the model could not go on; empty when it could.
        broken: QEMU is gone or does not answer.
    """

    divergences: list[Divergence] = field(default_factory=list)
    dmas: int = 0
    unjudged: str = ""
    broken: bool = False


class _Stop(Exception):
    """The program cannot go on: nothing that would follow means anything."""


class Runner:
    """Runs programs of one target, one after the other, on one machine.

    Args:
        machine: started, and not yet used for anything else.
        target: of all programs.
        coverage: what is exercised is noted there.
        carries_on: whether the program goes on after a divergence with that signature, since it is known, and known to
            change nothing but what is seen of it.

    Attributes:
        bound: the target on this machine.
        evidence: registers that tell of faults.

    Raises:
        VmmError: DMA does not work on this machine as long as its IOMMU is as a reset leaves it.
    """

    def __init__(
        self,
        machine: ConformMachine,
        target: Target,
        coverage: Coverage,
        carries_on: Callable[[str], bool] = lambda signature: False,
    ) -> None:
        self.machine = machine
        self._target = target
        self._coverage = coverage
        self._carries_on = carries_on
        self._ram = machine.board.ram
        self._memory = TwinMemory(machine.ram, machine.board.firmware if machine.board.starts_in_ram else b"")
        machine.qtest.batch(target.prepare)
        fill_buffers(machine)
        check_buffers(machine)
        self._reset_board()
        twin = MappedMemory(self._memory.twin, [Region(self._ram, RAM_BYTES)])
        records = WatchedMemory(twin)
        self.bound: Bound = target.bind(machine, records, coverage)
        self._unit = self.bound.unit
        play = Play(self._unit, self._memory, records, twin, machine.board, self._is_known_record)
        self._contents = play.contents
        self._predictor = Predictor(play, self._known_silence)
        self._comparison = Comparison(
            target.name, self._unit, self.bound.registers, self._memory, self._ram, self._contents, self._report
        )
        self._deliveries = Deliveries(target.name, machine, self._unit, self._predictor, self._carries_on, self._report)
        self.evidence = Evidence(self._unit, self.bound.registers, self._is_known_register)
        self._absent: set[DmaDevice] = set()  # that are unplugged
        self._begin()

    def run(self, program: Program, *, thorough: bool = False, apart: bool = False) -> Result:
        """Run one.

        Args:
            program: of this target.
            thorough: compare all of memory after each round, to see at once what else shows at the end.
            apart: give each DMA a round of its own, so that none is taken for another that moves the same data.

        Raises:
            SpecError: the program names a device that there is not, or memory that there is not.
        """
        self._begin(thorough=thorough, apart=apart)
        try:
            self._reset_board()
            for entry in tuple(self._absent):
                self._plug(entry)
            fill_buffers(self.machine)
            self._contents.begin()
            self._memory.begin()
            self._unit.reset()
            for number, step in enumerate(program.steps):
                self._take(number, step)
                self._step = number
            self._finish()
            if not thorough and not self._memory.agrees():
                self._comparison.memory(self._step, (), self._memory.differences())
        except _Stop:
            pass
        except (NotModelled, TooManyWalks) as error:
            self._result.unjudged = error.message
            self._let_finish_or_break()
        except (VmmCrashed, VmmDied) as error:
            self._broke(Kind.CRASH, error)
        except VmmTimeout as error:
            self._broke(Kind.HANG, error)
        return self._result

    def _begin(self, *, thorough: bool = False, apart: bool = False) -> None:
        self._thorough = thorough
        self._apart = apart
        self._result = Result()
        self._round = Round()
        self._step = 0
        self._lengths: dict[str, int] = {}  # of each device's last DMA
        self._comparison.begin()

    def _reset_board(self) -> None:
        self.machine.reset()
        self.machine.qtest.batch(self._target.prepare)

    def _take(self, number: int, step: Step) -> None:
        """Do a step, or put it with the others of its round."""
        match step:
            case Dma(device=id) if any(entry.id == id for entry in self._absent):
                pass
            case Dma():
                round = self._round
                if step.device in round.busy or round.counts or (self._apart and round.dmas):
                    self._finish()
                self._order(step)
            case Write(offset, size, value):
                self._access(number, step, f"write{LETTERS[size]} {self.bound.registers + offset:#x} {value:#x}")
            case Read(offset, size):
                self._access(number, step, f"read{LETTERS[size]} {self.bound.registers + offset:#x}")
                self._round.counts |= self.evidence.has(offset, size)
            case Store(address, data):
                if self._round.lines:
                    self._finish()
                try:
                    self._unit.store(address, data)
                except OutsideMemory as error:
                    raise SpecError(f"step {number}: {error.message}") from None
                at = address - self._ram
                self.machine.ram[at : at + len(data)] = data
            case Reset():
                self._finish()
                self._reset_board()
                self._unit.reset()
            case Plug(device=id):
                self._finish()
                if _known(id) in self._absent:
                    self._plug(_known(id))
            case Unplug(device=id):
                self._finish()
                if _known(id) not in self._absent:
                    self._absent.add(_known(id))
                    self.machine.unplug(_known(id))

    def _plug(self, entry: DmaDevice) -> None:
        self._absent.discard(entry)
        self.machine.plug(entry)
        self._contents.plugged(entry.id)
        self._lengths.pop(entry.id, None)

    def _access(self, number: int, step: Read | Write, line: str) -> None:
        if self._round.dmas:
            self._finish()
        round = self._round
        round.accesses.append((len(round.lines), number, step))
        round.lines.append(line)

    def _order(self, dma: Dma) -> None:
        bar = self.machine.bars.get(dma.device)
        if bar is None:
            raise SpecError(f"there is no device {dma.device!r}", hint=f"there are {DEVICES[0].id} to {DEVICES[-1].id}")
        if not 0 <= dma.offset <= BUFFER_BYTES - dma.length:
            raise SpecError(f"{dma.length} bytes at {dma.offset:#x} are not in an edu's buffer of {BUFFER_BYTES}")
        same_length = self._lengths.get(dma.device) == dma.length
        self._lengths[dma.device] = dma.length
        round = self._round
        round.lines += order(bar, dma.kind, dma.iova, dma.length, dma.offset, same_length=same_length)
        round.dmas.append(dma)
        round.busy.add(dma.device)

    def _finish(self) -> None:
        """Send the round, and compare what comes of it."""
        round, self._round = self._round, Round()
        if not round.lines:
            return
        qtest = self.machine.qtest
        looks = self._looks(round)
        qtest.post([*round.lines, *looks])
        # While QEMU works:
        reads = self._do_accesses(round)
        own = self._unit.take_interrupts()
        requests = self._predictor.predict(round.dmas) if round.dmas else []
        answers = qtest.collect()
        evidence = self._take_evidence(round, looks, answers[len(round.lines) :])
        self._deliveries.take(own)
        is_told = True
        if round.dmas:
            requests, is_told = self._resolve(evidence)
        self._deliveries.compare(self._step, requests)
        self._result.dmas += len(round.dmas)
        for request in requests:
            self._note(request)
        # A write to a page that is seldom looked at explains a record that is missing.
        agrees = self._memory.hot_agrees() if is_told and not self._thorough else self._memory.agrees()
        if not agrees and round.counts:
            # Records first: they tell more than the registers that count them.
            self._comparison.memory(self._step, (), self._memory.differences(), records_only=True)
        for line, number, read, wanted in reads:
            self._comparison.register(number, read.offset, read.size, wanted, int(answers[line], 16))
        if not agrees:
            differing = self._differing(requests, is_told)
            explained = self._comparison.writes(self._step, requests, differing)
            self._comparison.memory(self._step, requests, differing, explained)
        for (offset, size), seen in zip(self.evidence.places, evidence, strict=False):
            self._comparison.register(self._step, offset, size, self._unit.read(offset, size), seen, requests)
        self._deliveries.compare_own(self._step)

    def _do_accesses(self, round: Round) -> list[tuple[int, int, Read, Readout]]:
        """Have the unit take the accesses to its registers; of each read what must be read, with what is in `round`."""
        reads = []
        for line, number, step in round.accesses:
            if isinstance(step, Write):
                self._unit.write(step.offset, step.size, step.value)
            else:
                reads.append((line, number, step, self._unit.read(step.offset, step.size)))
        return reads

    def _differing(self, requests: Sequence[Request], is_told: bool) -> Sequence[int]:
        """The words of memory that differ; no more than where most changes are, if that tells of no write astray.

        What tells of none are records that differ in what they say of their requests. Where records name no requester,
        what differs has to be known.

        Args:
            requests: of the round.
            is_told: the registers that tell of faults say what they must.
        """
        if is_told and not self._thorough:
            hot = self._memory.hot_differences()
            if hot and (self._comparison.are_of_same_requests(hot) or self._are_known(hot, requests)):
                return hot
        return self._memory.differences()

    def _resolve(self, evidence: list[int]) -> tuple[list[Request], bool]:
        """Find the outcomes that were seen, where there is a choice; and the faults that should have a record.

        Returns:
            The requests, and whether the registers that tell of faults say what they must.
        """

        def fits() -> bool:
            return self._fits(evidence)

        requests = self._predictor.choose(fits)
        silent = self._predictor.silent
        is_told = self.evidence.agrees(evidence)
        complete = is_told or not self._unit.keeps_first_record
        if silent:
            probe = self.evidence.probe(self.evidence.wanted_with(silent), evidence) if complete else None
            self._comparison.unrecorded(self._step, silent, probe)
        if complete:
            return requests, is_told
        wanted = self.evidence.wanted()
        requests, unrecorded = self._predictor.find_unrecorded(fits, lambda: self.evidence.agrees(evidence))
        self._comparison.unrecorded(self._step, unrecorded, self.evidence.probe(wanted, evidence))
        return requests, self.evidence.agrees(evidence)

    def _looks(self, round: Round) -> list[str]:
        """What is sent behind a round with DMA: wait for it or look whether it is done, and read the evidence."""
        if not round.dmas:
            return []
        machine = self.machine
        last = machine.bars[round.dmas[-1].device]
        return [CLOCK_STEP if machine.uses_clock_steps else machine.is_done(last), *self.evidence.lines]

    def _take_evidence(self, round: Round, looks: list[str], answers: list[str]) -> list[int]:
        """What the registers say that tell of faults, once all DMA is done; nothing where there was none."""
        if not looks:
            return []
        machine = self.machine
        while not machine.uses_clock_steps and int(answers[0], 16) & 1:
            machine.wait_until_done(machine.bars[round.dmas[-1].device])
            answers = machine.qtest.batch(looks)
        return [int(answer, 16) for answer in answers[1:]]

    def _let_finish_or_break(self) -> None:
        """The same, where the machine may break while it does."""
        try:
            self._let_finish()
        except (VmmCrashed, VmmDied) as error:
            with suppress(_Stop):
                self._broke(Kind.CRASH, error)
        except VmmTimeout as error:
            with suppress(_Stop):
                self._broke(Kind.HANG, error)

    def _let_finish(self) -> None:
        """Nobody judges what comes of the round any more: but QEMU has to live through it, and end its DMAs."""
        self.machine.qtest.post(self._round.lines)
        self.machine.qtest.collect()
        for bar in self.machine.bars.values():
            self.machine.wait_until_done(bar)

    def _fits(self, evidence: list[int]) -> bool:
        """Whether what was seen agrees with the unit and the twin memory as they are, but for what is known."""
        known = self._predictor.known
        return (
            self.evidence.agrees(evidence)
            and (self._memory.agrees() or (bool(known) and known >= set(self._memory.differences())))
            and self._deliveries.agree()
        )

    def _is_known_register(self, offset: int, size: int, wanted: Readout, seen: int) -> bool:
        return self._carries_on(self._comparison.register_signature(offset, size, wanted, seen))

    def _is_known_record(self, at: int, request: Request) -> bool:
        signature = self._comparison.record_signature
        return self._carries_on(signature(at)) or self._carries_on(signature(at, request))

    def _are_known(self, differing: Sequence[int], requests: Sequence[Request]) -> bool:
        signature = self._comparison.nameless_signature
        return all(self._carries_on(signature(at, requests)) for at in differing)

    def _known_silence(self, request: Request) -> str:
        signature = self._comparison.unrecorded_signature(request)
        return signature if self._carries_on(signature) else ""

    def _note(self, request: Request) -> None:
        outcome: Outcome | MsiOutcome = request.outcome
        match outcome:
            case Translated(size=size):
                self._coverage.note("page", f"{size:#x}")
            case Fault(code=code):
                self._coverage.note("fault", code.name)
            case Bypassed(reason=reason):
                self._coverage.note("bypass", reason.name)
            case Interrupt(remapped=remapped):
                self._coverage.note("interrupt", "remapped" if remapped else "as it is")
            case _:
                self._coverage.note("interrupt", "posted")

    def _report(self, divergence: Divergence) -> None:
        self._result.divergences.append(divergence)
        if not self._carries_on(divergence.signature):
            raise _Stop

    def _broke(self, kind: Kind, error: VmmError) -> None:
        """QEMU is gone, or does not answer: that is a divergence too."""
        self._result.divergences.append(
            ending(self._target.name, kind, error, self._step, self.machine, self._unit, self.bound.registers)
        )
        self._result.broken = True


def _known(id: str) -> DmaDevice:
    entry = device(id)
    if entry is None or not entry.can_unplug:
        able = ", ".join(entry.id for entry in DEVICES if entry.can_unplug)
        raise SpecError(f"{id!r} cannot be unplugged", hint=f"these can: {able}")
    return entry
