"""Divergences that are understood: the `[[divergence]]` entries of `ci/known_issues.toml`.

One for each::

    [[divergence]]
    id = "amd-iommu-event-address"              # unique
    title = "event log entries carry no address"
    kind = "bug"                                # or "allowed", "unsupported", "fixed"
    targets = ["amd-iommu/*"]
    signatures = ["memory: event log entry: Address differs*"]
    rule = "AMD-Vi 2.5.3"                       # specification and section that says what must be
    text = "what is known of it, for people"
    reference = "docs/findings.md, F-10"
    program = "ci/divergences/f-10.json"         # shows it; from the top of the repository
    carries_on = true                           # nothing that follows in a program is changed by it
    seen = ["11.1.3"]                           # builds on which the program showed it
    when = { qemu = ">=10.2" }                  # left out where every build shows it

`signatures` are patterns of what follows the target's name in a divergence's signature, `targets` of its name.
`carries_on` has a program go on behind the divergence, so that it hides nothing else. `program` is run first of all on
each build that the entry is for: where the divergence does not show any more, the entry has to go, or be narrowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Self

import msgspec

from harness.checks.known_issues import in_range, matches
from harness.conform.divergence import Divergence
from harness.errors import SpecError

__all__ = ["Effect", "Known", "KnownDivergences", "Nature", "named"]


class Effect(StrEnum):
    """What a divergence does to whoever relies on the IOMMU, worst first."""

    ISOLATION = "a device reaches memory that it must not reach"
    INTERRUPTS = "a device sends an interrupt that it must not send"
    ENDS = "a guest can end QEMU"
    TRANSLATION = "a device does not reach what it must reach"
    REPORT = "a fault is not reported, or wrongly"
    REGISTER = "registers or commands work otherwise"


class Nature(StrEnum):
    """What a known divergence is."""

    BUG = "bug"
    """A mistake of QEMU's."""
    ALLOWED = "allowed"
    """The specification allows it, and the model cannot say so."""
    UNSUPPORTED = "unsupported"
    """A part of the architecture that this build lacks and does not say it lacks."""
    FIXED = "fixed"
    """A mistake of QEMU's that a later release has not."""


_ANSWERS = ("memory: tail of ", "memory: virtq_used of requestq")
"""Signatures of what a virtio-iommu answers to commands, in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One entry; its fields are those of the file, see the module's docstring.

    Raises:
        ValueError: a field is empty, or no range of releases.
    """

    id: str
    title: str
    kind: Nature
    targets: tuple[str, ...]
    signatures: tuple[str, ...]
    rule: str
    text: str
    reference: str
    program: str
    carries_on: bool = False
    seen: tuple[str, ...] = ()
    when: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name not in ("carries_on", "seen", "when") and not getattr(self, entry.name):
                raise ValueError(f"field {entry.name!r} is empty")
        if unknown := self.when.keys() - {"qemu"}:
            raise ValueError(f"field 'when.{min(unknown)}' is not a fact that is known here; there is: qemu")
        for wanted in self.when.values():
            in_range("0", wanted)

    @property
    def effect(self) -> Effect:
        """What it does, by its signatures."""
        signatures = [text for text in self.signatures if not text.startswith(_ANSWERS)]
        if any(text.startswith("dma: write with fault") and " arrived" in text for text in signatures):
            return Effect.ISOLATION
        if any(text.startswith("interrupt: message with fault") for text in signatures):
            return Effect.INTERRUPTS
        if any(text.startswith(("crash", "hang")) for text in signatures):
            return Effect.ENDS
        if any(text.startswith(("dma", "interrupt")) for text in signatures):
            return Effect.TRANSLATION
        if any(text.startswith("memory") or "is not recorded" in text or "FRCD" in text for text in signatures):
            return Effect.REPORT
        return Effect.REGISTER

    def concerns(self, target: str, version: str) -> bool:
        """Whether it is expected of that target on that release of QEMU."""
        return matches(target, self.targets) and all(in_range(version, wanted) for wanted in self.when.values())

    def describes(self, signature: str) -> bool:
        """Whether the divergence with that signature is this one."""
        return matches(signature.split(": ", 1)[-1], self.signatures)


@dataclass(frozen=True, slots=True)
class KnownDivergences:
    """The entries of a file, in its order."""

    entries: tuple[Known, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of known issues.

        Raises:
            SpecError: it cannot be read, is not TOML, or an entry is wrong; the message has the entry and the field.
        """
        hint = "see the first lines of harness/conform/triage.py for what an entry looks like"
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"known issues {path} cannot be read: {error}", hint=hint) from error
        found: dict[str, Known] = {}
        for number, entry in enumerate(content.get("divergence", []), start=1):
            try:
                known = _entry(entry)
            except (ValueError, msgspec.ValidationError) as error:
                raise SpecError(f"known issues {path}: divergence {number}: {error}", hint=hint) from error
            if found.setdefault(known.id, known) is not known:
                raise SpecError(f"known issues {path}: divergence {number}: {known.id!r} is the id of an earlier one")
        return cls(tuple(found.values()))

    def of(self, target: str, version: str) -> tuple[Known, ...]:
        """Those that are expected of a target on a release of QEMU."""
        return tuple(entry for entry in self.entries if entry.concerns(target, version))


def named(divergence: Divergence, known: tuple[Known, ...]) -> Known | None:
    """The entry that describes a divergence; None where it is not known."""
    return next((entry for entry in known if entry.describes(divergence.signature)), None)


def _entry(content: object) -> Known:
    names = {entry.name for entry in fields(Known)}
    if isinstance(content, dict) and (unknown := sorted(content.keys() - names)):
        raise ValueError(f"field {unknown[0]!r} is not known; there are: {', '.join(sorted(names))}")
    return msgspec.convert(content, Known)
