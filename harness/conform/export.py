"""A program as a qtest script: what can be sent to people who have QEMU and nothing of this.

The head of the script has the command line that it is piped into, and what the last commands must give. The processor
does not run: with the qtest accelerator time passes by the script's own `clock_step`; a build without it runs TCG with
a clock that jumps, and wants its commands one after the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.conform.board import Board
from harness.conform.command import Clock, MachineWords, machine_words
from harness.conform.divergence import Probe, Told
from harness.conform.edu import CLOCK_STEP, LANDING, first_buffer, order
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import DATA, HOT_DATA, first_word
from harness.conform.placing import place, registers_of
from harness.conform.program import Dma, Plug, Program, Read, Reset, Step, Store, Unplug, Write
from harness.errors import SpecError
from harness.model.access import AccessKind

__all__ = ["QtestScript", "qtest_script"]

_WORD, _PAGE = 8, 4096
_LETTER = {1: "b", 2: "w", 4: "l", 8: "q"}
_SLOWLY = 'while read -r line; do echo "$line"; sleep 0.02; done'


@dataclass(frozen=True, slots=True)
class QtestScript:
    """A script, and the command line that it is piped into.

    Attributes:
        words: QEMU's command line, the emulator's name first.
        commands: of qtest, one a line.
        probes: what the last of them show.
        clock: of the build that it is for.
        told: what QEMU tells on standard error, where that shows it; None where it does not.
    """

    words: tuple[str, ...]
    commands: tuple[str, ...]
    probes: tuple[Probe, ...]
    clock: Clock
    told: Told | None = None

    def text(self, comments: Sequence[str] = ()) -> str:
        """All of it, with a head that says how it is run.

        Args:
            comments: lines for the head.
        """
        feed = "grep -v '^#' FILE" if self.clock is Clock.QTEST else f"grep -v '^#' FILE | {_SLOWLY}"
        head = [*comments, "", "Run it with", f"  {feed} | {shlex.join(self.words)}"]
        if self.probes:
            head += ["", "The last lines of the output, what they must be, and what they are:"]
            head += [
                f"  {each.command}: {each.wanted:#x} in the bits {each.known:#x}; {each.seen:#x}"
                for each in self.probes
            ]
        if self.told is not None:
            head += ["", "Of each interrupt that reaches a processor QEMU writes a line to standard error."]
            head += [f"  must be there: {self.told.wanted or 'none'}", f"  is there: {self.told.seen or 'none'}"]
        return "".join(f"# {text}".rstrip() + "\n" for text in head) + "".join(f"{line}\n" for line in self.commands)


def qtest_script(
    program: Program,
    words: MachineWords,
    registers: int,
    clock: Clock,
    probes: Sequence[Probe],
    *,
    binary: str,
    prepare: Sequence[str] = (),
    looks: Sequence[str] = (),
    told: Told | None = None,
) -> QtestScript:
    """The script.

    Args:
        program: what it does; without resets and hot-plug.
        words: of the target's command line.
        registers: physical address of the IOMMU's registers.
        clock: of the build.
        probes: what shows the divergence; their commands stand at the end.
        binary: name of the emulator.
        prepare: qtest commands for the IOMMU itself, before all others.
        looks: qtest commands that read what tells of faults, before the probes.
        told: what is told of an interrupt that shows it.

    Raises:
        SpecError: it resets the machine, or plugs devices: no qtest command does that on every board.
    """
    devices = _devices_of(program, by_id=words.names_devices)
    commands = (
        *place(words.board, devices),
        *prepare,
        *_load_buffers(words.board, devices, program, clock),
        *_first_data(words.board, program, probes),
        *_commands(program.steps, words.board, registers, clock),
        *looks,
        *(probe.command for probe in probes),
    )
    line = (binary, *machine_words(words, clock, devices), "-qtest", "stdio", "-qtest-log", "none")
    if told is not None:
        line = (*line, "-trace", words.board.interrupts)
    return QtestScript(line, commands, tuple(probes), clock, told)


def _devices_of(program: Program, *, by_id: bool) -> list[DmaDevice]:
    """Those that do DMA, or may be named by their ids, and the first function of each one's slot.

    A root port powers no slot that lacks it.
    """
    ids = {step.device for step in program.steps if isinstance(step, Dma)}
    if by_id:
        words = {word for step in program.steps if isinstance(step, Store) for word in _words(step.data)}
        ids |= {entry.id for entry in DEVICES if not words.isdisjoint({entry.requester, 1 << 16 | entry.requester})}
    slots = {(entry.address.bus, entry.address.device) for entry in DEVICES if entry.id in ids}
    return [
        entry
        for entry in DEVICES
        if entry.id in ids or (not entry.address.function and (entry.address.bus, entry.address.device) in slots)
    ]


def _words(data: bytes) -> Iterator[int]:
    """The 32-bit words of data."""
    return (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))


def _load_buffers(board: Board, devices: Sequence[DmaDevice], program: Program, clock: Clock) -> Iterator[str]:
    """Have each device read what it writes later, before its IOMMU does anything."""
    at = board.ram + DATA.start
    for entry in devices:
        used = [
            range(step.offset, step.offset + step.length)
            for step in program.steps
            if isinstance(step, Dma) and step.device == entry.id and step.kind is AccessKind.WRITE
        ]
        buffer = first_buffer(DEVICES.index(entry))
        for part in used:
            if part.start < LANDING.start:
                yield f"write {at:#x} {len(part):#x} 0x{buffer[part.start : part.stop].hex()}"
                yield from order(registers_of(board, entry), AccessKind.READ, at, len(part), part.start)
                yield from _time_passes(clock)


def _first_data(board: Board, program: Program, probes: Sequence[Probe]) -> Iterator[str]:
    """What is in memory at first where the last commands look, and where a read may come to that they show."""
    looks = (probe.command.split() for probe in probes)
    places = {int(address, 16) - board.ram for name, address, *_ in looks if name == "readq"}.intersection(DATA)
    for at in sorted(places | _last_read(program) if places else ()):
        yield f"writeq {board.ram + at:#x} {first_word(at):#x}"


def _last_read(program: Program) -> set[int]:
    """Words of data that a device may have read which at last writes what it has read: its place in each page."""
    dmas = [step for step in program.steps if isinstance(step, Dma)]
    if not dmas or dmas[-1].offset < LANDING.start:
        return set()
    shown = dmas[-1]
    reads = [
        step
        for step in dmas
        if (step.device, step.kind) == (shown.device, AccessKind.READ)
        and step.offset <= shown.offset < step.offset + step.length
    ]
    within = {(step.iova + at) % _PAGE & -_WORD for step in reads[-1:] for at in range(0, step.length, 4)}
    return {page + place for page in range(HOT_DATA.start, HOT_DATA.stop, _PAGE) for place in within}


def _commands(steps: Sequence[Step], board: Board, registers: int, clock: Clock) -> Iterator[str]:
    for step in steps:
        match step:
            case Store(address, data):
                yield f"write {address:#x} {len(data):#x} 0x{data.hex()}"
            case Write(offset, size, value):
                yield f"write{_LETTER[size]} {registers + offset:#x} {value:#x}"
            case Read(offset, size):
                yield f"read{_LETTER[size]} {registers + offset:#x}"
            case Dma(device=id):
                entry = next(entry for entry in DEVICES if entry.id == id)
                yield from order(registers_of(board, entry), step.kind, step.iova, step.length, step.offset)
                yield from _time_passes(clock)
            case Reset() | Plug() | Unplug():
                raise SpecError(
                    "a program that resets or plugs has no qtest script: no qtest command does that on every board",
                    hint="run it with viommu replay",
                )


def _time_passes(clock: Clock) -> Iterator[str]:
    if clock is Clock.QTEST:
        yield CLOCK_STEP
