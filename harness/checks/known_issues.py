"""Failures that are known and not ours to mend: `ci/known_issues.toml`, and what it makes of a case's verdict.

One `[[issue]]` for each::

    [[issue]]
    id = "virtio-iommu-driverless-bypass"       # unique
    title = "a device without a driver bypasses virtio-iommu"
    cases = ["CH-4", "testcases/test_rogue_dma.py::*[virtio]"]
    findings = ["IOMMU group of *: expected a group of *, saw no group"]
    crashes = ["the guest kernel: oops: *RIP: 0010:viommu_probe*"]
    requires = ["IOMMU group of *"]             # of the findings, those that are the cause of the others
    always = true                               # it shows every time: a pass means that it was mended
    text = "what is known of it, for people"
    reference = "kernel commit, bug number or mail that tells it in full"

    [issue.when]                                # all must hold; left out where there is no condition
    iommu = "virtio"
    kernel = ">=5.10,<6.15"
    qemu = ">=7,<11"

`cases` are patterns of a case's id or of one of its claim ids: `*` and `?` stand for any characters and for one; `[`
stands for itself, because ids of parametrized cases have it. `findings` are patterns of what may differ, as reports
print it: `SUBJECT: expected EXPECTED, saw SEEN`; `crashes` are of what they say of a guest that crashed, its console
with it. One of the two may be left out. There must be a finding or a crash, and each must match one of the patterns: an
entry hides what it describes and nothing beside it, no other finding or crash of the same case, no exception. Where
`requires` is given, one of the findings must be of its patterns: consequences without the cause are not known. `when`
names facts of the run: `kernel` and `qemu` are ranges of releases, any other is a text, or a list of texts of which one
must be equal. A fact that was not recorded fulfils no condition: unknown is not known.
"""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self, TypeAlias

import msgspec

from harness.errors import SpecError
from harness.report.record import Case, Finding
from harness.verdict import Verdict

__all__ = ["RELEASE_FACTS", "TEXT_FACTS", "KnownIssue", "KnownIssues", "Release", "in_range", "matches", "release"]

RELEASE_FACTS = ("kernel", "qemu")
"""Facts that are compared as release numbers."""

TEXT_FACTS = ("accelerator", "iommu")
"""Facts that are compared as texts."""

Release: TypeAlias = tuple[tuple[int, ...], float]
"""Numbers without zeros at the end, and the number of a release candidate, infinite for the release itself."""

_COMPARISONS: dict[str, Callable[[Release, Release], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_COMPARISON = re.compile(r"\s*(==|!=|<=|>=|<|>)\s*(\S+)\s*")
_RELEASE = re.compile(r"(?:\d+:)?v?(\d{1,9}(?:\.\d{1,9})*)(?:[-~]?rc(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIssue:
    """One entry; its fields are those of the file, see the module's docstring.

    Raises:
        ValueError: a field's value makes no sense; the message names the field.
    """

    id: str
    title: str
    cases: tuple[str, ...]
    text: str
    reference: str
    findings: tuple[str, ...] = ()
    crashes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    when: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    always: bool = False

    def __post_init__(self) -> None:
        for name in ("id", "title", "cases", "text", "reference"):
            if not getattr(self, name):
                raise ValueError(f"field {name!r} is empty")
        if not self.findings and not self.crashes:
            raise ValueError(
                "field 'findings' is empty, and so is 'crashes': there is nothing that it could be known by"
            )
        for name, wanted in self.when.items():
            if name in RELEASE_FACTS:
                try:
                    _bounds(wanted)
                except ValueError as error:
                    raise ValueError(f"field 'when.{name}': {error}") from error
            elif name not in TEXT_FACTS:
                there_are = ", ".join(sorted(RELEASE_FACTS + TEXT_FACTS))
                raise ValueError(f"field 'when.{name}' is not a recorded fact; there are: {there_are}")

    def concerns(self, case: Case) -> bool:
        """Whether one of the patterns is of this case."""
        names = (case.id, *case.claim_ids)
        return any(matches(name, self.cases) for name in names)

    def describes(self, findings: Sequence[Finding], crashes: Sequence[str]) -> bool:
        """Whether there are findings or crashes, each is one that the issue is known to cause, its cause among them."""
        # The citation is left out: the text is that of an observation, whoever says what must be.
        texts = [str(replace(finding, citation="")) for finding in findings]
        caused = not self.requires or any(matches(text, self.requires) for text in texts)
        return (
            bool(texts or crashes)
            and caused
            and all(matches(text, self.findings) for text in texts)
            and all(matches(text, self.crashes) for text in crashes)
        )

    def holds(self, facts: Mapping[str, str]) -> bool:
        """Whether every condition is fulfilled by what was recorded."""
        return all(name in facts and _fulfils(name, facts[name], wanted) for name, wanted in self.when.items())


@dataclass(frozen=True, slots=True)
class KnownIssues:
    """The entries of a file, in its order; an empty one knows of none."""

    issues: tuple[KnownIssue, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of known issues.

        Raises:
            SpecError: it cannot be read, is not TOML (the message has the line), or an entry is wrong (the message has
                the entry and the field).
        """
        hint = "see the first lines of harness/checks/known_issues.py for what an entry looks like"
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"known issues {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"known issues {path} is not a TOML file: {error}", hint=hint) from error
        content.pop("divergence", None)  # those are harness.conform.triage's
        entries = content.pop("issue", [])
        if content or not isinstance(entries, list):
            wrong = ", ".join(content) or "issue"
            raise SpecError(
                f"known issues {path}: field {wrong!r}: only [[issue]] and [[divergence]] entries belong here",
                hint=hint,
            )
        issues: dict[str, KnownIssue] = {}
        for number, entry in enumerate(entries, start=1):
            try:
                issue = _issue(entry)
            except ValueError as error:
                raise SpecError(f"known issues {path}: entry {number}: {error}", hint=hint) from error
            if issues.setdefault(issue.id, issue) is not issue:
                raise SpecError(
                    f"known issues {path}: entry {number}: field 'id': {issue.id!r} is the id of an earlier entry too",
                    hint="give each entry an id of its own",
                )
        return cls(tuple(issues.values()))

    def judge(self, case: Case, facts: Mapping[str, str], crashes: Sequence[str] = ()) -> Case:
        """The case with its verdict as these issues have it; the first entry that matches counts.

        A `fail` becomes `known` when the issue describes all its findings and crashes. A `pass` becomes `fixed` when
        the issue shows always. No other verdict changes: a case that could not be judged is not a known failure.

        Args:
            case: as it was judged without this file.
            facts: of the case's run, by the names in `RELEASE_FACTS` and `TEXT_FACTS`.
            crashes: what was said of each of its guests that crashed.
        """
        for issue in self.issues:
            if not issue.concerns(case) or not issue.holds(facts):
                continue
            match case.verdict:
                case Verdict.FAIL if issue.describes(case.findings, crashes):
                    message = "\n".join(filter(None, (f"{issue.id}: {issue.title} ({issue.reference})", case.message)))
                    return replace(case, verdict=Verdict.KNOWN, message=message)
                case Verdict.PASS if issue.always:
                    message = f"{issue.id}: {issue.title}: it did not show: remove the entry, or narrow its conditions"
                    return replace(case, verdict=Verdict.FIXED, message=message)
        return case


def release(text: str) -> Release | None:
    """The release that a version begins with, in a form that can be compared; None where it begins with none.

    `6.12.48+deb13-amd64`, `1:10.0.2+ds-2` (a Debian epoch is no part of the release) and `v7.2-rc3` are understood. A
    release candidate comes before its release; `6.12` and `6.12.0` are the same.
    """
    found = _RELEASE.match(text)
    if found is None:
        return None
    numbers = [int(number) for number in found[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), float(found[2]) if found[2] else float("inf")


def in_range(version: str, wanted: str) -> bool:
    """Whether the version's release is in a range such as `>=5.10,<6.15`; a version without a release is in none.

    Raises:
        ValueError: the range is not one.
    """
    number = release(version)
    return number is not None and all(compare(number, bound) for compare, bound in _bounds(wanted))


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Whether a text is of one of the patterns, in which `*` and `?` stand for any characters and for one."""
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def _bounds(wanted: str | tuple[str, ...]) -> list[tuple[Callable[[Release, Release], bool], Release]]:
    bounds = []
    for part in wanted.split(",") if isinstance(wanted, str) else ("",):
        found = _COMPARISON.fullmatch(part)
        bound = release(found[2]) if found and _RELEASE.fullmatch(found[2]) else None
        if found is None or bound is None:
            raise ValueError(f"{wanted!r} is not a range of releases such as '>=5.10,<6.15'")
        bounds.append((_COMPARISONS[found[1]], bound))
    return bounds


def _fulfils(name: str, fact: str, wanted: str | tuple[str, ...]) -> bool:
    if isinstance(wanted, tuple):
        return fact in wanted
    return in_range(fact, wanted) if name in RELEASE_FACTS else fact == wanted


def _issue(entry: object) -> KnownIssue:
    """An entry of the file; a field that it does not have is refused, because a misspelt one would never match."""
    known = {f.name for f in fields(KnownIssue)}
    if isinstance(entry, dict) and (unknown := sorted(entry.keys() - known)):
        raise ValueError(f"field {unknown[0]!r} is not known; there are: {', '.join(sorted(known))}")
    return msgspec.convert(entry, KnownIssue)
