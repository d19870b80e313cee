"""What is listed as understood, and how divergences are named by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.conform.divergence import Divergence, Kind, differing_fields
from harness.conform.page import page
from harness.conform.program import Program
from harness.conform.targets.registry import TARGETS, find_target, select
from harness.conform.triage import Effect, KnownDivergences, Nature, named
from harness.errors import SpecError
from harness.model.bits import Field, Layout
from harness.model.unit import Place, Readout
from harness.resources import KNOWN_ISSUES, ROOT

_ENTRY = """
[[divergence]]
id = "a"
title = "t"
kind = "bug"
targets = ["amd-iommu/*"]
signatures = ["memory: event log entry: Address differs*"]
rule = "r"
text = "x"
reference = "docs/findings.md"
program = "ci/divergences/a.json"
"""


def _load(tmp_path: Path, text: str) -> KnownDivergences:
    path = tmp_path / "known.toml"
    path.write_text(text)
    return KnownDivergences.load(path)


def _divergence(signature: str) -> Divergence:
    return Divergence(kind=Kind.MEMORY, signature=signature, step=0)


def test_an_entry_names_what_its_pattern_is_of_and_nothing_else(tmp_path: Path) -> None:
    known = _load(tmp_path, _ENTRY).of("amd-iommu/dma", "11.1.3")
    (entry,) = known
    assert entry.kind is Nature.BUG
    right = "amd-iommu/dma: memory: event log entry: Address differs, I is 0x1 for 0x0"
    assert named(_divergence(right), known) is entry
    assert (
        named(_divergence("amd-iommu/dma: memory: event log entry: I is 0x1 for 0x0, Address differs"), known) is None
    )
    assert named(_divergence("amd-iommu/dma: dma: write with fault IO_PAGE_FAULT arrived"), known) is None


@pytest.mark.parametrize(
    ("signature", "effect"),
    [
        ("interrupt: message with fault INTERRUPT_SOURCE_REFUSED arrived", Effect.INTERRUPTS),
        ("interrupt: remapped message did not arrive", Effect.TRANSLATION),
        ("dma: write with fault NO_PERMISSION arrived", Effect.ISOLATION),
        ("register: fault INTERRUPT_SOURCE_REFUSED is not recorded", Effect.REPORT),
    ],
)
def test_the_effect_of_an_entry_follows_from_what_is_seen(tmp_path: Path, signature: str, effect: Effect) -> None:
    text = _ENTRY.replace("memory: event log entry: Address differs*", signature)
    assert _load(tmp_path, text).entries[0].effect is effect


def test_an_entry_is_expected_of_its_targets_and_builds_only(tmp_path: Path) -> None:
    known = _load(tmp_path, f'{_ENTRY}when = {{ qemu = ">=10.2,<12" }}\n')
    assert known.of("amd-iommu/dma", "11.1.3")
    assert not known.of("amd-iommu/dma", "10.0.13")
    assert not known.of("amd-iommu/dma", "12.0.0")
    assert not known.of("intel-iommu/legacy", "11.1.3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('kind = "bug"', 'kind = "feature"'), "divergence 1: .*kind"),
        (('title = "t"', 'title = ""'), "'title' is empty"),
        (('title = "t"', 'titel = "t"'), "'titel' is not known"),
        (('title = "t"\n', ""), "title"),
        (("[[divergence]]", "[[divergence]"), "cannot be read"),
        (('text = "x"', 'text = "x"\nwhen = { kernel = ">=6" }'), r"when\.kernel"),
        (('text = "x"', 'text = "x"\nwhen = { qemu = "new" }'), "'new' is not a range"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_number_and_field(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        _load(tmp_path, _ENTRY.replace(*change))


def test_two_entries_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'a' is the id of an earlier one"):
        _load(tmp_path, _ENTRY * 2)


@pytest.mark.parametrize(
    ("signature", "effect"),
    [
        ("dma: write with fault NOT_PRESENT arrived", Effect.ISOLATION),
        ("memory: event log entry: Address differs*", Effect.REPORT),
        ("memory: tail of MAP: status is 0x0 for 0x4", Effect.REGISTER),
        ("memory: virtq_used of requestq: idx differs", Effect.REGISTER),
        ("memory: virtq_used of eventq: idx differs", Effect.REPORT),
    ],
)
def test_an_entry_s_effect_is_told_by_its_signatures(tmp_path: Path, signature: str, effect: Effect) -> None:
    (entry,) = _load(tmp_path, _ENTRY.replace("memory: event log entry: Address differs*", signature)).entries
    assert entry.effect is effect


def test_the_page_has_one_table_of_what_is_allowed(tmp_path: Path) -> None:
    allowed = _ENTRY.replace('"bug"', '"allowed"')
    other = allowed.replace('id = "a"', 'id = "b"').replace("memory: event log entry", "memory: tail of MAP")
    text = page(_load(tmp_path, allowed + other))
    assert text.count("## Allowed: either may be seen") == 1


def test_every_listed_divergence_has_its_program_for_a_target_that_it_concerns() -> None:
    for entry in KnownDivergences.load(KNOWN_ISSUES).entries:
        program = Program.load(ROOT / entry.program)
        target = find_target(program.target)
        assert entry.seen, entry.id
        assert all(entry.concerns(target.name, version) for version in entry.seen), entry.id


def test_the_page_of_divergences_is_what_their_entries_say() -> None:
    written = (ROOT / "docs/findings/conformance.md").read_text(encoding="utf-8")
    assert written == page(KnownDivergences.load(KNOWN_ISSUES)), "viommu conform --page docs/findings/conformance.md"


def test_every_program_of_a_divergence_is_listed() -> None:
    listed = {entry.program for entry in KnownDivergences.load(KNOWN_ISSUES).entries}
    assert {f"ci/divergences/{path.name}" for path in (ROOT / "ci/divergences").glob("*.json")} == listed


def test_targets_have_names_of_their_own_and_are_found_by_them() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS) > 0
    assert all(find_target(target.name) is target for target in TARGETS)
    assert select(["*"]) == TARGETS


def test_a_target_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="no target is 'vax-iommu'") as caught:
        select(["vax-iommu"])
    assert TARGETS[0].name in caught.value.hint


_LAYOUT = Layout("R", "S", (Field("A", 0, 4), Field("ADDRESS", 4, 60), Field("FR", 64, 8), Field("HIGH", 72, 56)))


def test_only_fields_that_differ_in_bits_that_are_settled_are_named() -> None:
    place = Place("R", 0x100, 16, _LAYOUT)
    assert list(differing_fields(place, 0x100, 0x10, 0x23, (1 << 64) - 1)) == ["A is 0x3 for 0x0", "ADDRESS differs"]
    assert list(differing_fields(place, 0x100, 0x10, 0x23, 0xF)) == ["A is 0x3 for 0x0"]
    assert list(differing_fields(place, 0x108, 0x5, 0x6, (1 << 64) - 1)) == ["FR is 0x6 for 0x5"]


def test_a_readout_agrees_with_anything_in_bits_that_are_not_settled() -> None:
    assert Readout(0x5, 0xF).agrees(0xF5)
    assert not Readout(0x5, 0xF).agrees(0x4)
