"""`viommu translate`: what the reference model makes of an access, from a state file."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.plain import outcome, plain, step, walk
from harness.errors import SpecError
from harness.model.access import Access, AccessKind, Mapping, format_requester
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt, split
from harness.model.explanation import Step, step_lines
from harness.state import State, open_state

__all__ = ["translate"]

_MOST_PIECES = 1024


def translate(
    state: Annotated[Path, typer.Argument(help="State file; `viommu boot --save-state` writes one.", metavar="STATE")],
    requester: Annotated[
        str, typer.Option(help="Whose access: 00:05.0, a number, or a device's name in the state file.")
    ],
    iova: Annotated[str | None, typer.Option(help="Address on the bus; with --msi, of the message.")] = None,
    write: Annotated[bool, typer.Option("--write", help="It writes; else it reads.")] = False,
    execute: Annotated[bool, typer.Option("--execute", help="It fetches instructions.")] = False,
    length: Annotated[int, typer.Option(min=0, help="Bytes; 0 is a zero-length read.")] = 4,
    pasid: Annotated[str | None, typer.Option(help="PASID that it carries.")] = None,
    privileged: Annotated[bool, typer.Option("--privileged", help="It asks for privileged mode.")] = False,
    mappings: Annotated[bool, typer.Option("--mappings", help="List what is mapped for it instead.")] = False,
    msi: Annotated[bool, typer.Option("--msi", help="It is an interrupt: what becomes of that.")] = False,
    data: Annotated[str | None, typer.Option(help="Data of the interrupt, 32 bits.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Translate an access as the IOMMU must, step by step; or list mappings, or remap an interrupt."""
    _refuse_what_does_not_go_together(mappings=mappings, msi=msi, data=data, iova=iova, write=write, execute=execute)
    with open_state(state) as opened:
        id = opened.requester(requester)
        space = None if pasid is None else _number("--pasid", pasid)
        if mappings:
            _list(opened, id, space, json=json)
            return
        address = _number("--iova", iova or "")
        if msi:
            _remap(opened, MsiWrite(requester=id, address=address, data=_number("--data", data or "")), json=json)
            return
        kind = AccessKind.WRITE if write else AccessKind.EXECUTE if execute else AccessKind.READ
        access = Access(requester=id, iova=address, length=length, kind=kind, pasid=space, privileged=privileged)
        _explain(opened, access, json=json)


def _refuse_what_does_not_go_together(
    *, mappings: bool, msi: bool, data: str | None, iova: str | None, write: bool, execute: bool
) -> None:
    wrong = ""
    if write and execute:
        wrong = "--write and --execute: an access does one of them"
    elif mappings and (msi or iova is not None):
        wrong = "--mappings lists all addresses: --iova and --msi have no place beside it"
    elif not mappings and iova is None:
        wrong = "no --iova: which address?"
    elif msi and data is None:
        wrong = "--msi without --data: an interrupt is an address and data"
    elif data is not None and not msi:
        wrong = "--data without --msi: only an interrupt's data matter"
    if wrong:
        raise SpecError(wrong, hint="viommu translate --help shows what there is")


def _number(option: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise SpecError(f"{option} {text!r} is no number", hint="write 4096 or 0x1000") from None


def _explain(state: State, access: Access, *, json: bool) -> None:
    granule = state.engine.granule
    pieces = (access.iova % granule + max(access.length, 1) - 1) // granule + 1
    if pieces > _MOST_PIECES:
        raise SpecError(
            f"{access.length:#x} bytes lie on {pieces} pages of {granule:#x}: at most {_MOST_PIECES} are explained",
            hint="--mappings lists all that is mapped",
        )
    explanations = [state.engine.explain(piece) for piece in split(access, granule)]
    if json:
        _print({"access": plain(access), "pieces": [walk(explanation) for explanation in explanations]})
    else:
        _say("\n".join(map(str, explanations)))


def _list(state: State, requester: int, pasid: int | None, *, json: bool) -> None:
    found: Iterator[Mapping] = state.engine.iter_mappings(requester, pasid)
    if json:
        _print({"requester": format_requester(requester), "mappings": [plain(mapping) for mapping in found]})
        return
    none = True
    for mapping in found:
        none = False
        _say(str(mapping))
    if none:
        _say(f"nothing is mapped for {format_requester(requester)}")


def _remap(state: State, write: MsiWrite, *, json: bool) -> None:
    if not (0 <= write.data < 1 << 32 and 0 <= write.address < 1 << 64):
        raise SpecError(
            f"interrupt {write.data:#x} to {write.address:#x}: data have 32 bits, addresses 64",
            hint="take them from the device's MSI capability",
        )
    steps, found = _explain_msi(state, write)
    if json:
        _print({"write": plain(write), "steps": list(map(step, steps)), "outcome": outcome(found)})
        return
    head = f"{format_requester(write.requester)} interrupt {write.data:#x} to {write.address:#x}"
    _say("\n".join((head, *step_lines(steps), f"  => {_told(found)}")))


def _explain_msi(state: State, write: MsiWrite) -> tuple[tuple[Step, ...], MsiOutcome]:
    """What an engine looks at for an interrupt, and what becomes of it.

    Raises:
        SpecError: its architecture does not remap interrupts.
    """
    engine: Any = state.engine
    if not hasattr(engine, "remap_msi"):
        raise SpecError(
            f"{state.kind} has no interrupt remapping of its own: its interrupts are writes like others",
            hint="leave out --msi and --data, and add --write",
        )
    if hasattr(engine, "explain_msi"):
        steps, found = engine.explain_msi(write)
        return steps, found
    # Where an interrupt is translated as any write is, its walk is that of the write.
    return engine.explain(_as_access(write)).steps, engine.remap_msi(write)


def _as_access(write: MsiWrite) -> Access:
    return Access(requester=write.requester, iova=write.address, length=4, kind=AccessKind.WRITE)


def _told(outcome: MsiOutcome) -> str:
    match outcome:
        case Interrupt(address=address, data=data, remapped=remapped):
            return f"{'remapped' if remapped else 'sent as it is'}: {data:#x} to {address:#x}"
        case PostedInterrupt(address=address, number=number, notify=notify):
            told = "" if notify is None else f", then {notify.data:#x} to {notify.address:#x}"
            return f"posted: bit {number:#x} at {address:#x}{told}"
        case fault:
            return str(fault)


def _print(object: dict[str, Any]) -> None:
    _say(json_module.dumps(object, indent=2))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
