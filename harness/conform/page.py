"""The page of divergences that are understood, written from their entries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from harness.conform.triage import Effect, Known, KnownDivergences, Nature

__all__ = ["page", "worst_first"]

_HEAD = """\
# Where QEMU's IOMMUs and their specifications differ

What `viommu conform` has found and what is understood of it, worst first. Written from `ci/known_issues.toml` by
`viommu conform --page docs/findings/conformance.md`; not to be edited. Each program was run on the builds named, and is
run first whenever its target is tested. `viommu replay PROGRAM --qemu BUILD` shows a difference with both sides' walks;
with `--qtest` it prints a script for QEMU alone.
"""

_KINDS = {
    Nature.BUG: "a mistake of QEMU's",
    Nature.ALLOWED: "allowed by the specification",
    Nature.UNSUPPORTED: "a part of the architecture that the build lacks without saying so",
    Nature.FIXED: "a mistake of QEMU's that a later release has not",
}
_EFFECTS = list(Effect)


def page(known: KnownDivergences) -> str:
    """The whole page, in Markdown: a table, then a section for each entry."""
    entries = worst_first(known)
    return "\n".join([_HEAD, *_table(entries), "", *(line for entry in entries for line in _section(entry))])


def worst_first(known: KnownDivergences) -> list[Known]:
    """All entries, by what they do; those that are allowed come last."""
    return sorted(known.entries, key=_order)


def _order(entry: Known) -> tuple[bool, int, str]:
    return entry.kind is Nature.ALLOWED, _EFFECTS.index(entry.effect), entry.id


def _table(entries: list[Known]) -> Iterator[str]:
    for title, group in groupby(entries, key=_title):
        yield f"\n## {title[0].upper()}{title[1:]}\n"
        yield "| divergence | seen with QEMU | rule |"
        yield "|---|---|---|"
        for entry in group:
            yield f"| [{entry.id}](#{entry.id}): {entry.title} | {', '.join(entry.seen) or '-'} | {entry.rule} |"


def _title(entry: Known) -> str:
    """Of the table that it stands in."""
    return "allowed: either may be seen" if entry.kind is Nature.ALLOWED else entry.effect


def _section(entry: Known) -> Iterator[str]:
    yield f"### {entry.id}\n"
    yield f"{entry.title[0].upper()}{entry.title[1:]}.\n"
    yield "| | |"
    yield "|---|---|"
    yield f"| it is | {_KINDS[entry.kind]}; {entry.effect} |"
    yield f"| targets | {', '.join(f'`{target}`' for target in entry.targets)} |"
    yield f"| seen with | QEMU {', '.join(entry.seen) or 'none of the builds that were tried last'} (Debian's) |"
    yield f"| rule | {entry.rule} |"
    yield f"| reproducer | `viommu replay {entry.program} --qemu BUILD` |"
    yield ""
    yield f"{' '.join(entry.text.split())}\n"
